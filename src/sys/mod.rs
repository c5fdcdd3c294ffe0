//! The system-specific part of the crate.
//!
//! Exactly one backend is compiled, so there is no trait: every backend has the same items. The
//! contract below lists them. CONTRIBUTING.md explains how to add a backend.
//!
//! # The contract
//!
//! - `Process` is an opened process with an event source. A `Process` refers to the same process even
//!   after the pid has been recycled. Dropping a `Process` releases all resources.
//!   - `MECHANISM`: how the exit is noticed.
//!   - `open(pid)` opens a process. `adopt(fd)`, on Linux and Windows, adopts a descriptor or a handle.
//!   - `state()` queries the process, without blocking and outside any runtime.
//!   - `poll_event(cx)` waits for an event and returns the state. The first call registers with the
//!     current runtime's reactor, and then queries the process: the reactor reports an earlier exit some
//!     time later. An event is a hint: the state may be [`State::Running`].
//!   - `deregister()` undoes the registration. The next `poll_event` registers again.
//!   - `wait_event(state, timeout)` blocks the calling thread, outside any runtime, until the event after
//!     this state or until the timeout is over. It may return early, and does not disturb a registration.
//!     The timeout is at most a day: no system takes every duration. An error means that the system
//!     refuses to wait.
//!   - `try_clone()` opens the same process again, without a registration.
//!   - `has_reap_event()`: whether `poll_event` also reports the reap.
//!   - `into_probe()` returns the process without its event source.
//! - `Probe` is a process without an event source, to be polled.
//!   - `state()` queries the process. `state_after(event)` returns the state after the last event of the
//!     registration from which the probe was made.
//!   - `reopen()` tries again to get an event source.
//! - `Process`, `Probe` and `Registration` have in common:
//!   - `is_reaped()`: whether the pid may belong to another process.
//!   - `unique_id()`: a number that no other process ever has, if the system has such numbers. A process
//!     and its probe may have different ids.
//!   - `signal(signal)` on Unix, `terminate(exit_code)` on Windows: `NotFound` after the exit.
//!   - `reap()`, on Unix, not of a `Registration`: reaps our own child without blocking, and returns its
//!     status. `None` before the exit, `NotFound` if the process is not our child or has been reaped. It
//!     returns an error unless the pid is certainly still the child's.
//!   - `identity_key(kind)`, not of a `Registration`: the identity key of this kind, or of the most
//!     precise kind. `NotFound` once the system no longer reports the key.
//! - `Selector` is an event source for any number of processes. Dropping it releases all resources.
//!   - `open(pid, key)` opens and registers a process. `register(process, key)` registers an open process.
//!     Drain the events before both calls: otherwise an exited process with the pid may still be
//!     registered.
//!     A process may be registered with several keys. If it has one event, the registrations after the
//!     first are refused.
//!   - `deregister(registration)` removes a process that may still have an event.
//!   - `poll_events(cx, events)` waits for events and appends them. It consumes tokio's coop budget:
//!     otherwise `exits_within` could not distinguish an exhausted budget from a lack of events. The
//!     first call after a registration, and the first call in a runtime, also find each earlier exit.
//!   - `try_events(registered, events)` does not wait. Where events are delivered some time after the exit,
//!     it queries `registered`.
//!   - A registration has one event. `reregister(registration, key, state)` allows another event.
//!   - `reserve(n)` makes room for `n` processes. `grow_fd_table(n)` is called after each insertion.
//! - `Registration` is a process in a selector.
//!   - `state_after(event)` returns the state after an event. `has_reap_event()` as above.
//!   - `is_same(process)`: whether a `Process` with the same pid is the same process.
//!   - `into_probe()` returns the process without its event source.
//!   - `close_all(registrations)` drops many at once.
//! - `Event` has the `key` of its registration.
//! - `Status` is a raw exit status, with `exit_status()`.
//! - `open_child(child)` opens a child of std, and returns `ChildReaped` if its pid may have been reused.
//! - `origin(kind)` returns the boot and the namespaces that identities of this kind record. The other
//!   systems than Linux share it: their `boot_id()` returns a UUID that changes with each boot, or `None` if
//!   identities do not record the boot. `has_exited_elsewhere(key, namespace)`: whether a process in another pid
//!   namespace has certainly exited.
//!   `KEY_ROUNDING` is the largest difference between two identity keys of one process.
//! - `GroupList`, on Unix, lists the members of a process group in passes. `start(group)` starts the first pass.
//!   `read(max)` reads at most `max` processes and returns whether the pass is complete. After a pass without
//!   a living member, `next_pass()` starts another, or returns `false` if the group has certainly none, as far as
//!   the system permits. `start` and `read` fail if the system does not show all processes. `Group` is the same on
//!   every Unix.
//! - `Cgroup`, on Linux, is a cgroup: `poll_event(cx)` waits for a change, `is_populated()` queries it.
//! - `Job`, on Windows, is a job object: `active_processes()` and `processes()` query it.
//! - `thread_cpu_time()` returns the CPU time of the calling thread.
//!
//! # Safety
//!
//! All `unsafe` code of this crate is below this module. Each `unsafe` block has one operation.

