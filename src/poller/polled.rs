//! A process that is polled.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime;

use super::{OutcomeQueue, Watch};
use crate::sys::{Probe, State, Status};
use crate::wait_state::{Until, WaitState};

/// A wait for a process without an event source.
pub(crate) struct Polled {
    target: Arc<Target>,
    /// Present while a poller queries the process.
    watch: Option<Watch>,
}

/// The part of a [`Polled`] that is shared with its poller.
pub(super) struct Target {
    pub(super) probe: Probe,
    /// Whether the wait ends with the reap, instead of with the exit.
    until_reaped: AtomicBool,
    /// The first exit status that was read.
    status: OnceLock<Status>,
}

impl Polled {
    pub(crate) fn new(probe: Probe, wait: &WaitState) -> Polled {
        Polled {
            target: Arc::new(Target::new(probe, wait)),
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

    /// Records a state of the process. Returns whether the wait is resolved.
    pub(crate) fn update(&self, state: State) -> bool {
        self.target.update(state)
    }

    /// Adds the process to the current runtime's poller, which sends one outcome to the queue.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub(crate) fn watch(&mut self, queue: &Arc<OutcomeQueue>, token: u64) {
        self.watch = Some(Watch::new(&self.target, queue, token));
    }

    /// Removes the process from its poller. An outcome that was sent before stays in the queue.
    pub(crate) fn unwatch(&mut self) {
        self.watch = None;
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    pub(crate) fn is_watched_in(&self, runtime: runtime::Id) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|watch| watch.poller.runtime == runtime)
    }
}

impl Target {
    pub(super) fn new(probe: Probe, wait: &WaitState) -> Target {
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
