//! A supervisor that keeps several workers running, and stops all of them before it exits.
//!
//! Each worker is the same command, with its number in the variable `WORKER`. A worker that exits is
//! started again after a pause, which doubles with each restart. Once a worker has run for as long as the
//! longest pause, its next pause is short again.
//!
//! At SIGTERM or SIGINT (Ctrl-C), the supervisor sends SIGTERM to its workers, and kills those that are
//! running after a grace period. A second signal ends the grace period. Windows has no SIGTERM: there the
//! workers get Ctrl-C from the console, as the supervisor does.
//!
//! On Unix, each worker has a process group of its own, so Ctrl-C reaches the supervisor only. The signals go to
//! the whole group, so the children of a worker are stopped too, and what an exited worker leaves behind is killed.
//! If the supervisor is killed, the workers continue to run. The example `readopt` finds such processes again.
//!
//! ```console
//! $ cargo run --example supervisor -- --workers 2 sh -c 'sleep $((WORKER * 10))'
//! worker 1: started process 1234
//! worker 2: started process 1235
//! worker 1: process 1234 exited with exit status: 0, starting again in 100ms
//! worker 1: started process 1236
//! ^C
//! worker 1: process 1236 exited with signal: 15 (SIGTERM)
//! worker 2: process 1235 exited with signal: 15 (SIGTERM)
//! ```
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! futures = "0.3"
//! libc = "0.2"
//! tokio = { version = "1", features = ["macros", "rt", "signal", "time"] }
//! tokio-process-exit = "0.1"
//! ```

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::task::JoinSet;
#[cfg(unix)]
use tokio_process_exit::GroupExit;
use tokio_process_exit::{Exit, ExitMap, ProcessExit};

/// The pause before the first restart of a worker.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Keep several workers running, and stop all of them at SIGTERM or Ctrl-C
#[derive(Parser)]
#[command(name = "supervisor", after_help = AFTER_HELP)]
struct Args {
    /// Number of workers
    #[arg(short = 'n', long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,

    /// Time between SIGTERM and SIGKILL
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    grace: Duration,

    /// Longest pause before a restart; the pause is short again after a worker has run for this time
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    max_pause: Duration,

    /// Command that starts a worker, with the worker's number in the variable WORKER
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    After a signal, all workers exited within the grace period
  1    An error was printed on stderr: a worker could not be started at first, or could not be stopped
  2    The command line is invalid
  3    After a signal, all workers exited, some only after the grace period, when they were killed";

fn seconds(text: &str) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut supervisor = Supervisor {
        args: Args::parse(),
        running: ExitMap::new(),
        workers: HashMap::new(),
        pauses: JoinSet::new(),
    };
    supervisor.run().await.unwrap_or_else(|error| {
        log(format_args!("supervisor: {error}"));
        ExitCode::FAILURE
    })
}

struct Supervisor {
    args: Args,
    /// The running workers, by number.
    running: ExitMap<u32>,
    /// The processes of the running workers, by number.
    workers: HashMap<u32, Worker>,
    /// Tasks that sleep until a worker is started again. Each returns the number and the next pause.
    pauses: JoinSet<(u32, Duration)>,
}

struct Worker {
    child: Child,
    started: Instant,
    /// The pause after the exit.
    pause: Duration,
}

impl Supervisor {
    /// Keeps the workers running until a signal arrives. Then stops them, and returns the exit code.
    async fn run(&mut self) -> io::Result<ExitCode> {
        // Register the signals before the first start: otherwise a signal would leave the workers running.
        let mut signal = signals()?;
        for number in 1..=self.args.workers {
            if let Err(error) = self.start(number, MIN_PAUSE) {
                self.stop(&mut signal).await;
                return Err(error);
            }
        }
        loop {
            tokio::select! {
                Some((number, exit)) = self.running.next_exit() => self.exited(number, exit),
                Some(Ok((number, pause))) = self.pauses.join_next() => {
                    if let Err(error) = self.start(number, pause) {
                        self.start_later(number, pause, error);
                    }
                }
                () = signal() => return Ok(self.stop(&mut signal).await),
            }
        }
    }

