//! Promise: on the kernels with kqueue, each exit is reported once, and none before it happens.
//!
//! ```sh
//! RUSTFLAGS='--cfg tokio_process_exit_fake_kqueue' cargo test --lib fake_kqueue -- --nocapture
//! ```
//!
//! The kernels are models (`src/sys/kqueue/fake`), with processes of their own. Everything above is the real
//! code: the kqueue backend, `ProcessExit`, `ExitSet`, `ExitMap`, the poller and tokio's reactor. The tests use the
//! crate at random, and an oracle knows what the processes did.
//!
//! `FAKE_KQUEUE_SECONDS` is the time for each kernel, 3 by default. A failure prints its seed, and
//! `FAKE_KQUEUE_SEED` replays it.

mod finish;
mod map;
mod matching;
mod target;

use std::future::{Future, poll_fn};
use std::io;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::task::yield_now;

use self::map::Map;
use self::matching::Matching;
use self::target::Target;
use crate::exit::Exit;
use crate::exit_set::ExitSet;
use crate::mechanism::Mechanism;
use crate::process_exit::ProcessExit;
use crate::sys::fake::{self, Phase, System, with_model};
use crate::sys::{Opened, Process, Reopened};

/// The number of operations for each seed.
const OPERATIONS: u32 = 60;

/// No exit takes as long, not even one that is noticed by polling.
const DEADLINE: Duration = Duration::from_secs(20);

const SIGNAL: i32 = 15;

/// A wait, with what the oracle knows about it.
struct Wait {
    exit: ProcessExit,
    target: Target,
}

struct Run {
    system: System,
    rng: fastrand::Rng,
    waits: Vec<Wait>,
    set: ExitSet,
    /// All members that the set has ever had.
    members: Vec<Target>,
    matching: Matching,
    keyed: Map,
}

/// Calls a function while other processes do not proceed.
fn frozen<T>(f: impl FnOnce() -> T) -> T {
    let before = fake::set_preempted(false);
    let result = f();
    fake::set_preempted(before);
    result
}

impl Run {
    /// Whether a zombie of this system can be distinguished from earlier processes with its pid.
    fn identifies_zombies(&self) -> bool {
        matches!(self.system, System::FreeBsd | System::Xnu)
    }

    async fn operate(&mut self) {
        match self.rng.u8(0..120) {
            0..15 => self.open(),
            15..20 => self.reopen(),
            20..40 => self.insert(),
            40..50 => self.insert_exit(),
            50..65 => self.poll_wait().await,
            65..80 => self.poll_set().await,
            80..84 => self.wait_until_reaped(),
            84..88 => self.signal(),
            88..92 => {
                if let Some(n) = self.any_wait() {
                    drop(self.waits.swap_remove(n));
                }
            }
            92..95 => self.remove(),
            100.. => self.operate_map(),
            _ => with_model(|model| {
                model.count_call();
                model.step();
            }),
        }
        // Run the reactor.
        yield_now().await;
    }

    fn any_wait(&mut self) -> Option<usize> {
        (!self.waits.is_empty()).then(|| self.rng.usize(0..self.waits.len()))
    }

    /// Checks the error of opening a pid.
    fn check_open_error(pid: i32, since: u64, error: &io::Error) {
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        let owners = with_model(|model| model.owners(pid, since));
        let had_pid_throughout = with_model(|model| {
            let process = |&number: &usize| &model.processes[number];
            owners
                .iter()
                .map(process)
                .any(|it| it.born <= since && it.phase != Phase::Reaped)
        });
        assert!(
            !had_pid_throughout,
            "pid {pid} was in use, but open returned: {error}"
        );
    }

    fn open(&mut self) {
        let (pid, since) = with_model(|model| (model.any_pid(), model.now));
        match ProcessExit::open(pid as u32) {
            Ok(exit) => {
                let target = Target::opened(pid, since);
                assert!(
                    !target.processes.is_empty(),
                    "pid {pid} was free, but was opened"
                );
                self.waits.push(Wait { exit, target });
            }
            Err(error) => Run::check_open_error(pid, since, &error),
        }
    }

    /// Opens a process while descriptors are exhausted, and then as a poller does once they are not.
    fn reopen(&mut self) {
        if self.system == System::DragonFly && with_model(|model| model.odds.foreign > 0) {
            // Documented: whether a zombie of another user has been reaped is not known while polling.
            return;
        }
        let (pid, since) = with_model(|model| (model.any_pid(), model.now));
        let exhausted =
            |percent| with_model(|model| std::mem::replace(&mut model.odds.exhausted, percent));
        let before = exhausted(100);
        let opened = Process::open(pid as u32);
        // The later query must not be of another process.
        let target = Target::opened(pid, since);
        exhausted(before);
        let opened = match opened {
            Ok(Opened::Refused(refused)) => match refused.probe.reopen() {
                Reopened::WithEvents(process) => Opened::WithEvents(process),
                Reopened::Exhausted | Reopened::Unavailable => Opened::Refused(refused),
            },
            Ok(opened) => opened,
            Err(error) => {
                let error = error.to_io_error(NonZeroU32::new(pid as u32));
                return Run::check_open_error(pid, since, &error);
            }
        };
        let exit = ProcessExit::from_opened(NonZeroU32::new(pid as u32), Ok(opened));
        self.waits.push(Wait { exit, target });
    }

