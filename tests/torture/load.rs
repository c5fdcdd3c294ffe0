//! Sets of thousands of processes, half of which exit at once.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_process_exit::{Exit, ExitSet, exit_of};

use crate::counters::{Counters, LATE, one_in, random};
use crate::oracle::{futex_set, futex_wait, map_shared, now};
use crate::support::linux::{self, Forked};
use crate::support::skip;

/// State that a member shares with this process.
#[derive(Default)]
struct MemberState {
    /// Planned exit code.
    code: AtomicI32,
    /// Time at which the exit was triggered, in ns. 0: not yet.
    exit_triggered_at: AtomicU64,
    /// Number of times a set has returned the exit.
    returned: AtomicU32,
    /// 1: the pid may belong to another process.
    may_be_reaped: AtomicU32,
}

/// Number of groups. All members of a group exit together.
const GROUPS: usize = 10;

/// The processes in all sets.
struct Members {
    states: &'static [MemberState],
    /// One gate for each group. 1: the members of the group exit.
    gates: &'static [AtomicU32],
    pids: Vec<u32>,
    index_by_pid: HashMap<u32, usize>,
    counters: Counters,
}

impl Members {
    /// Starts `size` processes, which wait for the gate of their group.
    fn new(size: usize) -> (Members, Vec<Option<Forked>>) {
        let (states, gates) = (
            map_shared::<MemberState>(size),
            map_shared::<AtomicU32>(GROUPS),
        );
        let start = |n: usize| {
            let (state, gate) = (&states[n], &gates[group(n)]);
            state.code.store(random(256) as i32, SeqCst);
            linux::fork(move || {
                futex_wait(gate, 0);
                state.exit_triggered_at.store(now(), SeqCst);
                state.code.load(SeqCst)
            })
        };
        let children: Vec<_> = (0..size).map(start).collect();
        let pids: Vec<u32> = children.iter().map(Forked::id).collect();
        let index_by_pid = pids.iter().zip(0..).map(|(&pid, n)| (pid, n)).collect();
        let members = Members {
            states,
            gates,
            pids,
            index_by_pid,
            counters: Counters::default(),
        };
        (members, children.into_iter().map(Some).collect())
    }

    /// Returns the planned wait status of the member at index `n`.
    fn status(&self, n: usize) -> i32 {
        self.states[n].code.load(SeqCst) << 8
    }

    /// Compares a reported exit with the member's state, and returns the member's index.
    ///
    /// This process is the parent of all members and sets `may_be_reaped` before it reaps them.
    fn check_exit(&self, exit: &Exit) -> Option<usize> {
        let counters = &self.counters;
        let pid = exit.pid().unwrap();
        let Some(&n) = self.index_by_pid.get(&pid) else {
            counters.violation(
                &counters.wrong,
                format_args!("{exit}, which is not a member"),
            );
            return None;
        };
        let state = &self.states[n];
        let (triggered_at, status) = (state.exit_triggered_at.load(SeqCst), self.status(n));
        let what =
            format!("{exit}, with wait status {status:#x}, exit triggered at {triggered_at}");
        let is_zombie = || linux::state_of(pid) == Some('Z');
        if triggered_at == 0 || !is_zombie() && state.may_be_reaped.load(SeqCst) == 0 {
            counters.violation(&counters.spurious, &what);
        }
        match exit.status().map(ExitStatusExt::into_raw) {
            Some(reported) if reported == status => {}
            Some(_) => counters.violation(&counters.wrong, &what),
            // A polled process may be reaped between two queries.
            None if state.may_be_reaped.load(SeqCst) == 1 => {
                counters.no_status.fetch_add(1, SeqCst);
            }
            None => counters.violation(&counters.missing_status, what),
        }
        let latency = now().saturating_sub(triggered_at);
        counters.max_latency.fetch_max(latency, SeqCst);
        if latency > LATE.as_nanos() as u64 {
            counters.late.fetch_add(1, SeqCst);
        }
        counters.checked.fetch_add(1, SeqCst);
        Some(n)
    }
}

/// Returns the group of the member at index `n`. About half of the members are in the last group.
fn group(n: usize) -> usize {
    let group = n % (2 * (GROUPS - 1));
    group.min(GROUPS - 1)
}

