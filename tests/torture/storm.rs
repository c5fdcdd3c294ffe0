//! Processes that come and go as fast as they can, and are watched in every way there is.

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

use crate::figures::{Figures, LATE, one_in, random};
use crate::oracle::{self, Kind, Life, Parent, ParentProcess, Plan, Slots};
use crate::support::linux;

/// What has not been told by then is lost. The slowest way to tell takes a fraction of a second.
const LOST: Duration = Duration::from_secs(10);

/// What is peculiar to this storm.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub time: Duration,
    /// Parents at work: threads of ours, other processes, such that ignore SIGCHLD.
    pub parents: [usize; 3],
    /// How many waits at once.
    pub watches: u32,
    /// The processes of other parents are another user's.
    pub strangers: bool,
    /// Whether every exit has its status, whoever's it is.
    pub every_status: bool,
    /// The reactors take no descriptor once they run.
    pub refuse_registration: bool,
    /// Whether opening gives a pidfd.
    pub pidfds: bool,
    /// Whether a process that has been reaped is known again without one.
    pub identities: bool,
    /// Runs once the other parents are there, before any thread is started: gives up rights.
    pub prepare: fn(),
}

pub struct Storm {
    scenario: Scenario,
    figures: Figures,
    slots: Arc<Slots>,
    /// Where there are waits.
    runtimes: [Handle; 2],
    sets: Vec<mpsc::UnboundedSender<Order>>,
    watches: Arc<Semaphore>,
    end: Instant,
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Exit,
    Reap,
}

pub fn run(scenario: Scenario) {
    let start = Instant::now();
    let slots = Slots::new(8192);
    let [own, other, ignoring] = scenario.parents;
    let process = |parent| ParentProcess::process(slots.all, parent);
    let mut keepers: Vec<ParentProcess> = (0..other).map(|_| process(Parent::Other)).collect();
    keepers.extend((0..ignoring).map(|_| process(Parent::Ignoring)));
    (scenario.prepare)();
    keepers.extend((0..own).map(|_| ParentProcess::thread(slots.all)));

    let main = runtime(false);
    let runtimes = [0; 2].map(|_| runtime(scenario.refuse_registration));
    let (sets, orders): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::unbounded_channel()).unzip();
    let storm = Arc::new(Storm {
        scenario,
        figures: Figures::default(),
        slots,
        runtimes: runtimes.each_ref().map(|runtime| runtime.handle().clone()),
        sets,
        watches: Arc::new(Semaphore::new(scenario.watches as usize)),
        end: start + scenario.time,
    });
    let sets: Vec<_> = orders
        .into_iter()
        .enumerate()
        .map(|(n, orders)| storm.runtimes[n % 2].spawn(keep_set(storm.clone(), orders)))
        .collect();
    main.block_on(async {
        let drivers: Vec<_> = keepers
            .iter()
            .map(|parent| {
                let orders = parent.orders.try_clone().unwrap();
                tokio::spawn(drive(storm.clone(), parent.parent, orders))
            })
            .collect();
        for driver in drivers {
            driver.await.unwrap();
        }
        // All waits have ended when all permits are back.
        let _all = storm.watches.acquire_many(scenario.watches).await.unwrap();
        storm
            .sets
            .iter()
            .for_each(|set| set.send(Order::End).unwrap());
        for set in sets {
            set.await.unwrap();
        }
    });
    for parent in &mut keepers {
        parent.orders.shutdown(std::net::Shutdown::Both).unwrap();
        parent.end();
    }
    storm.figures.conclude(scenario.name, start);
}

