//! Stops processes: asks them to terminate, waits 3 seconds, kills those that are left.
//!
//! ```console
//! $ cargo run --example stop_all -- 1234 5678
//! process 1234 exited with signal: 15 (SIGTERM)
//! process 5678 exited with signal: 9 (SIGKILL), as it did not obey
//! ```
//!
//! Without pids it starts a few shells of its own, some of which do not obey. The exit code is 1 if
//! some process could not be stopped.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use tokio_process_exit::ExitSet;

const GRACE: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut stopper = Stopper::default();
    let mut pids = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.parse() {
            Ok(pid) => pids.push(pid),
            Err(error) => stopper.problem(format_args!("{argument}: {error}")),
        }
    }
    // Ours to reap, also when something goes wrong.
    let mut shells = Shells(Vec::new());
    if pids.is_empty() && !stopper.failed {
        if let Err(error) = shells.start() {
            stopper.problem(error);
        }
        pids.extend(shells.0.iter().map(Child::id));
        // Time to set their traps.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for pid in pids {
        // Opened before anything is asked of it, so its exit cannot be missed.
        if let Err(error) = stopper.set.insert(pid) {
            stopper.problem(error);
        }
    }

    stopper.send(Signal::Term);
    stopper.wait("").await;
    stopper.send(Signal::Kill);
    stopper.wait(", as it did not obey").await;
    let left: Vec<u32> = stopper.set.pids().collect();
    for pid in left {
        stopper.problem(format_args!("process {pid} cannot be stopped"));
    }
    ExitCode::from(u8::from(stopper.failed))
}

enum Signal {
    Term,
    Kill,
}

#[derive(Default)]
struct Stopper {
    set: ExitSet,
    failed: bool,
}

impl Stopper {
    /// To all that are still there.
    fn send(&mut self, signal: Signal) {
        let pids: Vec<u32> = self.set.pids().collect();
        for pid in pids {
            #[cfg(unix)]
            let sent = match signal {
                Signal::Term => self.set.signal(pid, libc::SIGTERM),
                Signal::Kill => self.set.signal(pid, libc::SIGKILL),
            };
            // There is no way to ask here.
            #[cfg(not(unix))]
            let sent = match signal {
                Signal::Term => Ok(()),
                Signal::Kill => self.set.terminate(pid, 1),
            };
            match sent {
                // If it has exited meanwhile, so much the better.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.problem(error);
                    self.set.remove(pid);
                }
                _ => {}
            }
        }
    }

    async fn wait(&mut self, remark: &str) {
        match self.set.exits_within(GRACE).await {
            Ok(exits) => {
                for exit in exits {
                    // Not `println!`, which panics if nobody listens: there is more to be done.
                    let _ = writeln!(io::stdout(), "{exit}{remark}");
                }
            }
            Err(error) => self.problem(error),
        }
    }

    fn problem(&mut self, text: impl Display) {
        self.failed = true;
        let _ = writeln!(io::stderr(), "stop_all: {text}");
    }
}

struct Shells(Vec<Child>);

impl Shells {
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
