//! A system with no event source known to us.

use std::io;
use std::process::ExitStatus;
use std::task::{Context, Poll};

use super::State;
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

    pub(crate) fn open(_pid: u32) -> Result<Process, OpenError> {
        Err(OpenError::Unsupported)
    }

    pub(crate) fn state(&self, _pid: u32) -> io::Result<State> {
        match *self {}
    }

    pub(crate) fn poll_event(
        &mut self,
        _pid: u32,
        _cx: &mut Context<'_>,
    ) -> Poll<io::Result<State>> {
        match *self {}
    }

    pub(crate) fn disarm(&mut self) {
        match *self {}
    }
}
