//! Opening a child that std has spawned.

use std::process::Child;

use super::syscalls::waitid;
use crate::error::OpenError;
use crate::sys::{Opened, Process};

pub(crate) fn open_child(child: &Child) -> Result<Opened<Process>, OpenError> {
    let opened = Process::open(child.id());
    // Check the child after it has been opened: if the pid is still the child's, it was then too.
    match waitid(libc::P_PID, child.id() as libc::id_t) {
        Err(libc::ECHILD) => Err(OpenError::Collected),
        _ => opened,
    }
}
