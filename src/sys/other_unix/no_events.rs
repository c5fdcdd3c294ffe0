//! A system whose events for processes are not known to this crate: everything is polled.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};

use super::Probe;
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;
use crate::sys::{EventError, Opened, Refused, State};

/// No process is ever held by an event source.
pub(crate) struct Process(pub(super) Infallible);

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::Polling;

    pub(crate) fn state(&self) -> io::Result<State> {
        match self.0 {}
    }

    pub(crate) fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        match self.0 {}
    }

    pub(crate) fn deregister(&mut self) {
        match self.0 {}
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        match self.0 {}
    }

    pub(crate) fn is_reaped(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn signal(&self, _signal: i32) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn identity_key(&self, _kind: Option<KeyKind>) -> io::Result<IdentityKey> {
        match self.0 {}
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self.0 {}
    }
}

#[allow(dead_code, reason = "there is nothing to open")]
pub(crate) enum Reopened {
    Process(Process),
    Exhausted,
    No,
}

/// No process is ever in a group.
#[derive(Default)]
pub(crate) struct Selector(());

pub(crate) struct Registration(Infallible);

pub(crate) struct Event {
    pub(crate) key: u64,
}

impl Selector {
    pub(crate) const TELLS_ONCE: bool = false;
    pub(crate) const TELLS_LATE: bool = false;

    pub(crate) fn open(
        &mut self,
        pid: u32,
        _key: u64,
    ) -> Result<Result<Registration, Refused>, OpenError> {
        match Process::open(pid)? {
            Opened::Process(process) => match process.0 {},
            Opened::Refused(refused) => Ok(Err(refused)),
        }
    }

    pub(crate) fn register(
        &mut self,
        process: Process,
        _key: u64,
    ) -> Result<Registration, Refused> {
        match process.0 {}
    }

    pub(crate) fn reregister(
        &self,
        registration: &mut Registration,
        _key: u64,
        _state: State,
    ) -> io::Result<()> {
        match registration.0 {}
    }

    pub(crate) fn deregister(&mut self, registration: Registration) {
        match registration.0 {}
    }

    pub(crate) fn poll_events(
        &mut self,
        _cx: &mut Context<'_>,
        _events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        Poll::Pending
    }

    pub(crate) fn try_events(&mut self, _events: &mut VecDeque<Event>) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn reserve(&mut self, _more: usize) {}

    pub(crate) fn grow_fd_table(&mut self, _size: usize) {}

    pub(crate) fn fds_are_scarce(&self) -> bool {
        true
    }
}

impl Event {
    pub(crate) fn told(&self) -> Option<State> {
        None
    }
}

impl Registration {
    pub(crate) fn signal(&self, _signal: i32) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn untold_event(&self, _key: u64) -> Option<Event> {
        match self.0 {}
    }

    pub(crate) fn state_after(&self, _event: &Event) -> io::Result<State> {
        match self.0 {}
    }

    pub(crate) fn unique_id(&self) -> Option<u64> {
        match self.0 {}
    }

    pub(crate) fn is_reaped(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn is(&self, _process: &Process) -> bool {
        match self.0 {}
    }

    pub(crate) fn has_reap_event(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn into_probe(self) -> Probe {
        match self.0 {}
    }
}
