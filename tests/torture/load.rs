//! As many processes as there may be, in sets, and all of them gone at once.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_process_exit::{Exit, ExitSet, exit_of};

use crate::figures::{Figures, one_in, random};
use crate::oracle::{futex_set, futex_wait, now, share};
use crate::support::linux::{self, Forked};
use crate::support::skip;

/// What a process of the members shares with us.
#[derive(Default)]
struct Member {
    status: AtomicI32,
    left: AtomicU64,
    /// How often a set has told of it.
    told: AtomicU32,
    /// From now on its pid may be another's.
    may_be_reaped: AtomicU32,
}

/// The processes of a group end together.
const GROUPS: usize = 10;

struct Members {
    members: &'static [Member],
    gates: &'static [AtomicU32],
    pids: Vec<u32>,
    by_pid: HashMap<u32, usize>,
    figures: Figures,
}

impl Members {
    fn new(size: usize) -> (Members, Vec<Option<Forked>>) {
        let (members, gates) = (share::<Member>(size), share::<AtomicU32>(GROUPS));
        let make = |n: usize| {
            let (member, gate) = (&members[n], &gates[group(n)]);
            member.status.store(random(256) as i32, SeqCst);
            linux::fork(move || {
                futex_wait(gate, 0);
                member.left.store(now(), SeqCst);
                member.status.load(SeqCst)
            })
        };
        let processes: Vec<_> = (0..size).map(make).collect();
        let pids: Vec<u32> = processes.iter().map(Forked::id).collect();
        let by_pid = pids.iter().zip(0..).map(|(&pid, n)| (pid, n)).collect();
        let members = Members {
            members,
            gates,
            pids,
            by_pid,
            figures: Figures::default(),
        };
        (members, processes.into_iter().map(Some).collect())
    }

    /// Compares what was told with the truth. We are the parent, and reap nobody before.
    fn told(&self, exit: &Exit) -> Option<usize> {
        let figures = &self.figures;
        let pid = exit.pid().unwrap();
        let Some(&n) = self.by_pid.get(&pid) else {
            figures.blame(&figures.wrong, format_args!("{exit}, which is a stranger"));
            return None;
        };
        let member = &self.members[n];
        let (left, status) = (member.left.load(SeqCst), member.status.load(SeqCst) << 8);
        let what = format_args!("{exit}, with wait status {status:#x}, left {left}");
        let is_zombie = || linux::state_of(pid) == Some('Z');
        if left == 0 || !is_zombie() && member.may_be_reaped.load(SeqCst) == 0 {
            figures.blame(&figures.false_, what);
        }
        match exit.status().map(ExitStatusExt::into_raw) {
            Some(told) if told == status => {}
            Some(_) => figures.blame(&figures.wrong, what),
            // Polled, and reaped between two looks.
            None if member.may_be_reaped.load(SeqCst) == 1 => {
                figures.no_status.fetch_add(1, SeqCst);
            }
            None => figures.blame(&figures.untold, what),
        }
        let late = now().saturating_sub(left);
        figures.latest.fetch_max(late, SeqCst);
        if late > crate::figures::LATE.as_nanos() as u64 {
            figures.late.fetch_add(1, SeqCst);
        }
        figures.told.fetch_add(1, SeqCst);
        Some(n)
    }
}

/// The last half all in one.
fn group(n: usize) -> usize {
    let group = n % (2 * (GROUPS - 1));
    group.min(GROUPS - 1)
}

