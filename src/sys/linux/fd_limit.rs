//! The limit of this process's descriptors.
//!
//! # Safety
//!
//! Each block is one system call, or the conversion of a descriptor that a system call has returned.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The limit of descriptors when it was last read.
static LIMIT: AtomicI32 = AtomicI32::new(0);

/// Whether descriptors have ever run out.
static RAN_OUT: AtomicBool = AtomicBool::new(false);

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
    if reaches(LIMIT.load(Ordering::Relaxed)) && reaches(read_limit()) {
        return true;
    }
    // A lower number may be the only hole in a full table. This check takes two system calls, so make it
    // only if descriptors have ever run out.
    RAN_OUT.load(Ordering::Relaxed) && fd.try_clone_to_owned().is_err()
}

/// Whether more than half of the descriptors are in use. `any` may be any open descriptor.
pub(super) fn fds_are_scarce(any: BorrowedFd<'_>) -> bool {
    // The kernel returns the lowest free number, so all lower numbers are in use.
    any.try_clone_to_owned()
        .map_or(true, |lowest| lowest.as_raw_fd() > read_limit() / 2)
}
