//! Waiting for one process.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures_core::FusedFuture;

use tokio::runtime::Handle;
use tokio::task::coop;

use crate::error::{OpenError, action_error, wait_error};
use crate::exit::Exit;
use crate::identity::{Boot, IdentityKey, KeyKind, ParseProcessIdentityError, ProcessIdentity};
use crate::mechanism::{self, Mechanism};
use crate::poller::{Outcome, OutcomeQueue, Watch};
use crate::sys::{self, EventError, Opened, Probe, State};
use crate::wait_state::{Until, WaitState};

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
    ProcessExit::opened(NonZeroU32::new(pid), sys::Process::open(pid))
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
/// (see [`Builder::enable_io`](tokio::runtime::Builder::enable_io)), as every tokio resource. On
/// Windows it takes neither, as long as the wait is not [polled](Mechanism::Polling).
///
/// # When it resolves
///
/// The runtime's reactor tells of the exit, also of one that lies in the past, so the very first
/// poll seldom resolves. [`try_wait`](ProcessExit::try_wait) looks now.
///
/// # Cancel safety
///
/// Dropping it or timing out loses nothing and leaks nothing. Polled by `&mut`, it may be polled
/// again later, from another task or in another runtime.
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
/// let mut exit = tokio_process_exit::exit_of(child.id());
/// while timeout(Duration::from_secs(1), &mut exit).await.is_err() {
///     println!("still running");
/// }
/// println!("{}", exit.await?);
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

/// What a [`ProcessExit`] is made of.
pub(crate) struct Parts {
    pub(crate) pid: Option<NonZeroU32>,
    pub(crate) wait: WaitState,
    pub(crate) source: Source,
}

/// Where a [`ProcessExit`] learns of the exit.
pub(crate) enum Source {
    /// Nowhere: opening failed.
    Failed(OpenError),
    /// The kernel wakes the reactor.
    Registered(sys::Process),
    /// The kernel has refused that.
    Polled(Box<Polled>),
}

impl Source {
    /// What no other process has, where that is known.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        match self {
            Source::Registered(process) => process.unique_id(),
            Source::Polled(polled) => polled.probe.unique_id(),
            Source::Failed(_) => None,
        }
    }
}

/// A process that is polled.
pub(crate) struct Polled {
    probe: Arc<Probe>,
    /// While it is waited for.
    watch: Option<(Watch, Arc<OutcomeQueue>)>,
    reason: io::Error,
}

impl Polled {
    #[cold]
    fn new(pid: Option<NonZeroU32>, probe: Probe, reason: io::Error) -> Box<Polled> {
        mechanism::trace(pid, Mechanism::Polling, Some(&reason));
        Box::new(Polled {
            probe: Arc::new(probe),
            watch: None,
            reason,
        })
    }

    pub(crate) fn probe(&self) -> &Probe {
        &self.probe
    }

    pub(crate) fn into_probe(self) -> Arc<Probe> {
        self.probe
    }

