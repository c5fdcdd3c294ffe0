//! The time from a process's exit until the waiting program runs.

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
use crate::idle;
use crate::os::{self, Epoll, Ratio, median, now, quantile};
use crate::python::Python;
use crate::run::{Plan, Progress, Role, self_command};
use crate::subject::Subjects;

/// A way to wait for a process.
struct Contender<'a> {
    name: &'static str,
    /// The name in the picture, if the picture shows this contender.
    label: Option<&'static str>,
    case: Case,
    method: Method,
    /// Waits for one subject, and returns the time at which the waiting program ran.
    turn: Box<dyn FnMut(&Subjects) -> u64 + 'a>,
}

/// What a contender waits for, and whether the contender reads the exit status.
#[derive(Clone, Copy)]
struct Case {
    target: Target,
    /// Whether the contender reads the exit status.
    status: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A child of the waiting program.
    Child,
    /// A child of another process.
    Other,
}

const CHILD: Case = Case {
    target: Target::Child,
    status: false,
};
const CHILD_STATUS: Case = Case {
    target: Target::Child,
    status: true,
};
const OTHER: Case = Case {
    target: Target::Other,
    status: false,
};
const OTHER_STATUS: Case = Case {
    target: Target::Other,
    status: true,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Sleeps until the kernel reports the exit.
    Event,
    /// Checks at growing intervals, so the subject must live long enough for the intervals to grow.
    Interval,
}

/// The contender that the others are compared with.
const FLOOR: &str = "a thread in epoll_wait: the floor";

/// How many turns a contender has in a round.
const TURNS: usize = 4;

pub(crate) fn measure(plan: &Plan) -> bool {
    let subjects = Subjects::new();
    let python = Python::find();
    let rounds = plan.rounds.unwrap_or(if plan.quick { 12 } else { 80 });
    let mut contenders = contenders(&subjects, python.as_ref());
    let figures = run(&subjects, &mut contenders, rounds);

    let mut panels = Vec::new();
    // A child of this program is a copy of this program. The parent of the grandchildren is smaller,
    // so a grandchild exits sooner than a child. Therefore, each target has a floor of its own.
    for (target, heading) in [
        (Target::Child, "A child of the waiting program"),
        (Target::Other, "A child of another program"),
    ] {
        let measured = contenders.iter().zip(&figures);
        let measured: Vec<_> = measured
            .filter(|(contender, _)| contender.case.target == target)
            .collect();
        println!("\n### {heading}, from exit to wake-up: {rounds} rounds of up to {TURNS} turns\n");
        print_table(&measured);
        let rows = measured.into_iter().filter_map(|(contender, figures)| {
            Some(chart::Distribution {
                label: contender.label?,
                ours: contender.name.starts_with("exit_of"),
                values: figures.clone(),
            })
        });
        panels.push(chart::Panel {
            heading,
            rows: rows.collect(),
        });
    }
    let title = "Microseconds from exit to wake-up";
    let note = "Dashed: the floor of each panel, a thread in epoll_wait.";
    chart::distributions(&plan.pictures().join("latency.svg"), title, note, &panels);
    true
}

/// The figures of a contender in a table of few columns.
pub(crate) struct Summary {
    /// In microseconds.
    pub(crate) median: f64,
    pub(crate) ratio: Ratio,
}

/// Measures only these contenders, and the floors. Returns `None` for a contender that cannot run here.
pub(crate) fn summaries(rounds: usize, chosen: &[(&str, Target)]) -> Vec<Option<Summary>> {
    let subjects = Subjects::new();
    let python = Python::find();
    let mut contenders = contenders(&subjects, python.as_ref());
    contenders.retain(|contender| {
        contender.name == FLOOR || chosen.contains(&(contender.name, contender.case.target))
    });
    let figures = run(&subjects, &mut contenders, rounds);
    let figures_of = |name, target| {
        let is_same =
            |contender: &Contender<'_>| contender.name == name && contender.case.target == target;
        contenders.iter().position(is_same).map(|at| &figures[at])
    };
    let summaries = chosen.iter().map(|&(name, target)| {
        let (figures, floor) = (figures_of(name, target)?, figures_of(FLOOR, target)?);
        Some(Summary {
            median: median(figures),
            ratio: Ratio::of(figures, floor, rounds),
        })
    });
    summaries.collect()
}

