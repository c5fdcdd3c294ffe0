//! The stress test: processes start and exit quickly, while tasks wait for them in many ways.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_process_exit::{Exit, ExitSet, ProcessExit};

use crate::counters::{Counters, LATE, one_in, random};
use crate::oracle::{
    self, ExitKind, ParentKind, ParentProcess, Plan, REAPED, STARTED, Slots, Target,
};
use crate::support::linux;

/// Time after which an unreported exit counts as lost. Polling takes only a fraction of a second.
const LOST: Duration = Duration::from_secs(10);

/// The conditions of one stress test.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub time: Duration,
    /// Number of parents of each [`ParentKind`], in the order of its variants.
    pub parents: [usize; 3],
    /// Maximum number of concurrent waits.
    pub max_waits: u32,
    /// Whether targets whose parent is another process belong to another user.
    pub as_another_user: bool,
    /// Whether every exit must have a status.
    pub every_status: bool,
    /// Whether `epoll_ctl` fails in the worker threads of the runtimes.
    pub refuse_registration: bool,
    /// Whether an opened process has a pidfd.
    pub pidfds: bool,
    /// Whether each pidfd has the inode of its process, by which a set recognizes a reaped process.
    pub inodes: bool,
    /// Whether a set can recognize a reaped process without such an inode.
    pub identities: bool,
    /// Drops privileges or denies pidfds. Called after all parent processes and before any thread is
    /// started.
    pub prepare: fn(),
}

/// State shared by all tasks of a stress test.
pub struct Stress {
    scenario: Scenario,
    counters: Counters,
    slots: Arc<Slots>,
    /// Runtimes in which the waits run.
    runtimes: [Handle; 2],
    /// Senders to the tasks that own a set.
    sets: Vec<mpsc::UnboundedSender<SetCommand>>,
    /// One permit for each wait that may be started.
    permits: Arc<Semaphore>,
    end: Instant,
}

/// The event that a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Exit,
    Reap,
}

/// Runs the scenario, and fails if there were violations.
pub fn run(scenario: Scenario) {
    let start = Instant::now();
    let slots = Slots::new(8192);
    let [own, other, ignoring] = scenario.parents;
    let spawn_process = |kind| ParentProcess::spawn_process(slots.all, kind);
    let mut parents: Vec<ParentProcess> = (0..other)
        .map(|_| spawn_process(ParentKind::OtherProcess))
        .collect();
    parents.extend((0..ignoring).map(|_| spawn_process(ParentKind::IgnoresSigchld)));
    (scenario.prepare)();
    parents.extend((0..own).map(|_| ParentProcess::spawn_thread(slots.all)));

    let main = runtime(false);
    let runtimes = [0; 2].map(|_| runtime(scenario.refuse_registration));
    let (sets, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::unbounded_channel()).unzip();
    let stress = Arc::new(Stress {
        scenario,
        counters: Counters::default(),
        slots,
        runtimes: runtimes.each_ref().map(|runtime| runtime.handle().clone()),
        sets,
        permits: Arc::new(Semaphore::new(scenario.max_waits as usize)),
        end: start + scenario.time,
    });
    let sets: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(n, commands)| stress.runtimes[n % 2].spawn(run_set(stress.clone(), commands)))
        .collect();
    main.block_on(async {
        let drivers: Vec<_> = parents
            .iter()
            .map(|parent| {
                let requests = parent.requests.try_clone().unwrap();
                tokio::spawn(drive_parent(stress.clone(), parent.kind, requests))
            })
            .collect();
        for driver in drivers {
            driver.await.unwrap();
        }
        // All waits have ended when all permits are available again.
        let _all = stress
            .permits
            .acquire_many(scenario.max_waits)
            .await
            .unwrap();
        stress
            .sets
            .iter()
            .for_each(|set| set.send(SetCommand::Finish).unwrap());
        for set in sets {
            set.await.unwrap();
        }
    });
    for parent in &mut parents {
        parent.requests.shutdown(std::net::Shutdown::Both).unwrap();
        parent.join();
    }
    stress.counters.finish(scenario.name, start);
}

