//! Linux and Android: a pidfd in tokio's reactor.

mod api;
mod pidfd;
mod procfs;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use self::pidfd::Liveness;
use self::procfs::Task;
use super::State;
use super::reactor::Watched;
pub(crate) use super::wait_status::Status;
use crate::Mechanism;
use crate::error::OpenError;

/// A process, held by a pidfd: whatever becomes of its pid, the pidfd never means another one.
pub(crate) struct Process {
    pidfd: Watched,
}

impl Process {
    pub(crate) const MECHANISM: Mechanism = Mechanism::PidFd;

    pub(crate) fn open(pid: u32) -> Result<Process, OpenError> {
        let raw_pid = match libc::pid_t::try_from(pid) {
            Ok(raw_pid) if raw_pid > 0 => raw_pid,
            _ => return Err(OpenError::OutOfRange),
        };
        // `pidfd_open` answers ENOENT for a thread that leads no process (EINVAL before Linux
        // 6.16), but EINVAL also for a process that is being reaped at this moment (psutil#2715,
        // systemd#36982), so only a second look tells. If by then a process has this pid, the
        // number was recycled or its thread has become the leader by `execve`: ask once more. Each
        // round needs another such coincidence.
        const ROUNDS: u32 = 16;
        for _ in 0..ROUNDS {
            match pidfd::open(raw_pid) {
                Ok(fd) => {
                    return Ok(Process {
                        pidfd: Watched::new(fd),
                    });
                }
                Err(libc::ESRCH) => return Err(OpenError::NoSuchProcess),
                Err(libc::EINVAL | libc::ENOENT) => {}
                Err(errno) => return Err(OpenError::Os(errno)),
            }
            match procfs::task(raw_pid) {
                Task::None => return Err(OpenError::NoSuchProcess),
                Task::Thread { process } => return Err(OpenError::Thread { process }),
                Task::Process => {}
            }
        }
        Err(OpenError::Os(libc::EINVAL))
    }

    /// Adopts a pidfd, and finds out the pid: 0 if the process has none here, as it has been
    /// reaped or lives outside this pid namespace.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other descriptor.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Process, u32)> {
        pidfd::check_kind(fd.as_fd())?;
        let pid = pidfd::pid(fd.as_fd())
            .or_else(|| procfs::pid_of_pidfd(fd.as_fd()))
            .unwrap_or(0);
        Ok((
            Process {
                pidfd: Watched::new(fd),
            },
            pid,
        ))
    }

    pub(crate) fn state(&self, _pid: u32) -> io::Result<State> {
        look(self.pidfd.as_fd())
    }

    pub(crate) fn poll_event(
        &mut self,
        _pid: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<State>> {
        self.pidfd.poll_readable(cx, look)
    }

    pub(crate) fn disarm(&mut self) {
        self.pidfd.disarm();
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Looks at the process behind a pidfd, and reads its exit status where the kernel tells it to us.
///
/// The order is what makes the status certain while the process may be reaped at any moment:
///
/// 1. Our own child's status comes from `waitid`, which also tells in one call that it has exited.
/// 2. Once reaped, the pidfd itself tells the status, for anybody's process (Linux 6.15).
/// 3. A zombie's status stands in `/proc`, but is that process's only if the zombie is still
///    there after the read: only then its pid had not been recycled.
fn look(pidfd: BorrowedFd<'_>) -> io::Result<State> {
    if let Some(status) = pidfd::child_status(pidfd) {
        return Ok(State::Exited {
            status: Some(status),
            reaped: false,
        });
    }
    match pidfd::liveness(pidfd)? {
        Liveness::Running => return Ok(State::Running),
        Liveness::Reaped => return Ok(reaped(pidfd)),
        Liveness::Zombie => {}
    }
    let status = procfs::zombie_status(pidfd);
    match pidfd::liveness(pidfd)? {
        Liveness::Reaped => Ok(reaped(pidfd)),
        _ => Ok(State::Exited {
            status,
            reaped: false,
        }),
    }
}

fn reaped(pidfd: BorrowedFd<'_>) -> State {
    State::Exited {
        status: pidfd::reaped_status(pidfd),
        reaped: true,
    }
}
