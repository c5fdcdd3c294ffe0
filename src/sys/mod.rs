//! What differs between systems, behind one shape.
//!
//! Each backend is a module with the same items; there is no trait, as only one of them is ever
//! compiled. The rest of the crate has no `cfg` of its own. A backend provides:
//!
//! - `Status`: the raw exit status as the system tells it, `Copy + Eq + Hash + Debug`, with
//!   `exit_status(self) -> std::process::ExitStatus`.
//! - `Process`: an opened process. From `Process::open(pid)` on it stands for that very process,
//!   whatever becomes of the pid. Dropping it releases everything, in every state.
//!   - `MECHANISM`: how it learns of the exit.
//!   - `state(&self, pid) -> io::Result<State>` looks now, without blocking, anywhere.
//!   - `poll_event(&mut self, pid, cx) -> Poll<io::Result<State>>` resolves when there is
//!     something to look at, and has looked. It registers with the reactor of the current runtime
//!     at the first call. A wake-up is a hint: the state may still be [`State::Running`], and the
//!     caller polls again. An error leaves the process open and may be retried.
//!   - `disarm(&mut self)` takes it out of the reactor; a later `poll_event` puts it back.
//!
//! # Safety
//!
//! All of the crate's `unsafe` lives below this module, one operation to a block.

#![allow(unsafe_code)]

#[cfg(unix)]
mod reactor;
#[cfg(unix)]
mod wait_status;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::*;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod unsupported;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use unsupported::*;

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// At least one of its threads is alive.
    Running,
    /// All of its threads have exited.
    Exited {
        /// `None` where the system does not tell.
        status: Option<Status>,
        /// Whether its parent has collected it, so that its pid is free.
        reaped: bool,
    },
}
