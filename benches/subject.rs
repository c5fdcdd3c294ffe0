//! The processes that are waited for.
//!
//! A subject waits for a byte, sleeps for a while, so that whoever waits for it does so by then,
//! writes the time to memory that it shares with this program, and exits at once with code 7.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::os;

/// Memory that all processes share, in a file.
struct Shared {
    /// How many nanoseconds the subject is to sleep.
    sleep: AtomicU64,
    /// When it has exited.
    exited: AtomicU64,
}

fn map(file: &Path) -> &'static Shared {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .expect("a file to share");
    file.set_len(4096).expect("a page");
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    // SAFETY: maps anew, at an address of the kernel's choice.
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
    // SAFETY: a page is large enough and aligned, zeroes are valid, all accesses are atomic, and it
    // is never unmapped.
    unsafe { &*page.cast() }
}

/// Where subjects come from and are told to exit.
pub(crate) struct Stage {
    shared: &'static Shared,
    file: PathBuf,
    go: (UnixStream, UnixStream),
    keeper: UnixStream,
}

impl Stage {
    /// To be called while there is one thread: it forks.
    pub(crate) fn new() -> Stage {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("subject-{}", std::process::id()));
        let shared = map(&file);
        let go = UnixStream::pair().expect("a pair of sockets");
        let (keeper, other) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: there is one thread.
        if unsafe { libc::fork() } == 0 {
            drop(keeper);
            keep(shared, &go.1, &other);
        }
        Stage {
            shared,
            file,
            go,
            keeper,
        }
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// What a forked child calls to be a subject.
    pub(crate) fn role(&self) -> impl Fn() -> std::io::Result<()> + Send + Sync + 'static + use<> {
        let (shared, go) = (self.shared, self.go.1.as_raw_fd());
        move || live(shared, go)
    }

    /// A child of this process.
    pub(crate) fn fork(&self) -> Child {
        let go = self.go.1.as_raw_fd();
        // SAFETY: the child only makes system calls.
        match unsafe { libc::fork() } {
            0 => live(self.shared, go),
            pid => Child {
                pid: u32::try_from(pid).expect("a child"),
            },
        }
    }

    /// A child of another process, which reaps it when asked to.
    pub(crate) fn fork_elsewhere(&self) -> Elsewhere<'_> {
        os::write_all(self.keeper.as_fd(), b"f");
        let mut pid = [0; 4];
        assert!(os::read_all(self.keeper.as_fd(), &mut pid));
        Elsewhere {
            pid: u32::from_ne_bytes(pid),
            keeper: &self.keeper,
        }
    }

    /// How long the next subject sleeps.
    pub(crate) fn set_sleep(&self, sleep: Duration) {
        self.shared.exited.store(0, Ordering::SeqCst);
        self.shared
            .sleep
            .store(sleep.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Lets the subject go on, into its sleep and its end.
    pub(crate) fn go(&self) {
        os::write_all(self.go.0.as_fd(), b"!");
    }

    /// When the subject exited.
    pub(crate) fn exited(&self) -> u64 {
        self.shared.exited.load(Ordering::SeqCst)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.file);
    }
}

pub(crate) struct Child {
    pub(crate) pid: u32,
}

impl Drop for Child {
    fn drop(&mut self) {
        os::reap(self.pid);
    }
}

pub(crate) struct Elsewhere<'a> {
    pub(crate) pid: u32,
    keeper: &'a UnixStream,
}

impl Elsewhere<'_> {
    /// Has its parent wait for it, and reap it as soon as it exits.
    pub(crate) fn reap_soon(&self) {
        os::write_all(self.keeper.as_fd(), b"r");
    }
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        // Reaping once more does no harm.
        self.reap_soon();
        os::write_all(self.keeper.as_fd(), b"?");
        let mut reply = [0; 4];
        assert!(os::read_all(self.keeper.as_fd(), &mut reply));
    }
}

/// Forks and reaps on demand.
fn keep(shared: &'static Shared, go: &UnixStream, orders: &UnixStream) -> ! {
    die_with_parent();
    let go = go.as_raw_fd();
    let mut order = [0];
    let mut last = 0;
    while os::read_all(orders.as_fd(), &mut order) {
        match &order {
            b"f" => {
                // SAFETY: there is one thread.
                last = match unsafe { libc::fork() } {
                    0 => live(shared, go),
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

/// What a subject does. It makes system calls only, as it has been forked.
fn live(shared: &'static Shared, go: RawFd) -> ! {
    die_with_parent();
    // All have the same left to close in the end. Whoever has started it with `exec` in mind learns
    // by this that there is nothing more to wait for.
    let close = |first: RawFd, last: libc::c_uint| {
        // SAFETY: takes integers; nothing in this process uses these any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    };
    if go > 3 {
        close(3, go as libc::c_uint - 1);
    }
    close(go + 1, libc::c_uint::MAX);
    // SAFETY: a subject never ends the borrow, as it never returns.
    let go = unsafe { BorrowedFd::borrow_raw(go) };
    os::read_all(go, &mut [0]);
    end(shared)
}

fn end(shared: &'static Shared) -> ! {
    let sleep = Duration::from_nanos(shared.sleep.load(Ordering::SeqCst));
    let time = libc::timespec {
        tv_sec: sleep.as_secs() as _,
        tv_nsec: sleep.subsec_nanos() as _,
    };
    // SAFETY: `time` is readable, and no rest is asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
    shared.exited.store(os::now(), Ordering::SeqCst);
    exit(7)
}

fn exit(code: libc::c_int) -> ! {
    // SAFETY: ends this process at once.
    unsafe { libc::_exit(code) }
}

pub(crate) fn die_with_parent() {
    // SAFETY: takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// A subject that has been started by `exec`. Its byte comes from standard input.
pub(crate) fn exit_in_time(file: &Path) -> ! {
    let shared = map(file);
    os::read_all(std::io::stdin().as_fd(), &mut [0]);
    end(shared)
}
