//! Promise: a signal reaches only the opened process. After its exit the error is `NotFound`.

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
    async fn signal_ends_a_child() {
        let mut child = Child::spawn(0);
        let mut process = exit_of(child.id());
        process.signal(0).unwrap();
        still_pending(&mut process).await;
        process.signal(libc::SIGKILL).unwrap();
        deadline(&mut process).await.unwrap();
        assert_eq!(child.reap().signal(), Some(libc::SIGKILL));
    }

    #[tokio::test]
    async fn signal_ends_a_process_that_is_not_our_child() {
        let grandchild = Grandchild::spawn();
        let process = exit_of(grandchild.id());
        process.signal(libc::SIGTERM).unwrap();
        assert_eq!(
            deadline(process).await.unwrap().pid(),
            Some(grandchild.id())
        );
    }

    #[tokio::test]
    async fn signal_after_exit_is_not_found() {
        let mut child = Child::spawn(0);
        let mut resolved = exit_of(child.id());
        let unpolled = exit_of(child.id());
        let until_reaped = exit_of(child.id()).until_reaped();
        child.end();
        deadline(&mut resolved).await.unwrap();
        for process in [&resolved, &unpolled, &until_reaped] {
            let error = process.signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert_eq!(
                error.to_string(),
                format!("process {} has exited", child.id())
            );
        }
        child.reap();
        for process in [&resolved, &unpolled, &until_reaped] {
            let error = process.signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }

    #[tokio::test]
    async fn set_signals_the_process_with_the_given_pid() {
        let (mut first, second) = (Child::spawn(0), Child::spawn(0));
        let mut set = ExitSet::new();
        set.insert(first.id()).unwrap();
        set.insert_exit(exit_of(second.id()).until_reaped());
        set.signal(second.id(), 0).unwrap();
        set.signal(first.id(), libc::SIGKILL).unwrap();
        let exit = deadline(set.next_exit()).await.unwrap().unwrap();
        assert_eq!(exit.pid(), Some(first.id()));
        first.reap();
        // A yielded process is no longer in the set.
        let error = set.signal(first.id(), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        still_pending(set.next_exit()).await;

        set.signal(second.id(), libc::SIGKILL).unwrap();
        let mut process = exit_of(second.id());
        deadline(&mut process).await.unwrap();
        // The second process has exited but is not yet reaped, so the set still contains it.
        let error = set.signal(second.id(), libc::SIGKILL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        drop(second);
        deadline(set.next_exit()).await.unwrap().unwrap();
        let error = set.signal(std::process::id(), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }

    #[tokio::test]
    async fn unknown_signal_is_invalid_input() {
        let process = exit_of(std::process::id());
        for signal in [-1, 1000, i32::MIN, i32::MAX] {
            let error = process.signal(signal).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{signal}: {error}");
            let text = format!("cannot signal process {}", std::process::id());
            assert!(error.to_string().starts_with(&text), "{error}");
        }
    }

    #[tokio::test]
    async fn signal_returns_the_error_of_opening() {
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
    async fn does_not_signal_the_next_owner_of_the_pid() {
        if !linux::is_root() {
            return support::skip("the pid cannot be chosen (not root, or another process has it)");
        }
        let child = Child::spawn(0);
        let pid = child.id();
        let process = exit_of(pid);
        drop(child);
        let Some(next) = linux::recycle(pid, || Child::spawn(0), Child::id) else {
            return support::skip("the pid was not recycled");
        };
        let error = process.signal(libc::SIGKILL).unwrap_err();
        // If both processes started in the same clock tick, polling cannot distinguish them.
        let cannot_verify = support::poll_forced() && error.kind() == ErrorKind::Unsupported;
        assert!(
            cannot_verify || error.kind() == ErrorKind::NotFound,
            "{error}"
        );
        still_pending(exit_of(next.id())).await;
    }

    #[test]
    fn signal_to_another_user_is_denied() {
        if support::role().is_some() {
            let error = exit_of(1).signal(libc::SIGTERM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            return;
        }
        match linux::rerun_as_nobody("linux::signal_to_another_user_is_denied", &[]) {
            Some(output) => support::assert_passed(&output),
            None => support::skip("not root, or the user nobody cannot start this binary"),
        }
    }
}

#[cfg(windows)]
mod windows {
    use super::*;

    #[tokio::test]
    async fn terminate_ends_a_child_with_the_given_code() {
        let mut child = Child::spawn(0);
        let mut process = exit_of(child.id());
        still_pending(&mut process).await;
        process.terminate(7).unwrap();
        let status = deadline(&mut process).await.unwrap().status().unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(child.reap().code(), Some(7));
    }

    #[tokio::test]
    async fn terminate_after_exit_is_not_found() {
        let mut child = Child::spawn(0);
        let mut resolved = exit_of(child.id());
        let unpolled = exit_of(child.id());
        child.end();
        deadline(&mut resolved).await.unwrap();
        for process in [&resolved, &unpolled] {
            let error = process.terminate(7).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }

    #[tokio::test]
    async fn terminate_returns_the_error_of_opening() {
        let error = exit_of(0).terminate(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
