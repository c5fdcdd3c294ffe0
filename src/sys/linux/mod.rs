//! Linux and Android: a pidfd in tokio's reactor, or `/proc` where the system refuses pidfds.

mod cgroup;
mod child;
mod close;
mod directory;
mod dirents;
mod fd_limit;
mod files;
mod group;
mod namespaces;
mod open_stat;
mod pidfd;
mod pidfd_id;
mod probe;
mod procfs;
mod selector;
mod task;

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

pub(crate) use self::cgroup::{Cgroup, NoCgroup};
pub(crate) use self::group::GroupList;
pub(crate) use self::namespaces::{has_exited_elsewhere, origin};
use self::open_stat::OpenStat;
use self::pidfd::Liveness;
use self::probe::PidProbe;
pub(crate) use self::probe::Probe;
use self::procfs::Stat;
pub(crate) use self::selector::{Event, Registration, Selector};
use self::task::TaskKind;
use super::unix::async_fd::LazyAsyncFd;
pub(crate) use super::unix::child::open_child;
use super::unix::syscalls;
pub(crate) use super::unix::syscalls::thread_cpu_time;
pub(crate) use super::unix::wait_status::Status;
use super::{EventError, Opened, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;

/// A process with a pidfd.
pub(crate) struct Process {
    /// The file is present while waiting for a process that is not our child.
    pidfd: LazyAsyncFd<Option<OpenStat>>,
}

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::PidFd;

    pub(crate) fn open(pid: u32) -> Result<Opened<Process>, OpenError> {
        let pid = super::check_pid(pid)?;
        // `pidfd_open` returns ENOENT (EINVAL before Linux 6.16) for a thread that is not its process's
        // first. It also returns EINVAL for a process that is being reaped (psutil#2715,
        // systemd#36982), so check the pid before believing the error. Retry if the pid then names a
        // process: the pid has been recycled, or the thread has become the first by `execve`. Each
        // retry needs another such coincidence.
        const MAX_ROUNDS: u32 = 16;
        let mut refusal = libc::EINVAL;
        for _ in 0..MAX_ROUNDS {
            refusal = match open_pidfd(pid) {
                Ok(pidfd) => {
                    return Ok(Opened::WithEvents(Process::new(
                        pidfd,
                        Some(pid.unsigned_abs()),
                    )));
                }
                Err(libc::ESRCH) => return Err(OpenError::NoSuchProcess),
                Err(errno) => errno,
            };
            match task::task_kind(pid) {
                TaskKind::Nothing => return Err(OpenError::NoSuchProcess),
                TaskKind::Thread { process } => return Err(OpenError::Thread { process }),
                TaskKind::Process
                    if matches!(refusal, libc::EINVAL | libc::ENOENT | libc::EINTR) => {}
                TaskKind::Process => {
                    if let Some(probe) = PidProbe::new(pid, refusal)? {
                        return Ok(refused(probe, refusal));
                    }
                }
            }
        }
        let probe = PidProbe::new(pid, refusal)?;
        let probe = probe.unwrap_or_else(|| PidProbe::without_directory(pid, refusal));
        Ok(refused(probe, refusal))
    }

    /// Adopts a pidfd. Also returns the pid, or `None` if the process has no pid here: it has been
    /// reaped, or it is outside our pid namespace.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other descriptor.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Process, Option<NonZeroU32>)> {
        pidfd::check_kind(fd.as_fd())?;
        let pid = pidfd::pid(fd.as_fd()).or_else(|| {
            procfs::pid_of_pidfd(fd.as_fd()).filter(|_| procfs::proc_matches_our_pid_ns())
        });
        Ok((Process::new(fd, pid), pid.and_then(NonZeroU32::new)))
    }

    /// `pid` is the pid of the pidfd's process, if that is known.
    fn new(pidfd: OwnedFd, pid: Option<u32>) -> Process {
        pidfd_id::record(pidfd.as_fd(), pid);
        Process {
            pidfd: LazyAsyncFd::new(pidfd),
        }
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        // A running process costs only one short system call.
        match &self.pidfd.data {
            Some(_) if pidfd::liveness(self.as_fd())? == Liveness::Running => Ok(State::Running),
            Some(stat) => state_after_event(self.as_fd(), Some(stat)),
            None => query_state(self.as_fd()),
        }
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        let first_read = |pidfd: BorrowedFd<'_>, stat: &mut Option<OpenStat>| {
            let exited = match first_liveness(pidfd, stat) {
                Ok(Liveness::Zombie | Liveness::Reaped) => {
                    Some(state_after_event(pidfd, stat.as_ref())?)
                }
                // Ignore an error, for example of a sandbox that denies `poll`: the reactor reports the
                // exit.
                Ok(Liveness::Running) | Err(_) => None,
            };
            Ok((exited.filter(|&state| state != State::Running), true))
        };
        if let Some(state) = ready!(self.pidfd.poll_first_read(cx, first_read))? {
            return Poll::Ready(Ok(state));
        }
        self.pidfd.poll_readable(cx, |pidfd, stat| {
            Ok((state_after_event(pidfd, stat.as_ref())?, true))
        })
    }

    pub(crate) fn deregister(&mut self) {
        self.pidfd.deregister();
        self.pidfd.data = None;
    }

    pub(crate) fn wait_event(&mut self, state: State, timeout: Duration) -> io::Result<()> {
        if cfg!(tokio_process_exit_force_poll) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // A zombie stays readable, so wait only for POLLHUP, which `poll` always reports.
        let events = match state {
            State::Running => libc::POLLIN,
            State::Exited { .. } => 0,
        };
        if state == State::Running {
            let (pidfd, stat) = self.pidfd.parts();
            if first_liveness(pidfd, stat)? != Liveness::Running {
                return Ok(());
            }
        }
        pidfd::wait(self.as_fd(), events, timeout)
    }

    pub(crate) fn try_clone(&self) -> io::Result<Opened<Process>> {
        let duplicate = pidfd::duplicate(self.as_fd())?;
        pidfd_id::copy(self.as_fd(), duplicate.as_fd());
        Ok(Opened::WithEvents(Process {
            pidfd: LazyAsyncFd::new(duplicate),
        }))
    }

    pub(crate) fn reap(&self) -> io::Result<Option<Status>> {
        reap(self.as_fd())
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        pidfd::is_on_pidfs(self.as_fd())
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        pidfd_id::unique_id(self.as_fd())
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(self.as_fd(), signal)
    }

    pub(crate) fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        identity_key(self.as_fd(), kind)
    }

    pub(crate) fn is_reaped(&self) -> bool {
        is_reaped(self.as_fd())
    }

    pub(crate) fn into_probe(self) -> Probe {
        Probe::PidFd(self.pidfd.into_inner())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn refused(probe: PidProbe, refusal: i32) -> Opened<Process> {
    Opened::refused(Probe::Pid(probe), io::Error::from_raw_os_error(refusal))
}

/// Opens a pidfd. The error is the errno.
///
/// Nothing is remembered of a denial: a filter may deny one pid or one thread only, and the rules of a
/// security module may change. The call costs little compared with reading `/proc`.
fn open_pidfd(pid: libc::pid_t) -> Result<OwnedFd, i32> {
    if cfg!(tokio_process_exit_force_poll) || task::pidfd_open_kills() {
        return Err(libc::ENOSYS);
    }
    pidfd::open(pid)
}

/// Whether a later call may succeed.
pub(crate) fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM)
}

