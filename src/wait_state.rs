//! How far a wait has come.

use crate::sys::{self, State};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Exit,
    Reap,
}

/// How far a wait has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitState {
    pub(crate) until: Until,
    /// What is waited for has come.
    pub(crate) resolved: bool,
    /// Awaiting has yielded its final result, be it an error.
    pub(crate) terminated: bool,
    /// The exit status, as far as it was seen.
    status: Option<sys::Status>,
}

impl WaitState {
    pub(crate) fn until(&self) -> Until {
        self.until
    }

    /// The exit status as far as it is known.
    pub(crate) fn status(&self) -> Option<sys::Status> {
        self.status
    }

    /// Takes in a status that was seen. The first is as good as any later one, and better where
    /// Linux has it wrong after the reap (see the crate's page).
    pub(crate) fn record_status(&mut self, status: Option<sys::Status>) {
        self.status = self.status.or(status);
    }

    /// The exit status as far as it is known, once what is waited for has come.
    pub(crate) fn exited(&self) -> Option<Option<sys::Status>> {
        self.resolved.then_some(self.status)
    }

    pub(crate) fn new(until: Until) -> WaitState {
        WaitState {
            until,
            resolved: false,
            terminated: false,
            status: None,
        }
    }

    /// Takes in what was seen of the process. Returns what is known if that resolves the wait.
    pub(crate) fn update(&mut self, state: State) -> Option<State> {
        let State::Exited { status, reaped } = state else {
            return None;
        };
        // The system may tell the status at the exit only, or at the reap only.
        self.record_status(status);
        self.resolved = reaped || self.until == Until::Exit;
        self.resolved.then_some(State::Exited {
            status: self.status,
            reaped,
        })
    }
}