/// Builds a runtime with two worker threads, in which `epoll_ctl` may be made to fail.
fn runtime(refuse_registration: bool) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    if refuse_registration {
        builder.on_thread_start(|| linux::deny(libc::SYS_epoll_ctl, libc::ENOSPC));
    }
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Requests one target after the other from a parent, and starts waits for each.
async fn drive_parent(
    stress: Arc<Stress>,
    parent: ParentKind,
    requests: std::os::unix::net::UnixStream,
) {
    requests.set_nonblocking(true).unwrap();
    let mut requests = tokio::net::UnixStream::from_std(requests).unwrap();
    while Instant::now() < stress.end {
        let count = 1 + random(3) as u32;
        let permits = stress
            .permits
            .clone()
            .acquire_many_owned(count)
            .await
            .unwrap();
        let mut permits = Some(permits);
        let planned = loop {
            match stress.slots.allocate(random_plan(parent)) {
                Some(planned) => break planned,
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        requests
            .write_all(&planned.index.to_ne_bytes())
            .await
            .unwrap();
        assert_eq!(requests.read_u8().await.unwrap(), STARTED);
        let target = Arc::new(planned.started(parent));
        for n in 0..count {
            let permit = permits.as_mut().and_then(|permits| permits.split(1));
            let (stress, target) = (stress.clone(), target.clone());
            // Often open the target before its gate opens: until then, the target cannot be reaped.
            let is_early = n == 0 && !one_in(3);
            let opened = if is_early { stress.open(&target) } else { None };
            if is_early && opened.is_none() {
                continue;
            }
            let runtime = stress.runtimes[random(2) as usize].clone();
            runtime.spawn(async move {
                if opened.is_none() && one_in(2) {
                    sleep(Duration::from_micros(random(300))).await;
                }
                wait_in_random_way(&stress, &target, opened).await;
                drop(permit);
            });
        }
        target.open_gate();
        assert_eq!(requests.read_u8().await.unwrap(), REAPED);
        stress.counters.processes.fetch_add(1, SeqCst);
        if parent != ParentKind::IgnoresSigchld && target.collected() != Some(target.status()) {
            let (pid, kind) = (target.pid, target.exit_kind());
            let (status, collected) = (target.status(), target.collected());
            stress.counters.violation(
                &stress.counters.stolen,
                format_args!(
                    "{pid} {kind:?} {parent:?}: parent collected {collected:?}, not {status}"
                ),
            );
        }
    }
}

/// Returns a random plan that suits the parent.
fn random_plan(parent: ParentKind) -> Plan {
    let auto_reap = parent == ParentKind::IgnoresSigchld;
    let kind = match random(100) {
        0..8 => ExitKind::LeaderFirst,
        8..10 => ExitKind::Exec,
        10..14 if !auto_reap => ExitKind::Stopped,
        14..20 if !auto_reap => ExitKind::Traced,
        _ => ExitKind::Plain,
    };
    let status = match random(10) {
        0 if kind != ExitKind::Exec => libc::SIGKILL,
        1 if kind != ExitKind::Exec && kind != ExitKind::Traced => libc::SIGTERM,
        _ => (random(256) as i32) << 8,
    };
    let delays = [0, 0, 20, 100, 400];
    let random_delay = |delays: &[u32]| match delays[random(delays.len() as u64) as usize] {
        0 => 0,
        limit => random(limit.into()) as u32,
    };
    Plan {
        kind,
        status,
        // Sometimes use a long delay: the poller then queries rarely, and the pid may be reused
        // between two queries.
        delay: if one_in(30) {
            random_delay(&[20_000])
        } else {
            random_delay(&delays)
        },
        reap_delay: random_delay(&[0, 0, 50, 300, 3000]),
        auto_reap,
        no_gate: one_in(3),
    }
}

impl Stress {
    /// Opens the target. Returns `None` unless the opened process is certain to be the target.
    fn open(&self, target: &Target) -> Option<ProcessExit> {
        let opened = match random(8) {
            0 => ProcessExit::try_from(target.pidfd.try_clone().unwrap()),
            _ => ProcessExit::open(target.pid),
        };
        match opened {
            Ok(process) => self.is_target(target, &process).then_some(process),
            Err(_) if target.may_be_reaped() => None,
            Err(error) => {
                let what = format!("{}: not reaped, but: {error}", target.pid);
                self.counters.violation(&self.counters.lost, what);
                None
            }
        }
    }

    /// Returns whether `process`, opened just now, is certain to be the target.
    fn is_target(&self, target: &Target, process: &ProcessExit) -> bool {
        if !target.may_be_reaped() {
            return true;
        }
        let inode = process.as_pidfd().and_then(oracle::inode);
        let is_target = inode.is_some() && inode == target.inode;
        if inode.is_none() {
            self.counters.unidentified.fetch_add(1, SeqCst);
        } else if !is_target {
            self.counters.reused_pid.fetch_add(1, SeqCst);
        }
        is_target
    }

    /// Compares a reported exit or reap with the oracle.
    fn check_exit(&self, target: &Target, exit: &Exit, until: Until) {
        // Query the oracle first: otherwise an event that was reported too early may pass.
        let (has_exited, is_reaped) = (target.has_exited(), target.is_reaped());
        let may_be_reaped = target.may_be_reaped();
        let counters = &self.counters;
        let has_happened = match until {
            Until::Exit => has_exited,
            Until::Reap => is_reaped,
        };
        let (kind, parent, planned) = (target.exit_kind(), target.parent, target.status());
        let what = format!(
            "{exit}; {} {kind:?} {parent:?} with wait status {planned:#x}, until {until:?}: exited \
             {has_exited}, reaped {is_reaped}",
            target.pid
        );
        if !has_happened {
            counters.violation(&counters.spurious, &what);
        }
        match exit.status().map(ExitStatusExt::into_raw) {
            // If the leader thread exits just when another thread ends the process, Linux 6.18 may
            // store the wrong exit code. Once in some thousand exits, `PIDFD_GET_INFO` contradicts
            // the status that the parent collected. After the reap, there is no other source.
            Some(status)
                if status != planned
                    && kind == ExitKind::LeaderFirst
                    && target.status_from_pidfd() == Some(status) =>
            {
                counters.kernel_wrong.fetch_add(1, SeqCst);
            }
            Some(status) if status != planned => counters.violation(&counters.wrong, &what),
            Some(_) if self.hides_status(target) && !may_be_reaped => {
                counters.violation(&counters.forbidden, &what);
            }
            Some(_) => {}
            None => {
                counters.no_status.fetch_add(1, SeqCst);
                if self.scenario.every_status {
                    counters.violation(&counters.missing_status, &what);
                }
            }
        }
        // A process adopted after its reap has no pid.
        if exit.pid().is_some_and(|pid| pid != target.pid) {
            counters.violation(&counters.wrong, &what);
        }
        if until == Until::Exit {
            let triggered_at = target.exit_triggered_at().unwrap_or(u64::MAX);
            let latency = Duration::from_nanos(oracle::now().saturating_sub(triggered_at));
            counters
                .max_latency
                .fetch_max(latency.as_nanos() as u64, SeqCst);
            if latency > LATE {
                counters.late.fetch_add(1, SeqCst);
            }
            if latency > LOST {
                counters.violation(&counters.lost, &what);
            }
        }
        counters.checked.fetch_add(1, SeqCst);
    }

    /// Returns whether the kernel hides the target's status from this user before the reap.
    fn hides_status(&self, target: &Target) -> bool {
        self.scenario.as_another_user && target.parent != ParentKind::ThisProcess
    }

    /// Awaits an exit or reap with a timeout, and checks the result.
    async fn expect_exit(
        &self,
        target: &Target,
        future: impl Future<Output = io::Result<Exit>>,
        until: Until,
    ) -> Option<Exit> {
        match timeout(LOST, future).await {
            Ok(Ok(exit)) => {
                self.check_exit(target, &exit, until);
                return Some(exit);
            }
            Ok(Err(error)) => {
                let what = format!("{}: {error}", target.pid);
                self.counters.violation(&self.counters.lost, what);
            }
            Err(_) => {
                let what = format!(
                    "{} {:?} {:?}: not reported, exited {}, reaped {}",
                    target.pid,
                    target.exit_kind(),
                    target.parent,
                    target.has_exited(),
                    target.is_reaped()
                );
                self.counters.violation(&self.counters.lost, what);
            }
        }
        None
    }

    fn random_runtime(&self) -> &Handle {
        &self.runtimes[random(2) as usize]
    }

    fn count_cancelled(&self) {
        self.counters.cancelled.fetch_add(1, SeqCst);
    }
}

/// Waits for the target in one of many ways.
async fn wait_in_random_way(
    stress: &Arc<Stress>,
    target: &Arc<Target>,
    opened: Option<ProcessExit>,
) {
    let way = random(64);
    if way < 24 {
        return wait_in_set(stress, target, opened).await;
    }
    let Some(mut process) = opened.or_else(|| stress.open(target)) else {
        return;
    };
    match way {
        24..30 => drop(stress.expect_exit(target, process, Until::Exit).await),
        30..34 => drop(
            stress
                .expect_exit(target, process.until_reaped(), Until::Reap)
                .await,
        ),
        34..38 => {
            // Wait for the exit, and then for the reap.
            let first = stress.expect_exit(target, &mut process, Until::Exit).await;
            let second = stress
                .expect_exit(target, process.until_reaped(), Until::Reap)
                .await;
            if let (Some(first), Some(second)) = (first, second) {
                if first.status().is_some() && first != second {
                    let what = format!("{first}, and then {second}");
                    stress.counters.violation(&stress.counters.wrong, what);
                }
            }
        }
        38..42 => {
            // Wait again and again with a short timeout.
            let until_exit = async {
                loop {
                    let time = Duration::from_micros(random(300));
                    if let Ok(exit) = timeout(time, &mut process).await {
                        break exit;
                    }
                }
            };
            stress.expect_exit(target, until_exit, Until::Exit).await;
        }
        42..46 => {
            // Poll in this task, and then wait in another task, perhaps in another runtime.
            if let Poll::Ready(exit) = poll_once(&mut process).await {
                stress
                    .expect_exit(target, async { exit }, Until::Exit)
                    .await;
                return;
            }
            let (stress, target) = (stress.clone(), target.clone());
            let runtime = stress.random_runtime().clone();
            let task = runtime.spawn(async move {
                stress.expect_exit(&target, process, Until::Exit).await;
            });
            task.await.unwrap();
        }
        46..50 => {
            // Query the state repeatedly, with an occasional poll in between.
            let until_exit = async {
                loop {
                    match process.try_wait() {
                        Ok(None) => {}
                        Ok(Some(exit)) => break Ok(exit),
                        Err(error) => break Err(error),
                    }
                    if one_in(4) {
                        if let Poll::Ready(exit) = poll_once(&mut process).await {
                            break exit;
                        }
                    }
                    sleep(Duration::from_micros(random(200))).await;
                }
            };
            stress.expect_exit(target, until_exit, Until::Exit).await;
        }
        50..57 => drop_early(stress, target, process).await,
        57..62 => {
            // Abort a task that waits.
            let task = tokio::spawn(process);
            for _ in 0..random(3) {
                tokio::task::yield_now().await;
            }
            if one_in(2) {
                sleep(Duration::from_micros(random(300))).await;
            }
            task.abort();
            match task.await {
                Ok(exit) => drop(
                    stress
                        .expect_exit(target, async { exit }, Until::Exit)
                        .await,
                ),
                Err(_) => stress.count_cancelled(),
            }
        }
        // No other runtime can be built while `epoll_ctl` fails in this thread.
        _ if stress.scenario.refuse_registration => stress.count_cancelled(),
        _ => wait_across_shutdown(stress, target, process).await,
    }
}

/// Polls a future once, and returns what the poll returned.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// A waker that counts its wake-ups.
#[derive(Default)]
struct WakeCounter(AtomicU64);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Drops the future at a random moment, and checks that its waker is not woken later.
async fn drop_early(stress: &Stress, target: &Target, mut process: ProcessExit) {
    let wakes = Arc::new(WakeCounter::default());
    let waker = Waker::from(wakes.clone());
    for _ in 0..random(3) {
        // Poll in the runtime, but with a waker that does not belong to the task.
        let polled = Pin::new(&mut process).poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(exit) = polled {
            stress
                .expect_exit(target, async { exit }, Until::Exit)
                .await;
            return;
        }
        if one_in(2) {
            sleep(Duration::from_micros(random(200))).await;
        }
    }
    let process = if one_in(3) {
        process.until_reaped()
    } else {
        process
    };
    drop(process);
    let before = wakes.0.load(SeqCst);
    // Skip the check if the target was exiting: the waker may have been woken during the drop.
    let is_alive = target.exit_triggered_at().is_none();
    stress.count_cancelled();
    drop(waker);
    if !is_alive {
        return;
    }
    while !target.is_reaped() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(1 + random(50))).await;
    if wakes.0.load(SeqCst) > before || Arc::strong_count(&wakes) > 1 {
        let what = format!("{}: waker was woken after the drop, or leaked", target.pid);
        stress.counters.violation(&stress.counters.woken, what);
    }
}

/// Starts the wait in another runtime, and continues the wait here.
///
/// By then, the other runtime is shut down or no longer driven.
async fn wait_across_shutdown(stress: &Stress, target: &Target, mut process: ProcessExit) {
    // Limit the number of threads: each thread uses a pid, and pids may be scarce.
    static RUNTIMES: Semaphore = Semaphore::const_new(2);
    let _permit = RUNTIMES.acquire().await.unwrap();
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut builder = match random(2) {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let time = Duration::from_micros(random(500));
        let exit = runtime.block_on(async { timeout(time, &mut process).await.ok() });
        let undriven = match random(3) {
            // Keep the runtime. If it is a current-thread runtime, no thread drives it any more.
            0 => Some(runtime),
            1 => {
                runtime.shutdown_background();
                None
            }
            _ => {
                drop(runtime);
                None
            }
        };
        drop(sender.send((exit, process, undriven)));
    });
    let (exit, process, undriven) = receiver.await.expect("the thread has not panicked");
    match exit {
        Some(exit) => {
            stress
                .expect_exit(target, async { exit }, Until::Exit)
                .await
        }
        None => stress.expect_exit(target, process, Until::Exit).await,
    };
    if let Some(runtime) = undriven {
        runtime.shutdown_background();
    }
}

