//! Promise: whatever system call fails, with whatever error, the outcome is right or a plain error.
//!
//! A [scenario](SCENARIOS) is run once to count the calls that the crate makes in it, and then once
//! for each of these and each of its [errors](ERRORS). The tables [`ONCE`] and [`ALWAYS`] say what comes
//! of it. A call that is in no table fails the test. (`clock_gettime` is only seen where it enters the
//! kernel, for the processor time: the time since boot does not.)

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use libc::*;
use support::linux::{self, Forked, Grandchild};
use support::trap::{self, CALLS, Fault, armed, armed_future, call};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_process_exit::{Exit, ExitSet, ProcessExit};

/// What came of a fault, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// As if nothing had failed. (It may be polled.)
    Right,
    /// The exit is told, its status is not.
    NoStatus,
    /// Another parent's zombie is told of once it has been reaped.
    AtReap,
    /// An error that says which process, and the next try is right.
    Error,
    /// The kernel has said, falsely, what means that the process is gone. It is taken at its word.
    Believed,
    /// The reap is not told: the one call that tells it is denied for good.
    Missed,
    /// Never: a panic, a wrong status, a status that was stolen, a leak.
    Broken,
}
use Outcome::{AtReap, Believed, Broken, Error, Missed, NoStatus, Right};

type Row = (&'static str, &'static [c_int], Outcome);

/// The worst that comes of an error at any step of any [scenario](SCENARIOS), if the call fails once. What
/// is not here has no effect.
#[rustfmt::skip]
const ONCE: &[Row] = &[
    // "No process has this pid". The rest is polled: what had been reaped before the first look then has
    // no status.
    // "No process has this pid"; where that very process is looked for again, it is gone.
    ("pidfd_open", &[ESRCH], Believed),
    ("pidfd_open", &[EACCES, EMFILE, ENFILE, ENODEV, ENOMEM, EPERM, ENOSYS], NoStatus),
    // Where a set listens anew for the reap. At the registration of a process it is polled instead.
    ("epoll_ctl", ANY, Error),
    ("epoll_wait", &[EBADF, EFAULT, EINVAL, EPERM, ENOSYS], Error),
    ("poll", &[EFAULT, ENOMEM, EPERM, ENOSYS], Error),
    ("select", &[EBADF, EINVAL, ENOMEM, EPERM, ENOSYS], Error),
    // "Not a pidfd". Otherwise the status comes from elsewhere.
    ("waitid", &[EBADF], Error),
    // It is how old kernels say that a zombie has been reaped.
    ("pidfd_send_signal", &[ESRCH], Believed),
    ("ioctl", ANY, NoStatus),
    ("open", &[EACCES, ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOMEM, ENOTDIR, ENXIO, EPERM, ENOSYS], NoStatus),
    // One look at a zombie is lost, where there is no pidfd.
    ("read", &[EAGAIN, EBADF, EFAULT, EINVAL, EIO, EISDIR, ESRCH, EPERM, ENOSYS], AtReap),
    // Whether /proc numbers as we do is asked once, at the opening, where there is no pidfd.
    ("readlink", ANY, AtReap),
    ("statx", &[EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EPERM], NoStatus),
    // "No such process", for the number of a thread.
    ("kill", &[ESRCH], Error),
    ("getpgid", &[ESRCH], Error),
    // The number of a thread is taken for a process's, where there is no pidfd either.
    ("tgkill", &[EAGAIN, EINVAL, EPERM, ENOSYS], Believed),
    ("uname", ANY, NoStatus),
];

/// The same, if all such calls fail.
#[rustfmt::skip]
const ALWAYS: &[Row] = &[
    ("pidfd_open", &[ESRCH], Error),
    ("pidfd_open", ANY, NoStatus),
    ("epoll_wait", ANY, Error),
    ("poll", &[ENOMEM, EPERM, ENOSYS], Error),
    ("select", ANY, Error),
    ("waitid", &[EBADF], Error),
    ("pidfd_send_signal", &[ESRCH], Believed),
    // Where `select` has to do for `poll`.
    ("pidfd_send_signal", ANY, Missed),
    ("ioctl", ANY, NoStatus),
    // No /proc, and no pidfd either.
    ("open", ANY, AtReap),
    ("read", ANY, AtReap),
    ("readlink", ANY, AtReap),
    ("statx", &[EACCES, EBADF, EINVAL, ENOENT, ENOMEM, EPERM], NoStatus),
    ("kill", &[ESRCH], Error),
    ("getpgid", &[ESRCH], Error),
    ("tgkill", &[EINVAL, EPERM, ENOSYS], Believed),
    ("uname", ANY, NoStatus),
];

