//! The entry of a process in the process table.
//!
//! # Safety
//!
//! Each block is one system call, or a read of what it has written. The calls take integers, and
//! pointers to locals of the type that the call expects.

use std::io;

use super::semantics::{self, Presence};
use crate::identity::IdentityKey;
use crate::sys::unix::syscalls::signal_0;

pub(crate) const KEY_ROUNDING: u64 = system::ROUNDING as u64;

/// Returns the identity key of the process that has the pid, if the system shows it.
pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
    system::identity_key(pid)
}

pub(crate) fn boot_id() -> io::Result<Option<String>> {
    system::boot_id()
}

/// A value that distinguishes a process from later processes with the same pid.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartId(i64);

impl StartId {
    pub(super) fn is_same(self, other: StartId) -> bool {
        semantics::is_same_start(self.0, other.0, system::ROUNDING)
    }
}

/// Returns the presence of the process that has the pid.
pub(super) fn presence_of(pid: libc::pid_t) -> Presence {
    presence_with(pid, || system::info(pid).map(|info| info.presence))
}

/// Returns the presence of the process that has the pid, and its id if the system shows that.
pub(super) fn read(pid: libc::pid_t) -> (Presence, Option<StartId>) {
    let mut start_id = None;
    let presence = presence_with(pid, || {
        let (presence, id) = system::read(pid)?;
        start_id = id;
        Some(presence)
    });
    (presence, start_id)
}

fn presence_with(pid: libc::pid_t, info: impl FnOnce() -> Option<Presence>) -> Presence {
    // Check the existence before the entry: where zombies have no entry, a process that existed and has
    // no entry afterwards has exited.
    match signal_0(pid) {
        Err(libc::ESRCH) => Presence::Gone,
        signal_0 => info().unwrap_or_else(|| {
            semantics::hidden_or_zombie(system::HIDES_ZOMBIES, signal_0.is_ok())
        }),
    }
}

/// Reads the entry by [sysctl(3)](https://man.freebsd.org/sysctl/3), `kern.proc`.
#[cfg(not(target_vendor = "apple"))]
mod system {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::super::semantics;
    use super::{IdentityKey, Presence, StartId};
    use crate::identity::KeyKind;

    pub(super) struct Info {
        pub(super) presence: Presence,
        /// The start time in microseconds of some clock, if the system shows it.
        start: Option<i64>,
    }

    /// Whether zombies have no entry. Besides, BSDs can hide other users' processes: FreeBSD by
    /// `security.bsd.see_other_uids`, NetBSD by `security.curtain`.
    pub(super) const HIDES_ZOMBIES: bool = cfg!(target_os = "dragonfly");

    /// OpenBSD adds two times in nanoseconds and rounds the sum to microseconds.
    pub(super) const ROUNDING: i64 = if cfg!(target_os = "openbsd") { 1 } else { 0 };

    pub(super) fn read(pid: libc::pid_t) -> Option<(Presence, Option<StartId>)> {
        // FreeBSD and OpenBSD store the time since boot and add the time of the boot, which changes
        // whenever the clock is set. So use the difference to this process's start. Read that start before
        // and after: the clock may be set in between.
        let this = std::process::id() as libc::pid_t;
        let start_of_this = || info(this).and_then(|info| info.start);
        let before = start_of_this();
        let info = info(pid)?;
        let start_id = match (before, info.start, start_of_this()) {
            (Some(before), Some(start), Some(after)) if before == after => {
                Some(StartId(start.wrapping_sub(before)))
            }
            _ => None,
        };
        Some((info.presence, start_id))
    }

    pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
        // The key outlives this process, so use the time since boot, not since our start as in `read`.
        let time_of_boot = || {
            if cfg!(any(target_os = "freebsd", target_os = "openbsd")) {
                time_of_boot()
            } else {
                Some(0)
            }
        };
        let before = time_of_boot()?;
        let start = info(pid)?.start?;
        let is_settled = time_of_boot()? == before;
        let value = u64::try_from(start.checked_sub(before)?).ok()?;
        let kind = KeyKind::Start;
        is_settled.then_some(IdentityKey { kind, value })
    }

    fn time_of_boot() -> Option<i64> {
        let time = sysctl::<libc::timeval>(&[libc::CTL_KERN, libc::KERN_BOOTTIME])?;
        micros(time.tv_sec as _, time.tv_usec as _)
    }

    pub(super) fn boot_id() -> io::Result<Option<String>> {
        Ok(None)
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "freebsd")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        let is_exiting = info.ki_flag & libc::c_long::from(libc::P_WEXIT) != 0;
        Some(Info {
            presence: semantics::presence_by_flags(info.ki_stat == libc::SZOMB, is_exiting),
            start: micros(info.ki_start.tv_sec as _, info.ki_start.tv_usec as _),
        })
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "netbsd")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        let size = size_of::<libc::kinfo_proc2>() as libc::c_int;
        let (by, count) = (libc::KERN_PROC_PID, 1);
        let mib = [libc::CTL_KERN, libc::KERN_PROC2, by, pid, size, count];
        let info = sysctl::<libc::kinfo_proc2>(&mib)?;
        Some(Info {
            presence: semantics::presence_on_netbsd(info.p_realstat, info.p_realflag),
            // The entry of a zombie has no start time, nor has that of a process during `execve`.
            start: match info.p_uvalid {
                0 => None,
                _ => micros(info.p_ustart_sec.into(), info.p_ustart_usec.into()),
            },
        })
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "openbsd")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        let size = size_of::<libc::kinfo_proc>() as libc::c_int;
        let (by, count) = (libc::KERN_PROC_PID, 1);
        let mib = [libc::CTL_KERN, libc::KERN_PROC, by, pid, size, count];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        Some(Info {
            presence: semantics::presence_on_openbsd(info.p_psflags),
            // The entry of a zombie has no start time.
            start: match info.p_uvalid {
                0 => None,
                _ => micros(info.p_ustart_sec as _, info.p_ustart_usec.into()),
            },
        })
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "dragonfly")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        const P_WEXIT: libc::c_int = 0x2000; // sys/proc.h
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
        let info = sysctl::<MaybeUninit<libc::kinfo_proc>>(&mib)?;
        // Do not read the whole struct: `kp_stat` is an enum in the libc crate, which may lack values.
        let info = info.as_ptr();
        // SAFETY: the field is an integer that the kernel has written.
        let flags = unsafe { (*info).kp_flags };
        // SAFETY: the fields are integers that the kernel has written.
        let start = unsafe { (*info).kp_start };
        Some(Info {
            presence: semantics::presence_by_flags(false, flags & P_WEXIT != 0),
            start: micros(start.tv_sec as _, start.tv_usec as _),
        })
    }

    fn micros(seconds: i64, micros: i64) -> Option<i64> {
        seconds.checked_mul(1_000_000)?.checked_add(micros)
    }

    /// Returns a value, or `None` unless its size is that of `T`. Every bit pattern must be a valid `T`.
    fn sysctl<T>(mib: &[libc::c_int]) -> Option<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let mut size = size_of::<T>();
        let (name, count) = (mib.as_ptr(), mib.len() as libc::c_uint);
        let (buffer, none) = (value.as_mut_ptr().cast(), ptr::null_mut());
        // SAFETY: `mib` is `count` integers, `value` is writable for `size` bytes, and no value is set.
        let result = unsafe { libc::sysctl(name, count, buffer, &raw mut size, none, 0) };
        // SAFETY: the kernel has written the whole value, and every bit pattern is valid.
        (result == 0 && size == size_of::<T>()).then(|| unsafe { value.assume_init() })
    }
}

/// Reads the entry by `proc_pidinfo` of libproc: bsd/sys/proc_info.h.
#[cfg(target_os = "macos")]
mod system {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::super::semantics;
    use super::{IdentityKey, Presence, StartId};
    use crate::identity::KeyKind;

    pub(super) struct Info {
        pub(super) presence: Presence,
    }

    pub(super) const HIDES_ZOMBIES: bool = false;

    pub(super) const ROUNDING: i64 = 0;

