//! Many pidfds in one epoll, which tokio's reactor registers as one descriptor.
//!
//! [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html)
//!
//! # Safety
//!
//! Each block is one system call, or a read of what it has written. Descriptors are borrowed, so they
//! are open during the call. Every pointer is to a local of the type that the call expects.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::task::{Context, Poll};

use super::close;
use super::fd_limit::{from_raw_sparing_last, read_limit};
use super::{
    EventError, LazyAsyncFd, Opened, Probe, Process, State, is_reaped, pidfd, pidfd_id,
    reaped_state, send_signal, state_after_event,
};
use crate::error::OpenError;

#[derive(Default)]
pub(crate) struct Selector {
    /// Created for the first process.
    epoll: Option<LazyAsyncFd>,
    /// The number of processes for which this selector has made room in the descriptor table.
    room: usize,
}

/// A pidfd in the epoll. Dropping it closes the pidfd, which removes it from the epoll.
pub(crate) struct Registration(OwnedFd);

pub(crate) struct Event {
    pub(crate) key: u64,
    /// Whether the event reports the reap.
    reaped: bool,
}

impl Selector {
    pub(crate) fn open(&mut self, pid: u32, key: u64) -> Result<Opened<Registration>, OpenError> {
        // Create the epoll before the pidfd: otherwise the pidfd could take the last descriptor. Ignore
        // an error here, because `register` then fails too.
        let _ = self.epoll();
        Ok(match Process::open(pid)? {
            Opened::WithEvents(process) => self.register(process, key),
            Opened::Refused(refused) => Opened::Refused(refused),
        })
    }

    pub(crate) fn register(&mut self, process: Process, key: u64) -> Opened<Registration> {
        let result = self.epoll().and_then(|epoll| {
            let add = |operation| control(epoll, operation, process.as_fd(), libc::EPOLLIN, key);
            match add(libc::EPOLL_CTL_ADD) {
                // A duplicate of this pidfd keeps an earlier registration under the same number alive.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    add(libc::EPOLL_CTL_MOD)
                }
                result => result,
            }
        });
        match result {
            Ok(()) => {
                self.request_read();
                Opened::WithEvents(Registration(process.pidfd.into_inner()))
            }
            Err(reason) => Opened::refused(process.into_probe(), reason),
        }
    }

    pub(crate) fn reregister(
        &self,
        registration: &mut Registration,
        key: u64,
        state: State,
    ) -> io::Result<()> {
        let Some(epoll) = &self.epoll else {
            return Ok(());
        };
        // A zombie stays readable, so wait only for EPOLLHUP, which epoll always reports.
        let events = match state {
            State::Running => libc::EPOLLIN,
            State::Exited { .. } => 0,
        };
        let (epoll, pidfd) = (epoll.as_fd(), registration.0.as_fd());
        control(epoll, libc::EPOLL_CTL_MOD, pidfd, events, key)
    }

    pub(crate) fn deregister(&mut self, registration: Registration) {
        // Closing is not enough: a fork or an adopted pidfd's former owner may have a duplicate.
        if let Some(epoll) = &self.epoll {
            let pidfd = registration.0.as_fd();
            let _ = control(epoll.as_fd(), libc::EPOLL_CTL_DEL, pidfd, 0, 0);
        }
    }

    pub(crate) fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        let Some(epoll) = &mut self.epoll else {
            return Poll::Pending;
        };
        epoll.poll_read_event(cx, |epoll| {
            let is_all = read_events(epoll, events)?;
            Ok((!events.is_empty(), is_all))
        })
    }

    pub(crate) fn try_events<'a>(
        &mut self,
        _registered: impl Iterator<Item = (u64, &'a Registration)>,
        events: &mut VecDeque<Event>,
    ) -> io::Result<()> {
        match &self.epoll {
            Some(epoll) => read_events(epoll.as_fd(), events).map(drop),
            None => Ok(()),
        }
    }

    /// Makes room for `count` descriptors in the table of this process.
    ///
    /// If the process has several threads, each growth of the table waits for an RCU grace period, some
    /// milliseconds (`expand_fdtable` in fs/file.c). One descriptor with a high number grows the
    /// table at once.
    pub(crate) fn reserve(&mut self, count: usize) {
        let Ok(epoll) = self.epoll() else { return };
        let epoll = epoll.as_raw_fd();
        self.room = count;
        // The epoll has a low number, because the kernel returns the lowest free number.
        let last = RawFd::try_from(count)
            .unwrap_or(RawFd::MAX)
            .saturating_add(epoll);
        let last = last.min(read_limit().saturating_sub(1));
        // SAFETY: takes integers.
        let fd = unsafe { libc::fcntl(epoll, libc::F_DUPFD_CLOEXEC, last) };
        if fd >= 0 {
            // SAFETY: the kernel has just created this descriptor, and nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    /// Makes room for a set that has outgrown its room, in few large steps. The kernel by itself only
    /// doubles the table.
    pub(crate) fn grow_fd_table(&mut self, size: usize) {
        const MIN_SIZE: usize = 64;
        const FACTOR: usize = 8;
        if size > self.room.max(MIN_SIZE) {
            self.reserve(FACTOR * size);
        }
    }

    /// Makes the next `poll_events` read: a new member may have exited.
    fn request_read(&mut self) {
        if let Some(epoll) = &mut self.epoll {
            epoll.request_read();
        }
    }

    fn epoll(&mut self) -> io::Result<BorrowedFd<'_>> {
        let epoll = match &mut self.epoll {
            Some(epoll) => epoll,
            none => {
                // SAFETY: takes an integer.
                let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
                // SAFETY: the system call has just returned this descriptor.
                none.insert(LazyAsyncFd::new(unsafe { from_raw_sparing_last(fd) }?))
            }
        };
        Ok(LazyAsyncFd::as_fd(epoll))
    }
}

