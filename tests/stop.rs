//! Promise: `stop` returns the exit of the process, which it kills only after `grace`, and loses no exit.

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use support::{Child, deadline, expired, max_wait, poll_once, runtimes, still_pending};
use tokio_process_exit::exit_of;

const SHORT: Duration = Duration::from_millis(100);
/// Longer than a test runs.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn returns_an_exit_before_the_call() {
    for runtime in runtimes() {
        let child = Child::zombie(7);
        let mut process = exit_of(child.id());
        let exit = runtime.block_on(deadline(process.stop(LONG))).unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(7));
        // The wait is resolved.
        let again = runtime.block_on(deadline(process.stop(LONG))).unwrap();
        assert_eq!(again, exit);
    }
}

#[tokio::test]
async fn returns_the_error_of_opening() {
    let error = exit_of(0).stop(LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = exit_of(i32::MAX as u32).stop(LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_unpolled_stop_does_nothing() {
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    drop(process.stop(Duration::ZERO));
    still_pending(&mut process).await;
    assert_eq!(child.reap().code(), Some(7));
}

#[test]
fn a_dropped_stop_does_not_kill() {
    for runtime in runtimes() {
        let mut child = ignoring_sigterm();
        let mut process = exit_of(child.id());
        runtime.block_on(async {
            assert!(poll_once(Box::pin(process.stop(SHORT))).is_none());
            tokio::time::sleep(2 * SHORT).await;
            // The wait goes on, in another future.
            still_pending(&mut process).await;
        });
        child.end();
        let exit = runtime.block_on(deadline(&mut process)).unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(7));
    }
}

#[test]
fn a_repeated_stop_kills_after_its_own_grace() {
    for runtime in runtimes() {
        let child = ignoring_sigterm();
        let mut process = exit_of(child.id());
        runtime.block_on(async {
            assert!(expired(process.stop(LONG)).await.is_err());
            deadline(process.stop(SHORT)).await.unwrap();
        });
    }
}

#[test]
fn kills_only_after_the_grace() {
    for runtime in runtimes() {
        let child = ignoring_sigterm();
        let mut process = exit_of(child.id());
        let start = Instant::now();
        let exit = runtime.block_on(deadline(process.stop(SHORT))).unwrap();
        assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
        assert_killed(exit);
        assert!(process.is_terminated());
    }
}

#[test]
fn returns_an_exit_within_the_grace() {
    for runtime in runtimes() {
        let mut child = ignoring_sigterm();
        let mut process = exit_of(child.id());
        let exit = runtime.block_on(async {
            let end = async {
                tokio::time::sleep(SHORT).await;
                child.end();
            };
            deadline(async { tokio::join!(process.stop(LONG), end).0 }).await
        });
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(7));
    }
}

#[test]
#[should_panic(expected = "timers are disabled")]
fn panics_in_a_runtime_without_timers() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().build().unwrap();
    let child = Child::spawn(0);
    let _ = runtime.block_on(exit_of(child.id()).stop(LONG));
}

/// Returns a child that ignores SIGTERM, and exits with code 7 at [`Child::end`].
fn ignoring_sigterm() -> Child {
    if cfg!(windows) {
        return Child::spawn(7);
    }
    let script = "trap '' TERM; echo ready; read line; exit 7";
    spawn_ready(script)
}

/// Starts a script that prints a line once it is ready.
fn spawn_ready(script: &str) -> Child {
    use std::io::Read;
    let mut command = support::shell(script);
    let mut child = Child::spawn_command(command.stdout(std::process::Stdio::piped()));
    let stdout = child.0.stdout.as_mut().unwrap();
    stdout.read_exact(&mut [0; 6]).expect("the script is ready");
    child
}

#[cfg(unix)]
fn assert_killed(exit: tokio_process_exit::Exit) {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
}

#[cfg(windows)]
fn assert_killed(exit: tokio_process_exit::Exit) {
    assert_eq!(exit.status().unwrap().code(), Some(1));
}

#[cfg(unix)]
mod unix {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use support::unix::{Grandchild, kill};

