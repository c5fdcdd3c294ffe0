//! Promise: on each older kernel, waits work as well as the kernel permits.
//!
//! [`support::trap`] changes the results of system calls to the results of the older kernel.
//! Other behaviour of this kernel stays: for example, epoll still wakes at the reap.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use support::linux::{self, Forked, Grandchild};
use support::trap::{self, kernel::*};
use support::{deadline, still_pending};
use tokio::runtime::Builder;
use tokio_process_exit::{Exit, ExitSet, Mechanism, ProcessExit, exit_of};

/// A kernel version, and the expected behaviour of waits.
struct Kernel {
    name: &'static str,
    /// Bits of [`trap::kernel`].
    differences: u32,
    /// Whether the kernel has pidfds.
    events: bool,
    /// Whether the kernel reports a reap as an event.
    reap_events: bool,
    /// Whether the status of a zombie is known. Linux before 5.17 itself also shows the status of most children, but
    /// this kernel does not show what the crate wants to know before it believes the status.
    zombie_status: bool,
    /// Whether the status of a process is known even if it was reaped before the first query.
    reaped_status: bool,
}

#[rustfmt::skip]
const KERNELS: [Kernel; 9] = [
    Kernel { name: "5.2", differences: NO_PIDFD_OPEN | OLD_RELEASE, events: false, reap_events: false, zombie_status: false, reaped_status: false },
    Kernel { name: "5.3", differences: NO_P_PIDFD | NO_PIDFS | OLD_RELEASE, events: true, reap_events: false, zombie_status: false, reaped_status: false },
    Kernel { name: "5.15", differences: NO_PIDFS | OLD_RELEASE, events: true, reap_events: false, zombie_status: false, reaped_status: false },
    Kernel { name: "6.1", differences: NO_PIDFS, events: true, reap_events: false, zombie_status: true, reaped_status: false },
    Kernel { name: "6.9", differences: NO_GET_INFO, events: true, reap_events: true, zombie_status: true, reaped_status: false },
    Kernel { name: "6.13", differences: NO_INFO_EXIT, events: true, reap_events: true, zombie_status: true, reaped_status: false },
    Kernel { name: "6.15", differences: 0, events: true, reap_events: true, zombie_status: true, reaped_status: true },
    Kernel { name: "6.15, withheld", differences: WITHHELD, events: true, reap_events: true, zombie_status: true, reaped_status: false },
    Kernel { name: "6.1 without pidfds", differences: NO_PIDFD_OPEN, events: false, reap_events: false, zombie_status: true, reaped_status: false },
];

/// Runs the rest of the test once for each kernel, each time in a new process.
macro_rules! on_each_kernel {
    ($test:ident) => {
        match support::role() {
            Some(role) => KERNELS
                .iter()
                .find(|kernel| kernel.name == role)
                .expect("the name of a kernel"),
            None => {
                if !linux::seccomp_filters() {
                    return support::skip("system calls cannot be trapped");
                }
                if !linux::pidfd_reports_status() {
                    return support::skip("this kernel is older than 6.15, or polling is forced");
                }
                for kernel in &KERNELS {
                    support::assert_passed(&support::rerun(stringify!($test), kernel.name, |_| {}));
                }
                return;
            }
        }
    };
}

/// Returns the exit code, if the status is known. Panics if a signal killed the process.
fn code(exit: Exit) -> Option<i32> {
    exit.status()
        .map(|status| status.code().expect("no signal killed the process"))
}

/// Forks a child that exits with `code` once a byte is written to the returned pipe.
fn child(code: i32) -> (Forked, std::fs::File) {
    let (read, write) = linux::pipe();
    let fd = read.as_raw_fd();
    let child = linux::fork(|| {
        linux::read_byte(fd);
        code
    });
    (child, write)
}

/// Imitates `kernel` and runs a future on a new runtime.
fn block_on<F: Future>(kernel: &Kernel, future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    trap::install(kernel.differences, [None, None]);
    runtime.block_on(future)
}

