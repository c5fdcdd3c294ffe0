//! The times at which a poller queries its processes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::polled::Target;
use super::{Outcome, OutcomeQueue};

/// The interval between two queries of a process. Each query doubles it.
#[derive(Clone, Copy)]
pub(super) struct Interval(pub(super) Duration);

impl Interval {
    pub(super) const MIN: Duration = Duration::from_micros(100);
    const MAX: Duration = Duration::from_millis(40);

    pub(super) fn double(&mut self) {
        self.0 = Interval::MAX.min(self.0 * 2);
    }
}

/// The shortest interval.
impl Default for Interval {
    fn default() -> Interval {
        Interval(Interval::MIN)
    }
}

/// The largest number of processes that are queried before the poller measures its CPU time.
pub(crate) const BATCH_SIZE: usize = 16;

/// Polling is idle this many times as long as it has worked, so it uses at most 4 % of one core.
const IDLE_FACTOR: u32 = 24;

/// The longest time for which polling is idle after a batch. Bounds the delay if a clock jumps, for
/// example because a virtual machine was paused.
pub(super) const MAX_IDLE: Duration = Duration::from_millis(200);

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
    idle_until: Option<Instant>,
    pub(super) reopening: Reopening,
    /// Whether a thread queries the processes.
    pub(super) has_thread: bool,
    /// When the poller may try again to start a thread.
    pub(super) retry_thread_at: Option<Instant>,
}

/// A process in a schedule, and the receiver of its outcome.
pub(super) struct Watched {
    target: Arc<Target>,
    interval: Interval,
    /// Where the outcome is sent, together with `token`.
    queue: Arc<OutcomeQueue>,
    token: u64,
}

