//! What follows from what a kernel with kqueue says.
//!
//! Plain functions of plain integers, so that the tables below are tested on every system, also on
//! those without kqueue. What is said of XNU (macOS, iOS), NetBSD, OpenBSD and DragonFly was read in
//! their source, what is said of FreeBSD was also seen.

/// The same on all systems with kqueue.
const ESRCH: i32 = 3;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// How a system tells the exit status along with `NOTE_EXIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each system has one way")]
pub(super) enum StatusDelivery {
    /// In `data`: FreeBSD, OpenBSD, DragonFly, and NetBSD from 10 on.
    Always,
    /// In `data`, which was 0 for every process at some time: NetBSD before 10.
    IfNotZero,
    /// In `data`, if it was asked for by this flag and the flag comes back: `NOTE_EXITSTATUS` of
    /// XNU.
    IfFlagged(u32),
}

/// The wait status that an event tells, if it does.
pub(super) fn status(delivery: StatusDelivery, fflags: u32, data: i64) -> Option<i32> {
    let told = match delivery {
        StatusDelivery::Always => true,
        StatusDelivery::IfNotZero => data != 0,
        StatusDelivery::IfFlagged(flag) => fflags & flag != 0,
    };
    // 16 bits in all, on all of them. Anything more is no wait status.
    let status = i32::try_from(data).ok().filter(|&data| data & !0xffff == 0);
    status.filter(|_| told)
}

/// How NetBSD of this release (`uname -r`) tells the exit status.
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

/// What to do when a process could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has exited, is about to, or was never there.
    NotRunning,
    /// The system gives its exit to us, but not its exit status.
    WithoutStatus,
    /// It is polled.
    Other,
}

/// `for_status`: whether the exit status was asked for, by [`StatusDelivery::IfFlagged`].
pub(super) fn refusal(errno: i32, for_status: bool) -> Refusal {
    match errno {
        ESRCH => Refusal::NotRunning,
        // XNU gives the status to the parent, to a tracer, and to whoever may kill the process.
        EACCES if for_status => Refusal::WithoutStatus,
        _ => Refusal::Other,
    }
}

/// Whether what was refused may be granted later.
pub(super) fn is_exhaustion(errno: i32) -> bool {
    // ENOMEM is also what FreeBSD says at its limit of kqueues (RLIMIT_KQUEUES).
    matches!(errno, EMFILE | ENFILE | ENOMEM)
}

/// What can be seen of the process that has a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// No process has it.
    Gone,
    /// One that runs.
    Running,
    /// One that is being torn down. It may still have threads.
    Exiting,
    /// One that has exited: a zombie.
    Exited,
    /// One that we are not shown.
    Hidden,
}

/// What a pid means that the kernel says ESRCH to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    NoSuchProcess,
    /// A zombie.
    Exited,
    /// A zombie soon. Or one that cannot be told from that.
    Exiting,
    /// The pid has got a new owner since.
    Another,
}

/// XNU, NetBSD and OpenBSD give no events of a process from early in its exit on, though it can
/// still be signalled. FreeBSD and DragonFly tell at once of one that has exited.
///
/// `presence` was looked up after the refusal.
pub(super) fn missing(presence: Presence) -> Missing {
    match presence {
        Presence::Gone => Missing::NoSuchProcess,
        Presence::Exited => Missing::Exited,
        Presence::Exiting | Presence::Hidden => Missing::Exiting,
        Presence::Running => Missing::Another,
    }
}

/// Whether a process whose exit the kernel has told has been reaped since.
///
/// `presence` is that of whoever has the pid now. One that has just told its exit may not be a
/// zombie yet (XNU, FreeBSD), but it is exiting. So one that runs is another.
pub(super) fn is_reaped_after_exit(presence: Presence) -> bool {
    matches!(presence, Presence::Gone | Presence::Running)
}

/// What a look at a pid that is polled tells of the process that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PolledState {
    Running,
    /// And not reaped yet. Whether it is certainly the process.
    Exited {
        certain: bool,
    },
    Reaped,
}

/// `same`: whether the pid still has the owner that it had at the opening, where that can be event.
/// `child_exited`: whether `waitid` says that our own child with this pid has exited.
pub(super) fn polled_state(
    presence: Presence,
    same: Option<bool>,
    child_exited: bool,
) -> PolledState {
    let certain = same == Some(true);
    match presence {
        Presence::Gone => PolledState::Reaped,
        _ if same == Some(false) => PolledState::Reaped,
        Presence::Exited => PolledState::Exited { certain },
        _ if child_exited => PolledState::Exited { certain },
        Presence::Running | Presence::Exiting | Presence::Hidden => PolledState::Running,
    }
}

