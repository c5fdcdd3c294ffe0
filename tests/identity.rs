//! Promise: a `ProcessIdentity` finds that very process again, and never another one.

mod support;

use std::io::ErrorKind;

use support::{Child, deadline};
use tokio_process_exit::{ProcessIdentity, exit_of};

/// Where processes are told apart. Elsewhere the test ends.
macro_rules! id_of {
    ($exit:expr) => {
        match $exit.identity() {
            Ok(id) => id,
            Err(error) if cfg!(not(any(target_os = "linux", windows))) => {
                return support::skip(&error.to_string());
            }
            Err(error) => panic!("{error}"),
        }
    };
}

#[tokio::test]
async fn the_process_is_found_again_by_what_was_written_down() {
    let mut child = Child::spawn(7);
    let line = id_of!(exit_of(child.id())).to_string();
    let id: ProcessIdentity = line.parse().unwrap();
    assert_eq!(id.pid(), child.id());
    assert_eq!(id.to_string(), line);

    let exit = id.open().unwrap();
    assert_eq!(exit.identity().unwrap(), id);
    child.end();
    assert_eq!(deadline(exit).await.unwrap().pid(), Some(child.id()));
}

#[tokio::test]
async fn one_that_is_gone_is_not_found() {
    let mut child = Child::spawn(0);
    let id = id_of!(exit_of(child.id()));
    child.end();
    child.reap();
    drop(child);
    let Err(error) = id.open() else {
        return support::skip("its pid has been given out again, to the same program");
    };
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(&id.pid().to_string()), "{error}");
}

#[tokio::test]
async fn two_processes_have_two_ids_and_one_has_one() {
    let (one, other) = (Child::spawn(0), Child::spawn(0));
    let id = id_of!(exit_of(one.id()));
    assert_eq!(id, exit_of(one.id()).identity().unwrap());
    assert_ne!(id, exit_of(other.id()).identity().unwrap());
}

#[tokio::test]
async fn a_stranger_with_the_pid_is_not_it() {
    let child = Child::spawn(0);
    let id = id_of!(exit_of(child.id()));
    // What is written down of the one, with the pid of the other.
    let other = Child::spawn(0);
    let forged = id
        .to_string()
        .replacen(&child.id().to_string(), &other.id().to_string(), 1);
    let forged: ProcessIdentity = forged.parse().unwrap();
    assert_eq!(forged.pid(), other.id());
    if forged == exit_of(other.id()).identity().unwrap() {
        return support::skip("both have started at the same time");
    }
    let error = forged.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn an_id_of_another_system_is_unsupported() {
    let pid = std::process::id();
    let boot = "2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5";
    for line in [
        format!("{pid} unique=1 boot={boot}"),
        format!("{pid} inode=1 boot={boot}"),
        format!("{pid} start=1 pidns=1"),
    ] {
        let id: ProcessIdentity = line.parse().unwrap();
        let error = id.open().unwrap_err();
        // By the boot alone a Linux knows that it cannot be one of its own.
        let expected = [ErrorKind::Unsupported, ErrorKind::NotFound];
        assert!(expected.contains(&error.kind()), "{line}: {error}");
    }
}

#[test]
fn what_could_not_be_opened_has_no_id() {
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
    async fn an_id_of_an_earlier_boot_is_not_found() {
        let child = Child::spawn(0);
        let me = exit_of(child.id()).identity().unwrap().to_string();
        let (rest, boot) = me.split_once(" boot=").unwrap();
        let turned = boot.replace(|c: char| c.is_ascii_digit(), "a");
        assert_ne!(turned, boot);
        let id: ProcessIdentity = format!("{rest} boot={turned}").parse().unwrap();
        let error = id.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("earlier boot"), "{error}");
    }

    #[tokio::test]
    async fn the_start_time_does_where_there_is_no_inode_and_both_where_there_are_both() {
        let mut child = Child::spawn(3);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let start = stat.rsplit(')').next().unwrap();
        let start = start.split_whitespace().nth(19).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let space =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
        let line = format!(
            "{} start={start} pidns={space} boot={}",
            child.id(),
            boot.trim()
        );
        let id: ProcessIdentity = line.parse().unwrap();
        let exit = id.open().unwrap();
        if support::poll_forced() {
            assert_eq!(exit.identity().unwrap(), id);
        }

        let other: u64 = start.parse::<u64>().unwrap() - 1;
        let line = format!(
            "{} start={other} pidns={space} boot={}",
            child.id(),
            boot.trim()
        );
        let error = line.parse::<ProcessIdentity>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        // A container that has started at the same time.
        let line = format!("{} start={start} pidns=1 boot={}", child.id(), boot.trim());
        let error = line.parse::<ProcessIdentity>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        child.end();
        assert_eq!(
            deadline(exit).await.unwrap().status().unwrap().code(),
            Some(3)
        );
    }

    #[tokio::test]
    async fn the_next_owner_of_the_pid_is_not_it() {
        if !linux::is_root() {
            return support::skip("only root chooses pids");
        }
        let child = Child::spawn(0);
        let (pid, id) = (child.id(), exit_of(child.id()).identity().unwrap());
        drop(child);
        // Start times have ticks of 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let Some(_next) = linux::recycle(pid, || Child::spawn(0), Child::id) else {
            return support::skip("the pid was not given out again");
        };
        let error = id.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn without_descriptors_it_is_that_which_is_said() {
        const TEST: &str = "linux::without_descriptors_it_is_that_which_is_said";
        if support::role().is_none() {
            return support::assert_passed(&support::rerun(TEST, "1", |_| {}));
        }
        // Not of ourselves: an emulator makes up what is read of that.
        let child = Child::spawn(0);
        let me = exit_of(child.id());
        let limit = linux::limit_descriptors(0);
        let error = me.identity().unwrap_err();
        linux::limit_descriptors(limit);
        let expected = std::io::Error::from_raw_os_error(libc::EMFILE).kind();
        assert_eq!(error.kind(), expected, "{error}");
        assert!(
            error.to_string().contains(&child.id().to_string()),
            "{error}"
        );
        // It is not remembered.
        assert_eq!(
            me.identity().unwrap().open().unwrap().pid(),
            Some(child.id())
        );
    }

    #[tokio::test]
    async fn a_zombie_is_still_it() {
        let mut grandchild = Grandchild::spawn();
        let id = exit_of(grandchild.id()).identity().unwrap();
        grandchild.end(7);
        support::until("a zombie", || linux::is_zombie(grandchild.id()));
        assert_eq!(
            deadline(id.open().unwrap()).await.unwrap().pid(),
            Some(grandchild.id())
        );
        grandchild.reap();
        let error = id.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn one_that_was_reaped_before_it_was_asked_is_itself_or_not_found() {
        let mut child = Child::spawn(7);
        let id = exit_of(child.id()).identity().unwrap();
        let exit = exit_of(child.id());
        child.end();
        child.reap();
        match exit.identity() {
            // A pidfd has its inode for ever.
            Ok(later) => assert_eq!(later, id),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
}

#[cfg(feature = "serde")]
#[test]
fn it_is_serialized_as_its_line() {
    let id = id_of!(exit_of(std::process::id()));
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(json, format!("\"{id}\""));
    assert_eq!(serde_json::from_str::<ProcessIdentity>(&json).unwrap(), id);
    let error = serde_json::from_str::<ProcessIdentity>("\"1234\"").unwrap_err();
    assert!(error.to_string().contains("expected a line"), "{error}");
    assert!(serde_json::from_str::<ProcessIdentity>("1234").is_err());
}
