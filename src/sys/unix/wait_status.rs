//! The wait status of `wait(2)`, which all Unix systems encode alike.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A wait status, as `WIFEXITED` and `WIFSIGNALED` decode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Status(pub(crate) i32);

impl Status {
    pub(crate) fn exit_status(self) -> ExitStatus {
        ExitStatus::from_raw(self.0)
    }

    /// Encodes the `si_code` and `si_status` of `waitid(2)`.
    ///
    /// `None` for a code that is not an exit (stopped, continued, trapped).
    pub(crate) fn from_siginfo(code: i32, status: i32) -> Option<Status> {
        match code {
            libc::CLD_EXITED => Some(Status((status & 0xff) << 8)),
            libc::CLD_KILLED => Some(Status(status & 0x7f)),
            libc::CLD_DUMPED => Some(Status((status & 0x7f) | 0x80)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_a_siginfo_as_wait_does() {
        for (code, status, wait_status) in [
            (libc::CLD_EXITED, 0, 0),
            (libc::CLD_EXITED, 7, 0x700),
            (libc::CLD_EXITED, 255, 0xff00),
            (libc::CLD_KILLED, libc::SIGKILL, 0x9),
            (libc::CLD_DUMPED, libc::SIGABRT, 0x86),
        ] {
            assert_eq!(
                Status::from_siginfo(code, status),
                Some(Status(wait_status))
            );
        }
        assert_eq!(Status::from_siginfo(libc::CLD_STOPPED, libc::SIGSTOP), None);
        assert_eq!(
            Status::from_siginfo(libc::CLD_CONTINUED, libc::SIGCONT),
            None
        );
    }

    #[test]
    fn converts_to_the_exit_status_of_std() {
        assert_eq!(Status(0x700).exit_status().code(), Some(7));
        assert_eq!(Status(0x9).exit_status().signal(), Some(9));
        assert!(Status(0x86).exit_status().core_dumped());
    }
}
