//! Querying a process without an event source.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::procfs::{self, Stat};
use super::selector::Event;
use super::{
    Process, State, identity_key, is_exhaustion, is_reaped, open_pidfd, pidfd, proc_unavailable,
    query_state, send_signal, start_key, syscalls, task,
};
use crate::identity::{IdentityKey, KeyKind};
use crate::sys::Reopened;

pub(crate) enum Probe {
    /// A pidfd that the reactor refused.
    PidFd(OwnedFd),
    /// A process for which the kernel refused a pidfd.
    Pid(PidProbe),
}

impl Probe {
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Probe::PidFd(pidfd) => Some(pidfd.as_fd()),
            Probe::Pid(_) => None,
        }
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        match self {
            Probe::PidFd(pidfd) => query_state(pidfd.as_fd()),
            Probe::Pid(probe) => Ok(probe.state()),
        }
    }

    pub(crate) fn state_after(&self, _event: &Event) -> io::Result<State> {
        self.state()
    }

    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        // Keep the two kinds of numbers apart. The inodes of `/proc` have 32 bits.
        const PROC: u64 = 1 << 63;
        match self {
            Probe::PidFd(pidfd) => pidfd::unique_id(pidfd.as_fd()),
            Probe::Pid(probe) => probe.inode.map(|inode| inode | PROC),
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Probe::PidFd(pidfd) => send_signal(pidfd.as_fd(), signal),
            Probe::Pid(probe) => probe.signal(signal),
        }
    }

    pub(crate) fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match self {
            Probe::PidFd(pidfd) => identity_key(pidfd.as_fd(), kind),
            Probe::Pid(probe) => probe.identity_key(kind),
        }
    }

    pub(crate) fn reopen(&self) -> Reopened {
        match self {
            Probe::Pid(probe) if probe.may_reopen => probe.reopen(),
            _ => Reopened::Unavailable,
        }
    }
}

/// A process without a pidfd: its pid, and what `/proc` showed when the process was opened.
pub(crate) struct PidProbe {
    pid: libc::pid_t,
    /// Whether the kernel may grant a pidfd later.
    may_reopen: bool,
    /// Whether `/proc` is mounted and belongs to our pid namespace.
    has_proc: bool,
    /// The inode of the process's directory in `/proc`.
    inode: Option<u64>,
    /// The start time, in ticks since boot. [`UNKNOWN`] until `/proc` has shown it.
    start_time: AtomicU64,
    /// The last time at which the process certainly had the pid, in ticks since boot.
    last_certain: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

/// The process that has the pid now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PidOwner {
    /// The opened process.
    Same,
    /// The opened process, or another process that started in the tick of the last certain query.
    LikelySame,
    /// Another process.
    Another,
    /// `/proc` does not show the process.
    Unknown,
}

impl PidProbe {
    pub(super) fn new(pid: libc::pid_t, may_reopen: bool) -> PidProbe {
        let mut probe = PidProbe {
            pid,
            may_reopen,
            has_proc: procfs::proc_matches_our_pid_ns(),
            inode: None,
            start_time: UNKNOWN.into(),
            last_certain: 0.into(),
        };
        // Retry: during `execve` by a thread that is not the leader, the directory is missing for an
        // instant.
        probe.inode = (0..3).find_map(|_| probe.read_inode());
        if let Some(stat) = probe.read_stat() {
            probe.start_time = stat.start_time.into();
        }
        probe.last_certain = procfs::ticks(task::time_since_boot()).into();
        probe
    }

    fn state(&self) -> State {
        let exited = |status, reaped| State::Exited { status, reaped };
        // Read before checking the owner: the results are the opened process's if that process still has
        // the pid.
        let child_status = syscalls::child_status(libc::P_PID, self.pid.unsigned_abs());
        let stat = self.read_stat();
        let owner = self.pid_owner(stat.as_ref());
        let has_exited = child_status.is_some() || stat.as_ref().is_some_and(Stat::exited);
        match owner {
            PidOwner::Another => exited(None, true),
            PidOwner::Unknown if !has_exited && !syscalls::exists(self.pid) => exited(None, true),
            _ if !has_exited => State::Running,
            PidOwner::Same => exited(child_status.or_else(|| self.zombie_status()), false),
            PidOwner::LikelySame | PidOwner::Unknown => exited(None, false),
        }
    }