    fn start(&mut self, number: u32, pause: Duration) -> io::Result<()> {
        let mut command = Command::new(&self.args.command[0]);
        command.args(&self.args.command[1..]).stdin(Stdio::null());
        command.env("WORKER", number.to_string());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|error| {
            let program = self.args.command[0].to_string_lossy();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        let pid = child.id();
        log(format_args!("worker {number}: started process {pid}"));
        // If the process could not be opened, `next_exit` returns the error.
        self.running.insert_exit(number, ProcessExit::from(&child));
        let worker = Worker {
            child,
            started: Instant::now(),
            pause,
        };
        self.workers.insert(number, worker);
        Ok(())
    }

    /// Starts a worker again after the pause.
    fn start_later(&mut self, number: u32, pause: Duration, reason: impl Display) {
        let pause = pause.min(self.args.max_pause);
        log(format_args!(
            "worker {number}: {reason}, starting again in {pause:?}"
        ));
        self.pauses.spawn(async move {
            tokio::time::sleep(pause).await;
            (number, 2 * pause)
        });
    }

    /// Reaps a worker, and starts it again later.
    fn exited(&mut self, number: u32, exit: io::Result<Exit>) {
        let mut worker = self.workers.remove(&number).expect("was running");
        if exit.is_err() {
            // The worker may be running, but its exit may not be noticed.
            let _ = worker.child.kill();
            self.running.remove(&number);
        }
        kill_rest(&worker.child);
        // An `ExitMap` does not reap. This does not block, as the process has exited or was killed.
        let _ = worker.child.wait();
        if worker.started.elapsed() >= self.args.max_pause {
            worker.pause = MIN_PAUSE;
        }
        match exit {
            Ok(exit) => self.start_later(number, worker.pause, exit),
            Err(error) => self.start_later(number, worker.pause, error),
        }
    }

    /// Stops all workers, and returns the exit code.
    async fn stop(&mut self, signal: &mut impl AsyncFnMut()) -> ExitCode {
        let started = Instant::now();
        let (exits, grace) = tokio::select! {
            exits = self.stop_within(self.args.grace) => (exits, self.args.grace),
            // A second signal: `stop` is cancel safe, and this call kills the remaining workers.
            () = signal() => (self.stop_within(Duration::ZERO).await, Duration::ZERO),
        };
        let mut code = if started.elapsed() < grace { 0 } else { 3 };
        for (number, exit) in exits {
            match exit {
                Ok(exit) => log(format_args!("worker {number}: {exit}")),
                Err(error) => {
                    log(format_args!("worker {number} may be running: {error}"));
                    code = 1;
                }
            }
        }
        ExitCode::from(code)
    }

    /// Stops all workers, with their groups where the system has groups.
    async fn stop_within(&mut self, grace: Duration) -> Vec<(u32, io::Result<Exit>)> {
        #[cfg(unix)]
        {
            let stops = self.workers.values().map(async |worker| {
                // This is the worker's group: the worker has not been reaped.
                GroupExit::open(worker.child.id())?.stop(grace).await
            });
            // The workers of groups that cannot be stopped are stopped below.
            futures::future::join_all(stops).await;
        }
        // By now, most workers have exited.
        self.running.stop(grace).await
    }
}

/// Kills what a worker that has exited has left behind. The worker must not have been reaped.
#[cfg(unix)]
fn kill_rest(worker: &Child) {
    // The error is that nobody is left.
    let _ = GroupExit::open(worker.id()).and_then(|group| group.signal(libc::SIGKILL));
}

#[cfg(windows)]
fn kill_rest(_: &Child) {}

/// Returns a function that waits for the next SIGTERM or SIGINT.
#[cfg(unix)]
fn signals() -> io::Result<impl AsyncFnMut()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}

/// Returns a function that waits for the next Ctrl-C or Ctrl-Break.
#[cfg(windows)]
fn signals() -> io::Result<impl AsyncFnMut()> {
    use tokio::signal::windows::{ctrl_break, ctrl_c};
    let (mut ctrl_c, mut ctrl_break) = (ctrl_c()?, ctrl_break()?);
    Ok(async move || {
        tokio::select! { _ = ctrl_c.recv() => {}, _ = ctrl_break.recv() => {} }
    })
}

/// Prints a line on stderr.
///
/// Unlike `eprintln!`, this does not panic if stderr is closed: the workers would continue to run.
fn log(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
