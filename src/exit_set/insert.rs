//! Adding processes to a set.

use std::io;
use std::num::NonZeroU32;

use super::ExitSet;
use super::close_queue;
use super::slab::Key;
use super::slot::Slot;
use crate::mechanism::{self, Mechanism};
use crate::poller::Polled;
use crate::process_exit::{Parts, ProcessExit, Source};
use crate::sys::{self, Opened, Registration, Reopened, State};
use crate::wait_state::{Until, WaitState};

impl ExitSet {
    /// Opens the process `pid` and adds it. Returns `false` if this process is already in the set.
    ///
    /// After a member has been reaped, a later process may get its pid. Then this adds the later process,
    /// even if the set has not yielded the member. Both are yielded.
    ///
    /// # Errors
    ///
    /// The errors of [`ProcessExit::open`]. The set is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// let pid = std::process::id();
    /// assert!(set.insert(pid)?);
    /// assert!(!set.insert(pid)?);
    /// assert_eq!(set.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert(&mut self, pid: u32) -> io::Result<bool> {
        let number = pid;
        let pid = NonZeroU32::new(number);
        if let Some(key) = self.key_of(pid) {
            self.drain_events();
            // No other process has the pid until the member is reaped.
            if !self.is_reaped(key) {
                return Ok(false);
            }
        }
        let key = self.members.next_key();
        let mut opened = self.selector.open(number, key.to_u64());
        // Close pending descriptors and retry: one of them may free the slot that `open` needs.
        while matches!(opened, Ok(Opened::Refused(_))) && !self.close_queue.is_empty() {
            self.close_queue.close_batch();
            opened = self.selector.open(number, key.to_u64());
        }
        let opened = opened.map_err(|error| error.to_io_error(pid))?;
        let slot = self.slot_of(pid, key, opened, WaitState::new(Until::Exit));
        self.add(pid, slot);
        Ok(true)
    }

    /// Adds a process that has been opened or adopted. If this process is already in the set, drops
    /// `process` and returns `false`.
    ///
    /// After [`until_reaped`](ProcessExit::until_reaped), the set yields the process at its reap. If the
    /// process could not be opened, the set yields the error.
    ///
    /// The set does not recognize a member that has been reaped if a later member has its pid. Such a
    /// process is added a second time.
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
    pub fn insert_exit(&mut self, process: ProcessExit) -> bool {
        let Parts {
            pid,
            wait,
            mut source,
        } = process.into_parts();
        if let (Source::Polled(polled), false) = (&source, self.close_queue.is_empty()) {
            // Close pending descriptors and retry: one of them may free the slot that `reopen` needs.
            self.close_queue.close_batch();
            if let Reopened::WithEvents(process) = polled.probe().reopen() {
                source = Source::WithEvents(process);
            }
        }
        let mut owner = self.key_of(pid);
        if let Some(key) = owner {
            let is_running = match &source {
                Source::WithEvents(process) => matches!(process.state(), Ok(State::Running)),
                _ => false,
            };
            self.drain_events();
            if self.is_same(key, &source) {
                return false;
            }
            // `process` may be the earlier owner of the pid, inserted after the later owner.
            owner = owner.filter(|&key| !is_running && !self.is_reaped(key));
        }
        let key = self.members.next_key();
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
        self.add(pid, slot);
        if let (Some(pid), Some(owner)) = (pid, owner) {
            self.by_pid.insert(pid, owner);
        }
        true
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
    fn add(&mut self, pid: Option<NonZeroU32>, slot: Slot) {
        let key = self.members.insert(pid, slot);
        self.close_queue.reset_scarcity();
        self.selector.grow_fd_table(self.len());
        // Keep no more yielded descriptors than the set has ever had members.
        if self.close_queue.len() > self.len().max(close_queue::BATCH_SIZE) {
            self.close_queue.close_batch();
        }
        if let Some(pid) = pid {
            self.by_pid.insert(pid, key);
        }
    }

    /// Whether the pid of a member may belong to another process.
    fn is_reaped(&self, key: Key) -> bool {
        self.members.get(key).is_none_or(Slot::is_reaped)
    }

    /// Whether a member and a source with the same pid are the same process.
    fn is_same(&self, key: Key, source: &Source) -> bool {
        let Some(slot) = self.members.get(key) else {
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
