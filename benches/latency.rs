//! From the last thing that a process does until whoever waits for it runs.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use mio::unix::SourceFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio_process_exit::{Exit, Mechanism, exit_of};

use crate::chart;
use crate::os::{self, Epoll, median, now, quantile};
use crate::python::Python;
use crate::run::{Plan, Role, ourselves};
use crate::subject::Stage;

struct Contender<'a> {
    name: &'static str,
    /// Whose child it waits for, and what it then knows.
    what: &'static str,
    /// It looks again and again, so it has to be waiting for some time to show what it does.
    looks: bool,
    /// Waits for one subject, and returns when it ran.
    turn: Box<dyn FnMut(&Stage) -> u64 + 'a>,
}

/// Of a contender in a round.
const TURNS: usize = 4;

const CHILD: &str = "child";
const CHILD_STATUS: &str = "child, status";
const OTHER: &str = "other";
const OTHER_STATUS: &str = "other, status";

pub(crate) fn measure(plan: &Plan) -> bool {
    let stage = Stage::new();
    let python = Python::find();
    let rounds = plan.rounds.unwrap_or(if plan.quick { 12 } else { 250 });
    let mut contenders = contenders(&stage, python.as_ref());
    let mut figures = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize>;
    // The first two rounds are for warming up.
    for round in 0..rounds + 2 {
        // Those that look take long, and are far off.
        let turns = |which: usize| if contenders[which].looks { 1 } else { TURNS };
        order = (0..contenders.len())
            .flat_map(|which| std::iter::repeat_n(which, turns(which)))
            .collect();
        fastrand::shuffle(&mut order);
        for &which in &order {
            let contender = &mut contenders[which];
            let milliseconds = if contender.looks { 60..140 } else { 3..12 };
            let sleep = fastrand::u64(milliseconds.start * 1000..milliseconds.end * 1000);
            stage.set_sleep(Duration::from_micros(sleep));
            let ran = (contender.turn)(&stage);
            let exited = stage.exited();
            assert!(exited != 0 && ran > exited, "{}: too early", contender.name);
            if round >= 2 {
                figures[which].push((ran - exited) as f64 / 1e3);
            }
        }
    }

    println!(
        "\n### From exit to wake-up, {rounds} rounds of {TURNS} turns (one for those that look)\n"
    );
    println!(
        "| {:38} | {:13} | median, µs | ratio | p90, µs | p99, µs |",
        "", "whose, knows"
    );
    println!(
        "|{:-<40}|{:-<15}|-----------:|------:|--------:|--------:|",
        "", ""
    );
    // Another process's children are smaller, as it is, and so gone sooner: they have their own floor.
    let floor_of = |what: &str| {
        let same = |contender: &Contender<'_>| what.starts_with(contender.what);
        contenders
            .iter()
            .position(same)
            .map(|row| median(&figures[row]))
    };
    for (contender, figures) in contenders.iter().zip(&figures) {
        let middle = median(figures);
        let floor = floor_of(contender.what).unwrap_or(f64::NAN);
        println!(
            "| {:38} | {:13} | {middle:10.0} | {:5.2} | {:7.0} | {:7.0} |",
            contender.name,
            contender.what,
            middle / floor,
            quantile(figures, 0.9),
            quantile(figures, 0.99),
        );
    }
    let rows: Vec<chart::Row<'_>> = contenders
        .iter()
        .zip(figures)
        .map(|(contender, figures)| chart::Row {
            name: format!("{} ({})", contender.name, contender.what),
            ours: contender.name.starts_with("exit_of"),
            figures,
            text: "",
        })
        .collect();
    chart::distributions(&plan.pictures().join("latency.svg"), &rows);
    true
}

