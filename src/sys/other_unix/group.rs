//! The members of a process group, which POSIX cannot list.

use std::io;

use crate::sys::{Group, GroupMembers};

/// A list of the processes in a group. No value of this type exists.
pub(crate) struct GroupList {
    pub(crate) members: GroupMembers,
    never: std::convert::Infallible,
}

impl GroupList {
    pub(crate) fn start(_group: Group) -> io::Result<GroupList> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn next_pass(&mut self) -> io::Result<bool> {
        match self.never {}
    }

    pub(crate) fn read(&mut self, _max: usize) -> io::Result<bool> {
        match self.never {}
    }
}
