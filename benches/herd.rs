//! Many processes at once: `ExitSet` beside epoll by hand and the usual collections of futures.
//!
//! The herd are children of this program. They are registered while they sleep; then they are all
//! killed, left unreaped or reaped, and waited for. Each contender has a herd and a fresh table of
//! descriptors of its own in every round. Ratios are to the first row, which does what must be done
//! in any design: open, add, wait, ask for the exit status, close.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_process_exit::{Exit, ExitSet, ProcessExit, exit_of};

use crate::chart;
use crate::os::{self, Epoll, cpu_time};
use crate::python::{Python, run};
use crate::run::{Plan, Role, ourselves};
use crate::subject::die_with_parent;

/// psutil looks at them all again and again: more take a core.
const PSUTIL_SIZE: usize = 1000;

pub(crate) fn measure(plan: &Plan) -> bool {
    COUNTING.store(true, Ordering::Relaxed);
    let sizes = match (&plan.sizes[..], plan.quick) {
        ([], true) => &[300],
        ([], false) => &[1000, 9900, 19_000][..],
        (sizes, _) => sizes,
    };
    let seconds = if plan.quick { 2 } else { 10 };
    let mut herds = Vec::new();
    for &size in sizes {
        match Measured::new(size, plan.quick) {
            Ok(measured) => herds.push(measured),
            Err(error) => println!("\n{size} processes: skipped, {error}"),
        }
    }
    // Of each contender the memory at the largest size that it was measured at.
    let mut memory: Vec<chart::Row<'_>> = Vec::new();
    for herd in &mut herds {
        if let Err(error) = herd.finish(seconds) {
            println!("\n{} processes: {error}", herd.size);
        }
        herd.print(seconds);
    }
    for herd in &herds {
        let rows = &herd.zombies;
        if herd.size == PSUTIL_SIZE {
            let idle = rows.iter().filter_map(|row| row.sleeps_row());
            let title = format!(
                "Voluntary context switches in 10 s of waiting for {PSUTIL_SIZE} processes"
            );
            let file = plan.pictures().join("herd.svg");
            chart::bars(&file, &title, &idle.collect::<Vec<_>>());
        }
        for row in rows.iter().map(|row| row.memory_row(herd.size)) {
            memory.retain(|other| !same(&other.name, &row.name));
            memory.push(row);
        }
    }
    if !memory.is_empty() {
        let title = "Bytes allocated for one watch, outside the kernel (for threads: resident)";
        chart::bars(&plan.pictures().join("memory.svg"), title, &memory);
    }
    true
}

/// Whether two names differ only in the size that they are followed by.
fn same(one: &str, other: &str) -> bool {
    let bare = |name: &str| name.rsplit_once(" of ").map(|(bare, _)| bare.to_owned());
    bare(one) == bare(other)
}

/// What is known of one contender: medians.
struct Row {
    name: &'static str,
    round: Round,
    idle: Option<Idle>,
}

/// Ten seconds of waiting.
#[derive(Clone, Copy)]
struct Idle {
    sleeps: f64,
    cpu: f64,
}

impl Row {
    fn ours(&self) -> bool {
        self.name.starts_with("ExitSet") || self.name.ends_with("ProcessExit")
    }

    fn sleeps_row(&self) -> Option<chart::Row<'static>> {
        self.idle.map(|idle| chart::Row {
            name: self.name.to_owned(),
            ours: self.ours(),
            figures: vec![idle.sleeps],
            text: "",
        })
    }

    fn memory_row(&self, size: usize) -> chart::Row<'static> {
        chart::Row {
            name: format!("{}, one of {size}", self.name),
            ours: self.ours(),
            figures: vec![self.round.bytes as f64 / size as f64],
            text: "",
        }
    }
}

/// What is known of herds of one size.
struct Measured {
    size: usize,
    rounds: usize,
    reaped: Vec<Row>,
    zombies: Vec<Row>,
}

impl Measured {
    fn new(size: usize, quick: bool) -> io::Result<Measured> {
        let limit = os::raise_descriptors();
        if size as u64 + SPARE > limit {
            let reason = format!("the limit of descriptors is {limit}");
            return Err(io::Error::other(reason));
        }
        let rounds = match size {
            _ if quick => 1,
            0..10_000 => 5,
            _ => 3,
        };
        Ok(Measured {
            size,
            rounds,
            reaped: rows_of(size, Fate::Reaped, rounds, &CONTENDERS)?,
            zombies: rows_of(size, Fate::Zombie, rounds, &CONTENDERS)?,
        })
    }