/// A command to a task that owns a set.
enum SetCommand {
    /// Inserts a target. The sender is dropped once the target is not a member of the set.
    Insert(Arc<Target>, Option<ProcessExit>, Until, oneshot::Sender<()>),
    Remove(Arc<Target>),
    /// Ends the task once the set is empty.
    Finish,
}

/// Inserts the target in one of the sets, and waits until the target is not a member any more.
async fn wait_in_set(stress: &Arc<Stress>, target: &Arc<Target>, opened: Option<ProcessExit>) {
    let set = &stress.sets[random(stress.sets.len() as u64) as usize];
    let until = if opened.is_some() && one_in(3) {
        Until::Reap
    } else {
        Until::Exit
    };
    let opened = match until {
        Until::Exit => opened,
        Until::Reap => opened.map(ProcessExit::until_reaped),
    };
    let (done, is_done) = oneshot::channel();
    let _ = set.send(SetCommand::Insert(target.clone(), opened, until, done));
    if one_in(4) {
        sleep(Duration::from_micros(random(300))).await;
        let _ = set.send(SetCommand::Remove(target.clone()));
    }
    // The sender is dropped without a message.
    let _ = is_done.await;
}

/// A target that was inserted in a set and has not been returned.
struct Member {
    target: Arc<Target>,
    until: Until,
    has_pidfd: bool,
    /// Time of the insertion.
    since: Instant,
    /// Dropped with the member, which ends `wait_in_set`.
    _done: oneshot::Sender<()>,
}

