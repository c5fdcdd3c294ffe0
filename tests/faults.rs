//! Promise: if any system call fails with any error, the outcome is right or a plain error.
//!
//! The test first runs each [scenario](SCENARIOS) without a fault, and counts the crate's system
//! calls. The test then repeats the scenario for each of these calls, with each of the call's
//! [errors](ERRORS). The tables [`ONCE`] and [`ALWAYS`] list all outcomes that are not right, with
//! the few exceptions to the promise. A system call that is missing from [`CALLS`] fails the test.
//!
//! Only a `clock_gettime` that enters the kernel can fail here. Reading the processor time enters
//! the kernel; reading the time since boot does not.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use libc::*;
use support::linux::{self, Forked, Grandchild};
use support::trap::{self, CALLS, Fault, armed, armed_future, call};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_process_exit::{Exit, ExitSet, ProcessExit};

/// The outcome of a fault, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The result is the same as without a fault. The mechanism may be polling.
    Right,
    /// The exit is reported without its status.
    NoStatus,
    /// The exit of another parent's child is reported only after the reap.
    AtReap,
    /// The crate returns an error that names the process. Once the fault is over, a retry succeeds.
    Error,
    /// The crate believes an error that is false, for example that the process is gone.
    Misled,
    /// The reap is never reported, because the only call that can detect the reap always fails.
    Missed,
    /// A panic, a wrong status, a stolen status or a leak. Never allowed.
    Broken,
}
use Outcome::{AtReap, Broken, Error, Misled, Missed, NoStatus, Right};

/// A call, some of its errors, and the worst outcome of these errors.
type Row = (&'static str, &'static [c_int], Outcome);

/// The worst outcome, at any step of any [scenario](SCENARIOS), of a call that fails once.
///
/// The outcome of all other errors is [`Right`].
#[rustfmt::skip]
const ONCE: &[Row] = &[
    // The error means that no process has this pid. The identity of a running process is not found.
    ("pidfd_open", &[ESRCH], Misled),
    // The process is polled, so its status stays unknown if it is reaped before the first poll.
    ("pidfd_open", &[EACCES, EMFILE, ENFILE, ENODEV, ENOMEM, EPERM, ENOSYS], NoStatus),
    // A set fails to reregister a process for the reap. A first registration that fails only leads
    // to polling.
    ("epoll_ctl", ANY, Error),
    ("epoll_wait", &[EBADF, EFAULT, EINVAL, EPERM, ENOSYS], Error),
    ("poll", &[EFAULT, ENOMEM, EPERM, ENOSYS], Error),
    ("select", &[EBADF, EINVAL, ENOMEM, EPERM, ENOSYS], Error),
    // The error means that the descriptor is no pidfd. After other errors, /proc shows the status.
    ("waitid", &[EBADF], Error),
    // On old kernels, the error means that a zombie has been reaped.
    ("pidfd_send_signal", &[ESRCH], Misled),
    ("ioctl", ANY, NoStatus),
    ("open", &[EACCES, ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOMEM, ENOTDIR, ENXIO, EPERM, ENOSYS], NoStatus),
    ("read", &[EAGAIN, EBADF, EFAULT, EINVAL, EIO, EISDIR, ESRCH, EPERM, ENOSYS], NoStatus),
    // Without a pidfd, `open` checks only once whether /proc belongs to our pid namespace.
    ("readlink", ANY, AtReap),
    // The error means that there is no such process, so the id of a thread yields the wrong error.
    ("kill", &[ESRCH], Error),
    ("getpgid", &[ESRCH], Error),
    ("uname", ANY, NoStatus),
];

/// As [`ONCE`], for a call that always fails.
#[rustfmt::skip]
const ALWAYS: &[Row] = &[
    ("pidfd_open", &[ESRCH], Error),
    ("pidfd_open", ANY, NoStatus),
    ("epoll_wait", ANY, Error),
    ("poll", &[ENOMEM, EPERM, ENOSYS], Error),
    ("select", ANY, Error),
    ("waitid", &[EBADF], Error),
    ("pidfd_send_signal", &[ESRCH], Misled),
    // If `select` replaces `poll`, only this call detects a reap.
    ("pidfd_send_signal", ANY, Missed),
    ("ioctl", ANY, NoStatus),
    // Without /proc and without a pidfd, nothing shows a zombie of another parent.
    ("open", ANY, AtReap),
    ("read", ANY, AtReap),
    ("readlink", ANY, AtReap),
    ("statx", &[EACCES, EBADF, EINVAL, ENOENT, ENOMEM, EPERM], NoStatus),
    ("kill", &[ESRCH], Error),
    ("getpgid", &[ESRCH], Error),
    ("uname", ANY, NoStatus),
];

