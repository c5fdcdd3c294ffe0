//! Promise: on Windows too nothing is lost, leaked or locked up, whatever the code and the waker.

#![cfg(windows)]

mod support;

use std::collections::HashSet;
use std::future::Future;
use std::io::ErrorKind;
use std::os::windows::io::{AsHandle, FromRawHandle, OwnedHandle};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures::future::join_all;
use support::{Child, deadline, many, shell, still_pending};
use tokio_process_exit::{ExitSet, Mechanism, ProcessExit, exit_of};

/// `STILL_ACTIVE`, as `GetExitCodeProcess` says of a process that is running.
const STILL_ACTIVE: i32 = 259;

#[tokio::test]
async fn every_exit_code_is_told_259_included() {
    for code in [0, 1, 255, 256, STILL_ACTIVE, i32::MAX, -1, i32::MIN] {
        let mut child = Child::spawn_command(&mut shell(&format!("exit {code}")));
        let exit = deadline(exit_of(child.id())).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(code));
        assert_eq!(exit.status(), Some(child.reap()));
    }
}

#[tokio::test]
async fn a_process_that_will_exit_with_259_is_not_taken_for_exited_nor_for_running() {
    let read_and_exit = format!("set /p line= & exit {STILL_ACTIVE}");
    let mut child = Child::spawn_command(&mut shell(&read_and_exit));
    let mut exit = exit_of(child.id());
    let mut set = ExitSet::new();
    set.insert(child.id()).unwrap();
    still_pending(&mut exit).await;
    assert_eq!(exit.try_wait().unwrap(), None);
    child.end();
    for exit in [
        deadline(exit).await,
        deadline(set.next_exit()).await.unwrap(),
    ] {
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(STILL_ACTIVE));
    }
}

#[tokio::test]
async fn a_terminated_process_has_the_code_it_was_terminated_with() {
    let mut child = Child::spawn(0);
    let exit = exit_of(child.id());
    child.kill();
    assert_eq!(
        deadline(exit).await.unwrap().status().unwrap().code(),
        Some(1)
    );
}

