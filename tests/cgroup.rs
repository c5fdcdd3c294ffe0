//! Promise: the wait for a cgroup resolves once no process in it or below is alive, and not before.

#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use support::unix::{exit_group, fork_raw, write_bytes};
use support::{Child, deadline, expired, linux, runtimes, skip, still_pending, until};
use tokio_process_exit::{CgroupExit, exit_of_cgroup};

const SHORT: Duration = Duration::from_millis(100);
/// Longer than a test runs.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn resolves_after_the_last_descendant() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    for runtime in runtimes() {
        let cgroup = hierarchy.create();
        let below = cgroup.below("below");
        // The daemon has no parent, no group and no session in common with the shell.
        let mut shell = cgroup.start("setsid sh -c 'sleep 3600 & sleep 3600 &' & wait $!");
        let mut deep = below.start("exec sleep 3600");
        until("the daemons run", || cgroup.pids().len() >= 2);
        shell.0.wait().unwrap();
        let mut exit = exit_of_cgroup(&cgroup.0);
        runtime.block_on(async {
            still_pending(&mut exit).await;
            assert!(!exit.try_wait().unwrap());
            cgroup.kill_all();
            still_pending(&mut exit).await;
            // A zombie does not count.
            deep.0.kill().unwrap();
            deadline(&mut exit).await.unwrap();
        });
        assert!(exit.is_terminated());
        assert!(exit.try_wait().unwrap());
        // The result is returned again.
        runtime.block_on(deadline(&mut exit)).unwrap();
        // An empty cgroup resolves in the first poll.
        let result = runtime.block_on(async { expired(exit_of_cgroup(&cgroup.0)).await });
        result.expect("ready in the first poll").unwrap();
    }
}

#[test]
fn resolves_after_a_chain_of_forks() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let end = std::env::temp_dir().join(format!("chain-{}", std::process::id()));
    for (runtime, lifetime) in runtimes().into_iter().zip(["0.05", "0.001"]) {
        let _ = fs::remove_file(&end);
        let script =
            "chain() { sleep $2; [ $1 = 0 ] && exec touch $3; chain $(($1 - 1)) $2 $3 & }; chain";
        let script = format!("{script} 20 {lifetime} {}", end.display());
        let mut shell = cgroup.start(&script);
        let exit = exit_of_cgroup(&cgroup.0);
        runtime.block_on(deadline(exit)).unwrap();
        assert!(end.exists());
        shell.0.wait().unwrap();
    }
    fs::remove_file(end).unwrap();
}

#[test]
fn what_is_no_cgroup_is_refused() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let mut cases = vec![
        (
            cgroup.0.join("cgroup.procs"),
            ErrorKind::InvalidInput,
            "is a file",
        ),
        ("/dev/null/x".into(), ErrorKind::InvalidInput, "is a file"),
        ("/".into(), ErrorKind::InvalidInput, "ordinary directory"),
        (hierarchy.0.clone(), ErrorKind::InvalidInput, "root cgroup"),
        (cgroup.0.join("missing"), ErrorKind::NotFound, "no cgroup"),
        ("".into(), ErrorKind::NotFound, "no cgroup"),
    ];
    match Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
        true => cases.push((
            "/sys/fs/cgroup/memory".into(),
            ErrorKind::InvalidInput,
            "cgroup v1",
        )),
        false => skip("no cgroup v1 is mounted"),
    }
    for (path, kind, message) in cases {
        let error = CgroupExit::open(&path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        let mut exit = exit_of_cgroup(&path);
        assert_eq!(exit.try_wait().unwrap_err().kind(), kind);
        let runtime = &runtimes()[0];
        assert_eq!(runtime.block_on(exit.stop(LONG)).unwrap_err().kind(), kind);
        assert!(exit.is_terminated());
    }
}

