//! System calls, runtimes and statistics shared by the benchmarks.
//!
//! # Safety
//!
//! Each unsafe block is one system call, or one read of a system call's result. Every pointer
//! points to a local variable of the type that the call expects.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime starts")
}

pub(crate) fn multi_thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime starts")
}

/// Takes ownership of a descriptor that a system call has just returned. Panics if the call failed.
pub(crate) fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: a system call has just returned `fd`.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn pidfd_open(pid: u32) -> OwnedFd {
    // SAFETY: the call takes integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd)
}

/// Forks a child that sleeps until its parent exits, and makes its pidfd the standard input of this process.
///
/// Only makes system calls, so a forked process can call this before `exec`.
pub(crate) fn wait_for_child_on_stdin() -> io::Result<()> {
    // SAFETY: the child only makes system calls.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: the call takes integers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            // SAFETY: the call takes no arguments.
            unsafe { libc::pause() };
        }
    }
    let pidfd = pidfd_open(pid as u32);
    // SAFETY: the call takes integers.
    let result = unsafe { libc::dup2(pidfd.as_raw_fd(), libc::STDIN_FILENO) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An epoll instance.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> Epoll {
        // SAFETY: the call takes an integer.
        Epoll(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }))
    }

    pub(crate) fn add(&self, fd: RawFd, events: libc::c_int, key: u64) {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: key,
        };
        let epoll = self.0.as_raw_fd();
        // SAFETY: `event` is readable.
        let result = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    pub(crate) fn delete(&self, fd: RawFd) {
        let epoll = self.0.as_raw_fd();
        // SAFETY: `EPOLL_CTL_DEL` ignores the event.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits for at most as many events as `events` has room for, and returns them.
    pub(crate) fn wait<'a>(
        &self,
        events: &'a mut [libc::epoll_event],
        timeout: libc::c_int,
    ) -> &'a [libc::epoll_event] {
        let (epoll, buffer, room) = (self.0.as_raw_fd(), events.as_mut_ptr(), events.len());
        // SAFETY: `events` has room for `room` events.
        let count = unsafe { libc::epoll_wait(epoll, buffer, room as libc::c_int, timeout) };
        &events[..count.max(0) as usize]
    }
}

/// Returns the exit status of a child that has exited, without reaping the child.
pub(crate) fn child_status(pidfd: RawFd) -> i32 {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: a siginfo is integers and pointers, for which zeroes are valid.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is writable.
    unsafe { libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, &raw mut info, options) };
    // SAFETY: `waitid` has initialized `info`.
    unsafe { info.si_status() }
}

/// Returns the exit status of a process that has been reaped.
pub(crate) fn reaped_status(pidfd: RawFd) -> i32 {
    // SAFETY: a `pidfd_info` is integers, for which zeroes are valid.
    let mut info: libc::pidfd_info = unsafe { mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: `info` is writable, and the request contains its size.
    unsafe { libc::ioctl(pidfd, libc::PIDFD_GET_INFO as _, &raw mut info) };
    info.exit_code
}

pub(crate) fn kill(pid: u32) {
    // SAFETY: the call takes integers.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
}

/// Mounts a file system in a mount namespace of this thread and of its later children.
pub(crate) fn mount_privately(kind: &CStr, path: &[u8]) -> io::Result<()> {
    let path = CString::new(path)?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    let (source, root, none) = (c"none".as_ptr(), c"/".as_ptr(), std::ptr::null());
    let (path, kind) = (path.as_ptr(), kind.as_ptr());
    // SAFETY: takes an integer.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    // SAFETY: the strings end with a null byte, and there is no type and no data.
    if unshared < 0 || unsafe { libc::mount(source, root, none, flags, none.cast()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the strings end with a null byte, and there is no data.
    match unsafe { libc::mount(source, path, kind, 0, none.cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn unmount(path: &[u8]) {
    let path = CString::new(path).expect("no null byte");
    // SAFETY: the string ends with a null byte.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

/// Moves a child into a process group.
pub(crate) fn set_group(pid: u32, pgid: u32) {
    // SAFETY: the call takes integers.
    let result = unsafe { libc::setpgid(pid as libc::pid_t, pgid as libc::pid_t) };
    assert_eq!(result, 0);
}

pub(crate) fn reap(pid: u32) {
    // SAFETY: the status pointer may be null.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
}

/// Waits until a child has exited, without reaping the child.
pub(crate) fn await_zombie(pid: u32) {
    // SAFETY: a siginfo is integers and pointers, for which zeroes are valid.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is writable.
    unsafe {
        libc::waitid(
            libc::P_PID,
            pid,
            &raw mut info,
            libc::WEXITED | libc::WNOWAIT,
        )
    };
}

/// Raises the soft limit of descriptors to the hard limit, and returns the hard limit.
pub(crate) fn raise_descriptors() -> u64 {
    let mut limit = descriptor_limit();
    limit.rlim_cur = limit.rlim_max;
    set_descriptor_limit(&limit);
    limit.rlim_max
}

/// Sets the soft limit of descriptors, and returns the previous one.
pub(crate) fn limit_descriptors(soft: u64) -> u64 {
    let mut limit = descriptor_limit();
    let before = mem::replace(&mut limit.rlim_cur, soft);
    set_descriptor_limit(&limit);
    before
}

fn descriptor_limit() -> libc::rlimit {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit
}

fn set_descriptor_limit(limit: &libc::rlimit) {
    // SAFETY: `limit` is readable.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Gives this process the smallest possible descriptor table.
///
/// A table never shrinks: otherwise a contender would benefit from the growth that an earlier
/// contender has paid for.
pub(crate) fn renew_descriptor_table() {
    // The kernel copies only a shared table, so a second thread exists until the copy is made.
    let (end, ended) = mpsc::channel::<()>();
    let other = thread::spawn(move || ended.recv());
    // No descriptor is in this range, so the call closes none.
    let (first, last) = (i32::MAX, i32::MAX);
    let flags = libc::CLOSE_RANGE_UNSHARE;
    // SAFETY: the call takes integers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    drop(end);
    _ = other.join();
}

pub(crate) fn clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns nanoseconds of the monotonic clock, which all processes share.
pub(crate) fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC).as_nanos() as u64
}

pub(crate) fn cpu_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Returns the voluntary context switches of this process.
pub(crate) fn voluntary_switches() -> i64 {
    // SAFETY: a `rusage` is integers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage.ru_nvcsw as i64
}

/// Reaps a child, and returns its wait status and resource usage.
pub(crate) fn reap_with_usage(pid: u32) -> (i32, libc::rusage) {
    let mut status = 0;
    // SAFETY: a `rusage` is integers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: `status` and `usage` are writable.
    unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    (status, usage)
}

/// Returns the bytes of resident memory.
pub(crate) fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0usize) * 4096
}

pub(crate) fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) {
    // SAFETY: `bytes` is readable.
    let written = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(
        written,
        bytes.len() as isize,
        "{}",
        io::Error::last_os_error()
    );
}

/// Fills `bytes`, or returns false at the end of the stream.
pub(crate) fn read_all(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> bool {
    // SAFETY: `bytes` is writable.
    let read = unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
    read == bytes.len() as isize
}
