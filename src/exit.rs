//! The exit of a process.

use std::fmt;
use std::num::NonZeroU32;
use std::process::ExitStatus;

use crate::sys::Status;

/// A process that has exited, with its exit status if that is known.
///
/// # Examples
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut child = tokio::process::Command::new("sh").args(["-c", "exit 7"]).spawn()?;
/// let pid = child.id().unwrap();
///
/// let exit = tokio_process_exit::exit_of(pid).await?;
/// assert_eq!(exit.pid(), Some(pid));
/// assert_eq!(exit.status().unwrap().code(), Some(7));
/// assert_eq!(exit.to_string(), format!("process {pid} exited with exit status: 7"));
///
/// // The child was not reaped, so its owner still gets the status.
/// assert_eq!(child.wait().await?.code(), Some(7));
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exit {
    pid: Option<NonZeroU32>,
    status: Option<Status>,
}

impl Exit {
    pub(crate) fn new(pid: Option<NonZeroU32>, status: Option<Status>) -> Exit {
        Exit { pid, status }
    }

    /// Returns the pid that the process had.
    ///
    /// `None` for an adopted process that had no pid here, see
    /// [`ProcessExit::pid`](crate::ProcessExit::pid).
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(NonZeroU32::get)
    }

    /// Returns the exit status: the exit code, or the signal that killed the process.
    ///
    /// `None` if the system does not report the status. A status is never a guess. The crate's page
    /// lists [when the status is known](crate#the-exit-status). Before Linux 6.15, the status of another
    /// program's child is mostly unknown if its parent
    /// [reaps it at once](crate::platforms#linux-before-615-processes-that-are-reaped-at-once).
    ///
    /// # Examples
    ///
    /// ```
    /// fn describe(exit: tokio_process_exit::Exit) -> String {
    ///     match exit.status() {
    ///         Some(status) if status.success() => "success".into(),
    ///         Some(status) => format!("failure: {status}"),
    ///         None => "exited, but the status is not known".into(),
    ///     }
    /// }
    /// ```
    pub fn status(&self) -> Option<ExitStatus> {
        self.status.map(Status::exit_status)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} exited")?,
            None => f.write_str("a process without a pid here exited")?,
        }
        match self.status() {
            Some(status) => write!(f, " with {status}"),
            None => f.write_str(" with unknown status"),
        }
    }
}
