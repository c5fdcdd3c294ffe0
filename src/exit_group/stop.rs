//! Stopping a group.

use std::io;
use std::time::Duration;

use super::error::own_group;
use super::{GroupExit, Waiting};
use crate::stopping::{kill_until_gone, request_exit, stop_within, unless_gone};

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
    /// # // An emulator may start the child before it has set the group.
    /// # unsafe { libc::setpgid(shell.id() as i32, 0) };
    /// GroupExit::open(shell.id())?.stop(Duration::from_secs(5)).await?;
    /// shell.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> io::Result<()> {
        let waiting = self.wait.waiting();
        if waiting.is_some_and(|waiting| waiting.group().is_own()) {
            return Err(own_group(self.pgid));
        }
        let ask =
            async |group: &GroupExit| unless_gone(request_exit(|signal| group.signal(signal)));
        if let Some(result) = stop_within(self, grace, ask).await {
            return result;
        }
        let kill = async |group: &GroupExit| unless_gone(group.signal(libc::SIGKILL));
        let check = |group: &GroupExit| {
            let refusal = group.wait.waiting().and_then(Waiting::refusal);
            refusal.map_or(Ok(()), Err)
        };
        kill_until_gone(self, kill, check).await
    }
}