/// Queries the process before a wait. Opens `stat` if the wait needs the file and it is not open.
fn first_liveness(pidfd: BorrowedFd<'_>, stat: &mut Option<OpenStat>) -> io::Result<Liveness> {
    if stat.is_some() {
        return pidfd::liveness(pidfd);
    }
    let (liveness, opened) = OpenStat::open(pidfd)?;
    *stat = opened;
    Ok(liveness)
}

/// Returns the state of a process that has probably exited, as [`query_state`] does.
fn state_after_event(pidfd: BorrowedFd<'_>, stat: Option<&OpenStat>) -> io::Result<State> {
    if let Some(stat) = stat {
        return match stat.exited_state() {
            Some(state) => Ok(state),
            None => query_state(pidfd),
        };
    }
    // `waitid` returns a status only after the exit, so do not call `poll` before.
    match pidfd::child_status(pidfd) {
        Ok(Some(status)) => Ok(zombie_state(Some(status))),
        // Not our child, or Linux 5.3, which lacks P_PIDFD.
        Err(libc::ECHILD | libc::EINVAL) => query(pidfd, false),
        // A child that has exited after this `waitid` has a status now.
        _ => query_state(pidfd),
    }
}

/// Returns the state of the process behind a pidfd, with its exit status where the kernel reports it.
///
/// The order of the steps makes the status certain, although the process may be reaped at any moment:
///
/// 1. After the reap, the pidfd itself returns the status of any process (Linux 6.15).
/// 2. `waitid` returns the status of our own child. Ask only after the exit: otherwise a child that exits
///    after the question has no status.
/// 3. `/proc` shows the status of a zombie. The status is this process's only if the process has not
///    been reaped after the read: only then has the pid not been recycled.
///
/// For some microseconds of a reap, neither `/proc` nor the pidfd returns the status. Query again then.
fn query_state(pidfd: BorrowedFd<'_>) -> io::Result<State> {
    query(pidfd, true)
}

