//! The processes whose exit is timed.
//!
//! A subject waits for a byte, and then sleeps until the waiting program is asleep too. Finally the
//! subject writes the time to memory shared with this program, and exits with code 7 in the next
//! instruction.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::os;

/// Memory in a file that all processes map.
struct Shared {
    /// How long the subject sleeps, in nanoseconds.
    sleep: AtomicU64,
    /// When the subject exited, on the clock of [`os::now`]. Zero until then.
    exited: AtomicU64,
}

fn map(file: &Path) -> &'static Shared {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .expect("the shared file opens");
    file.set_len(4096).expect("the shared file has one page");
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    // SAFETY: the kernel chooses a new address for the mapping.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: the page is large enough, aligned and never unmapped. Zeroes are valid, and all
    // accesses are atomic.
    unsafe { &*page.cast() }
}

/// Starts subjects and makes them exit.
pub(crate) struct Subjects {
    shared: &'static Shared,
    file: PathBuf,
    /// This program writes to the first socket, and a subject reads from the second.
    gate: (UnixStream, UnixStream),
    /// Carries orders to the parent of the grandchildren.
    parent: UnixStream,
}

impl Subjects {
    /// Forks the parent of the grandchildren. This process must have a single thread.
    pub(crate) fn new() -> Subjects {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("subject-{}", std::process::id()));
        let shared = map(&file);
        let gate = UnixStream::pair().expect("a pair of sockets");
        let (parent, orders) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: this process has a single thread.
        if unsafe { libc::fork() } == 0 {
            drop(parent);
            serve_orders(shared, &gate.1, &orders);
        }
        Subjects {
            shared,
            file,
            gate,
            parent,
        }
    }

    /// Returns the path of the shared memory.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns a `pre_exec` hook that turns the forked child into a subject.
    pub(crate) fn hook(&self) -> impl Fn() -> std::io::Result<()> + Send + Sync + 'static + use<> {
        let (shared, gate) = (self.shared, self.gate.1.as_raw_fd());
        move || run_forked(shared, gate)
    }

    /// Forks a subject.
    pub(crate) fn fork(&self, target: Target) -> Subject<'_> {
        let pid = match target {
            Target::Child => {
                let gate = self.gate.1.as_raw_fd();
                // SAFETY: the child only makes system calls.
                match unsafe { libc::fork() } {
                    0 => run_forked(self.shared, gate),
                    pid => u32::try_from(pid).expect("a pid"),
                }
            }
            Target::Other => {
                os::write_all(self.parent.as_fd(), b"f");
                let mut pid = [0; 4];
                assert!(os::read_all(self.parent.as_fd(), &mut pid));
                u32::from_ne_bytes(pid)
            }
        };
        Subject {
            pid,
            target,
            subjects: self,
        }
    }

    /// Sets how long the next subject sleeps.
    pub(crate) fn set_sleep(&self, sleep: Duration) {
        self.shared.exited.store(0, Ordering::SeqCst);
        self.shared
            .sleep
            .store(sleep.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Lets the subject sleep and then exit.
    pub(crate) fn release(&self) {
        os::write_all(self.gate.0.as_fd(), b"!");
    }

    /// Returns the time at which the subject exited.
    pub(crate) fn exited(&self) -> u64 {
        self.shared.exited.load(Ordering::SeqCst)
    }
}

impl Drop for Subjects {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.file);
    }
}

/// Whose child a subject is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A child of the waiting program.
    Child,
    /// A child of another process.
    Other,
}

/// A subject that waits for its release.
pub(crate) struct Subject<'a> {
    pub(crate) pid: u32,
    target: Target,
    subjects: &'a Subjects,
}

impl Subject<'_> {
    /// Lets the subject sleep and then exit.
    pub(crate) fn release(&self) {
        self.subjects.release();
    }

    /// Orders the other process to reap its child as soon as the child exits.
    pub(crate) fn reap_at_exit(&self) {
        os::write_all(self.subjects.parent.as_fd(), b"r");
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        if self.target == Target::Child {
            return os::reap(self.pid);
        }
        // A second order to reap has no effect.
        self.reap_at_exit();
        os::write_all(self.subjects.parent.as_fd(), b"?");
        let mut reply = [0; 4];
        assert!(os::read_all(self.subjects.parent.as_fd(), &mut reply));
    }
}

/// Executes orders: `f` forks a grandchild, `r` reaps the last grandchild, `?` requests a reply.
fn serve_orders(shared: &'static Shared, gate: &UnixStream, orders: &UnixStream) -> ! {
    die_with_parent();
    let gate = gate.as_raw_fd();
    let mut order = [0];
    let mut last = 0;
    while os::read_all(orders.as_fd(), &mut order) {
        match &order {
            b"f" => {
                // SAFETY: this process has a single thread.
                last = match unsafe { libc::fork() } {
                    0 => run_forked(shared, gate),
                    pid => pid,
                };
                os::write_all(orders.as_fd(), &last.to_ne_bytes());
            }
            b"r" => os::reap(last as u32),
            _ => os::write_all(orders.as_fd(), &[0; 4]),
        }
    }
    exit(0)
}

/// Runs a subject in a forked process, which may only make system calls.
fn run_forked(shared: &'static Shared, gate: RawFd) -> ! {
    die_with_parent();
    // Close all inherited descriptors before the wait: every subject then has the same few
    // descriptors to close at its exit. `spawn` also returns only once the pipe that reports a
    // failed `exec` is closed.
    let close = |first: RawFd, last: libc::c_uint| {
        // SAFETY: the call takes integers. This process no longer uses these descriptors.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    };
    if gate > 3 {
        close(3, gate as libc::c_uint - 1);
    }
    close(gate + 1, libc::c_uint::MAX);
    // SAFETY: `gate` stays open, because this function never returns.
    let gate = unsafe { BorrowedFd::borrow_raw(gate) };
    os::read_all(gate, &mut [0]);
    sleep_and_exit(shared)
}

fn sleep_and_exit(shared: &'static Shared) -> ! {
    let sleep = Duration::from_nanos(shared.sleep.load(Ordering::SeqCst));
    let time = libc::timespec {
        tv_sec: sleep.as_secs() as _,
        tv_nsec: sleep.subsec_nanos() as _,
    };
    // SAFETY: `time` is readable, and the remaining time is not requested.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
    shared.exited.store(os::now(), Ordering::SeqCst);
    exit(7)
}

fn exit(code: libc::c_int) -> ! {
    // SAFETY: the call takes an integer.
    unsafe { libc::_exit(code) }
}

/// Has the kernel kill this process when its parent exits.
pub(crate) fn die_with_parent() {
    // SAFETY: the call takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Runs a subject that was started by `exec`, and that waits for a byte from standard input.
pub(crate) fn run_started(file: &Path) -> ! {
    let shared = map(file);
    os::read_all(std::io::stdin().as_fd(), &mut [0]);
    sleep_and_exit(shared)
}
