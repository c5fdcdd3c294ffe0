//! Polling of processes for which the system refuses an event source.
//!
//! Each runtime has at most one [`Poller`], which queries all polled processes of the runtime on a thread
//! of the blocking pool. The poller runs in time slices: after [`MAX_SLICE`] it returns the thread and
//! queues the next slice. So it delays neither other blocking work nor the shutdown of the runtime for
//! long. The poller ends with its last process.

#[cfg(all(test, tokio_process_exit_loom, target_os = "linux"))]
mod loom_tests;
mod polled;
mod schedule;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex as StaticMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle};

pub(crate) use self::polled::Polled;
use self::polled::Target;
use self::schedule::{Queried, REOPEN_INTERVAL, Schedule, Watched};
use crate::sync::{Condvar, Mutex};
use crate::sys::{self, Reopened, State};
use crate::wake_queue::{WakeQueue, lock, wake};

/// The longest time for which a poller occupies a thread of the blocking pool.
const MAX_SLICE: Duration = Duration::from_millis(40);

/// A poller is idle this many times as long as it has worked, so it uses at most 4 % of one core.
const IDLE_FACTOR: u32 = 24;

/// The last report of a poller about a process. The poller no longer queries the process.
pub(crate) enum Outcome {
    /// The condition of the wait has been met. [`Polled::status`] returns the exit status.
    Resolved,
    /// The system grants an event source again.
    EventsAvailable(sys::Process),
    /// The process could not be queried.
    Failed(io::Error),
    /// The poller has ended: the runtime is shutting down, or has no thread for the poller.
    PollerClosed,
}

/// A queue of outcomes, each with the token that was passed to [`Polled::watch`].
pub(crate) type OutcomeQueue = WakeQueue<(u64, Outcome)>;

/// A process in a poller, which queries the process until the `Watch` is dropped.
struct Watch {
    poller: Arc<Poller>,
    key: u64,
}

