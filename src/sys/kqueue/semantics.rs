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
pub(super) fn esrch_cause(presence: Presence) -> EsrchCause {
    match presence {
        Presence::Gone => EsrchCause::NoSuchProcess,
        Presence::Zombie => EsrchCause::Zombie,
        Presence::Exiting | Presence::Hidden => EsrchCause::Exiting,
        Presence::Running => EsrchCause::Recycled,
    }
}

/// Whether a process whose exit the kernel has reported has been reaped since.
///
/// `presence` is that of the process that has the pid now. When its exit is reported, a process may not
/// be a zombie yet (XNU, FreeBSD), but it is exiting. So a running process is another process.
pub(super) fn is_reaped_after_exit(presence: Presence) -> bool {
    matches!(presence, Presence::Gone | Presence::Running)
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE_EXIT: u32 = 0x8000_0000;
    const NOTE_EXITSTATUS: u32 = 0x0400_0000;

    #[test]
    fn returns_only_a_reported_status() {
        let xnu = StatusDelivery::IfFlagged(NOTE_EXITSTATUS);
        for (delivery, fflags, data, expected) in [
            // Exit codes 0 and 7, SIGKILL, and SIGABRT with a core dump.
            (StatusDelivery::Always, NOTE_EXIT, 0, Some(0)),
            (StatusDelivery::Always, NOTE_EXIT, 0x700, Some(0x700)),
            (StatusDelivery::Always, NOTE_EXIT, 0x9, Some(0x9)),
            (StatusDelivery::Always, NOTE_EXIT, 0x86, Some(0x86)),
            (StatusDelivery::Always, NOTE_EXIT, 0xff00, Some(0xff00)),
            // 0 may mean that there is no status.
            (StatusDelivery::IfNotZero, NOTE_EXIT, 0, None),
            (StatusDelivery::IfNotZero, NOTE_EXIT, 0x700, Some(0x700)),
            // 0 means that there is no status, unless the flag is returned.
            (xnu, NOTE_EXIT, 0, None),
            (xnu, NOTE_EXIT, 0x700, None),
            (xnu, NOTE_EXIT | NOTE_EXITSTATUS, 0, Some(0)),
            (xnu, NOTE_EXIT | NOTE_EXITSTATUS, 0x700, Some(0x700)),
            // These are not wait statuses.
            (StatusDelivery::Always, NOTE_EXIT, -1, None),
            (StatusDelivery::Always, NOTE_EXIT, 0x1_0000, None),
            (StatusDelivery::Always, NOTE_EXIT, 0x1_0000_0700, None),
            (StatusDelivery::Always, NOTE_EXIT, i64::MAX, None),
        ] {
            assert_eq!(
                status(delivery, fflags, data),
                expected,
                "{delivery:?} {fflags:#x} {data:#x}"
            );
        }
    }

    #[test]
    fn netbsd_reports_status_0_from_10_on() {
        for (release, delivery) in [
            ("9.4", StatusDelivery::IfNotZero),
            ("9.99.108", StatusDelivery::IfNotZero),
            ("10.0", StatusDelivery::Always),
            ("10.1_STABLE", StatusDelivery::Always),
            ("11.99.1", StatusDelivery::Always),
            ("", StatusDelivery::IfNotZero),
            ("next", StatusDelivery::IfNotZero),
        ] {
            assert_eq!(delivery_on_netbsd(release), delivery, "{release}");
        }
    }

    #[test]
    fn interprets_the_errno_of_a_refusal() {
        const EPERM: i32 = 1;
        const EINVAL: i32 = 22;
        for (errno, for_status, expected) in [
            (3, true, Refusal::NotRunning),
            (3, false, Refusal::NotRunning),
            (4, true, Refusal::Other),
            // macOS: anybody gets the exit, but not the status.
            (EACCES, true, Refusal::WithoutStatus),
            // NetBSD: another user's process. DragonFly: another jail's.
            (EACCES, false, Refusal::Other),
            (EPERM, true, Refusal::Other),
            (EPERM, false, Refusal::Other),
            (ENOMEM, true, Refusal::Other),
            (EINVAL, false, Refusal::Other),
        ] {
            assert_eq!(refusal(errno, for_status), expected, "{errno} {for_status}");
        }
    }

    #[test]
    fn only_exhaustion_may_pass() {
        for (errno, may_pass) in [
            (24, true), // EMFILE
            (23, true), // ENFILE
            (12, true), // ENOMEM
            (13, false),
            (3, false),
            (22, false),
            (25, false),
            (1, false),
            (78, false),
        ] {
            assert_eq!(is_exhaustion(errno), may_pass, "{errno}");
        }
    }

    #[test]
    fn a_hidden_process_may_be_a_zombie() {
        for (hides_zombies, may_signal, expected) in [
            (true, true, Presence::Zombie),
            // DragonFly: a process in another jail, which may be running.
            (true, false, Presence::Hidden),
            (false, true, Presence::Hidden),
            (false, false, Presence::Hidden),
        ] {
            assert_eq!(hidden_or_zombie(hides_zombies, may_signal), expected);
        }
    }

    #[test]
    fn compares_start_times_with_rounding() {
        for (one, other, rounding, same) in [
            (5, 5, 0, true),
            (5, 6, 0, false),
            (5, 6, 1, true),
            (6, 5, 1, true),
            (-1, 0, 1, true),
            (5, 7, 1, false),
            (i64::MIN, i64::MAX, 1, false),
        ] {
            assert_eq!(is_same_start(one, other, rounding), same, "{one} {other}");
        }
    }

    #[test]
    fn interprets_esrch_by_the_process_table() {
        for (presence, expected) in [
            (Presence::Gone, EsrchCause::NoSuchProcess),
            (Presence::Zombie, EsrchCause::Zombie),
            (Presence::Exiting, EsrchCause::Exiting),
            (Presence::Hidden, EsrchCause::Exiting),
            (Presence::Running, EsrchCause::Recycled),
        ] {
            assert_eq!(esrch_cause(presence), expected);
        }
    }

    #[test]
    fn an_exited_process_exists_until_its_reap() {
        for (presence, reaped) in [
            (Presence::Exiting, false),
            (Presence::Zombie, false),
            (Presence::Hidden, false),
            (Presence::Gone, true),
            // The pid has been recycled.
            (Presence::Running, true),
        ] {
            assert_eq!(is_reaped_after_exit(presence), reaped, "{presence:?}");
        }
    }

    #[test]
    fn a_polled_process_exits_or_is_replaced() {
        use Presence::{Exiting, Gone, Hidden, Running, Zombie};
        let (certain, uncertain) = (
            PolledState::Zombie { certain: true },
            PolledState::Zombie { certain: false },
        );
        for (presence, same, child_exited, expected) in [
            (Gone, None, false, PolledState::Reaped),
            (Running, Some(true), false, PolledState::Running),
            (Running, None, false, PolledState::Running),
            (Exiting, Some(true), false, PolledState::Running),
            (Hidden, None, false, PolledState::Running),
            (Zombie, Some(true), false, certain),
            (Zombie, None, false, uncertain),
            // `waitid` reported the exit of our child.
            (Exiting, Some(true), true, certain),
            (Hidden, None, true, uncertain),
            (Running, None, true, uncertain),
            // The pid has been recycled, so the state of its new owner does not matter.
            (Exiting, Some(false), false, PolledState::Reaped),
            (Hidden, Some(false), false, PolledState::Reaped),
            (Running, Some(false), false, PolledState::Reaped),
            (Zombie, Some(false), false, PolledState::Reaped),
            (Zombie, Some(false), true, PolledState::Reaped),
        ] {
            assert_eq!(
                polled_state(presence, same, child_exited),
                expected,
                "{presence:?} {same:?} {child_exited}"
            );
        }
    }

    #[test]
    fn recognizes_zombies_on_each_system() {
        assert_eq!(presence_by_flags(true, true), Presence::Zombie);
        assert_eq!(presence_by_flags(false, true), Presence::Exiting);
        assert_eq!(presence_by_flags(false, false), Presence::Running);
        for (realstat, realflag, expected) in [
            (1, 0, Presence::Running), // SIDL
            (2, 0, Presence::Running), // SACTIVE
            (2, 0x2000, Presence::Exiting),
            (2, 0x4000, Presence::Running),
            (2, 0x6000, Presence::Exiting),
            (3, 0, Presence::Exiting),
            (4, 0, Presence::Running), // SSTOP
            (5, 0x2000, Presence::Zombie),
            (6, 0x2000, Presence::Zombie),
        ] {
            assert_eq!(presence_on_netbsd(realstat, realflag), expected);
        }
        for (psflags, expected) in [
            (0, Presence::Running),
            (0x8, Presence::Exiting),
            (0x10, Presence::Running),
            (0x18, Presence::Exiting),
            (0x8_0000, Presence::Running),
            (0x4_0008, Presence::Zombie),
            (0x4_0000, Presence::Zombie),
        ] {
            assert_eq!(presence_on_openbsd(psflags), expected);
        }
    }
}
