//! The system calls that take a pid.
//!
//! # Safety
//!
//! Each block is one system call. They take integers, and pointers to locals of the type that the
//! call expects.

use std::time::Duration;

use super::procfs;
use crate::sys::unix::syscalls::{clock, errno, exists};

/// What a number means to the kernel.
pub(super) enum TaskKind {
    Nothing,
    /// A process: the thread that leads a thread group.
    Process,
    /// A thread that leads none, of this process where it could be told.
    Thread {
        process: Option<u32>,
    },
}

/// Finds out what the number `pid` means.
pub(super) fn task_kind(pid: libc::pid_t) -> TaskKind {
    // In this order: what leads nothing because it has just been reaped does not exist later on.
    let leads = leads(pid);
    if !exists(pid) {
        return TaskKind::Nothing;
    }
    if leads {
        return TaskKind::Process;
    }
    match procfs::process_of_thread(pid) {
        Some(process) if process == pid.unsigned_abs() => TaskKind::Process,
        process => TaskKind::Thread { process },
    }
}

/// Whether there is a task with this number that leads a thread group.
fn leads(pid: libc::pid_t) -> bool {
    // The thread `pid` of the process `pid`.
    // SAFETY: signal 0 sends nothing.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) };
    result == 0 || errno() != libc::ESRCH
}

/// The time since boot, suspended time included: what the start times of processes count in.
pub(super) fn time_since_boot() -> Duration {
    clock(libc::CLOCK_BOOTTIME)
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