const ANY: &[c_int] = &[];

/// The errors that each call is made to fail with: those of its man page, and what sandboxes answer.
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
    ("readlink", &[EACCES, EINVAL, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EPERM, ENOSYS]),
    ("kill", &[EINVAL, EPERM, ESRCH, ENOSYS]),
    ("getpgid", &[EPERM, ESRCH, ENOSYS]),
    ("tgkill", &[EAGAIN, EINVAL, EPERM, ESRCH, ENOSYS]),
    ("clock_gettime", &[EACCES, EFAULT, EINVAL, ENODEV, ENOTSUP, EPERM, ENOSYS]),
    ("getrlimit", &[EFAULT, EINVAL, EPERM, ESRCH, ENOSYS]),
    ("uname", &[EFAULT, EPERM, ENOSYS]),
    ("close", &[EBADF, EINTR, EIO, ENOSPC, EDQUOT]),
];

/// Those that last, so that a call fails with them again and again.
const LASTING: [c_int; 13] = [
    EPERM, ENOSYS, ESRCH, EACCES, EBADF, ECHILD, EINVAL, EIO, EMFILE, ENOENT, ENOMEM, ENOSPC,
    ENOTTY,
];

/// What is done while calls fail.
struct Scenario {
    name: &'static str,
    /// What fails in any case, to get to the code that is meant.
    given: Option<(&'static str, c_int, u32)>,
    run: fn(&mut Run),
}

const EVER: u32 = u32::MAX / 2;

#[rustfmt::skip]
const SCENARIOS: [Scenario; 20] = [
    Scenario { name: "its identity, and a signal", given: None, run: identified },
    Scenario { name: "a thread, and signals denied", given: Some(("kill", EPERM, EVER)), run: bad_pids },
    Scenario { name: "a child", given: None, run: child },
    Scenario { name: "another's child", given: None, run: another },
    Scenario { name: "reaped before the first look", given: None, run: reaped_early },
    Scenario { name: "outside a runtime", given: None, run: outside },
    Scenario { name: "an adopted pidfd", given: None, run: adopted },
    Scenario { name: "a set", given: None, run: set },
    Scenario { name: "no such process, and a thread", given: None, run: bad_pids },
    Scenario { name: "a child, polled by pid", given: Some(("pidfd_open", EPERM, EVER)), run: child },
    Scenario { name: "another's child, polled by pid", given: Some(("pidfd_open", EPERM, EVER)), run: another },
    Scenario { name: "outside a runtime, by pid", given: Some(("pidfd_open", EPERM, EVER)), run: outside },
    Scenario { name: "a set, polled by pid", given: Some(("pidfd_open", ENOSYS, EVER)), run: set },
    Scenario { name: "no such process, and a thread, by pid", given: Some(("pidfd_open", EPERM, EVER)), run: bad_pids },
    Scenario { name: "back to events", given: Some(("pidfd_open", EMFILE, 1)), run: another },
    Scenario { name: "a child, polled by pidfd", given: Some(("epoll_ctl", ENOSPC, EVER)), run: child },
    Scenario { name: "another's child, polled by pidfd", given: Some(("epoll_ctl", ENOSPC, EVER)), run: another },
    Scenario { name: "a set, polled by pidfd", given: Some(("epoll_ctl", ENOSPC, EVER)), run: set },
    Scenario { name: "a set without an epoll", given: Some(("epoll_create1", EMFILE, EVER)), run: set },
    Scenario { name: "a limit of no descriptors", given: Some(("poll", EINVAL, EVER)), run: another },
];

/// One run of a scenario.
struct Run {
    worst: Outcome,
    said: Vec<String>,
    install: Box<dyn Fn()>,
}

impl Run {
    fn note(&mut self, outcome: Outcome, what: impl Into<String>) {
        self.worst = self.worst.max(outcome);
        if outcome != Right {
            self.said.push(what.into());
        }
    }

