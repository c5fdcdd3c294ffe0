//! System calls on files that the standard library lacks.
//!
//! # Safety
//!
//! Each block is one system call, or the conversion of a descriptor that a system call has returned.
//! Descriptors are borrowed, so they are open during the call. Every pointer is to a null-terminated string,
//! or to a local of the type that the call expects.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens a file below a directory, with O_CLOEXEC.
pub(super) fn open_at(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: libc::c_int,
) -> io::Result<File> {
    let flags = flags | libc::O_CLOEXEC;
    loop {
        // SAFETY: `name` ends with a null byte.
        let fd = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the system call has just returned this descriptor, and nobody else owns it.
            return Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Returns the magic number of a file's file system: include/uapi/linux/magic.h.
pub(super) fn file_system(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: a `statfs` is all integers, for which all zeroes is a valid value.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    let result = unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) };
    match result {
        0 => Ok(stat.f_type as u32),
        _ => Err(io::Error::last_os_error()),
    }
}
