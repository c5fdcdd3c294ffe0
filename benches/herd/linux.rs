use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_process_exit::{ExitSet, ProcessExit, exit_of};

const ROUNDS: usize = 5;

pub(crate) fn herd_of(size: usize) {
    let limit = descriptors();
    if size + 100 > limit {
        return println!("\n{size} processes: skipped, the limit of descriptors is {limit}");
    }
    let herd = match Herd::new(size) {
        Ok(herd) => herd,
        Err(error) => return println!("\n{size} processes: skipped, {error}"),
    };
    println!("\n{size} processes, median of {ROUNDS} rounds");

    println!("  asleep: register and wait");
    println!(
        "  {:34} {:>12} {:>22}",
        "", "bytes each", "registering, ns each"
    );
    let contenders = contenders();
    let mut figures = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            figures.push((contender.run)(&herd.pids, None));
        }
    }
    let floor = median(&figures[0], |round| round.register);
    for (contender, figures) in contenders.iter().zip(&figures) {
        let bytes = median(figures, |round| round.bytes as f64);
        let register = median(figures, |round| round.register);
        println!(
            "  {:34} {:>12.0} {:>14.0} {:>6.2}x",
            contender.name,
            bytes / size as f64,
            register / size as f64,
            register / floor
        );
    }

    let switches = idle(&herd.pids);
    println!("  ExitSet, idle for 10 s: {switches} voluntary context switches");

    drop(herd);
    println!("  all killed: until the last exit is told, and with what is closed after that");
    println!(
        "  {:34} {:>14} {:>14} {:>24}",
        "", "last told, ms", "+ closing, ms", "CPU for all, us each"
    );
    let mut figures = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            match Herd::new(size) {
                Ok(herd) => figures.push((contender.run)(&herd.pids, Some(&herd))),
                Err(error) => return println!("  given up: {error}"),
            }
        }
    }
    let (told_floor, cpu_floor) = (
        median(&figures[0], |round| round.told),
        median(&figures[0], |round| round.cpu),
    );
    for (contender, figures) in contenders.iter().zip(&figures) {
        let told = median(figures, |round| round.told);
        let closed = median(figures, |round| round.closed);
        let cpu = median(figures, |round| round.cpu);
        println!(
            "  {:34} {:>6.1} {:>6.2}x {:>13.1} {:>16.2} {:>6.2}x",
            contender.name,
            told / 1e6,
            told / told_floor,
            closed / 1e6,
            cpu / size as f64 / 1e3,
            cpu / cpu_floor
        );
    }
}

/// Nanoseconds, but for `bytes`.
#[derive(Clone, Copy, Default)]
struct Round {
    /// Of memory, once all are registered.
    bytes: usize,
    /// From nothing until all are registered.
    register: f64,
    /// From there until the last exit has been told.
    told: f64,
    /// From there until everything is closed.
    closed: f64,
    /// Processor time of telling and closing.
    cpu: f64,
}

struct Contender {
    name: &'static str,
    /// Registers them all and, if there is a herd to kill, does so and waits for all.
    run: fn(&[u32], Option<&Herd>) -> Round,
}

fn contenders() -> Vec<Contender> {
    vec![
        Contender {
            name: "epoll by hand, closed later",
            run: |pids, killed| by_hand(pids, killed, true, true),
        },
        Contender {
            name: "epoll by hand, closed at once",
            run: |pids, killed| by_hand(pids, killed, true, false),
        },
        Contender {
            name: "epoll by hand, without status",
            run: |pids, killed| by_hand(pids, killed, false, true),
        },
        Contender {
            name: "ExitSet",
            run: |pids, killed| set(current_thread(), ExitSet::new(), pids, killed),
        },
        Contender {
            name: "ExitSet, multi_thread",
            run: |pids, killed| set(multi_thread(), ExitSet::new(), pids, killed),
        },
        Contender {
            name: "ExitSet, multi_thread, capacity",
            run: |pids, killed| {
                let runtime = multi_thread();
                let mut meter = Meter::start();
                let bytes = allocated();
                let set = ExitSet::with_capacity(pids.len());
                let (bytes, prepared) = (allocated() - bytes, meter.lap());
                let mut round = self::set(runtime, set, pids, killed);
                round.register += prepared;
                round.bytes += bytes;
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
    ]
}

fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn by_hand(pids: &[u32], killed: Option<&Herd>, status: bool, later: bool) -> Round {
    let mut round = Round::default();
    let bytes = allocated();
    let mut meter = Meter::start();
    // SAFETY: takes an integer.
    let epoll = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
    let mut pidfds = Vec::new();
    for (key, &pid) in pids.iter().enumerate() {
        // SAFETY: takes integers.
        let pidfd = own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd);
        let events = (libc::EPOLLIN | libc::EPOLLONESHOT) as u32;
        let mut event = libc::epoll_event {
            events,
            u64: key as u64,
        };
        let (epoll, fd) = (epoll.as_raw_fd(), pidfd.as_raw_fd());
        // SAFETY: `event` is readable.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        pidfds.push(Some(pidfd));
    }
    round.register = meter.lap();
    round.bytes = allocated() - bytes;
    if let Some(herd) = killed {
        herd.kill();
        meter.lap();
    }
    let cpu = cpu_time();
    let mut left = if killed.is_some() { pids.len() } else { 0 };
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
    while left > 0 {
        let (epoll, buffer) = (epoll.as_raw_fd(), events.as_mut_ptr());
        // SAFETY: `events` has room for that many.
        let count = unsafe { libc::epoll_wait(epoll, buffer, 128, -1) } as usize;
        for event in &events[..count] {
            let pidfd = &mut pidfds[event.u64 as usize];
            if status {
                std::hint::black_box(child_status(pidfd.as_ref().map_or(-1, AsRawFd::as_raw_fd)));
            }
            if !later {
                *pidfd = None;
            }
        }
        left -= count;
    }
    round.told = meter.lap();
    drop((pidfds, epoll));
    round.closed = meter.lap();
    round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    round
}

fn child_status(pidfd: RawFd) -> i32 {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable.
    unsafe { libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, &raw mut info, options) };
    // SAFETY: `waitid` has filled it in.
    unsafe { info.si_status() }
}