/// Returns `wanted`, or the number of processes that the free descriptors and pids allow.
///
/// Reserves some descriptors and pids for other programs.
fn affordable_size(wanted: usize) -> usize {
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

/// Builds a runtime with two worker threads.
fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Distributes the processes over `sets` sets, and checks that each exit is returned exactly once.
///
/// The sets run in two runtimes. Tasks in a third runtime make concurrent short waits for the same
/// processes.
pub fn exit_at_once(name: &'static str, wanted: usize, sets: usize) {
    let start = Instant::now();
    let size = affordable_size(wanted);
    if size < 100 {
        return skip("too few descriptors or pids");
    }
    if size < wanted {
        skip(&format!(
            "{} of {wanted} processes: descriptors and pids allow only {size}",
            wanted - size
        ));
    }
    let (members, mut children) = Members::new(size);
    let members = Arc::new(members);
    let (runtimes, short_waits_runtime) = ([0; 2].map(|_| runtime()), runtime());

    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for part in 0..sets {
        let (members, sender) = (members.clone(), sender.clone());
        runtimes[part % 2].spawn(async move {
            let mut set = ExitSet::with_capacity(size / sets + 1);
            for &pid in members.pids.iter().skip(part).step_by(sets) {
                assert!(set.insert(pid).unwrap());
            }
            // Reports that all members are inserted.
            let _ = sender.send(None);
            let mut count = 0;
            while let Some(exit) = set.next_exit().await {
                let n = members.check_exit(&exit.unwrap());
                let _ = sender.send(n);
                count += 1;
                if count % 200 == 0 && one_in(4) {
                    // Imitate a consumer that is busy with something else.
                    sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    drop(sender);
    let short_waits: Vec<_> = (0..20)
        .map(|_| short_waits_runtime.spawn(wait_repeatedly(members.clone())))
        .collect();

    runtimes[0].block_on(async {
        for _ in 0..sets {
            assert_eq!(
                receiver.recv().await,
                Some(None),
                "all members are inserted"
            );
        }
        let gates = members.gates.iter();
        let open_gates = tokio::spawn({
            let gates: Vec<&'static AtomicU32> = gates.collect();
            async move {
                for gate in gates {
                    sleep(Duration::from_millis(10)).await;
                    futex_set(gate, 1);
                }
            }
        });
        // Reap every other member as soon as its exit is returned.
        while let Ok(Some(n)) = timeout(Duration::from_secs(30), receiver.recv()).await {
            let Some(n) = n else { continue };
            if members.states[n].returned.fetch_add(1, SeqCst) > 0 {
                let counters = &members.counters;
                let what = format!("{}: exit returned twice", members.pids[n]);
                counters.violation(&counters.spurious, what);
            }
            if n % 2 == 0 {
                reap(&members, n, children[n].take());
            }
        }
        open_gates.await.unwrap();
        for task in short_waits {
            task.abort();
            let _ = task.await;
        }
    });
    for (n, state) in members.states.iter().enumerate() {
        if state.returned.load(SeqCst) == 0 {
            let what = format!("{}: exit not returned", members.pids[n]);
            members.counters.violation(&members.counters.lost, what);
        }
        reap(&members, n, children[n].take());
    }
    members.counters.processes.store(size as u64, SeqCst);
    let name = format!("{name}, {size} processes in {sets} sets");
    members.counters.finish(&name, start);
}

/// Reaps the member at index `n` unless it has been reaped, and checks the collected status.
fn reap(members: &Members, n: usize, child: Option<Forked>) {
    let Some(child) = child else { return };
    members.states[n].may_be_reaped.store(1, SeqCst);
    let (status, expected) = (child.reap(), members.status(n));
    if status != expected {
        let what = format!(
            "{}: the parent collected {status:#x}, not {expected:#x}",
            members.pids[n]
        );
        members.counters.violation(&members.counters.stolen, what);
    }
}

/// Waits for one random member after the other, with a short timeout.
async fn wait_repeatedly(members: Arc<Members>) {
    loop {
        let n = random(members.pids.len() as u64) as usize;
        let process = exit_of(members.pids[n]);
        // Check `may_be_reaped` after `exit_of`: otherwise the pid could be reused in between.
        if members.states[n].may_be_reaped.load(SeqCst) == 1 {
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let time = Duration::from_micros(random(30_000));
        match timeout(time, process).await {
            Ok(Ok(exit)) => {
                members.check_exit(&exit);
                sleep(Duration::from_millis(1)).await;
            }
            Ok(Err(error)) => {
                let what = format!("{}: {error}", members.pids[n]);
                members.counters.violation(&members.counters.lost, what);
            }
            Err(_) => drop(members.counters.cancelled.fetch_add(1, SeqCst)),
        }
    }
}