fn runtime(refuse_registration: bool) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    if refuse_registration {
        builder.on_thread_start(|| linux::deny(libc::SYS_epoll_ctl, libc::ENOSPC));
    }
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Has one parent make one process after the other.
async fn drive(storm: Arc<Storm>, parent: Parent, orders: std::os::unix::net::UnixStream) {
    orders.set_nonblocking(true).unwrap();
    let mut orders = tokio::net::UnixStream::from_std(orders).unwrap();
    while Instant::now() < storm.end {
        let count = 1 + random(3) as u32;
        let permits = storm
            .watches
            .clone()
            .acquire_many_owned(count)
            .await
            .unwrap();
        let mut permits = Some(permits);
        let planned = loop {
            match storm.slots.take(plan(parent)) {
                Some(planned) => break planned,
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        orders
            .write_all(&planned.index.to_ne_bytes())
            .await
            .unwrap();
        assert_eq!(orders.read_u8().await.unwrap(), b'B');
        let life = Arc::new(planned.born(parent));
        for n in 0..count {
            let permit = permits.as_mut().and_then(|permits| permits.split(1));
            let (storm, life) = (storm.clone(), life.clone());
            // The first is often there before the process may go on, so that the rest is certain.
            let early = n == 0 && !one_in(3);
            let opened = if early { storm.open(&life) } else { None };
            if early && opened.is_none() {
                continue;
            }
            let runtime = storm.runtimes[random(2) as usize].clone();
            runtime.spawn(async move {
                if opened.is_none() && one_in(2) {
                    sleep(Duration::from_micros(random(300))).await;
                }
                watch(&storm, &life, opened).await;
                drop(permit);
            });
        }
        life.open_the_gate();
        assert_eq!(orders.read_u8().await.unwrap(), b'R');
        storm.figures.processes.fetch_add(1, SeqCst);
        if parent != Parent::Ignoring && life.collected() != Some(life.status()) {
            let (pid, kind) = (life.pid, life.kind());
            let (status, collected) = (life.status(), life.collected());
            storm.figures.blame(
                &storm.figures.stolen,
                format_args!("{pid} {kind:?} {parent:?}: {collected:?} and not {status} was left"),
            );
        }
    }
}

fn plan(parent: Parent) -> Plan {
    let auto_reap = parent == Parent::Ignoring;
    let kind = match random(100) {
        0..8 => Kind::LeaderFirst,
        8..10 => Kind::Exec,
        10..14 if !auto_reap => Kind::Stopped,
        14..20 if !auto_reap => Kind::Traced,
        _ => Kind::Plain,
    };
    let status = match random(10) {
        0 if kind != Kind::Exec => libc::SIGKILL,
        1 if kind != Kind::Exec && kind != Kind::Traced => libc::SIGTERM,
        _ => (random(256) as i32) << 8,
    };
    let delays = [0, 0, 20, 100, 400];
    let some = |delays: &[u32]| match delays[random(delays.len() as u64) as usize] {
        0 => 0,
        most => random(most.into()) as u32,
    };
    Plan {
        kind,
        status,
        // Sometimes so long that a poller looks seldom, and the pid comes back in between.
        delay: if one_in(30) {
            some(&[20_000])
        } else {
            some(&delays)
        },
        reap_delay: some(&[0, 0, 50, 300, 3000]),
        auto_reap,
        no_gate: one_in(3),
    }
}

impl Storm {
    /// Opens the process, if it is certain that it is that.
    fn open(&self, life: &Life) -> Option<ProcessExit> {
        let opened = match random(8) {
            0 => ProcessExit::try_from(life.pidfd.try_clone().unwrap()),
            _ => ProcessExit::open(life.pid),
        };
        match opened {
            Ok(exit) => self.is_it(life, &exit).then_some(exit),
            Err(_) if life.may_be_reaped() => None,
            Err(error) => {
                let what = format_args!("{} is there, but: {error}", life.pid);
                self.figures.blame(&self.figures.lost, what);
                None
            }
        }
    }

    /// Whether it is certain that what was opened just now is this process.
    fn is_it(&self, life: &Life, exit: &ProcessExit) -> bool {
        if !life.may_be_reaped() {
            return true;
        }
        let opened = exit.as_pidfd().and_then(oracle::inode);
        let is_it = opened.is_some() && opened == life.inode;
        if opened.is_none() {
            self.figures.unclear.fetch_add(1, SeqCst);
        } else if !is_it {
            self.figures.successor.fetch_add(1, SeqCst);
        }
        is_it
    }

    /// Compares what was told with the truth.
    fn told(&self, life: &Life, exit: &Exit, until: Until) {
        // First of all, as each moment makes it truer.
        let (has_exited, is_reaped) = (life.has_exited(), life.is_reaped());
        let may_be_reaped = life.may_be_reaped();
        let figures = &self.figures;
        let is_true = match until {
            Until::Exit => has_exited,
            Until::Reap => is_reaped,
        };
        let (kind, parent, plan) = (life.kind(), life.parent, life.status());
        let what = format_args!(
            "{exit}; {} {kind:?} {parent:?} with wait status {plan:#x}, until {until:?}: exited \
             {has_exited}, reaped {is_reaped}",
            life.pid
        );
        if !is_true {
            figures.blame(&figures.false_, what);
        }
        match exit.status().map(ExitStatusExt::into_raw) {
            // Of a process whose leading thread exits in the very moment in which another one ends
            // it, Linux 6.18 may take down the code of that thread: in one of some thousand cases
            // `PIDFD_GET_INFO` contradicts what the parent has collected. Whoever comes after the
            // reap has nothing else to go by.
            Some(status)
                if status != plan
                    && kind == Kind::LeaderFirst
                    && life.told_by_kernel() == Some(status) =>
            {
                figures.misled.fetch_add(1, SeqCst);
            }
            Some(status) if status != plan => figures.blame(&figures.wrong, what),
            Some(_) if self.is_secret(life) && !may_be_reaped => {
                figures.blame(&figures.overreached, what);
            }
            Some(_) => {}
            None => {
                figures.no_status.fetch_add(1, SeqCst);
                if self.scenario.every_status {
                    figures.blame(&figures.untold, what);
                }
            }
        }
        // An adopted process may have no pid any more.
        if exit.pid().is_some_and(|pid| pid != life.pid) {
            figures.blame(&figures.wrong, what);
        }
        if until == Until::Exit {
            let left = life.left().unwrap_or(u64::MAX);
            let late = Duration::from_nanos(oracle::now().saturating_sub(left));
            figures.latest.fetch_max(late.as_nanos() as u64, SeqCst);
            if late > LATE {
                figures.late.fetch_add(1, SeqCst);
            }
            if late > LOST {
                figures.blame(&figures.lost, what);
            }
        }
        figures.told.fetch_add(1, SeqCst);
    }

    /// Whether nobody tells us its status before the reap.
    fn is_secret(&self, life: &Life) -> bool {
        self.scenario.strangers && life.parent != Parent::Us
    }

    /// Awaits an exit, and compares.
    async fn settle(
        &self,
        life: &Life,
        exit: impl Future<Output = io::Result<Exit>>,
        until: Until,
    ) -> Option<Exit> {
        match timeout(LOST, exit).await {
            Ok(Ok(exit)) => {
                self.told(life, &exit, until);
                return Some(exit);
            }
            Ok(Err(error)) => {
                let what = format_args!("{}: {error}", life.pid);
                self.figures.blame(&self.figures.lost, what);
            }
            Err(_) => {
                let what = format_args!(
                    "{} {:?} {:?}: not told, exited {}, reaped {}",
                    life.pid,
                    life.kind(),
                    life.parent,
                    life.has_exited(),
                    life.is_reaped()
                );
                self.figures.blame(&self.figures.lost, what);
            }
        }
        None
    }

    fn other_runtime(&self) -> &Handle {
        &self.runtimes[random(2) as usize]
    }

    fn cancelled(&self) {
        self.figures.cancelled.fetch_add(1, SeqCst);
    }
}

/// Watches a process in one way or another.
async fn watch(storm: &Arc<Storm>, life: &Arc<Life>, opened: Option<ProcessExit>) {
    let way = random(64);
    if way < 24 {
        return watch_in_set(storm, life, opened).await;
    }
    let Some(mut exit) = opened.or_else(|| storm.open(life)) else {
        return;
    };
    match way {
        24..30 => drop(storm.settle(life, exit, Until::Exit).await),
        30..34 => drop(storm.settle(life, exit.until_reaped(), Until::Reap).await),
        34..38 => {
            // The exit, and then the reap.
            let first = storm.settle(life, &mut exit, Until::Exit).await;
            let second = storm.settle(life, exit.until_reaped(), Until::Reap).await;
            if let (Some(first), Some(second)) = (first, second) {
                if first.status().is_some() && first != second {
                    let what = format_args!("{first}, and then {second}");
                    storm.figures.blame(&storm.figures.wrong, what);
                }
            }
        }
        38..42 => {
            // Timeouts.
            let until_told = async {
                loop {
                    let time = Duration::from_micros(random(300));
                    if let Ok(exit) = timeout(time, &mut exit).await {
                        break exit;
                    }
                }
            };
            storm.settle(life, until_told, Until::Exit).await;
        }
        42..46 => {
            // One task, and then another in this runtime or the other.
            if let Poll::Ready(exit) = poll_once(&mut exit).await {
                {
                    storm.settle(life, async { exit }, Until::Exit).await;
                    return;
                }
            }
            let (storm, life) = (storm.clone(), life.clone());
            let runtime = storm.other_runtime().clone();
            let task = runtime.spawn(async move {
                storm.settle(&life, exit, Until::Exit).await;
            });
            task.await.unwrap();
        }
        46..50 => {
            // Looks, with and without the reactor in between.
            let until_told = async {
                loop {
                    match exit.try_wait() {
                        Ok(None) => {}
                        Ok(Some(exit)) => break Ok(exit),
                        Err(error) => break Err(error),
                    }
                    if one_in(4) {
                        if let Poll::Ready(exit) = poll_once(&mut exit).await {
                            break exit;
                        }
                    }
                    sleep(Duration::from_micros(random(200))).await;
                }
            };
            storm.settle(life, until_told, Until::Exit).await;
        }
        50..57 => drop_midway(storm, life, exit).await,
        57..62 => {
            // Aborted.
            let task = tokio::spawn(exit);
            for _ in 0..random(3) {
                tokio::task::yield_now().await;
            }
            if one_in(2) {
                sleep(Duration::from_micros(random(300))).await;
            }
            task.abort();
            match task.await {
                Ok(exit) => drop(storm.settle(life, async { exit }, Until::Exit).await),
                Err(_) => storm.cancelled(),
            }
        }
        // No runtime could be made there.
        _ if storm.scenario.refuse_registration => storm.cancelled(),
        _ => shut_down(storm, life, exit).await,
    }
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// Counts what it is woken.
#[derive(Default)]
struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Polls it or not, drops it at any moment, and looks whether anything is woken later on.
async fn drop_midway(storm: &Storm, life: &Life, mut exit: ProcessExit) {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    for _ in 0..random(3) {
        // In a runtime, but with a waker of our own.
        let polled = Pin::new(&mut exit).poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(exit) = polled {
            {
                storm.settle(life, async { exit }, Until::Exit).await;
                return;
            }
        }
        if one_in(2) {
            sleep(Duration::from_micros(random(200))).await;
        }
    }
    let exit = if one_in(3) { exit.until_reaped() } else { exit };
    drop(exit);
    let before = wakes.0.load(SeqCst);
    // Otherwise a wake may have been on its way.
    let is_alive = life.left().is_none();
    storm.cancelled();
    drop(waker);
    if !is_alive {
        return;
    }
    while !life.is_reaped() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(1 + random(50))).await;
    if wakes.0.load(SeqCst) > before || Arc::strong_count(&wakes) > 1 {
        let what = format_args!("{}: woken after the drop, or kept to be", life.pid);
        storm.figures.blame(&storm.figures.woken, what);
    }
}

/// Has it wait in a runtime that shuts down or is left alone, and then here.
async fn shut_down(storm: &Storm, life: &Life, mut exit: ProcessExit) {
    // Threads take pids, of which there may be few.
    static FEW: Semaphore = Semaphore::const_new(2);
    let _permit = FEW.acquire().await.unwrap();
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut builder = match random(2) {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let time = Duration::from_micros(random(500));
        // With an error, if that was during the shutdown.
        let seen = runtime.block_on(async { timeout(time, &mut exit).await.ok() });
        let left = match random(3) {
            // It lives on, and a runtime of one thread is driven by nobody then.
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
        drop(sender.send((seen, exit, left)));
    });
    let (seen, exit, left) = receiver.await.expect("the thread has not panicked");
    match seen {
        Some(exit) => storm.settle(life, async { exit }, Until::Exit).await,
        None => storm.settle(life, exit, Until::Exit).await,
    };
    if let Some(runtime) = left {
        runtime.shutdown_background();
    }
}

/// What a task with a set is told.
enum Order {
    Watch(Arc<Life>, Option<ProcessExit>, Until, oneshot::Sender<()>),
    Remove(Arc<Life>),
    End,
}

async fn watch_in_set(storm: &Arc<Storm>, life: &Arc<Life>, opened: Option<ProcessExit>) {
    let set = &storm.sets[random(storm.sets.len() as u64) as usize];
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
    let _ = set.send(Order::Watch(life.clone(), opened, until, done));
    if one_in(4) {
        sleep(Duration::from_micros(random(300))).await;
        let _ = set.send(Order::Remove(life.clone()));
    }
    // It ends either way.
    let _ = is_done.await;
}

/// A process in a set, until that tells of it.
struct Inmate {
    life: Arc<Life>,
    until: Until,
    has_pidfd: bool,
    since: Instant,
    _done: oneshot::Sender<()>,
}

/// A set, and what must be in it.
struct Kept {
    storm: Arc<Storm>,
    set: ExitSet,
    /// By pid, in the order of insertion.
    inmates: HashMap<u32, VecDeque<Inmate>>,
    /// Those that an exit without a status was put down to, though there were others.
    guessed: HashMap<u32, Vec<Arc<Life>>>,
}

async fn keep_set(storm: Arc<Storm>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut kept = Kept {
        storm,
        set: ExitSet::new(),
        inmates: HashMap::new(),
        guessed: HashMap::new(),
    };
    let mut is_open = true;
    while is_open || !kept.inmates.is_empty() {
        if one_in(100) {
            // Busy with other things.
            sleep(Duration::from_millis(random(60))).await;
        }
        let limit = Duration::from_micros(random(300));
        let how = random(8);
        let some = async {
            match how {
                // It may be cancelled at any moment, so what it would return must not be lost.
                0 => kept.set.exits_within(limit).await,
                1 => kept.set.try_next_exit().into_iter().collect(),
                _ => kept.set.next_exit().await.into_iter().collect(),
            }
        };
        tokio::select! {
            order = orders.recv(), if is_open => match order {
                Some(Order::Watch(life, opened, until, done)) => {
                    kept.insert(life, opened, until, done);
                }
                Some(Order::Remove(life)) => kept.remove(&life),
                Some(Order::End) | None => is_open = false,
            },
            exits = some, if !kept.inmates.is_empty() => match exits {
                Ok(exits) => exits.iter().for_each(|exit| kept.told(exit)),
                Err(error) => {
                    let figures = &kept.storm.figures;
                    figures.blame(&figures.lost, format_args!("a set: {error}"));
                }
            },
            () = sleep(Duration::from_millis(100)) => {}
        }
        kept.look_for_the_lost();
    }
    if !kept.set.is_empty() {
        let figures = &kept.storm.figures;
        let what = format_args!("{:?} is left in a set", kept.set.pids().collect::<Vec<_>>());
        figures.blame(&figures.false_, what);
    }
}

impl Kept {
    fn insert(
        &mut self,
        life: Arc<Life>,
        opened: Option<ProcessExit>,
        until: Until,
        done: oneshot::Sender<()>,
    ) {
        let figures = &self.storm.figures;
        let pid = life.pid;
        let mut others = self.inmates.get(&pid).into_iter().flatten();
        let is_ambiguous =
            others.any(|other| !other.has_pidfd && life.may_share_the_tick(&other.life));
        let mut same = self.inmates.get(&pid).into_iter().flatten();
        let inside = same.find(|inmate| Arc::ptr_eq(&inmate.life, &life));
        let (is_inside, with_pidfd) = (inside.is_some(), inside.map(|inmate| inmate.has_pidfd));
        let was_opened = opened.is_some();
        // If it was adopted, it has one anyway.
        let has_pidfd = |exit: &ProcessExit| exit.as_pidfd().is_some();
        let has_pidfd = opened
            .as_ref()
            .map_or(self.storm.scenario.pidfds, has_pidfd);
        let inserted = match opened {
            // Adopted after the reap: nobody could tell later whose exit it is.
            Some(exit) if exit.pid().is_none() => return,
            Some(exit) => Ok(self.set.insert_exit(exit)),
            None => self.set.insert(pid),
        };
        let is_certain = was_opened || !life.may_be_reaped();
        // Of different kinds they have nothing in common.
        let is_alike = with_pidfd == Some(has_pidfd);
        let is_comparable = is_alike && (has_pidfd || self.storm.scenario.identities);
        let is_known_again = is_comparable || !life.may_be_reaped();
        match inserted {
            Ok(true) if is_certain && is_inside && is_known_again => {
                figures.blame(&figures.false_, format_args!("{pid} was let in twice"));
            }
            Ok(true) if is_certain => {}
            Ok(true) => {
                // Whoever it is, it came in last.
                self.set.remove(pid);
                figures.unclear.fetch_add(1, SeqCst);
                return;
            }
            Ok(false) if !is_certain || is_inside => return,
            Ok(false) if is_ambiguous => {
                figures.mistaken.fetch_add(1, SeqCst);
                return;
            }
            Ok(false) => {
                let what = format_args!("{pid} was not let in, and was not in");
                return figures.blame(&figures.lost, what);
            }
            Err(_) if !is_certain => return,
            Err(error) => {
                let what = format_args!("{pid} was not let in: {error}");
                return figures.blame(&figures.lost, what);
            }
        }
        let inmate = Inmate {
            life,
            until,
            has_pidfd,
            since: Instant::now(),
            _done: done,
        };
        self.inmates.entry(pid).or_default().push_back(inmate);
    }

    fn remove(&mut self, life: &Arc<Life>) {
        let Some(inmates) = self.inmates.get_mut(&life.pid) else {
            return;
        };
        // Of several that have had the pid it would be hard to say which one is meant.
        let is_meant = inmates.len() == 1 && Arc::ptr_eq(&inmates[0].life, life);
        if is_meant && self.set.contains(life.pid) {
            if !self.set.remove(life.pid) {
                let figures = &self.storm.figures;
                let what = format_args!("{} is in a set, but not to be removed", life.pid);
                figures.blame(&figures.lost, what);
            }
            self.inmates.remove(&life.pid);
            self.storm.cancelled();
        }
    }

    fn told(&mut self, exit: &Exit) {
        let figures = &self.storm.figures;
        let pid = exit.pid().unwrap_or_default();
        let Some(inmates) = self.inmates.get_mut(&pid) else {
            let what = format_args!("a set: {exit}, which was not in");
            return figures.blame(&figures.false_, what);
        };
        // Several that have had the pid may be in, and polling may tell of a later one first.
        let status = exit.status().map(ExitStatusExt::into_raw);
        let fits = |life: &Life| status.is_none_or(|status| status == life.status());
        let has_come = |inmate: &Inmate| match inmate.until {
            Until::Exit => inmate.life.has_exited(),
            Until::Reap => inmate.life.is_reaped(),
        };
        let index = inmates
            .iter()
            .position(|inmate| has_come(inmate) && fits(&inmate.life));
        let inmate = inmates.remove(index.unwrap_or(0));
        let guessed = self.guessed.entry(pid).or_default();
        // Without a status it may have been another one before. Then that was this one.
        let before = guessed.iter().position(|life| fits(life));
        match (inmate, index, before) {
            (Some(inmate), None, Some(before)) if has_come(&inmate) => {
                let life = guessed.swap_remove(before);
                self.storm.told(&life, exit, Until::Exit);
                guessed.push(inmate.life);
            }
            (Some(inmate), _, _) => {
                self.storm.told(&inmate.life, exit, inmate.until);
                if status.is_none() && !inmates.is_empty() {
                    guessed.push(inmate.life);
                }
            }
            (None, _, _) => {}
        }
        if inmates.is_empty() {
            self.inmates.remove(&pid);
            self.guessed.remove(&pid);
        }
    }

    /// Those who should have been told of long ago.
    fn look_for_the_lost(&mut self) {
        let figures = &self.storm.figures;
        self.inmates.retain(|pid, inmates| {
            inmates.retain(|inmate| {
                let is_lost = inmate.since.elapsed() > 2 * LOST;
                if is_lost {
                    let life = &inmate.life;
                    let what = format_args!(
                        "{pid} {:?} {:?}: not told by a set, exited {}, reaped {}",
                        life.kind(),
                        life.parent,
                        life.has_exited(),
                        life.is_reaped()
                    );
                    figures.blame(&figures.lost, what);
                }
                !is_lost
            });
            !inmates.is_empty()
        });
    }
}
