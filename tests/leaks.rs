//! Promise: nothing is left behind: no descriptor, no handle, no zombie.
//!
//! One test, as it counts what the whole process holds.

mod support;

use std::time::Duration;

#[cfg(unix)]
use support::unix::Grandchild;
use support::{Child, deadline, open_handles};
use tokio::time::timeout;
use tokio_process_exit::{ProcessExit, exit_of};

#[test]
fn waits_leave_no_descriptor_and_no_zombie_behind() {
    // The harness runs this in a thread of its own, and may itself be late to let go of things.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    #[cfg(target_os = "linux")]
    let children = support::linux::children();
    runtime.block_on(every_way_to_end());
    let before = open_handles();
    for _ in 0..50 {
        runtime.block_on(every_way_to_end());
    }
    assert_eq!(open_handles(), before);
    #[cfg(target_os = "linux")]
    assert_eq!(support::linux::children(), children);
}

async fn every_way_to_end() {
    // Awaited to the end.
    let mut child = Child::spawn(0);
    let exit = exit_of(child.id());
    child.end();
    deadline(exit).await.unwrap();

    // Dropped before the first poll, and after.
    let mut child = Child::spawn(0);
    drop(exit_of(child.id()));
    assert!(
        timeout(Duration::from_millis(1), exit_of(child.id()))
            .await
            .is_err()
    );

    // Dropped in another task.
    let mut exit = exit_of(child.id());
    assert!(timeout(Duration::from_millis(1), &mut exit).await.is_err());
    tokio::spawn(async move { drop(exit) }).await.unwrap();

    // Aborted.
    let task = tokio::spawn(exit_of(child.id()));
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    // Resolved and kept, then asked for the reap.
    let mut exit = exit_of(child.id());
    child.end();
    deadline(&mut exit).await.unwrap();
    child.reap();
    deadline(exit.until_reaped()).await.unwrap();

    // Errors.
    assert!(exit_of(0).await.is_err());
    assert!(ProcessExit::open(i32::MAX as u32).is_err());
    #[cfg(target_os = "linux")]
    {
        let (pipe, _) = support::unix::pipe();
        assert!(ProcessExit::try_from(std::os::fd::OwnedFd::from(pipe)).is_err());
    }

    // Not a child.
    #[cfg(unix)]
    {
        let mut grandchild = Grandchild::spawn();
        let exit = exit_of(grandchild.id());
        grandchild.end(0);
        deadline(exit).await.unwrap();
    }
}
