//! Promise: the example `stop_all` stops all, the obedient and the others.

#![cfg(target_os = "linux")]

mod support;

use std::process::Command;

use support::Child;

#[test]
fn the_obedient_terminate_and_the_others_are_killed() {
    let mut obedient = Child::spawn(0);
    let script = "trap '' TERM; echo ready; read line";
    let mut command = Command::new("sh");
    let mut other = Child::spawn_command(
        command
            .args(["-c", script])
            .stdout(std::process::Stdio::piped()),
    );
    // Once it says so, its trap is set.
    let mut line = String::new();
    let stdout = other.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();

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
