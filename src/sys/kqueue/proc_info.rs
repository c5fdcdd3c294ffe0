//! The entry of a process in the process table.
//!
//! # Safety
//!
//! Each block is one system call, or a read of what it has written. The calls take integers, and
//! pointers to locals of the type that the call expects.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};

use super::Status;
#[cfg(all(test, tokio_process_exit_fake_kqueue))]
use super::fake::table;
use super::kernel::{signal_0, system};
use super::semantics::{self, Presence, System};
use crate::identity::{IdentityKey, KeyKind};

/// OpenBSD adds two times in nanoseconds and rounds the sum to microseconds.
pub(crate) const KEY_ROUNDING: u64 = if cfg!(target_os = "openbsd") { 1 } else { 0 };

/// Returns the identity key of the process that has the pid, if the system shows it.
pub(super) fn identity_key(pid: libc::pid_t) -> Option<IdentityKey> {
    // The key outlives this process, so use the time since boot, not since our start as in `read`.
    let time_of_boot = || match system().start_follows_clock() {
        true => table::time_of_boot(),
        false => Some(0),
    };
    let before = time_of_boot()?;
    let start = start_of(pid)?;
    let is_settled = time_of_boot()? == before;
    let value = u64::try_from(start.checked_sub(before)?).ok()?;
    is_settled.then_some(IdentityKey {
        kind: match system() {
            System::Xnu => KeyKind::Unique,
            _ => KeyKind::Start,
        },
        value,
    })
}

pub(crate) fn boot_id() -> io::Result<Option<String>> {
    table::boot_id()
}

/// A value that distinguishes a process from later processes with the same pid.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartId(i64);

impl StartId {
    /// Whether two ids are of the same process. `None` if one of the ids is unknown.
    pub(super) fn is_same(one: Option<StartId>, other: Option<StartId>) -> Option<bool> {
        Some(is_same_start(one?.0, other?.0))
    }
}

fn is_same_start(one: i64, other: i64) -> bool {
    let rounding = match system() {
        System::OpenBsd => 1,
        _ => 0,
    };
    semantics::is_same_start(one, other, rounding)
}

/// The entry of a process in the process table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) presence: Presence,
    /// The start time, or another number that no other process has, if the system shows it.
    start: Option<i64>,
    /// The wait status of a zombie, if the system shows it.
    pub(super) status: Option<Status>,
}

impl Entry {
    #[cfg(all(test, tokio_process_exit_fake_kqueue))]
    pub(super) fn new(presence: Presence, start: Option<i64>, status: Option<Status>) -> Entry {
        Entry {
            presence,
            start,
            status,
        }
    }

    /// Whether two entries, read shortly after each other, are of the same process, if that is known.
    pub(super) fn is_same(&self, other: &Entry) -> Option<bool> {
        Some(is_same_start(self.start?, other.start?))
    }
}

/// Returns the entry of the process that has the pid.
pub(super) fn entry(pid: libc::pid_t) -> Entry {
    if let Some(entry) = table::entry(pid) {
        return entry;
    }
    let without_entry = |presence| Entry {
        presence,
        start: None,
        status: None,
    };
    let hides_zombies = system().hides_zombies();
    let mut may_signal = false;
    // Where zombies have an entry, each further round needs a process that is reaped at this very moment.
    for _ in 0..if hides_zombies { 1 } else { 3 } {
        // Check the existence before the entry: where zombies have no entry, a process that existed and
        // has no entry afterwards has exited.
        may_signal = match signal_0(pid) {
            Err(libc::ESRCH) => return without_entry(Presence::Gone),
            signal_0 => signal_0.is_ok(),
        };
        if let Some(entry) = table::entry(pid) {
            return entry;
        }
    }
    without_entry(semantics::hidden_or_zombie(hides_zombies, may_signal))
}

/// Returns the entry of the process that has the pid, and its id if the system shows that.
pub(super) fn read(pid: libc::pid_t) -> (Entry, Option<StartId>) {
    if !system().start_follows_clock() {
        let entry = entry(pid);
        return (entry, entry.start.map(StartId));
    }
    // The clock may have been set since another call, so use the difference to this process's start. That
    // start must be the same before and after the entry is read: the clock may be set in between.
    static START_OF_THIS: AtomicI64 = AtomicI64::new(i64::MIN);
    let mut before = START_OF_THIS.load(Ordering::Acquire);
    loop {
        let entry = entry(pid);
        let this = std::process::id() as libc::pid_t;
        let (Some(start), Some(after)) = (entry.start, start_of(this)) else {
            return (entry, None);
        };
        if before == after {
            return (entry, Some(StartId(start.wrapping_sub(after))));
        }
        START_OF_THIS.store(after, Ordering::Release);
        before = after;
    }
}

fn start_of(pid: libc::pid_t) -> Option<i64> {
    table::entry(pid)?.start
}

/// Reads the entry by [sysctl(3)](https://man.freebsd.org/sysctl/3), `kern.proc`.
#[cfg(not(any(all(test, tokio_process_exit_fake_kqueue), target_vendor = "apple")))]
mod table {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::super::semantics;
    use super::Entry;

    /// Returns the time at which the system was booted, by its present clock.
    pub(super) fn time_of_boot() -> Option<i64> {
        let time = sysctl::<libc::timeval>(&[libc::CTL_KERN, libc::KERN_BOOTTIME])?;
        micros(time.tv_sec as _, time.tv_usec as _)
    }

