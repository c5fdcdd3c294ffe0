//! Compares this crate with other ways to wait for processes, in one run:
//!
//! - `compare`: one table of a few of these ways;
//! - `wait`: the time, system calls and instructions that one wait costs;
//! - `latency`: the time from a process's exit until the waiting program runs;
//! - `idle`: context switches during ten seconds in which nothing happens;
//! - `many`: thousands of processes at once;
//! - `compare`: one small table, only on request.
//!
//! `cargo bench` runs all parts, draws the pictures in this directory and writes `results.md`.
//! With `--quick` or the names of parts, these files do not change. See `README.md`.

#[cfg(target_os = "linux")]
mod chart;
#[cfg(target_os = "linux")]
mod compare;
#[cfg(target_os = "linux")]
mod idle;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
mod many;
#[cfg(target_os = "linux")]
mod os;
#[cfg(target_os = "linux")]
mod progress;
#[cfg(target_os = "linux")]
mod python;
#[cfg(target_os = "linux")]
mod report;
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
    println!("these benchmarks run on Linux only");
}
