//! Unix: signals.

use std::io;

use crate::exit::Exit;
use crate::exit_set::ExitSet;
use crate::process_exit::ProcessExit;
use crate::sys::{Probe, Process, Registration};

impl ProcessExit {
    /// Sends a signal to the process, such as `libc::SIGTERM`. Unix only.
    ///
    /// On Linux, [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
    /// never signals another process that has got the pid. Other systems check that the process has not
    /// exited, and call `kill(2)` at once. A small race remains there: between these two system calls, the
    /// process would have to exit and be reaped, and its pid be recycled. On Linux this only happens for a
    /// [polled](crate::Mechanism::Polling) process, and only if descriptors have run out, `/proc` does not
    /// show the process, or `pidfd_send_signal` is refused.
    ///
    /// Signal 0 sends nothing. It checks whether a signal could be sent.
    ///
    /// Some signals have different numbers on different systems. These crates have the numbers:
    ///
    /// | crate | number |
    /// |---|---|
    /// | `libc` | `libc::SIGTERM` |
    /// | `nix` | `nix::sys::signal::Signal::SIGTERM as i32` |
    /// | `rustix` | `rustix::process::Signal::TERM.as_raw()` |
    /// | `tokio` with the feature `signal` | `tokio::signal::unix::SignalKind::terminate().as_raw_value()` |
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has exited, whether or not it has been
    ///   reaped;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): the process is another user's;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the process is polled, and the system does not
    ///   show whether the process still has its pid (see [How it works](crate::how_it_works#polling));
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): there is no such signal, or, on Linux, the
    ///   process is outside our pid namespace;
    /// - the error of opening the process.
    ///
    /// # Examples
    ///
    /// Terminate a process, and kill it if it has not exited after five seconds:
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    /// use tokio::time::timeout;
    /// use tokio_process_exit::{Exit, ProcessExit};
    ///
    /// async fn stop(pid: u32) -> io::Result<Exit> {
    ///     let mut process = ProcessExit::open(pid)?;
    ///     for signal in [libc::SIGTERM, libc::SIGKILL] {
    ///         match process.signal(signal) {
    ///             // The process has exited in the meantime.
    ///             Err(error) if error.kind() == io::ErrorKind::NotFound => {}
    ///             result => result?,
    ///         }
    ///         if let Ok(exit) = timeout(Duration::from_secs(5), &mut process).await {
    ///             return exit;
    ///         }
    ///     }
    ///     process.await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> io::Result<()> {
    /// let child = std::process::Command::new("sleep").arg("60").spawn()?;
    /// let exit = stop(child.id()).await?;
    /// # if !cfg!(tokio_process_exit_force_poll) {
    /// assert!(exit.to_string().ends_with("exited with signal: 15 (SIGTERM)"));
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let with_process = |process: &Process| process.signal(signal);
        let with_probe = |probe: &Probe| probe.signal(signal);
        self.with_process("signal", with_process, with_probe)
    }

    /// Collects the exit status of our own child, as `waitpid(2)` with `WNOHANG` does. Unix only.
    ///
    /// Nothing else in this crate reaps. This is for a subreaper or pid 1, which gets children that it has
    /// not spawned. Do not call this for a child that another part of the program waits for, such as a
    /// `Child` of std or tokio: its owner would lose the status.
    ///
    /// `None`: the child is running, or it cannot be collected yet because another process traces it. The
    /// exit resolves the wait, also a wait [`until_reaped`](ProcessExit::until_reaped). Its status is always
    /// known. Other waits for the child may have no status, so reap after they have resolved. The pid is
    /// free from the reap on.
    ///
    /// # Platforms
    ///
    /// On Linux, a pidfd names the child (Linux 5.4). Without a pidfd, the child is reaped by its pid,
    /// right after a check that the child still has this pid. On macOS and the BSDs, this check cannot
    /// distinguish the child from a later child with its pid once both have exited. So nobody else in the
    /// program may reap the child there.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process is not our child, or has already been reaped,
    ///   also by this call. If `SIGCHLD` is ignored, the kernel reaps children itself;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the system does not show whether the child still has
    ///   its pid. This is so on every Unix but Linux, macOS and the BSDs;
    /// - the error of opening the process.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn()?;
    /// let mut process = ProcessExit::open(child.id())?;
    /// (&mut process).await?;
    /// let exit = process.reap()?.expect("the child has exited");
    /// assert_eq!(exit.status().unwrap().code(), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reap(&mut self) -> io::Result<Option<Exit>> {
        self.reap_child()
    }
}

impl ExitSet {
    /// Sends a signal to a process in the set, as [`ProcessExit::signal`] does. Unix only.
    ///
    /// # Errors
    ///
    /// The errors of [`ProcessExit::signal`]. [`NotFound`](io::ErrorKind::NotFound) also if no process
    /// in the set has this pid.
    ///
    /// # Examples
    ///
    /// Terminate all processes, and kill those that have not exited after five seconds:
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
    ///                 // The process has exited in the meantime.
    ///                 Err(error) if error.kind() == io::ErrorKind::NotFound => {}
    ///                 result => result?,
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
        let with_registration = |registration: &Registration| registration.signal(signal);
        let with_probe = |probe: &Probe| probe.signal(signal);
        self.with_process(pid, "signal", with_registration, with_probe)
    }
}
