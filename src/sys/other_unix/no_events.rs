//! The items of a backend without events: every process is polled.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Probe, Status};
use crate::error::OpenError;
use crate::identity::{IdentityKey, KeyKind};
use crate::mechanism::Mechanism;
use crate::sys::{EventError, Opened, State};

/// A process with an event source. No value of this type exists.
pub(crate) struct Process(Infallible);

/// A process in a selector. No value of this type exists.
pub(crate) type Registration = Process;

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::Polling;

    pub(crate) fn state(&self) -> io::Result<State> {
        match self.0 {}
    }

    pub(crate) fn state_after(&self, _event: &Event) -> io::Result<State> {
        match self.0 {}
    }

    pub(crate) fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<Result<State, EventError>> {
        match self.0 {}
    }

    pub(crate) fn deregister(&mut self) {
        match self.0 {}
    }

    pub(crate) fn wait_event(&self, _state: State, _timeout: Duration) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn try_clone(&self) -> io::Result<Opened<Process>> {
        match self.0 {}
    }

    pub(crate) fn reap(&self) -> io::Result<Option<Status>> {
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

    pub(crate) fn is_same(&self, _process: &Process) -> bool {
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

    pub(crate) fn close_all(registrations: Vec<Registration>) {
        drop(registrations);
    }
}

pub(crate) struct Event {
    pub(crate) key: u64,
}

#[derive(Default)]
pub(crate) struct Selector(());

impl Selector {
    pub(crate) fn open(&mut self, pid: u32, _: u64) -> Result<Opened<Registration>, OpenError> {
        Process::open(pid)
    }

    pub(crate) fn register(&mut self, process: Process, _key: u64) -> Opened<Registration> {
        match process.0 {}
    }

    pub(crate) fn reregister(
        &self,
        process: &mut Registration,
        _: u64,
        _: State,
    ) -> io::Result<()> {
        match process.0 {}
    }

    pub(crate) fn deregister(&mut self, process: Registration) {
        match process.0 {}
    }

    pub(crate) fn poll_events(
        &mut self,
        _cx: &mut Context<'_>,
        _events: &mut VecDeque<Event>,
    ) -> Poll<Result<(), EventError>> {
        Poll::Pending
    }

    pub(crate) fn try_events<'a>(
        &mut self,
        _registered: impl Iterator<Item = (u64, &'a Registration)>,
        _events: &mut VecDeque<Event>,
    ) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn reserve(&mut self, _count: usize) {}

    pub(crate) fn grow_fd_table(&mut self, _size: usize) {}
}
