//! Looking at a process that the kernel gives no events for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::procfs::{self, Stat};
use super::{
    Process, State, identity_key, is_exhaustion, is_reaped, open_pidfd, pidfd, proc_unavailable,
    query_state, send, start_key, task,
};
use crate::identity::{IdentityKey, KeyKind};
use crate::sys::unix::syscalls;

/// What is left to look at a process by.
pub(crate) enum Probe {
    /// A pidfd that the reactor would not take.
    PidFd(OwnedFd),
    /// No pidfd.
    Pid(PidProbe),
}

/// What came of another try for an event source.
pub(crate) enum Reopened {
    Process(Process),
    /// Refused for want of something that there may be later.
    Exhausted,
    /// Not for this process, or not now.
    No,
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

    /// Whether its pid is free for another process.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    /// What no other process has. But two that differ may be of one process, see
    /// [`PidProbe::identity`].
    pub(crate) fn unique_id(&self) -> Option<u64> {
        // The two kinds of numbers must not meet. Those of /proc have 32 bits.
        const PROC: u64 = 1 << 63;
        match self {
            Probe::PidFd(pidfd) => pidfd::unique_id(pidfd.as_fd()),
            Probe::Pid(probe) => probe.inode.map(|inode| inode | PROC),
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Probe::PidFd(pidfd) => send(pidfd.as_fd(), signal),
            Probe::Pid(probe) => probe.signal(signal),
        }
    }

    pub(crate) fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match self {
            Probe::PidFd(pidfd) => identity_key(pidfd.as_fd(), kind),
            Probe::Pid(probe) => probe.identity_key(kind),
        }
    }

    /// Tries again for an event source, if what was refused may be granted by now.
    pub(crate) fn reopen(&self) -> Reopened {
        match self {
            Probe::Pid(probe) if probe.may_reopen => probe.reopen(),
            _ => Reopened::No,
        }
    }
}

/// A process known by its pid, and by what `/proc` told of it when it was opened.
pub(crate) struct PidProbe {
    pid: libc::pid_t,
    may_reopen: bool,
    /// Whether `/proc` is there, and numbers processes as we do.
    proc: bool,
    /// Of its directory in `/proc`.
    inode: Option<u64>,
    /// In ticks since boot. [`UNKNOWN`] until it could be read.
    start_time: AtomicU64,
    /// By the same clock, when it was last certain that the process has the pid.
    certain: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

/// Whether the process that has the pid now is the one that was opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PidOwner {
    Certain,
    /// Unless the pid has gone to another process that started in the same tick as this one, and as
    /// the last look that was certain.
    Likely,
    Other,
    /// `/proc` does not tell.
    Unknown,
}

impl PidProbe {
    pub(super) fn new(pid: libc::pid_t, may_reopen: bool) -> PidProbe {
        let mut probe = PidProbe {
            pid,
            may_reopen,
            proc: procfs::proc_matches_our_pid_ns(),
            inode: None,
            start_time: UNKNOWN.into(),
            certain: 0.into(),
        };
        // The directory is missing for an instant while a thread replaces the leading one (`execve`).
        probe.inode = (0..3).find_map(|_| probe.inode_now());
        if let Some(stat) = probe.stat() {
            probe.start_time = stat.start_time.into();
        }
        probe.certain = procfs::ticks(task::time_since_boot()).into();
        probe
    }

    fn state(&self) -> State {
        let gone = State::Exited {
            status: None,
            reaped: true,
        };
        // The identity is checked after each look, so that the look was at the process itself:
        // a pid that has gone to another process does not come back.
        let child = syscalls::child_status(libc::P_PID, self.pid.unsigned_abs());
        let stat = self.stat();
        let owner = self.pid_owner(stat.as_ref());
        let exited = child.is_some() || stat.as_ref().is_some_and(Stat::exited);
        match owner {
            PidOwner::Other => gone,
            PidOwner::Unknown if !exited && !syscalls::exists(self.pid) => gone,
            _ if !exited => State::Running,
            PidOwner::Certain => {
                let status = child.or_else(|| {
                    let status = procfs::zombie_status(self.pid.unsigned_abs())?;
                    let owner = self.pid_owner(self.stat().as_ref());
                    (owner == PidOwner::Certain).then_some(status)
                });
                State::Exited {
                    status,
                    reaped: false,
                }
            }
            PidOwner::Likely | PidOwner::Unknown => State::Exited {
                status: None,
                reaped: false,
            },
        }
    }

    /// The pid may go to another process after the last look, but not for long: it would have to be
    /// reaped, and the pid be given out again, before the next system call.
    fn signal(&self, signal: i32) -> io::Result<()> {
        if !matches!(self.state(), State::Running) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.pid_owner(self.stat().as_ref()) != PidOwner::Certain {
            return Err(syscalls::pid_unverified());
        }
        syscalls::send_signal(self.pid, signal)
    }

    fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        if kind.is_some_and(|kind| kind != KeyKind::Start) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let stat = self.stat();
        match self.pid_owner(stat.as_ref()) {
            PidOwner::Other => Err(io::ErrorKind::NotFound.into()),
            PidOwner::Unknown if !syscalls::exists(self.pid) => Err(io::ErrorKind::NotFound.into()),
            PidOwner::Certain | PidOwner::Likely | PidOwner::Unknown => {
                start_key(&stat.ok_or_else(proc_unavailable)?)
            }
        }
    }

    fn pid_owner(&self, stat: Option<&Stat>) -> PidOwner {
        // The directory's inode belongs to the process, and never to another one. But under memory
        // pressure the kernel drops it, and makes a new one.
        let now = procfs::ticks(task::time_since_boot());
        if self.inode.is_some() && self.inode_now() == self.inode {
            self.certain.fetch_max(now, Ordering::Relaxed);
            return PidOwner::Certain;
        }
        let Some(&Stat { start_time, .. }) = stat else {
            return PidOwner::Unknown;
        };
        let certain = self.certain.load(Ordering::Relaxed);
        match self.start_time.load(Ordering::Relaxed) {
            // With no descriptor left, `stat` could not be read at the opening. But one that had
            // started by then is the one that had the pid then, as no other could have it.
            UNKNOWN if start_time <= certain => {
                self.start_time.store(start_time, Ordering::Relaxed);
            }
            known if start_time == known => {}
            _ => return PidOwner::Other,
        }
        // A later owner of the pid has started no earlier than in that tick.
        if start_time < certain {
            PidOwner::Certain
        } else {
            PidOwner::Likely
        }
    }

    fn stat(&self) -> Option<Stat> {
        if self.proc {
            Stat::read(self.pid.unsigned_abs())
        } else {
            None
        }
    }

    fn inode_now(&self) -> Option<u64> {
        if self.proc {
            procfs::inode(self.pid.unsigned_abs())
        } else {
            None
        }
    }

    fn reopen(&self) -> Reopened {
        let is_certain = || self.pid_owner(self.stat().as_ref()) == PidOwner::Certain;
        // The pidfd is that process's if the pid was its own before and after.
        if !is_certain() {
            return Reopened::No;
        }
        match open_pidfd(self.pid) {
            Ok(fd) if !is_reaped(fd.as_fd()) && is_certain() => Reopened::Process(Process::new(fd)),
            Err(errno) if is_exhaustion(errno) => Reopened::Exhausted,
            // If it is being reaped, the next look will tell.
            _ => Reopened::No,
        }
    }
}
