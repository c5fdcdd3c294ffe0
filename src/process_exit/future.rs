//! The future of a wait.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::FusedFuture;
use tokio::task::coop;

use super::{ProcessExit, Source, reap_events_unsupported};
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
                Source::WithEvents(process) => match ready!(process.poll_event(cx)) {
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
                    outcome.and_then(|outcome| this.handle_outcome(outcome))
                }
            };
            if let Err(error) = result {
                return Poll::Ready(Err(wait_error(this.pid, &error)));
            }
        }
    }
}

/// The future is terminated once it has returned the exit, or the error of opening the process.
impl FusedFuture for ProcessExit {
    fn is_terminated(&self) -> bool {
        ProcessExit::is_terminated(self)
    }
}

impl ProcessExit {
    /// Records the state of a registered process.
    pub(super) fn update(&mut self, state: State) {
        let is_zombie = !self.wait.update(state) && state != State::Running;
        match &self.source {
            Source::WithEvents(process) if is_zombie && !process.has_reap_event() => {
                self.fall_back(reap_events_unsupported());
            }
            // After a wait is resolved, the process stays registered until the `ProcessExit` is dropped:
            // the waiting task runs first.
            _ => {}
        }
    }

    /// Records the outcome of polling.
    pub(super) fn handle_outcome(&mut self, outcome: Outcome) -> io::Result<()> {
        self.stop_waiting();
        match outcome {
            Outcome::Resolved => self.wait.resolved = true,
            Outcome::EventsAvailable(process) => {
                mechanism::trace(self.pid, sys::Process::MECHANISM, None);
                self.source = Source::WithEvents(process);
            }
            Outcome::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Falls back to polling, for this reason.
    #[cold]
    fn fall_back(&mut self, reason: io::Error) {
        // A placeholder while the process moves to its new source.
        let moving = Source::Failed(OpenError::NoSuchProcess);
        self.source = match mem::replace(&mut self.source, moving) {
            Source::WithEvents(process) => {
                Source::polled(self.pid, process.into_probe(), &self.wait, reason)
            }
            source => source,
        };
    }

    /// Deregisters the process from the reactor or the poller. Keeps a known status.
    pub(super) fn stop_waiting(&mut self) {
        match &mut self.source {
            Source::Failed(_) => {}
            Source::WithEvents(process) => process.deregister(),
            Source::Polled(source) => {
                source.unwatch();
                self.wait.record_status(source.polled.status());
            }
        }
    }
}
