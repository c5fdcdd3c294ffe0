//! The exit status of our own children.
//!
//! Before Linux 5.17, `waitid` with WNOWAIT returns the exit code of the child's leader thread. Usually,
//! it equals the code of the process. It is another one if the leader thread exited by itself, before
//! another thread ended the process. It also lacks the core dump flag if another thread dumped core.

use super::procfs::{self, FlagsAndFaults};
use super::{Status, syscalls};

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

/// Returns whether our own child has exited, and its exit status, as [`syscalls::exited_child`] does.
///
/// `proc_pid` returns the pid in the pid namespace of `/proc`. Before Linux 5.17, the status is the
/// child's only if the child has not been reaped after this call.
pub(super) fn zombie(
    kind: libc::idtype_t,
    id: libc::id_t,
    proc_pid: impl FnOnce() -> Option<u32>,
) -> Option<Zombie> {
    let (pid, status) = syscalls::exited_child(kind, id)?;
    let is_of_process = || is_status_of_process(status, pid, proc_pid()).unwrap_or(false);
    let is_certain = procfs::has_group_exit_code() || is_of_process();
    let status = is_certain.then_some(status);
    Some(Zombie { status })
}

/// Whether the status of the leader thread is that of the process. `None` if `/proc` cannot be read.
fn is_status_of_process(
    Status(status): Status,
    pid: libc::pid_t,
    proc_pid: Option<u32>,
) -> Option<bool> {
    let signal = status & 0x7f;
    let has_dumped = status & 0x80 != 0;
    let evidence = match signal {
        0 => PF_SIGNALED,
        _ if DUMPING.contains(&signal) && !has_dumped => PF_DUMPCORE,
        // The leader thread dies of a signal only together with its process.
        _ => return Some(true),
    };
    let proc_pid = proc_pid?;
    let process = FlagsAndFaults::of_process(proc_pid)?;
    Some(process.flags & evidence != 0 || had_one_thread(pid, proc_pid, process.faults))
}

/// Whether a zombie has never had a second thread. `faults` is the number of the process's page faults.
///
/// The numbers of the process include all threads that it has had. A thread's CPU time counts from its first
/// tick or switch. So a thread is missed if it ran for less and caused no page fault.
fn had_one_thread(pid: libc::pid_t, proc_pid: u32, faults: u64) -> bool {
    /// The last bits of the CPU clock of a process: `CPUCLOCK_SCHED` of linux/posix-timers.h.
    const CPUCLOCK_SCHED: libc::clockid_t = 2;
    let clock = !pid << 3 | CPUCLOCK_SCHED;
    if FlagsAndFaults::of_leader_thread(proc_pid).is_none_or(|leader| leader.faults != faults) {
        return false;
    }
    // The leader thread may be in its last steps, so read until both times are of the same moment.
    const MAX_ROUNDS: u32 = 16;
    for _ in 0..MAX_ROUNDS {
        let before = syscalls::try_clock(clock);
        let leader = procfs::leader_cpu_time(proc_pid);
        let after = syscalls::try_clock(clock);
        if before.is_none() || leader.is_none() || before == after {
            return leader.is_some() && leader == before;
        }
    }
    false
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::process::{self, Command};

    use super::*;

    fn had_one_thread_by_pid(pid: u32) -> bool {
        let FlagsAndFaults { faults, .. } = FlagsAndFaults::of_process(pid).unwrap();
        had_one_thread(pid as libc::pid_t, pid, faults)
    }

    #[test]
    fn recognizes_a_process_with_one_thread() {
        if std::env::var_os("TEST_RUNNER").is_some() {
            println!("skipped: an emulator has threads of its own");
            return;
        }
        let mut child = Command::new("true").spawn().unwrap();
        while syscalls::exited_child(libc::P_PID, child.id()).is_none() {
            std::thread::yield_now();
        }
        assert!(had_one_thread_by_pid(child.id()));
        assert!(child.wait().unwrap().success());
        // This process has a thread for the test.
        assert!(!had_one_thread_by_pid(process::id()));
    }
}