/// Returns the state, as [`query_state`] does. Calls `waitid` only if the process may be our own child.
fn query(pidfd: BorrowedFd<'_>, may_be_child: bool) -> io::Result<State> {
    // Yield so that the reaper can run, but only a few times: this thread may be a runtime worker.
    const MAX_YIELDS: u32 = 3;
    let mut yields = 0;
    loop {
        match query_once(pidfd, may_be_child)? {
            (State::Exited { status: None, .. }, true) if yields < MAX_YIELDS => {
                yields += 1;
                thread::yield_now();
            }
            (state, _) => return Ok(state),
        }
    }
}

/// Returns the state, and whether the process is being reaped at this moment.
fn query_once(pidfd: BorrowedFd<'_>, may_be_child: bool) -> io::Result<(State, bool)> {
    // Check this first: before Linux 5.13, `waitid` takes time in proportion to the number of our children.
    match pidfd::liveness(pidfd)? {
        Liveness::Running => return Ok((State::Running, false)),
        Liveness::Reaped => return Ok((reaped_state(pidfd), false)),
        Liveness::Zombie => {}
    }
    if may_be_child {
        if let Ok(Some(status)) = pidfd::child_status(pidfd) {
            return Ok((zombie_state(Some(status)), false));
        }
    }
    // Read the pid through the descriptor: `/proc` may belong to another pid namespace than ours, in
    // which our number for the process is another process. Before Linux 5.17, `/proc` has no status.
    let pid = procfs::has_group_exit_code().then(|| procfs::pid_of_pidfd(pidfd));
    let pid = pid.flatten();
    let status = pid.and_then(procfs::zombie_status);
    let is_being_reaped = status.is_none() && pid.is_some_and(procfs::is_being_reaped);
    Ok(match pidfd::liveness(pidfd)? {
        // During `execve` by a thread that is not the leader, a running process seems for an instant to
        // have exited.
        Liveness::Running => (State::Running, false),
        Liveness::Reaped => (reaped_state(pidfd), false),
        Liveness::Zombie => (zombie_state(status), is_being_reaped),
    })
}

fn zombie_state(status: Option<Status>) -> State {
    let reaped = false;
    State::Exited { status, reaped }
}

fn reaped_state(pidfd: BorrowedFd<'_>) -> State {
    State::Exited {
        status: pidfd::reaped_status(pidfd),
        reaped: true,
    }
}

fn is_reaped(pidfd: BorrowedFd<'_>) -> bool {
    matches!(pidfd::liveness(pidfd), Ok(Liveness::Reaped))
}

fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // Query first: `pidfd_send_signal` succeeds for a zombie.
    match query_state(pidfd)? {
        State::Running => pidfd::send_signal(pidfd, signal).map_err(|errno| match errno {
            libc::ESRCH => io::ErrorKind::NotFound.into(),
            errno => io::Error::from_raw_os_error(errno),
        }),
        State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Reaps our own child. Linux 5.3 has pidfds, but does not reap by them.
fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Status>> {
    syscalls::reap(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t)
}

fn identity_key(pidfd: BorrowedFd<'_>, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
    if kind != Some(KeyKind::Start) {
        match (pidfd::inode(pidfd), kind) {
            (Some(value), None | Some(KeyKind::Inode)) => {
                let kind = KeyKind::Inode;
                return Ok(IdentityKey { kind, value });
            }
            (_, Some(_)) => return Err(io::ErrorKind::Unsupported.into()),
            (None, None) => {}
        }
    }
    let stat = procfs::pid_of_pidfd(pidfd).and_then(Stat::read);
    // Read before the check: the start time is this process's if the process still has the pid.
    match (is_reaped(pidfd), stat) {
        (true, _) => Err(io::ErrorKind::NotFound.into()),
        (false, Some(stat)) => Ok(start_key(&stat)),
        (false, None) => Err(proc_unavailable()),
    }
}

fn start_key(stat: &Stat) -> IdentityKey {
    IdentityKey {
        kind: KeyKind::Start,
        value: stat.start_time,
    }
}

/// Returns the reason why a file in `/proc` could not be read.
fn proc_unavailable() -> io::Error {
    match fs::File::open("/proc/thread-self/stat") {
        Err(error) if error.raw_os_error().is_some_and(is_exhaustion) => error,
        _ => io::Error::new(
            io::ErrorKind::Unsupported,
            "/proc does not show the process",
        ),
    }
}

pub(crate) const KEY_ROUNDING: u64 = 0;
