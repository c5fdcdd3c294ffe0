//! What differs between systems, behind one shape.
//!
//! Each backend is a module with the same items; there is no trait, as only one of them is ever
//! compiled. The rest of the crate has no `cfg` of its own.
//!
//! # How to add a platform
//!
//! A Unix works already, by polling with what POSIX has: `backend/mod.rs`. To do better:
//!
//! 1. Copy the backend that is nearest: `linux` if the system has a descriptor that stands for a
//!    process, `kqueue` if it tells of a pid's exit through some queue, `windows` if it calls back.
//!    Name its directory in the one list below, at `mod backend`, and in `Cargo.toml` what it links.
//! 2. Take over what is common: `posix` (`waitid`, signals), `child`, `wait_status`, and
//!    [`reactor`] for a descriptor in tokio's reactor.
//! 3. Go through the contract below, item by item. What the system cannot do has an honest answer
//!    each: `None` for a status, `false` for `has_reap_event`, `Unsupported` for a mark, and a
//!    `Probe` where events are refused. `no_events` is a backend without any.
//! 4. What follows from the system's answers belongs into pure functions of plain values, as
//!    `kqueue/semantics.rs`, with a table of answers that is tested on every system.
//! 5. Add the target to `.ci/cross-check`, and a [`Mechanism`](crate::Mechanism) if it is a new one.
//!    The tests that are not about one system should pass as they are; `tests/support` may need to
//!    know how the system shows zombies. Then the tables of the README and of the crate's page.
//!
//! # The contract
//!
//! `Process`, `Probe`, `Selector` and `Registration` are `Send`, `Sync` and `Unpin`. A backend provides:
//!
//! - `Status`: the raw exit status as the system tells it, `Copy + Eq + Hash + Debug`, with
//!   `exit_status(self) -> std::process::ExitStatus`.
//! - `Process`: an opened process. From `Process::open(pid) -> Result<Opened, OpenError>` on it
//!   stands for that very process, whatever becomes of the pid. Dropping it releases everything,
//!   in every state.
//!   - `MECHANISM`: how it learns of the exit.
//!   - `state(&self) -> io::Result<State>` looks now, without blocking, anywhere.
//!   - `poll_event(&mut self, cx) -> Poll<Result<State, EventError>>` resolves when there is
//!     something to look at, and has looked. It registers with the system (on Unix, with the reactor
//!     of the current runtime) at the first call. A wake-up is a hint: the state may still be
//!     [`State::Running`], and the caller polls again. An error leaves the process open.
//!   - `deregister(&mut self)` takes that back; a later `poll_event` does it again.
//!   - `has_reap_event(&self) -> bool`: whether there will be an event for the reap too.
//!   - `is_reaped(&self) -> bool`: whether its pid may be another's by now.
//!   - `identity(&self) -> Option<u64>`: what no other process has or will have, if there is such a
//!     thing.
//!   - `identity_key(&self, kind) -> io::Result<IdentityKey>`: what tells it from all others, for
//!     [`ProcessIdentity`](crate::ProcessIdentity); of that kind, if the system has several. `NotFound` once that
//!     cannot be told any more.
//!   - on Unix `signal(&self, signal) -> io::Result<()>`, `NotFound` if it has exited.
//!   - `into_probe(self) -> Probe`, when events are refused or there are no more to come.
//! - `Probe`: what is left to look at a process by when there is no event source. It stands for
//!   that very process too, as far as the system lets us see.
//!   - `state(&self)`, `is_reaped(&self)`, `identity(&self)`, `identity_key(&self, kind)` and
//!     `signal(&self, signal)` as above. But two identities that differ may be of one process.
//!   - `reopen(&self) -> Reopened` tries again for an event source.
//! - `Selector`: an event source for any number of processes, for [`ExitSet`](crate::ExitSet).
//!   - `open(&mut self, pid, key) -> Result<Result<Registration, Refused>, OpenError>` opens a process as
//!     `Process::open` does, and takes it in; `add(&mut self, Process, key) -> Result<Registration, Refused>`
//!     takes one in that is open. An earlier member with this pid must have told of its exit.
//!   - `remove(&mut self, Registration)` takes out one that has not.
//!   - `poll_events(&mut self, cx, &mut events)` as above, for as many as come; `try_events` looks
//!     without waiting. An `Event` has the `key` of its registration, and is the only one until
//!     `rearm(&self, &mut registration, key, state)`.
//!   - `TELLS_ONCE`: whether these events are the only way to know that a member has exited. Then
//!     `Event::told` has what they tell.
//!   - `TELLS_LATE`: whether an exit may have happened that `try_events` does not tell of yet, but
//!     `Registration::untold_event` does.
//!   - `reserve(&mut self, more)` makes room for so many. `grow_fd_table(&mut self, size)` is told how
//!     many there are, after each that has come in.
//!   - `fds_are_scarce(&self) -> bool`: a member that has told is better closed at once, as descriptors
//!     are scarce, or as there is next to nothing to close.
//! - `Registration`: a process in a group, with `signal` as above. Dropping the group releases everything.
//!   - `state_after(&self, &event) -> io::Result<State>` looks.
//!   - `is_reaped`, `identity`, `has_reap_event` and `into_probe` as above, and `is(&self, &process)`: whether
//!     those two, of the same pid, are the same process.
//! - `open_child(&std::process::Child) -> Result<Opened, OpenError>`, `Collected` if its pid may be
//!   another's.
//! - `boot_id() -> io::Result<Option<String>>`: a UUID that changes with each boot, where there is
//!   one and marks do not go on through boots. `KEY_ROUNDING`: by how much two marks of one process
//!   may differ.
//! - `thread_cpu_time() -> Duration`: the processor time that this thread has taken.
//!
//! # Safety
//!
//! All of the crate's `unsafe` lives below this module, one operation to a block.

#![allow(unsafe_code)]

use std::io;

/// The backend of this system. Where no other is chosen it is `backend/mod.rs`: any Unix.
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "linux/mod.rs")]
#[cfg_attr(
    any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    ),
    path = "kqueue/mod.rs"
)]
#[cfg_attr(windows, path = "windows/mod.rs")]
#[cfg_attr(
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly",
        windows
    )),
    path = "other_unix/mod.rs"
)]
mod backend;
pub(crate) use backend::*;

// What backends have in common.
#[cfg(unix)]
mod unix;

// What follows from the answers of kqueue is tested everywhere.
#[cfg(test)]
#[allow(
    clippy::duplicate_mod,
    reason = "where it is the backend's, it is tested twice"
)]
#[path = "kqueue/semantics.rs"]
mod kqueue_semantics;

// And so is every order of a callback of Windows and the end of a wait.
#[cfg(all(test, tokio_process_exit_loom))]
#[path = "windows/callback_context.rs"]
mod windows_callback_context;

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

/// What is left of a process for which the system refuses an event source, and why it does.
pub(crate) type Refused = (Probe, io::Error);

/// What opening a process gives.
#[allow(dead_code, reason = "some systems always give the same")]
pub(crate) enum Opened {
    Process(Process),
    /// There is such a process, but the system refuses an event source for it.
    Refused(Refused),
}

/// Why a wait for an event failed.
#[allow(dead_code, reason = "where there are no events, no wait for one fails")]
pub(crate) enum EventError {
    /// The system refuses to register the event source.
    Refused(io::Error),
    /// The runtime is shutting down, or the process could not be looked at.
    Other(io::Error),
}
