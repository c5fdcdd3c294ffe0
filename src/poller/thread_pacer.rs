//! Polling by a thread that blocks until the exit.

use std::thread;
use std::time::Duration;

use super::schedule::{Interval, Reopening};
use super::{Outcome, Polled};

/// The intervals between the queries of a thread that waits for one process.
#[derive(Default)]
pub(crate) struct ThreadPacer {
    interval: Interval,
    reopening: Reopening,
}

impl ThreadPacer {
    /// Queries the process. Returns `None` if the wait goes on.
    pub(crate) fn query(&mut self, polled: &Polled) -> Option<Outcome> {
        polled.target.query(&mut self.reopening)
    }

    /// Blocks for the next interval, but no longer than `max`.
    pub(crate) fn sleep(&mut self, max: Duration) {
        thread::sleep(self.interval.0.min(max));
        self.interval.double();
    }
}