#[test]
fn reports_exit_and_reap_on_each_kernel() {
    use std::io::Write;
    let kernel = on_each_kernel!(reports_exit_and_reap_on_each_kernel);
    let ((child, mut pipe_of_child), mut grandchild) = (child(7), Grandchild::spawn());
    let (mut early, mut late) = (Grandchild::spawn(), Grandchild::spawn());
    block_on(kernel, async {
        let mechanism = match kernel.events {
            true => Mechanism::PidFd,
            false => Mechanism::Polling,
        };
        let mut process = exit_of(child.id());
        assert_eq!(process.mechanism(), Some(mechanism));
        still_pending(&mut process).await;
        pipe_of_child.write_all(&[0]).unwrap();
        assert_eq!(
            code(deadline(process).await.unwrap()),
            kernel.zombie_status.then_some(7)
        );
        assert_eq!(child.reap(), 7 << 8);

        // The exit and then the reap of a grandchild.
        let status = kernel.zombie_status.then_some(8);
        let mut process = exit_of(grandchild.id());
        still_pending(&mut process).await;
        grandchild.end(8);
        assert_eq!(code(deadline(&mut process).await.unwrap()), status);
        let mut process = process.until_reaped();
        still_pending(&mut process).await;
        let mechanism = process.mechanism().unwrap();
        let has_reap_event = kernel.events && kernel.reap_events;
        assert_eq!(
            mechanism == Mechanism::PidFd,
            has_reap_event,
            "{mechanism:?}"
        );
        grandchild.reap();
        let status = status.or(kernel.reaped_status.then_some(8));
        assert_eq!(code(deadline(process).await.unwrap()), status);

        // A grandchild that is reaped before the first query.
        let process = exit_of(early.id());
        early.end(9);
        early.reap();
        assert_eq!(
            code(deadline(process).await.unwrap()),
            kernel.reaped_status.then_some(9)
        );

        // A member of a set that waits for the reap.
        let mut set = ExitSet::new();
        assert!(set.insert_exit(exit_of(late.id()).until_reaped()));
        assert!(!set.insert(late.id()).unwrap());
        still_pending(set.next_exit()).await;
        late.end(10);
        still_pending(set.next_exit()).await;
        assert!(!set.insert(late.id()).unwrap());
        assert_eq!(set.polled_len() == 0, has_reap_event);
        late.reap();
        let exit = deadline(set.next_exit()).await.unwrap().unwrap();
        let is_known = kernel.zombie_status || kernel.reaped_status;
        assert_eq!(code(exit), is_known.then_some(10));
    });
}

/// Returns how many system calls a wait makes after the exit. The reactor has reported the exit by then.
async fn calls_after_exit(process: ProcessExit, expected: Option<i32>) -> u32 {
    let made = || trap::made().iter().sum::<u32>();
    let before = made();
    let mut process = process;
    let exit = deadline(trap::armed_future(&mut process)).await.unwrap();
    assert_eq!(code(exit), expected);
    made() - before
}

#[test]
fn makes_few_calls_after_the_exit_on_each_kernel() {
    use std::io::Write;
    let kernel = on_each_kernel!(makes_few_calls_after_the_exit_on_each_kernel);
    if !kernel.events {
        return;
    }
    let ((child, mut pipe_of_child), mut grandchild) = (child(7), Grandchild::spawn());
    let mut succeeding = Grandchild::spawn();
    let until_zombie = |pid| {
        support::until("the process is a zombie", || linux::is_zombie(pid));
    };
    block_on(kernel, async {
        let mut process = exit_of(child.id());
        still_pending(&mut process).await;
        pipe_of_child.write_all(&[0]).unwrap();
        until_zombie(child.id());
        if kernel.zombie_status {
            // `waitid`.
            assert_eq!(calls_after_exit(process, Some(7)).await, 1);
        }
        for (grandchild, status) in [(&mut grandchild, 8), (&mut succeeding, 0)] {
            let mut process = exit_of(grandchild.id());
            still_pending(&mut process).await;
            grandchild.end(status);
            until_zombie(grandchild.id());
            if kernel.zombie_status {
                // The kept file.
                assert_eq!(calls_after_exit(process, Some(status.into())).await, 1);
            } else {
                // Without `waitid` for pidfds, and signals where `poll` does not report the reap.
                assert_eq!(calls_after_exit(process, None).await, 5);
            }
        }
    });
}

#[test]
fn status_of_own_child_is_not_lost_on_each_kernel() {
    let kernel = on_each_kernel!(status_of_own_child_is_not_lost_on_each_kernel);
    trap::install(kernel.differences, [None, None]);
    // Each child exits at a random moment of a query, also between its system calls.
    for _ in 0..300 {
        let child = linux::fork(|| 7);
        let mut process = ProcessExit::open(child.id()).unwrap();
        let exit = loop {
            if let Some(exit) = process.try_wait().unwrap() {
                break exit;
            }
        };
        assert_eq!(code(exit), kernel.zombie_status.then_some(7));
        assert_eq!(child.reap(), 7 << 8);
    }
}

