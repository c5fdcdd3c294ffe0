//! The meaning of what a kernel with kqueue reports.
//!
//! These are pure functions of plain values, so they are tested on every system. Each statement about a
//! system was read in its source. Those about FreeBSD were also checked by C programs on FreeBSD 13.2.

// These numbers are the same on all systems with kqueue.
const ESRCH: i32 = 3;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// A kernel with kqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each system uses one variant")]
pub(crate) enum System {
    Xnu,
    FreeBsd,
    NetBsd,
    OpenBsd,
    DragonFly,
}

impl System {
    /// Whether zombies have no entry in the process table. Besides, BSDs can hide other users' processes:
    /// FreeBSD by `security.bsd.see_other_uids`, NetBSD by `security.curtain`.
    pub(super) fn hides_zombies(self) -> bool {
        self == System::DragonFly
    }

    /// Whether the start time of a process changes whenever the clock is set.
    ///
    /// FreeBSD and OpenBSD store the time since boot, and add the time of the boot.
    #[cfg_attr(target_os = "ios", allow(dead_code))]
    pub(super) fn start_follows_clock(self) -> bool {
        matches!(self, System::FreeBsd | System::OpenBsd)
    }
}

/// The condition under which an event with `NOTE_EXIT` contains the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each system uses one variant")]
pub(super) enum StatusDelivery {
    /// `data` is the status: FreeBSD, OpenBSD, DragonFly, and NetBSD from 10 on.
    Always,
    /// `data` is the status unless it is 0, which may mean no status: NetBSD before 10.
    IfNotZero,
    /// `data` is the status if this flag was requested and is returned: `NOTE_EXITSTATUS` of XNU.
    IfFlagged(u32),
}

/// Returns the wait status in an event, if the event contains one.
pub(super) fn status(delivery: StatusDelivery, fflags: u32, data: i64) -> Option<i32> {
    let is_reported = match delivery {
        StatusDelivery::Always => true,
        StatusDelivery::IfNotZero => data != 0,
        StatusDelivery::IfFlagged(flag) => fflags & flag != 0,
    };
    // A wait status has 16 bits on all systems.
    let status = i32::try_from(data).ok().filter(|&data| data & !0xffff == 0);
    status.filter(|_| is_reported)
}

/// Returns how NetBSD of this release (`uname -r`) reports the exit status.
#[cfg_attr(not(target_os = "netbsd"), allow(dead_code))]
pub(super) fn delivery_on_netbsd(release: &str) -> StatusDelivery {
    let major = release
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    match major {
        Some(10_u32..) => StatusDelivery::Always,
        _ => StatusDelivery::IfNotZero,
    }
}

/// The meaning of the error when a process could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The process has exited, is exiting, or does not exist.
    NotRunning,
    /// The system reports the exit, but denies the exit status: register without the flag.
    WithoutStatus,
    /// Any other error: poll the process.
    Other,
}

/// Interprets an error. `for_status`: whether the flag of [`StatusDelivery::IfFlagged`] was passed.
pub(super) fn refusal(errno: i32, for_status: bool) -> Refusal {
    match errno {
        ESRCH => Refusal::NotRunning,
        // XNU reports the status to the parent, to a tracer, and to those who may kill the process.
        EACCES if for_status => Refusal::WithoutStatus,
        _ => Refusal::Other,
    }
}

/// Whether a later call may succeed.
pub(super) fn is_exhaustion(errno: i32) -> bool {
    // FreeBSD also returns ENOMEM at its limit of kqueues (RLIMIT_KQUEUES).
    matches!(errno, EMFILE | ENFILE | ENOMEM)
}

/// The worth of a filter that was added while its process may have been exiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// The filter reports the exit.
    Reliable,
    /// The kernel may have dropped the event. Delete the filter and add it again.
    AddAgain,
    /// The kernel may have dropped the event, and may drop it again. Delete the filter and poll.
    Unreliable,
}

/// Returns the worth of a filter. The process table was read before and after the filter was added.
///
/// `same`: whether both entries are of one process, if that is known.
///
/// Three kernels lose the event of a process that exits while its filter is being added:
///
/// - FreeBSD (`filt_procattach`, `knote`; seen on 13.2): `knote` skips the new filter as long as
///   `kqueue_register` is at work on it. A filter added once the process is exiting has its event at once.
/// - OpenBSD with `kqueue_ps_list_lock` (`filt_procattach`; read): the call may sleep after it has checked
///   that the process is not exiting. A later filter is refused with ESRCH.
/// - DragonFly (`filt_procattach`; read): the call may sleep between `pfind` and `lwkt_gettoken`. A filter
///   added to a zombie has its event at once, but not a filter added to a process that is exiting.
///
/// XNU and NetBSD (read) do not: the process is locked or referenced from the check to the insertion into
/// its list, the exit waits for that, and `knote` skips no filter.
pub(super) fn attachment(
    system: System,
    before: Presence,
    same: Option<bool>,
    after: Presence,
) -> Attachment {
    if same == Some(false) {
        // The pid has been recycled: the filter may be the earlier process's.
        return Attachment::AddAgain;
    }
    use Presence::{Exiting, Gone, Hidden, Running, Zombie};
    match (system, before, after) {
        (_, Running, Running) | (_, Hidden, Hidden) => Attachment::Reliable,
        // The process has been reaped, and another process may have got its pid before the filter was
        // added. On DragonFly, a zombie becomes hidden.
        (_, _, Gone | Running | Hidden) => Attachment::AddAgain,
        (System::Xnu | System::NetBsd, _, Exiting) | (System::Xnu, _, Zombie) => {
            Attachment::Reliable
        }
        (System::FreeBsd, Exiting | Zombie, Exiting | Zombie) if same == Some(true) => {
            Attachment::Reliable
        }
        (System::DragonFly, Zombie, Zombie) => Attachment::Reliable,
        (System::DragonFly, _, Exiting) => Attachment::Unreliable,
        // NetBSD shows the status of a zombie, but nothing that distinguishes it from later zombies.
        (_, _, Exiting | Zombie) => Attachment::AddAgain,
    }
}

