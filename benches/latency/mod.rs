//! The time from a process's exit until the waiting program runs.

mod contenders;
mod helper;

use std::time::Duration;

pub(crate) use self::contenders::{Contender, all};
use self::contenders::{Method, Turn};
pub(crate) use self::helper::serve_polled;
use crate::chart;
use crate::progress::Progress;
use crate::python::Python;
use crate::report::{Spread, Table, median, quantile, whole};
use crate::run::Plan;
use crate::subject::{Subjects, Target};

/// How many turns a contender has in a round.
const TURNS: usize = 4;

/// A contender, and the microseconds of its turns in each round.
pub(crate) struct Measured<'a> {
    pub(crate) contender: Contender<'a>,
    pub(crate) rounds: Vec<Vec<f64>>,
}

impl Measured<'_> {
    pub(crate) fn turns(&self) -> Vec<f64> {
        self.rounds.concat()
    }

    fn medians(&self) -> Vec<f64> {
        self.rounds.iter().map(|turns| median(turns)).collect()
    }
}

pub(crate) fn measure(plan: &Plan) -> bool {
    let subjects = Subjects::new();
    let python = Python::find();
    let rounds = plan.rounds_or(12, 120);
    let contenders = all(&subjects, python.as_ref());
    let measured = rounds_of(&subjects, contenders, rounds);

    let mut panels = Vec::new();
    // A child of this program is a copy of this program. The parent of the grandchildren is smaller,
    // so a grandchild exits sooner than a child. Therefore, each target has a floor of its own.
    for (target, heading) in [
        (Target::Child, "A child of the waiting program"),
        (Target::Other, "A child of another program"),
    ] {
        let of_target = |measured: &&Measured<'_>| measured.contender.target == target;
        let measured: Vec<_> = measured.iter().filter(of_target).collect();
        println!("\n### {heading}, from exit to wake-up: {rounds} rounds of up to {TURNS} turns\n");
        print_table(&measured);
        let rows = measured.into_iter().filter_map(|measured| {
            Some(chart::Distribution {
                label: measured.contender.label?,
                ours: measured.contender.name.starts_with("exit_of"),
                values: measured.turns(),
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

/// Runs all contenders, in a new order in every round.
pub(crate) fn rounds_of<'a>(
    subjects: &Subjects,
    contenders: Vec<Contender<'a>>,
    rounds: usize,
) -> Vec<Measured<'a>> {
    const WARM_UP: usize = 2;
    let with_turns = |contender| Measured {
        contender,
        rounds: vec![Vec::new(); rounds],
    };
    let mut measured: Vec<_> = contenders.into_iter().map(with_turns).collect();
    let mut progress = Progress::new((rounds + WARM_UP) as f64);
    for round in 0..rounds + WARM_UP {
        // Contenders that check at intervals take long, and their figures are large: one turn is
        // enough.
        let turns = |which: usize| match measured[which].contender.method {
            Method::Event => TURNS,
            Method::Interval => 1,
        };
        let mut order: Vec<usize> = (0..measured.len())
            .flat_map(|which| std::iter::repeat_n(which, turns(which)))
            .collect();
        fastrand::shuffle(&mut order);
        for &which in &order {
            let Measured { contender, rounds } = &mut measured[which];
            let latency = turn(subjects, contender);
            if let Some(round) = round.checked_sub(WARM_UP) {
                rounds[round].push(latency);
            }
        }
        progress.advance(1.0);
    }
    measured
}

/// Returns the microseconds from the exit of a subject to the wake-up of the contender.
fn turn(subjects: &Subjects, contender: &mut Contender<'_>) -> f64 {
    let milliseconds = match contender.method {
        Method::Event => 3..12,
        Method::Interval => 60..140,
    };
    let sleep = fastrand::u64(milliseconds.start * 1000..milliseconds.end * 1000);
    subjects.set_sleep(Duration::from_micros(sleep));
    let ran = match &mut contender.turn {
        Turn::Forked(turn) => turn(&subjects.fork(contender.target)),
        Turn::Started(turn) => turn(subjects),
    };
    let exited = subjects.exited();
    assert!(exited != 0 && ran > exited, "{}: too early", contender.name);
    (ran - exited) as f64 / 1e3
}

/// Prints the contenders for one target. The first one is the floor.
fn print_table(measured: &[&Measured<'_>]) {
    let mut table = Table::new([
        "",
        "status read",
        "median, µs",
        "ratio (p10 to p90)",
        "p90, µs",
        "p99, µs",
    ]);
    let floor = measured[0].medians();
    for measured in measured {
        let turns = measured.turns();
        table.row([
            measured.contender.name.to_owned(),
            if measured.contender.status {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            whole(median(&turns)),
            Spread::of_ratios(&measured.medians(), &floor).to_string(),
            whole(quantile(&turns, 0.9)),
            whole(quantile(&turns, 0.99)),
        ]);
    }
    table.print();
}
