//! What goes wrong, in words.

use std::fmt;
use std::io;
use std::num::NonZeroU32;

/// Why a process could not be opened. Unlike an [`io::Error`] it can be reported again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "no system gives all of them")]
pub(crate) enum OpenError {
    /// 0, or more than any system's pid.
    OutOfRange,
    NoSuchProcess,
    /// The number is a thread's, of this process where it could be told.
    Thread {
        process: Option<u32>,
    },
    /// The process that is meant has been waited for, so that its pid may be another's.
    Collected,
    /// The pid is another process's than the one that is meant.
    AnotherProcess,
    /// The process that is meant ran before this boot.
    EarlierBoot,
    /// It cannot be told whether the process that has the pid is the one that is meant.
    Unproven,
    /// There is such a process, but the system denies us any means to watch it.
    Denied,
    /// The system's own error.
    System(i32),
}

impl OpenError {
    /// `pid` is the number that was asked for, if it was not 0.
    pub(crate) fn to_io_error(self, pid: Option<NonZeroU32>) -> io::Error {
        let known = pid;
        let pid = pid.map_or(0, NonZeroU32::get);
        match self {
            OpenError::OutOfRange if pid == 0 => io::Error::new(
                io::ErrorKind::InvalidInput,
                "pid 0 names no process: pass a pid from 1 on",
            ),
            OpenError::OutOfRange => io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "pid {pid} names no process: the largest possible pid is {}",
                    i32::MAX
                ),
            ),
            OpenError::NoSuchProcess => io::Error::new(
                io::ErrorKind::NotFound,
                format!("no process with pid {pid}"),
            ),
            OpenError::Thread {
                process: Some(process),
            } => io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pid} is a thread of process {process}: pass the pid {process} instead"),
            ),
            OpenError::Thread { process: None } => io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pid} is a thread, not a process: pass the pid of its process instead"),
            ),
            // The `Child` of tokio forgets its pid.
            OpenError::Collected if pid == 0 => io::Error::new(
                io::ErrorKind::NotFound,
                "the child has been waited for already: `wait` tells its status again",
            ),
            OpenError::Collected => io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "process {pid} is not our child any more: it has been waited for already, or \
                     SIGCHLD is ignored"
                ),
            ),
            OpenError::AnotherProcess => io::Error::new(
                io::ErrorKind::NotFound,
                format!("the process is gone, and its pid {pid} is another process's here"),
            ),
            OpenError::EarlierBoot => io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} was one of an earlier boot of the system"),
            ),
            OpenError::Unproven => io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "cannot tell whether process {pid} is the one that is meant: the system does \
                     not show here what its id was made of"
                ),
            ),
            OpenError::Denied => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "not permitted to watch process {pid}: it is another user's, or protected; \
                     run as that user or as an administrator"
                ),
            ),
            OpenError::System(code) => wait_error(known, &io::Error::from_raw_os_error(code)),
        }
    }
}

/// What comes of doing something to a process: `NotFound` if it has exited.
pub(crate) fn action_error(what: &str, pid: Option<NonZeroU32>, error: &io::Error) -> io::Error {
    let process = Named(pid);
    let text = match error.kind() {
        io::ErrorKind::NotFound => format!("{process} has exited"),
        _ => format!("cannot {what} {process}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// Says which process the system's error is about.
pub(crate) fn wait_error(pid: Option<NonZeroU32>, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot wait for {}: {error}", Named(pid)),
    )
}

/// A process in a message. An adopted process may have no pid here.
struct Named(Option<NonZeroU32>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("the process"),
        }
    }
}
