//! A process as the user names it: by a pid, an identity, or a pid file.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio_process_exit::{ProcessExit, ProcessIdentity};

/// A process to wait for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Pid(u32),
    /// The pid, and the inode of the process's pidfds.
    Inode(u32, u64),
    Identity(ProcessIdentity),
    /// A file whose first line names the process.
    File(PathBuf),
}

impl Target {
    /// Opens the process. `NotFound` if there is no such process any more.
    pub(crate) fn open(&self) -> io::Result<ProcessExit> {
        let process = match self {
            Target::Pid(pid) => ProcessExit::open(*pid)?,
            Target::Inode(pid, inode) => open_with_inode(*pid, *inode)?,
            Target::Identity(identity) => identity.open()?,
            Target::File(path) => return read_pid_file(path)?.open(),
        };
        if process.pid() == Some(std::process::id()) {
            let message = format!("{self} is pwait itself: it would wait forever");
            return Err(io::Error::other(message));
        }
        Ok(process)
    }
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Target, &'static str> {
        let text = text.trim();
        let pid = text.parse().map(Target::Pid).ok();
        let inode = || {
            let (pid, inode) = text.split_once(':')?;
            Some(Target::Inode(pid.parse().ok()?, inode.parse().ok()?))
        };
        let identity = || text.parse().map(Target::Identity).ok();
        pid.or_else(inode)
            .or_else(identity)
            .ok_or("expected a pid, PID:INODE, or the line of a ProcessIdentity")
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Pid(pid) | Target::Inode(pid, _) => pid.fmt(f),
            Target::Identity(identity) => identity.pid().fmt(f),
            Target::File(path) => path.display().fmt(f),
        }
    }
}

/// Opens a process by its pid, and checks the inode of its pidfds.
fn open_with_inode(pid: u32, inode: u64) -> io::Result<ProcessExit> {
    let unknown = |error: io::Error| {
        let reason = format!("cannot read the inode of the process: {error}");
        io::Error::other(format!("{pid}:{inode}: {reason}"))
    };
    let process = ProcessExit::open(pid)?;
    let own = ProcessExit::open(std::process::id())?;
    let found = pidfd_inode(&process).map_err(unknown)?;
    let (kind, reason) = match found {
        // Before Linux 6.9, the pidfds of all processes have the same inode.
        _ if found == pidfd_inode(&own).map_err(unknown)? => {
            let reason = "this system has no inode for each process";
            (io::ErrorKind::Unsupported, reason)
        }
        Some(found) if found == inode => return Ok(process),
        _ => {
            let reason = "this process has exited, and another process has its pid now";
            (io::ErrorKind::NotFound, reason)
        }
    };
    Err(io::Error::new(kind, format!("{pid}:{inode}: {reason}")))
}

/// Returns the inode of a process's pidfds, or the error with which the system refused a pidfd.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn pidfd_inode(process: &ProcessExit) -> io::Result<Option<u64>> {
    use std::os::unix::fs::MetadataExt;
    let Some(pidfd) = process.as_pidfd() else {
        let refusal = process.fallback_reason().map(ToString::to_string);
        return Err(io::Error::other(refusal.unwrap_or_default()));
    };
    let pidfd = File::from(pidfd.try_clone_to_owned()?);
    Ok(Some(pidfd.metadata()?.ino()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn pidfd_inode(_process: &ProcessExit) -> io::Result<Option<u64>> {
    Ok(None)
}

/// Reads the first line of a pid file that is not empty. The following lines are ignored.
fn read_pid_file(path: &Path) -> io::Result<Target> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text));
    let line = text.trim_start().lines().next().unwrap_or_default();
    let target = match read {
        Ok(_) => line.parse().map_err(str::to_owned),
        Err(error) => Err(error.to_string()),
    };
    // This is never `NotFound`: without the file, nobody knows whether the process has exited.
    target.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}
