//! Waiting for many processes.

mod insert;

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::error::process_error;
use crate::exit::Exit;
use crate::members::{Ended, Key, Members};
use crate::sys::{Probe, Registration};

/// A set of processes, which yields each process when it exits.
///
/// The cost of an exit does not grow with the size of the set. On Unix, all members share one
/// registration with the reactor. Each member takes 46 to 64 bytes (measured on Linux), and on Linux a
/// pidfd. On macOS and the BSDs one descriptor serves all members. On Windows each member takes a handle
/// and a registered wait.
///
/// Each member is yielded exactly once, in the order in which the kernel (on Windows: the thread pool)
/// reports the exits.
///
/// The set is also a [`Stream`]. The stream ends whenever the set is empty, and continues after the next
/// insertion. Neither an insertion nor a removal wakes a task whose last poll was pending: poll the set
/// again afterwards, as with `FuturesUnordered`.
///
/// # Descriptors
///
/// If descriptors run out, the set polls the remaining members until the system grants descriptors
/// again (see [`ProcessExit::fallback_reason`](crate::ProcessExit::fallback_reason)).
///
/// On Linux, closing a pidfd is the slowest step. The set delivers all ready exits first and closes
/// descriptors in small batches afterwards: while it waits for an exit, before it reports that it is empty,
/// or when it is dropped. If exits stay ready for more than 100 ms, it closes two descriptors for each exit
/// that it yields. Each insertion also closes two.
///
/// This crate never raises the limit of descriptors (`RLIMIT_NOFILE`), because the limit belongs to the
/// whole program. On Linux, a program with many processes can itself raise the soft limit to the hard
/// limit by `setrlimit`, before it inserts them.
///
/// # Fork
///
/// A forked child must not drop its copy of a set, see [`ProcessExit`](crate::ProcessExit#fork).
///
/// # Panics
///
/// On Unix, waiting for an exit panics outside a tokio runtime, and in a runtime without I/O enabled, as for
/// [`ProcessExit`](crate::ProcessExit#panics).
///
/// # Examples
///
/// Beside other work:
///
/// ```no_run
/// # use tokio_process_exit::ExitSet;
/// # async fn supervise(mut set: ExitSet, mut commands: tokio::sync::mpsc::Receiver<u32>) -> std::io::Result<()> {
/// loop {
///     tokio::select! {
///         Some(exit) = set.next_exit() => println!("{}", exit?),
///         Some(pid) = commands.recv() => { set.insert(pid)?; }
///         else => return Ok(()), // the set is empty and the channel is closed
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
#[derive(Default)]
pub struct ExitSet {
    members: Members,
    /// The key of the latest member with each pid. Also contains keys of members that have been removed,
    /// until the map is full.
    by_pid: HashMap<NonZeroU32, Key>,
}

impl ExitSet {
    /// Creates an empty set.
    pub fn new() -> ExitSet {
        ExitSet::default()
    }

    /// Creates an empty set with room for `capacity` processes.
    ///
    /// On Linux this also makes room in the descriptor table of this process, within its limit. If
    /// the process has several threads, each growth of that table blocks the calling thread for some
    /// milliseconds, until an RCU grace period has passed. Without a capacity the table grows a few
    /// times as processes are inserted. With a capacity it grows once, in this call. The growth takes
    /// no time before the process has a second thread, for example before the runtime is built.
    ///
    /// # Examples
    ///
    /// ```
    /// let set = tokio_process_exit::ExitSet::with_capacity(1000);
    /// assert!(set.is_empty());
    /// ```
    pub fn with_capacity(capacity: usize) -> ExitSet {
        let mut set = ExitSet::default();
        set.members.reserve(capacity);
        set.by_pid.reserve(capacity);
        set
    }

