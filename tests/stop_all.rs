//! Promise: the example `stop_all` stops all, the obedient and the others.

#![cfg(target_os = "linux")]

mod support;

use std::process::Command;

use support::Child;

#[test]
fn the_obedient_terminate_and_the_others_are_killed() {
    let mut obedient = Child::spawn(0);
    let mut other = disobedient();

    let output = support::command(support::example("stop_all"))
        .args([obedient.id(), other.id()].map(|pid| pid.to_string()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = format!(
        "process {} exited with signal: 15 (SIGTERM)\n\
         process {} exited with signal: 9 (SIGKILL), as it did not obey\n",
        obedient.id(),
        other.id()
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines);
    obedient.reap();
    other.reap();
}

#[test]
fn whatever_cannot_be_stopped_makes_it_fail_and_keeps_it_from_nothing() {
    let mut obedient = Child::spawn(0);
    let output = support::command(support::example("stop_all"))
        .args(["2147483647", "abc", &obedient.id().to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaints.contains("no process with pid 2147483647"),
        "{complaints}"
    );
    assert!(complaints.contains("abc: "), "{complaints}");
    let line = format!(
        "process {} exited with signal: 15 (SIGTERM)\n",
        obedient.id()
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    obedient.reap();
}

#[test]
fn it_kills_although_nobody_reads_what_it_says() {
    let (mut obedient, mut other) = (Child::spawn(0), disobedient());
    let (read, write) = support::unix::pipe();
    drop(read);
    let status = support::command(support::example("stop_all"))
        .args([obedient.id(), other.id()].map(|pid| pid.to_string()))
        .stdout(write)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    obedient.until_exited();
    obedient.reap();
    other.until_exited();
    other.reap();
}

/// One that has set its trap.
fn disobedient() -> Child {
    let script = "trap '' TERM; echo ready; read line";
    let mut command = Command::new("sh");
    let command = command
        .args(["-c", script])
        .stdout(std::process::Stdio::piped());
    let mut child = Child::spawn_command(command);
    let mut line = String::new();
    let stdout = child.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    child
}
