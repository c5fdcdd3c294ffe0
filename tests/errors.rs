//! Promise: bad input gets a clear error that names it, at once and every time.

mod support;

use std::io::{Error, ErrorKind};

use futures::future::FusedFuture;
use support::{Child, deadline};
use tokio_process_exit::{ProcessExit, exit_of};

/// The error, which must be the same however it is asked for.
async fn error_of(pid: u32) -> Error {
    let now = ProcessExit::open(pid).unwrap_err();
    let mut exit = exit_of(pid);
    assert_eq!(exit.mechanism(), None);
    assert_eq!(exit.pid(), (pid != 0).then_some(pid));
    let tried = exit.try_wait().unwrap_err();
    assert!(!exit.is_terminated());
    for _ in 0..2 {
        let awaited = deadline(&mut exit).await.unwrap_err();
        for error in [&tried, &awaited] {
            assert_eq!(
                (error.kind(), error.to_string()),
                (now.kind(), now.to_string())
            );
        }
        assert!(exit.is_terminated());
    }
    now
}

#[tokio::test]
async fn pid_0_is_invalid() {
    let error = error_of(0).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("pid 0 "), "{error}");
}

#[tokio::test]
async fn a_number_beyond_any_pid_is_invalid() {
    for pid in [i32::MAX as u32 + 1, u32::MAX] {
        let error = error_of(pid).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&pid.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_pid_that_names_no_process_is_not_found() {
    let mut child = Child::spawn(0);
    let gone = child.id();
    child.reap();
    // On Windows a process is there for as long as anybody has a handle of it.
    drop(child);
    support::until_forgotten(gone);
    for pid in [gone, i32::MAX as u32] {
        let error = error_of(pid).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("no process with pid {pid}"));
    }
}

#[cfg(any(target_os = "linux", windows))]
#[tokio::test]
async fn a_thread_is_invalid_and_the_message_names_its_process() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        send.send(support::thread_id()).unwrap();
        let _ = stopped.recv();
    });
    let tid = receive.recv().unwrap();
    let error = error_of(tid).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let process = std::process::id();
    assert!(
        error
            .to_string()
            .contains(&format!("{tid} is a thread of process {process}")),
        "{error}"
    );
    drop(stop);
    thread.join().unwrap();
    // The kernel forgets it soon after the join.
    support::until(
        "no thread",
        || matches!(ProcessExit::open(tid), Err(error) if error.kind() == ErrorKind::NotFound),
    );
}

/// The kernel answers EINVAL or ENOENT for a thread, and in passing for a process being reaped.
#[cfg(unix)]
#[tokio::test]
async fn a_process_being_reaped_is_opened_or_not_found() {
    for _ in 0..300 {
        let mut child = Child::spawn(0);
        let pid = child.id();
        std::thread::scope(|scope| {
            scope.spawn(move || child.reap());
            loop {
                match ProcessExit::open(pid) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
}
