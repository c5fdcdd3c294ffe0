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
pub(crate) struct LazyAsyncFd {
    // Declared first, so dropped first: deregister before the descriptor closes. Otherwise a duplicate
    // of the descriptor would keep the registration in the reactor's epoll.
    registered: Option<ReactorRegistration>,
    fd: OwnedFd,
}

/// The registration with one reactor.
struct ReactorRegistration {
    fd: AsyncFd<RawFd>,
    runtime: runtime::Id,
}

impl LazyAsyncFd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        LazyAsyncFd {
            registered: None,
            fd,
        }
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
    pub(crate) fn poll_readable<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(BorrowedFd<'_>) -> io::Result<(T, bool)>,
    ) -> Poll<Result<T, EventError>> {
        // Move the registration to the current runtime: the earlier runtime may not be running, and its
        // reactor then reports nothing. Outside any runtime, keep the registration.
        let current = Handle::try_current().ok().map(|handle| handle.id());
        self.registered
            .take_if(|registered| current.is_some_and(|id| id != registered.runtime));
        loop {
            let registered = match &mut self.registered {
                Some(registered) => registered,
                none => none.insert(ReactorRegistration::new(self.fd.as_fd())?),
            };
            // Take the guard before the read: otherwise `clear_ready` would discard an event that
            // arrives between the two.
            match ready!(registered.fd.poll_read_ready(cx)) {
                Ok(mut guard) => {
                    let (value, is_all) = read(self.fd.as_fd()).map_err(EventError::Other)?;
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
    ///
    /// Reads once before the descriptor is registered: an event that is ready need not wait for the
    /// reactor.
    pub(crate) fn poll_read_event(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<(bool, bool)>,
    ) -> Poll<Result<(), EventError>> {
        if self.registered.is_none() {
            let coop = ready!(coop::poll_proceed(cx));
            if read(self.fd.as_fd()).map_err(EventError::Other)?.0 {
                coop.made_progress();
                return Poll::Ready(Ok(()));
            }
        }
        while !ready!(self.poll_readable(cx, &mut read))? {}
        Poll::Ready(Ok(()))
    }

    pub(crate) fn deregister(&mut self) {
        self.registered = None;
    }

    pub(crate) fn into_inner(mut self) -> OwnedFd {
        self.deregister();
        self.fd
    }
}

impl AsFd for LazyAsyncFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl ReactorRegistration {
    fn new(fd: BorrowedFd<'_>) -> Result<ReactorRegistration, EventError> {
        let runtime = Handle::current().id();
        if cfg!(tokio_process_exit_force_poll) {
            return Err(EventError::Refused(io::ErrorKind::Unsupported.into()));
        }
        // READABLE only: a kqueue cannot be polled for writing, and a pidfd is never writable.
        // SAFETY: the `LazyAsyncFd` that holds this registration owns the descriptor. It never replaces
        // the descriptor, and drops the registration first.
        let fd = unsafe { AsyncFd::register_with_interest(fd.as_raw_fd(), Interest::READABLE) };
        match fd.map_err(io::Error::from) {
            Ok(fd) => Ok(ReactorRegistration { fd, runtime }),
            // A system's error has a number. tokio's own error means that the runtime has shut down.
            Err(error) if error.raw_os_error().is_some() => Err(EventError::Refused(error)),
            Err(error) => Err(EventError::Other(error)),
        }
    }
}
