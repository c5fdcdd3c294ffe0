//! Many processes behind one registration with the reactor: their pidfds in an epoll of our own.
//!
//! [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html)
//!
//! # Safety
//!
//! Each block is one system call. Descriptors are borrowed, so they are open for the call; every
//! pointer is to a local of the type that the call expects.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::task::{Context, Poll, ready};

use super::{
    EventError, LazyAsyncFd, Opened, Probe, Process, Refused, State, is_reaped, pidfd, query_state,
    reaped, send,
};
use crate::error::OpenError;

/// An event source for any number of processes.
#[derive(Default)]
pub(crate) struct Selector {
    /// Made for the first process.
    epoll: Option<LazyAsyncFd>,
    /// For so many descriptors room has been made in the process's table.
    room: usize,
}

/// A process in a [`Selector`]. It leaves when this is dropped.
pub(crate) struct Registration(OwnedFd);

/// Something has happened to the member that was added with this key.
pub(crate) struct Event {
    pub(crate) key: u64,
    /// The kernel said so with the event.
    reaped: bool,
}

impl Selector {
    /// Whether its events are the only way to know that a member has exited. Then an earlier member
    /// must have told before one with its pid comes in.
    pub(crate) const TELLS_ONCE: bool = false;

    /// Whether an exit may have happened that `try_events` does not tell of yet.
    pub(crate) const TELLS_LATE: bool = false;

    /// Opens a process, and adds it. Its first event, and no other until it is rearmed, will have
    /// this key. The probe is for the case that the system refuses.
    pub(crate) fn open(
        &mut self,
        pid: u32,
        key: u64,
    ) -> Result<Result<Registration, Refused>, OpenError> {
        // The group's own descriptor comes first, before the process takes the last. Without it,
        // processes are refused.
        let _ = self.epoll();
        Ok(match Process::open(pid)? {
            Opened::Process(process) => self.register(process, key),
            Opened::Refused(refused) => Err(refused),
        })
    }

