//! Thousands of cancelled waits, which must leak neither memory nor descriptors.

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

use crate::counters::{Counters, random};
use crate::support::linux::{self, Forked, many};
use crate::support::poll_forced;

/// The system's allocator, which also counts the allocated bytes.
struct CountingAllocator;

/// Number of bytes that are currently allocated.
static ALLOCATED: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is forwarded to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, SeqCst);
        // SAFETY: the contract of this function is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, SeqCst);
        // SAFETY: the contract of this function is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The system resources that this process uses.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    descriptors: usize,
    /// Descriptors registered with any epoll instance.
    registrations: usize,
    threads: usize,
    children: usize,
}

impl Resources {
    /// Counts the resources in use now.
    fn now() -> Resources {
        let count = |directory: &str| fs::read_dir(directory).expect("/proc").count();
        let infos = fs::read_dir("/proc/self/fdinfo").expect("/proc");
        let registrations = infos
            .filter_map(|info| fs::read_to_string(info.ok()?.path()).ok())
            .map(|info| info.lines().filter(|line| line.starts_with("tfd:")).count())
            .sum();
        Resources {
            descriptors: count("/proc/self/fd"),
            registrations,
            threads: count("/proc/self/task"),
            children: linux::children().len(),
        }
    }
}

/// A waker that counts its wake-ups.
#[derive(Default)]
struct WakeCounter(AtomicU64);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Cancels `count` waits for running processes, and checks that nothing is leaked.
pub fn cancel(name: &'static str, count: usize, refuse_registration: bool) {
    const KEEP_ALIVE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    let counters = Counters::default();
    let mut children = many(30);
    let mut builder = Builder::new_multi_thread();
    if refuse_registration {
        builder.on_thread_start(|| linux::deny(libc::SYS_epoll_ctl, libc::ENOSPC));
    }
    builder.worker_threads(2).thread_keep_alive(KEEP_ALIVE);
    let runtime = builder.enable_all().build().unwrap();
    let wakes = Arc::new(WakeCounter::default());

    let run = |count| {
        let (pids, wakes) = (children.iter().map(Forked::id).collect(), wakes.clone());
        // Run on a worker thread, because `refuse_registration` does not affect this thread.
        runtime
            .block_on(runtime.spawn(cancel_waits(count, pids, wakes)))
            .unwrap();
    };
    // Run once before counting: the first waits create resources that are kept.
    run(500);
    std::thread::sleep(4 * KEEP_ALIVE);
    let (before, allocated) = (Resources::now(), ALLOCATED.load(SeqCst));
    run(count);
    let mut after = Resources::now();
    for _ in 0..100 {
        if after == before {
            break;
        }
        std::thread::sleep(KEEP_ALIVE);
        after = Resources::now();
    }
    let grown = ALLOCATED.load(SeqCst) - allocated;
    assert_eq!(after, before);
    println!("torture: {name}: {after:?} as before, {grown} bytes more than before");
    // In the long form, even the smallest leak in every tenth wait would exceed this limit.
    assert!(
        grown < count as i64 / 10 + 8192,
        "{grown} bytes for {count} waits"
    );
    assert_eq!(Arc::strong_count(&wakes), 1, "wakers are leaked");
    assert_eq!(
        wakes.0.load(SeqCst),
        0,
        "woken, although no process has exited"
    );

    // Exits must not wake cancelled waits either. A new wait resolves once exits are reported.
    let last_wait = runtime.spawn(exit_of(children[0].id()));
    children.iter_mut().for_each(Forked::kill);
    let exit = runtime.block_on(last_wait).unwrap().unwrap();
    assert_eq!(exit.pid(), Some(children[0].id()));
    std::thread::sleep(Duration::from_millis(100));
    let woken = wakes.0.load(SeqCst);
    counters.woken.store(woken, SeqCst);
    counters.checked.store(1, SeqCst);
    counters.processes.store(children.len() as u64, SeqCst);
    counters.cancelled.store(count as u64, SeqCst);
    counters.finish(name, start);
}

/// Starts `count` waits for random processes, and cancels each in one of ten ways.
async fn cancel_waits(count: usize, pids: Vec<u32>, wakes: Arc<WakeCounter>) {
    let waker = Waker::from(wakes);
    let cx = || Context::from_waker(&waker);
    let mut set = ExitSet::new();
    let pidfd = |&pid: &u32| Some((pid, exit_of(pid).as_pidfd()?.try_clone_to_owned().ok()?));
    let pidfds: HashMap<u32, OwnedFd> = pids.iter().filter_map(pidfd).collect();
    for n in 0..count {
        let pid = pids[random(pids.len() as u64) as usize];
        let mut process = exit_of(pid);
        let poll = |process: &mut ProcessExit| {
            assert!(
                Pin::new(process).poll(&mut cx()).is_pending(),
                "{pid} is running"
            );
        };
        match n % 10 {
            0 => {}
            1 => poll(&mut process),
            2 => {
                poll(&mut process);
                poll(&mut process);
                process = process.until_reaped();
                poll(&mut process);
            }
            3 => {
                poll(&mut process);
                assert_eq!(process.try_wait().unwrap(), None);
                // Drop the future in another task.
                let dropped = tokio::spawn(async move { drop(process) });
                dropped.await.unwrap();
                continue;
            }
            4 => {
                let task = tokio::spawn(process);
                tokio::task::yield_now().await;
                task.abort();
                assert!(task.await.unwrap_err().is_cancelled());
                continue;
            }
            5 => {
                let time = Duration::from_micros(random(50));
                assert!(timeout(time, &mut process).await.is_err());
            }
            6 => {
                // Use the set that outlives the waits.
                assert!(set.insert(pid).unwrap());
                assert!(set.poll_next_exit(&mut cx()).is_pending());
                assert!(set.remove(pid));
            }
            7 => {
                // An adopted pidfd may have a duplicate that stays open.
                let adopted = pidfds.get(&pid).map(|pidfd| pidfd.try_clone().unwrap());
                let process =
                    adopted.map_or(process, |pidfd| ProcessExit::try_from(pidfd).unwrap());
                assert!(set.insert_exit(process.until_reaped()));
                assert!(set.poll_next_exit(&mut cx()).is_pending());
                assert!(set.remove(pid));
                continue;
            }
            8 => {
                // Drop the set while it has a member.
                let mut set = ExitSet::with_capacity(2);
                assert!(set.insert(pid).unwrap());
                assert!(set.poll_next_exit(&mut cx()).is_pending());
            }
            _ => {
                let mut set = ExitSet::new();
                assert!(set.insert_exit(process));
                assert!(matches!(set.poll_next_exit(&mut cx()), Poll::Pending));
                let exits = set.exits_within(Duration::ZERO).await.unwrap();
                assert!(exits.is_empty());
                continue;
            }
        }
        if poll_forced() {
            assert_eq!(process.mechanism(), Some(Mechanism::Polling));
        }
        if n % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // An empty set has no registrations in its own epoll instance. The set's instance is registered
    // with the reactor's instance. The registration counts twice, because two descriptors refer to
    // the reactor's instance.
    assert!(set.is_empty());
    let with_set = Resources::now().registrations;
    drop(set);
    let without = Resources::now().registrations;
    assert!(
        with_set - without <= 2,
        "{with_set} registrations with the set, {without} without"
    );
}
