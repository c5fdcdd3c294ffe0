//! What polling cannot know: two processes that have had one pid within one tick.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio_process_exit::exit_of;

use crate::figures::{Figures, one_in};
use crate::support::linux::{self, Forked};
use crate::support::{deadline, skip};

/// Replaces processes at once by others with the same pid, and looks what is told of the first.
///
/// It may be taken for its successor, which is counted, but only where both started in one tick, and
/// never with the successor's status.
pub fn replace(name: &'static str, time: Duration) {
    const TICK: Duration = Duration::from_millis(10);
    let start = Instant::now();
    let figures = Figures::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    while start.elapsed() < time {
        // With so long a life the successor starts in another tick for certain.
        let is_old = one_in(16);
        let first = linux::fork(|| {
            if is_old {
                std::thread::sleep(2 * TICK);
            }
            1
        });
        let pid = first.id();
        let mut exit = exit_of(pid);
        first.reap();
        let Some(mut second) = linux::recycle(pid, || linux::fork(|| linux::forever()), Forked::id)
        else {
            return skip("pids cannot be chosen");
        };
        // The first has gone.
        let told = match exit.try_wait().unwrap() {
            Some(told) => told,
            None => {
                if is_old {
                    let what = format_args!("{pid}: taken for one that started 20 ms later");
                    figures.blame(&figures.lost, what);
                }
                figures.mistaken.fetch_add(1, SeqCst);
                // A zombie, whose status is not the first one's.
                second.kill();
                runtime.block_on(deadline(exit)).unwrap()
            }
        };
        figures.processes.fetch_add(2, SeqCst);
        figures.told.fetch_add(1, SeqCst);
        match told.status().map(ExitStatusExt::into_raw) {
            None => drop(figures.no_status.fetch_add(1, SeqCst)),
            Some(0x100) => {}
            Some(_) => figures.blame(&figures.wrong, format_args!("{told} and not 1")),
        }
    }
    figures.conclude(name, start);
}
