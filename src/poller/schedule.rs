//! When a poller queries which process.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::polled::Target;
use super::{Outcome, OutcomeQueue};
use crate::sys;

/// The interval between two queries of one process: at first, and at most. It doubles each time.
const MIN_INTERVAL: Duration = Duration::from_micros(100);
const MAX_INTERVAL: Duration = Duration::from_millis(40);

/// The largest number of processes that are queried before the poller measures its CPU time.
const BATCH_SIZE: usize = 16;

/// The interval between two attempts to get event sources again.
pub(super) const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// The processes of a poller, and their next queries.
#[derive(Default)]
pub(super) struct Schedule {
    entries: HashMap<u64, Entry>,
    /// The times of the next queries, earliest first. Keys without an entry are skipped.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    next_key: u64,
    /// When the poller wakes, while it sleeps.
    pub(super) asleep_until: Option<Instant>,
    /// When the poller may work again, to keep its share of CPU time small.
    pub(super) idle_until: Option<Instant>,
    /// When the poller may try again to get event sources.
    pub(super) reopen_at: Option<Instant>,
    /// Whether the poller has ended, so that no entry may be added.
    pub(super) closed: bool,
}

/// A process to be queried.
pub(super) struct Entry {
    target: Arc<Target>,
    interval: Duration,
    /// Where the outcome is sent, together with `token`.
    queue: Arc<OutcomeQueue>,
    token: u64,
}

/// The result of a query.
pub(super) enum Queried {
    /// The event that the wait is for has not happened.
    Pending,
    /// It has happened.
    Exited,
    /// The system grants an event source again.
    EventsAvailable(sys::Process),
    Error(io::Error),
}

impl Entry {
    pub(super) fn new(target: &Arc<Target>, queue: &Arc<OutcomeQueue>, token: u64) -> Entry {
        Entry {
            target: target.clone(),
            interval: MIN_INTERVAL,
            queue: queue.clone(),
            token,
        }
    }

    #[must_use = "the waker is to be woken once no lock is held"]
    fn send(&self, outcome: Outcome) -> Option<Waker> {
        self.queue.send((self.token, outcome))
    }
}

impl Schedule {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a process. Returns its key, and whether the poller must wake earlier than it would.
    pub(super) fn add(&mut self, entry: Entry) -> (u64, bool) {
        let key = self.next_key;
        self.next_key += 1;
        self.entries.insert(key, entry);
        // The caller has just queried the process, so the first query is one interval away.
        let due = Instant::now() + MIN_INTERVAL;
        self.due.push(Reverse((due, key)));
        let wake_at = self.not_before_idle_end(due);
        let wake_now = self.asleep_until.is_some_and(|until| wake_at < until);
        (key, wake_now)
    }

    /// Removes a process. Returns whether it was there, so that no outcome has been sent for it.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        let removed = self.entries.remove(&key).is_some();
        // Bound the number of keys without an entry.
        if self.due.len() > 2 * self.entries.len() + BATCH_SIZE {
            let Schedule { entries, due, .. } = self;
            due.retain(|Reverse((_, key))| entries.contains_key(key));
        }
        removed
    }

    /// Returns when the next query is due.
    pub(super) fn next_due(&self, now: Instant) -> Instant {
        let due = self.due.peek().map_or(now, |Reverse((due, _))| *due);
        self.not_before_idle_end(due)
    }

    fn not_before_idle_end(&self, due: Instant) -> Instant {
        self.idle_until
            .map_or(due, |idle_until| idle_until.max(due))
    }

    /// Takes a batch of processes whose query is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(u64, Arc<Target>)> {
        let mut batch = Vec::with_capacity(BATCH_SIZE);
        while batch.len() < BATCH_SIZE {
            match self.due.peek() {
                Some(&Reverse((due, key))) if due <= now => {
                    self.due.pop();
                    if let Some(entry) = self.entries.get(&key) {
                        batch.push((key, entry.target.clone()));
                    }
                }
                _ => break,
            }
        }
        batch
    }

    /// Schedules the next queries, and sends the outcomes. Returns the wakers of the waiting tasks.
    ///
    /// An entry is removed and its outcome sent under one lock: otherwise a task that ends its watch
    /// in between would find neither.
    pub(super) fn process_results(
        &mut self,
        results: Vec<(u64, Queried)>,
        now: Instant,
    ) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (key, queried) in results {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let outcome = match queried {
                Queried::Pending => {
                    entry.interval = MAX_INTERVAL.min(entry.interval * 2);
                    self.due.push(Reverse((now + entry.interval, key)));
                    continue;
                }
                Queried::Exited => Outcome::Exited,
                Queried::EventsAvailable(process) => Outcome::EventsAvailable(process),
                Queried::Error(error) => Outcome::Failed(error),
            };
            wakers.extend(entry.send(outcome));
            self.entries.remove(&key);
        }
        wakers
    }

    /// Ends the schedule: all waits get [`Outcome::PollerClosed`]. Returns their tasks' wakers.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        let entries = self.entries.drain();
        entries
            .filter_map(|(_, entry)| entry.send(Outcome::PollerClosed))
            .collect()
    }
}
