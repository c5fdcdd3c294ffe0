//! Signals (Unix) and termination (Windows) for the processes of a map.

use std::hash::Hash;
use std::io;

use crate::exit_map::ExitMap;
use crate::sys::{Probe, Registration};

impl<K: Clone + Eq + Hash> ExitMap<K> {
    /// Sends a signal to the process under this key, as
    /// [`ProcessExit::signal`](crate::ProcessExit::signal) does. Unix only.
    ///
    /// # Errors
    ///
    /// The errors of [`ProcessExit::signal`](crate::ProcessExit::signal).
    /// [`NotFound`](io::ErrorKind::NotFound) also if no process in the map has this key.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::ExitMap;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let mut map = ExitMap::new();
    /// map.insert("sleep", std::process::Command::new("sleep").arg("60").spawn()?.id())?;
    /// map.signal(&"sleep", libc::SIGTERM)?;
    /// let (key, exit) = map.next_exit().await.unwrap();
    /// println!("{key}: {}", exit?);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(unix)]
    pub fn signal(&mut self, key: &K, signal: i32) -> io::Result<()> {
        let with_registration = |registration: &Registration| registration.signal(signal);
        let with_probe = |probe: &Probe| probe.signal(signal);
        self.with_process(key, "signal", with_registration, with_probe)
    }

    /// Terminates the process under this key, as
    /// [`ProcessExit::terminate`](crate::ProcessExit::terminate) does. Windows only.
    ///
    /// # Errors
    ///
    /// The errors of [`ProcessExit::terminate`](crate::ProcessExit::terminate).
    /// [`NotFound`](io::ErrorKind::NotFound) also if no process in the map has this key.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let child = std::process::Command::new("cmd")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let mut map = tokio_process_exit::ExitMap::new();
    /// map.insert("cmd", child.id())?;
    /// map.terminate(&"cmd", 1)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(windows)]
    pub fn terminate(&mut self, key: &K, exit_code: u32) -> io::Result<()> {
        let with_registration = |registration: &Registration| registration.terminate(exit_code);
        let with_probe = |probe: &Probe| probe.terminate(exit_code);
        self.with_process(key, "terminate", with_registration, with_probe)
    }
}
