//! Waiting for one process.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};

use futures_core::FusedFuture;

use crate::error::OpenError;
use crate::sys::{self, State};

/// Waits for the process `pid` to exit, whosever child it is.
///
/// The process is opened by this call, not when the future is first polled: a pid that is recycled
/// afterwards is never mistaken for it. This call may be made outside a runtime.
///
/// It is [`ProcessExit::open`] with the error reported when awaited, see there.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio::time::timeout;
/// use tokio_process_exit::exit_of;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // We are still running, so this ends with the timeout.
/// let me = std::process::id();
/// let elapsed = timeout(Duration::from_millis(20), exit_of(me)).await;
/// assert!(elapsed.is_err());
///
/// let error = exit_of(0).await.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// # }
/// ```
pub fn exit_of(pid: u32) -> ProcessExit {
    ProcessExit::new(
        pid,
        match sys::Process::open(pid) {
            Ok(process) => Source::Event(process),
            Err(error) => Source::Failed(error),
        },
    )
}

/// A future that resolves when a process exits. Made by [`exit_of`].
///
/// The process is neither signalled nor reaped, and lives on when this is dropped.
///
/// Once resolved, awaiting it again yields the same [`Exit`], so it may stay in a `select!` loop.
///
/// # Errors
///
/// Awaiting yields the error that [`open`](ProcessExit::open) would have returned. It also fails,
/// without losing the process, when the runtime shuts down.
///
/// # Panics
///
/// Polling panics outside a tokio runtime, and in a runtime with I/O disabled
/// (see [`Builder::enable_io`](tokio::runtime::Builder::enable_io)), as every tokio resource.
///
/// # Cancel safety
///
/// Dropping it or timing out loses nothing and leaks nothing. Polled by `&mut`, it may be polled
/// again later, from another task or in another runtime.
#[must_use = "futures do nothing unless awaited"]
pub struct ProcessExit {
    id: u32,
    until: Until,
    /// Awaiting has yielded its final result.
    terminated: bool,
    /// `until` has come, and `status` is what was known then.
    resolved: bool,
    status: Option<sys::Status>,
    source: Source,
}

/// What a [`ProcessExit`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Exit,
    Reap,
}

/// Where a [`ProcessExit`] learns of the exit.
enum Source {
    /// Nowhere: opening failed.
    Failed(OpenError),
    /// The kernel wakes the reactor.
    Event(sys::Process),
}

impl ProcessExit {
    fn new(id: u32, source: Source) -> ProcessExit {
        let until = Until::Exit;
        ProcessExit {
            id,
            until,
            terminated: false,
            resolved: false,
            status: None,
            source,
        }
    }

    pub(crate) fn adopted(process: sys::Process, id: u32) -> ProcessExit {
        ProcessExit::new(id, Source::Event(process))
    }

    pub(crate) fn process(&self) -> Option<&sys::Process> {
        match &self.source {
            Source::Failed(_) => None,
            Source::Event(process) => Some(process),
        }
    }

    /// Opens the process `pid`, whosever child it is, to wait for its exit.
    ///
    /// A process that has exited and has not been reaped (a zombie) can be opened too. One may
    /// wait for oneself, which never resolves, and for any user's process.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): `pid` is 0 or above [`i32::MAX`], or is
    ///   the id of a thread that leads no process (the message names the process);
    /// - [`NotFound`](io::ErrorKind::NotFound): no process has this pid;
    /// - any other: the system has no means left to watch a process, or denies them to us.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let error = ProcessExit::open(i32::MAX as u32).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// assert_eq!(error.to_string(), "no process with pid 2147483647");
    /// ```
    pub fn open(pid: u32) -> io::Result<ProcessExit> {
        let exit = exit_of(pid);
        match exit.source {
            Source::Failed(error) => Err(error.to_io_error(pid)),
            _ => Ok(exit),
        }
    }

