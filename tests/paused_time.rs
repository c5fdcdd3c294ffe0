//! Promise: in a runtime whose time is paused, waits resolve at the exit, and timeouts follow tokio's clock.

mod support;

use std::time::{Duration, Instant};

use support::{Child, max_wait};
use tokio_process_exit::{Exit, ExitMap, ExitSet, ProcessExit, exit_of};

/// Longer than a test runs.
const LONG: Duration = Duration::from_secs(3600);

/// Makes a child exit after a while, by the clock of the system.
fn end_later(mut child: Child) -> std::thread::JoinHandle<Child> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        child.end();
        child
    })
}

fn code(exit: Exit) -> Option<i32> {
    exit.status().unwrap().code()
}

#[tokio::test(start_paused = true)]
async fn waits_resolve_at_the_exit() {
    let child = Child::spawn(7);
    let (mut process, mut set) = (exit_of(child.id()), ExitSet::new());
    let (mut map, mut until_reaped) = (ExitMap::new(), exit_of(child.id()).until_reaped());
    set.insert(child.id()).unwrap();
    map.insert("key", child.id()).unwrap();
    let thread = end_later(child);
    assert_eq!(code((&mut process).await.unwrap()), Some(7));
    assert_eq!(code(set.next_exit().await.unwrap().unwrap()), Some(7));
    let (key, exit) = map.next_exit().await.unwrap();
    assert_eq!((key, code(exit.unwrap())), ("key", Some(7)));
    thread.join().unwrap().reap();
    (&mut until_reaped).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_over_at_once_if_nothing_runs() {
    let start = Instant::now();
    let (child, zombie) = (Child::spawn(0), Child::zombie(7));
    let mut process = exit_of(child.id());
    assert!(tokio::time::timeout(LONG, &mut process).await.is_err());
    let mut set = ExitSet::new();
    set.insert(child.id()).unwrap();
    set.insert(zombie.id()).unwrap();
    // Exits that have already happened are returned all the same.
    let exits = set.exits_within(LONG).await.unwrap();
    assert_eq!(exits.len(), 1);
    assert_eq!(code(exits[0]), Some(7));
    assert!(start.elapsed() < LONG);
}

#[tokio::test(start_paused = true)]
async fn stop_kills_at_once_if_nothing_runs() {
    let start = Instant::now();
    let children = [(); 3].map(|()| ignoring_sigterm());
    let [first, second, third] = &children;
    let mut process = exit_of(first.id());
    assert_killed(process.stop(LONG).await.unwrap());
    let mut set = ExitSet::new();
    set.insert(second.id()).unwrap();
    assert_killed(set.stop(LONG).await.remove(0).unwrap());
    let mut map = ExitMap::new();
    map.insert("key", third.id()).unwrap();
    assert_killed(map.stop(LONG).await.remove(0).1.unwrap());
    assert!(start.elapsed() < max_wait());
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_kill_while_a_blocking_task_runs() {
    let child = ignoring_sigterm();
    let mut process = ProcessExit::open(child.id()).unwrap();
    // tokio does not advance a paused clock while a blocking task runs.
    let thread = tokio::task::spawn_blocking(|| {
        let mut child = end_later(child).join().unwrap();
        child.until_exited();
        child
    });
    assert_eq!(code(process.stop(LONG).await.unwrap()), Some(7));
    thread.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stop_keeps_the_grace_after_resume() {
    let child = ignoring_sigterm();
    let mut process = exit_of(child.id());
    tokio::time::resume();
    let thread = end_later(child);
    assert_eq!(code(process.stop(LONG).await.unwrap()), Some(7));
    thread.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn blocking_wait_keeps_the_time_of_the_system() {
    let child = Child::spawn(0);
    let timeout = Duration::from_millis(50);
    let waited = tokio::task::spawn_blocking(move || {
        let (start, mut process) = (Instant::now(), exit_of(child.id()));
        assert!(process.blocking_wait(Some(timeout)).unwrap().is_none());
        start.elapsed()
    });
    assert!(waited.await.unwrap() >= timeout);
}

/// Returns a child that ignores SIGTERM, and exits with code 7 at [`Child::end`].
fn ignoring_sigterm() -> Child {
    if cfg!(windows) {
        return Child::spawn(7);
    }
    let mut command = support::shell("trap '' TERM; echo; read line; exit 7");
    let mut child = Child::spawn_command(command.stdout(std::process::Stdio::piped()));
    let stdout = child.0.stdout.as_mut().unwrap();
    std::io::Read::read_exact(stdout, &mut [0]).expect("the shell has set its trap");
    child
}

fn assert_killed(exit: Exit) {
    #[cfg(unix)]
    let killed = std::os::unix::process::ExitStatusExt::signal(&exit.status().unwrap());
    #[cfg(unix)]
    assert_eq!(killed, Some(libc::SIGKILL));
    #[cfg(windows)]
    assert_eq!(code(exit), Some(1));
}
