//! Deferred closing of the processes that have been yielded.

use crate::sys::Registration;

/// The number of registrations that are closed before other tasks run, in about 0.3 ms on Linux.
pub(super) const BATCH_SIZE: usize = 128;

/// Registrations of yielded members, closed in batches after all ready exits.
#[derive(Default)]
pub(super) struct CloseQueue {
    registrations: Vec<Registration>,
    /// Whether registrations are closed as soon as their members are yielded: descriptors are scarce.
    ///
    /// Stays set until no exit is ready or a member is added, because our own closing hides the shortage.
    close_eagerly: bool,
}

impl CloseQueue {
    pub(super) fn len(&self) -> usize {
        self.registrations.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.registrations.is_empty()
    }

    /// Adds a registration. Closes a batch while descriptors are scarce.
    pub(super) fn push(
        &mut self,
        registration: Registration,
        should_close_eagerly: impl FnOnce() -> bool,
    ) {
        // `should_close_eagerly` makes system calls, so do not call it at every exit.
        const INTERVAL: usize = 32;
        let is_due = self.registrations.len() % INTERVAL == 0;
        self.registrations.push(registration);
        self.close_eagerly = self.close_eagerly || (is_due && should_close_eagerly());
        if self.close_eagerly {
            self.close_batch();
        }
    }

    /// Defers closing again, until descriptors are found to be scarce.
    pub(super) fn reset_scarcity(&mut self) {
        self.close_eagerly = false;
    }

    pub(super) fn close_batch(&mut self) {
        self.truncate(self.len().saturating_sub(BATCH_SIZE));
    }

    pub(super) fn close_all(&mut self) {
        self.truncate(0);
    }

    fn truncate(&mut self, len: usize) {
        self.registrations.truncate(len);
        if len == 0 {
            // Release the memory of the largest burst of exits.
            self.registrations = Vec::new();
        }
    }
}