    fn poll_outcome(
        &mut self,
        wait: &mut WaitState,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Outcome>> {
        let here = Handle::current().id();
        loop {
            let is_watched = matches!(&self.watch, Some((watch, _)) if watch.is_in(here));
            if !is_watched {
                // Looking once is quick, and spares those that have exited the poller.
                let coop = ready!(coop::poll_proceed(cx));
                wait.record_status(self.take_back());
                if let Some(state) = wait.update(self.probe.state()?) {
                    coop.made_progress();
                    return Poll::Ready(Ok(Outcome::Exited(state)));
                }
                // A new queue, so that nothing arrives from another runtime's poller any more.
                let queue = Arc::default();
                self.watch = Some((Watch::new(&self.probe, *wait, &queue, 0), queue));
            }
            let Some((_, queue)) = &self.watch else {
                continue;
            };
            let (_, outcome) = ready!(queue.poll_recv(cx));
            self.watch = None;
            match outcome {
                Outcome::Failed(error) => return Poll::Ready(Err(error)),
                // Its runtime has shut down, and we are in a later one.
                Outcome::PollerClosed(seen) if is_watched => wait.record_status(seen.status()),
                Outcome::PollerClosed(_) => return Poll::Ready(Err(poller_closed())),
                outcome => return Poll::Ready(Ok(outcome)),
            }
        }
    }

    /// What the poller has told and nobody has taken in.
    fn try_outcome(&mut self) -> Option<Outcome> {
        let (_, outcome) = self
            .watch
            .as_ref()
            .and_then(|(_, queue)| queue.try_recv())?;
        self.watch = None;
        Some(outcome)
    }

    /// Ends the watch, and returns the exit status if the poller has seen one.
    fn take_back(&mut self) -> Option<sys::Status> {
        let (watch, queue) = self.watch.take()?;
        match (watch.end(), queue.try_recv()) {
            (Some(wait), _) => wait.status(),
            (None, Some((_, Outcome::Exited(State::Exited { status, .. })))) => status,
            (None, Some((_, Outcome::PollerClosed(wait)))) => wait.status(),
            _ => None,
        }
    }
}

/// Why one is polled from its exit on.
pub(crate) fn reap_events_unsupported() -> io::Error {
    let reason = "this system tells of the exit, but not of the reap";
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

/// No poller can run.
pub(crate) fn poller_closed() -> io::Error {
    io::Error::other("the runtime is shutting down, or has no thread to poll on")
}

impl ProcessExit {
    fn new(pid: Option<NonZeroU32>, source: Source) -> ProcessExit {
        ProcessExit {
            pid,
            wait: WaitState::new(Until::Exit),
            source,
        }
    }

    pub(crate) fn opened(
        pid: Option<NonZeroU32>,
        opened: Result<Opened, OpenError>,
    ) -> ProcessExit {
        let source = match opened {
            Ok(Opened::Process(process)) => {
                mechanism::trace(pid, sys::Process::MECHANISM, None);
                Source::Registered(process)
            }
            Ok(Opened::Refused((probe, reason))) => Source::Polled(Polled::new(pid, probe, reason)),
            Err(error) => Source::Failed(error),
        };
        ProcessExit::new(pid, source)
    }

    #[cfg(feature = "process")]
    pub(crate) fn failed(pid: Option<NonZeroU32>, error: OpenError) -> ProcessExit {
        ProcessExit::new(pid, Source::Failed(error))
    }

    pub(crate) fn into_parts(mut self) -> Parts {
        self.stop_waiting();
        Parts {
            pid: self.pid,
            wait: self.wait,
            source: self.source,
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
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): Windows does not let us wait for it;
    /// - any other: the system has no means left to watch a process.
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
        exit_of(pid).or_error()
    }

    /// The error that awaiting would report, if opening has failed.
    pub(crate) fn or_error(self) -> io::Result<ProcessExit> {
        match self.source {
            Source::Failed(error) => Err(error.to_io_error(self.pid)),
            _ => Ok(self),
        }
    }

    /// Returns the pid that this was opened with.
    ///
    /// `None` for an adopted process that has no pid here: it had been reaped before it was adopted,
    /// or it lives outside our pid namespace.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(tokio_process_exit::exit_of(1234).pid(), Some(1234));
    /// ```
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(NonZeroU32::get)
    }

    /// Which process this is, told so that it can be written down and found again.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): it has been reaped, and the system does not show any
    ///   more what tells it from others. So ask as long as it runs;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the system does not show that at all (on Linux
    ///   it takes `/proc`), or the process has no pid here;
    /// - the error of opening it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(any(target_os = "linux", windows))]
    /// # fn main() -> std::io::Result<()> {
    /// # // Emulators make up what stands in /proc of ourselves.
    /// # if cfg!(tokio_process_exit_force_poll) { return Ok(()); }
    /// let me = tokio_process_exit::exit_of(std::process::id());
    /// println!("{}", me.identity()?); // 1234 inode=5678 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5
    /// # Ok(())
    /// # }
    /// # #[cfg(not(any(target_os = "linux", windows)))]
    /// # fn main() {}
    /// ```
    pub fn identity(&self) -> io::Result<ProcessIdentity> {
        match &self.source {
            Source::Failed(error) => Err(error.to_io_error(self.pid)),
            _ => match self.pid {
                Some(pid) => ProcessIdentity::of(self, pid)
                    .map_err(|error| action_error("identify", self.pid, &error)),
                None => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the process has no pid here",
                )),
            },
        }
    }

    /// Does something to the process, or fails with `NotFound` if it has exited.
    pub(crate) fn with_process(
        &self,
        what: &str,
        by_process: impl FnOnce(&sys::Process) -> io::Result<()>,
        by_probe: impl FnOnce(&Probe) -> io::Result<()>,
    ) -> io::Result<()> {
        let pid = self.pid;
        let done = match &self.source {
            Source::Failed(error) => return Err(error.to_io_error(pid)),
            _ if self.wait.resolved => Err(io::ErrorKind::NotFound.into()),
            Source::Registered(process) => by_process(process),
            Source::Polled(polled) => by_probe(&polled.probe),
        };
        done.map_err(|error| action_error(what, pid, &error))
    }

    /// Of this kind, or of the one that is best here.
    pub(crate) fn identity_key(&self, kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match &self.source {
            Source::Failed(error) => Err(error.to_io_error(self.pid)),
            Source::Registered(process) => process.identity_key(kind),
            Source::Polled(polled) => polled.probe.identity_key(kind),
        }
    }

    /// How the exit is noticed. `None` if opening failed: awaiting says why.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::exit_of;
    ///
    /// let exit = exit_of(std::process::id());
    /// println!("{:?}", exit.mechanism()); // Some(PidFd), on Linux
    /// # assert!(exit.mechanism().is_some());
    /// assert_eq!(exit_of(0).mechanism(), None);
    /// ```
    pub fn mechanism(&self) -> Option<Mechanism> {
        match &self.source {
            Source::Failed(_) => None,
            Source::Registered(_) => Some(sys::Process::MECHANISM),
            Source::Polled(_) => Some(Mechanism::Polling),
        }
    }

    /// Why the process is polled. `None` if it is not.
    ///
    /// That the system refuses us an event source is no error: the wait works all the same, if
    /// later and at some cost (see [the crate's page](crate#where-events-are-refused)). When it was
    /// for want of descriptors, the wait goes back to events once there are some.
    ///
    /// # Examples
    ///
    /// ```
    /// let process = tokio_process_exit::exit_of(std::process::id());
    /// if let Some(reason) = process.fallback_reason() {
    ///     eprintln!("process {:?} is polled: {reason}", process.pid());
    /// }
    /// ```
    pub fn fallback_reason(&self) -> Option<&io::Error> {
        match &self.source {
            Source::Polled(polled) => Some(&polled.reason),
            _ => None,
        }
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
    /// assert_eq!(exit.try_wait()?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        if !self.wait.resolved {
            if let Source::Polled(polled) = &mut self.source {
                match polled.try_outcome() {
                    Some(Outcome::Exited(state)) => self.update(state),
                    Some(Outcome::EventsAvailable(process)) => self.reopened(process),
                    Some(Outcome::Failed(error)) => return Err(wait_error(self.pid, &error)),
                    Some(Outcome::PollerClosed(seen)) => self.wait.record_status(seen.status()),
                    None => {}
                }
            }
        }
        if !self.wait.resolved {
            let state = match &self.source {
                Source::Failed(error) => return Err(error.to_io_error(self.pid)),
                Source::Registered(process) => process.state(),
                Source::Polled(polled) => polled.probe.state(),
            };
            self.update(state.map_err(|error| wait_error(self.pid, &error))?);
        }
        Ok(self.exit())
    }

    /// Waits until the process has been reaped, instead of until it has exited.
    ///
    /// A process is reaped when its parent collects its exit status. Only then its pid is free,
    /// and on Linux 6.15 and later everybody in the pid namespace can learn its exit status. Only
    /// Linux (6.9) has events for the reap. Elsewhere the process is [polled](Mechanism::Polling)
    /// from its exit on. On Windows there is no reap, and this resolves at the exit.
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
    /// let exit = ProcessExit::open(child.id().unwrap())?.until_reaped();
    /// child.wait().await?; // reaps
    /// exit.await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn until_reaped(mut self) -> ProcessExit {
        // A status that is known by now stays known.
        self.wait.until = Until::Reap;
        self.wait.resolved = false;
        self.wait.terminated = false;
        self.stop_waiting();
        self
    }

    /// What has come to be known, if it is what is waited for.
    fn exit(&self) -> Option<Exit> {
        self.wait.exited().map(|status| Exit::new(self.pid, status))
    }

    /// Takes in what was seen of the process.
    fn update(&mut self, state: State) {
        self.wait.update(state);
        match &self.source {
            // An event source is left when this is dropped: whoever waits is to run first.
            Source::Polled(_) if self.wait.resolved => self.stop_waiting(),
            // A zombie that we wait for to be reaped.
            Source::Registered(process)
                if !self.wait.resolved && state != State::Running && !process.has_reap_event() =>
            {
                self.fall_back(reap_events_unsupported());
            }
            _ => {}
        }
    }

    /// Goes on with polling, as the system refuses events for this reason.
    #[cold]
    fn fall_back(&mut self, reason: io::Error) {
        // The process moves out of the source and into the next, which takes a value in between.
        let between = Source::Failed(OpenError::NoSuchProcess);
        self.source = match mem::replace(&mut self.source, between) {
            Source::Registered(process) => {
                Source::Polled(Polled::new(self.pid, process.into_probe(), reason))
            }
            source => source,
        };
    }

    /// Goes back to events.
    fn reopened(&mut self, process: sys::Process) {
        mechanism::trace(self.pid, sys::Process::MECHANISM, None);
        self.source = Source::Registered(process);
    }

    /// Stops listening for what is not waited for any more.
    fn stop_waiting(&mut self) {
        match &mut self.source {
            Source::Failed(_) => {}
            Source::Registered(process) => process.deregister(),
            Source::Polled(polled) => {
                self.wait.record_status(polled.take_back());
            }
        }
    }
}

