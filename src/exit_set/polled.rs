//! Members that are polled, because the system refused an event source.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::runtime::{self, Handle};
use tokio::task::coop;

use super::ExitSet;
use super::slab::Key;
use super::slot::Slot;
use crate::mechanism::{self, Mechanism};
use crate::poller::{Outcome, OutcomeQueue, Polled};
use crate::wait_state::{Until, WaitState};

/// The polled members of a set.
#[derive(Default)]
pub(super) struct PolledMembers {
    pub(super) len: usize,
    /// Keys of members that no poller watches. Keys of removed members may remain for a while.
    pub(super) unwatched: VecDeque<Key>,
    /// Receives the outcomes of polling.
    pub(super) queue: Arc<OutcomeQueue>,
    /// The runtime whose poller watches the members.
    runtime: Option<runtime::Id>,
}

impl PolledMembers {
    /// Decreases the number of polled members.
    pub(super) fn remove_one(&mut self) {
        self.len -= 1;
        if self.len == 0 {
            self.unwatched.clear();
        }
    }
}

impl ExitSet {
    /// Counts a new polled member, which no poller watches yet. Returns its slot.
    pub(super) fn polled_slot(&mut self, key: Key, polled: Polled) -> Slot {
        let PolledMembers { len, unwatched, .. } = &mut self.polled;
        *len += 1;
        // Bound the number of keys of removed members.
        if unwatched.len() > 2 * *len + 64 {
            unwatched.retain(|&key| self.members.get(key).is_some());
        }
        unwatched.push_back(key);
        Slot::Polled(Box::new(polled))
    }

    /// Falls back to polling for one registered member.
    pub(super) fn demote_to_polling(&mut self, key: Key, reason: &io::Error) {
        let Some(slot) = self.members.get_mut(key) else {
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
        mechanism::trace(self.members.pid(key), Mechanism::Polling, Some(reason));
        let slot = self.polled_slot(key, Polled::new(registration.into_probe(), &wait));
        self.set_slot(key, slot);
    }

    /// Makes `poll_watch` query all polled members again.
    pub(super) fn unwatch_all(&mut self) {
        self.polled.unwatched = self.polled_keys().into();
    }

    /// Adds all polled members to the current runtime's poller.
    ///
    /// Queries each member first. Returns the outcome of a member whose wait has ended, or `None` once
    /// the poller watches all members.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Key, Outcome)>> {
        let runtime = Handle::current().id();
        if self.polled.runtime != Some(runtime) {
            self.handle_outcomes();
            // Use a new queue: the poller of another runtime may still send to the old one.
            self.polled.runtime = Some(runtime);
            self.polled.queue = Arc::default();
            self.unwatch_all();
        }
        while let Some(&key) = self.polled.unwatched.front() {
            if self.members.get(key).is_some() {
                ready!(coop::poll_proceed(cx)).made_progress();
            }
            self.polled.unwatched.pop_front();
            let Some(polled) = self.polled_mut(key) else {
                continue;
            };
            polled.unwatch();
            if let Some(outcome) = query_outcome(polled) {
                return Poll::Ready(Some((key, outcome)));
            }
            let queue = self.polled.queue.clone();
            if let Some(polled) = self.polled_mut(key) {
                polled.watch(&queue, key.to_u64());
            }
        }
        Poll::Ready(None)
    }

    /// Queries all polled members, without waiting.
    pub(super) fn query_polled(&mut self) {
        for key in self.polled_keys() {
            let polled = self.polled_mut(key);
            if let Some(outcome) = polled.and_then(|polled| query_outcome(polled)) {
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
                let pid = self.members.pid(key);
                let slot = self.register(pid, key, process, wait);
                self.set_slot(key, slot);
            }
            Outcome::Failed(error) => {
                self.polled.remove_one();
                self.fail(key, &error);
            }
            Outcome::PollerClosed => self.polled.unwatched.push_back(key),
        }
    }

    fn polled_mut(&mut self, key: Key) -> Option<&mut Polled> {
        self.members.get_mut(key)?.polled_mut()
    }

    fn polled_keys(&self) -> Vec<Key> {
        let polled = self
            .members
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Polled(_)));
        polled.map(|(key, _)| key).collect()
    }
}

/// Queries a member. Returns the outcome if its wait has ended.
fn query_outcome(polled: &Polled) -> Option<Outcome> {
    match polled.query() {
        Ok(false) => None,
        Ok(true) => Some(Outcome::Resolved),
        Err(error) => Some(Outcome::Failed(error)),
    }
}
