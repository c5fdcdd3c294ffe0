//! The system calls that take a kqueue.
//!
//! # Safety
//!
//! Each block is one system call (or one read of what it wrote). Descriptors are borrowed, so they
//! are open for the call; every pointer is to a local of the type that the call expects.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::Status;
use super::errno_of;
use super::semantics::{Refusal, StatusDelivery, refusal, status};

/// Of different width on NetBSD.
#[cfg(target_os = "netbsd")]
type Flags = u32;
#[cfg(not(target_os = "netbsd"))]
type Flags = u16;

/// A process has exited.
pub(super) struct ExitEvent {
    pub(super) pid: libc::pid_t,
    pub(super) status: Option<Status>,
}

pub(super) fn create() -> io::Result<OwnedFd> {
    // SAFETY: takes nothing.
    let kqueue = unsafe { libc::kqueue() };
    if kqueue < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let kqueue = unsafe { OwnedFd::from_raw_fd(kqueue) };
    // A forked child does not inherit it, so this is only for an exec without a fork. `kqueue1`,
    // which would do both at once, is not everywhere.
    // SAFETY: takes integers.
    unsafe { libc::fcntl(kqueue.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    Ok(kqueue)
}

/// Attaches a filter to a process. Its one event tells of the exit.
///
/// The kqueue must have none for this pid, read or unread: the kernel would change that, whosever it
/// is, instead of looking for the process.
pub(super) fn register(kqueue: BorrowedFd<'_>, pid: libc::pid_t) -> io::Result<()> {
    // EV_ONESHOT: what has exited has no second event, and the filter goes when its event is read.
    // That is what the kernels do with NOTE_EXIT anyway, whatever flags were given.
    let add = |fflags: u32| change(kqueue, pid, libc::EV_ADD | libc::EV_ONESHOT, fflags);
    let StatusDelivery::IfFlagged(flag) = delivery() else {
        return add(libc::NOTE_EXIT);
    };
    match add(libc::NOTE_EXIT | flag) {
        Err(error) if refusal(errno_of(&error), true) == Refusal::WithoutStatus => {
            add(libc::NOTE_EXIT)
        }
        result => result,
    }
}

/// Takes the filter of a process away, and its event if that was not read.
pub(super) fn deregister(kqueue: BorrowedFd<'_>, pid: libc::pid_t) {
    // There may be none any more.
    let _ = change(kqueue, pid, libc::EV_DELETE, 0);
}

/// Reads some of the events that there are, without waiting. Returns how many: 0 means that there
/// are no more.
pub(super) fn read(kqueue: BorrowedFd<'_>, mut report: impl FnMut(ExitEvent)) -> io::Result<usize> {
    const BATCH: usize = 64;
    let mut batch = [MaybeUninit::<libc::kevent>::uninit(); BATCH];
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let count = loop {
        let (kqueue, buffer) = (kqueue.as_raw_fd(), batch.as_mut_ptr().cast());
        // SAFETY: `batch` has room for that many events, and `now` is readable.
        let count = unsafe { libc::kevent(kqueue, ptr::null(), 0, buffer, BATCH as _, &now) };
        match usize::try_from(count) {
            Ok(count) => break count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    for event in &batch[..count] {
        // SAFETY: the kernel has written the first `count`.
        let event = unsafe { event.assume_init() };
        report(ExitEvent {
            pid: event.ident as libc::pid_t,
            status: status(delivery(), event.fflags, event.data as _).map(Status),
        });
    }
    Ok(count)
}

fn change(kqueue: BorrowedFd<'_>, pid: libc::pid_t, flags: Flags, fflags: u32) -> io::Result<()> {
    // SAFETY: a `kevent` is integers and a pointer, for which all zeroes is a valid value.
    let mut change: libc::kevent = unsafe { mem::zeroed() };
    change.ident = pid as libc::uintptr_t;
    change.filter = libc::EVFILT_PROC;
    change.flags = flags;
    change.fflags = fflags;
    let (kqueue, none) = (kqueue.as_raw_fd(), ptr::null_mut());
    // SAFETY: `change` is readable. No event is asked for, so errors are returned by the call.
    let result = unsafe { libc::kevent(kqueue, &change, 1, none, 0, ptr::null()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How this system tells the exit status.
fn delivery() -> StatusDelivery {
    #[cfg(target_vendor = "apple")]
    return StatusDelivery::IfFlagged(libc::NOTE_EXITSTATUS);
    #[cfg(target_os = "netbsd")]
    {
        use super::semantics::delivery_on_netbsd;
        use crate::sys::unix::syscalls::kernel_release;
        use std::sync::LazyLock;

        static TELLING: LazyLock<StatusDelivery> =
            LazyLock::new(|| delivery_on_netbsd(&kernel_release()));
        *TELLING
    }
    #[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
    StatusDelivery::Always
}
