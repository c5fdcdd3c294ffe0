//! Waiting for many processes at once.

mod slab;

use std::collections::{HashMap, VecDeque, hash_map};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::runtime::{self, Handle};
use tokio::task::coop;

use self::slab::{Key, Slab};
use crate::error::{action_error, wait_error};
use crate::exit::Exit;
use crate::mechanism::{self, Mechanism};
use crate::poller::{Outcome, OutcomeQueue, Watch};
use crate::process_exit::{Parts, ProcessExit, Source, poller_closed, reap_events_unsupported};
use crate::sys::{
    self, Event, EventError, Probe, Refused, Registration, Reopened, Selector, State,
};
use crate::wait_state::{Until, WaitState};

/// Any number of processes, yielded as they exit.
///
/// The cost of an exit does not grow with the size of the set. On Unix all processes share one
/// registration with the reactor; each costs some 50 bytes, and on Linux its pidfd. On macOS and the
/// BSDs one descriptor does for all. On Windows each costs its handle and a registered wait.
///
/// Each process is yielded exactly once, in the order in which the kernel tells of the exits (on
/// Windows, in which the thread pool does), and has left the set then.
///
/// On Linux closing a pidfd takes longer than all the rest. So it is put off until no exit is ready,
/// and done in short turns then, or at once while more than half of the process's descriptors are
/// in use. What has exited keeps no descriptor once the set has been waited for without an exit, has
/// said that it is empty, or is dropped.
///
/// Where descriptors run out midway, the remaining processes are polled (see
/// [`ProcessExit::fallback_reason`]) until there are descriptors again.
///
/// The set is also a [`Stream`], which ends whenever the set is empty, and goes on after the next
/// insertion.
///
/// # Examples
///
/// Stop them all, kill those that do not obey:
///
/// ```no_run
/// use std::time::Duration;
/// use tokio_process_exit::ExitSet;
///
/// # async fn stop(pids: Vec<u32>, send_signal: fn(u32, &str)) -> std::io::Result<()> {
/// let mut set = ExitSet::new();
/// for pid in pids {
///     set.insert(pid)?;
/// }
/// set.pids().for_each(|pid| send_signal(pid, "TERM"));
/// for exit in set.exits_within(Duration::from_secs(3)).await? {
///     println!("{exit}");
/// }
/// set.pids().for_each(|pid| send_signal(pid, "KILL"));
/// while let Some(exit) = set.next_exit().await {
///     println!("{} (killed)", exit?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// Beside other work:
///
/// ```no_run
/// # use tokio_process_exit::ExitSet;
/// # async fn supervise(mut set: ExitSet, mut orders: tokio::sync::mpsc::Receiver<u32>) -> std::io::Result<()> {
/// loop {
///     tokio::select! {
///         Some(exit) = set.next_exit() => println!("{}", exit?),
///         Some(pid) = orders.recv() => { set.insert(pid)?; }
///         else => return Ok(()), // nothing is left, and no orders will come
///     }
/// }
/// # }
/// ```
///
/// As a stream:
///
/// ```no_run
/// use futures::StreamExt;
/// # use tokio_process_exit::ExitSet;
///
/// # async fn report(set: ExitSet) {
/// set.for_each(|exit| async move {
///     match exit {
///         Ok(exit) => println!("{exit}"),
///         Err(error) => eprintln!("{error}"),
///     }
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
///
/// As [`ProcessExit`], when polled outside a tokio runtime or in one with I/O disabled.
#[derive(Default)]
pub struct ExitSet {
    selector: Selector,
    slots: Slab<Entry>,
    /// The process in the set that has this pid, or had it last. Those among the `leaving` may
    /// still be found here, with keys that lead nowhere.
    by_pid: HashMap<NonZeroU32, Key>,
    /// What the kernel has told and nobody has looked at.
    events: VecDeque<Event>,
    /// Those that have exited and have not been yielded, in order.
    exited: VecDeque<Key>,
    polling: Polling,
    /// Processes that have been yielded. Closing a pidfd takes the kernel longer than all the rest,
    /// so it is put off until no exit is ready, and so is whatever else can be.
    close_queue: Vec<Closing>,
    /// Others need the descriptors of those. Asked anew once the set was idle or has taken some in, as
    /// those that it closes itself hide how few there are.
    close_eagerly: bool,
}

/// A process that has been yielded, but for its descriptor.
struct Closing {
    pid: Option<NonZeroU32>,
    key: Key,
    registration: Registration,
}

/// The polled part of a set.
#[derive(Default)]
struct Polling {
    /// How many there are.
    count: usize,
    /// Those that no poller looks at, yet or any more.
    unwatched: VecDeque<Key>,
    /// Where the pollers' outcome arrives.
    queue: Arc<OutcomeQueue>,
    /// The runtime whose poller looks at them.
    runtime: Option<runtime::Id>,
}