/// Stands for all errors of a call.
const ANY: &[c_int] = &[];

/// The errors that each call fails with: those on its man page, and those that sandboxes return.
#[rustfmt::skip]
const ERRORS: [(&str, &[c_int]); CALLS.len()] = [
    ("pidfd_open", &[EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM, ESRCH, ENOENT, EINTR, EACCES, EPERM, ENOSYS]),
    ("epoll_create1", &[EINVAL, EMFILE, ENFILE, ENOMEM, EPERM, ENOSYS]),
    ("epoll_ctl", &[EBADF, EEXIST, EINVAL, ELOOP, ENOENT, ENOMEM, ENOSPC, EPERM, ENOSYS]),
    ("epoll_wait", &[EBADF, EFAULT, EINTR, EINVAL, EPERM, ENOSYS]),
    ("poll", &[EFAULT, EINTR, EINVAL, ENOMEM, EPERM, ENOSYS]),
    ("select", &[EBADF, EINTR, EINVAL, ENOMEM, EPERM, ENOSYS]),
    ("waitid", &[EAGAIN, EBADF, ECHILD, EINTR, EINVAL, ESRCH, EPERM, ENOSYS]),
    ("pidfd_send_signal", &[EBADF, EINVAL, EPERM, ESRCH, ENOSYS]),
    ("ioctl", &[EBADF, EFAULT, EINVAL, ENOTTY, ESRCH, EREMOTE, EPERM, ENOSYS]),
    ("fstatfs", &[EBADF, EFAULT, EINTR, EIO, ENOMEM, EOVERFLOW, EPERM, ENOSYS]),
    ("fstat", &[EBADF, EFAULT, ENOMEM, EOVERFLOW, EPERM, ENOSYS]),
    ("stat", &[EACCES, ENOENT, EPERM, ENOSYS]),
    ("statx", &[EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EPERM, ENOSYS]),
    ("fcntl", &[EINVAL, EMFILE, EACCES, EAGAIN, EPERM, ENOSYS]),
    ("open", &[EACCES, EINTR, ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOMEM, ENOTDIR, ENXIO, EPERM, ENOSYS]),
    ("read", &[EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EISDIR, ESRCH, EPERM, ENOSYS]),
    ("pread", &[EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EISDIR, EOVERFLOW, ESPIPE, ESRCH, EPERM, ENOSYS]),
    ("readlink", &[EACCES, EINVAL, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EPERM, ENOSYS]),
    ("getdents64", &[EBADF, EFAULT, EINVAL, ENOENT, ENOTDIR, EPERM, ENOSYS]),
    ("kill", &[EINVAL, EPERM, ESRCH, ENOSYS]),
    ("getpgid", &[EPERM, ESRCH, ENOSYS]),
    ("tgkill", &[EAGAIN, EINVAL, EPERM, ESRCH, ENOSYS]),
    ("clock_gettime", &[EACCES, EFAULT, EINVAL, ENODEV, ENOTSUP, EPERM, ENOSYS]),
    ("getrlimit", &[EFAULT, EINVAL, EPERM, ESRCH, ENOSYS]),
    ("uname", &[EFAULT, EPERM, ENOSYS]),
    ("close", &[EBADF, EINTR, EIO, ENOSPC, EDQUOT]),
    ("close_range", &[EINVAL, EMFILE, EPERM, ENOSYS]),
];

/// The errors of calls that always fail. Without `ALL_FAULTS`, only the first three are tried.
const LASTING: [c_int; 13] = [
    EPERM, ENOSYS, ESRCH, EACCES, EBADF, ECHILD, EINVAL, EIO, EMFILE, ENOENT, ENOMEM, ENOSPC,
    ENOTTY,
];

