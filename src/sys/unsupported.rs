//! A system with no event source known to us.

use std::io;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{EventError, Opened, State};
use crate::Mechanism;
use crate::error::OpenError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Status {}

impl Status {
    pub(crate) fn exit_status(self) -> ExitStatus {
        match self {}
    }
}

/// No process can be opened, so none exists.
pub(crate) enum Process {}

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::Polling;

    pub(crate) fn open(_pid: u32) -> Result<Opened, OpenError> {
        Err(OpenError::Unsupported)
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        match *self {}
    }

    pub(crate) fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        match *self {}
    }

    pub(crate) fn disarm(&mut self) {
        match *self {}
    }

    pub(crate) fn tells_the_reap(&self) -> bool {
        match *self {}
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self {}
    }
}

pub(crate) enum Probe {}

pub(crate) enum Reopened {
    Process(Process),
    Later,
    Never,
}

impl Probe {
    pub(crate) fn state(&self) -> io::Result<State> {
        match *self {}
    }

    pub(crate) fn reopen(&self) -> Reopened {
        match *self {}
    }
}

pub(crate) fn thread_cpu_time() -> Duration {
    Duration::ZERO
}
