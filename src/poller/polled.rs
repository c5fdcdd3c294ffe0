//! A process that is polled.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::runtime;

use super::{OutcomeQueue, Watch};
use crate::sys::{Probe, State, Status};
use crate::wait_state::{Until, WaitState};

/// A wait for a process without an event source.
pub(crate) struct Polled {
    target: Arc<Target>,
    until: Until,
    /// Present while a poller queries the process.
    watch: Option<Watch>,
}

/// The part of a [`Polled`] that its poller shares.
pub(super) struct Target {
    pub(super) probe: Probe,
    /// The first exit status that was read.
    status: OnceLock<Status>,
}

impl Polled {
    pub(crate) fn new(probe: Probe, wait: &WaitState) -> Polled {
        let status = wait.status().map_or_else(OnceLock::new, OnceLock::from);
        Polled {
            target: Arc::new(Target { probe, status }),
            until: wait.until(),
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
        let mut wait = WaitState::new(self.until);
        wait.record_status(self.status());
        wait
    }

    /// Changes the event that the wait is for. No poller may watch the process.
    pub(crate) fn set_until(&mut self, until: Until) {
        self.until = until;
    }

    /// Queries the process. Returns whether the event that the wait is for has happened.
    pub(crate) fn query(&self) -> io::Result<bool> {
        self.target.query(self.until)
    }

    /// Records a state of the process. Returns whether the event that the wait is for has happened.
    pub(crate) fn update(&self, state: State) -> bool {
        self.target.update(state, self.until)
    }

    /// Has the current runtime's poller query the process, until it sends one outcome to the queue.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub(crate) fn watch(&mut self, queue: &Arc<OutcomeQueue>, token: u64) {
        self.watch = Some(Watch::new(&self.target, self.until, queue, token));
    }

    /// Ends the watch. An outcome that was sent before stays in the queue.
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
    #[cfg(all(test, tokio_process_exit_loom))]
    pub(super) fn new(probe: Probe) -> Target {
        let status = OnceLock::new();
        Target { probe, status }
    }

    pub(super) fn query(&self, until: Until) -> io::Result<bool> {
        Ok(self.update(self.probe.state()?, until))
    }

    pub(super) fn update(&self, state: State, until: Until) -> bool {
        let State::Exited { status, reaped } = state else {
            return false;
        };
        if let Some(status) = status {
            // The first status wins, see `WaitState::record_status`.
            let _ = self.status.set(status);
        }
        reaped || until == Until::Exit
    }
}
