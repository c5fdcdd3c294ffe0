//! Many processes whose waits call back into one queue.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::{EventError, Opened, Process, ProcessHandle, RegisteredWait, Registration, State};
use crate::error::OpenError;
use crate::wake_queue::{WakeQueue, wake};

#[derive(Default)]
pub(crate) struct Selector {
    /// The keys of the processes that have exited.
    queue: Arc<WakeQueue<u64>>,
}

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
            Ok(wait) => Opened::WithEvents(Registration {
                wait,
                handle: process.handle,
            }),
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
        let coop = ready!(coop::poll_proceed(cx));
        self.read_events(events);
        if events.is_empty() {
            let key = ready!(self.queue.poll_recv(cx));
            events.push_back(Event { key });
        }
        coop.made_progress();
        Poll::Ready(Ok(()))
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

    pub(crate) fn should_close_eagerly(&self) -> bool {
        false
    }

    /// Appends a batch of events.
    fn read_events(&self, events: &mut VecDeque<Event>) {
        const BATCH_SIZE: usize = 128;
        let keys = iter::from_fn(|| self.queue.try_recv());
        events.extend(keys.take(BATCH_SIZE).map(|key| Event { key }));
    }
}
