//! Linux and Android: a pidfd in tokio's reactor, and `/proc` where there is none to be had.

mod pidfd;
mod probe;
mod procfs;
mod selector;
mod task;

use std::cell::Cell;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::thread;

use self::pidfd::Liveness;
use self::probe::PidProbe;
pub(crate) use self::probe::{Probe, Reopened};
use self::procfs::Stat;
pub(crate) use self::selector::{Event, Registration, Selector};
use self::task::TaskKind;
use super::unix::async_fd::LazyAsyncFd;
pub(crate) use super::unix::child::open_child;
pub(crate) use super::unix::syscalls::thread_cpu_time;
pub(crate) use super::unix::wait_status::Status;
use super::{EventError, Opened, Refused, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;

/// A process, held by a pidfd: whatever becomes of its pid, the pidfd never means another one.
pub(crate) struct Process {
    pidfd: LazyAsyncFd,
}

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::PidFd;

    pub(crate) fn open(pid: u32) -> Result<Opened, OpenError> {
        let pid = match libc::pid_t::try_from(pid) {
            Ok(pid) if pid > 0 => pid,
            _ => return Err(OpenError::OutOfRange),
        };
        // `pidfd_open` answers ENOENT for a thread that leads no process (EINVAL before Linux
        // 6.16), but EINVAL also for a process that is being reaped at this moment (psutil#2715,
        // systemd#36982), so only a second look tells. If by then a process has this pid, the
        // number was recycled or its thread has become the leader by `execve`: ask once more. Each
        // round needs another such coincidence.
        const ROUNDS: u32 = 16;
        let mut refusal = libc::EINVAL;
        for _ in 0..ROUNDS {
            refusal = match open_pidfd(pid) {
                Ok(pidfd) => return Ok(Opened::Process(Process::new(pidfd))),
                Err(libc::ESRCH) => return Err(OpenError::NoSuchProcess),
                Err(errno) => errno,
            };
            match task::task_kind(pid) {
                TaskKind::Nothing => return Err(OpenError::NoSuchProcess),
                TaskKind::Thread { process } => return Err(OpenError::Thread { process }),
                TaskKind::Process
                    if matches!(refusal, libc::EINVAL | libc::ENOENT | libc::EINTR) => {}
                TaskKind::Process => break,
            }
        }
        let reason = io::Error::from_raw_os_error(refusal);
        let probe = PidProbe::new(pid, is_exhaustion(refusal));
        Ok(Opened::Refused((Probe::Pid(probe), reason)))
    }

    /// Adopts a pidfd, and finds out the pid: `None` if the process has none here, as it has been
    /// reaped or lives outside this pid namespace.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other descriptor.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Process, Option<NonZeroU32>)> {
        pidfd::check_kind(fd.as_fd())?;
        let pid = pidfd::pid(fd.as_fd()).or_else(|| {
            procfs::pid_of_pidfd(fd.as_fd()).filter(|_| procfs::proc_matches_our_pid_ns())
        });
        Ok((Process::new(fd), pid.and_then(NonZeroU32::new)))
    }

    fn new(pidfd: OwnedFd) -> Process {
        Process {
            pidfd: LazyAsyncFd::new(pidfd),
        }
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        query_state(self.pidfd.as_fd())
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        self.pidfd
            .poll_readable(cx, |pidfd| Ok((query_state(pidfd)?, true)))
    }

    pub(crate) fn deregister(&mut self) {
        self.pidfd.deregister();
    }

    /// Whether an event will tell of the reap too.
    pub(crate) fn has_reap_event(&self) -> bool {
        pidfd::is_on_pidfs(self.as_fd())
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        pidfd::unique_id(self.as_fd())
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        send(self.as_fd(), signal)
    }

    pub(crate) fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        identity_key(self.as_fd(), kind)
    }

    /// Whether its pid is free for another process.
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

/// Opens a pidfd, unless the system has said before that it will not have it.
fn open_pidfd(pid: libc::pid_t) -> Result<OwnedFd, i32> {
    // A kernel without pidfds stays so, and the seccomp filter of a thread is never lifted. What is
    // exhausted now may not be next time.
    thread_local! {
        static DENIED: Cell<i32> = const { Cell::new(0) };
    }

    if cfg!(tokio_process_exit_force_poll) {
        return Err(libc::ENOSYS);
    }
    let denied = DENIED.get();
    if denied != 0 {
        return Err(denied);
    }
    let opened = if task::pidfd_open_kills() {
        Err(libc::ENOSYS)
    } else {
        pidfd::open(pid)
    };
    // Linux itself never answers EPERM or EACCES: it is a seccomp profile (containers older than
    // Linux 5.3 answer EPERM, docker/for-linux#1142) or a security module.
    if let Err(errno @ (libc::ENOSYS | libc::EPERM | libc::EACCES)) = opened {
        DENIED.set(errno);
    }
    opened
}

/// Whether what was refused may be granted later.
fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM)
}

