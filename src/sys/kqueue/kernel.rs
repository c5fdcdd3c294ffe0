//! The system calls and constants of this backend.
//!
//! The backend makes system calls only through this module and [`proc_info`](super::proc_info). So the
//! tests of `fake` can run the backend on another system, over a model of the kernel.

use super::semantics::System;

#[cfg(not(all(test, tokio_process_exit_fake_kqueue)))]
mod calls {
    pub(crate) use libc::{EV_ADD, EV_DELETE, EV_ONESHOT, EVFILT_PROC, NOTE_EXIT, kevent, kqueue};

    pub(crate) use crate::sys::unix::syscalls::{child_status, is_child, send_signal, signal_0};
}

#[cfg(all(test, tokio_process_exit_fake_kqueue))]
use super::fake::calls;

pub(super) use self::calls::*;

/// Returns the kernel that is running.
pub(super) fn system() -> System {
    #[cfg(all(test, tokio_process_exit_fake_kqueue))]
    return super::fake::system();
    #[cfg(target_vendor = "apple")]
    return System::Xnu;
    #[cfg(target_os = "freebsd")]
    return System::FreeBsd;
    #[cfg(target_os = "netbsd")]
    return System::NetBsd;
    #[cfg(target_os = "openbsd")]
    return System::OpenBsd;
    #[cfg(target_os = "dragonfly")]
    return System::DragonFly;
}
