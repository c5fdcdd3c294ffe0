//! Opening a child that std has spawned.

use std::process::Child;

use super::syscalls::waitid;
use crate::error::OpenError;
use crate::sys::{Opened, Process};

pub(crate) fn open_child(child: &Child) -> Result<Opened<Process>, OpenError> {
    let opened = Process::open(child.id());
    // Open before the check: a pid that is the child's at the check was the child's at the opening.
    match waitid(libc::P_PID, child.id() as libc::id_t) {
        Err(libc::ECHILD) => Err(OpenError::ChildReaped),
        _ => opened,
    }
}
