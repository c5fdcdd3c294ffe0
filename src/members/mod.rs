//! The members of a set or a map, and the waits for their exits.
//!
//! [`Members`] gives each member a [`Key`]. It neither compares processes nor finds a process by its pid:
//! the set and the map do.

mod close_queue;
mod events;
mod insert;
mod polled;
mod slab;
mod slot;
mod stop;

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::coop;

use self::close_queue::CloseQueue;
use self::polled::PolledMembers;
pub(crate) use self::slab::Key;
use self::slab::Slab;
use self::slot::Slot;
use crate::error::action_error;
use crate::exit::Exit;
use crate::sys::{Event, Probe, Registration, Selector};

/// Processes that are yielded when they exit.
#[derive(Default)]
pub(crate) struct Members {
    // Declared first, so dropped first: on Linux, pidfds close faster by many than after their epoll.
    close_queue: CloseQueue,
    selector: Selector,
    slots: Slab<Slot>,
    /// Events that were read and have not been handled.
    events: VecDeque<Event>,
    /// Keys of members whose wait has ended, in the order in which they are yielded.
    ended: VecDeque<Key>,
    polled: PolledMembers,
    /// An error of a wait that has also found exits. The next wait without exits returns it.
    deferred_error: Option<io::Error>,
    /// The task that waits for the next exit, while no exit is queued.
    waker: Option<Waker>,
}

/// A member that has been removed because its wait has ended.
pub(crate) struct Ended {
    pub(crate) key: Key,
    pub(crate) result: io::Result<Exit>,
}

impl Members {
    /// Makes room for `capacity` processes.
    pub(crate) fn reserve(&mut self, capacity: usize) {
        self.slots.reserve(capacity);
        self.selector.reserve(capacity);
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of members that are polled.
    pub(crate) fn polled_len(&self) -> usize {
        self.polled.len
    }

    /// Returns the number of members whose wait has ended.
    pub(crate) fn ended_len(&self) -> usize {
        self.ended.len()
    }

    /// Returns the members whose wait has ended, in the order in which they are yielded.
    pub(crate) fn ended(&self) -> impl Iterator<Item = Key> + '_ {
        self.ended.iter().copied()
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = NonZeroU32> + '_ {
        self.slots.pids()
    }

    /// Returns the pid of a member. `None` also if there is no such member.
    pub(crate) fn pid(&self, key: Key) -> Option<NonZeroU32> {
        self.slots.pid(key)
    }

