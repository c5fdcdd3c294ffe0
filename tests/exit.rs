//! Promise: it resolves when the process has exited, not before, whosever it is.

mod support;

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;

#[cfg(target_os = "linux")]
use support::linux;
#[cfg(unix)]
use support::unix::{self, Grandchild};
use support::{Child, at_most, deadline, still_pending};
use tokio_process_exit::{Mechanism, ProcessExit, exit_of};

#[tokio::test]
async fn resolves_for_a_child() {
    let mut child = Child::spawn(7);
    let mut exit = exit_of(child.id());
    still_pending(&mut exit).await;
    child.end();
    let exit = deadline(exit).await.unwrap();
    assert_eq!(exit.pid(), Some(child.id()));
    assert_eq!(exit.status().unwrap().code(), Some(7));
}

#[cfg(unix)]
#[tokio::test]
async fn resolves_for_a_process_that_is_not_our_child() {
    let mut grandchild = Grandchild::spawn();
    let mut exit = exit_of(grandchild.id());
    still_pending(&mut exit).await;
    grandchild.end(7);
    assert_eq!(deadline(exit).await.unwrap().pid(), Some(grandchild.id()));
}

#[tokio::test]
async fn resolves_for_a_process_that_nobody_has_reaped() {
    let child = Child::zombie(3);
    deadline(exit_of(child.id())).await.unwrap();
    #[cfg(unix)]
    deadline(exit_of(Grandchild::zombie(3).id())).await.unwrap();
}

#[tokio::test]
async fn resolves_for_a_process_that_was_reaped_before_the_first_poll() {
    let mut child = Child::spawn(5);
    let exit = exit_of(child.id());
    assert_eq!(child.reap().code(), Some(5));
    deadline(exit).await.unwrap();

    #[cfg(unix)]
    {
        let mut grandchild = Grandchild::spawn();
        let exit = exit_of(grandchild.id());
        grandchild.end(5);
        grandchild.reap();
        deadline(exit).await.unwrap();
    }
}

