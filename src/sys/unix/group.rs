//! The system calls that take the number of a process group.
//!
//! # Safety
//!
//! Each block is one system call, which takes integers.

use std::io;

use super::syscalls::errno;

/// The number of a process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(libc::pid_t);

impl Group {
    /// `None` if no group can have this number.
    pub(crate) fn new(pgid: u32) -> Option<Group> {
        let pgid = libc::pid_t::try_from(pgid).ok()?;
        (pgid > 0).then_some(Group(pgid))
    }

    pub(crate) fn id(self) -> u32 {
        self.0.unsigned_abs()
    }

    /// Whether the group has a number of its own for `kill(2)`, where -1 means all processes.
    fn has_signals(self) -> bool {
        self.0 > 1
    }

    /// Whether [`is_empty`](Group::is_empty) can return `true`.
    ///
    /// `kill(2)` cannot report that group 1 is empty, because -1 means all processes. A sandbox may deny the call.
    pub(crate) fn can_be_known_empty(self) -> bool {
        self.has_signals() && !signals_are_denied()
    }

    /// Whether certainly no process is in the group, not even a zombie.
    ///
    /// The kernel answers under the lock that a fork also takes. So the answer is exact: Linux adds a child to
    /// its parent's group before the parent can exit (`copy_process` in kernel/fork.c).
    pub(crate) fn is_empty(self) -> bool {
        self.has_signals() && self.kill(0) == Err(libc::ESRCH)
    }

    /// Whether the process that has this pid now is in the group.
    pub(crate) fn contains(self, pid: u32) -> bool {
        group_of(pid) == Some(self.id())
    }

    /// Whether this process is in the group.
    pub(crate) fn is_own(self) -> bool {
        // SAFETY: takes no arguments.
        let own = unsafe { libc::getpgrp() };
        own == self.0
    }

    /// Sends a signal to all processes that are in the group now.
    pub(crate) fn signal(self, signal: i32) -> io::Result<()> {
        if !self.has_signals() {
            let reason = "kill(2) would signal all processes: signal its members one by one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        self.kill(signal).map_err(|errno| match errno {
            libc::ESRCH => io::ErrorKind::NotFound.into(),
            errno => io::Error::from_raw_os_error(errno),
        })
    }

    fn kill(self, signal: i32) -> Result<(), i32> {
        // SAFETY: takes integers.
        let result = unsafe { libc::kill(-self.0, signal) };
        if result == 0 { Ok(()) } else { Err(errno()) }
    }
}

/// Whether a sandbox denies `kill(2)` for groups.
///
/// The answer is not remembered: a thread can get a sandbox at any time.
fn signals_are_denied() -> bool {
    // No pid is as large as this, so the kernel finds no such group. A sandbox may exempt our own pid.
    let no_group = Group(libc::pid_t::MAX);
    no_group.kill(0) != Err(libc::ESRCH)
}

/// The members that one pass over a list has found.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "not every Unix lists members")]
pub(crate) struct GroupMembers {
    /// The pids of the members that have not exited.
    pub(crate) alive: Vec<u32>,
    pub(crate) has_zombies: bool,
}

/// Returns the group of the process that has this pid now. `None` if there is no such process.
pub(crate) fn group_of(pid: u32) -> Option<u32> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 0)?;
    // SAFETY: takes an integer.
    let group = unsafe { libc::getpgid(pid) };
    u32::try_from(group).ok()
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn group_1_is_never_passed_to_kill() {
        let group = Group::new(1).unwrap();
        assert!(!group.is_empty());
        assert!(!group.can_be_known_empty());
        let error = group.signal(0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        for pgid in [0, 1 << 31, u32::MAX] {
            assert_eq!(Group::new(pgid), None);
        }
    }
}
