//! Waits for the children that std and tokio spawn.

use std::num::NonZeroU32;

use crate::process_exit::ProcessExit;
use crate::sys;
#[cfg(feature = "process")]
use crate::{error::OpenError, process_exit::exit_of};

/// Waits for a child without reaping it, so its owner can still `wait` for it.
///
/// Unlike a pid, `child` never refers to a later process. If the child has already been waited for,
/// awaiting returns [`NotFound`](std::io::ErrorKind::NotFound) on Unix, and the exit on Windows.
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
        ProcessExit::from_opened(NonZeroU32::new(child.id()), sys::open_child(child))
    }
}

/// Waits for a child without reaping it, so its owner can still `wait` for it.
///
/// If the child has already been waited for, awaiting returns
/// [`NotFound`](std::io::ErrorKind::NotFound). Requires the feature `process`. Without
/// that feature, use `child.id().map(exit_of)`.
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
/// let process = ProcessExit::from(&child);
/// # async fn elsewhere(process: ProcessExit) -> std::io::Result<()> {
/// println!("{}", process.await?); // in another task
/// # Ok(())
/// # }
/// # elsewhere(process).await?;
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
            // The pid is still the child's: after tokio has reaped a child, `id` returns `None`.
            Some(pid) => exit_of(pid),
            None => ProcessExit::from_opened(None, Err(OpenError::ChildReaped)),
        }
    }
}