/// For the backends that adopt what was opened elsewhere, and lend what they wait on.
#[allow(dead_code, reason = "not every system has such a thing")]
impl ProcessExit {
    pub(crate) fn adopted(process: sys::Process, pid: Option<NonZeroU32>) -> ProcessExit {
        ProcessExit::opened(pid, Ok(Opened::Process(process)))
    }

    pub(crate) fn process(&self) -> Option<&sys::Process> {
        match &self.source {
            Source::Registered(process) => Some(process),
            _ => None,
        }
    }

    pub(crate) fn probe(&self) -> Option<&Probe> {
        match &self.source {
            Source::Polled(polled) => Some(&polled.probe),
            _ => None,
        }
    }
}

impl Future for ProcessExit {
    type Output = io::Result<Exit>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.wait.terminated {
            // A loop that goes on polling it must not keep others from running.
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        loop {
            if let Some(exit) = this.exit() {
                this.wait.terminated = true;
                return Poll::Ready(Ok(exit));
            }
            match &mut this.source {
                Source::Failed(error) => {
                    this.wait.terminated = true;
                    return Poll::Ready(Err(error.to_io_error(this.pid)));
                }
                Source::Registered(process) => match ready!(process.poll_event(cx)) {
                    Ok(state) => this.update(state),
                    Err(EventError::Refused(reason)) => this.fall_back(reason),
                    Err(EventError::Other(error)) => {
                        return Poll::Ready(Err(wait_error(this.pid, &error)));
                    }
                },
                Source::Polled(polled) => {
                    match ready!(polled.poll_outcome(&mut this.wait, cx))
                        .map_err(|error| wait_error(this.pid, &error))?
                    {
                        Outcome::Exited(state) => this.update(state),
                        Outcome::EventsAvailable(process) => this.reopened(process),
                        // `poll_outcome` has dealt with them.
                        Outcome::Failed(_) | Outcome::PollerClosed(_) => {}
                    }
                }
            }
        }
    }
}

