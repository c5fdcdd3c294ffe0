//! Any Unix: all that POSIX offers is to ask whether the pid is taken, and our own children.
//!
//! A pid that is recycled between two looks goes unnoticed here, and a zombie of another parent
//! counts as running until it is reaped.

mod no_events;

use std::io;

pub(crate) use self::no_events::*;
pub(crate) use super::unix::child::open_child;
pub(crate) use super::unix::syscalls::thread_cpu_time;
use super::unix::syscalls::{child_status, exists, is_child, pid_unverified, send_signal};
pub(crate) use super::unix::wait_status::Status;
use super::{Opened, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};

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
        Ok(Opened::Refused((Probe { pid }, reason)))
    }
}

/// Marks of one process differ by no more than this.
pub(crate) const KEY_ROUNDING: u64 = 0;

pub(crate) fn boot_id() -> io::Result<Option<String>> {
    Ok(None)
}

pub(crate) struct Probe {
    pid: libc::pid_t,
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        Ok(
            if child_status(libc::P_PID, self.pid as libc::id_t).is_some() {
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
            },
        )
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self.state()? {
            State::Running if is_child(self.pid) => send_signal(self.pid, signal),
            State::Running => Err(pid_unverified()),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        let reason = "nothing is known that tells a process from a later one on this system";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// Whether its pid is free for another process.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn reopen(&self) -> Reopened {
        Reopened::No
    }
}
