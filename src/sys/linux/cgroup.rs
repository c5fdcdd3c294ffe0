//! A directory of a cgroup v2 hierarchy.
//!
//! [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html)
//!
//! # Safety
//!
//! The block is the conversion of a descriptor that is borrowed, so it is open as long as the result is used.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::task::{Context, Poll, ready};

use super::dirents::Dirents;
use super::files::{file_system, open_at};
use crate::sys::EventError;
use crate::sys::unix::async_fd::LazyAsyncFd;

/// A cgroup. The descriptors refer to this cgroup, even if another gets its path.
pub(crate) struct Cgroup {
    directory: File,
    /// The file `cgroup.events`, whose changes the reactor reports.
    events: LazyAsyncFd<(), true>,
}

/// The processes of a cgroup and of all cgroups below, zombies excluded.
#[derive(Default)]
pub(crate) struct CgroupProcesses {
    /// The pids, in ascending order.
    pub(crate) pids: Vec<u32>,
    /// Whether other processes are outside our pid namespace, so that they have no pid here.
    pub(crate) has_foreign: bool,
}

/// What was opened instead of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCgroup {
    NotADirectory,
    /// A directory of a cgroup v1 hierarchy.
    Version1,
    /// The root of a cgroup v2 hierarchy, which has no `cgroup.events`.
    Root,
    AnotherFileSystem,
    /// The cgroup has been removed meanwhile.
    Removed,
    /// An error of the system, with its number.
    System(i32),
}

