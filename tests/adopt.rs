//! Promise: a pidfd from elsewhere is as good as a pid, and whatever is no pidfd is refused.

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
async fn a_pidfd_can_be_adopted() {
    let mut child = Child::spawn(3);
    let mut exit = ProcessExit::try_from(linux::pidfd_open(child.id(), 0)).unwrap();
    assert_eq!(exit.pid(), Some(child.id()));
    still_pending(&mut exit).await;
    child.end();
    assert_eq!(
        deadline(exit).await.unwrap().status().unwrap().code(),
        Some(3)
    );

    let nonblocking = linux::pidfd_open(child.id(), libc::PIDFD_NONBLOCK);
    let exit = deadline(ProcessExit::try_from(nonblocking).unwrap())
        .await
        .unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(3));
}

#[tokio::test]
async fn a_pidfd_of_a_reaped_process_can_be_adopted() {
    let mut grandchild = Grandchild::spawn();
    let pidfd = linux::pidfd_open(grandchild.id(), 0);
    grandchild.end(5);
    grandchild.reap();
    let exit = ProcessExit::try_from(pidfd).unwrap();
    assert_eq!(exit.pid(), None);
    let exit = deadline(exit).await.unwrap();
    if linux::pidfd_tells_the_status() {
        assert_eq!(exit.status().unwrap().code(), Some(5));
    }
}

#[tokio::test]
async fn a_peer_is_adopted_from_its_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut pidfd: libc::c_int = -1;
    let mut size = size_of_val(&pidfd) as libc::socklen_t;
    const SO_PEERPIDFD: libc::c_int = 77;
    let socket = ours.as_raw_fd();
    let value = (&raw mut pidfd).cast();
    // SAFETY: room for a descriptor, and its size.
    let result =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERPIDFD, value, &mut size) };
    if result < 0 {
        return support::skip("no SO_PEERPIDFD before Linux 6.5");
    }
    let exit = ProcessExit::try_from(linux::own(pidfd)).unwrap();
    assert_eq!(exit.pid(), Some(std::process::id()));
    still_pending(exit).await;
    drop(theirs);
}

#[tokio::test]
async fn a_descriptor_that_is_no_pidfd_is_refused() {
    let child = Child::spawn(0);
    let (read, write) = linux::pipe();
    // SAFETY: takes integers.
    let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // SAFETY: takes an integer.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    // SAFETY: takes a null-terminated name.
    let memfd = unsafe { libc::memfd_create(c"a file".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: takes integers.
    let timerfd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    // SAFETY: takes an integer.
    let inotify = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    // SAFETY: a set of signals is integers, for which all zeroes is a valid value, that of no signal.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is readable.
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
        // The kernel itself takes this one for a pidfd in places.
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

/// A container that was handed the pidfd of a process outside.
#[tokio::test]
async fn a_process_of_an_outer_pid_namespace_has_no_pid_and_exits_all_the_same() {
    const TEST: &str = "a_process_of_an_outer_pid_namespace_has_no_pid_and_exits_all_the_same";
    if let Some(number) = support::role() {
        // SAFETY: the descriptor that was left open for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) };
        let exit = ProcessExit::try_from(pidfd).unwrap();
        assert_eq!(exit.pid(), None);
        let error = exit.identity().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let exit = deadline(exit).await.unwrap();
        // Not told across namespaces. If it is one day, it must be right.
        assert!(exit.status().is_none_or(|status| status.code() == Some(7)));
        return;
    }
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let try_it = Command::new("unshare").args(unshare).arg("true").status();
    if !try_it.is_ok_and(|status| status.success()) {
        return support::skip("no pid namespace can be made (not root, or no unshare(1))");
    }
    let mut child = Child::spawn(7);
    // Not closed by an exec, unlike the first.
    let pidfd = linux::pidfd_open(child.id(), 0);
    // SAFETY: takes an open descriptor.
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
async fn the_pidfd_of_a_thread_is_refused() {
    if linux::release() < (6, 9) {
        return support::skip("no pidfds of threads before Linux 6.9");
    }
    let pidfd = linux::pidfd_open(std::process::id(), libc::PIDFD_THREAD);
    let error = ProcessExit::try_from(pidfd).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("thread"), "{error}");

    if !linux::pidfd_can_be_asked() {
        return support::skip("a pidfd that has lost its mark cannot be told before Linux 6.13");
    }
    // Also when it has lost its mark.
    let thread = std::thread::spawn(|| {
        // SAFETY: takes nothing.
        let tid = unsafe { libc::gettid() } as u32;
        let pidfd = linux::pidfd_open(tid, libc::PIDFD_THREAD);
        let path = format!("/proc/self/fd/{}", pidfd.as_raw_fd());
        let again = File::options().read(true).write(true).open(path);
        again.map(|again| ProcessExit::try_from(OwnedFd::from(again)))
    });
    match thread.join().unwrap() {
        Ok(adopted) => assert_eq!(adopted.unwrap_err().kind(), ErrorKind::InvalidInput),
        Err(error) => support::skip(&format!("a pidfd cannot be opened again here: {error}")),
    }
}

/// While a thread replaces the leading one, its number and the process's differ for an instant.
#[tokio::test]
async fn a_process_can_be_adopted_during_an_exec_by_another_thread() {
    for _ in 0..200 {
        let process = linux::fork(|| linux::leader_exits(|| linux::exec_sh(c"exit 8")));
        let pidfd = linux::pidfd_open(process.id(), 0);
        loop {
            let mut exit = ProcessExit::try_from(pidfd.try_clone().unwrap()).unwrap();
            if exit.try_wait().unwrap().is_some() {
                break;
            }
        }
    }
}
