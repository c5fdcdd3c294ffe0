//! What the system shows of the process that has a pid.
//!
//! # Safety
//!
//! Each block is one system call, or one read of what it wrote. They take integers, and pointers to
//! locals of the type that the call expects.

use std::io;

use super::semantics::{self, Presence};
use crate::identity::IdentityKey;
use crate::sys::unix::syscalls::signal_0;

/// Marks of one process differ by no more than this.
pub(crate) const KEY_ROUNDING: u64 = system::ROUNDING as u64;

/// What tells the process that has the pid from all others, if it is shown.
pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
    system::identity_key(pid)
}

/// Changes with each boot. The BSDs have no such thing in common.
pub(crate) fn boot_id() -> io::Result<Option<String>> {
    system::boot_id()
}

/// What one owner of a pid has and the next one has not.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartId(i64);

impl StartId {
    pub(super) fn is(self, other: StartId) -> bool {
        semantics::is_same_start(self.0, other.0, system::ROUNDING)
    }
}

pub(super) fn of(pid: libc::pid_t) -> Presence {
    presence(pid, || system::info(pid).map(|info| info.presence))
}

/// The presence, and the start_id of the same process where that can be event.
pub(super) fn read(pid: libc::pid_t) -> (Presence, Option<StartId>) {
    let mut start_id = None;
    let presence = presence(pid, || {
        let (presence, of_it) = system::read(pid)?;
        start_id = of_it;
        Some(presence)
    });
    (presence, start_id)
}

fn presence(pid: libc::pid_t, info: impl FnOnce() -> Option<Presence>) -> Presence {
    // In this order: what is there, and is not shown afterwards, has exited where zombies are not
    // shown.
    match signal_0(pid) {
        Err(libc::ESRCH) => Presence::Gone,
        signal_0 => {
            info().unwrap_or_else(|| semantics::not_shown(system::HIDES_ZOMBIES, signal_0.is_ok()))
        }
    }
}

/// By [sysctl(3)](https://man.freebsd.org/sysctl/3), `kern.proc`.
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
        /// In microseconds of some clock, if it is shown.
        start: Option<i64>,
    }

    /// All hide other users' processes at times (FreeBSD's `security.bsd.see_other_uids`, NetBSD's
    /// `security.curtain`), this one zombies too.
    pub(super) const HIDES_ZOMBIES: bool = cfg!(target_os = "dragonfly");

    /// OpenBSD adds up nanoseconds, and shows microseconds.
    pub(super) const ROUNDING: i64 = if cfg!(target_os = "openbsd") { 1 } else { 0 };

    pub(super) fn read(pid: libc::pid_t) -> Option<(Presence, Option<StartId>)> {
        // FreeBSD and OpenBSD keep the time since boot, and add the time of the boot when asked,
        // which changes whenever the clock is set. The difference between two processes does not,
        // if the clock is not set at this very moment.
        let me = std::process::id() as libc::pid_t;
        let start_of_me = || info(me).and_then(|info| info.start);
        let before = start_of_me();
        let info = info(pid)?;
        let start_id = match (before, info.start, start_of_me()) {
            (Some(before), Some(start), Some(after)) if before == after => {
                Some(StartId(start.wrapping_sub(before)))
            }
            _ => None,
        };
        Some((info.presence, start_id))
    }

    pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
        // See above. This is to hold for longer, so it is the time since boot that counts.
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
        let namespace = None;
        is_settled.then_some(IdentityKey {
            kind,
            value,
            namespace,
        })
    }

    fn time_of_boot() -> Option<i64> {
        let time = sysctl::<libc::timeval>(&[libc::CTL_KERN, libc::KERN_BOOTTIME])?;
        // SAFETY: integers, and the kernel has filled all of it.
        let time = unsafe { time.assume_init() };
        micros(time.tv_sec as _, time.tv_usec as _)
    }

    pub(super) fn boot_id() -> io::Result<Option<String>> {
        Ok(None)
    }

    /// `None` if no such process is shown.
    #[cfg(target_os = "freebsd")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        // SAFETY: all integers, arrays of them, and pointers, and the kernel has filled all of it.
        let info = unsafe { info.assume_init() };
        let is_exiting = info.ki_flag & libc::c_long::from(libc::P_WEXIT) != 0;
        Some(Info {
            presence: semantics::presence(info.ki_stat == libc::SZOMB, is_exiting),
            start: micros(info.ki_start.tv_sec as _, info.ki_start.tv_usec as _),
        })
    }

    /// `None` if no such process is shown.
    #[cfg(target_os = "netbsd")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        let size = size_of::<libc::kinfo_proc2>() as libc::c_int;
        let (by, count) = (libc::KERN_PROC_PID, 1);
        let mib = [libc::CTL_KERN, libc::KERN_PROC2, by, pid, size, count];
        let info = sysctl::<libc::kinfo_proc2>(&mib)?;
        // SAFETY: all integers and arrays of them, and the kernel has filled all of it.
        let info = unsafe { info.assume_init() };
        Some(Info {
            presence: semantics::presence_on_netbsd(info.p_realstat, info.p_realflag),
            // Not shown of zombies, nor during an exec.
            start: match info.p_uvalid {
                0 => None,
                _ => micros(info.p_ustart_sec.into(), info.p_ustart_usec.into()),
            },
        })
    }

    /// `None` if no such process is shown.
    #[cfg(target_os = "openbsd")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        let size = size_of::<libc::kinfo_proc>() as libc::c_int;
        let (by, count) = (libc::KERN_PROC_PID, 1);
        let mib = [libc::CTL_KERN, libc::KERN_PROC, by, pid, size, count];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        // SAFETY: all integers and arrays of them, and the kernel has filled all of it.
        let info = unsafe { info.assume_init() };
        Some(Info {
            presence: semantics::presence_on_openbsd(info.p_psflags),
            // Not shown of zombies.
            start: match info.p_uvalid {
                0 => None,
                _ => micros(info.p_ustart_sec as _, info.p_ustart_usec.into()),
            },
        })
    }

    /// `None` if no such process is shown.
    #[cfg(target_os = "dragonfly")]
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        const P_WEXIT: libc::c_int = 0x2000; // sys/proc.h
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        // Not the whole, as the libc crate has an enum for `kp_stat`, which may lack values.
        let info = info.as_ptr();
        // SAFETY: an integer that the kernel has filled.
        let flags = unsafe { (*info).kp_flags };
        // SAFETY: as above.
        let start = unsafe { (*info).kp_start };
        Some(Info {
            presence: semantics::presence(false, flags & P_WEXIT != 0),
            start: micros(start.tv_sec as _, start.tv_usec as _),
        })
    }

    fn micros(seconds: i64, micros: i64) -> Option<i64> {
        seconds.checked_mul(1_000_000)?.checked_add(micros)
    }

    /// `None` unless the system fills all of a `T`.
    fn sysctl<T>(mib: &[libc::c_int]) -> Option<MaybeUninit<T>> {
        let mut value = MaybeUninit::<T>::zeroed();
        let mut size = size_of::<T>();
        let (name, count) = (mib.as_ptr(), mib.len() as libc::c_uint);
        let (buffer, none) = (value.as_mut_ptr().cast(), ptr::null_mut());
        // SAFETY: `mib` is `count` integers, `value` is writable for `size` bytes, and nothing is
        // set.
        let result = unsafe { libc::sysctl(name, count, buffer, &raw mut size, none, 0) };
        (result == 0 && size == size_of::<T>()).then_some(value)
    }
}

