//! Promise: whatever processes do, no exit is lost, none is made up, and no status is another's.
//!
//! Processes by the thousand are born and die under every kind of watch, and what is told of them
//! is compared with the truth, which the `oracle` learns without the crate. Each test has a short
//! form, and a long one that runs by
//!
//! ```text
//! cargo test --release --test torture -- --ignored --nocapture
//! ```
//!
//! for `TORTURE_SECONDS` each. Both print one line of figures for each place where they ran.

#![cfg(target_os = "linux")]
#![allow(unreachable_pub, reason = "one program in several files")]

#[path = "../support/mod.rs"]
mod support;

mod figures;
mod leaks;
mod load;
mod oracle;
mod storm;
mod succession;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use storm::Scenario;
use support::{linux, skip};

/// Where a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    /// A pid namespace of its own, with its `/proc`.
    PidNamespace,
    /// The same for anybody, as root of a user namespace.
    UserNamespace,
    /// Below a `/proc` that hides the processes of others.
    HidePid,
    NoProc,
    /// A pid namespace of its own, with the `/proc` of the one around it.
    OuterProc,
}

impl Place {
    /// What enters it and goes on with the arguments. `None`: it is here.
    fn entry(self) -> Option<(&'static [&'static str], &'static str)> {
        const PID: &[&str] = &["--pid", "--fork", "--mount-proc", "--kill-child"];
        const USER: &[&str] = &[
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ];
        Some(match self {
            Place::Here => return None,
            Place::PidNamespace => (PID, "true"),
            Place::UserNamespace => (USER, "true"),
            Place::OuterProc => (&["--pid", "--fork", "--kill-child"], "true"),
            Place::HidePid => (&["--mount"], "mount -t proc -o hidepid=2 proc /proc"),
            Place::NoProc => (&["--mount"], "mount -t tmpfs none /proc"),
        })
    }

    fn command(self, program: std::path::PathBuf) -> Command {
        let Some((options, script)) = self.entry() else {
            return support::command(program);
        };
        let mut command = Command::new("unshare");
        let script = format!("{script} && exec \"$@\"");
        command.args(options).args(["sh", "-c", &script, "sh"]);
        command.args(support::runnable(program));
        command
    }

    fn can_be_entered(self) -> bool {
        let try_it = |command: &mut Command| command.output().is_ok_and(|it| it.status.success());
        self == Place::Here || try_it(&mut self.command("true".into()))
    }
}

