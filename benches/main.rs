//! This crate, the floor and its peers side by side, in one run:
//!
//! - `latency`: from a process's last instruction until whoever waits for it runs;
//! - `wait`: what it costs to open, poll once and drop one wait, in time, system calls and
//!   instructions;
//! - `herd`: many processes at once;
//! - `idle`: waiting for ten seconds for nothing.
//!
//! `cargo bench` runs them all, draws the pictures in this directory and writes `results.md`;
//! `cargo bench -- latency wait` runs these two and keeps nothing, nor does `--quick`, which takes
//! less than a minute and only shows that it runs.
//!
//! Contenders take turns: in every round each has one turn, in an order drawn anew. Figures are
//! medians of the rounds. Another machine gives other times, so compare ratios.

#[cfg(target_os = "linux")]
mod chart;
#[cfg(target_os = "linux")]
mod herd;
#[cfg(target_os = "linux")]
mod idle;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
mod os;
#[cfg(target_os = "linux")]
mod python;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod subject;
#[cfg(target_os = "linux")]
mod wait;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the benchmarks are for Linux");
}
