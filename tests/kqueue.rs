//! Promise: on macOS and the BSDs one descriptor does for a wait, and one for a set of any size.

#![cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]

mod support;

use std::collections::HashSet;

use support::unix::{Grandchild, open_fds};
use support::{Child, Sleeper, deadline, many, skip, still_pending};
use tokio_process_exit::{ExitSet, Mechanism, ProcessExit, exit_of};

/// In a process of its own, as it counts descriptors.
#[test]
fn a_wait_takes_one_descriptor_and_a_set_one_for_all() {
    const TEST: &str = "a_wait_takes_one_descriptor_and_a_set_one_for_all";
    if support::role().is_none() {
        return support::assert_passed(&support::rerun(TEST, "count", |_| {}));
    }
    if support::poll_forced() {
        return skip("polling is forced");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut processes = many(300);
    let before = open_fds().len();
    runtime.block_on(async {
        let mut exit = exit_of(processes[0].id());
        still_pending(&mut exit).await;
        assert_eq!(open_fds().len(), before + 1);
        drop(exit);

        let mut set = ExitSet::new();
        for process in &processes {
            assert!(set.insert(process.id()).unwrap());
        }
        still_pending(set.next_exit()).await;
        assert_eq!(open_fds().len(), before + 1);
        assert_eq!(set.polled_len(), 0);
        processes.iter_mut().for_each(Sleeper::kill);
        let mut ids = HashSet::new();
        while let Some(exit) = deadline(set.next_exit()).await {
            assert!(ids.insert(exit.unwrap().pid().unwrap()));
        }
        assert_eq!(ids.len(), processes.len());
    });
}

/// A filter is one per pid, so an event that was not read yet must not stand in for the next.
#[tokio::test]
async fn a_process_goes_from_its_own_kqueue_to_that_of_a_set() {
    let (mut child, mut early) = (Child::spawn(3), Child::spawn(4));
    let (mut exit, mut ended) = (exit_of(child.id()), exit_of(early.id()));
    still_pending(&mut exit).await;
    still_pending(&mut ended).await;
    early.end();
    early.until_exited();
    let mut set = ExitSet::new();
    assert!(set.insert_exit(exit));
    // It has exited, and has not told yet.
    assert!(set.insert_exit(ended));
    assert!(!set.insert(child.id()).unwrap());
    let first = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(first.status().unwrap().code(), Some(4));
    child.end();
    let second = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(second.status().unwrap().code(), Some(3));
}

#[tokio::test]
async fn the_status_of_another_parents_process_comes_with_its_exit() {
    if support::poll_forced() {
        return skip("polling is forced");
    }
    for code in [0, 7] {
        let mut grandchild = Grandchild::spawn();
        let exit = ProcessExit::open(grandchild.id()).unwrap();
        assert_eq!(exit.mechanism(), Some(Mechanism::Kqueue));
        grandchild.end(code);
        let exit = deadline(exit).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(code.into()));
    }
}

#[tokio::test]
async fn an_open_wait_knows_the_status_also_after_the_reap() {
    if support::poll_forced() {
        return skip("polling is forced");
    }
    let mut grandchild = Grandchild::spawn();
    let exit = exit_of(grandchild.id());
    let mut set = ExitSet::new();
    set.insert(grandchild.id()).unwrap();
    grandchild.end(9);
    grandchild.reap();
    for exit in [
        deadline(exit).await,
        deadline(set.next_exit()).await.unwrap(),
    ] {
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(9));
    }
}
