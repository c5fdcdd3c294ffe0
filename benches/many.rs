//! Many processes at once: `ExitSet`, epoll by hand and the usual collections of futures.
//!
//! The processes are children of this program. A contender registers all processes while they
//! sleep. Then all processes are killed, and either stay zombies or are reaped. Then the contender
//! collects all exits. In every round each contender has new processes and a new descriptor table.
//!
//! Ratios are relative to the first row, epoll by hand, which makes the system calls that every
//! design needs: open, register, wait, read the exit status, close.

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
use tokio_process_exit::{Exit, ExitMap, ExitSet, ProcessExit, exit_of};

use crate::chart;
use crate::os::{self, Epoll, Ratio, cpu_time};
use crate::python::{Python, run};
use crate::run::{Plan, Progress, Role, self_command};
use crate::subject::die_with_parent;

/// The largest number of processes for psutil, which checks all processes in a loop.
const PSUTIL_SIZE: usize = 1000;

pub(crate) fn measure(plan: &Plan) -> bool {
    COUNTING.store(true, Ordering::Relaxed);
    let sizes = match (&plan.sizes[..], plan.quick) {
        ([], true) => &[300],
        ([], false) => &[1000, 9900, 19_000][..],
        (sizes, _) => sizes,
    };
    let seconds = if plan.quick { 2 } else { 10 };
    let mut results = Vec::new();
    for &size in sizes {
        match Results::measure(size, plan.quick, seconds) {
            Ok(measured) => results.push(measured),
            Err(error) => println!("\n{size} processes: skipped, {error}"),
        }
    }
    // Threads come last: after thousands of threads, every later `fork` takes ten times as long.
    for results in &mut results {
        if let Err(error) = results.add_threads(seconds) {
            println!("\n{} processes, a thread each: {error}", results.size);
        }
    }
    // Draw the smallest size: psutil and the threads are not measured at the largest size.
    if let Some(smallest) = results.iter().min_by_key(|results| results.size) {
        smallest.draw(plan, seconds);
    }
    true
}

/// The medians of one contender.
struct Row {
    name: &'static str,
    /// The name in the pictures, if they show this contender.
    label: Option<&'static str>,
    round: Round,
    /// The time to the last exit in each round.
    last_exits: Vec<f64>,
    idle: Option<Idle>,
}

/// The cost of waiting for some seconds in which nothing happens.
#[derive(Clone, Copy)]
struct Idle {
    /// Voluntary context switches.
    switches: f64,
    /// CPU time in nanoseconds.
    cpu: f64,
}

impl Row {
    fn bar(&self, value: f64) -> Option<chart::Bar<'static>> {
        Some(chart::Bar {
            label: self.label?,
            ours: self.name.starts_with("ExitSet") || self.name.ends_with("ProcessExit"),
            value,
        })
    }
}

/// The results for one number of processes.
struct Results {
    size: usize,
    /// The largest number of rounds.
    rounds: usize,
    zombies: Vec<Row>,
}

impl Results {
    /// Measures all contenders but the threads. Prints each table as soon as it is complete.
    fn measure(size: usize, quick: bool, seconds: u64) -> io::Result<Results> {
        let limit = os::raise_descriptors();
        if size as u64 + SPARE > limit {
            let reason = format!("the descriptor limit is {limit}");
            return Err(io::Error::other(reason));
        }
        let rounds = if quick { 1 } else { 5 };
        let reaped = rows_of(size, State::Reaped, rounds, &CONTENDERS)?;
        let counted = rounds_of(&reaped);
        println!("\n### {size} processes, all killed and reaped; rounds: {counted}\n");
        print_table(size, &reaped);
        let mut zombies = rows_of(size, State::Zombie, rounds, &CONTENDERS)?;
        if let Err(error) = idle_of(size, seconds, rounds, &mut zombies) {
            println!("\n{size} processes: {error}");
        }
        let counted = rounds_of(&zombies);
        println!(
            "\n### {size} processes, all killed, all zombies; rounds: {counted}; idle for {seconds} s\n"
        );
        print_table(size, &zombies);
        Ok(Results {
            size,
            rounds,
            zombies,
        })
    }

    /// Measures and prints a thread for each process, if the system allows so many.
    fn add_threads(&mut self, seconds: u64) -> Result<(), String> {
        let size = self.size;
        // Threads and processes count against the same limit.
        if 2 * size + 1000 >= max_tasks() {
            return Ok(());
        }
        let rows = rows_of(size, State::Zombie, self.rounds, &[CONTENDERS[0], THREADS]);
        let mut rows = rows.map_err(|error| error.to_string())?;
        idle_of(size, seconds, 0, &mut rows)?;
        let counted = rounds_of(&rows);
        println!("\n### {size} processes, all zombies, a thread each; rounds: {counted}\n");
        print_table(size, &rows);
        self.zombies.extend(rows.pop());
        Ok(())
    }