/// A process that there is, and that the system does not show to us.
///
/// `may_signal`: whether `kill` says so, and not EPERM. It says so of every zombie.
pub(super) fn not_shown(hides_zombies: bool, may_signal: bool) -> Presence {
    if hides_zombies && may_signal {
        Presence::Exited
    } else {
        Presence::Hidden
    }
}

/// Whether two start times are those of one process, where they may be off by `rounding`.
pub(super) fn is_same_start(one: i64, other: i64, rounding: i64) -> bool {
    one.abs_diff(other) <= rounding.unsigned_abs()
}

/// `p_stat` and `p_flag` of FreeBSD's `kinfo_proc`, `pbsi_status` and `pbsi_flags` of XNU.
#[cfg_attr(not(any(target_os = "macos", target_os = "freebsd")), allow(dead_code))]
pub(super) fn presence(is_zombie: bool, is_exiting: bool) -> Presence {
    match (is_zombie, is_exiting) {
        (true, _) => Presence::Exited,
        (false, true) => Presence::Exiting,
        (false, false) => Presence::Running,
    }
}

/// `p_realstat` and `p_realflag` of NetBSD's `kinfo_proc2`: sys/proc.h, sys/sysctl.h.
#[cfg_attr(not(target_os = "netbsd"), allow(dead_code))]
pub(super) fn presence_on_netbsd(realstat: u64, realflag: u64) -> Presence {
    const SDYING: u64 = 3;
    const SZOMB: u64 = 5;
    const SDEAD: u64 = 6;
    const P_WEXIT: u64 = 0x2000;
    presence(
        matches!(realstat, SZOMB | SDEAD),
        realstat == SDYING || realflag & P_WEXIT != 0,
    )
}

