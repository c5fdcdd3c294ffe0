//! Querying a process without an event source.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::{Directory, NoDirectory};
use super::procfs::{self, Stat};
use super::selector::Event;
use super::{
    Process, State, Status, child, identity_key, is_exhaustion, is_reaped, open_pidfd, pidfd_id,
    proc_unavailable, query_state, reap, send_signal, start_key, syscalls, task,
};
use crate::error::OpenError;
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
        match self {
            Probe::PidFd(pidfd) => pidfd_id::unique_id(pidfd.as_fd()),
            Probe::Pid(probe) => probe.inode.map(pidfd_id::of_proc_inode),
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

    pub(crate) fn reap(&self) -> io::Result<Option<Status>> {
        match self {
            Probe::PidFd(pidfd) => reap(pidfd.as_fd()),
            Probe::Pid(probe) => probe.reap(),
        }
    }

    pub(crate) fn reopen(&self) -> Reopened {
        match self {
            Probe::PidFd(_) => Reopened::Unavailable,
            Probe::Pid(probe) => probe.reopen(),
        }
    }
}

/// A process without a pidfd.
///
/// The directory `/proc/<pid>`, held open, identifies the process. If descriptors are exhausted, what
/// `/proc` showed when the process was opened identifies it, though less precisely.
pub(crate) struct PidProbe {
    pid: libc::pid_t,
    /// Whether the kernel may grant a pidfd later.
    may_reopen: bool,
    /// Whether the directory may be opened later.
    may_hold_directory: bool,
    /// The directory of the process.
    directory: OnceLock<Directory>,
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
    /// Another process, or none.
    Another,
    /// `/proc` does not show the process.
    Unknown,
}

impl PidProbe {
    /// Creates a probe for the process that has the pid now, and holds its directory open.
    ///
    /// `refusal` is the error with which the kernel refused a pidfd. Returns `None` if the process has just
    /// been reaped.
    pub(super) fn new(pid: libc::pid_t, refusal: i32) -> Result<Option<PidProbe>, OpenError> {
        let mut probe = PidProbe::without_directory(pid, refusal);
        if !probe.has_proc || matches!(refusal, libc::EMFILE | libc::ENFILE) {
            return Ok(Some(probe));
        }
        match Directory::open(pid) {
            Ok(directory) => {
                // What was read by the path may have been the previous owner's.
                probe.inode = directory.inode();
                let stat = directory.read_stat();
                probe.start_time = stat.map_or(UNKNOWN, |stat| stat.start_time).into();
                probe.directory = directory.into();
            }
            // `hidepid` hides a process that exists.
            Err(NoDirectory::Missing) if probe.is_hidden() => {}
            Err(NoDirectory::Missing) => return Ok(None),
            Err(NoDirectory::Thread(process)) => {
                let process = Some(process);
                return Err(OpenError::Thread { process });
            }
            Err(NoDirectory::Exhausted) => probe.may_hold_directory = true,
            Err(NoDirectory::Denied) => {}
        }
        Ok(Some(probe))
    }

    /// Whether `/proc` shows no process with the pid, although there is a process.
    fn is_hidden(&self) -> bool {
        // Check several times: the process may have been reaped, and its pid recycled, between two calls.
        let is_missing = || self.read_inode().is_none() && syscalls::exists(self.pid);
        self.inode.is_none() && (0..3).all(|_| is_missing())
    }

    /// Creates a probe without a descriptor for the process that has the pid now.
    pub(super) fn without_directory(pid: libc::pid_t, refusal: i32) -> PidProbe {
        let mut probe = PidProbe {
            pid,
            may_reopen: is_exhaustion(refusal),
            may_hold_directory: is_exhaustion(refusal),
            directory: OnceLock::new(),
            has_proc: procfs::proc_matches_our_pid_ns(),
            inode: None,
            start_time: UNKNOWN.into(),
            last_certain: 0.into(),
        };
        probe.inode = probe.read_inode();
        if let Some(stat) = probe.read_stat_by_path() {
            probe.start_time = stat.start_time.into();
        }
        probe.last_certain = procfs::ticks(task::time_since_boot()).into();
        probe
    }

    fn state(&self) -> State {
        let exited = |status, reaped| State::Exited { status, reaped };
        // Get the directory once: another thread may set it during the query. What was read by the path
        // must then be checked by the path.
        let directory = self.directory.get();
        // Read before checking the owner: the results are the opened process's if that process still has
        // the pid.
        let stat = self.read_stat(directory);
        // Do not ask about a process that is shown as running: before Linux 5.13, `waitid` takes time in
        // proportion to the number of our children.
        let may_have_exited = stat.as_ref().is_none_or(Stat::exited);
        let child = may_have_exited
            .then(|| self.zombie_child(directory))
            .flatten();
        // `waitid` was given the pid, so the process must still have the pid after the call.
        let stat = match child {
            Some(_) => self.read_stat(directory),
            None => stat,
        };
        let owner = self.pid_owner(directory, stat.as_ref());
        let has_exited = child.is_some() || stat.as_ref().is_some_and(Stat::exited);
        match owner {
            PidOwner::Another => exited(None, true),
            PidOwner::Unknown if !has_exited && !syscalls::exists(self.pid) => exited(None, true),
            _ if !has_exited => State::Running,
            PidOwner::Same => {
                let status = child.and_then(|child| child.status);
                let status = status.or_else(|| self.zombie_status(directory, stat.as_ref()));
                exited(status, false)
            }
            PidOwner::LikelySame | PidOwner::Unknown => exited(None, false),
        }
    }

