//! Stress tests: no exit is lost, none is invented, and no exit has the status of another process.
//!
//! Thousands of processes start and exit while tasks wait for them in every way. Each reported exit
//! is compared with the `oracle`, which observes the processes without using the crate.
//!
//! Each test has a short form and a long form. The long form runs each case for `TORTURE_SECONDS`,
//! by default 30:
//!
//! ```text
//! cargo test --release --test torture -- --ignored --nocapture
//! ```
//!
//! Both forms print one line of counters for each case.

#![cfg(target_os = "linux")]
#![allow(unreachable_pub, reason = "the modules of one test binary")]

#[path = "../support/mod.rs"]
mod support;

mod counters;
mod leaks;
mod load;
mod oracle;
mod pid_reuse;
mod stress;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use stress::Scenario;
use support::{linux, skip};

/// The environment in which a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Environment {
    /// The environment of this process.
    Unchanged,
    /// A new pid namespace, with its own `/proc`.
    PidNamespace,
    /// A new pid namespace, entered without privileges as root of a new user namespace.
    UserNamespace,
    /// A `/proc` that hides the processes of other users.
    HidePid,
    /// An empty `/proc`.
    NoProc,
    /// A new pid namespace, with the `/proc` of the outer namespace.
    OuterProc,
}

impl Environment {
    /// Returns the options of `unshare` and a script that set up the environment.
    ///
    /// Returns `None` if there is nothing to set up.
    fn setup(self) -> Option<(&'static [&'static str], &'static str)> {
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
            Environment::Unchanged => return None,
            Environment::PidNamespace => (PID, "true"),
            Environment::UserNamespace => (USER, "true"),
            Environment::OuterProc => (&["--pid", "--fork", "--kill-child"], "true"),
            Environment::HidePid => (&["--mount"], "mount -t proc -o hidepid=2 proc /proc"),
            Environment::NoProc => (&["--mount"], "mount -t tmpfs none /proc"),
        })
    }

    /// Returns a command that runs `program` in the environment.
    fn command(self, program: std::path::PathBuf) -> Command {
        let Some((options, script)) = self.setup() else {
            return support::command(program);
        };
        let mut command = Command::new("unshare");
        let script = format!("{script} && exec \"$@\"");
        command.args(options).args(["sh", "-c", &script, "sh"]);
        command.args(support::runnable(program));
        command
    }

    /// Returns whether the environment can be set up.
    fn is_available(self) -> bool {
        let succeeds = |mut command: Command| {
            let output = command.output();
            output.is_ok_and(|output| output.status.success())
        };
        self == Environment::Unchanged || succeeds(self.command("true".into()))
    }
}

/// One case of a test: a name, an environment and a body.
type Case = (&'static str, Environment, fn(Budget));

/// The amount of work in one case.
#[derive(Clone, Copy, Debug)]
struct Budget {
    time: Duration,
    /// Number of waits to cancel.
    waits: usize,
    /// Maximum number of processes.
    processes: usize,
}

/// Runs the cases one after the other, each in a new process: a case may drop privileges.
fn run(test: &str, cases: &[Case], is_long: bool) {
    if let Some(role) = support::role() {
        let case = cases.iter().find(|(name, _, _)| *name == role);
        let (_, _, body) = case.expect("a case of this test");
        let seconds = std::env::var("TORTURE_SECONDS").ok();
        let seconds = seconds.map_or(30, |seconds| seconds.parse().expect("a number"));
        return body(if is_long {
            Budget {
                time: Duration::from_secs(seconds),
                waits: 100_000,
                processes: 19_000,
            }
        } else {
            Budget {
                time: support::scaled(Duration::from_millis(250)),
                waits: 1500,
                processes: 800,
            }
        });
    }
    if !oracle::clone_returns_pidfds() {
        return skip("clone returns no pidfd: Linux before 5.2, or an emulator");
    }
    // Tests must not overlap: each test uses all processors, and many pids and descriptors.
    static RUNNING: Mutex<()> = Mutex::new(());
    let _guard = RUNNING.lock().unwrap_or_else(|error| error.into_inner());
    for (name, environment, _) in cases {
        if !environment.is_available() {
            skip(&format!(
                "{name}: {environment:?} is not available (not root, or no unshare(1))"
            ));
            continue;
        }
        let output = environment
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
            // The test harness may have printed the test's name on the same line.
            if let Some(start) = line.find("torture: ") {
                println!("{}", &line[start..]);
            }
        }
        support::assert_passed(&output);
    }
    let _ = std::io::stdout().flush();
}