/// A set, and the members that it must have.
struct TestedSet {
    stress: Arc<Stress>,
    set: ExitSet,
    /// Members by pid, in the order of insertion.
    members: HashMap<u32, VecDeque<Member>>,
    /// Targets by pid. An exit without a status was attributed to each of them while other members
    /// had the same pid, so the attribution is a guess.
    guessed: HashMap<u32, Vec<Arc<Target>>>,
}

/// Owns a set: executes commands, and checks the exits that the set returns.
async fn run_set(stress: Arc<Stress>, mut commands: mpsc::UnboundedReceiver<SetCommand>) {
    let mut tested = TestedSet {
        stress,
        set: ExitSet::new(),
        members: HashMap::new(),
        guessed: HashMap::new(),
    };
    let mut is_open = true;
    while is_open || !tested.members.is_empty() {
        if one_in(100) {
            // Imitate a consumer that is busy with something else.
            sleep(Duration::from_millis(random(60))).await;
        }
        let limit = Duration::from_micros(random(300));
        let way = random(8);
        let exits = async {
            match way {
                // `select!` may drop this future at any moment, which must not lose an exit.
                0 => tested.set.exits_within(limit).await,
                1 => tested.set.try_next_exit().into_iter().collect(),
                _ => tested.set.next_exit().await.into_iter().collect(),
            }
        };
        tokio::select! {
            command = commands.recv(), if is_open => match command {
                Some(SetCommand::Insert(target, opened, until, done)) => {
                    tested.insert(target, opened, until, done);
                }
                Some(SetCommand::Remove(target)) => tested.remove(&target),
                Some(SetCommand::Finish) | None => is_open = false,
            },
            exits = exits, if !tested.members.is_empty() => match exits {
                Ok(exits) => exits.iter().for_each(|exit| tested.check_returned(exit)),
                Err(error) => {
                    let counters = &tested.stress.counters;
                    counters.violation(&counters.lost, format_args!("a set: {error}"));
                }
            },
            () = sleep(Duration::from_millis(100)) => {}
        }
        tested.report_lost_members();
    }
    if !tested.set.is_empty() {
        let counters = &tested.stress.counters;
        let what = format!("{:?} still in a set", tested.set.pids().collect::<Vec<_>>());
        counters.violation(&counters.spurious, what);
    }
}

