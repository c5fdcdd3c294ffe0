//! Error messages about cgroups.

use std::io;
use std::path::Path;

use crate::sys::NoCgroup;

/// Returns the error of opening a cgroup.
pub(super) fn open_error(path: &Path, error: NoCgroup) -> io::Error {
    use io::ErrorKind::{InvalidInput, NotFound};

    let name = path.display();
    let (kind, message) = match error {
        NoCgroup::NotADirectory | NoCgroup::System(libc::ENOTDIR) => (
            InvalidInput,
            format!("{name} is a file, not a cgroup: pass the directory of a cgroup v2"),
        ),
        NoCgroup::Version1 => (
            InvalidInput,
            format!(
                "{name} is a cgroup v1, which reports no exits: pass a cgroup v2, for example below \
                 /sys/fs/cgroup/unified"
            ),
        ),
        NoCgroup::Root => (
            InvalidInput,
            format!(
                "{name} is the root cgroup, which is never empty and has no cgroup.events: pass a cgroup \
                 below it"
            ),
        ),
        NoCgroup::AnotherFileSystem => (
            InvalidInput,
            format!(
                "{name} is an ordinary directory, not a cgroup: pass a directory of a mounted cgroup2 file system"
            ),
        ),
        NoCgroup::Removed | NoCgroup::System(libc::ENOENT | libc::ENODEV) => (
            NotFound,
            format!("there is no cgroup {name}: it has been removed, or was never created"),
        ),
        NoCgroup::System(code) => {
            return action_error("open", path, &io::Error::from_raw_os_error(code));
        }
    };
    io::Error::new(kind, message)
}

/// Adds the action and the cgroup to an error.
pub(super) fn action_error(action: &str, path: &Path, error: &io::Error) -> io::Error {
    let message = format!("cannot {action} cgroup {}: {error}", path.display());
    io::Error::new(error.kind(), message)
}

/// Names the cgroup in the error of a wait.
pub(super) fn wait_error(path: &Path, error: &io::Error) -> io::Error {
    action_error("wait for", path, error)
}

/// The error of stopping our own cgroup.
pub(super) fn own_cgroup() -> io::Error {
    let reason =
        "this process is in the cgroup, and would be stopped first; move it to another cgroup";
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// The error of stopping a threaded cgroup.
pub(super) fn threaded() -> io::Error {
    let reason = "the cgroup is threaded: its threads belong to processes of the cgroup above that is a \
                  threaded domain, so stop that";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

/// The error of killing processes that have no pid here.
pub(super) fn foreign() -> io::Error {
    let reason = "the processes that are left are outside the pid namespace of this process";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}
