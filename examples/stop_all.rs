//! A command that stops processes: it sends SIGTERM, waits three seconds, and kills the rest.
//!
//! Use this to shut down workers that may ignore SIGTERM. The command opens all processes first.
//! Signals then reach only these processes, never a later process with the same pid. Windows has no
//! SIGTERM, so the command only waits three seconds there, and then terminates the processes.
//!
//! You can try the command with:
//!
//! ```console
//! $ cargo run --example stop_all -- 1234 5678
//! process 1234 exited with signal: 15 (SIGTERM)
//! process 5678 exited with signal: 9 (SIGKILL), as it was still running after 3s
//! ```
//!
//! Without pids, the command starts three shells and stops them. One of the shells ignores SIGTERM.
//! The exit code is 1 if some process could not be stopped.
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! tokio = { version = "1", features = ["macros", "rt", "time"] }
//! tokio-process-exit = "0.1"
//!
//! [target.'cfg(unix)'.dependencies]
//! libc = "0.2"
//! ```

use std::fmt::Display;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use tokio_process_exit::ExitSet;

/// How long the processes have to exit after SIGTERM, and once more after SIGKILL.
const GRACE_PERIOD: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut stopper = Stopper::default();
    let mut pids = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.parse() {
            Ok(pid) => pids.push(pid),
            Err(error) => {
                stopper.error(format_args!("{argument} is not a process id: {error}"));
            }
        }
    }
    // Kills and reaps the shells when `main` returns.
    let mut shells = Shells(Vec::new());
    if pids.is_empty() && !stopper.failed {
        if let Err(error) = shells.start() {
            stopper.error(error);
        }
        pids.extend(shells.0.iter().map(Child::id));
        // Give the last shell time to set its trap.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Open all processes before the first signal: otherwise an exit could be missed.
    for pid in pids {
        if let Err(error) = stopper.set.insert(pid) {
            stopper.error(error);
        }
    }

    stopper.send(Signal::Term);
    stopper.wait("").await;
    stopper.send(Signal::Kill);
    let remark = format!(", as it was still running after {GRACE_PERIOD:?}");
    stopper.wait(&remark).await;
    let remaining: Vec<u32> = stopper.set.pids().collect();
    for pid in remaining {
        stopper.error(format_args!(
            "process {pid} was killed {GRACE_PERIOD:?} ago and is still running"
        ));
    }
    ExitCode::from(u8::from(stopper.failed))
}

enum Signal {
    Term,
    Kill,
}

#[derive(Default)]
struct Stopper {
    /// The processes that have not exited yet.
    set: ExitSet,
    /// Whether an error has been printed.
    failed: bool,
}

impl Stopper {
    /// Sends the signal to all processes that have not exited yet.
    fn send(&mut self, signal: Signal) {
        let pids: Vec<u32> = self.set.pids().collect();
        for pid in pids {
            #[cfg(unix)]
            let sent = match signal {
                Signal::Term => self.set.signal(pid, libc::SIGTERM),
                Signal::Kill => self.set.signal(pid, libc::SIGKILL),
            };
            #[cfg(not(unix))]
            let sent = match signal {
                Signal::Term => Ok(()),
                Signal::Kill => self.set.terminate(pid, 1),
            };
            match sent {
                // `NotFound` is not an error here: the process has just exited.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.error(error);
                    self.set.remove(pid);
                }
                _ => {}
            }
        }
    }

    /// Waits for the exits, at most for the grace period, and prints each with the remark.
    async fn wait(&mut self, remark: &str) {
        match self.set.exits_within(GRACE_PERIOD).await {
            Ok(exits) => {
                for exit in exits {
                    // Do not use `println!`: a panic on a closed stdout would prevent the kill.
                    let _ = writeln!(io::stdout(), "{exit}{remark}");
                }
            }
            Err(error) => self.error(error),
        }
    }

    /// Prints a line on stderr and makes the exit code 1.
    fn error(&mut self, text: impl Display) {
        self.failed = true;
        let _ = writeln!(io::stderr(), "stop_all: {text}");
    }
}

/// Shells to stop if no pid is given. Dropping this value kills and reaps the shells.
struct Shells(Vec<Child>);

impl Shells {
    /// Starts two shells that SIGTERM stops, and one that ignores SIGTERM.
    fn start(&mut self) -> io::Result<()> {
        for trap in ["", "", "trap '' TERM;"] {
            let script = format!("{trap} echo ready; while :; do sleep 0.1; done");
            self.0
                .push(Command::new("sh").args(["-c", &script]).spawn()?);
        }
        Ok(())
    }
}

impl Drop for Shells {
    fn drop(&mut self) {
        for shell in &mut self.0 {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}
