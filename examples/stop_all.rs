//! Stops processes: asks them to terminate, waits 3 seconds, kills those that are left.
//!
//! ```console
//! $ cargo run --example stop_all -- 1234 5678
//! process 1234 exited with signal: 15 (SIGTERM)
//! process 5678 exited with signal: 9 (SIGKILL), as it did not obey
//! ```
//!
//! Without pids it starts a few shells of its own, some of which do not obey.

use std::io;
use std::process::{Child, Command};
use std::time::Duration;

use tokio_process_exit::ExitSet;

const GRACE: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut pids = Vec::new();
    for argument in std::env::args().skip(1) {
        pids.push(argument.parse().map_err(io::Error::other)?);
    }
    // Ours to reap, also when something goes wrong.
    let mut shells = Shells(Vec::new());
    if pids.is_empty() {
        for trap in ["", "", "trap '' TERM;"] {
            let script = format!("{trap} echo ready; while :; do sleep 0.1; done");
            shells
                .0
                .push(Command::new("sh").args(["-c", &script]).spawn()?);
        }
        pids.extend(shells.0.iter().map(Child::id));
        // Time to set their traps.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    let mut set = ExitSet::with_capacity(pids.len());
    for pid in pids {
        // Opened before anything is asked of it, so its exit cannot be missed.
        if let Err(error) = set.insert(pid) {
            eprintln!("{error}");
        }
    }

    set.pids().for_each(|pid| send(Signal::Term, pid));
    for exit in set.exits_within(GRACE).await? {
        println!("{exit}");
    }
    set.pids().for_each(|pid| send(Signal::Kill, pid));
    while let Some(exit) = set.next_exit().await {
        println!("{}, as it did not obey", exit?);
    }
    Ok(())
}

enum Signal {
    Term,
    Kill,
}

#[cfg(unix)]
fn send(signal: Signal, pid: u32) {
    let signal = match signal {
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    // A pid names a process only as long as that has not been reaped. Whoever is not the parent
    // and must be certain sends signals through a pidfd: `ProcessExit::as_pidfd`.
    // SAFETY: takes two integers. `ExitSet` has no pid 0, which would be a group.
    if unsafe { libc::kill(pid as libc::pid_t, signal) } != 0 {
        eprintln!("process {pid}: {}", io::Error::last_os_error());
    }
}

#[cfg(not(unix))]
fn send(signal: Signal, pid: u32) {
    let name = match signal {
        Signal::Term => "terminate",
        Signal::Kill => "kill",
    };
    eprintln!("process {pid}: this example can only {name} where there are signals");
}

struct Shells(Vec<Child>);

impl Drop for Shells {
    fn drop(&mut self) {
        for shell in &mut self.0 {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}
