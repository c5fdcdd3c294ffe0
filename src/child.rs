//! Waiting for a child that std or tokio has spawned.

use std::num::NonZeroU32;

use crate::process_exit::ProcessExit;
use crate::sys;
#[cfg(feature = "process")]
use crate::{error::OpenError, process_exit::exit_of};

/// Waits for a child, and leaves it to its owner to `wait` for it afterwards.
///
/// Unlike its pid, `child` cannot have been replaced by another process. If it has been waited for
/// already, awaiting fails with [`NotFound`](io::ErrorKind::NotFound) on Unix, and resolves on
/// Windows.
///
/// # Examples
///
/// ```
/// # #![cfg_attr(not(unix), allow(unused_imports))]
/// use std::process::Command;
/// use tokio_process_exit::ProcessExit;
///
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut child = Command::new("sh").args(["-c", "exit 0"]).spawn()?;
/// let exit = ProcessExit::from(&child).await?;
/// assert_eq!(exit.pid(), Some(child.id()));
/// assert!(child.wait()?.success());
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
impl From<&std::process::Child> for ProcessExit {
    fn from(child: &std::process::Child) -> ProcessExit {
        ProcessExit::opened(NonZeroU32::new(child.id()), sys::open_child(child))
    }
}

/// As for a [`std::process::Child`]. If it has been waited for already, awaiting fails with
/// [`NotFound`](io::ErrorKind::NotFound). With the feature `process`.
///
/// Without that feature, `child.id().map(exit_of)` does the same.
///
/// # Examples
///
/// ```
/// # #![cfg_attr(not(unix), allow(unused_imports))]
/// use tokio::process::Command;
/// use tokio_process_exit::ProcessExit;
///
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut child = Command::new("sh").args(["-c", "exit 0"]).spawn()?;
/// let exit = ProcessExit::from(&child);
/// # async fn elsewhere(exit: ProcessExit) -> std::io::Result<()> {
/// println!("{}", exit.await?); // in some other task
/// # Ok(())
/// # }
/// # elsewhere(exit).await?;
/// assert!(child.wait().await?.success());
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[cfg(feature = "process")]
#[cfg_attr(docsrs, doc(cfg(feature = "process")))]
impl From<&tokio::process::Child> for ProcessExit {
    fn from(child: &tokio::process::Child) -> ProcessExit {
        match child.id() {
            // It is not waited for before `child` says so, so the pid is its own.
            Some(pid) => exit_of(pid),
            None => ProcessExit::failed(None, OpenError::Collected),
        }
    }
}
