//! Deferred closing of the processes that have been yielded.

use std::mem;
use std::time::{Duration, Instant};

use crate::sys::Registration;

/// The number of registrations that are closed before other tasks run, in about 0.3 ms on Linux.
const BATCH_SIZE: usize = 128;

/// How long registrations wait while exits are ready. Linux reports tens of thousands of exits in that time.
const MAX_DELAY: Duration = Duration::from_millis(100);

/// Registrations of yielded members, closed in batches after all ready exits.
///
/// Until then, they take no more descriptors than the members took when they were waited for.
#[derive(Default)]
pub(super) struct CloseQueue {
    registrations: Vec<Registration>,
    /// When the queue was last empty.
    since: Option<Instant>,
}

impl CloseQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.registrations.is_empty()
    }

    /// Adds a registration. After [`MAX_DELAY`], closes two for each that is added, until the queue is empty.
    pub(super) fn push(&mut self, registration: Registration) {
        // Do not read the clock at every exit.
        const INTERVAL: usize = 8;
        if self.registrations.len() % INTERVAL == 0 && self.is_overdue() {
            self.close(2 * INTERVAL);
        }
        if self.is_empty() {
            self.since = Some(Instant::now());
        }
        self.registrations.push(registration);
    }

    fn is_overdue(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > MAX_DELAY)
    }

    pub(super) fn close_batch(&mut self) {
        self.close(BATCH_SIZE);
    }

    pub(super) fn close_all(&mut self) {
        self.close(self.registrations.len());
    }

    /// Closes `count` registrations, or all if there are fewer.
    pub(super) fn close(&mut self, count: usize) {
        if self.is_empty() {
            return;
        }
        Registration::close_all(match self.registrations.len().saturating_sub(count) {
            // Release the memory of the largest burst of exits.
            0 => mem::take(&mut self.registrations),
            len => self.registrations.split_off(len),
        });
    }
}

impl Drop for CloseQueue {
    fn drop(&mut self) {
        self.close_all();
    }
}