    /// An error must say what it is about: this process or descriptor. That of a set has none, if it is
    /// about the set.
    fn error(&mut self, error: &io::Error, about: u32) {
        let text = error.to_string();
        let says = text.contains(&about.to_string())
            || about == OF_A_SET && (text.contains("process ") || error.raw_os_error().is_some());
        self.note(if says { Error } else { Broken }, format!("error: {text}"));
    }

    fn exit(&mut self, exit: Exit, mortal: &Mortal) {
        if exit.pid() != Some(mortal.id) {
            self.note(Broken, format!("{exit} instead of {}", mortal.id));
        }
        self.status(exit, mortal);
    }

    fn status(&mut self, exit: Exit, mortal: &Mortal) {
        match exit.status().map(|status| status.code()) {
            None => self.note(NoStatus, "no status"),
            Some(code) if code == Some(mortal.code.into()) => {}
            Some(code) => self.note(Broken, format!("status {code:?}, not {}", mortal.code)),
        }
    }

    fn start(&self) -> Runtime {
        let runtime = Builder::new_current_thread()
            // Not all: signals keep descriptors for the process's life.
            .enable_io()
            .enable_time()
            .on_thread_start(trap::arm)
            .build()
            .unwrap();
        (self.install)();
        runtime
    }
}

/// A process that exits with a code when told.
struct Mortal {
    id: u32,
    code: u8,
    kind: Kind,
    ended: bool,
    reaped: bool,
}

enum Kind {
    Child(Option<Forked>, File),
    Another(Grandchild),
}

impl Mortal {
    fn child(code: u8) -> Mortal {
        let (read, write) = linux::pipe();
        let fd = read.as_raw_fd();
        let forked = linux::fork(|| i32::from(linux::read_byte(fd)));
        let id = forked.id();
        Mortal {
            id,
            code,
            kind: Kind::Child(Some(forked), write),
            ended: false,
            reaped: false,
        }
    }

    fn another(code: u8) -> Mortal {
        let grandchild = Grandchild::spawn();
        Mortal {
            id: grandchild.id(),
            code,
            kind: Kind::Another(grandchild),
            ended: false,
            reaped: false,
        }
    }

    fn end(&mut self) {
        self.ended = true;
        match &mut self.kind {
            Kind::Child(_, exit) => exit.write_all(&[self.code]).unwrap(),
            Kind::Another(grandchild) => grandchild.end(self.code),
        }
        support::until("a zombie", || linux::state_of(self.id) == Some('Z'));
    }

    /// Has it reaped. A status that was stolen from us shows.
    fn reap(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            return;
        }
        match &mut self.kind {
            Kind::Child(forked, _) => {
                let status = forked.take().unwrap().reap();
                assert_eq!(status, i32::from(self.code) << 8, "it was left to us");
            }
            Kind::Another(grandchild) => grandchild.reap(),
        }
    }
}

const TRIES: usize = 3;
const OF_A_SET: u32 = 0;
/// What the slowest answer takes by far.
const PATIENCE: Duration = Duration::from_millis(700);

/// Tries until there is no error.
fn try_to<T>(run: &mut Run, about: u32, mut what: impl FnMut() -> io::Result<T>) -> Option<T> {
    for _ in 0..TRIES {
        match armed(&mut what) {
            Ok(value) => return Some(value),
            Err(error) => run.error(&error, about),
        }
    }
    None
}