/// The state of a process in the set.
enum Slot {
    /// Left behind while the state moves into the next one.
    Moving,
    /// The group will tell of its exit.
    Registered(Registration),
    /// The group will tell of its exit, and then of its reap.
    RegisteredUntilReap(Box<(Registration, WaitState)>),
    Polled(Box<Polled>),
    /// It has exited.
    Exited {
        registration: Registration,
        status: Option<sys::Status>,
    },
    ExitedPolled(Box<(Arc<Probe>, Option<sys::Status>)>),
    /// It could not be opened, or not be looked at any more.
    Failed(Box<io::Error>),
}

impl Slot {
    /// What no other process has, where that is known.
    fn unique_id(&self) -> Option<u64> {
        match self {
            Slot::Registered(registration) | Slot::Exited { registration, .. } => {
                registration.unique_id()
            }
            Slot::RegisteredUntilReap(waiting) => waiting.0.unique_id(),
            Slot::Polled(polled) => polled.probe.unique_id(),
            Slot::ExitedPolled(exited) => exited.0.unique_id(),
            Slot::Failed(_) | Slot::Moving => None,
        }
    }
}

struct Polled {
    probe: Arc<Probe>,
    watch: Option<Watch>,
    wait: WaitState,
}

impl Polling {
    /// One has left the polled part. Its key may stay behind, but such keys do not pile up.
    fn forget_one(&mut self) {
        self.count -= 1;
        if self.count == 0 {
            self.unwatched.clear();
        }
    }
}

impl Polled {
    /// Ends the watch, and takes over what the poller has seen.
    fn take_back(&mut self) {
        if let Some(wait) = self.watch.take().and_then(Watch::end) {
            self.wait.record_status(wait.status());
        }
    }

    /// Looks once. `None`: there is no outcome.
    fn query_state(&mut self) -> Option<Outcome> {
        match self.probe.state() {
            Ok(state) => self.wait.update(state).map(Outcome::Exited),
            Err(error) => Some(Outcome::Failed(error)),
        }
    }
}

/// A process in the set.
struct Entry {
    /// `None` for an adopted process that has no pid here.
    pid: Option<NonZeroU32>,
    slot: Slot,
}

impl Entry {
    fn polled(&mut self) -> Option<&mut Polled> {
        match &mut self.slot {
            Slot::Polled(polled) => Some(polled),
            _ => None,
        }
    }
}

impl ExitSet {
    /// An empty set.
    ///
    /// # Examples
    ///
    /// ```
    /// let set = tokio_process_exit::ExitSet::new();
    /// assert!(set.is_empty());
    /// ```
    pub fn new() -> ExitSet {
        ExitSet::default()
    }

    /// An empty set with room for so many processes.
    ///
    /// On Linux this also makes room in the process's descriptor table, within its limit. In a
    /// process with several threads each growth of the table takes milliseconds, in which the calling
    /// thread waits for an RCU grace period. Without a capacity there are a few of them as the set
    /// grows; with one, it is this call. Made while there is but one thread, before the runtime is
    /// built, it takes no time.
    ///
    /// # Examples
    ///
    /// ```
    /// let set = tokio_process_exit::ExitSet::with_capacity(1000);
    /// assert!(set.is_empty());
    /// ```
    pub fn with_capacity(capacity: usize) -> ExitSet {
        let mut set = ExitSet::default();
        set.slots.reserve(capacity);
        set.by_pid.reserve(capacity);
        set.selector.reserve(capacity);
        set
    }

