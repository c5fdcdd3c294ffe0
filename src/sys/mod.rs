//! What differs between systems, behind one shape.
//!
//! Each backend is a module with the same items; there is no trait, as only one of them is ever
//! compiled. The rest of the crate has no `cfg` of its own. A backend provides:
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
//!   - `disarm(&mut self)` takes that back; a later `poll_event` does it again.
//!   - `tells_the_reap(&self) -> bool`: whether there will be an event for the reap too.
//!   - `is_reaped(&self) -> bool`: whether its pid may be another's by now.
//!   - `identity(&self) -> Option<u64>`: what no other process has or will have, if there is such a
//!     thing.
//!   - `into_probe(self) -> Probe`, when events are refused or there are no more to come.
//! - `Probe`: what is left to look at a process by when there is no event source. It stands for
//!   that very process too, as far as the system lets us see.
//!   - `state(&self)`, `is_reaped(&self)` and `identity(&self)` as above. But two identities that
//!     differ may be of one process.
//!   - `reopen(&self) -> Reopened` tries again for an event source.
//! - `Group`: an event source for any number of processes, for [`ExitSet`](crate::ExitSet).
//!   - `open(&mut self, pid, key) -> Result<Result<Member, Probe>, OpenError>` opens a process as
//!     `Process::open` does, and takes it in; `add(&mut self, Process, key) -> Result<Member, Probe>`
//!     takes one in that is open. An earlier member with this pid must have told of its exit.
//!   - `remove(&mut self, Member)` takes out one that has not.
//!   - `poll_events(&mut self, cx, &mut events)` as above, for as many as come; `try_events` looks
//!     without waiting. An `Event` has the `key` of its member, and is the only one until
//!     `rearm(&self, &mut member, key, state)`.
//!   - `TELLS_ONCE`: whether these events are the only way to know that a member has exited. Then
//!     `Event::told` has what they tell.
//!   - `TELLS_LATE`: whether an exit may have happened that `try_events` does not tell of yet, but
//!     `Member::untold_event` does.
//!   - `reserve(&mut self, more)` makes room for so many.
//! - `Member`: a process in a group. Dropping the group releases everything.
//!   - `state_after(&self, &event) -> io::Result<State>` looks.
//!   - `is_reaped`, `identity`, `tells_the_reap` and `into_probe` as above, and `is(&self, &process)`: whether
//!     those two, of the same pid, are the same process.
//!   - `is_better_closed_at_once(&self) -> bool`: descriptors are scarce, or it takes none.
//! - `thread_cpu_time() -> Duration`: the processor time that this thread has taken.
//!
//! # Safety
//!
//! All of the crate's `unsafe` lives below this module, one operation to a block.

#![allow(unsafe_code)]

use std::io;

#[cfg(unix)]
mod posix;
#[cfg(unix)]
mod signal;
#[cfg(unix)]
mod wait_status;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::*;

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod kqueue;
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(crate) use kqueue::*;

// What follows from the answers of kqueue is tested everywhere.
#[cfg(all(
    test,
    not(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    ))
))]
#[path = "kqueue/decide.rs"]
mod kqueue_decide;

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod reactor;

#[cfg(all(
    unix,
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    ))
))]
mod unix;
#[cfg(all(
    unix,
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    ))
))]
pub(crate) use unix::*;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::*;

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
