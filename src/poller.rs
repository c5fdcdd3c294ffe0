//! The fallback: looking again and again at the processes that the kernel gives no events for.
//!
//! One [`Poller`] per runtime looks at all of them, on a thread of the runtime's blocking pool. It
//! works in turns: after [`MAX_SLICE`] at the latest it gives the thread back and queues up again, so
//! that it holds up neither other blocking work nor the shutdown of the runtime. It ends when
//! there is nothing left to look at.
//!
//! A [`Watch`] is one process being looked at. What is seen goes to an [`OutcomeQueue`], where a task
//! waits for it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex as StaticMutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle};

use crate::sync::{Condvar, Mutex};
use crate::sys::{self, Probe, Reopened, State};
use crate::wait_state::WaitState;
use crate::wake_queue::{self, lock, wake};

/// Between two looks at one process: at first and, doubled after each look, at last.
const MIN_INTERVAL: Duration = Duration::from_micros(100);
const MAX_INTERVAL: Duration = Duration::from_millis(40);

/// How long the poller may hold a thread of the blocking pool.
const MAX_SLICE: Duration = Duration::from_millis(40);

/// The poller rests this many times as long as it has worked. So it takes 4 % of one core at most,
/// and the intervals stretch as far as that needs.
const IDLE_FACTOR: u32 = 24;

/// How many processes are looked at before the work is counted.
const BATCH_SIZE: usize = 16;

/// Between two tries whether there are free descriptors again.
const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// What a poller has to say of a process. It looks at it no longer.
pub(crate) enum Outcome {
    /// What was waited for has come.
    Exited(State),
    /// There is an event source for it again.
    EventsAvailable(sys::Process),
    /// It could not be looked at.
    Failed(io::Error),
    /// The poller has ended: the runtime has shut down, or has no thread for it. It had come so far.
    PollerClosed(WaitState),
}

/// Where outcome arrives, each with the token of its [`Watch`].
pub(crate) type OutcomeQueue = wake_queue::WakeQueue<(u64, Outcome)>;

/// A process being looked at, until this is dropped.
pub(crate) struct Watch {
    poller: Arc<Poller>,
    key: u64,
}

impl Watch {
    /// Has the current runtime's poller look at a process, and go on from this wait.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub(crate) fn new(
        probe: &Arc<Probe>,
        wait: WaitState,
        queue: &Arc<OutcomeQueue>,
        token: u64,
    ) -> Watch {
        let handle = Handle::current();
        loop {
            let (poller, is_new) = Poller::of(handle.id());
            let key = poller.add(Watched {
                probe: probe.clone(),
                wait,
                interval: MIN_INTERVAL,
                queue: queue.clone(),
                token,
            });
            if is_new {
                Slice {
                    poller: poller.clone(),
                    handle: handle.clone(),
                }
                .queue();
            }
            match key {
                Some(key) => return Watch { poller, key },
                None => poller.remove_from_list(),
            }
        }
    }

    /// Ends it, and returns how far it had come. `None`: it has ended, and its outcome has arrived.
    pub(crate) fn end(self) -> Option<WaitState> {
        self.poller.remove(self.key).map(|watched| watched.wait)
    }

    /// Whether it is the poller of this runtime that looks at it.
    pub(crate) fn is_in(&self, runtime: runtime::Id) -> bool {
        self.poller.runtime == runtime
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.poller.remove(self.key);
    }
}

/// Looks at all the processes that are polled in one runtime.
struct Poller {
    runtime: runtime::Id,
    schedule: Mutex<Schedule>,
    /// Something is due earlier than the poller thinks, or nothing is left to do.
    changed: Condvar,
}

#[derive(Default)]
struct Schedule {
    watched: HashMap<u64, Watched>,
    /// When to look at which, soonest first. Keys that are not `watched` any more are skipped.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    next_key: u64,
    /// Until when the poller sleeps.
    asleep_until: Option<Instant>,
    /// Not to look before.
    idle_until: Option<Instant>,
    /// Not to try for event sources before.
    reopen: Option<Instant>,
    /// It has ended, and takes nothing more.
    closed: bool,
}

