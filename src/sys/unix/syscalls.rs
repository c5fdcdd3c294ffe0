//! The system calls that all Unix systems have.
//!
//! # Safety
//!
//! Each block is one system call. The calls take integers, and pointers to locals of the type that the
//! call expects.

use std::io;
use std::mem;
use std::time::Duration;

use super::wait_status::Status;

/// Whether a process with this pid exists, or on Linux a thread. Zombies exist.
///
/// `pid` must be positive: other numbers mean groups.
#[allow(dead_code, reason = "some systems have better means")]
pub(crate) fn exists(pid: libc::pid_t) -> bool {
    match signal_0(pid) {
        Ok(()) => true,
        Err(libc::ESRCH) => false,
        // The process exists and we may not signal it, or a sandbox denies `kill`: make another call.
        Err(_) => {
            // SAFETY: takes an integer.
            let group = unsafe { libc::getpgid(pid) };
            group >= 0 || errno() != libc::ESRCH
        }
    }
}

/// Checks whether a process can be signalled. The error is the errno. `pid` must be positive.
pub(crate) fn signal_0(pid: libc::pid_t) -> Result<(), i32> {
    kill(pid, 0)
}

/// Sends a signal to the process that has the pid now. `pid` must be positive.
#[cfg_attr(tokio_process_exit_fake_kqueue, allow(dead_code))]
pub(crate) fn send_signal(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    kill(pid, signal).map_err(|errno| match errno {
        libc::ESRCH => io::ErrorKind::NotFound.into(),
        errno => io::Error::from_raw_os_error(errno),
    })
}

fn kill(pid: libc::pid_t, signal: i32) -> Result<(), i32> {
    // SAFETY: takes integers.
    let result = unsafe { libc::kill(pid, signal) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

/// Returns the exit status of our own child, or of a process that we trace, without reaping it.
///
/// `None` for any other process, and for a process that is not waitable yet: the process is running, or
/// its tracer must wait first.
#[allow(dead_code, reason = "used on other systems than Linux")]
pub(crate) fn child_status(kind: libc::idtype_t, id: libc::id_t) -> Option<Status> {
    try_child_status(kind, id).ok().flatten()
}

/// Returns the same as [`child_status`]. The error is the errno: ECHILD for a process that is neither our
/// child nor traced by us.
pub(crate) fn try_child_status(
    kind: libc::idtype_t,
    id: libc::id_t,
) -> Result<Option<Status>, i32> {
    waitid(kind, id).map(status_in)
}

/// Returns the exit status in the siginfo of a `waitid` for exits.
fn status_in(info: libc::siginfo_t) -> Option<Status> {
    // If the pid is 0, the child is not waitable, and `waitid` has written nothing.
    // SAFETY: the siginfo is a child's, or the zeroes that `waitid` was given.
    if unsafe { info.si_pid() } == 0 {
        return None;
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Status::from_siginfo(info.si_code, status)
}

/// The reason why a process is not signalled by its pid.
pub(crate) fn pid_unverified() -> io::Error {
    let reason = "cannot verify that the process still has its pid";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

/// Whether the process with this pid is our own child, running or not.
#[allow(dead_code, reason = "some systems have better means")]
pub(crate) fn is_child(pid: libc::pid_t) -> bool {
    waitid(libc::P_PID, pid as libc::id_t).is_ok()
}

/// On Linux, includes children whose exit signal is not SIGCHLD.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ALL_CHILDREN: libc::c_int = libc::__WALL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ALL_CHILDREN: libc::c_int = 0;

/// Calls [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html) without blocking (`WNOHANG`)
/// or reaping (`WNOWAIT`). The error is the errno.
pub(crate) fn waitid(kind: libc::idtype_t, id: libc::id_t) -> Result<libc::siginfo_t, i32> {
    waitid_for_exit(kind, id, libc::WNOWAIT)
}

/// Reaps our own child, without blocking. Returns its exit status, or `None` if it is not waitable yet.
///
/// # Errors
///
/// `NotFound` if the process is not our child, or has been reaped.
#[allow(dead_code, reason = "without events, the pid may be another child's")]
pub(crate) fn reap(kind: libc::idtype_t, id: libc::id_t) -> io::Result<Option<Status>> {
    match waitid_for_exit(kind, id, 0) {
        Ok(info) => Ok(status_in(info)),
        Err(libc::ECHILD) => Err(io::ErrorKind::NotFound.into()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn waitid_for_exit(
    kind: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
) -> Result<libc::siginfo_t, i32> {
    let options = options | libc::WEXITED | libc::WNOHANG | ALL_CHILDREN;
    // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // WNOHANG makes EINTR impossible.
    // SAFETY: `info` is writable and of the type that the call expects.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, options) };
    if result < 0 { Err(errno()) } else { Ok(info) }
}

/// Returns the kernel's release, as `uname -r` prints it.
#[allow(dead_code, reason = "not every system differs between releases")]
pub(crate) fn kernel_release() -> String {
    // SAFETY: a `utsname` is arrays of characters, for which all zeroes is a valid value.
    let mut name: libc::utsname = unsafe { mem::zeroed() };
    // SAFETY: `name` is writable.
    unsafe { libc::uname(&raw mut name) };
    let release = name.release.iter().take_while(|&&byte| byte != 0);
    // C's characters are signed on some systems.
    release
        .map(|&byte| char::from(byte.to_ne_bytes()[0]))
        .collect()
}

/// Returns the number of CPUs of this system.
#[allow(dead_code, reason = "not every system needs it")]
pub(crate) fn cpus() -> u32 {
    // SAFETY: takes an integer.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    u32::try_from(cpus).map_or(1, |cpus| cpus.max(1))
}

/// Returns the CPU time of the calling thread.
pub(crate) fn thread_cpu_time() -> Duration {
    #[cfg(not(any(target_os = "illumos", target_os = "solaris")))]
    use libc::CLOCK_THREAD_CPUTIME_ID;
    // From `sys/time_impl.h`. Old versions of libc do not have the constant.
    #[cfg(any(target_os = "illumos", target_os = "solaris"))]
    const CLOCK_THREAD_CPUTIME_ID: libc::clockid_t = 2;
    clock(CLOCK_THREAD_CPUTIME_ID)
}

/// Returns the time of a clock that exists.
pub(crate) fn clock(clock: libc::clockid_t) -> Duration {
    // SAFETY: a `timespec` is all integers, for which all zeroes is a valid value.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // Every caller's clock exists on its system, so the call does not fail.
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the errno of the system call that has just failed.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