    /// Adds a process, as `open` does.
    pub(crate) fn register(&mut self, process: Process, key: u64) -> Result<Registration, Refused> {
        let result = self.epoll().and_then(|epoll| {
            let add = |operation| control(epoll, operation, process.as_fd(), libc::EPOLLIN, key);
            match add(libc::EPOLL_CTL_ADD) {
                // A duplicate of this pidfd was in the group under the same number, and was closed
                // while this one was open.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    add(libc::EPOLL_CTL_MOD)
                }
                result => result,
            }
        });
        match result {
            Ok(()) => Ok(Registration(process.pidfd.into_inner())),
            Err(reason) => Err((process.into_probe(), reason)),
        }
    }

    /// Has a registration tell of its reap, after it has told of its exit; or of its exit, after an
    /// event that was none.
    pub(crate) fn reregister(
        &self,
        registration: &mut Registration,
        key: u64,
        state: State,
    ) -> io::Result<()> {
        let Some(epoll) = &self.epoll else {
            return Ok(());
        };
        // A zombie stays readable. POLLHUP is always told.
        let events = if state == State::Running {
            libc::EPOLLIN
        } else {
            0
        };
        control(
            epoll.as_fd(),
            libc::EPOLL_CTL_MOD,
            registration.0.as_fd(),
            events,
            key,
        )
    }

    /// Takes out a member that has not told of its exit.
    pub(crate) fn deregister(&mut self, registration: Registration) {
        // Closing would do, unless the descriptor has a duplicate: it was adopted, or this process
        // has forked.
        if let Some(epoll) = &self.epoll {
            let _ = control(
                epoll.as_fd(),
                libc::EPOLL_CTL_DEL,
                registration.0.as_fd(),
                0,
                0,
            );
        }
    }

    /// Waits for events, and appends some of them in the order in which they came.
    pub(crate) fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        let Some(epoll) = &mut self.epoll else {
            return Poll::Pending;
        };
        if !epoll.is_registered() {
            // Those that have exited already need not wait for the reactor.
            read_events(epoll.as_fd(), events).map_err(EventError::Other)?;
            if !events.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            ready!(epoll.poll_readable(cx, |epoll| Ok(((), read_events(epoll, events)?))))?;
            if !events.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Appends some of the events that there are, without waiting.
    pub(crate) fn try_events(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        match &self.epoll {
            Some(epoll) => read_events(epoll.as_fd(), events).map(drop),
            None => Ok(()),
        }
    }

    /// Makes room for so many descriptors in the process's table.
    ///
    /// In a process with several threads each growth of the table waits for an RCU grace period
    /// (`expand_fdtable` in fs/file.c), which takes milliseconds. One descriptor with a high number
    /// grows it at once.
    pub(crate) fn reserve(&mut self, count: usize) {
        let Ok(epoll) = self.epoll() else { return };
        let epoll = epoll.as_raw_fd();
        self.room = count;
        // The epoll has a low number, as the lowest that is free is always taken.
        let last = RawFd::try_from(count)
            .unwrap_or(RawFd::MAX)
            .saturating_add(epoll);
        let last = last.min(pidfd::descriptor_limit().saturating_sub(1));
        // SAFETY: takes integers.
        let fd = unsafe { libc::fcntl(epoll, libc::F_DUPFD_CLOEXEC, last) };
        if fd >= 0 {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    /// Makes room ahead when the group has outgrown what there was, in few large steps. The kernel
    /// by itself only ever doubles the table.
    pub(crate) fn grow_fd_table(&mut self, size: usize) {
        const SMALL: usize = 64;
        const STEP: usize = 8;
        if size > self.room.max(SMALL) {
            self.reserve(STEP * size);
        }
    }

    /// Whether the process's descriptors are more than half used up.
    pub(crate) fn fds_are_scarce(&self) -> bool {
        self.epoll
            .as_ref()
            .is_some_and(|epoll| pidfd::fds_are_scarce(epoll.as_fd()))
    }

    fn epoll(&mut self) -> io::Result<BorrowedFd<'_>> {
        if self.epoll.is_none() {
            // It may have been lowered since it was last read.
            pidfd::descriptor_limit();
            // SAFETY: takes an integer.
            let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
            // SAFETY: what the system call has just returned.
            let fd = unsafe { pidfd::from_raw_sparing_last(fd) }?;
            self.epoll = Some(LazyAsyncFd::new(fd));
        }
        self.epoll
            .as_ref()
            .map(LazyAsyncFd::as_fd)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Event {
    /// What it tells, if it cannot be asked for again.
    pub(crate) fn told(&self) -> Option<State> {
        None
    }
}

impl Registration {
    pub(crate) fn untold_event(&self, _key: u64) -> Option<Event> {
        None
    }

    /// Looks at the process after an event.
    pub(crate) fn state_after(&self, event: &Event) -> io::Result<State> {
        if event.reaped {
            Ok(reaped(self.0.as_fd()))
        } else {
            query_state(self.0.as_fd())
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        send(self.0.as_fd(), signal)
    }

    /// What no other process ever has, nor will have, where there is such a thing.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        pidfd::unique_id(self.0.as_fd())
    }

    /// Whether its pid is free for another process.
    pub(crate) fn is_reaped(&self) -> bool {
        is_reaped(self.0.as_fd())
    }

    /// Whether `process` is this very process, given that it has the same pid.
    pub(crate) fn is(&self, process: &Process) -> bool {
        match (
            pidfd::unique_id(self.0.as_fd()),
            pidfd::unique_id(process.as_fd()),
        ) {
            (Some(this), Some(other)) => this == other,
            // No two have the pid at one time.
            _ => !self.is_reaped() && !process.is_reaped(),
        }
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        pidfd::is_on_pidfs(self.0.as_fd())
    }

    pub(crate) fn into_probe(self) -> Probe {
        Probe::PidFd(self.0)
    }
}

fn control(
    epoll: BorrowedFd<'_>,
    operation: libc::c_int,
    fd: BorrowedFd<'_>,
    events: libc::c_int,
    key: u64,
) -> io::Result<()> {
    // One event each, so that a process which has exited does not come up again and again until
    // its descriptor is closed.
    let events = (events | libc::EPOLLONESHOT) as u32;
    let mut event = libc::epoll_event { events, u64: key };
    let (epoll, fd) = (epoll.as_raw_fd(), fd.as_raw_fd());
    // SAFETY: `event` is readable.
    let result = unsafe { libc::epoll_ctl(epoll, operation, fd, ptr::from_mut(&mut event)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Appends the events that there are, up to a number. Returns whether those were all.
fn read_events(epoll: BorrowedFd<'_>, events: &mut VecDeque<Event>) -> io::Result<bool> {
    const BATCH: usize = 128;
    let mut batch = [MaybeUninit::<libc::epoll_event>::uninit(); BATCH];
    let count = loop {
        let (buffer, size) = (batch.as_mut_ptr().cast(), BATCH as libc::c_int);
        // SAFETY: `batch` has room for that many events.
        let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), buffer, size, 0) };
        match usize::try_from(count) {
            Ok(count) => break count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    events.extend(batch[..count].iter().map(|event| {
        // SAFETY: the kernel has written the first `count`.
        let libc::epoll_event { events, u64: key } = unsafe { event.assume_init() };
        Event {
            key,
            reaped: events & libc::EPOLLHUP as u32 != 0,
        }
    }));
    Ok(count < BATCH)
}
