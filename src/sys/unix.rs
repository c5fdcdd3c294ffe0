//! Any Unix: all that POSIX offers is to ask whether the pid is taken, and our own children.
//!
//! A pid that is recycled between two looks goes unnoticed here, and a zombie of another parent
//! counts as running until it is reaped.
//!
//! # Safety
//!
//! Each block is one system call, that takes integers and pointers to locals of the type that it
//! expects.

use std::io;
use std::mem;
use std::time::Duration;

pub(crate) use super::no_events::*;
pub(crate) use super::wait_status::Status;
use super::{Opened, State};
use crate::error::OpenError;

impl Process {
    pub(crate) fn open(pid: u32) -> Result<Opened, OpenError> {
        let pid = match libc::pid_t::try_from(pid) {
            Ok(pid) if pid > 0 => pid,
            _ => return Err(OpenError::OutOfRange),
        };
        if !exists(pid) {
            return Err(OpenError::NoSuchProcess);
        }
        let reason = "no event source for processes is known for this system";
        let reason = io::Error::new(io::ErrorKind::Unsupported, reason);
        Ok(Opened::Refused(Probe { pid }, reason))
    }
}

pub(crate) struct Probe {
    pid: libc::pid_t,
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        Ok(if has_child_exited(self.pid) {
            // Whose status it is could not be told from that of a later child with this pid.
            State::Exited {
                status: None,
                reaped: false,
            }
        } else if exists(self.pid) {
            State::Running
        } else {
            State::Exited {
                status: None,
                reaped: true,
            }
        })
    }

    /// Whether its pid is free for another process.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn reopen(&self) -> Reopened {
        Reopened::No
    }
}

/// Whether there is a process with this pid, zombies included. `pid` must be positive: others mean
/// groups.
fn exists(pid: libc::pid_t) -> bool {
    // SAFETY: signal 0 sends nothing.
    let result = unsafe { libc::kill(pid, 0) };
    // EPERM: it is there, and not ours to signal.
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether it is our child and has exited. It is left for its owner to reap.
fn has_child_exited(pid: libc::pid_t) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is writable.
    let result = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, options) };
    // Without news it writes nothing, and no signal has the number 0.
    result == 0 && info.si_signo != 0
}

/// The processor time that this thread has taken.
pub(crate) fn thread_cpu_time() -> Duration {
    // SAFETY: a `timespec` is all integers, for which all zeroes is a valid value.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