    /// Returns the members whose wait has not ended.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Key> + '_ {
        let waiting = self.slots.iter().filter(|(_, slot)| !slot.has_ended());
        waiting.map(|(key, _)| key)
    }

    fn is_waiting(&self, key: Key) -> bool {
        self.slots.get(key).is_some_and(|slot| !slot.has_ended())
    }

    /// Whether a member is the process that has this pid now, and is registered for its exit.
    ///
    /// Drain the events before.
    pub(crate) fn is_registered_as(&self, key: Key, pid: u32) -> bool {
        self.slots.pid(key).map(NonZeroU32::get) == Some(pid)
            && matches!(self.slots.get(key), Some(Slot::Registered(_)))
            && !self.is_reaped(key)
    }

    /// Removes a member. Returns `false` if there is no such member.
    pub(crate) fn remove(&mut self, key: Key) -> bool {
        let Some((_, slot)) = self.slots.remove(key) else {
            return false;
        };
        match slot {
            Slot::Registered(registration) => self.selector.deregister(registration),
            Slot::RegisteredUntilReap(waiting) => self.selector.deregister(waiting.0),
            Slot::Polled(_) => self.polled.remove_one(),
            _ => self.ended.retain(|&ended| ended != key),
        }
        true
    }

    /// Waits for the next member whose wait ends, and removes it. Returns `None` if there are no members.
    ///
    /// An error concerns the waits for all members, which continue.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Ended>>> {
        let waited = ready!(self.poll_ready(cx));
        Poll::Ready(waited.map(|()| self.pop_ended()))
    }

    /// Waits like [`poll_next`](Members::poll_next), but removes nothing. [`pop_ended`](Members::pop_ended) then
    /// returns the member, or `None` if there are no members.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waker = None;
        if !self.ended.is_empty() {
            // `poll_ended` has consumed budget for this exit, but perhaps in an earlier poll.
            ready!(coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(Ok(()));
        }
        match self.poll_ended(0, cx) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                self.close_if_idle(cx);
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        // If no members are left, close all descriptors before returning.
        if self.ended.is_empty() && self.close_some(cx) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Removes and returns the next member whose wait has ended, without waiting.
    pub(crate) fn try_next(&mut self) -> io::Result<Option<Ended>> {
        self.try_ready()?;
        Ok(self.pop_ended())
    }

    /// Ends the waits of members that have exited, without waiting. [`pop_ended`](Members::pop_ended) then
    /// returns the next of them.
    pub(crate) fn try_ready(&mut self) -> io::Result<()> {
        if self.ended.is_empty() {
            self.try_ended()?;
        }
        if self.ended.is_empty() {
            self.close_queue.close_all();
        }
        Ok(())
    }

    /// Waits until all waits have ended or `timeout` has elapsed. [`pop_ended`](Members::pop_ended) then
    /// returns the members whose wait has ended.
    pub(crate) async fn wait_within(&mut self, timeout: Duration) -> io::Result<()> {
        self.wait_for_others(&HashSet::new(), Some(timeout)).await
    }

    /// Waits like [`wait_within`](Members::wait_within), but does not wait for the members in `exempt`.
    ///
    /// `None` needs no timer: while the clock of tokio is paused, any timer may elapse at once.
    async fn wait_for_others(
        &mut self,
        exempt: &HashSet<Key>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let mut exempt_len = exempt.iter().filter(|&&key| self.is_waiting(key)).count();
        let mut counted = self.ended.len();
        let mut elapsed = pin!(timeout.map(tokio::time::sleep));
        let mut is_last_round = false;
        poll_fn(|cx| {
            if self.ended.is_empty() {
                self.deferred_error.take().map_or(Ok(()), Err)?;
            }
            loop {
                if !exempt.is_empty() {
                    let ended = self.ended.range(counted..);
                    exempt_len -= ended.filter(|key| exempt.contains(key)).count();
                    counted = self.ended.len();
                }
                if self.ended.len() + exempt_len >= self.len() {
                    break;
                }
                if let Poll::Ready(result) = self.poll_ended(self.ended.len(), cx) {
                    result?;
                    continue;
                }
                self.close_if_idle(cx);
                if !coop::has_budget_remaining() {
                    // More exits may be ready, but other tasks must run first.
                    return Poll::Pending;
                }
                match elapsed.as_mut().as_pin_mut() {
                    Some(elapsed) => ready!(elapsed.poll(cx)),
                    None => return Poll::Pending,
                }
                if is_last_round {
                    break;
                }
                // The reactor and the poller may not have reported the latest exits yet.
                self.find_events()?;
                if self.events.is_empty() {
                    is_last_round = true;
                    self.unwatch_all();
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Keeps an error until the next wait without exits.
    pub(crate) fn defer_error(&mut self, error: io::Error) {
        self.deferred_error = Some(error);
    }

    /// Whether the next member whose wait has ended has failed.
    pub(crate) fn is_next_failed(&self) -> bool {
        let key = self.ended.front();
        matches!(
            key.and_then(|&key| self.slots.get(key)),
            Some(Slot::Failed(_))
        )
    }

    /// Closes the descriptors of a small number of yielded members. Takes little time.
    pub(crate) fn close_batch(&mut self) {
        self.close_queue.close_batch();
    }

    /// Calls one of two functions with a member. Returns `NotFound` if its wait has ended.
    pub(crate) fn with_member(
        &mut self,
        key: Key,
        action: &str,
        with_registration: impl FnOnce(&Registration) -> io::Result<()>,
        with_probe: impl FnOnce(&Probe) -> io::Result<()>,
    ) -> io::Result<()> {
        self.drain_events();
        let result = match self.slots.get(key) {
            Some(slot) if !slot.has_ended() => match (slot.registration(), slot.probe()) {
                (Some(registration), _) => with_registration(registration),
                (None, Some(probe)) => with_probe(probe),
                (None, None) => Err(io::ErrorKind::NotFound.into()),
            },
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        result.map_err(|error| action_error(action, self.slots.pid(key), &error))
    }

    /// Checks whether a member can be signalled. `NotFound` if it has exited.
    #[cfg(unix)]
    pub(crate) fn try_signal(&self, key: Key) -> io::Result<()> {
        let slot = self.slots.get(key).filter(|slot| !slot.has_ended());
        match slot.map(|slot| (slot.registration(), slot.probe())) {
            Some((Some(registration), _)) => registration.signal(0),
            Some((None, Some(probe))) => probe.signal(0),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Removes the next member whose wait has ended.
    pub(crate) fn pop_ended(&mut self) -> Option<Ended> {
        let key = self.ended.pop_front()?;
        let (pid, slot) = self.slots.remove(key)?;
        let result = match slot {
            Slot::Ended {
                registration,
                status,
            } => {
                self.close_queue.push(registration);
                Ok(Exit::new(pid, status))
            }
            Slot::EndedPolled(polled) => Ok(Exit::new(pid, polled.status())),
            Slot::Failed(error) => Err(*error),
            _ => return None,
        };
        Some(Ended { key, result })
    }

    /// Closes a batch of descriptors if no exit is ready. If the budget is exhausted, an exit may be ready.
    fn close_if_idle(&mut self, cx: &mut Context<'_>) {
        if self.events.is_empty() && coop::has_budget_remaining() {
            self.close_some(cx);
        }
    }

    /// Closes a batch of descriptors. Wakes the task to close the rest after other tasks have run.
    ///
    /// Returns whether any are left.
    fn close_some(&mut self, cx: &mut Context<'_>) -> bool {
        self.close_queue.close_batch();
        let has_rest = !self.close_queue.is_empty();
        if has_rest {
            cx.waker().wake_by_ref();
        }
        has_rest
    }
}
