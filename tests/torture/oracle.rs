//! The oracle, which observes what happens to each target process without using the crate.
//!
//! Each target has a [`Slot`] in memory that the target, its parent and the waiting tasks share.
//! The slot holds the plan for the target's exit. The target or its parent records the exit in the
//! slot just before triggering the exit. The parent records the reap just before reaping.
//!
//! A second source is the pidfd that `clone` returned, which involves no lookup of a pid. The pidfd
//! shows whether the target has exited and whether it has been reaped.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::linux::{exec_sh, exit_group, leader_exits};

/// The way a target exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitKind {
    /// The target exits or kills itself, as its planned status says.
    Plain,
    /// The leader thread exits first, with an exit code that is not the process's.
    LeaderFirst,
    /// The leader thread exits while another thread calls `execve`.
    Exec,
    /// The target is stopped and continued before it exits.
    Stopped,
    /// Another process traces the target, and collects its status before the parent can.
    Traced,
}

const EXIT_KINDS: [ExitKind; 5] = [
    ExitKind::Plain,
    ExitKind::LeaderFirst,
    ExitKind::Exec,
    ExitKind::Stopped,
    ExitKind::Traced,
];

/// State shared by a target, its parent and the tasks that wait for the target.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Slot {
    // The plan, complete before the target is started.
    kind: AtomicU32,
    /// Planned wait status. Exit codes are random, to distinguish targets from each other.
    status: AtomicI32,
    /// Time from the opening of the gate to the exit, in µs.
    delay: AtomicU32,
    /// Time from the exit to the reap, in µs.
    reap_delay: AtomicU32,
    /// 1: the kernel reaps the target, because its parent ignores SIGCHLD.
    auto_reap: AtomicU32,

    /// 1: the gate is open, and the target may proceed to its exit.
    gate: AtomicU32,
    pid: AtomicU32,
    /// The pidfd that `clone` returned.
    pidfd: AtomicI32,
    /// Ticks since boot right before and right after `clone`.
    start_ticks: [AtomicU64; 2],
    /// 1: the target is traced. 2: the kernel refused.
    traced: AtomicU32,

    /// Time at which the exit was triggered, in ns. 0: not yet.
    exit_triggered_at: AtomicU64,
    /// 1: the reap may happen at any moment, so the pid may belong to another process.
    reaping: AtomicU32,
    /// Wait status that the parent collected. -1: the parent found none.
    collected: AtomicI32,
}

impl Slot {
    fn exit_kind(&self) -> ExitKind {
        EXIT_KINDS[self.kind.load(SeqCst) as usize]
    }

    /// Records the exit. The caller must trigger the exit right afterwards.
    fn record_exit(&self) {
        if self.auto_reap.load(SeqCst) == 1 {
            self.reaping.store(1, SeqCst);
        }
        self.exit_triggered_at.store(now(), SeqCst);
    }
}

/// Returns the monotonic time in ns.
pub fn now() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

