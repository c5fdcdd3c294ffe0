//! Promise: if the kernel refuses events, waits fall back to polling and report the reason.
//!
//! The refusals are real: each test runs in a new process with its own seccomp filter, resource
//! limit or mount namespace.

#![cfg(target_os = "linux")]

mod support;

use std::collections::HashSet;
use std::ffi::CStr;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::{FutureExt, join, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use support::linux::{self, Forked, Grandchild, limit_descriptors, many};
use support::{Child, deadline, skip, still_pending};
use tokio::runtime::{Builder, Runtime};
use tokio_process_exit::{ExitSet, Mechanism, ProcessExit, exit_of};

/// Runs the rest of the test once for each role, each time in a new process. Evaluates to the role.
macro_rules! in_own_process {
    ($test:ident, $roles:expr) => {
        match support::role() {
            Some(role) => role,
            None => {
                let _caches = Caches::lock(stringify!($test));
                for role in $roles {
                    support::assert_passed(&support::rerun(stringify!($test), role, |_| {}));
                }
                return;
            }
        }
    };
}

/// A lock on the kernel's caches. A test that drops the caches holds the lock for writing.
///
/// Right after caches are dropped, polling cannot verify identities. A concurrent test would fail.
enum Caches {
    Kept(#[expect(dead_code)] RwLockReadGuard<'static, ()>),
    Dropped(#[expect(dead_code)] RwLockWriteGuard<'static, ()>),
}

impl Caches {
    fn lock(test: &str) -> Caches {
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

const NO_DENIALS: &str = "system calls cannot be denied";

/// Makes a system call fail in this thread and in all threads that it starts later.
///
/// Skips the rest of the test if system calls cannot be denied.
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

/// Checks everything that a wait promises, with any mechanism.
async fn check_every_promise() {
    // Our own child.
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    still_pending(&mut process).await;
    child.end();
    assert_eq!(
        deadline(&mut process)
            .await
            .unwrap()
            .status()
            .unwrap()
            .code(),
        Some(7)
    );
    assert_eq!(child.reap().code(), Some(7));
    assert_eq!(
        deadline(process.until_reaped())
            .await
            .unwrap()
            .status()
            .unwrap()
            .code(),
        Some(7)
    );

    // A grandchild, which its parent reaps later.
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id());
    let mut until_reaped = exit_of(grandchild.id()).until_reaped();
    still_pending(&mut process).await;
    grandchild.end(8);
    let status = deadline(process).await.unwrap().status();
    if linux::stat_shows_status() {
        assert_eq!(status.unwrap().code(), Some(8));
    }
    still_pending(&mut until_reaped).await;
    grandchild.reap();
    assert_eq!(deadline(until_reaped).await.unwrap().status(), status);

    // Our own process, and pid 1.
    still_pending(exit_of(std::process::id())).await;
    still_pending(exit_of(1)).await;

    // Invalid pids: the pid of a reaped process, the id of a thread, and numbers out of range.
    let error = ProcessExit::open(grandchild.id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("no process with pid {}", grandchild.id())
    );
    let thread = std::thread::spawn(|| {
        // SAFETY: the call takes no arguments.
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
fn polls_if_pidfd_open_is_denied() {
    let role = in_own_process!(polls_if_pidfd_open_is_denied, DENIALS.map(|(name, _)| name));
    let errno = DENIALS
        .into_iter()
        .find(|(name, _)| *name == role)
        .unwrap()
        .1;
    deny!(libc::SYS_pidfd_open, errno);
    let process = exit_of(std::process::id());
    assert_eq!(process.mechanism(), Some(Mechanism::Polling));
    assert!(process.as_pidfd().is_none());
    if !support::poll_forced() {
        assert_eq!(
            process.fallback_reason().unwrap().raw_os_error(),
            Some(errno)
        );
    }
    runtime().block_on(check_every_promise());
}

#[test]
fn denial_in_one_thread_does_not_affect_others() {
    let _ = in_own_process!(denial_in_one_thread_does_not_affect_others, ["1"]);
    if support::poll_forced() {
        return skip("polling is forced");
    }
    if !linux::seccomp_filters() {
        return skip(NO_DENIALS);
    }
    let our_pid = std::process::id();
    let denied = std::thread::spawn(move || {
        linux::deny(libc::SYS_pidfd_open, libc::EPERM);
        exit_of(our_pid).mechanism()
    });
    assert_eq!(denied.join().unwrap(), Some(Mechanism::Polling));
    assert_eq!(exit_of(our_pid).mechanism(), Some(Mechanism::PidFd));
}

#[test]
fn polls_the_pidfd_if_registration_is_refused() {
    const REFUSALS: [(&str, i32); 3] = [
        ("ENOSPC", libc::ENOSPC),
        ("ENOMEM", libc::ENOMEM),
        ("EPERM", libc::EPERM),
    ];
    let role = in_own_process!(
        polls_the_pidfd_if_registration_is_refused,
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
    // Build the runtime before epoll_ctl is denied: a runtime needs the call to start.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    deny!(libc::SYS_epoll_ctl, errno);
    runtime.block_on(async {
        let mut grandchild = Grandchild::spawn();
        let mut process = exit_of(grandchild.id());
        assert_eq!(process.mechanism(), Some(Mechanism::PidFd));
        still_pending(&mut process).await;
        assert_eq!(process.mechanism(), Some(Mechanism::Polling));
        assert_eq!(
            process.fallback_reason().unwrap().raw_os_error(),
            Some(errno)
        );
        assert!(process.as_pidfd().is_some());
        let mut process = process.until_reaped();
        grandchild.end(9);
        still_pending(&mut process).await;
        // A slow machine may not have queried the process yet. Before Linux 6.15, the status is lost at the reap.
        support::until("the grandchild is a zombie", || {
            linux::state_of(grandchild.id()) == Some('Z')
        });
        assert_eq!(process.try_wait().unwrap(), None);
        grandchild.reap();
        linux::assert_code_if_shown(deadline(process).await.unwrap(), 9);
        check_every_promise().await;
    });
}

/// Opens files until no descriptor is free.
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
fn polls_while_descriptors_are_exhausted() {
    let _ = in_own_process!(polls_while_descriptors_are_exhausted, ["1"]);
    if support::poll_forced() {
        return skip("polling is forced, so waits never return to events");
    }
    runtime().block_on(async {
        let mut child = Child::spawn(7);
        let (mut first, mut second, mut third) = (
            Grandchild::spawn(),
            Grandchild::spawn(),
            Grandchild::spawn(),
        );
        let limit = limit_descriptors(64);
        let files = exhaust_descriptors();

        let of_child = exit_of(child.id());
        let mut of_first = exit_of(first.id());
        let mut of_second = exit_of(second.id());
        let mut of_third = exit_of(third.id()).until_reaped();
        for process in [&of_child, &of_first, &of_second, &of_third] {
            assert_eq!(process.mechanism(), Some(Mechanism::Polling));
            let reason = process.fallback_reason().unwrap();
            assert_eq!(reason.raw_os_error(), Some(libc::EMFILE));
        }
        still_pending(&mut of_first).await;
        still_pending(&mut of_second).await;
        still_pending(&mut of_third).await;

        // Without a descriptor, /proc cannot be read. Polling still reports the exits of our own
        // children, and all reaps.
        child.end();
        linux::assert_code_of_threads(deadline(of_child).await.unwrap(), 7);
        first.end(8);
        first.reap();
        deadline(of_first).await.unwrap();
        assert_eq!(of_second.mechanism(), Some(Mechanism::Polling));

        drop(files);
        limit_descriptors(limit);
        for process in [&mut of_second, &mut of_third] {
            deadline(async {
                while process.mechanism() != Some(Mechanism::PidFd) {
                    still_pending(&mut *process).await;
                }
            })
            .await;
            assert!(process.fallback_reason().is_none());
        }
        second.end(9);
        linux::assert_code_if_shown(deadline(of_second).await.unwrap(), 9);
        third.end(10);
        still_pending(&mut of_third).await;
        third.reap();
        deadline(of_third).await.unwrap();
    });
}

#[test]
fn keeps_the_last_fd_free_for_reading_proc() {
    let _ = in_own_process!(keeps_the_last_fd_free_for_reading_proc, ["1"]);
    runtime().block_on(async {
        let mut grandchild = Grandchild::spawn();
        let limit = limit_descriptors(64);
        let mut files = exhaust_descriptors();
        files.pop();
        let mut process = exit_of(grandchild.id());
        assert_eq!(process.mechanism(), Some(Mechanism::Polling));
        still_pending(&mut process).await;
        grandchild.end(8);
        linux::assert_code_if_shown(deadline(process).await.unwrap(), 8);
        drop(files);
        limit_descriptors(limit);
    });
}

#[test]
fn keeps_the_last_fd_free_if_low_numbered() {
    let _ = in_own_process!(keeps_the_last_fd_free_if_low_numbered, ["1"]);
    runtime().block_on(async {
        let (mut first, second) = (Grandchild::spawn(), Grandchild::spawn());
        limit_descriptors(64);
        let mut files = exhaust_descriptors();
        let of_first = exit_of(first.id());
        files.remove(0);
        let mut of_second = exit_of(second.id());
        assert_eq!(of_second.mechanism(), Some(Mechanism::Polling));
        still_pending(&mut of_second).await;
        first.end(8);
        linux::assert_code_if_shown(deadline(of_first).await.unwrap(), 8);
        assert_eq!(of_second.mechanism(), Some(Mechanism::Polling));
    });
}

/// Makes the system refuse new threads and processes to this thread.
fn deny_threads() {
    linux::deny(libc::SYS_clone, libc::EAGAIN);
    linux::deny(libc::SYS_clone3, libc::EAGAIN);
}

/// Whether a wait that is open takes a descriptor.
fn takes_a_descriptor(process: &ProcessExit) -> bool {
    process.mechanism() == Some(Mechanism::PidFd) || open_directories(process.pid().unwrap()) > 0
}

#[test]
fn keeps_the_last_fd_free_after_the_limit_drops() {
    let role = in_own_process!(
        keeps_the_last_fd_free_after_the_limit_drops,
        ["new number", "used number"]
    );
    let child = linux::fork(|| linux::forever());
    let is_free = || std::fs::File::open("/dev/null").is_ok();
    let first = exit_of(child.id());
    if role == "used number" {
        drop(exit_of(child.id()));
    }
    let lowest = {
        let file = std::fs::File::open("/dev/null").unwrap();
        std::os::fd::AsRawFd::as_raw_fd(&file)
    };
    // One descriptor is left.
    limit_descriptors(lowest as u64 + 1);
    assert!(is_free());
    if role == "new number" {
        let second = exit_of(child.id());
        assert_eq!(second.mechanism(), Some(Mechanism::Polling));
        assert!(is_free());
    }
    support::until("a new wait leaves the last descriptor", || {
        let _second = exit_of(child.id());
        is_free()
    });
    drop(first);
}

#[test]
fn forgets_a_shortage_of_descriptors() {
    let _ = in_own_process!(forgets_a_shortage_of_descriptors, ["1"]);
    if !linux::seccomp_filters() {
        return skip(NO_DENIALS);
    }
    let children = many(3);
    let mut processes = children.iter().map(|child| exit_of(child.id()));
    let limit = limit_descriptors(64);
    let files = exhaust_descriptors();
    let first = processes.next().unwrap();
    drop(files);
    limit_descriptors(limit);
    assert!(!takes_a_descriptor(&first));
    assert!(takes_a_descriptor(&processes.next().unwrap()));
    // While descriptors are scarce, an opened wait checks by `fcntl` whether another one is free.
    linux::deny(libc::SYS_fcntl, libc::EMFILE);
    assert!(takes_a_descriptor(&processes.next().unwrap()));
}

#[test]
fn polls_without_a_thread_while_time_is_paused() {
    let _ = in_own_process!(polls_without_a_thread_while_time_is_paused, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let (mut first, mut second) = (Child::spawn(7), Child::spawn(8));
    deny_threads();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let mut process = exit_of(first.id());
        let mut set = ExitSet::new();
        set.insert(second.id()).unwrap();
        first.end();
        second.end();
        (&mut process).await.unwrap();
        set.next_exit().await.unwrap().unwrap();
        assert!(start.elapsed() < support::max_wait());
    });
}

#[test]
fn polls_in_the_task_without_a_thread() {
    let _ = in_own_process!(polls_in_the_task_without_a_thread, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let mut children = [(); 40].map(|()| Child::spawn(7));
    deny_threads();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Half of the children are waited for one by one, and half by a set.
        let (alone, together) = children.split_at_mut(20);
        let mut processes: FuturesUnordered<ProcessExit> =
            alone.iter().map(|child| exit_of(child.id())).collect();
        let mut set: ExitSet = ExitSet::new();
        for child in together.iter() {
            set.insert(child.id()).unwrap();
        }
        still_pending(processes.next()).await;
        still_pending(set.next_exit()).await;
        for child in alone {
            child.end();
            let exit = deadline(processes.next()).await.unwrap().unwrap();
            assert_eq!(exit.pid(), Some(child.id()));
            assert_eq!(exit.status().unwrap().code(), Some(7));
        }
        for child in together {
            child.end();
            let exit = deadline(set.next_exit()).await.unwrap().unwrap();
            assert_eq!(exit.pid(), Some(child.id()));
        }
    });
}

/// Polls for two seconds. Asserts that this process uses less than 5 % of one core.
async fn assert_uses_under_5_percent<F: Future>(polled: usize, waits: F) {
    let (before, start) = (linux::cpu_time(), Instant::now());
    let _ = tokio::time::timeout(Duration::from_secs(2), waits).await;
    let used = linux::cpu_time() - before;
    let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
    println!("{polled} polled: {:.2} % of one core", share * 100.0);
    assert!(
        used < support::scaled(start.elapsed().mul_f64(0.05)),
        "{polled} polled: {:.2} % of one core",
        share * 100.0
    );
}

#[test]
fn polling_in_the_task_uses_under_5_percent_of_a_core() {
    let _ = in_own_process!(polling_in_the_task_uses_under_5_percent_of_a_core, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let children = many(1000);
    deny_threads();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (alone, together) = children.split_at(200);
    let mut processes: FuturesUnordered<ProcessExit> =
        alone.iter().map(|child| exit_of(child.id())).collect();
    let mut set = ExitSet::new();
    for child in together {
        set.insert(child.id()).unwrap();
    }
    runtime.block_on(async {
        still_pending(join(processes.next(), set.next_exit())).await;
        assert_uses_under_5_percent(children.len(), join(processes.next(), set.next_exit())).await;
    });
}

#[test]
fn yields_events_although_polling_has_no_thread() {
    let _ = in_own_process!(
        yields_events_although_polling_has_no_thread,
        ["timers", "no timers"]
    );
    if !linux::seccomp_filters() {
        return skip(NO_DENIALS);
    }
    let mut builder = Builder::new_current_thread();
    match support::role().as_deref() {
        Some("timers") => builder.enable_all(),
        _ => builder.enable_io(),
    };
    let (polled, mut with_events) = (Child::spawn(0), Child::spawn(7));
    linux::deny_for(libc::SYS_pidfd_open, polled.id(), libc::EPERM);
    deny_threads();
    let mut set = ExitSet::new();
    set.insert(polled.id()).unwrap();
    set.insert(with_events.id()).unwrap();
    let runtime = builder.build().unwrap();
    let mut errors = 0;
    let start = Instant::now();
    runtime.block_on(async {
        assert!(
            set.next_exit()
                .now_or_never()
                .is_none_or(|exit| exit.unwrap().is_err())
        );
        with_events.end();
        loop {
            match set.next_exit().await.unwrap() {
                Ok(exit) => break assert_eq!(exit.pid(), Some(with_events.id())),
                Err(_) => errors += 1,
            }
        }
    });
    assert!(errors <= 1 + start.elapsed().as_secs(), "{errors} errors");
}

#[test]
fn exits_within_waits_without_a_thread() {
    let _ = in_own_process!(exits_within_waits_without_a_thread, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let mut children = [(); 3].map(|()| Child::spawn(0));
    deny_threads();
    let mut set = ExitSet::new();
    for child in &children {
        set.insert(child.id()).unwrap();
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (start, timeout) = (Instant::now(), Duration::from_millis(300));
        assert!(set.exits_within(timeout).await.unwrap().is_empty());
        assert!(start.elapsed() >= timeout);
        children[0].end();
        children[1].end();
        let exits = async {
            let mut exits = set.exits_within(timeout).await.unwrap();
            while exits.len() < 2 {
                exits.extend(set.exits_within(timeout).await.unwrap());
            }
        };
        deadline(exits).await;
    });
}

#[test]
fn reports_missing_timers_once_a_second() {
    let _ = in_own_process!(reports_missing_timers_once_a_second, ["alone", "set"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let mut child = Child::spawn(7);
    let mut set = ExitSet::new();
    let in_set = support::role().as_deref() == Some("set");
    if in_set {
        set.insert(child.id()).unwrap();
    }
    let mut process = exit_of(child.id());
    let pid = child.id();
    let stop = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        child.end();
        child
    });
    deny_threads();
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let start = Instant::now();
    let mut errors = Vec::new();
    let exit = runtime.block_on(async {
        loop {
            let result = match in_set {
                true => set.next_exit().await.unwrap(),
                false => (&mut process).await,
            };
            match result {
                Ok(exit) => break exit,
                Err(error) => errors.push(error.to_string()),
            }
        }
    });
    assert_eq!(exit.status().unwrap().code(), Some(7));
    let most = 1 + start.elapsed().as_secs() as usize;
    assert!(
        (1..=most).contains(&errors.len()),
        "{} errors",
        errors.len()
    );
    assert!(errors[0].contains("enable_time"), "{}", errors[0]);
    assert!(
        in_set || errors[0].contains(&pid.to_string()),
        "{}",
        errors[0]
    );
    drop(stop.join().unwrap());
}

/// Counts the panics of this program from now on, also those that are caught.
fn count_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        eprintln!("{info}");
    }));
    &PANICS
}

#[test]
fn missing_timers_panic_once_for_each_runtime() {
    let _ = in_own_process!(missing_timers_panic_once_for_each_runtime, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let child = Child::spawn(0);
    let mut process = exit_of(child.id());
    deny_threads();
    let runtimes = [(); 3].map(|()| Builder::new_current_thread().build().unwrap());
    let panics = count_panics();
    for runtime in runtimes.iter().cycle().take(30) {
        let _guard = runtime.enter();
        if let Some(exit) = support::poll_once(&mut process) {
            assert_eq!(exit.unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }
    assert!(panics.load(Ordering::Relaxed) <= 3, "{panics:?} panics");
    drop(child);
}

#[test]
fn polling_in_the_task_outlives_the_runtimes_timers() {
    let _ = in_own_process!(
        polling_in_the_task_outlives_the_runtimes_timers,
        ["alone", "set"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    let mut set = ExitSet::new();
    set.insert(child.id()).unwrap();
    deny_threads();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        still_pending(&mut process).await;
        still_pending(set.next_exit()).await;
    });
    drop(runtime);
    let panics = count_panics();
    let in_set = support::role().as_deref() == Some("set");
    let mut next = || {
        handle.block_on(async {
            match in_set {
                true => set.next_exit().await.unwrap(),
                false => (&mut process).await,
            }
        })
    };
    let error = next().unwrap_err().to_string();
    assert!(error.contains("shut"), "{error}");
    child.end();
    let start = Instant::now();
    let exit = loop {
        match next() {
            Ok(exit) => break exit,
            Err(error) => assert!(start.elapsed() < support::max_wait(), "{error}"),
        }
    };
    assert_eq!(exit.status().unwrap().code(), Some(7));
    assert!(panics.load(Ordering::Relaxed) <= 1, "{panics:?} panics");
}

#[test]
fn polling_gets_a_thread_again() {
    let _ = in_own_process!(polling_gets_a_thread_again, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    let (handle, pid) = (runtime.handle().clone(), child.id());
    let polled = std::thread::spawn(move || {
        deny_threads();
        let mut set = ExitSet::new();
        set.insert(pid).unwrap();
        let context = &mut Context::from_waker(Waker::noop());
        let _guard = handle.enter();
        assert!(set.poll_next_exit(context).is_pending());
        assert!(process.poll_unpin(context).is_pending());
        (process, set)
    });
    let (mut process, mut set) = polled.join().unwrap();
    assert_eq!(threads_named("process-exit"), 0);
    runtime.block_on(async {
        let is_polled = async {
            while threads_named("process-exit") == 0 {
                still_pending(&mut process).await;
                still_pending(set.next_exit()).await;
            }
        };
        deadline(is_polled).await;
        child.end();
        let exit = deadline(process).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(7));
        deadline(set.next_exit()).await.unwrap().unwrap();
    });
}

#[test]
fn polls_while_the_blocking_pool_is_full() {
    let _ = in_own_process!(polls_while_the_blocking_pool_is_full, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder
            .enable_all()
            .worker_threads(1)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        let (blocker, blocked) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || blocked.recv());
        runtime.block_on(async {
            still_pending(&mut process).await;
            child.end();
            deadline(process).await.unwrap();
        });
        drop(blocker);
    }
}

#[test]
fn keeps_the_status_seen_by_the_poller_after_a_reap() {
    let _ = in_own_process!(keeps_the_status_seen_by_the_poller_after_a_reap, ["1"]);
    if !linux::stat_shows_status() {
        return skip("Linux before 5.17 does not show the status in /proc");
    }
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let (first, second) = (runtime(), runtime());
    let code = |exit: tokio_process_exit::Exit| exit.status().and_then(|status| status.code());

    // A query, a wait in another runtime and a set all return the status.
    let reaped_after_poll = || {
        let mut grandchild = Grandchild::spawn();
        let mut task = tokio_test::task::spawn(exit_of(grandchild.id()));
        first.block_on(async { assert!(task.poll().is_pending()) });
        grandchild.end(8);
        support::until("the poller has seen the zombie", || task.is_woken());
        grandchild.reap();
        task.into_inner()
    };
    assert_eq!(
        code(reaped_after_poll().try_wait().unwrap().unwrap()),
        Some(8)
    );
    assert_eq!(
        code(second.block_on(deadline(reaped_after_poll())).unwrap()),
        Some(8)
    );
    assert_eq!(
        code(
            reaped_after_poll()
                .until_reaped()
                .try_wait()
                .unwrap()
                .unwrap()
        ),
        Some(8)
    );
    let mut set = ExitSet::new();
    assert!(set.insert_exit(reaped_after_poll()));
    assert_eq!(code(set.try_next_exit().unwrap().unwrap()), Some(8));

    // A wait for the reap also keeps the status, alone and in a set.
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id()).until_reaped();
    let mut set = ExitSet::new();
    set.insert_exit(exit_of(grandchild.id()).until_reaped());
    first.block_on(async {
        still_pending(&mut process).await;
        still_pending(set.next_exit()).await;
    });
    grandchild.end(8);
    support::until("the grandchild is a zombie", || {
        linux::state_of(grandchild.id()) == Some('Z')
    });
    second.block_on(async {
        still_pending(&mut process).await;
        still_pending(set.next_exit()).await;
    });
    grandchild.reap();
    assert_eq!(code(process.try_wait().unwrap().unwrap()), Some(8));
    assert_eq!(code(set.try_next_exit().unwrap().unwrap()), Some(8));
}

#[test]
fn panicking_waker_does_not_block_other_wakeups() {
    struct PanickingWaker;
    impl Wake for PanickingWaker {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("this waker always panics");
        }
    }
    let _ = in_own_process!(panicking_waker_does_not_block_other_wakeups, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = runtime();
    runtime.block_on(async {
        let mut children: Vec<Child> = (0..8).map(Child::spawn).collect();
        let mut processes: Vec<ProcessExit> =
            children.iter().map(|child| exit_of(child.id())).collect();
        for (n, process) in processes.iter_mut().enumerate() {
            if n % 2 == 0 {
                let waker = std::sync::Arc::new(PanickingWaker).into();
                let mut context = Context::from_waker(&waker);
                assert!(process.poll_unpin(&mut context).is_pending());
            }
        }
        children.iter_mut().for_each(Child::end);
        for process in processes {
            deadline(process).await.unwrap();
        }
    });
}

#[test]
fn dropped_caches_do_not_lose_status_or_events() {
    let role = in_own_process!(
        dropped_caches_do_not_lose_status_or_events,
        ["denied", "exhausted"]
    );
    let drop_caches = || std::fs::write("/proc/sys/vm/drop_caches", "2");
    if drop_caches().is_err() {
        return skip("caches cannot be dropped (not root)");
    }
    if !linux::stat_shows_status() {
        return skip("Linux before 5.17 does not show the status in /proc");
    }
    let mut child = Child::spawn(7);
    let mut grandchild = Grandchild::spawn();
    let mut exhausted = None;
    if role == "denied" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    } else {
        exhausted = Some((limit_descriptors(64), exhaust_descriptors()));
    }
    let mut processes = [child.id(), grandchild.id()].map(exit_of);
    let runtime = runtime_after_exhaustion(&mut exhausted);
    runtime.block_on(async {
        // Poll each process in a later clock tick than its start: otherwise the start time would
        // not identify the process once the caches are dropped.
        for process in &mut processes {
            assert_eq!(process.mechanism(), Some(Mechanism::Polling));
            still_pending(&mut *process).await;
        }
        drop_caches().unwrap();
        if exhausted.take().is_some() && !support::poll_forced() {
            for process in &mut processes {
                deadline(async {
                    while process.mechanism() != Some(Mechanism::PidFd) {
                        still_pending(&mut *process).await;
                    }
                })
                .await;
            }
        }
        child.end();
        grandchild.end(8);
        let [of_child, of_grandchild] = processes;
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

/// Starts a runtime, which needs descriptors.
///
/// If descriptors are exhausted, first restores the limit and closes half of the files.
fn runtime_after_exhaustion(exhausted: &mut Option<(u64, Vec<std::fs::File>)>) -> Runtime {
    if let Some((limit, files)) = exhausted {
        limit_descriptors(*limit);
        files.truncate(files.len() / 2);
    }
    runtime()
}

#[test]
fn does_not_report_the_status_of_a_recycled_pid() {
    let _ = in_own_process!(does_not_report_the_status_of_a_recycled_pid, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    for _ in 0..50 {
        // A fast machine starts both processes in one clock tick, so their start times are equal.
        let first = linux::fork(|| 1);
        let pid = first.id();
        let mut process = exit_of(pid);
        first.reap();
        let Some(second) = linux::recycle(pid, || linux::fork(|| 77), Forked::id) else {
            return skip("the pid cannot be chosen (not root, or another process has it)");
        };
        support::until("the second process is a zombie", || {
            linux::state_of(pid) == Some('Z')
        });
        let exit = process.try_wait().unwrap();
        let code = exit
            .and_then(|exit| exit.status())
            .and_then(|status| status.code());
        assert!(
            code.is_none_or(|code| code == 1),
            "the status of the next process with that pid: {code:?}"
        );
        drop(second);
    }
}

#[test]
fn reports_each_owner_of_a_recycled_pid() {
    let role = in_own_process!(
        reports_each_owner_of_a_recycled_pid,
        ["query", "wait", "set"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    const OWNERS: usize = 20;
    let runtime = runtime();
    let mut owner = linux::fork(|| 1);
    let pid = owner.id();
    let mut set = ExitSet::new();
    // Successive owners start within some milliseconds, so most of them start in one clock tick.
    for _ in 0..OWNERS {
        let mut process = exit_of(pid);
        if role == "set" {
            assert!(set.insert(pid).unwrap(), "this process is no member");
        }
        owner.reap();
        let Some(next) = linux::recycle(pid, || linux::fork(|| linux::forever()), Forked::id)
        else {
            return skip("the pid cannot be chosen (not root, or another process has it)");
        };
        let exit = match &*role {
            "query" => {
                // The next owner gets neither the signal nor the identity of the first.
                let error = process.signal(libc::SIGKILL).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                let error = process.identity().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                process.try_wait().unwrap().expect("the first has exited")
            }
            "wait" => runtime.block_on(deadline(process)).unwrap(),
            _ => runtime
                .block_on(deadline(set.next_exit()))
                .unwrap()
                .unwrap(),
        };
        assert_eq!(exit.pid(), Some(pid));
        assert_eq!(exit.status(), None, "no query saw a zombie");
        linux::kill(pid, libc::SIGKILL);
        owner = next;
    }
    assert!(set.is_empty());
}

/// Returns the number of descriptors that hold the directory of a process open.
fn open_directories(pid: u32) -> usize {
    let directory = format!(" /proc/{pid}");
    let fds = linux::open_fds();
    fds.iter().filter(|fd| fd.ends_with(&directory)).count()
}

#[test]
fn polled_wait_takes_one_fd_once_there_is_one() {
    let role = in_own_process!(
        polled_wait_takes_one_fd_once_there_is_one,
        ["free", "exhausted"]
    );
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let child = linux::fork(|| linux::forever());
    let exhausted = (role == "exhausted").then(|| (limit_descriptors(64), exhaust_descriptors()));
    let mut process = exit_of(child.id());
    if let Some((limit, files)) = exhausted {
        drop(files);
        limit_descriptors(limit);
        assert_eq!(open_directories(child.id()), 0);
        runtime().block_on(still_pending(&mut process));
    }
    assert_eq!(open_directories(child.id()), 1);

    // The directory identifies the process from now on.
    let pid = child.id();
    drop(child);
    let Some(_next) = linux::recycle(pid, || linux::fork(|| linux::forever()), Forked::id) else {
        return skip("the pid cannot be chosen (not root, or another process has it)");
    };
    process.try_wait().unwrap().expect("the first has exited");
    drop(process);
    assert_eq!(open_directories(pid), 0);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn polls_within_the_interval_and_new_waits_sooner() {
    let _ = in_own_process!(polls_within_the_interval_and_new_waits_sooner, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    runtime().block_on(async {
        let mut delays = Vec::new();
        for _ in 0..15 {
            let child = linux::fork(|| linux::forever());
            let mut process = exit_of(child.id());
            still_pending(&mut process).await;
            let start = Instant::now();
            linux::kill(child.id(), libc::SIGKILL);
            deadline(process).await.unwrap();
            delays.push(start.elapsed());
        }
        let delay = median(delays);
        assert!(
            delay < support::scaled(Duration::from_millis(60)),
            "the median delay of an exit is {delay:?}"
        );

        // A new wait is polled soon, although the poller sleeps for 40 ms because of an older wait.
        let mut older = exit_of(1);
        still_pending(&mut older).await;
        let mut delays = Vec::new();
        for _ in 0..15 {
            still_pending(&mut older).await;
            let child = linux::fork(|| linux::forever());
            let mut process = exit_of(child.id());
            assert!((&mut process).now_or_never().is_none());
            let start = Instant::now();
            linux::kill(child.id(), libc::SIGKILL);
            deadline(process).await.unwrap();
            delays.push(start.elapsed());
        }
        let delay = median(delays);
        assert!(
            delay < support::scaled(Duration::from_millis(15)),
            "the median delay of an exit is {delay:?}"
        );
    });
}

#[test]
fn does_not_wait_for_the_next_owner_of_the_pid() {
    let _ = in_own_process!(does_not_wait_for_the_next_owner_of_the_pid, ["1"]);
    let mut first = Child::spawn(1);
    let pid = first.id();
    // Spawn the first child before descriptors are exhausted: a spawn needs descriptors too.
    let limit = limit_descriptors(64);
    let files = exhaust_descriptors();
    let mut process = exit_of(pid);
    assert_eq!(process.mechanism(), Some(Mechanism::Polling));
    assert_eq!(process.try_wait().unwrap(), None);
    drop(files);
    limit_descriptors(limit);
    first.reap();

    // Start the second child in a later clock tick: only then do the start times differ.
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return skip("the pid cannot be chosen (not root, or another process has it)");
    };
    // Descriptors are free again, but the wait must not register the second child.
    let exit = runtime().block_on(deadline(&mut process)).unwrap();
    assert_eq!(exit.status(), None, "no query saw the first child's status");
    assert_eq!(process.mechanism(), Some(Mechanism::Polling));
    assert_eq!(second.reap().code(), Some(2));
}

/// Returns the number of threads of this process with this name.
fn threads_named(name: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.trim_end() == name)
        .count()
}

#[test]
fn polls_thousands_with_one_thread() {
    let _ = in_own_process!(polls_thousands_with_one_thread, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    // Each wait takes a descriptor.
    limit_descriptors(4096);
    let runtime = runtime();
    let children = many(2000);
    let mut processes: FuturesUnordered<ProcessExit> =
        children.iter().map(|child| exit_of(child.id())).collect();
    runtime.block_on(async {
        still_pending(processes.next()).await;
        assert_eq!(threads_named("process-exit"), 1);
        let killed = children.iter().map(Forked::id);
        killed.for_each(|pid| linux::kill(pid, libc::SIGKILL));
        let mut resolved = 0;
        while let Some(exit) = deadline(processes.next()).await {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(
                exit.unwrap().status().unwrap().signal(),
                Some(libc::SIGKILL)
            );
            resolved += 1;
        }
        assert_eq!(resolved, 2000);
    });
    support::until("the thread has ended", || {
        threads_named("process-exit") == 0
    });
}

#[test]
fn poller_uses_under_5_percent_of_a_core() {
    let _ = in_own_process!(poller_uses_under_5_percent_of_a_core, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for size in [1, 100, 2000] {
        let children = many(size);
        let mut processes: FuturesUnordered<ProcessExit> =
            children.iter().map(|child| exit_of(child.id())).collect();
        runtime.block_on(async {
            still_pending(processes.next()).await;
            assert_uses_under_5_percent(size, processes.next()).await;
        });
    }
}

#[test]
fn runtime_shuts_down_within_100_ms_while_polling() {
    let _ = in_own_process!(runtime_shuts_down_within_100_ms_while_polling, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let children = many(500);
    // Take the fastest of five shutdowns, because the machine may be busy with other work.
    let fastest = (0..5).map(|_| {
        let runtime = runtime();
        let mut surviving = exit_of(children[0].id());
        let processes: Vec<ProcessExit> =
            children.iter().map(|child| exit_of(child.id())).collect();
        runtime.block_on(async {
            tokio::spawn(join_all(processes));
            still_pending(&mut surviving).await;
        });
        let start = Instant::now();
        drop(runtime);
        let elapsed = start.elapsed();
        // The wait outlives its runtime, and continues in another runtime.
        let next = Builder::new_current_thread().enable_all().build().unwrap();
        next.block_on(still_pending(&mut surviving));
        elapsed
    });
    let fastest = fastest.min().unwrap();
    assert!(
        fastest < support::scaled(Duration::from_millis(100)),
        "{fastest:?}"
    );
}

#[test]
fn wait_after_runtime_shutdown_is_an_error() {
    let _ = in_own_process!(wait_after_runtime_shutdown_is_an_error, ["1"]);
    if support::poll_forced() {
        return skip("polling needs no runtime");
    }
    let runtime = runtime();
    let handle = runtime.handle().clone();
    let mut process = exit_of(std::process::id());
    runtime.block_on(still_pending(&mut process));
    drop(runtime);
    for _ in 0..3 {
        handle.block_on(&mut process).unwrap_err();
    }
    assert_eq!(process.try_wait().unwrap(), None);
}

#[test]
fn polling_stops_after_the_last_wait() {
    let _ = in_own_process!(polling_stops_after_the_last_wait, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        still_pending(exit_of(1)).await;
        // Give the poller time to notice that there are no more waits.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = linux::voluntary_context_switches();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let switches = linux::voluntary_context_switches() - before;
        assert!(
            switches < 10,
            "{switches} context switches without any wait"
        );
    });
}

/// Asserts that a set yields each of these killed children once, and nothing else.
async fn assert_yields_all(set: &mut ExitSet, children: &[Forked]) {
    use std::os::unix::process::ExitStatusExt;
    let mut ids = HashSet::new();
    while let Some(exit) = deadline(set.next_exit()).await {
        let exit = exit.unwrap();
        assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
        assert!(ids.insert(exit.pid().unwrap()), "{exit} was yielded twice");
    }
    assert_eq!(ids, children.iter().map(Forked::id).collect());
}

#[test]
fn set_polls_members_without_descriptors() {
    let _ = in_own_process!(set_polls_members_without_descriptors, ["1"]);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let children = many(300);
    let limit = limit_descriptors(128);
    let mut set = ExitSet::new();
    for child in &children {
        assert!(set.insert(child.id()).unwrap());
        assert!(!set.insert(child.id()).unwrap());
    }
    assert!(set.polled_len() > 300 - 128, "{} polled", set.polled_len());
    runtime.block_on(async {
        still_pending(set.next_exit()).await;
        // Kill one child with events, and two that are polled because they were inserted last.
        for child in [&children[299], &children[0], &children[298]] {
            linux::kill(child.id(), libc::SIGKILL);
            let exit = deadline(set.next_exit()).await.unwrap().unwrap();
            assert_eq!(exit.pid(), Some(child.id()));
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
        let rest = &children[1..298];
        rest.iter()
            .for_each(|child| linux::kill(child.id(), libc::SIGKILL));
        assert_yields_all(&mut set, rest).await;
    });
}

#[test]
fn open_waits_survive_a_descriptor_limit_of_zero() {
    let _ = in_own_process!(open_waits_survive_a_descriptor_limit_of_zero, ["1"]);
    if support::poll_forced() {
        return skip("polling is forced, and needs /proc to see another parent's zombie");
    }
    runtime().block_on(async {
        let mut grandchild = Grandchild::spawn();
        let mut process = exit_of(grandchild.id());
        let mut until_reaped = exit_of(grandchild.id()).until_reaped();
        still_pending(&mut process).await;
        let reports_status = linux::pidfd_reports_status();
        let limit = limit_descriptors(0);
        assert_eq!(process.try_wait().unwrap(), None);
        grandchild.end(8);
        deadline(process).await.unwrap();
        still_pending(&mut until_reaped).await;
        grandchild.reap();
        let exit = deadline(until_reaped).await.unwrap();
        if reports_status {
            assert_eq!(exit.status().unwrap().code(), Some(8));
        }
        limit_descriptors(limit);
    });
}

#[test]
fn set_keeps_the_last_fd_free_and_recovers() {
    let _ = in_own_process!(set_keeps_the_last_fd_free_and_recovers, ["1"]);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for free in 1..4 {
        let (first, mut second) = (Grandchild::spawn(), Grandchild::spawn());
        let limit = limit_descriptors(64);
        let mut files = exhaust_descriptors();
        files.truncate(files.len() - free);
        let mut set = ExitSet::new();
        set.insert(first.id()).unwrap();
        set.insert(second.id()).unwrap();
        runtime.block_on(async {
            still_pending(set.next_exit()).await;
            second.end(8);
            let exit = deadline(set.next_exit()).await.unwrap().unwrap();
            linux::assert_code_if_shown(exit, 8);
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
fn set_polls_all_members_if_events_are_refused() {
    let role = in_own_process!(
        set_polls_all_members_if_events_are_refused,
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
    let children = many(300);
    let mut set = ExitSet::new();
    for child in &children {
        set.insert(child.id()).unwrap();
    }
    if role == "epoll_ctl of the reactor" {
        deny!(libc::SYS_epoll_ctl, libc::ENOSPC);
    }
    runtime.block_on(async {
        still_pending(set.next_exit()).await;
        assert_eq!(set.polled_len(), 300);
        children
            .iter()
            .for_each(|child| linux::kill(child.id(), libc::SIGKILL));
        assert_yields_all(&mut set, &children).await;
    });
}

#[test]
fn polled_set_moves_between_runtimes() {
    let _ = in_own_process!(polled_set_moves_between_runtimes, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let children = many(50);
    let mut set = ExitSet::new();
    for child in &children {
        set.insert(child.id()).unwrap();
    }
    let (first, second) = (runtime(), runtime());
    first.block_on(still_pending(set.next_exit()));
    second.block_on(still_pending(set.next_exit()));
    first.block_on(still_pending(set.next_exit()));
    drop(first);
    assert_eq!(set.len(), 50);
    children
        .iter()
        .for_each(|child| linux::kill(child.id(), libc::SIGKILL));
    second.block_on(assert_yields_all(&mut set, &children));
}

#[test]
fn polled_set_yields_in_another_runtime() {
    let _ = in_own_process!(polled_set_yields_in_another_runtime, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let (first, second) = (runtime(), runtime());
    let mut children = many(2);
    let mut set = ExitSet::new();
    for child in &children {
        set.insert(child.id()).unwrap();
    }
    let mut task = tokio_test::task::spawn(set);
    let entered = first.enter();
    assert!(task.poll_next().is_pending());
    children[0].kill();
    // The poller of the first runtime has sent the exit.
    support::until("the task is woken", || task.is_woken());
    drop(entered);
    let _second = second.enter();
    assert!(task.poll_next().is_ready());
}

#[test]
fn dropping_a_waker_may_drop_another_wait() {
    /// A waker whose last reference drops a wait.
    struct HoldsWait(#[expect(dead_code)] ProcessExit);
    impl Wake for HoldsWait {
        fn wake(self: std::sync::Arc<Self>) {
            drop(self);
        }
    }
    let _ = in_own_process!(dropping_a_waker_may_drop_another_wait, ["1"]);
    deny!(libc::SYS_pidfd_open, libc::EPERM);
    let (first, second) = (runtime(), runtime());
    let children = many(2);
    let mut set = ExitSet::new();
    assert!(set.insert_exit(exit_of(children[0].id())));
    first.block_on(async {
        let mut wait = exit_of(children[1].id());
        still_pending(&mut wait).await;
        let waker = std::sync::Arc::new(HoldsWait(wait)).into();
        let mut context = Context::from_waker(&waker);
        assert!(set.poll_next_exit(&mut context).is_pending());
    });
    // The set replaces its waker by that of the second runtime.
    second.block_on(still_pending(set.next_exit()));
    linux::kill(children[0].id(), libc::SIGKILL);
    second.block_on(assert_yields_all(&mut set, &children[..1]));
}

/// Runs one test again in a new mount namespace, which `mount` prepares. Needs root.
fn rerun_with_mounts(test: &str, role: &str, mount: fn() -> io::Result<()>) {
    let prepare = |command: &mut Command| {
        command.current_dir("/");
        let enter = move || {
            // SAFETY: the call takes an integer.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            mount_call(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")?;
            mount()
        };
        // SAFETY: `enter` only makes system calls.
        unsafe { command.pre_exec(enter) };
    };
    support::assert_passed(&support::rerun(test, role, prepare));
}

/// Converts the result of a system call.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Calls `mount(2)`.
fn mount_call(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> io::Result<()> {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    // SAFETY: the pointers are to null-terminated strings.
    check(unsafe { libc::mount(source, target, kind, flags, data.as_ptr().cast()) })
}

/// Asserts that a wait resolves without a status: at the exit with events, at the reap by polling.
async fn assert_exits_without_status(grandchild: &mut Grandchild) {
    let mut process = exit_of(grandchild.id());
    still_pending(&mut process).await;
    grandchild.end(0);
    if process.mechanism() == Some(Mechanism::PidFd) {
        assert_eq!(deadline(process).await.unwrap().status(), None);
        grandchild.reap();
    } else {
        still_pending(&mut process).await;
        grandchild.reap();
        assert_eq!(deadline(process).await.unwrap().status(), None);
    }
}

#[test]
fn makes_up_no_status_without_proc() {
    const TEST: &str = "makes_up_no_status_without_proc";
    let Some(role) = support::role() else {
        if !linux::is_root() {
            return skip("not root, so nothing can be mounted over /proc");
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
        "/proc is empty"
    );
    if role == "polling" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    }
    let runtime = runtime();
    runtime.block_on(async {
        let mut grandchild = Grandchild::spawn();
        assert_exits_without_status(&mut grandchild).await;

        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        still_pending(&mut process).await;
        child.end();
        let exit = deadline(process).await.unwrap();
        // Polling may not return the status: it could belong to a later child with the same pid.
        assert!(exit.status().is_none_or(|status| status.code() == Some(7)));

        let error = ProcessExit::open(grandchild.id()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let thread = std::thread::spawn(|| {
            // SAFETY: the call takes no arguments.
            ProcessExit::open(unsafe { libc::gettid() } as u32).unwrap_err()
        });
        assert_eq!(thread.join().unwrap().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn status_of_own_child_is_known_without_proc() {
    const TEST: &str = "status_of_own_child_is_known_without_proc";
    if support::role().is_none() {
        if !linux::is_root() {
            return skip("not root, so nothing can be mounted over /proc");
        }
        if support::poll_forced() {
            return skip("polling verifies the child by /proc");
        }
        if !linux::waitid_shows_status() {
            return skip("this kernel does not show the status without /proc");
        }
        return rerun_with_mounts(TEST, "events", || {
            mount_call(c"none", c"/proc", c"tmpfs", 0, c"")
        });
    }
    // Each child exits at a random moment of a query, also between its system calls.
    for _ in 0..2000 {
        let child = linux::fork(|| 7);
        let mut process = ProcessExit::open(child.id()).unwrap();
        let exit = loop {
            if let Some(exit) = process.try_wait().unwrap() {
                break exit;
            }
        };
        assert_eq!(exit.status().and_then(|status| status.code()), Some(7));
    }
}

#[test]
fn denial_of_one_pid_does_not_affect_others() {
    in_own_process!(denial_of_one_pid_does_not_affect_others, ["EPERM"]);
    if !linux::seccomp_filters() {
        return skip(NO_DENIALS);
    }
    let (guarded, other) = (Child::spawn(0), Child::spawn(0));
    let identity = exit_of(other.id()).identity().unwrap();
    linux::deny_for(libc::SYS_pidfd_open, guarded.id(), libc::EPERM);
    let process = exit_of(guarded.id());
    assert_eq!(process.mechanism(), Some(Mechanism::Polling));

    let expected = match support::poll_forced() {
        true => Mechanism::Polling,
        false => Mechanism::PidFd,
    };
    assert_eq!(exit_of(other.id()).mechanism(), Some(expected));
    assert_eq!(identity.open().unwrap().pid(), Some(other.id()));
    let mut set = ExitSet::new();
    set.insert(other.id()).unwrap();
    assert_eq!(set.polled_len() == 0, expected == Mechanism::PidFd);
}

/// Runs one test again, with events and by polling, where `/proc` hides the processes of other users.
fn rerun_under_hidepid(test: &str) {
    for role in ["events", "polling"] {
        rerun_with_mounts(test, role, || {
            mount_call(c"proc", c"/proc", c"proc", 0, c"hidepid=2")
        });
    }
}

/// Changes the user of this process to `nobody`.
fn become_nobody() {
    // SAFETY: the call takes an integer.
    check(unsafe { libc::setgid(65534) }).unwrap();
    // SAFETY: the call takes an integer.
    check(unsafe { libc::setuid(65534) }).unwrap();
}

#[test]
fn makes_up_no_status_under_hidepid() {
    const TEST: &str = "makes_up_no_status_under_hidepid";
    let Some(role) = support::role() else {
        if !linux::is_root() {
            return skip("not root, so nothing can be mounted over /proc");
        }
        return rerun_under_hidepid(TEST);
    };
    if role == "polling" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    }
    // Start the processes as root, before this process changes its user to `nobody`.
    let mut grandchild = Grandchild::spawn();
    let mut hidden_later = Grandchild::spawn();
    let mut of_hidden_later = exit_of(hidden_later.id());
    of_hidden_later
        .identity()
        .expect("the process is not hidden yet");
    become_nobody();
    assert!(
        std::fs::metadata(format!("/proc/{}", grandchild.id())).is_err(),
        "the grandchild is hidden"
    );

    let runtime = runtime();
    runtime.block_on(async {
        assert_exits_without_status(&mut grandchild).await;
        still_pending(exit_of(1)).await;

        still_pending(&mut of_hidden_later).await;
        hidden_later.end(8);
        hidden_later.reap();
        let status = deadline(of_hidden_later).await.unwrap().status();
        assert!(status.is_none_or(|status| status.code() == Some(8)));
    });
}

#[test]
fn status_of_own_child_is_known_under_hidepid() {
    use std::os::fd::AsRawFd;
    const TEST: &str = "status_of_own_child_is_known_under_hidepid";
    let Some(role) = support::role() else {
        if !linux::is_root() {
            return skip("not root, so nothing can be mounted over /proc");
        }
        if !linux::waitid_shows_status() {
            return skip("this kernel does not show the status without /proc");
        }
        return rerun_under_hidepid(TEST);
    };
    if role == "polling" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    }
    let (read, mut write) = linux::pipe();
    let fd = read.as_raw_fd();
    // The child stays root when this process changes its user to `nobody`.
    let child = linux::fork(|| i32::from(linux::read_byte(fd)));
    let mut process = exit_of(child.id());
    assert_eq!(process.try_wait().unwrap(), None);
    become_nobody();
    assert!(
        std::fs::metadata(format!("/proc/{}", child.id())).is_err(),
        "the child is hidden"
    );
    io::Write::write_all(&mut write, &[7]).unwrap();
    let exit = runtime().block_on(deadline(process)).unwrap();
    assert_eq!(exit.status().and_then(|status| status.code()), Some(7));
    assert_eq!(child.reap(), 7 << 8);
}

#[test]
fn set_rejects_a_polled_duplicate_after_its_reap() {
    let role = in_own_process!(
        set_rejects_a_polled_duplicate_after_its_reap,
        ["no pidfd", "no registration"]
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    if role == "no pidfd" {
        deny!(libc::SYS_pidfd_open, libc::EPERM);
    } else {
        deny!(libc::SYS_epoll_ctl, libc::ENOSPC);
    }
    runtime.block_on(async {
        let child = linux::fork(|| linux::forever());
        let pid = child.id();
        let [first, second, mut third] = [0; 3].map(|_| exit_of(pid));
        // The third wait is already polled.
        still_pending(&mut third).await;
        let mut set = ExitSet::new();
        assert!(set.insert_exit(first));
        assert_eq!(set.polled_len(), 1);
        // Dropping the child kills and reaps it.
        drop(child);
        assert!(!set.insert_exit(second), "the process is a member already");
        assert!(!set.insert_exit(third), "the process is a member already");
        assert_eq!(
            deadline(set.next_exit()).await.unwrap().unwrap().pid(),
            Some(pid)
        );
        assert!(deadline(set.next_exit()).await.is_none());
    });
}
