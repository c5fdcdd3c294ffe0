//! The system calls that take a pidfd.
//!
//! # Safety
//!
//! Each block is one system call, or a read of what it has written. Descriptors are borrowed, so they
//! are open during the call. Every pointer is to a local of the type that the call expects.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use super::fd_limit::from_raw_sparing_last;
use super::files::file_system;
use super::{Status, child, procfs, syscalls};
use crate::sys::unix::syscalls::errno;

#[cfg(not(target_os = "android"))]
use libc as uapi;

/// The items that the libc crate lacks on Android: include/uapi/linux/pidfd.h.
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

/// The state of a process as `poll(2)` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// At least one thread is alive. The leader thread may have exited.
    Running,
    /// The process has exited and has not been reaped.
    Zombie,
    /// The process has been reaped. `poll` reports the reap since Linux 6.9, signal 0 before.
    Reaped,
}

/// Opens a pidfd. The error is the errno.
///
/// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), Linux 5.3.
pub(super) fn open(pid: libc::pid_t) -> Result<OwnedFd, i32> {
    let flags: libc::c_uint = 0;
    // SAFETY: takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    // SAFETY: the system call has just returned this descriptor.
    let fd = unsafe { from_raw_sparing_last(fd as RawFd) };
    fd.map_err(|error| error.raw_os_error().unwrap_or(libc::EMFILE))
}

/// Queries the process, without blocking.
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
            // Linux returns EINTR for a pending signal even though the call does not block.
            libc::EINTR => {}
            // The limit of descriptors is 0, so one `pollfd` is too many.
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
        // Linux before 6.9 does not report POLLHUP here, and `select` never does.
        Ok(Liveness::Reaped)
    } else {
        Ok(Liveness::Zombie)
    }
}

/// Queries the process, also correctly during `execve` by a thread that is not the leader.
///
/// A running process seems for an instant to have exited, if the query has found the leader before the thread
/// replaces it. A second query finds the thread.
pub(super) fn settled_liveness(pidfd: BorrowedFd<'_>) -> io::Result<Liveness> {
    match liveness(pidfd)? {
        Liveness::Zombie => liveness(pidfd),
        settled => Ok(settled),
    }
}

/// Blocks until `poll` reports one of the events or the reap (Linux 6.9), or until the timeout is over.
///
/// May return earlier, for example after a signal handler has run.
///
/// [ppoll(2)](https://man7.org/linux/man-pages/man2/poll.2.html)
pub(super) fn wait(
    pidfd: BorrowedFd<'_>,
    events: libc::c_short,
    timeout: Duration,
) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: a `timespec` is all integers, for which all zeroes is a valid value.
    let mut limit: libc::timespec = unsafe { mem::zeroed() };
    limit.tv_sec = timeout.as_secs() as _;
    limit.tv_nsec = timeout.subsec_nanos() as _;
    let (poll, limit, no_mask) = (&raw mut poll, &raw const limit, ptr::null());
    // SAFETY: one `pollfd` and a count of one, a readable timeout, and no signal mask.
    let result = unsafe { libc::ppoll(poll, 1, limit, no_mask) };
    match errno() {
        _ if result >= 0 => Ok(()),
        libc::EINTR => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Duplicates a pidfd, unless the duplicate takes the last descriptor.
pub(super) fn duplicate(pidfd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Spare the numbers of the standard streams, as std does.
    const MIN_NUMBER: RawFd = 3;
    // SAFETY: takes integers.
    let fd = unsafe { libc::fcntl(pidfd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, MIN_NUMBER) };
    // SAFETY: the system call has just returned this descriptor.
    unsafe { from_raw_sparing_last(fd) }
}

/// Polls by [select(2)](https://man7.org/linux/man-pages/man2/select.2.html), which works even if the
/// limit of descriptors is 0.
///
/// The kernel has no upper bound for descriptors here; only the C library's `fd_set` has one.
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

/// Sends a signal. Signal 0 only checks whether the process can be signalled. The error is the errno:
/// ESRCH if the process has been reaped.
///
/// [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
pub(super) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), i32> {
    let (info, flags) = (ptr::null::<libc::siginfo_t>(), 0);
    let fd = pidfd.as_raw_fd();
    // SAFETY: takes integers, and a null pointer for the default siginfo.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, flags) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Whether a sandbox denies [`send_signal`] for every descriptor.
pub(super) fn signals_are_denied() -> bool {
    let (no_fd, signal, flags) = (-1, 0, 0);
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: takes integers, and a null pointer for the default siginfo.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, no_fd, signal, info, flags) };
    result == 0 || errno() != libc::EBADF
}

/// Returns the exit status of our own child, as [`child::zombie`] does.
pub(super) fn child_status(pidfd: BorrowedFd<'_>) -> Result<Option<Status>, i32> {
    let id = pidfd.as_raw_fd() as libc::id_t;
    let zombie = child::zombie(libc::P_PIDFD, id, Some(pidfd), || {
        procfs::pid_of_pidfd(pidfd)
    })?;
    // Before Linux 5.17, files of the pid have been read.
    let has_pid = || matches!(liveness(pidfd), Ok(Liveness::Zombie));
    let status = zombie.and_then(|zombie| zombie.status);
    Ok(status.filter(|_| procfs::has_group_exit_code() || has_pid()))
}