/// Code of the crate that runs while calls fail.
struct Scenario {
    name: &'static str,
    /// A call that fails in every run to reach the code under test, with its errno and its count.
    constant_fault: Option<(&'static str, c_int, u32)>,
    run: fn(&mut Run),
}

const FOREVER: u32 = u32::MAX / 2;

#[rustfmt::skip]
const SCENARIOS: [Scenario; 20] = [
    Scenario { name: "an identity, and a signal", constant_fault: None, run: identity_and_signal },
    Scenario { name: "a thread, and signals denied", constant_fault: Some(("kill", EPERM, FOREVER)), run: bad_pids },
    Scenario { name: "a child", constant_fault: None, run: child },
    Scenario { name: "a grandchild", constant_fault: None, run: grandchild },
    Scenario { name: "reaped before the first query", constant_fault: None, run: reaped_early },
    Scenario { name: "outside a runtime", constant_fault: None, run: outside_runtime },
    Scenario { name: "an adopted pidfd", constant_fault: None, run: adopted },
    Scenario { name: "a set", constant_fault: None, run: set },
    Scenario { name: "no such process, and a thread", constant_fault: None, run: bad_pids },
    Scenario { name: "a child, polled by pid", constant_fault: Some(("pidfd_open", EPERM, FOREVER)), run: child },
    Scenario { name: "a grandchild, polled by pid", constant_fault: Some(("pidfd_open", EPERM, FOREVER)), run: grandchild },
    Scenario { name: "outside a runtime, polled by pid", constant_fault: Some(("pidfd_open", EPERM, FOREVER)), run: outside_runtime },
    Scenario { name: "a set, polled by pid", constant_fault: Some(("pidfd_open", ENOSYS, FOREVER)), run: set },
    Scenario { name: "no such process, and a thread, by pid", constant_fault: Some(("pidfd_open", EPERM, FOREVER)), run: bad_pids },
    Scenario { name: "back to events", constant_fault: Some(("pidfd_open", EMFILE, 1)), run: grandchild },
    Scenario { name: "a child, polled by pidfd", constant_fault: Some(("epoll_ctl", ENOSPC, FOREVER)), run: child },
    Scenario { name: "a grandchild, polled by pidfd", constant_fault: Some(("epoll_ctl", ENOSPC, FOREVER)), run: grandchild },
    Scenario { name: "a set, polled by pidfd", constant_fault: Some(("epoll_ctl", ENOSPC, FOREVER)), run: set },
    Scenario { name: "a set without epoll", constant_fault: Some(("epoll_create1", EMFILE, FOREVER)), run: set },
    Scenario { name: "a descriptor limit of zero", constant_fault: Some(("poll", EINVAL, FOREVER)), run: grandchild },
];

/// One run of a scenario.
struct Run {
    worst: Outcome,
    /// Descriptions of all outcomes but [`Right`].
    remarks: Vec<String>,
    /// Installs the faults.
    install: Box<dyn Fn()>,
}

impl Run {
    /// Records an outcome.
    fn record(&mut self, outcome: Outcome, remark: impl Into<String>) {
        self.worst = self.worst.max(outcome);
        if outcome != Right {
            self.remarks.push(remark.into());
        }
    }

    /// Records an error, which must contain the number of the process or descriptor.
    ///
    /// If `number` is [`SET`], the error must name a process or be an OS error of the set itself.
    fn error(&mut self, error: &io::Error, number: u32) {
        let text = error.to_string();
        let is_named = text.contains(&number.to_string())
            || number == SET && (text.contains("process ") || error.raw_os_error().is_some());
        let outcome = if is_named { Error } else { Broken };
        self.record(outcome, format!("error: {text}"));
    }

    /// Records an exit, which must be the target's.
    fn exit(&mut self, exit: Exit, target: &Target) {
        if exit.pid() != Some(target.id) {
            self.record(Broken, format!("{exit} instead of {}", target.id));
        }
        self.status(exit, target);
    }

    /// Records the status of an exit.
    fn status(&mut self, exit: Exit, target: &Target) {
        match exit.status().map(|status| status.code()) {
            None => self.record(NoStatus, "no status"),
            Some(code) if code == Some(target.code.into()) => {}
            Some(code) => self.record(Broken, format!("status {code:?}, not {}", target.code)),
        }
    }

