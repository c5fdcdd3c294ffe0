//! Many processes that call back into one queue.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{EventError, Handle, Opened, Probe, Process, Refused, RegisteredWait, State};
use crate::error::OpenError;
use crate::wake_queue::{WakeQueue, wake};

/// An event source for any number of processes.
#[derive(Default)]
pub(crate) struct Selector {
    fired: Arc<WakeQueue<u64>>,
}

/// A process in a [`Selector`]. It leaves when this is dropped.
pub(crate) struct Registration {
    // Declared first, dropped first.
    wait: Option<RegisteredWait>,
    handle: Arc<Handle>,
}

/// The member that was added with this key has exited.
pub(crate) struct Event {
    pub(crate) key: u64,
}

impl Selector {
    /// Whether its events are the only way to know that a member has exited. Then an earlier member
    /// must have told before one with its pid comes in.
    pub(crate) const TELLS_ONCE: bool = false;

    /// The thread pool takes its time to call back.
    pub(crate) const TELLS_LATE: bool = true;

    pub(crate) fn open(
        &mut self,
        pid: u32,
        key: u64,
    ) -> Result<Result<Registration, Refused>, OpenError> {
        Ok(match Process::open(pid)? {
            Opened::Process(process) => self.register(process, key),
            Opened::Refused(refused) => Err(refused),
        })
    }

    pub(crate) fn register(&mut self, process: Process, key: u64) -> Result<Registration, Refused> {
        match self.watch(&process.handle, key) {
            Ok(wait) => Ok(Registration {
                wait,
                handle: process.handle,
            }),
            Err(reason) => Err((process.into_probe(), reason)),
        }
    }

    fn watch(&self, handle: &Arc<Handle>, key: u64) -> io::Result<Option<RegisteredWait>> {
        if let Ok(State::Running) = handle.state() {
            return RegisteredWait::new(handle, &self.fired, key).map(Some);
        }
        // Those that have exited already need not wait for the thread pool.
        if let Some(waker) = self.fired.send(key) {
            wake(waker);
        }
        Ok(None)
    }

    pub(crate) fn reregister(
        &self,
        registration: &mut Registration,
        key: u64,
        _state: State,
    ) -> io::Result<()> {
        registration.wait = self.watch(&registration.handle, key)?;
        Ok(())
    }

    pub(crate) fn deregister(&mut self, registration: Registration) {
        drop(registration);
    }

    pub(crate) fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        self.read_events(events);
        if events.is_empty() {
            let Poll::Ready(key) = self.fired.poll_recv(cx) else {
                return Poll::Pending;
            };
            events.push_back(Event { key });
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn try_events(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        self.read_events(events);
        Ok(())
    }

    pub(crate) fn reserve(&mut self, _more: usize) {}

    pub(crate) fn grow_fd_table(&mut self, _size: usize) {}

    pub(crate) fn fds_are_scarce(&self) -> bool {
        false
    }

    /// Takes some of the events that there are.
    fn read_events(&self, events: &mut VecDeque<Event>) {
        const BATCH: usize = 128;
        let fired = std::iter::from_fn(|| self.fired.try_recv());
        events.extend(fired.take(BATCH).map(|key| Event { key }));
    }
}

impl Event {
    /// What it tells, if it cannot be asked for again.
    pub(crate) fn told(&self) -> Option<State> {
        None
    }
}

impl Registration {
    /// The event of a member that has exited, which may be still to come. It may come twice then.
    pub(crate) fn untold_event(&self, key: u64) -> Option<Event> {
        let state = self.handle.state();
        (!matches!(state, Ok(State::Running))).then_some(Event { key })
    }

    pub(crate) fn state_after(&self, _event: &Event) -> io::Result<State> {
        self.handle.state()
    }

    pub(crate) fn terminate(&self, exit_code: u32) -> io::Result<()> {
        self.handle.terminate(exit_code)
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    /// Whether its pid is free for another process: not as long as our handle is open.
    pub(crate) fn is_reaped(&self) -> bool {
        false
    }

    /// Whether `process` is this very process, given that it has the same pid: it is.
    pub(crate) fn is(&self, _process: &Process) -> bool {
        true
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        true
    }

    pub(crate) fn into_probe(self) -> Probe {
        Probe(self.handle)
    }
}