/// By `proc_pidinfo` of libproc: bsd/sys/proc_info.h.
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

    /// `struct proc_bsdshortinfo`, which is shown of any user's process.
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

    /// `struct proc_uniqidentifierinfo`, likewise. (bsd/sys/proc_info_private.h)
    #[repr(C)]
    struct UniqueInfo {
        uuid: [u8; 16],
        /// Counts the processes since boot.
        unique_id: u64,
        parent_unique_id: u64,
        rest: [u64; 3],
    }

    pub(super) fn read(pid: libc::pid_t) -> Option<(Presence, Option<StartId>)> {
        let presence = info(pid)?.presence;
        // After the presence: if this is the process's, that was too.
        Some((presence, unique(pid).map(|id| StartId(id as i64))))
    }

    fn unique(pid: libc::pid_t) -> Option<u64> {
        const PROC_PIDUNIQIDENTIFIERINFO: libc::c_int = 17;
        let info = pidinfo::<UniqueInfo>(pid, PROC_PIDUNIQIDENTIFIERINFO)?;
        Some(info.unique_id)
    }

    pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
        let kind = KeyKind::Unique;
        unique(pid).map(|value| IdentityKey {
            kind,
            value,
            namespace: None,
        })
    }

    /// `kern.bootsessionuuid`: bsd/kern/kern_sysctl.c.
    pub(super) fn boot_id() -> io::Result<Option<String>> {
        let name = c"kern.bootsessionuuid";
        let mut text = [0_u8; 64];
        let mut size = text.len();
        let (buffer, none) = (text.as_mut_ptr().cast(), ptr::null_mut());
        // SAFETY: a null-terminated name, `text` is writable for `size` bytes, and nothing is set.
        let result = unsafe { libc::sysctlbyname(name.as_ptr(), buffer, &raw mut size, none, 0) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let text = text[..size].split(|&byte| byte == 0).next().unwrap_or(&[]);
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// `None` if no such process is shown.
    pub(super) fn info(pid: libc::pid_t) -> Option<Info> {
        const PROC_PIDT_SHORTBSDINFO: libc::c_int = 13;
        const SZOMB: u32 = 5;
        const PROC_FLAG_INEXIT: u32 = 4;
        let info = pidinfo::<ShortInfo>(pid, PROC_PIDT_SHORTBSDINFO)?;
        Some(Info {
            presence: semantics::presence(info.status == SZOMB, info.flags & PROC_FLAG_INEXIT != 0),
        })
    }

    /// `T` must be integers and arrays of them.
    fn pidinfo<T>(pid: libc::pid_t, flavor: libc::c_int) -> Option<T> {
        const ZOMBIES_TOO: u64 = 1;
        let mut info = MaybeUninit::<T>::zeroed();
        let size = size_of::<T>() as libc::c_int;
        let buffer = info.as_mut_ptr().cast();
        // SAFETY: `info` is writable for `size` bytes.
        let written = unsafe { libc::proc_pidinfo(pid, flavor, ZOMBIES_TOO, buffer, size) };
        // SAFETY: integers, which the kernel has filled.
        (written == size).then(|| unsafe { info.assume_init() })
    }
}

/// iOS and its kin do not let apps look.
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
