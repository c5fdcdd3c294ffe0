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
        format!("{pid} inode=1 boot={boot}"),
        format!("{pid} start=1 pidns=1"),
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
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let start = stat.rsplit(')').next().unwrap();
        let start = start.split_whitespace().nth(19).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let pidns =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
        let line = format!(
            "{} start={start} pidns={pidns} boot={}",
            child.id(),
            boot.trim()
        );
        let identity: ProcessIdentity = line.parse().unwrap();
        let process = identity.open().unwrap();
        if support::poll_forced() {
            assert_eq!(process.identity().unwrap(), identity);
        }

        let earlier: u64 = start.parse::<u64>().unwrap() - 1;
        let line = format!(
            "{} start={earlier} pidns={pidns} boot={}",
            child.id(),
            boot.trim()
        );
        let error = line.parse::<ProcessIdentity>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        // A process of another container may have the same pid and start time.
        let line = format!("{} start={start} pidns=1 boot={}", child.id(), boot.trim());
        let error = line.parse::<ProcessIdentity>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        child.end();
        assert_eq!(
            deadline(process).await.unwrap().status().unwrap().code(),
            Some(3)
        );
    }

    #[tokio::test]
    async fn does_not_open_the_next_owner_of_the_pid() {
        if !linux::is_root() {
            return support::skip("pids cannot be chosen (not root)");
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
        if support::role().is_none() {
            return support::assert_passed(&support::rerun(TEST, "1", |_| {}));
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
    assert!(error.to_string().contains("expected a line"), "{error}");
    assert!(serde_json::from_str::<ProcessIdentity>("1234").is_err());
}
