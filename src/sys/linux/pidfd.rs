//! The system calls that take a pidfd.
//!
//! # Safety
//!
//! Each block is one system call (or one read of what it wrote). Descriptors are borrowed, so they
//! are open for the call; every pointer is to a local of the type that the call expects.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::{Status, procfs};
use crate::sys::unix::syscalls::{self, errno};

#[cfg(not(target_os = "android"))]
use libc as uapi;

/// What the libc crate does not have for Android: include/uapi/linux/pidfd.h.
#[cfg(target_os = "android")]
#[allow(non_camel_case_types)]
mod uapi {
    pub(super) const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;
    pub(super) const PIDFD_INFO_PID: libc::c_uint = 1 << 0;
    pub(super) const PIDFD_INFO_EXIT: libc::c_uint = 1 << 3;
    pub(super) const PIDFD_GET_INFO: libc::c_uint = 0xc040_ff0b;

    #[repr(C)]
    pub(super) struct pidfd_info {
        pub(super) mask: u64,
        cgroupid: u64,
        pub(super) pid: u32,
        pub(super) tgid: u32,
        rest: [u32; 9],
        pub(super) exit_code: i32,
    }
}

/// What `poll(2)` tells of the process behind a pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// A thread of it is alive. The leader may be dead.
    Running,
    /// It has exited. Nobody has reaped it, as far as this kernel tells.
    Zombie,
    /// It has exited and has been reaped. Told since Linux 6.9 by poll, before that by signal 0.
    Reaped,
}

/// Opens a pidfd, close-on-exec. The error is the errno.
///
/// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), Linux 5.3.
pub(super) fn open(pid: libc::pid_t) -> Result<OwnedFd, i32> {
    let flags: libc::c_uint = 0;
    // SAFETY: takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    // SAFETY: what the system call has just returned.
    let fd = unsafe { from_raw_sparing_last(fd as RawFd) };
    fd.map_err(|error| error.raw_os_error().unwrap_or(libc::EMFILE))
}

/// Takes over what a system call has returned: a new descriptor, or -1.
///
/// The last below the limit is given back (EMFILE): without one, `/proc` could not be read, and the
/// processes that have no pidfd could not be looked at.
///
/// # Safety
///
/// A descriptor must be new, so that nobody else owns it.
pub(super) unsafe fn from_raw_sparing_last(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EMFILE) {
            RAN_OUT.store(true, Ordering::Relaxed);
        }
        return Err(error);
    }
    // SAFETY: nobody else owns it, by the contract of this function.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if is_last_fd(fd.as_fd()) {
        RAN_OUT.store(true, Ordering::Relaxed);
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(fd)
}

/// Whether no descriptor is left but this new one.
fn is_last_fd(fd: BorrowedFd<'_>) -> bool {
    // The lowest number that was free is given out, so it is the last if it is the highest. It may
    // also be a hole in a table that is full, but asking costs two system calls, so that is only
    // done once descriptors have run out. The limit is read when it seems to be reached.
    let is_beyond = |limit| fd.as_raw_fd() + 1 >= limit;
    if is_beyond(LIMIT.load(Ordering::Relaxed)) && is_beyond(descriptor_limit()) {
        return true;
    }
    RAN_OUT.load(Ordering::Relaxed) && fd.try_clone_to_owned().is_err()
}

/// Whether more than half of the descriptors are in use. Takes any that is open.
pub(super) fn fds_are_scarce(any: BorrowedFd<'_>) -> bool {
    // The lowest number that is free is given out, so all below it are in use.
    any.try_clone_to_owned()
        .map_or(true, |lowest| lowest.as_raw_fd() > descriptor_limit() / 2)
}

/// The limit of descriptors when it was last read.
static LIMIT: AtomicI32 = AtomicI32::new(0);

/// Descriptors have run out, now or before.
static RAN_OUT: AtomicBool = AtomicBool::new(false);

