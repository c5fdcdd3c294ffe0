//! How an exit is noticed.

use std::io;
use std::num::NonZeroU32;

/// How an exit is noticed.
///
/// # Examples
///
/// ```
/// use tokio_process_exit::{Mechanism, exit_of};
///
/// let exit = exit_of(std::process::id());
/// if exit.mechanism() == Some(Mechanism::Polling) {
///     eprintln!("{:?}", exit.fallback_reason());
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// The kernel wakes the reactor through a pidfd (Linux).
    PidFd,
    /// The kernel wakes the reactor through a kqueue (macOS and the BSDs).
    Kqueue,
    /// The system calls back through a registered wait (Windows).
    WaitHandle,
    /// The process is looked at again and again, as the system offers or permits nothing else.
    Polling,
}

/// How a process is waited for from now on, and why it is polled if it is.
pub(crate) fn trace(pid: Option<NonZeroU32>, mechanism: Mechanism, reason: Option<&io::Error>) {
    let pid = pid.map(NonZeroU32::get);
    #[cfg(feature = "tracing")]
    match reason {
        None => tracing::debug!(pid, ?mechanism, "waiting for a process"),
        Some(reason) => tracing::debug!(pid, ?mechanism, %reason, "polling a process"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (pid, mechanism, reason);
}
