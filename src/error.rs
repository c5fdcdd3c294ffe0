//! Error messages.

use std::error::Error;
use std::fmt;
use std::io;
use std::num::NonZeroU32;

/// The inner error of an [`io::Error`] about one process.
///
/// Every error of this crate about one process has this inner error, if the process has a pid. Other
/// errors do not concern one process, for example that the runtime of an
/// [`ExitSet`](crate::ExitSet) is shutting down.
///
/// # Examples
///
/// ```
/// use std::io;
/// use tokio_process_exit::{ProcessError, exit_of};
///
/// fn pid_of(error: &io::Error) -> Option<u32> {
///     let process = error.get_ref()?.downcast_ref::<ProcessError>()?;
///     Some(process.pid())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = exit_of(i32::MAX as u32).await.unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::NotFound);
/// assert_eq!(pid_of(&error), Some(i32::MAX as u32));
/// # }
/// ```
#[derive(Debug)]
pub struct ProcessError {
    pid: NonZeroU32,
    message: String,
}

impl ProcessError {
    /// Returns the pid with which the process was opened.
    ///
    /// The process may have exited, and its pid may belong to another process. If no process could be opened,
    /// this is the number that was passed.
    pub fn pid(&self) -> u32 {
        self.pid.get()
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ProcessError {}

/// Returns an error about the process with this pid, if the process has a pid here.
pub(crate) fn process_error(
    kind: io::ErrorKind,
    pid: Option<NonZeroU32>,
    message: String,
) -> io::Error {
    match pid {
        Some(pid) => io::Error::new(kind, ProcessError { pid, message }),
        None => io::Error::new(kind, message),
    }
}

/// The reason why a process could not be opened.
///
/// Unlike an [`io::Error`] it is `Copy`, so a failed wait can return it at every poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "no system reports all of them")]
pub(crate) enum OpenError {
    /// The pid is 0 or above `i32::MAX`.
    OutOfRange,
    NoSuchProcess,
    /// The number is the id of a thread of `process`, if the system shows the process.
    Thread {
        process: Option<u32>,
    },
    /// The child has been reaped, so its pid may belong to another process.
    ChildReaped,
    /// The pid belongs to another process than the identity.
    AnotherProcess,
    /// The identity is of an earlier boot.
    EarlierBoot,
    /// The process ran in another pid namespace, and has exited there.
    ExitedElsewhere,
    /// The process may run in another pid namespace.
    AnotherPidNamespace,
    /// The start time was recorded in a time namespace that may have another clock than ours.
    AnotherTimeNamespace,
    /// The process may be the same, or its system may have rebooted: the boot id is not the system's own.
    UnclearBoot,
    /// The system does not report whether the process with this pid has this identity.
    Unverifiable,
    /// The process exists, but the system denies every means to wait for it.
    Denied,
    /// An error of the system, with its number.
    System(i32),
}

impl OpenError {
    /// Returns the error for the user. `pid` is the caller's number, or `None` for 0.
    pub(crate) fn to_io_error(self, pid: Option<NonZeroU32>) -> io::Error {
        use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied, Unsupported};

        let name = Name(pid);
        let number = pid.map_or(0, NonZeroU32::get);
        let (kind, message) = match self {
            OpenError::OutOfRange if pid.is_none() => (
                InvalidInput,
                "pid 0 names no process: pass a pid from 1 on".to_owned(),
            ),
            OpenError::OutOfRange => {
                let max = i32::MAX;
                let message =
                    format!("pid {number} names no process: the largest possible pid is {max}");
                (InvalidInput, message)
            }
            OpenError::NoSuchProcess => (NotFound, format!("no process with pid {number}")),
            OpenError::Thread { process: Some(pid) } => (
                InvalidInput,
                format!("{number} is a thread of process {pid}: pass the pid {pid} instead"),
            ),
            OpenError::Thread { process: None } => (
                InvalidInput,
                format!("{number} is a thread, not a process: pass the pid of its process instead"),
            ),
            // tokio's `Child` returns no pid once it has been waited for.
            OpenError::ChildReaped if pid.is_none() => (
                NotFound,
                "the child has already been waited for: `Child::wait` returns its status again"
                    .to_owned(),
            ),
            OpenError::ChildReaped => (
                NotFound,
                format!(
                    "{name} is no longer our child: it has already been waited for, or SIGCHLD is ignored"
                ),
            ),
            OpenError::AnotherProcess => (
                NotFound,
                format!("the process has exited, and its pid {number} belongs to another process"),
            ),
            OpenError::EarlierBoot => (
                NotFound,
                format!("{name} ran in an earlier boot of the system"),
            ),
            OpenError::ExitedElsewhere => (
                NotFound,
                format!("{name} has exited: it ran in another pid namespace (container)"),
            ),
            OpenError::AnotherPidNamespace => (
                Unsupported,
                format!(
                    "cannot verify the identity of {name}: it was recorded in another pid namespace \
                     (container), where the process may be running; open it there, or discard it if \
                     that container has ended"
                ),
            ),
            OpenError::AnotherTimeNamespace => (
                Unsupported,
                format!(
                    "cannot verify the identity of {name}: its start time was recorded in another time \
                     namespace, whose clock may differ; open it in the system's own time namespace or \
                     in that of its container, or discard it if that container has ended"
                ),
            ),
            OpenError::UnclearBoot => (
                Unsupported,
                format!(
                    "cannot verify the identity of {name}: its boot id differs, but a container manager \
                     has replaced /proc/sys/kernel/random/boot_id here or where it was recorded, so the \
                     process may be running; open it where it was recorded, or discard it if the \
                     system or the container has restarted"
                ),
            ),
            OpenError::Unverifiable => (
                Unsupported,
                format!(
                    "cannot verify the identity of {name}: this system does not report the value recorded in it"
                ),
            ),
            OpenError::Denied => (
                PermissionDenied,
                format!(
                    "not permitted to wait for {name}: it is another user's, or protected; run as that user \
                     or as an administrator"
                ),
            ),
            OpenError::System(code) => return wait_error(pid, &io::Error::from_raw_os_error(code)),
        };
        process_error(kind, pid, message)
    }
}

/// Adds the process to the error of a wait.
pub(crate) fn wait_error(pid: Option<NonZeroU32>, error: &io::Error) -> io::Error {
    let message = format!("cannot wait for {}: {error}", Name(pid));
    process_error(error.kind(), pid, message)
}

/// Adds the action and the process to an error. `NotFound` means that the process has exited.
pub(crate) fn action_error(action: &str, pid: Option<NonZeroU32>, error: &io::Error) -> io::Error {
    let name = Name(pid);
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!("{name} has exited"),
        _ => format!("cannot {action} {name}: {error}"),
    };
    process_error(error.kind(), pid, message)
}

/// The error of reaping a process that is not our child.
#[cfg(unix)]
pub(crate) fn not_our_child(pid: Option<NonZeroU32>) -> io::Error {
    let name = Name(pid);
    let message = format!("{name} is not our child, or it has already been reaped");
    process_error(io::ErrorKind::NotFound, pid, message)
}

/// The name of a process in a message. An adopted process may have no pid here.
struct Name(Option<NonZeroU32>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("the process"),
        }
    }
}
