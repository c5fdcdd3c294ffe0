//! Promise: on macOS and the BSDs, a wait needs one descriptor, and so does a set of any size.

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

/// Runs in a process of its own because it counts the descriptors of the whole process.
///
/// Rests on the system's libraries, which must keep no descriptor of their own open.
#[test]
fn wait_and_set_each_need_one_fd() {
    const TEST: &str = "wait_and_set_each_need_one_fd";
    if !support::has_own_process(TEST) {
        return;
    }
    if support::poll_forced() {
        return skip("polling is forced");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut sleepers = many(300);
    let before = open_fds().len();
    runtime.block_on(async {
        let mut process = exit_of(sleepers[0].id());
        still_pending(&mut process).await;
        assert_eq!(open_fds().len(), before + 1);
        drop(process);

        let mut set = ExitSet::new();
        for sleeper in &sleepers {
            assert!(set.insert(sleeper.id()).unwrap());
        }
        still_pending(set.next_exit()).await;
        assert_eq!(open_fds().len(), before + 1);
        assert_eq!(set.polled_len(), 0);
        sleepers.iter_mut().for_each(Sleeper::kill);
        let mut ids = HashSet::new();
        while let Some(exit) = deadline(set.next_exit()).await {
            assert!(ids.insert(exit.unwrap().pid().unwrap()));
        }
        assert_eq!(ids.len(), sleepers.len());
    });
}

/// An empty set takes over the kqueue of its first member, which already has the member's filter.
///
/// Rests on the kernel, which must keep an unread exit in the kqueue of a process that it has released.
#[tokio::test]
async fn registered_process_moves_to_the_kqueue_of_a_set() {
    let (mut child, mut early) = (Child::spawn(3), Child::spawn(4));
    let (mut running, mut exited) = (exit_of(child.id()), exit_of(early.id()));
    still_pending(&mut running).await;
    still_pending(&mut exited).await;
    early.end();
    early.until_exited();
    let mut set = ExitSet::new();
    assert!(set.insert_exit(running));
    // `early` has exited, but its wait has not read the event yet.
    assert!(set.insert_exit(exited));
    assert!(!set.insert(child.id()).unwrap());
    let first = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(first.status().unwrap().code(), Some(4));
    child.end();
    let second = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(second.status().unwrap().code(), Some(3));
}

/// Rests on the kernel: macOS returns the status to those who may kill the process, NetBSD and OpenBSD to
/// those who opened it before its exit.
#[tokio::test]
async fn returns_the_status_of_another_parents_process() {
    if support::poll_forced() {
        return skip("polling is forced");
    }
    for code in [0, 7] {
        let mut grandchild = Grandchild::spawn();
        let process = ProcessExit::open(grandchild.id()).unwrap();
        assert_eq!(process.mechanism(), Some(Mechanism::Kqueue));
        grandchild.end(code);
        let exit = deadline(process).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(code.into()));
    }
}

/// Rests on the kernel, which must store the status in the event at the exit, not when it is read.
#[tokio::test]
async fn returns_the_status_after_the_reap() {
    if support::poll_forced() {
        return skip("polling is forced");
    }
    let mut grandchild = Grandchild::spawn();
    let process = exit_of(grandchild.id());
    let mut set = ExitSet::new();
    set.insert(grandchild.id()).unwrap();
    grandchild.end(9);
    grandchild.reap();
    for exit in [
        deadline(process).await,
        deadline(set.next_exit()).await.unwrap(),
    ] {
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(9));
    }
}
