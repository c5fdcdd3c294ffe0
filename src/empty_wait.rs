//! The states of a wait until nobody is left, in a group, a cgroup or a job.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

pub(crate) struct EmptyWait<W, E> {
    state: State<W, E>,
    /// Whether awaiting has returned the final result.
    pub(crate) is_terminated: bool,
}

pub(crate) enum State<W, E> {
    /// What was to be waited for could not be opened.
    Failed(E),
    Waiting(Box<W>),
    /// Nobody is left.
    Empty,
}

impl<W, E> EmptyWait<W, E> {
    pub(crate) fn new(opened: Result<W, E>) -> EmptyWait<W, E> {
        let state = match opened {
            Ok(waiting) => State::Waiting(Box::new(waiting)),
            Err(error) => State::Failed(error),
        };
        EmptyWait {
            state,
            is_terminated: false,
        }
    }

    pub(crate) fn state(&self) -> &State<W, E> {
        &self.state
    }

    /// Returns what is waited for, unless that has failed or nobody is left.
    pub(crate) fn waiting(&self) -> Option<&W> {
        match &self.state {
            State::Waiting(waiting) => Some(waiting),
            State::Failed(_) | State::Empty => None,
        }
    }

    /// Returns whether nobody is left. `is_empty` asks, unless the answer is known.
    pub(crate) fn try_wait(
        &mut self,
        is_empty: impl FnOnce(&mut W) -> io::Result<bool>,
        open_error: impl FnOnce(&E) -> io::Error,
    ) -> io::Result<bool> {
        match &mut self.state {
            State::Failed(error) => Err(open_error(error)),
            State::Empty => Ok(true),
            State::Waiting(waiting) => {
                let is_empty = is_empty(waiting)?;
                if is_empty {
                    self.state = State::Empty;
                }
                Ok(is_empty)
            }
        }
    }

    /// Waits by `poll_empty` until nobody is left. An error of `poll_empty` does not end the wait.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        poll_empty: impl FnOnce(&mut W, &mut Context<'_>) -> Poll<io::Result<()>>,
        open_error: impl FnOnce(&E) -> io::Error,
    ) -> Poll<io::Result<()>> {
        if self.is_terminated {
            // A loop that polls a resolved future must not starve other tasks.
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        let result = match &mut self.state {
            State::Failed(error) => Err(open_error(error)),
            State::Empty => Ok(()),
            State::Waiting(waiting) => {
                ready!(poll_empty(waiting, cx))?;
                self.state = State::Empty;
                Ok(())
            }
        };
        self.is_terminated = true;
        Poll::Ready(result)
    }
}
