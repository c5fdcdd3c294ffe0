//! Promise: where the kernel refuses events the wait still works, and says so to whoever asks.
//!
//! The refusals are real: seccomp filters, resource limits and mount namespaces, each in a process
//! of its own.

#![cfg(target_os = "linux")]

mod support;

use std::collections::HashSet;
use std::ffi::CStr;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use support::linux::{self, Forked, Grandchild, limit_descriptors, many};
use support::{Child, deadline, skip, still_pending};
use tokio::runtime::{Builder, Runtime};
use tokio_process_exit::{ExitSet, Mechanism, ProcessExit, exit_of};

/// Runs the rest of the test in a process of its own, once for each role.
macro_rules! in_a_process_of_its_own {
    ($test:ident, $roles:expr) => {
        match support::role() {
            Some(role) => role,
            None => {
                let _caches = Caches::of(stringify!($test));
                for role in $roles {
                    support::assert_passed(&support::rerun(stringify!($test), role, |_| {}));
                }
                return;
            }
        }
    };
}

/// Dropped caches make polling less certain for an instant, so whoever drops them is alone.
enum Caches {
    Kept(#[expect(dead_code)] RwLockReadGuard<'static, ()>),
    Dropped(#[expect(dead_code)] RwLockWriteGuard<'static, ()>),
}

impl Caches {
    fn of(test: &str) -> Caches {
        static CACHES: RwLock<()> = RwLock::new(());
        if test.starts_with("dropped_caches") {
            Caches::Dropped(CACHES.write().unwrap_or_else(PoisonError::into_inner))
        } else {
            Caches::Kept(CACHES.read().unwrap_or_else(PoisonError::into_inner))
        }
    }
}

const DENIALS: [(&str, i32); 3] = [
    ("EPERM", libc::EPERM),
    ("EACCES", libc::EACCES),
    ("ENOSYS", libc::ENOSYS),
];

const NO_DENIALS: &str = "no system call can be denied";

/// From now on a system call of this thread, and of those that it starts, fails. Where that cannot be
/// had, the test ends.
macro_rules! deny {
    ($call:expr, $errno:expr) => {{
        if !linux::seccomp_filters() {
            return skip(NO_DENIALS);
        }
        linux::deny($call, $errno)
    }};
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// All that a wait promises, with whatever mechanism there is.
async fn every_promise() {
    // Our own child.
    let mut child = Child::spawn(7);
    let mut exit = exit_of(child.id());
    still_pending(&mut exit).await;
    child.end();
    assert_eq!(
        deadline(&mut exit).await.unwrap().status().unwrap().code(),
        Some(7)
    );
    assert_eq!(child.reap().code(), Some(7));
    assert_eq!(
        deadline(exit.until_reaped())
            .await
            .unwrap()
            .status()
            .unwrap()
            .code(),
        Some(7)
    );

    // Another's child that is not reaped.
    let mut grandchild = Grandchild::spawn();
    let mut exit = exit_of(grandchild.id());
    let mut reaped = exit_of(grandchild.id()).until_reaped();
    still_pending(&mut exit).await;
    grandchild.end(8);
    let status = deadline(exit).await.unwrap().status();
    if linux::stat_tells_the_status() {
        assert_eq!(status.unwrap().code(), Some(8));
    }
    still_pending(&mut reaped).await;
    grandchild.reap();
    assert_eq!(deadline(reaped).await.unwrap().status(), status);

    // Ourselves, and pid 1.
    still_pending(exit_of(std::process::id())).await;
    still_pending(exit_of(1)).await;

    // Bad input.
    let error = ProcessExit::open(grandchild.id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("no process with pid {}", grandchild.id())
    );
    let thread = std::thread::spawn(|| {
        // SAFETY: takes nothing.
        let tid = unsafe { libc::gettid() } as u32;
        ProcessExit::open(tid).unwrap_err()
    });
    let error = thread.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    for pid in [0, u32::MAX] {
        assert_eq!(
            ProcessExit::open(pid).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}

#[test]
fn a_denied_pidfd_is_replaced_by_polling() {
    let role = in_a_process_of_its_own!(
        a_denied_pidfd_is_replaced_by_polling,
        DENIALS.map(|(name, _)| name)
    );
    let errno = DENIALS
        .into_iter()
        .find(|(name, _)| *name == role)
        .unwrap()
        .1;
    deny!(libc::SYS_pidfd_open, errno);
    let exit = exit_of(std::process::id());
    assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
    assert!(exit.as_pidfd().is_none());
    if !support::poll_forced() {
        assert_eq!(exit.fallback_reason().unwrap().raw_os_error(), Some(errno));
    }
    runtime().block_on(every_promise());
}

#[test]
fn what_one_thread_is_denied_others_still_have() {
    let _ = in_a_process_of_its_own!(what_one_thread_is_denied_others_still_have, ["1"]);
    if support::poll_forced() {
        return skip("polling is forced");
    }
    if !linux::seccomp_filters() {
        return skip(NO_DENIALS);
    }
    let me = std::process::id();
    let denied = std::thread::spawn(move || {
        linux::deny(libc::SYS_pidfd_open, libc::EPERM);
        exit_of(me).mechanism()
    });
    assert_eq!(denied.join().unwrap(), Some(Mechanism::Polling));
    assert_eq!(exit_of(me).mechanism(), Some(Mechanism::PidFd));
}

#[test]
fn a_refused_registration_is_replaced_by_polling_the_pidfd() {
    const REFUSALS: [(&str, i32); 3] = [
        ("ENOSPC", libc::ENOSPC),
        ("ENOMEM", libc::ENOMEM),
        ("EPERM", libc::EPERM),
    ];
    let role = in_a_process_of_its_own!(
        a_refused_registration_is_replaced_by_polling_the_pidfd,
        REFUSALS.map(|(name, _)| name)
    );
    if support::poll_forced() {
        return skip("polling is forced, so nothing is registered");
    }
    let errno = REFUSALS
        .into_iter()
        .find(|(name, _)| *name == role)
        .unwrap()
        .1;
    // The runtime needs it to start.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    deny!(libc::SYS_epoll_ctl, errno);
    runtime.block_on(async {
        let mut grandchild = Grandchild::spawn();
        let mut exit = exit_of(grandchild.id());
        assert_eq!(exit.mechanism(), Some(Mechanism::PidFd));
        still_pending(&mut exit).await;
        assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
        assert_eq!(exit.fallback_reason().unwrap().raw_os_error(), Some(errno));
        assert!(exit.as_pidfd().is_some());
        let mut exit = exit.until_reaped();
        grandchild.end(9);
        still_pending(&mut exit).await;
        grandchild.reap();
        let exit = deadline(exit).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(9));
        every_promise().await;
    });
}

/// Opens descriptors until there are none left.
fn exhaust_descriptors() -> Vec<std::fs::File> {
    let mut files = Vec::new();
    loop {
        match std::fs::File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return files;
            }
        }
    }
}

#[test]
fn without_descriptors_it_polls_and_goes_back_to_events_when_there_are_some() {
    let _ = in_a_process_of_its_own!(
        without_descriptors_it_polls_and_goes_back_to_events_when_there_are_some,
        ["1"]
    );
    if support::poll_forced() {
        return skip("polling is forced, so it never goes back");
    }
    runtime().block_on(async {
        let mut child = Child::spawn(7);
        let (mut one, mut two, mut three) = (
            Grandchild::spawn(),
            Grandchild::spawn(),
            Grandchild::spawn(),
        );
        let limit = limit_descriptors(64);
        let files = exhaust_descriptors();

        let of_child = exit_of(child.id());
        let mut of_one = exit_of(one.id());
        let mut of_two = exit_of(two.id());
        let mut of_three = exit_of(three.id()).until_reaped();
        for exit in [&of_child, &of_one, &of_two, &of_three] {
            assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
            let reason = exit.fallback_reason().unwrap();
            assert_eq!(reason.raw_os_error(), Some(libc::EMFILE));
        }
        still_pending(&mut of_one).await;
        still_pending(&mut of_two).await;
        still_pending(&mut of_three).await;

        // With nothing left, not even /proc can be read. But our children are told us, and
        // everybody's reap.
        child.end();
        assert_eq!(
            deadline(of_child).await.unwrap().status().unwrap().code(),
            Some(7)
        );
        one.end(8);
        one.reap();
        deadline(of_one).await.unwrap();
        assert_eq!(of_two.mechanism(), Some(Mechanism::Polling));

        drop(files);
        limit_descriptors(limit);
        for exit in [&mut of_two, &mut of_three] {
            deadline(async {
                while exit.mechanism() != Some(Mechanism::PidFd) {
                    still_pending(&mut *exit).await;
                }
            })
            .await;
            assert!(exit.fallback_reason().is_none());
        }
        two.end(9);
        assert_eq!(
            deadline(of_two).await.unwrap().status().unwrap().code(),
            Some(9)
        );
        three.end(10);
        still_pending(&mut of_three).await;
        three.reap();
        deadline(of_three).await.unwrap();
    });
}

#[test]
fn the_last_descriptor_is_left_to_look_at_zombies_with() {
    let _ = in_a_process_of_its_own!(the_last_descriptor_is_left_to_look_at_zombies_with, ["1"]);
    runtime().block_on(async {
        let mut grandchild = Grandchild::spawn();
        let limit = limit_descriptors(64);
        let mut files = exhaust_descriptors();
        files.pop();
        let mut exit = exit_of(grandchild.id());
        assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
        still_pending(&mut exit).await;
        grandchild.end(8);
        assert_eq!(
            deadline(exit).await.unwrap().status().unwrap().code(),
            Some(8)
        );
        drop(files);
        limit_descriptors(limit);
    });
}

#[test]
fn the_last_descriptor_is_left_also_when_it_is_a_hole_in_a_full_table() {
    let _ = in_a_process_of_its_own!(
        the_last_descriptor_is_left_also_when_it_is_a_hole_in_a_full_table,
        ["1"]
    );
    runtime().block_on(async {
        let (mut one, two) = (Grandchild::spawn(), Grandchild::spawn());
        limit_descriptors(64);
        let mut files = exhaust_descriptors();
        let of_one = exit_of(one.id());
        files.remove(0);
        let mut of_two = exit_of(two.id());
        assert_eq!(of_two.mechanism(), Some(Mechanism::Polling));
        still_pending(&mut of_two).await;
        one.end(8);
        assert_eq!(
            deadline(of_one).await.unwrap().status().unwrap().code(),
            Some(8)
        );
        assert_eq!(of_two.mechanism(), Some(Mechanism::Polling));
    });
}

#[test]
fn a_runtime_without_a_thread_for_the_poller_is_an_error_until_there_is_one() {
    let _ = in_a_process_of_its_own!(
        a_runtime_without_a_thread_for_the_poller_is_an_error_until_there_is_one,
        ["1"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut child = Child::spawn(7);
    let mut exit = exit_of(child.id());
    let (handle, pid) = (runtime.handle().clone(), child.id());
    let failed = std::thread::spawn(move || {
        linux::deny(libc::SYS_clone, libc::EAGAIN);
        linux::deny(libc::SYS_clone3, libc::EAGAIN);
        let mut set = ExitSet::new();
        set.insert(pid).unwrap();
        handle.block_on(set.next_exit()).unwrap().unwrap_err();
        handle.block_on(&mut exit).unwrap_err();
        (exit, set)
    });
    let (mut exit, mut set) = failed.join().unwrap();
    runtime.block_on(async {
        still_pending(&mut exit).await;
        still_pending(set.next_exit()).await;
        child.end();
        assert_eq!(
            deadline(exit).await.unwrap().status().unwrap().code(),
            Some(7)
        );
        deadline(set.next_exit()).await.unwrap().unwrap();
    });
}

#[test]
fn a_status_that_the_poller_has_seen_is_not_lost_by_the_reap() {
    let _ = in_a_process_of_its_own!(
        a_status_that_the_poller_has_seen_is_not_lost_by_the_reap,
        ["1"]
    );
    if !linux::stat_tells_the_status() {
        return skip("Linux before 6.1 does not tell");
    }
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let (first, second) = (runtime(), runtime());
    let code = |exit: tokio_process_exit::Exit| exit.status().and_then(|status| status.code());

    // It is at hand when the process is looked at, waited for elsewhere, or put into a set.
    let seen = || {
        let mut grandchild = Grandchild::spawn();
        let mut task = tokio_test::task::spawn(exit_of(grandchild.id()));
        first.block_on(async { assert!(task.poll().is_pending()) });
        grandchild.end(8);
        support::until("the poller sees the zombie", || task.is_woken());
        grandchild.reap();
        task.into_inner()
    };
    assert_eq!(code(seen().try_wait().unwrap().unwrap()), Some(8));
    assert_eq!(code(second.block_on(deadline(seen())).unwrap()), Some(8));
    assert_eq!(
        code(seen().until_reaped().try_wait().unwrap().unwrap()),
        Some(8)
    );
    let mut set = ExitSet::new();
    assert!(set.insert_exit(seen()));
    assert_eq!(code(set.try_next_exit().unwrap().unwrap()), Some(8));

    // Also while it still waits for the reap, and in a set.
    let mut grandchild = Grandchild::spawn();
    let mut exit = exit_of(grandchild.id()).until_reaped();
    let mut set = ExitSet::new();
    set.insert_exit(exit_of(grandchild.id()).until_reaped());
    first.block_on(async {
        still_pending(&mut exit).await;
        still_pending(set.next_exit()).await;
    });
    grandchild.end(8);
    support::until("a zombie", || linux::state_of(grandchild.id()) == Some('Z'));
    second.block_on(async {
        still_pending(&mut exit).await;
        still_pending(set.next_exit()).await;
    });
    grandchild.reap();
    assert_eq!(code(exit.try_wait().unwrap().unwrap()), Some(8));
    assert_eq!(code(set.try_next_exit().unwrap().unwrap()), Some(8));
}

#[test]
fn a_waker_that_panics_keeps_no_news_from_others() {
    struct Bomb;
    impl std::task::Wake for Bomb {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("a waker that panics");
        }
    }
    let _ = in_a_process_of_its_own!(a_waker_that_panics_keeps_no_news_from_others, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = runtime();
    runtime.block_on(async {
        let mut children: Vec<Child> = (0..8).map(Child::spawn).collect();
        let mut exits: Vec<ProcessExit> =
            children.iter().map(|child| exit_of(child.id())).collect();
        for (n, exit) in exits.iter_mut().enumerate() {
            if n % 2 == 0 {
                let bomb = std::sync::Arc::new(Bomb).into();
                let mut context = std::task::Context::from_waker(&bomb);
                assert!(futures::FutureExt::poll_unpin(exit, &mut context).is_pending());
            }
        }
        children.iter_mut().for_each(Child::end);
        for exit in exits {
            deadline(exit).await.unwrap();
        }
    });
}

#[test]
fn dropped_caches_cost_neither_the_status_nor_the_way_back_to_events() {
    let role = in_a_process_of_its_own!(
        dropped_caches_cost_neither_the_status_nor_the_way_back_to_events,
        ["denied", "exhausted"]
    );
    let drop_caches = || std::fs::write("/proc/sys/vm/drop_caches", "2");
    if drop_caches().is_err() {
        return skip("caches cannot be dropped (not root)");
    }
    if !linux::stat_tells_the_status() {
        return skip("Linux before 6.1 does not tell");
    }
    let mut child = Child::spawn(7);
    let mut grandchild = Grandchild::spawn();
    let mut exhausted = None;
    if role == "denied" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    } else {
        exhausted = Some((limit_descriptors(64), exhaust_descriptors()));
    }
    let mut exits = [child.id(), grandchild.id()].map(exit_of);
    let runtime = runtime_in(&mut exhausted);
    runtime.block_on(async {
        // Some looks in later ticks than the one in which it was opened.
        for exit in &mut exits {
            assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
            still_pending(&mut *exit).await;
        }
        drop_caches().unwrap();
        if exhausted.take().is_some() && !support::poll_forced() {
            for exit in &mut exits {
                deadline(async {
                    while exit.mechanism() != Some(Mechanism::PidFd) {
                        still_pending(&mut *exit).await;
                    }
                })
                .await;
            }
        }
        child.end();
        grandchild.end(8);
        let [of_child, of_grandchild] = exits;
        assert_eq!(
            deadline(of_child).await.unwrap().status().unwrap().code(),
            Some(7)
        );
        assert_eq!(
            deadline(of_grandchild)
                .await
                .unwrap()
                .status()
                .unwrap()
                .code(),
            Some(8)
        );
    });
}

/// A runtime takes descriptors of its own, for which a few are given back; the limit is lifted.
fn runtime_in(exhausted: &mut Option<(u64, Vec<std::fs::File>)>) -> Runtime {
    if let Some((limit, files)) = exhausted {
        limit_descriptors(*limit);
        files.truncate(files.len() / 2);
    }
    runtime()
}

#[test]
fn a_recycled_pid_gives_no_status_of_its_new_owner() {
    let _ = in_a_process_of_its_own!(a_recycled_pid_gives_no_status_of_its_new_owner, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    for _ in 0..50 {
        // All in one tick, if the machine is quick enough, so that the start times are the same.
        let first = linux::fork(|| 1);
        let pid = first.id();
        let mut exit = exit_of(pid);
        first.reap();
        let Some(second) = linux::recycle(pid, || linux::fork(|| 77), Forked::id) else {
            return skip("pids cannot be chosen (not root)");
        };
        support::until("a zombie", || linux::state_of(pid) == Some('Z'));
        let seen = exit.try_wait().unwrap();
        let code = seen
            .and_then(|exit| exit.status())
            .and_then(|status| status.code());
        assert!(
            code.is_none_or(|code| code == 1),
            "the status of its successor: {code:?}"
        );
        drop(second);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_polled_exit_is_noticed_within_the_interval_and_a_new_wait_at_once() {
    let _ = in_a_process_of_its_own!(
        a_polled_exit_is_noticed_within_the_interval_and_a_new_wait_at_once,
        ["1"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    runtime().block_on(async {
        let mut late = Vec::new();
        for _ in 0..15 {
            let process = linux::fork(|| linux::forever());
            let mut exit = exit_of(process.id());
            still_pending(&mut exit).await;
            let start = Instant::now();
            linux::kill(process.id(), libc::SIGKILL);
            deadline(exit).await.unwrap();
            late.push(start.elapsed());
        }
        let late = median(late);
        assert!(
            late < Duration::from_millis(60),
            "noticed {late:?} late, by the median"
        );

        // While the poller sleeps for 40 ms because of another.
        let mut old = exit_of(1);
        still_pending(&mut old).await;
        let mut late = Vec::new();
        for _ in 0..15 {
            still_pending(&mut old).await;
            let process = linux::fork(|| linux::forever());
            let mut exit = exit_of(process.id());
            assert!(futures::FutureExt::now_or_never(&mut exit).is_none());
            let start = Instant::now();
            linux::kill(process.id(), libc::SIGKILL);
            deadline(exit).await.unwrap();
            late.push(start.elapsed());
        }
        let late = median(late);
        assert!(
            late < Duration::from_millis(15),
            "noticed {late:?} late, by the median"
        );
    });
}

#[test]
fn a_process_that_went_away_while_there_were_no_descriptors_is_not_its_successor() {
    let _ = in_a_process_of_its_own!(
        a_process_that_went_away_while_there_were_no_descriptors_is_not_its_successor,
        ["1"]
    );
    let mut first = Child::spawn(1);
    let pid = first.id();
    // Spawning takes descriptors too.
    let limit = limit_descriptors(64);
    let files = exhaust_descriptors();
    let mut exit = exit_of(pid);
    assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
    assert_eq!(exit.try_wait().unwrap(), None);
    drop(files);
    limit_descriptors(limit);
    first.reap();

    // Later than the tick in which the first was opened, so that they can be told apart.
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return skip("pids cannot be chosen (not root)");
    };
    // Nor does it go back to events of the second, with descriptors to be had.
    let seen = runtime().block_on(deadline(&mut exit)).unwrap();
    assert_eq!(seen.status(), None, "and its status is not known any more");
    assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
    assert_eq!(second.reap().code(), Some(2));
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn thousands_of_polled_waits_take_one_poller_and_leave_the_blocking_pool_to_others() {
    let _ = in_a_process_of_its_own!(
        thousands_of_polled_waits_take_one_poller_and_leave_the_blocking_pool_to_others,
        ["1"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    for blocking in [1, 512] {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking)
            .build()
            .unwrap();
        let before = threads();
        let processes = many(2000);
        let mut exits: FuturesUnordered<ProcessExit> = processes
            .iter()
            .map(|process| exit_of(process.id()))
            .collect();
        runtime.block_on(async {
            still_pending(exits.next()).await;
            // One that looks, and the next one in the queue.
            assert!(threads() - before <= 2, "{} threads", threads() - before);

            // Others get their turn meanwhile.
            for _ in 0..5 {
                deadline(tokio::fs::metadata("/")).await.unwrap();
                deadline(tokio::task::spawn_blocking(|| ())).await.unwrap();
            }
            let killed = processes.iter().map(Forked::id);
            killed.for_each(|pid| linux::kill(pid, libc::SIGKILL));
            let mut resolved = 0;
            while let Some(exit) = deadline(exits.next()).await {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(
                    exit.unwrap().status().unwrap().signal(),
                    Some(libc::SIGKILL)
                );
                resolved += 1;
            }
            assert_eq!(resolved, 2000);
        });
    }
}

#[test]
fn the_poller_takes_little_of_one_core_however_many_it_polls() {
    let _ = in_a_process_of_its_own!(
        the_poller_takes_little_of_one_core_however_many_it_polls,
        ["1"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for size in [1, 100, 2000] {
        let processes = many(size);
        let mut exits: FuturesUnordered<ProcessExit> = processes
            .iter()
            .map(|process| exit_of(process.id()))
            .collect();
        runtime.block_on(async {
            still_pending(exits.next()).await;
            let (before, start) = (linux::cpu_time(), Instant::now());
            let _ = tokio::time::timeout(Duration::from_secs(2), exits.next()).await;
            let share = (linux::cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
            println!("{size} polled: {:.2} % of one core", share * 100.0);
            assert!(
                share < 0.05,
                "{size} polled: {:.2} % of one core",
                share * 100.0
            );
        });
    }
}

#[test]
fn a_runtime_shuts_down_within_100_ms_while_it_polls() {
    let _ = in_a_process_of_its_own!(a_runtime_shuts_down_within_100_ms_while_it_polls, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let processes = many(500);
    // The machine may be busy with something else, but not each time.
    let fastest = (0..5).map(|_| {
        let runtime = runtime();
        let mut outside = exit_of(processes[0].id());
        let exits: Vec<ProcessExit> = processes
            .iter()
            .map(|process| exit_of(process.id()))
            .collect();
        runtime.block_on(async {
            tokio::spawn(join_all(exits));
            still_pending(&mut outside).await;
        });
        let start = Instant::now();
        drop(runtime);
        let took = start.elapsed();
        // It outlives its runtime, and goes on in the next.
        let next = Builder::new_current_thread().enable_all().build().unwrap();
        next.block_on(still_pending(&mut outside));
        took
    });
    let fastest = fastest.min().unwrap();
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

#[test]
fn a_wait_in_a_runtime_that_has_shut_down_is_an_error_and_no_hang() {
    let _ = in_a_process_of_its_own!(
        a_wait_in_a_runtime_that_has_shut_down_is_an_error_and_no_hang,
        ["events", "polling"]
    );
    if support::role().as_deref() == Some("polling") {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    }
    let runtime = runtime();
    let handle = runtime.handle().clone();
    let mut exit = exit_of(std::process::id());
    runtime.block_on(still_pending(&mut exit));
    drop(runtime);
    for _ in 0..3 {
        handle.block_on(&mut exit).unwrap_err();
    }
    assert_eq!(exit.try_wait().unwrap(), None);
}

#[test]
fn polling_ends_with_the_last_wait() {
    let _ = in_a_process_of_its_own!(polling_ends_with_the_last_wait, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        still_pending(exit_of(1)).await;
        // Gives the poller time to notice that it is alone.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = linux::voluntary_context_switches();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let switches = linux::voluntary_context_switches() - before;
        assert!(
            switches < 10,
            "{switches} context switches with nothing to wait for"
        );
    });
}

async fn yields_all(set: &mut ExitSet, processes: &[Forked]) {
    use std::os::unix::process::ExitStatusExt;
    let mut ids = HashSet::new();
    while let Some(exit) = deadline(set.next_exit()).await {
        let exit = exit.unwrap();
        assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
        assert!(ids.insert(exit.pid().unwrap()), "{exit} was yielded twice");
    }
    assert_eq!(ids, processes.iter().map(Forked::id).collect());
}

#[test]
fn a_set_that_runs_out_of_descriptors_polls_the_rest_until_there_are_some() {
    let _ = in_a_process_of_its_own!(
        a_set_that_runs_out_of_descriptors_polls_the_rest_until_there_are_some,
        ["1"]
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let processes = many(300);
    let limit = limit_descriptors(128);
    let mut set = ExitSet::new();
    for process in &processes {
        assert!(set.insert(process.id()).unwrap());
        assert!(!set.insert(process.id()).unwrap());
    }
    assert!(set.polled_len() > 300 - 128, "{} polled", set.polled_len());
    runtime.block_on(async {
        still_pending(set.next_exit()).await;
        // Those that were inserted last are polled.
        for process in [&processes[299], &processes[0], &processes[298]] {
            linux::kill(process.id(), libc::SIGKILL);
            let exit = deadline(set.next_exit()).await.unwrap().unwrap();
            assert_eq!(exit.pid(), Some(process.id()));
        }
        if !support::poll_forced() {
            limit_descriptors(limit);
            deadline(async {
                while set.polled_len() > 0 {
                    still_pending(set.next_exit()).await;
                }
            })
            .await;
        }
        let rest = &processes[1..298];
        rest.iter()
            .for_each(|process| linux::kill(process.id(), libc::SIGKILL));
        yields_all(&mut set, rest).await;
    });
}

#[test]
fn with_a_limit_of_no_descriptors_an_open_wait_goes_on() {
    let _ = in_a_process_of_its_own!(with_a_limit_of_no_descriptors_an_open_wait_goes_on, ["1"]);
    if support::poll_forced() {
        return skip("polling is forced, and needs /proc for another's zombie");
    }
    runtime().block_on(async {
        let mut grandchild = Grandchild::spawn();
        let mut exit = exit_of(grandchild.id());
        let mut reaped = exit_of(grandchild.id()).until_reaped();
        still_pending(&mut exit).await;
        let told = linux::pidfd_tells_the_status();
        let limit = limit_descriptors(0);
        assert_eq!(exit.try_wait().unwrap(), None);
        grandchild.end(8);
        deadline(exit).await.unwrap();
        still_pending(&mut reaped).await;
        grandchild.reap();
        let exit = deadline(reaped).await.unwrap();
        if told {
            assert_eq!(exit.status().unwrap().code(), Some(8));
        }
        limit_descriptors(limit);
    });
}

#[test]
fn a_set_leaves_the_last_descriptor_too_and_what_it_polls_for_that_goes_back_to_events() {
    let _ = in_a_process_of_its_own!(
        a_set_leaves_the_last_descriptor_too_and_what_it_polls_for_that_goes_back_to_events,
        ["1"]
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for free in 1..4 {
        let (mut one, two) = (Grandchild::spawn(), Grandchild::spawn());
        let limit = limit_descriptors(64);
        let mut files = exhaust_descriptors();
        files.truncate(files.len() - free);
        let mut set = ExitSet::new();
        set.insert(two.id()).unwrap();
        set.insert(one.id()).unwrap();
        runtime.block_on(async {
            still_pending(set.next_exit()).await;
            one.end(8);
            let exit = deadline(set.next_exit()).await.unwrap().unwrap();
            assert_eq!(exit.status().unwrap().code(), Some(8));
            drop(files);
            limit_descriptors(limit);
            if !support::poll_forced() {
                deadline(async {
                    while set.polled_len() > 0 {
                        still_pending(set.next_exit()).await;
                    }
                })
                .await;
            }
        });
    }
}

#[test]
fn a_set_whose_events_are_refused_polls_them_all() {
    let role = in_a_process_of_its_own!(
        a_set_whose_events_are_refused_polls_them_all,
        [
            "pidfd_open",
            "epoll_create1",
            "epoll_ctl",
            "epoll_ctl of the reactor"
        ]
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    match &*role {
        "pidfd_open" => deny!(libc::SYS_pidfd_open, libc::ENOSYS),
        "epoll_create1" => deny!(libc::SYS_epoll_create1, libc::EMFILE),
        "epoll_ctl" => deny!(libc::SYS_epoll_ctl, libc::ENOSPC),
        _ => {}
    }
    let processes = many(300);
    let mut set = ExitSet::new();
    for process in &processes {
        set.insert(process.id()).unwrap();
    }
    if role == "epoll_ctl of the reactor" {
        deny!(libc::SYS_epoll_ctl, libc::ENOSPC);
    }
    runtime.block_on(async {
        still_pending(set.next_exit()).await;
        assert_eq!(set.polled_len(), 300);
        processes
            .iter()
            .for_each(|process| linux::kill(process.id(), libc::SIGKILL));
        yields_all(&mut set, &processes).await;
    });
}

#[test]
fn a_polled_set_goes_on_in_another_runtime() {
    let _ = in_a_process_of_its_own!(a_polled_set_goes_on_in_another_runtime, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let processes = many(50);
    let mut set = ExitSet::new();
    for process in &processes {
        set.insert(process.id()).unwrap();
    }
    let (first, second) = (runtime(), runtime());
    let handle = first.handle().clone();
    first.block_on(still_pending(set.next_exit()));
    second.block_on(still_pending(set.next_exit()));
    first.block_on(still_pending(set.next_exit()));
    drop(first);
    handle.block_on(set.next_exit()).unwrap().unwrap_err();
    assert_eq!(set.len(), 50);
    processes
        .iter()
        .for_each(|process| linux::kill(process.id(), libc::SIGKILL));
    second.block_on(yields_all(&mut set, &processes));
}

/// Runs a test again with its own mounts, as `nobody`, after `mount` has run as root.
fn rerun_with_mounts(test: &str, role: &str, mount: fn() -> io::Result<()>) {
    let prepare = |command: &mut Command| {
        command.current_dir("/");
        let enter = move || {
            // SAFETY: takes an integer.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            mount_call(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")?;
            mount()
        };
        // SAFETY: `enter` makes system calls only.
        unsafe { command.pre_exec(enter) };
    };
    support::assert_passed(&support::rerun(test, role, prepare));
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn mount_call(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> io::Result<()> {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    // SAFETY: null-terminated strings.
    check(unsafe { libc::mount(source, target, kind, flags, data.as_ptr().cast()) })
}

/// With events the exit is told, by polling only the reap; the status, though it is success, never.
async fn exits_with_a_status_that_is_not_told(grandchild: &mut Grandchild) {
    let mut exit = exit_of(grandchild.id());
    still_pending(&mut exit).await;
    grandchild.end(0);
    if exit.mechanism() == Some(Mechanism::PidFd) {
        assert_eq!(deadline(exit).await.unwrap().status(), None);
        grandchild.reap();
    } else {
        still_pending(&mut exit).await;
        grandchild.reap();
        assert_eq!(deadline(exit).await.unwrap().status(), None);
    }
}

#[test]
fn without_proc_only_the_reap_counts_and_no_status_is_made_up() {
    const TEST: &str = "without_proc_only_the_reap_counts_and_no_status_is_made_up";
    let Some(role) = support::role() else {
        if !linux::is_root() {
            return skip("not root, so there is no mounting over /proc");
        }
        for role in ["events", "polling"] {
            rerun_with_mounts(TEST, role, || {
                mount_call(c"none", c"/proc", c"tmpfs", 0, c"")
            });
        }
        return;
    };
    assert!(
        std::fs::read_dir("/proc").unwrap().next().is_none(),
        "no /proc"
    );
    if role == "polling" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    }
    let runtime = runtime();
    runtime.block_on(async {
        let mut grandchild = Grandchild::spawn();
        exits_with_a_status_that_is_not_told(&mut grandchild).await;

        let mut child = Child::spawn(7);
        let mut exit = exit_of(child.id());
        still_pending(&mut exit).await;
        child.end();
        let exit = deadline(exit).await.unwrap();
        // With polling alone it could be the status of a later child with that pid.
        assert!(exit.status().is_none_or(|status| status.code() == Some(7)));

        let error = ProcessExit::open(grandchild.id()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let thread = std::thread::spawn(|| {
            // SAFETY: takes nothing.
            ProcessExit::open(unsafe { libc::gettid() } as u32).unwrap_err()
        });
        assert_eq!(thread.join().unwrap().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn under_hidepid_a_stranger_sees_the_reap_and_no_wrong_status() {
    const TEST: &str = "under_hidepid_a_stranger_sees_the_reap_and_no_wrong_status";
    let Some(role) = support::role() else {
        if !linux::is_root() {
            return skip("not root, so there is no mounting over /proc");
        }
        for role in ["events", "polling"] {
            rerun_with_mounts(TEST, role, || {
                mount_call(c"proc", c"/proc", c"proc", 0, c"hidepid=2")
            });
        }
        return;
    };
    if role == "polling" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    }
    // Root's process, made before this one becomes nobody's.
    let mut grandchild = Grandchild::spawn();
    // SAFETY: takes an integer, as do the next.
    check(unsafe { libc::setgid(65534) }).unwrap();
    // SAFETY: as above.
    check(unsafe { libc::setuid(65534) }).unwrap();
    assert!(
        std::fs::metadata(format!("/proc/{}", grandchild.id())).is_err(),
        "it is hidden"
    );

    let runtime = runtime();
    runtime.block_on(async {
        exits_with_a_status_that_is_not_told(&mut grandchild).await;
        still_pending(exit_of(1)).await;
    });
}

#[test]
fn a_set_takes_a_polled_process_in_once_also_after_its_reap() {
    let role = in_a_process_of_its_own!(
        a_set_takes_a_polled_process_in_once_also_after_its_reap,
        ["no pidfd", "no registration"]
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    if role == "no pidfd" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    } else {
        deny!(libc::SYS_epoll_ctl, libc::ENOSPC);
    }
    runtime.block_on(async {
        let process = linux::fork(|| linux::forever());
        let pid = process.id();
        let [first, second, mut third] = [0; 3].map(|_| exit_of(pid));
        // This one knows already that it is polled.
        still_pending(&mut third).await;
        let mut set = ExitSet::new();
        assert!(set.insert_exit(first));
        assert_eq!(set.polled_len(), 1);
        drop(process); // reaps
        assert!(!set.insert_exit(second), "it is in already");
        assert!(!set.insert_exit(third), "it is in already");
        assert_eq!(
            deadline(set.next_exit()).await.unwrap().unwrap().pid(),
            Some(pid)
        );
        assert!(deadline(set.next_exit()).await.is_none());
    });
}