#[tokio::test]
async fn a_signal_sent_after_opening_is_not_missed() {
    for _ in 0..50 {
        let mut child = Child::spawn(0);
        let exit = ProcessExit::open(child.id()).unwrap();
        child.0.kill().unwrap();
        deadline(exit).await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn stopping_and_continuing_is_no_exit() {
    let mut child = Child::spawn(0);
    let mut exit = exit_of(child.id());
    for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGSTOP] {
        unix::kill(child.id(), signal);
        still_pending(&mut exit).await;
    }
    child.kill();
    deadline(exit).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_whose_leading_thread_has_exited_is_alive() {
    let (read, write) = linux::pipe();
    let fd = read.as_raw_fd();
    let process = linux::fork(|| linux::leader_exits(move || linux::read_byte(fd).into()));
    // Its state is that of the leader, though the process is alive.
    support::until("a dead leader", || {
        linux::state_of(process.id()) == Some('Z')
    });

    let mut exit = exit_of(process.id());
    still_pending(&mut exit).await;
    assert_eq!(exit.try_wait().unwrap(), None);

    std::io::Write::write_all(&mut &write, &[6]).unwrap();
    let exit = deadline(exit).await.unwrap();
    // Not the leader's own code.
    assert_eq!(exit.status().unwrap().code(), Some(6));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_exec_by_another_thread_is_no_exit() {
    let (read, write) = linux::pipe();
    let fd = read.as_raw_fd();
    let process = linux::fork(|| {
        linux::leader_exits(move || {
            linux::read_byte(fd);
            linux::exec_sh(c"kill -STOP $$; exit 8")
        })
    });
    let mut exit = exit_of(process.id());
    still_pending(&mut exit).await;
    std::io::Write::write_all(&mut &write, &[0]).unwrap();
    support::until("a stopped shell", || {
        linux::state_of(process.id()) == Some('T')
    });
    still_pending(&mut exit).await;
    linux::kill(process.id(), libc::SIGCONT);
    assert_eq!(
        deadline(exit).await.unwrap().status().unwrap().code(),
        Some(8)
    );
}

/// While a thread replaces the leading one, the process seems to have none for an instant.
#[cfg(target_os = "linux")]
#[test]
fn a_look_during_an_exec_by_another_thread_is_never_mistaken_for_an_exit() {
    for _ in 0..1000 {
        let process = linux::fork(|| linux::leader_exits(|| linux::exec_sh(c"exit 8")));
        let mut exit = exit_of(process.id());
        let seen = loop {
            if let Some(exit) = exit.try_wait().unwrap() {
                break exit;
            }
        };
        assert_eq!(seen.status().unwrap().code(), Some(8));
        assert_eq!(linux::state_of(process.id()), Some('Z'));
    }
}

#[tokio::test]
async fn waiting_for_oneself_ends_with_the_timeout() {
    still_pending(exit_of(std::process::id())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pid_1_and_kernel_threads_can_be_waited_for() {
    still_pending(exit_of(1)).await;
    match ProcessExit::open(2) {
        Ok(exit) => still_pending(exit).await,
        Err(_) => support::skip("no kernel threads in this pid namespace"),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_recycled_pid_is_never_mistaken_for_the_process() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let mut exit = exit_of(pid);
    still_pending(&mut exit).await;
    first.reap();

    let recycled = linux::recycle(pid, || Child::spawn(2), Child::id);
    let Some(mut second) = recycled else {
        return support::skip("pids cannot be chosen (not root)");
    };
    let exit = deadline(exit).await.unwrap();
    assert_eq!(exit.pid(), Some(pid));
    if linux::pidfd_tells_the_status() {
        assert_eq!(exit.status().unwrap().code(), Some(1));
    }
    // While the new process with the old number is a different one, and alive.
    let mut exit = exit_of(pid);
    still_pending(&mut exit).await;
    second.end();
    assert_eq!(
        deadline(exit).await.unwrap().status().unwrap().code(),
        Some(2)
    );
}

#[tokio::test]
async fn many_processes_resolve_each_with_its_own_exit() {
    use futures::stream::{FuturesUnordered, StreamExt};

    let mut children: Vec<Child> = (0..at_most(200)).map(|n| Child::spawn(n as u8)).collect();
    let mut exits: FuturesUnordered<ProcessExit> =
        children.iter().map(|child| exit_of(child.id())).collect();
    for child in children.iter_mut().rev() {
        child.end();
    }
    let mut seen = 0;
    while let Some(exit) = deadline(exits.next()).await {
        let exit = exit.unwrap();
        let n = children
            .iter()
            .position(|child| Some(child.id()) == exit.pid())
            .unwrap();
        assert_eq!(exit.status().unwrap().code(), Some(n as i32));
        seen += 1;
    }
    assert_eq!(seen, children.len());
}

#[tokio::test]
async fn two_waits_for_one_process_both_resolve() {
    let mut child = Child::spawn(4);
    let (one, two) = (exit_of(child.id()), exit_of(child.id()));
    child.end();
    let (one, two) = deadline(futures::future::join(one, two)).await;
    assert_eq!(one.unwrap(), two.unwrap());
}

#[test]
fn try_exit_tells_without_a_runtime() {
    let mut child = Child::spawn(9);
    let mut exit = exit_of(child.id());
    assert_eq!(exit.try_wait().unwrap(), None);
    child.end();
    let mut seen = None;
    support::until("an exit", || {
        seen = exit.try_wait().unwrap();
        seen.is_some()
    });
    assert_eq!(seen.unwrap().status().unwrap().code(), Some(9));
    // And stays as it was once the process is gone.
    child.reap();
    assert_eq!(exit.try_wait().unwrap(), seen);
}

#[test]
fn the_mechanism_is_the_systems_own() {
    let exit = exit_of(std::process::id());
    assert_eq!(exit.pid(), Some(std::process::id()));
    if support::poll_forced() && !cfg!(windows) {
        assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
        assert!(exit.fallback_reason().is_some());
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
    assert_eq!(exit.mechanism(), Some(mechanism));
    assert_eq!(
        exit.fallback_reason().is_some(),
        mechanism == Mechanism::Polling
    );
    #[cfg(target_os = "linux")]
    assert!(exit.as_pidfd().is_some());
    #[cfg(windows)]
    assert!(exit.as_handle().is_some());
}
