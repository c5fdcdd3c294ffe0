//! The states of a member, and what they have in common.

use std::io;
use std::mem;

use crate::poller::Polled;
use crate::sys::{Probe, Registration, Status};
use crate::wait_state::WaitState;

/// The state of a member's wait.
pub(super) enum Slot {
    /// A process in the selector. The wait ends with the exit.
    Registered(Registration),
    /// A process in the selector. The wait ends with the reap.
    RegisteredUntilReap(Box<(Registration, WaitState)>),
    /// A process for which the system refused an event source.
    Polled(Box<Polled>),
    /// The wait of a registered process has ended.
    Ended {
        registration: Registration,
        status: Option<Status>,
    },
    /// The wait of a process without a registration has ended.
    EndedPolled(Box<Polled>),
    /// The process could not be opened, or can no longer be queried.
    Failed(Box<io::Error>),
    /// A placeholder while the content moves to the next state.
    Moving,
}

impl Slot {
    pub(super) fn registration(&self) -> Option<&Registration> {
        match self {
            Slot::Registered(registration) | Slot::Ended { registration, .. } => Some(registration),
            Slot::RegisteredUntilReap(waiting) => Some(&waiting.0),
            _ => None,
        }
    }

    pub(super) fn probe(&self) -> Option<&Probe> {
        match self {
            Slot::Polled(polled) | Slot::EndedPolled(polled) => Some(polled.probe()),
            _ => None,
        }
    }

    /// Whether the wait has ended, so that the member may be yielded.
    pub(super) fn has_ended(&self) -> bool {
        matches!(
            self,
            Slot::Ended { .. } | Slot::EndedPolled(_) | Slot::Failed(_)
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

    /// Returns a number that no other process ever has, if the system has such numbers.
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

    /// Moves the slot out, and puts a placeholder in its place.
    pub(super) fn take(&mut self) -> Slot {
        mem::replace(self, Slot::Moving)
    }

    /// Ends the wait.
    ///
    /// `status` is that of a registered process. A polled process has recorded its own status.
    pub(super) fn end(&mut self, status: Option<Status>) {
        *self = match self.take() {
            Slot::Registered(registration) => Slot::Ended {
                registration,
                status,
            },
            Slot::RegisteredUntilReap(waiting) => Slot::Ended {
                registration: waiting.0,
                status,
            },
            Slot::Polled(polled) => Slot::EndedPolled(polled),
            slot => slot,
        };
    }
}
