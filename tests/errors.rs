//! Promise: bad input gets a clear error that names it, at once and every time.

#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use futures::future::FusedFuture;
use support::linux::{self, Grandchild};
use support::{Child, deadline, still_pending};
use tokio_process_exit::{ProcessExit, exit_of};

/// The error, which must be the same however it is asked for.
async fn error_of(pid: u32) -> Error {
    let now = ProcessExit::open(pid).unwrap_err();
    let mut exit = exit_of(pid);
    assert_eq!(exit.mechanism(), None);
    assert_eq!(exit.id(), pid);
    let tried = exit.try_exit().unwrap_err();
    assert!(!exit.is_terminated());
    for _ in 0..2 {
        let awaited = deadline(&mut exit).await.unwrap_err();
        for error in [&tried, &awaited] {
            assert_eq!(
                (error.kind(), error.to_string()),
                (now.kind(), now.to_string())
            );
        }
        assert!(exit.is_terminated());
    }
    now
}

#[tokio::test]
async fn pid_0_is_invalid() {
    let error = error_of(0).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("pid 0 "), "{error}");
}

#[tokio::test]
async fn a_number_beyond_any_pid_is_invalid() {
    for pid in [i32::MAX as u32 + 1, u32::MAX] {
        let error = error_of(pid).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&pid.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_pid_that_names_no_process_is_not_found() {
    let mut child = Child::spawn(0);
    child.reap();
    for pid in [child.id(), i32::MAX as u32] {
        let error = error_of(pid).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("no process with pid {pid}"));
    }
}

#[tokio::test]
async fn a_thread_is_invalid_and_the_message_names_its_process() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: takes nothing.
        send.send(unsafe { libc::gettid() }).unwrap();
        let _ = stopped.recv();
    });
    let tid = receive.recv().unwrap() as u32;
    let error = error_of(tid).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let process = std::process::id();
    assert!(
        error
            .to_string()
            .contains(&format!("{tid} is a thread of process {process}")),
        "{error}"
    );
    drop(stop);
    thread.join().unwrap();
    // The kernel forgets it soon after the join.
    support::until(
        "no thread",
        || matches!(ProcessExit::open(tid), Err(error) if error.kind() == ErrorKind::NotFound),
    );
}

/// The kernel answers EINVAL or ENOENT for a thread, and in passing for a process being reaped.
#[tokio::test]
async fn a_process_being_reaped_is_opened_or_not_found() {
    for _ in 0..300 {
        let mut child = Child::spawn(0);
        let pid = child.id();
        std::thread::scope(|scope| {
            scope.spawn(move || child.reap());
            loop {
                match ProcessExit::open(pid) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
}

#[tokio::test]
async fn a_pidfd_can_be_adopted() {
    let mut child = Child::spawn(3);
    let mut exit = ProcessExit::try_from(linux::pidfd_open(child.id(), 0)).unwrap();
    assert_eq!(exit.id(), child.id());
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
    assert_eq!(exit.id(), 0);
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
    assert_eq!(exit.id(), std::process::id());
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
    let others = [eventfd, epoll, memfd, timerfd, inotify].map(linux::own);
    let others = others.into_iter().chain([
        OwnedFd::from(UnixStream::pair().unwrap().0),
        OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()),
        OwnedFd::from(read),
        OwnedFd::from(write),
        OwnedFd::from(File::open("/dev/null").unwrap()),
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

#[tokio::test]
async fn the_pidfd_of_a_thread_is_refused() {
    if linux::release() < (6, 9) {
        return support::skip("no pidfds of threads before Linux 6.9");
    }
    let pidfd = linux::pidfd_open(std::process::id(), libc::PIDFD_THREAD);
    let error = ProcessExit::try_from(pidfd).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("thread"), "{error}");

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
