//! Waiting on the calling thread, without a runtime.

use std::io;
use std::time::{Duration, Instant};

use super::{ProcessExit, Source};
use crate::error::wait_error;
use crate::exit::Exit;
use crate::poller::ThreadPacer;
use crate::sys::State;

impl ProcessExit {
    /// Blocks the calling thread until the process exits, or until `timeout` is over. Works outside a
    /// runtime, and in a runtime without I/O.
    ///
    /// `None`: the process has not exited within `timeout`. A timeout of zero queries the process once, as
    /// [`try_wait`](ProcessExit::try_wait) does. Without a timeout, and with [`Duration::MAX`], the wait has
    /// no limit. Signal handlers do not shorten the wait.
    ///
    /// The thread sleeps in the kernel, so a wait of any length costs a few context switches. If the
    /// process is [polled](crate::Mechanism::Polling), or the system refuses to wait, the thread queries the
    /// process at intervals: 0.1 ms at first, then doubled up to 40 ms.
    ///
    /// Never call this in a task: no other task of that worker thread would run. Await the `ProcessExit`, or
    /// call this in [`spawn_blocking`](tokio::task::spawn_blocking). The runtime's shutdown waits for such a
    /// call, so pass a timeout.
    ///
    /// The `ProcessExit` can be awaited before and after this call. A wait that was resolved returns at
    /// once. As after `try_wait`, [`is_terminated`](ProcessExit::is_terminated) stays `false`.
    ///
    /// # Platforms
    ///
    /// The thread sleeps in `ppoll(2)` on Linux, in `kevent(2)` on macOS and the BSDs, and in
    /// `WaitForSingleObject` on Windows. On Unix, the timeout does not count the time for which the system
    /// is suspended, as far as [`Instant`] does not. For a wait
    /// [`until_reaped`](ProcessExit::until_reaped), the thread sleeps until the exit, and from then on until
    /// the reap on Linux 6.9 and later. Other Unix systems are polled from the exit on.
    ///
    /// # Cancel safety
    ///
    /// The call is not async and cannot be cancelled. In a blocking task, it goes on after the task's
    /// `JoinHandle` has been dropped or aborted. A call that returns `None` loses nothing.
    ///
    /// # Errors
    ///
    /// - the error of opening the process;
    /// - the system cannot query the process. The wait can be repeated.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use tokio_process_exit::ProcessExit;
    ///
    /// // This process is still running, so the timeout elapses.
    /// let mut process = ProcessExit::open(std::process::id())?;
    /// match process.blocking_wait(Some(Duration::from_millis(20)))? {
    ///     Some(exit) => println!("{exit}"),
    ///     None => println!("still running"),
    /// }
    /// # assert_eq!(process.blocking_wait(Some(Duration::ZERO))?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn blocking_wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<Exit>> {
        /// The longest time for which the system is asked to wait at once.
        const MAX_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

        if let Source::Failed(error) = &self.source {
            return Err(error.to_io_error(self.pid));
        }
        // A time that the clock cannot represent is never reached.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut pacer = ThreadPacer::default();
        loop {
            let state = self
                .query_on_thread(&mut pacer)
                .map_err(|error| wait_error(self.pid, &error))?;
            if let Some(exit) = self.exit() {
                return Ok(Some(exit));
            }
            let sleep = deadline.map_or(MAX_SLEEP, |deadline| {
                MAX_SLEEP.min(deadline.saturating_duration_since(Instant::now()))
            });
            if sleep.is_zero() {
                return Ok(None);
            }
            let has_slept = match (&mut self.source, state) {
                (Source::WithEvents(process), Some(state)) => {
                    process.wait_event(state, sleep).is_ok()
                }
                _ => false,
            };
            if !has_slept {
                pacer.sleep(sleep);
            }
        }
    }

    /// Queries the process, unless the wait is resolved. Returns the state of a process with events.
    fn query_on_thread(&mut self, pacer: &mut ThreadPacer) -> io::Result<Option<State>> {
        if self.wait.resolved {
            return Ok(None);
        }
        if let Source::Polled(source) = &mut self.source {
            let outcome = source.try_outcome().or_else(|| pacer.query(&source.polled));
            if let Some(outcome) = outcome {
                self.handle_outcome(outcome)?;
            }
        }
        match &self.source {
            Source::WithEvents(process) if !self.wait.resolved => {
                let state = process.state()?;
                self.update(state);
                Ok(Some(state))
            }
            _ => Ok(None),
        }
    }
}
