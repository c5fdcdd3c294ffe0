//! Waiting for many processes while nothing happens.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::stream::StreamExt;
use tokio::time::timeout;
use tokio_process_exit::ExitSet;

use super::cgroup::Cgroup;
use super::contenders::{self, BY_HAND, CGROUP, GROUP, JOIN_SET, SET, THREADS, UNORDERED};
use super::sleepers::{Sleepers, State};
use super::{PSUTIL_SIZE, max_tasks, numbers};
use crate::os::{self, Epoll, cpu_time};
use crate::python::Python;
use crate::run::{Role, self_command};

/// The cost of waiting for some seconds in which nothing happens.
pub(super) struct Idle {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    /// Voluntary context switches.
    pub(super) switches: f64,
    /// CPU time in nanoseconds.
    pub(super) cpu: f64,
}

/// The contenders that wait, each in a process of its own, and their names in the pictures.
const CONTENDERS: [(&str, &str); 7] = [
    (BY_HAND, "epoll by hand"),
    (SET, "ExitSet"),
    (GROUP, "GroupExit"),
    (CGROUP, "CgroupExit"),
    (UNORDERED, "FuturesUnordered"),
    (JOIN_SET, "JoinSet"),
    (THREADS.name, "thread for each"),
];

/// Has all contenders wait at the same time, and all but psutil for the same processes.
pub(super) fn measure(
    size: usize,
    time: Duration,
    cgroup: Option<&Cgroup>,
) -> io::Result<Vec<Idle>> {
    let sleepers = Sleepers::new(size, State::Zombie, cgroup)?;
    let seconds = time.as_secs().to_string();
    let mut order = String::new();
    for pid in &sleepers.pids {
        order += &format!("{pid}\n");
    }
    if let Some(cgroup) = &sleepers.cgroup {
        order += &format!("{}\n", cgroup.display());
    }
    let mut programs = Vec::new();
    for (index, &(name, label)) in CONTENDERS.iter().enumerate() {
        let is_possible = match name {
            CGROUP => cgroup.is_some(),
            _ => name != THREADS.name || 2 * size + 1000 < max_tasks(),
        };
        if is_possible {
            let mut command = self_command(Role::IdleMany);
            command.args(["--count", &index.to_string(), "--seconds", &seconds]);
            programs.push((name, label, command));
        }
    }
    if size <= PSUTIL_SIZE
        && let Some(python) = Python::find()
    {
        let mut command = python.command("many_idle");
        command.args([&size.to_string(), &seconds]);
        programs.push(("psutil 7.2.2: wait_procs", "psutil", command));
    }
    let mut children = Vec::new();
    for (name, label, mut command) in programs {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut orders = child.stdin.take().expect("the stream is piped");
        // psutil waits for its own children, and does not read.
        _ = orders.write_all(order.as_bytes());
        children.push((name, label, child));
    }
    let mut idle = Vec::new();
    for (name, label, child) in children {
        let output = child.wait_with_output()?;
        if let [switches, cpu] = numbers(&String::from_utf8_lossy(&output.stdout))[..] {
            idle.push(Idle {
                name,
                label,
                switches,
                cpu,
            });
        }
    }
    Ok(idle)
}

/// Registers the processes or the cgroup listed on standard input and waits; then prints the voluntary
/// context switches and the CPU time.
pub(crate) fn run_idle(contender: usize, time: Duration) {
    let orders = io::read_to_string(io::stdin()).expect("text on standard input");
    let pids: Vec<u32> = orders
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    let cgroup = orders.lines().find(|line| line.starts_with('/'));
    let runtime = contenders::threads_runtime(pids.len());
    let usage = || (os::voluntary_switches(), cpu_time());
    let before = runtime.block_on(async {
        match CONTENDERS[contender].0 {
            BY_HAND => {
                let epoll = Epoll::new();
                let pidfds: Vec<_> = pids.iter().map(|&pid| os::pidfd_open(pid)).collect();
                for pidfd in &pidfds {
                    epoll.add(pidfd.as_raw_fd(), libc::EPOLLIN, 0);
                }
                let before = usage();
                let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
                let events = epoll.wait(&mut events, time.as_millis() as libc::c_int);
                assert!(events.is_empty());
                before
            }
            SET => {
                let mut set = ExitSet::with_capacity(pids.len());
                for &pid in &pids {
                    set.insert(pid).expect("the process exists");
                }
                let before = usage();
                let exits = set.exits_within(time).await.expect("no error");
                assert!(exits.is_empty());
                before
            }
            GROUP => {
                let mut group = contenders::group_of(&pids).await;
                let before = usage();
                assert!(timeout(time, &mut group).await.is_err());
                before
            }
            CGROUP => {
                let mut cgroup = contenders::cgroup_of(Path::new(cgroup.expect("a cgroup")));
                let before = usage();
                assert!(timeout(time, &mut cgroup).await.is_err());
                before
            }
            UNORDERED => {
                let mut processes = contenders::futures_of(&pids).await;
                let before = usage();
                assert!(timeout(time, processes.next()).await.is_err());
                before
            }
            JOIN_SET => {
                let mut tasks = contenders::tasks_of(&pids).await;
                let before = usage();
                assert!(timeout(time, tasks.join_next()).await.is_err());
                before
            }
            _ => {
                let _waits = contenders::spawn_threads(&pids);
                let before = usage();
                tokio::time::sleep(time).await;
                before
            }
        }
    });
    let cpu = (cpu_time() - before.1).as_nanos();
    println!("{} {cpu}", os::voluntary_switches() - before.0);
    // Exit here: dropping the runtime would wait for its blocking threads.
    std::process::exit(0);
}
