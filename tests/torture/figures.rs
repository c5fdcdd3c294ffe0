//! What is counted, and must stay zero.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Figures {
    /// Processes that lived and died.
    pub processes: AtomicU64,
    /// Exits (and reaps) that were told and compared with the truth.
    pub told: AtomicU64,
    /// Waits that ended before.
    pub cancelled: AtomicU64,
    /// Opened while the pid may have changed hands, and let go as nobody can say which process it is.
    pub unclear: AtomicU64,
    /// Opened after the pid had gone to another process, by the kernel's own identity.
    pub successor: AtomicU64,
    /// Without a status.
    pub no_status: AtomicU64,
    /// With a status that the kernel itself has wrong, see [`Storm::told`](crate::storm::Storm).
    pub misled: AtomicU64,
    /// Taken for an earlier process with its pid, which had started in the same tick. Polling cannot
    /// tell them apart.
    pub mistaken: AtomicU64,
    /// In ns, from the moment when a process was sent to its end until that was told.
    pub latest: AtomicU64,
    /// By more than [`LATE`].
    pub late: AtomicU64,

    /// Not told, or not in time, or denied to be there.
    pub lost: AtomicU64,
    /// Told before it was so, or a second time.
    pub false_: AtomicU64,
    /// Another's status or pid.
    pub wrong: AtomicU64,
    /// A status that the parent could not collect any more.
    pub stolen: AtomicU64,
    /// A status that the kernel does not show to this user.
    pub overreached: AtomicU64,
    /// No status where one is promised.
    pub untold: AtomicU64,
    /// Wakes after the wait was dropped.
    pub woken: AtomicU64,
}

/// Counted as late, and printed.
pub const LATE: Duration = Duration::from_millis(250);

impl Figures {
    /// Counts what must not be, and says what it was. The first ones only.
    pub fn blame(&self, count: &AtomicU64, what: fmt::Arguments<'_>) {
        count.fetch_add(1, Relaxed);
        static SAID: AtomicU64 = AtomicU64::new(0);
        if SAID.fetch_add(1, Relaxed) < 20 {
            eprintln!("{what}");
        }
    }

    /// Prints the line of figures, and fails if anything is there that must not be.
    pub fn conclude(&self, name: &str, start: Instant) {
        let get = |count: &AtomicU64| count.load(Relaxed);
        let crimes = [
            ("lost", &self.lost),
            ("false", &self.false_),
            ("wrong", &self.wrong),
            ("stolen", &self.stolen),
            ("overreached", &self.overreached),
            ("untold", &self.untold),
            ("woken after drop", &self.woken),
        ];
        let seconds = start.elapsed().as_secs_f64();
        let told = get(&self.told);
        let list = crimes.map(|(crime, count)| format!("{} {crime}", get(count)));
        println!(
            "torture: {name}: {told} exits watched of {} processes, {}; {} cancelled, {} unclear, \
             {} successors, {} without status, {} misled by the kernel, {} of the \
             same tick; the latest after {} ms, {} later than {} ms; \
             {seconds:.1} s, {:.0} exits/s",
            get(&self.processes),
            list.join(", "),
            get(&self.cancelled),
            get(&self.unclear),
            get(&self.successor),
            get(&self.no_status),
            get(&self.misled),
            get(&self.mistaken),
            get(&self.latest) / 1_000_000,
            get(&self.late),
            LATE.as_millis(),
            told as f64 / seconds,
        );
        assert!(told > 0, "nothing was watched");
        for (crime, count) in crimes {
            // For the instant in which a process is being reaped nobody tells its status, and whoever
            // is reaping it may be preempted just then: 3 in 300,000.
            let bearable = if crime == "untold" {
                1 + told / 10_000
            } else {
                0
            };
            assert!(get(count) <= bearable, "{} {crime}", get(count));
        }
    }
}

/// A random number below `limit`. `TORTURE_SEED` repeats a sequence, as far as threads allow.
pub fn random(limit: u64) -> u64 {
    static STATE: LazyLock<Mutex<u64>> = LazyLock::new(|| {
        let seed = std::env::var("TORTURE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        Mutex::new(seed.unwrap_or_else(crate::oracle::now))
    });
    // SplitMix64.
    let mut state = STATE.lock().unwrap();
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    drop(state);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % limit
}

pub fn one_in(n: u64) -> bool {
    random(n) == 0
}
