//! The command line, and the processes that run the parts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::progress::Display;
use crate::{compare, idle, latency, many, subject, wait};

/// Compares this crate with other ways to wait for processes.
#[derive(Parser)]
struct Arguments {
    /// The parts to run, by default all.
    parts: Vec<Part>,
    /// Runs few rounds and few processes, and does not change the pictures and results.
    #[arg(long)]
    quick: bool,
    /// Number of rounds, except for the `idle` part.
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
    #[arg(long, hide = true, default_value_t = 0)]
    seconds: u64,
    #[arg(long, hide = true)]
    file: Option<PathBuf>,
    /// Writes the pictures to the source directory.
    #[arg(long, hide = true)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One table: this crate, tokio, waitpid-any, psutil and a loop.
    Compare,
    /// The time, system calls and instructions that one wait costs.
    Wait,
    /// The time from a process's exit until the waiting program runs.
    Latency,
    /// Context switches while nothing happens.
    Idle,
    /// Thousands of processes at once.
    #[value(alias = "herd")]
    Many,
}

impl Part {
    fn name(self) -> String {
        let name = self.to_possible_value().expect("no part is skipped");
        name.get_name().to_owned()
    }

    /// Returns roughly how many seconds the part takes.
    fn expected_seconds(self, quick: bool) -> f64 {
        match (self, quick) {
            (Part::Compare, false) => 30.0,
            (Part::Wait, false) => 40.0,
            (Part::Latency, false) => 150.0,
            (Part::Idle, false) => 10.0,
            (Part::Many, false) => 270.0,
            (Part::Latency | Part::Wait, true) => 15.0,
            (_, true) => 5.0,
        }
    }
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
    /// Waits for a process that does not exit.
    Idle,
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

    /// Returns the number of rounds that the command line requests, or the default number.
    pub(crate) fn rounds_or(&self, quick: usize, full: usize) -> usize {
        self.rounds
            .unwrap_or(if self.quick { quick } else { full })
            .max(1)
    }

    /// Returns how long programs wait while nothing happens.
    pub(crate) fn idle_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 10 })
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
    let time = Duration::from_secs(arguments.seconds);
    match arguments.role {
        None => return run_all(&arguments),
        Some(Role::Part) => return run_part(arguments),
        Some(Role::Subject) => subject::run_started(&arguments.file.expect("--file is given")),
        Some(Role::Polled) => latency::serve_polled(),
        Some(Role::Waits) => wait::waits(arguments.count),
        Some(Role::AdoptedWaits) => wait::adopted_waits(arguments.count),
        Some(Role::Idle) => idle::run(arguments.count, time),
        Some(Role::IdleMany) => many::run_idle(arguments.count, time),
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
    // Keep only a complete run: otherwise the files would show results of several runs.
    let keep = arguments.parts.is_empty()
        && !arguments.quick
        && arguments.rounds.is_none()
        && arguments.sizes.is_empty();
    let is_chosen = |part: &&Part| arguments.parts.is_empty() || arguments.parts.contains(part);
    let parts: Vec<&Part> = Part::value_variants().iter().filter(is_chosen).collect();
    let expected = |part: &Part| part.expected_seconds(arguments.quick);
    let mut display = Display::new(parts.iter().map(|part| expected(part)).sum());
    let mut results = HEAD.to_owned();
    let mut failed = false;
    for part in parts {
        display.start(&part.name());
        let mut child = part_command(*part, arguments, keep)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the part starts");
        for line in BufReader::new(child.stdout.take().expect("the stream is piped")).lines() {
            let line = line.expect("a line of text");
            if display.line(&line, expected(part)) {
                results += &line;
                results.push('\n');
            }
        }
        let status = child.wait().expect("an exit status");
        if !status.success() {
            display.line(&format!("\n{} failed: {status}", part.name()), 0.0);
            failed = true;
        }
        display.end(expected(part));
    }
    display.finish();
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

fn part_command(part: Part, arguments: &Arguments, keep: bool) -> Command {
    let mut command = self_command(Role::Part);
    command.arg(part.name());
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
    command
}

fn run_part(arguments: Arguments) -> ExitCode {
    let plan = Plan {
        quick: arguments.quick,
        keep: arguments.keep,
        rounds: arguments.rounds,
        sizes: arguments.sizes,
    };
    let passed = match arguments.parts.first() {
        Some(Part::Compare) => compare::measure(&plan),
        Some(Part::Wait) => wait::measure(&plan),
        Some(Part::Latency) => latency::measure(&plan),
        Some(Part::Idle) => idle::measure(&plan),
        Some(Part::Many) => many::measure(&plan),
        None => false,
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
