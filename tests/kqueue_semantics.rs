//! Promise: the answers of kernels with kqueue are interpreted as their sources say.
//!
//! The tested functions are pure, so these tables are checked on every system.

#[allow(dead_code, reason = "some functions are for one system")]
#[path = "../src/sys/kqueue/semantics.rs"]
mod semantics;

use semantics::*;

const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
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
    for (presence, expected, where_zombies_are_accepted) in [
        (
            Presence::Gone,
            EsrchCause::NoSuchProcess,
            EsrchCause::NoSuchProcess,
        ),
        (Presence::Zombie, EsrchCause::Zombie, EsrchCause::Recycled),
        (Presence::Exiting, EsrchCause::Exiting, EsrchCause::Recycled),
        (Presence::Hidden, EsrchCause::Exiting, EsrchCause::Recycled),
        (
            Presence::Running,
            EsrchCause::Recycled,
            EsrchCause::Recycled,
        ),
    ] {
        for system in [System::Xnu, System::NetBsd, System::OpenBsd] {
            assert_eq!(esrch_cause(system, presence), expected);
        }
        for system in [System::FreeBsd, System::DragonFly] {
            let cause = esrch_cause(system, presence);
            assert_eq!(cause, where_zombies_are_accepted);
        }
    }
}

#[test]
fn an_exited_process_exists_until_its_reap() {
    use Presence::{Exiting, Gone, Hidden, Running, Zombie};
    for (presence, same, was_zombie, reaped) in [
        (Exiting, None, false, false),
        (Exiting, Some(true), false, false),
        (Zombie, None, false, false),
        (Zombie, None, true, false),
        (Zombie, Some(true), true, false),
        (Hidden, None, true, false),
        (Gone, None, false, true),
        // The pid has been recycled.
        (Running, None, false, true),
        (Exiting, None, true, true),
        (Exiting, Some(false), false, true),
        (Zombie, Some(false), false, true),
        (Hidden, Some(false), false, true),
    ] {
        assert_eq!(
            is_reaped_after_exit(presence, same, was_zombie),
            reaped,
            "{presence:?} {same:?} {was_zombie}"
        );
    }
}

#[test]
fn distrusts_a_filter_added_during_the_exit() {
    use Attachment::{AddAgain, Reliable, Unreliable};
    use Presence::{Exiting, Gone, Hidden, Running, Zombie};
    use System::{DragonFly, FreeBsd, NetBsd, OpenBsd, Xnu};
    for system in [Xnu, FreeBsd, NetBsd, OpenBsd, DragonFly] {
        for (before, same, after, expected) in [
            (Running, Some(true), Running, Reliable),
            (Running, None, Running, Reliable),
            (Hidden, None, Hidden, Reliable),
            // The pid has been recycled meanwhile, or may have been.
            (Running, Some(false), Running, AddAgain),
            (Exiting, Some(false), Zombie, AddAgain),
            (Gone, None, Running, AddAgain),
            (Zombie, None, Running, AddAgain),
            (Running, None, Gone, AddAgain),
            (Running, None, Hidden, AddAgain),
        ] {
            assert_eq!(attachment(system, before, same, after), expected);
        }
    }
    for (system, before, same, after, expected) in [
        // The event is dropped while the filter is added, unless the process was exiting before.
        (FreeBsd, Running, Some(true), Exiting, AddAgain),
        (FreeBsd, Running, Some(true), Zombie, AddAgain),
        (FreeBsd, Exiting, Some(true), Exiting, Reliable),
        (FreeBsd, Exiting, Some(true), Zombie, Reliable),
        (FreeBsd, Zombie, Some(true), Zombie, Reliable),
        (FreeBsd, Exiting, None, Exiting, AddAgain),
        (OpenBsd, Running, Some(true), Exiting, AddAgain),
        (OpenBsd, Running, None, Zombie, AddAgain),
        (DragonFly, Running, Some(true), Exiting, Unreliable),
        (DragonFly, Exiting, Some(true), Exiting, Unreliable),
        (DragonFly, Running, None, Zombie, AddAgain),
        (DragonFly, Zombie, None, Zombie, Reliable),
        // These do not drop the event.
        (Xnu, Running, Some(true), Exiting, Reliable),
        (Xnu, Running, Some(true), Zombie, Reliable),
        (NetBsd, Running, Some(true), Exiting, Reliable),
        // A second filter is refused, and the zombie's entry has the status.
        (NetBsd, Running, None, Zombie, AddAgain),
    ] {
        assert_eq!(
            attachment(system, before, same, after),
            expected,
            "{system:?} {before:?} {after:?}"
        );
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
