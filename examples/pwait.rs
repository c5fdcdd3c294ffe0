//! Waits for processes to exit, like FreeBSD's `pwait(1)`:
//!
//! ```console
//! $ sleep 3 & cargo run --example pwait -- -v $!
//! 1234: exited with status 0.
//! ```
//!
//! `pwait [-t SECONDS] [-o | -c N] [-v] [-e] PID...`; `--help` explains each of them.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{runtime, time};
use tokio_process_exit::{Exit, ExitSet};

/// Wait for processes to exit: any processes, not only your own children.
#[derive(Parser)]
#[command(name = "pwait", after_help = AFTER_HELP)]
struct Args {
    /// Give up after this many seconds, with exit code 124; 0.5 is half a second
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,

    /// Wait until any one of the processes has exited, not all of them
    #[arg(short = 'o', long, conflicts_with = "count")]
    any: bool,

    /// Wait until N of the processes have exited, not all of them
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,

    /// Print each process as it exits, with its status
    #[arg(short, long)]
    verbose: bool,

    /// Count a PID that does not exist as exited, instead of as an error
    #[arg(short, long)]
    exited: bool,

    /// The ids of the processes, as `ps` or the shell's `$!` tell them; duplicates count once
    #[arg(value_name = "PID", required = true)]
    pids: Vec<u32>,
}

const AFTER_HELP: &str = "\
Exit code:
  0    The processes have exited, however they ended
  1    Some PID could not be waited for, as stderr tells; the others have been
  2    The command line is wrong
  124  The time given with -t was over first

Examples:
  pwait 1234                   Wait until process 1234 has exited
  pwait -v 1234 5678           Wait for both, and print how each of them ended
  pwait -o -t 2.5 1234 5678    Wait for either of them, for two and a half seconds at most
  pwait -e 1234 && echo gone   Do not mind if process 1234 is gone already
  sleep 3 & pwait -v $!        Wait for what the shell has just started";

fn main() -> ExitCode {
    let mut args = Args::parse();
    let mut seen = HashSet::new();
    args.pids.retain(|&pid| seen.insert(pid));

    let wanted = match args.count {
        _ if args.any => 1,
        Some(count) => count as usize,
        None => args.pids.len(),
    };
    if wanted > args.pids.len() {
        let given = args.pids.len();
        let message = format!("-c {wanted} asks for more processes than the {given} given");
        Args::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }

    let mut report = Report::new(args.verbose);
    // One thread is enough, as all it does is sleep.
    match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(pwait(&args, wanted, &mut report)),
        Err(error) => report.problem(error),
    }
    report.exit_code()
}

/// Opens the processes, and waits until `wanted` of them have exited or the time is over.
async fn pwait(args: &Args, mut wanted: usize, report: &mut Report) {
    let mut set = ExitSet::new();
    for &pid in &args.pids {
        if pid == std::process::id() {
            report.problem(format_args!("{pid} is pwait itself: it would wait forever"));
            continue;
        }
        match set.insert(pid) {
            Ok(_) => {}
            Err(error) if args.exited && error.kind() == io::ErrorKind::NotFound => {
                wanted = wanted.saturating_sub(1);
                report.news(format_args!("{pid}: not running."));
            }
            Err(error) => report.problem(error),
        }
    }

    // As long as possible is as good as for ever. Not `time::timeout`, which goes off as soon as
    // tokio's budget for one poll is used up: of hundreds that have exited, `-t 0` would miss some.
    let time_over = time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::select! {
        biased; // an exit goes before the end of the time
        () = wait(set, wanted, report) => {}
        () = time_over => report.timeout(),
    }
}

/// Waits until `wanted` of the processes have exited, or there are none left.
async fn wait(mut set: ExitSet, mut wanted: usize, report: &mut Report) {
    report.start_progress();
    while wanted > 0 && !set.is_empty() {
        report.progress(wanted.min(set.len()), set.len());
        match set.next_exit().await {
            Some(Ok(exit)) => {
                wanted -= 1;
                report.news(describe(&exit));
            }
            Some(Err(error)) => report.problem(error),
            None => break,
        }
    }
}

fn describe(exit: &Exit) -> String {
    // It was opened by its pid, so there is one.
    let pid = exit.pid().unwrap_or_default();
    let Some(status) = exit.status() else {
        return format!("{pid}: exited with unknown status.");
    };
    match status.code() {
        Some(code) => format!("{pid}: exited with status {code}."),
        // std names the signal, on the systems that have some: "signal: 9 (SIGKILL)".
        None => format!("{pid}: killed by {status}.").replace("signal: ", "signal "),
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 => {
            Duration::try_from_secs_f64(seconds).map_err(|_| "this is longer than can be waited")
        }
        _ => Err("expected a number of seconds, 0 or more, such as 2.5"),
    }
}

/// All that the user gets to see.
struct Report {
    /// Whether anybody wants to read stdout.
    verbose: bool,
    /// The progress line. It makes way for whatever else is printed.
    line: ProgressBar,
    exit_code: u8,
}

impl Report {
    fn new(verbose: bool) -> Report {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed_precise})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Report {
            verbose,
            line: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
                .with_style(style),
            exit_code: 0,
        }
    }

    /// Shows the progress line from now on, if stderr is a terminal.
    fn start_progress(&self) {
        self.line.set_draw_target(ProgressDrawTarget::stderr());
        // Without a terminal there is nothing to wake up for.
        if !self.line.is_hidden() {
            self.line.enable_steady_tick(Duration::from_secs(1));
        }
    }

    /// So many more exits are waited for, among so many processes.
    fn progress(&self, wanted: usize, running: usize) {
        self.line.set_message(match (wanted, running) {
            (1, 1) => "waiting for 1 process".into(),
            _ if wanted == running => format!("waiting for {running} processes"),
            _ => format!("waiting for any {wanted} of {running} processes"),
        });
    }

    /// Prints a line on stdout, if asked to.
    fn news(&mut self, text: impl Display) {
        if !self.verbose {
            return;
        }
        let printed = self.line.suspend(|| {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{text}").and_then(|()| stdout.flush())
        });
        if let Err(error) = printed {
            // What was asked for in the first place is the wait, so that goes on.
            self.verbose = false;
            // A reader that has left, as `head` does, has read all it wanted.
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.problem(format_args!("cannot write to stdout: {error}"));
            }
        }
    }

    /// Prints a line on stderr, and makes the exit code 1.
    fn problem(&mut self, text: impl Display) {
        self.exit_code = 1;
        let line = format!("pwait: {text}\n");
        // Not `eprintln!`, which panics if nobody can be told.
        let _ = self
            .line
            .suspend(|| io::stderr().write_all(line.as_bytes()));
    }

    fn timeout(&mut self) {
        self.news("timeout");
        self.exit_code = 124;
    }

    fn exit_code(&self) -> ExitCode {
        self.line.finish_and_clear();
        self.exit_code.into()
    }
}