fn contenders<'a>(stage: &Stage, python: Option<&Python>) -> Vec<Contender<'a>> {
    let mut contenders: Vec<Contender<'a>> = Vec::new();
    let mut add = |name, what, looks, turn: Box<dyn FnMut(&Stage) -> u64 + 'a>| {
        contenders.push(Contender {
            name,
            what,
            looks,
            turn,
        });
    };

    add("a thread in epoll_wait: the floor", CHILD, false, {
        let epoll = Epoll::new();
        Box::new(move |stage| {
            let child = stage.fork();
            by_hand(&epoll, stage, child.pid, false)
        })
    });
    add(
        "a thread in epoll_wait, then waitid",
        CHILD_STATUS,
        false,
        {
            let epoll = Epoll::new();
            Box::new(move |stage| {
                let child = stage.fork();
                by_hand(&epoll, stage, child.pid, true)
            })
        },
    );
    add("a thread in epoll_wait", OTHER, false, {
        let epoll = Epoll::new();
        Box::new(move |stage| {
            let other = stage.fork_elsewhere();
            by_hand(&epoll, stage, other.pid, false)
        })
    });
    add("mio", CHILD, false, {
        let mut poll = mio::Poll::new().expect("an epoll");
        let mut events = mio::Events::with_capacity(1024);
        Box::new(move |stage| {
            let child = stage.fork();
            let pidfd = os::pidfd_open(child.pid);
            let fd = pidfd.as_raw_fd();
            let registry = poll.registry();
            let (token, interest) = (mio::Token(0), mio::Interest::READABLE);
            registry
                .register(&mut SourceFd(&fd), token, interest)
                .expect("it can be registered");
            stage.go();
            poll.poll(&mut events, None).expect("an event");
            let now = now();
            assert_eq!(events.iter().count(), 1);
            poll.registry()
                .deregister(&mut SourceFd(&fd))
                .expect("it is registered");
            now
        })
    });
    add("AsyncFd by hand, current_thread", CHILD, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let child = stage.fork();
            async_fd(&runtime, stage, child.pid, false)
        })
    });
    add("AsyncFd by hand, then waitid", CHILD_STATUS, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let child = stage.fork();
            async_fd(&runtime, stage, child.pid, true)
        })
    });
    add("AsyncFd by hand, current_thread", OTHER, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let other = stage.fork_elsewhere();
            async_fd(&runtime, stage, other.pid, false)
        })
    });
    add("exit_of, current_thread", CHILD_STATUS, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let child = stage.fork();
            here(&runtime, stage, child.pid, Some(7))
        })
    });
    add("exit_of, multi_thread", CHILD_STATUS, false, {
        let runtime = os::multi_thread();
        Box::new(move |stage| {
            let child = stage.fork();
            in_a_task(&runtime, stage, child.pid)
        })
    });
    add("exit_of, and closed", CHILD_STATUS, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let child = stage.fork();
            runtime.block_on(async {
                let exit = exit_of(child.pid);
                stage.go();
                let exit = exit.await.expect("an exit");
                let now = now();
                assert_eq!(code_of(exit), Some(7));
                now
            })
        })
    });
    add("exit_of, current_thread", OTHER_STATUS, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let other = stage.fork_elsewhere();
            here(&runtime, stage, other.pid, Some(7))
        })
    });
    add("exit_of, multi_thread", OTHER_STATUS, false, {
        let runtime = os::multi_thread();
        Box::new(move |stage| {
            let other = stage.fork_elsewhere();
            in_a_task(&runtime, stage, other.pid)
        })
    });
    add(
        "tokio::process: Child::wait, closes",
        CHILD_STATUS,
        false,
        {
            let runtime = os::current_thread();
            let role = stage.role();
            let mut command = tokio::process::Command::new("true");
            // SAFETY: it only makes system calls, and ends the child.
            unsafe { command.pre_exec(role) };
            Box::new(move |stage| {
                runtime.block_on(async {
                    let mut child = command.spawn().expect("a child");
                    stage.go();
                    let status = child.wait().await.expect("a status");
                    let now = now();
                    assert_eq!(status.code(), Some(7));
                    now
                })
            })
        },
    );
    add("async-process: Child::status", CHILD_STATUS, false, {
        let role = stage.role();
        let mut command = std::process::Command::new("true");
        // SAFETY: it only makes system calls, and ends the child.
        unsafe { command.pre_exec(role) };
        let mut command = async_process::Command::from(command);
        Box::new(move |stage| {
            futures_lite::future::block_on(async {
                let mut child = command.spawn().expect("a child");
                stage.go();
                let status = child.status().await.expect("a status");
                let now = now();
                assert_eq!(status.code(), Some(7));
                now
            })
        })
    });
    add("waitpid-any on spawn_blocking", CHILD, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let child = stage.fork();
            on_a_thread(&runtime, stage, child.pid)
        })
    });
    add("waitpid-any on spawn_blocking", OTHER, false, {
        let runtime = os::current_thread();
        Box::new(move |stage| {
            let other = stage.fork_elsewhere();
            on_a_thread(&runtime, stage, other.pid)
        })
    });
    add("sysinfo: Process::wait, reaped at once", OTHER, true, {
        use sysinfo::{Pid, ProcessesToUpdate, System};
        let mut system = System::new().expect("a system");
        Box::new(move |stage| {
            let other = stage.fork_elsewhere();
            let pid = Pid::from_u32(other.pid);
            system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
            stage.go();
            // It takes a zombie for alive.
            other.reap_soon();
            system.process(pid).expect("a process").wait();
            now()
        })
    });
    match Helper::polled() {
        Ok(mut helper) => add("exit_of, pidfds denied: polled", OTHER_STATUS, true, {
            Box::new(move |stage| {
                let child = stage.fork();
                helper.send(&child.pid.to_string());
                stage.go();
                helper.receive()
            })
        }),
        Err(error) => println!("\nskipped: our fallback, {error}"),
    }
    for (order, name, what, looks) in [
        ("psutil", "psutil 7.2.2: Process.wait", CHILD_STATUS, false),
        ("other", "psutil 7.2.2, reaped at once", OTHER, true),
        ("popen", "CPython: Popen.wait(timeout)", CHILD_STATUS, true),
    ] {
        let Some(python) = python else { continue };
        let mut command = python.command("latency");
        command.arg(std::env::current_exe().expect("this program"));
        command.arg(stage.file());
        let mut helper = Helper::start(command);
        assert_eq!(helper.receive_line(), "ready");
        add(name, what, looks, {
            Box::new(move |stage| {
                if what == OTHER {
                    let other = stage.fork_elsewhere();
                    helper.send(&format!("{order} {}", other.pid));
                    stage.go();
                    // It takes a zombie for alive.
                    other.reap_soon();
                    helper.receive()
                } else {
                    // Only Python itself can have children of Python's.
                    helper.send(order);
                    helper.receive()
                }
            })
        });
    }
    contenders
}