    /// Opens the process `pid` and adds it. `false` if that very process is in the set already.
    ///
    /// A process that has got the pid of an earlier one is another process. Both are yielded, even
    /// if the earlier one's exit has not been.
    ///
    /// # Errors
    ///
    /// Those of [`ProcessExit::open`]. The set is left as it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// let me = std::process::id();
    /// assert!(set.insert(me)?);
    /// assert!(!set.insert(me)?);
    /// assert_eq!(set.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert(&mut self, pid: u32) -> io::Result<bool> {
        let number = pid;
        let pid = NonZeroU32::new(number);
        if let Some(key) = self.key_of(pid) {
            self.drain_events();
            if !self.is_reaped(key) {
                // It has the pid, so nobody else has.
                return Ok(false);
            }
        }
        let key = self.slots.next_key();
        let mut opened = self.selector.open(number, key.to_u64());
        // Those that are about to be closed may be what it takes.
        while matches!(opened, Ok(Err(_))) && !self.close_queue.is_empty() {
            self.close_batch();
            opened = self.selector.open(number, key.to_u64());
        }
        let entered = opened.map_err(|error| error.to_io_error(pid))?;
        let slot = self.entered_slot(pid, key, entered, WaitState::new(Until::Exit));
        self.add(pid, slot);
        Ok(true)
    }

    /// Adds a process that has been opened or adopted. `false` if that very process is in the set
    /// already; `exit` is dropped then.
    ///
    /// What it waits for stays the same: after [`reaped`](ProcessExit::until_reaped) it is yielded at the
    /// reap. If it could not be opened, the set yields the error. A process that has been reaped, and
    /// whose pid another one in the set has by now, is not recognized, and comes in again.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::{ExitSet, exit_of};
    ///
    /// let mut set = ExitSet::new();
    /// assert!(set.insert_exit(exit_of(std::process::id())));
    /// assert!(!set.insert_exit(exit_of(std::process::id())));
    /// ```
    pub fn insert_exit(&mut self, exit: ProcessExit) -> bool {
        let Parts {
            pid,
            wait,
            mut source,
        } = exit.into_parts();
        if let (Source::Polled(polled), false) = (&source, self.close_queue.is_empty()) {
            // It may be for want of those that are about to be closed.
            self.close_batch();
            if let Reopened::Process(process) = polled.probe().reopen() {
                source = Source::Registered(process);
            }
        }
        let mut owner = self.key_of(pid);
        if let Some(key) = owner {
            let is_running = match &source {
                Source::Registered(process) => matches!(process.state(), Ok(State::Running)),
                _ => false,
            };
            self.drain_events();
            if self.is_same(key, &source) {
                return false;
            }
            // The one that was opened earlier may come in later.
            owner = owner.filter(|&key| !is_running && !self.is_reaped(key));
        }
        let key = self.slots.next_key();
        let slot = match (wait.exited(), source) {
            (_, Source::Failed(error)) => Slot::Failed(Box::new(error.to_io_error(pid))),
            (Some(status), Source::Registered(process)) => {
                Slot::ExitedPolled(Box::new((Arc::new(process.into_probe()), status)))
            }
            (Some(status), Source::Polled(polled)) => {
                Slot::ExitedPolled(Box::new((polled.into_probe(), status)))
            }
            (None, Source::Registered(process)) => self.enter(pid, key, process, wait),
            (None, Source::Polled(polled)) => self.polled_slot(key, polled.into_probe(), wait),
        };
        if matches!(slot, Slot::Failed(_) | Slot::ExitedPolled(_)) {
            self.exited.push_back(key);
        }
        self.add(pid, slot);
        if let (Some(pid), Some(owner)) = (pid, owner) {
            self.by_pid.insert(pid, owner);
        }
        true
    }

    /// Takes a process out of the set. `false` if it was not in it.
    ///
    /// Of several processes that have had this pid one after the other, it is the last. The earlier
    /// ones, which have exited, cannot be removed: they are yielded.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// let me = std::process::id();
    /// set.insert(me)?;
    /// assert!(set.remove(me));
    /// assert!(!set.remove(me));
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&mut self, pid: u32) -> bool {
        let Some(key) = NonZeroU32::new(pid).and_then(|pid| self.by_pid.remove(&pid)) else {
            return false;
        };
        match self.slots.remove(key).map(|entry| entry.slot) {
            Some(Slot::Registered(registration)) => self.selector.deregister(registration),
            Some(Slot::RegisteredUntilReap(waiting)) => self.selector.deregister(waiting.0),
            Some(Slot::Polled(_)) => self.polling.forget_one(),
            Some(_) => self.exited.retain(|&exited| exited != key),
            None => return false,
        }
        true
    }

    /// Whether the process that has this pid, or had it last, is in the set.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// let me = std::process::id();
    /// assert!(!set.contains(me));
    /// set.insert(me)?;
    /// assert!(set.contains(me));
    /// # Ok(())
    /// # }
    /// ```
    pub fn contains(&self, pid: u32) -> bool {
        self.key_of(NonZeroU32::new(pid)).is_some()
    }

    /// How many processes have not been yielded.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// set.insert(std::process::id())?;
    /// assert_eq!(set.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether all processes have been yielded.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(tokio_process_exit::ExitSet::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pids of the processes that have not been yielded: those still running, as far as this
    /// set has told. Adopted processes that have no pid here are left out.
    ///
    /// A process that has exited since may have been reaped, and its pid may be another's. So leave
    /// signals to `ExitSet::signal` (on Unix) or `ExitSet::terminate` (on Windows).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// set.insert(std::process::id())?;
    /// assert_eq!(set.pids().collect::<Vec<_>>(), [std::process::id()]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots
            .iter()
            .filter_map(|(_, entry)| entry.pid)
            .map(NonZeroU32::get)
    }

    /// How many of the processes are polled, as the system refuses an event source for them.
    ///
    /// # Examples
    ///
    /// ```
    /// let set = tokio_process_exit::ExitSet::new();
    /// if set.polled_len() > 0 {
    ///     eprintln!("{} of {} processes are polled", set.polled_len(), set.len());
    /// }
    /// ```
    pub fn polled_len(&self) -> usize {
        self.polling.count
    }

    /// Waits for the next exit. `None`: the set is empty.
    ///
    /// # Errors
    ///
    /// Yields an error, once, for a process that was inserted though it could not be opened
    /// ([`insert_exit`](ExitSet::insert_exit)), or that cannot be looked at any more. Yields one
    /// also when the runtime shuts down; then no process is lost.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn report(set: &mut tokio_process_exit::ExitSet) {
    /// while let Some(exit) = set.next_exit().await {
    ///     match exit {
    ///         Ok(exit) => println!("{exit}"),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn next_exit(&mut self) -> Option<io::Result<Exit>> {
        poll_fn(|cx| self.poll_next_exit(cx)).await
    }

    /// As [`next_exit`](ExitSet::next_exit), to be polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::task::{Context, Poll};
    /// use tokio_process_exit::{Exit, ExitSet};
    ///
    /// struct Supervisor {
    ///     processes: ExitSet,
    /// }
    ///
    /// impl Supervisor {
    ///     fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Exit>>> {
    ///         self.processes.poll_next_exit(cx)
    ///     }
    /// }
    /// ```
    pub fn poll_next_exit(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Exit>>> {
        if !self.exited.is_empty() {
            // It was looked at before, so this is all that it costs now.
            ready!(coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(self.pop_exited());
        }
        match self.poll_exited(0, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                self.close_if_idle(cx);
                return Poll::Pending;
            }
        }
        match self.pop_exited() {
            None if self.close_some(cx) => Poll::Pending,
            exit => Poll::Ready(exit),
        }
    }

    /// The next exit that has happened by now. `None`: none has.
    ///
    /// Does not block, and works outside a runtime. It looks at every process that is
    /// [`polled`](ExitSet::polled_len), and on Windows at all.
    ///
    /// # Errors
    ///
    /// As [`next_exit`](ExitSet::next_exit).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// set.insert(std::process::id())?;
    /// assert!(set.try_next_exit().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_next_exit(&mut self) -> Option<io::Result<Exit>> {
        loop {
            if let Some(exit) = self.pop_exited() {
                return Some(exit);
            }
            if let Err(error) = self.try_exited() {
                return Some(Err(error));
            }
            if self.exited.is_empty() {
                self.close_all();
                return None;
            }
        }
    }

    /// Waits until all processes have exited, but no longer than `timeout`. Returns those that
    /// have; [`pids`](ExitSet::pids) are those that have not.
    ///
    /// An exit that has happened by the end of `timeout` is among them. A `timeout` of zero waits
    /// for nothing, and returns what has exited by now.
    ///
    /// # Errors
    ///
    /// As [`next_exit`](ExitSet::next_exit). Nothing is lost: what has exited before the error is
    /// returned, and the error by the next call.
    ///
    /// # Panics
    ///
    /// If the runtime has no time enabled.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_process_exit::ExitSet;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let mut set = ExitSet::new();
    /// set.insert(std::process::id())?;
    /// let gone = set.exits_within(Duration::from_millis(10)).await?;
    /// println!("{} are gone, {} are not", gone.len(), set.len());
    /// # assert!(gone.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exits_within(&mut self, timeout: Duration) -> io::Result<Vec<Exit>> {
        let mut elapsed = pin!(tokio::time::sleep(timeout));
        let mut last_look = false;
        let waited = poll_fn(|cx| {
            while self.exited.len() < self.len() {
                if let Poll::Ready(result) = self.poll_exited(self.exited.len(), cx) {
                    result?;
                    continue;
                }
                self.close_if_idle(cx);
                // Nothing was ready, or so much that it is the turn of others for a while.
                if !coop::has_budget_remaining() {
                    return Poll::Pending;
                }
                ready!(Future::poll(elapsed.as_mut(), cx));
                // Neither the reactor nor a poller may have told yet.
                if last_look {
                    break;
                }
                self.try_events()?;
                if self.events.is_empty() {
                    last_look = true;
                    self.polling.unwatched = self.polled_keys();
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        let mut exits = Vec::with_capacity(self.exited.len());
        while let Some(&key) = self.exited.front() {
            // The first error is for the next call, unless it comes first.
            let failed = self
                .slots
                .get(key)
                .is_some_and(|entry| matches!(entry.slot, Slot::Failed(_)));
            if failed && !exits.is_empty() {
                return Ok(exits);
            }
            match self.pop_exited() {
                Some(exit) => exits.push(exit?),
                None => break,
            }
        }
        // Nobody may ask for more. That is all for a small set, and a moment for a large one.
        self.close_batch();
        match waited {
            Err(error) if exits.is_empty() => Err(error),
            _ => Ok(exits),
        }
    }
}

/// How processes come in.
impl ExitSet {
    /// Does something to a process in the set, or fails with `NotFound` if it has exited.
    pub(crate) fn with_process(
        &mut self,
        pid: u32,
        what: &str,
        by_registration: impl FnOnce(&Registration) -> io::Result<()>,
        by_probe: impl FnOnce(&Probe) -> io::Result<()>,
    ) -> io::Result<()> {
        self.drain_events();
        let number = pid;
        let pid = NonZeroU32::new(number);
        let key = self.key_of(pid);
        let Some(entry) = key.and_then(|key| self.slots.get(key)) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {number} is not in the set"),
            ));
        };
        let done = match &entry.slot {
            Slot::Registered(registration) => by_registration(registration),
            Slot::RegisteredUntilReap(waiting) => by_registration(&waiting.0),
            Slot::Polled(polled) => by_probe(&polled.probe),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        done.map_err(|error| action_error(what, pid, &error))
    }

    /// The process in the set that has this pid, or had it last.
    fn key_of(&self, pid: Option<NonZeroU32>) -> Option<Key> {
        let key = *self.by_pid.get(&pid?)?;
        self.slots.get(key).is_some().then_some(key)
    }

    /// Adds what has the [next key](Slab::next_key).
    fn add(&mut self, pid: Option<NonZeroU32>, slot: Slot) {
        let key = self.slots.insert(Entry { pid, slot });
        self.close_eagerly = false;
        self.selector.grow_fd_table(self.len());
        if self.close_queue.len() > self.len().max(CLOSE_BATCH) {
            self.close_batch();
        }
        if let Some(pid) = pid {
            self.by_pid.insert(pid, key);
        }
    }

    /// Adds a process to the group, or has it polled if the system refuses that.
    fn enter(
        &mut self,
        pid: Option<NonZeroU32>,
        key: Key,
        process: sys::Process,
        wait: WaitState,
    ) -> Slot {
        let entered = self.selector.register(process, key.to_u64());
        self.entered_slot(pid, key, entered, wait)
    }

    fn entered_slot(
        &mut self,
        pid: Option<NonZeroU32>,
        key: Key,
        entered: Result<Registration, Refused>,
        wait: WaitState,
    ) -> Slot {
        match entered {
            Ok(registration) => {
                mechanism::trace(pid, sys::Process::MECHANISM, None);
                self.registered_slot(registration, wait)
            }
            Err((probe, reason)) => {
                mechanism::trace(pid, Mechanism::Polling, Some(&reason));
                self.polled_slot(key, Arc::new(probe), wait)
            }
        }
    }

    fn registered_slot(&mut self, registration: Registration, wait: WaitState) -> Slot {
        match wait.until() {
            Until::Exit => Slot::Registered(registration),
            Until::Reap => Slot::RegisteredUntilReap(Box::new((registration, wait))),
        }
    }

    fn polled_slot(&mut self, key: Key, probe: Arc<Probe>, wait: WaitState) -> Slot {
        self.polling.count += 1;
        if self.polling.unwatched.len() > 2 * self.polling.count + 64 {
            let slots = &self.slots;
            self.polling
                .unwatched
                .retain(|&key| slots.get(key).is_some());
        }
        self.polling.unwatched.push_back(key);
        Slot::Polled(Box::new(Polled {
            probe,
            watch: None,
            wait,
        }))
    }

    /// Whether the pid of a process in the set is free for another.
    fn is_reaped(&self, key: Key) -> bool {
        let Some(entry) = self.slots.get(key) else {
            return true;
        };
        match &entry.slot {
            Slot::Registered(registration) | Slot::Exited { registration, .. } => {
                registration.is_reaped()
            }
            Slot::RegisteredUntilReap(waiting) => waiting.0.is_reaped(),
            Slot::Polled(polled) => polled.probe.is_reaped(),
            Slot::ExitedPolled(exited) => exited.0.is_reaped(),
            Slot::Failed(_) | Slot::Moving => true,
        }
    }

    /// Whether a process in the set is the one that this source, of the same pid, tells of.
    fn is_same(&self, key: Key, source: &Source) -> bool {
        let Some(entry) = self.slots.get(key) else {
            return false;
        };
        // Two that differ prove nothing here: a process that is polled may have several.
        let (this, other) = (entry.slot.unique_id(), source.unique_id());
        if this.is_some() && this == other {
            return true;
        }
        match (&entry.slot, source) {
            (
                Slot::Registered(registration) | Slot::Exited { registration, .. },
                Source::Registered(process),
            ) => registration.is(process),
            (Slot::RegisteredUntilReap(waiting), Source::Registered(process)) => {
                waiting.0.is(process)
            }
            // No two have the pid at one time.
            (_, Source::Registered(process)) => !self.is_reaped(key) && !process.is_reaped(),
            (_, Source::Polled(polled)) => !self.is_reaped(key) && !polled.probe().is_reaped(),
            (_, Source::Failed(_)) => false,
        }
    }
}