#![allow(unsafe_code)]

use std::io;

use crate::error::OpenError;
use crate::identity::{BootId, ParseProcessIdentityError};

#[cfg_attr(
    all(
        any(target_os = "linux", target_os = "android"),
        not(all(test, tokio_process_exit_fake_kqueue))
    ),
    path = "linux/mod.rs"
)]
#[cfg_attr(
    any(
        // A model of kernels with kqueue, on any Linux.
        all(test, tokio_process_exit_fake_kqueue),
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

#[cfg(any(
    not(any(target_os = "linux", target_os = "android")),
    all(test, tokio_process_exit_fake_kqueue)
))]
mod no_namespaces;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::group::{Group, GroupMembers, group_of};

// The end of a Windows wait is modelled on every system.
#[cfg(all(test, tokio_process_exit_loom))]
#[path = "windows/callback_context.rs"]
mod windows_callback_context;

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// At least one thread is alive.
    Running,
    /// All threads have exited.
    Exited {
        /// `None` if the system does not report the status.
        status: Option<Status>,
        /// Whether the parent has reaped the process, so that its pid is free.
        reaped: bool,
    },
}

/// A process that was opened, with or without an event source.
#[allow(dead_code, reason = "some systems always return the same variant")]
pub(crate) enum Opened<T> {
    WithEvents(T),
    /// The system refused an event source.
    Refused(Refused),
}

impl<T> Opened<T> {
    fn refused(probe: Probe, reason: io::Error) -> Opened<T> {
        Opened::Refused(Refused { probe, reason })
    }
}

/// A process for which the system refused an event source.
pub(crate) struct Refused {
    pub(crate) probe: Probe,
    pub(crate) reason: io::Error,
}

/// The result of another attempt to get an event source.
#[allow(dead_code, reason = "some systems always return the same variant")]
pub(crate) enum Reopened {
    WithEvents(Process),
    /// The system refused because a resource is exhausted. A later attempt may succeed.
    Exhausted,
    /// The system has no event source for this process, at least not now.
    Unavailable,
}

/// The reason why a wait for an event failed.
#[allow(dead_code, reason = "without events, no wait for one fails")]
pub(crate) enum EventError {
    /// The system refused to register the event source.
    Refused(io::Error),
    /// The runtime is shutting down, or the process could not be queried.
    Other(io::Error),
}

/// Converts a pid to the type of the system calls. For these, 0 and negative numbers mean groups.
fn check_pid(pid: u32) -> Result<i32, OpenError> {
    match i32::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(OpenError::OutOfRange),
    }
}

/// Parses the text that the system returns for its boot.
fn parse_boot_id(text: &str) -> io::Result<BootId> {
    let text = text.trim();
    text.parse().map_err(|ParseProcessIdentityError(())| {
        let reason = format!("the system's boot id is not a UUID: {text}");
        io::Error::new(io::ErrorKind::Unsupported, reason)
    })
}
