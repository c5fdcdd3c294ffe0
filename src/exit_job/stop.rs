//! Stopping a job object.

use std::io;
use std::time::Duration;

use super::JobExit;
use super::error::{action_error, own_job};
use crate::stopping::{kill_until_gone, stop_within, unless_gone};

impl JobExit {
    /// Waits up to `grace`, then terminates all processes of the job, and waits until none is alive.
    ///
    /// Windows has no signal that asks a process to exit. So ask the processes to exit before this call, for
    /// example by a message. After `grace`, all processes are terminated with the exit code 1, also those in the
    /// jobs below. This is repeated until the job is empty, so processes that are assigned to the job meanwhile
    /// are terminated too.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): this process is in the job, and would be terminated too.
    ///   This is returned at once;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): the handle lacks the right `JOB_OBJECT_TERMINATE`.
    ///   This is returned after `grace`;
    /// - the errors of awaiting. If the wait fails within `grace`, no process is terminated.
    ///
    /// # Panics
    ///
    /// In a runtime without timers (see [`Builder::enable_time`](tokio::runtime::Builder::enable_time)), and
    /// outside a runtime. No process has been terminated then.
    ///
    /// # Cancel safety
    ///
    /// Nothing is terminated within `grace`. If the future is dropped later, the processes may have been
    /// terminated. The `JobExit` can be awaited, or stopped again with a new `grace`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn stop(mut job: tokio_process_exit::JobExit) -> std::io::Result<()> {
    /// job.stop(std::time::Duration::from_secs(5)).await
    /// # }
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> io::Result<()> {
        // As `std::process::Child::kill`.
        const EXIT_CODE: u32 = 1;
        let is_own = || {
            let is_own = self.job.contains_this_process();
            is_own.map_err(|error| action_error("stop", &error))
        };
        if self.wait.waiting().is_some() && is_own()? {
            return Err(own_job());
        }
        if let Some(result) = stop_within(self, grace, async |_| Ok(())).await {
            return result;
        }
        let terminate = async |job: &JobExit| unless_gone(job.terminate(EXIT_CODE));
        kill_until_gone(self, terminate, |_| Ok(())).await
    }
}
