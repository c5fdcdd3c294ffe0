//! Promise: the exit status is that process's or unknown, and is left for its owner to collect.

mod support;

#[cfg(unix)]
use std::os::unix::process::ExitStatusExt;

#[cfg(target_os = "linux")]
use support::linux;
#[cfg(unix)]
use support::unix::Grandchild;
use support::{Child, deadline, shell, skip, tells_the_status_of_reaped};
#[cfg(target_os = "linux")]
use tokio_process_exit::ProcessExit;
use tokio_process_exit::exit_of;

#[tokio::test]
async fn the_status_of_a_child_is_the_one_its_owner_collects_afterwards() {
    for script in [
        "exit 0",
        "exit 1",
        "exit 255",
        "kill -KILL $$",
        "kill -TERM $$",
    ] {
        if cfg!(windows) && script.starts_with("kill") {
            continue;
        }
        let mut child = Child::spawn_command(&mut shell(script));
        let exit = deadline(exit_of(child.id())).await.unwrap();
        assert_eq!(exit.status(), Some(child.reap()), "{script}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_core_dump_shows_in_the_status() {
    let directory = std::env::temp_dir();
    let script = "ulimit -c unlimited 2>/dev/null; kill -ABRT $$";
    let mut child = Child::spawn_command(shell(script).current_dir(directory));
    let id = child.id();
    let exit = deadline(exit_of(id)).await.unwrap();
    let status = child.reap();
    assert_eq!(exit.status(), Some(status));
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    if !status.core_dumped() {
        skip("no core was dumped here; the signal was seen");
    }
    for name in ["core".to_owned(), format!("core.{id}")] {
        let _ = std::fs::remove_file(std::env::temp_dir().join(name));
    }
}

#[tokio::test]
async fn tokio_and_std_owners_get_their_status_in_any_order() {
    for code in 0..30 {
        let script = format!("exit {code}");
        let mut child = tokio::process::Command::from(shell(&script))
            .spawn()
            .unwrap();
        let exit = exit_of(child.id().unwrap());
        let (exit, status) = deadline(futures::future::join(exit, child.wait())).await;
        assert_eq!(status.unwrap().code(), Some(code));
        // Polling does not see it if the owner was faster.
        if tells_the_status_of_reaped() {
            assert_eq!(exit.unwrap().status().unwrap().code(), Some(code));
        }
    }
}

#[tokio::test]
async fn the_status_of_a_child_reaped_before_the_wait_is_known() {
    let mut child = Child::spawn(11);
    let exit = exit_of(child.id());
    child.reap();
    let exit = deadline(exit).await.unwrap();
    if exit.status().is_none() && !tells_the_status_of_reaped() {
        return skip("polling does not tell, nor a pidfd before Linux 6.15");
    }
    assert_eq!(exit.status().unwrap().code(), Some(11));
}

#[cfg(unix)]
#[tokio::test]
async fn an_automatically_reaped_child_gives_its_own_status_or_none() {
    if support::role().is_none() {
        // SIGCHLD is the whole process's.
        let test = "an_automatically_reaped_child_gives_its_own_status_or_none";
        return support::assert_passed(&support::rerun(test, "ignore", |_| {}));
    }
    // SAFETY: SIG_IGN is no handler, so nothing runs.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    for code in 1..=50 {
        let mut child = Child::spawn(code);
        let exit = exit_of(child.id());
        child.end();
        let status = deadline(exit).await.unwrap().status();
        match status {
            Some(status) => assert_eq!(status.code(), Some(code.into())),
            None => assert!(!tells_the_status_of_reaped()),
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_status_of_an_unreaped_process_of_another_parent_is_known_to_its_user() {
    if !support::tells_the_status_of_zombies() {
        return skip("this system does not tell");
    }
    for code in [0, 1, 7, 255] {
        let mut grandchild = Grandchild::spawn();
        let exit = exit_of(grandchild.id());
        grandchild.end(code);
        let exit = deadline(exit).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(code.into()));
    }
    let mut grandchild = Grandchild::spawn();
    grandchild.kill(libc::SIGKILL);
    let exit = deadline(exit_of(grandchild.id())).await.unwrap();
    assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
}

#[cfg(unix)]
#[tokio::test]
async fn reaped_resolves_at_the_reap_with_the_status() {
    let mut grandchild = Grandchild::spawn();
    let mut exit = exit_of(grandchild.id()).until_reaped();
    support::still_pending(&mut exit).await;
    grandchild.end(42);
    support::still_pending(&mut exit).await;
    assert_eq!(exit.try_wait().unwrap(), None);
    grandchild.reap();
    let exit = deadline(exit).await.unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(42));
}

#[cfg(unix)]
#[tokio::test]
async fn reaped_may_be_asked_for_after_the_exit() {
    let mut child = Child::spawn(12);
    let mut exit = exit_of(child.id());
    child.end();
    deadline(&mut exit).await.unwrap();
    let mut exit = exit.until_reaped();
    support::still_pending(&mut exit).await;
    child.reap();
    assert_eq!(
        deadline(exit).await.unwrap().status().unwrap().code(),
        Some(12)
    );
}

#[cfg(unix)]
#[tokio::test]
async fn reaped_resolves_for_a_process_that_had_been_reaped() {
    let mut grandchild = Grandchild::spawn();
    let exit = exit_of(grandchild.id()).until_reaped();
    grandchild.end(13);
    grandchild.reap();
    let exit = deadline(exit).await.unwrap();
    if tells_the_status_of_reaped() {
        assert_eq!(exit.status().unwrap().code(), Some(13));
    }
}

/// Another user must learn of the exit, but the kernel shows it 0 for a status that it may not
/// read.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stranger_learns_of_the_exit_but_never_a_wrong_status() {
    const TEST: &str = "a_stranger_learns_of_the_exit_but_never_a_wrong_status";
    if support::role().is_some() {
        let pids = std::env::var("PIDS").unwrap();
        let mut pids = pids.split(',').map(|pid| pid.parse::<u32>().unwrap());
        for code in [0, 7] {
            let exit = ProcessExit::open(pids.next().unwrap()).unwrap();
            let exit = deadline(exit).await.unwrap();
            assert_eq!(
                exit.status(),
                None,
                "a status that nobody may read, really {code}"
            );
        }
        support::still_pending(exit_of(pids.next().unwrap())).await;
        support::still_pending(exit_of(1)).await;
        return;
    }
    if !linux::is_root() {
        return skip("not root, so there is no stranger to be");
    }
    let (success, failure) = (Grandchild::zombie(0), Grandchild::zombie(7));
    let alive = Grandchild::spawn();
    let pids = format!("{},{},{}", success.id(), failure.id(), alive.id());
    match linux::rerun_as_nobody(TEST, &[("PIDS", pids)]) {
        Some(output) => support::assert_passed(&output),
        None => skip("nobody cannot start this binary"),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stranger_learns_the_status_once_it_is_reaped() {
    const TEST: &str = "a_stranger_learns_the_status_once_it_is_reaped";
    if support::role().is_some() {
        let pid = std::env::var("PIDS").unwrap().parse().unwrap();
        let exit = exit_of(pid).until_reaped();
        assert_eq!(
            deadline(exit).await.unwrap().status().unwrap().code(),
            Some(21)
        );
        return;
    }
    if !linux::is_root() || !linux::pidfd_tells_the_status() {
        return skip("not root, or no pidfd of Linux 6.15");
    }
    let mut grandchild = Grandchild::zombie(21);
    let pid = grandchild.id();
    let output = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| linux::rerun_as_nobody(TEST, &[("PIDS", pid.to_string())]));
        // It can be opened only before the reap.
        support::until("the stranger opens it", || {
            linux::holds_pidfd_of(pid, std::process::id()) || stranger.is_finished()
        });
        grandchild.reap();
        stranger.join().unwrap()
    });
    match output {
        Some(output) => support::assert_passed(&output),
        None => skip("nobody cannot start this binary"),
    }
}

