//! What a `ProcessExit` offers on Linux only.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::process_exit::ProcessExit;
use crate::sys::{Probe, Process};

/// Adopts a pidfd that came from elsewhere: from `SO_PEERPIDFD`, over a socket with `SCM_RIGHTS`,
/// from `clone3`. Linux only.
///
/// The process may be one of another pid namespace, or one that has been reaped already. Then its
/// [`pid`](ProcessExit::pid) is `None`.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for a descriptor that is not the pidfd of a
/// process, the pidfd of a thread (`PIDFD_THREAD`) included. The descriptor is closed.
///
/// # Examples
///
/// ```
/// use std::os::fd::OwnedFd;
/// use tokio_process_exit::ProcessExit;
///
/// let socket = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
/// let error = ProcessExit::try_from(socket).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// ```
impl TryFrom<OwnedFd> for ProcessExit {
    type Error = io::Error;

    fn try_from(pidfd: OwnedFd) -> io::Result<ProcessExit> {
        let (process, pid) = Process::adopt(pidfd)?;
        Ok(ProcessExit::adopted(process, pid))
    }
}

impl ProcessExit {
    /// The pidfd that is waited on, to send a signal by `pidfd_send_signal(2)` for instance.
    /// Linux only.
    ///
    /// `None` if opening failed, or if the system refused a pidfd and the process is polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::exit_of;
    ///
    /// # #[cfg(not(tokio_process_exit_force_poll))]
    /// assert!(exit_of(std::process::id()).as_pidfd().is_some());
    /// assert!(exit_of(0).as_pidfd().is_none());
    /// ```
    pub fn as_pidfd(&self) -> Option<BorrowedFd<'_>> {
        let polled = || self.probe().and_then(Probe::pidfd);
        self.process().map(Process::as_fd).or_else(polled)
    }
}
