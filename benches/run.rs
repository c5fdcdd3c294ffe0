//! The command line, and the processes that run the parts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use crate::{compare, idle, latency, many, subject, wait};

/// Compares this crate with other ways to wait for processes.
#[derive(Parser)]
struct Arguments {
    /// The parts to run, by default all.
    parts: Vec<Part>,
    /// Runs few rounds and few processes, and does not change the pictures and results.
    #[arg(long)]
    quick: bool,
    /// Number of rounds of the latency part.
    #[arg(long)]
    rounds: Option<usize>,
    /// Numbers of processes in the `many` part.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Passed by `cargo bench`, but not by `cargo test --benches`.
    #[arg(long, hide = true)]
    bench: bool,
    /// The job of this instance, if another instance has started it.
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true, default_value_t = 0)]
    count: usize,
    #[arg(long, hide = true)]
    file: Option<PathBuf>,
    /// Writes the pictures to the source directory.
    #[arg(long, hide = true)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Wait,
    Latency,
    Idle,
    Many,
    /// One small table, which is no part of a full run.
    Compare,
}

/// The job of an instance that another instance has started.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Role {
    /// Measures one part.
    Part,
    /// Sleeps, records the time and exits.
    Subject,
    /// Waits for processes while a filter denies pidfds.
    Polled,
    /// Makes waits whose system calls are counted.
    Waits,
    /// Makes waits whose instructions are counted.
    AdoptedWaits,
    /// Waits for itself with `poll`, for ten seconds.
    IdlePoll,
    /// Waits for itself with `exit_of`, for ten seconds.
    IdleCurrentThread,
    /// Waits for itself with `exit_of`, for ten seconds, in a runtime with two workers.
    IdleMultiThread,
    /// Waits for itself with a loop of `kill`, for ten seconds.
    IdleLoop,
    /// Waits for a child with `tokio::process`, for ten seconds.
    IdleTokio,
    /// Waits for itself with waitpid-any on a blocked thread, for ten seconds.
    IdleThread,
    /// Waits for many processes that do not exit.
    IdleMany,
}

/// The extent of a run.
pub(crate) struct Plan {
    pub(crate) quick: bool,
    keep: bool,
    pub(crate) rounds: Option<usize>,
    pub(crate) sizes: Vec<usize>,
}

impl Plan {
    /// Returns the directory that the pictures are written to.
    pub(crate) fn pictures(&self) -> &'static Path {
        Path::new(if self.keep {
            env!("CARGO_MANIFEST_DIR")
        } else {
            env!("CARGO_TARGET_TMPDIR")
        })
    }
}

/// Reports on standard error how much of a table has been measured.
pub(crate) struct Progress {
    name: String,
    done: usize,
    total: usize,
    start: Instant,
    reported: Instant,
}

impl Progress {
    pub(crate) fn new(name: impl Into<String>, total: usize) -> Progress {
        Progress {
            name: name.into(),
            done: 0,
            total,
            start: Instant::now(),
            reported: Instant::now(),
        }
    }

    /// Counts a round. Reports every five seconds.
    pub(crate) fn advance(&mut self) {
        const INTERVAL: Duration = Duration::from_secs(5);
        self.done += 1;
        if self.reported.elapsed() < INTERVAL || self.done == self.total {
            return;
        }
        self.reported = Instant::now();
        let left = self.start.elapsed().as_secs_f64() / self.done as f64;
        let left = left * (self.total - self.done) as f64;
        let Progress {
            name, done, total, ..
        } = self;
        eprintln!("{name}: {done} of {total} rounds, {left:.0} s left for this table");
    }
}

/// Returns a command that starts another instance of this program.
pub(crate) fn self_command(role: Role) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    let role = role.to_possible_value().expect("no role is skipped");
    command.arg("--role").arg(role.get_name());
    command
}

pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.role {
        None => return run_all(&arguments),
        Some(Role::Part) => return run_part(arguments),
        Some(Role::Subject) => subject::run_started(&arguments.file.expect("--file is given")),
        Some(Role::Polled) => latency::serve_polled(),
        Some(Role::Waits) => wait::waits(arguments.count),
        Some(Role::AdoptedWaits) => wait::adopted_waits(arguments.count),
        Some(Role::IdlePoll) => idle::poll(),
        Some(Role::IdleCurrentThread) => idle::current_thread(),
        Some(Role::IdleMultiThread) => idle::multi_thread(),
        Some(Role::IdleLoop) => idle::kill_loop(),
        Some(Role::IdleTokio) => idle::tokio_child(),
        Some(Role::IdleThread) => idle::blocked_thread(),
        Some(Role::IdleMany) => many::idle(arguments.count),
    }
    ExitCode::SUCCESS
}

/// The head of `results.md`.
const HEAD: &str = "\
# Results of `cargo bench`

`cargo bench` has written this file and drawn the pictures in this directory, in the same run. The
[README](README.md) explains the contenders and the columns. Each ratio is relative to the first
row of its table.
";

/// Runs each part in a new process.
///
/// Otherwise a part would inherit threads, a grown descriptor table and a fragmented heap.
fn run_all(arguments: &Arguments) -> ExitCode {
    if !arguments.bench {
        println!("run the benchmarks with `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    // Keep only a complete run: otherwise the files would show results of several runs.
    let keep = arguments.parts.is_empty() && !arguments.quick;
    let mut results = HEAD.to_owned();
    for part in Part::value_variants() {
        let is_chosen = match &arguments.parts[..] {
            [] => *part != Part::Compare,
            parts => parts.contains(part),
        };
        if !is_chosen {
            continue;
        }
        let name = part.to_possible_value().expect("no part is skipped");
        let mut command = self_command(Role::Part);
        command.arg(name.get_name());
        if arguments.quick {
            command.arg("--quick");
        }
        if keep {
            command.arg("--keep");
        }
        if let Some(rounds) = arguments.rounds {
            command.args(["--rounds", &rounds.to_string()]);
        }
        for size in &arguments.sizes {
            command.args(["--sizes", &size.to_string()]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the part starts");
        for line in BufReader::new(child.stdout.take().expect("the stream is piped")).lines() {
            let line = line.expect("a line of text");
            println!("{line}");
            results += &line;
            results.push('\n');
        }
        let status = child.wait().expect("an exit status");
        if !status.success() {
            println!("\n{} failed: {status}", name.get_name());
            failed = true;
        }
    }
    if keep && !failed {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("results.md");
        std::fs::write(file, results).expect("results.md is written");
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_part(arguments: Arguments) -> ExitCode {
    let plan = Plan {
        quick: arguments.quick,
        keep: arguments.keep,
        rounds: arguments.rounds,
        sizes: arguments.sizes,
    };
    let passed = match arguments.parts.first() {
        Some(Part::Latency) => latency::measure(&plan),
        Some(Part::Wait) => wait::measure(&plan),
        Some(Part::Many) => many::measure(&plan),
        Some(Part::Idle) => idle::measure(&plan),
        Some(Part::Compare) => compare::measure(&plan),
        None => false,
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