    /// Starts a runtime, and then installs the faults.
    fn start(&self) -> Runtime {
        let runtime = Builder::new_current_thread()
            // Do not enable signals: their descriptors stay open until this process exits.
            .enable_io()
            .enable_time()
            .build()
            .unwrap();
        (self.install)();
        trap::arm_other_threads();
        runtime
    }
}

/// A process that exits with `code` at [`Target::end`].
struct Target {
    id: u32,
    code: u8,
    kind: Kind,
    ended: bool,
    reaped: bool,
}

enum Kind {
    Child(Option<Forked>, File),
    Grandchild(Grandchild),
}

impl Target {
    fn child(code: u8) -> Target {
        let (read, write) = linux::pipe();
        let fd = read.as_raw_fd();
        let forked = linux::fork(|| i32::from(linux::read_byte(fd)));
        let id = forked.id();
        Target {
            id,
            code,
            kind: Kind::Child(Some(forked), write),
            ended: false,
            reaped: false,
        }
    }

    fn grandchild(code: u8) -> Target {
        let grandchild = Grandchild::spawn();
        Target {
            id: grandchild.id(),
            code,
            kind: Kind::Grandchild(grandchild),
            ended: false,
            reaped: false,
        }
    }

    /// Makes the process exit, and blocks until it is a zombie.
    fn end(&mut self) {
        self.ended = true;
        match &mut self.kind {
            Kind::Child(_, pipe) => pipe.write_all(&[self.code]).unwrap(),
            Kind::Grandchild(grandchild) => grandchild.end(self.code),
        }
        support::until("the target is a zombie", || {
            linux::state_of(self.id) == Some('Z')
        });
    }

    /// Reaps the process, or has its parent reap it. Panics if the status of a child is gone.
    fn reap(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            return;
        }
        match &mut self.kind {
            Kind::Child(forked, _) => {
                let status = forked.take().unwrap().reap();
                assert_eq!(
                    status,
                    i32::from(self.code) << 8,
                    "the crate must not reap the child"
                );
            }
            Kind::Grandchild(grandchild) => grandchild.reap(),
        }
    }
}

const TRIES: usize = 3;
/// Stands for a process in errors that a set yields.
const SET: u32 = 0;
/// How long a wait may take. Even the slowest wait takes far less.
const PATIENCE: Duration = Duration::from_millis(700);

/// Calls `operation` until it succeeds, at most [`TRIES`] times. Records its errors.
fn retry<T>(run: &mut Run, number: u32, mut operation: impl FnMut() -> io::Result<T>) -> Option<T> {
    for _ in 0..TRIES {
        match armed(&mut operation) {
            Ok(value) => return Some(value),
            Err(error) => run.error(&error, number),
        }
    }
    None
}

/// Awaits an exit, and reaps the target if no exit is reported.
///
/// Returns whether the exit was reported.
async fn expect_exit(run: &mut Run, process: &mut ProcessExit, target: &mut Target) -> bool {
    let mut tries = 0;
    while tries < TRIES {
        match timeout(PATIENCE, armed_future(&mut *process)).await {
            Ok(Ok(exit)) => {
                run.exit(exit, target);
                return true;
            }
            Ok(Err(error)) => {
                run.error(&error, target.id);
                tries += 1;
            }
            Err(_) if !target.reaped => {
                run.record(AtReap, "no exit before the reap");
                target.reap();
            }
            Err(_) => {
                run.record(Missed, "no exit after the reap");
                return false;
            }
        }
    }
    false
}

/// Checks for several polls that a wait stays pending. Returns whether the wait is still pending.
async fn expect_pending(run: &mut Run, process: &mut ProcessExit, remark: &str) -> bool {
    for _ in 0..TRIES {
        match timeout(Duration::from_millis(2), armed_future(&mut *process)).await {
            Ok(Ok(_)) => {
                run.record(Misled, remark);
                return false;
            }
            Ok(Err(error)) => run.error(&error, process.pid().unwrap()),
            Err(_) => break,
        }
    }
    match armed(|| process.try_wait()) {
        Ok(None) => true,
        Ok(Some(_)) => {
            run.record(Misled, remark);
            false
        }
        Err(error) => {
            run.error(&error, process.pid().unwrap());
            true
        }
    }
}

/// Waits for the exit and then for the reap of an opened process.
async fn expect_exit_and_reap(run: &mut Run, mut process: ProcessExit, mut target: Target) {
    if !expect_pending(run, &mut process, "a false exit").await {
        return;
    }
    target.end();
    if !expect_exit(run, &mut process, &mut target).await || target.reaped {
        return;
    }
    let mut process = process.until_reaped();
    if !expect_pending(run, &mut process, "a false reap").await {
        return;
    }
    target.reap();
    expect_exit(run, &mut process, &mut target).await;
}

