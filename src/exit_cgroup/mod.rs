//! Waiting for a cgroup.

mod error;
mod stop;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_core::FusedFuture;

use self::error::{open_error, wait_error};
use crate::empty_wait::{EmptyWait, State};
use crate::poller::{LazyTimer, TaskPacer};
use crate::sys::{Cgroup, EventError, NoCgroup};

/// Waits until no process of a cgroup is alive. Linux only, cgroup v2.
///
/// The processes of the cgroups below count too. Zombies do not. This call opens the cgroup, not the first
/// poll. It works outside a runtime.
///
/// An error is returned when the future is awaited. [`CgroupExit::open`] returns the error at once, and lists
/// all errors.
///
/// # Examples
///
/// ```no_run
/// # async fn wait() -> std::io::Result<()> {
/// use tokio_process_exit::exit_of_cgroup;
///
/// exit_of_cgroup("/sys/fs/cgroup/system.slice/my.service").await?;
/// # Ok(())
/// # }
/// ```
pub fn exit_of_cgroup(path: impl AsRef<Path>) -> CgroupExit {
    let path = path.as_ref().to_owned();
    let wait = EmptyWait::new(Cgroup::open(&path).map(Waiting::new));
    CgroupExit { path, wait }
}

/// A future that resolves when no process of a cgroup is alive. Returned by [`exit_of_cgroup`]. Linux only,
/// cgroup v2.
///
/// The kernel counts the processes, and reports in `cgroup.events` whether any is alive (`populated`). So the
/// wait is exact, also for grandchildren, daemons and processes that fork at any speed. It takes two
/// descriptors, whatever the number of processes. [Groups](crate::groups) compares this with the other
/// waits, and shows how to start processes in a cgroup.
///
/// A cgroup without a process resolves at once. So start a process in the cgroup before you await it. If
/// the cgroup is removed, the wait resolves. The kernel drops the event of a cgroup that is removed within
/// 10 ms of another change, so the wait reads the file again 50 ms after each change. It needs timers for that (see
/// [`Builder::enable_time`](tokio::runtime::Builder::enable_time)).
///
/// A process that moves to another cgroup no longer counts. Threaded cgroups can be waited for.
///
/// A resolved future can be awaited again. Guard it by [`is_terminated`](CgroupExit::is_terminated) in a
/// `select!` loop.
///
/// # Errors
///
/// Awaiting returns the error that [`open`](CgroupExit::open) would have returned. An error of the runtime,
/// which is shutting down, does not end the wait, and the future can be awaited again.
///
/// If the reactor refuses the file, the file is read at intervals of up to 40 ms, by the timer of the runtime.
/// If the runtime has no timers either, awaiting returns an error at most once a second.
///
/// # Panics
///
/// As [`ProcessExit`](crate::ProcessExit#panics).
///
/// # Cancel safety
///
/// Dropping the future loses nothing. A future that was polled by `&mut` can be polled again later, from
/// another task or in another runtime.
#[must_use = "futures do nothing unless awaited"]
pub struct CgroupExit {
    path: PathBuf,
    wait: EmptyWait<Waiting, NoCgroup>,
}

/// The wait for a cgroup that may have living processes.
struct Waiting {
    cgroup: Cgroup,
    /// When the file is read without an event.
    ///
    /// The kernel delays a change that follows another within 10 ms, and drops it if the cgroup is removed
    /// before (`cgroup_file_notify` and `cgroup_rm_file` in kernel/cgroup/cgroup.c). So read the file once
    /// more, soon after each change.
    recheck: Option<Instant>,
    timer: LazyTimer,
    /// Present while the file is read at intervals, because the reactor has refused it.
    pacer: Option<TaskPacer>,
}

const RECHECK_DELAY: Duration = Duration::from_millis(50);

impl Waiting {
    fn new(cgroup: Cgroup) -> Waiting {
        Waiting {
            cgroup,
            recheck: Some(Instant::now() + RECHECK_DELAY),
            timer: LazyTimer::default(),
            pacer: None,
        }
    }

    /// Waits until no process is alive.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(pacer) = &mut self.pacer {
                ready!(pacer.poll_due(cx))?;
            }
            let started = Instant::now();
            match self.cgroup.poll_event(cx) {
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(true)) => self.recheck = Some(started + RECHECK_DELAY),
                // The file has been read. The next round tries again to register it.
                Poll::Ready(Err(EventError::Refused(_))) => {
                    let pacer = self.pacer.get_or_insert_default();
                    pacer.schedule(started, 1, 1);
                }
                Poll::Ready(Err(EventError::Other(error))) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.pacer = None;
                    let Some(recheck) = self.recheck else {
                        return Poll::Pending;
                    };
                    match self.timer.poll_until(recheck, cx) {
                        Some(elapsed) => ready!(elapsed),
                        None => return Poll::Pending,
                    }
                    self.recheck = None;
                    if !self.cgroup.is_populated()? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl CgroupExit {
    /// Opens a cgroup by the path of its directory, to wait until no process of it is alive.
    ///
    /// If another cgroup gets the path later, the wait is still for the opened cgroup.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): nothing has this path;
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): this is a file, an ordinary directory, a cgroup v1, or the
    ///   root of a cgroup v2 hierarchy. The message names which;
    /// - any other error of the system, for example if descriptors have run out.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::CgroupExit;
    ///
    /// let error = CgroupExit::open("/").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    /// ```
    pub fn open(path: impl AsRef<Path>) -> io::Result<CgroupExit> {
        let cgroup = exit_of_cgroup(path);
        match cgroup.wait.state() {
            State::Failed(error) => Err(open_error(&cgroup.path, *error)),
            _ => Ok(cgroup),
        }
    }

    /// Returns whether no process of the cgroup is alive, without waiting. Works outside a runtime.
    ///
    /// # Errors
    ///
    /// The errors of awaiting.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> std::io::Result<()> {
    /// let mut cgroup = tokio_process_exit::CgroupExit::open("/sys/fs/cgroup/my-jobs")?;
    /// if cgroup.try_wait()? {
    ///     println!("no process is alive");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait(&mut self) -> io::Result<bool> {
        let path = &self.path;
        let is_empty = |waiting: &mut Waiting| {
            let is_populated = waiting.cgroup.is_populated();
            let is_populated = is_populated.map_err(|error| wait_error(path, &error))?;
            Ok(!is_populated)
        };
        self.wait
            .try_wait(is_empty, |error| open_error(path, *error))
    }

    /// Returns whether awaiting has returned its final result: no process is alive, or the cgroup could not be
    /// opened.
    pub fn is_terminated(&self) -> bool {
        self.wait.is_terminated
    }
}

impl Future for CgroupExit {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let path = &this.path;
        let poll_empty = |waiting: &mut Waiting, cx: &mut Context<'_>| {
            let result = ready!(waiting.poll_empty(cx));
            Poll::Ready(result.map_err(|error| wait_error(path, &error)))
        };
        this.wait
            .poll(cx, poll_empty, |error| open_error(path, *error))
    }
}

/// The future is terminated once it has returned that no process is alive, or the error of opening the cgroup.
impl FusedFuture for CgroupExit {
    fn is_terminated(&self) -> bool {
        CgroupExit::is_terminated(self)
    }
}

impl fmt::Debug for CgroupExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CgroupExit");
        debug.field("path", &self.path);
        match self.wait.state() {
            State::Failed(error) => debug.field("error", error),
            State::Waiting(waiting) => debug.field("polled", &waiting.pacer.is_some()),
            State::Empty => debug.field("empty", &true),
        };
        debug.finish()
    }
}
