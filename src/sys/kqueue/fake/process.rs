//! A process of the model.

use super::super::Status;

/// The step of a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// The process table shows that the process is exiting.
    Exiting,
    /// The kernel has posted `NOTE_EXIT`.
    Posted,
    Zombie,
    Reaped,
}

/// A process, also after its reap. Its number distinguishes it from all other processes.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: libc::pid_t,
    pub(crate) phase: Phase,
    pub(crate) status: Status,
    pub(crate) born: u64,
    pub(crate) reaped: Option<u64>,
    pub(super) start: i64,
    pub(crate) is_child: bool,
    /// Whether the process is another user's, whom we may not signal.
    pub(crate) is_foreign: bool,
}
