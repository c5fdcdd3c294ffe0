//! What the feature `tracing` tells, at debug level.

use std::io;
use std::num::NonZeroU32;

use crate::Mechanism;

/// How a process is waited for from now on, and why it is polled if it is.
pub(crate) fn mechanism(pid: Option<NonZeroU32>, mechanism: Mechanism, reason: Option<&io::Error>) {
    let pid = pid.map(NonZeroU32::get);
    #[cfg(feature = "tracing")]
    match reason {
        None => tracing::debug!(pid, ?mechanism, "waiting for a process"),
        Some(reason) => tracing::debug!(pid, ?mechanism, %reason, "polling a process"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (pid, mechanism, reason);
}