/// Defines the short and the long form of each test.
macro_rules! torture {
    ($($(#[$doc:meta])* $name:ident, $cases:expr;)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            #[test]
            fn short() {
                run(concat!(stringify!($name), "::short"), &$cases, false);
            }

            #[test]
            #[ignore = "takes minutes"]
            fn long() {
                run(concat!(stringify!($name), "::long"), &$cases, true);
            }
        }
    )*};
}

torture! {
    /// Covers all kinds of exit and all ways to wait.
    reports_every_exit_and_no_false_exit, [
        ("events", Environment::Unchanged, |budget| stress::run(scenario("events", budget))),
        ("no pidfd", Environment::Unchanged, |budget| stress::run(no_pidfd("no pidfd", budget))),
        ("no registration", Environment::Unchanged, |budget| stress::run(Scenario {
            refuse_registration: true,
            ..polled("no registration", budget)
        })),
    ];
    /// The pid namespace has so few pids that each pid is reused after a few dozen processes, often
    /// within one tick of 10 ms.
    reports_exits_correctly_while_pids_are_reused, [
        ("recycled, events", Environment::PidNamespace, |budget| {
            recycled(scenario("recycled, events", budget));
        }),
        ("recycled, no pidfd", Environment::PidNamespace, |budget| {
            recycled(no_pidfd("recycled, no pidfd", budget));
        }),
        ("same tick, no pidfd", Environment::PidNamespace, |budget| {
            deny_pidfds();
            pid_reuse::replace("same tick, no pidfd", budget.time);
        }),
    ];
    /// While caches are dropped, polling still identifies each process by its open directory.
    reports_no_wrong_status_while_caches_are_dropped, [
        ("no caches, no pidfd", Environment::PidNamespace, |budget| {
            std::thread::spawn(drop_caches);
            recycled(no_pidfd("no caches, no pidfd", budget));
        }),
    ];
    /// With restricted access, no report is false, and no status is reported that the kernel hides.
    reports_nothing_false_under_isolation, [
        ("nobody, events", Environment::Unchanged, |budget| {
            run_as_another_user(scenario("nobody, events", budget), become_nobody);
        }),
        ("nobody, no pidfd", Environment::Unchanged, |budget| {
            let scenario = no_pidfd("nobody, no pidfd", budget);
            run_as_another_user(scenario, become_nobody_without_pidfds);
        }),
        ("hidepid, events", Environment::HidePid, |budget| {
            run_as_another_user(scenario("hidepid, events", budget), become_nobody);
        }),
        ("hidepid, no pidfd", Environment::HidePid, |budget| {
            let scenario = no_pidfd("hidepid, no pidfd", budget);
            run_as_another_user(scenario, become_nobody_without_pidfds);
        }),
        ("no /proc, events", Environment::NoProc, |budget| {
            stress::run(without_proc(scenario("no /proc, events", budget)));
        }),
        ("no /proc, no pidfd", Environment::NoProc, |budget| {
            stress::run(without_proc(no_pidfd("no /proc, no pidfd", budget)));
        }),
        ("outer /proc, events", Environment::OuterProc, |budget| {
            stress::run(without_proc(scenario("outer /proc, events", budget)));
        }),
        ("outer /proc, no pidfd", Environment::OuterProc, |budget| {
            stress::run(without_proc(no_pidfd("outer /proc, no pidfd", budget)));
        }),
        ("user namespace, events", Environment::UserNamespace, |budget| {
            recycled(scenario("user namespace, events", budget));
        }),
        ("user namespace, no pidfd", Environment::UserNamespace, |budget| {
            recycled(no_pidfd("user namespace, no pidfd", budget));
        }),
    ];
    cancelled_waits_leak_nothing_and_wake_no_task, [
        ("cancelled, events", Environment::Unchanged, |budget| {
            leaks::cancel("cancelled, events", budget.waits, false);
        }),
        ("cancelled, no pidfd", Environment::Unchanged, |budget| {
            deny_pidfds();
            leaks::cancel("cancelled, no pidfd", budget.waits, false);
        }),
        ("cancelled, no registration", Environment::Unchanged, |budget| {
            leaks::cancel("cancelled, no registration", budget.waits, true);
        }),
    ];
    reports_thousands_of_exits_once_each, [
        ("processes, events", Environment::Unchanged, |budget| {
            load::exit_at_once("processes, events", budget.processes, 1);
        }),
        ("processes in two runtimes", Environment::Unchanged, |budget| {
            load::exit_at_once("processes in two runtimes", budget.processes, 2);
        }),
        ("processes, no pidfd", Environment::Unchanged, |budget| {
            deny_pidfds();
            load::exit_at_once("processes, no pidfd", budget.processes.min(2000), 1);
        }),
    ];
}

