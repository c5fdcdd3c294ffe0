//! Waiting for one process.

mod blocking;
mod clone;
mod future;
mod open_identity;
#[cfg(unix)]
mod reap;
mod source;
mod stop;

use std::fmt;
use std::io;
use std::num::NonZeroU32;

pub(crate) use self::source::{Source, reap_events_unsupported};
use crate::error::{OpenError, action_error, wait_error};
use crate::exit::Exit;
use crate::identity::{IdentityKey, KeyKind, ProcessIdentity};
use crate::mechanism::Mechanism;
use crate::poller::Outcome;
use crate::sys::{self, Opened, Probe};
use crate::wait_state::{Until, WaitState};

/// Waits for the process `pid` to exit, whether or not it is a child of this process.
///
/// This call opens the process, not the first poll. If the pid is recycled afterwards, the wait is still
/// for the opened process ([polling](crate::how_it_works#polling) has exceptions). The call works outside
/// a runtime.
///
/// An error is returned when the future is awaited. [`ProcessExit::open`] returns the error at once, and
/// lists all errors.
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
/// // This process is still running, so the timeout elapses.
/// let pid = std::process::id();
/// let elapsed = timeout(Duration::from_millis(20), exit_of(pid)).await;
/// assert!(elapsed.is_err());
///
/// let error = exit_of(0).await.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// # }
/// ```
pub fn exit_of(pid: u32) -> ProcessExit {
    ProcessExit::from_opened(NonZeroU32::new(pid), sys::Process::open(pid))
}

/// A future that resolves when a process exits. Returned by [`exit_of`].
///
/// The future neither signals nor reaps the process, not even when it is dropped.
///
/// A resolved future can be awaited again and returns the same [`Exit`]. In a `select!` loop it would
/// therefore resolve in each round. Guard it by [`is_terminated`](ProcessExit::is_terminated).
///
/// # Errors
///
/// Awaiting returns the error that [`open`](ProcessExit::open) would have returned. Two errors do not
/// end the wait, and the future can be awaited again:
///
/// - The runtime is shutting down. Await the future in another runtime.
/// - The process is [polled](Mechanism::Polling), the system refuses a thread for the poller, and the
///   runtime has no timers. This error is returned at most once a second (see
///   [How it works](crate::how_it_works#without-a-thread)).
///
/// # Panics
///
/// On Unix, awaiting panics outside a tokio runtime, and in a runtime without I/O enabled, unless the
/// process is [polled](Mechanism::Polling). tokio does not report without a panic whether I/O is enabled.
/// Enable it by [`Builder::enable_io`](tokio::runtime::Builder::enable_io). If you cannot, call
/// [`blocking_wait`](ProcessExit::blocking_wait) in [`spawn_blocking`](tokio::task::spawn_blocking).
///
/// # When it resolves
///
/// The first poll registers the process and queries it once. So does the first poll in another runtime,
/// unless the process is [polled](Mechanism::Polling). Therefore an expired `timeout`, a biased `select!`
/// and `now_or_never` return an exit that has already happened, unless the task has exhausted
/// [tokio's budget](tokio::task::coop). Later exits are reported through the reactor: a poll may be
/// pending for some time after the exit. [`try_wait`](ProcessExit::try_wait) queries the process at once.
///
/// # Cancel safety
///
/// Dropping the future loses and leaks nothing. A future that was polled by `&mut` can be polled
/// again later, from another task or in another runtime.
///
/// # Fork
///
/// A forked child shares the reactor's descriptor with its parent, as with every tokio resource. If the
/// child drops its copy of a registered future, the parent's wait is deregistered too and never
/// resolves. Only [`try_wait`](ProcessExit::try_wait) still returns the exit. So call `execve` right
/// after `fork`, as [`std::process::Command`] does, or fork before the runtime is built.
///
/// # Examples
///
/// ```
/// # #![cfg_attr(not(unix), allow(unused_imports))]
/// use std::time::Duration;
/// use tokio::time::timeout;
///
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut child = std::process::Command::new("sh").args(["-c", "exit 0"]).spawn()?;
/// let mut process = tokio_process_exit::exit_of(child.id());
/// while timeout(Duration::from_secs(1), &mut process).await.is_err() {
///     println!("still running");
/// }
/// println!("{}", process.await?);
/// # child.wait()?;
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct ProcessExit {
    pid: Option<NonZeroU32>,
    wait: WaitState,
    source: Source,
}

/// The parts of a [`ProcessExit`].
pub(crate) struct Parts {
    pub(crate) pid: Option<NonZeroU32>,
    pub(crate) wait: WaitState,
    pub(crate) source: Source,
}

impl ProcessExit {
    pub(crate) fn from_opened(
        pid: Option<NonZeroU32>,
        opened: Result<Opened<sys::Process>, OpenError>,
    ) -> ProcessExit {
        let wait = WaitState::new(Until::Exit);
        let source = match opened {
            Ok(opened) => Source::opened(pid, opened, &wait),
            Err(error) => Source::Failed(error),
        };
        ProcessExit { pid, wait, source }
    }

