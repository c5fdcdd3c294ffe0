//! A command that stops processes: it sends SIGTERM, waits three seconds, and kills the rest.
//!
//! Use this to shut down workers that may ignore SIGTERM. The command opens all processes first.
//! Signals then reach only these processes, never a later process with the same pid. SIGCONT follows
//! SIGTERM, so that a stopped process can clean up too. Windows has no SIGTERM, so the command only
//! waits there, and then terminates the processes.
//!
//! You can try the command with:
//!
//! ```console
//! $ cargo run --example stop_all -- 1234 5678
//! process 1234 exited with signal: 15 (SIGTERM)
//! process 5678 exited with signal: 9 (SIGKILL), as it was still running after 3s
//! ```
//!
//! Option `-t DURATION` waits another time than three seconds, such as `10`, `0.5s`, `5m`, `2h` or
//! `1d`. Option `-g PGID` stops a whole process group (Unix), and `-c CGROUP` a cgroup v2 (Linux). Without
//! any of these, the command starts three shells and stops them. One of the shells ignores SIGTERM.
//!
//! The exit code is 0 after all processes have exited, 1 after an error, for example if some process
//! could not be stopped, and 2 for an invalid command line.
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! rlimit = "0.11"
//! tokio = { version = "1", features = ["rt", "time"] }
//! tokio-process-exit = "0.1"
//!
//! [target.'cfg(unix)'.dependencies]
//! libc = "0.2"
//! ```

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;
use tokio::time;
#[cfg(target_os = "linux")]
use tokio_process_exit::CgroupExit;
use tokio_process_exit::ExitSet;
#[cfg(unix)]
use tokio_process_exit::GroupExit;

/// How long the processes have to exit after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// The time from an error of a wait to the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Send SIGTERM to processes, and SIGKILL to those that are still running after some time
#[derive(Parser)]
#[command(name = "stop_all", after_help = AFTER_HELP)]
struct Args {
    /// The time between SIGTERM and SIGKILL, such as 10, 0.5s, 5m, 2h or 1d
    #[arg(short = 't', long, value_name = "DURATION", default_value = "3s", value_parser = duration, allow_negative_numbers = true)]
    grace: Duration,

    /// Stop a whole process group; may be repeated
    #[cfg(unix)]
    #[arg(short, long = "group", value_name = "PGID")]
    groups: Vec<u32>,

    /// Stop a cgroup v2, by its directory, and all cgroups below; may be repeated
    #[cfg(target_os = "linux")]
    #[arg(short, long = "cgroup", value_name = "CGROUP")]
    cgroups: Vec<std::path::PathBuf>,

