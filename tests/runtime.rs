//! Promise: a `ProcessExit` works on every tokio runtime, and never delays a runtime's shutdown.

mod support;

use std::time::Duration;

use support::{Child, at_most, deadline, many, poll_once, runtimes, still_pending};
use tokio::runtime::Builder;
use tokio_process_exit::{ExitSet, Mechanism, exit_of};

#[test]
fn works_on_both_runtime_flavors() {
    for runtime in runtimes() {
        let mut child = Child::spawn(7);
        let process = exit_of(child.id());
        let task = runtime.spawn(process);
        child.end();
        let exit = runtime.block_on(deadline(task)).unwrap().unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(7));
    }
}

#[test]
fn works_on_a_runtime_without_time() {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let mut child = Child::spawn(0);
    child.end();
    runtime.block_on(exit_of(child.id())).unwrap();
}

#[test]
fn continues_while_the_first_runtime_is_not_driven() {
    let [first, second] = runtimes();
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    first.block_on(still_pending(&mut process));
    // `first` still exists, but no thread drives it.
    second.block_on(still_pending(&mut process));
    first.block_on(still_pending(&mut process));
    child.end();
    second.block_on(deadline(process)).unwrap();
}

#[test]
fn first_poll_in_another_runtime_returns_the_exit() {
    if exit_of(std::process::id()).mechanism() == Some(Mechanism::Polling) {
        return support::skip("a polled wait does not depend on the runtime");
    }
    let [first, second] = runtimes();
    for _ in 0..at_most(200) {
        let mut sleeper = many(1);
        let mut process = exit_of(sleeper[0].id());
        let mut set = ExitSet::new();
        set.insert(sleeper[0].id()).unwrap();
        first.block_on(async {
            assert!(poll_once(&mut process).is_none());
            assert!(poll_once(Box::pin(set.next_exit())).is_none());
        });
        sleeper[0].kill();
        second.block_on(async {
            if cfg!(unix) {
                assert!(poll_once(&mut process).is_some());
                assert!(poll_once(Box::pin(set.next_exit())).is_some());
            } else {
                // On Windows, no wait depends on the runtime. The system's thread pool reports the exit, a moment
                // after the process has exited.
                deadline(process).await.unwrap();
                deadline(set.next_exit()).await.unwrap().unwrap();
            }
        });
    }
}

#[test]
fn continues_after_the_first_runtime_shuts_down() {
    let [first, second] = runtimes();
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    first.block_on(still_pending(&mut process));
    drop(first);
    second.block_on(still_pending(&mut process));
    child.end();
    assert_eq!(
        second.block_on(deadline(process)).unwrap().pid(),
        Some(child.id())
    );
}

#[test]
fn runtime_with_pending_waits_shuts_down_at_once() {
    for runtime in runtimes() {
        let child = Child::spawn(0);
        let mut process = exit_of(child.id());
        runtime.block_on(async {
            for _ in 0..10 {
                tokio::spawn(exit_of(child.id()));
            }
            still_pending(&mut process).await;
        });
        let start = std::time::Instant::now();
        drop(runtime);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(process.try_wait().unwrap(), None);
    }
}

#[cfg(unix)]
#[test]
#[should_panic(expected = "there is no reactor running")]
fn awaiting_outside_a_runtime_panics() {
    if support::poll_forced() {
        panic!("there is no reactor running: polling is forced and does not need a reactor");
    }
    let _ = futures::executor::block_on(exit_of(std::process::id()));
}

#[cfg(unix)]
#[test]
#[should_panic(expected = "Call `enable_io` on the runtime builder")]
fn awaiting_in_a_runtime_without_io_panics() {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    if support::poll_forced() {
        panic!("Call `enable_io` on the runtime builder: polling is forced and needs no reactor");
    }
    let _ = runtime.block_on(exit_of(std::process::id()));
}

#[test]
fn opens_a_process_outside_a_runtime() {
    let child = Child::spawn(0);
    let process = exit_of(child.id());
    assert!(process.mechanism().is_some());
}
