//! What really happened, learned without the crate.
//!
//! Each process has a [`Slot`] in memory that everybody shares. There stands how it is to end, and
//! there whoever makes it end says so just before, and its parent just before it reaps. Besides, a
//! pidfd that `clone` itself has returned (so that no number was ever looked up) tells whether it
//! has exited and whether it has been reaped.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::linux::{exec_sh, exit_group, leader_exits};

/// How a process comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// It exits, or kills itself, as its status says.
    Plain,
    /// Its leading thread exits first, with a code that means nothing.
    LeaderFirst,
    /// Its leading thread exits while another one calls `execve`.
    Exec,
    /// It is stopped and continued.
    Stopped,
    /// Another process traces it, and has first claim on its status.
    Traced,
}

const KINDS: [Kind; 5] = [
    Kind::Plain,
    Kind::LeaderFirst,
    Kind::Exec,
    Kind::Stopped,
    Kind::Traced,
];

/// What a process, its parent and its watchers share.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Slot {
    // The plan, made before the process.
    kind: AtomicU32,
    /// Its wait status: the code is random, so that it tells processes apart.
    status: AtomicI32,
    /// From the opening of the gate to the end, in µs.
    delay: AtomicU32,
    /// From the exit to the reap, in µs.
    reap_delay: AtomicU32,
    /// The kernel reaps it, as its parent ignores SIGCHLD.
    auto_reap: AtomicU32,

    /// 1: it may go on.
    gate: AtomicU32,
    pid: AtomicU32,
    pidfd: AtomicI32,
    /// Between these ticks since boot it was born.
    born: [AtomicU64; 2],
    /// 1: traced. 2: that was refused.
    traced: AtomicU32,

    /// When it was sent to its end, in ns. 0: not yet.
    left: AtomicU64,
    /// 1: from now on its pid may be another's at any moment.
    reaping: AtomicU32,
    /// What its parent has collected. -1: it had been taken away.
    collected: AtomicI32,
}

impl Slot {
    fn kind(&self) -> Kind {
        KINDS[self.kind.load(SeqCst) as usize]
    }

    /// To be called right before the process is made to exit.
    fn leave(&self) {
        if self.auto_reap.load(SeqCst) == 1 {
            self.reaping.store(1, SeqCst);
        }
        self.left.store(now(), SeqCst);
    }
}

pub fn now() -> u64 {
    time(libc::CLOCK_MONOTONIC)
}

/// What the kernel counts start times in.
fn tick() -> u64 {
    time(libc::CLOCK_BOOTTIME) / 10_000_000
}

fn time(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Memory that forked processes go on sharing.
pub fn share<T: Default>(count: usize) -> &'static [T] {
    let size = count * size_of::<T>();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    let first = memory.cast::<T>();
    for n in 0..count {
        // SAFETY: within the mapping.
        let place = unsafe { first.add(n) };
        // SAFETY: as above, and pages are aligned for anything.
        unsafe { place.write(T::default()) };
    }
    // SAFETY: all of them have been written, and stay mapped.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// Waits until a word is not `value` any more. In memory shared by processes.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    while word.load(SeqCst) == value {
        let none = ptr::null::<libc::timespec>();
        // SAFETY: the word is readable, and without a timeout no other pointer is used.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                value,
                none,
            )
        };
    }
}

/// Changes a word and wakes everybody who waits for that.
pub fn futex_set(word: &AtomicU32, value: u32) {
    word.store(value, SeqCst);
    // SAFETY: only the address of the word is used.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

fn micros(delay: u32) {
    let end = now() + u64::from(delay) * 1000;
    if delay > 60 {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(delay) as libc::c_long * 1000,
        };
        // SAFETY: `time` is readable, and nobody wants the rest.
        unsafe { libc::nanosleep(&time, ptr::null_mut()) };
    }
    while now() < end {
        std::hint::spin_loop();
    }
}

/// As `fork`, with this exit signal, and these flags of `clone`. Gives a pidfd if asked to.
///
/// The child may only make system calls.
fn clone(flags: libc::c_int, pidfd: &mut RawFd) -> libc::pid_t {
    let (flags, stack) = ((flags | libc::SIGCHLD) as libc::c_ulong, 0_usize);
    let (child_tid, tls) = (0_usize, 0_usize);
    // SAFETY: without a stack, and without CLONE_VM, the child goes on in a copy of this memory.
    // The third argument is where the pidfd goes, on all architectures, and is writable.
    unsafe { libc::syscall(libc::SYS_clone, flags, stack, pidfd, child_tid, tls) as libc::pid_t }
}

