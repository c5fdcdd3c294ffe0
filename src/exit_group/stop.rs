//! Stopping a group.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::error::own_group;
use super::{GroupExit, State};

/// The time from one SIGKILL to the next, at first and at most.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_secs(1);

impl GroupExit {
    /// Terminates the group, waits up to `grace`, then kills the group, and waits until it is gone.
    ///
    /// This sends `SIGTERM` to the whole group, and then `SIGCONT`, so that a stopped process can handle
    /// `SIGTERM`. If a process of the group is alive after `grace`, this sends `SIGKILL` to the whole group,
    /// again and again until the group is gone. So processes that join the group meanwhile are killed too. On
    /// Linux a fork cannot escape: the kernel kills the parent and the child, or the parent before the fork.
    ///
    /// If the group is already gone, this returns at once. A process that has moved to another group is not
    /// signalled.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): this process is in the group. It would be stopped by its
    ///   own signal, before the others are killed. Nothing was sent. So too for group 1;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): you may not signal any process that is left;
    /// - the errors of awaiting. If the wait fails within `grace`, the group is not killed.
    ///
    /// # Panics
    ///
    /// In a runtime without timers, outside a runtime, and as awaiting does. No signal has been sent then.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first poll. If the future is dropped later, `SIGTERM` has been sent, and
    /// `SIGKILL` may not have been. The `GroupExit` can be awaited, or stopped again with a new `grace`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use std::os::unix::process::CommandExt;
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use tokio_process_exit::GroupExit;
    ///
    /// let script = "sleep 60 & sleep 60 & wait";
    /// let mut shell = Command::new("sh").args(["-c", script]).process_group(0).spawn()?;
    /// GroupExit::open(shell.id())?.stop(Duration::from_secs(5)).await?;
    /// shell.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> io::Result<()> {
        if let State::Waiting(waiting) = &self.state {
            if waiting.group().is_own() {
                return Err(own_group(self.pgid));
            }
        }
        let within_grace = async {
            // Poll before the signal: if the runtime has no I/O, the panic comes before the signal.
            let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut *self).poll(cx))).await;
            if let Poll::Ready(result) = first {
                return result;
            }
            unless_gone(self.request_exit())?;
            (&mut *self).await
        };
        // Without timers, `timeout` panics before it polls.
        if let Ok(result) = timeout(grace, within_grace).await {
            return result;
        }
        let mut interval = MIN_INTERVAL;
        loop {
            unless_gone(self.signal(libc::SIGKILL))?;
            if let Ok(result) = timeout(interval, &mut *self).await {
                return result;
            }
            if let State::Waiting(waiting) = &self.state {
                waiting.refusal().map_or(Ok(()), Err)?;
            }
            interval = MAX_INTERVAL.min(interval * 2);
        }
    }

    fn request_exit(&self) -> io::Result<()> {
        self.signal(libc::SIGTERM)?;
        // Ignore an error: SIGTERM has been sent, and SIGKILL also ends a stopped process.
        let _ = self.signal(libc::SIGCONT);
        Ok(())
    }
}

/// Ignores the error of a group that is gone: the wait returns that.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
