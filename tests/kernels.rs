//! Promise: on each older kernel the wait is as good as that kernel permits.
//!
//! What such a kernel answers otherwise than this one is put into its answers, see
//! [`support::trap`]. Only what it does of its own accord, wake at the reap for instance, stays.

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

/// A kind of kernel, what is different there, and what is known there.
struct Kernel {
    name: &'static str,
    differs: u32,
    /// Whether it has pidfds.
    events: bool,
    /// Whether a reap is an event.
    tells_the_reap: bool,
    /// Whether the status of another's zombie is known,
    zombie: bool,
    /// and that of a process that was reaped before it was looked at.
    reaped: bool,
}

#[rustfmt::skip]
const KERNELS: [Kernel; 9] = [
    Kernel { name: "5.2", differs: NO_PIDFD_OPEN | OLD_RELEASE, events: false, tells_the_reap: false, zombie: false, reaped: false },
    Kernel { name: "5.3", differs: NO_P_PIDFD | NO_PIDFS | OLD_RELEASE, events: true, tells_the_reap: false, zombie: false, reaped: false },
    Kernel { name: "5.15", differs: NO_PIDFS | OLD_RELEASE, events: true, tells_the_reap: false, zombie: false, reaped: false },
    Kernel { name: "6.1", differs: NO_PIDFS, events: true, tells_the_reap: false, zombie: true, reaped: false },
    Kernel { name: "6.9", differs: NO_GET_INFO, events: true, tells_the_reap: true, zombie: true, reaped: false },
    Kernel { name: "6.13", differs: NO_INFO_EXIT, events: true, tells_the_reap: true, zombie: true, reaped: false },
    Kernel { name: "6.15", differs: 0, events: true, tells_the_reap: true, zombie: true, reaped: true },
    Kernel { name: "6.15, withheld", differs: WITHHELD, events: true, tells_the_reap: true, zombie: true, reaped: false },
    Kernel { name: "6.1 without pidfds", differs: NO_PIDFD_OPEN, events: false, tells_the_reap: false, zombie: true, reaped: false },
];

/// Runs the rest of the test in a process of its own for each kernel.
macro_rules! on_each_kernel {
    ($test:ident) => {
        match support::role() {
            Some(role) => KERNELS
                .iter()
                .find(|kernel| kernel.name == role)
                .expect("a kernel"),
            None => {
                if !linux::seccomp_filters() {
                    return support::skip("no system call can be trapped");
                }
                if !linux::pidfd_tells_the_status() {
                    return support::skip(
                        "this kernel is an older one itself, or polling is forced",
                    );
                }
                for kernel in &KERNELS {
                    support::assert_passed(&support::rerun(stringify!($test), kernel.name, |_| {}));
                }
                return;
            }
        }
    };
}

fn code(exit: Exit) -> Option<i32> {
    exit.status()
        .map(|status| status.code().expect("no signal"))
}

/// A child without a program, which exits with this code at a byte.
fn child(code: i32) -> (Forked, std::fs::File) {
    let (read, write) = linux::pipe();
    let fd = read.as_raw_fd();
    let child = linux::fork(|| {
        linux::read_byte(fd);
        code
    });
    (child, write)
}

fn block_on<F: Future>(kernel: &Kernel, future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    trap::install(kernel.differs, [None, None]);
    runtime.block_on(future)
}

