//! The system calls that take a pid.
//!
//! # Safety
//!
//! Each block is one system call. The calls take integers, and pointers to locals of the type that the
//! call expects.

use std::time::Duration;

use super::procfs;
use super::syscalls::{clock, errno, exists};

/// The kind of task that has an id.
pub(super) enum TaskKind {
    Nothing,
    /// A process: the leader thread of a thread group.
    Process,
    /// Another thread. `process` is its process, if `/proc` shows that.
    Thread {
        process: Option<u32>,
    },
}

pub(super) fn task_kind(pid: libc::pid_t) -> TaskKind {
    // Check this before the existence: otherwise a process that is reaped in between would count as a
    // thread.
    let leads_thread_group = leads_thread_group(pid);
    if !exists(pid) {
        return TaskKind::Nothing;
    }
    if leads_thread_group {
        return TaskKind::Process;
    }
    match procfs::process_of_thread(pid) {
        Some(process) if process == pid.unsigned_abs() => TaskKind::Process,
        process => TaskKind::Thread { process },
    }
}

/// Whether the number is the id of the leader thread of a thread group.
fn leads_thread_group(pid: libc::pid_t) -> bool {
    // Signal the thread `pid` of the process `pid`.
    // SAFETY: takes integers. Signal 0 sends nothing.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) };
    result == 0 || errno() != libc::ESRCH
}

/// Returns the time since boot, including suspended time, as the start times of processes do.
pub(super) fn time_since_boot() -> Duration {
    clock(libc::CLOCK_BOOTTIME)
}

/// Whether an attempt to open a pidfd would kill this process.
///
/// On Android before API level 31, the seccomp filter of apps answers an unknown system call with
/// SIGSYS (golang#69065).
#[cfg(target_os = "android")]
pub(super) fn pidfd_open_kills() -> bool {
    use std::sync::LazyLock;
    // Valid for the life of this process: the level changes only with the installed system.
    static KILLS: LazyLock<bool> = LazyLock::new(|| {
        let mut value = [0_u8; libc::PROP_VALUE_MAX as usize];
        let name = c"ro.build.version.sdk";
        // SAFETY: `name` ends with a null byte, and `value` has room for the longest value.
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
