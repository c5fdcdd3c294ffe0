//! Another wait for the same process.

use std::io;

use super::{ProcessExit, Source};
use crate::error::wait_error;

impl ProcessExit {
    /// Opens the same process again: one task can wait while another signals.
    ///
    /// The new `ProcessExit` is for the same process even if the pid has been recycled. It has the same
    /// condition ([`until_reaped`](ProcessExit::until_reaped)), and the exit if that is known. It has a
    /// registration of its own, so both can be awaited at once, and
    /// [`is_terminated`](ProcessExit::is_terminated) of the new one is `false`.
    ///
    /// It takes descriptors of its own, as each wait does. On Windows, and if the process is
    /// [polled](crate::Mechanism::Polling), it shares what the first one has open. On macOS and the BSDs, an
    /// exited process is polled, because a kqueue reports an exit only once.
    ///
    /// # Errors
    ///
    /// - the error of opening the process;
    /// - the process has no descriptor left for the new wait.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let child = std::process::Command::new("sleep").arg("60").spawn()?;
    /// let process = ProcessExit::open(child.id())?;
    /// let waiting = tokio::spawn(process.try_clone()?);
    /// process.signal(libc::SIGTERM)?;
    /// println!("{}", waiting.await.unwrap()?);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn try_clone(&self) -> io::Result<ProcessExit> {
        let wait = self.wait.of_clone();
        let source = match &self.source {
            Source::Failed(error) => return Err(error.to_io_error(self.pid)),
            Source::WithEvents(process) => {
                let opened = process.try_clone();
                let opened = opened.map_err(|error| wait_error(self.pid, &error))?;
                Source::opened(self.pid, opened, &wait)
            }
            Source::Polled(source) => Source::Polled(Box::new(source.another(self.pid, &wait))),
        };
        Ok(ProcessExit {
            pid: self.pid,
            wait,
            source,
        })
    }
}