    fn draw(&self, plan: &Plan, seconds: u64) {
        let rows = || self.zombies.iter();
        let size = chart::number(self.size as f64);

        let title = format!("Voluntary context switches in {seconds} s of waiting");
        let note = format!("{size} processes are waited for; the whole program counts.");
        let bars = rows().filter_map(|row| row.bar(row.idle?.switches));
        let file = plan.pictures().join("many.svg");
        chart::bars(&file, &title, &note, &bars.collect::<Vec<_>>());

        let title = "Bytes allocated per process";
        let note = format!("{size} processes are waited for; kernel memory is not counted.");
        // The memory of threads is resident, not allocated.
        let bars = rows()
            .filter(|row| row.name != THREADS.name)
            .filter_map(|row| row.bar(row.round.bytes as f64 / self.size as f64));
        let file = plan.pictures().join("memory.svg");
        chart::bars(&file, title, &note, &bars.collect::<Vec<_>>());
    }
}

fn rounds_of(rows: &[Row]) -> usize {
    rows[0].last_exits.len()
}

/// Runs all contenders, in a new order in every round. Makes at most `rounds` rounds, and fewer if they
/// would take longer than [`budget`].
fn rows_of(
    size: usize,
    state: State,
    rounds: usize,
    contenders: &[Contender],
) -> io::Result<Vec<Row>> {
    let mut figures = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let start = Instant::now();
    let mut progress = Progress::new(format!("many, {size} processes"), rounds * contenders.len());
    for round in 0..rounds as u32 {
        if round > 0 && start.elapsed() * (round + 1) / round > budget(size) {
            break;
        }
        fastrand::shuffle(&mut order);
        for &which in &order {
            progress.advance();
            let sleepers = Sleepers::new(size, state)?;
            os::renew_descriptor_table();
            figures[which].push((contenders[which].run)(&sleepers.pids, &sleepers));
        }
    }
    let rows = contenders.iter().zip(&figures);
    Ok(rows
        .map(|(contender, figures)| Row {
            name: contender.name,
            label: contender.label,
            round: median_of(figures),
            last_exits: figures.iter().map(|round| round.last_exit).collect(),
            idle: None,
        })
        .collect())
}

/// How long one table may take, so that the whole run stays below ten minutes.
fn budget(size: usize) -> Duration {
    Duration::from_millis(10_000 + 3 * size as u64)
}

fn print_table(size: usize, rows: &[Row]) {
    println!(
        "| {:37} | bytes per process | registration, µs per process, ratio | last exit, ms, ratio (p10 to p90) \
         | closing, ms | CPU, µs per process, ratio | idle: context switches | idle: CPU, ms |",
        ""
    );
    println!("|{:-<39}|---:|---:|---:|---:|---:|---:|---:|", "");
    let floor = rows[0].round;
    for row in rows {
        let round = row.round;
        let each = |figure: f64| figure / size as f64;
        let (switches, cpu) = row.idle.map_or(("-".into(), "-".into()), |idle| {
            (idle.switches.to_string(), format!("{:.1}", idle.cpu / 1e6))
        });
        let last_exit = if round.last_exit.is_nan() {
            "-".to_owned()
        } else if row.last_exits.len() == rows[0].last_exits.len() {
            let rounds = row.last_exits.len();
            let ratio = Ratio::of(&row.last_exits, &rows[0].last_exits, rounds);
            format!("{:.1}, {ratio}", round.last_exit / 1e6)
        } else {
            // Measured in rounds of its own.
            let ratio = round.last_exit / floor.last_exit;
            format!("{:.1}, {ratio:.2}", round.last_exit / 1e6)
        };
        println!(
            "| {:37} | {:5.0} | {:5.2}, {:4.2} | {last_exit} | {:6.1} | {:6.2}, {:4.2} | \
             {switches:>5} | {cpu:>6} |",
            row.name,
            each(round.bytes as f64),
            each(round.register) / 1e3,
            round.register / floor.register,
            round.closed / 1e6,
            each(round.cpu) / 1e3,
            round.cpu / floor.cpu,
        );
    }
    if let Some(prepared) = rows.iter().find(|row| row.name == PREPARED) {
        println!(
            "\n`with_capacity` itself took {:.1} ms.",
            prepared.round.created / 1e6
        );
    }
}