    pub(super) fn boot_id() -> io::Result<Option<String>> {
        Ok(None)
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "freebsd")]
    pub(super) fn entry(pid: libc::pid_t) -> Option<Entry> {
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        let is_zombie = info.ki_stat == libc::SZOMB;
        let is_exiting = info.ki_flag & libc::c_long::from(libc::P_WEXIT) != 0;
        Some(Entry {
            presence: semantics::presence_by_flags(is_zombie, is_exiting),
            start: micros(info.ki_start.tv_sec as _, info.ki_start.tv_usec as _),
            // For a stopped process, this is the signal that has stopped it.
            status: is_zombie.then(|| super::Status(info.ki_xstat.into())),
        })
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "netbsd")]
    pub(super) fn entry(pid: libc::pid_t) -> Option<Entry> {
        let size = size_of::<libc::kinfo_proc2>() as libc::c_int;
        let (by, count) = (libc::KERN_PROC_PID, 1);
        let mib = [libc::CTL_KERN, libc::KERN_PROC2, by, pid, size, count];
        let info = sysctl::<libc::kinfo_proc2>(&mib)?;
        let presence = semantics::presence_on_netbsd(info.p_realstat, info.p_realflag);
        Some(Entry {
            presence,
            // The entry of a zombie has no start time, nor has that of a process during `execve`.
            start: match info.p_uvalid {
                0 => None,
                _ => micros(info.p_ustart_sec.into(), info.p_ustart_usec.into()),
            },
            // `P_WAITSTATUS` in `fill_kproc2`: sys/kern/kern_proc.c.
            status: (presence == super::Presence::Zombie)
                .then(|| super::Status(info.p_xstat.into())),
        })
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "openbsd")]
    pub(super) fn entry(pid: libc::pid_t) -> Option<Entry> {
        let size = size_of::<libc::kinfo_proc>() as libc::c_int;
        let (by, count) = (libc::KERN_PROC_PID, 1);
        let mib = [libc::CTL_KERN, libc::KERN_PROC, by, pid, size, count];
        let info = sysctl::<libc::kinfo_proc>(&mib)?;
        Some(Entry {
            presence: semantics::presence_on_openbsd(info.p_psflags),
            // The entry of a zombie has no start time.
            start: match info.p_uvalid {
                0 => None,
                _ => micros(info.p_ustart_sec as _, info.p_ustart_usec.into()),
            },
            // `p_xstat` has only the signal, not the exit code.
            status: None,
        })
    }

    /// Returns the entry of a process. `None` if the system does not show it.
    #[cfg(target_os = "dragonfly")]
    pub(super) fn entry(pid: libc::pid_t) -> Option<Entry> {
        const P_WEXIT: libc::c_int = 0x2000; // sys/proc.h
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
        let info = sysctl::<MaybeUninit<libc::kinfo_proc>>(&mib)?;
        // Do not read the whole struct: `kp_stat` is an enum in the libc crate, which may lack values.
        let info = info.as_ptr();
        // SAFETY: the field is an integer that the kernel has written.
        let flags = unsafe { (*info).kp_flags };
        // SAFETY: the fields are integers that the kernel has written.
        let start = unsafe { (*info).kp_start };
        Some(Entry {
            presence: semantics::presence_by_flags(false, flags & P_WEXIT != 0),
            start: micros(start.tv_sec as _, start.tv_usec as _),
            status: None,
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
mod table {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::super::{Status, semantics};
    use super::{Entry, Presence};

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

    fn unique(pid: libc::pid_t) -> Option<u64> {
        const PROC_PIDUNIQIDENTIFIERINFO: libc::c_int = 17;
        let info = pidinfo::<UniqueInfo>(pid, PROC_PIDUNIQIDENTIFIERINFO)?;
        Some(info.unique_id)
    }

    /// Not used: the unique id does not depend on the clock.
    pub(super) fn time_of_boot() -> Option<i64> {
        None
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
    pub(super) fn entry(pid: libc::pid_t) -> Option<Entry> {
        const PROC_PIDT_SHORTBSDINFO: libc::c_int = 13;
        const SZOMB: u32 = 5;
        const PROC_FLAG_INEXIT: u32 = 4;
        let info = pidinfo::<ShortInfo>(pid, PROC_PIDT_SHORTBSDINFO)?;
        let is_exiting = info.flags & PROC_FLAG_INEXIT != 0;
        let presence = semantics::presence_by_flags(info.status == SZOMB, is_exiting);
        // Read the presence before the id: the presence is the process's if the id is.
        let id = unique(pid);
        // Read the id again after the status: otherwise the status could be that of a later zombie.
        let status = (presence == Presence::Zombie)
            .then(|| zombie_status(pid))
            .flatten()
            .filter(|_| id.is_some() && unique(pid) == id);
        Some(Entry {
            presence,
            start: id.map(|id| id as i64),
            status,
        })
    }

    /// Returns the wait status of a zombie, if the system shows it to us.
    fn zombie_status(pid: libc::pid_t) -> Option<Status> {
        let info = pidinfo::<libc::proc_bsdinfo>(pid, libc::PROC_PIDTBSDINFO)?;
        let status = i32::try_from(info.pbi_xstatus).ok()?;
        Some(Status(status & 0xffff))
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
mod table {
    use std::io;

    use super::Entry;

    pub(super) fn entry(_pid: libc::pid_t) -> Option<Entry> {
        None
    }

    pub(super) fn time_of_boot() -> Option<i64> {
        None
    }

    pub(super) fn boot_id() -> io::Result<Option<String>> {
        Ok(None)
    }
}