impl TestedSet {
    /// Inserts a target in the set, and checks whether the set was right to accept or to reject it.
    fn insert(
        &mut self,
        target: Arc<Target>,
        opened: Option<ProcessExit>,
        until: Until,
        done: oneshot::Sender<()>,
    ) {
        let counters = &self.stress.counters;
        let pid = target.pid;
        // Whether polling may mistake the target for a member with the same pid.
        let mut others = self.members.get(&pid).into_iter().flatten();
        let is_ambiguous = !self.stress.scenario.identities
            && others.any(|other| !other.has_pidfd && target.may_share_start_tick(&other.target));
        let mut same = self.members.get(&pid).into_iter().flatten();
        let duplicate = same.find(|member| Arc::ptr_eq(&member.target, &target));
        let is_duplicate = duplicate.is_some();
        let duplicate_has_pidfd = duplicate.map(|member| member.has_pidfd);
        let was_opened = opened.is_some();
        // An adopted process has a pidfd even where opening returns none.
        let has_pidfd = |process: &ProcessExit| process.as_pidfd().is_some();
        let has_pidfd = opened
            .as_ref()
            .map_or(self.stress.scenario.pidfds, has_pidfd);
        let inserted = match opened {
            // A process adopted after its reap has no pid, so its exit could not be attributed.
            Some(process) if process.pid().is_none() => return,
            Some(process) => Ok(self.set.insert_exit(process)),
            None => self.set.insert(pid),
        };
        // Whether the inserted process is certain to be the target.
        let is_certain = was_opened || !target.may_be_reaped();
        // Whether the set must recognize a duplicate. A wait with a pidfd and a wait without one have
        // no identity in common.
        let is_alike = duplicate_has_pidfd == Some(has_pidfd);
        // Before Linux 6.9, only `/proc` identifies a process after its reap.
        let has_inode = has_pidfd && self.stress.scenario.inodes;
        let is_comparable = is_alike && (has_inode || self.stress.scenario.identities);
        let is_recognizable = is_comparable || !target.may_be_reaped();
        match inserted {
            Ok(true) if is_certain && is_duplicate && is_recognizable => {
                counters.violation(&counters.spurious, format_args!("{pid}: inserted twice"));
            }
            Ok(true) if is_certain => {}
            Ok(true) => {
                // The pid may have been reused. `remove` removes the last inserted process.
                self.set.remove(pid);
                counters.unidentified.fetch_add(1, SeqCst);
                return;
            }
            Ok(false) if !is_certain || is_duplicate => return,
            Ok(false) if is_ambiguous => {
                counters.same_tick.fetch_add(1, SeqCst);
                return;
            }
            Ok(false) => {
                let what = format!("{pid}: rejected, but not a member");
                return counters.violation(&counters.lost, what);
            }
            Err(_) if !is_certain => return,
            Err(error) => {
                let what = format!("{pid}: insertion failed: {error}");
                return counters.violation(&counters.lost, what);
            }
        }
        let member = Member {
            target,
            until,
            has_pidfd,
            since: Instant::now(),
            _done: done,
        };
        self.members.entry(pid).or_default().push_back(member);
    }

