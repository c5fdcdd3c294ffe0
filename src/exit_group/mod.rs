//! Waiting for a process group.

mod error;
mod listing;
mod stop;
mod wait;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::FusedFuture;

use self::error::{OpenError, action_error};
use self::wait::Waiting;
use crate::empty_wait::{EmptyWait, State};

/// Waits until no process of the process group `pgid` is alive. Unix only.
///
/// Zombies do not count as alive. This call opens the processes that are in the group now, not the first
/// poll. It works outside a runtime.
///
/// An error is returned when the future is awaited. [`GroupExit::open`] returns the error at once, and lists
/// all errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use std::os::unix::process::CommandExt;
/// use std::process::Command;
/// use tokio_process_exit::exit_of_group;
///
/// // The shell exits before the process in the background.
/// let script = "sleep 0.1 &";
/// let mut shell = Command::new("sh").args(["-c", script]).process_group(0).spawn()?;
/// # // An emulator may start the child before it has set the group.
/// # unsafe { libc::setpgid(shell.id() as i32, 0) };
/// let group = exit_of_group(shell.id());
/// shell.wait()?;
/// group.await?;
/// # Ok(())
/// # }
/// ```
pub fn exit_of_group(pgid: u32) -> GroupExit {
    GroupExit {
        pgid,
        wait: EmptyWait::new(Waiting::open(pgid)),
    }
}

/// A future that resolves when no process of a process group is alive. Returned by [`exit_of_group`]. Unix
/// only.
///
/// The wait costs no busy loop: the processes of the group are waited for as in an
/// [`ExitSet`](crate::ExitSet), at one descriptor each on Linux. When all of them have exited, the group is
/// listed again, until nobody is alive. [Groups](crate::groups) compares this with the other waits.
///
/// A resolved future can be awaited again. Guard it by [`is_terminated`](GroupExit::is_terminated) in a
/// `select!` loop.
///
/// # What is certain
///
/// - The wait does not resolve while a known process of the group is alive and in the group.
/// - If no process is left, not even a zombie, `kill(2)` returns `ESRCH`. This is exact on Linux: the kernel
///   answers under the lock that `fork` takes. If a sandbox denies `kill(2)`, the lists decide here too.
/// - If zombies are left, the crate lists the processes of the group. A list is not a snapshot: members may fork
///   and exit while the list is read. On Linux the list is read in the order of the pids, each when its turn
///   has come, and twice. A chain of members that fork and exit cannot escape such a list, unless the kernel
///   starts again at low pids meanwhile, or pids are chosen (`clone3` with `set_tid`, `ns_last_pid`). The
///   crate recognizes a new start by the last pid (`/proc/sys/kernel/ns_last_pid`) if the two lists took less
///   time than the kernel needs to give out all pids. Otherwise the crate lists up to 16 times, and then trusts
///   the lists: a chain could have escaped if its pids started again in most of them. On macOS and the BSDs,
///   four lists must show nobody alive. There a chain that has a zombie beside it could escape.
/// - A process can join a group of zombies by `setpgid`, from another group of the session. Such a process
///   counts if it joins before the listing.
/// - A process that moves to another group (`setpgid`, `setsid`) is no longer waited for. No event reports
///   this. The crate checks at each exit of a member, and 0.1, 1, 10 and 60 seconds after the last exit, then
///   each minute. While the leader of the group is alive, whose pid is the number, it checks each minute only:
///   the leader cannot call `setsid`. The crate needs timers for that (see
///   [`Builder::enable_time`](tokio::runtime::Builder::enable_time)).
/// - The number of the group cannot be recycled as long as any process is in the group, even a zombie. If all
///   have gone, a new group can get the number. The crate recognizes it by its first process, whose pid is the
///   number. The new group is mistaken for the earlier group only if that first process has been reaped too.
///
/// # Platforms
///
/// Linux reads `/proc`. If `/proc` cannot be read, belongs to another pid namespace, or hides processes
/// (`hidepid=2`), and on "other Unix", only `kill(2)` is asked, at intervals of up to 40 ms. Zombies then
/// count as alive, and the wait resolves once they have been reaped. With `hidepid=1`, so do the zombies of
/// other users. If a sandbox denies `kill(2)` there, the wait never resolves.
///
/// # Errors
///
/// Awaiting returns the error that [`open`](GroupExit::open) would have returned. The two errors of
/// [`ExitSet::next_exit`](crate::ExitSet::next_exit) that leave all processes in the set do not end the wait,
/// and the future can be awaited again.
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
pub struct GroupExit {
    pgid: u32,
    wait: EmptyWait<Waiting, OpenError>,
}

