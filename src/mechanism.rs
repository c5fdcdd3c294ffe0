//! How the crate notices an exit.

use std::io;
use std::num::NonZeroU32;

/// How a process's exit is noticed.
///
/// Returned by [`ProcessExit::mechanism`](crate::ProcessExit::mechanism).
///
/// # Examples
///
/// ```
/// use tokio_process_exit::{Mechanism, exit_of};
///
/// let process = exit_of(std::process::id());
/// if process.mechanism() == Some(Mechanism::Polling) {
///     eprintln!("polled: {:?}", process.fallback_reason());
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// A pidfd in tokio's reactor reports the exit (Linux).
    PidFd,
    /// A kqueue in tokio's reactor reports the exit (macOS and the BSDs).
    Kqueue,
    /// The thread pool of Windows waits for the process and calls back.
    WaitHandle,
    /// The crate queries the process at intervals, because the system offers or permits no event.
    Polling,
}

/// Logs the mechanism of a wait at debug level. `reason`: why the process is polled.
pub(crate) fn trace(pid: Option<NonZeroU32>, mechanism: Mechanism, reason: Option<&io::Error>) {
    #[cfg(feature = "tracing")]
    {
        let pid = pid.map(NonZeroU32::get);
        match reason {
            None => tracing::debug!(pid, ?mechanism, "waiting for a process"),
            Some(reason) => tracing::debug!(pid, ?mechanism, %reason, "polling a process"),
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (pid, mechanism, reason);
}
