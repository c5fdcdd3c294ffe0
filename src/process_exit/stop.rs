//! Stopping a process.

use std::io;
use std::time::Duration;

use super::ProcessExit;
use crate::exit::Exit;
use crate::stopping::{stop_within, unless_gone};

impl ProcessExit {
    /// Terminates the process, waits up to `grace`, then kills the process, and waits for its exit.
    ///
    /// On Unix, this sends `SIGTERM`, and then `SIGCONT`, so that a stopped process can handle `SIGTERM`. If
    /// the process is running after `grace`, this sends `SIGKILL`. Windows has no such signal: this waits for
    /// `grace`, and then terminates the process with the exit code 1. So ask the process to exit before
    /// this call, for example by a message.
    ///
    /// If the process has already exited, this returns its exit at once. All signals are sent by
    /// [`signal`](#method.signal), so on Linux they never reach another process that has got the pid.
    ///
    /// Only the process itself is signalled, not its children. A killed process exits once the kernel has
    /// ended its system calls, which can take any time, for example on a network file system. A wait
    /// [`until_reaped`](ProcessExit::until_reaped) goes on until the reap. So add a timeout if the caller
    /// must not wait that long.
    ///
    /// `grace` is measured by the clock of tokio, which stops while a Linux or macOS system is suspended. In a
    /// runtime whose time is paused (`tokio::time::pause`), `grace` is usually over at once
    /// ([How it works](crate::how_it_works#clocks) has a remedy).
    ///
    /// # Errors
    ///
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): you may not signal the process. On Unix,
    ///   nothing was sent, unless the process has changed its user within `grace`. On Windows, this error is
    ///   returned after `grace`;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the process is polled, and the system does not show
    ///   whether the process still has its pid;
    /// - the errors of [awaiting](ProcessExit#errors). If the wait fails within `grace`, the process is not
    ///   killed.
    ///
    /// # Panics
    ///
    /// In a runtime without timers (see [`Builder::enable_time`](tokio::runtime::Builder::enable_time)),
    /// outside a runtime, and as [awaiting](ProcessExit#panics) does. No signal has been sent then.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first poll. If the future is dropped later, `SIGTERM` has been sent, and
    /// `SIGKILL` will not be. No exit is lost: the `ProcessExit` can be awaited, or stopped again with a new
    /// `grace`, which sends `SIGTERM` again.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let child = std::process::Command::new("sleep").arg("60").spawn()?;
    /// let mut process = ProcessExit::open(child.id())?;
    /// let exit = process.stop(Duration::from_secs(5)).await?;
    /// # if !cfg!(tokio_process_exit_force_poll) {
    /// assert!(exit.to_string().ends_with("exited with signal: 15 (SIGTERM)"));
    /// # }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> io::Result<Exit> {
        let ask = async |process: &ProcessExit| unless_gone(process.request_exit());
        if let Some(result) = stop_within(self, grace, ask).await {
            return result;
        }
        unless_gone(self.kill())?;
        self.await
    }

    #[cfg(unix)]
    fn request_exit(&self) -> io::Result<()> {
        crate::stopping::request_exit(|signal| self.signal(signal))
    }

    /// Does nothing: no system call asks a process to exit.
    #[cfg(windows)]
    fn request_exit(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(unix)]
    fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    #[cfg(windows)]
    fn kill(&self) -> io::Result<()> {
        // As `std::process::Child::kill`.
        const EXIT_CODE: u32 = 1;
        self.terminate(EXIT_CODE)
    }
}