#[test]
fn removed_cgroup_resolves() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    for runtime in runtimes() {
        for delay in 0..30 {
            let cgroup = hierarchy.create();
            let mut child = cgroup.start("exit 0");
            let mut exit = exit_of_cgroup(&cgroup.0);
            runtime.block_on(async {
                let wait = tokio::spawn(async move {
                    (&mut exit).await.unwrap();
                    assert!(exit.try_wait().unwrap());
                });
                tokio::time::sleep(Duration::from_micros(delay * 100)).await;
                // The kernel may drop the event.
                until("the cgroup is removed", || {
                    fs::remove_dir(&cgroup.0).is_ok()
                });
                deadline(wait).await.unwrap();
            });
            child.0.wait().unwrap();
        }
    }
}

#[test]
fn stop_kills_what_ignores_sigterm() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    for runtime in runtimes() {
        let cgroup = hierarchy.create();
        let below = cgroup.below("below");
        let stubborn = "trap '' TERM; setsid sh -c 'while :; do sleep 0.01; done' & wait";
        let _children = [cgroup.start(stubborn), below.start(stubborn)];
        until("the daemons run", || cgroup.pids().len() >= 2);
        let mut exit = CgroupExit::open(&cgroup.0).unwrap();
        let start = Instant::now();
        runtime.block_on(deadline(exit.stop(SHORT))).unwrap();
        assert!(start.elapsed() >= SHORT);
        assert_eq!(cgroup.pids(), below.pids());
        runtime.block_on(deadline(exit.stop(LONG))).unwrap();
    }
}

#[test]
fn stop_asks_every_process_within_the_grace() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    for runtime in runtimes() {
        let cgroup = hierarchy.create();
        let below = cgroup.below("below");
        let _children = [
            cgroup.start("sleep 3600 & setsid sleep 3600 & wait"),
            below.start("sleep 3600 & kill -STOP $$; wait"),
        ];
        until("the daemons run", || cgroup.pids().len() >= 3);
        let mut exit = CgroupExit::open(&cgroup.0).unwrap();
        runtime.block_on(deadline(exit.stop(LONG))).unwrap();
    }
}

#[test]
fn stop_kills_all_without_cgroup_kill() {
    const TEST: &str = "stop_kills_all_without_cgroup_kill";
    let Some(errno) = support::role() else {
        // The file is missing before Linux 5.14, or a user may not write it.
        for errno in [libc::ENOENT, libc::EACCES] {
            support::assert_passed(&support::rerun(TEST, &errno.to_string(), |_| {}));
        }
        return;
    };
    if !linux::seccomp_filters() {
        return skip("no seccomp filters");
    }
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let runtimes = runtimes();
    let [stopped, killed] = [0, 1].map(|_| {
        let cgroup = hierarchy.create();
        let below = cgroup.below("below");
        let stubborn = "trap '' TERM; setsid sh -c 'while :; do sleep 0.01; done' & wait";
        let chain = "trap '' TERM; chain() { sleep 0.002; chain & }; chain";
        let children = [
            cgroup.start(stubborn),
            below.start(stubborn),
            cgroup.start(chain),
            below.start(chain),
        ];
        until("the daemons run", || cgroup.pids().len() >= 3);
        (cgroup, below, children)
    });
    linux::deny_writing(errno.parse().unwrap());
    let file = fs::OpenOptions::new()
        .write(true)
        .open(stopped.0.0.join("cgroup.kill"));
    assert!(file.is_err());
    for (runtime, (cgroup, below, mut children)) in runtimes.iter().zip([stopped, killed]) {
        let mut exit = CgroupExit::open(&cgroup.0).unwrap();
        let start = Instant::now();
        runtime.block_on(deadline(exit.stop(SHORT))).unwrap();
        assert!(start.elapsed() >= SHORT);
        assert_eq!([cgroup.pids(), below.pids()], [[0; 0]; 2]);
        for child in &mut children {
            child.0.wait().unwrap();
        }
    }
}

