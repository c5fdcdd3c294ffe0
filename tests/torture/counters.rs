//! Counters of a test run. Some of them count violations, and make the test fail.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// Events that were counted while a test ran.
#[derive(Debug, Default)]
pub struct Counters {
    /// Targets that have exited.
    pub processes: AtomicU64,
    /// Reported exits and reaps that were compared with the oracle.
    pub checked: AtomicU64,
    /// Waits that were dropped before they resolved.
    pub cancelled: AtomicU64,
    /// Processes that were closed right after opening: the pid may have been reused, and nothing
    /// identifies the process.
    pub unidentified: AtomicU64,
    /// Opened processes that turned out to have reused the target's pid: the pidfd's inode differs.
    pub reused_pid: AtomicU64,
    /// Exits without a status.
    pub no_status: AtomicU64,
    /// Exits whose status the kernel itself has wrong, see `Stress::check_exit`.
    pub kernel_wrong: AtomicU64,
    /// Processes mistaken for another process with the same pid and the same start tick, which polling
    /// cannot distinguish without `/proc`.
    pub same_tick: AtomicU64,
    /// Longest time from the trigger of an exit to its report, in ns.
    pub max_latency: AtomicU64,
    /// Exits reported later than [`LATE`].
    pub late: AtomicU64,

    /// Violation: an exit that was not reported in time, or an existing process not found.
    pub lost: AtomicU64,
    /// Violation: an exit that was reported too early or twice, or for no member of the set.
    pub spurious: AtomicU64,
    /// Violation: an exit with the status or pid of another process.
    pub wrong: AtomicU64,
    /// Violation: a status that the parent could no longer collect.
    pub stolen: AtomicU64,
    /// Violation: a status that the kernel hides from this user.
    pub forbidden: AtomicU64,
    /// Violation: a missing status where the crate promises one.
    pub missing_status: AtomicU64,
    /// Violation: a wake-up after the wait was dropped.
    pub woken: AtomicU64,
}

/// The latency above which an exit is counted as late.
pub const LATE: Duration = Duration::from_millis(250);

impl Counters {
    /// Counts a violation, and prints the first few of them.
    pub fn violation(&self, counter: &AtomicU64, description: impl fmt::Display) {
        counter.fetch_add(1, Relaxed);
        static PRINTED: AtomicU64 = AtomicU64::new(0);
        if PRINTED.fetch_add(1, Relaxed) < 20 {
            eprintln!("{description}");
        }
    }

    /// Prints all counters in one line, and fails if there were violations.
    pub fn finish(&self, name: &str, start: Instant) {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let violations = [
            ("lost", &self.lost),
            ("spurious", &self.spurious),
            ("wrong", &self.wrong),
            ("stolen", &self.stolen),
            ("forbidden", &self.forbidden),
            ("missing a status", &self.missing_status),
            ("woken after drop", &self.woken),
        ];
        let seconds = start.elapsed().as_secs_f64();
        let checked = get(&self.checked);
        let list = violations.map(|(violation, counter)| format!("{} {violation}", get(counter)));
        println!(
            "torture: {name}: {checked} exits checked of {} processes, {}; {} cancelled, \
             {} unidentified, {} reused pids, {} without status, {} wrong in the kernel, \
             {} of the same tick; the latest after {} ms, {} later than {} ms; \
             {seconds:.1} s, {:.0} exits/s",
            get(&self.processes),
            list.join(", "),
            get(&self.cancelled),
            get(&self.unidentified),
            get(&self.reused_pid),
            get(&self.no_status),
            get(&self.kernel_wrong),
            get(&self.same_tick),
            get(&self.max_latency) / 1_000_000,
            get(&self.late),
            LATE.as_millis(),
            checked as f64 / seconds,
        );
        assert!(checked > 0, "no exit was checked");
        for (violation, counter) in violations {
            // While a process is being reaped, its status is briefly unavailable. If the reaper is
            // preempted at that moment, the status is missing: 3 of 300,000 measured exits.
            let tolerated = if violation == "missing a status" {
                1 + checked / 10_000
            } else {
                0
            };
            assert!(get(counter) <= tolerated, "{} {violation}", get(counter));
        }
    }
}

/// Returns a random number below `limit`.
///
/// The same `TORTURE_SEED` produces the same sequence of numbers, but the order in which threads
/// receive the numbers may differ.
pub fn random(limit: u64) -> u64 {
    static STATE: LazyLock<Mutex<u64>> = LazyLock::new(|| {
        let seed = std::env::var("TORTURE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        Mutex::new(seed.unwrap_or_else(crate::oracle::now))
    });
    // The generator is SplitMix64.
    let mut state = STATE.lock().unwrap();
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    drop(state);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % limit
}

/// Returns true once in `n` calls on average.
pub fn one_in(n: u64) -> bool {
    random(n) == 0
}
