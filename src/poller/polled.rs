//! A process that is polled.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::schedule::Reopening;
use super::{Outcome, OutcomeQueue, Watch};
use crate::sys::{Probe, Reopened, State, Status};
use crate::wait_state::{Until, WaitState};

/// A wait for a process without an event source.
pub(crate) struct Polled {
    pub(super) target: Arc<Target>,
    /// Present while a poller queries the process.
    watch: Option<Watch>,
}

/// The part of a [`Polled`] that is shared with its poller.
pub(super) struct Target {
    pub(super) probe: Arc<Probe>,
    /// Whether the wait ends with the reap, instead of with the exit.
    until_reaped: AtomicBool,
    /// The first exit status that was read.
    status: OnceLock<Status>,
}

impl Polled {
    pub(crate) fn new(probe: Probe, wait: &WaitState) -> Polled {
        Polled {
            target: Arc::new(Target::new(Arc::new(probe), wait)),
            watch: None,
        }
    }

    /// Returns another wait for the same process, which shares the probe.
    pub(crate) fn another(&self, wait: &WaitState) -> Polled {
        Polled {
            target: Arc::new(Target::new(self.target.probe.clone(), wait)),
            watch: None,
        }
    }

    pub(crate) fn probe(&self) -> &Probe {
        &self.target.probe
    }

    pub(crate) fn status(&self) -> Option<Status> {
        self.target.status.get().copied()
    }

    /// Returns the state of the wait, for an event source that takes over.
    pub(crate) fn wait_state(&self) -> WaitState {
        let mut wait = WaitState::new(self.target.until());
        wait.record_status(self.status());
        wait
    }

    /// Waits for the reap from now on.
    pub(crate) fn wait_until_reaped(&mut self) {
        self.unwatch();
        self.target.until_reaped.store(true, Ordering::Relaxed);
    }

    /// Queries the process. Returns whether the wait is resolved.
    pub(crate) fn query(&self) -> io::Result<bool> {
        Ok(self.update(self.probe().state()?))
    }

    /// Queries the process. Returns the outcome if the wait has ended.
    pub(crate) fn query_outcome(&self) -> Option<Outcome> {
        match self.query() {
            Ok(false) => None,
            Ok(true) => Some(Outcome::Resolved),
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    /// Records a state of the process. Returns whether the wait is resolved.
    pub(crate) fn update(&self, state: State) -> bool {
        self.target.update(state)
    }

    /// Adds the process to the poller, which sends one outcome to the queue.
    ///
    /// Returns an error if the system refuses a thread for the poller.
    pub(crate) fn watch(&mut self, queue: &Arc<OutcomeQueue>, token: u64) -> io::Result<()> {
        self.watch = Some(Watch::new(&self.target, queue, token)?);
        Ok(())
    }

    /// Removes the process from its poller. An outcome that was sent before stays in the queue.
    pub(crate) fn unwatch(&mut self) {
        self.watch = None;
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }
}

impl Target {
    pub(super) fn new(probe: Arc<Probe>, wait: &WaitState) -> Target {
        Target {
            probe,
            until_reaped: AtomicBool::new(wait.until == Until::Reap),
            status: wait.status.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    fn until(&self) -> Until {
        match self.until_reaped.load(Ordering::Relaxed) {
            true => Until::Reap,
            false => Until::Exit,
        }
    }

    /// Queries the process, and tries to get an event source if an attempt is due.
    ///
    /// Returns `None` if the wait goes on.
    pub(super) fn query(&self, reopening: &mut Reopening) -> Option<Outcome> {
        match self.probe.state() {
            Ok(state) if self.update(state) => Some(Outcome::Resolved),
            Ok(State::Running) if reopening.is_due() => match self.probe.reopen() {
                Reopened::WithEvents(process) => Some(Outcome::EventsAvailable(process)),
                Reopened::Exhausted => {
                    reopening.record_exhaustion();
                    None
                }
                Reopened::Unavailable => None,
            },
            Ok(_) => None,
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    pub(super) fn update(&self, state: State) -> bool {
        let State::Exited { status, reaped } = state else {
            return false;
        };
        if let Some(status) = status {
            // The first status wins, see `WaitState::record_status`.
            let _ = self.status.set(status);
        }
        reaped || self.until() == Until::Exit
    }
}
