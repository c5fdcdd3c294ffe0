//! A descriptor in tokio's reactor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};
use tokio::task::coop;

use crate::sys::EventError;

/// An owned descriptor that is registered with the current runtime's reactor when it is first polled.
///
/// With `PRIORITY`, it also waits for priority events (`EPOLLPRI`). This is for files that are always readable:
/// the kernel reports both readiness and priority at each change.
pub(crate) struct LazyAsyncFd<T = (), const PRIORITY: bool = false> {
    // Declared first, so dropped first: deregister before the descriptor closes. Otherwise a duplicate
    // of the descriptor would keep the registration in the reactor's epoll.
    registered: Option<ReactorRegistration>,
    fd: OwnedFd,
    /// What else belongs to the descriptor. `read` gets it too. Here it takes no more room than padding would.
    pub(crate) data: T,
}

/// The registration with one reactor.
struct ReactorRegistration {
    fd: AsyncFd<RegisteredFd>,
    runtime: runtime::Id,
}

struct RegisteredFd {
    fd: RawFd,
    /// Whether an event may be ready that the reactor has not had the time to report.
    read_is_due: bool,
}

impl AsRawFd for RegisteredFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl<T: Default, const PRIORITY: bool> LazyAsyncFd<T, PRIORITY> {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        LazyAsyncFd {
            registered: None,
            fd,
            data: T::default(),
        }
    }
}

impl<T, const PRIORITY: bool> LazyAsyncFd<T, PRIORITY> {
    /// Makes the next call of [`poll_first_read`](Self::poll_first_read) read.
    ///
    /// For a source of events that was added to the descriptor, and may have an event already.
    pub(crate) fn request_read(&mut self) {
        // A registration that is still to be made reads anyway.
        self.set_read_is_due(true);
    }

    fn set_read_is_due(&mut self, is_due: bool) {
        if let Some(registered) = &mut self.registered {
            registered.fd.get_mut().read_is_due = is_due;
        }
    }

    /// Registers the descriptor with the current runtime's reactor. Reads once after a new registration,
    /// and after [`request_read`](Self::request_read).
    ///
    /// So the first poll returns an event that is ready, which the reactor reports some time later. `read`
    /// also returns whether it has read everything. If not, the next call reads again. Returns `None` if
    /// no read was due, or if `read` has found no event.
    ///
    /// # Errors and panics
    ///
    /// As for [`poll_readable`](Self::poll_readable).
    pub(crate) fn poll_first_read<E>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(BorrowedFd<'_>, &mut T) -> io::Result<(Option<E>, bool)>,
    ) -> Poll<Result<Option<E>, EventError>> {
        self.deregister_from_other_runtime();
        let registered = self.registered.as_ref();
        if registered.is_some_and(|registered| !registered.fd.get_ref().read_is_due) {
            return Poll::Ready(Ok(None));
        }
        let coop = ready!(coop::poll_proceed(cx));
        let result = match &self.registered {
            Some(_) => Ok(()),
            None => ReactorRegistration::new(self.fd.as_fd(), PRIORITY)
                .map(|registered| self.registered = Some(registered)),
        };
        // Read after the registration: otherwise an event between the two would wait for the reactor. Read
        // even if the registration has failed: an event that is ready needs no reactor.
        let (event, is_all) = read(self.fd.as_fd(), &mut self.data).map_err(EventError::Other)?;
        self.set_read_is_due(!is_all);
        if event.is_none() {
            result?;
        } else {
            coop.made_progress();
        }
        Poll::Ready(Ok(event))
    }

