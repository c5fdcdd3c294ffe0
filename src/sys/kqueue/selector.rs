//! Many processes in one kqueue, which tokio's reactor registers as one descriptor.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::task::{Context, Poll};

use super::probe::{Exited, PidProbe};
use super::proc_info::{self, StartId};
use super::{
    EventError, LazyAsyncFd, Opened, Probe, Process, State, Status, attach, exit_event_unavailable,
    kevent, key_unavailable, send_signal,
};
use crate::error::OpenError;
use crate::identity::IdentityKey;

#[derive(Default)]
pub(crate) struct Selector {
    /// Created for the first process.
    kqueue: Option<LazyAsyncFd>,
    /// The keys of the processes whose event has not been read. On some systems, `udata` is too narrow
    /// for a key.
    keys: HashMap<libc::pid_t, u64>,
}

/// A process that is registered with a kqueue, and the content of its event.
///
/// On macOS, only the tracer of a traced process gets the event at the exit. Others get the event after
/// the tracer has reaped the process.
pub(crate) struct Registration {
    pub(super) pid: libc::pid_t,
    /// Unknown if the system does not show it.
    pub(super) start_id: Option<StartId>,
    /// Set once the event has been read, to the status if the event contains one.
    pub(super) exit: OnceLock<Option<Status>>,
}

pub(crate) struct Event {
    pub(crate) key: u64,
    status: Option<Status>,
}

impl Event {
    fn state(&self) -> State {
        State::Exited {
            status: self.status,
            reaped: false,
        }
    }
}

impl Selector {
    pub(crate) fn open(&mut self, pid: u32, key: u64) -> Result<Opened<Registration>, OpenError> {
        let pid = crate::sys::check_pid(pid)?;
        if self.keys.contains_key(&pid) {
            // The kernel would change the existing filter instead of adding another filter.
            return PidProbe::open(pid, io::ErrorKind::AlreadyExists.into());
        }
        let kqueue = match self.kqueue() {
            Ok(kqueue) => kqueue,
            Err(error) => return PidProbe::open(pid, error),
        };
        Ok(match attach(kqueue, pid)? {
            Opened::WithEvents(start_id) => {
                Opened::WithEvents(self.registration(pid, start_id, key))
            }
            Opened::Refused(refused) => Opened::Refused(refused),
        })
    }

    pub(crate) fn register(&mut self, process: Process, key: u64) -> Opened<Registration> {
        let Registration { pid, start_id, .. } = process.registration;
        let refused = |process: Process, reason| Opened::refused(process.into_probe(), reason);
        let is_running = |process: &Process| matches!(process.state(), Ok(State::Running));
        // The pid of an exited process may be another member's. Registering would change its filter.
        if self.keys.contains_key(&pid) || !is_running(&process) {
            return refused(process, io::ErrorKind::AlreadyExists.into());
        }
        let Some(kqueue) = &self.kqueue else {
            // Use the process's own kqueue, which already has the filter.
            self.kqueue = Some(LazyAsyncFd::new(process.kqueue.into_inner()));
            return Opened::WithEvents(self.registration(pid, start_id, key));
        };
        if let Err(reason) = kevent::register(kqueue.as_fd(), pid) {
            return refused(process, reason);
        }
        // Register before the check: the filter is this process's if the process is still running. The
        // event of an exit in between may be lost (see `attachment`), but the process's own filter has it.
        if !is_running(&process) {
            kevent::deregister(kqueue.as_fd(), pid);
            return refused(process, exit_event_unavailable());
        }
        Opened::WithEvents(self.registration(pid, start_id, key))
    }

    fn registration(
        &mut self,
        pid: libc::pid_t,
        start_id: Option<StartId>,
        key: u64,
    ) -> Registration {
        self.keys.insert(pid, key);
        if let Some(kqueue) = &mut self.kqueue {
            // The process may have exited.
            kqueue.request_read();
        }
        Registration::new(pid, start_id)
    }

    /// Does nothing: a process has only one event.
    pub(crate) fn reregister(
        &self,
        _registration: &mut Registration,
        _key: u64,
        _state: State,
    ) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn deregister(&mut self, registration: Registration) {
        if let Some(kqueue) = &self.kqueue {
            if self.keys.remove(&registration.pid).is_some() {
                kevent::deregister(kqueue.as_fd(), registration.pid);
            }
        }
    }