impl GroupExit {
    /// Opens the process group `pgid`, to wait until no process of it is alive.
    ///
    /// A group of zombies can be opened: its wait resolves. The wait for the group of this process never
    /// resolves, because this process is alive.
    ///
    /// This call lists the processes of the system, in about 1 µs for each on Linux, and opens those in the group.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): `pgid` is 0 or above [`i32::MAX`];
    /// - [`NotFound`](io::ErrorKind::NotFound): no process is in the group, not even a zombie.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::GroupExit;
    ///
    /// let error = GroupExit::open(i32::MAX as u32).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn open(pgid: u32) -> io::Result<GroupExit> {
        let group = exit_of_group(pgid);
        match group.wait.state() {
            State::Failed(error) => Err(error.to_io_error(pgid)),
            _ => Ok(group),
        }
    }

    /// Sends a signal to all processes of the group, such as `SIGTERM` of the crate `libc`.
    ///
    /// Also reaches this process if it is in the group.
    ///
    /// The crate checks that a known process of the group is alive, and calls `kill(2)` at once. As long as that
    /// process is alive, the number is the group's. A small race remains: between the two system calls, all
    /// processes of the group would have to exit and be reaped, and another group get the number.
    ///
    /// Signal 0 sends nothing. It checks whether a signal could be sent.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the group is gone, or only zombies are left;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): you may not signal any process of the group. If
    ///   you may signal some, only these get the signal, without an error;
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): there is no such signal, or the group is 1, for which
    ///   `kill(2)` would signal all processes of the system;
    /// - the error of opening the group.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::os::unix::process::CommandExt;
    ///
    /// let mut child = std::process::Command::new("sleep").arg("60").process_group(0).spawn()?;
    /// # // An emulator may start the child before it has set the group.
    /// # unsafe { libc::setpgid(child.id() as i32, 0) };
    /// let group = tokio_process_exit::GroupExit::open(child.id())?;
    /// group.signal(libc::SIGTERM)?;
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match self.wait.state() {
            State::Failed(error) => Err(error.to_io_error(self.pgid)),
            State::Waiting(waiting) => waiting.signal(signal),
            State::Empty => {
                let gone = io::ErrorKind::NotFound.into();
                Err(action_error("signal", self.pgid, &gone))
            }
        }
    }

    /// Returns whether no process of the group is alive, without waiting. Works outside a runtime.
    ///
    /// Lists the processes of the system if all known processes of the group have exited.
    ///
    /// # Errors
    ///
    /// The errors of awaiting.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::os::unix::process::CommandExt;
    ///
    /// let mut child = std::process::Command::new("sleep").arg("60").process_group(0).spawn()?;
    /// # // An emulator may start the child before it has set the group.
    /// # unsafe { libc::setpgid(child.id() as i32, 0) };
    /// let mut group = tokio_process_exit::GroupExit::open(child.id())?;
    /// assert!(!group.try_wait()?);
    /// child.kill()?;
    /// child.wait()?;
    /// assert!(group.try_wait()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait(&mut self) -> io::Result<bool> {
        let open_error = |error: &OpenError| error.to_io_error(self.pgid);
        self.wait.try_wait(Waiting::try_gone, open_error)
    }

    /// Returns whether awaiting has returned its final result: the group is gone, or could not be opened.
    pub fn is_terminated(&self) -> bool {
        self.wait.is_terminated
    }
}

impl Future for GroupExit {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let open_error = |error: &OpenError| error.to_io_error(this.pgid);
        this.wait.poll(cx, Waiting::poll, open_error)
    }
}

/// The future is terminated once it has returned that the group is gone, or the error of opening it.
impl FusedFuture for GroupExit {
    fn is_terminated(&self) -> bool {
        GroupExit::is_terminated(self)
    }
}

impl fmt::Debug for GroupExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("GroupExit");
        debug.field("pgid", &self.pgid);
        match self.wait.state() {
            State::Failed(error) => debug.field("error", error),
            State::Waiting(waiting) => debug.field("known", &waiting.len()),
            State::Empty => debug.field("gone", &true),
        };
        debug.finish()
    }
}