impl Registration {
    pub(crate) fn state_after(&self, event: &Event) -> io::Result<State> {
        if event.reaped {
            Ok(reaped_state(self.0.as_fd()))
        } else {
            state_after_event(self.0.as_fd(), None)
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(self.0.as_fd(), signal)
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        pidfd_id::unique_id(self.0.as_fd())
    }

    pub(crate) fn is_reaped(&self) -> bool {
        is_reaped(self.0.as_fd())
    }

    pub(crate) fn is_same(&self, process: &Process) -> bool {
        if let (Some(this), Some(other)) = (self.unique_id(), process.unique_id()) {
            // Different ids prove nothing before Linux 6.9: the kernel drops an inode of `/proc` under memory
            // pressure, and creates another.
            if this == other || self.has_reap_event() {
                return this == other;
            }
        }
        // Two processes cannot have the pid at the same time.
        !self.is_reaped() && !process.is_reaped()
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        pidfd::is_on_pidfs(self.0.as_fd())
    }

    pub(crate) fn into_probe(self) -> Probe {
        Probe::PidFd(self.0)
    }

    pub(crate) fn close_all(registrations: Vec<Registration>) {
        close::close_all(registrations.into_iter().map(|Registration(pidfd)| pidfd));
    }
}

fn control(
    epoll: BorrowedFd<'_>,
    operation: libc::c_int,
    fd: BorrowedFd<'_>,
    events: libc::c_int,
    key: u64,
) -> io::Result<()> {
    // EPOLLONESHOT: otherwise an exited process is reported again and again until its pidfd closes.
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

/// Appends a batch of events. Returns whether there are no more.
fn read_events(epoll: BorrowedFd<'_>, events: &mut VecDeque<Event>) -> io::Result<bool> {
    const BATCH_SIZE: usize = 128;
    let mut batch = [MaybeUninit::<libc::epoll_event>::uninit(); BATCH_SIZE];
    let count = loop {
        let (buffer, size) = (batch.as_mut_ptr().cast(), BATCH_SIZE as libc::c_int);
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
        // SAFETY: the kernel has written the first `count` events.
        let libc::epoll_event { events, u64: key } = unsafe { event.assume_init() };
        Event {
            key,
            reaped: events & libc::EPOLLHUP as u32 != 0,
        }
    }));
    Ok(count < BATCH_SIZE)
}
