//! A command that waits for processes to exit, like `pwait(1)` on FreeBSD.
//!
//! The command waits for any process, not only for children of the shell. Use it in a script that
//! must not continue before some other program has exited. This source also shows how to wait for
//! many processes with one `ExitSet`, with a timeout and a progress line.
//!
//! You can try the command with:
//!
//! ```console
//! $ sleep 3 & cargo run --example pwait -- -v $!
//! 1234: exited with status 0.
//! ```
//!
//! `cargo run --example pwait -- --help` explains all options and exit codes.
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! indicatif = "0.18"
//! tokio = { version = "1", features = ["macros", "rt", "time"] }
//! tokio-process-exit = "0.1"
//! ```

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

/// Wait for processes to exit, whether or not they are your children
#[derive(Parser)]
#[command(name = "pwait", after_help = AFTER_HELP)]
struct Args {
    /// Stop waiting after SECONDS (such as 10 or 0.5), with exit code 124
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
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

    /// Treat a PID that does not exist as exited, instead of as an error
    #[arg(short, long)]
    exited: bool,

    /// Ids of the processes, for example from `ps` or `$!`; duplicates count once
    #[arg(value_name = "PID", required = true)]
    pids: Vec<u32>,
}

const AFTER_HELP: &str = "\
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
  pwait -e 1234 && echo gone   Succeed also if there is no process 1234
  sleep 3 & pwait -v $!        Wait for the last background command of the shell";

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
        let message = format!("-c {wanted} exceeds the number of distinct PIDs ({given})");
        Args::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }

    let mut report = Report::new(args.verbose);
    // A current-thread runtime is enough: a wait needs no thread of its own.
    match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(pwait(&args, wanted, &mut report)),
        Err(error) => report.error(error),
    }
    report.exit_code()
}

/// Opens the processes and waits until `wanted` of them have exited or the timeout expires.
async fn pwait(args: &Args, mut wanted: usize, report: &mut Report) {
    let mut set = ExitSet::new();
    for &pid in &args.pids {
        if pid == std::process::id() {
            report.error(format_args!("{pid} is pwait itself: it would wait forever"));
            continue;
        }
        match set.insert(pid) {
            Ok(_) => {}
            Err(error) if args.exited && error.kind() == io::ErrorKind::NotFound => {
                wanted = wanted.saturating_sub(1);
                report.print(format_args!("{pid}: not running."));
            }
            Err(error) => report.error(error),
        }
    }

    // Without `-t`, sleep for the longest possible time, which is practically forever.
    //
    // Do not use `time::timeout` here: it also checks its deadline when the inner future has used
    // up tokio's cooperative budget. With hundreds of exited processes, `-t 0` would miss some.
    let timeout = time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::select! {
        biased; // report exits before the timeout
        () = wait(set, wanted, report) => {}
        () = timeout => report.timeout(),
    }
}

/// Waits until `wanted` of the processes have exited, or until the set is empty.
async fn wait(mut set: ExitSet, mut wanted: usize, report: &mut Report) {
    report.start_progress();
    while wanted > 0 && !set.is_empty() {
        report.set_progress(wanted.min(set.len()), set.len());
        match set.next_exit().await {
            Some(Ok(exit)) => {
                wanted -= 1;
                report.print(describe(&exit));
            }
            Some(Err(error)) => report.error(error),
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

/// Parses the value of `-t`.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 => {
            Duration::try_from_secs_f64(seconds).map_err(|_| "the timeout is too long")
        }
        _ => Err("expected a number of seconds, 0 or more, such as 2.5"),
    }
}

/// The output and the exit code of the command.
struct Report {
    /// Whether exits are printed on stdout.
    verbose: bool,
    /// The progress line on stderr, hidden while another line is printed.
    progress: ProgressBar,
    exit_code: u8,
}

impl Report {
    fn new(verbose: bool) -> Report {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed_precise})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Report {
            verbose,
            progress: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
                .with_style(style),
            exit_code: 0,
        }
    }

    /// Shows the progress line from now on, if stderr is a terminal.
    fn start_progress(&self) {
        self.progress.set_draw_target(ProgressDrawTarget::stderr());
        // Start the ticker only for a visible line: otherwise it would wake up for nothing.
        if !self.progress.is_hidden() {
            self.progress.enable_steady_tick(Duration::from_secs(1));
        }
    }

    /// Sets the text of the progress line: `wanted` of `running` processes have yet to exit.
    fn set_progress(&self, wanted: usize, running: usize) {
        self.progress.set_message(match (wanted, running) {
            (1, 1) => "waiting for 1 process".into(),
            _ if wanted == running => format!("waiting for {running} processes"),
            _ => format!("waiting for any {wanted} of {running} processes"),
        });
    }

    /// Prints a line on stdout, if `-v` was given.
    fn print(&mut self, text: impl Display) {
        if !self.verbose {
            return;
        }
        let printed = self.progress.suspend(|| {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{text}").and_then(|()| stdout.flush())
        });
        if let Err(error) = printed {
            // Continue to wait, but without output.
            self.verbose = false;
            // A broken pipe is not an error: a reader such as `head` exits when it has enough.
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.error(format_args!("cannot write to stdout: {error}"));
            }
        }
    }

    /// Prints a line on stderr and sets the exit code to 1.
    fn error(&mut self, text: impl Display) {
        self.exit_code = 1;
        let line = format!("pwait: {text}\n");
        // `eprintln!` would panic if stderr is closed.
        let _ = self
            .progress
            .suspend(|| io::stderr().write_all(line.as_bytes()));
    }

    /// Prints "timeout" as FreeBSD's `pwait(1)` does, and sets the exit code to 124.
    fn timeout(&mut self) {
        self.print("timeout");
        self.exit_code = 124;
    }

    /// Removes the progress line and returns the exit code.
    fn exit_code(&self) -> ExitCode {
        self.progress.finish_and_clear();
        self.exit_code.into()
    }
}
