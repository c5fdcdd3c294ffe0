//! Windows: process handles to adopt and to lend, and termination.

use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};

use crate::exit_set::ExitSet;
use crate::process_exit::{ProcessExit, Source};
use crate::sys::{Opened, Probe, Process, Registration};

/// Adopts a process handle, for example from `CreateProcess` or `DuplicateHandle`. Windows only.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for a handle that is not a process handle, or that
/// lacks the rights `SYNCHRONIZE` and `PROCESS_QUERY_LIMITED_INFORMATION`. The handle is closed.
///
/// # Examples
///
/// ```
/// use std::os::windows::io::OwnedHandle;
/// use tokio_process_exit::ProcessExit;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let child = std::process::Command::new("cmd").args(["/c", "exit 7"]).spawn()?;
/// let exit = ProcessExit::try_from(OwnedHandle::from(child))?.await?;
/// assert_eq!(exit.status().unwrap().code(), Some(7));
/// # Ok(())
/// # }
/// ```
impl TryFrom<OwnedHandle> for ProcessExit {
    type Error = io::Error;

    fn try_from(handle: OwnedHandle) -> io::Result<ProcessExit> {
        let (process, pid) = Process::adopt(handle)?;
        let opened = Ok(Opened::WithEvents(process));
        Ok(ProcessExit::from_opened(pid, opened))
    }
}

impl ProcessExit {
    /// Terminates the process at once, with this exit code. Windows only.
    ///
    /// The process cannot clean up. No other process can be terminated by mistake: the pid is not
    /// recycled as long as the `ProcessExit` has a handle of the process.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has exited;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): you may not terminate the process;
    /// - the error of opening the process.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let child = std::process::Command::new("cmd")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let process = tokio_process_exit::exit_of(child.id());
    /// process.terminate(7)?;
    /// assert_eq!(process.await?.status().unwrap().code(), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate(&self, exit_code: u32) -> io::Result<()> {
        let with_process = |process: &Process| process.terminate(exit_code);
        let with_probe = |probe: &Probe| probe.terminate(exit_code);
        self.with_process("terminate", with_process, with_probe)
    }

    /// Returns the handle of the process. Windows only.
    ///
    /// The handle has the right to wait and, unless the system denied that right, the right to query the
    /// exit code. An adopted handle keeps its rights. `None` if the process could not be opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::exit_of;
    ///
    /// assert!(exit_of(std::process::id()).as_handle().is_some());
    /// assert!(exit_of(0).as_handle().is_none());
    /// ```
    pub fn as_handle(&self) -> Option<BorrowedHandle<'_>> {
        match self.source() {
            Source::WithEvents(process) => Some(process.as_handle()),
            Source::Polled(source) => Some(source.probe().as_handle()),
            Source::Failed(_) => None,
        }
    }
}

impl ExitSet {
    /// Terminates a process in the set, as [`ProcessExit::terminate`] does. Windows only.
    ///
    /// # Errors
    ///
    /// The errors of [`ProcessExit::terminate`]. [`NotFound`](io::ErrorKind::NotFound) also if no
    /// process in the set has this pid.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let child = std::process::Command::new("cmd")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let mut set = tokio_process_exit::ExitSet::new();
    /// set.insert(child.id())?;
    /// set.terminate(child.id(), 1)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate(&mut self, pid: u32, exit_code: u32) -> io::Result<()> {
        let with_registration = |registration: &Registration| registration.terminate(exit_code);
        let with_probe = |probe: &Probe| probe.terminate(exit_code);
        self.with_process(pid, "terminate", with_registration, with_probe)
    }
}