/// Awaits what must come to pass, at the reap at last.
async fn comes(run: &mut Run, exit: &mut ProcessExit, mortal: &mut Mortal) -> bool {
    let mut tries = 0;
    while tries < TRIES {
        match timeout(PATIENCE, armed_future(&mut *exit)).await {
            Ok(Ok(exit)) => {
                run.exit(exit, mortal);
                return true;
            }
            Ok(Err(error)) => {
                run.error(&error, mortal.id);
                tries += 1;
            }
            Err(_) if !mortal.reaped => {
                run.note(AtReap, "not before the reap");
                mortal.reap();
            }
            Err(_) => {
                run.note(Missed, "hangs");
                return false;
            }
        }
    }
    false
}

/// Awaits for a while what must not come to pass: as long as the poller takes for some looks.
async fn comes_not(run: &mut Run, exit: &mut ProcessExit, what: &str) -> bool {
    for _ in 0..TRIES {
        match timeout(Duration::from_millis(2), armed_future(&mut *exit)).await {
            Ok(Ok(_)) => {
                run.note(Believed, what);
                return false;
            }
            Ok(Err(error)) => run.error(&error, exit.pid().unwrap()),
            Err(_) => break,
        }
    }
    match armed(|| exit.try_wait()) {
        Ok(None) => true,
        Ok(Some(_)) => {
            run.note(Believed, what);
            false
        }
        Err(error) => {
            run.error(&error, exit.pid().unwrap());
            true
        }
    }
}

/// All that a process comes to, from its opening to its reap.
async fn life(run: &mut Run, mut exit: ProcessExit, mut mortal: Mortal) {
    if !comes_not(run, &mut exit, "an exit that was none").await {
        return;
    }
    mortal.end();
    if !comes(run, &mut exit, &mut mortal).await || mortal.reaped {
        return;
    }
    let mut exit = exit.until_reaped();
    if !comes_not(run, &mut exit, "a reap that was none").await {
        return;
    }
    mortal.reap();
    comes(run, &mut exit, &mut mortal).await;
}

fn one(run: &mut Run, mortal: Mortal) {
    let runtime = run.start();
    if let Some(exit) = try_to(run, mortal.id, || ProcessExit::open(mortal.id)) {
        runtime.block_on(life(run, exit, mortal));
    }
}

fn child(run: &mut Run) {
    one(run, Mortal::child(7));
}

fn another(run: &mut Run) {
    one(run, Mortal::another(8));
}

fn reaped_early(run: &mut Run) {
    let mut mortal = Mortal::another(8);
    let runtime = run.start();
    if let Some(mut exit) = try_to(run, mortal.id, || ProcessExit::open(mortal.id)) {
        mortal.end();
        mortal.reap();
        runtime.block_on(comes(run, &mut exit, &mut mortal));
    }
}

fn outside(run: &mut Run) {
    let all = [Mortal::child(7), Mortal::another(8)];
    (run.install)();
    for mut mortal in all {
        let Some(mut exit) = try_to(run, mortal.id, || ProcessExit::open(mortal.id)) else {
            continue;
        };
        let look =
            |run: &mut Run, exit: &mut ProcessExit, mortal: &Mortal, wanted: bool| match try_to(
                run,
                mortal.id,
                || exit.try_wait(),
            ) {
                Some(Some(exit)) if wanted => run.exit(exit, mortal),
                Some(Some(_)) => run.note(Believed, "an exit that was none"),
                Some(None) if wanted && !mortal.reaped => run.note(AtReap, "not before the reap"),
                Some(None) if wanted => match armed(|| exit.try_wait()) {
                    Ok(Some(exit)) => run.exit(exit, mortal),
                    other => run.note(Missed, format!("a reap that was missed: {other:?}")),
                },
                _ => {}
            };
        look(run, &mut exit, &mortal, false);
        mortal.end();
        look(run, &mut exit, &mortal, true);
        let mut exit = exit.until_reaped();
        mortal.reap();
        look(run, &mut exit, &mortal, true);
    }
}

fn adopted(run: &mut Run) {
    let mortal = Mortal::another(8);
    let runtime = run.start();
    for _ in 0..TRIES {
        let pidfd = linux::pidfd_open(mortal.id, 0);
        let number = pidfd.as_raw_fd() as u32;
        match armed(|| ProcessExit::try_from(pidfd)) {
            Ok(exit) => return runtime.block_on(life(run, exit, mortal)),
            Err(error) => run.error(&error, number),
        }
    }
}