/// Returns the figures of each contender, those of the first round first.
fn run(subjects: &Subjects, contenders: &mut [Contender<'_>], rounds: usize) -> Vec<Vec<f64>> {
    let mut progress = Progress::new("latency", rounds + 2);
    let mut figures = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize>;
    // The first two rounds only warm up.
    for round in 0..rounds + 2 {
        // Contenders that check at intervals take long, and their figures are large: one turn is
        // enough.
        let turns = |which: usize| match contenders[which].method {
            Method::Event => TURNS,
            Method::Interval => 1,
        };
        order = (0..contenders.len())
            .flat_map(|which| std::iter::repeat_n(which, turns(which)))
            .collect();
        fastrand::shuffle(&mut order);
        for &which in &order {
            let contender = &mut contenders[which];
            let milliseconds = match contender.method {
                Method::Event => 3..12,
                Method::Interval => 60..140,
            };
            let sleep = fastrand::u64(milliseconds.start * 1000..milliseconds.end * 1000);
            subjects.set_sleep(Duration::from_micros(sleep));
            let ran = (contender.turn)(subjects);
            let exited = subjects.exited();
            assert!(exited != 0 && ran > exited, "{}: too early", contender.name);
            if round >= 2 {
                figures[which].push((ran - exited) as f64 / 1e3);
            }
        }
        progress.advance();
    }
    figures
}

/// Prints the contenders for one target. The first one is the floor.
fn print_table(measured: &[(&Contender<'_>, &Vec<f64>)]) {
    println!(
        "| {:38} | status read | median, µs | ratio (p10 to p90)    | p90, µs | p99, µs |",
        ""
    );
    println!(
        "|{:-<40}|-------------|-----------:|----------------------:|--------:|--------:|",
        ""
    );
    let floor = measured[0].1;
    let rounds = floor.len() / TURNS;
    for (contender, figures) in measured {
        let middle = median(figures);
        println!(
            "| {:38} | {:11} | {middle:10.0} | {:21} | {:7.0} | {:7.0} |",
            contender.name,
            if contender.case.status { "yes" } else { "no" },
            Ratio::of(figures, floor, rounds).to_string(),
            quantile(figures, 0.9),
            quantile(figures, 0.99),
        );
    }
}

fn contenders<'a>(subjects: &Subjects, python: Option<&Python>) -> Vec<Contender<'a>> {
    use Method::{Event, Interval};

    let mut contenders: Vec<Contender<'a>> = Vec::new();
    let mut add = |name, label, case, method, turn: Box<dyn FnMut(&Subjects) -> u64 + 'a>| {
        contenders.push(Contender {
            name,
            label,
            case,
            method,
            turn,
        });
    };

    add(FLOOR, Some("epoll_wait"), CHILD, Event, {
        let epoll = Epoll::new();
        Box::new(move |subjects| {
            let child = subjects.fork_child();
            by_hand(&epoll, subjects, child.pid, false)
        })
    });
    add(
        "a thread in epoll_wait, then waitid",
        None,
        CHILD_STATUS,
        Event,
        {
            let epoll = Epoll::new();
            Box::new(move |subjects| {
                let child = subjects.fork_child();
                by_hand(&epoll, subjects, child.pid, true)
            })
        },
    );
    add(FLOOR, Some("epoll_wait"), OTHER, Event, {
        let epoll = Epoll::new();
        Box::new(move |subjects| {
            let other = subjects.fork_grandchild();
            by_hand(&epoll, subjects, other.pid, false)
        })
    });
    add("mio", None, CHILD, Event, {
        let mut poll = mio::Poll::new().expect("an epoll instance");
        let mut events = mio::Events::with_capacity(1024);
        Box::new(move |subjects| {
            let child = subjects.fork_child();
            let pidfd = os::pidfd_open(child.pid);
            let fd = pidfd.as_raw_fd();
            let registry = poll.registry();
            let (token, interest) = (mio::Token(0), mio::Interest::READABLE);
            registry
                .register(&mut SourceFd(&fd), token, interest)
                .expect("the pidfd is registered");
            subjects.release();
            poll.poll(&mut events, None).expect("an event");
            let now = now();
            assert_eq!(events.iter().count(), 1);
            poll.registry()
                .deregister(&mut SourceFd(&fd))
                .expect("the pidfd is deregistered");
            now
        })
    });
    add(
        "AsyncFd by hand, current_thread",
        Some("AsyncFd by hand"),
        CHILD,
        Event,
        {
            let runtime = os::current_thread();
            Box::new(move |subjects| {
                let child = subjects.fork_child();
                async_fd(&runtime, subjects, child.pid, false)
            })
        },
    );
    add("AsyncFd by hand, then waitid", None, CHILD_STATUS, Event, {
        let runtime = os::current_thread();
        Box::new(move |subjects| {
            let child = subjects.fork_child();
            async_fd(&runtime, subjects, child.pid, true)
        })
    });
    add(
        "AsyncFd by hand, current_thread",
        Some("AsyncFd by hand"),
        OTHER,
        Event,
        {
            let runtime = os::current_thread();
            Box::new(move |subjects| {
                let other = subjects.fork_grandchild();
                async_fd(&runtime, subjects, other.pid, false)
            })
        },
    );
    add(
        "exit_of, current_thread",
        Some("exit_of"),
        CHILD_STATUS,
        Event,
        {
            let runtime = os::current_thread();
            Box::new(move |subjects| {
                let child = subjects.fork_child();
                in_block_on(&runtime, subjects, child.pid, Some(7))
            })
        },
    );
    add("exit_of, multi_thread", None, CHILD_STATUS, Event, {
        let runtime = os::multi_thread();
        Box::new(move |subjects| {
            let child = subjects.fork_child();
            in_task(&runtime, subjects, child.pid)
        })
    });
    add("exit_of, including the close", None, CHILD_STATUS, Event, {
        let runtime = os::current_thread();
        Box::new(move |subjects| {
            let child = subjects.fork_child();
            runtime.block_on(async {
                let process = exit_of(child.pid);
                subjects.release();
                let exit = process.await.expect("an exit");
                let now = now();
                assert_eq!(code_of(exit), Some(7));
                now
            })
        })
    });
    add(
        "exit_of, current_thread",
        Some("exit_of, with status"),
        OTHER_STATUS,
        Event,
        {
            let runtime = os::current_thread();
            Box::new(move |subjects| {
                let other = subjects.fork_grandchild();
                in_block_on(&runtime, subjects, other.pid, Some(7))
            })
        },
    );
    add("exit_of, multi_thread", None, OTHER_STATUS, Event, {
        let runtime = os::multi_thread();
        Box::new(move |subjects| {
            let other = subjects.fork_grandchild();
            in_task(&runtime, subjects, other.pid)
        })
    });
    add("blocking_wait, no runtime", None, CHILD_STATUS, Event, {
        Box::new(|subjects| {
            let child = subjects.fork_child();
            blocking(subjects, child.pid)
        })
    });
    add("blocking_wait, no runtime", None, OTHER_STATUS, Event, {
        Box::new(|subjects| {
            let other = subjects.fork_grandchild();
            blocking(subjects, other.pid)
        })
    });
    add(
        "tokio::process: Child::wait",
        Some("tokio Child::wait"),
        CHILD_STATUS,
        Event,
        {
            let runtime = os::current_thread();
            let hook = subjects.hook();
            let mut command = tokio::process::Command::new("true");
            // SAFETY: the hook only makes system calls, and ends the child.
            unsafe { command.pre_exec(hook) };
            Box::new(move |subjects| {
                runtime.block_on(async {
                    let mut child = command.spawn().expect("the child starts");
                    subjects.release();
                    let status = child.wait().await.expect("a status");
                    let now = now();
                    assert_eq!(status.code(), Some(7));
                    now
                })
            })
        },
    );
    add(
        "async-process: Child::status",
        Some("async-process"),
        CHILD_STATUS,
        Event,
        {
            let hook = subjects.hook();
            let mut command = std::process::Command::new("true");
            // SAFETY: the hook only makes system calls, and ends the child.
            unsafe { command.pre_exec(hook) };
            let mut command = async_process::Command::from(command);
            Box::new(move |subjects| {
                futures_lite::future::block_on(async {
                    let mut child = command.spawn().expect("the child starts");
                    subjects.release();
                    let status = child.status().await.expect("a status");
                    let now = now();
                    assert_eq!(status.code(), Some(7));
                    now
                })
            })
        },
    );
    add(
        "waitpid-any on spawn_blocking",
        Some("waitpid-any"),
        CHILD,
        Event,
        {
            let runtime = os::current_thread();
            Box::new(move |subjects| {
                let child = subjects.fork_child();
                on_thread(&runtime, subjects, child.pid)
            })
        },
    );
    add(
        "waitpid-any on spawn_blocking",
        Some("waitpid-any"),
        OTHER,
        Event,
        {
            let runtime = os::current_thread();
            Box::new(move |subjects| {
                let other = subjects.fork_grandchild();
                on_thread(&runtime, subjects, other.pid)
            })
        },
    );
    for (order, name, label, case, method) in [
        (
            "psutil",
            "psutil 7.2.2: Process.wait",
            "psutil",
            CHILD_STATUS,
            Event,
        ),
        (
            "other",
            "psutil 7.2.2, reaped at once",
            "psutil",
            OTHER,
            Interval,
        ),
        (
            "popen",
            "CPython: Popen.wait(timeout)",
            "CPython Popen",
            CHILD_STATUS,
            Interval,
        ),
    ] {
        let Some(python) = python else { continue };
        let mut command = python.command("latency");
        command.arg(std::env::current_exe().expect("the path of this program"));
        command.arg(subjects.file());
        let mut helper = Helper::start(command);
        assert_eq!(helper.receive_line(), "ready");
        add(name, Some(label), case, method, {
            Box::new(move |subjects| {
                if case.target == Target::Other {
                    let other = subjects.fork_grandchild();
                    helper.send(&format!("{order} {}", other.pid));
                    subjects.release();
                    // psutil mistakes another parent's zombie for a running process.
                    other.reap_at_exit();
                    helper.receive()
                } else {
                    // The subject must be a child of Python, so Python starts the subject.
                    helper.send(order);
                    helper.receive()
                }
            })
        });
    }
    add(
        "a loop of kill(pid, 0), reaped at once",
        None,
        OTHER,
        Interval,
        {
            Box::new(|subjects| {
                let other = subjects.fork_grandchild();
                subjects.release();
                // A signal can also be sent to a zombie.
                other.reap_at_exit();
                idle::loop_of_kill(other.pid, Duration::MAX);
                now()
            })
        },
    );
    add(
        "sysinfo: Process::wait, reaped at once",
        Some("sysinfo"),
        OTHER,
        Interval,
        {
            use sysinfo::{Pid, ProcessesToUpdate, System};
            let mut system = System::new().expect("a system");
            Box::new(move |subjects| {
                let other = subjects.fork_grandchild();
                let pid = Pid::from_u32(other.pid);
                system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
                subjects.release();
                // sysinfo mistakes a zombie for a running process.
                other.reap_at_exit();
                system.process(pid).expect("the process is listed").wait();
                now()
            })
        },
    );
    match Helper::polled() {
        Ok(mut helper) => add(
            "exit_of, pidfds denied: polled",
            Some("exit_of, polling"),
            OTHER_STATUS,
            Interval,
            {
                Box::new(move |subjects| {
                    // A child of this program is a child of another program for the helper.
                    let child = subjects.fork_child();
                    helper.send(&child.pid.to_string());
                    subjects.release();
                    helper.receive()
                })
            },
        ),
        Err(error) => println!("\nskipped: exit_of by polling, {error}"),
    }
    contenders
}

fn by_hand(epoll: &Epoll, subjects: &Subjects, pid: u32, status: bool) -> u64 {
    let pidfd = os::pidfd_open(pid);
    epoll.add(pidfd.as_raw_fd(), libc::EPOLLIN, 0);
    subjects.release();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    assert_eq!(epoll.wait(&mut events, -1).len(), 1);
    if status {
        assert_eq!(os::child_status(pidfd.as_raw_fd()), 7);
    }
    let now = now();
    epoll.delete(pidfd.as_raw_fd());
    now
}

fn async_fd(runtime: &Runtime, subjects: &Subjects, pid: u32, status: bool) -> u64 {
    runtime.block_on(async {
        let pidfd = os::pidfd_open(pid);
        // SAFETY: the descriptor is owned by the `AsyncFd` and never replaced.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd = pidfd.expect("the pidfd is registered");
        subjects.release();
        drop(pidfd.readable().await.expect("an event"));
        if status {
            assert_eq!(os::child_status(pidfd.as_raw_fd()), 7);
        }
        now()
    })
}

fn in_block_on(runtime: &Runtime, subjects: &Subjects, pid: u32, code: Option<i32>) -> u64 {
    runtime.block_on(async {
        let mut process = exit_of(pid);
        assert!(futures::poll!(&mut process).is_pending());
        subjects.release();
        // Await a reference: the pidfd is then closed after the time is read.
        let exit = (&mut process).await.expect("an exit");
        let now = now();
        assert_eq!(code_of(exit), code);
        now
    })
}

fn in_task(runtime: &Runtime, subjects: &Subjects, pid: u32) -> u64 {
    let mut process = exit_of(pid);
    let (registered, wait) = std::sync::mpsc::channel();
    let task = runtime.spawn(async move {
        assert!(futures::poll!(&mut process).is_pending());
        _ = registered.send(());
        let exit = (&mut process).await.expect("an exit");
        let now = now();
        assert_eq!(code_of(exit), Some(7));
        now
    });
    wait.recv().expect("the task polls");
    subjects.release();
    runtime.block_on(task).expect("the task does not panic")
}

fn blocking(subjects: &Subjects, pid: u32) -> u64 {
    let mut process = exit_of(pid);
    subjects.release();
    let exit = process.blocking_wait(None).expect("an exit");
    let now = now();
    assert_eq!(exit.and_then(code_of), Some(7));
    now
}

fn on_thread(runtime: &Runtime, subjects: &Subjects, pid: u32) -> u64 {
    runtime.block_on(async {
        let mut handle = waitpid_any::WaitHandle::open(pid as i32).expect("a handle");
        let wait = tokio::task::spawn_blocking(move || handle.wait());
        subjects.release();
        wait.await
            .expect("the thread does not panic")
            .expect("an exit");
        now()
    })
}

fn code_of(exit: Exit) -> Option<i32> {
    exit.status().and_then(|status| status.code())
}

/// Another process, which waits for a process on order.
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
            .expect("the helper starts");
        Helper {
            orders: child.stdin.take().expect("the stream is piped"),
            replies: BufReader::new(child.stdout.take().expect("the stream is piped")),
            child,
        }
    }

    /// Starts a process that uses this crate while a filter denies pidfds.
    fn polled() -> Result<Helper, String> {
        let mut helper = Helper::start(self_command(Role::Polled));
        match helper.receive_line().as_str() {
            "ready" => Ok(helper),
            reason => Err(reason.to_owned()),
        }
    }

    fn send(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the helper reads");
    }

    fn receive(&mut self) -> u64 {
        self.receive_line()
            .parse()
            .expect("the helper replies with a time")
    }

    fn receive_line(&mut self) -> String {
        let mut line = String::new();
        self.replies
            .read_line(&mut line)
            .expect("the helper writes");
        line.trim().to_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Waits for each process whose pid is in a line of standard input, while a filter denies pidfds to
/// this process.
pub(crate) fn serve_polled() {
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
        _ => return println!("seccomp filters are not available"),
    }
    let process = exit_of(std::process::id());
    if process.mechanism() != Some(Mechanism::Polling) {
        return println!("the filter did not deny pidfds");
    }
    println!("ready");
    let runtime = os::current_thread();
    for pid in std::io::stdin().lines() {
        let pid = pid.expect("a line of text").parse().expect("a pid");
        let now = runtime.block_on(async {
            let mut process = exit_of(pid);
            let exit = (&mut process).await.expect("an exit");
            let now = now();
            assert_eq!(code_of(exit), Some(7));
            now
        });
        println!("{now}");
    }
}