    /// Returns our own child if it has exited. The result is the opened process's only if that process has
    /// the pid after this call.
    fn zombie_child(&self, directory: Option<&Directory>) -> Option<child::Zombie> {
        let pid = self.pid.unsigned_abs();
        let fd = directory.map(Directory::as_fd);
        let zombie = child::zombie(libc::P_PID, pid, fd, || self.has_proc.then_some(pid));
        zombie.ok().flatten()
    }

    fn zombie_status(&self, directory: Option<&Directory>, stat: Option<&Stat>) -> Option<Status> {
        match directory {
            // `stat` was read through the directory, so it needs no check of the owner.
            Some(directory) => directory.zombie_status(stat?),
            None => {
                let status = procfs::zombie_status(self.pid.unsigned_abs());
                status.filter(|_| self.is_same(None))
            }
        }
    }

    /// Sends a signal through the directory, or right after a check that the process has the pid.
    ///
    /// Without the directory, and where the kernel refuses directories, a small race remains: the
    /// process would have to exit and be reaped, and its pid be recycled, before the next system call.
    fn signal(&self, signal: i32) -> io::Result<()> {
        if self.state() != State::Running {
            return Err(io::ErrorKind::NotFound.into());
        }
        let directory = self.directory.get();
        if let Some(result) = directory.and_then(|directory| directory.signal(signal)) {
            return result;
        }
        if !self.is_same(directory) {
            return Err(syscalls::pid_unverified());
        }
        syscalls::send_signal(self.pid, signal)
    }

    /// Reaps our own child, right after a check that the child has the pid.
    ///
    /// Nobody but this program can reap its child, so only another thread can free the pid after the check.
    fn reap(&self) -> io::Result<Option<Status>> {
        let directory = self.directory.get();
        let stat = self.read_stat(directory);
        match self.pid_owner(directory, stat.as_ref()) {
            PidOwner::Same => syscalls::reap(libc::P_PID, self.pid.unsigned_abs()),
            PidOwner::Another => Err(io::ErrorKind::NotFound.into()),
            PidOwner::LikelySame | PidOwner::Unknown => Err(syscalls::pid_unverified()),
        }
    }

    fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        if kind.is_some_and(|kind| kind != KeyKind::Start) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let directory = self.directory.get();
        let stat = self.read_stat(directory);
        match self.pid_owner(directory, stat.as_ref()) {
            PidOwner::Another => Err(io::ErrorKind::NotFound.into()),
            PidOwner::Unknown if !syscalls::exists(self.pid) => Err(io::ErrorKind::NotFound.into()),
            PidOwner::Same | PidOwner::LikelySame | PidOwner::Unknown => {
                Ok(start_key(&stat.ok_or_else(proc_unavailable)?))
            }
        }
    }

    /// Whether the opened process certainly has the pid now.
    fn is_same(&self, directory: Option<&Directory>) -> bool {
        let stat = self.read_stat(directory);
        self.pid_owner(directory, stat.as_ref()) == PidOwner::Same
    }

    /// Returns the owner of the pid after `stat` was read.
    fn pid_owner(&self, directory: Option<&Directory>, stat: Option<&Stat>) -> PidOwner {
        match directory {
            // The files of the directory are there until the process is reaped.
            Some(_) if stat.is_some() => PidOwner::Same,
            // The file cannot be read: after the reap, without a free descriptor, or if `hidepid` hides the
            // process. The path may then be unreadable too, so query the directory itself.
            Some(directory) => match directory.is_reaped() {
                Some(true) => PidOwner::Another,
                Some(false) => PidOwner::Same,
                None => self.pid_owner_by_path(self.read_stat_by_path().as_ref()),
            },
            None => self.pid_owner_by_path(stat),
        }
    }

    fn pid_owner_by_path(&self, stat: Option<&Stat>) -> PidOwner {
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

    fn read_stat(&self, directory: Option<&Directory>) -> Option<Stat> {
        match directory {
            Some(directory) => directory.read_stat(),
            None => self.read_stat_by_path(),
        }
    }

    fn read_stat_by_path(&self) -> Option<Stat> {
        let pid = self.pid.unsigned_abs();
        self.has_proc.then(|| Stat::read(pid)).flatten()
    }

    fn read_inode(&self) -> Option<u64> {
        if !self.has_proc {
            return None;
        }
        // Retry: during `execve` by a thread that is not the leader, the directory is missing for an
        // instant.
        (0..3).find_map(|_| procfs::inode(self.pid.unsigned_abs()))
    }

    fn reopen(&self) -> Reopened {
        let directory = self.directory.get();
        let may_hold_directory = self.may_hold_directory && directory.is_none();
        if !self.may_reopen && !may_hold_directory {
            return Reopened::Unavailable;
        }
        let is_same = || self.is_same(directory);
        // Check the owner before and after: the pidfd is this process's if both owners are this process.
        if !is_same() {
            return Reopened::Unavailable;
        }
        if self.may_reopen {
            match open_pidfd(self.pid) {
                Ok(fd) if !is_reaped(fd.as_fd()) && is_same() => {
                    return Reopened::WithEvents(Process::new(fd, Some(self.pid.unsigned_abs())));
                }
                Err(errno) if is_exhaustion(errno) => return Reopened::Exhausted,
                // If the process is being reaped, the next query reports that.
                Ok(_) => return Reopened::Unavailable,
                Err(_) => {}
            }
        }
        if may_hold_directory && self.has_proc {
            match Directory::open(self.pid) {
                Ok(directory) if is_same() => drop(self.directory.set(directory)),
                Err(NoDirectory::Exhausted) => return Reopened::Exhausted,
                _ => {}
            }
        }
        Reopened::Unavailable
    }
}