/// Whether `clone` gives pidfds (Linux 5.2). Emulators of user mode do not know that.
pub fn available() -> bool {
    let mut pidfd = -1;
    let pid = clone(libc::CLONE_PIDFD, &mut pidfd);
    if pid == 0 {
        exit_group(0);
    }
    if pid < 0 {
        return false;
    }
    wait(pid);
    if pidfd < 0 {
        return false;
    }
    // SAFETY: `clone` has made it for us.
    drop(unsafe { OwnedFd::from_raw_fd(pidfd) });
    true
}

/// The wait status of our child, which is reaped. -1 if it is not ours to collect.
fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        match unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } {
            -1 if errno() == libc::EINTR => {}
            -1 => return -1,
            _ => return status,
        }
    }
}

/// Waits until our child has exited, and leaves it.
fn until_exited(pid: libc::pid_t) {
    // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT;
    loop {
        // SAFETY: `info` is writable.
        let result = unsafe { libc::waitid(libc::P_PID, pid as _, &mut info, options) };
        if result == 0 || errno() != libc::EINTR {
            return;
        }
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Whose children the processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A thread of this process.
    Us,
    /// Another process.
    Other,
    /// Another process that ignores SIGCHLD.
    Ignoring,
}

/// A parent that makes processes on order, one after the other, and reaps them.
pub struct ParentProcess {
    pub parent: Parent,
    /// Takes the number of a slot. Gives `B` when the process is born, `R` when it is reaped.
    pub orders: std::os::unix::net::UnixStream,
    process: Option<(libc::pid_t, std::os::unix::net::UnixStream)>,
}

impl ParentProcess {
    /// A process that shares our descriptors, so that the pidfds that it makes are ours.
    pub fn process(slots: &'static [Slot], parent: Parent) -> ParentProcess {
        let (orders, socket) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let pid = clone(libc::CLONE_FILES, &mut -1);
        if pid == 0 {
            die_with_parent();
            let auto_reap = parent == Parent::Ignoring;
            if auto_reap {
                // SAFETY: no handler.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            }
            keep(slots, socket.as_raw_fd());
            exit_group(0);
        }
        assert!(pid > 0, "clone: {}", io::Error::last_os_error());
        ParentProcess {
            parent,
            orders,
            process: Some((pid, socket)),
        }
    }

    pub fn thread(slots: &'static [Slot]) -> ParentProcess {
        let (orders, socket) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        std::thread::spawn(move || keep(slots, socket.as_raw_fd()));
        ParentProcess {
            parent: Parent::Us,
            orders,
            process: None,
        }
    }

    /// Waits for a parent that gets no more orders.
    pub fn end(&mut self) {
        if let Some((pid, _)) = self.process.take() {
            wait(pid);
        }
    }
}

fn die_with_parent() {
    // SAFETY: takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Makes system calls only.
fn keep(slots: &[Slot], socket: RawFd) {
    let mut index = [0_u8; 4];
    // SAFETY: room for so many bytes. They come in one piece.
    while unsafe { libc::read(socket, index.as_mut_ptr().cast(), 4) } == 4 {
        let Some(slot) = slots.get(u32::from_ne_bytes(index) as usize) else {
            return;
        };
        live(slot, |report| {
            // SAFETY: one byte.
            unsafe { libc::write(socket, (&raw const report).cast(), 1) };
        });
    }
}

/// The life of one process, as its parent sees it.
fn live(slot: &Slot, report: impl Fn(u8)) {
    let (kind, auto_reap) = (slot.kind(), slot.auto_reap.load(SeqCst) == 1);
    // To the process, where it needs to be told after an exec.
    let mut pipe = [-1; 2];
    if kind == Kind::Exec {
        // SAFETY: room for two.
        unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
    }
    let mut pidfd = -1;
    let pid = loop {
        slot.born[0].store(tick(), SeqCst);
        match clone(libc::CLONE_PIDFD, &mut pidfd) {
            0 => {
                die_with_parent();
                exit_group(body(slot, pipe[0]));
            }
            // No number is free.
            -1 => micros(100),
            pid => break pid,
        }
    };
    slot.born[1].store(tick(), SeqCst);
    slot.pidfd.store(pidfd, SeqCst);
    slot.pid.store(pid.unsigned_abs(), SeqCst);
    let tracer = match kind {
        Kind::Traced => clone(0, &mut -1),
        _ => -1,
    };
    if tracer == 0 {
        die_with_parent();
        trace(slot, pid);
    }
    if tracer > 0 {
        futex_wait(&slot.traced, 0);
    }
    report(b'B');

    futex_wait(&slot.gate, 0);
    let delay = slot.delay.load(SeqCst);
    match kind {
        Kind::Stopped => {
            // Not reaped, so the pid is its own.
            // SAFETY: takes integers, as does the next.
            unsafe { libc::kill(pid, libc::SIGSTOP) };
            micros(delay);
            // SAFETY: as above.
            unsafe { libc::kill(pid, libc::SIGCONT) };
        }
        Kind::Exec => {
            micros(delay);
            slot.leave();
            let code = (slot.status.load(SeqCst) >> 8) as u8;
            let [a, b, c] = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit);
            // SAFETY: four bytes.
            unsafe { libc::write(pipe[1], [a, b, c, b'\n'].as_ptr().cast(), 4) };
        }
        _ => {}
    }
    until_exited(pid);
    if !auto_reap {
        micros(slot.reap_delay.load(SeqCst));
        slot.reaping.store(1, SeqCst);
        slot.collected.store(wait(pid), SeqCst);
    }
    if tracer > 0 {
        wait(tracer);
    }
    for fd in pipe {
        // SAFETY: ours, or -1.
        unsafe { libc::close(fd) };
    }
    report(b'R');
}

/// What the process does.
fn body(slot: &Slot, pipe: RawFd) -> i32 {
    futex_wait(&slot.gate, 0);
    let end = || {
        micros(slot.delay.load(SeqCst));
        slot.leave();
        let status = slot.status.load(SeqCst);
        if status & 0x7f != 0 {
            // SAFETY: takes nothing.
            let me = unsafe { libc::getpid() };
            // SAFETY: takes integers.
            unsafe { libc::kill(me, status & 0x7f) };
        }
        status >> 8
    };
    match slot.kind() {
        Kind::LeaderFirst => leader_exits(end),
        Kind::Exec => {
            // SAFETY: takes integers.
            unsafe { libc::dup2(pipe, 0) };
            leader_exits(|| exec_sh(c"read code; exit $code"))
        }
        Kind::Plain | Kind::Stopped | Kind::Traced => end(),
    }
}

/// Traces a process until it has exited.
fn trace(slot: &Slot, pid: libc::pid_t) -> ! {
    let (none, delay) = (0_usize, slot.reap_delay.load(SeqCst));
    // SAFETY: takes integers only, with this request.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) };
    futex_set(&slot.traced, if seized == 0 { 1 } else { 2 });
    if seized == 0 {
        until_exited(pid);
        micros(delay);
        wait(pid);
    }
    exit_group(0)
}

/// The slots that are free.
pub struct Slots {
    pub all: &'static [Slot],
    free: Mutex<Vec<u32>>,
}

impl Slots {
    pub fn new(count: u32) -> Arc<Slots> {
        Arc::new(Slots {
            all: share(count as usize),
            free: Mutex::new((0..count).collect()),
        })
    }

    pub fn take(self: &Arc<Self>, plan: Plan) -> Option<Planned> {
        let index = self.free.lock().unwrap().pop()?;
        let slot = &self.all[index as usize];
        for (word, value) in [
            (&slot.kind, plan.kind as u32),
            (&slot.delay, plan.delay),
            (&slot.reap_delay, plan.reap_delay),
            (&slot.auto_reap, plan.auto_reap.into()),
            (&slot.gate, plan.no_gate.into()),
            (&slot.traced, 0),
            (&slot.reaping, 0),
        ] {
            word.store(value, SeqCst);
        }
        slot.status.store(plan.status, SeqCst);
        slot.collected.store(-1, SeqCst);
        slot.left.store(0, SeqCst);
        Some(Planned {
            slots: self.clone(),
            index,
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub status: i32,
    pub delay: u32,
    pub reap_delay: u32,
    pub auto_reap: bool,
    /// It goes on without being told.
    pub no_gate: bool,
}

/// A process that has been ordered. The slot is free again when this is dropped.
pub struct Planned {
    slots: Arc<Slots>,
    pub index: u32,
}

impl Planned {
    fn slot(&self) -> &'static Slot {
        &self.slots.all[self.index as usize]
    }

    /// Once its parent has reported it.
    pub fn born(self, parent: Parent) -> Life {
        let slot = self.slot();
        // SAFETY: `clone` has made it for us, and nobody else has it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(slot.pidfd.load(SeqCst)) };
        Life {
            pid: slot.pid.load(SeqCst),
            inode: inode(pidfd.as_fd()),
            pidfd,
            parent,
            planned: self,
        }
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        self.slots.free.lock().unwrap().push(self.index);
    }
}

/// A process, and the truth of it.
pub struct Life {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub parent: Parent,
    /// What no other process has. `None` before Linux 6.9.
    pub inode: Option<u64>,
    planned: Planned,
}

impl Life {
    fn slot(&self) -> &'static Slot {
        self.planned.slot()
    }

    pub fn open_the_gate(&self) {
        futex_set(&self.slot().gate, 1);
    }

    pub fn kind(&self) -> Kind {
        self.slot().kind()
    }

    /// Whether another one that had the pid before may have started in the same tick.
    pub fn may_share_the_tick(&self, earlier: &Life) -> bool {
        let (this, earlier) = (&self.slot().born, &earlier.slot().born);
        this[0].load(SeqCst) <= earlier[1].load(SeqCst)
    }

    pub fn status(&self) -> i32 {
        self.slot().status.load(SeqCst)
    }

    /// When it was sent to its end.
    pub fn left(&self) -> Option<u64> {
        Some(self.slot().left.load(SeqCst)).filter(|&left| left != 0)
    }

    /// Whether its pid may be another's by now. If not, it was its own up to now.
    pub fn may_be_reaped(&self) -> bool {
        self.slot().reaping.load(SeqCst) == 1
    }

    /// What its parent has collected.
    pub fn collected(&self) -> Option<i32> {
        Some(self.slot().collected.load(SeqCst)).filter(|&status| status != -1)
    }

    /// Whether it has exited, by both witnesses.
    pub fn has_exited(&self) -> bool {
        self.left().is_some() && self.events() & libc::POLLIN != 0
    }

    /// Whether it has been reaped, by both witnesses.
    pub fn is_reaped(&self) -> bool {
        // Before Linux 6.9 the descriptor does not tell.
        let told = self.inode.is_none() || self.events() & libc::POLLHUP != 0;
        self.may_be_reaped() && self.has_exited() && told
    }

    /// What the kernel says of it after the reap, to whoever asks. That is not always the truth.
    pub fn told_by_kernel(&self) -> Option<i32> {
        // SAFETY: a `pidfd_info` is all integers.
        let mut info: libc::pidfd_info = unsafe { mem::zeroed() };
        info.mask = libc::PIDFD_INFO_EXIT.into();
        let (fd, request) = (self.pidfd.as_raw_fd(), libc::PIDFD_GET_INFO as _);
        // SAFETY: `info` is as large as the number says, and writable.
        let result = unsafe { libc::ioctl(fd, request, &raw mut info) };
        let told = result == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        told.then_some(info.exit_code)
    }

    fn events(&self) -> libc::c_short {
        let mut poll = libc::pollfd {
            fd: self.pidfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        loop {
            // SAFETY: one `pollfd`, and a count of one.
            if unsafe { libc::poll(&mut poll, 1, 0) } >= 0 {
                return poll.revents;
            }
        }
    }
}

/// What no other process has, nor will have. `None` before Linux 6.9.
pub fn inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    const PID_FS_MAGIC: libc::c_long = 0x5049_4446;
    // SAFETY: a `statfs` is all integers.
    let mut file_system: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `file_system` is writable.
    unsafe { libc::fstatfs(pidfd.as_raw_fd(), &mut file_system) };
    // SAFETY: a `stat` is all integers.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    unsafe { libc::fstat(pidfd.as_raw_fd(), &mut stat) };
    (file_system.f_type as libc::c_long == PID_FS_MAGIC).then_some(stat.st_ino as _)
}