/// As many processes as descriptors and pids allow, and some to spare for others.
fn as_many_as(wanted: usize) -> usize {
    let number = |file: &str| -> usize {
        let text = fs::read_to_string(file).expect("/proc");
        let word = text
            .split([' ', '/', '\n'])
            .nth(if file.ends_with("avg") { 4 } else { 0 });
        word.expect("a number").parse().expect("a number")
    };
    let descriptors = usize::try_from(linux::raise_descriptors()).unwrap_or(usize::MAX);
    let pids = number("/proc/sys/kernel/pid_max").saturating_sub(number("/proc/loadavg"));
    wanted
        .min(descriptors.saturating_sub(800))
        .min(pids.saturating_sub(4000))
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// All in `sets` sets, each in a runtime of its own, while tasks in another come and go.
pub fn many(name: &'static str, wanted: usize, sets: usize) {
    let start = Instant::now();
    let size = as_many_as(wanted);
    if size < 100 {
        return skip("too few descriptors or pids for a members");
    }
    if size < wanted {
        skip(&format!(
            "{} of {wanted} processes: descriptors and pids allow {size}",
            wanted - size
        ));
    }
    let (members, mut processes) = Members::new(size);
    let members = Arc::new(members);
    let (runtimes, visitors) = ([0; 2].map(|_| runtime()), runtime());

    let (told, mut done) = tokio::sync::mpsc::unbounded_channel();
    for part in 0..sets {
        let (members, told) = (members.clone(), told.clone());
        runtimes[part % 2].spawn(async move {
            let mut set = ExitSet::with_capacity(size / sets + 1);
            for &pid in members.pids.iter().skip(part).step_by(sets) {
                assert!(set.insert(pid).unwrap());
            }
            let _ = told.send(None);
            let mut count = 0;
            while let Some(exit) = set.next_exit().await {
                let n = members.told(&exit.unwrap());
                let _ = told.send(n);
                count += 1;
                if count % 200 == 0 && one_in(4) {
                    // A consumer that has other things to do.
                    sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    drop(told);
    let visits: Vec<_> = (0..20)
        .map(|_| visitors.spawn(visit(members.clone())))
        .collect();

    runtimes[0].block_on(async {
        for _ in 0..sets {
            assert_eq!(done.recv().await, Some(None), "all are in");
        }
        let gates = members.gates.iter();
        let opened = tokio::spawn({
            let gates: Vec<&'static AtomicU32> = gates.collect();
            async move {
                for gate in gates {
                    sleep(Duration::from_millis(10)).await;
                    futex_set(gate, 1);
                }
            }
        });
        // Every other one is reaped as soon as it is told.
        while let Ok(Some(n)) = timeout(Duration::from_secs(30), done.recv()).await {
            let Some(n) = n else { continue };
            let member = &members.members[n];
            if member.told.fetch_add(1, SeqCst) > 0 {
                let figures = &members.figures;
                let what = format_args!("{} was told twice", members.pids[n]);
                figures.blame(&figures.false_, what);
            }
            if n % 2 == 0 {
                reap(&members, n, processes[n].take());
            }
        }
        opened.await.unwrap();
        for visit in visits {
            visit.abort();
            let _ = visit.await;
        }
    });
    for (n, member) in members.members.iter().enumerate() {
        if member.told.load(SeqCst) == 0 {
            let what = format_args!("{} was not told", members.pids[n]);
            members.figures.blame(&members.figures.lost, what);
        }
        reap(&members, n, processes[n].take());
    }
    members.figures.processes.store(size as u64, SeqCst);
    let name = format!("{name}, {size} processes in {sets} sets");
    members.figures.conclude(&name, start);
}

fn reap(members: &Members, n: usize, process: Option<Forked>) {
    let Some(process) = process else { return };
    members.members[n].may_be_reaped.store(1, SeqCst);
    let (status, expected) = (process.reap(), members.members[n].status.load(SeqCst) << 8);
    if status != expected {
        let what = format_args!(
            "{}: {status:#x} and not {expected:#x} was left",
            members.pids[n]
        );
        members.figures.blame(&members.figures.stolen, what);
    }
}

/// Waits for one or another of them, for a while or to the end.
async fn visit(members: Arc<Members>) {
    loop {
        let n = random(members.pids.len() as u64) as usize;
        let exit = exit_of(members.pids[n]);
        if members.members[n].may_be_reaped.load(SeqCst) == 1 {
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let time = Duration::from_micros(random(30_000));
        match timeout(time, exit).await {
            Ok(Ok(exit)) => {
                members.told(&exit);
                sleep(Duration::from_millis(1)).await;
            }
            Ok(Err(error)) => {
                let what = format_args!("{}: {error}", members.pids[n]);
                members.figures.blame(&members.figures.lost, what);
            }
            Err(_) => drop(members.figures.cancelled.fetch_add(1, SeqCst)),
        }
    }
}