/// Opens a target and waits for its exit and its reap.
fn open_and_wait(run: &mut Run, target: Target) {
    let runtime = run.start();
    if let Some(process) = retry(run, target.id, || ProcessExit::open(target.id)) {
        runtime.block_on(expect_exit_and_reap(run, process, target));
    }
}

fn child(run: &mut Run) {
    open_and_wait(run, Target::child(7));
}

fn grandchild(run: &mut Run) {
    open_and_wait(run, Target::grandchild(8));
}

fn reaped_early(run: &mut Run) {
    let mut target = Target::grandchild(8);
    let runtime = run.start();
    if let Some(mut process) = retry(run, target.id, || ProcessExit::open(target.id)) {
        target.end();
        target.reap();
        runtime.block_on(expect_exit(run, &mut process, &mut target));
    }
}

fn outside_runtime(run: &mut Run) {
    let targets = [Target::child(7), Target::grandchild(8)];
    (run.install)();
    for mut target in targets {
        let Some(mut process) = retry(run, target.id, || ProcessExit::open(target.id)) else {
            continue;
        };
        let query = |run: &mut Run, process: &mut ProcessExit, target: &Target, expected: bool| {
            match retry(run, target.id, || process.try_wait()) {
                Some(Some(exit)) if expected => run.exit(exit, target),
                Some(Some(_)) => run.record(Misled, "a false exit"),
                Some(None) if expected && !target.reaped => {
                    run.record(AtReap, "no exit before the reap");
                }
                Some(None) if expected => match armed(|| process.try_wait()) {
                    Ok(Some(exit)) => run.exit(exit, target),
                    other => run.record(Missed, format!("a missed reap: {other:?}")),
                },
                _ => {}
            }
        };
        query(run, &mut process, &target, false);
        target.end();
        query(run, &mut process, &target, true);
        let mut process = process.until_reaped();
        target.reap();
        query(run, &mut process, &target, true);
    }
}

fn adopted(run: &mut Run) {
    let target = Target::grandchild(8);
    let runtime = run.start();
    for _ in 0..TRIES {
        let pidfd = linux::pidfd_open(target.id, 0);
        let number = pidfd.as_raw_fd() as u32;
        match armed(|| ProcessExit::try_from(pidfd)) {
            Ok(process) => {
                return runtime.block_on(expect_exit_and_reap(run, process, target));
            }
            Err(error) => run.error(&error, number),
        }
    }
}

fn set(run: &mut Run) {
    // The set waits for the exits of the first two targets, and for the reap of the third.
    let mut targets = [
        Target::child(7),
        Target::grandchild(8),
        Target::grandchild(9),
    ];
    let runtime = run.start();
    let mut set = armed(|| ExitSet::with_capacity(100));
    for target in &targets[..2] {
        retry(run, target.id, || set.insert(target.id));
    }
    if set.contains(targets[0].id) && armed(|| set.insert(targets[0].id)).is_ok_and(|is_new| is_new)
    {
        run.record(Misled, "a duplicate was inserted");
    }
    if let Some(process) = retry(run, targets[2].id, || ProcessExit::open(targets[2].id)) {
        armed(|| set.insert_exit(process.until_reaped()));
        if let Some(process) = retry(run, targets[2].id, || ProcessExit::open(targets[2].id)) {
            if armed(|| set.insert_exit(process)) {
                run.record(Misled, "a duplicate was inserted");
            }
        }
    }
    runtime.block_on(async {
        poll_briefly(run, &mut set, &targets).await;
        if let Some(exit) = armed(|| set.try_next_exit()) {
            check_yielded(run, exit, &targets);
        }
        for index in 0..targets.len() {
            targets[index].end();
            if index == 2 {
                poll_briefly(run, &mut set, &targets).await;
                targets[index].reap();
            }
            let mut tries = 0;
            while set.contains(targets[index].id) && tries < TRIES {
                tries += 1;
                match timeout(PATIENCE, armed_future(set.next_exit())).await {
                    Ok(Some(exit)) => check_yielded(run, exit, &targets),
                    Ok(None) => run.record(Broken, "the set lost a process"),
                    Err(_) if !targets[index].reaped => {
                        run.record(AtReap, "no exit before the reap");
                        targets[index].reap();
                    }
                    Err(_) => run.record(Missed, "no exit after the reap"),
                }
            }
        }
        // Insert a zombie that the set has yielded before.
        let pid = targets[0].id;
        if !targets[0].reaped && retry(run, pid, || set.insert(pid)) == Some(true) {
            armed(|| set.remove(pid));
        }
    });
    armed(|| drop(set));
    targets[0].reap();
    targets[1].reap();
}

