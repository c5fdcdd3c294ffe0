//! Promise: a `ProcessExit` works with `timeout`, `select!` and `join_all`, and is cancel safe.

mod support;

use std::task::Poll;
use std::time::Duration;

use futures::future::{FutureExt, join_all};
use support::{Child, at_most, deadline, still_pending};
use tokio::time::timeout;
use tokio_process_exit::{ProcessExit, exit_of};

#[tokio::test]
async fn awaiting_again_returns_the_same_exit() {
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    child.end();
    let first = deadline(&mut process).await.unwrap();
    child.reap();
    for _ in 0..3 {
        assert_eq!(deadline(&mut process).await.unwrap(), first);
        assert_eq!(process.try_wait().unwrap(), Some(first));
    }
}

#[tokio::test]
async fn can_be_awaited_again_after_a_timeout() {
    let mut child = Child::spawn(2);
    let mut process = exit_of(child.id());
    for _ in 0..20 {
        let elapsed = timeout(Duration::from_millis(2), &mut process).await;
        assert!(elapsed.is_err());
    }
    child.end();
    let exit = timeout(support::max_wait(), process)
        .await
        .expect("resolves before the timeout")
        .unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(2));
}

#[tokio::test]
async fn exit_between_two_polls_is_not_lost() {
    for _ in 0..20 {
        let mut child = Child::spawn(2);
        let mut process = exit_of(child.id());
        assert!(process.poll_unpin(&mut noop()).is_pending());
        child.kill();
        tokio::time::sleep(Duration::from_millis(5)).await;
        deadline(process).await.unwrap();
    }
}

#[tokio::test]
async fn dropping_a_wait_does_not_affect_the_next() {
    let mut child = Child::spawn(2);
    for _ in 0..10 {
        still_pending_briefly(exit_of(child.id())).await;
    }
    let process = exit_of(child.id());
    child.end();
    assert_eq!(
        deadline(process).await.unwrap().status().unwrap().code(),
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
        () = tokio::time::sleep(support::max_wait()) => panic!("no exit by the deadline"),
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
async fn futures_select_skips_resolved_processes() {
    let mut children: Vec<Child> = (0..2).map(Child::spawn).collect();
    let (mut a, mut b) = (exit_of(children[0].id()), exit_of(children[1].id()));
    // `missing` resolves to an error at once. `select!` must not pick its branch again and again.
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
async fn join_all_returns_every_exit_in_order() {
    let mut children: Vec<Child> = (0..at_most(100) as u8).map(Child::spawn).collect();
    let processes: Vec<ProcessExit> = children.iter().map(|child| exit_of(child.id())).collect();
    children.iter_mut().rev().for_each(Child::end);
    for (n, exit) in deadline(join_all(processes)).await.into_iter().enumerate() {
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(n as i32));
    }
}

#[allow(
    clippy::async_yields_async,
    reason = "the test moves the future, and awaits it later"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_between_tasks_without_losing_the_exit() {
    let mut children: Vec<Child> = (0..50).map(Child::spawn).collect();
    let mut tasks = Vec::new();
    for child in &children {
        let mut process = exit_of(child.id());
        still_pending_briefly(&mut process).await;
        let mut process = tokio::spawn(async move {
            still_pending_briefly(&mut process).await;
            process
        })
        .await
        .unwrap();
        tasks.push(tokio::spawn(async move {
            // The child may already be exiting, so this wait may or may not resolve.
            let _ = timeout(Duration::from_millis(1), &mut process).await;
            tokio::spawn(process).await.unwrap()
        }));
    }
    children.iter_mut().for_each(Child::end);
    for (n, task) in tasks.into_iter().enumerate() {
        let exit = deadline(task).await.unwrap().unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(n as i32));
    }
}

#[tokio::test]
async fn wakes_the_most_recent_waker() {
    let mut child = Child::spawn(0);
    let mut task = tokio_test::task::spawn(exit_of(child.id()));
    assert!(task.poll().is_pending());
    // Poll again from a second task. The exit must wake the second task.
    let mut process = task.into_inner();
    let mut task = tokio_test::task::spawn(&mut process);
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
async fn polling_a_resolved_wait_uses_the_coop_budget() {
    let child = Child::zombie(0);
    for mut process in [exit_of(child.id()), exit_of(0)] {
        let _ = deadline(&mut process).await;
        let turns = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..10_000 {
            let _ = (&mut process).await;
        }
        other.abort();
        let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
        // tokio's budget is 128 operations per poll. Expect at least half of the resulting yields.
        assert!(
            turns >= 10_000 / 128 / 2,
            "the other task ran {turns} times"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn until_reaped_is_not_woken_for_a_zombie() {
    let child = Child::zombie(0);
    let mut task = tokio_test::task::spawn(exit_of(child.id()).until_reaped());
    for _ in 0..3 {
        assert!(task.poll().is_pending());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if support::poll_forced() {
        return support::skip("polling is forced, so no event can wake the task");
    }
    assert!(
        !task.is_woken(),
        "woken by an exit that was already reported"
    );
}

async fn still_pending_briefly(process: impl Future) {
    assert!(timeout(Duration::from_millis(1), process).await.is_err());
}

fn noop() -> std::task::Context<'static> {
    std::task::Context::from_waker(std::task::Waker::noop())
}

#[tokio::test]
async fn dropping_an_unpolled_wait_has_no_effect() {
    let mut child = Child::spawn(0);
    drop(exit_of(child.id()));
    still_pending(exit_of(child.id())).await;
    assert!(child.reap().success());
}
