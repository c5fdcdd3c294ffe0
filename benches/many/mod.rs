//! Many processes at once: `ExitSet`, epoll by hand and the usual collections of futures.
//!
//! The processes are children of this program. A contender registers all processes while they
//! sleep. Then all processes are killed, and either stay zombies or are reaped. Then the contender
//! collects all exits. In every round each contender has new processes and a new descriptor table.
//!
//! Ratios are relative to the first row, epoll by hand, which makes the system calls that every
//! design needs: open, register, wait, read the exit status, close.

mod cgroup;
mod contenders;
mod idle;
mod memory;
mod sleepers;

use std::io;

use self::cgroup::Cgroup;
use self::contenders::{
    BY_HAND, CGROUP, CONTENDERS, Contender, PREPARED, Round, SET, SPARE, THREADS,
};
use self::idle::Idle;
pub(crate) use self::idle::run_idle;
use self::sleepers::{Sleepers, State};
use crate::progress::Progress;
use crate::python::{Python, run};
use crate::report::{Spread, Table, median, whole};
use crate::run::Plan;
use crate::{chart, os};

/// The largest number of processes for psutil, which checks all processes in a loop.
const PSUTIL_SIZE: usize = 1000;

/// The cost of all steps for one number of processes, in the number of registered processes. The wait
/// in which nothing happens counts as much as this many.
const IDLE_COST: usize = 250_000;

pub(crate) fn measure(plan: &Plan) -> bool {
    memory::start_counting();
    let sizes = match (&plan.sizes[..], plan.quick) {
        ([], true) => &[300],
        ([], false) => &[1000, 9900, 19_000][..],
        (sizes, _) => sizes,
    };
    let rounds = plan.rounds_or(1, 5);
    let cost = |size: usize| 2 * CONTENDERS.len() * rounds * size + IDLE_COST;
    let mut progress = Progress::new(sizes.iter().copied().map(cost).sum::<usize>() as f64);
    let cgroup = Cgroup::create()
        .inspect_err(|error| println!("\nskipped: {CGROUP}, {error}"))
        .ok();
    let mut results = Vec::new();
    for &size in sizes {
        match Results::measure(size, rounds, plan, cgroup.as_ref(), &mut progress) {
            Ok(measured) => results.push(measured),
            Err(error) => println!("\n{size} processes: skipped, {error}"),
        }
    }
    print_growth(&results);
    // Draw the smallest size: psutil and the threads are not measured at the largest size.
    if let Some(smallest) = results.iter().min_by_key(|results| results.size) {
        smallest.draw(plan);
    }
    true
}

/// The rounds of one contender.
struct Row {
    name: &'static str,
    /// The name in the pictures, if they show this contender.
    label: Option<&'static str>,
    rounds: Vec<Round>,
}

impl Row {
    /// Returns a figure of each round.
    fn figures(&self, figure: fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    fn median(&self, figure: fn(&Round) -> f64) -> f64 {
        median(&self.figures(figure))
    }
}

/// The tables for one number of processes.
struct Results {
    size: usize,
    zombies: Vec<Row>,
    reaped: Vec<Row>,
    idle: Vec<Idle>,
}

impl Results {
    /// Measures and prints one table after the other.
    fn measure(
        size: usize,
        rounds: usize,
        plan: &Plan,
        cgroup: Option<&Cgroup>,
        progress: &mut Progress,
    ) -> io::Result<Results> {
        let limit = os::raise_descriptors();
        if size as u64 + SPARE > limit {
            let reason = format!("the descriptor limit is {limit}");
            return Err(io::Error::other(reason));
        }
        let reaped = rows_of(size, State::Reaped, rounds, &CONTENDERS, cgroup, progress)?;
        println!("\n### {size} processes, all killed and reaped; rounds: {rounds}\n");
        print_table(size, &reaped);

        let mut zombies = rows_of(size, State::Zombie, rounds, &CONTENDERS, cgroup, progress)?;
        // Threads and processes count against the same limit.
        if 2 * size + 1000 < max_tasks() {
            let mut uncounted = Progress::new(f64::INFINITY);
            zombies.extend(rows_of(
                size,
                State::Zombie,
                rounds,
                &[THREADS],
                None,
                &mut uncounted,
            )?);
        }
        if size <= PSUTIL_SIZE {
            zombies.extend(psutil(size, rounds));
        }
        println!("\n### {size} processes, all killed, all zombies; rounds: {rounds}\n");
        print_table(size, &zombies);

        let time = plan.idle_time();
        let idle = idle::measure(size, time, cgroup)?;
        progress.advance(IDLE_COST as f64);
        let seconds = time.as_secs();
        println!("\n### {size} processes, {seconds} seconds of waiting\n");
        let mut table = Table::new(["", "voluntary context switches", "CPU, ms"]);
        for Idle {
            name,
            switches,
            cpu,
            ..
        } in &idle
        {
            let cpu = format!("{:.1}", cpu / 1e6);
            table.row([(*name).to_owned(), whole(*switches), cpu]);
        }
        table.print();
        Ok(Results {
            size,
            zombies,
            reaped,
            idle,
        })
    }

