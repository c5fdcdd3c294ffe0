//! Adding processes to a set.

use std::io;
use std::num::NonZeroU32;

use super::ExitSet;
use crate::process_exit::{ProcessExit, Source};
use crate::sys::State;

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
        let number = NonZeroU32::new(pid);
        if let Some(key) = self.key_of(number) {
            self.members.drain_events();
            // No other process has the pid until the member is reaped.
            if !self.members.is_reaped(key) {
                return Ok(false);
            }
        }
        let key = self.members.open(pid)?;
        if let Some(pid) = number {
            self.set_key(pid, key);
        }
        Ok(true)
    }

    /// Adds a process that has been opened or adopted. If this process is already in the set, drops
    /// `process` and returns `false`.
    ///
    /// After [`until_reaped`](ProcessExit::until_reaped), the set yields the process at its reap. If the
    /// process could not be opened, the set yields the error.
    ///
    /// The set does not recognize a member that has been reaped if a later member has its pid, and before
    /// Linux 6.9 also if `/proc` does not show the process. Such a process is added a second time.
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
        let mut process = process.into_parts();
        process.source = self.members.regain_events(process.source);
        let pid = process.pid;
        let mut owner = self.key_of(pid);
        if let Some(key) = owner {
            let is_running = match &process.source {
                Source::WithEvents(process) => matches!(process.state(), Ok(State::Running)),
                _ => false,
            };
            self.members.drain_events();
            if self.members.is_same(key, &process.source) {
                return false;
            }
            // `process` may be the earlier owner of the pid, inserted after the later owner.
            owner = owner.filter(|&key| !is_running && !self.members.is_reaped(key));
        }
        let key = self.members.insert(process);
        if let Some(pid) = pid {
            self.set_key(pid, owner.unwrap_or(key));
        }
        true
    }
}