    /// The pid that this was opened with.
    ///
    /// 0 for an adopted process that has no pid here: it had been reaped before it was adopted, or
    /// it lives outside our pid namespace.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How the exit is noticed. `None` if opening failed: awaiting says why.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::{Mechanism, exit_of};
    ///
    /// let mechanism = exit_of(std::process::id()).mechanism();
    /// # #[cfg(target_os = "linux")]
    /// assert_eq!(mechanism, Some(Mechanism::PidFd));
    /// ```
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.process().map(|_| sys::Process::MECHANISM)
    }

    /// Looks whether the process has exited by now, without blocking. Works outside a runtime.
    ///
    /// # Errors
    ///
    /// As for awaiting.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut exit = tokio_process_exit::exit_of(std::process::id());
    /// assert_eq!(exit.try_exit()?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_exit(&mut self) -> io::Result<Option<Exit>> {
        if !self.resolved {
            let state = match &self.source {
                Source::Failed(error) => return Err(error.to_io_error(self.id)),
                Source::Event(process) => process.state(self.id)?,
            };
            self.advance(state);
        }
        Ok(self.resolved.then(|| self.exit()))
    }

    /// Waits until the process has been reaped, instead of until it has exited.
    ///
    /// A process is reaped when its parent collects its exit status. Only then its pid is free,
    /// and on Linux 6.15 and later everybody in the pid namespace can learn its exit status.
    ///
    /// A parent may never reap. So prefer this where the status matters or the pid must be gone,
    /// and a timeout where the parent is not known to be diligent. Awaiting it for one's own child
    /// takes another task that waits for the child.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use tokio::process::Command;
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn()?;
    /// let exit = ProcessExit::open(child.id().unwrap())?.reaped();
    /// child.wait().await?; // reaps
    /// exit.await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn reaped(mut self) -> ProcessExit {
        self.until = Until::Reap;
        self.resolved = false;
        self.terminated = false;
        self
    }

    /// Takes in what was seen of the process.
    fn advance(&mut self, state: State) {
        if let State::Exited { status, reaped } = state {
            // Waiting for the reap, the status may have been known at the exit only.
            self.status = status.or(self.status);
            self.resolved = reaped || self.until == Until::Exit;
        }
        if self.resolved {
            if let Source::Event(process) = &mut self.source {
                process.disarm();
            }
        }
    }

    fn exit(&self) -> Exit {
        Exit {
            id: self.id,
            status: self.status,
        }
    }
}

impl Future for ProcessExit {
    type Output = io::Result<Exit>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while !this.resolved {
            let state = match &mut this.source {
                Source::Failed(error) => {
                    this.terminated = true;
                    return Poll::Ready(Err(error.to_io_error(this.id)));
                }
                Source::Event(process) => ready!(process.poll_event(this.id, cx))?,
            };
            this.advance(state);
        }
        this.terminated = true;
        Poll::Ready(Ok(this.exit()))
    }
}

/// Terminated once it has yielded its exit, or the reason why it could not be opened.
impl FusedFuture for ProcessExit {
    fn is_terminated(&self) -> bool {
        self.terminated
    }
}

impl fmt::Debug for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ProcessExit");
        debug.field("id", &self.id).field("until", &self.until);
        match &self.source {
            Source::Failed(error) => debug.field("error", error),
            Source::Event(_) => debug.field("mechanism", &sys::Process::MECHANISM),
        };
        if self.resolved {
            debug.field("exit", &self.exit());
        }
        debug.finish()
    }
}

/// How an exit is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// The kernel wakes the reactor through a pidfd (Linux).
    PidFd,
    /// The kernel wakes the reactor through a kqueue (macOS and the BSDs).
    Kqueue,
    /// The system calls back through a registered wait (Windows).
    WaitHandle,
    /// The process is looked at again and again, as the system offers or permits nothing else.
    Polling,
}

/// A process that has exited.
///
/// # Examples
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut child = tokio::process::Command::new("sh").args(["-c", "exit 7"]).spawn()?;
/// let pid = child.id().unwrap();
///
/// let exit = tokio_process_exit::exit_of(pid).await?;
/// assert_eq!(exit.id(), pid);
/// assert_eq!(exit.status().unwrap().code(), Some(7));
/// assert_eq!(exit.to_string(), format!("process {pid} exited with exit status: 7"));
///
/// // The status was read, not taken: its owner still gets it.
/// assert_eq!(child.wait().await?.code(), Some(7));
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Exit {
    id: u32,
    status: Option<sys::Status>,
}

impl Exit {
    /// The pid that the process had, as [`ProcessExit::id`].
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How the process ended: its exit code, or the signal that killed it.
    ///
    /// `None` only where the system does not tell; never a guess. See
    /// [the crate's page](crate#the-exit-status) for when it is known.
    pub fn status(&self) -> Option<ExitStatus> {
        self.status.map(sys::Status::exit_status)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status() {
            Some(status) => write!(f, "process {} exited with {status}", self.id),
            None => write!(f, "process {} exited with unknown status", self.id),
        }
    }
}
