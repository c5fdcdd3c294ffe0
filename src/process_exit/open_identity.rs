//! Finding a process again by its identity.

use std::io;

use super::{ProcessExit, Source, exit_of};
use crate::error::OpenError;
use crate::identity::ProcessIdentity;
use crate::sys;

impl ProcessIdentity {
    /// Opens the process with this identity, to wait for its exit.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has exited and has been reaped. Its pid
    ///   may belong to another process;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the system does not report whether the process
    ///   with this pid has this identity. An example is an identity from another system;
    /// - for an identity by `inode`, the error by which the system refuses a pidfd;
    /// - the errors of [`ProcessExit::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #![cfg_attr(not(target_os = "linux"), allow(unused_imports))]
    /// # #[cfg(target_os = "linux")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let mut child = tokio::process::Command::new("cat")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let pid = child.id().unwrap();
    /// let identity = ProcessExit::open(pid)?.identity()?;
    /// assert_eq!(identity.open()?.pid(), Some(pid));
    ///
    /// child.wait().await?;
    /// let error = identity.open().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_os = "linux"))]
    /// # fn main() {}
    /// ```
    pub fn open(&self) -> io::Result<ProcessExit> {
        self.verified()
            .map_err(|error| error.to_io_error(Some(self.pid)))
    }

    fn verified(&self) -> Result<ProcessExit, OpenError> {
        match sys::boot() {
            Ok(boot) if boot == self.boot => {}
            Ok(Some(_)) if self.boot.is_some() => return Err(OpenError::EarlierBoot),
            Ok(_) => return Err(OpenError::Unverifiable),
            Err(error) => {
                let error = error.raw_os_error().map(OpenError::System);
                return Err(error.unwrap_or(OpenError::Unverifiable));
            }
        }
        // Open the process before its key is read: otherwise the pid could be recycled in between.
        let process = exit_of(self.pid.get());
        if let Source::Failed(error) = process.source {
            return Err(error);
        }
        match process.identity_key(Some(self.key.kind)) {
            Ok(key) if key.is(self.key, sys::KEY_ROUNDING) => Ok(process),
            Ok(_) => Err(OpenError::AnotherProcess),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::NoSuchProcess),
            Err(error) => {
                let refusal = process.fallback_reason().and_then(io::Error::raw_os_error);
                let error = error.raw_os_error().or(refusal).map(OpenError::System);
                Err(error.unwrap_or(OpenError::Unverifiable))
            }
        }
    }
}
