//! Promise: a returned exit status is never wrong, and the parent can still reap the process.

mod support;

#[cfg(unix)]
use std::os::unix::process::ExitStatusExt;

#[cfg(target_os = "linux")]
use support::linux;
#[cfg(unix)]
use support::unix::Grandchild;
use support::{Child, deadline, reaped_status_is_known, shell, skip};
#[cfg(target_os = "linux")]
use tokio_process_exit::ProcessExit;
use tokio_process_exit::exit_of;

#[tokio::test]
async fn child_status_equals_the_reaped_status() {
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
async fn status_includes_the_core_dump_flag() {
    let directory = std::env::temp_dir();
    let script = "ulimit -c unlimited 2>/dev/null; kill -ABRT $$";
    let mut child = Child::spawn_command(shell(script).current_dir(directory));
    let id = child.id();
    let exit = deadline(exit_of(id)).await.unwrap();
    let status = child.reap();
    assert_eq!(exit.status(), Some(status));
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    if !status.core_dumped() {
        skip("no core was dumped; the signal was still reported");
    }
    for name in ["core".to_owned(), format!("core.{id}")] {
        let _ = std::fs::remove_file(std::env::temp_dir().join(name));
    }
}

#[tokio::test]
async fn tokio_still_gets_the_status_of_its_child() {
    for code in 0..30 {
        let script = format!("exit {code}");
        let mut child = tokio::process::Command::from(shell(&script))
            .spawn()
            .unwrap();
        let process = exit_of(child.id().unwrap());
        let (exit, status) = deadline(futures::future::join(process, child.wait())).await;
        assert_eq!(status.unwrap().code(), Some(code));
        // Polling returns no status if tokio reaps the child first.
        if reaped_status_is_known() {
            assert_eq!(exit.unwrap().status().unwrap().code(), Some(code));
        }
    }
}

#[tokio::test]
async fn returns_the_status_of_a_child_reaped_before_poll() {
    let mut child = Child::spawn(11);
    let process = exit_of(child.id());
    child.reap();
    let exit = deadline(process).await.unwrap();
    if exit.status().is_none() && !reaped_status_is_known() {
        return skip("no status after the reap: polling, or Linux before 6.15");
    }
    assert_eq!(exit.status().unwrap().code(), Some(11));
}

#[cfg(unix)]
#[tokio::test]
async fn auto_reaped_child_has_its_own_status_or_none() {
    if support::role().is_none() {
        // Run in a new process: the disposition of SIGCHLD applies to all threads.
        let test = "auto_reaped_child_has_its_own_status_or_none";
        return support::assert_passed(&support::rerun(test, "ignore", |_| {}));
    }
    // SAFETY: SIG_IGN installs no handler, so no code runs on a signal.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    for code in 1..=50 {
        let mut child = Child::spawn(code);
        let process = exit_of(child.id());
        child.end();
        let status = deadline(process).await.unwrap().status();
        match status {
            Some(status) => assert_eq!(status.code(), Some(code.into())),
            None => assert!(!reaped_status_is_known()),
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn returns_the_status_of_another_parents_zombie() {
    if !support::zombie_status_is_known() {
        return skip("this system does not report the status of another parent's zombie");
    }
    for code in [0, 1, 7, 255] {
        let mut grandchild = Grandchild::spawn();
        let process = exit_of(grandchild.id());
        grandchild.end(code);
        let exit = deadline(process).await.unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(code.into()));
    }
    let mut grandchild = Grandchild::spawn();
    grandchild.kill(libc::SIGKILL);
    let exit = deadline(exit_of(grandchild.id())).await.unwrap();
    assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
}

#[cfg(unix)]
#[tokio::test]
async fn until_reaped_resolves_at_the_reap_with_the_status() {
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id()).until_reaped();
    support::still_pending(&mut process).await;
    grandchild.end(42);
    support::still_pending(&mut process).await;
    assert_eq!(process.try_wait().unwrap(), None);
    grandchild.reap();
    let exit = deadline(process).await.unwrap();
    #[cfg(target_os = "linux")]
    linux::assert_code_if_shown(exit, 42);
    #[cfg(not(target_os = "linux"))]
    assert_eq!(exit.status().unwrap().code(), Some(42));
}

#[cfg(unix)]
#[tokio::test]
async fn until_reaped_can_follow_a_resolved_exit() {
    let mut child = Child::spawn(12);
    let mut process = exit_of(child.id());
    child.end();
    deadline(&mut process).await.unwrap();
    let mut process = process.until_reaped();
    support::still_pending(&mut process).await;
    child.reap();
    assert_eq!(
        deadline(process).await.unwrap().status().unwrap().code(),
        Some(12)
    );
}

#[cfg(unix)]
#[tokio::test]
async fn until_reaped_resolves_for_a_reaped_process() {
    let mut grandchild = Grandchild::spawn();
    let process = exit_of(grandchild.id()).until_reaped();
    grandchild.end(13);
    grandchild.reap();
    let exit = deadline(process).await.unwrap();
    if reaped_status_is_known() {
        assert_eq!(exit.status().unwrap().code(), Some(13));
    }
}

/// For another user's zombie, `/proc` shows 0 instead of the status. The 0 must not be returned.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn other_user_gets_the_exit_without_a_status() {
    const TEST: &str = "other_user_gets_the_exit_without_a_status";
    if support::role().is_some() {
        let pids = std::env::var("PIDS").unwrap();
        let mut pids = pids.split(',').map(|pid| pid.parse::<u32>().unwrap());
        for code in [0, 7] {
            let process = ProcessExit::open(pids.next().unwrap()).unwrap();
            let exit = deadline(process).await.unwrap();
            assert_eq!(
                exit.status(),
                None,
                "the user nobody may not read the status, which is {code}"
            );
        }
        support::still_pending(exit_of(pids.next().unwrap())).await;
        support::still_pending(exit_of(1)).await;
        return;
    }
    if !linux::is_root() {
        return skip("not root, so the test cannot run as another user");
    }
    let (success, failure) = (Grandchild::zombie(0), Grandchild::zombie(7));
    let alive = Grandchild::spawn();
    let pids = format!("{},{},{}", success.id(), failure.id(), alive.id());
    match linux::rerun_as_nobody(TEST, &[("PIDS", pids)]) {
        Some(output) => support::assert_passed(&output),
        None => skip("the user nobody cannot start this binary"),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn other_user_gets_the_status_after_the_reap() {
    const TEST: &str = "other_user_gets_the_status_after_the_reap";
    if support::role().is_some() {
        let pid = std::env::var("PIDS").unwrap().parse().unwrap();
        let process = exit_of(pid).until_reaped();
        assert_eq!(
            deadline(process).await.unwrap().status().unwrap().code(),
            Some(21)
        );
        return;
    }
    if !linux::is_root() || !linux::pidfd_reports_status() {
        return skip("not root, or Linux before 6.15");
    }
    let mut grandchild = Grandchild::zombie(21);
    let pid = grandchild.id();
    let output = std::thread::scope(|scope| {
        let other_user = scope.spawn(|| linux::rerun_as_nobody(TEST, &[("PIDS", pid.to_string())]));
        // The other user must open the process before the reap.
        support::until("the other user has opened the process", || {
            linux::holds_pidfd_of(pid, std::process::id()) || other_user.is_finished()
        });
        grandchild.reap();
        other_user.join().unwrap()
    });
    match output {
        Some(output) => support::assert_passed(&output),
        None => skip("the user nobody cannot start this binary"),
    }
}

/// Before Linux 5.17, `waitid` returns the status of the leader thread, which is not the process's if the
/// leader thread exited by itself. The status of some processes is then unknown.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn never_returns_the_leader_threads_status() {
    if std::env::var_os("TEST_RUNNER").is_some() {
        return skip("under an emulator the leader thread cannot exit alone");
    }
    type Thread = fn() -> i32;
    type Leader = fn() -> Option<i32>;
    // SAFETY: the call takes an integer.
    let soon: Thread = || unsafe { libc::usleep(2000) } + 7;
    let forever: Thread = || linux::forever();
    let dumps: Thread = || {
        // A shell starts programs in the background with this signal ignored.
        // SAFETY: the call takes integers.
        unsafe { libc::signal(libc::SIGQUIT, libc::SIG_DFL) };
        // Send the signal to this thread, which then dumps core.
        // SAFETY: the call takes no arguments.
        let (process, thread) = (std::process::id() as i32, unsafe { libc::gettid() });
        // SAFETY: the call takes integers.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGQUIT) };
        linux::forever()
    };
    let (exits, waits): (Leader, Leader) = (|| None, || linux::forever());
    // Whether every kernel shows the status.
    let (sometimes, always) = (false, true);
    let execs: Thread = || linux::exec_sh(c"exit 5");
    let scenarios: [(&str, Thread, Leader, bool); 8] = [
        (
            "leader exits, thread ends the process",
            || 7,
            exits,
            sometimes,
        ),
        ("leader exits, thread ends it later", soon, exits, sometimes),
        ("leader exits, process is killed", forever, exits, sometimes),
        ("leader exits, thread dumps core", dumps, exits, sometimes),
        ("leader waits, thread dumps core", dumps, waits, sometimes),
        ("leader waits, thread ends the process", soon, waits, always),
        ("leader ends the process", forever, || Some(7), sometimes),
        (
            "thread calls `execve`, and is killed",
            execs,
            waits,
            sometimes,
        ),
    ];
    let directory = std::env::temp_dir().join(format!("status-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    for (scenario, thread, leader, is_known) in scenarios {
        for round in 0..100_u32 {
            let child = linux::fork(|| {
                // Any core is written to a directory of the test.
                // SAFETY: `path` ends with a null byte, and lives until the call returns.
                unsafe { libc::chdir(path.as_ptr()) };
                // SAFETY: `limit` is readable.
                unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) };
                linux::two_threads(thread, leader)
            });
            let process = exit_of(child.id());
            if scenario == "leader exits, process is killed" {
                support::until("the leader has exited", || {
                    linux::state_of(child.id()) == Some('Z')
                });
                linux::kill(child.id(), libc::SIGKILL);
            }
            if scenario.contains("execve") {
                // Kill the process at any moment of the call.
                let start = std::time::Instant::now();
                let delay = support::scaled(std::time::Duration::from_micros(10)) * round;
                while start.elapsed() < delay {}
                linux::kill(child.id(), libc::SIGKILL);
            }
            let exit = deadline(process).await.unwrap();
            let status = std::process::ExitStatus::from_raw(child.reap());
            match exit.status() {
                None if !is_known && !linux::waitid_shows_status() => {}
                reported => assert_eq!(reported, Some(status), "{scenario}"),
            }
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn exit_displays_its_pid_and_status() {
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

/// In `/proc` of an outer pid namespace, the same pid belongs to a different process.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn ignores_the_proc_of_an_outer_pid_namespace() {
    const TEST: &str = "ignores_the_proc_of_an_outer_pid_namespace";
    if support::role().is_some() {
        let mut grandchild = Grandchild::spawn();
        assert!(grandchild.id() < 100, "a pid of a new namespace");
        let mut process = exit_of(grandchild.id());
        let mut until_reaped = exit_of(grandchild.id()).until_reaped();
        support::still_pending(&mut process).await;
        grandchild.end(77);
        if !support::poll_forced() {
            let exit = deadline(process).await.unwrap();
            assert!(
                exit.status().is_none_or(|status| status.code() == Some(77)),
                "{exit}"
            );
        }
        support::still_pending(&mut until_reaped).await;
        grandchild.reap();
        let exit = deadline(until_reaped).await.unwrap();
        assert!(
            exit.status().is_none_or(|status| status.code() == Some(77)),
            "{exit}"
        );

        let thread = std::thread::spawn(|| {
            // SAFETY: the call takes no arguments.
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
        _ => skip("no pid namespace can be created (not root, or no unshare(1))"),
    }
}

#[cfg(target_os = "linux")]
#[test]
fn returns_the_status_after_own_leader_thread_exits() {
    if std::env::var_os("TEST_RUNNER").is_some() {
        return skip("under an emulator the leader thread cannot exit alone");
    }
    const TEST: &str = "returns_the_status_after_own_leader_thread_exits";
    if !support::has_own_process(TEST) {
        return;
    }
    if !linux::stat_shows_status() {
        return skip("Linux before 5.17 does not show the status in /proc");
    }
    // The forked child starts a second thread and ends its leader thread. All other threads of this
    // process are idle, so the child inherits no held lock.
    let child = linux::fork(|| {
        std::thread::spawn(|| {
            let me = std::process::id();
            support::until("the leader has exited", || linux::state_of(me) == Some('Z'));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let mut grandchild = Grandchild::spawn();
            let status = runtime.block_on(async {
                let mut process = exit_of(grandchild.id());
                support::still_pending(&mut process).await;
                grandchild.end(8);
                deadline(process).await.unwrap().status()
            });
            linux::exit_group(status.and_then(|status| status.code()).unwrap_or(99));
        });
        // SAFETY: the call takes an integer, and ends only the calling thread.
        unsafe { libc::syscall(libc::SYS_exit, 98) };
        97
    });
    let pid = child.id();
    // Reap the child: dropping `child` would kill it before its exit.
    let status = child.reap();
    assert_eq!(status, 8 << 8, "wait status of {pid}");
}