impl From<io::Error> for NoCgroup {
    fn from(error: io::Error) -> NoCgroup {
        NoCgroup::System(error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

impl Cgroup {
    pub(crate) fn open(path: &Path) -> Result<Cgroup, NoCgroup> {
        const CGROUP_SUPER_MAGIC: u32 = 0x0027_e0eb;
        const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

        // Do not open a file that is no directory: opening a FIFO would block.
        if !std::fs::metadata(path)?.is_dir() {
            return Err(NoCgroup::NotADirectory);
        }
        let directory = File::open(path)?;
        match file_system(directory.as_fd())? {
            CGROUP2_SUPER_MAGIC => {}
            CGROUP_SUPER_MAGIC => return Err(NoCgroup::Version1),
            _ => return Err(NoCgroup::AnotherFileSystem),
        }
        let events = match open_at(directory.as_fd(), c"cgroup.events", libc::O_RDONLY) {
            Ok(events) => events,
            Err(error) => {
                let is_missing = error.raw_os_error() == Some(libc::ENOENT);
                // Every cgroup has this file.
                let has_processes = || open_at(directory.as_fd(), c"cgroup.procs", libc::O_RDONLY);
                return Err(match is_missing {
                    true if has_processes().is_ok() => NoCgroup::Root,
                    true => NoCgroup::Removed,
                    false => error.into(),
                });
            }
        };
        Ok(Cgroup {
            directory,
            events: LazyAsyncFd::new(events.into()),
        })
    }

    /// Whether a process of the cgroup, or of a cgroup below, is alive. Zombies are not.
    pub(crate) fn is_populated(&self) -> io::Result<bool> {
        is_populated(self.events.as_fd())
    }

    /// Waits for a change of `cgroup.events`. Returns whether the cgroup is populated.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, EventError>> {
        let first_read =
            |events: BorrowedFd<'_>, _: &mut ()| Ok(((!is_populated(events)?).then_some(()), true));
        if ready!(self.events.poll_first_read(cx, first_read))?.is_some() {
            return Poll::Ready(Ok(false));
        }
        self.events
            .poll_readable(cx, |events, _| Ok((is_populated(events)?, true)))
    }

    /// Whether the cgroup is threaded: its processes are those of another cgroup.
    pub(crate) fn is_threaded(&self) -> bool {
        let kind = open_at(self.directory.as_fd(), c"cgroup.type", libc::O_RDONLY);
        let mut text = String::new();
        kind.and_then(|mut file| file.read_to_string(&mut text))
            .is_ok_and(|_| text.trim() == "threaded")
    }

    /// Lists all processes in the cgroup and in all cgroups below.
    ///
    /// Omits cgroups that are removed meanwhile. The processes of threaded cgroups are those of the cgroup above.
    pub(crate) fn processes(&self) -> io::Result<CgroupProcesses> {
        let mut processes = CgroupProcesses::default();
        // Not a duplicate: that would go on where an earlier list has ended.
        let root = match open_at(self.directory.as_fd(), c".", libc::O_DIRECTORY) {
            Err(error) if is_removed(&error) => return Ok(processes),
            result => result?,
        };
        // Keep one descriptor open for each level, not one for each cgroup.
        let mut levels: Vec<Level> = Level::read(root, &mut processes)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.children.pop() else {
                levels.pop();
                continue;
            };
            match open_at(level.directory.as_fd(), &name, libc::O_DIRECTORY) {
                Ok(child) => levels.extend(Level::read(child, &mut processes)?),
                Err(error) if is_removed(&error) => {}
                Err(error) => return Err(error),
            }
        }
        processes.pids.sort_unstable();
        processes.pids.dedup();
        Ok(processes)
    }

    /// Kills all processes at once, also those that are being forked: `cgroup.kill` (Linux 5.14).
    pub(crate) fn kill(&self) -> io::Result<()> {
        match open_at(self.directory.as_fd(), c"cgroup.kill", libc::O_WRONLY)
            .and_then(|mut file| file.write_all(b"1"))
        {
            // Removed.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result,
        }
    }
}

/// Reads `cgroup.events` from its start.
fn is_populated(events: BorrowedFd<'_>) -> io::Result<bool> {
    let mut buffer = [0; 256];
    // Borrow the descriptor as a file, which does not own it.
    // SAFETY: the descriptor is open during this call, and the `ManuallyDrop` never closes it.
    let file = mem::ManuallyDrop::new(unsafe { File::from_raw_fd(events.as_raw_fd()) });
    let length = loop {
        match file.read_at(&mut buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The cgroup has been removed. Only an empty cgroup can be.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
            result => break result?,
        }
    };
    parse_populated(&buffer[..length]).ok_or_else(|| {
        let reason = "cgroup.events has no line `populated`";
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

fn parse_populated(text: &[u8]) -> Option<bool> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(b"populated "))?;
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// Adds the processes of a cgroup.
fn read_processes(directory: BorrowedFd<'_>, processes: &mut CgroupProcesses) -> io::Result<()> {
    let mut text = String::new();
    match open_at(directory, c"cgroup.procs", libc::O_RDONLY)?.read_to_string(&mut text) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        result => result?,
    };
    for pid in text.lines().filter_map(|line| line.parse().ok()) {
        match pid {
            0 => processes.has_foreign = true,
            pid => processes.pids.push(pid),
        }
    }
    Ok(())
}

/// A cgroup whose processes have been read.
struct Level {
    directory: Dirents,
    /// The names of the cgroups directly below that have not been read.
    children: Vec<CString>,
}

impl Level {
    /// Adds the processes of a cgroup. Returns `None` if the cgroup has been removed.
    fn read(directory: File, processes: &mut CgroupProcesses) -> io::Result<Option<Level>> {
        let read = || {
            read_processes(directory.as_fd(), processes)?;
            let directory = Dirents::new(directory);
            let children = read_children(&directory)?;
            Ok(Level {
                directory,
                children,
            })
        };
        match read() {
            Err(error) if is_removed(&error) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Returns the names of the cgroups directly below.
fn read_children(directory: &Dirents) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let mut is_end = true;
        for entry in directory.read(&mut buffer)? {
            is_end = false;
            let is_own = matches!(entry.name, b"." | b"..");
            if entry.kind == libc::DT_DIR && !is_own {
                names.push(CString::new(entry.name)?);
            }
        }
        if is_end {
            return Ok(names);
        }
    }
}

/// Whether the cgroup of a failed call has been removed.
fn is_removed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_cgroup_events() {
        for (text, expected) in [
            ("populated 0\nfrozen 0\n", Some(false)),
            ("populated 1\nfrozen 0\n", Some(true)),
            ("frozen 1\npopulated 1\n", Some(true)),
            ("frozen 1\n", None),
            ("populated \n", None),
            ("", None),
        ] {
            assert_eq!(parse_populated(text.as_bytes()), expected, "{text:?}");
        }
    }
}
