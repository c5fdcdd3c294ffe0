//! Promise: a wait for another parent's child holds the child's `stat` open, and never believes that file
//! of another process.

#![cfg(target_os = "linux")]

mod support;

use std::ffi::CStr;
use std::ptr;
use std::time::Duration;

use support::linux::{self, Grandchild};
use support::{deadline, rerun, skip, still_pending};
use tokio_process_exit::{Exit, ExitSet, exit_of};

/// Returns whether waits hold the file open. Prints why not.
fn files_are_kept() -> bool {
    let are_kept = linux::stat_shows_status() && !support::poll_forced();
    if !are_kept {
        skip("Linux before 5.17, or polling is forced");
    }
    are_kept
}

/// Returns how many descriptors of this process are the file of the process `pid`.
fn open_files(pid: u32) -> usize {
    let file = format!(" /proc/{pid}/stat");
    let fds = linux::open_fds();
    fds.iter().filter(|fd| fd.ends_with(&file)).count()
}

fn code(exit: Exit) -> Option<i32> {
    exit.status()?.code()
}

#[tokio::test]
async fn holds_one_file_open_while_it_waits() {
    if !files_are_kept() {
        return;
    }
    let grandchild = Grandchild::spawn();
    let pid = grandchild.id();
    let mut process = exit_of(pid);
    assert_eq!(process.try_wait().unwrap(), None);
    assert_eq!(open_files(pid), 0, "nothing waits yet");
    still_pending(&mut process).await;
    still_pending(&mut process).await;
    assert_eq!(open_files(pid), 1);
    let mut clone = process.try_clone().unwrap();
    assert_eq!(open_files(pid), 1);
    still_pending(&mut clone).await;
    assert_eq!(open_files(pid), 2);
    drop(clone);
    let mut process = process.until_reaped();
    assert_eq!(open_files(pid), 0, "another wait has begun");
    still_pending(&mut process).await;
    assert_eq!(open_files(pid), 1);
    let mut set = ExitSet::new();
    set.insert_exit(process);
    still_pending(set.next_exit()).await;
    assert_eq!(open_files(pid), 0, "a member of a set");
}

#[test]
fn holds_one_file_open_without_a_runtime() {
    if !files_are_kept() {
        return;
    }
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id());
    for _ in 0..2 {
        let timeout = Some(Duration::from_millis(5));
        assert_eq!(process.blocking_wait(timeout).unwrap(), None);
        assert_eq!(open_files(grandchild.id()), 1);
    }
    grandchild.end(7);
    assert_eq!(code(process.blocking_wait(None).unwrap().unwrap()), Some(7));
    drop(process);
    assert_eq!(open_files(grandchild.id()), 0);
}

#[tokio::test]
async fn holds_no_file_of_a_child_open() {
    let child = linux::fork(|| linux::forever());
    let mut process = exit_of(child.id());
    still_pending(&mut process).await;
    let timeout = Some(Duration::from_millis(5));
    assert_eq!(process.blocking_wait(timeout).unwrap(), None);
    assert_eq!(open_files(child.id()), 0);
}

#[test]
fn keeps_half_of_the_descriptors_for_pidfds() {
    const TEST: &str = "keeps_half_of_the_descriptors_for_pidfds";
    if support::role().is_none() {
        return support::assert_passed(&rerun(TEST, "1", |_| {}));
    }
    if !files_are_kept() {
        return;
    }
    let grandchild = Grandchild::spawn();
    linux::limit_descriptors(64);
    let mut waits: Vec<_> = (0..40).map(|_| exit_of(grandchild.id())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for process in &mut waits {
            still_pending(process).await;
        }
        assert_eq!(open_files(grandchild.id()), 0);
        waits.truncate(5);
        for process in &mut waits {
            let mut clone = process.try_clone().unwrap();
            still_pending(&mut clone).await;
            assert_eq!(open_files(grandchild.id()), 1);
        }
    });
}

