//! The ways to wait for one process.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use mio::unix::SourceFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio_process_exit::{Exit, exit_of};

use super::helper::Helper;
use crate::idle;
use crate::os::{self, Epoll, now};
use crate::python::Python;
use crate::subject::{Subject, Subjects, Target};

/// A way to wait for a process.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    /// The name in the picture, if the picture shows this contender.
    pub(crate) label: Option<&'static str>,
    pub(crate) target: Target,
    /// Whether the contender reads the exit status.
    pub(crate) status: bool,
    pub(crate) method: Method,
    pub(crate) turn: Turn<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Sleeps until the kernel reports the exit.
    Event,
    /// Checks at growing intervals, so the subject must live long enough for the intervals to grow.
    Interval,
}

/// Waits for one subject, and returns the time at which the waiting program ran.
pub(crate) enum Turn<'a> {
    /// Waits for a subject that has been forked.
    Forked(Box<dyn FnMut(&Subject<'_>) -> u64 + 'a>),
    /// Starts the subject.
    Started(Box<dyn FnMut(&Subjects) -> u64 + 'a>),
}

const STATUS: bool = true;
const NO_STATUS: bool = false;

#[derive(Default)]
struct List<'a> {
    contenders: Vec<Contender<'a>>,
    label: Option<&'static str>,
}

impl<'a> List<'a> {
    /// Shows the next contender in the picture.
    fn label(&mut self, label: &'static str) -> &mut Self {
        self.label = Some(label);
        self
    }

    fn add(
        &mut self,
        (target, status, method): (Target, bool, Method),
        name: &'static str,
        turn: Turn<'a>,
    ) {
        self.contenders.push(Contender {
            name,
            label: self.label.take(),
            target,
            status,
            method,
            turn,
        });
    }

