//! Promise: waiting is sleeping. Nothing wakes before the exit or the timeout.

#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use support::linux;
use tokio_process_exit::exit_of;

/// Waiting 10 seconds for oneself took 258 voluntary context switches in the busy loop that this
/// crate exists to end. (<https://gmpy.dev/blog/2026/event-driven-process-waiting>)
#[test]
fn waiting_10_seconds_takes_single_digit_context_switches() {
    const TEST: &str = "waiting_10_seconds_takes_single_digit_context_switches";
    if support::role().is_none() {
        // A process of its own, as this counts the whole program's.
        return support::assert_passed(&support::rerun(TEST, "count", |_| {}));
    }
    if support::poll_forced() {
        return support::skip("a poll cannot sleep through");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let me = exit_of(std::process::id());
    let before = linux::voluntary_context_switches();
    let elapsed =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), me).await });
    let switches = linux::voluntary_context_switches() - before;
    assert!(elapsed.is_err());
    println!("{switches} voluntary context switches in 10 s");
    assert!(switches < 10, "{switches} voluntary context switches");
}
