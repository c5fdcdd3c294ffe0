//! Polling of processes for which the system refuses an event source.
//!
//! One [`Poller`] queries all polled processes of this program, on a thread of its own. The thread
//! starts with the first process and ends with the last. It does not use tokio's blocking pool:
//! blocking work of the program could occupy all threads of the pool for any time. `spawn_blocking`
//! also panics if the system refuses a thread.
//!
//! If the system refuses a thread, each waiting task queries its own processes, see [`TaskPacer`].

#[cfg(all(test, tokio_process_exit_loom, target_os = "linux"))]
mod loom_tests;
mod polled;
mod schedule;
mod task_pacer;
mod thread_pacer;
mod timer;

use std::io;
use std::mem;
use std::process;
use std::sync::{Arc, Mutex as StaticMutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::polled::Polled;
use self::polled::Target;
pub(crate) use self::schedule::BATCH_SIZE;
use self::schedule::{Schedule, Watched};
pub(crate) use self::task_pacer::TaskPacer;
pub(crate) use self::thread_pacer::ThreadPacer;
pub(crate) use self::timer::LazyTimer;
use crate::sync::{Condvar, Mutex, thread};
use crate::sys;
use crate::wake_queue::{WakeQueue, lock, wake};

/// The interval between two attempts to start the poller's thread.
const THREAD_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The result of polling a process. The poller no longer queries the process.
pub(crate) enum Outcome {
    /// The condition of the wait has been met. [`Polled::status`] returns the exit status.
    Resolved,
    /// The system grants an event source again.
    EventsAvailable(sys::Process),
    /// The process could not be queried.
    Failed(io::Error),
}

/// A queue of outcomes, each with the token that was passed to [`Polled::watch`].
pub(crate) type OutcomeQueue = WakeQueue<(u64, Outcome)>;

/// A process in a poller, which queries the process until the `Watch` is dropped.
struct Watch {
    poller: Arc<Poller>,
    key: u64,
}

impl Watch {
    /// Adds a process to the poller. Returns an error if the poller has no thread and gets none.
    fn new(target: &Arc<Target>, queue: &Arc<OutcomeQueue>, token: u64) -> io::Result<Watch> {
        let poller = Poller::of_this_program();
        let key = poller.add(Watched::new(target, queue, token))?;
        Ok(Watch { poller, key })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Drop the process without the lock: it may hold the last waker of a task, which is the user's code.
        drop(self.poller.remove(self.key));
    }
}

/// Queries the polled processes of this program.
struct Poller {
    /// The pid of this program. A forked child has no poller thread, so it needs a poller of its own.
    program: u32,
    schedule: Mutex<Schedule>,
    /// Notified when a query is due before the sleeping thread wakes, or when no process is left.
    changed: Condvar,
}

impl Poller {
    fn new() -> Arc<Poller> {
        Arc::new(Poller {
            program: process::id(),
            schedule: Mutex::new(Schedule::default()),
            changed: Condvar::new(),
        })
    }

    fn of_this_program() -> Arc<Poller> {
        // No other lock is taken while this lock is held, so loom need not model this lock.
        static POLLER: StaticMutex<Option<Arc<Poller>>> = StaticMutex::new(None);
        let mut current = POLLER.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(poller) if poller.program == process::id() => poller.clone(),
            _ => current.insert(Poller::new()).clone(),
        }
    }

    /// Adds a process. Starts the thread if the poller has none.
    fn add(self: &Arc<Self>, watched: Watched) -> io::Result<u64> {
        let mut schedule = lock(&self.schedule);
        if !schedule.has_thread {
            self.start_thread(&mut schedule)?;
        }
        let (key, wake_now) = schedule.add(watched);
        if wake_now {
            self.changed.notify_one();
        }
        Ok(key)
    }

    fn start_thread(self: &Arc<Self>, schedule: &mut Schedule) -> io::Result<()> {
        let now = Instant::now();
        if schedule
            .retry_thread_at
            .is_some_and(|retry_at| now < retry_at)
        {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let poller = self.clone();
        #[cfg(not(all(test, tokio_process_exit_loom, target_os = "linux")))]
        let run = move || poller.run();
        #[cfg(all(test, tokio_process_exit_loom, target_os = "linux"))]
        let run = move || loom_tests::run(&poller);
        // Linux shows at most 15 bytes of a thread's name.
        match thread::Builder::new()
            .name("process-exit".into())
            .spawn(run)
        {
            Ok(_) => schedule.has_thread = true,
            Err(error) => {
                schedule.retry_thread_at = Some(now + THREAD_RETRY_INTERVAL);
                return Err(error);
            }
        }
        Ok(())
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

    /// Queries processes as they become due, until no process is left.
    #[cfg_attr(
        tokio_process_exit_loom,
        allow(dead_code, reason = "the models have another thread")
    )]
    fn run(&self) {
        let mut cpu_time = sys::thread_cpu_time();
        let mut schedule = lock(&self.schedule);
        // End the thread under the lock that found no process: otherwise `add` could rely on a thread
        // that is about to end.
        while !schedule.end_thread_if_empty() {
            let now = Instant::now();
            let wake_at = schedule.next_due(now);
            if wake_at > now {
                schedule.asleep_until = Some(wake_at);
                let woken = self.changed.wait_timeout(schedule, wake_at - now);
                schedule = woken.unwrap_or_else(PoisonError::into_inner).0;
                schedule.asleep_until = None;
                continue;
            }

            let batch = schedule.take_due(now);
            let mut reopening = mem::take(&mut schedule.reopening);
            // Release the lock: tasks must not wait for it during the system calls.
            drop(schedule);
            let query = |(key, target): (u64, Arc<Target>)| (key, target.query(&mut reopening));
            let results = batch.into_iter().map(query).collect();
            schedule = lock(&self.schedule);

            let (started, now) = (now, Instant::now());
            schedule.reopening = reopening;
            let wakers = schedule.handle_results(results, now);
            let before = mem::replace(&mut cpu_time, sys::thread_cpu_time());
            schedule.record_work(now, now - started, cpu_time.saturating_sub(before));
            if !wakers.is_empty() {
                drop(schedule);
                wakers.into_iter().for_each(wake);
                // Do not count the time of the wakers as the poller's work.
                cpu_time = sys::thread_cpu_time();
                schedule = lock(&self.schedule);
            }
        }
    }
}
