//! The system calls that take a kqueue.
//!
//! # Safety
//!
//! Each block is one system call, or a read of what it has written. Descriptors are borrowed, so they
//! are open during the call. Every pointer is to a local of the type that the call expects.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::Status;
use super::errno_of;
use super::kernel::{self, EV_ADD, EV_DELETE, EV_ONESHOT, EVFILT_PROC, NOTE_EXIT};
use super::semantics::{Refusal, StatusDelivery, refusal, status};

/// The type of `flags`, which is wider on NetBSD.
#[cfg(target_os = "netbsd")]
type Flags = u32;
#[cfg(not(target_os = "netbsd"))]
type Flags = u16;

/// The event of a process that has exited.
pub(super) struct ExitEvent {
    pub(super) pid: libc::pid_t,
    pub(super) status: Option<Status>,
}

pub(super) fn create() -> io::Result<OwnedFd> {
    // SAFETY: takes nothing.
    let kqueue = unsafe { kernel::kqueue() };
    if kqueue < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and nobody else owns it.
    let kqueue = unsafe { OwnedFd::from_raw_fd(kqueue) };
    // Set the flag for an `execve` without a fork: a forked child does not inherit a kqueue. `kqueue1`,
    // which sets the flag at the creation, does not exist everywhere.
    // SAFETY: takes integers.
    unsafe { libc::fcntl(kqueue.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    Ok(kqueue)
}

/// Attaches a filter to a process. Its one event reports the exit.
///
/// The kqueue must not have a filter for this pid, not even a filter whose event has not been read.
/// Otherwise the kernel changes that filter instead of attaching a new filter to the process.
pub(super) fn register(kqueue: BorrowedFd<'_>, pid: libc::pid_t) -> io::Result<()> {
    // EV_ONESHOT: the filter is removed when its one event is read. The kernels do that for NOTE_EXIT
    // whatever the flags are.
    let add = |fflags: u32| change(kqueue, pid, EV_ADD | EV_ONESHOT, fflags);
    let StatusDelivery::IfFlagged(flag) = delivery() else {
        return add(NOTE_EXIT);
    };
    match add(NOTE_EXIT | flag) {
        Err(error) if refusal(errno_of(&error), true) == Refusal::WithoutStatus => add(NOTE_EXIT),
        result => result,
    }
}

/// Removes the filter of a process, and its event if the event has not been read.
pub(super) fn deregister(kqueue: BorrowedFd<'_>, pid: libc::pid_t) {
    // An error means that the filter is already gone.
    let _ = change(kqueue, pid, EV_DELETE, 0);
}

/// Reads a batch of events, without waiting. Returns their number, which is 0 if none are left.
pub(super) fn read(kqueue: BorrowedFd<'_>, mut report: impl FnMut(ExitEvent)) -> io::Result<usize> {
    loop {
        match read_within(kqueue, Duration::ZERO, &mut report) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Blocks until there are events, and reads a batch. Returns their number, which is 0 after the timeout.
///
/// The error is `Interrupted` if a signal handler has run.
pub(super) fn read_within(
    kqueue: BorrowedFd<'_>,
    timeout: Duration,
    mut report: impl FnMut(ExitEvent),
) -> io::Result<usize> {
    // The model of the kernel has few processes.
    const BATCH_SIZE: usize = if cfg!(all(test, tokio_process_exit_fake_kqueue)) {
        2
    } else {
        64
    };
    let mut batch = [MaybeUninit::<kernel::kevent>::uninit(); BATCH_SIZE];
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as _,
        tv_nsec: timeout.subsec_nanos() as _,
    };
    let (kqueue, buffer) = (kqueue.as_raw_fd(), batch.as_mut_ptr().cast());
    // SAFETY: `batch` has room for that many events, and `timeout` is readable.
    let count =
        unsafe { kernel::kevent(kqueue, ptr::null(), 0, buffer, BATCH_SIZE as _, &timeout) };
    let Ok(count) = usize::try_from(count) else {
        return Err(io::Error::last_os_error());
    };
    for event in &batch[..count] {
        // SAFETY: the kernel has written the first `count` events.
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
    let mut change: kernel::kevent = unsafe { mem::zeroed() };
    change.ident = pid as libc::uintptr_t;
    change.filter = EVFILT_PROC;
    change.flags = flags;
    change.fflags = fflags;
    let (kqueue, none) = (kqueue.as_raw_fd(), ptr::null_mut());
    // SAFETY: `change` is readable. Without room for events, the call returns the error of the change.
    let result = unsafe { kernel::kevent(kqueue, &change, 1, none, 0, ptr::null()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Returns the condition under which this system reports the exit status.
fn delivery() -> StatusDelivery {
    #[cfg(all(test, tokio_process_exit_fake_kqueue))]
    return super::fake::delivery();
    #[cfg(target_vendor = "apple")]
    return StatusDelivery::IfFlagged(libc::NOTE_EXITSTATUS);
    #[cfg(target_os = "netbsd")]
    {
        use super::semantics::delivery_on_netbsd;
        use crate::sys::unix::syscalls::kernel_release;
        use std::sync::LazyLock;

        // Valid for the life of this process: the kernel stays the same.
        static DELIVERY: LazyLock<StatusDelivery> =
            LazyLock::new(|| delivery_on_netbsd(&kernel_release()));
        *DELIVERY
    }
    #[cfg(not(any(
        all(test, tokio_process_exit_fake_kqueue),
        target_vendor = "apple",
        target_os = "netbsd"
    )))]
    StatusDelivery::Always
}
