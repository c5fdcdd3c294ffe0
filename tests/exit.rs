//! Promise: a `ProcessExit` resolves once its process has exited and not before, whether or not the
//! process is our child.

mod support;

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;

#[cfg(target_os = "linux")]
use support::linux;
#[cfg(unix)]
use support::unix::{self, Grandchild};
use support::{Child, at_most, deadline, expired, poll_once, runtimes, still_pending};
use tokio_process_exit::{Mechanism, ProcessExit, exit_of};

#[tokio::test]
async fn resolves_for_a_child() {
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    still_pending(&mut process).await;
    child.end();
    let exit = deadline(process).await.unwrap();
    assert_eq!(exit.pid(), Some(child.id()));
    assert_eq!(exit.status().unwrap().code(), Some(7));
}

#[cfg(unix)]
#[tokio::test]
async fn resolves_for_a_process_that_is_not_our_child() {
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id());
    still_pending(&mut process).await;
    grandchild.end(7);
    assert_eq!(
        deadline(process).await.unwrap().pid(),
        Some(grandchild.id())
    );
}

#[tokio::test]
async fn resolves_for_a_zombie() {
    let child = Child::zombie(3);
    deadline(exit_of(child.id())).await.unwrap();
    #[cfg(unix)]
    deadline(exit_of(Grandchild::zombie(3).id())).await.unwrap();
}

#[tokio::test]
async fn resolves_for_a_process_reaped_before_first_poll() {
    let mut child = Child::spawn(5);
    let process = exit_of(child.id());
    assert_eq!(child.reap().code(), Some(5));
    deadline(process).await.unwrap();

    #[cfg(unix)]
    {
        let mut grandchild = Grandchild::spawn();
        let process = exit_of(grandchild.id());
        grandchild.end(5);
        grandchild.reap();
        deadline(process).await.unwrap();
    }
}

/// Regression test: <https://github.com/giampaolo/psutil/issues/198>
#[test]
fn first_poll_returns_an_exit_of_the_past() {
    const ROUNDS: usize = 200;
    let child = Child::zombie(7);
    let pid = child.id();
    async fn resolved(pid: u32) -> (usize, usize) {
        let (mut polls, mut timeouts) = (0, 0);
        for _ in 0..ROUNDS {
            let exit = poll_once(exit_of(pid));
            polls += usize::from(exit.is_some_and(|exit| exit.is_ok()));
            timeouts += usize::from(expired(exit_of(pid)).await.is_ok());
        }
        (polls, timeouts)
    }
    for runtime in runtimes() {
        assert_eq!(runtime.block_on(resolved(pid)), (ROUNDS, ROUNDS));
        let task = runtime.spawn(resolved(pid));
        assert_eq!(runtime.block_on(task).unwrap(), (ROUNDS, ROUNDS));
    }
}

#[cfg(unix)]
#[test]
fn first_poll_returns_a_reap_of_the_past() {
    let mut grandchild = Grandchild::spawn();
    let mut processes: Vec<ProcessExit> = (0..at_most(200))
        .map(|_| exit_of(grandchild.id()).until_reaped())
        .collect();
    grandchild.end(7);
    grandchild.reap();
    for runtime in runtimes() {
        let _runtime = runtime.enter();
        for process in processes.split_off(processes.len() / 2) {
            assert!(poll_once(process).is_some());
        }
    }
}

#[tokio::test]
async fn resolved_first_polls_use_the_coop_budget() {
    let child = Child::zombie(0);
    let other = tokio::spawn(async {
        let mut turns = 0;
        loop {
            tokio::task::yield_now().await;
            turns += 1;
            if turns == 10 {
                break;
            }
        }
    });
    // tokio lets a task make 128 operations before other tasks run.
    for _ in 0..128 * 12 {
        exit_of(child.id()).await.unwrap();
    }
    assert!(other.is_finished());
}