    /// Removes a process from the set. Returns `false` if no member has this pid.
    ///
    /// If several members have had this pid, the latest member is removed. The earlier members have
    /// exited and are still yielded.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// let pid = std::process::id();
    /// set.insert(pid)?;
    /// assert!(set.remove(pid));
    /// assert!(!set.remove(pid));
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&mut self, pid: u32) -> bool {
        let key = self.key_of(NonZeroU32::new(pid));
        key.is_some_and(|key| self.members.remove(key))
    }

    /// Returns whether a member has this pid, or had this pid when it was inserted.
    pub fn contains(&self, pid: u32) -> bool {
        self.key_of(NonZeroU32::new(pid)).is_some()
    }

    /// Returns the number of processes that have not been yielded.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether all processes have been yielded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the pids of the processes that have not been yielded.
    ///
    /// An adopted process that has no pid here is omitted.
    ///
    /// A member may have been reaped already, and its pid may belong to another process. So do not send
    /// signals to these pids. Use `ExitSet::signal` (Unix) or `ExitSet::terminate` (Windows).
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
        self.members.pids().map(NonZeroU32::get)
    }

    /// Returns the number of processes that are [polled](crate::Mechanism::Polling).
    ///
    /// A process that had exited before it was inserted may count until the set is polled: macOS and the
    /// BSDs report no event for it, or [`insert_exit`](ExitSet::insert_exit) has not registered it.
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
        self.members.polled_len()
    }

    /// Waits for the next exit. Returns `None` if the set is empty.
    ///
    /// # Errors
    ///
    /// An error about one process is returned once, and removes the process from the set. Its inner error is
    /// a [`ProcessError`](crate::ProcessError) with the pid. Either the process was added by
    /// [`insert_exit`](ExitSet::insert_exit) and could not be opened, or the system no longer permits querying
    /// it.
    ///
    /// Two errors leave all processes in the set: the runtime is shutting down, or the poller has no
    /// thread and the runtime has no timers (see [`ProcessExit`](crate::ProcessExit#errors)).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
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

    /// Polls for the next exit, as [`next_exit`](ExitSet::next_exit) does.
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
        self.members.poll_next(cx).map(result_of)
    }

    /// Returns the next exit that has already happened, or `None`.
    ///
    /// Does not block, and works outside a runtime. Queries every polled member, on Windows every member.
    ///
    /// # Errors
    ///
    /// The errors of [`next_exit`](ExitSet::next_exit).
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
        result_of(self.members.try_next())
    }

    /// Waits until all processes have exited or `timeout` has elapsed.
    ///
    /// Returns the exits that happened before the timeout elapsed. [`pids`](ExitSet::pids) then returns
    /// the remaining processes. A timeout of zero returns the exits that have already happened.
    ///
    /// # Errors
    ///
    /// The errors of [`next_exit`](ExitSet::next_exit). If there are exits before the error, this call
    /// returns them, and the next call returns the error.
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
    /// use tokio_process_exit::ExitSet;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let mut set = ExitSet::new();
    /// set.insert(std::process::id())?;
    /// let exits = set.exits_within(Duration::from_millis(10)).await?;
    /// println!("{} processes have exited, {} have not", exits.len(), set.len());
    /// # assert!(exits.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exits_within(&mut self, timeout: Duration) -> io::Result<Vec<Exit>> {
        if let Err(error) = self.members.wait_within(timeout).await {
            if self.members.ended_len() == 0 {
                return Err(error);
            }
            self.members.defer_error(error);
        }
        let mut exits = Vec::with_capacity(self.members.ended_len());
        loop {
            if self.members.is_next_failed() && !exits.is_empty() {
                return Ok(exits);
            }
            match self.members.pop_ended() {
                Some(ended) => exits.push(ended.result?),
                None => break,
            }
        }
        // The set may never be polled again. One batch closes all of a small set, and takes little time.
        self.members.close_batch();
        Ok(exits)
    }

    /// Stops all processes, side by side: asks each process to exit, and kills those that have not exited
    /// after `grace`.
    ///
    /// On Unix, sends `SIGTERM`, and then `SIGCONT`, so that a stopped process handles `SIGTERM`. After `grace`,
    /// sends `SIGKILL`. Windows has no such request: this waits for `grace`, and then terminates the remaining
    /// processes with exit code 1. A `grace` of zero kills all processes soon after the request.
    ///
    /// Waits until all processes have exited, and returns their exits. A process that you may not signal
    /// stays in the set. This does not wait for it, and returns the error of the signal instead, unless the
    /// process has exited in the meantime.
    ///
    /// A process that was added after [`until_reaped`](crate::ProcessExit::until_reaped) is waited for until its
    /// reap. `grace` is measured by the clock of tokio, as for
    /// [`ProcessExit::stop`](crate::ProcessExit::stop).
    ///
    /// # Errors
    ///
    /// - for each process that cannot be signalled, the error of `ExitSet::signal` (Unix) or
    ///   `ExitSet::terminate` (Windows). The inner error is a [`ProcessError`](crate::ProcessError) with the pid;
    /// - the errors of [`next_exit`](ExitSet::next_exit). If the runtime is shutting down, the error ends the
    ///   call, and the remaining processes stay in the set.
    ///
    /// # Panics
    ///
    /// If the runtime has no timers enabled, and as [`next_exit`](ExitSet::next_exit) does. No signal has been
    /// sent then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no exit: the processes that have exited stay in the set and are yielded by
    /// the next call. The processes that were not killed may go on. A second call starts again, with the
    /// whole `grace`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #![cfg_attr(not(unix), allow(unused_imports))]
    /// use std::time::Duration;
    /// use tokio_process_exit::ExitSet;
    ///
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let mut set = ExitSet::new();
    /// for _ in 0..3 {
    ///     set.insert(std::process::Command::new("sleep").arg("60").spawn()?.id())?;
    /// }
    /// for exit in set.stop(Duration::from_secs(5)).await {
    ///     println!("{}", exit?);
    /// }
    /// assert!(set.is_empty());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> Vec<io::Result<Exit>> {
        let errors = self.members.stop(grace).await;
        let mut exits = Vec::with_capacity(self.members.ended_len() + errors.len());
        while let Some(ended) = self.members.pop_ended() {
            exits.push(ended.result);
        }
        exits.extend(errors.into_iter().map(|(_, error)| Err(error)));
        self.members.close_batch();
        exits
    }

    /// Calls one of two functions with a member. Returns `NotFound` if its wait has ended.
    pub(crate) fn with_process(
        &mut self,
        pid: u32,
        action: &str,
        with_registration: impl FnOnce(&Registration) -> io::Result<()>,
        with_probe: impl FnOnce(&Probe) -> io::Result<()>,
    ) -> io::Result<()> {
        let number = NonZeroU32::new(pid);
        let Some(key) = self.key_of(number) else {
            let message = format!("process {pid} is not in the set");
            return Err(process_error(io::ErrorKind::NotFound, number, message));
        };
        self.members
            .with_member(key, action, with_registration, with_probe)
    }

    /// Returns the key of the latest member with this pid.
    fn key_of(&self, pid: Option<NonZeroU32>) -> Option<Key> {
        let key = *self.by_pid.get(&pid?)?;
        (self.members.pid(key) == pid).then_some(key)
    }

    /// Sets the key of the latest member with this pid.
    fn set_key(&mut self, pid: NonZeroU32, key: Key) {
        let ExitSet { members, by_pid } = self;
        if by_pid.len() == by_pid.capacity() {
            // Remove many keys at once: removing each when its member is yielded takes a cache miss or two.
            by_pid.retain(|&pid, &mut key| members.pid(key) == Some(pid));
            // If few keys were removed, let the map grow: otherwise the next call would search it again.
            by_pid.reserve(by_pid.len() / 4 + 1);
        }
        by_pid.insert(pid, key);
    }
}

/// Returns what the set yields.
fn result_of(next: io::Result<Option<Ended>>) -> Option<io::Result<Exit>> {
    next.transpose().map(|ended| ended?.result)
}

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
            .field("exited", &self.members.ended_len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(miri), not(tokio_process_exit_fake_kqueue)))]
mod tests {
    use super::*;

    #[test]
    fn finds_no_removed_member_and_keeps_few_of_their_pids() {
        let mut set = ExitSet::new();
        let own = std::process::id();
        set.insert(own).unwrap();
        let removed = set.key_of(NonZeroU32::new(own)).unwrap();
        assert!(set.remove(own));
        assert!(!set.contains(own) && !set.remove(own));

        set.insert(own).unwrap();
        for pid in (1..=10_000).filter_map(NonZeroU32::new) {
            if pid.get() != own {
                set.set_key(pid, removed);
                assert_eq!(set.key_of(Some(pid)), None);
            }
        }
        assert!(set.by_pid.capacity() < 100, "{}", set.by_pid.capacity());
        assert!(set.contains(own));
    }
}