/// Looks at the process behind a pidfd, and reads its exit status where the kernel tells it to us.
///
/// The order is what makes the status certain while the process may be reaped at any moment:
///
/// 1. Our own child's status comes from `waitid`, which also tells in one call that it has exited.
/// 2. Once reaped, the pidfd itself tells the status, for anybody's process (Linux 6.15).
/// 3. A zombie's status stands in `/proc`, but is that process's only if the zombie is still
///    there after the read: only then its pid had not been recycled.
///
/// What seems to be a zombie is looked at twice in any case. While it is being reaped, for some
/// microseconds, nobody tells its status. So it is looked at again then.
fn query_state(pidfd: BorrowedFd<'_>) -> io::Result<State> {
    // Who reaps may be waiting for this processor. But it is a worker of a runtime that waits here.
    const YIELDS: u32 = 3;
    let mut yields = 0;
    loop {
        match query_state_once(pidfd)? {
            (State::Exited { status: None, .. }, true) if yields < YIELDS => {
                yields += 1;
                thread::yield_now();
            }
            (state, _) => return Ok(state),
        }
    }
}

/// Returns also whether it is being reaped at this moment.
fn query_state_once(pidfd: BorrowedFd<'_>) -> io::Result<(State, bool)> {
    if let Some(status) = pidfd::child_status(pidfd) {
        let status = Some(status);
        let reaped = false;
        return Ok((State::Exited { status, reaped }, false));
    }
    match pidfd::liveness(pidfd)? {
        Liveness::Running => return Ok((State::Running, false)),
        Liveness::Reaped => return Ok((reaped(pidfd), false)),
        Liveness::Zombie => {}
    }
    // Through the descriptor, as /proc may belong to another pid namespace than ours, where the
    // same number means another process.
    let pid = procfs::pid_of_pidfd(pidfd);
    let status = pid.and_then(procfs::zombie_status);
    let is_leaving = status.is_none() && pid.is_some_and(procfs::is_being_reaped);
    Ok(match pidfd::liveness(pidfd)? {
        // The first look was at a leading thread that another one was replacing by `execve`. For an
        // instant such a process seems to have no thread alive.
        Liveness::Running => (State::Running, false),
        Liveness::Reaped => (reaped(pidfd), false),
        Liveness::Zombie => {
            let reaped = false;
            (State::Exited { status, reaped }, is_leaving)
        }
    })
}

/// Sends a signal, unless the process has exited.
fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // A zombie takes signals without an error.
    match query_state(pidfd)? {
        State::Running => pidfd::send_signal(pidfd, signal).map_err(|errno| match errno {
            libc::ESRCH => io::ErrorKind::NotFound.into(),
            errno => io::Error::from_raw_os_error(errno),
        }),
        State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
    }
}

/// What tells the process behind a pidfd from all others: of that kind, or the best.
fn identity_key(pidfd: BorrowedFd<'_>, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
    if kind != Some(KeyKind::Start) {
        let value = pidfd::unique_id(pidfd);
        match (value, kind) {
            (Some(value), None | Some(KeyKind::Inode)) => {
                return Ok(IdentityKey {
                    kind: KeyKind::Inode,
                    value,
                    namespace: None,
                });
            }
            (_, Some(_)) => return Err(io::ErrorKind::Unsupported.into()),
            (None, None) => {}
        }
    }
    let stat = procfs::pid_of_pidfd(pidfd).and_then(Stat::read);
    // In this order: it is that process's if the pid still is.
    match (is_reaped(pidfd), stat) {
        (true, _) => Err(io::ErrorKind::NotFound.into()),
        (false, Some(stat)) => start_key(&stat),
        (false, None) => Err(proc_unavailable()),
    }
}

/// Two containers that start at once have processes with the same pids and start times.
fn start_key(stat: &Stat) -> io::Result<IdentityKey> {
    Ok(IdentityKey {
        kind: KeyKind::Start,
        value: stat.start_time,
        namespace: Some(procfs::our_pid_namespace().ok_or_else(proc_unavailable)?),
    })
}

/// Why `/proc` does not show what it should.
fn proc_unavailable() -> io::Error {
    match fs::File::open("/proc/thread-self/stat") {
        // For want of descriptors, or of memory.
        Err(error) if error.raw_os_error().is_some_and(is_exhaustion) => error,
        _ => io::Error::new(io::ErrorKind::Unsupported, "/proc does not show it"),
    }
}

/// Marks of one process differ by no more than this.
pub(crate) const KEY_ROUNDING: u64 = 0;

/// Changes with each boot.
///
/// [proc_sys_kernel(5)](https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html)
pub(crate) fn boot_id() -> io::Result<Option<String>> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(FILE)
        .map(Some)
        .map_err(|error| match error.raw_os_error() {
            Some(errno) if is_exhaustion(errno) => error,
            _ => io::Error::new(
                io::ErrorKind::Unsupported,
                format!("cannot read {FILE}: {error}"),
            ),
        })
}

fn is_reaped(pidfd: BorrowedFd<'_>) -> bool {
    matches!(pidfd::liveness(pidfd), Ok(Liveness::Reaped))
}

fn reaped(pidfd: BorrowedFd<'_>) -> State {
    State::Exited {
        status: pidfd::reaped_status(pidfd),
        reaped: true,
    }
}
