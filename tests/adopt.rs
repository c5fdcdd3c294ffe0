//! Promise: a `ProcessExit` can be made from any pidfd of a process, and from no other descriptor.

#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use support::linux::{self, Grandchild};
use support::{Child, deadline, still_pending};
use tokio_process_exit::ProcessExit;

#[tokio::test]
async fn adopts_a_pidfd() {
    let mut child = Child::spawn(3);
    let mut process = ProcessExit::try_from(linux::pidfd_open(child.id(), 0)).unwrap();
    assert_eq!(process.pid(), Some(child.id()));
    still_pending(&mut process).await;
    child.end();
    assert_eq!(
        deadline(process).await.unwrap().status().unwrap().code(),
        Some(3)
    );

    let nonblocking = linux::pidfd_open(child.id(), libc::PIDFD_NONBLOCK);
    let exit = deadline(ProcessExit::try_from(nonblocking).unwrap())
        .await
        .unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(3));
}

#[tokio::test]
async fn adopts_the_pidfd_of_a_reaped_process() {
    let mut grandchild = Grandchild::spawn();
    let pidfd = linux::pidfd_open(grandchild.id(), 0);
    grandchild.end(5);
    grandchild.reap();
    let process = ProcessExit::try_from(pidfd).unwrap();
    assert_eq!(process.pid(), None);
    let exit = deadline(process).await.unwrap();
    if linux::pidfd_reports_status() {
        assert_eq!(exit.status().unwrap().code(), Some(5));
    }
}

#[tokio::test]
async fn adopts_the_peer_pidfd_of_a_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut pidfd: libc::c_int = -1;
    let mut size = size_of_val(&pidfd) as libc::socklen_t;
    const SO_PEERPIDFD: libc::c_int = 77;
    let socket = ours.as_raw_fd();
    let value = (&raw mut pidfd).cast();
    // SAFETY: `value` points to space for a descriptor, and `size` is the size of that space.
    let result =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERPIDFD, value, &mut size) };
    if result < 0 {
        return support::skip("SO_PEERPIDFD needs Linux 6.5");
    }
    let process = ProcessExit::try_from(linux::own(pidfd)).unwrap();
    assert_eq!(process.pid(), Some(std::process::id()));
    still_pending(process).await;
    drop(theirs);
}

#[tokio::test]
async fn rejects_other_kinds_of_descriptors() {
    let child = Child::spawn(0);
    let (read, write) = linux::pipe();
    // SAFETY: the call takes integers.
    let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // SAFETY: the call takes an integer.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    // SAFETY: the name is null-terminated.
    let memfd = unsafe { libc::memfd_create(c"a file".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: the call takes integers.
    let timerfd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    // SAFETY: the call takes an integer.
    let inotify = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    // SAFETY: a `sigset_t` consists of integers. All zeroes is a valid value: the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is a valid signal set that outlives the call.
    let signalfd = unsafe { libc::signalfd(-1, &none, libc::SFD_CLOEXEC) };
    let others = [eventfd, epoll, memfd, timerfd, inotify, signalfd].map(linux::own);
    let others = others.into_iter().chain([
        OwnedFd::from(UnixStream::pair().unwrap().0),
        OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()),
        OwnedFd::from(read),
        OwnedFd::from(write),
        OwnedFd::from(File::open("/dev/null").unwrap()),
        OwnedFd::from(File::open(std::env::current_exe().unwrap()).unwrap()),
        OwnedFd::from(File::open("/").unwrap()),
        OwnedFd::from(File::open("/proc/self/ns/pid").unwrap()),
        // Some system calls of the kernel accept a /proc/<pid> directory as a pidfd.
        OwnedFd::from(File::open(format!("/proc/{}", child.id())).unwrap()),
        OwnedFd::from(File::open(format!("/proc/{}/stat", child.id())).unwrap()),
    ]);
    for fd in others {
        let name = fd.as_raw_fd().to_string();
        let error = ProcessExit::try_from(fd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

/// A container may receive the pidfd of a process outside its pid namespace.
#[tokio::test]
async fn resolves_for_a_process_outside_the_pid_namespace() {
    const TEST: &str = "resolves_for_a_process_outside_the_pid_namespace";
    if let Some(number) = support::role() {
        // SAFETY: this process has inherited the open descriptor, and no other code here owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) };
        let process = ProcessExit::try_from(pidfd).unwrap();
        assert_eq!(process.pid(), None);
        let error = process.identity().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let exit = deadline(process).await.unwrap();
        // Linux reports no status across pid namespaces. If a later version does, expect 7.
        assert!(exit.status().is_none_or(|status| status.code() == Some(7)));
        return;
    }
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let unshared = Command::new("unshare").args(unshare).arg("true").status();
    if !unshared.is_ok_and(|status| status.success()) {
        return support::skip("no pid namespace can be created (not root, or no unshare(1))");
    }
    let mut child = Child::spawn(7);
    let pidfd = linux::pidfd_open(child.id(), 0);
    // Duplicate the pidfd so that it stays open across an exec.
    // SAFETY: the descriptor is open.
    let pidfd = linux::own(unsafe { libc::dup(pidfd.as_raw_fd()) });
    let mut inside = Command::new("unshare");
    inside
        .args(unshare)
        .args(support::runnable(std::env::current_exe().unwrap()))
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env("ROLE", pidfd.as_raw_fd().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let inside = inside.spawn().unwrap();
    child.end();
    child.reap();
    support::assert_passed(&inside.wait_with_output().unwrap());
}

#[tokio::test]
async fn rejects_the_pidfd_of_a_thread() {
    if linux::release() < (6, 9) {
        return support::skip("pidfds of threads need Linux 6.9");
    }
    let pidfd = linux::pidfd_open(std::process::id(), libc::PIDFD_THREAD);
    let error = ProcessExit::try_from(pidfd).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("thread"), "{error}");

    if !linux::pidfd_supports_get_info() {
        return support::skip("a reopened pidfd of a thread is recognized from Linux 6.13 on");
    }
    // Reopening a pidfd through /proc drops its PIDFD_THREAD flag.
    let thread = std::thread::spawn(|| {
        // SAFETY: the call takes no arguments.
        let tid = unsafe { libc::gettid() } as u32;
        let pidfd = linux::pidfd_open(tid, libc::PIDFD_THREAD);
        let path = format!("/proc/self/fd/{}", pidfd.as_raw_fd());
        let reopened = File::options().read(true).write(true).open(path);
        reopened.map(|reopened| ProcessExit::try_from(OwnedFd::from(reopened)))
    });
    match thread.join().unwrap() {
        Ok(adopted) => assert_eq!(adopted.unwrap_err().kind(), ErrorKind::InvalidInput),
        Err(error) => support::skip(&format!("a pidfd cannot be reopened here: {error}")),
    }
}

/// During `execve` the calling thread replaces the leader. Until then, its id differs from the pid.
#[tokio::test]
async fn adopts_a_pidfd_during_exec_by_another_thread() {
    for _ in 0..200 {
        let child = linux::fork(|| linux::leader_exits(|| linux::exec_sh(c"exit 8")));
        let pidfd = linux::pidfd_open(child.id(), 0);
        loop {
            let mut process = ProcessExit::try_from(pidfd.try_clone().unwrap()).unwrap();
            // The pid is unknown if the process has just been reaped.
            assert!(
                process.pid().is_none_or(|pid| pid == child.id()),
                "{:?}, not {}",
                process.pid(),
                child.id()
            );
            if process.try_wait().unwrap().is_some() {
                break;
            }
        }
    }
}
