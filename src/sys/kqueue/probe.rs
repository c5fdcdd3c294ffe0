//! Querying a process without an event source.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::proc_info::{self, StartId};
use super::semantics::{PolledState, Presence, is_exhaustion, polled_state};
use super::{
    LazyAsyncFd, Opened, Process, Registration, State, Status, child_status, errno_of, kevent,
    key_unavailable, send_signal, state_after_exit,
};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::sys::Reopened;
use crate::sys::unix::syscalls::{is_child, pid_unverified};

pub(crate) enum Probe {
    /// A kqueue that the reactor refused.
    Kqueue(OwnedFd, Registration),
    /// A process that has exited with this status. A wait for its reap may go on.
    Exited(libc::pid_t, Option<Status>),
    /// A process that the kernel refused to register.
    Pid(PidProbe),
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        match self {
            Probe::Kqueue(kqueue, registration) => registration.state(kqueue.as_fd()),
            &Probe::Exited(pid, status) => Ok(state_after_exit(pid, status)),
            Probe::Pid(probe) => Ok(probe.state()),
        }
    }

    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Probe::Kqueue(kqueue, registration) => {
                registration.read_exit(kqueue.as_fd())?;
                registration.signal(signal)
            }
            Probe::Exited(..) => Err(io::ErrorKind::NotFound.into()),
            Probe::Pid(probe) => probe.signal(signal),
        }
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match self {
            Probe::Kqueue(kqueue, registration) => registration.identity_key(kqueue.as_fd()),
            Probe::Exited(..) => Err(io::ErrorKind::NotFound.into()),
            Probe::Pid(probe) => probe.identity_key(),
        }
    }

    pub(crate) fn reopen(&self) -> Reopened {
        match self {
            Probe::Pid(probe) if probe.may_reopen => probe.reopen(),
            _ => Reopened::Unavailable,
        }
    }
}

/// A process without a filter: its pid, and what the process table showed when it was opened.
pub(crate) struct PidProbe {
    pid: libc::pid_t,
    /// Whether the kernel may grant a kqueue later.
    may_reopen: bool,
    start_id: Option<StartId>,
}

impl PidProbe {
    /// Opens a process that the kernel refused to register for this reason.
    pub(super) fn open<T>(pid: libc::pid_t, reason: io::Error) -> Result<Opened<T>, OpenError> {
        // Read both at once: they must be of the same process.
        let (presence, start_id) = proc_info::read(pid);
        if presence == Presence::Gone {
            return Err(OpenError::NoSuchProcess);
        }
        let may_reopen = is_exhaustion(errno_of(&reason));
        let probe = Probe::Pid(PidProbe {
            pid,
            may_reopen,
            start_id,
        });
        Ok(Opened::refused(probe, reason))
    }

    /// Opens a process that was running and is no longer registered.
    pub(super) fn of_running(pid: libc::pid_t) -> PidProbe {
        let (_, start_id) = proc_info::read(pid);
        PidProbe {
            pid,
            may_reopen: false,
            start_id,
        }
    }

    fn state(&self) -> State {
        let child_status = || child_status(libc::P_PID, self.pid as libc::id_t);
        // Read the id after `waitid`: the status is this process's if the process still has the pid.
        let mut child = child_status();
        let (mut presence, mut start_id) = proc_info::read(self.pid);
        if child.is_none() && presence == Presence::Zombie {
            // A child may have exited after `waitid`. Call it again, and read the id after it.
            child = child_status();
            (presence, start_id) = proc_info::read(self.pid);
        }
        match polled_state(presence, self.is_same(start_id), child.is_some()) {
            PolledState::Running => State::Running,
            PolledState::Zombie { certain } => State::Exited {
                status: child.filter(|_| certain),
                reaped: false,
            },
            PolledState::Reaped => State::Exited {
                status: None,
                reaped: true,
            },
        }
    }

    /// Sends a signal right after a check that the process has the pid, as [`Registration::signal`] does.
    fn signal(&self, signal: i32) -> io::Result<()> {
        let (_, start_id) = proc_info::read(self.pid);
        match self.state() {
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
            State::Running if self.is_same(start_id) == Some(true) || is_child(self.pid) => {
                send_signal(self.pid, signal)
            }
            State::Running => Err(pid_unverified()),
        }
    }

    fn identity_key(&self) -> io::Result<IdentityKey> {
        let key = proc_info::identity_key(self.pid);
        // Read before the query: the key is this process's if the process is still running.
        match self.state() {
            State::Running => key.ok_or_else(key_unavailable),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether this is the id of the opened process. `None` if one of the two ids is unknown.
    fn is_same(&self, start_id: Option<StartId>) -> Option<bool> {
        Some(self.start_id?.is_same(start_id?))
    }

    fn reopen(&self) -> Reopened {
        let kqueue = match kevent::create() {
            Ok(kqueue) => kqueue,
            Err(error) if is_exhaustion(errno_of(&error)) => return Reopened::Exhausted,
            Err(_) => return Reopened::Unavailable,
        };
        match kevent::register(kqueue.as_fd(), self.pid) {
            Ok(()) => {}
            Err(error) if is_exhaustion(errno_of(&error)) => return Reopened::Exhausted,
            // If the process has exited, the next query reports that.
            Err(_) => return Reopened::Unavailable,
        }
        let (_, start_id) = proc_info::read(self.pid);
        let process = Process {
            kqueue: LazyAsyncFd::new(kqueue),
            registration: Registration::new(self.pid),
        };
        // Query the registered process last: if it is running, the id was read from that process.
        match (self.is_same(start_id), process.state()) {
            (Some(true), Ok(State::Running)) => Reopened::WithEvents(process),
            _ => Reopened::Unavailable,
        }
    }
}