fn set(run: &mut Run) {
    let mut all = [Mortal::child(7), Mortal::another(8), Mortal::another(9)];
    let runtime = run.start();
    let mut set = armed(|| ExitSet::with_capacity(100));
    for mortal in &all[..2] {
        try_to(run, mortal.id, || set.insert(mortal.id));
    }
    if set.contains(all[0].id) && armed(|| set.insert(all[0].id)).is_ok_and(|is_new| is_new) {
        run.note(Believed, "one process that was taken for two");
    }
    if let Some(exit) = try_to(run, all[2].id, || ProcessExit::open(all[2].id)) {
        armed(|| set.insert_exit(exit.until_reaped()));
        if let Some(exit) = try_to(run, all[2].id, || ProcessExit::open(all[2].id)) {
            if armed(|| set.insert_exit(exit)) {
                run.note(Believed, "one process that was taken for two");
            }
        }
    }
    runtime.block_on(async {
        no_exit(run, &mut set, &all).await;
        if let Some(exit) = armed(|| set.try_next_exit()) {
            yielded(run, exit, &all);
        }
        for at in 0..all.len() {
            all[at].end();
            if at == 2 {
                no_exit(run, &mut set, &all).await;
                all[at].reap();
            }
            let mut tries = 0;
            while set.contains(all[at].id) && tries < TRIES {
                tries += 1;
                match timeout(PATIENCE, armed_future(set.next_exit())).await {
                    Ok(Some(exit)) => yielded(run, exit, &all),
                    Ok(None) => run.note(Broken, "a process that was lost"),
                    Err(_) if !all[at].reaped => {
                        run.note(AtReap, "not before the reap");
                        all[at].reap();
                    }
                    Err(_) => run.note(Missed, "hangs"),
                }
            }
        }
        // Of what has been yielded, and is a zombie.
        if !all[0].reaped && try_to(run, all[0].id, || set.insert(all[0].id)) == Some(true) {
            armed(|| set.remove(all[0].id));
        }
    });
    armed(|| drop(set));
    all[0].reap();
    all[1].reap();
}

/// Waits for a while for what must not come from a set.
async fn no_exit(run: &mut Run, set: &mut ExitSet, all: &[Mortal]) {
    let a_while = Duration::from_millis(2);
    if let Ok(Some(exit)) = timeout(a_while, armed_future(set.next_exit())).await {
        yielded(run, exit, all);
    }
}

fn yielded(run: &mut Run, exit: io::Result<Exit>, all: &[Mortal]) {
    let exit = match exit {
        Ok(exit) => exit,
        Err(error) => return run.error(&error, OF_A_SET),
    };
    let mortal = all
        .iter()
        .find(|mortal| Some(mortal.id) == exit.pid())
        .expect("one of them");
    let waits_for_the_reap = mortal.id == all[2].id;
    match (mortal.ended, waits_for_the_reap, mortal.reaped) {
        (true, false, _) => run.status(exit, mortal),
        // The poller need not have seen the zombie.
        (true, true, true) if exit.status().is_none() => {}
        (true, true, true) => run.status(exit, mortal),
        _ => run.note(Believed, format!("not so: {exit}")),
    }
}

fn bad_pids(run: &mut Run) {
    let mut gone = Mortal::another(0);
    gone.end();
    gone.reap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        tell.send(support::thread_id()).unwrap();
        let _ = stopped.recv();
    });
    let tid = told.recv().unwrap();
    (run.install)();
    for (pid, kind) in [
        (gone.id, io::ErrorKind::NotFound),
        (tid, io::ErrorKind::InvalidInput),
    ] {
        match armed(|| ProcessExit::open(pid)) {
            Ok(_) => run.note(Believed, format!("{pid} that is a process, {kind}")),
            Err(error) if error.kind() == kind => {}
            Err(error) => run.error(&error, pid),
        }
    }
    drop(stop);
    thread.join().unwrap();
}

