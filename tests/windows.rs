//! Promise: on Windows a wait loses no exit, leaks no handle and never deadlocks.
//!
//! The promise holds for every exit code, and for wakers that block or drop the wait.

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

/// `STILL_ACTIVE`, the exit code that `GetExitCodeProcess` returns for a running process.
const STILL_ACTIVE: i32 = 259;

#[tokio::test]
async fn returns_every_exit_code_including_259() {
    for code in [0, 1, 255, 256, STILL_ACTIVE, i32::MAX, -1, i32::MIN] {
        let mut child = Child::spawn_command(&mut shell(&format!("exit {code}")));
        let exit = deadline(exit_of(child.id())).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(code));
        assert_eq!(exit.status(), Some(child.reap()));
    }
}

#[tokio::test]
async fn exit_code_259_is_not_still_active() {
    let read_and_exit = format!("set /p line= & exit {STILL_ACTIVE}");
    let mut child = Child::spawn_command(&mut shell(&read_and_exit));
    let mut process = exit_of(child.id());
    let mut set = ExitSet::new();
    set.insert(child.id()).unwrap();
    still_pending(&mut process).await;
    assert_eq!(process.try_wait().unwrap(), None);
    child.end();
    for exit in [
        deadline(process).await,
        deadline(set.next_exit()).await.unwrap(),
    ] {
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(STILL_ACTIVE));
    }
}

#[tokio::test]
async fn returns_the_code_given_to_terminate_process() {
    let mut child = Child::spawn(0);
    let process = exit_of(child.id());
    child.kill();
    assert_eq!(
        deadline(process).await.unwrap().status().unwrap().code(),
        Some(1)
    );
}

#[tokio::test]
async fn until_reaped_resolves_at_the_exit() {
    let mut child = Child::spawn(3);
    let mut process = exit_of(child.id()).until_reaped();
    let mut set = ExitSet::new();
    set.insert_exit(exit_of(child.id()).until_reaped());
    still_pending(&mut process).await;
    child.end();
    let exit = deadline(process).await.unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(3));
    assert_eq!(deadline(set.next_exit()).await.unwrap().unwrap(), exit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_more_than_64_processes() {
    // A single thread can wait for MAXIMUM_WAIT_OBJECTS handles, which is 64.
    let mut children = many(150);
    let processes = children.iter().map(|child| exit_of(child.id()));
    let tasks: Vec<_> = processes.map(tokio::spawn).collect();
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

/// Drops `child` and asserts that no handle of its process is open.
///
/// A process can be opened until its last handle is closed, so a failing open proves that no wait
/// leaked a handle.
///
/// Rests on the other programs of the system: a virus scanner that keeps a handle also keeps the pid.
fn assert_no_handle_is_open(child: Child) {
    let pid = child.id();
    drop(child);
    support::until_pid_is_free(pid);
}

#[tokio::test]
async fn cancelled_waits_leak_no_handle() {
    let mut noop = Context::from_waker(Waker::noop());
    let child = Child::spawn(0);
    for _ in 0..100 {
        let mut process = exit_of(child.id());
        assert!(Pin::new(&mut process).poll(&mut noop).is_pending());
        let mut set = ExitSet::new();
        set.insert(child.id()).unwrap();
        assert!(set.poll_next_exit(&mut noop).is_pending());
    }
    assert_no_handle_is_open(child);

    let (removed, other) = (Child::spawn(0), Child::spawn(0));
    let mut set = ExitSet::new();
    set.insert(removed.id()).unwrap();
    set.insert(other.id()).unwrap();
    assert!(set.poll_next_exit(&mut noop).is_pending());
    assert!(set.remove(removed.id()));
    assert_no_handle_is_open(removed);

    let mut child = Child::spawn(0);
    let mut process = exit_of(child.id());
    child.end();
    deadline(&mut process).await.unwrap();
    drop(process);
    assert_no_handle_is_open(child);
}

/// A waker that drops the value it holds when woken, which happens during the callback.
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

/// Polls `future` once with a [`DropWaker`], and moves `future` into that waker.
fn poll_to_drop<F: Future + Unpin + Send + 'static>(mut future: F) -> Arc<DropWaker<F>> {
    let waker = Arc::new(DropWaker(Mutex::new(None)));
    // Hold the lock while polling: otherwise a wake-up could find the waker still empty.
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
async fn waker_can_drop_its_own_wait() {
    for _ in 0..30 {
        let mut child = Child::spawn(0);
        let waker = poll_to_drop(exit_of(child.id()));
        child.end();
        support::until("the wait is dropped", || waker.is_empty());
    }
}

#[tokio::test]
async fn waker_can_drop_other_waits() {
    let alive = many(5);
    for _ in 0..20 {
        let mut child = Child::spawn(0);
        // The waits for running processes may share a thread with the wait for `child`.
        let mut processes: Vec<ProcessExit> =
            alive.iter().map(|child| exit_of(child.id())).collect();
        processes.push(exit_of(child.id()));
        let waker = poll_to_drop(futures::future::select_all(processes));
        child.end();
        support::until("the waits are dropped", || waker.is_empty());
        assert_no_handle_is_open(child);
    }
    alive.into_iter().for_each(assert_no_handle_is_open);
    // A new wait still resolves.
    let mut child = Child::spawn(3);
    let process = exit_of(child.id());
    child.end();
    deadline(process).await.unwrap();
}

#[tokio::test]
async fn waker_can_drop_a_set() {
    let alive = many(5);
    for _ in 0..10 {
        let mut child = Child::spawn(0);
        let mut set = ExitSet::new();
        for child in alive.iter().chain([&child]) {
            set.insert(child.id()).unwrap();
        }
        let waker = poll_to_drop(futures::stream::StreamExt::into_future(set));
        child.end();
        support::until("the set is dropped", || waker.is_empty());
    }
}

/// A waker that blocks the callback until `released` is unlocked.
struct BlockingWaker {
    woken: AtomicBool,
    released: Mutex<()>,
}

impl Wake for BlockingWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        drop(self.released.lock());
    }
}

