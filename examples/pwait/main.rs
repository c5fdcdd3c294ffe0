//! A command that waits for processes to exit, like `pwait(1)` on FreeBSD.
//!
//! The command waits for any process, not only for children of the shell. Use it in a script that
//! must not continue before some other program has exited. This source also shows how to wait for
//! many processes with one `ExitSet`, with a timeout and a progress line. `target.rs` names and opens
//! a process, `waits.rs` waits also for process groups and cgroups, and `report.rs` prints.
//!
//! You can try the command with:
//!
//! ```console
//! $ sleep 3 & cargo run --example pwait -- -v $!
//! 1234: exited with status 0.
//! ```
//!
//! | option | meaning |
//! |---|---|
//! | `-t DURATION` | stop waiting after a time such as `10`, `0.5s`, `5m`, `2h` or `1d` |
//! | `-o`, `-c N` | wait for any one process, or for N processes, instead of all |
//! | `-v` | print each exit status |
//! | `-p` | print the pids that are still running at the end |
//! | `-e` | treat a process that does not exist as exited |
//! | `-F FILE` | wait for the process in a pid file |
//! | `-g PGID` | wait until a whole process group is gone (Unix) |
//! | `-c CGROUP` | wait until a cgroup v2 has no process, by a path with a slash (Linux) |
//!
//! The exit code is 0 after the exits, 1 after an error, 2 for an invalid command line, and 124 after
//! the timeout. `cargo run --example pwait -- --help` explains all of this.
//!
//! To copy this example, copy its four files and add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! indicatif = "0.18"
//! rlimit = "0.11"
//! tokio = { version = "1", features = ["macros", "rt", "time"] }
//! tokio-process-exit = "0.1"
//!
//! [target.'cfg(unix)'.dependencies]
//! nix = { version = "0.32", features = ["process", "signal", "term"] }
//! ```

mod report;
mod target;
mod waits;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tokio::runtime::{self, Runtime};
use tokio::time;
use tokio_process_exit::Exit;

use report::Report;
use target::Target;
use waits::{Ended, Waits};

/// The time between two updates of the progress line, and from an error to the next attempt.
const INTERVAL: Duration = Duration::from_secs(1);

/// Wait for processes to exit, whether or not they are your children
#[derive(Parser)]
#[command(name = "pwait", after_help = AFTER_HELP)]
struct Args {
    /// Stop waiting after DURATION (such as 10, 0.5s, 5m, 2h or 1d), with exit code 124
    #[arg(short, long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    timeout: Option<Duration>,

    /// Wait until any one of the processes has exited, instead of all
    #[arg(short = 'o', long, conflicts_with = "count")]
    any: bool,

    /// Wait until N of the processes have exited, instead of all
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,

    /// Print a line with the exit status when a process exits
    #[arg(short, long)]
    verbose: bool,

    /// Print the pids of the processes that are still running at the end
    #[arg(short, long)]
    print: bool,

    /// Treat a process that does not exist as exited, instead of as an error
    #[arg(short, long)]
    exited: bool,

    /// Wait for the process in the first line of FILE, which has the form of a PID argument
    #[arg(short = 'F', long = "pidfile", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Wait until no process of the process group PGID is alive
    #[cfg(unix)]
    #[arg(short, long = "group", value_name = "PGID")]
    groups: Vec<u32>,

    /// Wait until no process of a cgroup v2 is alive; `-c CGROUP` does the same if it has a slash
    #[cfg(target_os = "linux")]
    #[arg(long = "cgroup", value_name = "CGROUP")]
    cgroups: Vec<PathBuf>,

    /// Ids of the processes, for example from `ps` or `$!`; duplicates count once
    #[arg(value_name = "PID", required_unless_present_any = NO_PID_NEEDED)]
    targets: Vec<Target>,
}

/// The options that name something to wait for.
const NO_PID_NEEDED: &[&str] = &[
    "files",
    #[cfg(unix)]
    "groups",
    #[cfg(target_os = "linux")]
    "cgroups",
];

const AFTER_HELP: &str = "\
A PID argument is one of:
  1234                         The id of a process
  1234:5678                    The same with the inode of its pidfd, as in util-linux (Linux 6.9)
  '1234 inode=5678 boot=...'   The line of a ProcessIdentity of the crate tokio-process-exit

Exit codes:
  0    The processes have exited, with any exit status
  1    An error was printed on stderr, for example for a PID that does not exist;
       pwait still waited for the other processes
  2    The command line is invalid
  124  The timeout (-t) expired

Examples:
  pwait 1234                   Wait until process 1234 has exited
  pwait -v 1234 5678           Wait for both processes and print their exit status
  pwait -o -t 2.5 1234 5678    Wait for either process, at most two and a half seconds
  pwait -p -t 5m 1234 5678     Wait five minutes, then print which processes are still running
  pwait -e -F /run/daemon.pid  Wait for a daemon; succeed also if it is not running any more
  pwait -g 1234                Wait until process group 1234 is gone, also its grandchildren
  pwait -c /sys/fs/cgroup/jobs Wait until no process of a cgroup is alive
  sleep 3 & pwait -v $!        Wait for the last background command of the shell";

