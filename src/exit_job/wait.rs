//! The wait for a job object.

use std::collections::HashSet;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::task::coop;

use super::error::action_error;
use crate::members::Members;
use crate::poller::TaskPacer;
use crate::process_exit::ProcessExit;
use crate::sys::Job;

/// The wait for a job that may have living processes.
#[derive(Default)]
pub(super) struct Waiting {
    /// The known processes of the job that have not exited. Their exits are events, and the job is queried after
    /// the last.
    members: Members,
    /// Present while the job is queried at intervals, because none of its processes could be opened.
    pacer: Option<TaskPacer>,
}

impl Waiting {
    /// Opens the processes that are in the job now.
    pub(super) fn open(job: &Job) -> Waiting {
        let mut waiting = Waiting::default();
        // After an error, the first poll lists the job again.
        let _ = waiting.list(job);
        waiting
    }

    pub(super) fn is_polled(&self) -> bool {
        self.pacer.is_some()
    }

    /// Returns the number of known processes that have not exited.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Waits until no process of the job is alive.
    pub(super) fn poll(&mut self, job: &Job, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Also a process that can no longer be queried ends: the list has it if it is alive.
            while let Some(_ended) = ready!(self.members.poll_next(cx)).map_err(wait_error)? {}
            if let Some(pacer) = &mut self.pacer {
                ready!(pacer.poll_due(cx)).map_err(wait_error)?;
            }
            ready!(coop::poll_proceed(cx)).made_progress();
            let started = Instant::now();
            if is_empty(job)? {
                return Poll::Ready(Ok(()));
            }
            self.list(job).map_err(wait_error)?;
            match self.members.len() {
                0 => {
                    let pacer = self.pacer.get_or_insert_default();
                    pacer.schedule(started, 1, 1);
                }
                _ => self.pacer = None,
            }
        }
    }

    /// Adds the processes of the job.
    fn list(&mut self, job: &Job) -> io::Result<()> {
        let pids = job.processes()?;
        let opened: Vec<ProcessExit> = pids
            .into_iter()
            .filter_map(|pid| ProcessExit::open(pid).ok())
            .collect();
        // Read the list again: a process that has been opened after its pid was recycled is not in the job. As long
        // as a process is open, its pid is not recycled.
        let still_listed: HashSet<u32> = job.processes()?.into_iter().collect();
        for mut process in opened {
            let is_in_job = process.pid().is_some_and(|pid| still_listed.contains(&pid));
            // The job may count a process that has just exited: it would be listed again and again.
            let is_running = matches!(process.try_wait(), Ok(None));
            if is_in_job && is_running {
                self.members.insert(process.into_parts());
            }
        }
        Ok(())
    }
}

/// Whether no process of the job is alive.
pub(super) fn is_empty(job: &Job) -> io::Result<bool> {
    let active = job.active_processes().map_err(wait_error)?;
    Ok(active == 0)
}

fn wait_error(error: io::Error) -> io::Error {
    action_error("wait for", &error)
}
