//! The members of a process group, read from the process table.
//!
//! # Safety
//!
//! Each block is one system call. The calls take integers, and pointers to locals of the type that the
//! call expects.

use std::io;

use super::proc_info::entry;
use super::semantics::Presence;
use crate::sys::{Group, GroupMembers};

/// A list of the processes in a group.
pub(crate) struct GroupList {
    group: Group,
    /// The number of complete passes.
    passes: u32,
    pub(crate) members: GroupMembers,
}

impl GroupList {
    pub(crate) fn start(group: Group) -> io::Result<GroupList> {
        Ok(GroupList {
            group,
            passes: 0,
            members: GroupMembers::default(),
        })
    }

    /// Starts the next pass, after a pass without a living member. Returns `false` if no other pass is needed.
    pub(crate) fn next_pass(&mut self) -> io::Result<bool> {
        const PASSES: u32 = 4;
        self.passes += 1;
        self.members = GroupMembers::default();
        Ok(self.passes < PASSES)
    }

    /// Reads all processes of the group. Returns that the pass is complete.
    pub(crate) fn read(&mut self, _max: usize) -> io::Result<bool> {
        for pid in pids(self.group)? {
            match entry(pid).presence {
                Presence::Gone => {}
                Presence::Zombie => self.members.has_zombies = true,
                Presence::Running | Presence::Exiting | Presence::Hidden => {
                    self.members.alive.push(pid.unsigned_abs());
                }
            }
        }
        Ok(true)
    }
}

/// Returns the pids of a group: `PROC_PGRP_ONLY` of bsd/sys/proc_info.h.
#[cfg(all(target_os = "macos", not(all(test, tokio_process_exit_fake_kqueue))))]
fn pids(group: Group) -> io::Result<Vec<libc::pid_t>> {
    const PROC_PGRP_ONLY: u32 = 2;
    // Room for processes that start in between.
    let mut room = 64;
    loop {
        let mut pids = vec![0; room];
        let size = size_of_val(&*pids) as libc::c_int;
        let (buffer, kind) = (pids.as_mut_ptr().cast(), PROC_PGRP_ONLY);
        // SAFETY: `pids` is writable for `size` bytes.
        let written = unsafe { libc::proc_listpids(kind, group.id(), buffer, size) };
        let count = match usize::try_from(written) {
            Ok(written) if written > 0 => written / size_of::<libc::pid_t>(),
            _ => return Err(io::Error::last_os_error()),
        };
        if count < room {
            pids.truncate(count);
            pids.retain(|&pid| pid > 0);
            return Ok(pids);
        }
        room *= 2;
    }
}

/// Returns the pids of a group by [sysctl(3)](https://man.freebsd.org/sysctl/3), `kern.proc.pgrp`.
#[cfg(not(any(target_vendor = "apple", all(test, tokio_process_exit_fake_kqueue))))]
fn pids(group: Group) -> io::Result<Vec<libc::pid_t>> {
    use std::mem::MaybeUninit;
    use std::ptr;

    #[cfg(not(target_os = "netbsd"))]
    type Info = libc::kinfo_proc;
    #[cfg(target_os = "netbsd")]
    type Info = libc::kinfo_proc2;

    let pgid = group.id() as libc::c_int;
    let mut room = 64;
    loop {
        #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PGRP, pgid];
        #[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
        let mib = {
            #[cfg(target_os = "netbsd")]
            const TABLE: libc::c_int = libc::KERN_PROC2;
            #[cfg(target_os = "openbsd")]
            const TABLE: libc::c_int = libc::KERN_PROC;
            let (by, size) = (libc::KERN_PROC_PGRP, size_of::<Info>() as libc::c_int);
            let room = room as libc::c_int;
            [libc::CTL_KERN, TABLE, by, pgid, size, room]
        };
        let mut infos: Vec<MaybeUninit<Info>> = Vec::with_capacity(room);
        infos.resize_with(room, MaybeUninit::zeroed);
        let mut size = size_of_val(&*infos);
        let (name, count) = (mib.as_ptr(), mib.len() as libc::c_uint);
        let (buffer, none) = (infos.as_mut_ptr().cast(), ptr::null_mut());
        // SAFETY: `mib` is `count` integers, `infos` is writable for `size` bytes, and no value is set.
        let result = unsafe { libc::sysctl(name, count, buffer, &raw mut size, none, 0) };
        if result < 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOMEM) => {
                    room *= 2;
                    continue;
                }
                Some(libc::ESRCH) => return Ok(Vec::new()),
                _ => return Err(error),
            }
        }
        let count = size / size_of::<Info>();
        if count == room {
            room *= 2;
            continue;
        }
        let pid_of = |info: &MaybeUninit<Info>| {
            let info = info.as_ptr();
            #[cfg(target_os = "freebsd")]
            // SAFETY: the field is an integer that the kernel has written.
            let pid = unsafe { (*info).ki_pid };
            #[cfg(target_os = "dragonfly")]
            // SAFETY: the field is an integer that the kernel has written.
            let pid = unsafe { (*info).kp_pid };
            #[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
            // SAFETY: the field is an integer that the kernel has written.
            let pid = unsafe { (*info).p_pid };
            pid
        };
        let pids = infos[..count].iter().map(pid_of);
        return Ok(pids.filter(|&pid| pid > 0).collect());
    }
}

/// iOS does not show processes to apps.
#[cfg(any(
    all(target_vendor = "apple", not(target_os = "macos")),
    all(test, tokio_process_exit_fake_kqueue)
))]
fn pids(_group: Group) -> io::Result<Vec<libc::pid_t>> {
    Err(io::ErrorKind::Unsupported.into())
}
