//! Error messages about process groups.

use std::io;

/// The reason why a group could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// The number is 0 or above `i32::MAX`.
    OutOfRange,
    /// No process is in the group. `other`: the group of the process that has this pid, if there is one.
    NoSuchGroup { other: Option<u32> },
}

impl OpenError {
    pub(super) fn to_io_error(self, pgid: u32) -> io::Error {
        use io::ErrorKind::{InvalidInput, NotFound};

        let (kind, message) = match self {
            OpenError::OutOfRange if pgid == 0 => (
                InvalidInput,
                "0 names no process group: pass the number of a group, as `getpgrp` returns it"
                    .to_owned(),
            ),
            OpenError::OutOfRange => {
                let max = i32::MAX;
                let message =
                    format!("{pgid} names no process group: the largest possible number is {max}");
                (InvalidInput, message)
            }
            OpenError::NoSuchGroup { other: None } => (
                NotFound,
                format!(
                    "no process is in process group {pgid}, not even a zombie: it is gone, or {pgid} is not \
                     the number of a group"
                ),
            ),
            OpenError::NoSuchGroup { other: Some(other) } => (
                NotFound,
                format!(
                    "no process is in process group {pgid}: process {pgid} is in group {other}, so pass \
                     {other}, or wait for the process"
                ),
            ),
        };
        io::Error::new(kind, message)
    }
}

/// Adds the group to the error of a wait.
pub(super) fn wait_error(pgid: u32, error: &io::Error) -> io::Error {
    let message = format!("cannot wait for process group {pgid}: {error}");
    io::Error::new(error.kind(), message)
}

/// Adds the action and the group to an error. `NotFound` means that the group is gone.
pub(super) fn action_error(action: &str, pgid: u32, error: &io::Error) -> io::Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => {
            format!("process group {pgid} is gone: no process of it is alive")
        }
        _ => format!("cannot {action} process group {pgid}: {error}"),
    };
    io::Error::new(error.kind(), message)
}

/// The error of stopping our own group.
pub(super) fn own_group(pgid: u32) -> io::Error {
    let message = format!(
        "cannot stop process group {pgid}: this process is in the group, and would be stopped first; start \
         the others in a group of their own (`CommandExt::process_group`), or call `signal`"
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
