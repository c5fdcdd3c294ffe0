//! One table for a first impression.

use crate::idle;
use crate::latency::{self, Measured};
use crate::python::Python;
use crate::report::{Spread, Table, whole};
use crate::run::Plan;
use crate::subject::{Subjects, Target};

/// A row of the table.
struct Way {
    name: &'static str,
    /// The contender in the `latency` part that waits for a child.
    child: Option<&'static str>,
    /// The contender in the `latency` part that waits for another program's child.
    other: Option<&'static str>,
    /// The label in the `idle` part.
    idle: &'static str,
    status: &'static str,
}

const WAYS: [Way; 5] = [
    Way {
        name: "this crate: exit_of",
        child: Some("exit_of, current_thread"),
        other: Some("exit_of, current_thread"),
        idle: "exit_of",
        status: "yes",
    },
    Way {
        name: "tokio: Child::wait",
        child: Some("tokio::process: Child::wait"),
        other: None,
        idle: "tokio Child::wait",
        status: "yes",
    },
    Way {
        name: "waitpid-any, on a thread for each wait",
        child: Some("waitpid-any on spawn_blocking"),
        other: Some("waitpid-any on spawn_blocking"),
        idle: "waitpid-any",
        status: "no",
    },
    Way {
        name: "psutil: Process.wait (Python)",
        child: Some("psutil 7.2.2: Process.wait"),
        other: Some("psutil 7.2.2, reaped at once"),
        idle: "psutil",
        status: "own children",
    },
    Way {
        name: "a loop of kill(pid, 0)",
        child: None,
        other: Some("a loop of kill(pid, 0), reaped at once"),
        idle: "loop of kill(pid, 0)",
        status: "no",
    },
];

impl Way {
    fn contender(&self, target: Target) -> Option<&'static str> {
        match target {
            Target::Child => self.child,
            Target::Other => self.other,
        }
    }
}

pub(crate) fn measure(plan: &Plan) -> bool {
    let subjects = Subjects::new();
    let python = Python::find();
    let mut contenders = latency::all(&subjects, python.as_ref());
    contenders.retain(|contender| {
        let is_contender = |way: &Way| way.contender(contender.target) == Some(contender.name);
        WAYS.iter().any(is_contender)
    });
    let measured = latency::rounds_of(&subjects, contenders, plan.rounds_or(5, 30));
    let time = plan.idle_time();
    let usages = idle::usages(time);

    let microseconds = |way: &Way, target: Target| {
        let Some(name) = way.contender(target) else {
            return "impossible".to_owned();
        };
        let is_this = |measured: &&Measured<'_>| {
            (measured.contender.target, measured.contender.name) == (target, name)
        };
        let turns = measured.iter().find(is_this).map(Measured::turns);
        Spread::of(&turns.unwrap_or_default()).to_string()
    };
    let switches = format!("context switches in {} s", time.as_secs());
    println!("\n### Comparison: from exit to wake-up, median (p10 to p90)\n");
    let mut table = Table::new([
        "",
        "own child, µs",
        "any other process, µs",
        &switches,
        "exit status",
    ]);
    for way in &WAYS {
        let usage = usages.iter().find(|usage| usage.label == way.idle);
        table.row([
            way.name.to_owned(),
            microseconds(way, Target::Child),
            microseconds(way, Target::Other),
            usage.map_or("-".to_owned(), |usage| whole(usage.switches)),
            way.status.to_owned(),
        ]);
    }
    table.print();
    println!(
        "\nCompare the rows of a column, not the two columns: the own children are larger, and exit \
         more slowly. A loop of kill does not see that a child has exited, until somebody reaps the \
         child. Therefore the other process is reaped at once for the loop, and for psutil, which \
         checks at intervals too."
    );
    true
}
