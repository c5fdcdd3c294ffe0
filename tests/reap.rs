//! Promise: `reap` collects the status of our own child once, and of no other process.

#![cfg(unix)]

mod support;

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;

use support::unix::{Forked, Grandchild, fork, is_zombie};
use support::{Child, deadline, many, still_pending, until};
use tokio_process_exit::{ProcessExit, exit_of};

/// Returns a child that has exited with `code`, and the wait for it. The test must reap the child.
fn zombie(code: i32) -> (u32, ProcessExit) {
    let child = fork(|| code);
    let process = exit_of(child.id());
    until("the child is a zombie", || is_zombie(child.id()));
    (forget(child), process)
}

fn forget(child: Forked) -> u32 {
    let pid = child.id();
    std::mem::forget(child);
    pid
}

/// Reaps a child that has exited, and checks that it is gone.
#[track_caller]
fn reap(process: &mut ProcessExit) -> tokio_process_exit::Exit {
    let exit = process.reap().unwrap().expect("the child has exited");
    assert_eq!(exit.pid(), process.pid());
    let error = ProcessExit::open(exit.pid().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    exit
}

#[test]
fn returns_the_status_and_frees_the_pid() {
    let (_, mut process) = zombie(7);
    let exit = reap(&mut process);
    assert_eq!(exit.status().unwrap().code(), Some(7));
    // The wait is resolved.
    assert_eq!(process.try_wait().unwrap(), Some(exit));
    assert_eq!(process.blocking_wait(None).unwrap(), Some(exit));
}

#[test]
fn returns_the_signal_of_a_killed_child() {
    let mut child = many(1).remove(0);
    let mut process = exit_of(child.id());
    assert_eq!(process.reap().unwrap(), None);
    child.kill();
    forget(child);
    let exit = reap(&mut process);
    assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
}

#[tokio::test]
async fn running_child_is_none_and_the_wait_goes_on() {
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    still_pending(&mut process).await;
    assert_eq!(process.reap().unwrap(), None);
    still_pending(&mut process).await;
    assert_eq!(child.reap().code(), Some(7));
    deadline(process).await.unwrap();
}

#[tokio::test]
async fn reaps_after_a_resolved_wait() {
    for code in [0, 7] {
        let (_, mut process) = zombie(code);
        deadline(&mut process).await.unwrap();
        let exit = reap(&mut process);
        assert_eq!(exit.status().unwrap().code(), Some(code));
        assert_eq!(process.await.unwrap(), exit);
    }
}

#[tokio::test]
async fn resolves_a_wait_until_the_reap() {
    let (_, process) = zombie(7);
    let mut process = process.until_reaped();
    still_pending(&mut process).await;
    let exit = reap(&mut process);
    assert_eq!(deadline(&mut process).await.unwrap(), exit);
    // A new wait keeps the status.
    let mut process = process.until_reaped();
    assert_eq!(deadline(&mut process).await.unwrap(), exit);
}

#[test]
fn a_second_reap_is_not_found() {
    let (pid, mut process) = zombie(7);
    reap(&mut process);
    let error = process.reap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let text = format!("process {pid} is not our child, or it has already been reaped");
    assert_eq!(error.to_string(), text);
}

#[test]
fn another_processes_child_is_not_found() {
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id());
    for _ in 0..2 {
        let error = process.reap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        grandchild.end(7);
        until("the grandchild is a zombie", || is_zombie(grandchild.id()));
    }
    grandchild.reap();
}

#[test]
fn a_child_that_its_owner_reaped_is_not_found() {
    let mut child = Child::zombie(7);
    let mut process = exit_of(child.id());
    assert_eq!(child.reap().code(), Some(7));
    let error = process.reap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn returns_the_error_of_opening() {
    let error = exit_of(0).reap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[cfg(target_os = "linux")]
#[test]
fn does_not_reap_the_next_owner_of_the_pid() {
    use support::linux;
    if !linux::is_root() {
        return support::skip("pids cannot be chosen (not root)");
    }
    let mut child = Child::zombie(0);
    let pid = child.id();
    let mut processes = [exit_of(pid), exit_of(pid)];
    // The second process is resolved.
    processes[1].blocking_wait(None).unwrap();
    child.reap();
    let Some(mut next) = linux::recycle(pid, || Child::zombie(7), Child::id) else {
        return support::skip("the pid was not recycled");
    };
    for process in &mut processes {
        let error = process.reap().unwrap_err();
        // If both processes started in the same clock tick, polling cannot distinguish them.
        let cannot_verify = support::poll_forced() && error.kind() == ErrorKind::Unsupported;
        assert!(
            cannot_verify || error.kind() == ErrorKind::NotFound,
            "{error}"
        );
    }
    assert_eq!(next.reap().code(), Some(7));
}

#[cfg(target_os = "linux")]
#[test]
fn subreaper_reaps_an_orphan() {
    use std::io::{Read, Write};

    use support::unix::{forever, pipe};

    const TEST: &str = "subreaper_reaps_an_orphan";
    // Run in a separate process, which becomes a subreaper.
    if !support::has_own_process(TEST) {
        return;
    }
    let (subreaper, unused) = (1, 0);
    // SAFETY: the call takes integers.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, subreaper, unused, unused) };
    if result != 0 {
        return support::skip("this process cannot become a subreaper (under an emulator)");
    }
    let (mut read, mut write) = pipe();
    let parent = fork(|| {
        let orphan = fork(|| forever());
        write.write_all(&forget(orphan).to_ne_bytes()).unwrap();
        0
    });
    let mut pid = [0; 4];
    read.read_exact(&mut pid).unwrap();
    let mut process = exit_of(u32::from_ne_bytes(pid));
    assert_eq!(parent.reap(), 0);
    // An error: the orphan has already been killed, because its parent has exited.
    let _ = process.signal(libc::SIGKILL);
    let mut reaped = None;
    until("the orphan is our child and has exited", || {
        reaped = process.reap().ok().flatten();
        reaped.is_some()
    });
    let status = reaped.and_then(|exit| exit.status()).unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    assert_eq!(process.blocking_wait(None).unwrap(), reaped);
}
