//! The source of a wait: events or polling.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::task::coop;

use crate::error::OpenError;
use crate::mechanism::{self, Mechanism};
use crate::poller::{Outcome, OutcomeQueue, Polled, TaskPacer};
use crate::sys::{self, Opened, Probe};
use crate::wait_state::WaitState;

/// The source from which a [`ProcessExit`] learns the state of its process.
pub(crate) enum Source {
    /// The process could not be opened.
    Failed(OpenError),
    /// The system reports the exit by an event.
    WithEvents(sys::Process),
    /// A poller queries the process.
    Polled(Box<PolledSource>),
}

/// A polled process, and the queue for the outcome of polling.
pub(crate) struct PolledSource {
    pub(super) polled: Polled,
    queue: Arc<OutcomeQueue>,
    /// Present while the waiting task queries the process, because the poller has no thread.
    pacer: Option<TaskPacer>,
    /// The reason why the process is polled.
    pub(super) reason: io::Error,
}

impl Source {
    pub(super) fn opened(
        pid: Option<NonZeroU32>,
        opened: Opened<sys::Process>,
        wait: &WaitState,
    ) -> Source {
        match opened {
            Opened::WithEvents(process) => {
                mechanism::trace(pid, sys::Process::MECHANISM, None);
                Source::WithEvents(process)
            }
            Opened::Refused(refused) => Source::polled(pid, refused.probe, wait, refused.reason),
        }
    }

    #[cold]
    pub(super) fn polled(
        pid: Option<NonZeroU32>,
        probe: Probe,
        wait: &WaitState,
        reason: io::Error,
    ) -> Source {
        let polled = Polled::new(probe, wait);
        Source::Polled(Box::new(PolledSource::new(pid, polled, reason)))
    }

    /// Returns a number that no other process ever has, if the system has such numbers.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        match self {
            Source::WithEvents(process) => process.unique_id(),
            Source::Polled(source) => source.probe().unique_id(),
            Source::Failed(_) => None,
        }
    }
}

impl PolledSource {
    fn new(pid: Option<NonZeroU32>, polled: Polled, reason: io::Error) -> PolledSource {
        mechanism::trace(pid, Mechanism::Polling, Some(&reason));
        PolledSource {
            polled,
            queue: Arc::default(),
            pacer: None,
            reason,
        }
    }

    /// Returns the source of another wait for the same process.
    pub(super) fn another(&self, pid: Option<NonZeroU32>, wait: &WaitState) -> PolledSource {
        let reason = match self.reason.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.reason.kind(), self.reason.to_string()),
        };
        let mut wait = *wait;
        wait.record_status(self.polled.status());
        PolledSource::new(pid, self.polled.another(&wait), reason)
    }

    pub(crate) fn probe(&self) -> &Probe {
        self.polled.probe()
    }

    pub(crate) fn into_polled(self) -> Polled {
        self.polled
    }

    pub(super) fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        while !self.polled.is_watched() {
            if let Some(pacer) = &mut self.pacer {
                ready!(pacer.poll_due(cx))?;
            }
            // Query first: a process that has already exited needs no poller.
            let coop = ready!(coop::poll_proceed(cx));
            let started = Instant::now();
            let outcome = match &mut self.pacer {
                Some(pacer) => pacer.query(&self.polled),
                None => self.polled.query_outcome(),
            };
            if let Some(outcome) = outcome {
                coop.made_progress();
                return Poll::Ready(Ok(outcome));
            }
            match self.polled.watch(&self.queue, 0) {
                Ok(()) => self.pacer = None,
                Err(_) => {
                    let pacer = self.pacer.get_or_insert_default();
                    pacer.schedule(started, 1, 1);
                }
            }
        }
        let (_, outcome) = ready!(self.queue.poll_recv(cx));
        self.polled.unwatch();
        Poll::Ready(Ok(outcome))
    }

    /// Removes the process from its poller, and drops the waker of the task that waited.
    pub(super) fn unwatch(&mut self) {
        self.polled.unwatch();
        self.pacer = None;
        self.queue = Arc::default();
    }

    /// Returns the outcome that the poller has sent, if any.
    pub(super) fn try_outcome(&mut self) -> Option<Outcome> {
        if !self.polled.is_watched() {
            return None;
        }
        let (_, outcome) = self.queue.try_recv()?;
        self.polled.unwatch();
        Some(outcome)
    }
}

/// The reason why a process is polled after its exit.
pub(crate) fn reap_events_unsupported() -> io::Error {
    let reason = "this system reports the exit of a process, but not when it is reaped";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}