/// Polls a set for a short time, and checks an exit if the set yields any.
async fn poll_briefly(run: &mut Run, set: &mut ExitSet, targets: &[Target]) {
    let limit = Duration::from_millis(2);
    if let Ok(Some(exit)) = timeout(limit, armed_future(set.next_exit())).await {
        check_yielded(run, exit, targets);
    }
}

/// Records the outcome of an exit or an error that a set has yielded.
fn check_yielded(run: &mut Run, exit: io::Result<Exit>, targets: &[Target]) {
    let exit = match exit {
        Ok(exit) => exit,
        Err(error) => return run.error(&error, SET),
    };
    let target = targets
        .iter()
        .find(|target| Some(target.id) == exit.pid())
        .expect("the set yields only its members");
    let is_until_reaped = target.id == targets[2].id;
    match (target.ended, is_until_reaped, target.reaped) {
        (true, false, _) => run.status(exit, target),
        // The status is unknown if no poll has seen the zombie.
        (true, true, true) if exit.status().is_none() => {}
        (true, true, true) => run.status(exit, target),
        _ => run.record(Misled, format!("yielded too early: {exit}")),
    }
}

fn bad_pids(run: &mut Run) {
    let mut reaped = Target::grandchild(0);
    reaped.end();
    reaped.reap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (tid_sender, tid_receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        tid_sender.send(support::thread_id()).unwrap();
        let _ = stopped.recv();
    });
    let tid = tid_receiver.recv().unwrap();
    (run.install)();
    for (pid, kind) in [
        (reaped.id, io::ErrorKind::NotFound),
        (tid, io::ErrorKind::InvalidInput),
    ] {
        match armed(|| ProcessExit::open(pid)) {
            Ok(_) => run.record(Misled, format!("opened {pid} instead of the error {kind}")),
            Err(error) if error.kind() == kind => {}
            Err(error) => run.error(&error, pid),
        }
    }
    drop(stop);
    thread.join().unwrap();
}

/// Calls `operation`, which uses a running process.
///
/// An error must name the process, and must not be `NotFound`.
fn try_once<T>(run: &mut Run, pid: u32, operation: impl FnOnce() -> io::Result<T>) -> Option<T> {
    match armed(operation) {
        Ok(value) => Some(value),
        Err(error) => {
            if error.kind() == io::ErrorKind::NotFound {
                run.record(Misled, format!("a running process is not found: {error}"));
            } else if !error.to_string().contains(&pid.to_string()) {
                run.record(Broken, format!("the error names no process: {error}"));
            }
            None
        }
    }
}

fn identity_and_signal(run: &mut Run) {
    let targets = [Target::child(7), Target::grandchild(8)];
    (run.install)();
    for mut target in targets {
        let Some(process) = retry(run, target.id, || ProcessExit::open(target.id)) else {
            continue;
        };
        let identity = try_once(run, target.id, || process.identity());
        if let Some(identity) = identity {
            let reopened = try_once(run, target.id, || identity.open());
            if reopened.is_some_and(|reopened| reopened.pid() != Some(target.id)) {
                run.record(Broken, "the identity opened another process");
            }
        }
        let _ = try_once(run, target.id, || process.signal(0));
        target.end();
        target.reap();
        if identity.is_some_and(|identity| armed(|| identity.open()).is_ok()) {
            run.record(Broken, "the identity of a reaped process was opened");
        }
        match armed(|| process.signal(0)) {
            Err(error) if error.to_string().contains(&target.id.to_string()) => {}
            Err(error) => run.record(Broken, format!("the error names no process: {error}")),
            Ok(()) => run.record(Broken, "a signal to a reaped process succeeded"),
        }
    }
}

/// The result of a run.
struct Report {
    worst: Outcome,
    remarks: Vec<String>,
    /// How often each of [`CALLS`] was made.
    made: Vec<u32>,
    /// How many calls the fault under test has failed.
    failed: u32,
}