fn median_of(rounds: &[Round]) -> Round {
    let median =
        |figure: fn(&Round) -> f64| os::median(&rounds.iter().map(figure).collect::<Vec<_>>());
    Round {
        created: median(|round| round.created),
        bytes: median(|round| round.bytes as f64) as usize,
        register: median(|round| round.register),
        last_exit: median(|round| round.last_exit),
        closed: median(|round| round.closed),
        cpu: median(|round| round.cpu),
    }
}

/// Times in nanoseconds, and memory in bytes.
#[derive(Clone, Copy, Default)]
struct Round {
    /// Time to create the empty collection.
    created: f64,
    /// Time to register all processes.
    register: f64,
    /// Memory allocated by the end of the registration.
    bytes: usize,
    /// Time to collect all exits, after all processes have exited.
    last_exit: f64,
    /// Time from the last exit until everything is closed.
    closed: f64,
    /// CPU time to collect all exits and to close everything.
    cpu: f64,
}

#[derive(Clone, Copy)]
struct Contender {
    name: &'static str,
    /// The name in the pictures, if they show this contender.
    label: Option<&'static str>,
    /// Registers all processes, has them killed, and collects all exits.
    run: fn(&[u32], &Sleepers) -> Round,
}

const PREPARED: &str = "ExitSet with_capacity, multi_thread";

const CONTENDERS: [Contender; 9] = [
    Contender {
        name: "epoll by hand, closed later",
        label: Some("epoll by hand"),
        run: |pids, sleepers| by_hand(pids, sleepers, true, true),
    },
    Contender {
        name: "epoll by hand, closed at once",
        label: None,
        run: |pids, sleepers| by_hand(pids, sleepers, true, false),
    },
    Contender {
        name: "epoll by hand, without status",
        label: None,
        run: |pids, sleepers| by_hand(pids, sleepers, false, true),
    },
    Contender {
        name: "ExitSet",
        label: Some("ExitSet"),
        run: |pids, sleepers| set(os::current_thread(), ExitSet::new, pids, sleepers),
    },
    Contender {
        name: "ExitSet, multi_thread",
        label: None,
        run: |pids, sleepers| set(os::multi_thread(), ExitSet::new, pids, sleepers),
    },
    Contender {
        name: PREPARED,
        label: None,
        run: prepared_set,
    },
    Contender {
        name: "ExitMap, keys of 4 bytes",
        label: None,
        run: map,
    },
    Contender {
        name: "FuturesUnordered of ProcessExit",
        label: Some("FuturesUnordered"),
        run: futures_unordered,
    },
    Contender {
        name: "JoinSet of ProcessExit",
        label: Some("JoinSet"),
        run: join_set,
    },
];

const THREADS: Contender = Contender {
    name: "waitpid-any, a thread each",
    label: Some("thread for each"),
    run: threads,
};

/// Room for the descriptors that this program needs besides the pidfds.
const SPARE: u64 = 100;

/// Returns how many processes and threads can exist.
fn max_tasks() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    limit.trim().parse().unwrap_or(32_768)
}

