//! The files of the supervisor and of the daemon.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tokio_process_exit::ProcessExit;

/// Opens the process whose pid is in a file, unless the pid is stale. Returns the pid too, and `None` if there is
/// no such process.
pub(crate) async fn open_pid(
    path: &Path,
    is_stale: impl Fn(u32) -> bool,
) -> io::Result<Option<(u32, ProcessExit)>> {
    /// How long the file must stay the same if its line has no end.
    const SETTLE_TIME: Duration = Duration::from_secs(1);

    loop {
        let text = read(path)?.unwrap_or_default();
        let Some(pid) = parse_pid(path, &text)? else {
            return Ok(None);
        };
        let found = match is_stale(pid) {
            true => None,
            false => ProcessExit::find(pid).map_err(|error| with_prefix(path.display(), &error))?,
        };
        // The daemon may have written "12" of "1234". Many daemons write no newline, so do not wait for it.
        if !text.contains('\n') {
            sleep(SETTLE_TIME).await;
        }
        // Read the file again after the open: if the daemon has deleted the file and exited in between, the
        // opened process may be a later one with the same pid.
        if read(path)?.as_ref() == Some(&text) {
            return Ok(found.map(|process| (pid, process)));
        }
    }
}

/// Reads the pid in a file that the daemon no longer writes. Returns `None` if there is none.
pub(crate) fn read_pid(path: &Path) -> io::Result<Option<u32>> {
    parse_pid(path, &read(path)?.unwrap_or_default())
}

fn parse_pid(path: &Path, text: &str) -> io::Result<Option<u32>> {
    // Further lines are for others, as in `postmaster.pid`.
    match text.lines().next().unwrap_or_default().trim() {
        "" => Ok(None),
        pid => pid
            .parse()
            .map(Some)
            .map_err(|error| with_prefix(path.display(), &io::Error::other(error))),
    }
}

/// Reads a short text file. Returns `None` if the file does not exist.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    /// Longer than each identity.
    const MAX_LEN: u64 = 4096;

    let mut text = String::new();
    let read = open(path).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(with_prefix(path.display(), &error)),
    }
}

/// Opens a file. Rejects a FIFO first: opening the FIFO would wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(path)
}

/// Deletes a file, if it exists.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(with_prefix(path.display(), &error))
        }
        _ => Ok(()),
    }
}

/// Writes the identity to the file atomically, so that the file never holds a part of a line.
pub(crate) fn write_identity(file: &Path, daemon: &ProcessExit) -> io::Result<()> {
    let new = with_suffix(file, ".new");
    let identity = daemon.identity();
    identity
        .and_then(|identity| fs::write(&new, format!("{identity}\n")))
        .and_then(|()| fs::rename(&new, file))
        .map_err(|error| with_prefix(file.display(), &error))
}

/// Locks the file next to `file` against other supervisors.
///
/// The lock is held until the returned file is closed. The system closes the file when this process
/// exits.
pub(crate) fn lock(file: &Path) -> io::Result<File> {
    let path = &with_suffix(file, ".lock");
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    // On Windows, the lock consists in opening the file without sharing.
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0);
    let file = options
        .open(path)
        .map_err(|error| with_prefix(path.display(), &error))?;
    #[cfg(unix)]
    {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: `flock` takes two integers, and accesses no memory of this process.
        if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            let error = match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("another supervisor is running"),
                _ => error,
            };
            return Err(with_prefix(path.display(), &error));
        }
    }
    Ok(file)
}

/// Returns the path with a suffix appended to the file name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Returns the error with a prefix in front of its message.
pub(crate) fn with_prefix(prefix: impl Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{prefix}: {error}"))
}
