//! Numbers that distinguish the processes of pidfds.
//!
//! Since Linux 6.9, a pidfd has an inode that no other process's pidfd ever has. Before, all pidfds have
//! the same inode, and once a process has been reaped, nothing shows whether two pidfds are of the same
//! process. So the inode of `/proc/<pid>` is recorded when a process is opened.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::process;
use std::sync::{Mutex, PoisonError};

use super::pidfd::{self, Liveness};
use super::procfs;

/// The inode of `/proc/<pid>` for each pidfd by its number, before Linux 6.9. 0 if it is unknown.
///
/// This is not a field of each process, because later kernels need no such field. An entry is valid as
/// long as its pidfd is open: each new pidfd overwrites the entry of its number.
static PROC_INODES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Returns a number that no other process ever has. Two pidfds of one process may have different numbers
/// before Linux 6.9.
pub(super) fn unique_id(pidfd: BorrowedFd<'_>) -> Option<u64> {
    if pidfd::is_on_pidfs(pidfd) {
        return pidfd::inode(pidfd);
    }
    let inodes = PROC_INODES.lock().unwrap_or_else(PoisonError::into_inner);
    let &inode = inodes.get(pidfd.as_raw_fd() as usize)?;
    (inode != 0).then(|| of_proc_inode(inode))
}

/// Returns the unique id that is made of an inode of `/proc/<pid>`.
pub(super) fn of_proc_inode(inode: u64) -> u64 {
    // Keep the two kinds of numbers apart. The inodes of `/proc` have 32 bits.
    const PROC: u64 = 1 << 63;
    inode | PROC
}

/// Records what identifies the process of a new pidfd, before Linux 6.9.
///
/// Call this once for each pidfd. `pid` is the process's pid, if it is known.
pub(super) fn record(pidfd: BorrowedFd<'_>, pid: Option<u32>) {
    if pidfd::is_on_pidfs(pidfd) {
        return;
    }
    let inode = pid
        .and_then(proc_inode)
        // Read before the check: the inode is this process's if the process still has the pid.
        .filter(|_| !matches!(pidfd::liveness(pidfd), Ok(Liveness::Reaped) | Err(_)));
    let mut inodes = PROC_INODES.lock().unwrap_or_else(PoisonError::into_inner);
    set(&mut inodes, pidfd, inode.unwrap_or(0));
}

/// Records for a duplicate what was recorded for its pidfd, before Linux 6.9.
pub(super) fn copy(pidfd: BorrowedFd<'_>, duplicate: BorrowedFd<'_>) {
    if pidfd::is_on_pidfs(pidfd) {
        return;
    }
    let mut inodes = PROC_INODES.lock().unwrap_or_else(PoisonError::into_inner);
    let inode = inodes.get(pidfd.as_raw_fd() as usize).copied();
    set(&mut inodes, duplicate, inode.unwrap_or(0));
}

fn set(inodes: &mut Vec<u64>, pidfd: BorrowedFd<'_>, inode: u64) {
    let number = pidfd.as_raw_fd() as usize;
    if inodes.len() <= number {
        inodes.resize(number + 1, 0);
    }
    inodes[number] = inode;
}

/// Returns the inode of `/proc/<pid>`, if `/proc` belongs to our pid namespace.
fn proc_inode(pid: u32) -> Option<u64> {
    /// Our pid, and the device of a `/proc` that belongs to our pid namespace. Each mounted `/proc` is a
    /// device of its own (before Linux 5.8, each pid namespace has one device for all of them).
    static MATCHING: Mutex<Option<(u32, u64)>> = Mutex::new(None);

    let directory = fs::metadata(format!("/proc/{pid}")).ok()?;
    let device = (process::id(), directory.dev());
    let mut matching = MATCHING.lock().unwrap_or_else(PoisonError::into_inner);
    if *matching != Some(device) {
        if !procfs::proc_matches_our_pid_ns() {
            return None;
        }
        *matching = Some(device);
    }
    Some(directory.ino())
}
