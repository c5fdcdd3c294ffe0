//! The members of a process group, which POSIX cannot list.

use std::io;

use crate::sys::{Group, GroupMembers};

/// A list of the processes in a group. No value of this type exists.
pub(crate) struct GroupList {
    pub(crate) members: GroupMembers,
    never: std::convert::Infallible,
}

impl GroupList {
    pub(crate) const PASSES: u32 = 1;

    pub(crate) fn start(_group: Group) -> io::Result<GroupList> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn restart(&mut self) -> io::Result<()> {
        match self.never {}
    }

    pub(crate) fn read(&mut self, _max: usize) -> io::Result<bool> {
        match self.never {}
    }
}