fn by_hand(epoll: &Epoll, stage: &Stage, pid: u32, status: bool) -> u64 {
    let pidfd = os::pidfd_open(pid);
    epoll.add(pidfd.as_raw_fd(), libc::EPOLLIN, 0);
    stage.go();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    assert_eq!(epoll.wait(&mut events, -1).len(), 1);
    if status {
        assert_eq!(os::child_status(pidfd.as_raw_fd()), 7);
    }
    let now = now();
    epoll.delete(pidfd.as_raw_fd());
    now
}

fn async_fd(runtime: &Runtime, stage: &Stage, pid: u32, status: bool) -> u64 {
    runtime.block_on(async {
        let pidfd = os::pidfd_open(pid);
        // SAFETY: the descriptor is owned by the `AsyncFd` and never replaced.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd = pidfd.expect("it can be registered");
        stage.go();
        drop(pidfd.readable().await.expect("an event"));
        if status {
            assert_eq!(os::child_status(pidfd.as_raw_fd()), 7);
        }
        now()
    })
}

fn here(runtime: &Runtime, stage: &Stage, pid: u32, code: Option<i32>) -> u64 {
    runtime.block_on(async {
        let mut exit = exit_of(pid);
        assert!(futures::poll!(&mut exit).is_pending());
        stage.go();
        // Borrowed, so that closing it does not count.
        let exit = (&mut exit).await.expect("an exit");
        let now = now();
        assert_eq!(code_of(exit), code);
        now
    })
}

fn in_a_task(runtime: &Runtime, stage: &Stage, pid: u32) -> u64 {
    let mut exit = exit_of(pid);
    let (registered, wait) = std::sync::mpsc::channel();
    let task = runtime.spawn(async move {
        assert!(futures::poll!(&mut exit).is_pending());
        _ = registered.send(());
        let exit = (&mut exit).await.expect("an exit");
        let now = now();
        assert_eq!(code_of(exit), Some(7));
        now
    });
    wait.recv().expect("a task");
    stage.go();
    runtime.block_on(task).expect("no panic")
}

fn on_a_thread(runtime: &Runtime, stage: &Stage, pid: u32) -> u64 {
    runtime.block_on(async {
        let mut handle = waitpid_any::WaitHandle::open(pid as i32).expect("a handle");
        let wait = tokio::task::spawn_blocking(move || handle.wait());
        stage.go();
        wait.await.expect("no panic").expect("an exit");
        now()
    })
}

fn code_of(exit: Exit) -> Option<i32> {
    exit.status().and_then(|status| status.code())
}

/// Another process that waits when told to.
struct Helper {
    child: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Helper {
    fn start(mut command: std::process::Command) -> Helper {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a helper");
        Helper {
            orders: child.stdin.take().expect("a pipe"),
            replies: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    /// This crate, with pidfds denied.
    fn polled() -> Result<Helper, String> {
        let mut helper = Helper::start(ourselves(Role::Polled));
        match helper.receive_line().as_str() {
            "polls" => Ok(helper),
            why => Err(why.to_owned()),
        }
    }

    fn send(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("a helper");
    }

    fn receive(&mut self) -> u64 {
        self.receive_line().parse().expect("a time")
    }

    fn receive_line(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("a helper");
        line.trim().to_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Waits for each process that it is told of, with pidfds denied to this process.
pub(crate) fn polled() {
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    let denied = std::env::consts::ARCH
        .try_into()
        .and_then(|arch| {
            SeccompFilter::new(
                [(libc::SYS_pidfd_open as _, Vec::new())].into(),
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM as u32),
                arch,
            )
        })
        .and_then(seccompiler::BpfProgram::try_from);
    match denied.map(|program| apply_filter(&program)) {
        Ok(Ok(())) => {}
        _ => return println!("no system call can be denied"),
    }
    let exit = exit_of(std::process::id());
    if exit.mechanism() != Some(Mechanism::Polling) {
        return println!("nothing was denied");
    }
    println!("polls");
    let runtime = os::current_thread();
    for pid in std::io::stdin().lines() {
        let pid = pid.expect("a line").parse().expect("a pid");
        let now = runtime.block_on(async {
            let mut exit = exit_of(pid);
            let exit = (&mut exit).await.expect("an exit");
            let now = now();
            assert_eq!(code_of(exit), Some(7));
            now
        });
        println!("{now}");
    }
}
