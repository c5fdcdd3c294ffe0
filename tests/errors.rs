//! Promise: for an invalid pid, every function returns an error that names the pid.

mod support;

use std::io::{Error, ErrorKind};

use futures::future::FusedFuture;
use support::{Child, deadline};
use tokio_process_exit::{ExitSet, ProcessError, ProcessExit, exit_of};

/// Returns the pid that the inner error names.
fn pid_of(error: &Error) -> Option<u32> {
    let inner = error.get_ref()?.downcast_ref::<ProcessError>()?;
    assert_eq!(inner.to_string(), error.to_string());
    Some(inner.pid())
}

/// Returns the error of opening `pid`.
///
/// Asserts that `try_wait` and awaiting return the same error.
async fn error_of(pid: u32) -> Error {
    let opened = ProcessExit::open(pid).unwrap_err();
    let mut process = exit_of(pid);
    assert_eq!(process.mechanism(), None);
    assert_eq!(process.pid(), (pid != 0).then_some(pid));
    let tried = process.try_wait().unwrap_err();
    assert!(!FusedFuture::is_terminated(&process));
    for _ in 0..2 {
        let awaited = deadline(&mut process).await.unwrap_err();
        for error in [&tried, &awaited] {
            assert_eq!(
                (error.kind(), error.to_string()),
                (opened.kind(), opened.to_string())
            );
            assert_eq!(pid_of(error), (pid != 0).then_some(pid));
        }
        assert!(FusedFuture::is_terminated(&process));
    }
    opened
}

#[tokio::test]
async fn pid_0_is_invalid() {
    let error = error_of(0).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("pid 0 "), "{error}");
}

#[tokio::test]
async fn pid_out_of_range_is_invalid() {
    for pid in [i32::MAX as u32 + 1, u32::MAX] {
        let error = error_of(pid).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&pid.to_string()), "{error}");
    }
}

#[tokio::test]
async fn unused_pid_is_not_found() {
    let mut child = Child::spawn(0);
    let gone = child.id();
    child.reap();
    // On Windows a process can be opened until its last handle is closed.
    drop(child);
    support::until_pid_is_free(gone);
    for pid in [gone, i32::MAX as u32] {
        let error = error_of(pid).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("no process with pid {pid}"));
    }
}

#[tokio::test]
async fn errors_of_a_set_have_the_pid() {
    let mut set = ExitSet::new();
    let error = set.insert(i32::MAX as u32).unwrap_err();
    assert_eq!(pid_of(&error), Some(i32::MAX as u32));
    set.insert_exit(exit_of(u32::MAX));
    let error = deadline(set.next_exit()).await.unwrap().unwrap_err();
    assert_eq!(pid_of(&error), Some(u32::MAX));
    set.insert_exit(exit_of(0));
    let error = deadline(set.next_exit()).await.unwrap().unwrap_err();
    assert_eq!(pid_of(&error), None);
}

#[cfg(unix)]
#[tokio::test]
async fn errors_of_signals_have_the_pid() {
    let child = Child::zombie(0);
    let process = exit_of(child.id());
    assert_eq!(pid_of(&process.signal(0).unwrap_err()), Some(child.id()));
    let mut set = ExitSet::new();
    // The process is not in the set.
    let error = set.signal(child.id(), 0).unwrap_err();
    assert_eq!(pid_of(&error), Some(child.id()));
    set.insert(child.id()).unwrap();
    let error = set.signal(child.id(), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(pid_of(&error), Some(child.id()));
}

#[cfg(unix)]
#[test]
fn errors_of_reaping_have_the_pid() {
    let child = support::unix::Grandchild::spawn();
    let error = exit_of(child.id()).reap().unwrap_err();
    assert_eq!(pid_of(&error), Some(child.id()));
}

#[cfg(any(target_os = "linux", windows))]
#[tokio::test]
async fn thread_id_is_invalid_and_error_names_the_process() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        send.send(support::thread_id()).unwrap();
        let _ = stopped.recv();
    });
    let tid = receive.recv().unwrap();
    let error = error_of(tid).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let pid = std::process::id();
    assert!(
        error
            .to_string()
            .contains(&format!("{tid} is a thread of process {pid}")),
        "{error}"
    );
    drop(stop);
    thread.join().unwrap();
    // The kernel releases the thread id shortly after the join.
    support::until(
        "the thread id is released",
        || matches!(ProcessExit::open(tid), Err(error) if error.kind() == ErrorKind::NotFound),
    );
}

/// `pidfd_open` fails with EINVAL or ENOENT for a thread, and briefly for a process being reaped.
#[cfg(unix)]
#[tokio::test]
async fn process_being_reaped_is_opened_or_not_found() {
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