    fn event(
        &mut self,
        target: Target,
        status: bool,
        name: &'static str,
        turn: impl FnMut(&Subject<'_>) -> u64 + 'a,
    ) {
        let turn = Turn::Forked(Box::new(turn));
        self.add((target, status, Method::Event), name, turn);
    }

    /// Adds a contender that checks a child of another process at intervals.
    fn interval(
        &mut self,
        status: bool,
        name: &'static str,
        turn: impl FnMut(&Subject<'_>) -> u64 + 'a,
    ) {
        let turn = Turn::Forked(Box::new(turn));
        self.add((Target::Other, status, Method::Interval), name, turn);
    }

    /// Adds a contender that starts its child.
    fn started(
        &mut self,
        method: Method,
        name: &'static str,
        turn: impl FnMut(&Subjects) -> u64 + 'a,
    ) {
        let turn = Turn::Started(Box::new(turn));
        self.add((Target::Child, STATUS, method), name, turn);
    }
}

/// Returns all contenders. For each target, the first one is the floor.
pub(crate) fn all<'a>(subjects: &Subjects, python: Option<&Python>) -> Vec<Contender<'a>> {
    let mut list = List::default();
    for target in [Target::Child, Target::Other] {
        let is_child = target == Target::Child;
        let epoll = Epoll::new();
        list.label("epoll_wait").event(
            target,
            NO_STATUS,
            "a thread in epoll_wait: the floor",
            move |subject| by_hand(&epoll, subject, NO_STATUS),
        );
        if is_child {
            let epoll = Epoll::new();
            let name = "a thread in epoll_wait, then waitid";
            list.event(target, STATUS, name, move |subject| {
                by_hand(&epoll, subject, STATUS)
            });
            let mut poll = mio::Poll::new().expect("an epoll instance");
            let mut events = mio::Events::with_capacity(1024);
            list.event(target, NO_STATUS, "mio", move |subject| {
                with_mio(&mut poll, &mut events, subject)
            });
        }
        let runtime = os::current_thread();
        let name = "AsyncFd by hand, current_thread";
        list.label("AsyncFd by hand")
            .event(target, NO_STATUS, name, move |subject| {
                async_fd(&runtime, subject, NO_STATUS)
            });
        if is_child {
            let runtime = os::current_thread();
            let name = "AsyncFd by hand, then waitid";
            list.event(target, STATUS, name, move |subject| {
                async_fd(&runtime, subject, STATUS)
            });
        }
        let runtime = os::current_thread();
        list.label(if is_child {
            "exit_of"
        } else {
            "exit_of, with status"
        })
        .event(target, STATUS, "exit_of, current_thread", move |subject| {
            in_block_on(&runtime, subject)
        });
        let runtime = os::multi_thread();
        list.event(target, STATUS, "exit_of, multi_thread", move |subject| {
            in_task(&runtime, subject)
        });
        if is_child {
            let runtime = os::current_thread();
            let name = "exit_of, including the close";
            list.event(target, STATUS, name, move |subject| {
                including_close(&runtime, subject)
            });
        }
        list.event(target, STATUS, "blocking_wait, no runtime", blocking);
        let runtime = os::current_thread();
        let name = "waitpid-any on spawn_blocking";
        list.label("waitpid-any")
            .event(target, NO_STATUS, name, move |subject| {
                on_thread(&runtime, subject)
            });
    }
    add_spawners(&mut list, subjects);
    add_python(&mut list, subjects, python);
    add_intervals(&mut list);
    list.contenders
}

/// Adds libraries that only wait for the children that they have started.
fn add_spawners(list: &mut List<'_>, subjects: &Subjects) {
    let command_of = |hook| {
        let mut command = std::process::Command::new("true");
        // SAFETY: the hook only makes system calls, and ends the child.
        unsafe { command.pre_exec(hook) };
        command
    };
    let runtime = os::current_thread();
    let mut command = tokio::process::Command::from(command_of(subjects.hook()));
    let name = "tokio::process: Child::wait";
    list.label("tokio Child::wait")
        .started(Method::Event, name, move |subjects| {
            runtime.block_on(async {
                let mut child = command.spawn().expect("the child starts");
                subjects.release();
                let status = child.wait().await.expect("a status");
                let now = now();
                assert_eq!(status.code(), Some(7));
                now
            })
        });
    let mut command = async_process::Command::from(command_of(subjects.hook()));
    let name = "async-process: Child::status";
    list.label("async-process")
        .started(Method::Event, name, move |subjects| {
            futures_lite::future::block_on(async {
                let mut child = command.spawn().expect("the child starts");
                subjects.release();
                let status = child.status().await.expect("a status");
                let now = now();
                assert_eq!(status.code(), Some(7));
                now
            })
        });
}

/// Adds psutil and CPython. Each contender has a Python interpreter of its own.
fn add_python(list: &mut List<'_>, subjects: &Subjects, python: Option<&Python>) {
    let start = || {
        let mut command = python?.command("latency");
        command.arg(std::env::current_exe().expect("the path of this program"));
        command.arg(subjects.file());
        Some(Helper::start(command).expect("Python is ready"))
    };
    // A subject must be a child of Python, so Python starts the subject.
    if let Some(mut helper) = start() {
        let name = "psutil 7.2.2: Process.wait";
        list.label("psutil").started(Method::Event, name, move |_| {
            helper.send("psutil");
            helper.receive()
        });
    }
    if let Some(mut helper) = start() {
        let name = "CPython: Popen.wait(timeout)";
        list.label("CPython Popen")
            .started(Method::Interval, name, move |_| {
                helper.send("popen");
                helper.receive()
            });
    }
    if let Some(mut helper) = start() {
        let name = "psutil 7.2.2, reaped at once";
        list.label("psutil")
            .interval(NO_STATUS, name, move |subject| {
                helper.send(&format!("other {}", subject.pid));
                assert_eq!(helper.receive_line(), "opened");
                subject.release();
                // psutil mistakes another parent's zombie for a running process.
                subject.reap_at_exit();
                helper.receive()
            });
    }
}

fn add_intervals(list: &mut List<'_>) {
    use sysinfo::{Pid, ProcessesToUpdate, System};
    let mut system = System::new().expect("a system");
    let name = "sysinfo: Process::wait, reaped at once";
    list.label("sysinfo")
        .interval(NO_STATUS, name, move |subject| {
            let pid = Pid::from_u32(subject.pid);
            system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
            subject.release();
            // sysinfo mistakes a zombie for a running process.
            subject.reap_at_exit();
            system.process(pid).expect("the process is listed").wait();
            now()
        });
    let name = "a loop of kill(pid, 0), reaped at once";
    list.interval(NO_STATUS, name, |subject| {
        subject.release();
        // A zombie can be signalled, like a running process.
        subject.reap_at_exit();
        idle::kill_loop(subject.pid, || false);
        now()
    });
    match Helper::polled() {
        Ok(mut helper) => {
            let name = "exit_of, pidfds denied: polled";
            list.label("exit_of, polling")
                .interval(STATUS, name, move |subject| {
                    helper.send(&subject.pid.to_string());
                    subject.release();
                    helper.receive()
                });
        }
        Err(error) => println!("\nskipped: exit_of by polling, {error}"),
    }
}

fn by_hand(epoll: &Epoll, subject: &Subject<'_>, status: bool) -> u64 {
    let pidfd = os::pidfd_open(subject.pid);
    epoll.add(pidfd.as_raw_fd(), libc::EPOLLIN, 0);
    subject.release();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    assert_eq!(epoll.wait(&mut events, -1).len(), 1);
    if status {
        assert_eq!(os::child_status(pidfd.as_raw_fd()), 7);
    }
    let now = now();
    epoll.delete(pidfd.as_raw_fd());
    now
}

fn with_mio(poll: &mut mio::Poll, events: &mut mio::Events, subject: &Subject<'_>) -> u64 {
    let pidfd = os::pidfd_open(subject.pid);
    let fd = pidfd.as_raw_fd();
    let (token, interest) = (mio::Token(0), mio::Interest::READABLE);
    poll.registry()
        .register(&mut SourceFd(&fd), token, interest)
        .expect("the pidfd is registered");
    subject.release();
    poll.poll(events, None).expect("an event");
    let now = now();
    assert_eq!(events.iter().count(), 1);
    poll.registry()
        .deregister(&mut SourceFd(&fd))
        .expect("the pidfd is deregistered");
    now
}

fn async_fd(runtime: &Runtime, subject: &Subject<'_>, status: bool) -> u64 {
    runtime.block_on(async {
        let pidfd = os::pidfd_open(subject.pid);
        // SAFETY: the descriptor is owned by the `AsyncFd` and never replaced.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd = pidfd.expect("the pidfd is registered");
        subject.release();
        drop(pidfd.readable().await.expect("an event"));
        if status {
            assert_eq!(os::child_status(pidfd.as_raw_fd()), 7);
        }
        now()
    })
}

fn in_block_on(runtime: &Runtime, subject: &Subject<'_>) -> u64 {
    runtime.block_on(async {
        let mut process = exit_of(subject.pid);
        assert!(futures::poll!(&mut process).is_pending());
        subject.release();
        // Await a reference: the pidfd is then closed after the time is read.
        let exit = (&mut process).await.expect("an exit");
        let now = now();
        assert_eq!(code_of(exit), Some(7));
        now
    })
}

fn in_task(runtime: &Runtime, subject: &Subject<'_>) -> u64 {
    let mut process = exit_of(subject.pid);
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
    subject.release();
    runtime.block_on(task).expect("the task does not panic")
}

fn including_close(runtime: &Runtime, subject: &Subject<'_>) -> u64 {
    runtime.block_on(async {
        let process = exit_of(subject.pid);
        subject.release();
        let exit = process.await.expect("an exit");
        let now = now();
        assert_eq!(code_of(exit), Some(7));
        now
    })
}

fn blocking(subject: &Subject<'_>) -> u64 {
    let mut process = exit_of(subject.pid);
    subject.release();
    let exit = process.blocking_wait(None).expect("an exit");
    let now = now();
    assert_eq!(exit.and_then(code_of), Some(7));
    now
}

fn on_thread(runtime: &Runtime, subject: &Subject<'_>) -> u64 {
    runtime.block_on(async {
        let mut handle = waitpid_any::WaitHandle::open(subject.pid as i32).expect("a handle");
        let wait = tokio::task::spawn_blocking(move || handle.wait());
        subject.release();
        wait.await
            .expect("the thread does not panic")
            .expect("an exit");
        now()
    })
}

pub(super) fn code_of(exit: Exit) -> Option<i32> {
    exit.status().and_then(|status| status.code())
}