impl Watched {
    pub(super) fn new(target: &Arc<Target>, queue: &Arc<OutcomeQueue>, token: u64) -> Watched {
        Watched {
            target: target.clone(),
            interval: Interval::default(),
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

    /// Records the end of the thread if no process is left. Returns whether the thread must end.
    pub(super) fn end_thread_if_empty(&mut self) -> bool {
        self.has_thread = !self.is_empty();
        !self.has_thread
    }

    /// Adds a process. Returns its key, and whether the poller must be woken for its first query.
    pub(super) fn add(&mut self, watched: Watched) -> (u64, bool) {
        let key = self.next_key;
        self.next_key += 1;
        self.processes.insert(key, watched);
        // The caller has just queried the process, so the first query is one interval away.
        let due = Instant::now() + Interval::MIN;
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
    /// A result is `None` if the wait goes on.
    ///
    /// The caller holds the lock while a process is removed and its outcome is sent. Otherwise a task
    /// that ends its watch in between would find neither the process nor the outcome.
    pub(super) fn handle_results(
        &mut self,
        results: Vec<(u64, Option<Outcome>)>,
        now: Instant,
    ) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (key, outcome) in results {
            let Some(watched) = self.processes.get_mut(&key) else {
                continue;
            };
            match outcome {
                None => {
                    watched.interval.double();
                    self.due.push(Reverse((now + watched.interval.0, key)));
                }
                Some(outcome) => {
                    wakers.extend(watched.send(outcome));
                    self.processes.remove(&key);
                }
            }
        }
        wakers
    }

    /// Makes the poller idle after a batch that ended at `now`.
    pub(super) fn record_work(&mut self, now: Instant, elapsed: Duration, cpu_time: Duration) {
        self.idle_until = Some(now + idle_time(elapsed, cpu_time));
    }
}

/// Returns how long polling is idle after a batch of queries.
pub(super) fn idle_time(elapsed: Duration, cpu_time: Duration) -> Duration {
    // Use the elapsed time where the CPU clock is denied or coarse: on Windows the clock advances by
    // 16 ms at a time. The CPU time also includes falling asleep and waking up, which the elapsed time of
    // the batch does not, so allow for twice as much.
    let work = match cpu_time {
        Duration::ZERO => elapsed,
        cpu_time => cpu_time.min(elapsed.saturating_mul(2)),
    };
    work.saturating_mul(IDLE_FACTOR).min(MAX_IDLE)
}

/// Returns how long polling is idle after a task has queried `queried` processes.
pub(super) fn idle_time_of_task(elapsed: Duration, queried: usize) -> Duration {
    // Use the elapsed time: the CPU clock of the thread also counts the work of other tasks. Count the
    // time four times, because the timer and the wake-up take up to three times as long as the queries.
    let idle_time = idle_time(elapsed.saturating_mul(4), Duration::ZERO);
    // The idle times of all tasks add up. So bound each by the number of queries, as in the thread.
    const MAX_FOR_ONE: Duration =
        Duration::from_nanos(MAX_IDLE.as_nanos() as u64 / BATCH_SIZE as u64);
    idle_time.min(MAX_FOR_ONE.saturating_mul(queried.max(1) as u32))
}

/// The attempts to get event sources again.
#[derive(Default)]
pub(super) struct Reopening {
    /// When the next attempt is due, after the system has refused an event source.
    retry_at: Option<Instant>,
}

impl Reopening {
    const INTERVAL: Duration = Duration::from_millis(100);

    pub(super) fn is_due(&self) -> bool {
        self.retry_at
            .is_none_or(|retry_at| retry_at <= Instant::now())
    }

    /// Records that a resource is exhausted. Another attempt at once would be refused too.
    pub(super) fn record_exhaustion(&mut self) {
        self.retry_at = Some(Instant::now() + Reopening::INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Returns how long a poller takes to report 1,000 exits. Each batch takes `elapsed`, as the clock of
    /// the system says, and `cpu_time`, as the CPU clock says.
    #[cfg(not(miri))]
    fn time_to_report_1000(elapsed: Duration, cpu_time: Duration) -> Duration {
        use crate::sys::{Opened, Process};
        use crate::wait_state::{Until, WaitState};

        let probe = match Process::open(std::process::id()) {
            Ok(Opened::WithEvents(process)) => process.into_probe(),
            Ok(Opened::Refused(refused)) => refused.probe,
            Err(_) => unreachable!("this process exists"),
        };
        let target = Target::new(Arc::new(probe), &WaitState::new(Until::Exit));
        let target = Arc::new(target);
        let queue = Arc::default();
        let mut schedule = Schedule::default();
        for token in 0..1000 {
            schedule.add(Watched::new(&target, &queue, token));
        }
        let start = Instant::now();
        let mut now = start;
        while !schedule.is_empty() {
            now = now.max(schedule.next_due(now));
            let batch = schedule.take_due(now);
            now += elapsed;
            let results = batch
                .into_iter()
                .map(|(key, _)| (key, Some(Outcome::Resolved)));
            schedule.handle_results(results.collect(), now);
            schedule.record_work(now, elapsed, cpu_time);
        }
        now - start
    }

    #[cfg(not(miri))]
    #[test]
    fn reports_many_exits_in_time_although_clocks_lie() {
        let batches = 1000 / BATCH_SIZE as u32 + 1;
        // A busy host has stolen 100 ms in each batch. The CPU clock counts them, stops, or jumps.
        for cpu_time in [100 * MS, Duration::ZERO, 3600 * 1000 * MS] {
            let time = time_to_report_1000(100 * MS, cpu_time);
            assert!(time <= batches * (100 * MS + MAX_IDLE) + MS, "{time:?}");
        }
        let time = time_to_report_1000(MS, MS);
        assert!(time <= batches * 25 * MS + MS, "{time:?}");
    }

    #[test]
    fn idle_time_is_24_times_the_work() {
        assert_eq!(idle_time(2 * MS, MS), 24 * MS);
        assert_eq!(idle_time(2 * MS, 2 * MS), 48 * MS);
    }

    #[test]
    fn idle_time_uses_elapsed_time_if_cpu_clock_stops() {
        assert_eq!(idle_time(2 * MS, Duration::ZERO), 48 * MS);
    }

    #[test]
    fn idle_time_ignores_a_cpu_clock_that_jumps() {
        assert_eq!(idle_time(MS, 1000 * MS), 48 * MS);
        assert_eq!(idle_time(MS, Duration::MAX), 48 * MS);
    }

    #[test]
    fn idle_time_is_bounded_if_both_clocks_jump() {
        assert_eq!(idle_time(1000 * MS, Duration::ZERO), MAX_IDLE);
        assert_eq!(idle_time(Duration::MAX, Duration::MAX), MAX_IDLE);
    }
}