    /// Waits until the reactor reports that the descriptor is readable, and reads from it.
    ///
    /// `read` also returns whether it has read everything. If so, the readiness is cleared, and the next
    /// call waits for the next event.
    ///
    /// # Errors
    ///
    /// The registration has failed, the runtime is shutting down, or `read` has failed. The descriptor
    /// stays open, and the call can be repeated.
    ///
    /// # Panics
    ///
    /// Outside a runtime, and in a runtime without I/O enabled.
    pub(crate) fn poll_readable<E>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(BorrowedFd<'_>, &mut T) -> io::Result<(E, bool)>,
    ) -> Poll<Result<E, EventError>> {
        self.deregister_from_other_runtime();
        loop {
            let registered = match &mut self.registered {
                Some(registered) => registered,
                none => none.insert(ReactorRegistration::new(self.fd.as_fd(), PRIORITY)?),
            };
            // Take the guard before the read: otherwise `clear_ready` would discard an event that
            // arrives between the two.
            match ready!(registered.fd.poll_read_ready(cx)) {
                Ok(mut guard) => {
                    let (value, is_all) =
                        read(self.fd.as_fd(), &mut self.data).map_err(EventError::Other)?;
                    if is_all {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(value));
                }
                // The registered runtime has shut down. Register again: this returns an error if that
                // runtime is the current runtime.
                Err(_) => self.registered = None,
            }
        }
    }

    /// Waits until `read` has read an event. `read` also returns whether it has read everything.
    pub(crate) fn poll_read_event(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<(bool, bool)>,
    ) -> Poll<Result<(), EventError>> {
        let first_read = |fd: BorrowedFd<'_>, _: &mut T| {
            let (has_event, is_all) = read(fd)?;
            Ok((has_event.then_some(()), is_all))
        };
        if ready!(self.poll_first_read(cx, first_read))?.is_some() {
            return Poll::Ready(Ok(()));
        }
        while !ready!(self.poll_readable(cx, |fd, _| read(fd)))? {}
        Poll::Ready(Ok(()))
    }

    #[allow(dead_code, reason = "only Linux has data")]
    pub(crate) fn parts(&mut self) -> (BorrowedFd<'_>, &mut T) {
        (self.fd.as_fd(), &mut self.data)
    }

    pub(crate) fn deregister(&mut self) {
        self.registered = None;
    }

    /// Deregisters the descriptor from another runtime than the current one: that runtime may not be
    /// running, and its reactor then reports nothing. Outside any runtime, keeps the registration.
    fn deregister_from_other_runtime(&mut self) {
        let current = Handle::try_current().ok().map(|handle| handle.id());
        self.registered
            .take_if(|registered| current.is_some_and(|id| id != registered.runtime));
    }

    pub(crate) fn into_inner(mut self) -> OwnedFd {
        self.deregister();
        self.fd
    }
}

impl<T, const PRIORITY: bool> AsFd for LazyAsyncFd<T, PRIORITY> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl ReactorRegistration {
    fn new(fd: BorrowedFd<'_>, has_priority: bool) -> Result<ReactorRegistration, EventError> {
        let runtime = Handle::current().id();
        if cfg!(tokio_process_exit_force_poll) {
            return Err(EventError::Refused(io::ErrorKind::Unsupported.into()));
        }
        let registered = RegisteredFd {
            fd: fd.as_raw_fd(),
            read_is_due: false,
        };
        // Not WRITABLE: a kqueue cannot be polled for writing, and a pidfd is never writable.
        let interest = match has_priority {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            true => Interest::READABLE | Interest::PRIORITY,
            _ => Interest::READABLE,
        };
        // This function is deprecated in favor of the unsafe `register_with_interest` (tokio 1.53), because its
        // caller must keep the descriptor open. This caller does: the `LazyAsyncFd` that holds this
        // registration owns the descriptor. It never replaces the descriptor, and drops the registration first.
        #[allow(deprecated, reason = "the crate supports older versions of tokio")]
        match AsyncFd::with_interest(registered, interest) {
            Ok(fd) => Ok(ReactorRegistration { fd, runtime }),
            // A system's error has a number. tokio's own error means that the runtime has shut down.
            Err(error) if error.raw_os_error().is_some() => Err(EventError::Refused(error)),
            Err(error) => Err(EventError::Other(error)),
        }
    }
}