    fn draw(&self, plan: &Plan) {
        let size = whole(self.size as f64);
        let seconds = plan.idle_time().as_secs();
        let title = format!("Voluntary context switches in {seconds} s of waiting");
        let note = format!("{size} processes are waited for; the whole program counts.");
        let bars = self.idle.iter().map(|idle| chart::Bar {
            label: idle.label,
            ours: is_ours(idle.name),
            value: idle.switches,
        });
        let file = plan.pictures().join("many.svg");
        chart::bars(&file, &title, &note, &bars.collect::<Vec<_>>());

        let title = "Bytes allocated per process";
        let note = format!("{size} processes are waited for; kernel memory is not counted.");
        // The memory of threads is resident, not allocated.
        let rows = self.zombies.iter().filter(|row| row.name != THREADS.name);
        let bars = rows.filter_map(|row| {
            Some(chart::Bar {
                label: row.label?,
                ours: is_ours(row.name),
                value: row.median(|round| round.bytes) / self.size as f64,
            })
        });
        let file = plan.pictures().join("memory.svg");
        chart::bars(&file, title, &note, &bars.collect::<Vec<_>>());
    }
}

fn is_ours(name: &str) -> bool {
    name.contains("Exit")
}

/// Runs all contenders, in a new order in every round.
fn rows_of(
    size: usize,
    state: State,
    rounds: usize,
    contenders: &[Contender],
    cgroup: Option<&Cgroup>,
    progress: &mut Progress,
) -> io::Result<Vec<Row>> {
    let contenders: Vec<&Contender> = contenders
        .iter()
        .filter(|contender| contender.name != CGROUP || cgroup.is_some())
        .collect();
    let with_rounds = |contender: &&Contender| Row {
        name: contender.name,
        label: contender.label,
        rounds: Vec::new(),
    };
    let mut rows: Vec<Row> = contenders.iter().map(with_rounds).collect();
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for _ in 0..rounds {
        fastrand::shuffle(&mut order);
        for &which in &order {
            let sleepers = Sleepers::new(size, state, cgroup)?;
            os::renew_descriptor_table();
            rows[which].rounds.push((contenders[which].run)(&sleepers));
            progress.advance(size as f64);
        }
    }
    Ok(rows)
}

/// Returns the row of psutil, if Python is installed.
fn psutil(size: usize, rounds: usize) -> Option<Row> {
    let mut command = Python::find()?.command("many");
    command.args([size, rounds].map(|number| number.to_string()));
    let output = run(&mut command);
    let output = output
        .inspect_err(|error| println!("\nskipped: psutil, {error}"))
        .ok()?;
    let rounds = output.lines().map(|line| match numbers(line)[..] {
        [bytes, register, last_exit, cpu] => Round {
            bytes: bytes * size as f64,
            register,
            last_exit,
            cpu,
            ..Round::default()
        },
        _ => panic!("peers.py did not print four numbers"),
    });
    Some(Row {
        name: "psutil 7.2.2: wait_procs",
        label: Some("psutil"),
        rounds: rounds.collect(),
    })
}

fn print_table(size: usize, rows: &[Row]) {
    let mut table = Table::new([
        "",
        "bytes per process",
        "registration, µs per process",
        "ratio (p10 to p90)",
        "last exit, ms",
        "ratio (p10 to p90)",
        "closing, ms",
        "CPU, µs per process",
        "ratio (p10 to p90)",
    ]);
    for row in rows {
        let each = |figure| row.median(figure) / size as f64;
        let milliseconds = |figure| match row.median(figure) / 1e6 {
            unknown if unknown.is_nan() => "-".to_owned(),
            time => format!("{time:.1}"),
        };
        let ratio = |figure| {
            let (figures, floor) = (row.figures(figure), rows[0].figures(figure));
            Spread::of_ratios(&figures, &floor).to_string()
        };
        table.row([
            row.name.to_owned(),
            whole(each(|round| round.bytes)),
            format!("{:.2}", each(|round| round.register) / 1e3),
            ratio(|round| round.register),
            milliseconds(|round| round.last_exit),
            ratio(|round| round.last_exit),
            milliseconds(|round| round.closed),
            format!("{:.2}", each(|round| round.cpu) / 1e3),
            ratio(|round| round.cpu),
        ]);
    }
    table.print();
    if let Some(prepared) = rows.iter().find(|row| row.name == PREPARED) {
        let created = prepared.median(|round| round.created) / 1e6;
        println!("\n`with_capacity` itself took {created:.1} ms.");
    }
}

/// Prints how the cost of an exit grows with the number of processes, whose pids are mostly
/// consecutive.
fn print_growth(results: &[Results]) {
    let ([first, ..], [.., last]) = (results, results) else {
        return;
    };
    if first.size == last.size {
        return;
    }
    println!("\n### CPU of an exit and its close, µs, with more processes\n");
    let sizes: Vec<String> = results
        .iter()
        .map(|results| whole(results.size as f64))
        .collect();
    let header = [""].into_iter().chain(sizes.iter().map(String::as_str));
    let mut table = Table::new(header.chain(["last / first"]));
    for name in [BY_HAND, SET, PREPARED] {
        for (state, is_zombie) in [("reaped", false), ("zombies", true)] {
            let cpu = results.iter().filter_map(|results| {
                let rows = if is_zombie {
                    &results.zombies
                } else {
                    &results.reaped
                };
                let row = rows.iter().find(|row| row.name == name)?;
                Some(row.median(|round| round.cpu) / 1e3 / results.size as f64)
            });
            let cpu: Vec<f64> = cpu.collect();
            let growth = cpu[cpu.len() - 1] / cpu[0];
            let figures = cpu.iter().chain([&growth]);
            let cells = figures.map(|figure| format!("{figure:.2}"));
            table.row([format!("{name}, {state}")].into_iter().chain(cells));
        }
    }
    table.print();
}

/// Returns how many processes and threads can exist.
fn max_tasks() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    limit.trim().parse().unwrap_or(32_768)
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}