    #[test]
    fn terminates_a_process_that_does_not_handle_it() {
        for runtime in runtimes() {
            let child = Child::spawn(0);
            let mut process = exit_of(child.id());
            let exit = runtime.block_on(deadline(process.stop(LONG))).unwrap();
            assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGTERM));
        }
    }

    #[test]
    fn a_stopped_process_handles_sigterm() {
        for runtime in runtimes() {
            let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done";
            let child = spawn_ready(script);
            kill(child.id(), libc::SIGSTOP);
            let mut process = exit_of(child.id());
            let exit = runtime.block_on(deadline(process.stop(LONG))).unwrap();
            assert_eq!(exit.status().unwrap().code(), Some(3));
        }
    }

    #[tokio::test]
    async fn until_reaped_returns_after_the_reap() {
        let mut grandchild = Grandchild::spawn();
        let pid = grandchild.id();
        let mut process = exit_of(pid).until_reaped();
        {
            let mut stop = Box::pin(process.stop(LONG));
            still_pending(&mut stop).await;
            assert!(support::unix::is_zombie(pid));
            grandchild.reap();
            assert_eq!(deadline(stop).await.unwrap().pid(), Some(pid));
        }
        // No signal: the process has been reaped.
        deadline(process.stop(Duration::ZERO)).await.unwrap();
    }

    #[test]
    fn a_runtime_without_io_panics_before_the_signal() {
        if support::poll_forced() {
            return support::skip("polling is forced and needs no I/O");
        }
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        let mut child = Child::spawn(7);
        let mut process = exit_of(child.id());
        let stop = std::panic::AssertUnwindSafe(|| runtime.block_on(process.stop(Duration::ZERO)));
        assert!(std::panic::catch_unwind(stop).is_err());
        assert_stops_of_all_panic(&runtime, child.id());
        assert_eq!(child.reap().code(), Some(7));
    }

    #[test]
    fn a_runtime_without_timers_panics_before_signals() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_io().build().unwrap();
        let mut child = Child::spawn(7);
        assert_stops_of_all_panic(&runtime, child.id());
        assert_eq!(child.reap().code(), Some(7));
    }

    /// Asserts that the stop of a set and of a map panics.
    fn assert_stops_of_all_panic(runtime: &tokio::runtime::Runtime, pid: u32) {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        use tokio_process_exit::{ExitMap, ExitSet};

        let (mut set, mut map) = (ExitSet::new(), ExitMap::new());
        set.insert(pid).unwrap();
        map.insert("key", pid).unwrap();
        let stop = AssertUnwindSafe(|| runtime.block_on(set.stop(Duration::ZERO)).len());
        assert!(catch_unwind(stop).is_err());
        let stop = AssertUnwindSafe(|| runtime.block_on(map.stop(Duration::ZERO)).len());
        assert!(catch_unwind(stop).is_err());
        assert!(set.contains(pid) && map.contains_key(&"key"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn another_users_process_is_permission_denied() {
        const TEST: &str = "unix::another_users_process_is_permission_denied";
        if support::role().is_some() {
            let runtime = &runtimes()[0];
            let error = runtime.block_on(deadline(exit_of(1).stop(Duration::ZERO)));
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            return;
        }
        match support::linux::rerun_as_nobody(TEST, &[]) {
            Some(output) => support::assert_passed(&output),
            None => support::skip("not root, or the user nobody cannot start this binary"),
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn does_not_stop_the_next_owner_of_the_pid() {
        use support::linux;
        if !linux::is_root() {
            return support::skip("pids cannot be chosen (not root)");
        }
        let child = Child::spawn(0);
        let pid = child.id();
        let mut process = exit_of(pid);
        drop(child);
        let Some(mut next) = linux::recycle(pid, || Child::spawn(7), Child::id) else {
            return support::skip("the pid was not recycled");
        };
        // If both processes started in the same clock tick, polling cannot distinguish them: an error.
        let stopped = deadline(process.stop(Duration::ZERO)).await;
        assert!(stopped.is_ok() || support::poll_forced(), "{stopped:?}");
        assert_eq!(next.reap().code(), Some(7));
    }
}

#[test]
fn the_longest_grace_is_not_over_at_once() {
    for runtime in runtimes() {
        let mut child = ignoring_sigterm();
        let mut process = exit_of(child.id());
        let exit = runtime.block_on(async {
            let mut stop = Box::pin(process.stop(Duration::MAX));
            still_pending(&mut stop).await;
            child.end();
            tokio::time::timeout(max_wait(), stop).await.unwrap()
        });
        assert_eq!(exit.unwrap().status().unwrap().code(), Some(7));
    }
}