/// Returns a scenario in which waits use events, unless polling is forced.
fn scenario(name: &'static str, budget: Budget) -> Scenario {
    Scenario {
        name,
        time: budget.time,
        parents: [3, 4, 1],
        // Limit the waits if polling is forced: with 2000 polled processes, all reports are late.
        max_waits: if support::poll_forced() { 150 } else { 2000 },
        as_another_user: false,
        every_status: linux::is_root()
            && fs::exists("/proc/self").is_ok_and(|proc| proc)
            && linux::pidfd_reports_status(),
        refuse_registration: false,
        pidfds: !support::poll_forced(),
        inodes: linux::pidfds_have_inodes(),
        identities: true,
        prepare: || {},
    }
}

/// Returns a scenario for polling, with fewer waits and without a guaranteed status.
fn polled(name: &'static str, budget: Budget) -> Scenario {
    Scenario {
        max_waits: 150,
        every_status: false,
        ..scenario(name, budget)
    }
}

/// Returns a scenario in which `pidfd_open` fails, so all processes are polled by pid.
fn no_pidfd(name: &'static str, budget: Budget) -> Scenario {
    Scenario {
        pidfds: false,
        prepare: deny_pidfds,
        ..polled(name, budget)
    }
}

/// Runs the scenario as another user, who waits for processes of root.
fn run_as_another_user(scenario: Scenario, prepare: fn()) {
    if !linux::is_root() {
        return skip("not root, so privileges cannot be dropped");
    }
    stress::run(Scenario {
        as_another_user: true,
        prepare,
        ..without_proc(scenario)
    });
}

/// Returns the scenario with no information expected from `/proc`.
fn without_proc(scenario: Scenario) -> Scenario {
    Scenario {
        every_status: false,
        identities: false,
        ..scenario
    }
}

/// Runs the scenario in a pid namespace that has about fifty pids to reuse.
fn recycled(scenario: Scenario) {
    // The kernel does not reuse the first 300 of these pids.
    const LIMIT: &str = "350";
    if linux::release() < (6, 14) {
        return skip("before Linux 6.14 a pid namespace has no pid limit of its own");
    }
    if let Err(error) = fs::write("/proc/sys/kernel/pid_max", LIMIT) {
        return skip(&format!("the pid limit cannot be set: {error}"));
    }
    stress::run(scenario);
}

/// Makes `pidfd_open` fail in this thread and in all threads that it starts later.
fn deny_pidfds() {
    linux::deny(libc::SYS_pidfd_open, libc::EPERM);
}

/// Changes this process to the user `nobody`.
fn become_nobody() {
    // SAFETY: the call takes integers.
    assert_eq!(unsafe { libc::setgid(65534) }, 0);
    // SAFETY: the call takes integers.
    assert_eq!(unsafe { libc::setuid(65534) }, 0);
    // The change of user made this process non-dumpable. Make the process dumpable again, as most
    // processes are: otherwise the process may not read all `/proc` files of its own children.
    // SAFETY: the call takes integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }, 0);
}

/// Changes this process to the user `nobody`, and makes `pidfd_open` fail.
fn become_nobody_without_pidfds() {
    become_nobody();
    deny_pidfds();
}

/// Drops the kernel's caches again and again.
fn drop_caches() {
    loop {
        // 2: dentries and inodes, including those of `/proc`.
        if fs::write("/proc/sys/vm/drop_caches", "2").is_err() {
            return skip("the kernel's caches cannot be dropped");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
