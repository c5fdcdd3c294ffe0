//! Context switches and CPU time of programs that wait for a process for ten seconds, in which
//! nothing happens.
//!
//! Each program waits for itself, as in the experiment that led to this crate:
//! <https://gmpy.dev/blog/2026/event-driven-process-waiting>.

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_process_exit::exit_of;

use crate::python::Python;
use crate::run::{Plan, Role, self_command};
use crate::{chart, os};

const TIME: Duration = Duration::from_secs(10);

struct Program {
    name: String,
    /// The name in the picture.
    label: &'static str,
    /// Whether the program uses this crate.
    ours: bool,
    command: Command,
}

/// Runs all programs at the same time, and prints the resource usage of each whole program, as
/// `/usr/bin/time -v` does.
pub(crate) fn measure(plan: &Plan) -> bool {
    let mut programs = programs();
    let children: Vec<_> = programs
        .iter_mut()
        .map(|Program { command, .. }| command.stdin(Stdio::null()).spawn().expect("a program"))
        .collect();
    println!("\n### Ten seconds of waiting, the whole program\n");
    println!("| {:38} | voluntary context switches | CPU, ms |", "");
    println!("|{:-<40}|---------------------------:|--------:|", "");
    let mut passed = true;
    let mut bars = Vec::new();
    for (program, child) in programs.into_iter().zip(children) {
        let (status, usage) = os::reap_with_usage(child.id());
        let switches = usage.ru_nvcsw as f64;
        let milliseconds =
            |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
        let cpu = milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime);
        println!("| {:38} | {switches:26} | {cpu:7.1} |", program.name);
        passed &= status == 0;
        bars.push(chart::Bar {
            label: program.label,
            ours: program.ours,
            value: switches,
        });
    }
    let title = "Voluntary context switches in 10 s of waiting";
    let note = "One process is waited for; the whole program counts.";
    chart::bars(&plan.pictures().join("idle.svg"), title, note, &bars);
    passed
}

fn programs() -> Vec<Program> {
    let program = |name: &str, label, ours, command| Program {
        name: name.to_owned(),
        label,
        ours,
        command,
    };
    let mut programs = vec![
        program(
            "poll on a pidfd: the floor",
            "poll on a pidfd",
            false,
            self_command(Role::IdlePoll),
        ),
        program(
            "exit_of, current_thread",
            "exit_of",
            true,
            self_command(Role::IdleCurrentThread),
        ),
        program(
            "exit_of, multi_thread (2)",
            "exit_of, 2 workers",
            true,
            self_command(Role::IdleMultiThread),
        ),
        program(
            "kill(pid, 0) every 0.1 to 40 ms",
            "loop of kill(pid, 0)",
            false,
            self_command(Role::IdleLoop),
        ),
    ];
    if let Some(python) = Python::find() {
        programs.push(program(
            "psutil 7.2.2: Process.wait",
            "psutil",
            false,
            python.command("self_wait"),
        ));
        programs.push(program(
            &format!("{}: Popen.wait(timeout)", python.version()),
            "CPython Popen",
            false,
            python.command("popen"),
        ));
    }
    programs
}

pub(crate) fn poll() {
    let pidfd = os::pidfd_open(std::process::id());
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one `pollfd`, and the count is one.
    let ready = unsafe { libc::poll(&raw mut poll, 1, TIME.as_millis() as libc::c_int) };
    assert_eq!(ready, 0);
}

pub(crate) fn current_thread() {
    wait_for_self(&os::current_thread());
}

pub(crate) fn multi_thread() {
    wait_for_self(&os::multi_thread());
}

fn wait_for_self(runtime: &Runtime) {
    let process = exit_of(std::process::id());
    let result = runtime.block_on(async { tokio::time::timeout(TIME, process).await });
    assert!(result.is_err());
}

/// Waits for a child of this program.
pub(crate) fn tokio_child() {
    os::current_thread().block_on(async {
        let mut sleep = tokio::process::Command::new("sleep");
        let mut child = sleep.arg("11").spawn().expect("the child starts");
        assert!(tokio::time::timeout(TIME, child.wait()).await.is_err());
        child.start_kill().expect("the child is running");
    });
}

/// Blocks a thread of the runtime.
pub(crate) fn blocked_thread() {
    os::current_thread().block_on(async {
        let mut handle =
            waitpid_any::WaitHandle::open(std::process::id() as i32).expect("a handle");
        let wait = tokio::task::spawn_blocking(move || handle.wait());
        assert!(tokio::time::timeout(TIME, wait).await.is_err());
        // The runtime would wait for the thread.
        std::process::exit(0);
    });
}

pub(crate) fn kill_loop() {
    loop_of_kill(std::process::id(), TIME);
}

/// Checks whether the process exists, at intervals that double up to 40 ms, as CPython and older
/// versions of psutil do. Returns when the process does not exist, or after `time`.
pub(crate) fn loop_of_kill(pid: u32, time: Duration) {
    let start = Instant::now();
    let mut interval = Duration::from_micros(100);
    while start.elapsed() < time {
        // SAFETY: signal 0 is not delivered.
        if unsafe { libc::kill(pid as libc::pid_t, 0) } != 0 {
            return;
        }
        std::thread::sleep(interval);
        interval = (interval * 2).min(Duration::from_millis(40));
    }
}