    /// Adds those rows that are measured last.
    fn finish(&mut self, seconds: u64) -> Result<(), String> {
        let size = self.size;
        // As far as it goes: there are as many threads as processes. What they leave behind makes
        // every later `fork` take ten times as long.
        if 2 * size + 1000 < most_tasks() {
            let threads = rows_of(size, Fate::Zombie, self.rounds, &[THREADS]);
            self.zombies
                .append(&mut threads.map_err(|error| error.to_string())?);
        }
        idle_of(size, seconds, self.rounds, &mut self.zombies)
    }

    fn print(&self, seconds: u64) {
        let Measured { size, rounds, .. } = self;
        println!("\n### {size} processes, all killed and reaped; rounds: {rounds}\n");
        print_table(*size, &self.reaped);
        println!(
            "\n### {size} processes, all killed and left as zombies; rounds: {rounds}; idle for \
             {seconds} s\n"
        );
        print_table(*size, &self.zombies);
    }
}

/// Runs all contenders, in another order in every round.
fn rows_of(
    size: usize,
    fate: Fate,
    rounds: usize,
    contenders: &[Contender],
) -> io::Result<Vec<Row>> {
    let mut figures = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for _ in 0..rounds {
        fastrand::shuffle(&mut order);
        for &which in &order {
            let herd = Herd::new(size, fate)?;
            os::renew_descriptor_table();
            figures[which].push((contenders[which].run)(&herd.pids, &herd));
        }
    }
    let rows = contenders.iter().zip(&figures);
    Ok(rows
        .map(|(contender, figures)| Row {
            name: contender.name,
            round: middle(figures),
            idle: None,
        })
        .collect())
}

fn print_table(size: usize, rows: &[Row]) {
    println!(
        "| {:35} | bytes each | registering, µs each | last exit told, ms | + closing, ms | CPU for \
         all, µs each | idle: switches | idle: CPU, ms |",
        ""
    );
    println!("|{:-<37}|---:|---:|---:|---:|---:|---:|---:|", "");
    let floor = rows[0].round;
    for row in rows {
        let round = row.round;
        let each = |figure: f64| figure / size as f64;
        let (sleeps, cpu) = row.idle.map_or(("-".into(), "-".into()), |idle| {
            (idle.sleeps.to_string(), format!("{:.1}", idle.cpu / 1e6))
        });
        let told = if round.told.is_nan() {
            "-".to_owned()
        } else {
            format!("{:.1}, {:.2}", round.told / 1e6, round.told / floor.told)
        };
        println!(
            "| {:35} | {:5.0} | {:5.2}, {:4.2} | {told} | {:6.1} | {:6.2}, {:4.2} | {sleeps:>5} | \
             {cpu:>6} |",
            row.name,
            each(round.bytes as f64),
            each(round.register) / 1e3,
            round.register / floor.register,
            round.closed / 1e6,
            each(round.cpu) / 1e3,
            round.cpu / floor.cpu,
        );
    }
    let told = |name| {
        rows.iter()
            .find(|row| row.name == name)
            .map(|row| row.round)
    };
    if let (Some(later), Some(at_once)) = (told(PREPARED), told(AT_ONCE)) {
        println!(
            "\nThe same set takes {:.2} times as long to tell the last exit if it closes at once. \
             Before that, with_capacity took {:.1} ms.",
            at_once.told / later.told,
            later.made / 1e6,
        );
    }
}

fn middle(rounds: &[Round]) -> Round {
    let median =
        |figure: fn(&Round) -> f64| os::median(&rounds.iter().map(figure).collect::<Vec<_>>());
    Round {
        made: median(|round| round.made),
        bytes: median(|round| round.bytes as f64) as usize,
        register: median(|round| round.register),
        told: median(|round| round.told),
        closed: median(|round| round.closed),
        cpu: median(|round| round.cpu),
    }
}

/// Nanoseconds, but for `bytes`.
#[derive(Clone, Copy, Default)]
struct Round {
    /// From nothing until the first can be registered.
    made: f64,
    /// From there until all are.
    register: f64,
    /// Of memory, by then.
    bytes: usize,
    /// From there until the last exit has been told.
    told: f64,
    /// From there until everything is closed.
    closed: f64,
    /// Processor time of telling and closing.
    cpu: f64,
}

