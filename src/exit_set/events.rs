//! How a set notices exits.

use std::io;
use std::iter;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::ExitSet;
use super::slab::Key;
use super::slot::Slot;
use crate::error::wait_error;
use crate::poller::Outcome;
use crate::process_exit::{poller_closed, reap_events_unsupported};
use crate::sys::{Event, EventError, Selector, State, Status};
use crate::wait_state::{Until, WaitState};

impl ExitSet {
    /// Waits until more than `known` exits are known, or no other process can exit.
    pub(super) fn poll_exited(
        &mut self,
        known: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut newly_watched = false;
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
            if self.polled.len > 0 {
                newly_watched |= !self.polled.unwatched.is_empty();
                if let Some((key, outcome)) = ready!(self.poll_watch(cx)) {
                    self.process_outcome(key, outcome);
                    continue;
                }
                let coop = ready!(coop::poll_proceed(cx));
                if let Poll::Ready((key, outcome)) = self.polled.queue.poll_recv(cx) {
                    coop.made_progress();
                    let has_closed = matches!(outcome, Outcome::PollerClosed);
                    self.process_outcome(Key::from_u64(key), outcome);
                    // Return the error instead of watching the member again and again.
                    if has_closed && newly_watched {
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

    /// Finds exits that have happened, without waiting.
    pub(super) fn try_exited(&mut self) -> io::Result<()> {
        let known = self.exited.len();
        while self.exited.len() == known {
            if self.events.is_empty() {
                self.find_events()?;
            }
            match self.events.pop_front() {
                Some(event) => self.process_event(&event),
                None => break,
            }
        }
        self.process_outcomes();
        if self.exited.len() == known {
            self.query_polled();
        }
        Ok(())
    }

    /// Reads events, without waiting. Includes those that the system has yet to deliver.
    pub(super) fn find_events(&mut self) -> io::Result<()> {
        let registered = self.members.iter().filter_map(|(key, slot)| {
            let registration = slot.registration().filter(|_| !slot.has_ended())?;
            Some((key.to_u64(), registration))
        });
        self.selector.try_events(registered, &mut self.events)
    }

    /// Processes all events that have been delivered.
    ///
    /// Do this before the set relies on a member's pid: otherwise an exited member would look like a
    /// running one, because with kqueue its event is the only evidence of the exit.
    pub(super) fn drain_events(&mut self) {
        loop {
            while let Some(event) = self.events.pop_front() {
                self.process_event(&event);
            }
            let result = self.selector.try_events(iter::empty(), &mut self.events);
            if result.is_err() || self.events.is_empty() {
                break;
            }
        }
    }

    fn process_event(&mut self, event: &Event) {
        let key = Key::from_u64(event.key);
        // The member may have been removed since the event was read.
        let Some(slot) = self.members.get_mut(key) else {
            return;
        };
        let mut until_exit = WaitState::new(Until::Exit);
        let (registration, wait) = match slot {
            Slot::Registered(registration) => (registration, &mut until_exit),
            Slot::RegisteredUntilReap(waiting) => {
                let (registration, wait) = &mut **waiting;
                (registration, wait)
            }
            // The selector's last events arrive after `fall_back` has demoted its members.
            Slot::Polled(polled) => {
                match polled.probe().state_after(event) {
                    Ok(state) if polled.update(state) => {
                        self.process_outcome(key, Outcome::Exited);
                    }
                    Ok(_) => {}
                    Err(error) => self.process_outcome(key, Outcome::Failed(error)),
                }
                return;
            }
            _ => return,
        };
        let state = match registration.state_after(event) {
            Ok(state) => state,
            Err(error) => return self.fail(key, &error),
        };
        if wait.update(state) {
            let status = wait.status;
            self.end(key, status);
        } else if state == State::Running || registration.has_reap_event() {
            // The event was spurious, or another one will report the reap.
            if let Err(error) = self.selector.reregister(registration, event.key, state) {
                self.fail(key, &error);
            }
        } else {
            self.demote_to_polling(key, &reap_events_unsupported());
        }
    }

    /// Falls back to polling for every member: the reactor refused to register the selector.
    #[cold]
    fn fall_back(&mut self, reason: &io::Error) {
        self.drain_events();
        let keys: Vec<Key> = self.members.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.demote_to_polling(key, reason);
        }
        // Drain again before the selector goes: a member may have exited before it was demoted, and
        // its event would be lost.
        self.drain_events();
        self.events.clear();
        self.selector = Selector::default();
    }

    /// Ends the wait of a member.
    pub(super) fn end(&mut self, key: Key, status: Option<Status>) {
        if let Some(slot) = self.members.get_mut(key) {
            slot.end(status);
            self.exited.push_back(key);
        }
    }

    /// Ends the wait of a member with an error.
    pub(super) fn fail(&mut self, key: Key, error: &io::Error) {
        let error = wait_error(self.members.pid(key), error);
        if let Some(slot) = self.members.get_mut(key) {
            *slot = Slot::Failed(Box::new(error));
            self.exited.push_back(key);
        }
    }

    pub(super) fn set_slot(&mut self, key: Key, slot: Slot) {
        if let Some(current) = self.members.get_mut(key) {
            *current = slot;
        }
    }
}