fn main() -> ExitCode {
    let mut args = Args::parse_from(waits::with_long_cgroup(std::env::args_os()));
    args.targets.extend(args.files.drain(..).map(Target::File));
    let mut seen = HashSet::new();
    args.targets.retain(|target| seen.insert(target.clone()));
    let given = args.targets.len() + args.dedup_groups();

    let wanted = match args.count {
        _ if args.any => 1,
        Some(count) => count as usize,
        None => given,
    };
    if wanted > given {
        let message = format!("-c {wanted} exceeds the number of distinct PIDs ({given})");
        Args::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }

    let mut report = Report::new(args.verbose);
    match build_runtime() {
        Ok(runtime) => runtime.block_on(pwait(&args, wanted, &mut report)),
        Err(error) => report.error(format_args!("cannot start the tokio runtime: {error}")),
    }
    report.exit_code()
}

impl Args {
    /// Removes duplicate groups and cgroups. Returns how many are left.
    fn dedup_groups(&mut self) -> usize {
        #[cfg_attr(not(unix), allow(unused_mut))]
        let mut count = 0;
        #[cfg(unix)]
        {
            self.groups.sort_unstable();
            self.groups.dedup();
            count += self.groups.len();
        }
        #[cfg(target_os = "linux")]
        {
            self.cgroups.sort_unstable();
            self.cgroups.dedup();
            count += self.cgroups.len();
        }
        count
    }

    /// Opens the groups and cgroups. Calls `failed` with each error.
    #[cfg_attr(not(unix), allow(unused_mut, unused_variables))]
    fn open_groups(&self, waits: &mut Waits, mut failed: impl FnMut(String, io::Error)) {
        #[cfg(unix)]
        for &pgid in &self.groups {
            if let Err(error) = waits.insert_group(pgid) {
                failed(format!("group {pgid}"), error);
            }
        }
        #[cfg(target_os = "linux")]
        for path in &self.cgroups {
            if let Err(error) = waits.insert_cgroup(path) {
                failed(format!("cgroup {}", path.display()), error);
            }
        }
    }
}

/// Prepares this process for the wait, and builds the runtime.
fn build_runtime() -> io::Result<Runtime> {
    // Each wait takes a descriptor on Linux. The soft limit is often 1024, the hard one far higher.
    // If the limit cannot be raised, the library polls the processes that have no descriptor.
    let _ = rlimit::increase_nofile_limit(u64::MAX);

    #[cfg(unix)]
    {
        use nix::sys::signal::{SigSet, Signal};
        // After `stty tostop`, SIGTTOU would stop a background job that prints an exit status.
        let _ = SigSet::from(Signal::SIGTTOU).thread_block();

        // A runtime takes six descriptors. Check that they are free: with the feature "signal" of
        // tokio, `build` would panic if they are not.
        let pairs = [(); 3].map(|()| std::os::unix::net::UnixStream::pair());
        pairs.into_iter().collect::<io::Result<Vec<_>>>()?;
    }
    // A current-thread runtime is enough: a wait needs no thread of its own.
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Opens the processes and groups, and waits until `wanted` of them have exited or the timeout expires.
async fn pwait(args: &Args, mut wanted: usize, report: &mut Report) {
    let mut waits = Waits::default();
    let mut failed = |name: String, error: io::Error| {
        if args.exited && error.kind() == io::ErrorKind::NotFound {
            wanted = wanted.saturating_sub(1);
            report.verbose(format_args!("{name}: not running."));
        } else {
            report.error(error);
        }
    };
    for target in &args.targets {
        match target.open() {
            Ok(process) => {
                // The set ignores a process that is already in the set.
                waits.set.insert_exit(process);
            }
            Err(error) => failed(target.to_string(), error),
        }
    }
    args.open_groups(&mut waits, failed);

    // Without `-t`, sleep for the longest possible time, which is practically forever.
    //
    // Do not use `time::timeout` here: it also checks its deadline when the inner future has used
    // up tokio's cooperative budget. With hundreds of exited processes, `-t 0` would miss some.
    let timeout = time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::select! {
        biased; // report exits before the timeout
        () = wait(&mut waits, wanted, report) => {}
        () = timeout => report.timeout(),
    }
    if args.print {
        waits.set.pids().for_each(|pid| report.print(pid));
        waits.names().iter().for_each(|name| report.print(name));
    }
}

/// Waits until `wanted` of the waits have ended, or until there are none.
async fn wait(waits: &mut Waits, mut wanted: usize, report: &mut Report) {
    while wanted > 0 && waits.len() > 0 {
        report.show_progress(wanted.min(waits.len()), waits.len());
        let ended = tokio::select! {
            biased;
            ended = waits.next() => ended,
            () = time::sleep(INTERVAL), if report.is_terminal => continue, // draw again
        };
        match ended {
            Some(Ok(Ended::Process(exit))) => {
                wanted -= 1;
                report.verbose(describe(&exit));
            }
            Some(Ok(Ended::Group(name))) => {
                wanted -= 1;
                report.verbose(format_args!("{name}: gone."));
            }
            Some(Err(error)) => {
                report.error(error);
                // The cause may persist, for example if the system cannot start a thread: do not
                // retry in a busy loop.
                time::sleep(INTERVAL).await;
            }
            None => break,
        }
    }
}

/// Returns the line that `-v` prints for an exit, in the format of FreeBSD's `pwait(1)`.
fn describe(exit: &Exit) -> String {
    // The pid is always known, because the set opened the process by its pid.
    let pid = exit.pid().unwrap_or_default();
    let Some(status) = exit.status() else {
        return format!("{pid}: exited with unknown status.");
    };
    match status.code() {
        Some(code) => format!("{pid}: exited with status {code}."),
        // On Unix, std displays a fatal signal as "signal: 9 (SIGKILL)".
        None => format!("{pid}: killed by {status}.").replace("signal: ", "signal "),
    }
}

/// Parses a number of seconds, or a number with one of the units of FreeBSD's `pwait(1)`, or days.
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