fn by_hand(pids: &[u32], sleepers: &Sleepers, status: bool, later: bool) -> Round {
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
    sleepers.kill();
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
                std::hint::black_box(match sleepers.state {
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
    round.last_exit = meter.lap();
    drop((pidfds, epoll));
    round.closed = meter.lap();
    round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    round
}

fn set(
    runtime: Runtime,
    new: impl FnOnce() -> ExitSet,
    pids: &[u32],
    sleepers: &Sleepers,
) -> Round {
    let mut round = Round::default();
    let bytes = allocated();
    let mut meter = Meter::start();
    let mut set = new();
    round.created = meter.lap();
    runtime.block_on(async {
        for &pid in pids {
            set.insert(pid).expect("the process exists");
        }
        assert!(futures::FutureExt::now_or_never(set.next_exit()).is_none());
        round.register = meter.lap();
        round.bytes = allocated().saturating_sub(bytes);
        sleepers.kill();
        meter.lap();
        let cpu = cpu_time();
        for _ in pids {
            std::hint::black_box(
                set.next_exit()
                    .await
                    .expect("the set is not empty")
                    .expect("an exit"),
            );
        }
        round.last_exit = meter.lap();
        drop(set);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn prepared_set(pids: &[u32], sleepers: &Sleepers) -> Round {
    let new = || ExitSet::with_capacity(pids.len());
    set(os::multi_thread(), new, pids, sleepers)
}

fn map(pids: &[u32], sleepers: &Sleepers) -> Round {
    let mut round = Round::default();
    let bytes = allocated();
    let mut meter = Meter::start();
    let mut map = ExitMap::new();
    round.created = meter.lap();
    os::current_thread().block_on(async {
        for (key, &pid) in (0_u32..).zip(pids) {
            map.insert(key, pid).expect("the process exists");
        }
        assert!(futures::FutureExt::now_or_never(map.next_exit()).is_none());
        round.register = meter.lap();
        round.bytes = allocated().saturating_sub(bytes);
        sleepers.kill();
        meter.lap();
        let cpu = cpu_time();
        for _ in pids {
            let (key, exit) = map.next_exit().await.expect("the map is not empty");
            std::hint::black_box((key, exit.expect("an exit")));
        }
        round.last_exit = meter.lap();
        drop(map);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn futures_unordered(pids: &[u32], sleepers: &Sleepers) -> Round {
    let mut round = Round::default();
    os::current_thread().block_on(async {
        let bytes = allocated();
        let mut meter = Meter::start();
        let mut processes = futures_of(pids).await;
        round.register = meter.lap();
        round.bytes = allocated() - bytes;
        sleepers.kill();
        meter.lap();
        let cpu = cpu_time();
        while let Some(exit) = processes.next().await {
            _ = std::hint::black_box(exit.expect("an exit"));
        }
        round.last_exit = meter.lap();
        drop(processes);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn join_set(pids: &[u32], sleepers: &Sleepers) -> Round {
    let mut round = Round::default();
    os::current_thread().block_on(async {
        let bytes = allocated();
        let mut meter = Meter::start();
        let mut tasks = tasks_of(pids).await;
        round.register = meter.lap();
        round.bytes = allocated() - bytes;
        sleepers.kill();
        meter.lap();
        let cpu = cpu_time();
        while let Some(exit) = tasks.join_next().await {
            _ = std::hint::black_box(exit.expect("the task does not panic").expect("an exit"));
        }
        round.last_exit = meter.lap();
        tasks.shutdown().await;
        drop(tasks);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

async fn futures_of(pids: &[u32]) -> FuturesUnordered<ProcessExit> {
    let mut processes: FuturesUnordered<_> = pids.iter().map(|&pid| exit_of(pid)).collect();
    // Each poll registers some of the processes.
    for _ in 0..pids.len() / 64 + 2 {
        assert!(futures::FutureExt::now_or_never(processes.next()).is_none());
        tokio::task::yield_now().await;
    }
    processes
}

async fn tasks_of(pids: &[u32]) -> JoinSet<io::Result<Exit>> {
    let tasks = pids.iter().map(|&pid| exit_of(pid)).collect();
    // In these turns, the tasks run and register their processes.
    for _ in 0..pids.len() / 32 + 2 {
        tokio::task::yield_now().await;
    }
    tasks
}

/// Counts resident memory, because the stacks of threads do not come from the allocator.
fn threads(pids: &[u32], sleepers: &Sleepers) -> Round {
    let mut round = Round::default();
    let runtime = threads_runtime(pids.len());
    runtime.block_on(async {
        let bytes = os::resident();
        let mut meter = Meter::start();
        let waits = spawn_threads(pids);
        round.register = meter.lap();
        round.bytes = os::resident() - bytes;
        // The threads run while processes are still being killed, so `last_exit` is unknown. `cpu`
        // counts the other threads from the start, but this thread only after the kill.
        let cpu = cpu_time() - os::clock(libc::CLOCK_THREAD_CPUTIME_ID);
        sleepers.kill();
        let own = os::clock(libc::CLOCK_THREAD_CPUTIME_ID);
        for wait in waits {
            wait.await.expect("the thread does not panic");
        }
        round.last_exit = f64::NAN;
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
        .expect("the runtime starts")
}

/// Starts a thread for each process, and returns when all processes are open.
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

/// The contenders that also wait while nothing happens, each in a process of its own.
const IDLE_CONTENDERS: [&str; 5] = [
    "epoll by hand, closed later",
    "ExitSet",
    "FuturesUnordered of ProcessExit",
    "JoinSet of ProcessExit",
    THREADS.name,
];

/// Has all contenders wait at the same time, and all but psutil for the same processes.
///
/// Adds the row of psutil, if `rounds` is not zero.
fn idle_of(size: usize, seconds: u64, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let sleepers = Sleepers::new(size, State::Zombie).map_err(|error| error.to_string())?;
    let mut order = format!("{seconds}\n");
    for pid in &sleepers.pids {
        order += &format!("{pid}\n");
    }
    let mut children = Vec::new();
    for (index, name) in IDLE_CONTENDERS.iter().enumerate() {
        if let Some(row) = rows.iter().position(|row| row.name == *name) {
            let mut command = self_command(Role::IdleMany);
            command.args(["--count", &index.to_string()]);
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().map_err(|error| error.to_string())?;
            let mut orders = child.stdin.take().expect("the stream is piped");
            orders.write_all(order.as_bytes()).expect("the child reads");
            children.push((row, child));
        }
    }
    if rounds > 0
        && size <= PSUTIL_SIZE
        && let Some(python) = Python::find()
    {
        let mut command = python.command("many");
        command.args([size as u64, seconds, rounds as u64].map(|number| number.to_string()));
        let figures = numbers(&run(&mut command)?);
        let &[bytes, register, last_exit, cpu, switches, idle_cpu] = &figures[..] else {
            return Err("peers.py did not print six numbers".into());
        };
        let round = Round {
            created: 0.0,
            bytes: (bytes * size as f64) as usize,
            register,
            last_exit,
            closed: 0.0,
            cpu,
        };
        rows.push(Row {
            name: "psutil 7.2.2: wait_procs",
            label: Some("psutil"),
            round,
            last_exits: Vec::new(),
            idle: Some(Idle {
                switches,
                cpu: idle_cpu,
            }),
        });
    }
    for (row, child) in children {
        let output = child
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        if let &[switches, cpu] = &numbers(&String::from_utf8_lossy(&output.stdout))[..] {
            rows[row].idle = Some(Idle { switches, cpu });
        }
    }
    Ok(())
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Registers the processes listed on standard input and waits; then prints the voluntary context
/// switches and the CPU time.
pub(crate) fn idle(contender: usize) {
    let orders = io::read_to_string(io::stdin()).expect("text on standard input");
    let mut orders = orders.lines().filter_map(|line| line.parse::<u32>().ok());
    let time = Duration::from_secs(orders.next().expect("the seconds to wait").into());
    let pids: Vec<u32> = orders.collect();
    let runtime = threads_runtime(pids.len());
    let usage = || (os::voluntary_switches(), cpu_time());
    let before = runtime.block_on(async {
        match contender {
            0 => {
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
            1 => {
                let mut set = ExitSet::with_capacity(pids.len());
                for &pid in &pids {
                    set.insert(pid).expect("the process exists");
                }
                let before = usage();
                let exits = set.exits_within(time).await.expect("no error");
                assert!(exits.is_empty());
                before
            }
            2 => {
                let mut processes = futures_of(&pids).await;
                let before = usage();
                assert!(timeout(time, processes.next()).await.is_err());
                before
            }
            3 => {
                let mut tasks = tasks_of(&pids).await;
                let before = usage();
                assert!(timeout(time, tasks.join_next()).await.is_err());
                before
            }
            _ => {
                let _waits = spawn_threads(&pids);
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

/// The state of the killed processes while the contender collects their exits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The parent has not reaped the processes, as is usual for children of the waiting program.
    Zombie,
    /// The parent has reaped the processes, as is usual for children of another program.
    Reaped,
}

/// Children that sleep until they are killed.
struct Sleepers {
    pids: Vec<u32>,
    state: State,
    reaped: Cell<bool>,
}

impl Sleepers {
    fn new(size: usize, state: State) -> io::Result<Sleepers> {
        let mut sleepers = Sleepers {
            pids: Vec::with_capacity(size),
            state,
            reaped: Cell::new(false),
        };
        for _ in 0..size {
            // SAFETY: the child only makes system calls.
            match unsafe { libc::fork() } {
                0 => sleep_for_ever(),
                pid if pid > 0 => sleepers.pids.push(pid as u32),
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(sleepers)
    }

    /// Kills all processes, and waits until all are zombies or reaped.
    fn kill(&self) {
        self.pids.iter().copied().for_each(os::kill);
        match self.state {
            State::Zombie => self.pids.iter().copied().for_each(os::await_zombie),
            State::Reaped => {
                self.pids.iter().copied().for_each(os::reap);
                self.reaped.set(true);
            }
        }
        // Wait until the kernel has freed the memory of the processes, which it does later.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn sleep_for_ever() -> ! {
    die_with_parent();
    loop {
        // SAFETY: the call takes no arguments.
        unsafe { libc::pause() };
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        // After the reap, other processes may have these pids.
        if self.reaped.get() {
            return;
        }
        for &pid in &self.pids {
            os::kill(pid);
            os::reap(pid);
        }
    }
}

/// A stopwatch.
struct Meter(Instant);

impl Meter {
    fn start() -> Meter {
        Meter(Instant::now())
    }

    /// Returns the nanoseconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
            .as_nanos() as f64
    }
}

/// The system's allocator, which counts allocated bytes while `COUNTING` is set.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

// SAFETY: all calls are forwarded to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
