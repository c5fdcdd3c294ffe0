//! Looking at a process that the kernel gives no events for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::proc_info::{self, StartId};
use super::semantics::{PolledState, Presence, is_exhaustion, polled_state};
use super::{LazyAsyncFd, Process, Refused, State, Status, Target};
use super::{child_status, errno_of, kevent, key_unavailable, state_after_exit};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::sys::unix::syscalls::{is_child, pid_unverified, send_signal};

/// What is left to look at a process by.
pub(crate) enum Probe {
    /// A kqueue that the reactor would not take.
    Kqueue(OwnedFd, Target),
    /// It has exited, with this status. Whether it has been reaped is still of interest.
    Exited(libc::pid_t, Option<Status>),
    /// No kqueue.
    Pid(PidProbe),
}

/// What came of another try for an event source.
pub(crate) enum Reopened {
    Process(Process),
    /// Refused for want of something that there may be later.
    Exhausted,
    /// Not for this process, or not now.
    No,
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        match self {
            Probe::Kqueue(kqueue, target) => target.state(kqueue.as_fd()),
            &Probe::Exited(pid, status) => Ok(state_after_exit(pid, status)),
            Probe::Pid(probe) => Ok(probe.state()),
        }
    }

    /// Whether its pid is free for another process.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Probe::Kqueue(kqueue, target) => target.signal(kqueue.as_fd(), signal),
            Probe::Exited(..) => Err(io::ErrorKind::NotFound.into()),
            Probe::Pid(probe) => probe.signal(signal),
        }
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match self {
            Probe::Kqueue(kqueue, target) => target.identity_key(kqueue.as_fd()),
            Probe::Exited(..) => Err(io::ErrorKind::NotFound.into()),
            Probe::Pid(probe) => probe.identity_key(),
        }
    }

    /// Tries again for an event source, if what was refused may be granted by now.
    pub(crate) fn reopen(&self) -> Reopened {
        match self {
            Probe::Pid(probe) if probe.may_reopen => probe.reopen(),
            _ => Reopened::No,
        }
    }
}

/// A process known by its pid, and by what the system told of it when it was opened.
pub(crate) struct PidProbe {
    pid: libc::pid_t,
    may_reopen: bool,
    start_id: Option<StartId>,
}

impl PidProbe {
    /// For want of a kqueue, for this reason.
    pub(super) fn open(pid: libc::pid_t, reason: io::Error) -> Result<Refused, OpenError> {
        // One look, so that the start_id is that of the process that is there.
        let (presence, start_id) = proc_info::read(pid);
        if presence == Presence::Gone {
            return Err(OpenError::NoSuchProcess);
        }
        let may_reopen = is_exhaustion(errno_of(&reason));
        let probe = PidProbe {
            pid,
            may_reopen,
            start_id,
        };
        Ok((Probe::Pid(probe), reason))
    }

    /// For a process that has not told of its exit, when it is not listened to any more.
    pub(super) fn of_running(pid: libc::pid_t) -> PidProbe {
        let (_, start_id) = proc_info::read(pid);
        PidProbe {
            pid,
            may_reopen: false,
            start_id,
        }
    }

    fn state(&self) -> State {
        // In this order: a pid that has gone to another process does not come back, so what
        // `waitid` told is the process's own if the pid still is.
        let child = child_status(libc::P_PID, self.pid as libc::id_t);
        let (presence, start_id) = proc_info::read(self.pid);
        match polled_state(presence, self.is(start_id), child.is_some()) {
            PolledState::Running => State::Running,
            PolledState::Exited { certain } => State::Exited {
                status: child.filter(|_| certain),
                reaped: false,
            },
            PolledState::Reaped => State::Exited {
                status: None,
                reaped: true,
            },
        }
    }

    /// As [`Target::signal`].
    fn signal(&self, signal: i32) -> io::Result<()> {
        let (_, start_id) = proc_info::read(self.pid);
        match self.state() {
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
            State::Running if self.is(start_id) == Some(true) || is_child(self.pid) => {
                send_signal(self.pid, signal)
            }
            State::Running => Err(pid_unverified()),
        }
    }

    fn identity_key(&self) -> io::Result<IdentityKey> {
        let key = proc_info::identity_key(self.pid);
        // In this order: the pid was its own if it still is.
        match self.state() {
            State::Running => key.ok_or_else(key_unavailable),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether this is the start_id that it had at the opening, where both are event.
    fn is(&self, start_id: Option<StartId>) -> Option<bool> {
        Some(self.start_id?.is(start_id?))
    }

    fn reopen(&self) -> Reopened {
        let kqueue = match kevent::create() {
            Ok(kqueue) => kqueue,
            Err(error) if is_exhaustion(errno_of(&error)) => return Reopened::Exhausted,
            Err(_) => return Reopened::No,
        };
        match kevent::register(kqueue.as_fd(), self.pid) {
            Ok(()) => {}
            Err(error) if is_exhaustion(errno_of(&error)) => return Reopened::Exhausted,
            // If it has exited, the next look will tell.
            Err(_) => return Reopened::No,
        }
        let (_, start_id) = proc_info::read(self.pid);
        let process = Process {
            kqueue: LazyAsyncFd::new(kqueue),
            target: Target::new(self.pid),
        };
        // The one that has been registered still had the pid at the look, as it has not exited.
        match (self.is(start_id), process.state()) {
            (Some(true), Ok(State::Running)) => Reopened::Process(process),
            _ => Reopened::No,
        }
    }
}