struct Watched {
    probe: Arc<Probe>,
    wait: WaitState,
    interval: Duration,
    queue: Arc<OutcomeQueue>,
    token: u64,
}

type Pollers = HashMap<runtime::Id, Arc<Poller>>;

/// The pollers that have not closed. Nothing else is locked meanwhile, so this need not be loom's.
fn pollers() -> MutexGuard<'static, Pollers> {
    static POLLERS: LazyLock<StaticMutex<Pollers>> = LazyLock::new(StaticMutex::default);
    POLLERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    /// The poller of a runtime, and whether it has been made just now.
    fn of(runtime: runtime::Id) -> (Arc<Poller>, bool) {
        let mut pollers = pollers();
        let mut is_new = false;
        let poller = pollers.entry(runtime).or_insert_with(|| {
            is_new = true;
            let (schedule, changed) = (Mutex::new(Schedule::default()), Condvar::new());
            Arc::new(Poller {
                runtime,
                schedule,
                changed,
            })
        });
        (poller.clone(), is_new)
    }

    /// `None` if the poller has closed meanwhile.
    fn add(&self, watched: Watched) -> Option<u64> {
        let mut schedule = lock(&self.schedule);
        if schedule.closed {
            return None;
        }
        let key = schedule.next_key;
        schedule.next_key += 1;
        schedule.watched.insert(key, watched);
        // It was looked at just now.
        let due = Instant::now() + MIN_INTERVAL;
        schedule.due.push(Reverse((due, key)));
        let wake_at = schedule
            .idle_until
            .map_or(due, |idle_until| idle_until.max(due));
        if schedule.asleep_until.is_some_and(|until| wake_at < until) {
            self.changed.notify_one();
        }
        Some(key)
    }

    fn remove(&self, key: u64) -> Option<Watched> {
        let mut schedule = lock(&self.schedule);
        let removed = schedule.watched.remove(&key);
        let watched = schedule.watched.len();
        if watched == 0 {
            self.changed.notify_one();
        }
        // What has been dropped since the last look does not pile up.
        if schedule.due.len() > 2 * watched + BATCH_SIZE {
            let Schedule { watched, due, .. } = &mut *schedule;
            due.retain(|Reverse((_, key))| watched.contains_key(key));
        }
        removed
    }

    /// Looks at what is due, and sleeps in between. Returns whether another turn is needed.
    fn run_slice(&self) -> bool {
        let end = Instant::now() + MAX_SLICE;
        let mut worked = sys::thread_cpu_time();
        let mut schedule = lock(&self.schedule);
        while !schedule.watched.is_empty() {
            let now = Instant::now();
            if now >= end {
                return true;
            }
            let due = schedule.due.peek().map_or(now, |Reverse((due, _))| *due);
            let wake_at = schedule
                .idle_until
                .map_or(due, |idle_until| idle_until.max(due));
            if wake_at > now {
                schedule.asleep_until = Some(wake_at);
                let nap = wake_at.min(end) - now;
                let woken = self.changed.wait_timeout(schedule, nap);
                schedule = woken.unwrap_or_else(PoisonError::into_inner).0;
                schedule.asleep_until = None;
                continue;
            }

            let batch = schedule.take_due(now);
            let may_reopen = schedule.reopen.is_none_or(|reopen| reopen <= now);
            // Nobody is to wait for the lock while we look.
            drop(schedule);
            let (seen, still_may) = query_batch(batch, may_reopen);
            schedule = lock(&self.schedule);

            let (looked_since, now) = (now, Instant::now());
            // Only a try that was refused puts off the next one.
            if may_reopen && !still_may {
                schedule.reopen = Some(now + REOPEN_INTERVAL);
            }
            let wakers = schedule.process_outcome(seen, now);
            let before = mem::replace(&mut worked, sys::thread_cpu_time());
            // Where the clock is denied or coarse, the time that has passed will do. (On Windows it
            // moves by 16 ms at a time.)
            let work = match worked.saturating_sub(before) {
                Duration::ZERO => now - looked_since,
                work => work.min(now - looked_since),
            };
            schedule.idle_until = Some(now + work * IDLE_FACTOR);
            if !wakers.is_empty() {
                drop(schedule);
                wakers.into_iter().for_each(wake);
                // What wakers do is not our work.
                worked = sys::thread_cpu_time();
                schedule = lock(&self.schedule);
            }
        }
        schedule.closed = true;
        false
    }

    /// Ends for good, and says so to everybody who waits.
    fn close(self: &Arc<Self>) {
        let mut schedule = lock(&self.schedule);
        schedule.closed = true;
        let watched = mem::take(&mut schedule.watched);
        let put = |watched: &Watched| {
            watched
                .queue
                .send((watched.token, Outcome::PollerClosed(watched.wait)))
        };
        let wakers: Vec<Waker> = watched.values().filter_map(put).collect();
        drop(schedule);
        self.remove_from_list();
        wakers.into_iter().for_each(wake);
    }

    /// Makes room for the runtime's next poller, once this one has closed.
    fn remove_from_list(self: &Arc<Self>) {
        let mut pollers = pollers();
        if pollers
            .get(&self.runtime)
            .is_some_and(|poller| Arc::ptr_eq(poller, self))
        {
            pollers.remove(&self.runtime);
        }
    }
}