    fn insert(&mut self) {
        let (pid, since) = with_model(|model| (model.any_pid(), model.now));
        let result = self.set.insert(pid as u32);
        let target = Target::opened(pid, since);
        match result {
            Err(error) => Run::check_open_error(pid, since, &error),
            Ok(true) => {
                assert!(
                    !target.processes.is_empty(),
                    "pid {pid} was free, but was inserted"
                );
                if let Some(only) = target.only() {
                    let had_pid_throughout = with_model(|model| {
                        let process = &model.processes[only];
                        process.born <= since && process.phase != Phase::Reaped
                    });
                    let is_member = self.must_have(|it| it.only() == Some(only));
                    assert!(
                        !(had_pid_throughout && is_member),
                        "{target:?} was inserted twice"
                    );
                }
                self.add_member(target);
            }
            Ok(false) => self.check_is_member(&target),
        }
    }

    fn check_is_member(&self, target: &Target) {
        let is_member = self.may_have(|member| member.shares_a_process(target));
        // Documented: a zombie whose id the system does not show counts as the earlier process.
        let first = match self.system {
            System::DragonFly => Phase::Exiting,
            _ => Phase::Zombie,
        };
        let may_be_confused = !self.identifies_zombies() && target.any(|phase| phase >= first);
        assert!(
            is_member || may_be_confused,
            "{target:?} is not in the set, which has {:?}",
            self.members_with(target.pid)
        );
    }

    fn insert_exit(&mut self) {
        let Some(n) = self.any_wait() else {
            return;
        };
        let Wait { exit, target } = self.waits.swap_remove(n);
        let was_reaped = target.any(|phase| phase == Phase::Reaped);
        if self.set.insert_exit(exit) {
            let same = |member: &Target| member.only().is_some() && member.only() == target.only();
            let is_member = self.must_have(same);
            let is_reaped = was_reaped || target.any(|phase| phase == Phase::Reaped);
            assert!(!is_member || is_reaped, "{target:?} was inserted twice");
            self.add_member(target);
        } else {
            self.check_is_member(&target);
        }
    }

