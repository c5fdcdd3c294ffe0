//! The experiment that this crate was made for: waiting ten seconds for oneself.
//! (<https://gmpy.dev/blog/2026/event-driven-process-waiting>)

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_process_exit::exit_of;

use crate::python::Python;
use crate::run::{Plan, Role, ourselves};
use crate::{chart, os};

const TIME: Duration = Duration::from_secs(10);

/// All wait at the same time, each in a program of its own, which is counted as a whole, as
/// `/usr/bin/time -v` does.
pub(crate) fn measure(plan: &Plan) -> bool {
    let mut programs: Vec<(String, bool, Command)> = vec![
        (
            "poll on a pidfd: the floor".into(),
            false,
            ourselves(Role::IdlePpoll),
        ),
        (
            "exit_of, current_thread".into(),
            true,
            ourselves(Role::IdleCurrentThread),
        ),
        (
            "exit_of, multi_thread (2)".into(),
            true,
            ourselves(Role::IdleMultiThread),
        ),
        (
            "a busy loop, 0.1 to 40 ms".into(),
            false,
            ourselves(Role::IdleBusy),
        ),
    ];
    if let Some(python) = Python::find() {
        let name = "psutil 7.2.2: Process.wait";
        programs.push((name.into(), false, python.command("myself")));
        let name = format!("{}: Popen.wait(timeout)", python.version());
        programs.push((name, false, python.command("popen")));
    }
    let children: Vec<_> = programs
        .iter_mut()
        .map(|(_, _, command)| command.stdin(Stdio::null()).spawn().expect("a program"))
        .collect();
    println!("\n### Ten seconds of waiting, the whole program\n");
    println!("| {:38} | voluntary context switches | CPU, ms |", "");
    println!("|{:-<40}|---------------------------:|--------:|", "");
    let mut good = true;
    let mut rows = Vec::new();
    for ((name, ours, _), child) in programs.into_iter().zip(children) {
        let (status, usage) = os::reap_with_usage(child.id());
        let switches = usage.ru_nvcsw as f64;
        let milliseconds =
            |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
        let cpu = milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime);
        println!("| {name:38} | {switches:26} | {cpu:7.1} |");
        good &= status == 0;
        rows.push(chart::Row {
            name,
            ours,
            figures: vec![switches],
            text: "",
        });
    }
    let title = "Voluntary context switches while waiting for 10 s";
    chart::bars(&plan.pictures().join("idle.svg"), title, &rows);
    good
}

pub(crate) fn ppoll() {
    let pidfd = os::pidfd_open(std::process::id());
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one `pollfd`, and a count of one.
    let ready = unsafe { libc::poll(&raw mut poll, 1, TIME.as_millis() as libc::c_int) };
    assert_eq!(ready, 0);
}

pub(crate) fn current_thread() {
    wait_for_ourselves(&os::current_thread());
}

pub(crate) fn multi_thread() {
    wait_for_ourselves(&os::multi_thread());
}

fn wait_for_ourselves(runtime: &Runtime) {
    let exit = exit_of(std::process::id());
    let elapsed = runtime.block_on(async { tokio::time::timeout(TIME, exit).await });
    assert!(elapsed.is_err());
}

/// What psutil and CPython did: look, and sleep for twice as long as before.
pub(crate) fn busy() {
    let start = Instant::now();
    let mut interval = Duration::from_micros(100);
    while start.elapsed() < TIME {
        // SAFETY: signal 0 sends nothing.
        assert_eq!(unsafe { libc::kill(std::process::id() as i32, 0) }, 0);
        std::thread::sleep(interval);
        interval = (interval * 2).min(Duration::from_millis(40));
    }
}
