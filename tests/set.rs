//! Promise: an `ExitSet` yields each of its processes exactly once, after the process has exited.

mod support;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt};
#[cfg(target_os = "linux")]
use support::linux;
#[cfg(unix)]
use support::unix::Grandchild;
use support::{Child, Sleeper, at_most, deadline, expired, many, poll_once, still_pending};
#[cfg(unix)]
use tokio_process_exit::ProcessExit;
use tokio_process_exit::{Exit, ExitSet, exit_of};

async fn next(set: &mut ExitSet) -> Exit {
    deadline(set.next_exit())
        .await
        .expect("the set is not empty")
        .expect("the wait succeeds")
}

fn set_of(sleepers: &[Sleeper]) -> ExitSet {
    let mut set = ExitSet::new();
    for sleeper in sleepers {
        assert!(set.insert(sleeper.id()).unwrap());
    }
    set
}

#[cfg(target_os = "linux")]
fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[cfg(target_os = "linux")]
fn open_null() -> std::io::Result<std::fs::File> {
    std::fs::File::open("/dev/null")
}

/// Opens files until no descriptor is free.
#[cfg(target_os = "linux")]
fn exhaust_descriptors() -> Vec<std::fs::File> {
    std::iter::from_fn(|| open_null().ok()).collect()
}

fn kill(sleepers: &mut [Sleeper]) {
    sleepers.iter_mut().for_each(Sleeper::kill);
}

#[tokio::test]
async fn empty_set_resolves_at_once() {
    let mut set = ExitSet::new();
    assert!(set.is_empty());
    assert!(deadline(set.next_exit()).await.is_none());
    assert!(set.try_next_exit().is_none());
    assert_eq!(deadline(set.exits_within(Duration::MAX)).await.unwrap(), []);
}