    pub(crate) fn into_parts(mut self) -> Parts {
        self.stop_waiting();
        Parts {
            pid: self.pid,
            wait: self.wait,
            source: self.source,
        }
    }

    /// Opens the process `pid` to wait for its exit, whether or not it is a child of this process.
    ///
    /// A zombie, which has exited but has not been reaped, can be opened too. On Unix, so can any user's
    /// process. A process can also open itself, but that wait never resolves.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): `pid` is 0 or above [`i32::MAX`], or it is the
    ///   id of a thread that does not lead its process (the message names the process);
    /// - [`NotFound`](io::ErrorKind::NotFound): no process has this pid;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): Windows does not permit waiting for
    ///   the process;
    /// - any other error: the system has no means left to wait for a process.
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
        let process = exit_of(pid);
        match process.source {
            Source::Failed(error) => Err(error.to_io_error(process.pid)),
            _ => Ok(process),
        }
    }

    /// Opens the process `pid`, as [`open`](ProcessExit::open) does. `None` if no process has this pid.
    ///
    /// For a caller to whom a process that is already gone is not a failure. A zombie is still there: it is
    /// opened, and its wait resolves at once.
    ///
    /// # Errors
    ///
    /// The other errors of [`open`](ProcessExit::open).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tokio_process_exit::ProcessExit;
    ///
    /// assert!(ProcessExit::find(std::process::id())?.is_some());
    /// assert!(ProcessExit::find(i32::MAX as u32)?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn find(pid: u32) -> io::Result<Option<ProcessExit>> {
        found(ProcessExit::open(pid))
    }

    /// Returns the pid that the process was opened with.
    ///
    /// `None` if the process has no pid here: it was adopted after its reap, or it is outside our pid
    /// namespace.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(tokio_process_exit::exit_of(1234).pid(), Some(1234));
    /// ```
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(NonZeroU32::get)
    }

    /// Returns the identity of the process, which can be stored and opened later.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has exited, and the system no longer reports
    ///   its identity. Call this while the process is running;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the system does not report the identity at all (Linux
    ///   needs `/proc`), or the process has no pid here;
    /// - the error of opening the process.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(any(target_os = "linux", windows))]
    /// # fn main() -> std::io::Result<()> {
    /// # // An emulator's /proc does not show this process as it is.
    /// # if cfg!(tokio_process_exit_force_poll) { return Ok(()); }
    /// let process = tokio_process_exit::exit_of(std::process::id());
    /// println!("{}", process.identity()?); // 1234 inode=5678 pidns=4026531836 boot=2b8b8fd1-…
    /// # Ok(())
    /// # }
    /// # #[cfg(not(any(target_os = "linux", windows)))]
    /// # fn main() {}
    /// ```
    pub fn identity(&self) -> io::Result<ProcessIdentity> {
        if let Source::Failed(error) = &self.source {
            return Err(error.to_io_error(self.pid));
        }
        let Some(pid) = self.pid else {
            let reason = "the process has no pid here";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        };
        let key = self.identity_key(None);
        let identity = key.and_then(|key| {
            let origin = sys::origin(key.kind)?;
            Ok(ProcessIdentity { pid, key, origin })
        });
        identity.map_err(|error| action_error("identify", self.pid, &error))
    }

    /// Returns the identity key of this kind, or of the most precise kind that the system has.
    fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match &self.source {
            Source::Failed(error) => Err(error.to_io_error(self.pid)),
            Source::WithEvents(process) => process.identity_key(kind),
            Source::Polled(source) => source.probe().identity_key(kind),
        }
    }

    /// Calls one of two functions with the process. Returns `NotFound` if the wait is resolved.
    pub(crate) fn with_process(
        &self,
        action: &str,
        with_process: impl FnOnce(&sys::Process) -> io::Result<()>,
        with_probe: impl FnOnce(&Probe) -> io::Result<()>,
    ) -> io::Result<()> {
        let result = match &self.source {
            Source::Failed(error) => return Err(error.to_io_error(self.pid)),
            _ if self.wait.resolved => Err(io::ErrorKind::NotFound.into()),
            Source::WithEvents(process) => with_process(process),
            Source::Polled(source) => with_probe(source.probe()),
        };
        result.map_err(|error| action_error(action, self.pid, &error))
    }

    /// Returns how the crate notices the exit. `None` if the process could not be opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::exit_of;
    ///
    /// let process = exit_of(std::process::id());
    /// println!("{:?}", process.mechanism()); // Some(PidFd), on Linux
    /// # assert!(process.mechanism().is_some());
    /// assert_eq!(exit_of(0).mechanism(), None);
    /// ```
    pub fn mechanism(&self) -> Option<Mechanism> {
        match &self.source {
            Source::Failed(_) => None,
            Source::WithEvents(_) => Some(sys::Process::MECHANISM),
            Source::Polled(_) => Some(Mechanism::Polling),
        }
    }

    /// Returns the reason why the process is polled. `None` if the process is not polled.
    ///
    /// Polling is not an error. The exit is only noticed later, at some CPU cost (see
    /// [How it works](crate::how_it_works#polling)). If the reason is a lack of descriptors, the wait
    /// goes back to events once the system grants descriptors again.
    ///
    /// # Examples
    ///
    /// ```
    /// let pid = std::process::id();
    /// let process = tokio_process_exit::exit_of(pid);
    /// if let Some(reason) = process.fallback_reason() {
    ///     eprintln!("process {pid} is polled: {reason}");
    /// }
    /// ```
    pub fn fallback_reason(&self) -> Option<&io::Error> {
        match &self.source {
            Source::Polled(source) => Some(&source.reason),
            _ => None,
        }
    }

    /// Queries whether the process has exited, without blocking. Works outside a runtime.
    ///
    /// # Errors
    ///
    /// The errors of awaiting.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let mut process = tokio_process_exit::exit_of(std::process::id());
    /// assert_eq!(process.try_wait()?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        if let Source::Failed(error) = &self.source {
            return Err(error.to_io_error(self.pid));
        }
        if !self.wait.resolved {
            let outcome = match &mut self.source {
                Source::Polled(source) => source.try_outcome(),
                _ => None,
            };
            let result = match outcome {
                None => self.refresh(),
                Some(outcome) => self.handle_outcome(outcome).and_then(|()| self.refresh()),
            };
            result.map_err(|error| wait_error(self.pid, &error))?;
        }
        Ok(self.exit())
    }

    /// Queries the process and records its state, unless the wait is resolved.
    fn refresh(&mut self) -> io::Result<()> {
        match &self.source {
            _ if self.wait.resolved => {}
            Source::Failed(_) => {}
            Source::WithEvents(process) => {
                let state = process.state()?;
                self.update(state);
            }
            Source::Polled(source) => {
                if source.polled.query()? {
                    self.handle_outcome(Outcome::Resolved)?;
                }
            }
        }
        Ok(())
    }

    /// Returns whether awaiting has returned its final result: the exit, or the error of opening the
    /// process.
    ///
    /// # Examples
    ///
    /// A guard for a `select!` loop that goes on after the exit:
    ///
    /// ```
    /// # async fn serve(pid: u32, mut messages: tokio::sync::mpsc::Receiver<String>) {
    /// let mut process = tokio_process_exit::exit_of(pid);
    /// loop {
    ///     tokio::select! {
    ///         exit = &mut process, if !process.is_terminated() => println!("{exit:?}"),
    ///         Some(message) = messages.recv() => println!("{message}"),
    ///         else => break,
    ///     }
    /// }
    /// # }
    /// ```
    pub fn is_terminated(&self) -> bool {
        self.wait.terminated
    }

    /// Waits until the process has been reaped, instead of until it has exited.
    ///
    /// A process is reaped when its parent collects its exit status. The pid is free from then on. On
    /// Linux 6.15 and later, everybody in the pid namespace can then read the exit status.
    ///
    /// The parent may never reap the process, so add a timeout unless you control the parent. If this
    /// process is the parent, another task must reap the child.
    ///
    /// # Platforms
    ///
    /// Linux 6.9 and later reports the reap. On older Linux and other Unix systems, the process is
    /// [polled](Mechanism::Polling) from its exit on. Windows has no zombies: a pid is released when
    /// its last handle closes, so this resolves at the exit.
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
    /// let process = ProcessExit::open(child.id().unwrap())?.until_reaped();
    /// child.wait().await?; // reaps the child
    /// process.await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn until_reaped(mut self) -> ProcessExit {
        self.stop_waiting();
        self.wait.restart(Until::Reap);
        if let Source::Polled(source) = &mut self.source {
            source.polled.wait_until_reaped();
        }
        self
    }

    /// Returns the exit if the wait is resolved.
    fn exit(&self) -> Option<Exit> {
        let exit = Exit::new(self.pid, self.wait.status);
        self.wait.resolved.then_some(exit)
    }

    #[allow(dead_code, reason = "not every system has descriptors to lend")]
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

/// Converts the error of a process that is gone to `None`.
fn found(opened: io::Result<ProcessExit>) -> io::Result<Option<ProcessExit>> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

impl fmt::Debug for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ProcessExit");
        debug
            .field("pid", &self.pid())
            .field("until", &self.wait.until);
        match &self.source {
            Source::Failed(error) => debug.field("error", error),
            Source::WithEvents(_) => debug.field("mechanism", &sys::Process::MECHANISM),
            Source::Polled(source) => debug
                .field("mechanism", &Mechanism::Polling)
                .field("reason", &source.reason),
        };
        if let Some(exit) = self.exit() {
            debug.field("exit", &exit);
        }
        debug.finish()
    }
}