/// The message of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs a scenario in a new process, because the crate caches answers of the kernel.
///
/// A fork without `exec` is enough, because no other thread of this process holds a lock.
fn run(scenario: &Scenario, fault: Option<Fault>) -> Report {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let constant_fault = scenario.constant_fault.map(|(name, errno, count)| Fault {
        call: call(name),
        errno,
        first: 1,
        count,
    });
    // SAFETY: no other thread holds a lock, so the child can allocate and lock.
    let pid = unsafe { fork() };
    if pid == 0 {
        // SAFETY: the call takes integers.
        unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) };
        let fds = linux::open_fds();
        let mut run = Run {
            worst: Right,
            remarks: Vec::new(),
            install: Box::new(move || trap::install(0, [constant_fault, fault])),
        };
        if catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut run))).is_err() {
            run.record(Broken, PANIC.lock().unwrap().clone());
        }
        if let Some(number) = trap::unknown() {
            run.record(Broken, format!("system call {number} is not in CALLS"));
        }
        // The poller's thread may still hold a waker, and thereby descriptors of the runtime.
        let start = Instant::now();
        while linux::threads() > 1 && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let fds_after = linux::open_fds();
        if fds_after != fds {
            let leaked: Vec<_> = fds_after.iter().filter(|fd| !fds.contains(fd)).collect();
            run.record(Broken, format!("leaked descriptors: {leaked:?}"));
        }
        let made: Vec<String> = trap::made().iter().map(u32::to_string).collect();
        let remarks = run.remarks.join("; ").replace('\n', " ");
        let report = format!(
            "{}\n{}\n{}\n{remarks}\n",
            run.worst as u8,
            trap::failed(),
            made.join(" ")
        );
        let _ = theirs.write_all(report.as_bytes());
        linux::exit_group(0);
    }
    drop(theirs);
    ours.set_read_timeout(Some(8 * PATIENCE)).unwrap();
    let mut report = String::new();
    let read = ours.read_to_string(&mut report);
    linux::kill(pid as u32, SIGKILL);
    let status = linux::reap_raw(pid);
    let mut lines = report.lines();
    let mut line = || lines.next().unwrap_or_default().to_owned();
    let (worst, failed, made, remarks) = (line(), line(), line(), line());
    let worst = [Right, NoStatus, AtReap, Error, Misled, Missed]
        .into_iter()
        .find(|outcome| worst == (*outcome as u8).to_string());
    let mut remarks: Vec<String> = Some(remarks)
        .into_iter()
        .filter(|remark| !remark.is_empty())
        .collect();
    if read.is_err() || report.is_empty() {
        remarks.push(format!(
            "the process was killed, or sent no report: status {status:#x}, {read:?}"
        ));
    }
    Report {
        worst: worst.unwrap_or(Broken),
        remarks,
        made: made
            .split(' ')
            .filter_map(|count| count.parse().ok())
            .collect(),
        failed: failed.parse().unwrap_or(0),
    }
}

/// Runs a scenario with each fault at each step, and prints the outcomes.
fn run_with_each_fault(scenario: &Scenario) {
    std::panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap() = info.to_string();
    }));
    // Start a runtime once: tokio opens descriptors that stay open, and would count as leaks.
    drop(Builder::new_current_thread().enable_all().build());

    let max_steps = if all_faults() { 8 } else { 2 };
    let baseline = run(scenario, None);
    let remarks = baseline.remarks.join("; ");
    println!("without\t\t\t{:?}\t{remarks}", baseline.worst);
    for (call, (name, errors)) in ERRORS.iter().enumerate() {
        let made = baseline.made.get(call).copied().unwrap_or(0);
        let faults = errors.iter().flat_map(|&errno| {
            let once = (1..=made.min(max_steps)).map(move |first| (errno, first, 1));
            let lasting = if all_faults() {
                &LASTING[..]
            } else {
                &LASTING[..3]
            };
            let is_lasting = made > 0 && lasting.contains(&errno);
            let always = is_lasting.then_some((errno, 1, FOREVER));
            once.chain(always)
        });
        for (errno, first, count) in faults {
            let report = run(
                scenario,
                Some(Fault {
                    call,
                    errno,
                    first,
                    count,
                }),
            );
            let how = if count == 1 { "once" } else { "always" };
            let (worst, remarks) = (report.worst, report.remarks.join("; "));
            println!(
                "{name}\t{errno}\t{how}\t{worst:?}\tat {first}: {remarks}\t{}",
                report.failed
            );
        }
    }
}

