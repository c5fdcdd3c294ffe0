//! Promise: a wait sleeps. The program does not wake up before the exit or the timeout.

#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use support::linux;
use tokio_process_exit::exit_of;

/// A busy loop takes 258 voluntary context switches to wait 10 seconds for its own process.
///
/// Source: <https://gmpy.dev/blog/2026/event-driven-process-waiting>
#[test]
fn waits_10_seconds_in_under_10_context_switches() {
    const TEST: &str = "waits_10_seconds_in_under_10_context_switches";
    // Run in a separate process: the count includes every thread of the process.
    if !support::has_own_process(TEST) {
        return;
    }
    if support::poll_forced() {
        return support::skip("polling is forced, so the poller wakes up at intervals");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let switches = linux::context_switches_of(Duration::from_secs(10), |duration| {
        let process = exit_of(std::process::id());
        let exit = runtime.block_on(async { tokio::time::timeout(duration, process).await });
        assert!(exit.is_err(), "{exit:?}");
    });
    assert!(switches < 10, "{switches} voluntary context switches");
}
