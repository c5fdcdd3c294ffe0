//! One small table: this crate beside the usual ways to wait for a process.

use std::process::{Command, Stdio};

use crate::latency::{self, Target};
use crate::os;
use crate::python::Python;
use crate::run::{Plan, Role, self_command};

struct Row {
    name: &'static str,
    /// The contender of the latency part.
    contender: (&'static str, Target),
    /// Waits for ten seconds in which nothing happens. `None` if the program cannot run here.
    idle: Option<Command>,
    /// Whether processes that are not children can be waited for.
    any: &'static str,
    status: &'static str,
}

pub(crate) fn measure(plan: &Plan) -> bool {
    let mut rows = rows();
    // Before the latency is measured: these programs would disturb it.
    let children: Vec<_> = rows
        .iter_mut()
        .map(|row| {
            let idle = row.idle.as_mut()?;
            Some(idle.stdin(Stdio::null()).spawn().expect("a program"))
        })
        .collect();
    let usages: Vec<_> = children
        .into_iter()
        .map(|child| Some(os::reap_with_usage(child?.id())))
        .collect();
    let rounds = plan.rounds.unwrap_or(if plan.quick { 10 } else { 60 });
    let contenders: Vec<_> = rows.iter().map(|row| row.contender).collect();
    let summaries = latency::summaries(rounds, &contenders);

    println!("\n### Ways to wait for a process; {rounds} rounds\n");
    println!(
        "| {:38} | from exit to wake-up, µs | ratio (p10 to p90)    | context switches in 10 s | \
         any process | exit status   |",
        ""
    );
    println!(
        "|{:-<40}|-------------------------:|----------------------:|-------------------------:|\
         -------------|---------------|",
        ""
    );
    for ((row, usage), summary) in rows.iter().zip(&usages).zip(summaries) {
        let switches = usage.map_or("-".to_owned(), |(_, usage)| usage.ru_nvcsw.to_string());
        let (time, ratio) = summary.map_or(("-".to_owned(), "-".to_owned()), |summary| {
            let time = format!("{:.0}", summary.median);
            (time, summary.ratio.to_string())
        });
        println!(
            "| {:38} | {time:>24} | {ratio:>21} | {switches:>24} | {:11} | {:13} |",
            row.name, row.any, row.status
        );
    }
    println!(
        "\nThe ratio compares the time with that of a thread in epoll_wait for the same kind of process, \
         the least that the kernel takes. Compare ratios, not times: the processes of others are smaller, and \
         exit sooner. Context switches are those of the whole program, while one process is waited for."
    );
    usages.iter().flatten().all(|&(status, _)| status == 0)
}

fn rows() -> Vec<Row> {
    let python = Python::find();
    let row = |name, contender, idle, any, status| Row {
        name,
        contender,
        idle,
        any,
        status,
    };
    vec![
        row(
            "tokio-process-exit, own child",
            ("exit_of, current_thread", Target::Child),
            Some(self_command(Role::IdleCurrentThread)),
            "yes",
            "yes",
        ),
        row(
            "tokio-process-exit, another's process",
            ("exit_of, current_thread", Target::Other),
            Some(self_command(Role::IdleCurrentThread)),
            "yes",
            "yes",
        ),
        row(
            "tokio::process, own child",
            ("tokio::process: Child::wait", Target::Child),
            Some(self_command(Role::IdleTokio)),
            "no",
            "yes",
        ),
        row(
            "waitpid-any, another's process",
            ("waitpid-any on spawn_blocking", Target::Other),
            Some(self_command(Role::IdleThread)),
            "yes",
            "no",
        ),
        row(
            "psutil, another's process",
            ("psutil 7.2.2, reaped at once", Target::Other),
            python.map(|python| python.command("self_wait")),
            "yes",
            "children only",
        ),
        row(
            "a loop of kill(pid, 0) every 0.1-40 ms",
            ("a loop of kill(pid, 0), reaped at once", Target::Other),
            Some(self_command(Role::IdleLoop)),
            "yes",
            "no",
        ),
    ]
}
