//! Processes with the same pid and the same start tick.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio_process_exit::exit_of;

use crate::counters::{Counters, one_in};
use crate::support::linux::{self, Forked};
use crate::support::{deadline, skip};

/// Starts pairs of processes with the same pid, and checks the report on the first of each pair.
///
/// A polled wait holds the directory of its process open, so it never mistakes the second process for
/// the first.
pub fn replace(name: &'static str, time: Duration) {
    const TICK: Duration = Duration::from_millis(10);
    let start = Instant::now();
    let counters = Counters::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    while start.elapsed() < time {
        // If the first process lives for two ticks, the start ticks of both processes differ.
        let is_old = one_in(16);
        let first = linux::fork(|| {
            if is_old {
                std::thread::sleep(2 * TICK);
            }
            1
        });
        let pid = first.id();
        let mut process = exit_of(pid);
        first.reap();
        let Some(mut second) = linux::recycle(pid, || linux::fork(|| linux::forever()), Forked::id)
        else {
            return skip("pids cannot be chosen");
        };
        // The first process is gone, so the only correct result is its exit.
        let exit = match process.try_wait().unwrap() {
            Some(exit) => exit,
            None => {
                let what = format!("{pid}: mistaken for the next process with the pid");
                counters.violation(&counters.lost, what);
                second.kill();
                runtime.block_on(deadline(process)).unwrap()
            }
        };
        counters.processes.fetch_add(2, SeqCst);
        counters.checked.fetch_add(1, SeqCst);
        match exit.status().map(ExitStatusExt::into_raw) {
            None => drop(counters.no_status.fetch_add(1, SeqCst)),
            Some(0x100) => {}
            Some(_) => counters.violation(&counters.wrong, format_args!("{exit} and not 1")),
        }
    }
    counters.finish(name, start);
}
