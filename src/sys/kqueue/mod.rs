//! macOS, iOS and the BSDs: a kqueue in tokio's reactor.
//!
//! A filter of [kqueue(2)](https://man.freebsd.org/kqueue) is attached to the process itself, so its
//! event is about that process even if the pid is recycled. The only event reports the exit, and its
//! content is kept. No event reports the reap, so the process table is queried for the reap.
//!
//! | | event for a zombie | who may register | exit status in the event |
//! |---|---|---|---|
//! | macOS, iOS | refused with ESRCH | anybody | for the parent, and for those who may kill it (`NOTE_EXITSTATUS`) |
//! | FreeBSD | at once | those who may see the process | yes |
//! | NetBSD | refused with ESRCH | the process's user, root | yes (before 10: unless 0) |
//! | OpenBSD | refused with ESRCH | anybody (`pledge "proc"`) | yes |
//! | DragonFly | at once | anybody in the jail | yes |

mod attach;
#[cfg(all(test, tokio_process_exit_fake_kqueue))]
pub(crate) mod fake;
mod group;
mod kernel;
mod kevent;
mod probe;
mod proc_info;
mod selector;
mod semantics;

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use self::attach::attach;
pub(crate) use self::group::GroupList;
use self::kernel::{child_status, send_signal};
use self::probe::PidProbe;
pub(crate) use self::probe::Probe;
pub(crate) use self::proc_info::KEY_ROUNDING;
pub(super) use self::proc_info::boot_id;
pub(crate) use self::selector::{Event, Registration, Selector};
pub(crate) use super::no_namespaces::{has_exited_elsewhere, origin};
use super::unix::async_fd::LazyAsyncFd;
pub(crate) use super::unix::child::open_child;
use super::unix::syscalls;
pub(crate) use super::unix::syscalls::thread_cpu_time;
pub(crate) use super::unix::wait_status::Status;
use super::{EventError, Opened, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;

/// A process with a kqueue of its own.
pub(crate) struct Process {
    kqueue: LazyAsyncFd,
    registration: Registration,
}

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::Kqueue;

    pub(crate) fn open(pid: u32) -> Result<Opened<Process>, OpenError> {
        let pid = super::check_pid(pid)?;
        let kqueue = match kevent::create() {
            Ok(kqueue) => kqueue,
            Err(error) => return PidProbe::open(pid, error),
        };
        Ok(match attach(kqueue.as_fd(), pid)? {
            Opened::WithEvents(start_id) => Opened::WithEvents(Process {
                kqueue: LazyAsyncFd::new(kqueue),
                registration: Registration::new(pid, start_id),
            }),
            Opened::Refused(refused) => Opened::Refused(refused),
        })
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        self.registration.state(self.kqueue.as_fd())
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        let registration = &self.registration;
        if registration.exit.get().is_none() {
            // A process has only one event, so one read has read everything.
            let read = |kqueue: BorrowedFd<'_>| {
                registration.read_exit(kqueue)?;
                Ok((registration.exit.get().is_some(), true))
            };
            ready!(self.kqueue.poll_read_event(cx, read))?;
        }
        Poll::Ready(Ok(registration.exit_state()))
    }

    pub(crate) fn deregister(&mut self) {
        self.kqueue.deregister();
    }

    pub(crate) fn wait_event(&self, _state: State, timeout: Duration) -> io::Result<()> {
        // The exit is the only event.
        let read = kevent::read_within(self.kqueue.as_fd(), timeout, |event| {
            let _ = self.registration.exit.set(event.status);
        });
        match read {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Opened<Process>> {
        let pid = self.registration.pid;
        if self.state()? == State::Running {
            let kqueue = kevent::create()?;
            let attached = attach(kqueue.as_fd(), pid);
            // Attach before the check: the filter is this process's if the process is still running.
            if self.state()? == State::Running {
                return match attached {
                    Ok(Opened::WithEvents(start_id)) => Ok(Opened::WithEvents(Process {
                        kqueue: LazyAsyncFd::new(kqueue),
                        registration: Registration::new(pid, start_id),
                    })),
                    Ok(Opened::Refused(refused)) => Ok(Opened::Refused(refused)),
                    Err(error) => Err(error.to_io_error(NonZeroU32::new(pid.unsigned_abs()))),
                };
            }
        }
        match self.registration.exited() {
            Some(exited) => Ok(Opened::refused(
                Probe::Exited(exited),
                exit_event_unavailable(),
            )),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn reap(&self) -> io::Result<Option<Status>> {
        reap(self.registration.pid, self.state()?)
    }

    /// Always `false`. XNU has `NOTE_REAP`, but deprecates it.
    pub(crate) fn has_reap_event(&self) -> bool {
        false
    }

    pub(crate) fn is_reaped(&self) -> bool {
        matches!(self.state(), Ok(State::Exited { reaped: true, .. }))
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.registration.read_exit(self.kqueue.as_fd())?;
        self.registration.signal(signal)
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        self.registration.identity_key(self.kqueue.as_fd())
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self.registration.exited() {
            Some(exited) => Probe::Exited(exited),
            None => Probe::Kqueue(self.kqueue.into_inner(), self.registration),
        }
    }
}

/// Reaps our own child. The caller has just queried its state.
///
/// Nobody but this program can reap its child, so only another part of the program can have freed the pid.
fn reap(pid: libc::pid_t, state: State) -> io::Result<Option<Status>> {
    // The kernels report the exit some microseconds before the process is waitable.
    const MAX_YIELDS: u32 = 100;
    let mut yields = 0;
    loop {
        let result = match state {
            State::Exited { reaped: true, .. } => Err(io::ErrorKind::NotFound.into()),
            _ => syscalls::reap(libc::P_PID, pid as libc::id_t),
        };
        match result {
            Ok(None) if state != State::Running && yields < MAX_YIELDS => {
                yields += 1;
                thread::yield_now();
            }
            result => return result,
        }
    }
}

/// The reason why an exited or exiting process is polled.
fn exit_event_unavailable() -> io::Error {
    let reason = "the process has exited or is exiting, and this system reports no event then";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

fn key_unavailable() -> io::Error {
    let reason = "this system does not show what distinguishes the process from others";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}
