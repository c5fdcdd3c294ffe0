//! Stopping a cgroup.

use std::collections::HashSet;
use std::io;
use std::process;
use std::time::Duration;

use tokio::task::coop;

use super::CgroupExit;
use super::error::{action_error, foreign, own_cgroup, threaded};
use crate::process_exit::ProcessExit;
use crate::stopping::{kill_until_gone, stop_within};
use crate::sys::{Cgroup, is_exhaustion};

impl CgroupExit {
    /// Terminates all processes, waits up to `grace`, then kills those that are left, and waits for the cgroup
    /// to be empty.
    ///
    /// This sends `SIGTERM` to each process in the cgroup and in the cgroups below, and then `SIGCONT`. The list of
    /// processes is read again until it shows no new process, at most 16 times. Each signal goes to a pidfd, so it
    /// never reaches another process that has got the pid.
    ///
    /// If a process is alive after `grace`, this writes to `cgroup.kill` (Linux 5.14): the kernel kills all
    /// processes at once, also those that are being forked. Where this file is missing or may not be written,
    /// this sends `SIGKILL` to each process, and reads the list again until the cgroup is empty. Processes that
    /// fork faster than the list is read may escape there.
    ///
    /// A process outside the pid namespace of this process has no pid here, so only `cgroup.kill` reaches it.
    ///
    /// The cgroup itself is not removed.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): this process is in the cgroup. Nothing was sent. If it is
    ///   moved there within `grace`, nothing is killed;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the cgroup is threaded, so its threads belong to processes
    ///   of another cgroup. Nothing was sent;
    /// - `Unsupported` also if `cgroup.kill` is missing, and all processes that are left are outside the pid
    ///   namespace of this process;
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): you may not signal any of the processes;
    /// - the errors of awaiting. If the wait fails within `grace`, the processes are not killed.
    ///
    /// # Panics
    ///
    /// In a runtime without timers, outside a runtime, and as awaiting does. No signal has been sent then.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first poll. If the future is dropped later, some or all processes may have got
    /// `SIGTERM`. The `CgroupExit` can be awaited, or stopped again with a new `grace`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn stop() -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use tokio_process_exit::CgroupExit;
    ///
    /// let path = "/sys/fs/cgroup/my-jobs";
    /// CgroupExit::open(path)?.stop(Duration::from_secs(5)).await?;
    /// std::fs::remove_dir(path)
    /// # }
    /// ```
    pub async fn stop(&mut self, grace: Duration) -> io::Result<()> {
        if let Some(waiting) = self.wait.waiting() {
            check_stoppable(&waiting.cgroup)
                .map_err(|error| action_error("stop", &self.path, &error))?;
        }
        let ask = async |exit: &CgroupExit| match exit.wait.waiting() {
            Some(waiting) => signal_all(&waiting.cgroup, &[libc::SIGTERM, libc::SIGCONT])
                .await
                .map(drop)
                .map_err(|error| action_error("stop", &exit.path, &error)),
            None => Ok(()),
        };
        if let Some(result) = stop_within(self, grace, ask).await {
            return result;
        }
        let kill = async |exit: &CgroupExit| match exit.wait.waiting() {
            Some(waiting) => kill(&waiting.cgroup)
                .await
                .map_err(|error| action_error("kill", &exit.path, &error)),
            None => Ok(()),
        };
        kill_until_gone(self, kill, |_| Ok(())).await
    }
}

fn check_stoppable(cgroup: &Cgroup) -> io::Result<()> {
    if cgroup.is_threaded() {
        Err(threaded())
    } else if cgroup.processes()?.pids.contains(&process::id()) {
        Err(own_cgroup())
    } else {
        Ok(())
    }
}

async fn kill(cgroup: &Cgroup) -> io::Result<()> {
    // This process may have been moved to the cgroup meanwhile.
    check_stoppable(cgroup)?;
    let Err(refusal) = cgroup.kill() else {
        return Ok(());
    };
    let result = match signal_all(cgroup, &[libc::SIGKILL]).await {
        Ok(0) if cgroup.processes()?.has_foreign => Err(foreign()),
        result => result.map(drop),
    };
    result.map_err(|error| {
        let reason = format!("{error}; cgroup.kill: {refusal}");
        io::Error::new(error.kind(), reason)
    })
}

/// Sends signals to each process, also to those that are forked meanwhile. Returns their number.
///
/// # Errors
///
/// No process may be signalled.
async fn signal_all(cgroup: &Cgroup, signals: &[i32]) -> io::Result<usize> {
    const MAX_ROUNDS: u32 = 16;
    let mut done = HashSet::new();
    for round in 0..MAX_ROUNDS {
        match signal_others(cgroup, signals, &mut done).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if round == 0 => return Err(error),
            // Others have been signalled.
            Err(_) => break,
        }
    }
    Ok(done.len())
}

/// Sends signals to the processes that are not in `done`, and adds these. Returns their number.
///
/// # Errors
///
/// No process may be signalled.
async fn signal_others(
    cgroup: &Cgroup,
    signals: &[i32],
    done: &mut HashSet<u32>,
) -> io::Result<usize> {
    /// The largest number of processes that are open at a time.
    const MAX_BATCH_SIZE: usize = 64;
    let mut pids = cgroup.processes()?.pids;
    pids.retain(|&pid| pid != process::id() && done.insert(pid));
    let mut refusal = None;
    let mut is_sent = false;
    let mut batch_size = MAX_BATCH_SIZE;
    let mut rest = &pids[..];
    while !rest.is_empty() {
        let (batch, next) = rest.split_at(batch_size.min(rest.len()));
        let opened: Vec<ProcessExit> = batch
            .iter()
            .filter_map(|&pid| ProcessExit::open(pid).ok())
            .collect();
        // Read the list again: a process that has been opened after its pid was recycled is not in the cgroup.
        let still_listed = match cgroup.processes() {
            // The processes have taken the descriptors that the list needs.
            Err(error) if batch.len() > 1 && error.raw_os_error().is_some_and(is_exhaustion) => {
                batch_size = batch.len() / 2;
                continue;
            }
            result => result?.pids,
        };
        rest = next;
        for process in opened {
            let is_listed = |pid| still_listed.binary_search(&pid).is_ok();
            if !process.pid().is_some_and(is_listed) {
                continue;
            }
            for &signal in signals {
                match process.signal(signal) {
                    Ok(()) => is_sent = true,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => refusal = Some(error),
                }
            }
            coop::consume_budget().await;
        }
    }
    match refusal {
        Some(refusal) if !is_sent => Err(refusal),
        _ => Ok(pids.len()),
    }
}
