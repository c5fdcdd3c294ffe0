//! What is to be run, and where.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, ValueEnum};

use crate::{herd, idle, latency, subject, wait};

/// Measures this crate, the floor and its peers side by side.
#[derive(Parser)]
struct Arguments {
    /// What to measure, by default everything.
    parts: Vec<Part>,
    /// Few rounds and small herds; draws no pictures.
    #[arg(long)]
    quick: bool,
    /// How many rounds the latency is measured for.
    #[arg(long)]
    rounds: Option<usize>,
    /// How many processes the herds have.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Passed by `cargo bench`, and not by `cargo test --benches`.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this program does for another instance of itself.
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true, default_value_t = 0)]
    count: usize,
    #[arg(long, hide = true)]
    file: Option<PathBuf>,
    /// The pictures are to be kept.
    #[arg(long, hide = true)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Wait,
    Latency,
    Idle,
    Herd,
}

/// What another instance of this program is started for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Role {
    /// Measures one part.
    Part,
    /// Exits when the time has come, and says when that was.
    Subject,
    /// Waits for processes, with pidfds denied.
    Polled,
    /// Makes waits, to be counted.
    Waits,
    AdoptedWaits,
    /// Each waits 10 seconds for itself.
    IdlePpoll,
    IdleCurrentThread,
    IdleMultiThread,
    IdleBusy,
    /// Registers a herd and waits.
    IdleHerd,
}

/// How thoroughly to measure.
pub(crate) struct Plan {
    pub(crate) quick: bool,
    keep: bool,
    pub(crate) rounds: Option<usize>,
    pub(crate) sizes: Vec<usize>,
}

impl Plan {
    /// Where pictures go: into the source tree, if they are to be kept.
    pub(crate) fn pictures(&self) -> &'static Path {
        Path::new(if self.keep {
            env!("CARGO_MANIFEST_DIR")
        } else {
            env!("CARGO_TARGET_TMPDIR")
        })
    }
}

/// Another instance of this program.
pub(crate) fn ourselves(role: Role) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let role = role.to_possible_value().expect("no role is skipped");
    command.arg("--role").arg(role.get_name());
    command
}

pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.role {
        None => return run_all(&arguments),
        Some(Role::Part) => return run_part(arguments),
        Some(Role::Subject) => subject::exit_in_time(&arguments.file.expect("a file")),
        Some(Role::Polled) => latency::polled(),
        Some(Role::Waits) => wait::waits(arguments.count),
        Some(Role::AdoptedWaits) => wait::adopted_waits(arguments.count),
        Some(Role::IdlePpoll) => idle::ppoll(),
        Some(Role::IdleCurrentThread) => idle::current_thread(),
        Some(Role::IdleMultiThread) => idle::multi_thread(),
        Some(Role::IdleBusy) => idle::busy(),
        Some(Role::IdleHerd) => herd::idle(arguments.count),
    }
    ExitCode::SUCCESS
}

/// What the tables begin with.
const TABLES: &str = "\
# What `cargo bench` has measured

Written by the run that has drawn the pictures here. Ratios are to the first row of a table, or of
those in it that wait for the same kind of process.
";

/// Each part in a process of its own, so that none finds what another has left: threads, a grown
/// table of descriptors, a heap.
fn run_all(arguments: &Arguments) -> ExitCode {
    if !arguments.bench {
        println!("run it with cargo bench");
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    // Whatever is shown together has been measured together.
    let keep = arguments.parts.is_empty() && !arguments.quick;
    let mut tables = TABLES.to_owned();
    for part in Part::value_variants() {
        if !arguments.parts.is_empty() && !arguments.parts.contains(part) {
            continue;
        }
        let name = part.to_possible_value().expect("no part is skipped");
        let mut command = ourselves(Role::Part);
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
            .expect("this program runs");
        for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
            let line = line.expect("text");
            println!("{line}");
            tables += &line;
            tables.push('\n');
        }
        let status = child.wait().expect("a child");
        if !status.success() {
            println!("\n{} failed: {status}", name.get_name());
            failed = true;
        }
    }
    if keep && !failed {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("results.md");
        std::fs::write(file, tables).expect("a file");
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
    let good = match arguments.parts.first() {
        Some(Part::Latency) => latency::measure(&plan),
        Some(Part::Wait) => wait::measure(&plan),
        Some(Part::Herd) => herd::measure(&plan),
        Some(Part::Idle) => idle::measure(&plan),
        None => false,
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