    /// `struct proc_bsdshortinfo`, which the system shows for any user's process.
    #[repr(C)]
    struct ShortInfo {
        pid: u32,
        ppid: u32,
        pgid: u32,
        status: u32,
        comm: [u8; 16],
        flags: u32,
        rest: [u32; 7],
    }

    /// `struct proc_uniqidentifierinfo` of bsd/sys/proc_info_private.h, for any user's process.
    #[repr(C)]
    struct UniqueInfo {
        uuid: [u8; 16],
        /// A number that counts the processes since boot.
        unique_id: u64,
        parent_unique_id: u64,
        rest: [u64; 3],
    }

    pub(super) fn read(pid: libc::pid_t) -> Option<(Presence, Option<StartId>)> {
        let presence = info(pid)?.presence;
        // Read the presence before the id: the presence is the process's if the id is.
        Some((presence, unique(pid).map(|id| StartId(id as i64))))
    }

    fn unique(pid: libc::pid_t) -> Option<u64> {
        const PROC_PIDUNIQIDENTIFIERINFO: libc::c_int = 17;
        let info = pidinfo::<UniqueInfo>(pid, PROC_PIDUNIQIDENTIFIERINFO)?;
        Some(info.unique_id)
    }

    pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
        let kind = KeyKind::Unique;
        unique(pid).map(|value| IdentityKey { kind, value })
    }

    /// `kern.bootsessionuuid`: bsd/kern/kern_sysctl.c.
    pub(super) fn boot_id() -> io::Result<Option<String>> {
        let name = c"kern.bootsessionuuid";
        let mut text = [0_u8; 64];
        let mut size = text.len();
        let (buffer, none) = (text.as_mut_ptr().cast(), ptr::null_mut());
        // SAFETY: `name` ends with a null byte, `text` is writable for `size` bytes, and no value is set.
        let result = unsafe { libc::sysctlbyname(name.as_ptr(), buffer, &raw mut size, none, 0) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let text = text[..size].split(|&byte| byte == 0).next().unwrap_or(&[]);
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        const PROC_PIDT_SHORTBSDINFO: libc::c_int = 13;
        const SZOMB: u32 = 5;
        const PROC_FLAG_INEXIT: u32 = 4;
        let info = pidinfo::<ShortInfo>(pid, PROC_PIDT_SHORTBSDINFO)?;
        let is_exiting = info.flags & PROC_FLAG_INEXIT != 0;
        Some(Info {
            presence: semantics::presence_by_flags(info.status == SZOMB, is_exiting),
        })
    }

    /// Returns information of this flavor. `T` must consist of integers and arrays of integers.
    fn pidinfo<T>(pid: libc::pid_t, flavor: libc::c_int) -> Option<T> {
        const ZOMBIES_TOO: u64 = 1;
        let mut info = MaybeUninit::<T>::zeroed();
        let size = size_of::<T>() as libc::c_int;
        let buffer = info.as_mut_ptr().cast();
        // SAFETY: `info` is writable for `size` bytes.
        let written = unsafe { libc::proc_pidinfo(pid, flavor, ZOMBIES_TOO, buffer, size) };
        // SAFETY: the fields are integers and arrays, and the kernel has written all of them.
        (written == size).then(|| unsafe { info.assume_init() })
    }
}

/// iOS does not show processes to apps.
#[cfg(all(target_vendor = "apple", not(target_os = "macos")))]
mod system {
    use std::io;

    use super::{IdentityKey, Presence, StartId};

    pub(super) struct Info {
        pub(super) presence: Presence,
    }

    pub(super) const HIDES_ZOMBIES: bool = false;

    pub(super) const ROUNDING: i64 = 0;

    pub(super) fn read(_pid: libc::pid_t) -> Option<(Presence, Option<StartId>)> {
        None
    }

    pub(super) fn info(_pid: libc::pid_t) -> Option<Info> {
        None
    }

    pub(super) fn identity_key(_pid: libc::pid_t) -> Option<IdentityKey> {
        None
    }

    pub(super) fn boot_id() -> io::Result<Option<String>> {
        Ok(None)
    }
}