#[tokio::test]
async fn yields_exits_in_order_with_their_status() {
    let mut children: Vec<Child> = (0..20).map(Child::spawn).collect();
    let mut set = ExitSet::new();
    for child in &children {
        assert!(set.insert(child.id()).unwrap());
    }
    still_pending(set.next_exit()).await;
    let order = [7, 3, 19, 0, 11];
    // Polling and Windows do not preserve the order of exits that happen close together.
    let out_of_order = support::poll_forced() || cfg!(windows);
    for n in order {
        children[n].end();
        children[n].until_exited();
        if out_of_order {
            assert_eq!(next(&mut set).await.pid(), Some(children[n].id()));
        }
    }
    if !out_of_order {
        for n in order {
            let exit = next(&mut set).await;
            assert_eq!(exit.pid(), Some(children[n].id()));
            assert_eq!(exit.status().unwrap().code(), Some(n as i32));
        }
    }
    assert_eq!(set.len(), 15);
    still_pending(set.next_exit()).await;
    let alive: HashSet<u32> = set.pids().collect();
    for (n, child) in children.iter().enumerate() {
        assert_eq!(alive.contains(&child.id()), !order.contains(&n));
        assert_eq!(set.contains(child.id()), !order.contains(&n));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn yields_children_grandchildren_zombies_and_reaped() {
    let (mut child, zombie) = (Child::spawn(1), Child::zombie(2));
    let (mut grandchild, zombie_grandchild) = (Grandchild::spawn(), Grandchild::zombie(4));
    let mut reaped = Grandchild::spawn();
    let mut set = ExitSet::new();
    for id in [
        child.id(),
        zombie.id(),
        grandchild.id(),
        zombie_grandchild.id(),
        reaped.id(),
    ] {
        assert!(set.insert(id).unwrap());
    }
    child.end();
    grandchild.end(3);
    reaped.end(5);
    reaped.reap();
    let mut codes = HashSet::new();
    while let Some(exit) = deadline(set.next_exit()).await {
        codes.extend(exit.unwrap().status().and_then(|status| status.code()));
    }
    let expected = [1, 2, 3, 4, 5].into_iter().filter(|&code| match code {
        3 | 4 => support::zombie_status_is_known(),
        5 => support::reaped_status_is_known(),
        _ => true,
    });
    assert_eq!(codes, expected.collect());
}

#[tokio::test]
async fn rejects_a_process_already_in_the_set() {
    let mut child = Child::spawn(0);
    let mut set = ExitSet::new();
    assert!(set.insert(child.id()).unwrap());
    assert!(!set.insert(child.id()).unwrap());
    assert!(!set.insert_exit(exit_of(child.id())));
    child.end();
    child.until_exited();
    // A zombie is rejected too, whether or not the set has already read the exit event.
    assert!(!set.insert(child.id()).unwrap());
    assert!(!set.insert_exit(exit_of(child.id())));
    assert_eq!(set.len(), 1);
    next(&mut set).await;
    assert!(set.is_empty());
    // A yielded process can be inserted again until it is reaped.
    assert!(set.insert(child.id()).unwrap());
    next(&mut set).await;
    assert!(deadline(set.next_exit()).await.is_none());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn yields_both_processes_that_shared_a_pid() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let mut set = ExitSet::new();
    set.insert(pid).unwrap();
    first.reap();
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return support::skip("the pid cannot be chosen (not root, or another process has it)");
    };
    assert!(set.insert(pid).unwrap());
    assert!(!set.insert(pid).unwrap());
    assert_eq!(set.len(), 2);
    let exit = next(&mut set).await;
    if support::reaped_status_is_known() {
        assert_eq!(exit.status().unwrap().code(), Some(1));
    }
    assert!(set.contains(pid));
    assert_eq!(set.pids().collect::<Vec<_>>(), [pid]);
    second.end();
    assert_eq!(next(&mut set).await.status().unwrap().code(), Some(2));
    assert!(!set.contains(pid));
    assert!(set.is_empty());
}

#[tokio::test]
async fn does_not_yield_a_removed_process() {
    let mut sleepers = many(3);
    let mut set = set_of(&sleepers);
    assert!(set.remove(sleepers[0].id()));
    assert!(!set.remove(sleepers[0].id()));
    assert!(!set.remove(1));
    assert!(!set.contains(sleepers[0].id()));
    still_pending(set.next_exit()).await;
    // A process can also be removed after its exit, until the set yields the exit.
    kill(&mut sleepers);
    assert!(set.remove(sleepers[1].id()));
    assert_eq!(set.len(), 1);
    assert_eq!(next(&mut set).await.pid(), Some(sleepers[2].id()));
    assert!(deadline(set.next_exit()).await.is_none());

    // A new member never receives the events of a removed member.
    for _ in 0..20 {
        let alive = &many(1)[0];
        set.insert(sleepers[0].id()).unwrap();
        set.remove(sleepers[0].id());
        set.insert(alive.id()).unwrap();
        assert!(set.next_exit().now_or_never().is_none());
        set.remove(alive.id());
    }
    sleepers.clear();
}

#[tokio::test]
async fn failed_insert_does_not_change_the_set() {
    let mut child = Child::spawn(0);
    let gone = child.id();
    child.reap();
    // On Windows a process can be opened until its last handle is closed.
    drop(child);
    support::until_pid_is_free(gone);
    let mut set = ExitSet::new();
    assert_eq!(set.insert(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(
        set.insert(u32::MAX).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let error = set.insert(gone).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), format!("no process with pid {gone}"));
    assert!(set.is_empty());
    assert_eq!(set.pids().count(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn accepts_open_resolved_and_failed_waits() {
    let mut grandchild = Grandchild::spawn();
    let zombie = Child::zombie(3);
    let mut resolved = exit_of(zombie.id());
    let exit = deadline(&mut resolved).await.unwrap();

    let mut set = ExitSet::new();
    assert!(set.insert_exit(ProcessExit::open(grandchild.id()).unwrap().until_reaped()));
    assert!(set.insert_exit(resolved));
    assert!(set.insert_exit(exit_of(0)));
    assert_eq!(set.len(), 3);
    assert_eq!(next(&mut set).await, exit);
    let error = deadline(set.next_exit()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    grandchild.end(8);
    still_pending(set.next_exit()).await;
    assert!(set.try_next_exit().is_none());
    grandchild.reap();
    let exit = next(&mut set).await;
    #[cfg(target_os = "linux")]
    linux::assert_code_if_shown(exit, 8);
    #[cfg(not(target_os = "linux"))]
    assert_eq!(exit.status().unwrap().code(), Some(8));
    assert!(set.is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn yielded_process_can_be_inserted_again() {
    let mut grandchildren: Vec<_> = (0..3).map(|_| Grandchild::spawn()).collect();
    let mut set = ExitSet::new();
    for grandchild in &grandchildren {
        assert!(set.insert(grandchild.id()).unwrap());
    }
    grandchildren
        .iter_mut()
        .for_each(|grandchild| grandchild.end(8));
    let first = next(&mut set).await.pid().unwrap();
    assert!(!set.contains(first));
    assert!(!set.remove(first));
    assert!(!set.contains(first));
    assert_eq!(set.len(), 2);

    let again = ProcessExit::open(first).unwrap().until_reaped();
    assert!(set.insert_exit(again));
    assert!(set.contains(first));
    for _ in 0..2 {
        let exit = next(&mut set).await;
        assert!(!set.contains(exit.pid().unwrap()));
    }
    // Closing the descriptor of the first insertion must not affect the second.
    still_pending(set.next_exit()).await;
    assert!(set.contains(first));
    assert_eq!(set.pids().collect::<Vec<_>>(), [first]);

    grandchildren.iter_mut().for_each(Grandchild::reap);
    assert_eq!(next(&mut set).await.pid(), Some(first));
    assert!(!set.contains(first));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn does_not_deduplicate_pidfds_without_a_pid() {
    if support::poll_forced() {
        return support::skip("polling is forced, so no pidfd is registered");
    }
    let mut grandchild = Grandchild::spawn();
    let pidfds = [0, 0, 0].map(|flags| linux::pidfd_open(grandchild.id(), flags));
    let duplicate = pidfds[0].try_clone().unwrap();
    grandchild.end(8);
    grandchild.reap();
    let mut set = ExitSet::new();
    for pidfd in pidfds {
        // A reaped process has no pid, so the set cannot recognize a duplicate.
        assert!(set.insert_exit(ProcessExit::try_from(pidfd).unwrap()));
    }
    for _ in 0..3 {
        let exit = next(&mut set).await;
        assert_eq!(exit.pid(), None);
        if support::reaped_status_is_known() {
            assert_eq!(exit.status().unwrap().code(), Some(8));
        }
    }
    assert!(set.is_empty());
    drop(duplicate);
}

#[test]
fn try_next_exit_works_without_a_runtime() {
    let mut sleepers = many(at_most(300));
    let mut set = set_of(&sleepers);
    assert!(set.try_next_exit().is_none());
    kill(&mut sleepers);
    let mut ids = HashSet::new();
    while let Some(exit) = set.try_next_exit() {
        assert!(ids.insert(exit.unwrap().pid().unwrap()));
    }
    assert_eq!(ids, sleepers.iter().map(Sleeper::id).collect());
    assert!(set.is_empty());
}

#[tokio::test]
async fn exits_within_returns_exits_and_keeps_the_rest() {
    let mut sleepers = many(at_most(400));
    let mut set = set_of(&sleepers);
    assert_eq!(set.exits_within(Duration::ZERO).await.unwrap(), []);
    let start = Instant::now();
    assert_eq!(
        set.exits_within(Duration::from_millis(50)).await.unwrap(),
        []
    );
    assert!(start.elapsed() >= Duration::from_millis(50));

    let (gone, alive) = sleepers.split_at_mut(at_most(400) * 3 / 4);
    kill(gone);
    // A timeout of zero still returns every process that has exited.
    let exits = deadline(set.exits_within(Duration::ZERO)).await.unwrap();
    let ids: HashSet<u32> = exits.iter().filter_map(Exit::pid).collect();
    assert_eq!(exits.len(), gone.len());
    assert_eq!(ids, gone.iter().map(Sleeper::id).collect());
    assert_eq!(
        set.pids().collect::<HashSet<_>>(),
        alive.iter().map(Sleeper::id).collect()
    );

    // Once the set is empty, the call returns before the timeout.
    kill(alive);
    assert_eq!(
        deadline(set.exits_within(Duration::MAX))
            .await
            .unwrap()
            .len(),
        alive.len()
    );
    assert!(set.is_empty());
}

#[tokio::test]
async fn exits_within_loses_no_exit_if_dropped_or_failed() {
    let mut sleepers = many(3);
    let mut set = set_of(&sleepers);
    kill(&mut sleepers[..2]);
    still_pending(set.exits_within(Duration::MAX)).await;
    assert_eq!(set.len(), 3);
    assert!(set.contains(sleepers[0].id()) && set.contains(sleepers[1].id()));
    set.insert_exit(exit_of(0));
    let exits = deadline(set.exits_within(Duration::ZERO)).await.unwrap();
    assert_eq!(exits.len(), 2);
    assert_eq!(
        deadline(set.exits_within(Duration::ZERO))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(set.pids().collect::<Vec<_>>(), [sleepers[2].id()]);
}

#[tokio::test]
async fn cancelled_next_exit_loses_no_exit() {
    let mut sleepers = many(at_most(200));
    let mut set = set_of(&sleepers);
    let mut ids = HashSet::new();
    for sleeper in &mut sleepers {
        sleeper.kill();
        let next = tokio::time::timeout(Duration::from_micros(50), set.next_exit());
        if let Ok(exit) = next.await {
            assert!(ids.insert(exit.unwrap().unwrap().pid().unwrap()));
        }
        ids.extend(
            set.next_exit()
                .now_or_never()
                .flatten()
                .map(|exit| exit.unwrap().pid().unwrap()),
        );
    }
    while let Some(exit) = deadline(set.next_exit()).await {
        assert!(ids.insert(exit.unwrap().pid().unwrap()));
    }
    assert_eq!(ids, sleepers.iter().map(Sleeper::id).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_between_tasks_and_runtimes() {
    let mut sleepers = many(at_most(100));
    let mut set = set_of(&sleepers);
    let mut ids = HashSet::new();
    for (n, sleeper) in sleepers.iter_mut().enumerate() {
        sleeper.kill();
        let (exit, moved) = if n % 10 == 0 {
            let runtime = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                (runtime.block_on(next(&mut set)), set)
            });
            runtime.join().unwrap()
        } else {
            tokio::spawn(async move { (next(&mut set).await, set) })
                .await
                .unwrap()
        };
        set = moved;
        assert_eq!(exit.pid(), Some(sleeper.id()));
        assert!(ids.insert(exit.pid()));
    }
    assert!(set.is_empty());
}

#[tokio::test]
async fn yields_to_other_tasks_during_a_mass_exit() {
    let size = if cfg!(windows) { 300 } else { 2000 };
    let mut sleepers = many(size);
    let mut set = set_of(&sleepers);
    kill(&mut sleepers);
    let ticks = std::rc::Rc::new(std::cell::Cell::new(0));
    let local = tokio::task::LocalSet::new();
    let ticker = ticks.clone();
    local.spawn_local(async move {
        loop {
            tokio::task::yield_now().await;
            ticker.set(ticker.get() + 1);
        }
    });
    let yielded = local
        .run_until(async {
            let mut yielded = 0;
            while let Some(exit) = deadline(set.next_exit()).await {
                exit.unwrap();
                yielded += 1;
            }
            yielded
        })
        .await;
    assert_eq!(yielded, size);
    // tokio's budget is 128 operations per poll. Expect at least half of the resulting yields.
    assert!(
        ticks.get() >= size / 128 / 2,
        "the other task ran {} times",
        ticks.get()
    );
}

#[tokio::test]
async fn stream_resumes_after_its_end() {
    let mut first = Child::spawn(1);
    let mut set = ExitSet::new();
    set.insert(first.id()).unwrap();
    assert_eq!(set.size_hint(), (1, Some(1)));
    first.end();
    assert_eq!(
        deadline(StreamExt::next(&mut set))
            .await
            .unwrap()
            .unwrap()
            .pid(),
        Some(first.id())
    );
    assert_eq!(set.size_hint(), (0, Some(0)));
    assert!(deadline(StreamExt::next(&mut set)).await.is_none());
    let mut second = Child::spawn(2);
    set.insert(second.id()).unwrap();
    second.end();
    let exits: Vec<_> = deadline(set.collect()).await;
    assert_eq!(exits.len(), 1);
}

/// Runs in a process of its own because it counts the descriptors of the whole process.
#[cfg(target_os = "linux")]
#[test]
fn closes_fds_in_batches_and_when_idle_or_dropped() {
    if !support::has_own_process("closes_fds_in_batches_and_when_idle_or_dropped") {
        return;
    }
    let runtime = current_thread();
    let open = || linux::open_fds().len();
    runtime.block_on(async {
        // An empty set may hold one descriptor, that of its epoll instance.
        let most = open() + 1;

        let mut dead = many(1000);
        let mut set = set_of(&dead);
        kill(&mut dead);
        assert_eq!(
            set.exits_within(support::max_wait()).await.unwrap().len(),
            1000
        );
        assert!(set.next_exit().await.is_none());
        assert!(open() <= most, "after exits_within and next_exit");
        drop(set);

        let mut set = set_of(&dead[..100]);
        let exits = set.exits_within(support::max_wait()).await.unwrap();
        assert_eq!(exits.len(), 100);
        assert!(open() <= most, "after exits_within of a small set");
        drop(set);

        let mut set = set_of(&dead);
        while let Some(exit) = set.try_next_exit() {
            exit.unwrap();
        }
        assert!(open() <= most, "after try_next_exit");
        drop(set);

        let mut set = set_of(&dead);
        while let Some(exit) = set.next_exit().await {
            exit.unwrap();
        }
        assert!(open() <= most, "after next_exit");
        drop(set);

        let alive = many(1);
        let mut set = set_of(&dead);
        set.insert(alive[0].id()).unwrap();
        for _ in 0..1000 {
            next(&mut set).await;
        }
        still_pending(set.next_exit()).await;
        assert!(open() <= most + 1, "when idle, with one running process");
        drop(set);

        let mut set = set_of(&dead[..500]);
        next(&mut set).await;
        drop(set);
        assert!(
            open() < most,
            "after dropping a set that has more exits to yield"
        );

        // Insert and yield one process at a time, so that the set is never idle.
        let mut set = ExitSet::new();
        for sleeper in &dead {
            set.insert(sleeper.id()).unwrap();
            next(&mut set).await;
            assert!(
                open() <= most + 2,
                "{} descriptors for a set of one process",
                open()
            );
        }
    });
}

/// Runs in a process of its own because the descriptor table belongs to the whole process.
#[cfg(target_os = "linux")]
#[test]
fn grows_the_fd_table_in_few_steps_within_the_limit() {
    if !support::has_own_process("grows_the_fd_table_in_few_steps_within_the_limit") {
        return;
    }
    let before = linux::descriptor_table();
    if support::poll_forced() || before >= 500 {
        return support::skip(&format!("the descriptor table already has {before} slots"));
    }
    let open = linux::open_fds().len();
    let sleepers = many(100);

    let mut set = ExitSet::new();
    let mut sizes = HashSet::from([before]);
    for sleeper in &sleepers {
        set.insert(sleeper.id()).unwrap();
        sizes.insert(linux::descriptor_table());
    }
    assert!(sizes.len() <= 3, "{sizes:?}");
    assert!(linux::descriptor_table() > 500, "{sizes:?}");
    drop(set);

    linux::limit_descriptors(2000);
    let set = ExitSet::with_capacity(1500);
    let prepared = linux::descriptor_table();
    assert!(prepared >= 1500, "{prepared}");
    drop(set);
    let set = ExitSet::with_capacity(1_000_000);
    assert!(linux::descriptor_table() < 10_000);
    drop(set);
    assert_eq!(linux::open_fds().len(), open);
}

#[cfg(target_os = "linux")]
#[test]
fn closes_fds_without_close_range() {
    if !support::has_own_process("closes_fds_without_close_range") {
        return;
    }
    if !linux::seccomp_filters() {
        return support::skip("system calls cannot be denied");
    }
    linux::deny(libc::SYS_close_range, libc::ENOSYS);
    let mut dead = many(300);
    let open = linux::open_fds().len();
    let mut set = set_of(&dead);
    kill(&mut dead);
    for _ in &dead {
        while set.try_next_exit().is_none() {}
    }
    drop(set);
    assert_eq!(linux::open_fds().len(), open);
}

#[cfg(target_os = "linux")]
#[test]
fn closes_yielded_fds_after_a_delay_in_a_burst() {
    if !support::has_own_process("closes_yielded_fds_after_a_delay_in_a_burst") {
        return;
    }
    if support::poll_forced() {
        return support::skip("polled processes have no descriptors");
    }
    let mut sleepers = many(200);
    let mut set = set_of(&sleepers);
    kill(&mut sleepers);
    let before = linux::open_fds().len();
    let mut yield_exits = |count| {
        for _ in 0..count {
            while set.try_next_exit().is_none() {}
        }
        linux::open_fds().len()
    };
    yield_exits(100);
    // The handling of an exit may take as long as this.
    std::thread::sleep(Duration::from_millis(101));
    let after = yield_exits(99);
    assert!(before - after >= 150, "{before} descriptors, then {after}");
}

/// A program that replaces each process at its exit may have no descriptor to spare.
#[cfg(target_os = "linux")]
#[test]
fn holds_few_yielded_fds_while_processes_are_replaced() {
    if !support::has_own_process("holds_few_yielded_fds_while_processes_are_replaced") {
        return;
    }
    let mut dead = many(100);
    let mut more = many(100);
    let mut set = set_of(&dead);
    kill(&mut dead);
    kill(&mut more);
    let before = linux::open_fds().len();
    for sleeper in &more {
        while set.try_next_exit().is_none() {}
        set.insert(sleeper.id()).unwrap();
        assert!(linux::open_fds().len() <= before + 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn closes_yielded_fds_before_falling_back() {
    if !support::has_own_process("closes_yielded_fds_before_falling_back") {
        return;
    }
    if support::poll_forced() {
        return support::skip("polling is forced");
    }
    let runtime = current_thread();
    let mut dead = many(50);
    let alive = many(2);
    linux::limit_descriptors(256);
    let mut set = set_of(&dead);
    kill(&mut dead);
    runtime.block_on(async {
        for _ in 0..50 {
            next(&mut set).await;
        }
    });
    let _files: Vec<_> = exhaust_descriptors();
    let polled = exit_of(alive[0].id());
    assert!(polled.fallback_reason().is_some());
    assert!(set.insert_exit(polled));
    assert!(set.insert(alive[1].id()).unwrap());
    assert_eq!(set.polled_len(), 0);
    assert_eq!(set.len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn defers_closing_while_exits_are_ready() {
    if !support::has_own_process("defers_closing_while_exits_are_ready") {
        return;
    }
    if support::poll_forced() {
        return support::skip("polled processes have no descriptors");
    }
    let mut sleepers = many(100);
    // Almost all descriptors are in use.
    linux::limit_descriptors(128);
    kill(&mut sleepers);
    support::until("50 exits are yielded without a close", || {
        let mut set = set_of(&sleepers);
        let before = linux::open_fds().len();
        let start = Instant::now();
        for _ in 0..50 {
            while set.try_next_exit().is_none() {}
        }
        // On a busy machine, the delay may elapse: try again.
        start.elapsed() < Duration::from_millis(50) && linux::open_fds().len() >= before
    });
}

#[tokio::test]
async fn rejects_a_process_with_a_queued_exit() {
    let mut sleepers = many(3);
    let mut set = set_of(&sleepers);
    kill(&mut sleepers);
    let first = set.try_next_exit().unwrap().unwrap().pid().unwrap();
    for sleeper in sleepers.iter().filter(|sleeper| sleeper.id() != first) {
        assert!(!set.insert(sleeper.id()).unwrap());
        assert!(!set.insert_exit(exit_of(sleeper.id())));
    }
    assert_eq!(set.len(), 2);
    // A wait that resolved before its insertion is queued too.
    let mut set = ExitSet::new();
    let mut processes = [exit_of(first), exit_of(first)];
    for process in &mut processes {
        deadline(&mut *process).await.unwrap();
    }
    assert_eq!(
        processes.map(|process| set.insert_exit(process)),
        [true, false]
    );
    assert!(!set.insert(first).unwrap());
    assert_eq!(set.len(), 1);
}

/// A call between two polls may find the exit that the task waits for.
#[tokio::test]
async fn calls_between_polls_keep_the_wakeup() {
    for call in 0..3 {
        let mut sleepers = many(2);
        let mut set = set_of(&sleepers);
        let (first, second) = (sleepers[0].id(), sleepers[1].id());
        let mut has_called = false;
        // A task of its own: a timeout would poll the set again.
        let task = tokio::spawn(std::future::poll_fn(move |cx| {
            let polled = set.poll_next_exit(cx);
            if polled.is_pending() && !has_called {
                has_called = true;
                sleepers[0].kill();
                // The exit happens while this thread, which drives the reactor, is busy.
                std::thread::sleep(Duration::from_millis(50));
                match call {
                    0 => assert!(!set.insert(second).unwrap()),
                    1 => assert!(!set.insert_exit(exit_of(second))),
                    #[cfg(unix)]
                    _ => set.signal(second, libc::SIGCONT).unwrap(),
                    #[cfg(not(unix))]
                    _ => {}
                }
            }
            polled
        }));
        let exit = deadline(task).await.unwrap();
        assert_eq!(exit.unwrap().unwrap().pid(), Some(first), "call {call}");
    }
}

#[tokio::test]
async fn yields_to_other_tasks_while_exits_are_queued() {
    let size = if cfg!(windows) { 300 } else { 2000 };
    let mut sleepers = many(size);
    let mut set = set_of(&sleepers);
    kill(&mut sleepers);
    let turns = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = turns.clone();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let alive = &many(1)[0];
            set.insert(alive.id()).unwrap();
            // Queue all exits: the set keeps the exits that a cancelled call has collected.
            still_pending(set.exits_within(Duration::MAX)).await;
            tokio::task::spawn_local(async move {
                loop {
                    tokio::task::yield_now().await;
                    counter.set(counter.get() + 1);
                }
            });
            for _ in 0..size {
                next(&mut set).await;
            }
        })
        .await;
    assert!(
        turns.get() >= size / 128 / 2,
        "the other task ran {} times",
        turns.get()
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pids_omits_a_process_without_a_pid() {
    let mut grandchild = Grandchild::spawn();
    let pidfd = linux::pidfd_open(grandchild.id(), 0);
    grandchild.end(5);
    grandchild.reap();
    let mut set = ExitSet::new();
    assert!(set.insert_exit(ProcessExit::try_from(pidfd).unwrap()));
    // A pid of 0 must not be returned: `kill(0, …)` signals a whole process group.
    assert_eq!(set.pids().count(), 0);
    assert_eq!(set.len(), 1);
    assert_eq!(next(&mut set).await.pid(), None);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn accepts_a_duplicate_of_a_yielded_pidfd() {
    if support::poll_forced() {
        return support::skip("polling is forced, so no pidfd is registered");
    }
    let child = Child::zombie(3);
    let mut set = ExitSet::new();
    let mut pidfd = linux::pidfd_open(child.id(), 0);
    for _ in 0..3 {
        let duplicate = pidfd.try_clone().unwrap();
        set.insert_exit(ProcessExit::try_from(pidfd).unwrap());
        next(&mut set).await;
        assert!(deadline(set.next_exit()).await.is_none());
        // The duplicate reuses the descriptor number that was just closed.
        pidfd = duplicate.try_clone().unwrap();
        assert_eq!(set.polled_len(), 0);
    }
    set.insert_exit(ProcessExit::try_from(pidfd).unwrap());
    assert_eq!(set.polled_len(), 0);
}

#[tokio::test]
async fn debug_shows_the_counts() {
    let set = ExitSet::with_capacity(100);
    assert_eq!(
        format!("{set:?}"),
        "ExitSet { len: 0, polled: 0, exited: 0, .. }"
    );
}

#[tokio::test]
async fn rejects_duplicates_after_cancelled_exits_within() {
    let mut sleepers = many(at_most(400));
    kill(&mut sleepers);
    for polls in 1.. {
        let mut set = set_of(&sleepers);
        let yields = async {
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        };
        let exits = tokio::select! {
            biased;
            exits = set.exits_within(support::max_wait()) => Some(exits),
            () = yields => None,
        };
        if let Some(exits) = exits {
            assert_eq!(exits.unwrap().len(), sleepers.len());
            assert!(
                polls > 1 || sleepers.len() < 128,
                "more exits than the budget of 128 take several polls"
            );
            break;
        }
        for sleeper in &sleepers {
            assert!(
                !set.insert(sleeper.id()).unwrap(),
                "cancelled after {polls} polls"
            );
            assert!(!set.insert_exit(exit_of(sleeper.id())));
        }
        assert_eq!(set.len(), sleepers.len());
    }
}

/// Runs in a process of its own because it uses up all descriptors.
#[cfg(target_os = "linux")]
#[test]
fn rejects_duplicates_without_free_descriptors() {
    if !support::has_own_process("rejects_duplicates_without_free_descriptors") {
        return;
    }
    let runtime = current_thread();
    let mut sleepers = many(400);
    kill(&mut sleepers);
    linux::limit_descriptors(2000);
    runtime.block_on(async {
        for polls in 0..8 {
            let mut set = set_of(&sleepers);
            let mut waiting = Box::pin(set.exits_within(support::max_wait()));
            let mut returned = Vec::new();
            for _ in 0..polls {
                if let Some(exits) = waiting.as_mut().now_or_never() {
                    returned = exits.unwrap();
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(waiting);
            let files: Vec<_> = exhaust_descriptors();
            for sleeper in &sleepers[..returned.len().abs_diff(400).min(3)] {
                assert!(!set.insert(sleeper.id()).unwrap(), "after {polls} polls");
            }
            drop(files);
            let mut exits = returned.len();
            while let Some(exit) = set.try_next_exit() {
                exit.unwrap();
                exits += 1;
            }
            assert_eq!(exits, 400, "after {polls} polls");
        }
    });
}

#[tokio::test]
async fn exits_within_returns_exits_at_its_deadline() {
    let mut sleepers = many(at_most(400));
    let mut set = set_of(&sleepers);
    // Register the set with the reactor.
    still_pending(set.next_exit()).await;
    let timeout = Duration::from_millis(30);
    // `busy` blocks the runtime until the timers of `killer` and `exits_within` have both expired.
    // So the timeout elapses right after the exits, before the reactor reports any exit.
    let busy = async {
        tokio::time::sleep(timeout / 3).await;
        std::thread::sleep(timeout * 2);
    };
    let killer = async {
        tokio::time::sleep(timeout).await;
        kill(&mut sleepers);
    };
    let exits = tokio::task::unconstrained(set.exits_within(timeout));
    let (_, _, exits) = deadline(async { tokio::join!(biased; busy, killer, exits) }).await;
    assert_eq!(exits.unwrap().len(), sleepers.len());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn recycled_pid_refers_to_its_current_owner() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let earlier = exit_of(pid);
    first.reap();
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return support::skip("the pid cannot be chosen (not root, or another process has it)");
    };
    let mut set = ExitSet::new();
    assert!(set.insert(pid).unwrap());
    assert!(set.insert_exit(earlier));
    assert!(!set.insert(pid).unwrap(), "the current owner is in the set");
    assert_eq!(set.len(), 2);
    let exit = next(&mut set).await;
    if support::reaped_status_is_known() {
        assert_eq!(exit.status().unwrap().code(), Some(1));
    }
    assert!(set.contains(pid));
    second.end();
    assert_eq!(next(&mut set).await.status().unwrap().code(), Some(2));
    assert!(set.is_empty());
}

/// Runs `body` in a runtime that has shut down, where waits fail.
#[cfg(unix)]
fn in_dead_runtime<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let handle = runtime.handle().clone();
    drop(runtime);
    handle.block_on(body)
}

#[cfg(unix)]
#[test]
fn error_after_exits_is_returned_by_the_next_call() {
    if support::poll_forced() {
        return support::skip("a polled wait does not depend on the runtime");
    }
    let mut sleepers = many(3);
    let mut set = set_of(&sleepers);
    kill(&mut sleepers[..1]);
    let exits = in_dead_runtime(set.exits_within(Duration::from_secs(1)));
    assert_eq!(exits.unwrap().len(), 1);
    kill(&mut sleepers[1..2]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        set.exits_within(Duration::ZERO).await.unwrap_err();
        // Nothing is lost, and the error is returned once.
        assert_eq!(set.len(), 2);
        assert!(next(&mut set).await.pid().is_some());
        assert!(set.exits_within(Duration::ZERO).await.unwrap().is_empty());
    });
}

/// Regression test: <https://github.com/giampaolo/psutil/issues/198>
#[test]
fn first_poll_yields_an_exit_of_the_past() {
    const ROUNDS: usize = 200;
    let child = Child::zombie(7);
    let pid = child.id();
    let alive = many(1);
    let alive = alive[0].id();
    async fn yielded(pid: u32, alive: u32) -> [usize; 4] {
        let mut counts = [0; 4];
        // This set is registered before its member is inserted.
        let mut registered = ExitSet::new();
        registered.insert(alive).unwrap();
        assert!(poll_once(registered.next()).is_none());
        for _ in 0..ROUNDS {
            let mut set = ExitSet::new();
            set.insert(pid).unwrap();
            counts[0] += usize::from(poll_once(set.next()).is_some());
            let mut set = ExitSet::new();
            set.insert(pid).unwrap();
            counts[1] += usize::from(expired(set.next_exit()).await.is_ok());
            registered.insert(pid).unwrap();
            counts[2] += usize::from(poll_once(registered.next()).is_some());
            registered.remove(pid);
            registered.insert_exit(exit_of(pid));
            counts[3] += usize::from(expired(registered.next_exit()).await.is_ok());
            registered.remove(pid);
        }
        counts
    }
    for runtime in support::runtimes() {
        assert_eq!(runtime.block_on(yielded(pid, alive)), [ROUNDS; 4]);
        let task = runtime.spawn(yielded(pid, alive));
        assert_eq!(runtime.block_on(task).unwrap(), [ROUNDS; 4]);
    }
}

#[test]
fn first_polls_yield_all_exits_of_the_past() {
    let mut sleepers = many(at_most(400));
    let alive = many(1);
    for runtime in support::runtimes() {
        let _runtime = runtime.enter();
        // One set is registered before the insertions.
        let mut sets = [set_of(&sleepers), set_of(&alive)];
        assert!(poll_once(sets[1].next()).is_none());
        for sleeper in &sleepers {
            sets[1].insert(sleeper.id()).unwrap();
        }
        kill(&mut sleepers);
        for mut set in sets {
            let yielded = (0..sleepers.len()).filter(|_| poll_once(set.next()).is_some());
            assert_eq!(yielded.count(), sleepers.len());
        }
    }
}

#[cfg(unix)]
#[test]
fn first_poll_yields_a_reap_of_the_past() {
    for runtime in support::runtimes() {
        let _runtime = runtime.enter();
        for _ in 0..at_most(100) {
            let mut child = Child::spawn(0);
            let mut set = ExitSet::new();
            set.insert_exit(exit_of(child.id()).until_reaped());
            child.reap();
            assert!(poll_once(set.next()).is_some());
        }
    }
}

#[tokio::test]
async fn exits_within_keeps_its_timeout_at_the_coop_budget() {
    // tokio lets a task handle 128 events before other tasks run.
    for count in [127, 128, 129] {
        let mut sleepers = many(at_most(count + 1));
        let alive = sleepers.split_off(sleepers.len() - 1);
        let mut set = set_of(&sleepers);
        set.insert(alive[0].id()).unwrap();
        kill(&mut sleepers);
        let exits = deadline(tokio::spawn(async move {
            let exits = set.exits_within(Duration::from_millis(50)).await;
            (exits.unwrap().len(), set.len())
        }));
        assert_eq!(exits.await.unwrap(), (sleepers.len(), 1), "{count} events");
    }
}

#[test]
fn inserting_a_failed_wait_wakes_the_task() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _runtime = runtime.enter();
    let mut set = ExitSet::new();
    set.insert(std::process::id()).unwrap();
    let mut task = tokio_test::task::spawn(set);
    assert!(task.poll_next().is_pending());
    assert!(!task.is_woken());
    // The error of opening the process is ready at once.
    task.insert_exit(exit_of(i32::MAX as u32));
    assert!(task.is_woken());
    assert!(task.poll_next().is_ready());
    assert!(task.poll_next().is_pending());
}

mod stop {
    use super::*;

    #[cfg(unix)]
    fn signal_of(exit: &std::io::Result<Exit>) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        exit.as_ref().unwrap().status().unwrap().signal()
    }

    /// Starts a shell that ignores SIGTERM.
    #[cfg(unix)]
    fn stubborn() -> Child {
        let (mut ready, write) = support::unix::pipe();
        let mut command = support::shell("trap '' TERM; echo >&2; read line");
        let child = Child::spawn_command(command.stderr(std::os::fd::OwnedFd::from(write)));
        drop(command);
        std::io::Read::read_exact(&mut ready, &mut [0]).expect("the shell reports the trap");
        child
    }

    #[test]
    fn stop_ends_all_processes_on_both_runtimes() {
        for runtime in support::runtimes() {
            let sleepers = many(at_most(500));
            let mut set = set_of(&sleepers);
            let grace = match cfg!(windows) {
                true => Duration::from_millis(200),
                false => Duration::MAX,
            };
            let exits = runtime.block_on(async { deadline(set.stop(grace)).await });
            let pids: HashSet<u32> = exits
                .iter()
                .map(|exit| exit.as_ref().unwrap().pid().unwrap())
                .collect();
            assert_eq!(pids, sleepers.iter().map(Sleeper::id).collect());
            #[cfg(unix)]
            for exit in &exits {
                assert_eq!(signal_of(exit), Some(libc::SIGTERM));
            }
            assert_eq!(exits.len(), sleepers.len());
            assert!(set.is_empty());
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn stop_kills_after_the_grace() {
        let (sleeper, child) = (many(1), stubborn());
        let mut set = set_of(&sleeper);
        set.insert(child.id()).unwrap();
        let started = Instant::now();
        let grace = Duration::from_millis(300);
        let exits = deadline(set.stop(grace)).await;
        assert!(started.elapsed() >= grace);
        assert_eq!(exits.len(), 2);
        for exit in &exits {
            let is_sleeper = exit.as_ref().unwrap().pid() == Some(sleeper[0].id());
            let expected = if is_sleeper {
                libc::SIGTERM
            } else {
                libc::SIGKILL
            };
            assert_eq!(signal_of(exit), Some(expected));
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn stop_continues_a_stopped_process() {
        let sleeper = many(1);
        support::unix::kill(sleeper[0].id(), libc::SIGSTOP);
        let mut set = set_of(&sleeper);
        let exits = deadline(set.stop(Duration::MAX)).await;
        assert_eq!(signal_of(&exits[0]), Some(libc::SIGTERM));
    }

    #[tokio::test]
    async fn stop_returns_earlier_exits_and_errors() {
        let zombie = Child::zombie(7);
        let mut set = ExitSet::new();
        set.insert(zombie.id()).unwrap();
        set.insert_exit(exit_of(u32::MAX));
        let exits = deadline(set.stop(Duration::MAX)).await;
        assert_eq!(exits.len(), 2);
        let codes: Vec<_> = exits
            .iter()
            .filter_map(|exit| exit.as_ref().ok()?.status()?.code())
            .collect();
        assert_eq!(codes, [7]);
        assert!(set.is_empty());
        assert!(deadline(set.stop(Duration::MAX)).await.is_empty());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn dropped_stop_loses_no_exit() {
        let (mut sleepers, child) = (many(20), stubborn());
        let mut set = set_of(&sleepers);
        set.insert(child.id()).unwrap();
        let mut stop = Box::pin(set.stop(Duration::MAX));
        assert!(poll_once(&mut stop).is_none());
        // All but one have been asked to exit.
        for sleeper in &mut sleepers {
            support::until("the process is a zombie", || {
                support::unix::is_zombie(sleeper.id())
            });
        }
        assert!(poll_once(&mut stop).is_none());
        drop(stop);
        let exits = set.exits_within(Duration::ZERO).await.unwrap();
        assert_eq!(exits.len(), sleepers.len());
        assert_eq!(set.pids().collect::<Vec<_>>(), [child.id()]);
        // A second call starts again.
        let exits = deadline(set.stop(Duration::from_millis(50))).await;
        assert_eq!(exits.len(), 1);
        assert_eq!(signal_of(&exits[0]), Some(libc::SIGKILL));
    }

    /// The exits of processes that may not be signalled are returned if they happen in time.
    #[cfg(target_os = "linux")]
    #[test]
    fn stop_returns_the_error_of_a_refused_signal() {
        let test = "stop::stop_returns_the_error_of_a_refused_signal";
        if support::role().is_some() {
            return current_thread().block_on(async {
                let (sleeper, child) = (many(1), stubborn());
                let mut set = set_of(&sleeper);
                set.insert(1).unwrap();
                set.insert(child.id()).unwrap();
                let exits = deadline(set.stop(Duration::from_millis(50))).await;
                assert_eq!(exits.len(), 3);
                let error = exits[2].as_ref().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                let inner = error.get_ref().unwrap();
                let inner = inner.downcast_ref::<tokio_process_exit::ProcessError>();
                assert_eq!(inner.unwrap().pid(), 1);
                assert_eq!(set.pids().collect::<Vec<_>>(), [1]);
                let exits = deadline(set.stop(Duration::MAX)).await;
                assert_eq!(exits.len(), 1);
            });
        }
        match linux::rerun_as_nobody(test, &[]) {
            Some(output) => support::assert_passed(&output),
            None => support::skip("not root, or the user nobody cannot start this binary"),
        }
    }
}
