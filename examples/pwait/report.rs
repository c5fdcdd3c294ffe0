//! The output of the command, and its progress line.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};

/// The output and the exit code of the command.
pub(crate) struct Report {
    /// Whether exits are printed on stdout.
    verbose: bool,
    /// Whether all lines could be written to stdout so far.
    stdout_works: bool,
    /// The errors that have been printed.
    errors: HashSet<String>,
    /// Whether stderr is a terminal, which can show the progress line.
    pub(crate) is_terminal: bool,
    /// The progress line, hidden while another line is printed.
    progress: ProgressBar,
    exit_code: u8,
}

impl Report {
    pub(crate) fn new(verbose: bool) -> Report {
        let style = ProgressStyle::with_template("{msg} ({elapsed_precise})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Report {
            verbose,
            stdout_works: true,
            errors: HashSet::new(),
            is_terminal: io::stderr().is_terminal(),
            progress: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
                .with_style(style),
            exit_code: 0,
        }
    }

    /// Draws the progress line: `wanted` of `running` processes have yet to exit.
    pub(crate) fn show_progress(&self, wanted: usize, running: usize) {
        let message = match (wanted, running) {
            (1, 1) => "waiting for 1 process".into(),
            _ if wanted == running => format!("waiting for {running} processes"),
            _ => format!("waiting for any {wanted} of {running} processes"),
        };
        self.draw(|progress| {
            if progress.is_hidden() && self.is_terminal && is_foreground() {
                progress.set_draw_target(ProgressDrawTarget::stderr());
            }
            progress.set_message(message);
        });
    }

    /// Calls a function that may draw the progress line. The line is hidden in the background, where
    /// the shell has the terminal.
    fn draw<R>(&self, draw: impl FnOnce(&ProgressBar) -> R) -> R {
        if !self.is_terminal {
            return draw(&self.progress);
        }
        // Delay Ctrl-Z: between the check and the drawing, the shell would print its prompt.
        #[cfg(unix)]
        let ctrl_z = SigSet::from(Signal::SIGTSTP);
        #[cfg(unix)]
        let _ = ctrl_z.thread_block();
        if !is_foreground() {
            self.progress.set_draw_target(ProgressDrawTarget::hidden());
        }
        let result = draw(&self.progress);
        #[cfg(unix)]
        let _ = ctrl_z.thread_unblock();
        result
    }

    /// Prints a line on stdout, if `-v` was given.
    pub(crate) fn verbose(&mut self, text: impl Display) {
        if self.verbose {
            self.print(text);
        }
    }

    /// Prints a line on stdout.
    pub(crate) fn print(&mut self, text: impl Display) {
        if !self.stdout_works {
            return;
        }
        let print = || {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{text}").and_then(|()| stdout.flush())
        };
        let printed = self.draw(|progress| progress.suspend(print));
        if let Err(error) = printed {
            // Continue to wait, but without output.
            self.stdout_works = false;
            // A broken pipe is not an error: a reader such as `head` exits when it has enough.
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.error(format_args!("cannot write to stdout: {error}"));
            }
        }
    }

    /// Prints a line on stderr, unless it has been printed before, and sets the exit code to 1.
    pub(crate) fn error(&mut self, text: impl Display) {
        self.exit_code = 1;
        let line = format!("pwait: {text}\n");
        // `eprintln!` would panic if stderr is closed.
        let print = || io::stderr().write_all(line.as_bytes());
        if self.errors.insert(line.clone()) {
            let _ = self.draw(|progress| progress.suspend(print));
        }
    }

    /// Prints "timeout" as FreeBSD's `pwait(1)` does, and sets the exit code to 124.
    pub(crate) fn timeout(&mut self) {
        self.verbose("timeout");
        self.exit_code = 124;
    }

    /// Removes the progress line and returns the exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.draw(ProgressBar::finish_and_clear);
        self.exit_code.into()
    }
}

/// Returns whether this process may draw on the terminal: it is not a background job of a shell.
fn is_foreground() -> bool {
    #[cfg(unix)]
    return nix::unistd::tcgetpgrp(io::stderr()) == Ok(nix::unistd::getpgrp());
    #[cfg(not(unix))]
    true
}