#[test]
fn stop_kills_what_forks_without_a_pause() {
    const TEST: &str = "stop_kills_what_forks_without_a_pause";
    let Some(hierarchy) = Hierarchy::mount_alone_with_filters(TEST) else {
        return;
    };
    let cgroup = hierarchy.create();
    let procs = fs::OpenOptions::new()
        .write(true)
        .open(cgroup.0.join("cgroup.procs"))
        .unwrap();
    let (mut started, start) = support::unix::pipe();
    // The chains end by themselves if they are not killed.
    let end = Instant::now() + support::max_wait() * 2;
    // The processes of the chains become children of this process, and leave no zombies.
    // SAFETY: the call takes integers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    // SAFETY: the call takes integers.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    const CHAINS: usize = 8;
    for _ in 0..CHAINS {
        if fork_raw() == 0 {
            // SAFETY: the call takes integers.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            if (&procs).write_all(b"0").is_ok() {
                write_bytes(start.as_raw_fd(), &[1]);
                while Instant::now() < end && fork_raw() == 0 {}
            }
            exit_group(0);
        }
    }
    drop(start);
    started.read_exact(&mut [0; CHAINS]).unwrap();
    linux::deny_writing(libc::ENOENT);
    let [runtime, _] = runtimes();
    let mut exit = CgroupExit::open(&cgroup.0).unwrap();
    runtime.block_on(deadline(exit.stop(SHORT))).unwrap();
    assert!(Instant::now() < end);
    assert_eq!(cgroup.pids(), [0; 0]);
}

#[test]
fn stop_names_cgroup_kill_if_it_cannot_kill() {
    const TEST: &str = "stop_names_cgroup_kill_if_it_cannot_kill";
    let Some(hierarchy) = Hierarchy::mount_alone_with_filters(TEST) else {
        return;
    };
    let cgroup = hierarchy.create();
    let mut child = cgroup.start("trap '' TERM; while :; do sleep 0.01; done");
    until("the signal is ignored", || cgroup.pids().len() >= 2);
    let [runtime, _] = runtimes();
    let mut exit = CgroupExit::open(&cgroup.0).unwrap();
    // This thread gets no filter.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        ended.recv().unwrap_err();
        drop(cgroup);
    });
    let error = runtime.block_on(async {
        let mut stop = Box::pin(exit.stop(SHORT));
        assert!(expired(&mut stop).await.is_err());
        linux::deny_writing(libc::ENOENT);
        linux::deny(libc::SYS_pidfd_send_signal, libc::EPERM);
        linux::deny(libc::SYS_kill, libc::EPERM);
        deadline(stop).await.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let message = error.to_string();
    assert!(message.contains("cgroup.kill: No such file"), "{message}");
    drop(end);
    killer.join().unwrap();
    child.0.wait().unwrap();
    runtime.block_on(deadline(exit)).unwrap();
}

#[test]
fn stop_ends_processes_of_another_pid_namespace() {
    const TEST: &str = "stop_ends_processes_of_another_pid_namespace";
    let stop = |path: String| {
        let [runtime, _] = runtimes();
        let mut exit = CgroupExit::open(path).unwrap();
        runtime.block_on(deadline(exit.stop(SHORT)))
    };
    if let Some(path) = support::role() {
        let list = fs::read_to_string(Path::new(&path).join("cgroup.procs"));
        assert_eq!(list.unwrap(), "0\n");
        if std::env::var_os("DENIED").is_some() {
            linux::deny_writing(libc::ENOENT);
            let error = stop(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("pid namespace"), "{error}");
            assert!(error.to_string().contains("cgroup.kill"), "{error}");
        } else {
            stop(path).unwrap();
        }
        return;
    }
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let unshare = ["--pid", "--fork", "--kill-child"];
    let unshared = Command::new("unshare").args(unshare).arg("true").status();
    if !unshared.is_ok_and(|status| status.success()) {
        return skip("no pid namespace can be created (not root, or no unshare(1))");
    }
    let cgroup = hierarchy.create();
    let mut child = cgroup.start("exec sleep 3600");
    let rerun_elsewhere = |denied: bool| {
        let mut command = Command::new("unshare");
        command.args(unshare);
        command.args(support::runnable(std::env::current_exe().unwrap()));
        command.args(["--exact", TEST, "--nocapture"]);
        command.env("ROLE", &cgroup.0);
        if denied {
            command.env("DENIED", "");
        }
        support::assert_passed(&command.output().unwrap());
    };
    match linux::seccomp_filters() {
        true => rerun_elsewhere(true),
        false => skip("no seccomp filters"),
    }
    assert_eq!(cgroup.pids(), [child.id()]);
    if !cgroup.0.join("cgroup.kill").exists() {
        return skip("no cgroup.kill");
    }
    rerun_elsewhere(false);
    child.0.wait().unwrap();
}

#[test]
fn stop_needs_few_descriptors() {
    const TEST: &str = "stop_needs_few_descriptors";
    let Some(hierarchy) = Hierarchy::mount_alone(TEST) else {
        return;
    };
    let cgroup = hierarchy.create();
    let below: Vec<Cgroup> = (0..50)
        .map(|number| cgroup.below(&number.to_string()))
        .collect();
    let mut children: Vec<Child> = below
        .iter()
        .map(|cgroup| cgroup.start("exec sleep 3600"))
        .collect();
    let [runtime, _] = runtimes();
    let mut exit = CgroupExit::open(&cgroup.0).unwrap();
    linux::limit_descriptors(linux::open_fds().len() as u64 + 8);
    runtime.block_on(deadline(exit.stop(LONG))).unwrap();
    for child in &mut children {
        child.0.wait().unwrap();
    }
}

#[test]
fn stop_signals_nobody_without_timers_or_io() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let mut child = cgroup.start("exec sleep 3600");
    let mut process = tokio_process_exit::exit_of(child.id());
    // Polling needs no I/O.
    let with_io: &[bool] = match support::poll_forced() {
        true => &[true],
        false => &[true, false],
    };
    for &has_io in with_io {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = match has_io {
            true => builder.enable_io().build().unwrap(),
            false => builder.enable_time().build().unwrap(),
        };
        let mut exit = CgroupExit::open(&cgroup.0).unwrap();
        let stop = std::panic::AssertUnwindSafe(|| runtime.block_on(exit.stop(LONG)));
        std::panic::catch_unwind(stop).unwrap_err();
        let [runtime, _] = runtimes();
        runtime.block_on(still_pending(&mut process));
    }
    child.0.kill().unwrap();
}

