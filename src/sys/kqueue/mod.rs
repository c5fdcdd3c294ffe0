//! macOS, iOS and the BSDs: a kqueue in tokio's reactor.
//!
//! A filter of [kqueue(2)](https://man.freebsd.org/kqueue) is attached to the process itself, so from
//! then on its event is that very process's, whatever becomes of the pid. The event comes once; what
//! it told is kept. It tells of the exit only. The reap is looked for.
//!
//! | | event for a zombie | who may watch | exit status in the event |
//! |---|---|---|---|
//! | macOS, iOS | refused with ESRCH | anybody | for the parent, and who may kill it (`NOTE_EXITSTATUS`) |
//! | FreeBSD | at once | who may see it | yes |
//! | NetBSD | refused with ESRCH | its user, root | yes (before 10: unless 0) |
//! | OpenBSD | refused with ESRCH | anybody (`pledge "proc"`) | yes |
//! | DragonFly | at once | anybody in the jail | yes |

mod kevent;
mod probe;
mod proc_info;
mod selector;
mod semantics;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use self::probe::PidProbe;
pub(crate) use self::probe::{Probe, Reopened};
pub(crate) use self::proc_info::{KEY_ROUNDING, boot_id};
pub(crate) use self::selector::{Event, Registration, Selector};
use self::semantics::{Missing, Refusal, is_reaped_after_exit, missing, refusal};
use super::unix::async_fd::LazyAsyncFd;
pub(crate) use super::unix::child::open_child;
pub(crate) use super::unix::syscalls::thread_cpu_time;
use super::unix::syscalls::{child_status, send_signal};
pub(crate) use super::unix::wait_status::Status;
use super::{EventError, Opened, Refused, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;

/// A process, held by the filter of a kqueue.
pub(crate) struct Process {
    kqueue: LazyAsyncFd,
    target: Target,
}

/// A process that a kqueue tells of, and what it has event.
///
/// (On macOS a process that is traced tells only its tracer of its exit. The others are told when the
/// tracer has reaped it.)
pub(crate) struct Target {
    pid: libc::pid_t,
    /// The exit, with the status if the system tells it.
    exit: OnceLock<Option<Status>>,
}

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::Kqueue;

    pub(crate) fn open(pid: u32) -> Result<Opened, OpenError> {
        let pid = pid_in_range(pid)?;
        let kqueue = match kevent::create() {
            Ok(kqueue) => kqueue,
            Err(error) => return PidProbe::open(pid, error).map(Opened::Refused),
        };
        Ok(match register(kqueue.as_fd(), pid)? {
            None => Opened::Process(Process {
                kqueue: LazyAsyncFd::new(kqueue),
                target: Target::new(pid),
            }),
            Some(refused) => Opened::Refused(refused),
        })
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        self.target.state(self.kqueue.as_fd())
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        if self.target.exit.get().is_none() {
            let target = &self.target;
            // Nothing more comes after the one event, so that is all there is to see.
            let read = |kqueue: BorrowedFd<'_>| Ok((target.read_exit(kqueue)?, true));
            ready!(self.kqueue.poll_readable(cx, read))?;
        }
        Poll::Ready(Ok(self.target.exit_state()))
    }

    pub(crate) fn deregister(&mut self) {
        self.kqueue.deregister();
    }

    /// Whether an event will tell of the reap too. XNU has `NOTE_REAP`, but deprecates it.
    pub(crate) fn has_reap_event(&self) -> bool {
        false
    }

    /// Whether its pid is free for another process.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.target.signal(self.kqueue.as_fd(), signal)
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        self.target.identity_key(self.kqueue.as_fd())
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self.target.exit.get() {
            Some(&status) => Probe::Exited(self.target.pid, status),
            None => Probe::Kqueue(self.kqueue.into_inner(), self.target),
        }
    }
}

impl Target {
    fn new(pid: libc::pid_t) -> Target {
        Target {
            pid,
            exit: OnceLock::new(),
        }
    }

    /// Takes the event in, if it has come.
    fn read_exit(&self, kqueue: BorrowedFd<'_>) -> io::Result<()> {
        if self.exit.get().is_none() {
            kevent::read(kqueue, |event| {
                let _ = self.exit.set(event.status);
            })?;
        }
        Ok(())
    }

    /// What the event has told, without asking for the reap.
    fn exit_state(&self) -> State {
        match self.exit.get() {
            None => State::Running,
            Some(&status) => State::Exited {
                status,
                reaped: false,
            },
        }
    }

    /// The pid may go to another process after the look, but not for long: it would have to exit and
    /// be reaped, and the pid be given out again, before the next system call.
    fn signal(&self, kqueue: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
        self.read_exit(kqueue)?;
        match self.exit_state() {
            State::Running => send_signal(self.pid, signal),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn identity_key(&self, kqueue: BorrowedFd<'_>) -> io::Result<IdentityKey> {
        let key = proc_info::identity_key(self.pid);
        // In this order: the pid was its own if it has not exited.
        self.read_exit(kqueue)?;
        match self.exit_state() {
            State::Running => key.ok_or_else(key_unavailable),
            State::Exited { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn state(&self, kqueue: BorrowedFd<'_>) -> io::Result<State> {
        self.read_exit(kqueue)?;
        Ok(match self.exit.get() {
            None => State::Running,
            Some(&status) => state_after_exit(self.pid, status),
        })
    }
}

/// The state of a process that has exited with this status.
fn state_after_exit(pid: libc::pid_t, status: Option<Status>) -> State {
    State::Exited {
        status,
        reaped: is_reaped_after_exit(proc_info::of(pid)),
    }
}

fn has_exited() -> io::Error {
    let reason = "it has exited, or is about to, and this system gives events for others only";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

fn key_unavailable() -> io::Error {
    let reason = "the system does not show what tells it from others";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

fn pid_in_range(pid: u32) -> Result<libc::pid_t, OpenError> {
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(OpenError::OutOfRange),
    }
}

/// Has a kqueue tell of the exit of a process. If the system refuses, there is a probe instead, and
/// the reason.
fn register(kqueue: BorrowedFd<'_>, pid: libc::pid_t) -> Result<Option<Refused>, OpenError> {
    if cfg!(tokio_process_exit_force_poll) {
        return PidProbe::open(pid, io::Error::from_raw_os_error(libc::ENOSYS)).map(Some);
    }
    // Each round but the first needs the pid to have got a new owner just then.
    const ROUNDS: u32 = 16;
    for _ in 0..ROUNDS {
        let Err(error) = kevent::register(kqueue, pid) else {
            return Ok(None);
        };
        if refusal(errno_of(&error), false) != Refusal::NotRunning {
            return PidProbe::open(pid, error).map(Some);
        }
        let reason = has_exited();
        // It tells in one call that this is our child, that it has exited, and how.
        if let status @ Some(_) = child_status(libc::P_PID, pid as libc::id_t) {
            return Ok(Some((Probe::Exited(pid, status), reason)));
        }
        match missing(proc_info::of(pid)) {
            Missing::NoSuchProcess => return Err(OpenError::NoSuchProcess),
            Missing::Exited => return Ok(Some((Probe::Exited(pid, None), reason))),
            Missing::Exiting => return PidProbe::open(pid, reason).map(Some),
            Missing::Another => {}
        }
    }
    PidProbe::open(pid, io::Error::from_raw_os_error(libc::ESRCH)).map(Some)
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}