fn set(runtime: Runtime, mut set: ExitSet, pids: &[u32], killed: Option<&Herd>) -> Round {
    let mut round = Round::default();
    let bytes = allocated();
    let mut meter = Meter::start();
    runtime.block_on(async {
        for &pid in pids {
            set.insert(pid).expect("it is there");
        }
        assert!(futures::FutureExt::now_or_never(set.next_exit()).is_none());
        round.register = meter.lap();
        round.bytes = allocated().saturating_sub(bytes);
        if let Some(herd) = killed {
            herd.kill();
            meter.lap();
        }
        let cpu = cpu_time();
        for _ in 0..killed.map_or(0, |_| pids.len()) {
            std::hint::black_box(set.next_exit().await.expect("not empty").expect("an exit"));
        }
        round.told = meter.lap();
        drop(set);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn futures_unordered(pids: &[u32], killed: Option<&Herd>) -> Round {
    let mut round = Round::default();
    current_thread().block_on(async {
        let bytes = allocated();
        let mut meter = Meter::start();
        let mut exits: FuturesUnordered<ProcessExit> =
            pids.iter().map(|&pid| exit_of(pid)).collect();
        // Registers them, some in each turn.
        for _ in 0..pids.len() / 64 + 2 {
            assert!(futures::FutureExt::now_or_never(exits.next()).is_none());
            tokio::task::yield_now().await;
        }
        round.register = meter.lap();
        round.bytes = allocated() - bytes;
        if let Some(herd) = killed {
            herd.kill();
            meter.lap();
        }
        let cpu = cpu_time();
        while killed.is_some() {
            match exits.next().await {
                Some(exit) => _ = std::hint::black_box(exit.expect("an exit")),
                None => break,
            }
        }
        round.told = meter.lap();
        drop(exits);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn join_set(pids: &[u32], killed: Option<&Herd>) -> Round {
    let mut round = Round::default();
    current_thread().block_on(async {
        let bytes = allocated();
        let mut meter = Meter::start();
        let mut exits: JoinSet<io::Result<_>> = pids.iter().map(|&pid| exit_of(pid)).collect();
        for _ in 0..pids.len() / 32 + 2 {
            tokio::task::yield_now().await;
        }
        round.register = meter.lap();
        round.bytes = allocated() - bytes;
        if let Some(herd) = killed {
            herd.kill();
            meter.lap();
        }
        let cpu = cpu_time();
        while killed.is_some() {
            match exits.join_next().await {
                Some(exit) => _ = std::hint::black_box(exit.expect("no panic").expect("an exit")),
                None => break,
            }
        }
        round.told = meter.lap();
        exits.shutdown().await;
        drop(exits);
        round.closed = meter.lap();
        round.cpu = (cpu_time() - cpu).as_nanos() as f64;
    });
    round
}

fn idle(pids: &[u32]) -> i64 {
    let mut set = ExitSet::with_capacity(pids.len());
    for &pid in pids {
        set.insert(pid).expect("it is there");
    }
    current_thread().block_on(async {
        let before = usage().ru_nvcsw;
        let exits = set
            .exits_within(Duration::from_secs(10))
            .await
            .expect("no error");
        assert!(exits.is_empty());
        (usage().ru_nvcsw - before) as _
    })
}

/// Children that sleep until they are killed, and are reaped in the end.
struct Herd {
    pids: Vec<u32>,
}

impl Herd {
    fn new(size: usize) -> io::Result<Herd> {
        let mut herd = Herd {
            pids: Vec::with_capacity(size),
        };
        for _ in 0..size {
            // SAFETY: there is one thread, and the child only makes system calls.
            match unsafe { libc::fork() } {
                0 => sleep_for_ever(),
                pid if pid > 0 => herd.pids.push(pid as u32),
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(herd)
    }

    /// Leaves them unreaped.
    fn kill(&self) {
        for &pid in &self.pids {
            // SAFETY: takes integers.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
        for &pid in &self.pids {
            // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let options = libc::WEXITED | libc::WNOWAIT;
            // SAFETY: `info` is writable.
            unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, options) };
        }
    }
}

fn sleep_for_ever() -> ! {
    // A herd must not outlive its herdsman.
    // SAFETY: takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        for &pid in &self.pids {
            // SAFETY: takes integers.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
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

fn median(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn own(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: a system call has just returned it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn descriptors() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur as usize
}

fn usage() -> libc::rusage {
    // SAFETY: a `rusage` is all integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
