//! Error messages about job objects.

use std::io;

/// Adds the action to an error. `NotFound` means that no process of the job is alive.
pub(super) fn action_error(action: &str, error: &io::Error) -> io::Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "no process of the job object is alive".to_owned(),
        _ => format!("cannot {action} the job object: {error}"),
    };
    io::Error::new(error.kind(), message)
}

/// The error of stopping the job of this process.
pub(super) fn own_job() -> io::Error {
    let message = "cannot stop the job object: this process is in the job, and would be terminated first; \
                   call `terminate` to terminate this process too";
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
