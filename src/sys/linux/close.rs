//! Closing many descriptors.
//!
//! # Safety
//!
//! Each block is one system call, or closes one descriptor.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Closes descriptors. Takes one system call for each run of consecutive numbers.
pub(super) fn close_all(fds: impl Iterator<Item = OwnedFd>) {
    // Before Linux 5.9, one system call is wasted for each run. So close short runs one by one.
    const MIN_RUN: usize = 4;
    let mut fds: Vec<RawFd> = fds.map(IntoRawFd::into_raw_fd).collect();
    fds.sort_unstable();
    for run in fds.chunk_by(|fd, next| fd + 1 == *next) {
        let is_closed = run.len() >= MIN_RUN && {
            // SAFETY: the descriptors were owned by `fds`.
            unsafe { close_range(run[0], run[run.len() - 1]) }
        };
        if !is_closed {
            for &fd in run {
                // SAFETY: the descriptor was owned by `fds`, and has not been closed.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
}

/// Closes all descriptors from `first` to `last`. Returns `false` if the system refuses the call, and then
/// closes none.
///
/// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html), Linux 5.9.
///
/// # Safety
///
/// The caller must own all descriptors with these numbers.
#[cfg(not(target_os = "android"))]
unsafe fn close_range(first: RawFd, last: RawFd) -> bool {
    let flags: libc::c_uint = 0;
    // SAFETY: takes integers. The caller owns the descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) == 0 }
}

/// The seccomp filter of apps on older Android answers an unknown system call with SIGSYS.
#[cfg(target_os = "android")]
unsafe fn close_range(_: RawFd, _: RawFd) -> bool {
    false
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: takes integers.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    #[test]
    fn closes_runs_and_no_descriptor_between() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let duplicate = |number: RawFd| {
            // SAFETY: takes integers.
            let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
            assert_eq!(fd, number);
            // SAFETY: the system call has just returned this descriptor.
            unsafe { OwnedFd::from_raw_fd(fd) }
        };
        // No other test has descriptors with such numbers.
        let [owned, kept] = [
            [600, 601, 602, 603, 605, 607, 608],
            [599, 604, 606, 609, 610, 611, 612],
        ];
        let kept = kept.map(duplicate);
        let owned = owned.map(duplicate);
        let numbers = owned.each_ref().map(AsRawFd::as_raw_fd);
        close_all(owned.into_iter().rev());
        assert!(numbers.iter().all(|&fd| !is_open(fd)));
        assert!(kept.iter().all(|fd| is_open(fd.as_raw_fd())));
    }
}
