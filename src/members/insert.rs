//! Adding processes.

use std::io;
use std::num::NonZeroU32;

use super::Members;
use super::slab::Key;
use super::slot::Slot;
use crate::mechanism::{self, Mechanism};
use crate::poller::Polled;
use crate::process_exit::{Parts, Source};
use crate::sys::{self, Opened, Registration, Reopened};
use crate::wait_state::{Until, WaitState};

impl Members {
    /// Opens the process `pid` and adds it.
    ///
    /// If a member has this pid, drain the events before: otherwise it may be an exited process that still
    /// counts as running.
    pub(crate) fn open(&mut self, pid: u32) -> io::Result<Key> {
        let number = pid;
        let pid = NonZeroU32::new(number);
        let key = self.slots.next_key();
        let mut opened = self.selector.open(number, key.to_u64());
        // Close pending descriptors and retry: one of them may free the slot that `open` needs.
        while matches!(opened, Ok(Opened::Refused(_))) && !self.close_queue.is_empty() {
            self.close_queue.close_batch();
            opened = self.selector.open(number, key.to_u64());
        }
        let opened = opened.map_err(|error| error.to_io_error(pid))?;
        let slot = self.slot_of(pid, key, opened, WaitState::new(Until::Exit));
        Ok(self.add(pid, slot))
    }

    /// Tries again to get an event source for a polled process, if pending descriptors can be closed.
    pub(crate) fn regain_events(&mut self, source: Source) -> Source {
        if let (Source::Polled(polled), false) = (&source, self.close_queue.is_empty()) {
            // Close pending descriptors and retry: one of them may free the slot that `reopen` needs.
            self.close_queue.close_batch();
            if let Reopened::WithEvents(process) = polled.probe().reopen() {
                return Source::WithEvents(process);
            }
        }
        source
    }

    /// Adds a process that has been opened. If a member has its pid, drain the events before, as for
    /// [`open`](Members::open).
    pub(crate) fn insert(&mut self, process: Parts) -> Key {
        let Parts { pid, wait, source } = process;
        let key = self.slots.next_key();
        let slot = match (wait.resolved, source) {
            (_, Source::Failed(error)) => Slot::Failed(Box::new(error.to_io_error(pid))),
            (true, Source::WithEvents(process)) => {
                let polled = Polled::new(process.into_probe(), &wait);
                Slot::EndedPolled(Box::new(polled))
            }
            (true, Source::Polled(source)) => Slot::EndedPolled(Box::new(source.into_polled())),
            (false, Source::WithEvents(process)) => self.register(pid, key, process, wait),
            (false, Source::Polled(source)) => self.polled_slot(key, source.into_polled()),
        };
        if slot.has_ended() {
            self.push_ended(key);
        }
        self.add(pid, slot)
    }

    /// Registers a process, or polls it if the system refuses the registration. Returns its slot.
    pub(super) fn register(
        &mut self,
        pid: Option<NonZeroU32>,
        key: Key,
        process: sys::Process,
        wait: WaitState,
    ) -> Slot {
        let opened = self.selector.register(process, key.to_u64());
        self.slot_of(pid, key, opened, wait)
    }

    fn slot_of(
        &mut self,
        pid: Option<NonZeroU32>,
        key: Key,
        opened: Opened<Registration>,
        wait: WaitState,
    ) -> Slot {
        match opened {
            Opened::WithEvents(registration) => {
                mechanism::trace(pid, sys::Process::MECHANISM, None);
                match wait.until {
                    Until::Exit => Slot::Registered(registration),
                    Until::Reap => Slot::RegisteredUntilReap(Box::new((registration, wait))),
                }
            }
            Opened::Refused(refused) => {
                mechanism::trace(pid, Mechanism::Polling, Some(&refused.reason));
                self.polled_slot(key, Polled::new(refused.probe, &wait))
            }
        }
    }

    /// Adds a member with the [next key](super::slab::Slab::next_key).
    fn add(&mut self, pid: Option<NonZeroU32>, slot: Slot) -> Key {
        let key = self.slots.insert(pid, slot);
        self.selector.grow_fd_table(self.len());
        // Close more than was added: a program that replaces its processes needs no more descriptors then.
        self.close_queue.close(2);
        key
    }

    /// Whether the pid of a member may belong to another process.
    pub(crate) fn is_reaped(&self, key: Key) -> bool {
        self.slots.get(key).is_none_or(Slot::is_reaped)
    }

    /// Whether a member and a source with the same pid are the same process.
    pub(crate) fn is_same(&self, key: Key, source: &Source) -> bool {
        let Some(slot) = self.slots.get(key) else {
            return false;
        };
        // Different ids prove nothing: a polled process may have had several ids.
        let (this, other) = (slot.unique_id(), source.unique_id());
        if this.is_some() && this == other {
            return true;
        }
        match (slot.registration(), source) {
            (Some(registration), Source::WithEvents(process)) => registration.is_same(process),
            // Two processes cannot have the pid at the same time.
            (_, Source::WithEvents(process)) => !self.is_reaped(key) && !process.is_reaped(),
            (_, Source::Polled(source)) => !self.is_reaped(key) && !source.probe().is_reaped(),
            (_, Source::Failed(_)) => false,
        }
    }
}
