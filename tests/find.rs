//! Promise: `find` returns each process that exists, and `None` only for a process that is gone.

mod support;

use support::{Child, until_pid_is_free};
use tokio_process_exit::ProcessExit;
#[cfg(any(target_os = "linux", windows))]
use tokio_process_exit::exit_of;

#[test]
fn find_returns_a_running_process() {
    let child = Child::spawn(0);
    let process = ProcessExit::find(child.id()).unwrap().unwrap();
    assert_eq!(process.pid(), Some(child.id()));
}

#[test]
fn find_returns_a_zombie_until_its_reap() {
    let child = Child::zombie(7);
    let pid = child.id();
    let mut process = ProcessExit::find(pid).unwrap().expect("not reaped");
    assert!(process.try_wait().unwrap().is_some());
    drop(process);
    drop(child);
    until_pid_is_free(pid);
    assert!(ProcessExit::find(pid).unwrap().is_none());
}

#[test]
fn find_returns_other_errors_than_not_found() {
    let error = ProcessExit::find(0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[cfg(any(target_os = "linux", windows))]
#[test]
fn find_of_an_identity_is_none_after_the_reap() {
    let child = Child::spawn(0);
    let pid = child.id();
    let identity = match exit_of(pid).identity() {
        Ok(identity) => identity,
        Err(error) => return support::skip(&error.to_string()),
    };
    let process = identity.find().unwrap().expect("the child is running");
    assert_eq!(process.pid(), Some(pid));
    drop(process);
    drop(child);
    until_pid_is_free(pid);
    assert!(identity.find().unwrap().is_none());
}