/// A test in one place.
type Part = (&'static str, Place, fn(Budget));

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct Budget {
    time: Duration,
    waits: usize,
    processes: usize,
}

/// One after the other, each in a process of its own, as they give up rights for good.
fn run(test: &str, parts: &[Part], is_long: bool) {
    if let Some(role) = support::role() {
        let part = parts.iter().find(|(name, _, _)| *name == role);
        let (_, _, part) = part.expect("a part of this test");
        let seconds = std::env::var("TORTURE_SECONDS").ok();
        let seconds = seconds.map_or(30, |seconds| seconds.parse().expect("a number"));
        return part(if is_long {
            Budget {
                time: Duration::from_secs(seconds),
                waits: 100_000,
                processes: 19_000,
            }
        } else {
            Budget {
                time: Duration::from_millis(250),
                waits: 1500,
                processes: 800,
            }
        });
    }
    if !oracle::available() {
        return skip("the kernel gives no pidfd of a new process: older than 5.2, or an emulator");
    }
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|error| error.into_inner());
    for (name, place, _) in parts {
        if !place.can_be_entered() {
            skip(&format!(
                "{name}: {place:?} cannot be entered (not root, or no unshare(1))"
            ));
            continue;
        }
        let output = place
            .command(std::env::current_exe().expect("this binary"))
            .args([
                "--exact",
                test,
                "--include-ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("ROLE", name)
            .current_dir("/")
            .output()
            .expect("this binary starts again");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(at) = line.find("torture: ") {
                println!("{}", &line[at..]);
            }
        }
        support::assert_passed(&output);
    }
    let _ = std::io::stdout().flush();
}

macro_rules! torture {
    ($($(#[$doc:meta])* $name:ident, $parts:expr;)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            #[test]
            fn short() {
                run(concat!(stringify!($name), "::short"), &$parts, false);
            }

            #[test]
            #[ignore = "takes minutes"]
            fn long() {
                run(concat!(stringify!($name), "::long"), &$parts, true);
            }
        }
    )*};
}

torture! {
    /// Every kind of end, every way to watch.
    no_exit_is_lost_or_made_up, [
        ("events", Place::Here, |budget| storm::run(scenario("events", budget))),
        ("no pidfd", Place::Here, |budget| storm::run(no_pidfd("no pidfd", budget))),
        ("no registration", Place::Here, |budget| storm::run(Scenario {
            refuse_registration: true,
            ..polled("no registration", budget)
        })),
    ];
    /// The numbers come back after a few dozen processes, often within the same tick of 10 ms that
    /// start times are told in. Of two that have had a pid within one tick, polling cannot tell that
    /// the first has gone before the second goes too. How often that showed is printed.
    a_recycled_pid_is_never_taken_for_the_process_before, [
        ("recycled, events", Place::PidNamespace, |budget| {
            recycled(scenario("recycled, events", budget));
        }),
        ("recycled, no pidfd", Place::PidNamespace, |budget| {
            recycled(no_pidfd("recycled, no pidfd", budget));
        }),
        ("same tick, no pidfd", Place::PidNamespace, |budget| {
            deny_pidfds();
            succession::replace("same tick, no pidfd", budget.time);
        }),
    ];
    /// While the kernel drops its caches, polling knows processes by the tick of their start alone.
    /// Even then no exit is made up, and no status is another's.
    without_caches_no_status_is_another_processs, [
        ("no caches, no pidfd", Place::PidNamespace, |budget| {
            std::thread::spawn(drop_caches);
            recycled(Scenario {
                identities: false,
                ..no_pidfd("no caches, no pidfd", budget)
            });
        }),
    ];
    /// Those that may not see everything are told nothing wrong, and no more than they may know.
    isolation_hides_some_and_falsifies_nothing, [
        ("nobody, events", Place::Here, |budget| {
            run_as_strangers(scenario("nobody, events", budget), be_nobody);
        }),
        ("nobody, no pidfd", Place::Here, |budget| {
            run_as_strangers(no_pidfd("nobody, no pidfd", budget), be_nobody_without_pidfds);
        }),
        ("hidepid, events", Place::HidePid, |budget| {
            run_as_strangers(scenario("hidepid, events", budget), be_nobody);
        }),
        ("hidepid, no pidfd", Place::HidePid, |budget| {
            run_as_strangers(no_pidfd("hidepid, no pidfd", budget), be_nobody_without_pidfds);
        }),
        ("no /proc, events", Place::NoProc, |budget| {
            storm::run(blind(scenario("no /proc, events", budget)));
        }),
        ("no /proc, no pidfd", Place::NoProc, |budget| {
            storm::run(blind(no_pidfd("no /proc, no pidfd", budget)));
        }),
        ("another's /proc, events", Place::OuterProc, |budget| {
            storm::run(blind(scenario("another's /proc, events", budget)));
        }),
        ("another's /proc, no pidfd", Place::OuterProc, |budget| {
            storm::run(blind(no_pidfd("another's /proc, no pidfd", budget)));
        }),
        ("user namespace, events", Place::UserNamespace, |budget| {
            recycled(scenario("user namespace, events", budget));
        }),
        ("user namespace, no pidfd", Place::UserNamespace, |budget| {
            recycled(no_pidfd("user namespace, no pidfd", budget));
        }),
    ];
    cancelled_waits_leave_nothing_and_wake_nobody, [
        ("cancelled, events", Place::Here, |budget| {
            leaks::cancel("cancelled, events", budget.waits, false);
        }),
        ("cancelled, no pidfd", Place::Here, |budget| {
            deny_pidfds();
            leaks::cancel("cancelled, no pidfd", budget.waits, false);
        }),
        ("cancelled, no registration", Place::Here, |budget| {
            leaks::cancel("cancelled, no registration", budget.waits, true);
        }),
    ];
    thousands_that_exit_at_once_are_all_told_once, [
        ("processes, events", Place::Here, |budget| load::many("processes, events", budget.processes, 1)),
        ("processes in two runtimes", Place::Here, |budget| {
            load::many("processes in two runtimes", budget.processes, 2);
        }),
        ("processes, no pidfd", Place::Here, |budget| {
            deny_pidfds();
            load::many("processes, no pidfd", budget.processes.min(2000), 1);
        }),
    ];
}

fn scenario(name: &'static str, budget: Budget) -> Scenario {
    Scenario {
        name,
        time: budget.time,
        parents: [3, 4, 1],
        // Polling many at a time would be late by seconds.
        watches: if support::poll_forced() { 150 } else { 2000 },
        strangers: false,
        every_status: linux::is_root()
            && fs::exists("/proc/self").is_ok_and(|proc| proc)
            && linux::pidfd_tells_the_status(),
        refuse_registration: false,
        pidfds: !support::poll_forced(),
        identities: true,
        prepare: || {},
    }
}

fn polled(name: &'static str, budget: Budget) -> Scenario {
    Scenario {
        watches: 150,
        every_status: false,
        ..scenario(name, budget)
    }
}

fn no_pidfd(name: &'static str, budget: Budget) -> Scenario {
    Scenario {
        pidfds: false,
        prepare: deny_pidfds,
        ..polled(name, budget)
    }
}

/// Another user watches the processes of root.
fn run_as_strangers(scenario: Scenario, prepare: fn()) {
    if !linux::is_root() {
        return skip("not root, so there is no stranger to be");
    }
    storm::run(Scenario {
        strangers: true,
        prepare,
        ..blind(scenario)
    });
}

/// Where `/proc` tells nothing.
fn blind(scenario: Scenario) -> Scenario {
    Scenario {
        every_status: false,
        identities: false,
        ..scenario
    }
}

/// In a namespace of some fifty numbers.
fn recycled(scenario: Scenario) {
    // The first 300 are given out once only.
    const LIMIT: &str = "350";
    if linux::release() < (6, 14) {
        return skip("the limit of pids is not the namespace's own before Linux 6.14");
    }
    if let Err(error) = fs::write("/proc/sys/kernel/pid_max", LIMIT) {
        return skip(&format!("no limit of pids: {error}"));
    }
    storm::run(scenario);
}

fn deny_pidfds() {
    linux::deny(libc::SYS_pidfd_open, libc::EPERM);
}

fn be_nobody() {
    // SAFETY: takes integers, as do the next.
    assert_eq!(unsafe { libc::setgid(65534) }, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setuid(65534) }, 0);
    // As any process of this user: one may look at oneself.
    // SAFETY: as above.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }, 0);
}

fn be_nobody_without_pidfds() {
    be_nobody();
    deny_pidfds();
}

fn drop_caches() {
    loop {
        // Dentries and inodes, those of /proc among them.
        if fs::write("/proc/sys/vm/drop_caches", "2").is_err() {
            return skip("caches cannot be dropped");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
