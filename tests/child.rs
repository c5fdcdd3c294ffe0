//! Promise: a wait made from a `Child` is for this child, never for another process with its pid.

mod support;

#[cfg(any(unix, feature = "process"))]
use std::io::ErrorKind;

use support::{Child, deadline};
use tokio_process_exit::ProcessExit;

#[tokio::test]
async fn resolves_without_reaping_the_child() {
    let mut child = Child::spawn(7);
    let process = ProcessExit::from(&child.0);
    assert_eq!(process.pid(), Some(child.id()));
    child.end();
    assert_eq!(deadline(process).await.unwrap().pid(), Some(child.id()));
    assert_eq!(child.reap().code(), Some(7));
}

#[cfg(unix)]
#[tokio::test]
async fn reaped_child_is_not_found() {
    let mut child = Child::spawn(7);
    child.end();
    child.0.wait().unwrap();
    let error = deadline(ProcessExit::from(&child.0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("waited for"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn reaped_child_is_not_found_after_pid_reuse() {
    use std::io::{BufRead, BufReader};

    let mut child = Child::spawn(7);
    child.end();
    child.0.wait().unwrap();
    let pid = child.0.id();
    // If pids can be chosen, give the pid to a grandchild.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9; do
            echo {} >/proc/sys/kernel/ns_last_pid || break
            sleep 60 & [ $! = {pid} ] && break
            kill $!
        done 2>/dev/null; echo $!; read line; kill $!",
        pid - 1
    );
    let mut parent =
        Child::spawn_command(support::shell(&script).stdout(std::process::Stdio::piped()));
    let mut line = String::new();
    let stdout = parent.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    if line.trim() == pid.to_string() {
        let error = deadline(ProcessExit::from(&child.0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    } else {
        support::skip("the pid was not recycled");
    }
    parent.end();
}

#[cfg(feature = "process")]
#[tokio::test]
async fn resolves_without_reaping_a_child_of_tokio() {
    let mut child = tokio::process::Command::from(support::shell("exit 7"))
        .spawn()
        .unwrap();
    let pid = child.id().unwrap();
    let process = ProcessExit::from(&child);
    assert_eq!(deadline(process).await.unwrap().pid(), Some(pid));
    assert_eq!(deadline(child.wait()).await.unwrap().code(), Some(7));
    let error = deadline(ProcessExit::from(&child)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