#[tokio::test]
async fn never_returns_the_status_of_a_later_process() {
    const TEST: &str = "never_returns_the_status_of_a_later_process";
    if support::role().is_none() {
        return support::assert_passed(&rerun(TEST, "1", |_| {}));
    }
    let mut first = Grandchild::spawn();
    let mut process = exit_of(first.id());
    still_pending(&mut process).await;
    if linux::seccomp_filters() {
        // Otherwise Linux 6.15 returns the status after the reap.
        linux::deny(libc::SYS_ioctl, libc::ENOTTY);
    }
    first.end(7);
    first.reap();
    let next = linux::recycle(first.id(), || linux::fork(|| 9), linux::Forked::id);
    let Some(next) = next else {
        return skip("the pid cannot be chosen (not root, or another process has it)");
    };
    support::until("the next owner is a zombie", || linux::is_zombie(next.id()));
    let exit = deadline(process).await.unwrap();
    assert!(matches!(code(exit), None | Some(7)), "{exit}");
}

/// Forks as `clone` does with these flags, and returns the wait status of the child. `None` if that is denied.
fn in_clone(flags: libc::c_int, body: impl FnOnce() -> i32) -> Option<i32> {
    let flags = libc::c_ulong::from((flags | libc::SIGCHLD) as u32);
    // SAFETY: without CLONE_VM, no memory is shared and no stack is needed.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid as libc::pid_t {
        0 => linux::exit_group(body()),
        -1 => None,
        pid => Some(linux::reap_raw(pid)),
    }
}

#[test]
fn is_right_after_a_fork_into_a_pid_namespace() {
    const TEST: &str = "is_right_after_a_fork_into_a_pid_namespace";
    if support::role().is_none() {
        // Run in a process without other threads: the forked process allocates memory.
        return support::assert_passed(&rerun(TEST, "1", |_| {}));
    }
    if support::poll_forced() {
        return skip("polling cannot see a zombie that /proc does not show");
    }
    // Wait in the namespace of `/proc` first, so that this process has kept whatever it keeps.
    let mut first = Grandchild::spawn();
    let mut process = exit_of(first.id());
    let timeout = Some(Duration::from_millis(5));
    assert_eq!(process.blocking_wait(timeout).unwrap(), None);
    let is_known = |exit: Option<Exit>, expected| {
        let code = exit.and_then(code);
        code.is_none_or(|code| code == expected)
    };
    let status = in_clone(libc::CLONE_NEWPID, || {
        // The pids of this namespace are those of other processes in /proc.
        let mut inner = Grandchild::spawn();
        let mut inner_process = exit_of(inner.id());
        if inner.id() > 100 || inner_process.blocking_wait(timeout).unwrap().is_some() {
            return 1;
        }
        inner.end(77);
        let exit = inner_process.blocking_wait(None).unwrap();
        if !is_known(exit, 77) {
            return 2;
        }
        // The wait that was begun before the fork.
        first.end(78);
        let exit = process.blocking_wait(None).unwrap();
        if exit.is_none() || !is_known(exit, 78) {
            return 3;
        }
        std::mem::forget(first);
        0
    });
    match status {
        Some(status) => assert_eq!(status, 0),
        None => skip("no pid namespace can be created (not root)"),
    }
}

#[test]
fn returns_the_status_below_a_later_mount_on_proc() {
    const TEST: &str = "returns_the_status_below_a_later_mount_on_proc";
    if support::role().is_none() {
        return support::assert_passed(&rerun(TEST, "1", |_| {}));
    }
    if !files_are_kept() {
        return;
    }
    let mut grandchild = Grandchild::spawn();
    let mut process = exit_of(grandchild.id());
    let timeout = Some(Duration::from_millis(5));
    assert_eq!(process.blocking_wait(timeout).unwrap(), None);
    // SAFETY: the call takes an integer. This thread gets a mount namespace of its own.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return skip("no mount namespace can be created (not root)");
    }
    let mount = |target: &CStr, kind: &CStr, flags| {
        let (kind, target) = (kind.as_ptr(), target.as_ptr());
        // SAFETY: the strings end with null bytes, and a file system without options needs no data.
        let result = unsafe { libc::mount(kind, target, kind, flags, ptr::null()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    };
    mount(c"/", c"none", libc::MS_REC | libc::MS_PRIVATE);
    mount(c"/proc", c"tmpfs", 0);
    grandchild.end(7);
    let exit = process.blocking_wait(None).unwrap().unwrap();
    assert_eq!(code(exit), Some(7));
}