#[tokio::test]
async fn reaped_resolves_at_the_exit_as_there_is_no_reaping() {
    let mut child = Child::spawn(3);
    let mut exit = exit_of(child.id()).until_reaped();
    let mut set = ExitSet::new();
    set.insert_exit(exit_of(child.id()).until_reaped());
    still_pending(&mut exit).await;
    child.end();
    let exit = deadline(exit).await.unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(3));
    assert_eq!(deadline(set.next_exit()).await.unwrap().unwrap(), exit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_processes_than_one_thread_can_wait_for() {
    // MAXIMUM_WAIT_OBJECTS is 64.
    let mut children = many(150);
    let exits = children.iter().map(|child| exit_of(child.id()));
    let tasks: Vec<_> = exits.map(tokio::spawn).collect();
    let mut set = ExitSet::new();
    for child in &children {
        assert!(set.insert(child.id()).unwrap());
    }
    still_pending(set.next_exit()).await;
    children.iter_mut().rev().for_each(Child::end);
    for (child, exit) in children.iter().zip(deadline(join_all(tasks)).await) {
        assert_eq!(exit.unwrap().unwrap().pid(), Some(child.id()));
    }
    let exits = set.exits_within(Duration::from_secs(20)).await.unwrap();
    assert_eq!(exits.len(), children.len());
}

/// A process can be opened for as long as anybody has a handle of it, so one that we have dropped
/// shows whether all of ours are closed.
fn assert_forgotten(child: Child) {
    let pid = child.id();
    drop(child);
    support::until_forgotten(pid);
}

#[tokio::test]
async fn cancelled_waits_leave_nothing_behind() {
    let mut noop = Context::from_waker(Waker::noop());
    let child = Child::spawn(0);
    for _ in 0..100 {
        let mut exit = exit_of(child.id());
        assert!(Pin::new(&mut exit).poll(&mut noop).is_pending());
        let mut set = ExitSet::new();
        set.insert(child.id()).unwrap();
        assert!(set.poll_next_exit(&mut noop).is_pending());
    }
    assert_forgotten(child);

    let (removed, other) = (Child::spawn(0), Child::spawn(0));
    let mut set = ExitSet::new();
    set.insert(removed.id()).unwrap();
    set.insert(other.id()).unwrap();
    assert!(set.poll_next_exit(&mut noop).is_pending());
    assert!(set.remove(removed.id()));
    assert_forgotten(removed);

    let mut child = Child::spawn(0);
    let mut exit = exit_of(child.id());
    child.end();
    deadline(&mut exit).await.unwrap();
    drop(exit);
    assert_forgotten(child);
}

/// Drops what it holds when it is woken, in the middle of the callback.
struct DropWaker<T>(Mutex<Option<T>>);

impl<T: Send + 'static> Wake for DropWaker<T> {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

impl<T> DropWaker<T> {
    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

/// Polls once with a waker that will drop the future, and puts it there.
fn poll_to_drop<F: Future + Unpin + Send + 'static>(mut future: F) -> Arc<DropWaker<F>> {
    let waker = Arc::new(DropWaker(Mutex::new(None)));
    // A wake-up waits for the lock until the future has arrived.
    let mut slot = waker.0.lock().unwrap();
    let shared = Waker::from(waker.clone());
    assert!(
        Pin::new(&mut future)
            .poll(&mut Context::from_waker(&shared))
            .is_pending()
    );
    *slot = Some(future);
    drop(slot);
    waker
}

#[tokio::test]
async fn a_waker_may_drop_the_wait_that_wakes_it() {
    for _ in 0..30 {
        let mut child = Child::spawn(0);
        let waker = poll_to_drop(exit_of(child.id()));
        child.end();
        support::until("it is dropped", || waker.is_empty());
    }
}

#[tokio::test]
async fn a_waker_may_drop_other_waits_too() {
    let alive = many(5);
    for _ in 0..20 {
        let mut child = Child::spawn(0);
        // The one that exits, and others that the same thread may wait for.
        let mut exits: Vec<ProcessExit> = alive.iter().map(|child| exit_of(child.id())).collect();
        exits.push(exit_of(child.id()));
        let waker = poll_to_drop(futures::future::select_all(exits));
        child.end();
        support::until("they are dropped", || waker.is_empty());
        assert_forgotten(child);
    }
    alive.into_iter().for_each(assert_forgotten);
    // The waits that are left still work.
    let mut child = Child::spawn(3);
    let exit = exit_of(child.id());
    child.end();
    deadline(exit).await.unwrap();
}

#[tokio::test]
async fn a_waker_may_drop_a_set() {
    let alive = many(5);
    for _ in 0..10 {
        let mut child = Child::spawn(0);
        let mut set = ExitSet::new();
        for child in alive.iter().chain([&child]) {
            set.insert(child.id()).unwrap();
        }
        let waker = poll_to_drop(futures::stream::StreamExt::into_future(set));
        child.end();
        support::until("it is dropped", || waker.is_empty());
    }
}

/// Keeps the callback that wakes it until it is released.
struct Block {
    woken: AtomicBool,
    released: Mutex<()>,
}

impl Wake for Block {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        drop(self.released.lock());
    }
}

