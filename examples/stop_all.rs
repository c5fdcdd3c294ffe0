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

    send(&mut set, Signal::Term);
    for exit in set.exits_within(GRACE).await? {
        println!("{exit}");
    }
    send(&mut set, Signal::Kill);
    while let Some(exit) = set.next_exit().await {
        println!("{}, as it did not obey", exit?);
    }
    Ok(())
}

enum Signal {
    Term,
    Kill,
}

/// To all that are still there.
fn send(set: &mut ExitSet, signal: Signal) {
    let pids: Vec<u32> = set.pids().collect();
    for pid in pids {
        #[cfg(unix)]
        let sent = match signal {
            Signal::Term => set.signal(pid, libc::SIGTERM),
            Signal::Kill => set.signal(pid, libc::SIGKILL),
        };
        // There is no way to ask here.
        #[cfg(not(unix))]
        let sent = match signal {
            Signal::Term => Ok(()),
            Signal::Kill => set.terminate(pid, 1),
        };
        match sent {
            Err(error) if error.kind() != io::ErrorKind::NotFound => eprintln!("{error}"),
            // If it has exited meanwhile, so much the better.
            _ => {}
        }
    }
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
