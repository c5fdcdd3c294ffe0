//! What the Unix backends have in common.

#[allow(dead_code, reason = "not every Unix has a descriptor to register")]
pub(super) mod async_fd;
pub(super) mod child;
pub(super) mod group;
pub(super) mod syscalls;
pub(super) mod wait_status;