    pub(crate) fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        let Some(kqueue) = &mut self.kqueue else {
            return Poll::Pending;
        };
        let keys = &mut self.keys;
        // Clear the readiness only after an empty read: while events are left in the kqueue, the reactor
        // does not report a new event.
        kqueue.poll_read_event(cx, |kqueue| {
            let count = read_events(kqueue, keys, events)?;
            Ok((count > 0, count == 0))
        })
    }

    pub(crate) fn try_events<'a>(
        &mut self,
        _registered: impl Iterator<Item = (u64, &'a Registration)>,
        events: &mut VecDeque<Event>,
    ) -> io::Result<()> {
        match &self.kqueue {
            Some(kqueue) => read_events(kqueue.as_fd(), &mut self.keys, events).map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn reserve(&mut self, count: usize) {
        self.keys.reserve(count);
    }

    /// Does nothing: members take no descriptors.
    pub(crate) fn grow_fd_table(&mut self, _size: usize) {}

    fn kqueue(&mut self) -> io::Result<BorrowedFd<'_>> {
        let kqueue = match &mut self.kqueue {
            Some(kqueue) => kqueue,
            none => none.insert(LazyAsyncFd::new(kevent::create()?)),
        };
        Ok(LazyAsyncFd::as_fd(kqueue))
    }
}

/// Appends a batch of events. Returns the number of events that were read.
fn read_events(
    kqueue: BorrowedFd<'_>,
    keys: &mut HashMap<libc::pid_t, u64>,
    events: &mut VecDeque<Event>,
) -> io::Result<usize> {
    kevent::read(kqueue, |event| {
        if let Some(key) = keys.remove(&event.pid) {
            let status = event.status;
            events.push_back(Event { key, status });
        }
    })
}

impl Registration {
    pub(super) fn new(pid: libc::pid_t, start_id: Option<StartId>) -> Registration {
        Registration {
            pid,
            start_id,
            exit: OnceLock::new(),
        }
    }

    /// Reads the event from a kqueue that has no filter for another process.
    pub(super) fn read_exit(&self, kqueue: BorrowedFd<'_>) -> io::Result<()> {
        if self.exit.get().is_none() {
            kevent::read(kqueue, |event| {
                let _ = self.exit.set(event.status);
            })?;
        }
        Ok(())
    }

    /// Returns the state that the event has reported, without a query for the reap.
    pub(super) fn exit_state(&self) -> State {
        match self.exit.get() {
            None => State::Running,
            Some(&status) => State::Exited {
                status,
                reaped: false,
            },
        }
    }

    pub(super) fn state(&self, kqueue: BorrowedFd<'_>) -> io::Result<State> {
        self.read_exit(kqueue)?;
        Ok(match self.exited() {
            None => State::Running,
            Some(exited) => exited.state(),
        })
    }

    /// Returns the process and its status, if the event has been read.
    pub(super) fn exited(&self) -> Option<Exited> {
        let &status = self.exit.get()?;
        Some(Exited {
            pid: self.pid,
            was_zombie: false,
            start_id: self.start_id,
            status,
        })
    }

    pub(super) fn identity_key(&self, kqueue: BorrowedFd<'_>) -> io::Result<IdentityKey> {
        let key = proc_info::identity_key(self.pid);
        // Read before the check: the key is this process's if the process has not exited.
        self.read_exit(kqueue)?;
        match self.exit_state() {
            State::Running => key.ok_or_else(key_unavailable),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn state_after(&self, event: &Event) -> io::Result<State> {
        let _ = self.exit.set(event.status);
        Ok(event.state())
    }

    /// Sends a signal if no exit has been reported. The caller has just tried to read the event.
    ///
    /// A small race remains: the process would have to exit and be reaped, and its pid be recycled,
    /// before the next system call.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self.exit_state() {
            State::Running => send_signal(self.pid, signal),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn is_reaped(&self) -> bool {
        let state = self.exited().map(|exited| exited.state());
        matches!(state, Some(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn is_same(&self, process: &Process) -> bool {
        if let Some(same) = StartId::is_same(self.start_id, process.registration.start_id) {
            return same;
        }
        // Two processes cannot have the pid at the same time. But without ids, a reaped process cannot be
        // distinguished from a zombie with its pid. An event for only one of the two filters proves
        // nothing: FreeBSD reports the exit at once to a new filter, and a little later to earlier filters.
        let both_run = self.exit.get().is_none() && process.registration.exit.get().is_none();
        both_run || !self.is_reaped() && !process.is_reaped()
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        false
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self.exited() {
            Some(exited) => Probe::Exited(exited),
            None => Probe::Pid(PidProbe::of_running(self.pid, self.start_id)),
        }
    }

    pub(crate) fn close_all(registrations: Vec<Registration>) {
        drop(registrations);
    }
}

impl Probe {
    pub(crate) fn state_after(&self, event: &Event) -> io::Result<State> {
        Ok(event.state())
    }
}
