//! Linux: pidfds to adopt and to lend.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::process_exit::{ProcessExit, Source};
use crate::sys::{Opened, Process};

/// Adopts a pidfd, for example from `SO_PEERPIDFD`, `SCM_RIGHTS` or `clone3`. Linux only.
///
/// The process may be outside our pid namespace, or may have been reaped. Then its
/// [`pid`](ProcessExit::pid) is `None`.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for a descriptor that is not a pidfd, and for the
/// pidfd of a thread (`PIDFD_THREAD`). The descriptor is closed.
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
        let opened = Ok(Opened::WithEvents(process));
        Ok(ProcessExit::from_opened(pid, opened))
    }
}

impl ProcessExit {
    /// Returns the pidfd of the process, for example to call `pidfd_send_signal(2)`. Linux only.
    ///
    /// `None` if the process could not be opened, or if the system refused a pidfd.
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
        match self.source() {
            Source::WithEvents(process) => Some(process.as_fd()),
            Source::Polled(source) => source.probe().pidfd(),
            Source::Failed(_) => None,
        }
    }
}