#[test]
fn an_exit_and_a_reap_are_told_on_each_kernel() {
    use std::io::Write;
    let kernel = on_each_kernel!(an_exit_and_a_reap_are_told_on_each_kernel);
    let ((child, mut tell), mut grandchild) = (child(7), Grandchild::spawn());
    let (mut early, mut late) = (Grandchild::spawn(), Grandchild::spawn());
    block_on(kernel, async {
        let source = match kernel.events {
            true => Mechanism::PidFd,
            false => Mechanism::Polling,
        };
        // Our own child: its status is always known.
        let mut exit = exit_of(child.id());
        assert_eq!(exit.mechanism(), Some(source));
        still_pending(&mut exit).await;
        tell.write_all(&[0]).unwrap();
        assert_eq!(
            code(deadline(exit).await.unwrap()),
            Some(7).filter(|_| kernel.zombie || kernel.differs & NO_P_PIDFD == 0)
        );
        assert_eq!(child.reap(), 7 << 8);

        // Another's.
        let known = kernel.zombie.then_some(8);
        let mut exit = exit_of(grandchild.id());
        still_pending(&mut exit).await;
        grandchild.end(8);
        assert_eq!(code(deadline(&mut exit).await.unwrap()), known);
        let mut exit = exit.until_reaped();
        still_pending(&mut exit).await;
        let now = exit.mechanism().unwrap();
        let reap_is_an_event = kernel.events && kernel.tells_the_reap;
        assert_eq!(now == Mechanism::PidFd, reap_is_an_event, "{now:?}");
        grandchild.reap();
        let known = known.or(kernel.reaped.then_some(8));
        assert_eq!(code(deadline(exit).await.unwrap()), known);

        // Reaped before it was looked at.
        let exit = exit_of(early.id());
        early.end(9);
        early.reap();
        assert_eq!(
            code(deadline(exit).await.unwrap()),
            kernel.reaped.then_some(9)
        );

        // In a set, until the reap.
        let mut set = ExitSet::new();
        assert!(set.insert_exit(exit_of(late.id()).until_reaped()));
        assert!(!set.insert(late.id()).unwrap());
        still_pending(set.next_exit()).await;
        late.end(10);
        still_pending(set.next_exit()).await;
        assert!(!set.insert(late.id()).unwrap());
        assert_eq!(set.polled_len() == 0, reap_is_an_event);
        late.reap();
        let exit = deadline(set.next_exit()).await.unwrap().unwrap();
        let known = kernel.zombie || kernel.reaped;
        assert_eq!(code(exit), known.then_some(10));
    });
}

#[test]
fn only_a_pidfd_is_adopted_on_each_kernel() {
    let kernel = on_each_kernel!(only_a_pidfd_is_adopted_on_each_kernel);
    let mut grandchild = Grandchild::spawn();
    let mut reaped = Grandchild::spawn();
    let pidfd = linux::pidfd_open(grandchild.id(), 0);
    let of_reaped = linux::pidfd_open(reaped.id(), 0);
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
        let mut exit = ProcessExit::try_from(pidfd).unwrap();
        assert_eq!(exit.pid(), Some(grandchild.id()));
        still_pending(&mut exit).await;
        grandchild.end(8);
        deadline(exit).await.unwrap();
        let exit = ProcessExit::try_from(of_reaped).unwrap();
        assert_eq!(exit.pid(), None);
        deadline(exit).await.unwrap();
    });
}

#[test]
fn a_pid_that_is_anothers_is_another_process_on_each_kernel() {
    let kernel = on_each_kernel!(a_pid_that_is_anothers_is_another_process_on_each_kernel);
    let mut one = Grandchild::spawn();
    let two = Grandchild::spawn();
    block_on(kernel, async {
        let mut set = ExitSet::new();
        assert!(set.insert_exit(exit_of(one.id())));
        assert!(!set.insert_exit(exit_of(one.id())));
        assert!(set.insert_exit(exit_of(two.id())));
        assert_eq!(set.len(), 2);
        one.end(3);
        deadline(set.next_exit()).await.unwrap().unwrap();
        // Yielded, but not reaped.
        assert!(set.insert(one.id()).unwrap());
        assert!(!set.insert(one.id()).unwrap());
        deadline(set.next_exit()).await.unwrap().unwrap();
        let pending = tokio::time::timeout(Duration::from_millis(50), set.next_exit()).await;
        assert!(pending.is_err());
    });
}

#[test]
fn the_status_of_a_child_that_exits_without_a_signal_is_told() {
    use std::io::Write;
    const TEST: &str = "the_status_of_a_child_that_exits_without_a_signal_is_told";
    if support::role().is_none() {
        if !linux::seccomp_filters() {
            return support::skip("no system call can be trapped");
        }
        return support::assert_passed(&support::rerun(TEST, "1", |_| {}));
    }
    let (read, mut write) = linux::pipe();
    let fd = read.as_raw_fd();
    // As `fork`, but no signal goes to the parent: only __WALL waits for such a child.
    // SAFETY: no flags, so nothing is shared, and no stack is needed. The child makes system calls.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) } as libc::pid_t;
    if pid == 0 {
        linux::exit_group(i32::from(linux::read_byte(fd)));
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Where /proc does not tell.
    trap::install(OLD_RELEASE, [None, None]);
    runtime.block_on(async {
        let mut exit = exit_of(pid as u32);
        still_pending(&mut exit).await;
        write.write_all(&[7]).unwrap();
        assert_eq!(code(deadline(exit).await.unwrap()), Some(7));
    });
    let mut status = 0;
    // SAFETY: `status` is writable.
    let reaped = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    assert_eq!((reaped, status), (pid, 7 << 8));
}
