//! The state of a wait for one process.

use crate::sys::{State, Status};

/// The condition that ends a wait: the process has exited, or has been reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Exit,
    Reap,
}

/// The condition of a wait, and what is known about the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitState {
    pub(crate) until: Until,
    /// Whether the condition has been met.
    pub(crate) resolved: bool,
    /// Whether awaiting has returned its final result.
    pub(crate) terminated: bool,
    /// The first exit status that was read.
    pub(crate) status: Option<Status>,
}

impl WaitState {
    pub(crate) fn new(until: Until) -> WaitState {
        WaitState {
            until,
            resolved: false,
            terminated: false,
            status: None,
        }
    }

    /// Records an exit status, unless an earlier one is known.
    ///
    /// The first status wins, because Linux reports a wrong status after the reap in a rare case, see
    /// [the crate's page](crate#the-exit-status).
    pub(crate) fn record_status(&mut self, status: Option<Status>) {
        self.status = self.status.or(status);
    }

    /// Records the state of the process. Returns whether the wait is resolved.
    pub(crate) fn update(&mut self, state: State) -> bool {
        if let State::Exited { status, reaped } = state {
            self.record_status(status);
            self.resolved = reaped || self.until == Until::Exit;
        }
        self.resolved
    }

    /// Returns the state of another wait for the same process, which has not been awaited.
    pub(crate) fn of_clone(&self) -> WaitState {
        WaitState {
            terminated: false,
            ..*self
        }
    }

    /// Starts a new wait, with another condition. Keeps a known status.
    pub(crate) fn restart(&mut self, until: Until) {
        self.until = until;
        self.resolved = false;
        self.terminated = false;
    }
}
