//! Stopping all members.

use std::collections::HashSet;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::coop;

use super::Members;
use super::slab::Key;
use crate::stopping::poll_once;
#[cfg(unix)]
use crate::stopping::request_exit;
use crate::sys::{Probe, Registration};

impl Members {
    /// Asks all members to exit, and kills those that have not exited after `grace`.
    ///
    /// [`pop_ended`](Members::pop_ended) then returns the members that have exited. Returns the errors of
    /// the members that could not be signalled and are still running. An error without a key concerns the
    /// waits for all members, and has ended this wait too.
    ///
    /// Only waits are cancelled if the future is dropped: no member is removed here.
    pub(crate) async fn stop(&mut self, grace: Duration) -> Vec<(Option<Key>, io::Error)> {
        let mut refused = Vec::new();
        // An error of an earlier wait must not end this wait.
        let earlier = self.deferred_error.take();
        let stopped = self.stop_permitted(grace, &mut refused).await;
        let errors = earlier.into_iter().chain(stopped.err());
        let refused = refused.into_iter().filter(|&(key, _)| self.is_waiting(key));
        refused
            .map(|(key, error)| (Some(key), error))
            .chain(errors.map(|error| (None, error)))
            .collect()
    }

    /// Stops the members that may be signalled. Adds the others to `refused`, and does not wait for them.
    async fn stop_permitted(
        &mut self,
        grace: Duration,
        refused: &mut Vec<(Key, io::Error)>,
    ) -> io::Result<()> {
        // Poll before the signals: if the runtime has no timers or no I/O, the panic comes before them.
        if let Poll::Ready(Err(error)) = poll_once(pin!(self.wait_within(grace))).await {
            return Err(error);
        }
        #[cfg(unix)]
        self.request_exits(refused).await;
        self.wait_for_others(&keys_of(refused), Some(grace)).await?;
        self.for_each_but(refused, Members::kill).await;
        self.wait_for_others(&keys_of(refused), None).await
    }

    /// Asks each process once, also if it is several members: many programs take a second SIGTERM as the order
    /// to exit without cleanup.
    #[cfg(unix)]
    async fn request_exits(&mut self, refused: &mut Vec<(Key, io::Error)>) {
        // Of several members with one pid, at most one process is alive, and only the living are recorded.
        let mut asked = HashSet::new();
        let ask = |members: &mut Members, key| {
            let pid = members.slots.pid(key);
            if pid.is_none_or(|pid| !asked.contains(&pid)) {
                request_exit(|signal| members.signal(key, signal))?;
                asked.extend(pid);
            }
            Ok(())
        };
        self.for_each_but(refused, ask).await;
    }

    #[cfg(unix)]
    fn kill(&mut self, key: Key) -> io::Result<()> {
        self.signal(key, libc::SIGKILL)
    }

    #[cfg(unix)]
    fn signal(&mut self, key: Key, signal: i32) -> io::Result<()> {
        let with_registration = |registration: &Registration| registration.signal(signal);
        let with_probe = |probe: &Probe| probe.signal(signal);
        self.with_member(key, "signal", with_registration, with_probe)
    }

    #[cfg(windows)]
    fn kill(&mut self, key: Key) -> io::Result<()> {
        // As `std::process::Child::kill`.
        const EXIT_CODE: u32 = 1;
        let with_registration = |registration: &Registration| registration.terminate(EXIT_CODE);
        let with_probe = |probe: &Probe| probe.terminate(EXIT_CODE);
        self.with_member(key, "terminate", with_registration, with_probe)
    }

    /// Calls `action` with each member that is waited for and not in `refused`. Adds a member to `refused`
    /// if the action fails and the member has not exited.
    async fn for_each_but(
        &mut self,
        refused: &mut Vec<(Key, io::Error)>,
        mut action: impl FnMut(&mut Members, Key) -> io::Result<()>,
    ) {
        let exempt = keys_of(refused);
        for key in self.waiting_but(&exempt) {
            match action(self, key) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    refused.push((key, error));
                }
                _ => {}
            }
            // Other tasks must not wait until thousands of processes have been signalled.
            coop::consume_budget().await;
        }
    }

    /// Returns the members that are waited for, except for `exempt`.
    fn waiting_but(&self, exempt: &HashSet<Key>) -> Vec<Key> {
        let waiting = self.waiting().filter(|key| !exempt.contains(key));
        waiting.collect()
    }
}

fn keys_of(refused: &[(Key, io::Error)]) -> HashSet<Key> {
    refused.iter().map(|&(key, _)| key).collect()
}
