//! The system calls that take a pid.
//!
//! # Safety
//!
//! Each block is one system call. They take integers, and pointers to locals of the type that the
//! call expects.

use std::mem;
use std::time::Duration;

use super::{Status, errno, procfs};

/// What a number means to the kernel.
pub(super) enum Kind {
    Nothing,
    /// A process: the thread that leads a thread group.
    Process,
    /// A thread that leads none, of this process where it could be told.
    Thread {
        process: Option<u32>,
    },
}

/// Finds out what the number `pid` means.
pub(super) fn kind(pid: libc::pid_t) -> Kind {
    // In this order: what leads nothing because it has just been reaped does not exist later on.
    let leads = leads(pid);
    if !exists(pid) {
        return Kind::Nothing;
    }
    if leads {
        return Kind::Process;
    }
    match procfs::process_of_thread(pid) {
        Some(process) if process == pid.unsigned_abs() => Kind::Process,
        process => Kind::Thread { process },
    }
}

/// Whether there is a task with this number, zombies included.
///
/// `pid` must be positive: others mean groups.
pub(super) fn exists(pid: libc::pid_t) -> bool {
    // SAFETY: signal 0 sends nothing.
    let result = unsafe { libc::kill(pid, 0) };
    // EPERM: it is there, and not ours to signal.
    result == 0 || errno() != libc::ESRCH
}

/// Whether there is a task with this number that leads a thread group.
fn leads(pid: libc::pid_t) -> bool {
    // The thread `pid` of the process `pid`.
    // SAFETY: signal 0 sends nothing.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) };
    result == 0 || errno() != libc::ESRCH
}

/// The exit status of our own child (or of one that we trace), left in place for its owner.
///
/// `None`: not ours, or not waitable yet (it is running, or another tracer has first claim).
pub(super) fn child_status(kind: libc::idtype_t, id: libc::id_t) -> Option<Status> {
    let info = waitid(kind, id).ok()?;
    // Success with no child's pid: `waitid` has no news, and wrote nothing.
    // SAFETY: the siginfo is a child's, or the zeroes that `waitid` was given.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return None;
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Status::from_siginfo(info.si_code, status)
}

/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html) without blocking (`WNOHANG`)
/// or reaping (`WNOWAIT`). The error is the errno.
pub(super) fn waitid(kind: libc::idtype_t, id: libc::id_t) -> Result<libc::siginfo_t, i32> {
    // Without __WALL a child whose exit signal is not SIGCHLD would not count as ours.
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // Never interrupted, because of WNOHANG.
    // SAFETY: `info` is writable and of the type that the call expects.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, options) };
    if result < 0 { Err(errno()) } else { Ok(info) }
}

/// The kernel's release, as `uname -r` prints it.
pub(super) fn kernel_release() -> String {
    // SAFETY: a `utsname` is arrays of characters, for which all zeroes is a valid value.
    let mut name: libc::utsname = unsafe { mem::zeroed() };
    // SAFETY: `name` is writable.
    unsafe { libc::uname(&raw mut name) };
    let release = name.release.iter().take_while(|&&byte| byte != 0);
    // Characters of C, signed or not.
    release
        .map(|&byte| char::from(byte.to_ne_bytes()[0]))
        .collect()
}

/// The time since boot, suspended time included: what the start times of processes count in.
pub(super) fn time_since_boot() -> Duration {
    clock(libc::CLOCK_BOOTTIME)
}

/// The processor time that this thread has taken.
pub(crate) fn thread_cpu_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // Both clocks exist since Linux 2.6.39, so there is no error to handle.
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Whether the mere attempt to open a pidfd would kill this process.
///
/// On Android before API level 31 the seccomp filter of apps answers an unknown system call with
/// SIGSYS (golang#69065).
#[cfg(target_os = "android")]
pub(super) fn pidfd_open_kills() -> bool {
    use std::sync::LazyLock;
    static KILLS: LazyLock<bool> = LazyLock::new(|| {
        let mut value = [0_u8; libc::PROP_VALUE_MAX as usize];
        let name = c"ro.build.version.sdk";
        // SAFETY: a null-terminated name, and room for the longest value.
        unsafe { libc::__system_property_get(name.as_ptr(), value.as_mut_ptr().cast()) };
        let level = std::ffi::CStr::from_bytes_until_nul(&value)
            .ok()
            .and_then(|v| v.to_str().ok());
        level
            .and_then(|level| level.parse::<u32>().ok())
            .is_none_or(|level| level < 31)
    });
    *KILLS
}

#[cfg(not(target_os = "android"))]
pub(super) fn pidfd_open_kills() -> bool {
    false
}