impl Schedule {
    fn take_due(&mut self, now: Instant) -> Vec<(u64, Arc<Probe>)> {
        let mut batch = Vec::with_capacity(BATCH_SIZE);
        while batch.len() < BATCH_SIZE {
            match self.due.peek() {
                Some(&Reverse((due, key))) if due <= now => {
                    self.due.pop();
                    if let Some(watched) = self.watched.get(&key) {
                        batch.push((key, watched.probe.clone()));
                    }
                }
                _ => break,
            }
        }
        batch
    }

    /// Takes in what was seen, puts what is outcome into the inboxes, and returns whom to wake.
    ///
    /// A process leaves `watched` and its outcome arrives under one lock, so that whoever takes it out
    /// finds either there.
    fn process_outcome(&mut self, seen: Vec<(u64, Queried)>, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (key, seen) in seen {
            let Some(watched) = self.watched.get_mut(&key) else {
                continue;
            };
            let outcome = match seen {
                Queried::State(state) => match watched.wait.update(state) {
                    Some(state) => Outcome::Exited(state),
                    None => {
                        watched.interval = MAX_INTERVAL.min(watched.interval * 2);
                        self.due.push(Reverse((now + watched.interval, key)));
                        continue;
                    }
                },
                Queried::Process(process) => Outcome::EventsAvailable(process),
                Queried::Error(error) => Outcome::Failed(error),
            };
            wakers.extend(watched.queue.send((watched.token, outcome)));
            self.watched.remove(&key);
        }
        wakers
    }
}

/// What a look has shown.
enum Queried {
    State(State),
    Process(sys::Process),
    Error(io::Error),
}

/// Looks at each, and tries for event sources as long as they are granted. Returns also whether
/// that is still so.
fn query_batch(batch: Vec<(u64, Arc<Probe>)>, mut may_reopen: bool) -> (Vec<(u64, Queried)>, bool) {
    let seen = batch.into_iter().map(|(key, probe)| {
        let seen = match probe.state() {
            Ok(State::Running) if may_reopen => match probe.reopen() {
                Reopened::Process(process) => Queried::Process(process),
                Reopened::Exhausted => {
                    may_reopen = false;
                    Queried::State(State::Running)
                }
                Reopened::No => Queried::State(State::Running),
            },
            Ok(state) => Queried::State(state),
            Err(error) => Queried::Error(error),
        };
        (key, seen)
    });
    (seen.collect(), may_reopen)
}

/// The poller's place on the blocking pool. Dropped there, be it by the shutdown of the runtime,
/// it ends the poller.
struct Slice {
    poller: Arc<Poller>,
    handle: Handle,
}

impl Slice {
    fn queue(self) {
        let (poller, handle) = (self.poller.clone(), self.handle.clone());
        let run = move || {
            if self.poller.run_slice() {
                self.queue();
            }
        };
        // It panics if it cannot start the pool's first thread, and leaves the task in the queue.
        // Whoever waits is told then, and may try again.
        if catch_unwind(AssertUnwindSafe(|| handle.spawn_blocking(run))).is_err() {
            poller.close();
        }
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.poller.close();
    }
}