#[tokio::test]
async fn detects_a_kill_right_after_open() {
    for _ in 0..50 {
        let mut child = Child::spawn(0);
        let process = ProcessExit::open(child.id()).unwrap();
        child.0.kill().unwrap();
        deadline(process).await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn does_not_resolve_on_stop_or_continue() {
    let mut child = Child::spawn(0);
    let mut process = exit_of(child.id());
    for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGSTOP] {
        unix::kill(child.id(), signal);
        still_pending(&mut process).await;
    }
    child.kill();
    deadline(process).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn does_not_resolve_when_the_leader_thread_exits() {
    let (read, write) = linux::pipe();
    let fd = read.as_raw_fd();
    let child = linux::fork(|| linux::leader_exits(move || linux::read_byte(fd).into()));
    // /proc shows the state of the leader, although another thread is still running.
    support::until("the leader has exited", || {
        linux::state_of(child.id()) == Some('Z')
    });

    let mut process = exit_of(child.id());
    still_pending(&mut process).await;
    assert_eq!(process.try_wait().unwrap(), None);

    std::io::Write::write_all(&mut &write, &[6]).unwrap();
    let exit = deadline(process).await.unwrap();
    // The status is the code of the last thread, not the code of the leader.
    linux::assert_code_of_threads(exit, 6);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn does_not_resolve_on_exec_by_another_thread() {
    let (read, write) = linux::pipe();
    let fd = read.as_raw_fd();
    let child = linux::fork(|| {
        linux::leader_exits(move || {
            linux::read_byte(fd);
            linux::exec_sh(c"kill -STOP $$; exit 8")
        })
    });
    let mut process = exit_of(child.id());
    still_pending(&mut process).await;
    std::io::Write::write_all(&mut &write, &[0]).unwrap();
    support::until("the shell is stopped", || {
        linux::state_of(child.id()) == Some('T')
    });
    still_pending(&mut process).await;
    linux::kill(child.id(), libc::SIGCONT);
    linux::assert_code_of_threads(deadline(process).await.unwrap(), 8);
}

/// During `execve` the calling thread replaces the leader, so briefly the process has no leader.
#[cfg(target_os = "linux")]
#[test]
fn try_wait_during_exec_reports_no_false_exit() {
    for _ in 0..1000 {
        let child = linux::fork(|| linux::leader_exits(|| linux::exec_sh(c"exit 8")));
        let mut process = exit_of(child.id());
        let exit = loop {
            if let Some(exit) = process.try_wait().unwrap() {
                break exit;
            }
        };
        match exit.status() {
            None => assert!(!linux::waitid_shows_status()),
            status => assert_eq!(status.unwrap().code(), Some(8)),
        }
        assert_eq!(linux::state_of(child.id()), Some('Z'));
    }
}

#[tokio::test]
async fn wait_for_our_own_process_stays_pending() {
    still_pending(exit_of(std::process::id())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn waits_for_pid_1_and_kernel_threads() {
    still_pending(exit_of(1)).await;
    match ProcessExit::open(2) {
        Ok(process) => still_pending(process).await,
        Err(_) => support::skip("this pid namespace has no kernel threads"),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn resolves_although_the_pid_was_recycled() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let mut process = exit_of(pid);
    still_pending(&mut process).await;
    first.reap();

    let recycled = linux::recycle(pid, || Child::spawn(2), Child::id);
    let Some(mut second) = recycled else {
        return support::skip("the pid cannot be chosen (not root, or another process has it)");
    };
    let exit = deadline(process).await.unwrap();
    assert_eq!(exit.pid(), Some(pid));
    if linux::pidfd_reports_status() {
        assert_eq!(exit.status().unwrap().code(), Some(1));
    }
    // The second process has the same pid and is still running.
    let mut process = exit_of(pid);
    still_pending(&mut process).await;
    second.end();
    assert_eq!(
        deadline(process).await.unwrap().status().unwrap().code(),
        Some(2)
    );
}

#[tokio::test]
async fn many_processes_resolve_with_their_own_status() {
    use futures::stream::{FuturesUnordered, StreamExt};

    let mut children: Vec<Child> = (0..at_most(200)).map(|n| Child::spawn(n as u8)).collect();
    let mut processes: FuturesUnordered<ProcessExit> =
        children.iter().map(|child| exit_of(child.id())).collect();
    for child in children.iter_mut().rev() {
        child.end();
    }
    let mut resolved = 0;
    while let Some(exit) = deadline(processes.next()).await {
        let exit = exit.unwrap();
        let n = children
            .iter()
            .position(|child| Some(child.id()) == exit.pid())
            .unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(n as i32));
        resolved += 1;
    }
    assert_eq!(resolved, children.len());
}

#[tokio::test]
async fn two_waits_for_the_same_process_both_resolve() {
    let mut child = Child::spawn(4);
    let (first, second) = (exit_of(child.id()), exit_of(child.id()));
    child.end();
    let (first, second) = deadline(futures::future::join(first, second)).await;
    assert_eq!(first.unwrap(), second.unwrap());
}

#[test]
fn try_wait_works_without_a_runtime() {
    let mut child = Child::spawn(9);
    let mut process = exit_of(child.id());
    assert_eq!(process.try_wait().unwrap(), None);
    child.end();
    let mut exit = None;
    support::until("`try_wait` returns an exit", || {
        exit = process.try_wait().unwrap();
        exit.is_some()
    });
    assert_eq!(exit.unwrap().status().unwrap().code(), Some(9));
    // `try_wait` returns the same exit after the process is reaped.
    child.reap();
    assert_eq!(process.try_wait().unwrap(), exit);
}

#[test]
fn uses_the_native_mechanism_of_the_platform() {
    let process = exit_of(std::process::id());
    assert_eq!(process.pid(), Some(std::process::id()));
    if support::poll_forced() && !cfg!(windows) {
        assert_eq!(process.mechanism(), Some(Mechanism::Polling));
        assert!(process.fallback_reason().is_some());
        return support::skip("polling is forced");
    }
    let mechanism = if cfg!(target_os = "linux") {
        Mechanism::PidFd
    } else if cfg!(windows) {
        Mechanism::WaitHandle
    } else if cfg!(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    )) {
        Mechanism::Kqueue
    } else {
        Mechanism::Polling
    };
    assert_eq!(process.mechanism(), Some(mechanism));
    assert_eq!(
        process.fallback_reason().is_some(),
        mechanism == Mechanism::Polling
    );
    #[cfg(target_os = "linux")]
    assert!(process.as_pidfd().is_some());
    #[cfg(windows)]
    assert!(process.as_handle().is_some());
}
