//! Many processes behind one registration with the reactor: one kqueue tells of all of them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use super::probe::PidProbe;
use super::{
    EventError, LazyAsyncFd, Probe, Process, Refused, State, Status, has_exited, kevent,
    pid_in_range, register, send_signal, state_after_exit,
};
use crate::error::OpenError;

/// An event source for any number of processes.
#[derive(Default)]
pub(crate) struct Selector {
    /// Made for the first process.
    kqueue: Option<LazyAsyncFd>,
    /// The keys of the members that have not told of their exit. (The kernel could keep them, but
    /// `udata` is not wide enough for a key everywhere.)
    keys: HashMap<libc::pid_t, u64>,
}

/// A process in a [`Selector`].
pub(crate) struct Registration {
    pid: libc::pid_t,
    /// What its event has event.
    exit: OnceLock<Option<Status>>,
}

/// The member that was added with this key has exited.
pub(crate) struct Event {
    pub(crate) key: u64,
    status: Option<Status>,
}

impl Selector {
    /// Whether its events are the only way to know that a member has exited. Then an earlier member
    /// must have told before one with its pid comes in.
    pub(crate) const TELLS_ONCE: bool = true;

    /// Whether an exit may have happened that `try_events` does not tell of yet.
    pub(crate) const TELLS_LATE: bool = false;

    /// Opens a process, and adds it, which takes no descriptor. Its one event will have this key.
    /// The probe is for the case that the system refuses.
    pub(crate) fn open(
        &mut self,
        pid: u32,
        key: u64,
    ) -> Result<Result<Registration, Refused>, OpenError> {
        let pid = pid_in_range(pid)?;
        let refused = |error| PidProbe::open(pid, error).map(Err);
        if self.keys.contains_key(&pid) {
            // The filter that is there would be changed, and not another one made.
            return refused(io::ErrorKind::AlreadyExists.into());
        }
        let kqueue = match self.kqueue() {
            Ok(kqueue) => kqueue,
            Err(error) => return refused(error),
        };
        Ok(match register(kqueue, pid)? {
            None => Ok(self.registration(pid, key)),
            Some(refused) => Err(refused),
        })
    }

    /// Adds a process, as `open` does.
    pub(crate) fn register(&mut self, process: Process, key: u64) -> Result<Registration, Refused> {
        let pid = process.target.pid;
        let is_running = |process: &Process| matches!(process.state(), Ok(State::Running));
        // One that has exited may have left its pid to another registration, whose filter it would take.
        if self.keys.contains_key(&pid) || !is_running(&process) {
            return Err((process.into_probe(), io::ErrorKind::AlreadyExists.into()));
        }
        let Some(kqueue) = &self.kqueue else {
            // Its own will do, with the filter that is in it.
            self.kqueue = Some(LazyAsyncFd::new(process.kqueue.into_inner()));
            return Ok(self.registration(pid, key));
        };
        if let Err(reason) = kevent::register(kqueue.as_fd(), pid) {
            return Err((process.into_probe(), reason));
        }
        // As long as the process has not exited, the pid is its own.
        if !is_running(&process) {
            kevent::deregister(kqueue.as_fd(), pid);
            return Err((process.into_probe(), has_exited()));
        }
        Ok(self.registration(pid, key))
    }

    fn registration(&mut self, pid: libc::pid_t, key: u64) -> Registration {
        self.keys.insert(pid, key);
        Registration {
            pid,
            exit: OnceLock::new(),
        }
    }

    /// No member has more than one event.
    pub(crate) fn reregister(
        &self,
        _member: &mut Registration,
        _key: u64,
        _state: State,
    ) -> io::Result<()> {
        Ok(())
    }

    /// Takes out a member that has not told of its exit.
    pub(crate) fn deregister(&mut self, registration: Registration) {
        if let Some(kqueue) = &self.kqueue {
            if self.keys.remove(&registration.pid).is_some() {
                kevent::deregister(kqueue.as_fd(), registration.pid);
            }
        }
    }

    /// Waits for events, and appends some of them in the order in which they came.
    pub(crate) fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        let Some(kqueue) = &mut self.kqueue else {
            return Poll::Pending;
        };
        let keys = &mut self.keys;
        if !kqueue.is_registered() {
            // Those that have exited already need not wait for the reactor.
            read_events(kqueue.as_fd(), keys, events).map_err(EventError::Other)?;
            if !events.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            // The reactor tells of the next event only once all that were there have been read, so
            // it takes an empty look to be sure of that.
            ready!(kqueue.poll_readable(cx, |kqueue| {
                let count = read_events(kqueue, keys, events)?;
                Ok(((), count == 0))
            }))?;
            if !events.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Appends some of the events that there are, without waiting.
    pub(crate) fn try_events(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        match &self.kqueue {
            Some(kqueue) => read_events(kqueue.as_fd(), &mut self.keys, events).map(drop),
            None => Ok(()),
        }
    }

    /// Makes room for `more` members.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.keys.reserve(more);
    }

    pub(crate) fn grow_fd_table(&mut self, _size: usize) {}

    /// Its members take no descriptors, and nothing to let go.
    pub(crate) fn fds_are_scarce(&self) -> bool {
        true
    }

    fn kqueue(&mut self) -> io::Result<BorrowedFd<'_>> {
        if self.kqueue.is_none() {
            self.kqueue = Some(LazyAsyncFd::new(kevent::create()?));
        }
        self.kqueue
            .as_ref()
            .map(LazyAsyncFd::as_fd)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Event {
    /// What it tells, if it cannot be asked for again.
    pub(crate) fn told(&self) -> Option<State> {
        Some(State::Exited {
            status: self.status,
            reaped: false,
        })
    }
}

/// Appends the events that there are, up to a number. Returns how many.
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
    pub(crate) fn untold_event(&self, _key: u64) -> Option<Event> {
        None
    }

    pub(crate) fn state_after(&self, event: &Event) -> io::Result<State> {
        let status = *self.exit.get_or_init(|| event.status);
        Ok(State::Exited {
            status,
            reaped: false,
        })
    }

    /// As [`Target::signal`](super::Target::signal), once all events have been taken.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self.exit.get() {
            None => send_signal(self.pid, signal),
            Some(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    /// Whether its pid is free for another process, as far as its events have been taken.
    pub(crate) fn is_reaped(&self) -> bool {
        let state = |&status| state_after_exit(self.pid, status);
        matches!(
            self.exit.get().map(state),
            Some(State::Exited { reaped: true, .. })
        )
    }

    /// Whether `process` is this very process, given that it has the same pid, and was looked at
    /// before all events were taken.
    pub(crate) fn is(&self, process: &Process) -> bool {
        // No two have the pid at one time. But if one has been reaped, and the other is a zombie with
        // its pid, that looks the same. (That one has told and the other has not proves nothing:
        // FreeBSD tells at once of a process that is exiting, and a little later those that listen.)
        let both_run = self.exit.get().is_none() && process.target.exit.get().is_none();
        both_run || !self.is_reaped() && !process.is_reaped()
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        false
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self.exit.get() {
            Some(&status) => Probe::Exited(self.pid, status),
            None => Probe::Pid(PidProbe::of_running(self.pid)),
        }
    }
}