/// How many descriptors this process may have now.
pub(super) fn descriptor_limit() -> i32 {
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

/// Looks whether the process has exited, without blocking.
pub(super) fn liveness(pidfd: BorrowedFd<'_>) -> io::Result<Liveness> {
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut selected = false;
    let readable = loop {
        // SAFETY: one `pollfd`, and a count of one.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        if ready >= 0 {
            break poll.revents & libc::POLLIN != 0;
        }
        match errno() {
            // Although it does not block, Linux looks for signals.
            libc::EINTR => {}
            // One is more than the limit of descriptors, if that has been set to 0 meanwhile.
            libc::EINVAL => {
                selected = true;
                break is_readable(pidfd)?;
            }
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    };
    if poll.revents & libc::POLLHUP != 0 {
        Ok(Liveness::Reaped)
    } else if !readable {
        Ok(Liveness::Running)
    } else if (selected || !is_on_pidfs(pidfd)) && send_signal(pidfd, 0) == Err(libc::ESRCH) {
        // Linux before 6.9 has no POLLHUP here, and `select` never has.
        Ok(Liveness::Reaped)
    } else {
        Ok(Liveness::Zombie)
    }
}

/// As `poll`, by [select(2)](https://man7.org/linux/man-pages/man2/select.2.html), which has no
/// limit of its own: only the C library's type for the set has one.
#[cold]
fn is_readable(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let fd = pidfd.as_raw_fd() as usize;
    let mut set = vec![0 as libc::c_ulong; (fd / BITS + 1).max(1024 / BITS)];
    let mut now = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    loop {
        set[fd / BITS] |= 1 << (fd % BITS);
        let (count, read, none) = (
            fd as libc::c_int + 1,
            set.as_mut_ptr().cast(),
            ptr::null_mut(),
        );
        // SAFETY: `set` has a bit for each of the `count` descriptors, in the words that the kernel
        // takes, and is as large as an `fd_set` at least.
        let ready = unsafe { libc::select(count, read, none, none, &raw mut now) };
        if ready >= 0 {
            return Ok(ready > 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends a signal; 0 only asks whether one could be sent. The error is the errno, ESRCH if the
/// process has been reaped.
///
/// [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
pub(super) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), i32> {
    let (info, flags) = (ptr::null::<libc::siginfo_t>(), 0);
    let fd = pidfd.as_raw_fd();
    // SAFETY: takes integers and a null pointer, which stands for the default siginfo.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, flags) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// As [`unix::syscalls::child_status`], of the process behind a pidfd.
pub(super) fn child_status(pidfd: BorrowedFd<'_>) -> Option<Status> {
    syscalls::child_status(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t)
}

/// The exit status of a process that has been reaped, whosever it was.
///
/// `None`: a kernel before 6.15, or a process of another pid namespace.
///
/// Only to be asked once [`Liveness::Reaped`] was seen: before that it may fail in passing.
pub(super) fn reaped_status(pidfd: BorrowedFd<'_>) -> Option<Status> {
    let info = get_info(pidfd, uapi::PIDFD_INFO_EXIT)?;
    // Without the bit `exit_code` is 0 and means nothing.
    (info.mask & u64::from(uapi::PIDFD_INFO_EXIT) != 0).then_some(Status(info.exit_code))
}

/// The pid of the process in our pid namespace. `None`: a kernel before 6.13, or it has no pid
/// here, as it has been reaped or lives outside.
pub(super) fn pid(pidfd: BorrowedFd<'_>) -> Option<u32> {
    get_info(pidfd, uapi::PIDFD_INFO_PID)
        .map(|info| info.pid)
        .filter(|&pid| pid != 0)
}

/// `PIDFD_GET_INFO`, Linux 6.13: include/uapi/linux/pidfd.h.
///
/// Errors all mean that it cannot be had: ENOTTY (no such ioctl), EINVAL (older than 6.13), ESRCH
/// (reaped, before 6.15), EREMOTE (outside the pid namespace).
fn get_info(pidfd: BorrowedFd<'_>, want: libc::c_uint) -> Option<uapi::pidfd_info> {
    // SAFETY: a `pidfd_info` is all integers, for which all zeroes is a valid value.
    let mut info: uapi::pidfd_info = unsafe { mem::zeroed() };
    info.mask = want.into();
    let request = uapi::PIDFD_GET_INFO as _;
    // SAFETY: the request carries the size of `pidfd_info`, and the kernel writes no more.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, &raw mut info) };
    (result >= 0).then_some(info)
}

/// Whether pidfds are files of their own file system, Linux 6.9. From that version on, their
/// readiness also tells of the reap: include/uapi/linux/magic.h, `PID_FS_MAGIC`.
pub(super) fn is_on_pidfs(pidfd: BorrowedFd<'_>) -> bool {
    const PID_FS_MAGIC: libc::c_long = 0x5049_4446;
    // All pidfds of a kernel are alike. What one thread is denied says nothing.
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(&answer) = ANSWER.get() {
        return answer;
    }
    // SAFETY: a `statfs` is all integers, for which all zeroes is a valid value.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    let result = unsafe { libc::fstatfs(pidfd.as_raw_fd(), &raw mut stat) };
    result == 0 && *ANSWER.get_or_init(|| stat.f_type as libc::c_long == PID_FS_MAGIC)
}

/// What no other process ever has. `None` before Linux 6.9, where all pidfds share one inode.
pub(super) fn unique_id(pidfd: BorrowedFd<'_>) -> Option<u64> {
    if !is_on_pidfs(pidfd) {
        return None;
    }
    // SAFETY: a `stat` is all integers, for which all zeroes is a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    let result = unsafe { libc::fstat(pidfd.as_raw_fd(), &raw mut stat) };
    (result == 0).then_some(stat.st_ino as _)
}

/// Refuses whatever is not the pidfd of a process.
pub(super) fn check_kind(fd: BorrowedFd<'_>) -> io::Result<()> {
    // `waitid` tells a pidfd by the file's own operations. `pidfd_send_signal` would not do: it
    // takes a /proc/<pid> directory too.
    let is_pidfd = match syscalls::waitid(libc::P_PIDFD, fd.as_raw_fd() as libc::id_t) {
        Ok(_) | Err(libc::ECHILD) => true,
        Err(libc::EBADF) => false,
        // It has not looked: Linux 5.3 does not know P_PIDFD (EINVAL), and sandboxes deny calls.
        Err(_) => procfs::is_pidfd(fd),
    };
    if !is_pidfd {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {} is not a pidfd", fd.as_raw_fd()),
        ));
    }
    // SAFETY: F_GETFL takes no third argument.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // PIDFD_THREAD (Linux 6.9) is kept among the file's flags.
    let is_marked = flags >= 0 && flags & uapi::PIDFD_THREAD as i32 != 0;
    // But opened again through /proc it has lost the mark. The numbers of a process differ too, for
    // an instant, while a thread replaces the leading one (`execve`).
    const ROUNDS: u32 = 16;
    let follows = |info: uapi::pidfd_info| info.pid != info.tgid;
    let is_thread = || get_info(fd, uapi::PIDFD_INFO_PID).is_some_and(follows);
    if is_marked || (0..ROUNDS).all(|_| is_thread()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "descriptor {} is the pidfd of a thread: open one of the process, without \
                 PIDFD_THREAD",
                fd.as_raw_fd()
            ),
        ));
    }
    Ok(())
}