/// Asks about a process that lives. Any error will do that says which process it is about, but not that it
/// is gone.
fn ask<T>(run: &mut Run, about: u32, what: impl FnOnce() -> io::Result<T>) -> Option<T> {
    match armed(what) {
        Ok(value) => Some(value),
        Err(error) => {
            if error.kind() == io::ErrorKind::NotFound {
                run.note(Believed, format!("a process that lives is gone: {error}"));
            } else if !error.to_string().contains(&about.to_string()) {
                run.note(Broken, format!("about whom? {error}"));
            }
            None
        }
    }
}

fn identified(run: &mut Run) {
    let all = [Mortal::child(7), Mortal::another(8)];
    (run.install)();
    for mut mortal in all {
        let Some(exit) = try_to(run, mortal.id, || ProcessExit::open(mortal.id)) else {
            continue;
        };
        let id = ask(run, mortal.id, || exit.identity());
        if let Some(id) = id {
            let same = ask(run, mortal.id, || id.open());
            if same.is_some_and(|same| same.pid() != Some(mortal.id)) {
                run.note(Broken, "another process");
            }
        }
        let _ = ask(run, mortal.id, || exit.signal(0));
        mortal.end();
        mortal.reap();
        if id.is_some_and(|id| armed(|| id.open()).is_ok()) {
            run.note(Broken, "a process that is gone was found again");
        }
        match armed(|| exit.signal(0)) {
            Err(error) if error.to_string().contains(&mortal.id.to_string()) => {}
            Err(error) => run.note(Broken, format!("about whom? {error}")),
            Ok(()) => run.note(Broken, "a signal to a process that is gone"),
        }
    }
}

/// What a run has come to.
struct Report {
    worst: Outcome,
    said: Vec<String>,
    made: Vec<u32>,
    failed: u32,
}

static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs a scenario in a process of its own, as much of what the crate knows stays for the process's life.
///
/// That is a fork without a program. No other thread of this process holds a lock.
fn run(scenario: &Scenario, fault: Option<Fault>) -> Report {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let given = scenario.given.map(|(name, errno, count)| Fault {
        call: call(name),
        errno,
        first: 1,
        count,
    });
    // SAFETY: see above.
    let pid = unsafe { fork() };
    if pid == 0 {
        // SAFETY: takes integers.
        unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) };
        let fds = linux::open_fds();
        let mut run = Run {
            worst: Right,
            said: Vec::new(),
            install: Box::new(move || trap::install(0, [given, fault])),
        };
        if catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut run))).is_err() {
            run.note(Broken, PANIC.lock().unwrap().clone());
        }
        if let Some(number) = trap::unknown() {
            run.note(Broken, format!("a system call without a row: {number}"));
        }
        let left = linux::open_fds();
        if left != fds {
            let left: Vec<_> = left.iter().filter(|fd| !fds.contains(fd)).collect();
            run.note(Broken, format!("a leak: {left:?}"));
        }
        let made: Vec<String> = trap::made().iter().map(u32::to_string).collect();
        let said = run.said.join("; ").replace('\n', " ");
        let report = format!(
            "{}\n{}\n{}\n{said}\n",
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
    let (worst, failed, made, said) = (line(), line(), line(), line());
    let worst = [Right, NoStatus, AtReap, Error, Believed, Missed]
        .into_iter()
        .find(|outcome| worst == (*outcome as u8).to_string());
    let mut said: Vec<String> = Some(said)
        .into_iter()
        .filter(|said| !said.is_empty())
        .collect();
    if read.is_err() || report.is_empty() {
        said.push(format!(
            "killed, or ended without a word: {status:#x} {read:?}"
        ));
    }
    Report {
        worst: worst.unwrap_or(Broken),
        said,
        made: made
            .split(' ')
            .filter_map(|count| count.parse().ok())
            .collect(),
        failed: failed.parse().unwrap_or(0),
    }
}