    fn zombie_status(&self) -> Option<super::Status> {
        let pid = self.pid.unsigned_abs();
        // Ask for a child's status again: the child may have exited after the first question.
        let status =
            procfs::zombie_status(pid).or_else(|| syscalls::child_status(libc::P_PID, pid))?;
        let owner = self.pid_owner(self.read_stat().as_ref());
        (owner == PidOwner::Same).then_some(status)
    }

    /// Sends a signal right after a check that the process has the pid.
    ///
    /// A small race remains: the process would have to exit and be reaped, and its pid be recycled,
    /// before the next system call.
    fn signal(&self, signal: i32) -> io::Result<()> {
        if self.state() != State::Running {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.pid_owner(self.read_stat().as_ref()) != PidOwner::Same {
            return Err(syscalls::pid_unverified());
        }
        syscalls::send_signal(self.pid, signal)
    }

    fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        if kind.is_some_and(|kind| kind != KeyKind::Start) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let stat = self.read_stat();
        match self.pid_owner(stat.as_ref()) {
            PidOwner::Another => Err(io::ErrorKind::NotFound.into()),
            PidOwner::Unknown if !syscalls::exists(self.pid) => Err(io::ErrorKind::NotFound.into()),
            PidOwner::Same | PidOwner::LikelySame | PidOwner::Unknown => {
                start_key(&stat.ok_or_else(proc_unavailable)?)
            }
        }
    }

    fn pid_owner(&self, stat: Option<&Stat>) -> PidOwner {
        // An equal inode proves that the owner is the opened process. A different inode proves nothing:
        // under memory pressure the kernel drops the inode and creates another.
        let now = procfs::ticks(task::time_since_boot());
        if self.inode.is_some() && self.read_inode() == self.inode {
            self.last_certain.fetch_max(now, Ordering::Relaxed);
            return PidOwner::Same;
        }
        let Some(&Stat { start_time, .. }) = stat else {
            return PidOwner::Unknown;
        };
        let last_certain = self.last_certain.load(Ordering::Relaxed);
        match self.start_time.load(Ordering::Relaxed) {
            // `stat` could not be read when the process was opened, for lack of a descriptor. But a
            // process that had started by then is the opened process: no other process had the pid.
            UNKNOWN if start_time <= last_certain => {
                self.start_time.store(start_time, Ordering::Relaxed);
            }
            known if start_time == known => {}
            _ => return PidOwner::Another,
        }
        // A later owner of the pid has started in the tick of the last certain query, or after it.
        if start_time < last_certain {
            PidOwner::Same
        } else {
            PidOwner::LikelySame
        }
    }

    fn read_stat(&self) -> Option<Stat> {
        let pid = self.pid.unsigned_abs();
        self.has_proc.then(|| Stat::read(pid)).flatten()
    }

    fn read_inode(&self) -> Option<u64> {
        let pid = self.pid.unsigned_abs();
        self.has_proc.then(|| procfs::inode(pid)).flatten()
    }

    fn reopen(&self) -> Reopened {
        let is_same = || self.pid_owner(self.read_stat().as_ref()) == PidOwner::Same;
        // Check the owner before and after: the pidfd is this process's if both owners are this process.
        if !is_same() {
            return Reopened::Unavailable;
        }
        match open_pidfd(self.pid) {
            Ok(fd) if !is_reaped(fd.as_fd()) && is_same() => Reopened::WithEvents(Process::new(fd)),
            Err(errno) if is_exhaustion(errno) => Reopened::Exhausted,
            // If the process is being reaped, the next query reports that.
            _ => Reopened::Unavailable,
        }
    }
}
