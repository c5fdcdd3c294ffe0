//! The limit of this process's descriptors.
//!
//! # Safety
//!
//! Each block is one system call, or the conversion of a descriptor that a system call has returned.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::syscalls::{self, errno};

/// The limit of descriptors when it was last read. Wrong after this program has changed its limit.
///
/// So read it again for each number above [`HIGHEST`], and at least every [`MAX_AGE`]. A limit that has
/// just been lowered to a number that was checked before may be noticed that much later.
static LIMIT: AtomicI32 = AtomicI32::new(0);

/// The highest descriptor that was compared with [`LIMIT`] since the limit was read.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

/// The time at which [`LIMIT`] was read, in milliseconds.
static READ_AT: AtomicU64 = AtomicU64::new(0);

/// How long [`LIMIT`] is trusted, in milliseconds.
const MAX_AGE: u64 = 100;

/// Whether descriptors have run out. Wrong once other descriptors have been closed, so
/// [`another_is_free`] checks that and forgets the shortage.
static RAN_OUT: AtomicBool = AtomicBool::new(false);

/// Returns the limit of descriptors, to compare it with this descriptor.
fn limit_for(fd: RawFd) -> i32 {
    // The clock is not read by a system call.
    let now = syscalls::clock(libc::CLOCK_MONOTONIC_COARSE).as_millis() as u64;
    let age = now.saturating_sub(READ_AT.load(Ordering::Relaxed));
    if fd <= HIGHEST.load(Ordering::Relaxed) && age < MAX_AGE {
        return LIMIT.load(Ordering::Relaxed);
    }
    let limit = read_limit();
    READ_AT.store(now, Ordering::Relaxed);
    HIGHEST.store(fd, Ordering::Relaxed);
    limit
}

/// Reads the limit of descriptors.
pub(super) fn read_limit() -> i32 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result < 0 {
        return i32::MAX;
    }
    let limit = i32::try_from(limit.rlim_cur).unwrap_or(i32::MAX);
    LIMIT.store(limit, Ordering::Relaxed);
    limit
}

/// Converts the result of a system call, which is a new descriptor or -1. Spares the last descriptor.
///
/// If no other descriptor is free, closes the new descriptor and returns EMFILE. Otherwise `/proc` could
/// not be read, and polled processes could not be queried.
///
/// # Safety
///
/// If `fd` is a descriptor, it must be new: nobody else may own it.
pub(super) unsafe fn from_raw_sparing_last(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EMFILE) {
            RAN_OUT.store(true, Ordering::Relaxed);
        }
        return Err(error);
    }
    // SAFETY: nobody else owns the descriptor, by the contract of this function.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if is_last_fd(fd.as_fd()) {
        RAN_OUT.store(true, Ordering::Relaxed);
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(fd)
}

/// Whether no other descriptor is free after this new one.
fn is_last_fd(fd: BorrowedFd<'_>) -> bool {
    // The kernel returns the lowest free number, so the highest possible number is the last. Read the
    // limit again only if this number seems to be the highest.
    let reaches = |limit| fd.as_raw_fd() + 1 >= limit;
    if reaches(limit_for(fd.as_raw_fd())) && reaches(read_limit()) {
        return true;
    }
    // A lower number may be the only hole in a full table. This check takes system calls, so make it only
    // after descriptors have run out.
    RAN_OUT.load(Ordering::Relaxed) && !another_is_free(fd)
}

/// Whether another descriptor is free after this new one. If several are free, forgets that descriptors
/// have run out.
#[cold]
fn another_is_free(fd: BorrowedFd<'_>) -> bool {
    const WINDOW: usize = 16;
    const PLENTY: usize = 8;
    // All lower numbers are in use. Do not count by duplicating the descriptor: other threads may need
    // the numbers.
    let higher = fd.as_raw_fd() + 1..read_limit();
    match higher.take(WINDOW).filter(|&fd| is_free(fd)).count() {
        0 => match fd.try_clone_to_owned() {
            Ok(_) => true,
            Err(error) => error.raw_os_error() != Some(libc::EMFILE),
        },
        PLENTY.. => {
            RAN_OUT.store(false, Ordering::Relaxed);
            true
        }
        _ => true,
    }
}

/// Whether no descriptor has this number.
fn is_free(fd: RawFd) -> bool {
    // SAFETY: takes integers. F_GETFD takes no third argument.
    let result = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    result < 0 && errno() == libc::EBADF
}

/// Whether this new descriptor shows that more than half of the descriptors are in use.
pub(super) fn is_in_upper_half(fd: BorrowedFd<'_>) -> bool {
    // The kernel returns the lowest free number, so all lower numbers are in use.
    fd.as_raw_fd() > limit_for(fd.as_raw_fd()) / 2
}
