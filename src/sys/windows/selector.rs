//! Many processes whose waits call back into one queue.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::{EventError, Opened, Process, ProcessHandle, RegisteredWait, Registration, State};
use crate::error::OpenError;
use crate::wake_queue::{WakeQueue, wake};

#[derive(Default)]
pub(crate) struct Selector {
    /// The keys of the processes that have exited.
    queue: Arc<WakeQueue<u64>>,
    /// The processes that were registered after the last `poll_events`, which queries them.
    ///
    /// The handles are weak: a removed process is closed at once.
    unqueried: VecDeque<(u64, Weak<ProcessHandle>)>,
}

/// The largest number of events, or of queries, for one unit of tokio's coop budget.
const BATCH_SIZE: usize = 128;

pub(crate) struct Event {
    pub(crate) key: u64,
}

impl Selector {
    pub(crate) fn open(&mut self, pid: u32, key: u64) -> Result<Opened<Registration>, OpenError> {
        Ok(match Process::open(pid)? {
            Opened::WithEvents(process) => self.register(process, key),
            Opened::Refused(refused) => Opened::Refused(refused),
        })
    }

    pub(crate) fn register(&mut self, process: Process, key: u64) -> Opened<Registration> {
        match self.wait_for(&process.handle, key) {
            Ok(wait) => {
                if wait.is_some() {
                    self.query_later(key, &process.handle);
                }
                Opened::WithEvents(Registration {
                    wait,
                    handle: process.handle,
                })
            }
            Err(reason) => Opened::refused(process.into_probe(), reason),
        }
    }

    fn wait_for(
        &self,
        handle: &Arc<ProcessHandle>,
        key: u64,
    ) -> io::Result<Option<RegisteredWait>> {
        if let Ok(State::Running) = handle.state() {
            return RegisteredWait::new(handle, &self.queue, key).map(Some);
        }
        // Report a process that has already exited without the thread pool.
        if let Some(waker) = self.queue.send(key) {
            wake(waker);
        }
        Ok(None)
    }

    /// Makes the next `poll_events` query a process: the thread pool may call back some time after the
    /// exit.
    fn query_later(&mut self, key: u64, handle: &Arc<ProcessHandle>) {
        let len = self.unqueried.len();
        if len == self.unqueried.capacity() {
            // Bound the number of removed processes. Reserve as many entries as are left: otherwise the
            // next insertions would search all entries again.
            self.unqueried
                .retain(|(_, handle)| handle.strong_count() > 0);
            self.unqueried.reserve(self.unqueried.len());
        }
        self.unqueried.push_back((key, Arc::downgrade(handle)));
    }

    pub(crate) fn reregister(
        &self,
        registration: &mut Registration,
        key: u64,
        _state: State,
    ) -> io::Result<()> {
        registration.wait = self.wait_for(&registration.handle, key)?;
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
        loop {
            let coop = ready!(coop::poll_proceed(cx));
            self.read_events(events);
            if events.is_empty() && self.unqueried.is_empty() {
                let key = ready!(self.queue.poll_recv(cx));
                events.push_back(Event { key });
            } else if events.is_empty() {
                self.query_batch(events);
            }
            coop.made_progress();
            if !events.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Queries the processes too, because the thread pool may call back some time after the exit.
    pub(crate) fn try_events<'a>(
        &mut self,
        registered: impl Iterator<Item = (u64, &'a Registration)>,
        events: &mut VecDeque<Event>,
    ) -> io::Result<()> {
        self.read_events(events);
        if events.is_empty() {
            let exited =
                registered.filter(|(_, process)| process.state().ok() != Some(State::Running));
            events.extend(exited.map(|(key, _)| Event { key }));
        }
        Ok(())
    }

    pub(crate) fn reserve(&mut self, _count: usize) {}

    pub(crate) fn grow_fd_table(&mut self, _size: usize) {}

    /// Queries a batch of new processes, and appends an event for each process that has exited.
    fn query_batch(&mut self, events: &mut VecDeque<Event>) {
        let size = self.unqueried.len().min(BATCH_SIZE);
        let has_exited =
            |process: Arc<ProcessHandle>| !matches!(process.state(), Ok(State::Running));
        let exited = self
            .unqueried
            .drain(..size)
            .filter(|(_, process)| process.upgrade().is_some_and(has_exited));
        events.extend(exited.map(|(key, _)| Event { key }));
    }

    /// Appends a batch of events.
    fn read_events(&self, events: &mut VecDeque<Event>) {
        let keys = iter::from_fn(|| self.queue.try_recv());
        events.extend(keys.take(BATCH_SIZE).map(|key| Event { key }));
    }
}
