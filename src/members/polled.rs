//! Members that are polled, because the system refused an event source.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::task::coop;

use super::Members;
use super::slab::Key;
use super::slot::Slot;
use crate::mechanism::{self, Mechanism};
use crate::poller::{self, Outcome, OutcomeQueue, Polled, TaskPacer};
use crate::wait_state::{Until, WaitState};

/// The members that are polled.
#[derive(Default)]
pub(super) struct PolledMembers {
    pub(super) len: usize,
    /// Keys of members that have not been queried and added to the poller. Keys of removed members may
    /// remain for a while.
    pub(super) unwatched: VecDeque<Key>,
    /// Receives the outcomes of polling.
    pub(super) queue: Arc<OutcomeQueue>,
    /// Keys of members that the waiting task queries, because the poller has no thread.
    without_thread: VecDeque<Key>,
    /// Paces the queries of the members in `without_thread`.
    pacer: TaskPacer,
}

impl PolledMembers {
    /// Decreases the number of polled members.
    pub(super) fn remove_one(&mut self) {
        self.len -= 1;
        if self.len == 0 {
            self.unwatched.clear();
            self.without_thread.clear();
        }
    }
}

impl Members {
    /// Counts a new polled member, which no poller watches yet. Returns its slot.
    pub(super) fn polled_slot(&mut self, key: Key, polled: Polled) -> Slot {
        let PolledMembers { len, unwatched, .. } = &mut self.polled;
        *len += 1;
        // Bound the number of keys of removed members.
        if unwatched.len() > 2 * *len + 64 {
            unwatched.retain(|&key| self.slots.get(key).is_some());
        }
        unwatched.push_back(key);
        Slot::Polled(Box::new(polled))
    }

    /// Falls back to polling for one registered member.
    pub(super) fn demote_to_polling(&mut self, key: Key, reason: &io::Error) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let (registration, wait) = match slot.take() {
            Slot::Registered(registration) => (registration, WaitState::new(Until::Exit)),
            Slot::RegisteredUntilReap(waiting) => *waiting,
            other => {
                *slot = other;
                return;
            }
        };
        mechanism::trace(self.slots.pid(key), Mechanism::Polling, Some(reason));
        let slot = self.polled_slot(key, Polled::new(registration.into_probe(), &wait));
        self.set_slot(key, slot);
        // The next poll adds the member to the poller.
        self.wake();
    }

    /// Makes `poll_watch` query all polled members again.
    pub(super) fn unwatch_all(&mut self) {
        self.polled.unwatched = self.polled_keys().into();
        self.polled.without_thread.clear();
    }

    /// Waits until a polled member has exited, and handles its outcome.
    pub(super) fn poll_polled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((key, outcome)) = ready!(self.poll_watch(cx))? {
            self.handle_outcome(key, outcome);
            return Poll::Ready(Ok(()));
        }
        let coop = ready!(coop::poll_proceed(cx));
        let (key, outcome) = ready!(self.polled.queue.poll_recv(cx));
        coop.made_progress();
        self.handle_outcome(Key::from_u64(key), outcome);
        Poll::Ready(Ok(()))
    }

    /// Queries the members that no poller watches, and adds them to the poller.
    ///
    /// Returns the outcome of a member whose wait has ended, or `None` once the poller watches all
    /// members. Without a thread for the poller, continues to query the members at intervals.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<(Key, Outcome)>>> {
        while !self.polled.unwatched.is_empty() {
            ready!(coop::poll_proceed(cx)).made_progress();
            let key = self.polled.unwatched.pop_front();
            if let Some(outcome) = key.and_then(|key| self.query_and_watch(key, false)) {
                return Poll::Ready(Ok(Some(outcome)));
            }
        }
        while !self.polled.without_thread.is_empty() {
            ready!(self.polled.pacer.poll_due(cx))?;
            ready!(coop::poll_proceed(cx)).made_progress();
            let started = Instant::now();
            let total = self.polled.without_thread.len();
            let batch = total.min(poller::BATCH_SIZE);
            for _ in 0..batch {
                let key = self.polled.without_thread.pop_front();
                if let Some(outcome) = key.and_then(|key| self.query_and_watch(key, true)) {
                    return Poll::Ready(Ok(Some(outcome)));
                }
            }
            self.polled.pacer.schedule(started, batch, total);
        }
        Poll::Ready(Ok(None))
    }

    /// Queries a member, and adds it to the poller. Returns the outcome if the wait has ended.
    fn query_and_watch(&mut self, key: Key, may_reopen: bool) -> Option<(Key, Outcome)> {
        let polled = self.slots.get_mut(key).and_then(Slot::polled_mut)?;
        let PolledMembers {
            without_thread,
            queue,
            pacer,
            ..
        } = &mut self.polled;
        polled.unwatch();
        let outcome = match may_reopen {
            true => pacer.query(polled),
            false => polled.query_outcome(),
        };
        if outcome.is_none() && polled.watch(queue, key.to_u64()).is_err() {
            without_thread.push_back(key);
            if !may_reopen {
                pacer.restart();
            }
        }
        outcome.map(|outcome| (key, outcome))
    }

    /// Queries all polled members, without waiting.
    pub(super) fn query_polled(&mut self) {
        for key in self.polled_keys() {
            let polled = self.polled_mut(key);
            if let Some(outcome) = polled.and_then(|polled| polled.query_outcome()) {
                self.handle_outcome(key, outcome);
            }
        }
    }

    /// Handles the outcomes that the poller has sent, without waiting.
    pub(super) fn handle_outcomes(&mut self) {
        while let Some((key, outcome)) = self.polled.queue.try_recv() {
            self.handle_outcome(Key::from_u64(key), outcome);
        }
    }

    pub(super) fn handle_outcome(&mut self, key: Key, outcome: Outcome) {
        // Since the outcome was sent, the member may have been removed, or its wait may have ended.
        let Some(polled) = self.polled_mut(key) else {
            return;
        };
        polled.unwatch();
        match outcome {
            Outcome::Resolved => {
                let status = polled.status();
                self.polled.remove_one();
                self.end(key, status);
            }
            Outcome::EventsAvailable(process) => {
                let wait = polled.wait_state();
                self.polled.remove_one();
                let pid = self.slots.pid(key);
                let slot = self.register(pid, key, process, wait);
                self.set_slot(key, slot);
            }
            Outcome::Failed(error) => {
                self.polled.remove_one();
                self.fail(key, &error);
            }
        }
    }

    fn polled_mut(&mut self, key: Key) -> Option<&mut Polled> {
        self.slots.get_mut(key)?.polled_mut()
    }

    fn polled_keys(&self) -> Vec<Key> {
        let polled = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Polled(_)));
        polled.map(|(key, _)| key).collect()
    }
}
