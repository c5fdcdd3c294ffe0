//! How a wait makes progress.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::FusedFuture;
use tokio::task::coop;

use super::{ProcessExit, Source, poller_closed, reap_events_unsupported};
use crate::error::{OpenError, wait_error};
use crate::exit::Exit;
use crate::mechanism;
use crate::poller::Outcome;
use crate::sys::{self, EventError, State};

impl Future for ProcessExit {
    type Output = io::Result<Exit>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.wait.terminated {
            // A loop that polls a resolved future must not starve other tasks.
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        loop {
            if let Some(exit) = this.exit() {
                this.wait.terminated = true;
                return Poll::Ready(Ok(exit));
            }
            let result = match &mut this.source {
                Source::Failed(error) => {
                    this.wait.terminated = true;
                    return Poll::Ready(Err(error.to_io_error(this.pid)));
                }
                Source::Registered(process) => match ready!(process.poll_event(cx)) {
                    Ok(state) => {
                        this.update(state);
                        Ok(())
                    }
                    Err(EventError::Refused(reason)) => {
                        this.fall_back(reason);
                        Ok(())
                    }
                    Err(EventError::Other(error)) => Err(error),
                },
                Source::Polled(source) => {
                    let outcome = ready!(source.poll_outcome(cx));
                    outcome.and_then(|outcome| this.process_outcome(outcome))
                }
            };
            if let Err(error) = result {
                return Poll::Ready(Err(wait_error(this.pid, &error)));
            }
        }
    }
}

/// Terminated once awaiting has returned the exit, or the error of opening the process.
impl FusedFuture for ProcessExit {
    fn is_terminated(&self) -> bool {
        self.wait.terminated
    }
}

impl ProcessExit {
    /// Records the state of a registered process.
    pub(super) fn update(&mut self, state: State) {
        let is_zombie = !self.wait.update(state) && state != State::Running;
        match &self.source {
            Source::Registered(process) if is_zombie && !process.has_reap_event() => {
                self.fall_back(reap_events_unsupported());
            }
            // A process whose wait is resolved stays registered until this is dropped: the task that
            // waits runs first.
            _ => {}
        }
    }

    /// Records the outcome of polling.
    pub(super) fn process_outcome(&mut self, outcome: Outcome) -> io::Result<()> {
        self.stop_waiting();
        match outcome {
            Outcome::Exited => self.wait.resolve(None),
            Outcome::EventsAvailable(process) => {
                mechanism::trace(self.pid, sys::Process::MECHANISM, None);
                self.source = Source::Registered(process);
            }
            Outcome::Failed(error) => return Err(error),
            Outcome::PollerClosed => return Err(poller_closed()),
        }
        Ok(())
    }

    /// Falls back to polling: the system refused events for this reason.
    #[cold]
    fn fall_back(&mut self, reason: io::Error) {
        // A placeholder while the process moves from one source to the next.
        let moving = Source::Failed(OpenError::NoSuchProcess);
        self.source = match mem::replace(&mut self.source, moving) {
            Source::Registered(process) => {
                Source::polled(self.pid, process.into_probe(), &self.wait, reason)
            }
            source => source,
        };
    }

    /// Deregisters the process from the reactor or the poller. Keeps a status that was read.
    pub(super) fn stop_waiting(&mut self) {
        match &mut self.source {
            Source::Failed(_) => {}
            Source::Registered(process) => process.deregister(),
            Source::Polled(source) => {
                source.polled.unwatch();
                self.wait.record_status(source.polled.status());
            }
        }
    }
}