/// `p_psflags` of OpenBSD's `kinfo_proc`: sys/proc.h. Its `p_stat` does not tell.
#[cfg_attr(not(target_os = "openbsd"), allow(dead_code))]
pub(super) fn presence_on_openbsd(psflags: u32) -> Presence {
    const PS_EXITING: u32 = 0x8;
    const PS_ZOMBIE: u32 = 0x0004_0000;
    presence(psflags & PS_ZOMBIE != 0, psflags & PS_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE_EXIT: u32 = 0x8000_0000;
    const NOTE_EXITSTATUS: u32 = 0x0400_0000;

    #[test]
    fn a_status_is_what_the_kernel_told_and_never_a_guess() {
        let xnu = StatusDelivery::IfFlagged(NOTE_EXITSTATUS);
        for (delivery, fflags, data, told) in [
            // Exit codes 0 and 7, SIGKILL, and SIGABRT with a core dump.
            (StatusDelivery::Always, NOTE_EXIT, 0, Some(0)),
            (StatusDelivery::Always, NOTE_EXIT, 0x700, Some(0x700)),
            (StatusDelivery::Always, NOTE_EXIT, 0x9, Some(0x9)),
            (StatusDelivery::Always, NOTE_EXIT, 0x86, Some(0x86)),
            (StatusDelivery::Always, NOTE_EXIT, 0xff00, Some(0xff00)),
            // Zero may stand for nothing.
            (StatusDelivery::IfNotZero, NOTE_EXIT, 0, None),
            (StatusDelivery::IfNotZero, NOTE_EXIT, 0x700, Some(0x700)),
            // Zero stands for nothing, unless the flag came back.
            (xnu, NOTE_EXIT, 0, None),
            (xnu, NOTE_EXIT, 0x700, None),
            (xnu, NOTE_EXIT | NOTE_EXITSTATUS, 0, Some(0)),
            (xnu, NOTE_EXIT | NOTE_EXITSTATUS, 0x700, Some(0x700)),
            // Not a wait status.
            (StatusDelivery::Always, NOTE_EXIT, -1, None),
            (StatusDelivery::Always, NOTE_EXIT, 0x1_0000, None),
            (StatusDelivery::Always, NOTE_EXIT, 0x1_0000_0700, None),
            (StatusDelivery::Always, NOTE_EXIT, i64::MAX, None),
        ] {
            assert_eq!(
                status(delivery, fflags, data),
                told,
                "{delivery:?} {fflags:#x} {data:#x}"
            );
        }
    }

    #[test]
    fn netbsd_is_believed_zero_from_10_on() {
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
    fn a_refusal_is_told_by_its_errno() {
        const EPERM: i32 = 1;
        const EINVAL: i32 = 22;
        for (errno, for_status, expected) in [
            (3, true, Refusal::NotRunning),
            (3, false, Refusal::NotRunning),
            (4, true, Refusal::Other),
            // macOS: the exit is anybody's, the status is not.
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
    fn only_exhaustion_passes() {
        for (errno, passes) in [
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
            assert_eq!(is_exhaustion(errno), passes, "{errno}");
        }
    }

    #[test]
    fn what_is_not_shown_is_a_zombie_only_where_those_are_hidden_and_may_be_signalled() {
        for (hides_zombies, may_signal, expected) in [
            (true, true, Presence::Exited),
            // DragonFly: in another jail, and alive for all we know.
            (true, false, Presence::Hidden),
            (false, true, Presence::Hidden),
            (false, false, Presence::Hidden),
        ] {
            assert_eq!(not_shown(hides_zombies, may_signal), expected);
        }
    }

    #[test]
    fn start_times_are_the_same_but_for_rounding() {
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
    fn what_gives_no_events_is_gone_exited_or_exiting() {
        for (presence, expected) in [
            (Presence::Gone, Missing::NoSuchProcess),
            (Presence::Exited, Missing::Exited),
            (Presence::Exiting, Missing::Exiting),
            (Presence::Hidden, Missing::Exiting),
            (Presence::Running, Missing::Another),
        ] {
            assert_eq!(missing(presence), expected);
        }
    }

    #[test]
    fn after_its_exit_a_process_is_there_until_it_is_reaped() {
        for (presence, reaped) in [
            (Presence::Exiting, false),
            (Presence::Exited, false),
            (Presence::Hidden, false),
            (Presence::Gone, true),
            // The pid's next owner.
            (Presence::Running, true),
        ] {
            assert_eq!(is_reaped_after_exit(presence), reaped, "{presence:?}");
        }
    }

    #[test]
    fn a_polled_process_has_exited_when_it_is_a_zombie_or_gone_or_replaced() {
        use Presence::{Exited, Exiting, Gone, Hidden, Running};
        let (certain, uncertain) = (
            PolledState::Exited { certain: true },
            PolledState::Exited { certain: false },
        );
        for (presence, same, child_exited, expected) in [
            (Gone, None, false, PolledState::Reaped),
            (Running, Some(true), false, PolledState::Running),
            (Running, None, false, PolledState::Running),
            (Exiting, Some(true), false, PolledState::Running),
            (Hidden, None, false, PolledState::Running),
            (Exited, Some(true), false, certain),
            (Exited, None, false, uncertain),
            // `waitid` looked first, when the process was a zombie already.
            (Exiting, Some(true), true, certain),
            (Hidden, None, true, uncertain),
            (Running, None, true, uncertain),
            // Whatever the pid's next owner does.
            (Exiting, Some(false), false, PolledState::Reaped),
            (Hidden, Some(false), false, PolledState::Reaped),
            (Running, Some(false), false, PolledState::Reaped),
            (Exited, Some(false), false, PolledState::Reaped),
            (Exited, Some(false), true, PolledState::Reaped),
        ] {
            assert_eq!(
                polled_state(presence, same, child_exited),
                expected,
                "{presence:?} {same:?} {child_exited}"
            );
        }
    }

    #[test]
    fn each_system_has_its_own_way_to_say_zombie() {
        assert_eq!(presence(true, true), Presence::Exited);
        assert_eq!(presence(false, true), Presence::Exiting);
        assert_eq!(presence(false, false), Presence::Running);
        for (realstat, realflag, expected) in [
            (1, 0, Presence::Running), // SIDL
            (2, 0, Presence::Running), // SACTIVE
            (2, 0x2000, Presence::Exiting),
            (2, 0x4000, Presence::Running),
            (2, 0x6000, Presence::Exiting),
            (3, 0, Presence::Exiting),
            (4, 0, Presence::Running), // SSTOP
            (5, 0x2000, Presence::Exited),
            (6, 0x2000, Presence::Exited),
        ] {
            assert_eq!(presence_on_netbsd(realstat, realflag), expected);
        }
        for (psflags, expected) in [
            (0, Presence::Running),
            (0x8, Presence::Exiting),
            (0x10, Presence::Running),
            (0x18, Presence::Exiting),
            (0x8_0000, Presence::Running),
            (0x4_0008, Presence::Exited),
            (0x4_0000, Presence::Exited),
        ] {
            assert_eq!(presence_on_openbsd(psflags), expected);
        }
    }
}
