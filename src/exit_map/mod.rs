//! Waiting for many processes, each with a key.

mod keys;

use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;

use self::keys::Keys;
use crate::exit::Exit;
use crate::members::Members;
use crate::process_exit::ProcessExit;
use crate::sys::{Probe, Registration};

/// A map of processes, which yields each process with its key when the process exits.
///
/// `ExitMap` is to [`ExitSet`](crate::ExitSet) what `JoinMap` of tokio-util is to `JoinSet`. The key says
/// which process has exited, for example the name of a worker that is to be restarted. Everything else is as
/// for a set: the cost of a wait, the order of the exits, [descriptors](crate::ExitSet#descriptors) and
/// [forks](crate::ExitSet#fork). Besides, the map stores each key twice.
///
/// One process can be under several keys, and is then yielded once for each key. Each key has a wait of its own,
/// so on Linux each takes a descriptor. On macOS and the BSDs, a kqueue reports the exit only once: the waits
/// under the other keys are [polled](crate::Mechanism::Polling). They find the exit up to 40 ms later, with
/// many polled processes later still, and the exit status only if the process has not been reaped by then.
/// Where this matters, insert each process once, and keep a list of its names beside the map.
///
/// The map is also a [`Stream`]. The stream ends whenever the map is empty, and continues after the next
/// insertion. Neither an insertion nor a removal wakes a task whose last poll was pending: poll the map
/// again afterwards, as with `FuturesUnordered`.
///
/// # Panics
///
/// On Unix, waiting for an exit panics outside a tokio runtime, and in a runtime without I/O enabled, as for
/// [`ProcessExit`](ProcessExit#panics).
///
/// # Examples
///
/// Start a worker again after its exit:
///
/// ```no_run
/// use tokio_process_exit::ExitMap;
///
/// # fn start(_: &str) -> std::io::Result<u32> { todo!() }
/// # async fn supervise() -> std::io::Result<()> {
/// let mut workers = ExitMap::new();
/// for name in ["web", "mail"] {
///     workers.insert(name, start(name)?)?;
/// }
/// while let Some((name, exit)) = workers.next_exit().await {
///     println!("{name}: {}", exit?);
///     workers.insert(name, start(name)?)?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct ExitMap<K> {
    members: Members,
    keys: Keys<K>,
}

/// The keys are values in a `Vec`, and are never pinned.
impl<K> Unpin for ExitMap<K> {}

impl<K> ExitMap<K> {
    /// Creates an empty map.
    pub fn new() -> ExitMap<K> {
        ExitMap::default()
    }

    /// Creates an empty map with room for `capacity` processes, as
    /// [`ExitSet::with_capacity`](crate::ExitSet::with_capacity) does.
    ///
    /// # Examples
    ///
    /// ```
    /// let map = tokio_process_exit::ExitMap::<String>::with_capacity(1000);
    /// assert!(map.is_empty());
    /// ```
    pub fn with_capacity(capacity: usize) -> ExitMap<K>
    where
        K: Eq + Hash,
    {
        let mut map = ExitMap::default();
        map.members.reserve(capacity);
        map.keys.reserve(capacity);
        map
    }

    /// Returns the number of keys whose process has not been yielded.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether all processes have been yielded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the keys of the processes that have not been yielded, in any order.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut map = tokio_process_exit::ExitMap::new();
    /// map.insert("self", std::process::id())?;
    /// assert_eq!(map.keys().collect::<Vec<_>>(), [&"self"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys(&self) -> impl Iterator<Item = &K> + '_ {
        self.keys.iter()
    }
}