/// How exits become known.
impl ExitSet {
    /// Takes in every event that there is, where that is the only way to know that a member has
    /// exited.
    fn drain_events(&mut self) {
        if !Selector::TELLS_ONCE {
            return;
        }
        loop {
            while let Some(event) = self.events.pop_front() {
                self.process_event(&event);
            }
            if self.try_events().is_err() || self.events.is_empty() {
                break;
            }
        }
    }

    /// Waits until more than so many exits are known, or there is no other to come.
    fn poll_exited(&mut self, known: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watched_anew = false;
        loop {
            if self.exited.len() > known || self.exited.len() == self.len() {
                return Poll::Ready(Ok(()));
            }
            if !self.events.is_empty() {
                ready!(coop::poll_proceed(cx)).made_progress();
                if let Some(event) = self.events.pop_front() {
                    self.process_event(&event);
                }
                continue;
            }
            if self.polling.count > 0 {
                watched_anew |= !self.polling.unwatched.is_empty();
                if let Some((key, outcome)) = ready!(self.poll_watch(cx)) {
                    self.process_outcome(key, outcome);
                    continue;
                }
                let coop = ready!(coop::poll_proceed(cx));
                if let Poll::Ready((key, outcome)) = self.polling.queue.poll_recv(cx) {
                    coop.made_progress();
                    let has_closed = matches!(outcome, Outcome::PollerClosed(_));
                    self.process_outcome(Key::from_u64(key), outcome);
                    if has_closed && watched_anew {
                        return Poll::Ready(Err(poller_closed()));
                    }
                    continue;
                }
            }
            match ready!(self.selector.poll_events(cx, &mut self.events)) {
                Ok(()) => {}
                Err(EventError::Refused(reason)) => self.fall_back(&reason),
                Err(EventError::Other(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Finds some of the exits that have happened, without waiting.
    fn try_exited(&mut self) -> io::Result<()> {
        let known = self.exited.len();
        while self.exited.len() == known {
            if self.events.is_empty() {
                self.try_events()?;
            }
            match self.events.pop_front() {
                Some(event) => self.process_event(&event),
                None => break,
            }
        }
        self.drain_outcomes();
        if self.exited.len() > known || self.polling.count == 0 {
            return Ok(());
        }
        for key in self.polled_keys() {
            let Some(polled) = self.slots.get_mut(key).and_then(Entry::polled) else {
                continue;
            };
            if let Some(outcome) = polled.query_state() {
                // The poller may have been faster, and may have seen more.
                match polled.watch.take().map(Watch::end) {
                    Some(None) => self.drain_outcomes(),
                    Some(Some(wait)) => {
                        polled.wait.record_status(wait.status());
                        self.process_outcome(key, outcome);
                    }
                    None => self.process_outcome(key, outcome),
                }
            }
        }
        Ok(())
    }

    /// Takes some of the events that there are, without waiting.
    fn try_events(&mut self) -> io::Result<()> {
        self.selector.try_events(&mut self.events)?;
        if Selector::TELLS_LATE && self.events.is_empty() {
            let untold = self.slots.iter().filter_map(|(key, entry)| {
                let registration = match &entry.slot {
                    Slot::Registered(registration) => registration,
                    Slot::RegisteredUntilReap(waiting) => &waiting.0,
                    _ => return None,
                };
                registration.untold_event(key.to_u64())
            });
            self.events.extend(untold);
        }
        Ok(())
    }

    fn polled_keys(&self) -> VecDeque<Key> {
        let is_polled = |entry: &Entry| matches!(entry.slot, Slot::Polled(_));
        self.slots
            .iter()
            .filter(|(_, entry)| is_polled(entry))
            .map(|(key, _)| key)
            .collect()
    }

    /// Looks at a process that something has happened to.
    fn process_event(&mut self, event: &Event) {
        let key = Key::from_u64(event.key);
        // A process that has been removed may still have had an event.
        let Some(entry) = self.slots.get_mut(key) else {
            return;
        };
        let mut plain = WaitState::new(Until::Exit);
        let (registration, wait) = match &mut entry.slot {
            Slot::Registered(registration) => (registration, &mut plain),
            Slot::RegisteredUntilReap(waiting) => {
                let (registration, wait) = &mut **waiting;
                (registration, wait)
            }
            _ => return,
        };
        let state = match registration.state_after(event) {
            Ok(state) => state,
            Err(error) => return self.fail(key, error),
        };
        match wait.update(state) {
            Some(State::Exited { status, .. }) => self.set_exited(key, status),
            // Nothing that we wait for has happened yet, and it will tell once more.
            _ if state == State::Running || registration.has_reap_event() => {
                if let Err(error) = self.selector.reregister(registration, event.key, state) {
                    self.fail(key, error);
                }
            }
            _ => self.demote_to_polling(key, &reap_events_unsupported()),
        }
    }

    /// Has the current runtime's poller look at each polled process that none looks at, unless a
    /// first look shows that it has exited. Ready with one that has, or with `None` when all are
    /// watched.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Key, Outcome)>> {
        let here = Handle::current().id();
        if self.polling.runtime != Some(here) {
            self.drain_outcomes();
            // A new queue, so that nothing arrives from another runtime's poller any more.
            self.polling.runtime = Some(here);
            self.polling.queue = Arc::default();
            self.polling.unwatched = self.polled_keys();
        }
        while let Some(&key) = self.polling.unwatched.front() {
            if self.slots.get(key).is_some() {
                ready!(coop::poll_proceed(cx)).made_progress();
            }
            self.polling.unwatched.pop_front();
            let Some(polled) = self.slots.get_mut(key).and_then(Entry::polled) else {
                continue;
            };
            polled.take_back();
            if let Some(outcome) = polled.query_state() {
                return Poll::Ready(Some((key, outcome)));
            }
            let queue = &self.polling.queue;
            let (probe, token) = (&polled.probe, key.to_u64());
            polled.watch = Some(Watch::new(probe, polled.wait, queue, token));
        }
        Poll::Ready(None)
    }

    /// Takes in what the poller has told by now.
    fn drain_outcomes(&mut self) {
        while let Some((key, outcome)) = self.polling.queue.try_recv() {
            self.process_outcome(Key::from_u64(key), outcome);
        }
    }

    /// Takes in what a poller has told.
    fn process_outcome(&mut self, key: Key, outcome: Outcome) {
        // It may have been told of a process that has been removed since.
        let Some(polled) = self.slots.get_mut(key).and_then(Entry::polled) else {
            return;
        };
        polled.take_back();
        match outcome {
            Outcome::Exited(State::Exited { status, .. }) => {
                let status = status.or(polled.wait.status());
                self.polling.forget_one();
                self.set_exited(key, status);
            }
            Outcome::EventsAvailable(process) => {
                let wait = polled.wait;
                self.polling.forget_one();
                let pid = self.slots.get(key).and_then(|entry| entry.pid);
                let slot = self.enter(pid, key, process, wait);
                self.put(key, slot);
            }
            Outcome::Failed(error) => {
                self.polling.forget_one();
                self.fail(key, error);
            }
            Outcome::PollerClosed(wait) => {
                polled.wait.record_status(wait.status());
                self.polling.unwatched.push_back(key);
            }
            // A poller tells of exits only.
            Outcome::Exited(State::Running) => self.polling.unwatched.push_back(key),
        }
    }

    /// Has all processes polled, as the reactor refuses the group.
    #[cold]
    fn fall_back(&mut self, reason: &io::Error) {
        self.drain_events();
        let keys: Vec<Key> = self.slots.iter().map(|(key, _)| key).collect();
        keys.into_iter()
            .for_each(|key| self.demote_to_polling(key, reason));
        // A member may have exited just before it was to be polled by its pid.
        while Selector::TELLS_ONCE {
            let _ = self.selector.try_events(&mut self.events);
            if self.events.is_empty() {
                break;
            }
            while let Some(event) = self.events.pop_front() {
                let key = Key::from_u64(event.key);
                let (Some(state), Some(polled)) = (
                    event.told(),
                    self.slots.get_mut(key).and_then(Entry::polled),
                ) else {
                    continue;
                };
                // If it is waited for until its reap, the poller sees to that.
                if let Some(state) = polled.wait.update(state) {
                    self.process_outcome(key, Outcome::Exited(state));
                }
            }
        }
        self.events.clear();
        self.selector = Selector::default();
    }

    /// Has a member of the group polled.
    fn demote_to_polling(&mut self, key: Key, reason: &io::Error) {
        let Some(entry) = self.slots.get_mut(key) else {
            return;
        };
        let (registration, wait) = match mem::replace(&mut entry.slot, Slot::Moving) {
            Slot::Registered(registration) => (registration, WaitState::new(Until::Exit)),
            Slot::RegisteredUntilReap(waiting) => *waiting,
            slot => {
                entry.slot = slot;
                return;
            }
        };
        mechanism::trace(entry.pid, Mechanism::Polling, Some(reason));
        let slot = self.polled_slot(key, Arc::new(registration.into_probe()), wait);
        self.put(key, slot);
    }

    fn put(&mut self, key: Key, slot: Slot) {
        if let Some(entry) = self.slots.get_mut(key) {
            entry.slot = slot;
        }
    }

    fn set_exited(&mut self, key: Key, status: Option<sys::Status>) {
        self.end(key, |slot| match slot {
            Slot::Registered(registration) => Slot::Exited {
                registration,
                status,
            },
            Slot::RegisteredUntilReap(waiting) => Slot::Exited {
                registration: waiting.0,
                status,
            },
            Slot::Polled(polled) => Slot::ExitedPolled(Box::new((polled.probe, status))),
            slot => slot,
        });
    }

    fn fail(&mut self, key: Key, error: io::Error) {
        let Some(entry) = self.slots.get(key) else {
            return;
        };
        let error = wait_error(entry.pid, &error);
        self.end(key, |_| Slot::Failed(Box::new(error)));
    }

    fn end(&mut self, key: Key, end: impl FnOnce(Slot) -> Slot) {
        if let Some(entry) = self.slots.get_mut(key) {
            entry.slot = end(mem::replace(&mut entry.slot, Slot::Moving));
            self.exited.push_back(key);
        }
    }
}

/// How processes leave.
impl ExitSet {
    fn pop_exited(&mut self) -> Option<io::Result<Exit>> {
        let key = self.exited.pop_front()?;
        let Entry { pid, slot } = self.slots.remove(key)?;
        let exit = match slot {
            Slot::Exited {
                registration,
                status,
            } => {
                self.leave(pid, key, registration);
                return Some(Ok(Exit::new(pid, status)));
            }
            Slot::ExitedPolled(exited) => Ok(Exit::new(pid, exited.1)),
            Slot::Failed(error) => Err(*error),
            // Those are not among the `exited`.
            Slot::Registered(_) | Slot::RegisteredUntilReap(_) | Slot::Polled(_) | Slot::Moving => {
                return None;
            }
        };
        self.forget(pid, key);
        Some(exit)
    }

    /// Closes a member that has been yielded: later, unless others need its descriptor.
    fn leave(&mut self, pid: Option<NonZeroU32>, key: Key, registration: Registration) {
        // To ask takes system calls, so it is not done at each exit of many.
        const EVERY: usize = 32;
        let is_due = self.close_queue.len() % EVERY == 0;
        self.close_queue.push(Closing {
            pid,
            key,
            registration,
        });
        self.close_eagerly = self.close_eagerly || (is_due && self.selector.fds_are_scarce());
        if self.close_eagerly {
            self.close_batch();
        }
    }

    /// Forgets whose the pid was, unless it is another's by now.
    fn forget(&mut self, pid: Option<NonZeroU32>, key: Key) {
        let Some(pid) = pid else { return };
        if let hash_map::Entry::Occupied(entry) = self.by_pid.entry(pid) {
            if *entry.get() == key {
                entry.remove();
            }
        }
    }

    /// Closes a batch if nothing is ready, and not only because it is the turn of others.
    fn close_if_idle(&mut self, cx: &mut Context<'_>) {
        if self.events.is_empty() && coop::has_budget_remaining() {
            self.close_eagerly = false;
            self.close_some(cx);
        }
    }

    /// Closes a batch, and sees to it that the rest follows when others have had their turn.
    /// Returns whether there is a rest.
    fn close_some(&mut self, cx: &mut Context<'_>) -> bool {
        self.close_batch();
        let rest = !self.close_queue.is_empty();
        if rest {
            cx.waker().wake_by_ref();
        }
        rest
    }

    fn close_batch(&mut self) {
        self.close_down_to(self.close_queue.len().saturating_sub(CLOSE_BATCH));
    }

    fn close_all(&mut self) {
        self.close_down_to(0);
    }

    fn close_down_to(&mut self, rest: usize) {
        while self.close_queue.len() > rest {
            if let Some(Closing {
                pid,
                key,
                registration: _closed_here,
            }) = self.close_queue.pop()
            {
                self.forget(pid, key);
            }
        }
        if rest == 0 {
            // A set that goes on need not keep the memory of its largest burst.
            self.close_queue = Vec::new();
        }
    }
}

/// So many are closed before others have their turn: about half a millisecond.
const CLOSE_BATCH: usize = 128;

impl Stream for ExitSet {
    type Item = io::Result<Exit>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_next_exit(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl fmt::Debug for ExitSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitSet")
            .field("len", &self.len())
            .field("polled", &self.polled_len())
            .field("exited", &self.exited.len())
            .finish_non_exhaustive()
    }
}