/// Returns the exit status of any process that has been reaped.
///
/// `None` before Linux 6.15, and for a process outside our pid namespace. Call this only after
/// [`Liveness::Reaped`]: before, the kernel may return a transient error.
pub(super) fn reaped_status(pidfd: BorrowedFd<'_>) -> Option<Status> {
    let info = get_info(pidfd, uapi::PIDFD_INFO_EXIT)?;
    // Without the bit, `exit_code` is 0 and is not a status.
    (info.mask & u64::from(uapi::PIDFD_INFO_EXIT) != 0).then_some(Status(info.exit_code))
}

/// Returns the pid of the process in our pid namespace.
///
/// `None` before Linux 6.13, and for a process that has been reaped or is outside our pid namespace.
pub(super) fn pid(pidfd: BorrowedFd<'_>) -> Option<u32> {
    // Not the field `pid`: during `execve` by a thread that is not the leader, that is for an instant the
    // thread's id.
    get_info(pidfd, uapi::PIDFD_INFO_PID)
        .map(|info| info.tgid)
        .filter(|&pid| pid != 0)
}

/// Calls the ioctl `PIDFD_GET_INFO` (Linux 6.13): include/uapi/linux/pidfd.h.
///
/// Every error means that the kernel does not have the information: ENOTTY (no such ioctl), EINVAL
/// (before 6.13), ESRCH (reaped, before 6.15), EREMOTE (outside the pid namespace).
fn get_info(pidfd: BorrowedFd<'_>, want: libc::c_uint) -> Option<uapi::pidfd_info> {
    // SAFETY: a `pidfd_info` is all integers, for which all zeroes is a valid value.
    let mut info: uapi::pidfd_info = unsafe { mem::zeroed() };
    info.mask = want.into();
    let request = uapi::PIDFD_GET_INFO as _;
    // SAFETY: the request contains the size of `pidfd_info`, and the kernel writes no more.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, &raw mut info) };
    (result >= 0).then_some(info)
}

/// Whether pidfds are files of a file system of their own, pidfs (Linux 6.9).
///
/// Since that version, readiness also reports the reap. The magic number is `PID_FS_MAGIC` of
/// include/uapi/linux/magic.h.
pub(super) fn is_on_pidfs(pidfd: BorrowedFd<'_>) -> bool {
    const PID_FS_MAGIC: u32 = 0x5049_4446;
    // All pidfds of a kernel are alike, so the answer is valid for the life of this process, as long as
    // the process stays on its kernel. Do not remember an error: the call may have been denied to this
    // thread only.
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(&answer) = ANSWER.get() {
        return answer;
    }
    file_system(pidfd).is_ok_and(|magic| *ANSWER.get_or_init(|| magic == PID_FS_MAGIC))
}

/// Returns the inode, which no other process ever has. `None` before Linux 6.9, where all pidfds have
/// the same inode.
pub(super) fn inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    if !is_on_pidfs(pidfd) {
        return None;
    }
    // SAFETY: a `stat` is all integers, for which all zeroes is a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    let result = unsafe { libc::fstat(pidfd.as_raw_fd(), &raw mut stat) };
    (result == 0).then_some(stat.st_ino as _)
}

/// Returns an error unless the descriptor is the pidfd of a process.
pub(super) fn check_kind(fd: BorrowedFd<'_>) -> io::Result<()> {
    // `waitid` accepts only pidfds. `pidfd_send_signal` also accepts a directory `/proc/<pid>`.
    let is_pidfd = match syscalls::waitid(libc::P_PIDFD, fd.as_raw_fd() as libc::id_t) {
        Ok(_) | Err(libc::ECHILD) => true,
        Err(libc::EBADF) => false,
        // `waitid` has not checked: Linux 5.3 lacks P_PIDFD (EINVAL), or a sandbox denies the call.
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
    // F_GETFL returns PIDFD_THREAD (Linux 6.9) among the file's flags.
    let has_thread_flag = flags >= 0 && flags & uapi::PIDFD_THREAD as i32 != 0;
    // A descriptor that was reopened through `/proc` has lost the flag, so compare pid and tgid too. They
    // also differ for an instant of `execve` by a thread that is not the leader: check several times.
    const ROUNDS: u32 = 16;
    let differ = |info: uapi::pidfd_info| info.pid != info.tgid;
    let is_thread = || get_info(fd, uapi::PIDFD_INFO_PID).is_some_and(differ);
    if has_thread_flag || (0..ROUNDS).all(|_| is_thread()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "descriptor {} is the pidfd of a thread: open the process without \
                 PIDFD_THREAD",
                fd.as_raw_fd()
            ),
        ));
    }
    Ok(())
}
