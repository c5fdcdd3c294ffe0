//! Context switches and CPU time of programs that wait for a process for some seconds, in which
//! nothing happens.
//!
//! Most programs wait for themselves, as in the experiment that led to this crate:
//! <https://gmpy.dev/blog/2026/event-driven-process-waiting>.

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_process_exit::exit_of;

use crate::python::Python;
use crate::report::{Table, whole};
use crate::run::{Plan, Role, self_command};
use crate::{chart, os};

/// The resource usage of a program.
pub(crate) struct Usage {
    name: String,
    /// The name in the picture.
    pub(crate) label: &'static str,
    /// Voluntary context switches.
    pub(crate) switches: f64,
    /// CPU time in milliseconds.
    cpu: f64,
    passed: bool,
}

/// The name, the name in the picture, and the wait of a program in Rust.
type Program = (&'static str, &'static str, fn(Duration));

const PROGRAMS: [Program; 7] = [
    ("poll on a pidfd: the floor", "poll on a pidfd", poll),
    ("exit_of, current_thread", "exit_of", |time| {
        wait_for_self(&os::current_thread(), time);
    }),
    ("exit_of, multi_thread (2)", "exit_of, 2 workers", |time| {
        wait_for_self(&os::multi_thread(), time);
    }),
    ("blocking_wait, no runtime", "blocking_wait", |time| {
        let mut process = exit_of(std::process::id());
        let exit = process.blocking_wait(Some(time)).expect("no error");
        assert!(exit.is_none());
    }),
    (
        "tokio::process: Child::wait",
        "tokio Child::wait",
        tokio_child,
    ),
    ("waitpid-any on spawn_blocking", "waitpid-any", on_thread),
    (
        "kill(pid, 0) every 0.1 to 40 ms",
        "loop of kill(pid, 0)",
        |time| {
            let start = Instant::now();
            kill_loop(std::process::id(), || start.elapsed() >= time);
        },
    ),
];

pub(crate) fn measure(plan: &Plan) -> bool {
    let time = plan.idle_time();
    let usages = usages(time);
    let seconds = time.as_secs();
    println!("\n### {seconds} seconds of waiting, the whole program\n");
    let mut table = Table::new(["", "voluntary context switches", "CPU, ms"]);
    for usage in &usages {
        let cpu = format!("{:.1}", usage.cpu);
        table.row([usage.name.clone(), whole(usage.switches), cpu]);
    }
    table.print();
    let bars = usages.iter().map(|usage| chart::Bar {
        label: usage.label,
        ours: usage.label.starts_with("exit_of") || usage.label == "blocking_wait",
        value: usage.switches,
    });
    let title = format!("Voluntary context switches in {seconds} s of waiting");
    let note = "One process is waited for; the whole program counts.";
    let file = plan.pictures().join("idle.svg");
    chart::bars(&file, &title, note, &bars.collect::<Vec<_>>());
    usages.iter().all(|usage| usage.passed)
}

/// Runs all programs at the same time, and returns the resource usage of each whole program, as
/// `/usr/bin/time -v` does.
pub(crate) fn usages(time: Duration) -> Vec<Usage> {
    let seconds = time.as_secs().to_string();
    let mut programs = Vec::new();
    for (index, (name, label, _)) in PROGRAMS.iter().enumerate() {
        let mut command = self_command(Role::Idle);
        command.args(["--count", &index.to_string(), "--seconds", &seconds]);
        programs.push(((*name).to_owned(), *label, command));
    }
    if let Some(python) = Python::find() {
        let popen = format!("{}: Popen.wait(timeout)", python.version());
        for (name, label, function) in [
            (
                "psutil 7.2.2: Process.wait".to_owned(),
                "psutil",
                "self_wait",
            ),
            (popen, "CPython Popen", "popen"),
        ] {
            let mut command = python.command(function);
            command.arg(&seconds);
            programs.push((name, label, command));
        }
    }
    let spawn = |command: &mut Command| command.stdin(Stdio::null()).spawn().expect("a program");
    let children: Vec<_> = programs
        .iter_mut()
        .map(|(_, _, command)| spawn(command))
        .collect();
    let programs = programs.into_iter().zip(children);
    let usages = programs.map(|((name, label, _), child)| {
        let (status, usage) = os::reap_with_usage(child.id());
        let milliseconds =
            |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
        Usage {
            name,
            label,
            switches: usage.ru_nvcsw as f64,
            cpu: milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime),
            passed: status == 0,
        }
    });
    usages.collect()
}

/// Runs one of the programs in Rust.
pub(crate) fn run(index: usize, time: Duration) {
    PROGRAMS[index].2(time);
}

fn poll(time: Duration) {
    let pidfd = os::pidfd_open(std::process::id());
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one `pollfd`, and the count is one.
    let ready = unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as libc::c_int) };
    assert_eq!(ready, 0);
}

fn wait_for_self(runtime: &Runtime, time: Duration) {
    let process = exit_of(std::process::id());
    let result = runtime.block_on(async { timeout(time, process).await });
    assert!(result.is_err());
}

/// Waits for a child, because a `Child` is always a child of this process.
fn tokio_child(time: Duration) {
    os::current_thread().block_on(async {
        let sleep = (time.as_secs() + 1).to_string();
        let mut child = tokio::process::Command::new("sleep")
            .arg(sleep)
            .spawn()
            .expect("sleep starts");
        assert!(timeout(time, child.wait()).await.is_err());
        // Do not reap: the usage of a reaped child counts as usage of this process.
        child.start_kill().expect("the child is killed");
        std::process::exit(0);
    });
}

fn on_thread(time: Duration) {
    os::current_thread().block_on(async {
        let pid = std::process::id() as i32;
        let mut handle = waitpid_any::WaitHandle::open(pid).expect("a handle");
        let wait = tokio::task::spawn_blocking(move || handle.wait());
        assert!(timeout(time, wait).await.is_err());
        // Exit here: dropping the runtime would wait for its blocking thread.
        std::process::exit(0);
    });
}

/// Checks whether a process exists, at intervals that double up to 40 ms, as CPython and older
/// versions of psutil do.
pub(crate) fn kill_loop(pid: u32, has_elapsed: impl Fn() -> bool) {
    let mut interval = Duration::from_micros(100);
    // SAFETY: signal 0 is not delivered.
    while !has_elapsed() && unsafe { libc::kill(pid as i32, 0) } == 0 {
        std::thread::sleep(interval);
        interval = (interval * 2).min(Duration::from_millis(40));
    }
}
