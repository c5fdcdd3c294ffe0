//! Tests that the example `stop_all` terminates processes, and kills processes that ignore SIGTERM.

#![cfg(target_os = "linux")]

mod support;

use std::process::Command;

use support::Child;

#[test]
fn kills_processes_that_ignore_sigterm() {
    let mut terminated = Child::spawn(0);
    let mut killed = spawn_ignoring_sigterm();

    let output = support::command(support::example("stop_all"))
        .args([terminated.id(), killed.id()].map(|pid| pid.to_string()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = format!(
        "process {} exited with signal: 15 (SIGTERM)\n\
         process {} exited with signal: 9 (SIGKILL), as it was still running after 3s\n",
        terminated.id(),
        killed.id()
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines);
    terminated.reap();
    killed.reap();
}

#[test]
fn stops_the_other_processes_after_an_error() {
    let mut child = Child::spawn(0);
    let output = support::command(support::example("stop_all"))
        .args(["2147483647", "abc", &child.id().to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("no process with pid 2147483647"),
        "{stderr}"
    );
    assert!(stderr.contains("abc is not a process id: "), "{stderr}");
    let line = format!("process {} exited with signal: 15 (SIGTERM)\n", child.id());
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    child.reap();
}

#[test]
fn kills_processes_after_stdout_is_closed() {
    let (mut terminated, mut killed) = (Child::spawn(0), spawn_ignoring_sigterm());
    let (read, write) = support::unix::pipe();
    drop(read);
    let status = support::command(support::example("stop_all"))
        .args([terminated.id(), killed.id()].map(|pid| pid.to_string()))
        .stdout(write)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    terminated.until_exited();
    terminated.reap();
    killed.until_exited();
    killed.reap();
}

/// Spawns a child that ignores SIGTERM.
fn spawn_ignoring_sigterm() -> Child {
    let script = "trap '' TERM; echo ready; read line";
    let mut command = Command::new("sh");
    let command = command
        .args(["-c", script])
        .stdout(std::process::Stdio::piped());
    let mut child = Child::spawn_command(command);
    // Wait for the line "ready": until then, SIGTERM would kill the child.
    let mut line = String::new();
    let stdout = child.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    child
}
