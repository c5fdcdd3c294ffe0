//! Promise: it composes with timeouts, `select!` and the rest of async Rust, and loses nothing.

mod support;

use std::task::Poll;
use std::time::Duration;

use futures::future::{FusedFuture, FutureExt, join_all};
use support::{Child, at_most, deadline, still_pending};
use tokio::time::timeout;
use tokio_process_exit::{ProcessExit, exit_of};

#[tokio::test]
async fn awaiting_again_yields_the_same_exit() {
    let mut child = Child::spawn(7);
    let mut exit = exit_of(child.id());
    child.end();
    let first = deadline(&mut exit).await.unwrap();
    child.reap();
    for _ in 0..3 {
        assert_eq!(deadline(&mut exit).await.unwrap(), first);
        assert_eq!(exit.try_wait().unwrap(), Some(first));
    }
}

#[tokio::test]
async fn a_timeout_may_be_tried_again() {
    let mut child = Child::spawn(2);
    let mut exit = exit_of(child.id());
    for _ in 0..20 {
        let elapsed = timeout(Duration::from_millis(2), &mut exit).await;
        assert!(elapsed.is_err());
    }
    child.end();
    let exit = timeout(Duration::from_secs(20), exit)
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(2));
}

#[tokio::test]
async fn an_exit_between_two_polls_is_not_lost() {
    for _ in 0..20 {
        let mut child = Child::spawn(2);
        let mut exit = exit_of(child.id());
        assert!(exit.poll_unpin(&mut noop()).is_pending());
        child.kill();
        tokio::time::sleep(Duration::from_millis(5)).await;
        deadline(exit).await.unwrap();
    }
}

#[tokio::test]
async fn one_dropped_midway_loses_nothing_for_another() {
    let mut child = Child::spawn(2);
    for _ in 0..10 {
        still_pending_briefly(exit_of(child.id())).await;
    }
    let exit = exit_of(child.id());
    child.end();
    assert_eq!(
        deadline(exit).await.unwrap().status().unwrap().code(),
        Some(2)
    );
}

#[tokio::test]
async fn tokio_select_loops_over_several_processes() {
    let mut children: Vec<Child> = (0..3).map(Child::spawn).collect();
    let [mut a, mut b, mut c] = [0, 1, 2].map(|n| exit_of(children[n].id()));
    children[1].end();
    let first = tokio::select! {
        exit = &mut a => exit,
        exit = &mut b => exit,
        exit = &mut c => exit,
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("too late"),
    };
    assert_eq!(first.unwrap().pid(), Some(children[1].id()));
    children[0].end();
    children[2].end();
    let mut codes = Vec::new();
    deadline(async {
        while codes.len() < 2 {
            let exit = tokio::select! {
                exit = &mut a, if !a.is_terminated() => exit,
                exit = &mut c, if !c.is_terminated() => exit,
            };
            codes.push(exit.unwrap().status().unwrap().code().unwrap());
        }
    })
    .await;
    codes.sort_unstable();
    assert_eq!(codes, [0, 2]);
}

#[tokio::test]
async fn futures_select_goes_on_without_those_that_are_done() {
    let mut children: Vec<Child> = (0..2).map(Child::spawn).collect();
    let (mut a, mut b) = (exit_of(children[0].id()), exit_of(children[1].id()));
    // Fails at once, and must not be chosen for ever.
    let mut missing = exit_of(0);
    children.iter_mut().for_each(Child::end);
    let (mut exits, mut errors) = (0, 0);
    deadline(async {
        loop {
            futures::select! {
                exit = a => { exit.unwrap(); exits += 1 }
                exit = b => { exit.unwrap(); exits += 1 }
                exit = missing => { exit.unwrap_err(); errors += 1 }
                complete => break,
            }
        }
    })
    .await;
    assert_eq!((exits, errors), (2, 1));
}

#[tokio::test]
async fn join_all_gives_every_exit_in_order() {
    let mut children: Vec<Child> = (0..at_most(100) as u8).map(Child::spawn).collect();
    let exits: Vec<ProcessExit> = children.iter().map(|child| exit_of(child.id())).collect();
    children.iter_mut().rev().for_each(Child::end);
    for (n, exit) in deadline(join_all(exits)).await.into_iter().enumerate() {
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(n as i32));
    }
}

#[allow(clippy::async_yields_async, reason = "it is moved, and awaited later")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_moves_between_tasks_with_its_exit() {
    let mut children: Vec<Child> = (0..50).map(Child::spawn).collect();
    let mut tasks = Vec::new();
    for child in &children {
        let mut exit = exit_of(child.id());
        still_pending_briefly(&mut exit).await;
        let mut exit = tokio::spawn(async move {
            still_pending_briefly(&mut exit).await;
            exit
        })
        .await
        .unwrap();
        tasks.push(tokio::spawn(async move {
            // By now the child may be on its way out.
            let _ = timeout(Duration::from_millis(1), &mut exit).await;
            tokio::spawn(exit).await.unwrap()
        }));
    }
    children.iter_mut().for_each(Child::end);
    for (n, task) in tasks.into_iter().enumerate() {
        let exit = deadline(task).await.unwrap().unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(n as i32));
    }
}

#[tokio::test]
async fn the_last_waker_is_the_one_that_is_woken() {
    let mut child = Child::spawn(0);
    let mut task = tokio_test::task::spawn(exit_of(child.id()));
    assert!(task.poll().is_pending());
    // The first waker is another's by now.
    let mut exit = task.into_inner();
    let mut task = tokio_test::task::spawn(&mut exit);
    assert!(task.poll().is_pending());
    child.end();
    deadline(async {
        while !task.is_woken() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(matches!(task.poll(), Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn one_that_has_resolved_or_failed_does_not_starve_the_runtime_in_a_loop() {
    let child = Child::zombie(0);
    for mut exit in [exit_of(child.id()), exit_of(0)] {
        let _ = deadline(&mut exit).await;
        let turns = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..10_000 {
            let _ = (&mut exit).await;
        }
        other.abort();
        let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
        // The budget of a task is 128 operations.
        assert!(turns >= 10_000 / 128 / 2, "{turns} turns of the other task");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn waiting_for_the_reap_of_a_zombie_is_idle() {
    let child = Child::zombie(0);
    let mut task = tokio_test::task::spawn(exit_of(child.id()).until_reaped());
    for _ in 0..3 {
        assert!(task.poll().is_pending());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if support::poll_forced() {
        return support::skip("polling looks at it, but the task is not woken");
    }
    assert!(!task.is_woken(), "woken by what has been seen before");
}

async fn still_pending_briefly(exit: impl Future) {
    assert!(timeout(Duration::from_millis(1), exit).await.is_err());
}

fn noop() -> std::task::Context<'static> {
    std::task::Context::from_waker(std::task::Waker::noop())
}

#[tokio::test]
async fn a_future_never_awaited_does_nothing() {
    let mut child = Child::spawn(0);
    drop(exit_of(child.id()));
    still_pending(exit_of(child.id())).await;
    assert!(child.reap().success());
}