/// Runs a scenario with each fault at each step, and says what came of it.
fn fail_everything(scenario: &Scenario) {
    std::panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap() = info.to_string();
    }));
    // Tokio opens some descriptors for the life of the process.
    drop(Builder::new_current_thread().enable_all().build());

    let most = if everything() { 8 } else { 2 };
    let dry = run(scenario, None);
    println!("without\t\t\t{:?}\t{}", dry.worst, dry.said.join("; "));
    for (call, (name, errors)) in ERRORS.iter().enumerate() {
        let made = dry.made.get(call).copied().unwrap_or(0);
        let faults = errors.iter().flat_map(|&errno| {
            let once = (1..=made.min(most)).map(move |first| (errno, first, 1));
            let lasting = if everything() {
                &LASTING[..]
            } else {
                &LASTING[..3]
            };
            let lasts = made > 0 && lasting.contains(&errno);
            let always = lasts.then_some((errno, 1, EVER));
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
            let (worst, said) = (report.worst, report.said.join("; "));
            println!(
                "{name}\t{errno}\t{how}\t{worst:?}\tat {first}: {said}\t{}",
                report.failed
            );
        }
    }
}

/// Whether to fail the first eight calls of each kind one by one, which takes a minute, or only two. A
/// scenario makes more of them only by polling, and these are the same again.
fn everything() -> bool {
    std::env::var_os("ALL_FAULTS").is_some()
}

#[test]
fn a_call_that_fails_at_any_step_leaves_the_outcome_right_or_a_plain_error() {
    const TEST: &str = "a_call_that_fails_at_any_step_leaves_the_outcome_right_or_a_plain_error";
    if let Some(role) = support::role() {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == role);
        return fail_everything(scenario.expect("a scenario"));
    }
    if !linux::seccomp_filters() {
        return support::skip("no system call can be trapped");
    }
    if !linux::pidfd_tells_the_status() {
        return support::skip("this kernel, or polling, does not tell each status");
    }
    let start = std::time::Instant::now();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let lines = Mutex::new(Vec::new());
    // They wait more than they work.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(scenario) =
                    SCENARIOS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let output = support::rerun(TEST, scenario.name, |_| {});
                    support::assert_passed(&output);
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let said = text.lines().map(|line| (scenario.name, line.to_owned()));
                    lines.lock().unwrap().extend(said.collect::<Vec<_>>());
                }
            });
        }
    });

    let mut wrong = Vec::new();
    let mut seen: BTreeMap<(&str, &str, c_int), Outcome> = BTreeMap::new();
    let (mut runs, mut hits) = (0, 0);
    for (scenario, line) in lines.lock().unwrap().iter() {
        // The harness has put its own words before the first.
        let line = line.split(" ... ").last().unwrap_or_default();
        let fields: Vec<&str> = line.split('\t').collect();
        let &[name, errno, how, outcome, said, ..] = &fields[..] else {
            continue;
        };
        let outcome = [Right, NoStatus, AtReap, Error, Believed, Missed]
            .into_iter()
            .find(|candidate| format!("{candidate:?}") == outcome)
            .unwrap_or(Broken);
        runs += 1;
        if name.ends_with("without") {
            if outcome != Right {
                wrong.push(format!("{scenario}, without a fault: {outcome:?}: {said}"));
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
                "{scenario}: {name} {how} {error}: {outcome:?}: {said}"
            ));
        }
    }
    // No row is worse than what there is.
    for (how, table) in [("once", ONCE), ("always", ALWAYS)] {
        for row in table.iter().filter(|_| everything()) {
            let of_row = seen.iter().filter(|((name, of, errno), _)| {
                *of == how && matching(table, name, *errno) == Some(row)
            });
            let worst = of_row.map(|(_, worst)| *worst).max();
            if worst != Some(row.2) {
                wrong.push(format!("{row:?} {how}: {worst:?} at worst"));
            }
        }
    }
    println!(
        "{runs} runs, {hits} of them with a fault, {:?}",
        start.elapsed()
    );
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

fn matching(table: &'static [Row], call: &str, errno: c_int) -> Option<&'static Row> {
    let is_it = |row: &&Row| row.0 == call && (row.1.is_empty() || row.1.contains(&errno));
    table.iter().find(is_it)
}

fn allowed(table: &'static [Row], call: &str, errno: c_int) -> Outcome {
    matching(table, call, errno).map_or(Right, |row| row.2)
}
