//! Promise: the wait for a process group resolves once no process of the group is alive, and not before.

// Other systems do not list the members of a group, so zombies count as alive there.
#![cfg(any(
    target_os = "linux",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]

mod support;

use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use support::unix::Forked;
use support::unix::{fork, kill, pipe};
use support::{Child, deadline, poll_once, runtimes, still_pending};
use tokio_process_exit::{GroupExit, exit_of_group};

const SHORT: Duration = Duration::from_millis(100);
/// Longer than a test runs.
const LONG: Duration = Duration::from_secs(3600);

#[cfg(target_os = "linux")]
#[test]
fn resolves_only_after_a_chain_of_forks() {
    // Under load, the processes are slow, but their order is the same.
    for (lifetime, rounds) in [(50, 1), (1, 10), (0, 10)] {
        for (runtime, reaps) in runtimes().into_iter().zip([true, false]) {
            for _ in 0..rounds {
                let mut chain = Chain::start(20, Duration::from_millis(lifetime), reaps);
                let mut group = exit_of_group(chain.pgid);
                chain.begin();
                runtime.block_on(deadline(&mut group)).unwrap();
                assert!(chain.has_ended(), "{lifetime} ms, reaped: {reaps}");
                assert_eq!(
                    group.signal(0).unwrap_err().kind(),
                    ErrorKind::NotFound,
                    "{group:?}"
                );
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn try_wait_is_true_only_after_a_chain_of_forks() {
    for reaps in [true, false] {
        for _ in 0..10 {
            let mut chain = Chain::start(20, Duration::from_millis(1), reaps);
            let mut group = GroupExit::open(chain.pgid).unwrap();
            chain.begin();
            support::until("the group is gone", || group.try_wait().unwrap());
            assert!(chain.has_ended());
        }
    }
}

#[test]
fn waits_for_a_process_in_the_background() {
    for runtime in runtimes() {
        let mut shell = Member::start("sleep 3600 & echo $!");
        let sleep = shell.pid_of_line();
        shell.0.wait().unwrap();
        let mut group = exit_of_group(shell.id());
        runtime.block_on(async {
            still_pending(&mut group).await;
            assert!(!group.try_wait().unwrap());
            kill(sleep, libc::SIGKILL);
            deadline(&mut group).await.unwrap();
        });
        assert!(group.try_wait().unwrap());
        assert!(group.is_terminated());
        // The result is returned again.
        runtime.block_on(deadline(&mut group)).unwrap();
    }
}

#[test]
fn zombies_do_not_count_as_alive() {
    for runtime in runtimes() {
        let mut zombie = Member::start("exec sleep 3600");
        let mut group = exit_of_group(zombie.id());
        runtime.block_on(still_pending(&mut group));
        zombie.0.kill().unwrap();
        runtime.block_on(deadline(&mut group)).unwrap();
        // A group of zombies can be opened.
        let mut group = GroupExit::open(zombie.id()).unwrap();
        assert_eq!(group.signal(0).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(group.try_wait().unwrap());
        let again = exit_of_group(zombie.id());
        runtime.block_on(deadline(again)).unwrap();
    }
}

#[test]
fn numbers_of_no_group_are_refused() {
    for (pgid, kind, message) in [
        (0, ErrorKind::InvalidInput, "0 names no process group"),
        (1 << 31, ErrorKind::InvalidInput, "2147483648 names no"),
        (u32::MAX, ErrorKind::InvalidInput, "4294967295 names no"),
        (i32::MAX as u32, ErrorKind::NotFound, "group 2147483647"),
    ] {
        let error = GroupExit::open(pgid).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(message), "{error}");
        let mut group = exit_of_group(pgid);
        for error in [
            group.try_wait().unwrap_err(),
            group.signal(0).unwrap_err(),
            poll_once(&mut group).unwrap().unwrap_err(),
        ] {
            assert_eq!(error.kind(), kind);
        }
        assert!(group.is_terminated());
    }
    // This process is no group's first process.
    let child = Child::spawn(0);
    let error = GroupExit::open(child.id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // SAFETY: the call takes no arguments.
    let own = unsafe { libc::getpgrp() };
    assert!(
        error.to_string().contains(&format!("pass {own}")),
        "{error}"
    );
}

#[test]
fn group_1_is_never_signalled() {
    // `kill(-1)` would signal all processes of the system.
    let Ok(mut group) = GroupExit::open(1) else {
        return support::skip("no process is in group 1");
    };
    for signal in [0, libc::SIGCONT] {
        let error = group.signal(signal).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    if !group.try_wait().unwrap() {
        let runtime = &runtimes()[0];
        let error = runtime.block_on(deadline(group.stop(SHORT))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn signal_reaches_every_member() {
    let runtime = &runtimes()[0];
    let mut shell = Member::start("sleep 3600 & sleep 3600 & echo $$; wait");
    shell.pid_of_line();
    let mut group = GroupExit::open(shell.id()).unwrap();
    group.signal(0).unwrap();
    let error = group.signal(12345).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    group.signal(libc::SIGKILL).unwrap();
    runtime.block_on(deadline(&mut group)).unwrap();
    let error = group.signal(libc::SIGKILL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&shell.id().to_string()));
}

#[test]
fn stop_kills_members_that_ignore_sigterm() {
    for runtime in runtimes() {
        let script = "trap '' TERM; (echo $$; while :; do sleep 0.01; done) & wait";
        let mut shell = Member::start(script);
        shell.pid_of_line();
        let mut group = GroupExit::open(shell.id()).unwrap();
        let start = Instant::now();
        runtime.block_on(deadline(group.stop(SHORT))).unwrap();
        assert!(start.elapsed() >= SHORT);
        // The group is gone, so this returns at once.
        runtime.block_on(deadline(group.stop(LONG))).unwrap();
    }
}

#[test]
fn stop_within_the_grace_needs_no_sigkill() {
    for runtime in runtimes() {
        let mut shell = Member::start("sleep 3600 & echo $$; wait; exit 7");
        shell.pid_of_line();
        // A stopped process handles SIGTERM after SIGCONT.
        let mut group = GroupExit::open(shell.id()).unwrap();
        group.signal(libc::SIGSTOP).unwrap();
        runtime.block_on(deadline(group.stop(LONG))).unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&shell.0.wait().unwrap()),
            Some(libc::SIGTERM)
        );
    }
}

#[test]
fn a_dropped_stop_does_not_kill() {
    let runtime = &runtimes()[0];
    let mut shell = Member::start("trap '' TERM; echo $$; while :; do sleep 0.01; done");
    shell.pid_of_line();
    let mut group = GroupExit::open(shell.id()).unwrap();
    runtime.block_on(async {
        let stop = tokio::time::timeout(SHORT, group.stop(LONG)).await;
        assert!(stop.is_err());
        still_pending(&mut group).await;
        deadline(group.stop(Duration::ZERO)).await.unwrap();
    });
}

#[test]
fn our_own_group_is_not_stopped() {
    // SAFETY: the call takes no arguments.
    let own = unsafe { libc::getpgrp() }.unsigned_abs();
    let mut group = GroupExit::open(own).unwrap();
    assert!(!group.try_wait().unwrap());
    group.signal(0).unwrap();
    let runtime = &runtimes()[0];
    let error = runtime.block_on(group.stop(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(&own.to_string()), "{error}");
    runtime.block_on(still_pending(&mut group));
}

#[test]
fn a_wait_can_move_between_runtimes() {
    let mut member = Member::start("exec sleep 3600");
    let mut group = exit_of_group(member.id());
    let runtimes = runtimes();
    support::stays_pending_in_turns(&runtimes, &mut group);
    drop(member.0.kill());
    let task = runtimes[1].spawn(deadline(group));
    runtimes[1].block_on(task).unwrap().unwrap();
}

#[test]
fn works_without_timers() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().build().unwrap();
    let mut member = Member::start("sleep 0.2 & exec sleep 0.1");
    let group = exit_of_group(member.id());
    runtime.block_on(group).unwrap();
    member.0.wait().unwrap();
}

#[test]
fn members_that_move_away_no_longer_count() {
    for runtime in runtimes() {
        let (mut report, report_write) = pipe();
        let fd = report_write.as_raw_fd();
        let mut leader = fork(|| {
            set_group(0);
            // SAFETY: the child only makes system calls.
            if unsafe { libc::fork() } == 0 {
                // The parent exits before this process moves away.
                sleep(Duration::from_millis(300));
                // SAFETY: the call takes no arguments.
                let session = unsafe { libc::setsid() };
                support::unix::write_bytes(fd, &session.to_ne_bytes());
                support::unix::forever();
            }
            support::unix::write_bytes(fd, &[0; 4]);
            sleep(Duration::from_millis(100));
            0
        });
        let mut pid = [0; 4];
        report.read_exact(&mut pid).unwrap();
        let group = exit_of_group(leader.id());
        runtime.block_on(deadline(group)).unwrap();
        report.read_exact(&mut pid).unwrap();
        let daemon = u32::from_ne_bytes(pid);
        let mut daemon_exit = tokio_process_exit::exit_of(daemon);
        assert_eq!(daemon_exit.try_wait().unwrap(), None);
        kill(daemon, libc::SIGKILL);
        leader.kill();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn idle_members_cost_no_wake_ups() {
    use support::linux;
    const TEST: &str = "idle_members_cost_no_wake_ups";
    // Run in a separate process: the count includes every thread of the process.
    if !support::has_own_process(TEST) {
        return;
    }
    if support::poll_forced() {
        return support::skip("polling is forced, so the poller wakes up at intervals");
    }
    linux::raise_descriptors();
    // The first member leads the group, and the others join it.
    let leader = fork(|| {
        set_group(0);
        support::unix::forever()
    });
    support::until("the leader has a group", || {
        GroupExit::open(leader.id()).is_ok()
    });
    // Emulators take their time to exit.
    let is_emulated = std::env::var_os("TEST_RUNNER").is_some();
    let size = if is_emulated { 100 } else { 1000 };
    let _members: Vec<_> = (1..size)
        .map(|_| {
            let pgid = leader.id();
            let member = fork(|| support::unix::forever());
            // SAFETY: the call takes integers.
            assert_eq!(unsafe { libc::setpgid(member.id() as i32, pgid as i32) }, 0);
            member
        })
        .collect();
    let [runtime, _] = runtimes();
    let mut group = GroupExit::open(leader.id()).unwrap();
    assert!(
        format!("{group:?}").contains(&size.to_string()),
        "{group:?}"
    );
    let switches = linux::context_switches_of(Duration::from_secs(3), |duration| {
        let exit = runtime.block_on(async { tokio::time::timeout(duration, &mut group).await });
        assert!(exit.is_err(), "{exit:?}");
    });
    assert!(switches < 8, "{switches} voluntary context switches");
    runtime
        .block_on(deadline(group.stop(Duration::from_secs(5))))
        .unwrap();
}

/// During `execve` the calling thread replaces the leader, so briefly the process has no leader.
#[cfg(target_os = "linux")]
#[test]
fn a_member_in_exec_counts_as_alive() {
    use support::linux;

    for _ in 0..300 {
        let child = fork(|| {
            set_group(0);
            linux::leader_exits(|| linux::exec_sh(c"exit 8"))
        });
        support::until("the child has a group", || {
            GroupExit::open(child.id()).is_ok()
        });
        // Each new wait lists the members.
        while !GroupExit::open(child.id()).unwrap().try_wait().unwrap() {}
        assert_eq!(linux::state_of(child.id()), Some('Z'));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn resolves_without_descriptors_for_the_members() {
    const TEST: &str = "resolves_without_descriptors_for_the_members";
    if !support::has_own_process(TEST) {
        return;
    }
    let [runtime, _] = runtimes();
    let mut shell = Member::start("for i in 1 2 3 4 5 6 7 8; do sleep 3600 & done; echo $$; wait");
    shell.pid_of_line();
    support::linux::limit_descriptors(support::linux::open_fds().len() as u64 + 3);
    let mut group = GroupExit::open(shell.id()).unwrap();
    runtime.block_on(still_pending(&mut group));
    runtime
        .block_on(deadline(group.stop(Duration::from_secs(5))))
        .unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn resolves_where_pidfds_are_denied() {
    use support::linux;
    const TEST: &str = "resolves_where_pidfds_are_denied";
    if !support::has_own_process(TEST) {
        return;
    }
    if !linux::seccomp_filters() {
        return support::skip("no seccomp filters");
    }
    let [runtime, _] = runtimes();
    let mut chain = Chain::start(20, Duration::from_millis(1), false);
    linux::deny(libc::SYS_pidfd_open, libc::EPERM);
    let mut group = GroupExit::open(chain.pgid).unwrap();
    chain.begin();
    runtime.block_on(deadline(&mut group)).unwrap();
    assert!(chain.has_ended());
}

#[cfg(target_os = "linux")]
#[test]
fn resolves_where_kill_is_denied() {
    use support::linux;
    if !linux::seccomp_filters() {
        return support::skip("no seccomp filters");
    }
    for deny in [
        || linux::deny(libc::SYS_kill, libc::EPERM),
        || linux::deny_signals_to_groups(libc::EPERM),
    ] {
        // Nobody is left in the group, not even a zombie.
        let reaps = true;
        let mut chain = Chain::start(20, Duration::from_millis(1), reaps);
        let wait = || {
            // This thread gets the filter, and those that it starts.
            deny();
            let mut group = GroupExit::open(chain.pgid).unwrap();
            let error = group.signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            chain.begin();
            let [runtime, _] = runtimes();
            runtime.block_on(deadline(&mut group)).unwrap();
            assert!(chain.has_ended());
            support::until("all are reaped", || {
                GroupExit::open(chain.pgid).is_err_and(|error| error.kind() == ErrorKind::NotFound)
            });
        };
        std::thread::scope(|scope| scope.spawn(wait).join().unwrap());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn waits_for_the_reap_without_proc() {
    const TEST: &str = "waits_for_the_reap_without_proc";
    if !support::has_own_process(TEST) {
        return;
    }
    let [runtime, _] = runtimes();
    let mut member = Member::start("exec sleep 3600");
    if let Err(error) = hide_proc() {
        return support::skip(&format!("cannot mount a file system: {error}"));
    }
    let mut group = GroupExit::open(member.id()).unwrap();
    group.signal(0).unwrap();
    runtime.block_on(async {
        still_pending(&mut group).await;
        assert!(!group.try_wait().unwrap());
        member.0.kill().unwrap();
        still_pending(&mut group).await;
        member.0.wait().unwrap();
        deadline(&mut group).await.unwrap();
    });
}

/// Mounts an empty file system at `/proc`, for this thread only.
#[cfg(target_os = "linux")]
fn hide_proc() -> std::io::Result<()> {
    let check = |result| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: the call takes an integer. Only this thread gets a mount namespace.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let root = c"/".as_ptr();
    // SAFETY: the strings end with a null byte.
    check(unsafe { libc::mount(c"none".as_ptr(), root, none, flags, none.cast()) })?;
    let (proc, kind) = (c"/proc".as_ptr(), c"tmpfs".as_ptr());
    // SAFETY: the strings end with a null byte.
    check(unsafe { libc::mount(kind, proc, kind, 0, none.cast()) })
}

#[cfg(target_os = "linux")]
#[test]
fn a_later_group_with_the_number_is_another() {
    use support::linux;
    let [runtime, _] = runtimes();
    let start = || {
        let leader = fork(|| {
            set_group(0);
            support::unix::forever()
        });
        support::until("the leader has a group", || {
            GroupExit::open(leader.id()).is_ok()
        });
        leader
    };
    let mut leader = start();
    let mut group = GroupExit::open(leader.id()).unwrap();
    let mut try_group = GroupExit::open(leader.id()).unwrap();
    let signalled = GroupExit::open(leader.id()).unwrap();
    runtime.block_on(still_pending(&mut group));
    let pgid = leader.id();
    leader.kill();
    leader.reap();
    let Some(later) = linux::recycle(pgid, start, Forked::id) else {
        return support::skip("pids cannot be chosen");
    };
    let error = signalled.signal(libc::SIGKILL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(try_group.try_wait().unwrap());
    runtime.block_on(deadline(&mut group)).unwrap();
    let mut group = GroupExit::open(later.id()).unwrap();
    assert!(!group.try_wait().unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn another_user_s_group_cannot_be_stopped() {
    use support::linux;
    const TEST: &str = "another_user_s_group_cannot_be_stopped";
    if support::role().is_none() {
        if !support::unix::is_root() {
            return support::skip("only root can start processes of another user");
        }
        let member = Member::start("exec sleep 3600");
        let environment = [("PGID", member.id().to_string())];
        let Some(output) = linux::rerun_as_nobody(TEST, &environment) else {
            return support::skip("nobody cannot start this binary");
        };
        return support::assert_passed(&output);
    }
    let pgid = std::env::var("PGID").unwrap().parse().unwrap();
    let mut group = GroupExit::open(pgid).unwrap();
    let [runtime, _] = runtimes();
    for grace in [LONG, Duration::ZERO] {
        let error = runtime.block_on(deadline(group.stop(grace))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(&pgid.to_string()), "{error}");
    }
    runtime.block_on(still_pending(&mut group));
}

/// A group in which each process forks the next, lives for a while and exits.
#[cfg(target_os = "linux")]
struct Chain {
    pgid: u32,
    /// The first process starts the chain when it reads a byte.
    begin: std::fs::File,
    /// The last process writes a byte before it exits.
    end: std::fs::File,
    /// The parent of all processes whose parent has exited.
    _keeper: Forked,
}

#[cfg(target_os = "linux")]
impl Chain {
    fn start(length: u32, lifetime: Duration, reaps: bool) -> Chain {
        use support::unix::{forever, fork_raw, read_byte, write_bytes};
        let (begin_read, begin) = pipe();
        let (end, end_write) = pipe();
        let (mut report, report_write) = pipe();
        let (begin_fd, end_fd) = (begin_read.as_raw_fd(), end_write.as_raw_fd());
        let report_fd = report_write.as_raw_fd();
        let keeper = fork(|| {
            // SAFETY: the call takes integers.
            unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
            let leader = fork_raw();
            if leader == 0 {
                set_group(0);
                write_bytes(report_fd, &std::process::id().to_ne_bytes());
                read_byte(begin_fd);
                for _ in 1..length {
                    sleep(lifetime);
                    if fork_raw() != 0 {
                        support::unix::exit_group(0);
                    }
                }
                sleep(lifetime);
                write_bytes(end_fd, &[1]);
                return 0;
            }
            // SAFETY: the call takes integers, and returns no status.
            while reaps && unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
            forever()
        });
        let mut pgid = [0; 4];
        report.read_exact(&mut pgid).unwrap();
        Chain {
            pgid: u32::from_ne_bytes(pgid),
            begin,
            end,
            _keeper: keeper,
        }
    }

    fn begin(&mut self) {
        use std::io::Write;
        self.begin.write_all(&[1]).unwrap();
    }

    /// Whether the last process has written its byte.
    fn has_ended(&mut self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.end.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one writable `pollfd`.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }
}

/// The first process of a process group of its own.
struct Member(std::process::Child);

impl Member {
    fn start(script: &str) -> Member {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        let child = command.stdout(std::process::Stdio::piped()).spawn();
        let member = Member(child.unwrap());
        // An emulator starts the process before it has its group.
        support::until("the process has a group", || {
            GroupExit::open(member.id()).is_ok()
        });
        member
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Reads the pid that the script prints.
    fn pid_of_line(&mut self) -> u32 {
        let mut line = String::new();
        let mut byte = [0];
        let stdout = self.0.stdout.as_mut().unwrap();
        while !line.ends_with('\n') {
            stdout.read_exact(&mut byte).unwrap();
            line.push(byte[0].into());
        }
        line.trim().parse().unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: the call takes integers. The zombie has kept the number of the group.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

fn set_group(pgid: u32) {
    // SAFETY: the call takes integers.
    unsafe { libc::setpgid(0, pgid as i32) };
}

fn sleep(time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos() as _,
    };
    // SAFETY: `time` is readable, and the remaining time is not asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}