/// Returns the time since boot in ticks, the unit of start times in `/proc`.
fn current_tick() -> u64 {
    nanoseconds(libc::CLOCK_BOOTTIME) / 10_000_000
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Maps `count` values into memory that stays shared across `fork`.
pub fn map_shared<T: Default>(count: usize) -> &'static [T] {
    let size = count * size_of::<T>();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel chooses the address of this anonymous mapping.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    let first = memory.cast::<T>();
    for n in 0..count {
        // SAFETY: `n` is within the mapping.
        let place = unsafe { first.add(n) };
        // SAFETY: `place` is within the mapping, whose pages are aligned for any type.
        unsafe { place.write(T::default()) };
    }
    // SAFETY: all `count` values have been written, and are never unmapped.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// Blocks while `word`, in shared memory, equals `value`.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    while word.load(SeqCst) == value {
        let none = ptr::null::<libc::timespec>();
        // SAFETY: `word` is readable, and a null timeout is allowed.
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

/// Stores `value` in `word` and wakes all threads that wait for a change.
pub fn futex_set(word: &AtomicU32, value: u32) {
    word.store(value, SeqCst);
    // SAFETY: the kernel uses only the address of `word`.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Waits for `delay` µs. Spins for a short delay, because `nanosleep` is too coarse.
fn sleep_micros(delay: u32) {
    let end = now() + u64::from(delay) * 1000;
    if delay > 60 {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(delay) as libc::c_long * 1000,
        };
        // SAFETY: `time` is readable, and the second pointer may be null.
        unsafe { libc::nanosleep(&time, ptr::null_mut()) };
    }
    while now() < end {
        std::hint::spin_loop();
    }
}

/// Forks with SIGCHLD as the exit signal and with these flags of `clone`.
///
/// Stores a pidfd of the child in `pidfd` if the flags request one. The child may only make system
/// calls.
fn clone(flags: libc::c_int, pidfd: &mut RawFd) -> libc::pid_t {
    let (flags, stack) = ((flags | libc::SIGCHLD) as libc::c_ulong, 0_usize);
    let (child_tid, tls) = (0_usize, 0_usize);
    // SAFETY: without a stack and without CLONE_VM, the child continues in a copy of this memory.
    // On all architectures the third argument is the address for the pidfd, which is writable.
    unsafe { libc::syscall(libc::SYS_clone, flags, stack, pidfd, child_tid, tls) as libc::pid_t }
}

/// Returns whether `clone` can return a pidfd (Linux 5.2). User-mode emulators cannot.
pub fn clone_returns_pidfds() -> bool {
    let mut pidfd = -1;
    let pid = clone(libc::CLONE_PIDFD, &mut pidfd);
    if pid == 0 {
        exit_group(0);
    }
    if pid < 0 {
        return false;
    }
    reap(pid);
    if pidfd < 0 {
        return false;
    }
    // SAFETY: `clone` returned this descriptor, and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(pidfd) });
    true
}

/// Reaps our child and returns its wait status, or -1 if there is none to collect.
fn reap(pid: libc::pid_t) -> i32 {
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

/// Blocks until our child has exited, without reaping it.
fn until_exited(pid: libc::pid_t) {
    // SAFETY: all fields of a `siginfo_t` are integers and pointers, so zeroes are valid.
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

/// The relation of a parent to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentKind {
    /// This process: a dedicated thread starts and reaps the targets.
    ThisProcess,
    /// Another process, which handles SIGCHLD as usual.
    OtherProcess,
    /// Another process, which ignores SIGCHLD.
    IgnoresSigchld,
}

/// A parent that starts targets on request, one at a time, and reaps them.
pub struct ParentProcess {
    pub kind: ParentKind,
    /// Socket that accepts the index of a slot, and replies [`STARTED`] and later [`REAPED`].
    pub requests: UnixStream,
    /// Pid and socket of a parent that is another process. The parent shares our descriptors, so
    /// the socket must stay open here.
    child: Option<(libc::pid_t, UnixStream)>,
}

/// The reply of a parent that has started the requested target.
pub const STARTED: u8 = b'S';
/// The reply of a parent whose target has been reaped.
pub const REAPED: u8 = b'R';

impl ParentProcess {
    /// Starts a parent process. The process shares our descriptors, so its pidfds are also ours.
    pub fn spawn_process(slots: &'static [Slot], kind: ParentKind) -> ParentProcess {
        let (requests, socket) = UnixStream::pair().expect("a pair of sockets");
        let pid = clone(libc::CLONE_FILES, &mut -1);
        if pid == 0 {
            die_with_parent();
            let auto_reap = kind == ParentKind::IgnoresSigchld;
            if auto_reap {
                // SAFETY: SIG_IGN installs no handler, so no code runs on a signal.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            }
            serve_requests(slots, socket.as_raw_fd());
            exit_group(0);
        }
        assert!(pid > 0, "clone: {}", io::Error::last_os_error());
        ParentProcess {
            kind,
            requests,
            child: Some((pid, socket)),
        }
    }

    /// Starts a thread that serves requests, so this process is the parent.
    pub fn spawn_thread(slots: &'static [Slot]) -> ParentProcess {
        let (requests, socket) = UnixStream::pair().expect("a pair of sockets");
        std::thread::spawn(move || serve_requests(slots, socket.as_raw_fd()));
        ParentProcess {
            kind: ParentKind::ThisProcess,
            requests,
            child: None,
        }
    }

    /// Waits for a parent process to exit, after its requests have been shut down.
    pub fn join(&mut self) {
        if let Some((pid, _)) = self.child.take() {
            reap(pid);
        }
    }
}

/// Has the kernel kill this process when its parent exits.
fn die_with_parent() {
    // SAFETY: the call takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Runs one target after the other, as requested, until the socket is shut down.
///
/// Makes system calls only, because the caller may be a forked process.
fn serve_requests(slots: &[Slot], socket: RawFd) {
    let mut index = [0_u8; 4];
    // A request is never split: the sender writes all four bytes at once.
    // SAFETY: `index` has room for four bytes.
    while unsafe { libc::read(socket, index.as_mut_ptr().cast(), 4) } == 4 {
        let Some(slot) = slots.get(u32::from_ne_bytes(index) as usize) else {
            return;
        };
        run_target(slot, |reply| {
            // SAFETY: `reply` is one readable byte.
            unsafe { libc::write(socket, (&raw const reply).cast(), 1) };
        });
    }
}

/// Starts a target, waits for its exit and reaps the target, according to the plan in its slot.
fn run_target(slot: &Slot, reply: impl Fn(u8)) {
    let (kind, auto_reap) = (slot.exit_kind(), slot.auto_reap.load(SeqCst) == 1);
    // Carries the exit code to a target that calls `execve`, which loses the shared memory.
    let mut pipe = [-1; 2];
    if kind == ExitKind::Exec {
        // SAFETY: `pipe` has room for two descriptors.
        unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
    }
    let mut pidfd = -1;
    let pid = loop {
        slot.start_ticks[0].store(current_tick(), SeqCst);
        match clone(libc::CLONE_PIDFD, &mut pidfd) {
            0 => {
                die_with_parent();
                exit_group(target_main(slot, pipe[0]));
            }
            // No pid is free.
            -1 => sleep_micros(100),
            pid => break pid,
        }
    };
    slot.start_ticks[1].store(current_tick(), SeqCst);
    slot.pidfd.store(pidfd, SeqCst);
    slot.pid.store(pid.unsigned_abs(), SeqCst);
    let tracer = match kind {
        ExitKind::Traced => clone(0, &mut -1),
        _ => -1,
    };
    if tracer == 0 {
        die_with_parent();
        trace_until_exit(slot, pid);
    }
    if tracer > 0 {
        futex_wait(&slot.traced, 0);
    }
    reply(STARTED);

    futex_wait(&slot.gate, 0);
    let delay = slot.delay.load(SeqCst);
    match kind {
        ExitKind::Stopped => {
            // The target has not been reaped, so the pid is still its own.
            // SAFETY: the call takes integers.
            unsafe { libc::kill(pid, libc::SIGSTOP) };
            sleep_micros(delay);
            // SAFETY: the call takes integers.
            unsafe { libc::kill(pid, libc::SIGCONT) };
        }
        ExitKind::Exec => {
            sleep_micros(delay);
            slot.record_exit();
            let code = (slot.status.load(SeqCst) >> 8) as u8;
            let [a, b, c] = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit);
            // SAFETY: the array has four bytes.
            unsafe { libc::write(pipe[1], [a, b, c, b'\n'].as_ptr().cast(), 4) };
        }
        _ => {}
    }
    until_exited(pid);
    if !auto_reap {
        sleep_micros(slot.reap_delay.load(SeqCst));
        slot.reaping.store(1, SeqCst);
        slot.collected.store(reap(pid), SeqCst);
    }
    if tracer > 0 {
        reap(tracer);
    }
    for fd in pipe {
        // SAFETY: `fd` is a descriptor that this function opened, or -1.
        unsafe { libc::close(fd) };
    }
    reply(REAPED);
}

/// Runs in the target: waits for the gate, and returns the exit code.
fn target_main(slot: &Slot, pipe: RawFd) -> i32 {
    futex_wait(&slot.gate, 0);
    let exit_code = || {
        sleep_micros(slot.delay.load(SeqCst));
        slot.record_exit();
        let status = slot.status.load(SeqCst);
        if status & 0x7f != 0 {
            // SAFETY: the call takes no arguments.
            let own_pid = unsafe { libc::getpid() };
            // SAFETY: the call takes integers.
            unsafe { libc::kill(own_pid, status & 0x7f) };
        }
        status >> 8
    };
    match slot.exit_kind() {
        ExitKind::LeaderFirst => leader_exits(exit_code),
        ExitKind::Exec => {
            // SAFETY: the call takes integers.
            unsafe { libc::dup2(pipe, 0) };
            leader_exits(|| exec_sh(c"read code; exit $code"))
        }
        ExitKind::Plain | ExitKind::Stopped | ExitKind::Traced => exit_code(),
    }
}

/// Traces a target until its exit, and collects the target's status.
fn trace_until_exit(slot: &Slot, pid: libc::pid_t) -> ! {
    let (none, delay) = (0_usize, slot.reap_delay.load(SeqCst));
    // SAFETY: all arguments of this request are integers.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) };
    futex_set(&slot.traced, if seized == 0 { 1 } else { 2 });
    if seized == 0 {
        until_exited(pid);
        sleep_micros(delay);
        reap(pid);
    }
    exit_group(0)
}

/// All slots, and a list of the free ones.
pub struct Slots {
    pub all: &'static [Slot],
    free: Mutex<Vec<u32>>,
}

impl Slots {
    pub fn new(count: u32) -> Arc<Slots> {
        Arc::new(Slots {
            all: map_shared(count as usize),
            free: Mutex::new((0..count).collect()),
        })
    }

    /// Writes a plan to a free slot. Returns `None` if all slots are in use.
    pub fn allocate(self: &Arc<Self>, plan: Plan) -> Option<PlannedTarget> {
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
        slot.exit_triggered_at.store(0, SeqCst);
        Some(PlannedTarget {
            slots: self.clone(),
            index,
        })
    }
}

/// The plan for a target. See [`Slot`] for most of the fields.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kind: ExitKind,
    pub status: i32,
    pub delay: u32,
    pub reap_delay: u32,
    pub auto_reap: bool,
    /// Whether the gate is open from the start.
    pub no_gate: bool,
}

/// A target that has a slot and a plan. Frees the slot when dropped.
pub struct PlannedTarget {
    slots: Arc<Slots>,
    pub index: u32,
}

impl PlannedTarget {
    fn slot(&self) -> &'static Slot {
        &self.slots.all[self.index as usize]
    }

    /// Returns the running target, once the parent has replied [`STARTED`].
    pub fn started(self, parent: ParentKind) -> Target {
        let slot = self.slot();
        // SAFETY: `clone` returned this descriptor, and nothing else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(slot.pidfd.load(SeqCst)) };
        Target {
            pid: slot.pid.load(SeqCst),
            inode: inode(pidfd.as_fd()),
            pidfd,
            parent,
            planned: self,
        }
    }
}

impl Drop for PlannedTarget {
    fn drop(&mut self) {
        self.slots.free.lock().unwrap().push(self.index);
    }
}

/// A process to wait for, and the oracle's sources of its true state.
pub struct Target {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub parent: ParentKind,
    /// Inode of the pidfd, unique to the target. `None` before Linux 6.9.
    pub inode: Option<u64>,
    planned: PlannedTarget,
}

impl Target {
    fn slot(&self) -> &'static Slot {
        self.planned.slot()
    }

    pub fn open_gate(&self) {
        futex_set(&self.slot().gate, 1);
    }

    pub fn exit_kind(&self) -> ExitKind {
        self.slot().exit_kind()
    }

    /// Returns whether this target may have started in the same tick as `earlier`.
    pub fn may_share_start_tick(&self, earlier: &Target) -> bool {
        let (this, earlier) = (&self.slot().start_ticks, &earlier.slot().start_ticks);
        this[0].load(SeqCst) <= earlier[1].load(SeqCst)
    }

    /// Returns the planned wait status.
    pub fn status(&self) -> i32 {
        self.slot().status.load(SeqCst)
    }

    /// Returns the time at which the exit was triggered, in ns.
    pub fn exit_triggered_at(&self) -> Option<u64> {
        Some(self.slot().exit_triggered_at.load(SeqCst)).filter(|&time| time != 0)
    }

    /// Returns whether the pid may belong to another process by now.
    ///
    /// If not, the pid has belonged to the target until this call.
    pub fn may_be_reaped(&self) -> bool {
        self.slot().reaping.load(SeqCst) == 1
    }

    /// Returns the wait status that the parent collected.
    pub fn collected(&self) -> Option<i32> {
        Some(self.slot().collected.load(SeqCst)).filter(|&status| status != -1)
    }

    /// Returns whether the target has exited, according to both the slot and the pidfd.
    pub fn has_exited(&self) -> bool {
        self.exit_triggered_at().is_some() && self.events() & libc::POLLIN != 0
    }

    /// Returns whether the target has been reaped, according to both the slot and the pidfd.
    pub fn is_reaped(&self) -> bool {
        // Before Linux 6.9 a pidfd does not report the reap.
        let is_reported = self.inode.is_none() || self.events() & libc::POLLHUP != 0;
        self.may_be_reaped() && self.has_exited() && is_reported
    }

    /// Returns the status that `PIDFD_GET_INFO` shows after the reap. The kernel may be wrong.
    pub fn status_from_pidfd(&self) -> Option<i32> {
        // SAFETY: all fields of a `pidfd_info` are integers.
        let mut info: libc::pidfd_info = unsafe { mem::zeroed() };
        info.mask = libc::PIDFD_INFO_EXIT.into();
        let (fd, request) = (self.pidfd.as_raw_fd(), libc::PIDFD_GET_INFO as _);
        // SAFETY: `info` is writable, and the request encodes its size.
        let result = unsafe { libc::ioctl(fd, request, &raw mut info) };
        let has_status = result == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        has_status.then_some(info.exit_code)
    }

    /// Returns the events that are pending on the pidfd.
    fn events(&self) -> libc::c_short {
        let mut poll = libc::pollfd {
            fd: self.pidfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        loop {
            // SAFETY: `poll` is one `pollfd`, and the count is one.
            if unsafe { libc::poll(&mut poll, 1, 0) } >= 0 {
                return poll.revents;
            }
        }
    }
}

/// Returns the inode of a pidfd, which no other process ever gets. `None` before Linux 6.9.
pub fn inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    const PID_FS_MAGIC: libc::c_long = 0x5049_4446;
    // SAFETY: all fields of a `statfs` are integers.
    let mut file_system: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `file_system` is writable.
    unsafe { libc::fstatfs(pidfd.as_raw_fd(), &mut file_system) };
    // SAFETY: all fields of a `stat` are integers.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    unsafe { libc::fstat(pidfd.as_raw_fd(), &mut stat) };
    (file_system.f_type as libc::c_long == PID_FS_MAGIC).then_some(stat.st_ino as _)
}