struct Contender {
    name: &'static str,
    /// Registers them all, has them killed, and waits for all.
    run: fn(&[u32], &Herd) -> Round,
}

const PREPARED: &str = "ExitSet with_capacity, multi_thread";
const AT_ONCE: &str = "the same, closed at once";

const CONTENDERS: [Contender; 9] = [
    Contender {
        name: "epoll by hand, closed later",
        run: |pids, herd| by_hand(pids, herd, true, true),
    },
    Contender {
        name: "epoll by hand, closed at once",
        run: |pids, herd| by_hand(pids, herd, true, false),
    },
    Contender {
        name: "epoll by hand, without status",
        run: |pids, herd| by_hand(pids, herd, false, true),
    },
    Contender {
        name: "ExitSet",
        run: |pids, herd| set(os::current_thread(), ExitSet::new, pids, herd),
    },
    Contender {
        name: "ExitSet, multi_thread",
        run: |pids, herd| set(os::multi_thread(), ExitSet::new, pids, herd),
    },
    Contender {
        name: PREPARED,
        run: prepared_set,
    },
    Contender {
        name: AT_ONCE,
        run: |pids, herd| {
            // A set that uses up more than half of the descriptors does so.
            let before = os::limit_descriptors(pids.len() as u64 + SPARE);
            let round = prepared_set(pids, herd);
            os::limit_descriptors(before);
            round
        },
    },
    Contender {
        name: "FuturesUnordered of ProcessExit",
        run: futures_unordered,
    },
    Contender {
        name: "JoinSet of ProcessExit",
        run: join_set,
    },
];

const THREADS: Contender = Contender {
    name: "waitpid-any, a thread each",
    run: threads,
};

/// How many descriptors this program needs beside those of a herd, or more.
const SPARE: u64 = 100;

fn most_tasks() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    limit.trim().parse().unwrap_or(32_768)
}

fn by_hand(pids: &[u32], herd: &Herd, status: bool, later: bool) -> Round {
    let mut round = Round::default();
    let bytes = allocated();
    let mut meter = Meter::start();
    let epoll = Epoll::new();
    let mut pidfds = Vec::new();
    for (key, &pid) in pids.iter().enumerate() {
        let pidfd = os::pidfd_open(pid);
        let events = libc::EPOLLIN | libc::EPOLLONESHOT;
        epoll.add(pidfd.as_raw_fd(), events, key as u64);
        pidfds.push(Some(pidfd));
    }
    round.register = meter.lap();
    round.bytes = allocated() - bytes;
    herd.kill();
    meter.lap();
    let cpu = cpu_time();
    let mut left = pids.len();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
    while left > 0 {
        let events = epoll.wait(&mut events, -1);
        for event in events {
            let pidfd = &mut pidfds[event.u64 as usize];
            if status {
                let fd = pidfd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
                std::hint::black_box(match herd.fate {
                    Fate::Zombie => os::child_status(fd),
                    Fate::Reaped => os::reaped_status(fd),
                });
            }
            if !later {
                *pidfd = None;
            }
        }
        left -= events.len();
    }
    round.told = meter.lap();
    drop((pidfds, epoll));
    round.closed = meter.lap();
    round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    round
}

