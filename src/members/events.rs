//! Noticing the exits of members.

use std::io;
use std::iter;
use std::mem;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::Members;
use super::slab::Key;
use super::slot::Slot;
use crate::error::wait_error;
use crate::poller::Outcome;
use crate::process_exit::reap_events_unsupported;
use crate::sys::{Event, EventError, Selector, State, Status};
use crate::wait_state::{Until, WaitState};
use crate::wake_queue::wake;

impl Members {
    /// Waits until more than `known` waits have ended, or all have.
    pub(super) fn poll_ended(
        &mut self,
        known: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut has_paid = false;
        loop {
            if self.ended.len() > known {
                return Poll::Ready(Ok(()));
            }
            if !self.events.is_empty() {
                // Reading has consumed budget for the first event. Otherwise a poll that read the event
                // with the last unit would be pending, and an expired timeout would hide the exit.
                if !mem::take(&mut has_paid) {
                    ready!(coop::poll_proceed(cx)).made_progress();
                }
                if let Some(event) = self.events.pop_front() {
                    self.handle_event(&event);
                }
                continue;
            }
            if let Some(error) = self.deferred_error.take() {
                return Poll::Ready(Err(error));
            }
            if self.ended.len() == self.len() {
                return Poll::Ready(Ok(()));
            }
            let mut polled = Poll::Pending;
            if self.polled.len > 0 {
                polled = self.poll_polled(cx);
                if let Poll::Ready(Ok(())) = polled {
                    continue;
                }
            }
            // Poll the selector also if polling has failed or waits: an exited member with events must not
            // wait for the polled members.
            match self.selector.poll_events(cx, &mut self.events) {
                Poll::Ready(Ok(())) => {
                    has_paid = true;
                    if let Poll::Ready(Err(error)) = polled {
                        self.deferred_error = Some(error);
                    }
                }
                Poll::Ready(Err(EventError::Refused(reason))) => self.fall_back(&reason),
                Poll::Ready(Err(EventError::Other(error))) => return Poll::Ready(Err(error)),
                Poll::Pending => return polled,
            }
        }
    }

    /// Ends the waits of members that have exited, without waiting for more.
    pub(super) fn try_ended(&mut self) -> io::Result<()> {
        let known = self.ended.len();
        while self.ended.len() == known {
            if self.events.is_empty() {
                self.find_events()?;
            }
            match self.events.pop_front() {
                Some(event) => self.handle_event(&event),
                None => break,
            }
        }
        self.handle_outcomes();
        if self.ended.len() == known {
            self.query_polled();
        }
        Ok(())
    }

    /// Reads events, without waiting. Also finds exits whose events the system has yet to deliver.
    pub(super) fn find_events(&mut self) -> io::Result<()> {
        let registered = self.slots.iter().filter_map(|(key, slot)| {
            let registration = slot.registration().filter(|_| !slot.has_ended())?;
            Some((key.to_u64(), registration))
        });
        self.selector.try_events(registered, &mut self.events)
    }

    /// Handles all events that have been delivered.
    ///
    /// Call this before anything relies on a member's pid. Otherwise an exited member would count as
    /// running, because with kqueue the event is the only evidence of the exit.
    pub(crate) fn drain_events(&mut self) {
        loop {
            while let Some(event) = self.events.pop_front() {
                self.handle_event(&event);
            }
            let result = self.selector.try_events(iter::empty(), &mut self.events);
            if result.is_err() || self.events.is_empty() {
                break;
            }
        }
    }

    fn handle_event(&mut self, event: &Event) {
        let key = Key::from_u64(event.key);
        // The member may have been removed since the event was read.
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let mut until_exit = WaitState::new(Until::Exit);
        let (registration, wait) = match slot {
            Slot::Registered(registration) => (registration, &mut until_exit),
            Slot::RegisteredUntilReap(waiting) => {
                let (registration, wait) = &mut **waiting;
                (registration, wait)
            }
            // `fall_back` demotes all members before it drains the selector's last events.
            Slot::Polled(polled) => {
                match polled.probe().state_after(event) {
                    Ok(state) if polled.update(state) => {
                        self.handle_outcome(key, Outcome::Resolved);
                    }
                    Ok(_) => {}
                    Err(error) => self.handle_outcome(key, Outcome::Failed(error)),
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
            // The event was spurious, or another event will report the reap.
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
        let keys: Vec<Key> = self.slots.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.demote_to_polling(key, reason);
        }
        // Drain again before the selector is dropped: otherwise the event of a member that exited before
        // its demotion would be lost.
        self.drain_events();
        self.events.clear();
        self.selector = Selector::default();
    }

    /// Ends the wait of a member.
    pub(super) fn end(&mut self, key: Key, status: Option<Status>) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.end(status);
            self.push_ended(key);
        }
    }

    /// Ends the wait of a member with an error.
    pub(super) fn fail(&mut self, key: Key, error: &io::Error) {
        let error = wait_error(self.slots.pid(key), error);
        if let Some(slot) = self.slots.get_mut(key) {
            *slot = Slot::Failed(Box::new(error));
            self.push_ended(key);
        }
    }

    /// Queues a member whose wait has ended, and wakes the task that waits for it.
    pub(super) fn push_ended(&mut self, key: Key) {
        self.ended.push_back(key);
        self.wake();
    }

    /// Wakes the task that waits for the next exit.
    ///
    /// Call this after a call other than a poll has read an event: the reactor does not report the event
    /// again.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            // A panic of the waker must not interrupt an insertion or a wait.
            wake(waker);
        }
    }

    pub(super) fn set_slot(&mut self, key: Key, slot: Slot) {
        if let Some(current) = self.slots.get_mut(key) {
            *current = slot;
        }
    }
}
