//! Querying a process without an event source.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::kernel::{is_child, system};
use super::proc_info::{self, Entry, StartId};
use super::semantics::{
    PolledState, Presence, hidden_or_zombie, is_exhaustion, is_reaped_after_exit, polled_state,
};
use super::{
    LazyAsyncFd, Opened, Process, Registration, State, Status, attach, child_status, errno_of,
    kevent, key_unavailable, reap, send_signal,
};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::sys::Reopened;
use crate::sys::unix::syscalls::pid_unverified;

pub(crate) enum Probe {
    /// A kqueue that the reactor refused.
    Kqueue(OwnedFd, Registration),
    /// A process that has exited. A wait for its reap may go on.
    Exited(Exited),
    /// A process that the kernel refused to register.
    Pid(PidProbe),
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        match self {
            Probe::Kqueue(kqueue, registration) => registration.state(kqueue.as_fd()),
            Probe::Exited(exited) => Ok(exited.state()),
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

    pub(crate) fn reap(&self) -> io::Result<Option<Status>> {
        match self {
            Probe::Kqueue(_, Registration { pid, .. }) | Probe::Exited(Exited { pid, .. }) => {
                reap(*pid, self.state()?)
            }
            Probe::Pid(probe) => probe.reap(),
        }
    }

    pub(crate) fn reopen(&self) -> Reopened {
        match self {
            Probe::Pid(probe) if probe.may_reopen => probe.reopen(),
            _ => Reopened::Unavailable,
        }
    }
}

/// A process that has exited, and its status if that is known.
pub(crate) struct Exited {
    pub(super) pid: libc::pid_t,
    /// Whether the process has been seen as a zombie. Otherwise it may still be exiting.
    pub(super) was_zombie: bool,
    /// Unknown if the system does not show it.
    pub(super) start_id: Option<StartId>,
    pub(super) status: Option<Status>,
}

impl Exited {
    /// Opens our own child, if a child with the pid has exited.
    pub(super) fn child(pid: libc::pid_t) -> Option<Exited> {
        // Each further round needs a child that is reaped at this very moment.
        const MAX_ROUNDS: u32 = 4;
        for _ in 0..MAX_ROUNDS {
            let (_, before) = proc_info::read(pid);
            // This one call shows that the process is our child and has exited, and returns its status.
            let status = child_status(libc::P_PID, pid as libc::id_t)?;
            // Read the id before and after: it is the child's if it has not changed.
            let (entry, after) = proc_info::read(pid);
            let start_id = match (StartId::is_same(before, after), entry.presence) {
                (Some(true), _) => after,
                (None, Presence::Zombie | Presence::Hidden) if after.is_none() => None,
                _ => continue,
            };
            return Some(Exited {
                pid,
                was_zombie: true,
                start_id,
                status: Some(status),
            });
        }
        None
    }

    /// Returns the state of the process, which may have been reaped since.
    pub(super) fn state(&self) -> State {
        let (entry, start_id) = proc_info::read(self.pid);
        let same = StartId::is_same(self.start_id, start_id);
        State::Exited {
            status: self.status,
            reaped: is_reaped_after_exit(entry.presence, same, self.was_zombie),
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
        let (entry, start_id) = proc_info::read(pid);
        PidProbe::open_entry(pid, entry, start_id, reason)
    }

    /// Opens the process of this entry, which has just been read.
    pub(super) fn open_entry<T>(
        pid: libc::pid_t,
        entry: Entry,
        start_id: Option<StartId>,
        reason: io::Error,
    ) -> Result<Opened<T>, OpenError> {
        let probe = match entry.presence {
            Presence::Gone => return Err(OpenError::NoSuchProcess),
            Presence::Zombie => Probe::Exited(match entry.status {
                // The status is in the same entry, so it is this zombie's even if the system shows no id.
                status @ Some(_) => Exited {
                    pid,
                    was_zombie: true,
                    start_id,
                    status,
                },
                None => Exited::child(pid).unwrap_or(Exited {
                    pid,
                    was_zombie: true,
                    start_id,
                    status: None,
                }),
            }),
            _ => Probe::Pid(PidProbe {
                pid,
                may_reopen: is_exhaustion(errno_of(&reason)),
                start_id,
            }),
        };
        Ok(Opened::refused(probe, reason))
    }

    /// Opens a process that was running and is no longer registered.
    pub(super) fn of_running(pid: libc::pid_t, start_id: Option<StartId>) -> PidProbe {
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
        let (mut entry, mut start_id) = proc_info::read(self.pid);
        if child.or(entry.status).is_none() && entry.presence == Presence::Zombie {
            // A child may have exited after `waitid`. Call it again, and read the id after it.
            child = child_status();
            (entry, start_id) = proc_info::read(self.pid);
        }
        if entry.presence == Presence::Hidden && self.start_id.is_some() {
            // The system has shown the process to us, so it shows the process unless it is a zombie.
            entry.presence = hidden_or_zombie(system().hides_zombies(), true);
        }
        match polled_state(entry.presence, self.is_same(start_id), child.is_some()) {
            PolledState::Running => State::Running,
            PolledState::Zombie { certain } => State::Exited {
                status: entry.status.or(child).filter(|_| certain),
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

    /// Reaps our own child, right after a check that the child has the pid.
    fn reap(&self) -> io::Result<Option<Status>> {
        let state = self.state();
        let (_, start_id) = proc_info::read(self.pid);
        match StartId::is_same(self.start_id, start_id) {
            _ if matches!(state, State::Exited { reaped: true, .. }) => {
                Err(io::ErrorKind::NotFound.into())
            }
            Some(true) => reap(self.pid, state),
            Some(false) => Err(io::ErrorKind::NotFound.into()),
            None => Err(pid_unverified()),
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
        StartId::is_same(self.start_id, start_id)
    }

    fn reopen(&self) -> Reopened {
        let kqueue = match kevent::create() {
            Ok(kqueue) => kqueue,
            Err(error) if is_exhaustion(errno_of(&error)) => return Reopened::Exhausted,
            Err(_) => return Reopened::Unavailable,
        };
        let start_id = match attach(kqueue.as_fd(), self.pid) {
            Ok(Opened::WithEvents(start_id)) => start_id,
            Ok(Opened::Refused(refused)) if is_exhaustion(errno_of(&refused.reason)) => {
                return Reopened::Exhausted;
            }
            // If the process has exited, the next query reports that.
            Ok(Opened::Refused(_)) | Err(_) => return Reopened::Unavailable,
        };
        let process = Process {
            kqueue: LazyAsyncFd::new(kqueue),
            registration: Registration::new(self.pid, start_id),
        };
        // Query the registered process last: if it is running, the id was read from that process.
        match (self.is_same(start_id), process.state()) {
            (Some(true), Ok(State::Running)) => Reopened::WithEvents(process),
            _ => Reopened::Unavailable,
        }
    }
}