impl Watch {
    fn new(target: &Arc<Target>, queue: &Arc<OutcomeQueue>, token: u64) -> Watch {
        let handle = Handle::current();
        loop {
            let (poller, is_new) = Poller::of(handle.id());
            let key = poller.add(Watched::new(target, queue, token));
            if is_new {
                TimeSlice {
                    poller: poller.clone(),
                    handle: handle.clone(),
                }
                .spawn();
            }
            match key {
                Some(key) => return Watch { poller, key },
                // The poller has just closed. Unregister it, so that the next round creates a new poller.
                None => poller.unregister(),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Drop the process without the lock: it may hold the last waker of a task, which is the user's code.
        drop(self.poller.remove(self.key));
    }
}

/// Queries the polled processes of one runtime.
struct Poller {
    runtime: runtime::Id,
    schedule: Mutex<Schedule>,
    /// Notified when a query is due before the sleeping poller wakes, or when no process is left.
    changed: Condvar,
}

type Pollers = HashMap<runtime::Id, Arc<Poller>>;

/// Locks the map of the pollers that have not closed.
///
/// No other lock is taken while this lock is held, so loom need not model this lock.
fn pollers() -> MutexGuard<'static, Pollers> {
    static POLLERS: LazyLock<StaticMutex<Pollers>> = LazyLock::new(StaticMutex::default);
    POLLERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    fn new(runtime: runtime::Id) -> Arc<Poller> {
        Arc::new(Poller {
            runtime,
            schedule: Mutex::new(Schedule::default()),
            changed: Condvar::new(),
        })
    }

    /// Returns the poller of a runtime, and whether it is new.
    fn of(runtime: runtime::Id) -> (Arc<Poller>, bool) {
        let mut pollers = pollers();
        let mut is_new = false;
        let poller = pollers.entry(runtime).or_insert_with(|| {
            is_new = true;
            Poller::new(runtime)
        });
        (poller.clone(), is_new)
    }

    /// Adds a process. Returns `None` if the poller has closed.
    fn add(&self, watched: Watched) -> Option<u64> {
        let mut schedule = lock(&self.schedule);
        if schedule.closed {
            return None;
        }
        let (key, wake_now) = schedule.add(watched);
        if wake_now {
            self.changed.notify_one();
        }
        Some(key)
    }

    /// Removes a process. Returns `None` if an outcome has been sent for the process.
    fn remove(&self, key: u64) -> Option<Watched> {
        let mut schedule = lock(&self.schedule);
        let removed = schedule.remove(key);
        if schedule.is_empty() {
            self.changed.notify_one();
        }
        removed
    }

    /// Queries processes as they become due, for [`MAX_SLICE`]. Returns whether any process is left.
    fn run_slice(&self) -> bool {
        let end = Instant::now() + MAX_SLICE;
        let mut cpu_time = sys::thread_cpu_time();
        let mut schedule = lock(&self.schedule);
        while !schedule.is_empty() {
            let now = Instant::now();
            if now >= end {
                return true;
            }
            let wake_at = schedule.next_due(now);
            if wake_at > now {
                schedule.asleep_until = Some(wake_at);
                let sleep = wake_at.min(end) - now;
                let woken = self.changed.wait_timeout(schedule, sleep);
                schedule = woken.unwrap_or_else(PoisonError::into_inner).0;
                schedule.asleep_until = None;
                continue;
            }

            let batch = schedule.take_due(now);
            let may_reopen = schedule.reopen_at.is_none_or(|reopen_at| reopen_at <= now);
            // Release the lock: tasks must not wait for it during the system calls.
            drop(schedule);
            let (results, exhausted) = query_batch(batch, may_reopen);
            schedule = lock(&self.schedule);

            let (started, now) = (now, Instant::now());
            if exhausted {
                schedule.reopen_at = Some(now + REOPEN_INTERVAL);
            }
            let wakers = schedule.handle_results(results, now);
            let before = mem::replace(&mut cpu_time, sys::thread_cpu_time());
            // Use the elapsed time where the CPU clock is denied or coarse: on Windows the clock
            // advances by 16 ms at a time. The CPU time also includes falling asleep and waking up,
            // which the elapsed time of the batch does not, so allow for twice as much.
            let elapsed = now - started;
            let work = match cpu_time.saturating_sub(before) {
                Duration::ZERO => elapsed,
                work => work.min(2 * elapsed),
            };
            schedule.idle_until = Some(now + work * IDLE_FACTOR);
            if !wakers.is_empty() {
                drop(schedule);
                wakers.into_iter().for_each(wake);
                // Do not count the time of the wakers as the poller's work.
                cpu_time = sys::thread_cpu_time();
                schedule = lock(&self.schedule);
            }
        }
        schedule.closed = true;
        false
    }

    /// Ends the poller, and sends [`Outcome::PollerClosed`] to all waits.
    fn close(self: &Arc<Self>) {
        let wakers = lock(&self.schedule).close();
        self.unregister();
        wakers.into_iter().for_each(wake);
    }

    /// Removes a closed poller from the map, so that its runtime can get another poller.
    fn unregister(self: &Arc<Self>) {
        let mut pollers = pollers();
        let current = pollers.get(&self.runtime);
        if current.is_some_and(|poller| Arc::ptr_eq(poller, self)) {
            pollers.remove(&self.runtime);
        }
    }
}

/// Queries a batch of processes, and tries to get event sources for them if `may_reopen`.
///
/// Also returns whether the system refused an event source because a resource is exhausted.
fn query_batch(batch: Vec<(u64, Arc<Target>)>, may_reopen: bool) -> (Vec<(u64, Queried)>, bool) {
    let mut exhausted = false;
    let results = batch.into_iter().map(|(key, target)| {
        let queried = match target.probe.state() {
            Ok(state) if target.update(state) => Queried::Resolved,
            Ok(State::Running) if may_reopen && !exhausted => match target.probe.reopen() {
                Reopened::WithEvents(process) => Queried::EventsAvailable(process),
                Reopened::Exhausted => {
                    exhausted = true;
                    Queried::Unresolved
                }
                Reopened::Unavailable => Queried::Unresolved,
            },
            Ok(_) => Queried::Unresolved,
            Err(error) => Queried::Error(error),
        };
        (key, queried)
    });
    (results.collect(), exhausted)
}

/// One turn of a poller on a thread of the blocking pool.
///
/// Dropping the last slice closes the poller. The runtime's shutdown also drops a queued slice.
struct TimeSlice {
    poller: Arc<Poller>,
    handle: Handle,
}

impl TimeSlice {
    fn spawn(self) {
        let (poller, handle) = (self.poller.clone(), self.handle.clone());
        let run = move || {
            if self.poller.run_slice() {
                self.spawn();
            }
        };
        // `spawn_blocking` panics if the pool's first thread cannot be started. The closure stays in
        // the pool's queue, so close the poller here: the waits return an error and may be retried.
        if catch_unwind(AssertUnwindSafe(|| handle.spawn_blocking(run))).is_err() {
            poller.close();
        }
    }
}

impl Drop for TimeSlice {
    fn drop(&mut self) {
        self.poller.close();
    }
}
