//! Promise: a set yields each of its processes exactly once, as they exit.

mod support;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt};
#[cfg(target_os = "linux")]
use support::linux;
#[cfg(unix)]
use support::unix::Grandchild;
use support::{Child, Sleeper, at_most, deadline, many, still_pending};
#[cfg(unix)]
use tokio_process_exit::ProcessExit;
use tokio_process_exit::{Exit, ExitSet, exit_of};

async fn next(set: &mut ExitSet) -> Exit {
    deadline(set.next_exit())
        .await
        .expect("not empty")
        .expect("no error")
}

fn set_of(processes: &[Sleeper]) -> ExitSet {
    let mut set = ExitSet::new();
    for process in processes {
        assert!(set.insert(process.id()).unwrap());
    }
    set
}

/// Whether this is a process that has been started for this test alone. If not, that has been done,
/// and the test has passed in it.
#[cfg(target_os = "linux")]
fn is_alone(test: &str) -> bool {
    let is_alone = support::role().is_some();
    if !is_alone {
        support::assert_passed(&support::rerun(test, "alone", |_| {}));
    }
    is_alone
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

/// Leaves none.
#[cfg(target_os = "linux")]
fn all_descriptors() -> Vec<std::fs::File> {
    std::iter::from_fn(|| open_null().ok()).collect()
}

fn kill(processes: &mut [Sleeper]) {
    processes.iter_mut().for_each(Sleeper::kill);
}

#[tokio::test]
async fn an_empty_set_has_nothing_to_wait_for() {
    let mut set = ExitSet::new();
    assert!(set.is_empty());
    assert!(deadline(set.next_exit()).await.is_none());
    assert!(set.try_next_exit().is_none());
    assert_eq!(deadline(set.exits_within(Duration::MAX)).await.unwrap(), []);
}

#[tokio::test]
async fn each_exit_is_yielded_once_with_its_status_in_order() {
    let mut children: Vec<Child> = (0..20).map(Child::spawn).collect();
    let mut set = ExitSet::new();
    for child in &children {
        assert!(set.insert(child.id()).unwrap());
    }
    still_pending(set.next_exit()).await;
    let order = [7, 3, 19, 0, 11];
    // Neither a poller nor a thread of Windows sees the order of what happens between two looks.
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
async fn children_and_others_zombies_and_reaped_are_all_yielded() {
    let (mut child, zombie) = (Child::spawn(1), Child::zombie(2));
    let (mut grandchild, other_zombie) = (Grandchild::spawn(), Grandchild::zombie(4));
    let mut reaped = Grandchild::spawn();
    let mut set = ExitSet::new();
    for id in [
        child.id(),
        zombie.id(),
        grandchild.id(),
        other_zombie.id(),
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
        3 | 4 => support::tells_the_status_of_zombies(),
        5 => support::tells_the_status_of_reaped(),
        _ => true,
    });
    assert_eq!(codes, expected.collect());
}

#[tokio::test]
async fn the_same_process_is_in_it_once() {
    let mut child = Child::spawn(0);
    let mut set = ExitSet::new();
    assert!(set.insert(child.id()).unwrap());
    assert!(!set.insert(child.id()).unwrap());
    assert!(!set.insert_exit(exit_of(child.id())));
    child.end();
    child.until_exited();
    // Also as a zombie, known or not.
    assert!(!set.insert(child.id()).unwrap());
    assert!(!set.insert_exit(exit_of(child.id())));
    assert_eq!(set.len(), 1);
    next(&mut set).await;
    assert!(set.is_empty());
    // Once yielded, it may come in again as long as it is there.
    assert!(set.insert(child.id()).unwrap());
    next(&mut set).await;
    assert!(deadline(set.next_exit()).await.is_none());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_recycled_pid_is_another_process_and_both_are_yielded() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let mut set = ExitSet::new();
    set.insert(pid).unwrap();
    first.reap();
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return support::skip("pids cannot be chosen (not root)");
    };
    assert!(set.insert(pid).unwrap());
    assert!(!set.insert(pid).unwrap());
    assert_eq!(set.len(), 2);
    let exit = next(&mut set).await;
    if support::tells_the_status_of_reaped() {
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
async fn a_process_that_was_removed_is_not_yielded() {
    let mut processes = many(3);
    let mut set = set_of(&processes);
    assert!(set.remove(processes[0].id()));
    assert!(!set.remove(processes[0].id()));
    assert!(!set.remove(1));
    assert!(!set.contains(processes[0].id()));
    still_pending(set.next_exit()).await;
    // Also after its exit, known or not.
    kill(&mut processes);
    assert!(set.remove(processes[1].id()));
    assert_eq!(set.len(), 1);
    assert_eq!(next(&mut set).await.pid(), Some(processes[2].id()));
    assert!(deadline(set.next_exit()).await.is_none());

    // A new one does not get the old one's events.
    for _ in 0..20 {
        let alive = &many(1)[0];
        set.insert(processes[0].id()).unwrap();
        set.remove(processes[0].id());
        set.insert(alive.id()).unwrap();
        assert!(set.next_exit().now_or_never().is_none());
        set.remove(alive.id());
    }
    processes.clear();
}

#[tokio::test]
async fn errors_leave_the_set_as_it_was() {
    let mut child = Child::spawn(0);
    let gone = child.id();
    child.reap();
    // On Windows a process is there for as long as anybody has a handle of it.
    drop(child);
    support::until_forgotten(gone);
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
async fn opened_resolved_reaped_and_failed_waits_can_be_inserted() {
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
    assert_eq!(next(&mut set).await.status().unwrap().code(), Some(8));
    assert!(set.is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_is_out_once_it_is_yielded_and_may_come_in_again_for_good() {
    let mut processes: Vec<_> = (0..3).map(|_| Grandchild::spawn()).collect();
    let mut set = ExitSet::new();
    for process in &processes {
        assert!(set.insert(process.id()).unwrap());
    }
    processes.iter_mut().for_each(|process| process.end(8));
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
    // Its earlier descriptor is closed now.
    still_pending(set.next_exit()).await;
    assert!(set.contains(first));
    assert_eq!(set.pids().collect::<Vec<_>>(), [first]);

    processes.iter_mut().for_each(Grandchild::reap);
    assert_eq!(next(&mut set).await.pid(), Some(first));
    assert!(!set.contains(first));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn adopted_processes_can_be_inserted_and_told_apart() {
    if support::poll_forced() {
        return support::skip("polling is forced, and pidfds are adopted");
    }
    let mut grandchild = Grandchild::spawn();
    let pidfds = [0, 0, 0].map(|flags| linux::pidfd_open(grandchild.id(), flags));
    let duplicate = pidfds[0].try_clone().unwrap();
    grandchild.end(8);
    grandchild.reap();
    let mut set = ExitSet::new();
    for pidfd in pidfds {
        // It has no pid any more, so it is not known to be the same one.
        assert!(set.insert_exit(ProcessExit::try_from(pidfd).unwrap()));
    }
    for _ in 0..3 {
        let exit = next(&mut set).await;
        assert_eq!(exit.pid(), None);
        if support::tells_the_status_of_reaped() {
            assert_eq!(exit.status().unwrap().code(), Some(8));
        }
    }
    assert!(set.is_empty());
    drop(duplicate);
}

#[test]
fn it_can_be_looked_at_without_a_runtime() {
    let mut processes = many(at_most(300));
    let mut set = set_of(&processes);
    assert!(set.try_next_exit().is_none());
    kill(&mut processes);
    let mut ids = HashSet::new();
    while let Some(exit) = set.try_next_exit() {
        assert!(ids.insert(exit.unwrap().pid().unwrap()));
    }
    assert_eq!(ids, processes.iter().map(Sleeper::id).collect());
    assert!(set.is_empty());
}

#[tokio::test]
async fn exits_within_returns_who_is_gone_and_keeps_who_is_alive() {
    let mut processes = many(at_most(400));
    let mut set = set_of(&processes);
    assert_eq!(set.exits_within(Duration::ZERO).await.unwrap(), []);
    let start = Instant::now();
    assert_eq!(
        set.exits_within(Duration::from_millis(50)).await.unwrap(),
        []
    );
    assert!(start.elapsed() >= Duration::from_millis(50));

    let (gone, alive) = processes.split_at_mut(at_most(400) * 3 / 4);
    kill(gone);
    // No time at all is enough to see all who are gone.
    let exits = deadline(set.exits_within(Duration::ZERO)).await.unwrap();
    let ids: HashSet<u32> = exits.iter().filter_map(Exit::pid).collect();
    assert_eq!(exits.len(), gone.len());
    assert_eq!(ids, gone.iter().map(Sleeper::id).collect());
    assert_eq!(
        set.pids().collect::<HashSet<_>>(),
        alive.iter().map(Sleeper::id).collect()
    );

    // It does not wait for the end of the time when all are gone.
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
async fn exits_within_loses_nothing_when_cancelled_or_failing() {
    let mut processes = many(3);
    let mut set = set_of(&processes);
    kill(&mut processes[..2]);
    still_pending(set.exits_within(Duration::MAX)).await;
    assert_eq!(set.len(), 3);
    assert!(set.contains(processes[0].id()) && set.contains(processes[1].id()));
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
    assert_eq!(set.pids().collect::<Vec<_>>(), [processes[2].id()]);
}

#[tokio::test]
async fn cancelling_at_any_point_loses_nothing() {
    let mut processes = many(at_most(200));
    let mut set = set_of(&processes);
    let mut ids = HashSet::new();
    for process in &mut processes {
        process.kill();
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
    assert_eq!(ids, processes.iter().map(Sleeper::id).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_moves_between_tasks_and_runtimes_with_all_its_processes() {
    let mut processes = many(at_most(100));
    let mut set = set_of(&processes);
    let mut ids = HashSet::new();
    for (n, process) in processes.iter_mut().enumerate() {
        process.kill();
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
        assert_eq!(exit.pid(), Some(process.id()));
        assert!(ids.insert(exit.pid()));
    }
    assert!(set.is_empty());
}

#[tokio::test]
async fn others_have_their_turn_during_a_mass_exit() {
    let size = if cfg!(windows) { 300 } else { 2000 };
    let mut processes = many(size);
    let mut set = set_of(&processes);
    kill(&mut processes);
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
    // The budget of a task is 128 operations. Half of the turns that makes will do.
    assert!(
        ticks.get() >= size / 128 / 2,
        "{} turns of the other task",
        ticks.get()
    );
}

#[tokio::test]
async fn it_is_a_stream_that_goes_on_after_its_end() {
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

/// In a process of its own, as it counts descriptors.
#[cfg(target_os = "linux")]
#[test]
fn descriptors_are_closed_when_the_set_is_idle_empty_or_dropped_and_soon_when_it_goes_on() {
    if !is_alone(
        "descriptors_are_closed_when_the_set_is_idle_empty_or_dropped_and_soon_when_it_goes_on",
    ) {
        return;
    }
    let runtime = current_thread();
    let open = || linux::open_fds().len();
    runtime.block_on(async {
        // A set that is empty needs one, for its next process.
        let most = open() + 1;

        let mut dead = many(1000);
        let mut set = set_of(&dead);
        kill(&mut dead);
        assert_eq!(
            set.exits_within(Duration::from_secs(20))
                .await
                .unwrap()
                .len(),
            1000
        );
        assert!(set.next_exit().await.is_none());
        assert!(open() <= most, "after exits_within, and a look");
        drop(set);

        let mut set = set_of(&dead[..100]);
        let exits = set.exits_within(Duration::from_secs(20)).await.unwrap();
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
        assert!(open() <= most + 1, "when idle, with one alive");
        drop(set);

        let mut set = set_of(&dead[..500]);
        next(&mut set).await;
        drop(set);
        assert!(open() < most, "after a drop midway");

        // One at a time, without end.
        let mut set = ExitSet::new();
        for process in &dead {
            set.insert(process.id()).unwrap();
            next(&mut set).await;
            assert!(
                open() <= most + 200,
                "{} descriptors for a set of one",
                open()
            );
        }
    });
}

/// In a process of its own, as it is about its table of descriptors.
#[cfg(target_os = "linux")]
#[test]
fn a_set_makes_room_for_its_descriptors_in_few_steps_and_within_the_limit() {
    if !is_alone("a_set_makes_room_for_its_descriptors_in_few_steps_and_within_the_limit") {
        return;
    }
    let before = linux::descriptor_table();
    if support::poll_forced() || before >= 500 {
        return support::skip(&format!("the table has {before} places"));
    }
    let open = linux::open_fds().len();
    let processes = many(100);

    let mut set = ExitSet::new();
    let mut sizes = HashSet::from([before]);
    for process in &processes {
        set.insert(process.id()).unwrap();
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
fn an_exit_gives_its_descriptor_to_others_when_they_are_scarce() {
    if !is_alone("an_exit_gives_its_descriptor_to_others_when_they_are_scarce") {
        return;
    }
    let runtime = current_thread();
    let mut processes = many(240);
    // There were enough when this was made.
    drop(set_of(&processes[..1]));
    linux::limit_descriptors(256);
    let mut set = set_of(&processes);
    kill(&mut processes);
    runtime.block_on(async {
        let mut files = Vec::new();
        while let Some(exit) = deadline(set.next_exit()).await {
            exit.unwrap();
            files.push(open_null().expect("one for each exit"));
        }
        assert_eq!(files.len(), 240);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_set_of_one_keeps_no_descriptors_from_others_when_they_are_scarce() {
    if !is_alone("a_set_of_one_keeps_no_descriptors_from_others_when_they_are_scarce") {
        return;
    }
    let mut processes = many(100);
    kill(&mut processes);
    linux::limit_descriptors(256);
    let _files: Vec<_> = (0..200).map(|_| open_null().unwrap()).collect();
    let before = linux::open_fds().len();
    let mut set = ExitSet::new();
    for process in &processes {
        set.insert(process.id()).unwrap();
        while set.try_next_exit().is_none() {}
        // The set's own, for its next process.
        assert!(linux::open_fds().len() <= before + 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_exit_gives_its_descriptor_to_others_also_if_they_have_become_scarce_since() {
    if !is_alone("an_exit_gives_its_descriptor_to_others_also_if_they_have_become_scarce_since") {
        return;
    }
    if support::poll_forced() {
        return support::skip("polled processes have no descriptors");
    }
    let runtime = current_thread();
    let mut processes = many(100);
    linux::limit_descriptors(256);
    let mut set = set_of(&processes);
    kill(&mut processes);
    let mut files: Vec<_> = all_descriptors();
    // For the reactor, and to read /proc with.
    files.truncate(files.len() - 4);
    runtime.block_on(async {
        for _ in 0..100 {
            next(&mut set).await;
            files.push(open_null().expect("one for each exit"));
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn before_a_process_is_polled_for_want_of_descriptors_those_of_yielded_ones_are_closed() {
    if !is_alone(
        "before_a_process_is_polled_for_want_of_descriptors_those_of_yielded_ones_are_closed",
    ) {
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
    let _files: Vec<_> = all_descriptors();
    let polled = exit_of(alive[0].id());
    assert!(polled.fallback_reason().is_some());
    assert!(set.insert_exit(polled));
    assert!(set.insert(alive[1].id()).unwrap());
    assert_eq!(set.polled_len(), 0);
    assert_eq!(set.len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn an_exit_waits_for_no_close_once_there_are_descriptors_enough() {
    if !is_alone("an_exit_waits_for_no_close_once_there_are_descriptors_enough") {
        return;
    }
    if support::poll_forced() {
        return support::skip("polled processes have no descriptors");
    }
    let runtime = current_thread();
    let mut processes = many(100);
    let enough = linux::limit_descriptors(128);
    // They were scarce when this was made.
    drop(set_of(&processes));
    linux::limit_descriptors(enough);
    let mut set = set_of(&processes);
    kill(&mut processes);
    runtime.block_on(async {
        let before = linux::open_fds().len();
        for nth in 0..50 {
            next(&mut set).await;
            let now = linux::open_fds().len();
            // The first wait registers with the reactor, which may take one.
            assert!(now >= before, "{} closed at exit {nth}", before - now);
        }
    });
}

#[tokio::test]
async fn the_same_process_is_in_it_once_also_when_its_exit_is_known() {
    let mut processes = many(3);
    let mut set = set_of(&processes);
    kill(&mut processes);
    let first = set.try_next_exit().unwrap().unwrap().pid().unwrap();
    for process in processes.iter().filter(|process| process.id() != first) {
        assert!(!set.insert(process.id()).unwrap());
        assert!(!set.insert_exit(exit_of(process.id())));
    }
    assert_eq!(set.len(), 2);
    // Waits that have resolved outside.
    let mut set = ExitSet::new();
    let mut exits = [exit_of(first), exit_of(first)];
    for exit in &mut exits {
        deadline(&mut *exit).await.unwrap();
    }
    assert_eq!(exits.map(|exit| set.insert_exit(exit)), [true, false]);
    assert!(!set.insert(first).unwrap());
    assert_eq!(set.len(), 1);
}

#[tokio::test]
async fn known_exits_are_yielded_in_turns_too() {
    let size = if cfg!(windows) { 300 } else { 2000 };
    let mut processes = many(size);
    let mut set = set_of(&processes);
    kill(&mut processes);
    let turns = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = turns.clone();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let one_alive = &many(1)[0];
            set.insert(one_alive.id()).unwrap();
            // All become known, and are kept as the wait is cancelled.
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
        "{} turns of the other task",
        turns.get()
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_without_a_pid_here_is_not_among_the_pids() {
    let mut grandchild = Grandchild::spawn();
    let pidfd = linux::pidfd_open(grandchild.id(), 0);
    grandchild.end(5);
    grandchild.reap();
    let mut set = ExitSet::new();
    assert!(set.insert_exit(ProcessExit::try_from(pidfd).unwrap()));
    // 0 would be a process group to whoever sends signals.
    assert_eq!(set.pids().count(), 0);
    assert_eq!(set.len(), 1);
    assert_eq!(next(&mut set).await.pid(), None);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_duplicate_of_a_yielded_pidfd_can_be_inserted() {
    if support::poll_forced() {
        return support::skip("polling is forced, so there is no event to be had");
    }
    let child = Child::zombie(3);
    let mut set = ExitSet::new();
    let mut pidfd = linux::pidfd_open(child.id(), 0);
    for _ in 0..3 {
        let duplicate = pidfd.try_clone().unwrap();
        set.insert_exit(ProcessExit::try_from(pidfd).unwrap());
        next(&mut set).await;
        assert!(deadline(set.next_exit()).await.is_none());
        // Takes the number that has just been closed.
        pidfd = duplicate.try_clone().unwrap();
        assert_eq!(set.polled_len(), 0);
    }
    set.insert_exit(ProcessExit::try_from(pidfd).unwrap());
    assert_eq!(set.polled_len(), 0);
}

#[tokio::test]
async fn a_debug_line_says_what_is_in_it() {
    let set = ExitSet::with_capacity(100);
    assert_eq!(
        format!("{set:?}"),
        "ExitSet { len: 0, polled: 0, exited: 0, .. }"
    );
}

#[tokio::test]
async fn cancelling_exits_within_at_any_turn_lets_no_process_in_twice() {
    let mut processes = many(at_most(400));
    kill(&mut processes);
    for turns in 1.. {
        let mut set = set_of(&processes);
        let patience = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        let exits = tokio::select! {
            biased;
            exits = set.exits_within(Duration::from_secs(20)) => Some(exits),
            () = patience => None,
        };
        if let Some(exits) = exits {
            assert_eq!(exits.unwrap().len(), processes.len());
            assert!(
                turns > 1 || processes.len() < 128,
                "it takes several turns where there are more than the budget"
            );
            break;
        }
        for process in &processes {
            assert!(!set.insert(process.id()).unwrap(), "cancelled at {turns}");
            assert!(!set.insert_exit(exit_of(process.id())));
        }
        assert_eq!(set.len(), processes.len());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn many_exits_leave_no_descriptors_behind_while_they_are_scarce() {
    if !is_alone("many_exits_leave_no_descriptors_behind_while_they_are_scarce") {
        return;
    }
    if support::poll_forced() {
        return support::skip("polled processes have no descriptors");
    }
    let mut processes = many(200);
    linux::limit_descriptors(256);
    let mut set = set_of(&processes);
    kill(&mut processes);
    let before = linux::open_fds().len();
    for nth in 1..=100 {
        while set.try_next_exit().is_none() {}
        assert!(linux::open_fds().len() <= before - nth, "after {nth}");
    }
}

/// In a process of its own, as it takes all descriptors.
#[cfg(target_os = "linux")]
#[test]
fn what_exits_within_has_not_returned_comes_in_once_without_descriptors_too() {
    if !is_alone("what_exits_within_has_not_returned_comes_in_once_without_descriptors_too") {
        return;
    }
    let runtime = current_thread();
    let mut processes = many(400);
    kill(&mut processes);
    linux::limit_descriptors(2000);
    runtime.block_on(async {
        for turns in 0..8 {
            let mut set = set_of(&processes);
            let mut waiting = Box::pin(set.exits_within(Duration::from_secs(20)));
            let mut returned = Vec::new();
            for _ in 0..turns {
                if let Some(exits) = waiting.as_mut().now_or_never() {
                    returned = exits.unwrap();
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(waiting);
            let files: Vec<_> = all_descriptors();
            for process in &processes[..returned.len().abs_diff(400).min(3)] {
                assert!(!set.insert(process.id()).unwrap(), "after {turns} turns");
            }
            drop(files);
            let mut exits = returned.len();
            while let Some(exit) = set.try_next_exit() {
                exit.unwrap();
                exits += 1;
            }
            assert_eq!(exits, 400, "after {turns} turns");
        }
    });
}

#[tokio::test]
async fn exits_within_returns_all_that_have_exited_by_its_end_in_one_turn_too() {
    let mut processes = many(at_most(400));
    let mut set = set_of(&processes);
    // The reactor watches by now.
    still_pending(set.next_exit()).await;
    let patience = Duration::from_millis(30);
    // Both times end while nothing else is done, so that the end comes right after the exits, and
    // before the reactor has its turn.
    let busy = async {
        tokio::time::sleep(patience / 3).await;
        std::thread::sleep(patience * 2);
    };
    let killer = async {
        tokio::time::sleep(patience).await;
        kill(&mut processes);
    };
    let exits = tokio::task::unconstrained(set.exits_within(patience));
    let (_, _, exits) = deadline(async { tokio::join!(biased; busy, killer, exits) }).await;
    assert_eq!(exits.unwrap().len(), processes.len());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_earlier_owner_does_not_take_the_pid_from_the_present_one() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let earlier = exit_of(pid);
    first.reap();
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return support::skip("pids cannot be chosen (not root)");
    };
    let mut set = ExitSet::new();
    assert!(set.insert(pid).unwrap());
    assert!(set.insert_exit(earlier));
    assert!(!set.insert(pid).unwrap(), "it is in the set");
    assert_eq!(set.len(), 2);
    let exit = next(&mut set).await;
    if support::tells_the_status_of_reaped() {
        assert_eq!(exit.status().unwrap().code(), Some(1));
    }
    assert!(set.contains(pid));
    second.end();
    assert_eq!(next(&mut set).await.status().unwrap().code(), Some(2));
    assert!(set.is_empty());
}