/// All waits of this process share a thread, as long as they are few.
#[test]
fn while_the_thread_that_calls_back_is_busy_all_exits_are_seen_and_drops_do_not_wait() {
    if support::poll_forced() {
        return support::skip("polling is forced, so that no thread calls back");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut children = many(4);
    let block = Arc::new(Block {
        woken: AtomicBool::new(false),
        released: Mutex::new(()),
    });
    let waker = Waker::from(block.clone());
    let mut exit = exit_of(children[0].id());
    assert!(
        Pin::new(&mut exit)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let mut sets = [ExitSet::new(), ExitSet::new()];
    for set in &mut sets {
        for child in &children[1..] {
            set.insert(child.id()).unwrap();
        }
        let mut noop = Context::from_waker(Waker::noop());
        assert!(set.poll_next_exit(&mut noop).is_pending());
    }
    let dropped = exit_of(children[3].id());
    let mut dropped = Box::pin(dropped);
    assert!(
        dropped
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );

    let held = block.released.lock().unwrap();
    children[0].kill();
    support::until("the callback", || block.woken.load(Ordering::Acquire));
    children[1..3].iter_mut().for_each(Child::kill);
    // Under a lock that the callback waits for.
    drop(dropped);
    let [mut one, mut other] = sets;
    assert_eq!(
        runtime
            .block_on(other.exits_within(Duration::ZERO))
            .unwrap()
            .len(),
        2
    );
    let mut ids = HashSet::new();
    while let Some(exit) = one.try_next_exit() {
        assert!(ids.insert(exit.unwrap().pid().unwrap()));
    }
    assert_eq!(ids.len(), 2);
    drop((one, other));
    drop(held);
}

#[tokio::test]
async fn a_wait_that_has_ended_lets_go_of_its_waker() {
    let mut child = Child::spawn(0);
    let block = Arc::new(Block {
        woken: AtomicBool::new(false),
        released: Mutex::new(()),
    });
    let waker = Waker::from(block.clone());
    let mut exit = exit_of(child.id());
    assert!(
        Pin::new(&mut exit)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(waker);
    child.kill();
    assert!(exit.try_wait().unwrap().is_some());
    support::until("no waker", || Arc::strong_count(&block) == 1);
}

/// The callback waits for a lock that is held where the wait is dropped.
#[tokio::test]
async fn dropping_does_not_wait_for_a_waker() {
    for _ in 0..20 {
        let mut child = Child::spawn(0);
        let waker = poll_to_drop(exit_of(child.id()));
        let mut held = waker.0.lock().unwrap();
        child.kill();
        // It is being called back, or about to be.
        std::thread::sleep(Duration::from_millis(20));
        drop(held.take());
    }
}

#[test]
fn no_runtime_is_needed() {
    let mut child = Child::spawn(4);
    let exit = exit_of(child.id());
    child.end();
    if support::poll_forced() {
        return support::skip("polling is forced, which takes the blocking pool");
    }
    let exit = futures::executor::block_on(exit).unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(4));
}

/// `OpenProcess` ignores the two low bits.
#[tokio::test]
async fn a_number_beside_a_pid_is_not_found() {
    let child = Child::spawn(0);
    let thread = support::thread_id();
    for pid in (child.id() + 1..child.id() + 4).chain(thread + 1..thread + 4) {
        let error = ProcessExit::open(pid).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("no process with pid {pid}"));
    }
}

#[tokio::test]
async fn a_process_handle_can_be_adopted() {
    let mut child = Child::spawn(6);
    let handle = child.0.as_handle().try_clone_to_owned().unwrap();
    let mut exit = ProcessExit::try_from(handle).unwrap();
    assert_eq!(exit.pid(), Some(child.id()));
    assert!(exit.as_handle().is_some());
    if !support::poll_forced() {
        assert_eq!(exit.mechanism(), Some(Mechanism::WaitHandle));
    }
    still_pending(&mut exit).await;
    let mut set = ExitSet::new();
    assert!(set.insert(child.id()).unwrap());
    assert!(!set.insert_exit(exit));
    child.end();
    let exit = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(6));
}

#[test]
fn a_handle_of_anything_else_is_refused() {
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let mut child = Child::spawn(0);
    let pipe = child.0.stdin.take().unwrap();
    for handle in [OwnedHandle::from(file), OwnedHandle::from(pipe)] {
        let error = ProcessExit::try_from(handle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(
            error.to_string().contains("is not one of a process"),
            "{error}"
        );
    }
    // SAFETY: neither is a handle that anybody else owns, and both may be closed.
    for handle in [-1_isize, 0].map(|raw| unsafe { OwnedHandle::from_raw_handle(raw as _) }) {
        let error = ProcessExit::try_from(handle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
