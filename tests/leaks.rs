//! Promise: however a wait ends, it leaks no descriptor, no handle and no zombie.
//!
//! The file has a single test, because the test counts the resources of the whole process.
//!
//! Rests on the system too. On Windows, the thread pool must have started its threads in the first round:
//! each has handles. On macOS, the libraries must keep no descriptor of their own open.

mod support;

use std::time::Duration;

#[cfg(unix)]
use support::unix::Grandchild;
use support::{Child, deadline, open_handles};
use tokio::time::timeout;
use tokio_process_exit::{ExitMap, ExitSet, ProcessExit, exit_of};

#[test]
fn waits_leak_no_descriptor_and_no_zombie() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    #[cfg(target_os = "linux")]
    let children = support::linux::children();
    // Count after a first round: tokio and the test harness open descriptors during that round.
    runtime.block_on(end_waits_in_every_way());
    let before = open_handles();
    for _ in 0..50 {
        runtime.block_on(end_waits_in_every_way());
    }
    assert_eq!(open_handles(), before);
    #[cfg(target_os = "linux")]
    assert_eq!(support::linux::children(), children);
}

async fn end_waits_in_every_way() {
    // Await a wait until it resolves.
    let mut child = Child::spawn(0);
    let process = exit_of(child.id());
    child.end();
    deadline(process).await.unwrap();

    // Drop a wait before and after its first poll.
    let mut child = Child::spawn(0);
    drop(exit_of(child.id()));
    assert!(
        timeout(Duration::from_millis(1), exit_of(child.id()))
            .await
            .is_err()
    );

    // Drop a wait in another task.
    let mut process = exit_of(child.id());
    assert!(
        timeout(Duration::from_millis(1), &mut process)
            .await
            .is_err()
    );
    tokio::spawn(async move { drop(process) }).await.unwrap();

    // Abort a task that awaits the exit.
    let task = tokio::spawn(exit_of(child.id()));
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    // Await the exit, then wait for the reap with the same future.
    let mut process = exit_of(child.id());
    child.end();
    deadline(&mut process).await.unwrap();
    child.reap();
    deadline(process.until_reaped()).await.unwrap();

    // Replace, remove and drop the waits of a map.
    let mut child = Child::spawn(0);
    let mut map = ExitMap::new();
    for key in ["first", "second", "third"] {
        map.insert(key, child.id()).unwrap();
        map.insert_exit(key, exit_of(child.id()));
    }
    assert!(map.remove(&"first"));
    assert!(map.exits_within(Duration::ZERO).await.is_empty());
    child.end();
    deadline(map.next_exit()).await.unwrap().1.unwrap();
    drop(map);

    // Stop processes, and drop the future of another stop.
    let child = Child::spawn(0);
    let mut set = ExitSet::new();
    set.insert(child.id()).unwrap();
    let stop = set.stop(Duration::MAX);
    let _ = timeout(Duration::ZERO, stop).await;
    for exit in deadline(set.stop(Duration::from_millis(10))).await {
        exit.unwrap();
    }
    drop(set);

    // Fail to open or adopt a process.
    assert!(exit_of(0).await.is_err());
    assert!(ProcessExit::open(i32::MAX as u32).is_err());
    #[cfg(target_os = "linux")]
    {
        let (pipe, _) = support::unix::pipe();
        assert!(ProcessExit::try_from(std::os::fd::OwnedFd::from(pipe)).is_err());
    }

    // Wait for a process that is not our child.
    #[cfg(unix)]
    {
        let mut grandchild = Grandchild::spawn();
        let process = exit_of(grandchild.id());
        grandchild.end(0);
        deadline(process).await.unwrap();
    }
}
