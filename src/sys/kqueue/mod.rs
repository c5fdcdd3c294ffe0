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
mod kernel;
mod kevent;
mod probe;
mod proc_info;
mod selector;
mod semantics;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use self::attach::attach;
use self::kernel::{child_status, send_signal};
use self::probe::PidProbe;
pub(crate) use self::probe::Probe;
pub(crate) use self::proc_info::KEY_ROUNDING;
pub(super) use self::proc_info::boot_id;
pub(crate) use self::selector::{Event, Registration, Selector};
use super::unix::async_fd::LazyAsyncFd;
pub(crate) use super::unix::child::open_child;
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
