//! The file `/proc/<pid>/stat` of one process, held open.
//!
//! The kernel reads the file by the process, not by the number, and returns ESRCH after the reap
//! (`proc_single_show` in fs/proc/base.c). So the content is certainly this process's, even after the
//! pid has been recycled, in a forked child, and below a later mount. After the exit, one read returns
//! the status, without a check before or after it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::pidfd::{self, Liveness};
use super::procfs::{self, Buffer, Stat};
use super::{State, fd_limit, syscalls, zombie_state};

pub(super) struct OpenStat(File);

impl OpenStat {
    /// Queries the process before a wait, and opens its file unless the wait does not need it.
    pub(super) fn open(pidfd: BorrowedFd<'_>) -> io::Result<(Liveness, Option<OpenStat>)> {
        if !procfs::has_group_exit_code() {
            return Ok((pidfd::liveness(pidfd)?, None));
        }
        // `waitid` returns the status of our own child, so query a child by `waitid` only. A zombie that
        // another process traces is shown as running: the reactor then reports the exit.
        match syscalls::try_child_status(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t) {
            Ok(Some(_)) => return Ok((Liveness::Zombie, None)),
            Ok(None) => return Ok((Liveness::Running, None)),
            Err(_) => {}
        }
        let file = open_file(pidfd);
        // Check after the opening: the file is this process's if the process still has the pid.
        let liveness = pidfd::liveness(pidfd)?;
        let file = file.filter(|_| liveness != Liveness::Reaped);
        Ok((liveness, file.map(OpenStat)))
    }

    /// Returns the state if the process has exited and the file shows its status to us.
    pub(super) fn exited_state(&self) -> Option<State> {
        let mut buffer: Buffer = [0; 4096];
        let length = self.0.read_at(&mut buffer, 0).ok()?;
        let status = Stat::parse(&buffer[..length])?.exit_status(|| false)?;
        Some(zombie_state(Some(status)))
    }
}

/// Opens the file, unless more than half of the descriptors are in use: pidfds need the others.
fn open_file(pidfd: BorrowedFd<'_>) -> Option<File> {
    // This is the pid in `/proc`, which may belong to another pid namespace than ours.
    let pid = procfs::pid_of_pidfd(pidfd)?;
    let file = File::open(format!("/proc/{pid}/stat")).ok()?;
    (!fd_limit::is_in_upper_half(file.as_fd())).then_some(file)
}