#[test]
fn stop_kills_a_frozen_cgroup() {
    const TEST: &str = "stop_kills_a_frozen_cgroup";
    let Some(role) = support::role() else {
        for role in ["killed", "signalled"] {
            support::assert_passed(&support::rerun(TEST, role, |_| {}));
        }
        return;
    };
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let mut child = cgroup.start("while :; do sleep 0.01; done");
    fs::write(cgroup.0.join("cgroup.freeze"), "1").unwrap();
    let events = cgroup.0.join("cgroup.events");
    until("the cgroup is frozen", || {
        fs::read_to_string(&events).unwrap().contains("frozen 1")
    });
    if role == "signalled" {
        if !linux::seccomp_filters() {
            return skip("no seccomp filters");
        }
        linux::deny_writing(libc::ENOENT);
    }
    let [runtime, _] = runtimes();
    let mut exit = CgroupExit::open(&cgroup.0).unwrap();
    runtime.block_on(deadline(exit.stop(SHORT))).unwrap();
    child.0.wait().unwrap();
}

#[test]
fn our_own_cgroup_is_not_stopped() {
    const TEST: &str = "our_own_cgroup_is_not_stopped";
    let Some(hierarchy) = Hierarchy::mount_alone(TEST) else {
        return;
    };
    let cgroup = hierarchy.create();
    let below = cgroup.below("below");
    fs::write(below.0.join("cgroup.procs"), "0").unwrap();
    let mut exit = CgroupExit::open(&cgroup.0).unwrap();
    let runtime = &runtimes()[0];
    let error = runtime.block_on(exit.stop(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    runtime.block_on(still_pending(&mut exit));
    fs::write(hierarchy.0.join("cgroup.procs"), "0").unwrap();
    runtime.block_on(deadline(exit)).unwrap();
}

#[test]
fn stop_kills_nobody_if_this_process_is_moved_to_the_cgroup() {
    const TEST: &str = "stop_kills_nobody_if_this_process_is_moved_to_the_cgroup";
    let Some(hierarchy) = Hierarchy::mount_alone(TEST) else {
        return;
    };
    let cgroup = hierarchy.create();
    let below = cgroup.below("below");
    let child = below.start("trap '' TERM; while :; do sleep 0.01; done");
    until("the signal is ignored", || below.pids().len() >= 2);
    let mut exit = CgroupExit::open(&cgroup.0).unwrap();
    let [runtime, _] = runtimes();
    let error = runtime.block_on(async {
        let mut stop = Box::pin(exit.stop(SHORT));
        assert!(expired(&mut stop).await.is_err());
        fs::write(cgroup.0.join("cgroup.procs"), "0").unwrap();
        deadline(stop).await.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(below.pids().contains(&child.id()));
    fs::write(hierarchy.0.join("cgroup.procs"), "0").unwrap();
    runtime
        .block_on(deadline(exit.stop(Duration::ZERO)))
        .unwrap();
}

#[test]
fn threaded_cgroup_is_waited_for_but_not_stopped() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let runtime = &runtimes()[0];
    let cgroup = hierarchy.create();
    let threaded = cgroup.below("threaded");
    fs::write(threaded.0.join("cgroup.type"), "threaded").unwrap();
    let mut child = cgroup.start("exec sleep 3600");
    let pid = child.id().to_string();
    fs::write(threaded.0.join("cgroup.threads"), pid).unwrap();
    let mut exit = CgroupExit::open(&threaded.0).unwrap();
    runtime.block_on(still_pending(&mut exit));
    let error = runtime.block_on(exit.stop(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // The domain above has the process.
    let mut domain = CgroupExit::open(&cgroup.0).unwrap();
    runtime.block_on(deadline(domain.stop(LONG))).unwrap();
    runtime.block_on(deadline(exit)).unwrap();
    child.0.wait().unwrap();
}

#[test]
fn falls_back_to_polling_without_the_reactor() {
    const TEST: &str = "falls_back_to_polling_without_the_reactor";
    let Some(hierarchy) = Hierarchy::mount_alone_with_filters(TEST) else {
        return;
    };
    let cgroup = hierarchy.create();
    let mut child = cgroup.start("exec sleep 3600");
    let [runtime, _] = runtimes();
    let mut exit = exit_of_cgroup(&cgroup.0);
    linux::deny(libc::SYS_epoll_ctl, libc::ENOSPC);
    runtime.block_on(async {
        still_pending(&mut exit).await;
        child.0.kill().unwrap();
        deadline(&mut exit).await.unwrap();
    });
}

#[test]
fn a_wait_can_move_between_runtimes() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let mut child = cgroup.start("exec sleep 3600");
    let mut exit = exit_of_cgroup(&cgroup.0);
    let runtimes = runtimes();
    support::stays_pending_in_turns(&runtimes, &mut exit);
    child.0.kill().unwrap();
    let task = runtimes[1].spawn(deadline(exit));
    runtimes[1].block_on(task).unwrap().unwrap();
}

#[test]
fn examples_take_a_cgroup() {
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let path = cgroup.0.to_str().unwrap();
    let run = |example: &str, arguments: &[&str]| {
        let mut command = support::command(support::example(example));
        let output = command.args(arguments).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), stdout)
    };
    let mut child = cgroup.start("trap '' TERM; while :; do sleep 0.01; done");
    let running = format!("cgroup {path}\n");
    let waited = run("pwait", &["-p", "-t0.1", "-c", path]);
    assert_eq!(waited, (Some(124), running));
    let stopped = run("stop_all", &["-t0.1", "-c", path]);
    assert_eq!(stopped, (Some(0), format!("cgroup {path} is gone\n")));
    let waited = run("pwait", &["-v", "-c", path]);
    assert_eq!(waited, (Some(0), format!("cgroup {path}: gone.\n")));
    assert_eq!(run("stop_all", &["-c", "/"]).0, Some(1));
    assert_eq!(run("pwait", &["-c", "/"]).0, Some(1));
    child.0.wait().unwrap();
}

#[test]
fn an_idle_wait_sleeps() {
    const TEST: &str = "an_idle_wait_sleeps";
    if !support::has_own_process(TEST) {
        return;
    }
    if support::poll_forced() {
        return skip("polling is forced, so the task wakes up at intervals");
    }
    let Some(hierarchy) = Hierarchy::mount() else {
        return;
    };
    let cgroup = hierarchy.create();
    let _child = cgroup.start("exec sleep 3600");
    let [runtime, _] = runtimes();
    let switches = linux::context_switches_of(Duration::from_secs(3), |duration| {
        let exit = exit_of_cgroup(&cgroup.0);
        let exit = runtime.block_on(async { tokio::time::timeout(duration, exit).await });
        assert!(exit.is_err(), "{exit:?}");
    });
    assert!(switches < 8, "{switches} voluntary context switches");
}

/// A cgroup v2 hierarchy, mounted for this thread only. Dropping it unmounts it.
struct Hierarchy(PathBuf);

impl Hierarchy {
    /// Returns `None`, and reports a skipped test, if the hierarchy cannot be mounted.
    fn mount() -> Option<Hierarchy> {
        let mount_at = |directory: &Path| {
            let path = format!("{}\0", directory.display());
            let (path, none) = (path.as_ptr().cast(), std::ptr::null());
            // SAFETY: the call takes an integer. Only this thread gets a mount namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            let (source, root, kind) = (c"none".as_ptr(), c"/".as_ptr(), c"cgroup2".as_ptr());
            // SAFETY: the strings end with a null byte.
            let private = unsafe { libc::mount(source, root, none, flags, none.cast()) };
            // SAFETY: the strings end with a null byte.
            if private < 0 || unsafe { libc::mount(source, path, kind, 0, none.cast()) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("cgroup-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(&directory).unwrap();
        let mounted = mount_at(&directory);
        let hierarchy = Hierarchy(directory);
        match mounted {
            Ok(()) => Some(hierarchy),
            Err(error) => {
                skip(&format!("cannot mount a cgroup2 file system: {error}"));
                None
            }
        }
    }

    /// Like [`Hierarchy::mount`], in a process that runs only `test`. Returns `None` in the original process.
    fn mount_alone(test: &str) -> Option<Hierarchy> {
        match support::has_own_process(test) {
            true => Hierarchy::mount(),
            false => None,
        }
    }

    /// Like [`Hierarchy::mount_alone`], where system calls can be denied. Reports a skipped test elsewhere.
    fn mount_alone_with_filters(test: &str) -> Option<Hierarchy> {
        if !support::has_own_process(test) {
            return None;
        }
        if !linux::seccomp_filters() {
            skip("no seccomp filters");
            return None;
        }
        Hierarchy::mount()
    }

    fn create(&self) -> Cgroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            // All mounts show the same hierarchy.
            let name = format!("tokio-process-exit-{}-{number}", std::process::id());
            let path = self.0.join(name);
            // An earlier process with this pid may have been killed before it removed its cgroup.
            if !path.exists() {
                return Cgroup::create(path);
            }
        }
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let path = format!("{}\0", self.0.display());
        // SAFETY: the string ends with a null byte.
        unsafe { libc::umount2(path.as_ptr().cast(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(&self.0);
    }
}

/// A cgroup. Dropping it kills its processes and removes it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(path: PathBuf) -> Cgroup {
        fs::create_dir(&path).unwrap();
        Cgroup(path)
    }

    fn below(&self, name: &str) -> Cgroup {
        Cgroup::create(self.0.join(name))
    }

    /// Starts a shell in the cgroup.
    fn start(&self, script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read line; {script}")]);
        // A stopped process can cause a SIGHUP for its process group, which must not be that of the tests.
        command.process_group(0);
        let mut child = Child::spawn_command(command.stdout(Stdio::null()));
        fs::write(self.0.join("cgroup.procs"), child.id().to_string()).unwrap();
        child.end();
        child
    }

    /// Returns the pids of the processes in the cgroup, but not below.
    fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn kill_all(&self) {
        for pid in self.pids() {
            support::unix::kill(pid, libc::SIGKILL);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let is_threaded = fs::read_to_string(self.0.join("cgroup.type"))
            .is_ok_and(|kind| kind.trim() == "threaded");
        // A panic must not become an abort.
        for _ in 0..2000 {
            if !is_threaded {
                self.kill_all();
            }
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
                _ => break,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
