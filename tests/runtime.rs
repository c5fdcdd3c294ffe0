//! Promise: any tokio runtime will do, and none is harmed.

mod support;

use std::time::Duration;

use support::{Child, deadline, still_pending};
use tokio::runtime::{Builder, Runtime};
use tokio_process_exit::exit_of;

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap(),
    ]
}

#[test]
fn both_flavours_of_runtime_will_do() {
    for runtime in runtimes() {
        let mut child = Child::spawn(7);
        let exit = exit_of(child.id());
        let task = runtime.spawn(exit);
        child.end();
        let exit = runtime.block_on(deadline(task)).unwrap().unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(7));
    }
}

#[test]
fn a_runtime_without_time_will_do() {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let mut child = Child::spawn(0);
    child.end();
    runtime.block_on(exit_of(child.id())).unwrap();
}

#[test]
fn it_goes_on_in_another_runtime_when_the_first_is_no_longer_driven() {
    let [first, second] = runtimes();
    let mut child = Child::spawn(7);
    let mut exit = exit_of(child.id());
    first.block_on(still_pending(&mut exit));
    // `first` lives on, but nobody drives it.
    second.block_on(still_pending(&mut exit));
    first.block_on(still_pending(&mut exit));
    child.end();
    second.block_on(deadline(exit)).unwrap();
}

#[test]
fn it_goes_on_in_another_runtime_when_the_first_has_shut_down() {
    let [first, second] = runtimes();
    let mut child = Child::spawn(7);
    let mut exit = exit_of(child.id());
    first.block_on(still_pending(&mut exit));
    drop(first);
    second.block_on(still_pending(&mut exit));
    child.end();
    assert_eq!(
        second.block_on(deadline(exit)).unwrap().pid(),
        Some(child.id())
    );
}

#[test]
fn a_runtime_shuts_down_at_once_with_waits_in_it() {
    for runtime in runtimes() {
        let child = Child::spawn(0);
        let mut outside = exit_of(child.id());
        runtime.block_on(async {
            for _ in 0..10 {
                tokio::spawn(exit_of(child.id()));
            }
            still_pending(&mut outside).await;
        });
        let start = std::time::Instant::now();
        drop(runtime);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(outside.try_wait().unwrap(), None);
    }
}

#[cfg(unix)]
#[test]
#[should_panic(expected = "there is no reactor running")]
fn polling_outside_a_runtime_panics_as_tokio_does() {
    if support::poll_forced() {
        panic!("there is no reactor running, and none is needed: everything is polled");
    }
    let _ = futures::executor::block_on(exit_of(std::process::id()));
}

#[test]
fn opening_outside_a_runtime_is_fine() {
    let child = Child::spawn(0);
    let exit = exit_of(child.id());
    assert!(exit.mechanism().is_some());
}
