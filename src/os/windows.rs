//! What a `ProcessExit` offers on Windows only.

use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};

use crate::exit_set::ExitSet;
use crate::process_exit::ProcessExit;
use crate::sys::{Probe, Process, Registration};

/// Adopts a process handle that came from elsewhere: from `CreateProcess`, from
/// `DuplicateHandle`. Windows only.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for a handle that is not one of a process, or lacks
/// the rights `SYNCHRONIZE` and `PROCESS_QUERY_LIMITED_INFORMATION`. The handle is closed.
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
        Ok(ProcessExit::adopted(process, pid))
    }
}

impl ProcessExit {
    /// Ends the process at once, with this exit code. Windows only.
    ///
    /// It has no chance to clean up. It is that very process, whatever becomes of its pid, as that is
    /// not given out again while this holds a handle of it.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has exited;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): we may not end it;
    /// - the error of opening it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let child = std::process::Command::new("cmd")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let exit = tokio_process_exit::exit_of(child.id());
    /// exit.terminate(7)?;
    /// assert_eq!(exit.await?.status().unwrap().code(), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate(&self, exit_code: u32) -> io::Result<()> {
        let by_process = |process: &Process| process.terminate(exit_code);
        self.with_process("terminate", by_process, |probe: &Probe| {
            probe.terminate(exit_code)
        })
    }

    /// The process handle that is waited on. Windows only.
    ///
    /// It permits to wait, and to ask for the exit code unless the system has denied that; an
    /// adopted handle permits what it did before. `None` if opening failed.
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
        let polled = || self.probe().map(AsHandle::as_handle);
        self.process().map(AsHandle::as_handle).or_else(polled)
    }
}

impl ExitSet {
    /// Ends a process in the set, as [`ProcessExit::terminate`]. Windows only.
    ///
    /// # Errors
    ///
    /// As there. [`NotFound`](io::ErrorKind::NotFound) also if no process in the set has this pid.
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
        let by_registration = |registration: &Registration| registration.terminate(exit_code);
        let by_probe = |probe: &Probe| probe.terminate(exit_code);
        self.with_process(pid, "terminate", by_registration, by_probe)
    }
}
