//! What all Unix systems do with a child of ours.

use std::process::Child;

use super::syscalls::waitid;
use crate::error::OpenError;
use crate::sys::{Opened, Process};

/// Opens a child that has not been waited for.
pub(crate) fn open_child(child: &Child) -> Result<Opened, OpenError> {
    let opened = Process::open(child.id());
    // In this order: if the pid still is our child's, it was when it was opened.
    match waitid(libc::P_PID, child.id() as libc::id_t) {
        Err(libc::ECHILD) => Err(OpenError::Collected),
        _ => opened,
    }
}
