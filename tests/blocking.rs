//! Promise: `blocking_wait` returns each exit without a runtime, and no earlier than its timeout otherwise.

mod support;

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use support::{Child, deadline, max_wait, runtimes, still_pending};
use tokio_process_exit::{Exit, ProcessExit, exit_of};

const SHORT: Option<Duration> = Some(Duration::from_millis(100));

/// Waits for a process that must exit. Panics after [`max_wait`].
#[track_caller]
fn wait(process: &mut ProcessExit) -> Exit {
    let exit = process.blocking_wait(Some(max_wait())).unwrap();
    exit.expect("the process exits")
}

/// Runs a function on another thread while the calling thread waits, a while after it has started.
fn meanwhile<T: Send>(event: impl FnOnce() + Send, wait: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            event();
        });
        wait()
    })
}

#[test]
fn returns_the_exit_while_the_thread_sleeps() {
    for timeout in [None, Some(max_wait()), Some(Duration::MAX)] {
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        let exit = meanwhile(|| child.end(), || process.blocking_wait(timeout));
        let exit = exit.unwrap().expect("the child has exited");
        assert_eq!(exit.pid(), process.pid());
        assert_eq!(exit.status().unwrap().code(), Some(7));
        // The wait is resolved.
        assert_eq!(process.blocking_wait(None).unwrap(), Some(exit));
        assert_eq!(process.try_wait().unwrap(), Some(exit));
    }
}

#[test]
fn returns_an_exit_before_the_call() {
    let child = Child::zombie(7);
    for timeout in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
        let exit = exit_of(child.id()).blocking_wait(timeout).unwrap();
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(7));
    }
}

#[test]
fn timeout_elapses_while_the_process_runs() {
    let child = Child::spawn(0);
    let mut process = exit_of(child.id());
    for timeout in [Duration::from_nanos(1), SHORT.unwrap()] {
        let start = Instant::now();
        assert_eq!(process.blocking_wait(Some(timeout)).unwrap(), None);
        assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());
    }
    let start = Instant::now();
    assert_eq!(process.blocking_wait(Some(Duration::ZERO)).unwrap(), None);
    assert!(start.elapsed() < max_wait());
}