    /// Removes a target, unless the set has several members with its pid.
    fn remove(&mut self, target: &Arc<Target>) {
        let Some(members) = self.members.get_mut(&target.pid) else {
            return;
        };
        // With several members of the same pid, the removed member could not be determined.
        let is_unique = members.len() == 1 && Arc::ptr_eq(&members[0].target, target);
        if is_unique && self.set.contains(target.pid) {
            if !self.set.remove(target.pid) {
                let counters = &self.stress.counters;
                let what = format!("{}: contained in a set, but not removed", target.pid);
                counters.violation(&counters.lost, what);
            }
            self.members.remove(&target.pid);
            self.stress.count_cancelled();
        }
    }

    /// Finds the member that a returned exit belongs to, and checks the exit.
    fn check_returned(&mut self, exit: &Exit) {
        let counters = &self.stress.counters;
        let pid = exit.pid().unwrap_or_default();
        let Some(members) = self.members.get_mut(&pid) else {
            let what = format!("a set: {exit}, which is not a member");
            return counters.violation(&counters.spurious, what);
        };
        // Several members may have had the same pid, and polling may report a later one first.
        let status = exit.status().map(ExitStatusExt::into_raw);
        let matches_status =
            |target: &Target| status.is_none_or(|status| status == target.status());
        let has_happened = |member: &Member| match member.until {
            Until::Exit => member.target.has_exited(),
            Until::Reap => member.target.is_reaped(),
        };
        let index = members
            .iter()
            .position(|member| has_happened(member) && matches_status(&member.target));
        let member = members.remove(index.unwrap_or(0));
        let guessed = self.guessed.entry(pid).or_default();
        // If no member matches, an earlier guess was wrong. The exit belongs to the guessed target,
        // and the earlier exit belonged to `member`.
        let earlier = guessed.iter().position(|target| matches_status(target));
        match (member, index, earlier) {
            (Some(member), None, Some(earlier)) if has_happened(&member) => {
                let target = guessed.swap_remove(earlier);
                self.stress.check_exit(&target, exit, Until::Exit);
                guessed.push(member.target);
            }
            (Some(member), _, _) => {
                self.stress.check_exit(&member.target, exit, member.until);
                if status.is_none() && !members.is_empty() {
                    guessed.push(member.target);
                }
            }
            (None, _, _) => {}
        }
        if members.is_empty() {
            self.members.remove(&pid);
            self.guessed.remove(&pid);
        }
    }

    /// Counts members whose exit should have been returned long ago as lost, and removes them.
    fn report_lost_members(&mut self) {
        let counters = &self.stress.counters;
        self.members.retain(|pid, members| {
            members.retain(|member| {
                let is_lost = member.since.elapsed() > 2 * LOST;
                if is_lost {
                    let target = &member.target;
                    let what = format!(
                        "{pid} {:?} {:?}: not returned by a set, exited {}, reaped {}",
                        target.exit_kind(),
                        target.parent,
                        target.has_exited(),
                        target.is_reaped()
                    );
                    counters.violation(&counters.lost, what);
                }
                !is_lost
            });
            !members.is_empty()
        });
    }
}