    /// Ids of the processes; without any, three shells are started and stopped
    #[arg(value_name = "PID", value_parser = pid)]
    pids: Vec<u32>,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    All processes have exited
  1    An error was printed on stderr, for example for a PID that does not exist;
       the other processes were still stopped
  2    The command line is invalid; no process was stopped

Examples:
  stop_all 1234 5678           Stop two processes within three seconds
  stop_all -t 5m 1234          Let a process clean up for at most five minutes
  stop_all -g 1234             Stop a process group
  stop_all -c /sys/fs/cgroup/jobs
                               Stop everything in a cgroup";

fn main() -> ExitCode {
    let args = Args::parse();
    let mut stopper = Stopper::default();
    match build_runtime() {
        Ok(runtime) => runtime.block_on(stop_all(args, &mut stopper)),
        Err(error) => stopper.error(format_args!("cannot start the tokio runtime: {error}")),
    }
    ExitCode::from(u8::from(!stopper.errors.is_empty()))
}

/// Raises the limit of descriptors, and builds the runtime.
fn build_runtime() -> io::Result<Runtime> {
    // Each wait takes a descriptor on Linux. The soft limit is often 1024, the hard one far higher.
    // If the limit cannot be raised, the library polls the processes that have no descriptor.
    let _ = rlimit::increase_nofile_limit(u64::MAX);

    // A runtime takes six descriptors. Check that they are free: with the feature "signal" of tokio,
    // `build` would panic if they are not.
    #[cfg(unix)]
    [(); 3]
        .map(|()| std::os::unix::net::UnixStream::pair())
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Stops the processes, or three shells if there are none.
async fn stop_all(args: Args, stopper: &mut Stopper) {
    let groups = stopper.open_groups(&args);
    let mut pids = args.pids;
    let grace = args.grace;
    // Kills and reaps the shells when this function returns.
    let mut shells = Shells(Vec::new());
    if pids.is_empty() && groups.is_none() {
        if let Err(error) = shells.start() {
            stopper.error(error);
        }
        pids.extend(shells.0.iter().map(Child::id));
        // Give the last shell time to set its trap.
        time::sleep(Duration::from_millis(300)).await;
    }
    // Open all processes before the first signal: otherwise an exit could be missed.
    for pid in pids {
        if let Err(error) = stopper.set.insert(pid) {
            stopper.error(error);
        }
    }

    let mut stops = groups.unwrap_or_default().stop(grace);

    stopper.send(Signal::Term);
    stopper.wait(grace, "").await;
    stopper.send(Signal::Kill);
    let remark = format!(", as it was still running after {grace:?}");
    stopper.wait(KILL_TIMEOUT, &remark).await;
    let remaining: Vec<u32> = stopper.set.pids().collect();
    for pid in remaining {
        stopper.error(format_args!(
            "process {pid} was killed {KILL_TIMEOUT:?} ago and is still running"
        ));
    }
    while let Some(stopped) = stops.join_next().await {
        match stopped {
            Ok(Ok(name)) => {
                let _ = writeln!(io::stdout(), "{name} is gone");
            }
            Ok(Err(error)) => stopper.error(error),
            Err(error) => stopper.error(error),
        }
    }
}

/// Process groups and cgroups that are to be stopped, each with its name.
#[derive(Default)]
struct Groups {
    #[cfg(unix)]
    groups: Vec<(String, GroupExit)>,
    #[cfg(target_os = "linux")]
    cgroups: Vec<(String, CgroupExit)>,
}

impl Groups {
    /// Stops each in a task of its own, which returns its name.
    fn stop(self, grace: Duration) -> JoinSet<io::Result<String>> {
        #[cfg_attr(not(unix), allow(unused_mut, unused_variables))]
        let (mut stops, timeout) = (JoinSet::new(), grace.saturating_add(KILL_TIMEOUT));
        #[cfg(unix)]
        for (name, mut group) in self.groups {
            stops.spawn(async move { name_after(name, timeout, group.stop(grace)).await });
        }
        #[cfg(target_os = "linux")]
        for (name, mut cgroup) in self.cgroups {
            stops.spawn(async move { name_after(name, timeout, cgroup.stop(grace)).await });
        }
        stops
    }
}

/// Awaits a stop that may take this time.
#[cfg(unix)]
async fn name_after(
    name: String,
    timeout: Duration,
    stop: impl Future<Output = io::Result<()>>,
) -> io::Result<String> {
    match time::timeout(timeout, stop).await {
        Ok(result) => result.map(|()| name),
        Err(_) => {
            let reason = format!("{name} was killed {KILL_TIMEOUT:?} ago and is still running");
            Err(io::Error::new(io::ErrorKind::TimedOut, reason))
        }
    }
}

#[derive(Clone, Copy)]
enum Signal {
    Term,
    Kill,
}

#[derive(Default)]
struct Stopper {
    /// The processes that have not exited yet.
    set: ExitSet,
    /// The errors that have been printed.
    errors: HashSet<String>,
}

impl Stopper {
    /// Opens the groups and cgroups. `None` if the command line has none.
    #[cfg_attr(not(unix), allow(unused_variables))]
    fn open_groups(&mut self, args: &Args) -> Option<Groups> {
        #[cfg_attr(not(unix), allow(unused_mut))]
        let (mut groups, mut is_given) = (Groups::default(), false);
        #[cfg(unix)]
        for &pgid in &args.groups {
            is_given = true;
            match GroupExit::open(pgid) {
                Ok(group) => groups.groups.push((format!("process group {pgid}"), group)),
                Err(error) => self.error(error),
            }
        }
        #[cfg(target_os = "linux")]
        for path in &args.cgroups {
            is_given = true;
            match CgroupExit::open(path) {
                Ok(cgroup) => {
                    let name = format!("cgroup {}", path.display());
                    groups.cgroups.push((name, cgroup));
                }
                Err(error) => self.error(error),
            }
        }
        is_given.then_some(groups)
    }

    /// Sends the signal to all processes that have not exited yet.
    fn send(&mut self, signal: Signal) {
        let pids: Vec<u32> = self.set.pids().collect();
        for pid in pids {
            match self.send_to(pid, signal) {
                // `NotFound` is not an error here: the process has just exited.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.error(error);
                    self.set.remove(pid);
                }
                _ => {}
            }
        }
    }

    #[cfg(unix)]
    fn send_to(&mut self, pid: u32, signal: Signal) -> io::Result<()> {
        match signal {
            Signal::Term => {
                self.set.signal(pid, libc::SIGTERM)?;
                // A stopped process handles SIGTERM only after it has been continued.
                self.set.signal(pid, libc::SIGCONT)
            }
            Signal::Kill => self.set.signal(pid, libc::SIGKILL),
        }
    }

    #[cfg(not(unix))]
    fn send_to(&mut self, pid: u32, signal: Signal) -> io::Result<()> {
        match signal {
            Signal::Term => Ok(()),
            Signal::Kill => self.set.terminate(pid, 1),
        }
    }

    /// Waits for the exits, at most for `timeout`, and prints each with the remark.
    async fn wait(&mut self, timeout: Duration, remark: &str) {
        let start = Instant::now();
        let mut left = timeout;
        while !self.set.is_empty() {
            match self.set.exits_within(left).await {
                Ok(exits) => {
                    for exit in exits {
                        // Do not use `println!`: a panic on a closed stdout would prevent the kill.
                        let _ = writeln!(io::stdout(), "{exit}{remark}");
                    }
                }
                // An error must not shorten the time that the processes have. Its cause may persist,
                // for example if the system cannot start a thread: do not retry in a busy loop.
                Err(error) => {
                    self.error(error);
                    time::sleep(RETRY_INTERVAL.min(left)).await;
                }
            }
            if left.is_zero() {
                break;
            }
            left = timeout.saturating_sub(start.elapsed());
        }
    }

    /// Prints a line on stderr, unless it has been printed before, and makes the exit code 1.
    fn error(&mut self, text: impl Display) {
        let line = format!("stop_all: {text}\n");
        if self.errors.insert(line.clone()) {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Parses a pid. White space around the number is ignored.
fn pid(text: &str) -> Result<u32, std::num::ParseIntError> {
    text.trim().parse()
}

/// Parses a number of seconds, or a number with a unit.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let units = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86400.0)];
    let with_unit = |(unit, seconds)| Some((text.strip_suffix(unit)?, seconds));
    let (number, seconds) = units.into_iter().find_map(with_unit).unwrap_or((text, 1.0));
    match number.parse::<f64>() {
        Ok(number) if number >= 0.0 => {
            Duration::try_from_secs_f64(number * seconds).map_err(|_| "the time is too long")
        }
        _ => Err("expected a time, 0 or more, such as 10, 0.5s, 5m, 2h or 1d"),
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
