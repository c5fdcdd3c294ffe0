//! A process that has exited.

use std::fmt;
use std::num::NonZeroU32;
use std::process::ExitStatus;

use crate::sys;

/// A process that has exited.
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
/// // The status was read, not taken: its owner still gets it.
/// assert_eq!(child.wait().await?.code(), Some(7));
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Exit {
    pid: Option<NonZeroU32>,
    status: Option<sys::Status>,
}

impl Exit {
    pub(crate) fn new(pid: Option<NonZeroU32>, status: Option<sys::Status>) -> Exit {
        Exit { pid, status }
    }

    /// Returns the pid that the process had, as [`ProcessExit::pid`]. See [above](Exit#examples).
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(NonZeroU32::get)
    }

    /// How the process ended: its exit code, or the signal that killed it.
    ///
    /// `None` only where the system does not tell; never a guess. See
    /// [the crate's page](crate#the-exit-status) for when it is known.
    ///
    /// # Examples
    ///
    /// ```
    /// fn describe(exit: tokio_process_exit::Exit) -> String {
    ///     match exit.status() {
    ///         Some(status) if status.success() => "fine".into(),
    ///         Some(status) => format!("failed: {status}"),
    ///         None => "nobody knows".into(),
    ///     }
    /// }
    /// ```
    pub fn status(&self) -> Option<ExitStatus> {
        self.status.map(sys::Status::exit_status)
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