#[cfg(all(test, tokio_process_exit_loom, target_os = "linux"))]
mod loom_tests {
    use super::*;
    use crate::wait_state::Until;

    fn poller() -> Arc<Poller> {
        static RUNTIME: LazyLock<runtime::Runtime> =
            LazyLock::new(|| runtime::Builder::new_current_thread().build().unwrap());
        Arc::new(Poller {
            runtime: RUNTIME.handle().id(),
            schedule: Mutex::new(Schedule::default()),
            changed: Condvar::new(),
        })
    }

    fn watch(poller: &Arc<Poller>, queue: &Arc<OutcomeQueue>) -> Option<Watch> {
        // Never looked at here. A poller of processes that are told by hand.
        static PROBE: LazyLock<Arc<Probe>> =
            LazyLock::new(|| match sys::Process::open(std::process::id()) {
                Ok(sys::Opened::Process(process)) => Arc::new(process.into_probe()),
                Ok(sys::Opened::Refused((probe, _))) => Arc::new(probe),
                Err(_) => unreachable!("ourselves"),
            });
        let watched = Watched {
            probe: PROBE.clone(),
            wait: WaitState::new(Until::Exit),
            interval: MIN_INTERVAL,
            queue: queue.clone(),
            token: 0,
        };
        let poller = poller.clone();
        let key = poller.add(watched)?;
        Some(Watch { poller, key })
    }

    /// What a turn does with an exit that it has seen.
    fn report(poller: &Poller, key: u64) {
        let exited = State::Exited {
            status: None,
            reaped: true,
        };
        let mut schedule = lock(&poller.schedule);
        let wakers = schedule.process_outcome(vec![(key, Queried::State(exited))], Instant::now());
        drop(schedule);
        wakers.into_iter().for_each(wake);
    }

    #[test]
    fn a_watch_that_ends_gives_its_progress_or_has_its_news_there() {
        loom::model(|| {
            let (poller, queue) = (poller(), Arc::<OutcomeQueue>::default());
            let watch = watch(&poller, &queue).unwrap();
            let reporter = loom::thread::spawn({
                let (poller, key) = (poller.clone(), watch.key);
                move || report(&poller, key)
            });
            let closer = loom::thread::spawn({
                let poller = poller.clone();
                move || poller.close()
            });
            match (watch.end(), queue.try_recv()) {
                (Some(_), None) => {}
                (None, Some((0, Outcome::Exited(_) | Outcome::PollerClosed(_)))) => {}
                (wait, outcome) => panic!("{:?} {}", wait, outcome.is_some()),
            }
            reporter.join().unwrap();
            closer.join().unwrap();
            assert!(queue.try_recv().is_none());
        });
    }

    #[test]
    fn whoever_waits_is_told_that_the_poller_has_closed_or_cannot_come_in() {
        loom::model(|| {
            let (poller, queue) = (poller(), Arc::<OutcomeQueue>::default());
            let closer = loom::thread::spawn({
                let poller = poller.clone();
                move || poller.close()
            });
            if let Some(watch) = watch(&poller, &queue) {
                let outcome =
                    loom::future::block_on(std::future::poll_fn(|cx| queue.poll_recv(cx)));
                assert!(matches!(outcome, (0, Outcome::PollerClosed(_))));
                assert!(watch.end().is_none());
            }
            closer.join().unwrap();
        });
    }

    #[test]
    fn an_exit_is_told_once_to_the_one_that_waits() {
        loom::model(|| {
            let (poller, queue) = (poller(), Arc::<OutcomeQueue>::default());
            let watch = watch(&poller, &queue).unwrap();
            let reporters = [(); 2].map(|()| {
                let (poller, key) = (poller.clone(), watch.key);
                loom::thread::spawn(move || report(&poller, key))
            });
            let outcome = loom::future::block_on(std::future::poll_fn(|cx| queue.poll_recv(cx)));
            assert!(matches!(outcome, (0, Outcome::Exited(_))));
            reporters.map(|reporter| reporter.join().unwrap());
            assert!(queue.try_recv().is_none());
            drop(watch);
        });
    }
}
