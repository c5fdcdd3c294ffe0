//! Reaping our own child.

use std::io;

use super::{ProcessExit, Source};
use crate::error::{action_error, not_our_child};
use crate::exit::Exit;

impl ProcessExit {
    /// Reaps our own child, and resolves the wait with its status. `None` before the exit.
    pub(crate) fn reap_child(&mut self) -> io::Result<Option<Exit>> {
        let reaped = match &self.source {
            Source::Failed(error) => return Err(error.to_io_error(self.pid)),
            Source::WithEvents(process) => process.reap(),
            Source::Polled(source) => source.probe().reap(),
        };
        let reaped = reaped.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => not_our_child(self.pid),
            _ => action_error("reap", self.pid, &error),
        })?;
        if reaped.is_some() {
            self.stop_waiting();
            // The status of the reap is certain, unlike that of a zombie before Linux 5.17.
            self.wait.status = reaped;
            self.wait.resolved = true;
        }
        Ok(reaped.and_then(|_| self.exit()))
    }
}
