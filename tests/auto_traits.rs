//! Promise: the public types implement the traits that users expect, and stay small.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::io;

use futures::future::FusedFuture;
use tokio_process_exit::{Exit, Mechanism, ProcessError, ProcessExit, exit_of};

fn is_sendable<T: Send + Sync + Unpin + Debug + 'static>() {}
fn is_a_value<T: Copy + Eq + Hash + Debug>() {}

#[test]
fn implements_the_expected_traits() {
    is_sendable::<ProcessExit>();
    is_sendable::<Exit>();
    is_sendable::<Mechanism>();
    is_sendable::<ProcessError>();
    is_a_value::<Exit>();
    is_a_value::<Mechanism>();
    fn is_displayed<T: Display>() {}
    is_displayed::<Exit>();
    is_displayed::<ProcessError>();
    fn is_awaited<T: Future<Output = io::Result<Exit>> + FusedFuture>() {}
    is_awaited::<ProcessExit>();
}

#[test]
fn can_be_awaited_in_a_spawned_task() {
    fn spawnable<F: Future + Send + 'static>(_: F) {}
    spawnable(async { exit_of(1).await });
}

#[cfg(unix)]
#[test]
fn waits_for_groups_implement_the_same_traits() {
    use tokio_process_exit::{GroupExit, exit_of_group};
    fn is_awaited<T: Future<Output = io::Result<()>> + FusedFuture>() {}
    fn is_spawnable<F: Future + Send + 'static>(_: F) {}
    is_sendable::<GroupExit>();
    is_awaited::<GroupExit>();
    is_spawnable(async { exit_of_group(0).stop(std::time::Duration::ZERO).await });
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use tokio_process_exit::{CgroupExit, exit_of_cgroup};
        is_sendable::<CgroupExit>();
        is_awaited::<CgroupExit>();
        is_spawnable(async { exit_of_cgroup("").stop(std::time::Duration::ZERO).await });
    }
}

#[cfg(windows)]
#[test]
fn waits_for_jobs_implement_the_same_traits() {
    use std::os::windows::io::{AsHandle, OwnedHandle};
    use tokio_process_exit::JobExit;
    fn is_awaited<T: Future<Output = io::Result<()>> + FusedFuture + TryFrom<OwnedHandle>>() {}
    fn is_lent<T: AsHandle>() {}
    fn is_spawnable<F: Future + Send + 'static>(_: impl FnOnce(JobExit) -> F) {}
    is_sendable::<JobExit>();
    is_awaited::<JobExit>();
    is_lent::<JobExit>();
    is_spawnable(|mut job| async move { job.stop(std::time::Duration::ZERO).await });
}

#[cfg(target_os = "linux")]
#[test]
fn process_exit_is_at_most_64_bytes() {
    assert!(
        size_of::<ProcessExit>() <= 64,
        "{}",
        size_of::<ProcessExit>()
    );
    assert!(size_of::<Exit>() <= 16);
}