    async fn poll_wait(&mut self) {
        let Some(n) = self.any_wait() else {
            return;
        };
        let wait = &mut self.waits[n];
        // A poller's outcome arrives at some time, which a seed would not replay.
        let is_polled = wait.exit.mechanism() == Some(Mechanism::Polling);
        let result = if is_polled || wait.target.until_reaped || self.rng.bool() {
            wait.exit.try_wait().unwrap()
        } else {
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut wait.exit).poll(cx))).await {
                Poll::Ready(exit) => Some(exit.unwrap()),
                Poll::Pending => None,
            }
        };
        if let Some(exit) = result {
            let wait = self.waits.swap_remove(n);
            self.check_exit(&wait, &exit);
        }
    }

    fn check_exit(&self, wait: &Wait, exit: &Exit) {
        let target = &wait.target;
        let processes: Vec<_> = with_model(|model| {
            let process = |&number: &usize| format!("{:?}", model.processes[number]);
            target.processes.iter().map(process).collect()
        });
        assert!(
            target.admits(exit),
            "{exit} was reported of {target:?}: {processes:?}"
        );
        // The event has the status, except of XNU's for those who may not kill the process.
        let is_event = wait.exit.mechanism() == Some(Mechanism::Kqueue);
        let must_have = is_event && self.system != System::Xnu || target.shows_status(self.system);
        assert!(
            !must_have || exit.status().is_some(),
            "the status of {target:?} is missing"
        );
    }

    async fn poll_set(&mut self) {
        let may_poll = self.may_have(|member| member.until_reaped);
        let exit = if self.set.polled_len() > 0 || may_poll || self.rng.bool() {
            self.set.try_next_exit()
        } else {
            let set = &mut self.set;
            match poll_fn(|cx| Poll::Ready(set.poll_next_exit(cx))).await {
                Poll::Ready(exit) => exit,
                Poll::Pending => None,
            }
        };
        if let Some(exit) = exit {
            self.check_yield(&exit.unwrap());
        }
    }

    fn check_yield(&mut self, exit: &Exit) {
        let all = self.members.iter().enumerate();
        let admitting = all.filter(|(_, member)| member.admits(exit));
        let admitting: Vec<usize> = admitting.map(|(n, _)| n).collect();
        let mut members = admitting.iter().map(|&n| &self.members[n]);
        assert!(
            exit.status().is_some() || !members.all(|member| member.shows_status(self.system)),
            "the status of {exit} is missing"
        );
        assert!(
            self.matching.add_exit(admitting),
            "{exit} was yielded, but the members are {:?}",
            self.members_with(exit.pid().unwrap() as i32)
        );
    }

    fn add_member(&mut self, target: Target) {
        self.members.push(target);
        self.matching.insert();
    }

    fn may_have(&self, condition: impl Fn(&Target) -> bool) -> bool {
        let mut all = self.members.iter().enumerate();
        all.any(|(n, member)| condition(member) && self.matching.may_have(n))
    }

    fn must_have(&self, condition: impl Fn(&Target) -> bool) -> bool {
        let mut all = self.members.iter().enumerate();
        all.any(|(n, member)| condition(member) && self.matching.must_have(n))
    }

    /// Returns the members with a pid that the set may have.
    fn members_with(&self, pid: i32) -> Vec<&Target> {
        let all = self.members.iter().enumerate();
        let found = all.filter(|&(n, it)| it.pid == pid && self.matching.may_have(n));
        found.map(|(_, member)| member).collect()
    }

    fn wait_until_reaped(&mut self) {
        if let Some(n) = self.any_wait() {
            let Wait { exit, mut target } = self.waits.swap_remove(n);
            target.until_reaped = true;
            self.waits.push(Wait {
                exit: exit.until_reaped(),
                target,
            });
        }
    }

    /// Signals a process. Other processes do not proceed meanwhile: that race is documented.
    fn signal(&mut self) {
        let Some(n) = self.any_wait() else {
            return;
        };
        let Wait { exit, target } = &self.waits[n];
        let before = with_model(|model| model.signalled.len());
        let result = frozen(|| exit.signal(SIGNAL));
        let signalled = with_model(|model| model.signalled[before..].to_vec());
        let is_target = signalled
            .iter()
            .all(|process| target.processes.contains(process));
        assert!(
            is_target,
            "{signalled:?} were signalled instead of {target:?}"
        );
        assert_eq!(result.is_ok(), !signalled.is_empty(), "{result:?}");
        if let Err(error) = result {
            let is_not_found = error.kind() == io::ErrorKind::NotFound;
            assert!(
                !is_not_found || target.any(|phase| phase != Phase::Running),
                "{target:?} is running: {error}"
            );
        }
    }

    fn remove(&mut self) {
        let pid = with_model(|model| model.any_pid());
        let all = self.members.iter().enumerate();
        let with_pid: Vec<usize> = all
            .filter(|&(n, it)| it.pid == pid && self.matching.may_have(n))
            .map(|(n, _)| n)
            .collect();
        // The set need not remove the member that the oracle would remove.
        if let [only] = with_pid[..] {
            if self.set.remove(pid as u32) {
                self.matching.remove(only);
            }
        }
    }
}

/// Runs one seed. Returns the number of events that the model has lost.
fn run(system: System, seed: u64) -> u64 {
    fake::start(system, seed);
    let run = Run {
        system,
        rng: fastrand::Rng::with_seed(!seed),
        waits: Vec::new(),
        set: ExitSet::new(),
        members: Vec::new(),
        matching: Matching::default(),
        keyed: Map::default(),
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let mut run = run;
        fake::set_preempted(true);
        for _ in 0..OPERATIONS {
            run.operate().await;
        }
        fake::set_preempted(false);
        run.finish().await;
    });
    with_model(|model| model.lost)
}

fn env<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn run_many(system: System) {
    // There is one kernel in this process.
    static ONE_KERNEL: Mutex<()> = Mutex::new(());
    let _guard = ONE_KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    let replay = env::<u64>("FAKE_KQUEUE_SEED");
    let time = Duration::from_secs(env("FAKE_KQUEUE_SECONDS").unwrap_or(3));
    let (started, first) = (Instant::now(), replay.unwrap_or_else(|| fastrand::u64(..)));
    let (mut seeds, mut lost) = (0_u64, 0);
    while seeds == 0 || replay.is_none() && started.elapsed() < time {
        let seed = first.wrapping_add(seeds);
        match catch_unwind(AssertUnwindSafe(|| run(system, seed))) {
            Ok(more) => lost += more,
            Err(panic) => {
                fake::set_preempted(false);
                eprintln!("{system:?} failed after {seeds} seeds: FAKE_KQUEUE_SEED={seed}");
                resume_unwind(panic);
            }
        }
        seeds += 1;
    }
    println!("{system:?}: {seeds} seeds from {first}, {lost} events lost by the kernel");
    let loses_events = !matches!(system, System::Xnu | System::NetBsd);
    assert!(replay.is_some() || (lost > 0) == loses_events);
}

#[test]
fn reports_each_exit_once_on_xnu() {
    run_many(System::Xnu);
}

#[test]
fn reports_each_exit_once_on_freebsd() {
    run_many(System::FreeBsd);
}

#[test]
fn reports_each_exit_once_on_netbsd() {
    run_many(System::NetBsd);
}

#[test]
fn reports_each_exit_once_on_openbsd() {
    run_many(System::OpenBsd);
}

#[test]
fn reports_each_exit_once_on_dragonfly() {
    run_many(System::DragonFly);
}