#[test]
fn adopts_only_pidfds_on_each_kernel() {
    let kernel = on_each_kernel!(adopts_only_pidfds_on_each_kernel);
    let mut grandchild = Grandchild::spawn();
    let mut reaped = Grandchild::spawn();
    let pidfd = linux::pidfd_open(grandchild.id(), 0);
    let pidfd_of_reaped = linux::pidfd_open(reaped.id(), 0);
    reaped.end(0);
    reaped.reap();
    let directory = std::fs::File::open(format!("/proc/{}", grandchild.id())).unwrap();
    let (read, _write) = linux::pipe();
    let others = [
        OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap()),
        OwnedFd::from(std::fs::File::open("/dev/null").unwrap()),
        OwnedFd::from(directory),
        OwnedFd::from(read),
    ];
    block_on(kernel, async {
        for fd in others {
            let error = ProcessExit::try_from(fd).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let mut process = ProcessExit::try_from(pidfd).unwrap();
        assert_eq!(process.pid(), Some(grandchild.id()));
        still_pending(&mut process).await;
        grandchild.end(8);
        deadline(process).await.unwrap();
        let process = ProcessExit::try_from(pidfd_of_reaped).unwrap();
        assert_eq!(process.pid(), None);
        deadline(process).await.unwrap();
    });
}

#[test]
fn set_rejects_only_duplicates_on_each_kernel() {
    let kernel = on_each_kernel!(set_rejects_only_duplicates_on_each_kernel);
    let mut first = Grandchild::spawn();
    let second = Grandchild::spawn();
    let mut reaped = Grandchild::spawn();
    block_on(kernel, async {
        let mut set = ExitSet::new();
        let waits = [0; 3].map(|_| exit_of(reaped.id()));
        let [member, duplicate, until_reaped] = waits;
        let until_reaped = until_reaped.until_reaped();
        assert!(set.insert_exit(member));
        reaped.end(4);
        reaped.reap();
        assert!(!set.insert_exit(duplicate));
        assert!(!set.insert_exit(until_reaped));
        deadline(set.next_exit()).await.unwrap().unwrap();
        assert!(set.is_empty());

        assert!(set.insert_exit(exit_of(first.id())));
        assert!(!set.insert_exit(exit_of(first.id())));
        assert!(set.insert_exit(exit_of(second.id())));
        assert_eq!(set.len(), 2);
        first.end(3);
        deadline(set.next_exit()).await.unwrap().unwrap();
        // The first process has been yielded, but is a zombie and can be inserted again.
        assert!(set.insert(first.id()).unwrap());
        assert!(!set.insert(first.id()).unwrap());
        deadline(set.next_exit()).await.unwrap().unwrap();
        let pending = tokio::time::timeout(Duration::from_millis(50), set.next_exit()).await;
        assert!(pending.is_err());
    });
}

#[test]
fn call_that_reads_an_exit_wakes_on_each_kernel() {
    let kernel = on_each_kernel!(call_that_reads_an_exit_wakes_on_each_kernel);
    if kernel.reap_events || !kernel.events {
        // The exit leaves nothing to do until the reap.
        return;
    }
    let mut exiting = Grandchild::spawn();
    let alive = Grandchild::spawn();
    block_on(kernel, async {
        let mut set = ExitSet::new();
        set.insert_exit(exit_of(exiting.id()).until_reaped());
        set.insert(alive.id()).unwrap();
        let mut task = tokio_test::task::spawn(set);
        assert!(task.poll_next().is_pending());
        exiting.end(3);
        support::until("the grandchild is a zombie", || {
            linux::state_of(exiting.id()) == Some('Z')
        });
        // The thread that drives the reactor is busy, so this call reads the event. From now on, the
        // process must be polled until its reap.
        assert!(!task.insert(alive.id()).unwrap());
        assert!(task.is_woken());
        assert_eq!(task.polled_len(), 1);
    });
}

#[test]
fn reports_status_of_a_child_without_exit_signal() {
    use std::io::Write;
    const TEST: &str = "reports_status_of_a_child_without_exit_signal";
    if support::role().is_none() {
        if !linux::seccomp_filters() {
            return support::skip("system calls cannot be trapped");
        }
        return support::assert_passed(&support::rerun(TEST, "1", |_| {}));
    }
    let (read, mut write) = linux::pipe();
    let fd = read.as_raw_fd();
    // Fork a child that sends no signal when it exits. Only `waitpid` with __WALL can reap it.
    // SAFETY: without flags, nothing is shared and no stack is needed. The child only makes system
    // calls.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) } as libc::pid_t;
    if pid == 0 {
        linux::exit_group(i32::from(linux::read_byte(fd)));
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Without files, /proc does not show the status. But Linux before 5.17 needs /proc to be certain.
    if linux::waitid_shows_status() {
        linux::deny(libc::SYS_openat, libc::EACCES);
    }
    runtime.block_on(async {
        let mut process = exit_of(pid as u32);
        still_pending(&mut process).await;
        write.write_all(&[7]).unwrap();
        assert_eq!(code(deadline(process).await.unwrap()), Some(7));
    });
    let mut status = 0;
    // SAFETY: `status` is writable.
    let reaped = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    assert_eq!((reaped, status), (pid, 7 << 8));
}