#[test]
fn returns_the_error_of_opening() {
    let error = exit_of(0).blocking_wait(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = exit_of(i32::MAX as u32).blocking_wait(SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn does_not_disturb_a_registered_wait() {
    for runtime in runtimes() {
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        runtime.block_on(still_pending(&mut process));
        assert_eq!(process.blocking_wait(SHORT).unwrap(), None);
        runtime.block_on(still_pending(&mut process));
        assert_eq!(process.blocking_wait(SHORT).unwrap(), None);
        child.end();
        let exit = runtime.block_on(deadline(&mut process)).unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(7));
        assert_eq!(process.blocking_wait(None).unwrap(), Some(exit));
    }
}

#[test]
fn returns_the_exit_of_a_registered_wait() {
    for runtime in runtimes() {
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        runtime.block_on(still_pending(&mut process));
        let exit = meanwhile(|| child.end(), || wait(&mut process));
        assert_eq!(exit.status().unwrap().code(), Some(7));
        assert!(!process.is_terminated());
        assert_eq!(runtime.block_on(deadline(&mut process)).unwrap(), exit);
        assert!(process.is_terminated());
    }
}

#[test]
fn works_in_a_runtime_without_io() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    child.end();
    let wait = move || wait(&mut process);
    let exit = runtime.block_on(async { tokio::task::spawn_blocking(wait).await });
    assert_eq!(exit.unwrap().status().unwrap().code(), Some(7));
}

#[cfg(unix)]
mod unix {
    use super::*;
    use support::unix::{Grandchild, fork};

    #[test]
    fn until_reaped_sleeps_until_the_reap() {
        let mut grandchild = Grandchild::spawn();
        let mut process = exit_of(grandchild.id()).until_reaped();
        assert_eq!(process.blocking_wait(SHORT).unwrap(), None);
        grandchild.end(7);
        support::until("the grandchild is a zombie", || {
            support::unix::is_zombie(grandchild.id())
        });
        // Once for an exit before the call, once for a zombie that was queried before.
        for _ in 0..2 {
            assert_eq!(process.blocking_wait(SHORT).unwrap(), None);
        }
        let exit = meanwhile(|| grandchild.reap(), || wait(&mut process));
        if support::zombie_status_is_known() {
            assert_eq!(exit.status().unwrap().code(), Some(7));
        }
    }

    #[test]
    fn keeps_a_zombies_status_until_the_reap() {
        let child = fork(|| 7);
        let mut process = exit_of(child.id()).until_reaped();
        let exit = meanwhile(
            move || assert_eq!(child.reap(), 0x700),
            || wait(&mut process),
        );
        // The status of a child is known to its parent as long as it is a zombie.
        if !cfg!(target_os = "linux") || support::reaped_status_is_known() {
            assert_eq!(exit.status().unwrap().code(), Some(7));
        }
    }

    /// Does nothing. A handler makes the system call return EINTR.
    extern "C" fn ignore(_signal: libc::c_int) {}

    #[test]
    fn signal_handlers_do_not_shorten_the_wait() {
        let handler: extern "C" fn(libc::c_int) = ignore;
        // SAFETY: the handler does nothing.
        let result = unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
        assert_ne!(result, libc::SIG_ERR);
        // SAFETY: takes nothing.
        let waiting = unsafe { libc::pthread_self() } as usize;
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        let interrupt = |count| {
            for _ in 0..count {
                thread::sleep(Duration::from_millis(10));
                // SAFETY: the waiting thread joins this thread before it ends.
                unsafe { libc::pthread_kill(waiting as libc::pthread_t, libc::SIGUSR1) };
            }
        };
        let timeout = Duration::from_millis(400);
        let start = Instant::now();
        let exit = meanwhile(|| interrupt(10), || process.blocking_wait(Some(timeout)));
        assert_eq!(exit.unwrap(), None);
        assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());

        let exit = meanwhile(
            || {
                interrupt(10);
                child.end();
            },
            || process.blocking_wait(None),
        );
        assert_eq!(exit.unwrap().unwrap().status().unwrap().code(), Some(7));
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use support::linux;

    #[test]
    fn waits_2_seconds_in_under_10_context_switches() {
        const TEST: &str = "linux::waits_2_seconds_in_under_10_context_switches";
        // Run in a separate process: the count includes every thread of the process.
        if !support::has_own_process(TEST) {
            return;
        }
        if support::poll_forced() {
            return support::skip("polling is forced, so the thread wakes up at intervals");
        }
        let switches = linux::context_switches_of(Duration::from_secs(2), |duration| {
            let exit = exit_of(std::process::id()).blocking_wait(Some(duration));
            assert_eq!(exit.unwrap(), None);
        });
        assert!(switches < 10, "{switches} voluntary context switches");
    }

    #[test]
    fn sleeps_until_the_reap_of_a_zombie() {
        const TEST: &str = "linux::sleeps_until_the_reap_of_a_zombie";
        // Run in a separate process: the count includes every thread of the process.
        if !support::has_own_process(TEST) {
            return;
        }
        if support::poll_forced() || linux::release() < (6, 9) {
            return support::skip("the system does not report the reap");
        }
        let child = Child::zombie(7);
        let mut process = exit_of(child.id()).until_reaped();
        let before = linux::cpu_time();
        let switches = linux::context_switches_of(Duration::from_secs(1), |duration| {
            let exit = process.blocking_wait(Some(duration));
            assert_eq!(exit.unwrap(), None);
        });
        let cpu_time = linux::cpu_time() - before;
        assert!(switches < 10, "{switches} voluntary context switches");
        assert!(cpu_time < Duration::from_millis(200), "{cpu_time:?}");
    }

    #[test]
    fn a_denied_wait_queries_at_intervals() {
        const TEST: &str = "linux::a_denied_wait_queries_at_intervals";
        if support::role().is_none() {
            if !linux::seccomp_filters() {
                return support::skip("seccomp filters are not available");
            }
            // Run in a separate process: the filter stays until its end.
            return support::assert_passed(&support::rerun(TEST, "deny", |_| {}));
        }
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        linux::deny(libc::SYS_ppoll, libc::EPERM);
        if process.try_wait().is_err() {
            return support::skip("the C library has no other call than ppoll");
        }
        let start = Instant::now();
        assert_eq!(process.blocking_wait(SHORT).unwrap(), None);
        assert!(start.elapsed() >= SHORT.unwrap(), "{:?}", start.elapsed());
        let exit = meanwhile(|| child.end(), || wait(&mut process));
        assert_eq!(exit.status().unwrap().code(), Some(7));
    }
}
