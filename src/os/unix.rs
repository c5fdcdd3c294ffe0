//! What a `ProcessExit` offers on Unix only.

use std::io;

use crate::exit_set::ExitSet;
use crate::process_exit::ProcessExit;
use crate::sys::{Probe, Process, Registration};

impl ProcessExit {
    /// Sends a signal to the process, such as `libc::SIGTERM`. Unix only.
    ///
    /// It goes to that very process, and never to another one that has got its pid: on Linux by
    /// [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html).
    /// Elsewhere, and where a process is [polled](crate::Mechanism::Polling), it is made sure that the process has not exited,
    /// and `kill(2)` follows at once. What remains of the race then is that the process exits, is
    /// reaped and has its pid given out again within that instant.
    ///
    /// Signal 0 sends nothing, and tells whether a signal could be sent.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has exited, reaped or not;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): it is another user's;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): it is polled, and without `/proc`, or in one of the
    ///   [cases](crate#where-events-are-refused) in which that does not tell processes apart;
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): there is no such signal; on Linux also, that the
    ///   process lives outside our pid namespace;
    /// - the error of opening it.
    ///
    /// # Examples
    ///
    /// To stop a process: ask, wait a while, insist.
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    /// use tokio::time::timeout;
    /// use tokio_process_exit::{Exit, ProcessExit};
    ///
    /// async fn stop(pid: u32) -> io::Result<Exit> {
    ///     let mut exit = ProcessExit::open(pid)?;
    ///     for signal in [libc::SIGTERM, libc::SIGKILL] {
    ///         match exit.signal(signal) {
    ///             Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
    ///             // If it has exited meanwhile, so much the better.
    ///             _ => {}
    ///         }
    ///         if let Ok(exit) = timeout(Duration::from_secs(5), &mut exit).await {
    ///             return exit;
    ///         }
    ///     }
    ///     exit.await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> io::Result<()> {
    /// let child = std::process::Command::new("sleep").arg("60").spawn()?;
    /// let exit = stop(child.id()).await?;
    /// # if !cfg!(tokio_process_exit_force_poll) {
    /// assert_eq!(exit.to_string(), format!("process {} exited with signal: 15 (SIGTERM)", exit.pid().unwrap()));
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let by_process = |process: &Process| process.signal(signal);
        self.with_process("signal", by_process, |probe: &Probe| probe.signal(signal))
    }
}

impl ExitSet {
    /// Sends a signal to a process in the set, as [`ProcessExit::signal`]: to that very process, and
    /// never to one that has got its pid. Unix only.
    ///
    /// # Errors
    ///
    /// As there. [`NotFound`](io::ErrorKind::NotFound) also if no process in the set has this pid.
    ///
    /// # Examples
    ///
    /// To stop many: ask all, wait a while, insist.
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    /// use tokio_process_exit::ExitSet;
    ///
    /// async fn stop(set: &mut ExitSet) -> io::Result<()> {
    ///     for signal in [libc::SIGTERM, libc::SIGKILL] {
    ///         let pids: Vec<u32> = set.pids().collect();
    ///         for pid in pids {
    ///             match set.signal(pid, signal) {
    ///                 Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
    ///                 _ => {}
    ///             }
    ///         }
    ///         set.exits_within(Duration::from_secs(5)).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> io::Result<()> {
    /// let mut set = ExitSet::new();
    /// for _ in 0..3 {
    ///     set.insert(std::process::Command::new("sleep").arg("60").spawn()?.id())?;
    /// }
    /// stop(&mut set).await?;
    /// assert!(set.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal(&mut self, pid: u32, signal: i32) -> io::Result<()> {
        let by_registration = |registration: &Registration| registration.signal(signal);
        self.with_process(pid, "signal", by_registration, |probe: &Probe| {
            probe.signal(signal)
        })
    }
}
