//! Tests that the example `stop_all` terminates processes, and kills processes that ignore SIGTERM.

#![cfg(target_os = "linux")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStdout, Command, Output, Stdio};

use support::Child;
use support::linux::{self, Unthreaded};

/// Returns what `stop_all`, which is not the parent, prints for this status.
fn status_if_shown(status: &str) -> &str {
    if !linux::stat_shows_status() {
        return "unknown status";
    }
    status
}

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
        "process {} exited with {}\nprocess {} exited with {}, as it was still running after 3s\n",
        terminated.id(),
        status_if_shown("signal: 15 (SIGTERM)"),
        killed.id(),
        status_if_shown("signal: 9 (SIGKILL)"),
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines);
    terminated.reap();
    killed.reap();
}

#[test]
fn stops_the_other_processes_after_an_error() {
    let mut child = Child::spawn(0);
    let output = run(&["2147483647", &child.id().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("no process with pid 2147483647"),
        "{stderr}"
    );
    let status = status_if_shown("signal: 15 (SIGTERM)");
    let line = format!("process {} exited with {status}\n", child.id());
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    child.reap();
}

#[test]
fn ignores_white_space_around_a_pid() {
    let mut child = Child::spawn(0);
    let output = run(&[&format!(" {}\r\n", child.id())]);
    assert!(output.status.success(), "{output:?}");
    child.reap();
}

#[test]
fn refuses_invalid_arguments() {
    let mut child = Child::spawn(0);
    let pid = child.id().to_string();
    for (arguments, expected) in [
        ([&*pid, "abc"], "abc"),
        ([&pid, "-1"], "-1"),
        ([&pid, ""], "PID"),
        ([&pid, "-t5x"], "0 or more"),
        ([&pid, "-t-1"], "0 or more"),
        ([&pid, "--grace=1e300"], "too long"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(expected), "no {expected:?} in {stderr}");
    }
    // No process was stopped.
    assert!(child.reap().success());
}

#[test]
fn stops_a_whole_group() {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sh");
    let script = "trap '' TERM; sleep 3600 & (echo ready; while :; do sleep 0.01; done)";
    command.args(["-c", script]).process_group(0);
    let mut shell = Child::spawn_command(command.stdout(Stdio::piped()));
    shell
        .0
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0])
        .unwrap();
    let pgid = shell.id().to_string();
    let output = run(&["-t", "0.1", "-g", &pgid]);
    assert!(output.status.success(), "{output:?}");
    let lines = format!("process group {pgid} is gone\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines);
    shell.0.wait().unwrap();
    support::until("the zombies are reaped", || {
        let opened = tokio_process_exit::GroupExit::open(shell.id());
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    });
    let output = run(&["-g", &pgid]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains(&format!("process group {pgid}")),
        "{stderr}"
    );
}

#[test]
fn help_explains_every_option() {
    let output = run(&["--help"]);
    assert!(output.status.success(), "{output:?}");
    let help = String::from_utf8_lossy(&output.stdout);
    for word in [
        "Usage: stop_all [OPTIONS] [PID]...",
        "-t, --grace <DURATION>",
        "-g, --group <PGID>",
        "-c, --cgroup <CGROUP>",
        "[default: 3s]",
        "Exit codes:",
        "Examples:",
    ] {
        assert!(help.contains(word), "no {word:?} in {help}");
    }
}

#[test]
fn grace_option_sets_the_time_until_the_kill() {
    let mut killed = spawn_ignoring_sigterm();
    let output = run(&["-t", "0.005m", &killed.id().to_string()]);
    assert!(output.status.success(), "{output:?}");
    let line = format!(
        "process {} exited with {}, as it was still running after 300ms\n",
        killed.id(),
        status_if_shown("signal: 9 (SIGKILL)")
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    killed.reap();
}

#[test]
fn stopped_process_can_clean_up() {
    let (mut child, mut stdout) = spawn_cleaning_up(Command::new("sh"));
    support::unix::kill(child.id(), libc::SIGSTOP);
    support::until("the child is stopped", || {
        linux::state_of(child.id()) == Some('T')
    });
    // Even a slow machine cleans up within this time.
    let output = run(&["--grace", "20s", &child.id().to_string()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(child.reap().code(), Some(0));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "cleaned up\n");
}

#[test]
fn errors_of_a_wait_do_not_shorten_the_grace() {
    let Some(user) = Unthreaded::new() else {
        return;
    };
    if !linux::seccomp_filters() {
        return support::skip("seccomp filters are not supported");
    }
    // Without pidfds and threads, the waiting task queries the process.
    let (mut child, mut stdout) = spawn_cleaning_up(user.user(Command::new("sh")));
    let mut command = user.command("stop_all");
    command.args(["--grace=20", &child.id().to_string()]);
    command.env("RUST_BACKTRACE", "0");
    let output = || {
        // Only processes that this thread starts inherit the filter.
        linux::deny(libc::SYS_pidfd_open, libc::EPERM);
        command.output().unwrap()
    };
    let output = std::thread::scope(|scope| scope.spawn(output).join().unwrap());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*stderr),
        (Some(0), ""),
        "{output:?}"
    );
    assert_eq!(child.reap().code(), Some(0), "{output:?}");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "cleaned up\n");
}

#[test]
fn too_few_descriptors_are_one_clear_line() {
    if support::runnable(support::example("stop_all")).len() > 1 {
        return support::skip("an emulator needs descriptors of its own");
    }
    for descriptors in 4..7 {
        let mut child = Child::spawn(0);
        let mut command = support::command(support::example("stop_all"));
        command.arg(child.id().to_string());
        let limit = rlimit::Resource::NOFILE;
        linux::limit(&mut command, limit, descriptors, descriptors);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let line = "stop_all: cannot start the tokio runtime: Too many open files (os error 24)\n";
        assert_eq!(String::from_utf8_lossy(&output.stderr), line);
        assert!(child.reap().success());
    }
}

#[test]
fn raises_the_soft_limit_of_descriptors() {
    let mut child = spawn_ignoring_sigterm();
    let mut command = support::command(support::example("stop_all"));
    command.args(["-t1000", "2147483647", &child.id().to_string()]);
    linux::limit(&mut command, rlimit::Resource::NOFILE, 64, 512);
    let mut stop_all = Child::spawn_command(command.stderr(Stdio::piped()));
    let mut stderr = BufReader::new(stop_all.0.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", stop_all.id())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["512", "512"], "{line:?}");
    child.kill();
    assert!(stop_all.0.wait().unwrap().code() == Some(1));
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

/// Runs `stop_all` until it exits.
fn run(arguments: &[&str]) -> Output {
    let mut command = support::command(support::example("stop_all"));
    command.args(arguments).output().unwrap()
}

/// Spawns a child that ignores SIGTERM.
fn spawn_ignoring_sigterm() -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' TERM; echo ready; read line"]);
    spawn_ready(command).0
}

/// Spawns a child that needs a second to clean up after SIGTERM, and then exits with code 0.
fn spawn_cleaning_up(mut shell: Command) -> (Child, BufReader<ChildStdout>) {
    let script = "trap 'sleep 1; echo cleaned up; exit 0' TERM; echo ready; \
                  while :; do sleep 0.1; done";
    shell.args(["-c", script]);
    spawn_ready(shell)
}

/// Spawns a child, and waits for the line "ready": until then, SIGTERM would kill the child.
fn spawn_ready(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = Child::spawn_command(command.stdout(Stdio::piped()));
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    (child, stdout)
}
