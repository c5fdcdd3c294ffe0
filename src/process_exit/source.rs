//! The source of a wait: events or polling.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::task::coop;

use crate::error::OpenError;
use crate::mechanism::{self, Mechanism};
use crate::poller::{Outcome, OutcomeQueue, Polled};
use crate::sys::{self, Probe};
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
    /// The reason why the process is polled.
    pub(super) reason: io::Error,
}

impl Source {
    #[cold]
    pub(super) fn polled(
        pid: Option<NonZeroU32>,
        probe: Probe,
        wait: &WaitState,
        reason: io::Error,
    ) -> Source {
        mechanism::trace(pid, Mechanism::Polling, Some(&reason));
        Source::Polled(Box::new(PolledSource {
            polled: Polled::new(probe, wait),
            queue: Arc::default(),
            reason,
        }))
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
    pub(crate) fn probe(&self) -> &Probe {
        self.polled.probe()
    }

    pub(crate) fn into_polled(self) -> Polled {
        self.polled
    }

    pub(super) fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        let runtime = Handle::current().id();
        loop {
            let was_watched = self.polled.is_watched_in(runtime);
            if !was_watched {
                // Query first: a process that has already exited needs no poller.
                let coop = ready!(coop::poll_proceed(cx));
                self.polled.unwatch();
                if self.polled.query()? {
                    coop.made_progress();
                    return Poll::Ready(Ok(Outcome::Resolved));
                }
                // Use a new queue: the poller of another runtime may still send to the old one.
                self.queue = Arc::default();
                self.polled.watch(&self.queue, 0);
            }
            let (_, outcome) = ready!(self.queue.poll_recv(cx));
            self.polled.unwatch();
            match outcome {
                Outcome::Failed(error) => return Poll::Ready(Err(error)),
                // The watched runtime has shut down. The current runtime may have the same id.
                Outcome::PollerClosed if was_watched => {}
                Outcome::PollerClosed => return Poll::Ready(Err(poller_closed())),
                outcome => return Poll::Ready(Ok(outcome)),
            }
        }
    }

    /// Removes the process from its poller, and drops the waker of the task that waited.
    pub(super) fn unwatch(&mut self) {
        self.polled.unwatch();
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

/// The error of a polled wait whose runtime cannot run a poller.
pub(crate) fn poller_closed() -> io::Error {
    io::Error::other("the runtime is shutting down, or has no thread to poll on")
}
