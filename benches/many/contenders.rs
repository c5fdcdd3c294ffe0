//! The ways to wait for many processes.

use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use tokio_process_exit::{CgroupExit, Exit, ExitMap, ExitSet, GroupExit, ProcessExit, exit_of};

use super::memory::allocated;
use super::sleepers::{Sleepers, State};
use crate::os::{self, Epoll, cpu_time};

pub(super) struct Contender {
    pub(super) name: &'static str,
    /// The name in the pictures, if they show this contender.
    pub(super) label: Option<&'static str>,
    /// Registers all processes, has them killed, and collects all exits.
    pub(super) run: fn(&Sleepers) -> Round,
}

/// Times in nanoseconds, and memory in bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Round {
    /// Time to create the empty collection.
    pub(super) created: f64,
    /// Time to register all processes.
    pub(super) register: f64,
    /// Memory allocated by the end of the registration.
    pub(super) bytes: f64,
    /// Time to collect all exits, after all processes have exited.
    pub(super) last_exit: f64,
    /// Time from the last exit until everything is closed.
    pub(super) closed: f64,
    /// CPU time to collect all exits and to close everything.
    pub(super) cpu: f64,
}

pub(super) const BY_HAND: &str = "epoll by hand, closed later";
pub(super) const SET: &str = "ExitSet";
pub(super) const PREPARED: &str = "ExitSet with_capacity, multi_thread";
pub(super) const GROUP: &str = "GroupExit";
pub(super) const CGROUP: &str = "CgroupExit";
pub(super) const UNORDERED: &str = "FuturesUnordered of ProcessExit";
pub(super) const JOIN_SET: &str = "JoinSet of ProcessExit";

/// Room for the descriptors that this program needs besides the pidfds.
pub(super) const SPARE: u64 = 100;

/// The first contender is the floor.
pub(super) const CONTENDERS: [Contender; 12] = [
    Contender {
        name: BY_HAND,
        label: Some("epoll by hand"),
        run: |sleepers| by_hand(sleepers, true, true),
    },
    Contender {
        name: "epoll by hand, closed at once",
        label: None,
        run: |sleepers| by_hand(sleepers, true, false),
    },
    Contender {
        name: "epoll by hand, without status",
        label: None,
        run: |sleepers| by_hand(sleepers, false, true),
    },
    Contender {
        name: SET,
        label: Some("ExitSet"),
        run: |sleepers| set(os::current_thread(), ExitSet::new, sleepers),
    },
    Contender {
        name: "ExitSet, multi_thread",
        label: None,
        run: |sleepers| set(os::multi_thread(), ExitSet::new, sleepers),
    },
    Contender {
        name: PREPARED,
        label: None,
        run: prepared_set,
    },
    Contender {
        name: "ExitSet with_capacity, few descriptors",
        label: None,
        run: |sleepers| {
            let before = os::limit_descriptors(sleepers.pids.len() as u64 + SPARE);
            let round = prepared_set(sleepers);
            os::limit_descriptors(before);
            round
        },
    },
    Contender {
        name: "ExitMap, keys of 4 bytes",
        label: Some("ExitMap"),
        run: map,
    },
    Contender {
        name: GROUP,
        label: Some("GroupExit"),
        run: group,
    },
    Contender {
        name: CGROUP,
        label: Some("CgroupExit"),
        run: cgroup,
    },
    Contender {
        name: UNORDERED,
        label: Some("FuturesUnordered"),
        run: futures_unordered,
    },
    Contender {
        name: JOIN_SET,
        label: Some("JoinSet"),
        run: join_set,
    },
];

pub(super) const THREADS: Contender = Contender {
    name: "waitpid-any, a thread each",
    label: Some("thread for each"),
    run: threads,
};

/// The measurement of one contender in one round.
struct Run<'a> {
    sleepers: &'a Sleepers,
    lap: Instant,
    bytes: usize,
    cpu: Duration,
    round: Round,
}