fn set(runtime: Runtime, new: impl FnOnce() -> ExitSet, pids: &[u32], herd: &Herd) -> Round {
    let mut round = Round::default();
    let bytes = allocated();
    let mut meter = Meter::start();
    let mut set = new();
    round.made = meter.lap();
    runtime.block_on(async {
        for &pid in pids {
            set.insert(pid).expect("it is there");
        }
        assert!(futures::FutureExt::now_or_never(set.next_exit()).is_none());
        round.register = meter.lap();
        round.bytes = allocated().saturating_sub(bytes);
        herd.kill();
        meter.lap();
        let cpu = cpu_time();
        for _ in pids {
            std::hint::black_box(set.next_exit().await.expect("not empty").expect("an exit"));
        }
        round.told = meter.lap();
        drop(set);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn prepared_set(pids: &[u32], herd: &Herd) -> Round {
    let set_of_them = || ExitSet::with_capacity(pids.len());
    set(os::multi_thread(), set_of_them, pids, herd)
}

fn futures_unordered(pids: &[u32], herd: &Herd) -> Round {
    let mut round = Round::default();
    os::current_thread().block_on(async {
        let bytes = allocated();
        let mut meter = Meter::start();
        let mut exits = futures_of(pids).await;
        round.register = meter.lap();
        round.bytes = allocated() - bytes;
        herd.kill();
        meter.lap();
        let cpu = cpu_time();
        while let Some(exit) = exits.next().await {
            _ = std::hint::black_box(exit.expect("an exit"));
        }
        round.told = meter.lap();
        drop(exits);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn join_set(pids: &[u32], herd: &Herd) -> Round {
    let mut round = Round::default();
    os::current_thread().block_on(async {
        let bytes = allocated();
        let mut meter = Meter::start();
        let mut exits = tasks_of(pids).await;
        round.register = meter.lap();
        round.bytes = allocated() - bytes;
        herd.kill();
        meter.lap();
        let cpu = cpu_time();
        while let Some(exit) = exits.join_next().await {
            _ = std::hint::black_box(exit.expect("no panic").expect("an exit"));
        }
        round.told = meter.lap();
        exits.shutdown().await;
        drop(exits);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

async fn futures_of(pids: &[u32]) -> FuturesUnordered<ProcessExit> {
    let mut exits: FuturesUnordered<_> = pids.iter().map(|&pid| exit_of(pid)).collect();
    // Registers them, some in each turn.
    for _ in 0..pids.len() / 64 + 2 {
        assert!(futures::FutureExt::now_or_never(exits.next()).is_none());
        tokio::task::yield_now().await;
    }
    exits
}

async fn tasks_of(pids: &[u32]) -> JoinSet<io::Result<Exit>> {
    let exits = pids.iter().map(|&pid| exit_of(pid)).collect();
    for _ in 0..pids.len() / 32 + 2 {
        tokio::task::yield_now().await;
    }
    exits
}

/// A wait cannot be cancelled. What a thread takes is not allocated, so this counts what is resident.
fn threads(pids: &[u32], herd: &Herd) -> Round {
    let mut round = Round::default();
    let runtime = threads_runtime(pids.len());
    runtime.block_on(async {
        let bytes = os::resident();
        let mut meter = Meter::start();
        let waits = spawn_threads(pids);
        round.register = meter.lap();
        round.bytes = os::resident() - bytes;
        // The threads run while the rest is still being killed, so that only the time that they and
        // this one then take can be told.
        let cpu = cpu_time() - os::clock(libc::CLOCK_THREAD_CPUTIME_ID);
        herd.kill();
        let own = os::clock(libc::CLOCK_THREAD_CPUTIME_ID);
        for wait in waits {
            wait.await.expect("no panic");
        }
        round.told = f64::NAN;
        round.cpu = (cpu_time() - own - cpu).as_nanos() as f64;
    });
    let mut meter = Meter::start();
    drop(runtime);
    round.closed = meter.lap();
    round
}

fn threads_runtime(size: usize) -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(size + 8)
        .build()
        .expect("a runtime")
}

/// Returns once all have opened their process.
fn spawn_threads(pids: &[u32]) -> Vec<tokio::task::JoinHandle<()>> {
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

/// Who waits for nothing, each in a process of its own.
const IDLERS: [&str; 5] = [
    "epoll by hand, closed later",
    "ExitSet",
    "FuturesUnordered of ProcessExit",
    "JoinSet of ProcessExit",
    THREADS.name,
];

/// All wait for the same herd at the same time.
fn idle_of(size: usize, seconds: u64, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let herd = Herd::new(size, Fate::Zombie).map_err(|error| error.to_string())?;
    let mut order = format!("{seconds}\n");
    for pid in &herd.pids {
        order += &format!("{pid}\n");
    }
    let mut idlers = Vec::new();
    for (index, name) in IDLERS.iter().enumerate() {
        if let Some(row) = rows.iter().position(|row| row.name == *name) {
            let mut command = ourselves(Role::IdleHerd);
            command.args(["--count", &index.to_string()]);
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().map_err(|error| error.to_string())?;
            let mut orders = child.stdin.take().expect("a pipe");
            orders.write_all(order.as_bytes()).expect("it listens");
            idlers.push((row, child));
        }
    }
    if size <= PSUTIL_SIZE
        && let Some(python) = Python::find()
    {
        let mut command = python.command("herd");
        command.args([size as u64, seconds, rounds as u64].map(|number| number.to_string()));
        let figures = numbers(&run(&mut command)?);
        let &[bytes, register, told, cpu, sleeps, idle_cpu] = &figures[..] else {
            return Err("psutil told something else".into());
        };
        let round = Round {
            made: 0.0,
            bytes: (bytes * size as f64) as usize,
            register,
            told,
            closed: 0.0,
            cpu,
        };
        rows.push(Row {
            name: "psutil 7.2.2: wait_procs",
            round,
            idle: Some(Idle {
                sleeps,
                cpu: idle_cpu,
            }),
        });
    }
    for (row, child) in idlers {
        let output = child
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        if let &[sleeps, cpu] = &numbers(&String::from_utf8_lossy(&output.stdout))[..] {
            rows[row].idle = Some(Idle { sleeps, cpu });
        }
    }
    Ok(())
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Registers the herd that it is told of and waits; then says how often it slept, and what it took.
pub(crate) fn idle(idler: usize) {
    let orders = io::read_to_string(io::stdin()).expect("orders");
    let mut orders = orders.lines().filter_map(|line| line.parse::<u32>().ok());
    let time = Duration::from_secs(orders.next().expect("seconds").into());
    let pids: Vec<u32> = orders.collect();
    let runtime = threads_runtime(pids.len());
    let registered = || (os::sleeps(), cpu_time());
    let before = runtime.block_on(async {
        match idler {
            0 => {
                let epoll = Epoll::new();
                let pidfds: Vec<_> = pids.iter().map(|&pid| os::pidfd_open(pid)).collect();
                for pidfd in &pidfds {
                    epoll.add(pidfd.as_raw_fd(), libc::EPOLLIN, 0);
                }
                let before = registered();
                let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
                let events = epoll.wait(&mut events, time.as_millis() as libc::c_int);
                assert!(events.is_empty());
                before
            }
            1 => {
                let mut set = ExitSet::with_capacity(pids.len());
                for &pid in &pids {
                    set.insert(pid).expect("it is there");
                }
                let before = registered();
                let exits = set.exits_within(time).await.expect("no error");
                assert!(exits.is_empty());
                before
            }
            2 => {
                let mut exits = futures_of(&pids).await;
                let before = registered();
                assert!(timeout(time, exits.next()).await.is_err());
                before
            }
            3 => {
                let mut exits = tasks_of(&pids).await;
                let before = registered();
                assert!(timeout(time, exits.join_next()).await.is_err());
                before
            }
            _ => {
                let _waits = spawn_threads(&pids);
                let before = registered();
                tokio::time::sleep(time).await;
                before
            }
        }
    });
    let cpu = (cpu_time() - before.1).as_nanos();
    println!("{} {cpu}", os::sleeps() - before.0);
    // Threads that still wait would hold up the end of the runtime.
    std::process::exit(0);
}

/// What becomes of those that are killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They stay as they are while they are waited for. That is where their parent waits for them.
    Zombie,
    /// They are reaped before they are waited for, as a busy waiter finds the processes of others.
    Reaped,
}

/// Children that sleep until they are killed, and are reaped in the end.
struct Herd {
    pids: Vec<u32>,
    fate: Fate,
    reaped: Cell<bool>,
}

impl Herd {
    fn new(size: usize, fate: Fate) -> io::Result<Herd> {
        let mut herd = Herd {
            pids: Vec::with_capacity(size),
            fate,
            reaped: Cell::new(false),
        };
        for _ in 0..size {
            // SAFETY: the child only makes system calls.
            match unsafe { libc::fork() } {
                0 => sleep_for_ever(),
                pid if pid > 0 => herd.pids.push(pid as u32),
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(herd)
    }

    fn kill(&self) {
        self.pids.iter().copied().for_each(os::kill);
        match self.fate {
            Fate::Zombie => self.pids.iter().copied().for_each(os::await_zombie),
            Fate::Reaped => {
                self.pids.iter().copied().for_each(os::reap);
                self.reaped.set(true);
            }
        }
        // The kernel frees much of what they had only when it finds the time.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn sleep_for_ever() -> ! {
    // A herd must not outlive its herdsman.
    die_with_parent();
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        // Their pids may be others' by now.
        if self.reaped.get() {
            return;
        }
        for &pid in &self.pids {
            os::kill(pid);
            os::reap(pid);
        }
    }
}

struct Meter(Instant);

impl Meter {
    fn start() -> Meter {
        Meter(Instant::now())
    }

    /// Nanoseconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
            .as_nanos() as f64
    }
}

/// Counts the bytes that are allocated, once it is told to.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
