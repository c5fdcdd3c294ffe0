//! An owned descriptor and its registration with a tokio reactor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};

use crate::sys::EventError;

/// A descriptor that can be registered for reading with the current runtime's reactor, at need.
pub(crate) struct LazyAsyncFd {
    // Declared first, dropped first: deregistered before the descriptor closes. A descriptor that
    // was duplicated elsewhere would otherwise stay in the reactor's epoll after its close here.
    registration: Option<Registered>,
    fd: OwnedFd,
}

struct Registered {
    fd: AsyncFd<RawFd>,
    runtime: runtime::Id,
}

impl LazyAsyncFd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        LazyAsyncFd {
            registration: None,
            fd,
        }
    }

    /// Waits until the reactor says that the descriptor is readable, and looks.
    ///
    /// The look returns also whether there was nothing more to see. That consumes the readiness:
    /// the next call waits for the next event.
    ///
    /// # Errors
    ///
    /// Registered failed, the runtime is shutting down, or the look failed. The descriptor is
    /// still good, and the call may be repeated.
    ///
    /// # Panics
    ///
    /// As every tokio resource: outside a runtime, or in one without I/O enabled.
    pub(crate) fn poll_readable<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(BorrowedFd<'_>) -> io::Result<(T, bool)>,
    ) -> Poll<Result<T, EventError>> {
        // A runtime that is not being driven delivers nothing, so a future that was first polled
        // in one runtime and goes on in another moves over. Outside any runtime it stays put.
        let current = Handle::try_current().ok().map(|handle| handle.id());
        self.registration
            .take_if(|registration| current.is_some_and(|id| id != registration.runtime));
        loop {
            let registration = match &mut self.registration {
                Some(registration) => registration,
                none => none.insert(Registered::new(self.fd.as_fd())?),
            };
            // The guard is taken before the look, so that an event which arrives in between is
            // newer than the guard and survives `clear_ready`.
            match ready!(registration.fd.poll_read_ready(cx)) {
                Ok(mut guard) => {
                    let (seen, all) = read(self.fd.as_fd()).map_err(EventError::Other)?;
                    if all {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(seen));
                }
                // That runtime has shut down. Registering again succeeds in a live one and gives
                // the error in a dead one.
                Err(_) => self.registration = None,
            }
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registration.is_some()
    }

    /// Takes the descriptor out of the reactor.
    pub(crate) fn deregister(&mut self) {
        self.registration = None;
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

impl Registered {
    fn new(fd: BorrowedFd<'_>) -> Result<Registered, EventError> {
        let runtime = Handle::current().id();
        if cfg!(tokio_process_exit_force_poll) {
            return Err(EventError::Refused(io::ErrorKind::Unsupported.into()));
        }
        // READABLE only: kqueue descriptors cannot be polled for writing, and pidfds never are.
        // SAFETY: the descriptor is owned by the `LazyAsyncFd` that holds this registration, which
        // never replaces it and drops the registration first.
        let fd = unsafe { AsyncFd::register_with_interest(fd.as_raw_fd(), Interest::READABLE) };
        match fd.map_err(io::Error::from) {
            Ok(fd) => Ok(Registered { fd, runtime }),
            // The system's own errors have a number. Tokio's says that the runtime has shut down.
            Err(error) if error.raw_os_error().is_some() => Err(EventError::Refused(error)),
            Err(error) => Err(EventError::Other(error)),
        }
    }
}