/// Returns whether to fail the first eight calls of each kind instead of two. Eight take a minute.
///
/// A scenario makes more than eight calls of a kind only by polling, which repeats the same calls.
fn all_faults() -> bool {
    std::env::var_os("ALL_FAULTS").is_some()
}

#[test]
fn failing_calls_end_in_a_right_outcome_or_an_error() {
    const TEST: &str = "failing_calls_end_in_a_right_outcome_or_an_error";
    if let Some(role) = support::role() {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == role);
        return run_with_each_fault(scenario.expect("a scenario"));
    }
    if !linux::seccomp_filters() {
        return support::skip("system calls cannot be trapped");
    }
    if !linux::pidfd_reports_status() {
        return support::skip("this kernel is older than 6.15, or polling is forced");
    }
    let start = Instant::now();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let lines = Mutex::new(Vec::new());
    // Run many scenarios at once: a scenario mostly waits.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(scenario) =
                    SCENARIOS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let output = support::rerun(TEST, scenario.name, |_| {});
                    support::assert_passed(&output);
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let printed = text.lines().map(|line| (scenario.name, line.to_owned()));
                    lines.lock().unwrap().extend(printed.collect::<Vec<_>>());
                }
            });
        }
    });

    let mut wrong = Vec::new();
    let mut seen: BTreeMap<(&str, &str, c_int), Outcome> = BTreeMap::new();
    let (mut runs, mut hits) = (0, 0);
    for (scenario, line) in lines.lock().unwrap().iter() {
        // The test harness prints the name of the test at the start of the first line.
        let line = line.split(" ... ").last().unwrap_or_default();
        let fields: Vec<&str> = line.split('\t').collect();
        let &[name, errno, how, outcome, remarks, ..] = &fields[..] else {
            continue;
        };
        let outcome = [Right, NoStatus, AtReap, Error, Misled, Missed]
            .into_iter()
            .find(|candidate| format!("{candidate:?}") == outcome)
            .unwrap_or(Broken);
        runs += 1;
        if name.ends_with("without") {
            if outcome != Right {
                wrong.push(format!(
                    "{scenario}, without a fault: {outcome:?}: {remarks}"
                ));
            }
            continue;
        }
        hits += usize::from(fields.get(5).is_some_and(|failed| *failed != "0"));
        let errno: c_int = errno.parse().expect("a number");
        let name = ERRORS
            .iter()
            .find(|(call, _)| *call == name)
            .expect("a call")
            .0;
        let (how, table) = if how == "once" {
            ("once", ONCE)
        } else {
            ("always", ALWAYS)
        };
        let worst = seen.entry((name, how, errno)).or_insert(outcome);
        *worst = outcome.max(*worst);
        if outcome > allowed(table, name, errno) {
            let error = io::Error::from_raw_os_error(errno);
            wrong.push(format!(
                "{scenario}: {name} {how} {error}: {outcome:?}: {remarks}"
            ));
        }
    }
    // Each row must be needed: for each row, some fault has exactly the allowed outcome.
    for (how, table) in [("once", ONCE), ("always", ALWAYS)] {
        for row in table.iter().filter(|_| all_faults()) {
            let of_row = seen.iter().filter(|((name, of, errno), _)| {
                *of == how && matching(table, name, *errno) == Some(row)
            });
            let worst = of_row.map(|(_, worst)| *worst).max();
            if worst != Some(row.2) {
                wrong.push(format!("{row:?} {how}: the worst outcome is {worst:?}"));
            }
        }
    }
    println!(
        "{runs} runs, {hits} of them with a fault, in {:?}",
        start.elapsed()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong outcomes or rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Returns the first row for an error of a call. A row with [`ANY`] is for all errors.
fn matching(table: &'static [Row], call: &str, errno: c_int) -> Option<&'static Row> {
    let matches = |row: &&Row| row.0 == call && (row.1.is_empty() || row.1.contains(&errno));
    table.iter().find(matches)
}

/// Returns the worst outcome that a table allows.
fn allowed(table: &'static [Row], call: &str, errno: c_int) -> Outcome {
    matching(table, call, errno).map_or(Right, |row| row.2)
}