#[test]
fn an_exit_says_what_it_is() {
    let mut child = Child::zombie(7);
    let exit = exit_of(child.id()).try_wait().unwrap().unwrap();
    let word = if cfg!(windows) { "code" } else { "status" };
    assert_eq!(
        exit.to_string(),
        format!("process {} exited with exit {word}: 7", child.id())
    );
    assert!(format!("{exit:?}").contains(&child.id().to_string()));
    let same = exit;
    assert_eq!(std::collections::HashSet::from([exit, same]).len(), 1);
    child.reap();
}

/// There the same number means another process to `/proc`.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_the_proc_of_an_outer_pid_namespace_no_stranger_is_taken_for_the_process() {
    const TEST: &str =
        "with_the_proc_of_an_outer_pid_namespace_no_stranger_is_taken_for_the_process";
    if support::role().is_some() {
        let mut grandchild = Grandchild::spawn();
        assert!(grandchild.id() < 100, "a pid of a new namespace");
        let mut exit = exit_of(grandchild.id());
        let mut reaped = exit_of(grandchild.id()).until_reaped();
        support::still_pending(&mut exit).await;
        grandchild.end(77);
        if !support::poll_forced() {
            let exit = deadline(exit).await.unwrap();
            assert!(
                exit.status().is_none_or(|status| status.code() == Some(77)),
                "{exit}"
            );
        }
        support::still_pending(&mut reaped).await;
        grandchild.reap();
        let exit = deadline(reaped).await.unwrap();
        assert!(
            exit.status().is_none_or(|status| status.code() == Some(77)),
            "{exit}"
        );

        let thread = std::thread::spawn(|| {
            // SAFETY: takes nothing.
            ProcessExit::open(unsafe { libc::gettid() } as u32).unwrap_err()
        });
        let error = thread.join().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains("is a thread, not a process"),
            "{error}"
        );
        return;
    }
    let output = std::process::Command::new("unshare")
        .args(["--pid", "--fork"])
        .args(support::runnable(std::env::current_exe().unwrap()))
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env("ROLE", "inner")
        .output();
    match output {
        Ok(output) if linux::is_root() => support::assert_passed(&output),
        _ => skip("not root, or no unshare(1), so there is no other pid namespace"),
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_status_is_told_to_a_process_whose_own_leading_thread_has_exited() {
    if std::env::var_os("TEST_RUNNER").is_some() {
        return skip("an emulator ends with its leading thread, or keeps it");
    }
    const TEST: &str = "the_status_is_told_to_a_process_whose_own_leading_thread_has_exited";
    if support::role().is_none() {
        return support::assert_passed(&support::rerun(TEST, "1", |_| {}));
    }
    if !linux::stat_tells_the_status() {
        return skip("Linux before 6.1 does not tell");
    }
    // A fork of this process, which has no other thread at work, starts one and ends the first.
    let process = linux::fork(|| {
        std::thread::spawn(|| {
            let me = std::process::id();
            support::until("no leading thread", || linux::state_of(me) == Some('Z'));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let mut grandchild = Grandchild::spawn();
            let status = runtime.block_on(async {
                let mut exit = exit_of(grandchild.id());
                support::still_pending(&mut exit).await;
                grandchild.end(8);
                deadline(exit).await.unwrap().status()
            });
            linux::exit_group(status.and_then(|status| status.code()).unwrap_or(99));
        });
        // SAFETY: ends this thread only, and takes an integer.
        unsafe { libc::syscall(libc::SYS_exit, 98) };
        97
    });
    let pid = process.id();
    // It would be killed when dropped.
    let status = process.reap();
    assert_eq!(status, 8 << 8, "of {pid}");
}
