//! Polling by the waiting tasks, where the system refuses a thread for the poller.

use std::io;
use std::sync::{Mutex as StaticMutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::schedule::{Interval, Reopening, idle_time_of_task};
use super::{LazyTimer, Outcome, Polled};

/// The least time between two errors about missing timers.
const ERROR_INTERVAL: Duration = Duration::from_secs(1);

/// Limits how often a task queries its own processes.
///
/// The task sleeps by the timer of its runtime. If the runtime has no timers or has shut down, the task
/// yields until its next query is due, which keeps one core busy. So an error then reports the cause once
/// a second.
#[derive(Default)]
pub(crate) struct TaskPacer {
    /// When the next queries are due. `None`: one interval after the next poll.
    due: Option<Instant>,
    interval: Interval,
    timer: LazyTimer,
    reopening: Reopening,
}

/// What the tasks of this program have in common.
#[derive(Default)]
struct Shared {
    /// When the next task may work. Keeps the share of CPU time of all tasks small.
    idle_until: Option<Instant>,
    /// When the next error may be reported.
    next_error: Option<Instant>,
}

fn shared() -> MutexGuard<'static, Shared> {
    static SHARED: StaticMutex<Shared> = StaticMutex::new(Shared {
        idle_until: None,
        next_error: None,
    });
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Makes polling idle after a task's queries, which ended at `now`. Returns when that task may work
    /// again.
    fn record_work(&mut self, now: Instant, elapsed: Duration, queried: usize) -> Instant {
        let idle_until = self.idle_until.map_or(now, |until| until.max(now));
        self.idle_until = Some(idle_until + idle_time_of_task(elapsed, queried));
        idle_until
    }
}

impl TaskPacer {
    /// Waits until the next queries are due.
    ///
    /// Returns an error if the runtime has no timers or has shut down, unless a task has returned this
    /// error within the last second. The wait goes on after the error.
    pub(crate) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let due = *self.due.get_or_insert(now + self.interval.0);
        if due <= now {
            return Poll::Ready(Ok(()));
        }
        match self.timer.poll_until(due, cx) {
            Some(elapsed) => {
                ready!(elapsed);
                self.due = Some(now);
                Poll::Ready(Ok(()))
            }
            None if error_is_due(now) => Poll::Ready(Err(no_thread_and_no_timers())),
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Queries a process. Returns `None` if the wait goes on.
    pub(crate) fn query(&mut self, polled: &Polled) -> Option<Outcome> {
        polled.target.query(&mut self.reopening)
    }

    /// Schedules the next queries, after `queried` of `total` processes have been queried since `started`.
    pub(crate) fn schedule(&mut self, started: Instant, queried: usize, total: usize) {
        let now = Instant::now();
        let idle_until = shared().record_work(now, now - started, queried);
        // Spread the queries of all processes over the interval.
        let interval = self.interval.0.mul_f64(queried as f64 / total as f64);
        self.due = Some(idle_until.max(now + interval));
        self.interval.double();
    }

    /// Returns to the shortest interval, for a new process.
    pub(crate) fn restart(&mut self) {
        self.interval = Interval::default();
        let soon = Instant::now() + Interval::MIN;
        self.due = self.due.map(|due| due.min(soon));
    }
}

/// Whether the last error was returned at least [`ERROR_INTERVAL`] ago. Counts the next error.
fn error_is_due(now: Instant) -> bool {
    let mut shared = shared();
    let is_due = shared.next_error.is_none_or(|next_error| next_error <= now);
    if is_due {
        shared.next_error = Some(now + ERROR_INTERVAL);
    }
    is_due
}

fn no_thread_and_no_timers() -> io::Error {
    let reason = "polling needs a thread, which the system refuses, or timers: the runtime was built \
                  without `enable_time`, or has shut down";
    io::Error::new(io::ErrorKind::WouldBlock, reason)
}

#[cfg(test)]
mod tests {
    use super::super::schedule::MAX_IDLE;
    use super::*;

    #[test]
    fn tasks_wait_within_a_bound_if_a_clock_jumps() {
        let now = Instant::now();
        let mut shared = Shared::default();
        // The machine was paused while each task queried its process.
        for _ in 0..160 {
            shared.record_work(now, Duration::from_secs(3600), 1);
        }
        // As long as the poller's thread waits in all for 160 processes.
        let last = shared.record_work(now, Duration::ZERO, 1);
        assert!(last - now <= 160 / 16 * MAX_IDLE, "{:?}", last - now);
    }
}
