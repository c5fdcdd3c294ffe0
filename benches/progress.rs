//! The progress of a run, with the time left.
//!
//! Each part of the benchmarks runs in a process of its own, and prints its progress in lines that
//! the first process recognizes.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

/// The first character of a line that contains the completed share of a part.
const MARKER: char = '\u{1}';

/// The progress of a part, in its own process.
pub(crate) struct Progress {
    total: f64,
    done: f64,
}

impl Progress {
    /// `total` is the sum of all later steps.
    pub(crate) fn new(total: f64) -> Progress {
        Progress { total, done: 0.0 }
    }

    pub(crate) fn advance(&mut self, step: f64) {
        self.done += step;
        println!("{MARKER}{}", self.done / self.total);
    }
}

/// The progress of all parts. Shows a line on standard error, if that is a terminal.
pub(crate) struct Display {
    bar: ProgressBar,
    /// The expected seconds of all completed parts.
    before: f64,
}

impl Display {
    /// `seconds` is the expected time of all parts. The time left depends on the actual speed.
    pub(crate) fn new(seconds: f64) -> Display {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {percent} %, {left} left");
        let style = style.expect("the template is valid");
        let style = style
            .progress_chars("=> ")
            .with_key("left", write_time_left);
        let bar = ProgressBar::new(Self::position(seconds)).with_style(style);
        bar.enable_steady_tick(Duration::from_secs(1));
        Display { bar, before: 0.0 }
    }

    /// Prints a line of a part, or shows the progress that the line contains. `seconds` is the
    /// expected time of the part. Returns whether the line was printed.
    pub(crate) fn line(&self, line: &str, seconds: f64) -> bool {
        match line.strip_prefix(MARKER).map(str::parse::<f64>) {
            Some(Ok(share)) => {
                let position = self.before + share.clamp(0.0, 1.0) * seconds;
                self.bar.set_position(Self::position(position));
                false
            }
            _ => {
                self.bar.suspend(|| println!("{line}"));
                true
            }
        }
    }

    pub(crate) fn start(&self, part: &str) {
        self.bar.set_message(part.to_owned());
    }

    pub(crate) fn end(&mut self, seconds: f64) {
        self.before += seconds;
        self.bar.set_position(Self::position(self.before));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Counts in milliseconds, because a position is a whole number.
    fn position(seconds: f64) -> u64 {
        (seconds * 1000.0) as u64
    }
}

fn write_time_left(state: &ProgressState, output: &mut dyn Write) {
    let (done, total) = (
        state.pos() as f64 / 1000.0,
        state.len().unwrap_or(0) as f64 / 1000.0,
    );
    // The actual speed is known once a few seconds of work have been completed.
    let speed = match done {
        3.0.. => done / state.elapsed().as_secs_f64(),
        _ => 1.0,
    };
    let left = Duration::try_from_secs_f64((total - done) / speed).unwrap_or_default();
    _ = write!(output, "{}", HumanDuration(left));
}
