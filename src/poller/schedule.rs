//! The times at which a poller queries its processes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::polled::Target;
use super::{Outcome, OutcomeQueue};
use crate::sys;

/// The first and the longest interval between two queries of a process. Each query doubles it.
const MIN_INTERVAL: Duration = Duration::from_micros(100);
const MAX_INTERVAL: Duration = Duration::from_millis(40);

/// The largest number of processes that are queried before the poller measures its CPU time.
const BATCH_SIZE: usize = 16;

/// The interval between two attempts to get event sources again.
pub(super) const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// The processes of a poller, and their next queries.
#[derive(Default)]
pub(super) struct Schedule {
    processes: HashMap<u64, Watched>,
    /// The times of the next queries, earliest first. Keys of removed processes are skipped.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    next_key: u64,
    /// When the next query is due. `None` unless the poller is asleep until then.
    pub(super) asleep_until: Option<Instant>,
    /// When the poller may work again. Keeps its share of CPU time small.
    pub(super) idle_until: Option<Instant>,
    /// When the poller may try again to get event sources.
    pub(super) reopen_at: Option<Instant>,
    /// Whether the poller has ended. No process may be added then.
    pub(super) closed: bool,
}

/// A process in a schedule, and the receiver of its outcome.
pub(super) struct Watched {
    target: Arc<Target>,
    interval: Duration,
    /// Where the outcome is sent, together with `token`.
    queue: Arc<OutcomeQueue>,
    token: u64,
}

/// The result of a query.
pub(super) enum Queried {
    /// The wait goes on.
    Unresolved,
    /// The condition of the wait has been met.
    Resolved,
    /// The system grants an event source again.
    EventsAvailable(sys::Process),
    Error(io::Error),
}

impl Watched {
    pub(super) fn new(target: &Arc<Target>, queue: &Arc<OutcomeQueue>, token: u64) -> Watched {
        Watched {
            target: target.clone(),
            interval: MIN_INTERVAL,
            queue: queue.clone(),
            token,
        }
    }

    #[must_use = "wake the waker after all locks are released"]
    fn send(&self, outcome: Outcome) -> Option<Waker> {
        self.queue.send((self.token, outcome))
    }
}

impl Schedule {
    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Adds a process. Returns its key, and whether the poller must be woken for its first query.
    pub(super) fn add(&mut self, watched: Watched) -> (u64, bool) {
        let key = self.next_key;
        self.next_key += 1;
        self.processes.insert(key, watched);
        // The caller has just queried the process, so the first query is one interval away.
        let due = Instant::now() + MIN_INTERVAL;
        self.due.push(Reverse((due, key)));
        let wake_at = self.not_before_idle_end(due);
        let wake_now = self.asleep_until.is_some_and(|until| wake_at < until);
        (key, wake_now)
    }

    /// Removes a process. Returns `None` if an outcome has been sent for the process.
    #[must_use = "drop the process once no lock is held: it may hold the last waker of a task"]
    pub(super) fn remove(&mut self, key: u64) -> Option<Watched> {
        let removed = self.processes.remove(&key);
        // Bound the number of keys of removed processes.
        if self.due.len() > 2 * self.processes.len() + BATCH_SIZE {
            let Schedule { processes, due, .. } = self;
            due.retain(|Reverse((_, key))| processes.contains_key(key));
        }
        removed
    }

    /// Returns when the poller has to work next.
    pub(super) fn next_due(&self, now: Instant) -> Instant {
        let due = self.due.peek().map_or(now, |Reverse((due, _))| *due);
        self.not_before_idle_end(due)
    }

    fn not_before_idle_end(&self, due: Instant) -> Instant {
        self.idle_until
            .map_or(due, |idle_until| idle_until.max(due))
    }

    /// Returns a batch of processes whose query is due, and removes their times.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(u64, Arc<Target>)> {
        let mut batch = Vec::with_capacity(BATCH_SIZE);
        while batch.len() < BATCH_SIZE {
            match self.due.peek() {
                Some(&Reverse((due, key))) if due <= now => {
                    self.due.pop();
                    if let Some(watched) = self.processes.get(&key) {
                        batch.push((key, watched.target.clone()));
                    }
                }
                _ => break,
            }
        }
        batch
    }

    /// Schedules the next queries, and sends the outcomes. Returns the wakers of the waiting tasks.
    ///
    /// The caller holds the lock while a process is removed and its outcome is sent. Otherwise a task
    /// that ends its watch in between would find neither the process nor the outcome.
    pub(super) fn handle_results(
        &mut self,
        results: Vec<(u64, Queried)>,
        now: Instant,
    ) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (key, queried) in results {
            let Some(watched) = self.processes.get_mut(&key) else {
                continue;
            };
            let outcome = match queried {
                Queried::Unresolved => {
                    watched.interval = MAX_INTERVAL.min(watched.interval * 2);
                    self.due.push(Reverse((now + watched.interval, key)));
                    continue;
                }
                Queried::Resolved => Outcome::Resolved,
                Queried::EventsAvailable(process) => Outcome::EventsAvailable(process),
                Queried::Error(error) => Outcome::Failed(error),
            };
            wakers.extend(watched.send(outcome));
            self.processes.remove(&key);
        }
        wakers
    }

    /// Ends the schedule, and sends [`Outcome::PollerClosed`] to all waits. Returns the wakers.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        let processes = self.processes.drain();
        processes
            .filter_map(|(_, watched)| watched.send(Outcome::PollerClosed))
            .collect()
    }
}