impl ProcessIdentity {
    /// Of the process behind `exit`.
    fn of(exit: &ProcessExit, pid: NonZeroU32) -> io::Result<ProcessIdentity> {
        Ok(ProcessIdentity {
            pid,
            key: exit.identity_key(None)?,
            boot: this_boot()?,
        })
    }

    /// Opens this very process, to wait for its exit.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): that process is gone. Its pid may be another's;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the system does not tell whether the process that
    ///   has the pid is that one, as for an identity from another system;
    /// - for an identity by `inode`, the error by which a pidfd is refused;
    /// - as for [`ProcessExit::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #![cfg_attr(not(target_os = "linux"), allow(unused_imports))]
    /// # #[cfg(target_os = "linux")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let mut child = tokio::process::Command::new("cat")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let pid = child.id().unwrap();
    /// let identity = ProcessExit::open(pid)?.identity()?;
    /// assert_eq!(identity.open()?.pid(), Some(pid));
    ///
    /// child.wait().await?;
    /// let error = identity.open().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_os = "linux"))]
    /// # fn main() {}
    /// ```
    pub fn open(&self) -> io::Result<ProcessExit> {
        let failed = |error: OpenError| Err(error.to_io_error(Some(self.pid)));
        match this_boot() {
            Ok(boot) if boot == self.boot => {}
            Ok(Some(_)) if self.boot.is_some() => return failed(OpenError::EarlierBoot),
            Ok(_) => return failed(OpenError::Unproven),
            Err(error) => {
                let error = error.raw_os_error().map(OpenError::System);
                return failed(error.unwrap_or(OpenError::Unproven));
            }
        }
        // The mark is read of what has been opened, so it does not matter whose the pid is later on.
        let process = ProcessExit::open(self.pid.get())?;
        match process.identity_key(Some(self.key.kind)) {
            Ok(key) if key.is(self.key, sys::KEY_ROUNDING) => Ok(process),
            Ok(_) => failed(OpenError::AnotherProcess),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                failed(OpenError::NoSuchProcess)
            }
            Err(error) => {
                let refusal = process.fallback_reason().and_then(io::Error::raw_os_error);
                let refusal = error.raw_os_error().or(refusal);
                failed(refusal.map_or(OpenError::Unproven, OpenError::System))
            }
        }
    }
}

/// `None` where the system has no name for a boot.
fn this_boot() -> io::Result<Option<Boot>> {
    static BOOT: OnceLock<Option<Boot>> = OnceLock::new();
    if let Some(&boot) = BOOT.get() {
        return Ok(boot);
    }
    let boot = match sys::boot_id()? {
        Some(text) => Some(
            text.trim()
                .parse()
                .map_err(|ParseProcessIdentityError(())| {
                    io::Error::new(
                        io::ErrorKind::Unsupported,
                        format!("the system's boot id is no UUID: {}", text.trim()),
                    )
                })?,
        ),
        None => None,
    };
    Ok(*BOOT.get_or_init(|| boot))
}

/// Terminated once it has yielded its exit, or the reason why it could not be opened.
impl FusedFuture for ProcessExit {
    fn is_terminated(&self) -> bool {
        self.wait.terminated
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
            Source::Registered(_) => debug.field("mechanism", &sys::Process::MECHANISM),
            Source::Polled(polled) => debug
                .field("mechanism", &Mechanism::Polling)
                .field("reason", &polled.reason),
        };
        if let Some(exit) = self.exit() {
            debug.field("exit", &exit);
        }
        debug.finish()
    }
}
