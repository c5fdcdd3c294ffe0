//! The state of a member's wait.

use std::io;
use std::mem;

use crate::poller::Polled;
use crate::sys::{Probe, Registration, Status};
use crate::wait_state::WaitState;

/// The state of a member's wait.
pub(super) enum Slot {
    /// The selector reports the exit, which ends the wait.
    Registered(Registration),
    /// The wait ends with the reap.
    RegisteredUntilReap(Box<(Registration, WaitState)>),
    /// The system refused an event source.
    Polled(Box<Polled>),
    /// The wait has ended.
    Exited {
        registration: Registration,
        status: Option<Status>,
    },
    /// The wait of a process without a registration has ended.
    ExitedPolled(Box<Polled>),
    /// The process could not be opened, or can no longer be queried.
    Failed(Box<io::Error>),
    /// A placeholder while the content moves to the next state.
    Moving,
}

impl Slot {
    pub(super) fn registration(&self) -> Option<&Registration> {
        match self {
            Slot::Registered(registration) | Slot::Exited { registration, .. } => {
                Some(registration)
            }
            Slot::RegisteredUntilReap(waiting) => Some(&waiting.0),
            _ => None,
        }
    }

    pub(super) fn probe(&self) -> Option<&Probe> {
        match self {
            Slot::Polled(polled) | Slot::ExitedPolled(polled) => Some(polled.probe()),
            _ => None,
        }
    }

    /// Whether the wait has ended, so that the member is to be yielded.
    pub(super) fn has_ended(&self) -> bool {
        matches!(
            self,
            Slot::Exited { .. } | Slot::ExitedPolled(_) | Slot::Failed(_)
        )
    }

    /// Whether the pid may belong to another process.
    pub(super) fn is_reaped(&self) -> bool {
        match (self.registration(), self.probe()) {
            (Some(registration), _) => registration.is_reaped(),
            (None, Some(probe)) => probe.is_reaped(),
            (None, None) => true,
        }
    }

    /// Returns a number that no other process ever has, if the system has one.
    pub(super) fn unique_id(&self) -> Option<u64> {
        match (self.registration(), self.probe()) {
            (Some(registration), _) => registration.unique_id(),
            (None, Some(probe)) => probe.unique_id(),
            (None, None) => None,
        }
    }

    pub(super) fn polled_mut(&mut self) -> Option<&mut Polled> {
        match self {
            Slot::Polled(polled) => Some(polled),
            _ => None,
        }
    }

    /// Moves the content out, and leaves a placeholder.
    pub(super) fn take(&mut self) -> Slot {
        mem::replace(self, Slot::Moving)
    }

    /// Ends the wait.
    ///
    /// `status` is the status of a registered process. A polled process has recorded its own.
    pub(super) fn end(&mut self, status: Option<Status>) {
        *self = match self.take() {
            Slot::Registered(registration) => Slot::Exited {
                registration,
                status,
            },
            Slot::RegisteredUntilReap(waiting) => Slot::Exited {
                registration: waiting.0,
                status,
            },
            Slot::Polled(polled) => Slot::ExitedPolled(polled),
            slot => slot,
        };
    }
}
