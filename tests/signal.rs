//! Promise: a signal reaches that very process, or `NotFound` says that it has exited.

mod support;

use std::io::ErrorKind;

use support::{Child, deadline, still_pending};
use tokio_process_exit::exit_of;

#[cfg(unix)]
mod unix {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use support::unix::Grandchild;
    use tokio_process_exit::ExitSet;

    #[tokio::test]
    async fn it_ends_a_child_and_the_status_says_so() {
        let mut child = Child::spawn(0);
        let mut exit = exit_of(child.id());
        exit.signal(0).unwrap();
        still_pending(&mut exit).await;
        exit.signal(libc::SIGKILL).unwrap();
        deadline(&mut exit).await.unwrap();
        assert_eq!(child.reap().signal(), Some(libc::SIGKILL));
    }

    #[tokio::test]
    async fn it_ends_anothers_child() {
        let grandchild = Grandchild::spawn();
        let exit = exit_of(grandchild.id());
        exit.signal(libc::SIGTERM).unwrap();
        assert_eq!(deadline(exit).await.unwrap().pid(), Some(grandchild.id()));
    }

    #[tokio::test]
    async fn one_that_has_exited_is_not_found_reaped_or_not() {
        let mut child = Child::spawn(0);
        let mut exit = exit_of(child.id());
        let other = exit_of(child.id());
        let reaped = exit_of(child.id()).until_reaped();
        child.end();
        deadline(&mut exit).await.unwrap();
        for exit in [&exit, &other, &reaped] {
            let error = exit.signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert_eq!(
                error.to_string(),
                format!("process {} has exited", child.id())
            );
        }
        child.reap();
        for exit in [&exit, &other, &reaped] {
            let error = exit.signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }

    #[tokio::test]
    async fn through_a_set_it_reaches_the_one_that_is_meant() {
        let (mut one, other) = (Child::spawn(0), Child::spawn(0));
        let mut set = ExitSet::new();
        set.insert(one.id()).unwrap();
        set.insert_exit(exit_of(other.id()).until_reaped());
        set.signal(other.id(), 0).unwrap();
        set.signal(one.id(), libc::SIGKILL).unwrap();
        let exit = deadline(set.next_exit()).await.unwrap().unwrap();
        assert_eq!(exit.pid(), Some(one.id()));
        one.reap();
        // It is not in the set any more.
        let error = set.signal(one.id(), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        still_pending(set.next_exit()).await;

        set.signal(other.id(), libc::SIGKILL).unwrap();
        let mut exit = exit_of(other.id());
        deadline(&mut exit).await.unwrap();
        // It has exited, and the set still waits for its reap.
        let error = set.signal(other.id(), libc::SIGKILL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        drop(other);
        deadline(set.next_exit()).await.unwrap().unwrap();
        let error = set.signal(std::process::id(), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }

    #[tokio::test]
    async fn a_signal_that_does_not_exist_is_invalid_input() {
        let exit = exit_of(std::process::id());
        for signal in [-1, 1000, i32::MIN, i32::MAX] {
            let error = exit.signal(signal).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{signal}: {error}");
            let text = format!("cannot signal process {}", std::process::id());
            assert!(error.to_string().starts_with(&text), "{error}");
        }
    }

    #[tokio::test]
    async fn what_could_not_be_opened_gives_the_error_of_opening() {
        let error = exit_of(0).signal(libc::SIGTERM).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = exit_of(i32::MAX as u32).signal(libc::SIGTERM).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use support::linux;

    #[tokio::test]
    async fn the_next_owner_of_the_pid_is_spared() {
        if !linux::is_root() {
            return support::skip("only root chooses pids");
        }
        let child = Child::spawn(0);
        let pid = child.id();
        let exit = exit_of(pid);
        drop(child);
        let Some(next) = linux::recycle(pid, || Child::spawn(0), Child::id) else {
            return support::skip("the pid was not given out again");
        };
        let error = exit.signal(libc::SIGKILL).unwrap_err();
        // Both may have started in one tick, so that it cannot be told which one it is.
        let is_unsure = support::poll_forced() && error.kind() == ErrorKind::Unsupported;
        assert!(is_unsure || error.kind() == ErrorKind::NotFound, "{error}");
        still_pending(exit_of(next.id())).await;
    }

    #[test]
    fn another_users_process_is_denied() {
        if support::role().is_some() {
            let error = exit_of(1).signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            return;
        }
        match linux::rerun_as_nobody("linux::another_users_process_is_denied", &[]) {
            Some(output) => support::assert_passed(&output),
            None => support::skip("only root becomes nobody"),
        }
    }
}

#[cfg(windows)]
mod windows {
    use super::*;

    #[tokio::test]
    async fn it_ends_a_child_with_the_code_that_was_given() {
        let mut child = Child::spawn(0);
        let mut exit = exit_of(child.id());
        still_pending(&mut exit).await;
        exit.terminate(7).unwrap();
        let status = deadline(&mut exit).await.unwrap().status().unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(child.reap().code(), Some(7));
    }

    #[tokio::test]
    async fn one_that_has_exited_is_not_found() {
        let mut child = Child::spawn(0);
        let mut exit = exit_of(child.id());
        let other = exit_of(child.id());
        child.end();
        deadline(&mut exit).await.unwrap();
        for exit in [&exit, &other] {
            let error = exit.terminate(7).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }

    #[tokio::test]
    async fn what_could_not_be_opened_gives_the_error_of_opening() {
        let error = exit_of(0).terminate(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
