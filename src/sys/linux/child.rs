//! The exit status of our own children.
//!
//! Before Linux 5.17, `waitid` with WNOWAIT returns the exit code of the child's leader thread. Usually,
//! it equals the code of the process. It is another one if the leader thread exited by itself, before
//! another thread ended the process. It also lacks the core dump flag if another thread dumped core.
//!
//! `wait_task_zombie` of those kernels returns the leader thread's code to the parent too, unless the flag
//! `SIGNAL_GROUP_EXIT` of the process is set. No file shows the flag, but a pair of signals does, see
//! [`is_no_group_exit`].

use std::os::fd::BorrowedFd;

use super::procfs::{self, Pending, Stat};
use super::{Status, pidfd, syscalls};

/// A fatal signal, or `exit_group` in another thread, has ended the leader thread.
const PF_SIGNALED: u32 = 0x400;
/// The leader thread has dumped core, or has tried to.
const PF_DUMPCORE: u32 = 0x200;

/// Signals that dump core: `SIG_KERNEL_COREDUMP_MASK` of include/linux/signal.h.
const DUMPING: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// A child of ours that has exited and has not been reaped.
pub(super) struct Zombie {
    /// `None` if the kernel may have reported the status of the leader thread only.
    pub(super) status: Option<Status>,
}

/// Returns whether our own child has exited, and its exit status, as [`syscalls::try_child_status`] does.
///
/// `fd` is a pidfd of the child, or its directory in `/proc`. `proc_pid` returns the pid in the pid namespace
/// of `/proc`. Before Linux 5.17, the status is the child's only if the child has not been reaped after this
/// call.
pub(super) fn zombie(
    kind: libc::idtype_t,
    id: libc::id_t,
    fd: Option<BorrowedFd<'_>>,
    proc_pid: impl FnOnce() -> Option<u32>,
) -> Result<Option<Zombie>, i32> {
    let Some(status) = syscalls::try_child_status(kind, id)? else {
        return Ok(None);
    };
    let is_certain = procfs::has_group_exit_code()
        || proc_pid().is_some_and(|pid| is_status_of_process(status, pid, fd));
    let status = is_certain.then_some(status);
    Ok(Some(Zombie { status }))
}

/// Whether the status of a zombie's leader thread is certainly that of the process.
fn is_status_of_process(status: Status, pid: u32, fd: Option<BorrowedFd<'_>>) -> bool {
    let Status(code) = status;
    let (signal, has_dumped) = (code & 0x7f, code & 0x80 != 0);
    let evidence = match signal {
        0 => PF_SIGNALED,
        _ if DUMPING.contains(&signal) && !has_dumped => PF_DUMPCORE,
        // The leader thread dies of a signal only together with its process.
        _ => return true,
    };
    let has_evidence = Stat::read(pid).is_some_and(|stat| stat.flags & evidence != 0);
    // `execve` in another thread also ends the leader thread, with code 0. A signal that kills the process
    // during `execve` stays pending for the leader thread (`complete_signal`).
    let is_killed = || Pending::read(pid).is_none_or(|pending| pending.leader_has(libc::SIGKILL));
    if has_evidence && (code != 0 || !is_killed()) {
        return true;
    }
    fd.is_some_and(|fd| is_no_group_exit(pid, fd))
}

/// Whether the flag `SIGNAL_GROUP_EXIT` of a zombie is certainly not set. The flag is set if a fatal signal or
/// `exit_group` has ended several threads.
///
/// SIGCONT removes a pending SIGSTOP, but not from a process that has the flag (`prepare_signal`). Nothing else
/// removes the SIGSTOP, because a zombie has no thread that could receive a signal. For the same reason neither
/// signal has any effect. `zombie` is a pidfd or a directory in `/proc`, so a later process with the same pid
/// never receives the signals.
fn is_no_group_exit(pid: u32, zombie: BorrowedFd<'_>) -> bool {
    let sends = |signal| pidfd::send_signal(zombie, signal).is_ok();
    let is_stop_pending = || Some(Pending::read(pid)?.process_has(libc::SIGSTOP));
    // Another wait for this process may send the same signals at the same time. So try again if its SIGCONT
    // has removed the SIGSTOP of this call, or if its SIGSTOP is pending after the SIGCONT of this call.
    const ROUNDS: u32 = 4;
    (0..ROUNDS).any(|_| {
        // The init process of a pid namespace may ignore the SIGSTOP, which is then never pending.
        sends(libc::SIGSTOP)
            && is_stop_pending() == Some(true)
            && sends(libc::SIGCONT)
            && is_stop_pending() == Some(false)
    })
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use super::super::open_pidfd;
    use super::*;

    fn is_no_group_exit_of(child: &Child) -> bool {
        let pidfd = open_pidfd(child.id() as libc::pid_t).unwrap();
        while syscalls::child_status(libc::P_PID, child.id()).is_none() {
            std::thread::yield_now();
        }
        is_no_group_exit(child.id(), pidfd.as_fd())
    }

    #[test]
    fn recognizes_whether_the_flag_is_set() {
        if procfs::has_group_exit_code() {
            println!("skipped: Linux 5.17 and later set the flag at every exit");
            return;
        }
        let mut exits = Command::new("true").spawn().unwrap();
        let mut killed = Command::new("sleep").arg("100").spawn().unwrap();
        killed.kill().unwrap();
        let results = [&exits, &killed].map(is_no_group_exit_of);
        // The parent reaps the children as usual.
        assert!(exits.wait().unwrap().success());
        assert!(!killed.wait().unwrap().success());
        assert_eq!(results, [true, false]);
    }
}
