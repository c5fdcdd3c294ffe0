//! Any other Unix: POSIX can only check whether a pid is in use, and wait for one's own children.
//!
//! This backend does not notice that a pid is recycled between two queries. Another parent's zombie
//! counts as running until it is reaped.

mod group;
mod no_events;

use std::io;

pub(crate) use self::group::GroupList;
pub(crate) use self::no_events::*;
pub(crate) use super::no_namespaces::{has_exited_elsewhere, origin};
pub(crate) use super::unix::child::open_child;
pub(crate) use super::unix::syscalls::thread_cpu_time;
use super::unix::syscalls::{child_status, exists, is_child, pid_unverified, send_signal};
pub(crate) use super::unix::wait_status::Status;
use super::{Opened, Reopened, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};

impl Process {
    pub(crate) fn open(pid: u32) -> Result<Opened<Process>, OpenError> {
        let pid = super::check_pid(pid)?;
        if !exists(pid) {
            return Err(OpenError::NoSuchProcess);
        }
        let reason = "this crate knows no event source for processes on this system";
        let reason = io::Error::new(io::ErrorKind::Unsupported, reason);
        Ok(Opened::refused(Probe { pid }, reason))
    }
}

pub(crate) const KEY_ROUNDING: u64 = 0;

pub(super) fn boot_id() -> io::Result<Option<String>> {
    Ok(None)
}

pub(crate) struct Probe {
    pid: libc::pid_t,
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        // The status is never known: it could be that of a later child with the same pid.
        let exited = |reaped| State::Exited {
            status: None,
            reaped,
        };
        Ok(
            if child_status(libc::P_PID, self.pid as libc::id_t).is_some() {
                exited(false)
            } else if exists(self.pid) {
                State::Running
            } else {
                exited(true)
            },
        )
    }

    pub(crate) fn state_after(&self, _event: &Event) -> io::Result<State> {
        self.state()
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self.state()? {
            State::Running if is_child(self.pid) => send_signal(self.pid, signal),
            State::Running => Err(pid_unverified()),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Always an error: the pid may be a later child's.
    pub(crate) fn reap(&self) -> io::Result<Option<Status>> {
        match self.state()? {
            State::Exited { reaped: true, .. } => Err(io::ErrorKind::NotFound.into()),
            _ if !is_child(self.pid) => Err(io::ErrorKind::NotFound.into()),
            _ => Err(pid_unverified()),
        }
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        let reason = "this system reports nothing that distinguishes a process from a later one";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn reopen(&self) -> Reopened {
        Reopened::Unavailable
    }
}
