//! The directory `/proc/<pid>` of one process, held open.
//!
//! Files that are opened through the descriptor are always this process's: the kernel resolves them by
//! the process, not by the number. After the reap they cannot be opened, even if the pid has been
//! recycled (`get_proc_task` in fs/proc/internal.h).
//!
//! # Safety
//!
//! Each block is one system call, or the conversion of a descriptor that a system call has returned. The
//! descriptor is borrowed, so it is open during the call. Every pointer is to a null-terminated string,
//! or to a local of the type that the call expects.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::fd_limit::from_raw_sparing_last;
use super::files::open_at;
use super::pidfd;
use super::procfs::{self, Buffer, Stat};
use super::{Status, is_exhaustion};
use crate::sys::unix::syscalls::errno;

pub(super) struct Directory(OwnedFd);

/// The reason why the directory of a process could not be held open.
pub(super) enum NoDirectory {
    /// The pid is that of a thread of this process.
    Thread(u32),
    /// The process has just been reaped, or `/proc` hides the process.
    Missing,
    /// A resource is exhausted. A later attempt may succeed.
    Exhausted,
    /// The system denies a call.
    Denied,
}

impl From<io::Error> for NoDirectory {
    fn from(error: io::Error) -> NoDirectory {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => NoDirectory::Missing,
            Some(errno) if is_exhaustion(errno) => NoDirectory::Exhausted,
            _ => NoDirectory::Denied,
        }
    }
}

/// Reads an entry of a directory into one byte, which is too small. Returns the error.
fn read_entry(fd: RawFd) -> Option<i32> {
    let mut buffer = 0_u8;
    let (buffer, size) = (&raw mut buffer, 1_usize);
    // SAFETY: `buffer` has room for that many bytes.
    let result = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer, size) };
    (result < 0).then(errno)
}

impl Directory {
    /// Opens the directory of the process that has the pid now. `/proc` must belong to our pid
    /// namespace.
    pub(super) fn open(pid: libc::pid_t) -> Result<Directory, NoDirectory> {
        // Do not use O_PATH: `getdents64` and `pidfd_send_signal` refuse such a descriptor.
        let path = format!("/proc/{pid}\0");
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = loop {
            // SAFETY: `path` ends with a null byte.
            let fd = unsafe { libc::open(path.as_ptr().cast(), flags) };
            // SAFETY: the system call has just returned this descriptor.
            match unsafe { from_raw_sparing_last(fd) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let directory = Directory(fd);
        // Check through the descriptor what was opened. The path also names threads. While a thread that
        // is not the leader calls `execve`, the path may even lead to the leader's next, short-lived id:
        // `proc_pid_make_inode` reads the id of the task after the lookup.
        let mut buffer: Buffer = [0; 4096];
        let status = directory.read(c"status", &mut buffer)?;
        let number = |key| u32::try_from(procfs::number_after(status, key)?).ok();
        let is_pid = |number| number == Some(pid.unsigned_abs());
        match number(b"\nTgid:\t") {
            _ if !is_pid(number(b"\nPid:\t")) => Err(NoDirectory::Missing),
            process if is_pid(process) => Ok(directory),
            // 0 if the thread is being reaped.
            None | Some(0) => Err(NoDirectory::Missing),
            Some(process) => Err(NoDirectory::Thread(process)),
        }
    }

    /// Reads the file `stat`. `None` after the reap, and if the file cannot be read.
    ///
    /// Also `None` for an instant while a thread that is not the leader calls `execve`.
    pub(super) fn read_stat(&self) -> Option<Stat> {
        let mut buffer: Buffer = [0; 4096];
        Stat::parse(self.read(c"stat", &mut buffer).ok()?)
    }

    /// Returns the exit status of the process if `stat` is that of a zombie and the kernel shows the
    /// status to us. `stat` must be read from this directory.
    pub(super) fn zombie_status(&self, stat: &Stat) -> Option<Status> {
        stat.exit_status(|| self.has_link(c"ns/user"))
    }

    /// Whether the process has been reaped. `None` if a sandbox denies the answer.
    ///
    /// Unlike opening a file, this needs no descriptor and no right, which `hidepid` may withdraw. This
    /// is also exact during `execve`.
    pub(super) fn is_reaped(&self) -> Option<bool> {
        // The kernel returns ENOENT for a process that is gone (`proc_pident_readdir` in fs/proc/base.c).
        // Otherwise it returns EINVAL, because no entry fits into one byte.
        match read_entry(self.0.as_raw_fd()) {
            Some(libc::ENOENT) => Some(true),
            // A sandbox may return this error too, but then for every descriptor.
            Some(libc::EINVAL) if read_entry(-1) == Some(libc::EBADF) => Some(false),
            _ => None,
        }
    }

    /// Returns the inode, which no other process has as long as this directory is open.
    pub(super) fn inode(&self) -> Option<u64> {
        // SAFETY: a `stat` is all integers, for which all zeroes is a valid value.
        let mut stat: libc::stat = unsafe { mem::zeroed() };
        // SAFETY: `stat` is writable.
        let result = unsafe { libc::fstat(self.0.as_raw_fd(), &raw mut stat) };
        (result == 0).then_some(stat.st_ino as _)
    }

    /// Sends a signal. `None` if the kernel refuses directories here: before Linux 5.1, and in a sandbox.
    pub(super) fn signal(&self, signal: i32) -> Option<io::Result<()>> {
        match pidfd::send_signal(self.0.as_fd(), signal) {
            Ok(()) => Some(Ok(())),
            Err(libc::ESRCH) => Some(Err(io::ErrorKind::NotFound.into())),
            // A sandbox returns these errors too, but for every descriptor.
            Err(errno @ (libc::EPERM | libc::EACCES)) if !pidfd::signals_are_denied() => {
                Some(Err(io::Error::from_raw_os_error(errno)))
            }
            Err(libc::EINVAL) => Some(Err(io::Error::from_raw_os_error(libc::EINVAL))),
            Err(_) => None,
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn read<'a>(&self, file: &CStr, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        let file = open_at(self.as_fd(), file, libc::O_RDONLY)?;
        procfs::read_file(file, buffer)
    }

    /// Whether a symbolic link can be read.
    fn has_link(&self, link: &CStr) -> bool {
        let mut target = [0_u8; 64];
        let (fd, link) = (self.0.as_raw_fd(), link.as_ptr());
        // SAFETY: `target` has room for that many bytes.
        unsafe { libc::readlinkat(fd, link, target.as_mut_ptr().cast(), target.len()) >= 0 }
    }
}