/// All waits of this test share one thread, so a blocked callback delays the other callbacks.
///
/// Rests on the thread pool of Windows, where one thread waits for up to 63 objects. With other threads the
/// test passes, but shows less.
#[test]
fn blocked_callback_delays_neither_exits_nor_drops() {
    if support::poll_forced() {
        return support::skip("polling is forced, so there are no callbacks");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut children = many(4);
    let blocking = Arc::new(BlockingWaker {
        woken: AtomicBool::new(false),
        released: Mutex::new(()),
    });
    let waker = Waker::from(blocking.clone());
    let mut process = exit_of(children[0].id());
    assert!(
        Pin::new(&mut process)
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

    let held = blocking.released.lock().unwrap();
    children[0].kill();
    support::until("the callback runs", || {
        blocking.woken.load(Ordering::Acquire)
    });
    children[1..3].iter_mut().for_each(Child::kill);
    // The drop must not wait for the blocked callback.
    drop(dropped);
    let [mut first, mut second] = sets;
    assert_eq!(
        runtime
            .block_on(second.exits_within(Duration::ZERO))
            .unwrap()
            .len(),
        2
    );
    let mut ids = HashSet::new();
    while let Some(exit) = first.try_next_exit() {
        assert!(ids.insert(exit.unwrap().pid().unwrap()));
    }
    assert_eq!(ids.len(), 2);
    drop((first, second));
    drop(held);
}

#[tokio::test]
async fn resolved_wait_drops_its_waker() {
    let mut child = Child::spawn(0);
    let blocking = Arc::new(BlockingWaker {
        woken: AtomicBool::new(false),
        released: Mutex::new(()),
    });
    let waker = Waker::from(blocking.clone());
    let mut process = exit_of(child.id());
    assert!(
        Pin::new(&mut process)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(waker);
    child.kill();
    assert!(process.try_wait().unwrap().is_some());
    support::until("the waker is dropped", || Arc::strong_count(&blocking) == 1);
}

/// The wait is dropped under a lock that the callback needs. Blocking in `drop` would deadlock.
#[tokio::test]
async fn drop_does_not_block_on_a_running_waker() {
    for _ in 0..20 {
        let mut child = Child::spawn(0);
        let waker = poll_to_drop(exit_of(child.id()));
        let mut held = waker.0.lock().unwrap();
        child.kill();
        // Sleep so that the callback has probably started.
        std::thread::sleep(Duration::from_millis(20));
        drop(held.take());
    }
}

#[test]
fn resolves_without_a_tokio_runtime() {
    let mut child = Child::spawn(4);
    let process = exit_of(child.id());
    child.end();
    if support::poll_forced() {
        return support::skip("polling is forced, and polling needs a runtime");
    }
    let exit = futures::executor::block_on(process).unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(4));
}

/// `OpenProcess` ignores the two low bits of a pid, so `open` must reject such numbers itself.
///
/// Rests on pids and thread ids that are multiples of four, which Windows does not document.
#[tokio::test]
async fn number_next_to_a_pid_is_not_found() {
    let child = Child::spawn(0);
    let thread = support::thread_id();
    for pid in (child.id() + 1..child.id() + 4).chain(thread + 1..thread + 4) {
        let error = ProcessExit::open(pid).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("no process with pid {pid}"));
    }
}

#[tokio::test]
async fn adopts_a_process_handle() {
    let mut child = Child::spawn(6);
    let handle = child.0.as_handle().try_clone_to_owned().unwrap();
    let mut process = ProcessExit::try_from(handle).unwrap();
    assert_eq!(process.pid(), Some(child.id()));
    assert!(process.as_handle().is_some());
    if !support::poll_forced() {
        assert_eq!(process.mechanism(), Some(Mechanism::WaitHandle));
    }
    still_pending(&mut process).await;
    let mut set = ExitSet::new();
    assert!(set.insert(child.id()).unwrap());
    assert!(!set.insert_exit(process));
    child.end();
    let exit = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(6));
}

#[test]
fn rejects_handles_of_other_objects() {
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let mut child = Child::spawn(0);
    let pipe = child.0.stdin.take().unwrap();
    for handle in [OwnedHandle::from(file), OwnedHandle::from(pipe)] {
        let error = ProcessExit::try_from(handle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(
            error.to_string().contains("is not a process handle"),
            "{error}"
        );
    }
    // SAFETY: no other code owns -1 or 0 as a handle, and closing either value has no effect.
    for handle in [-1_isize, 0].map(|raw| unsafe { OwnedHandle::from_raw_handle(raw as _) }) {
        let error = ProcessExit::try_from(handle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
