//! Waits that are cancelled by the thousand, and what is left of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::time::timeout;
use tokio_process_exit::{ExitSet, Mechanism, ProcessExit, exit_of};

use crate::figures::{Figures, random};
use crate::support::linux::{self, Forked, many};
use crate::support::poll_forced;

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, SeqCst);
        // SAFETY: by the contract of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, SeqCst);
        // SAFETY: by the contract of this function.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this process holds.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    /// In all epolls together.
    registrations: usize,
    threads: usize,
    children: usize,
}

impl Holdings {
    fn now() -> Holdings {
        let count = |directory: &str| fs::read_dir(directory).expect("/proc").count();
        let infos = fs::read_dir("/proc/self/fdinfo").expect("/proc");
        let registrations = infos
            .filter_map(|info| fs::read_to_string(info.ok()?.path()).ok())
            .map(|info| info.lines().filter(|line| line.starts_with("tfd:")).count())
            .sum();
        Holdings {
            descriptors: count("/proc/self/fd"),
            registrations,
            threads: count("/proc/self/task"),
            children: linux::children().len(),
        }
    }
}

#[derive(Default)]
struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Cancels so many waits of processes that live on.
pub fn cancel(name: &'static str, count: usize, refuse_registration: bool) {
    const THREADS_LIVE_ON: Duration = Duration::from_millis(20);
    let start = Instant::now();
    let figures = Figures::default();
    let mut processes = many(30);
    let mut builder = Builder::new_multi_thread();
    if refuse_registration {
        builder.on_thread_start(|| linux::deny(libc::SYS_epoll_ctl, libc::ENOSPC));
    }
    builder.worker_threads(2).thread_keep_alive(THREADS_LIVE_ON);
    let runtime = builder.enable_all().build().unwrap();
    let wakes = Arc::new(Wakes::default());

    let run = |count| {
        let (pids, wakes) = (processes.iter().map(Forked::id).collect(), wakes.clone());
        // In a worker, not in this thread.
        runtime
            .block_on(runtime.spawn(some(count, pids, wakes)))
            .unwrap();
    };
    // Whatever is made once, and kept.
    run(500);
    std::thread::sleep(4 * THREADS_LIVE_ON);
    let (before, allocated) = (Holdings::now(), ALLOCATED.load(SeqCst));
    run(count);
    let mut after = Holdings::now();
    for _ in 0..100 {
        if after == before {
            break;
        }
        std::thread::sleep(THREADS_LIVE_ON);
        after = Holdings::now();
    }
    let grown = ALLOCATED.load(SeqCst) - allocated;
    assert_eq!(after, before);
    println!("torture: {name}: {after:?} as before, {grown} bytes more than before");
    // The smallest thing that could be left of every tenth is larger than that, in the long form.
    assert!(
        grown < count as i64 / 10 + 8192,
        "{grown} bytes for {count} waits"
    );
    assert_eq!(Arc::strong_count(&wakes), 1, "wakers are kept");
    assert_eq!(wakes.0.load(SeqCst), 0, "woken, and nothing had exited");

    // Nor does an exit wake anybody now. One that waits shows when it would have.
    let last = runtime.spawn(exit_of(processes[0].id()));
    processes.iter_mut().for_each(Forked::kill);
    let last = runtime.block_on(last).unwrap().unwrap();
    assert_eq!(last.pid(), Some(processes[0].id()));
    std::thread::sleep(Duration::from_millis(100));
    let woken = wakes.0.load(SeqCst);
    figures.woken.store(woken, SeqCst);
    figures.told.store(1, SeqCst);
    figures.processes.store(processes.len() as u64, SeqCst);
    figures.cancelled.store(count as u64, SeqCst);
    figures.conclude(name, start);
}

async fn some(count: usize, pids: Vec<u32>, wakes: Arc<Wakes>) {
    let waker = Waker::from(wakes);
    let cx = || Context::from_waker(&waker);
    let mut set = ExitSet::new();
    let pidfd = |&pid: &u32| Some((pid, exit_of(pid).as_pidfd()?.try_clone_to_owned().ok()?));
    let pidfds: HashMap<u32, OwnedFd> = pids.iter().filter_map(pidfd).collect();
    for n in 0..count {
        let pid = pids[random(pids.len() as u64) as usize];
        let mut exit = exit_of(pid);
        let poll = |exit: &mut ProcessExit| {
            assert!(Pin::new(exit).poll(&mut cx()).is_pending(), "{pid} lives");
        };
        match n % 10 {
            0 => {}
            1 => poll(&mut exit),
            2 => {
                poll(&mut exit);
                poll(&mut exit);
                exit = exit.until_reaped();
                poll(&mut exit);
            }
            3 => {
                poll(&mut exit);
                assert_eq!(exit.try_wait().unwrap(), None);
                // Dropped elsewhere.
                let dropped = tokio::spawn(async move { drop(exit) });
                dropped.await.unwrap();
                continue;
            }
            4 => {
                let task = tokio::spawn(exit);
                tokio::task::yield_now().await;
                task.abort();
                assert!(task.await.unwrap_err().is_cancelled());
                continue;
            }
            5 => {
                let time = Duration::from_micros(random(50));
                assert!(timeout(time, &mut exit).await.is_err());
            }
            6 => {
                // A set that lives on.
                assert!(set.insert(pid).unwrap());
                assert!(set.poll_next_exit(&mut cx()).is_pending());
                assert!(set.remove(pid));
            }
            7 => {
                // What was adopted may have a duplicate that lives on.
                let adopted = pidfds.get(&pid).map(|pidfd| pidfd.try_clone().unwrap());
                let exit = adopted.map_or(exit, |pidfd| ProcessExit::try_from(pidfd).unwrap());
                assert!(set.insert_exit(exit.until_reaped()));
                assert!(set.poll_next_exit(&mut cx()).is_pending());
                assert!(set.remove(pid));
                continue;
            }
            8 => {
                // One that does not.
                let mut set = ExitSet::with_capacity(2);
                assert!(set.insert(pid).unwrap());
                assert!(set.poll_next_exit(&mut cx()).is_pending());
            }
            _ => {
                let mut set = ExitSet::new();
                assert!(set.insert_exit(exit));
                assert!(matches!(set.poll_next_exit(&mut cx()), Poll::Pending));
                let exits = set.exits_within(Duration::ZERO).await.unwrap();
                assert!(exits.is_empty());
                continue;
            }
        }
        if poll_forced() {
            assert_eq!(exit.mechanism(), Some(Mechanism::Polling));
        }
        if n % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // Nothing is left in its epoll, which is itself in the reactor's: once, but of that there are two
    // descriptors.
    assert!(set.is_empty());
    let with_set = Holdings::now().registrations;
    drop(set);
    let without = Holdings::now().registrations;
    assert!(with_set - without <= 2, "{with_set} {without}");
}
