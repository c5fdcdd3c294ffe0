//! Windows: a process handle, for which the system's thread pool waits.

mod callback_context;
mod handle;
mod job;
mod registered_wait;
mod selector;

use std::io;
use std::num::NonZeroU32;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::os::windows::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;

use self::handle::ProcessHandle;
pub(crate) use self::handle::thread_cpu_time;
pub(crate) use self::job::Job;
use self::registered_wait::RegisteredWait;
pub(crate) use self::selector::{Event, Selector};
pub(crate) use super::no_namespaces::{has_exited_elsewhere, origin};
use super::{EventError, Opened, Reopened, State};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;

/// An exit code, as `GetExitCodeProcess` returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Status(u32);

impl Status {
    pub(crate) fn exit_status(self) -> ExitStatus {
        ExitStatus::from_raw(self.0)
    }
}

/// A process with an open handle. The pid is not recycled as long as the handle is open.
pub(crate) struct Process {
    // Declared first, so dropped first: the wait is unregistered before the handle closes.
    wait: Option<RegisteredWait>,
    handle: Arc<ProcessHandle>,
}

/// A process in a selector. Its wait sends to the selector's queue.
pub(crate) type Registration = Process;

/// A process without a registered wait.
pub(crate) type Probe = Process;

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::WaitHandle;

    pub(crate) fn open(pid: u32) -> Result<Opened<Process>, OpenError> {
        super::check_pid(pid)?;
        ProcessHandle::open(pid).map(|handle| Opened::WithEvents(Process::new(handle)))
    }

    /// Adopts a process handle. Also returns the pid.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other handle, and for a handle that lacks a right.
    pub(crate) fn adopt(handle: OwnedHandle) -> io::Result<(Process, Option<NonZeroU32>)> {
        let (handle, pid) = ProcessHandle::adopt(handle)?;
        Ok((Process::new(handle), NonZeroU32::new(pid)))
    }

    fn new(handle: ProcessHandle) -> Process {
        Process {
            wait: None,
            handle: Arc::new(handle),
        }
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        self.handle.state()
    }

    pub(crate) fn state_after(&self, _event: &Event) -> io::Result<State> {
        self.state()
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        let coop = ready!(coop::poll_proceed(cx));
        let state = self.handle.state().map_err(EventError::Other)?;
        if state != State::Running {
            // An exited process needs no registered wait.
            coop.made_progress();
            return Poll::Ready(Ok(state));
        }
        let wait = match &mut self.wait {
            Some(wait) => wait,
            // Give each wait a new queue, so that no event of an earlier wait arrives.
            none => {
                let wait = RegisteredWait::new(&self.handle, &Arc::default(), 0);
                none.insert(wait.map_err(EventError::Refused)?)
            }
        };
        ready!(wait.queue().poll_recv(cx));
        coop.made_progress();
        // A registered wait calls back only once.
        self.wait = None;
        Poll::Ready(self.handle.state().map_err(EventError::Other))
    }

    pub(crate) fn deregister(&mut self) {
        self.wait = None;
    }

    pub(crate) fn wait_event(&self, _state: State, timeout: Duration) -> io::Result<()> {
        // Round up: otherwise the last millisecond would be a busy loop.
        let timeout = timeout.as_nanos().div_ceil(1_000_000);
        // The largest number means no timeout.
        let timeout = u32::try_from(timeout).map_or(u32::MAX - 1, |ms| ms.min(u32::MAX - 1));
        self.handle.wait(timeout).map(drop)
    }

    pub(crate) fn try_clone(&self) -> io::Result<Opened<Process>> {
        let (wait, handle) = (None, self.handle.clone());
        Ok(Opened::WithEvents(Process { wait, handle }))
    }

    /// Always `true`: an exited process counts as reaped here.
    pub(crate) fn has_reap_event(&self) -> bool {
        true
    }

    /// Always `false`: the pid is not free as long as the handle is open.
    pub(crate) fn is_reaped(&self) -> bool {
        false
    }

    pub(crate) fn terminate(&self, exit_code: u32) -> io::Result<()> {
        self.handle.terminate(exit_code)
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        let kind = KeyKind::Start;
        let value = self.handle.creation_time()?;
        Ok(IdentityKey { kind, value })
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        None
    }

    /// Always `true` for the same pid: both handles are open, so the pid has not been recycled.
    pub(crate) fn is_same(&self, _process: &Process) -> bool {
        true
    }

    pub(crate) fn into_probe(mut self) -> Probe {
        self.deregister();
        self
    }

    pub(crate) fn close_all(registrations: Vec<Registration>) {
        drop(registrations);
    }

    pub(crate) fn reopen(&self) -> Reopened {
        Reopened::Unavailable
    }
}

impl AsHandle for Process {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }
}

/// Opens a child. Its pid is not recycled as long as std has a handle of the process.
pub(crate) fn open_child(child: &Child) -> Result<Opened<Process>, OpenError> {
    Process::open(child.id())
}

pub(crate) const KEY_ROUNDING: u64 = 0;

/// Always `None`: creation times count from 1601, not from the boot.
pub(super) fn boot_id() -> io::Result<Option<String>> {
    Ok(None)
}
