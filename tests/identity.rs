//! Promise: a `ProcessIdentity` opens only the process that returned it.

mod support;

use std::io::ErrorKind;

use support::{Child, deadline};
use tokio_process_exit::{ProcessIdentity, exit_of};

/// Evaluates to the identity of a process. Skips the test if the platform has no identities.
macro_rules! identity_of {
    ($process:expr) => {
        match $process.identity() {
            Ok(identity) => identity,
            Err(error) if cfg!(not(any(target_os = "linux", windows))) => {
                return support::skip(&error.to_string());
            }
            Err(error) => panic!("{error}"),
        }
    };
}

#[tokio::test]
async fn parsed_identity_opens_the_same_process() {
    let mut child = Child::spawn(7);
    let line = identity_of!(exit_of(child.id())).to_string();
    let identity: ProcessIdentity = line.parse().unwrap();
    assert_eq!(identity.pid(), child.id());
    assert_eq!(identity.to_string(), line);

    let process = identity.open().unwrap();
    assert_eq!(process.identity().unwrap(), identity);
    child.end();
    assert_eq!(deadline(process).await.unwrap().pid(), Some(child.id()));
}

#[tokio::test]
async fn identity_of_a_reaped_process_is_not_found() {
    let mut child = Child::spawn(0);
    let identity = identity_of!(exit_of(child.id()));
    child.end();
    child.reap();
    drop(child);
    let Err(error) = identity.open() else {
        return support::skip("the pid was recycled, and the new owner has the same identity");
    };
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error.to_string().contains(&identity.pid().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn identities_differ_between_processes() {
    let (first, second) = (Child::spawn(0), Child::spawn(0));
    let identity = identity_of!(exit_of(first.id()));
    assert_eq!(identity, exit_of(first.id()).identity().unwrap());
    assert_ne!(identity, exit_of(second.id()).identity().unwrap());
}

#[tokio::test]
async fn does_not_open_another_process_with_the_pid() {
    let child = Child::spawn(0);
    let identity = identity_of!(exit_of(child.id()));
    // Forge an identity: replace the pid in the identity of `child` by the pid of `other`.
    let other = Child::spawn(0);
    let forged = identity
        .to_string()
        .replacen(&child.id().to_string(), &other.id().to_string(), 1);
    let forged: ProcessIdentity = forged.parse().unwrap();
    assert_eq!(forged.pid(), other.id());
    if forged == exit_of(other.id()).identity().unwrap() {
        return support::skip("both processes have the same start time");
    }
    let error = forged.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn identity_of_another_system_is_rejected() {
    let pid = std::process::id();
    let boot = "2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5";
    for line in [
        format!("{pid} unique=1 boot={boot}"),
        format!("{pid} inode=1 pidns=1 boot={boot}"),
        format!("{pid} start=1 pidns=1 boot={boot}"),
    ] {
        let identity: ProcessIdentity = line.parse().unwrap();
        let error = identity.open().unwrap_err();
        // Linux returns `NotFound` if the boot id differs, whatever else the identity contains.
        let expected = [ErrorKind::Unsupported, ErrorKind::NotFound];
        assert!(expected.contains(&error.kind()), "{line}: {error}");
    }
}

#[test]
fn identity_returns_the_error_of_opening() {
    assert_eq!(
        exit_of(0).identity().unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let error = exit_of(i32::MAX as u32).identity().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use support::linux::{self, Grandchild};

    #[tokio::test]
    async fn identity_of_an_earlier_boot_is_not_found() {
        let child = Child::spawn(0);
        let line = exit_of(child.id()).identity().unwrap().to_string();
        let (rest, boot) = line.split_once(" boot=").unwrap();
        let altered = boot.replace(|c: char| c.is_ascii_digit(), "a");
        assert_ne!(altered, boot);
        let identity: ProcessIdentity = format!("{rest} boot={altered}").parse().unwrap();
        let error = identity.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("earlier boot"), "{error}");
    }

    #[tokio::test]
    async fn opens_by_start_time_and_pid_namespace() {
        let mut child = Child::spawn(3);
        let identity = linux::identity_by_start(child.id());
        let process = identity.open().unwrap();
        if support::poll_forced() {
            // The kernel may also report the unique id of the pid namespace.
            let own = process.identity().unwrap().to_string();
            assert!(own.starts_with(identity.to_string().split(" timens").next().unwrap()));
        }

        let line = identity.to_string();
        let (pid, start) = line.split_once(" start=").unwrap();
        let (start, rest) = start.split_once(' ').unwrap();
        let earlier: u64 = start.parse::<u64>().unwrap() - 1;
        let line = format!("{pid} start={earlier} {rest}");
        let error = line.parse::<ProcessIdentity>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        // A process of another container may have the same pid and start time.
        let (_, place) = rest.split_once(' ').unwrap();
        let line = format!("{pid} start={start} pidns=1 {place}");
        let error = line.parse::<ProcessIdentity>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);

        child.end();
        assert_eq!(
            deadline(process).await.unwrap().status().unwrap().code(),
            Some(3)
        );
    }

    #[tokio::test]
    async fn does_not_open_the_next_owner_of_the_pid() {
        if !linux::is_root() {
            return support::skip("the pid cannot be chosen (not root, or another process has it)");
        }
        let child = Child::spawn(0);
        let (pid, identity) = (child.id(), exit_of(child.id()).identity().unwrap());
        drop(child);
        // Start times have a resolution of 10 ms. Wait so that the next owner has a later one.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let Some(_next) = linux::recycle(pid, || Child::spawn(0), Child::id) else {
            return support::skip("the pid was not recycled");
        };
        let error = identity.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn identity_without_descriptors_reports_emfile() {
        const TEST: &str = "linux::identity_without_descriptors_reports_emfile";
        if !support::has_own_process(TEST) {
            return;
        }
        // Use a child: an emulator fakes some files in /proc/self.
        let child = Child::spawn(0);
        let process = exit_of(child.id());
        let limit = linux::limit_descriptors(0);
        let error = process.identity().unwrap_err();
        linux::limit_descriptors(limit);
        let expected = std::io::Error::from_raw_os_error(libc::EMFILE).kind();
        assert_eq!(error.kind(), expected, "{error}");
        assert!(
            error.to_string().contains(&child.id().to_string()),
            "{error}"
        );
        // The error is not cached.
        assert_eq!(
            process.identity().unwrap().open().unwrap().pid(),
            Some(child.id())
        );
    }

    #[tokio::test]
    async fn opens_a_zombie_but_not_a_reaped_process() {
        let mut grandchild = Grandchild::spawn();
        let identity = exit_of(grandchild.id()).identity().unwrap();
        grandchild.end(7);
        support::until("the grandchild is a zombie", || {
            linux::is_zombie(grandchild.id())
        });
        assert_eq!(
            deadline(identity.open().unwrap()).await.unwrap().pid(),
            Some(grandchild.id())
        );
        grandchild.reap();
        let error = identity.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn identity_after_reap_is_unchanged_or_not_found() {
        let mut child = Child::spawn(7);
        let identity = exit_of(child.id()).identity().unwrap();
        let process = exit_of(child.id());
        child.end();
        child.reap();
        match process.identity() {
            // A pidfd keeps its inode number after the process is reaped.
            Ok(later) => assert_eq!(later, identity),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
}

/// Identities that are opened elsewhere than they were recorded.
#[cfg(target_os = "linux")]
mod namespaces {
    use std::process::Command;

    use super::*;
    use support::linux;

    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

    /// The options of `unshare` for a container whose root is not the system's root.
    const UNPRIVILEGED: &[&str] = &["-Upf", "--map-root-user", "--mount-proc"];

    /// Returns a command that runs one test of this binary in new namespaces.
    fn in_namespaces(options: &[&str], test: &str, role: &str, line: &str) -> Command {
        let binary = support::runnable(std::env::current_exe().unwrap());
        let mut command = Command::new("unshare");
        command
            .args(options)
            .args(["sh", "-c", "eval \"$PREPARE\"; exec \"$@\"", "sh"])
            .args(binary)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("PREPARE", "")
            .env("ROLE", role)
            .env("LINE", line);
        command
    }

    /// Returns why namespaces cannot be created with these options.
    fn refusal(options: &[&str]) -> Option<String> {
        match Command::new("unshare").args(options).arg("true").output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(format!("cannot run unshare: {error}")),
        }
    }

    /// Skips the test if namespaces cannot be created with these options.
    macro_rules! require {
        ($options:expr) => {
            if let Some(refusal) = refusal($options) {
                return support::skip(&refusal);
            }
        };
    }

    /// Runs one test of this binary in new namespaces. The test must pass.
    #[track_caller]
    fn assert_passes(command: &mut Command) {
        support::assert_passed(&command.output().unwrap());
    }

    /// Returns the identity in the environment of a rerun test.
    fn given_identity() -> ProcessIdentity {
        std::env::var("LINE").unwrap().parse().unwrap()
    }

    /// Checks that the identity cannot be verified here, and that the error gives this reason.
    #[track_caller]
    fn assert_unknown(identity: ProcessIdentity, reason: &str) {
        let error = identity.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{identity}: {error}");
        let message = error.to_string();
        assert!(message.contains(reason), "{message}");
        let process = format!("process {}:", identity.pid());
        assert!(message.contains(&process), "{message}");
    }

    #[track_caller]
    fn assert_gone(identity: ProcessIdentity) {
        let error = identity.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{identity}: {error}");
        let pid = identity.pid().to_string();
        assert!(error.to_string().contains(&pid), "{error}");
    }

    /// Returns whether this process can know the exit of each process in an inner pid namespace.
    fn knows_exits_elsewhere() -> bool {
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let is_initial = namespace.as_os_str() == "pid:[4026531836]";
        is_initial && linux::release() >= (6, 14) && !support::poll_forced()
    }

    /// Returns the identity with another pid.
    fn with_pid(identity: ProcessIdentity, pid: u32) -> ProcessIdentity {
        let line = identity.to_string();
        let (_, rest) = line.split_once(' ').unwrap();
        format!("{pid} {rest}").parse().unwrap()
    }

    #[test]
    fn another_pid_namespace_is_unsupported() {
        const TEST: &str = "namespaces::another_pid_namespace_is_unsupported";
        if std::env::var_os("TEST_RUNNER").is_some() {
            return support::skip("an emulator's /proc does not show this process as it is");
        }
        if support::role().is_some() {
            let identity = given_identity();
            assert_unknown(identity, "pid namespace");
            // The pid belongs to a process here.
            assert_unknown(with_pid(identity, std::process::id()), "pid namespace");
            return;
        }
        let child = Child::spawn(0);
        let identity = exit_of(child.id()).identity().unwrap();
        for options in [&["-pf", "--mount-proc"], UNPRIVILEGED] {
            require!(options);
            for identity in [identity, linux::identity_by_start(child.id())] {
                let line = identity.to_string();
                assert_passes(&mut in_namespaces(options, TEST, "open", &line));
            }
        }
        assert_eq!(identity.open().unwrap().pid(), Some(child.id()));
    }

    #[test]
    fn restarted_container_is_not_found() {
        const TEST: &str = "namespaces::restarted_container_is_not_found";
        match support::role().as_deref() {
            Some("record") => {
                let child = Child::spawn(0);
                let identity = exit_of(child.id()).identity().unwrap();
                assert_eq!(identity.open().unwrap().pid(), Some(child.id()));
                return println!("LINE {identity}");
            }
            Some(_) => {
                let identity = given_identity();
                // The kernel frees the namespace some time after its last process has been reaped.
                support::until("the first container has ended", || {
                    identity.open().unwrap_err().kind() == ErrorKind::NotFound
                });
                assert_gone(identity);
                assert_gone(with_pid(identity, std::process::id()));
                return;
            }
            None => {}
        }
        let options = &["-pf", "--mount-proc"];
        require!(options);
        let first = in_namespaces(options, TEST, "record", "").output().unwrap();
        support::assert_passed(&first);
        let output = String::from_utf8(first.stdout).unwrap();
        let line = output.lines().find_map(|line| line.split_once("LINE "));
        let (_, line) = line.unwrap();
        if !line.split_once("pidns=").unwrap().1.contains(':') {
            return support::skip("the kernel does not report the end of a namespace (Linux 6.18)");
        }
        // Occupy the inode of the first container's pid namespace, which the kernel may recycle.
        let mut other = Command::new("unshare");
        let _other = Child::spawn_command(other.args(options).args(["sh", "-c", "read line"]));
        assert_passes(&mut in_namespaces(options, TEST, "open", line));
    }

    #[test]
    fn running_container_is_unsupported() {
        const TEST: &str = "namespaces::running_container_is_unsupported";
        match support::role().as_deref() {
            Some("record") => {
                println!("LINE {}", exit_of(std::process::id()).identity().unwrap());
                std::io::stdin().read_line(&mut String::new()).unwrap();
                return;
            }
            Some(_) => {
                let identity = given_identity();
                assert_unknown(identity, "pid namespace");
                return assert_unknown(with_pid(identity, std::process::id()), "pid namespace");
            }
            None => {}
        }
        let options = &["-pf", "--mount-proc"];
        require!(options);
        let mut first = in_namespaces(options, TEST, "record", "");
        let mut first = Child::spawn_command(first.stdout(std::process::Stdio::piped()));
        let output = std::io::BufReader::new(first.0.stdout.take().unwrap());
        // The pipe must stay open: the child also prints the result of the test.
        let mut lines = std::io::BufRead::lines(output);
        let line = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("LINE "));
        let line = line.unwrap();
        let (_, line) = line.split_once("LINE ").unwrap();
        for options in [options, UNPRIVILEGED] {
            require!(options);
            assert_passes(&mut in_namespaces(options, TEST, "open", line));
        }
        // The outer pid namespace shows the container's processes under other pids.
        let identity = line.parse().unwrap();
        assert_unknown(identity, "pid namespace");
        first.end();
        // The shell's pid namespace may be the initial one. There the exit is known, to every user.
        support::until("the process has exited", || {
            match identity.open().unwrap_err().kind() {
                ErrorKind::NotFound => true,
                kind => {
                    assert_eq!(kind, ErrorKind::Unsupported);
                    !knows_exits_elsewhere()
                }
            }
        });
    }

    #[test]
    fn mounted_boot_id_is_unsupported() {
        const TEST: &str = "namespaces::mounted_boot_id_is_unsupported";
        match support::role().as_deref() {
            Some("record") => {
                let pid: u32 = std::env::var("LINE").unwrap().parse().unwrap();
                let identity = exit_of(pid).identity().unwrap();
                assert!(
                    identity.to_string().contains(" mounted-boot="),
                    "{identity}"
                );
                assert_eq!(identity.open().unwrap().pid(), Some(pid));
                return println!("LINE {identity}");
            }
            Some("running") => {
                assert_unknown(given_identity(), BOOT_ID);
                // Process 1 has another inode, and has started earlier.
                return assert_gone(with_pid(given_identity(), 1));
            }
            Some(_) => return assert_gone(given_identity()),
            None => {}
        }
        let options = &["-m"];
        require!(options);
        let file = std::env::temp_dir().join(format!("boot-id-{}", std::process::id()));
        std::fs::write(&file, "2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5\n").unwrap();
        let mount = format!("mount --bind '{}' {BOOT_ID}", file.display());
        let mounted = |role: &str, line: &str| {
            let mut command = in_namespaces(options, TEST, role, line);
            command.env("PREPARE", &mount);
            command
        };
        let mut child = Child::spawn(0);
        let pid = child.id().to_string();
        let outside = exit_of(child.id()).identity().unwrap();
        let by_start = linux::identity_by_start(child.id());
        assert_passes(&mut mounted("running", &outside.to_string()));
        assert_passes(&mut mounted("running", &by_start.to_string()));

        let output = mounted("record", &pid).output().unwrap();
        support::assert_passed(&output);
        let output = String::from_utf8(output.stdout).unwrap();
        let line = output.lines().find_map(|line| line.split_once("LINE "));
        let inside: ProcessIdentity = line.unwrap().1.parse().unwrap();
        assert_unknown(inside, BOOT_ID);
        assert_gone(with_pid(inside, 1));

        child.reap();
        drop(child);
        assert_gone(inside);
        assert_passes(&mut mounted("gone", &outside.to_string()));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn changing_boot_id_has_no_identities() {
        const TEST: &str = "namespaces::changing_boot_id_has_no_identities";
        if support::role().is_some() {
            let error = exit_of(std::process::id()).identity().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(BOOT_ID), "{error}");
            return;
        }
        let options = &["-m"];
        require!(options);
        let mut command = in_namespaces(options, TEST, "1", "");
        let mount = format!("mount --bind /proc/sys/kernel/random/uuid {BOOT_ID}");
        assert_passes(command.env("PREPARE", mount));
    }

    #[test]
    fn another_time_namespace_is_unsupported() {
        const TEST: &str = "namespaces::another_time_namespace_is_unsupported";
        if std::env::var_os("TEST_RUNNER").is_some() {
            return support::skip("an emulator's /proc does not show this process as it is");
        }
        match support::role().as_deref() {
            Some("running") => {
                assert_unknown(given_identity(), "time namespace");
                let pid = std::process::id();
                let identity = linux::identity_by_start(pid);
                assert_eq!(identity.open().unwrap().pid(), Some(pid));
                return;
            }
            Some(_) => return assert_gone(given_identity()),
            None => {}
        }
        let options = &["-Tf", "--boottime", "1000"];
        require!(options);
        let mut child = Child::spawn(0);
        let identity = linux::identity_by_start(child.id());
        let line = identity.to_string();
        assert_eq!(identity.open().unwrap().pid(), Some(child.id()));
        assert_passes(&mut in_namespaces(options, TEST, "running", &line));
        // An inode is the same in every time namespace.
        let by_inode = exit_of(child.id()).identity().unwrap();
        let by_inode = by_inode.to_string();
        if by_inode.contains("inode=") {
            assert!(!by_inode.contains("timens"), "{by_inode}");
        }
        child.reap();
        drop(child);
        assert_passes(&mut in_namespaces(options, TEST, "gone", &line));
    }

    #[test]
    fn survives_a_filter_that_kills() {
        const TEST: &str = "namespaces::survives_a_filter_that_kills";
        if support::role().is_none() {
            if !linux::seccomp_filters() {
                return support::skip("no seccomp filters");
            }
            return support::assert_passed(&support::rerun(TEST, "1", |_| {}));
        }
        let child = Child::spawn(0);
        linux::kill_for(libc::SYS_name_to_handle_at);
        linux::kill_for(libc::SYS_open_by_handle_at);
        let identity = exit_of(child.id()).identity().unwrap();
        assert_eq!(identity.open().unwrap().pid(), Some(child.id()));
        // As of a process of another pid namespace.
        let line = with_pid(identity, 1).to_string();
        let (before, after) = line.split_once("pidns=").unwrap();
        let (_, after) = after.split_once(' ').unwrap();
        let line = format!("{before}pidns=1:1 {after}");
        assert_unknown(line.parse().unwrap(), "pid namespace");
    }

    #[test]
    fn pid_of_another_thread_is_not_found() {
        let identity = exit_of(std::process::id()).identity().unwrap();
        // The calling thread is not the first thread of this process.
        let thread = support::thread_id();
        if thread == std::process::id() {
            return support::skip("the test runs on the first thread");
        }
        assert_gone(with_pid(identity, thread));
    }
}

#[cfg(feature = "serde")]
#[test]
fn serializes_as_a_line_of_text() {
    let identity = identity_of!(exit_of(std::process::id()));
    let json = serde_json::to_string(&identity).unwrap();
    assert_eq!(json, format!("\"{identity}\""));
    assert_eq!(
        serde_json::from_str::<ProcessIdentity>(&json).unwrap(),
        identity
    );
    let error = serde_json::from_str::<ProcessIdentity>("\"1234\"").unwrap_err();
    assert!(
        error.to_string().contains("expected a whole line"),
        "{error}"
    );
    assert!(serde_json::from_str::<ProcessIdentity>("1234").is_err());
}