/// The state of the process that has a pid, in the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// No process has the pid.
    Gone,
    /// The process is running.
    Running,
    /// The process is exiting. It may still have threads.
    Exiting,
    /// The process has exited and has not been reaped.
    Zombie,
    /// The process exists, but the system does not show it to us.
    Hidden,
}

/// The reason why the registration of a process returned ESRCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EsrchCause {
    NoSuchProcess,
    /// The process has exited and has not been reaped.
    Zombie,
    /// The process is exiting, or the system does not show its state.
    Exiting,
    /// The pid has been recycled since the error.
    Recycled,
}

/// Interprets ESRCH. `presence` was read after the error.
///
/// XNU, NetBSD and OpenBSD refuse a process from early in its exit on, although it can still be
/// signalled. FreeBSD and DragonFly accept such a process and report its exit at once.
pub(super) fn esrch_cause(system: System, presence: Presence) -> EsrchCause {
    let accepts_exiting = matches!(system, System::FreeBsd | System::DragonFly);
    match presence {
        Presence::Gone => EsrchCause::NoSuchProcess,
        _ if accepts_exiting => EsrchCause::Recycled,
        Presence::Zombie => EsrchCause::Zombie,
        Presence::Exiting | Presence::Hidden => EsrchCause::Exiting,
        Presence::Running => EsrchCause::Recycled,
    }
}

/// Whether a process whose exit the kernel has reported has been reaped since.
///
/// `presence` is that of the process that has the pid now, and `same` is whether that is the exited
/// process, if that is known. A process whose exit is reported may not be a zombie yet (XNU, FreeBSD), but
/// is exiting. So a running process is another process, and so is a process that exits after the exited
/// process `was_zombie`.
pub(super) fn is_reaped_after_exit(
    presence: Presence,
    same: Option<bool>,
    was_zombie: bool,
) -> bool {
    match presence {
        Presence::Gone | Presence::Running => true,
        Presence::Exiting => same == Some(false) || was_zombie,
        Presence::Zombie | Presence::Hidden => same == Some(false),
    }
}

/// The state of a polled process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PolledState {
    Running,
    /// A process with the pid has exited and has not been reaped.
    Zombie {
        /// Whether that process is certainly the opened process.
        certain: bool,
    },
    Reaped,
}

/// Returns the state of a polled process.
///
/// `same`: whether the pid still belongs to the opened process, if that is known. `child_exited`:
/// whether `waitid` reports that our own child with this pid has exited.
pub(super) fn polled_state(
    presence: Presence,
    same: Option<bool>,
    child_exited: bool,
) -> PolledState {
    let certain = same == Some(true);
    match presence {
        Presence::Gone => PolledState::Reaped,
        _ if same == Some(false) => PolledState::Reaped,
        Presence::Zombie => PolledState::Zombie { certain },
        _ if child_exited => PolledState::Zombie { certain },
        Presence::Running | Presence::Exiting | Presence::Hidden => PolledState::Running,
    }
}

/// Returns the presence of a process that exists and that the system does not show to us.
///
/// `may_signal`: whether `kill` succeeds instead of returning EPERM, as it does for every zombie.
pub(super) fn hidden_or_zombie(hides_zombies: bool, may_signal: bool) -> Presence {
    if hides_zombies && may_signal {
        Presence::Zombie
    } else {
        Presence::Hidden
    }
}

/// Whether two start times, which may differ by `rounding`, are those of one process.
pub(super) fn is_same_start(one: i64, other: i64, rounding: i64) -> bool {
    one.abs_diff(other) <= rounding.unsigned_abs()
}

/// Interprets `ki_stat` and `ki_flag` of FreeBSD, and `pbsi_status` and `pbsi_flags` of XNU.
#[cfg_attr(not(any(target_os = "macos", target_os = "freebsd")), allow(dead_code))]
pub(super) fn presence_by_flags(is_zombie: bool, is_exiting: bool) -> Presence {
    match (is_zombie, is_exiting) {
        (true, _) => Presence::Zombie,
        (false, true) => Presence::Exiting,
        (false, false) => Presence::Running,
    }
}

/// Interprets `p_realstat` and `p_realflag` of NetBSD's `kinfo_proc2`: sys/proc.h, sys/sysctl.h.
#[cfg_attr(not(target_os = "netbsd"), allow(dead_code))]
pub(super) fn presence_on_netbsd(realstat: u64, realflag: u64) -> Presence {
    const SDYING: u64 = 3;
    const SZOMB: u64 = 5;
    const SDEAD: u64 = 6;
    const P_WEXIT: u64 = 0x2000;
    presence_by_flags(
        matches!(realstat, SZOMB | SDEAD),
        realstat == SDYING || realflag & P_WEXIT != 0,
    )
}

/// Interprets `p_psflags` of OpenBSD's `kinfo_proc`: sys/proc.h. `p_stat` does not show zombies.
#[cfg_attr(not(target_os = "openbsd"), allow(dead_code))]
pub(super) fn presence_on_openbsd(psflags: u32) -> Presence {
    const PS_EXITING: u32 = 0x8;
    const PS_ZOMBIE: u32 = 0x0004_0000;
    presence_by_flags(psflags & PS_ZOMBIE != 0, psflags & PS_EXITING != 0)
}