impl<K: Clone + Eq + Hash> ExitMap<K> {
    /// Opens the process `pid` and adds it under this key. Drops a wait that had this key.
    ///
    /// # Errors
    ///
    /// The errors of [`ProcessExit::open`]. The map is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut map = tokio_process_exit::ExitMap::new();
    /// map.insert("self", std::process::id())?;
    /// assert!(map.insert("self", i32::MAX as u32).is_err()); // no such process
    /// assert_eq!(map.pid(&"self"), Some(std::process::id()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert(&mut self, key: K, pid: u32) -> io::Result<()> {
        let place = self.keys.place(key);
        self.members.drain_events();
        let earlier = place.member();
        // The wait goes on. With kqueue, a second wait for the process would be polled.
        if earlier.is_some_and(|earlier| self.members.is_registered_as(earlier, pid)) {
            return Ok(());
        }
        let member = self.members.open(pid)?;
        let _dropped_last = place.set(member);
        if let Some(earlier) = earlier {
            self.members.remove(earlier);
        }
        Ok(())
    }

    /// Adds a process that has been opened or adopted under this key. Drops a wait that had this key.
    ///
    /// After [`until_reaped`](ProcessExit::until_reaped), the map yields the process at its reap. If the
    /// process could not be opened, the map yields the error.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::{ExitMap, exit_of};
    ///
    /// let mut map = ExitMap::new();
    /// map.insert_exit("self", exit_of(std::process::id()));
    /// assert!(map.contains_key(&"self"));
    /// ```
    pub fn insert_exit(&mut self, key: K, process: ProcessExit) {
        let mut process = process.into_parts();
        let place = self.keys.place(key);
        self.members.drain_events();
        // Remove the earlier wait before the insertion: with kqueue, a second wait for the process would be
        // polled.
        if let Some(earlier) = place.member() {
            self.members.remove(earlier);
        }
        process.source = self.members.regain_events(process.source);
        let member = self.members.insert(process);
        let _dropped_last = place.set(member);
    }

    /// Removes a process from the map. Returns `false` if no process has this key.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut map = tokio_process_exit::ExitMap::new();
    /// map.insert("self", std::process::id())?;
    /// assert!(map.remove(&"self"));
    /// assert!(!map.remove(&"self"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&mut self, key: &K) -> bool {
        match self.keys.remove(key) {
            Some((member, _dropped_last)) => self.members.remove(member),
            None => false,
        }
    }

    /// Returns whether a process that has not been yielded has this key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.keys.member(key).is_some()
    }

    /// Returns the pid with which the process under this key was opened.
    ///
    /// `None` if no process has this key, or if an adopted process has no pid here.
    ///
    /// The process may have been reaped already, and its pid may belong to another process. So do not send
    /// signals to this pid. Use `ExitMap::signal` (Unix) or `ExitMap::terminate` (Windows).
    pub fn pid(&self, key: &K) -> Option<u32> {
        let member = self.keys.member(key)?;
        self.members.pid(member).map(NonZeroU32::get)
    }

    /// Waits for the next exit, and returns it with the key of the process. Returns `None` if the map is empty.
    ///
    /// # Errors
    ///
    /// An error about one process is returned once with its key, and removes the process from the map. Its
    /// inner error is a [`ProcessError`](crate::ProcessError) with the pid. Either the process was added by
    /// [`insert_exit`](ExitMap::insert_exit) and could not be opened, or the system no longer permits querying
    /// it.
    ///
    /// Two errors leave all processes in the map: the runtime is shutting down, or the poller has no
    /// thread and the runtime has no timers (see [`ProcessExit`](crate::ProcessExit#errors)). They come with
    /// the key of any process in the map, and [`contains_key`](ExitMap::contains_key) still returns `true`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn report(map: &mut tokio_process_exit::ExitMap<String>) {
    /// while let Some((key, exit)) = map.next_exit().await {
    ///     match exit {
    ///         Ok(exit) => println!("{key}: {exit}"),
    ///         Err(error) => eprintln!("{key}: {error}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn next_exit(&mut self) -> Option<(K, io::Result<Exit>)> {
        poll_fn(|cx| self.poll_next_exit(cx)).await
    }

    /// Polls for the next exit, as [`next_exit`](ExitMap::next_exit) does.
    pub fn poll_next_exit(&mut self, cx: &mut Context<'_>) -> Poll<Option<(K, io::Result<Exit>)>> {
        let waited = ready!(self.members.poll_ready(cx));
        Poll::Ready(self.result_of(waited))
    }

    /// Returns the next exit that has already happened, or `None`.
    ///
    /// Does not block, and works outside a runtime. Queries every polled process, on Windows every process.
    ///
    /// # Errors
    ///
    /// The errors of [`next_exit`](ExitMap::next_exit).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut map = tokio_process_exit::ExitMap::new();
    /// map.insert("self", std::process::id())?;
    /// assert!(map.try_next_exit().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_next_exit(&mut self) -> Option<(K, io::Result<Exit>)> {
        let waited = self.members.try_ready();
        self.result_of(waited)
    }

    /// Waits until all processes have exited or `timeout` has elapsed.
    ///
    /// Returns the exits that happened before the timeout elapsed. [`keys`](ExitMap::keys) then returns the
    /// remaining processes. A timeout of zero returns the exits that have already happened.
    ///
    /// # Errors
    ///
    /// The errors of [`next_exit`](ExitMap::next_exit). An error about one process does not end the call. An
    /// error that leaves all processes in the map ends the call, and is the last item.
    ///
    /// # Panics
    ///
    /// If the runtime has no timers enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio_process_exit::ExitMap;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let mut map = ExitMap::new();
    /// map.insert("self", std::process::id())?;
    /// for (key, exit) in map.exits_within(Duration::from_millis(10)).await {
    ///     println!("{key}: {}", exit?);
    /// }
    /// assert!(map.contains_key(&"self"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exits_within(&mut self, timeout: Duration) -> Vec<(K, io::Result<Exit>)> {
        let waited = self.members.wait_within(timeout).await;
        let error = waited.err().and_then(|error| self.with_any_key(error));
        let mut exits = self.take_ended();
        exits.extend(error);
        exits
    }

    /// Stops all processes, side by side, as [`ExitSet::stop`](crate::ExitSet::stop) does: asks each process to
    /// exit, and kills those that have not exited after `grace`.
    ///
    /// A process under several keys is asked once, because many programs exit without cleanup at a second
    /// `SIGTERM`.
    ///
    /// Returns the exit of each process with its key. A process that you may not signal stays in the map. This
    /// does not wait for it, and returns the error of the signal instead, unless the process has exited in
    /// the meantime.
    ///
    /// # Errors
    ///
    /// The errors of [`ExitSet::stop`](crate::ExitSet::stop), each with its key. An error that leaves all
    /// processes in the map comes with the key of any of them, as for [`next_exit`](ExitMap::next_exit).
    ///
    /// # Panics
    ///
    /// If the runtime has no timers enabled, and as [`next_exit`](ExitMap::next_exit) does. No signal has been
    /// sent then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no exit: the processes that have exited stay in the map and are yielded by
    /// the next call. The processes that were not killed may go on. A second call starts again, with the
    /// whole `grace`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # async fn shut_down(mut workers: tokio_process_exit::ExitMap<String>) {
    /// for (name, exit) in workers.stop(Duration::from_secs(5)).await {
    ///     match exit {
    ///         Ok(exit) => println!("{name}: {exit}"),
    ///         Err(error) => eprintln!("{name} may be running: {error}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> Vec<(K, io::Result<Exit>)> {
        let errors = self.members.stop(grace).await.into_iter();
        // A key may panic in `clone`, so take no exit before.
        let with_key = |(member, error)| match member {
            Some(member) => Some((self.keys.of(member)?.clone(), Err(error))),
            None => self.with_any_key(error),
        };
        let errors: Vec<_> = errors.filter_map(with_key).collect();
        let mut exits = self.take_ended();
        exits.extend(errors);
        exits
    }

    /// Calls one of two functions with the process under this key. Returns `NotFound` if its wait has ended.
    #[allow(dead_code, reason = "called by the methods in `os`")]
    pub(crate) fn with_process(
        &mut self,
        key: &K,
        action: &str,
        with_registration: impl FnOnce(&Registration) -> io::Result<()>,
        with_probe: impl FnOnce(&Probe) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(member) = self.keys.member(key) else {
            let reason = "no process in the map has this key";
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        };
        self.members
            .with_member(member, action, with_registration, with_probe)
    }

    /// Removes and returns all processes whose wait has ended.
    fn take_ended(&mut self) -> Vec<(K, io::Result<Exit>)> {
        // Free all keys first: a key may panic, which would lose the exits that were taken before.
        for member in self.members.ended() {
            self.keys.free(member);
        }
        let mut exits = Vec::with_capacity(self.members.ended_len());
        while let Some(ended) = self.members.pop_ended() {
            let key = self.keys.take(ended.key);
            exits.extend(key.map(|key| (key, ended.result)));
        }
        // The map may never be polled again. One batch closes all of a small map, and takes little time.
        self.members.close_batch();
        exits
    }

    /// Returns what the map yields after a wait.
    fn result_of(&mut self, waited: io::Result<()>) -> Option<(K, io::Result<Exit>)> {
        if let Err(error) = waited {
            return self.with_any_key(error);
        }
        // Free the key first: the exit stays in the map if the key panics.
        self.keys.free(self.members.ended().next()?);
        let ended = self.members.pop_ended()?;
        Some((self.keys.take(ended.key)?, ended.result))
    }

    /// Adds a key to an error that concerns all waits. Drops the error if no process is waited for.
    fn with_any_key(&self, error: io::Error) -> Option<(K, io::Result<Exit>)> {
        let member = self.members.waiting().next()?;
        Some((self.keys.of(member)?.clone(), Err(error)))
    }
}

impl<K> Default for ExitMap<K> {
    fn default() -> Self {
        ExitMap {
            members: Members::default(),
            keys: Keys::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> Stream for ExitMap<K> {
    type Item = (K, io::Result<Exit>);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_next_exit(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<K> fmt::Debug for ExitMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitMap")
            .field("len", &self.len())
            .field("polled", &self.members.polled_len())
            .field("exited", &self.members.ended_len())
            .finish_non_exhaustive()
    }
}