impl<'a> Run<'a> {
    fn start(sleepers: &'a Sleepers) -> Run<'a> {
        Run {
            sleepers,
            bytes: allocated(),
            cpu: Duration::ZERO,
            round: Round::default(),
            lap: Instant::now(),
        }
    }

    /// Runs a contender, which drops its collection at its end.
    fn in_runtime(
        runtime: Runtime,
        sleepers: &'a Sleepers,
        contender: impl AsyncFnOnce(&mut Run<'a>),
    ) -> Round {
        let mut run = Run::start(sleepers);
        runtime.block_on(contender(&mut run));
        run.closed()
    }

    /// Returns the nanoseconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = std::mem::replace(&mut self.lap, now);
        now.duration_since(lap).as_nanos() as f64
    }

    fn created(&mut self) {
        self.round.created = self.lap();
    }

    /// Kills all processes.
    fn registered(&mut self) {
        self.round.register = self.lap();
        self.round.bytes = allocated().saturating_sub(self.bytes) as f64;
        self.sleepers.kill();
        self.cpu = cpu_time();
        self.lap();
    }

    fn collected(&mut self) {
        self.round.last_exit = self.lap();
    }

    fn closed(mut self) -> Round {
        self.round.closed = self.lap();
        self.round.cpu = (cpu_time() - self.cpu).as_nanos() as f64;
        self.round
    }
}

fn by_hand(sleepers: &Sleepers, status: bool, later: bool) -> Round {
    let mut run = Run::start(sleepers);
    let epoll = Epoll::new();
    let mut pidfds = Vec::new();
    for (key, &pid) in sleepers.pids.iter().enumerate() {
        let pidfd = os::pidfd_open(pid);
        let events = libc::EPOLLIN | libc::EPOLLONESHOT;
        epoll.add(pidfd.as_raw_fd(), events, key as u64);
        pidfds.push(Some(pidfd));
    }
    run.registered();
    let mut left = pidfds.len();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
    while left > 0 {
        let events = epoll.wait(&mut events, -1);
        for event in events {
            let pidfd = &mut pidfds[event.u64 as usize];
            if status {
                let fd = pidfd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
                black_box(match sleepers.state {
                    State::Zombie => os::child_status(fd),
                    State::Reaped => os::reaped_status(fd),
                });
            }
            if !later {
                *pidfd = None;
            }
        }
        left -= events.len();
    }
    run.collected();
    drop((pidfds, epoll));
    run.closed()
}

fn set(runtime: Runtime, new: impl FnOnce() -> ExitSet, sleepers: &Sleepers) -> Round {
    Run::in_runtime(runtime, sleepers, async |run| {
        let mut set = new();
        run.created();
        for &pid in &sleepers.pids {
            set.insert(pid).expect("the process exists");
        }
        assert!(set.next_exit().now_or_never().is_none());
        run.registered();
        for _ in &sleepers.pids {
            let exit = set.next_exit().await.expect("the set is not empty");
            _ = black_box(exit.expect("an exit"));
        }
        run.collected();
    })
}

fn prepared_set(sleepers: &Sleepers) -> Round {
    let new = || ExitSet::with_capacity(sleepers.pids.len());
    set(os::multi_thread(), new, sleepers)
}

fn map(sleepers: &Sleepers) -> Round {
    Run::in_runtime(os::current_thread(), sleepers, async |run| {
        let mut map = ExitMap::new();
        run.created();
        for (key, &pid) in (0_u32..).zip(&sleepers.pids) {
            map.insert(key, pid).expect("the process exists");
        }
        assert!(map.next_exit().now_or_never().is_none());
        run.registered();
        for _ in &sleepers.pids {
            let (key, exit) = map.next_exit().await.expect("the map is not empty");
            _ = black_box((key, exit.expect("an exit")));
        }
        run.collected();
    })
}

fn group(sleepers: &Sleepers) -> Round {
    Run::in_runtime(os::current_thread(), sleepers, async |run| {
        let mut group = group_of(&sleepers.pids).await;
        run.registered();
        (&mut group).await.expect("no error");
        run.collected();
    })
}

fn cgroup(sleepers: &Sleepers) -> Round {
    Run::in_runtime(os::current_thread(), sleepers, async |run| {
        let path = sleepers
            .cgroup
            .as_deref()
            .expect("the processes are in a cgroup");
        let mut cgroup = cgroup_of(path);
        run.registered();
        (&mut cgroup).await.expect("no error");
        run.collected();
    })
}

fn futures_unordered(sleepers: &Sleepers) -> Round {
    Run::in_runtime(os::current_thread(), sleepers, async |run| {
        let mut processes = futures_of(&sleepers.pids).await;
        run.registered();
        while let Some(exit) = processes.next().await {
            _ = black_box(exit.expect("an exit"));
        }
        run.collected();
    })
}

fn join_set(sleepers: &Sleepers) -> Round {
    Run::in_runtime(os::current_thread(), sleepers, async |run| {
        let mut tasks = tasks_of(&sleepers.pids).await;
        run.registered();
        while let Some(exit) = tasks.join_next().await {
            _ = black_box(exit.expect("the task does not panic").expect("an exit"));
        }
        run.collected();
        tasks.shutdown().await;
    })
}

/// Returns a wait for the group of these processes, which the first of them leads.
pub(super) async fn group_of(pids: &[u32]) -> GroupExit {
    let mut group = GroupExit::open(pids[0]).expect("the group exists");
    // Each poll registers some of the processes.
    for _ in 0..pids.len() / 64 + 2 {
        assert!((&mut group).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    group
}

/// Returns a wait that has registered a cgroup.
pub(super) fn cgroup_of(path: &Path) -> CgroupExit {
    let mut cgroup = CgroupExit::open(path).expect("the cgroup exists");
    assert!((&mut cgroup).now_or_never().is_none());
    cgroup
}

pub(super) async fn futures_of(pids: &[u32]) -> FuturesUnordered<ProcessExit> {
    let mut processes: FuturesUnordered<_> = pids.iter().map(|&pid| exit_of(pid)).collect();
    // Each poll registers some of the processes.
    for _ in 0..pids.len() / 64 + 2 {
        assert!(processes.next().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    processes
}

pub(super) async fn tasks_of(pids: &[u32]) -> JoinSet<io::Result<Exit>> {
    let tasks = pids.iter().map(|&pid| exit_of(pid)).collect();
    // In these turns, the tasks run and register their processes.
    for _ in 0..pids.len() / 32 + 2 {
        tokio::task::yield_now().await;
    }
    tasks
}

/// Counts resident memory, because the stacks of threads do not come from the allocator.
fn threads(sleepers: &Sleepers) -> Round {
    let runtime = threads_runtime(sleepers.pids.len());
    let mut run = Run::start(sleepers);
    runtime.block_on(async {
        let bytes = os::resident();
        let waits = spawn_threads(&sleepers.pids);
        run.round.register = run.lap();
        run.round.bytes = (os::resident() - bytes) as f64;
        // The threads run while processes are still being killed, so `last_exit` is unknown. `cpu`
        // counts the other threads from the start, but this thread only after the kill.
        let cpu = cpu_time() - os::clock(libc::CLOCK_THREAD_CPUTIME_ID);
        sleepers.kill();
        let own = os::clock(libc::CLOCK_THREAD_CPUTIME_ID);
        for wait in waits {
            wait.await.expect("the thread does not panic");
        }
        run.round.last_exit = f64::NAN;
        run.round.cpu = (cpu_time() - own - cpu).as_nanos() as f64;
        run.lap();
    });
    drop(runtime);
    run.round.closed = run.lap();
    run.round
}

pub(super) fn threads_runtime(size: usize) -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(size + 8)
        .build()
        .expect("the runtime starts")
}

/// Starts a thread for each process, and returns when all processes are open.
pub(super) fn spawn_threads(pids: &[u32]) -> Vec<JoinHandle<()>> {
    let opened = Arc::new(AtomicUsize::new(0));
    let waits = pids.iter().map(|&pid| {
        let opened = opened.clone();
        tokio::task::spawn_blocking(move || {
            let mut handle = waitpid_any::WaitHandle::open(pid as i32).expect("a handle");
            opened.fetch_add(1, Ordering::Relaxed);
            handle.wait().expect("an exit");
        })
    });
    let waits = waits.collect();
    while opened.load(Ordering::Relaxed) < pids.len() {
        std::thread::sleep(Duration::from_micros(200));
    }
    waits
}
