//! Waiting for a job object.

mod error;
mod stop;
mod wait;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::FusedFuture;

use self::wait::{Waiting, is_empty};
use crate::empty_wait::{EmptyWait, State};
use crate::sys::Job;

/// A future that resolves when no process of a job object is alive. Windows only.
///
/// Create it from a handle of the job, by `JobExit::try_from`. The processes of the jobs below (nested jobs)
/// count too. [Groups](crate::groups) compares this with the other waits.
///
/// The system counts the processes of the job, and the wait resolves once that number is 0. So the wait is exact,
/// also for grandchildren and for processes that start others at any speed. A process cannot leave its job.
///
/// The wait has no thread of its own and costs no busy loop: the processes of the job are waited for as in an
/// [`ExitSet`](crate::ExitSet), at one handle each. When all of them have exited, the job is queried, and new
/// processes are waited for. A job can have any number of waits. The wait does not take the completion port of
/// the job, which its owner may use, and does not depend on its messages: the system does not guarantee that it
/// delivers them.
///
/// A job without a process resolves at once. So assign a process to the job before you await it. A resolved
/// future can be awaited again, and stays resolved, even if processes are assigned to the job later. Guard it by
/// [`is_terminated`](JobExit::is_terminated) in a `select!` loop.
///
/// The `JobExit` owns the handle. With `JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE`, the system kills the processes when
/// the last handle of the job is closed. So keep another handle if they are to outlive the `JobExit`.
///
/// # Errors
///
/// The errors of the system calls that query the job. The two errors of
/// [`ExitSet::next_exit`](crate::ExitSet::next_exit) that leave all processes in the set are possible too. The
/// future can be awaited again after each.
///
/// If no process of the job can be opened, the job is queried at intervals of up to 40 ms, by the timer of the
/// runtime. If the runtime has no timers either, awaiting returns an error at most once a second.
///
/// # Panics
///
/// Never.
///
/// # Cancel safety
///
/// Dropping the future loses nothing. A future that was polled by `&mut` can be polled again later, from
/// another task or in another runtime.
///
/// # Examples
///
/// ```no_run
/// use std::os::windows::io::OwnedHandle;
/// use tokio_process_exit::JobExit;
///
/// // `job` is a handle from `CreateJobObjectW`.
/// async fn wait(job: OwnedHandle) -> std::io::Result<()> {
///     JobExit::try_from(job)?.await?;
///     println!("no process of the job is alive");
///     Ok(())
/// }
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct JobExit {
    wait: EmptyWait<Waiting, Infallible>,
    job: Job,
}

/// Adopts a handle of a job object, to wait until no process of the job is alive. Windows only.
///
/// This opens the processes that are in the job now. It works outside a runtime.
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for a handle that is not a handle of a job object, or that lacks
/// the right `JOB_OBJECT_QUERY`. The handle is closed.
impl TryFrom<OwnedHandle> for JobExit {
    type Error = io::Error;

    fn try_from(handle: OwnedHandle) -> io::Result<JobExit> {
        let job = Job::adopt(handle)?;
        let wait = EmptyWait::new(Ok(Waiting::open(&job)));
        Ok(JobExit { wait, job })
    }
}

impl JobExit {
    /// Terminates all processes of the job at once, with this exit code.
    ///
    /// The processes cannot clean up. Those in the jobs below are terminated too, and so is this process if it is
    /// in the job. Needs the right `JOB_OBJECT_TERMINATE`.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): no process of the job is alive;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): the handle lacks the right.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn terminate(job: tokio_process_exit::JobExit) -> std::io::Result<()> {
    /// job.terminate(1)?;
    /// job.await
    /// # }
    /// ```
    pub fn terminate(&self, exit_code: u32) -> io::Result<()> {
        let result = match is_empty(&self.job)? {
            true => Err(io::ErrorKind::NotFound.into()),
            false => self.job.terminate(exit_code),
        };
        result.map_err(|error| error::action_error("terminate", &error))
    }

    /// Returns whether no process of the job is alive, without waiting. Works outside a runtime.
    ///
    /// # Errors
    ///
    /// The errors of the system calls that query the job.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn query(mut job: tokio_process_exit::JobExit) -> std::io::Result<()> {
    /// if job.try_wait()? {
    ///     println!("no process of the job is alive");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait(&mut self) -> io::Result<bool> {
        let job = &self.job;
        self.wait
            .try_wait(|_| is_empty(job), |never| match *never {})
    }

    /// Returns whether awaiting has returned its final result: no process is alive.
    pub fn is_terminated(&self) -> bool {
        self.wait.is_terminated
    }
}

impl Future for JobExit {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let job = &this.job;
        let poll_empty = |waiting: &mut Waiting, cx: &mut Context<'_>| waiting.poll(job, cx);
        this.wait.poll(cx, poll_empty, |never| match *never {})
    }
}

/// The future is terminated once it has returned that no process is alive.
impl FusedFuture for JobExit {
    fn is_terminated(&self) -> bool {
        JobExit::is_terminated(self)
    }
}

/// Lends the handle of the job.
impl AsHandle for JobExit {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.job.as_handle()
    }
}

impl fmt::Debug for JobExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("JobExit");
        debug.field("handle", &self.as_handle());
        match self.wait.state() {
            State::Failed(never) => match *never {},
            State::Waiting(waiting) => {
                debug.field("len", &waiting.len());
                debug.field("polled", &waiting.is_polled())
            }
            State::Empty => debug.field("empty", &true),
        };
        debug.finish()
    }
}
