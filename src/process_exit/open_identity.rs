//! Opening a [`ProcessIdentity`].

use std::io;

use super::{ProcessExit, Source, exit_of, found};
use crate::error::OpenError;
use crate::identity::{Boot, KeyKind, Origin, PidNamespace, ProcessIdentity};
use crate::sys;

impl ProcessIdentity {
    /// Opens the process with this identity, to wait for its exit.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](io::ErrorKind::NotFound): the process has certainly exited and been reaped. Its pid may
    ///   belong to another process;
    /// - [`Unsupported`](io::ErrorKind::Unsupported): the process may be running, but this cannot be known
    ///   here. So do not start a second one. The identity is of another system, or on Linux it was
    ///   recorded in another container or namespace
    ///   ([all cases](crate::how_it_works#opening-an-identity-on-linux)). The message says what to do;
    /// - for an identity by `inode`, the error with which the system refuses a pidfd;
    /// - the errors of [`ProcessExit::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #![cfg_attr(not(target_os = "linux"), allow(unused_imports))]
    /// # #[cfg(target_os = "linux")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use tokio_process_exit::ProcessExit;
    ///
    /// let mut child = tokio::process::Command::new("cat")
    ///     .stdin(std::process::Stdio::piped())
    ///     .spawn()?;
    /// let pid = child.id().unwrap();
    /// let identity = ProcessExit::open(pid)?.identity()?;
    /// assert_eq!(identity.open()?.pid(), Some(pid));
    ///
    /// child.wait().await?;
    /// let error = identity.open().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_os = "linux"))]
    /// # fn main() {}
    /// ```
    pub fn open(&self) -> io::Result<ProcessExit> {
        self.open_verified()
            .map_err(|error| error.to_io_error(Some(self.pid)))
    }

    /// Opens the process with this identity, as [`open`](ProcessIdentity::open) does. `None` if the process
    /// has certainly exited and been reaped.
    ///
    /// # Errors
    ///
    /// The other errors of [`open`](ProcessIdentity::open). So `None` permits to start a new process in place
    /// of the old, and an error does not.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_process_exit::{ProcessExit, ProcessIdentity};
    ///
    /// fn find_daemon(line: &str) -> std::io::Result<Option<ProcessExit>> {
    ///     let identity: ProcessIdentity = line.parse().map_err(std::io::Error::other)?;
    ///     identity.find()
    /// }
    /// ```
    pub fn find(&self) -> io::Result<Option<ProcessExit>> {
        found(self.open())
    }

    fn open_verified(&self) -> Result<ProcessExit, OpenError> {
        let here = sys::origin(self.key.kind)
            .map_err(|error| system_error(&error).unwrap_or(OpenError::Unverifiable))?;
        let boots = compare_boots(self.origin.boot, here.boot)?;
        // Open the process before reading its key: otherwise the pid could be recycled in between.
        let process = exit_of(self.pid.get());
        let owner = self.owner_of_pid(&process)?;
        let recorded = (self.key.kind, &self.origin);
        let has_exited = |namespace| sys::has_exited_elsewhere(self.key, namespace);
        check(recorded, &here, boots, owner, has_exited).map(|()| process)
    }

    /// Compares the process that has the pid with this identity.
    fn owner_of_pid(&self, process: &ProcessExit) -> Result<PidOwner, OpenError> {
        match process.source {
            Source::Failed(OpenError::NoSuchProcess) => return Ok(PidOwner::Nobody),
            Source::Failed(OpenError::Thread { .. }) => return Ok(PidOwner::Thread),
            Source::Failed(error) => return Err(error),
            _ => {}
        }
        match process.identity_key(Some(self.key.kind)) {
            Ok(key) if key.is_same(self.key, sys::KEY_ROUNDING) => Ok(PidOwner::SameKey),
            Ok(_) => Ok(PidOwner::AnotherKey),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(PidOwner::Nobody),
            Err(error) => {
                let refusal = process.fallback_reason().and_then(system_error);
                let error = system_error(&error).or(refusal);
                Err(error.unwrap_or(OpenError::Unverifiable))
            }
        }
    }
}

fn system_error(error: &io::Error) -> Option<OpenError> {
    error.raw_os_error().map(OpenError::System)
}

/// The owner of the identity's pid in our pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PidOwner {
    Nobody,
    /// A thread of a process with another pid.
    Thread,
    /// A process whose key equals the identity's.
    SameKey,
    /// A process with another key.
    AnotherKey,
}

/// The boot of an identity and the boot of this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boots {
    Same,
    /// The ids differ, but at least one of them is not the system's own.
    Unclear,
}

fn compare_boots(recorded: Option<Boot>, here: Option<Boot>) -> Result<Boots, OpenError> {
    match (recorded, here) {
        (None, None) => Ok(Boots::Same),
        (Some(recorded), Some(here)) if recorded.id == here.id => Ok(Boots::Same),
        (Some(recorded), Some(here)) if recorded.is_mounted || here.is_mounted => {
            Ok(Boots::Unclear)
        }
        (Some(_), Some(_)) => Err(OpenError::EarlierBoot),
        _ => Err(OpenError::Unverifiable),
    }
}

/// Decides whether the owner of the pid is the process of an identity.
///
/// The table in `src/how_it_works.md` lists all cases. Three facts are behind it:
///
/// - Two namespaces never have the same inode at the same time. If our pid namespace has the recorded
///   inode, the recorded namespace is ours, or it has ended with all of its processes.
/// - A reboot ends all processes. So if it is unclear whether the system has rebooted, a proof of the exit
///   that assumes no reboot is enough.
/// - `stat` shows start times by the clock of the reader's time namespace. Equal inodes prove equal clocks
///   only if the inode is never recycled: that of the initial time namespace.
fn check(
    (kind, recorded): (KeyKind, &Origin),
    here: &Origin,
    boots: Boots,
    owner: PidOwner,
    has_exited_elsewhere: impl FnOnce(PidNamespace) -> bool,
) -> Result<(), OpenError> {
    let is_same_clock = recorded.time_namespace == here.time_namespace;
    let pid_namespaces = match (recorded.pid_namespace, here.pid_namespace) {
        (Some(recorded), Some(here)) => Some((recorded, here)),
        // No other system has pid namespaces.
        _ => None,
    };
    let is_same_inode = pid_namespaces.is_none_or(|(recorded, here)| recorded.inode == here.inode);
    let is_recycled = pid_namespaces.is_some_and(|(recorded, here)| {
        is_same_inode && recorded.id.is_some() && here.id.is_some() && recorded.id != here.id
    });
    let is_here = is_same_inode && !is_recycled;

    if owner == PidOwner::SameKey {
        // No two processes of one boot have the same inode.
        let is_proof = kind == KeyKind::Inode || is_here && is_same_clock;
        match boots {
            Boots::Same if is_proof => return Ok(()),
            Boots::Unclear if is_here && is_same_clock => return Err(OpenError::UnclearBoot),
            _ => {}
        }
    }
    if let Some((recorded, _)) = pid_namespaces.filter(|_| !is_here) {
        return Err(match is_recycled || has_exited_elsewhere(recorded) {
            true => OpenError::ExitedElsewhere,
            false => OpenError::AnotherPidNamespace,
        });
    }
    match owner {
        PidOwner::Nobody => Err(OpenError::NoSuchProcess),
        PidOwner::Thread => Err(OpenError::AnotherProcess),
        PidOwner::SameKey | PidOwner::AnotherKey => {
            let is_comparable = match recorded.time_namespace {
                Some(inode) => is_same_clock && inode == INITIAL_TIME_NAMESPACE,
                None => is_same_clock,
            };
            Err(match is_comparable {
                true => OpenError::AnotherProcess,
                false => OpenError::AnotherTimeNamespace,
            })
        }
    }
}

/// `TIME_NS_INIT_INO` of include/uapi/linux/nsfs.h.
const INITIAL_TIME_NAMESPACE: u64 = 0xefff_fffa;

#[cfg(test)]
mod tests {
    use super::PidOwner::{AnotherKey, Nobody, SameKey, Thread};
    use super::*;
    use OpenError::{
        AnotherPidNamespace, AnotherProcess, AnotherTimeNamespace, EarlierBoot, ExitedElsewhere,
        NoSuchProcess, UnclearBoot,
    };

    /// Where an identity is recorded or opened: the pid namespace, its id, and the time namespace.
    fn origin(inode: u64, id: Option<u64>, time_namespace: Option<u64>) -> Origin {
        Origin {
            pid_namespace: Some(PidNamespace { inode, id }),
            time_namespace,
            boot: None,
        }
    }

    fn boot(id: u8, is_mounted: bool) -> Option<Boot> {
        let id = format!("{id:08x}-0000-0000-0000-000000000000");
        Some(Boot {
            id: id.parse().unwrap(),
            is_mounted,
        })
    }

    #[test]
    fn boots_differ_only_if_both_ids_are_genuine() {
        let table = [
            (None, None, Ok(Boots::Same)),
            (None, boot(1, false), Err(OpenError::Unverifiable)),
            (boot(1, false), None, Err(OpenError::Unverifiable)),
            (boot(1, false), boot(1, false), Ok(Boots::Same)),
            (boot(1, false), boot(1, true), Ok(Boots::Same)),
            (boot(1, true), boot(1, true), Ok(Boots::Same)),
            (boot(1, false), boot(2, false), Err(EarlierBoot)),
            (boot(1, false), boot(2, true), Ok(Boots::Unclear)),
            (boot(1, true), boot(2, false), Ok(Boots::Unclear)),
            (boot(1, true), boot(2, true), Ok(Boots::Unclear)),
        ];
        for (recorded, here, expected) in table {
            assert_eq!(compare_boots(recorded, here), expected);
        }
    }

    /// The pid namespace of an identity, as seen from ours.
    #[derive(Clone, Copy, Debug)]
    enum Place {
        /// Ours, by its id.
        Ours,
        /// Ours, or an earlier namespace with the same inode.
        SameInode,
        /// An earlier namespace with the same inode.
        Recycled,
        /// Another namespace, in which the process has certainly exited.
        Ended,
        /// Another namespace, in which the process may be running.
        Another,
    }
    use Place::{Another, Ended, Ours, Recycled, SameInode};

    /// Checks an identity that was recorded at `place`. `clocks`: the two time namespaces.
    fn checked(
        kind: KeyKind,
        place: Place,
        clocks: (Option<u64>, Option<u64>),
        boots: Boots,
        owner: PidOwner,
    ) -> Result<(), OpenError> {
        let (inode, id) = match place {
            Ours => (1, Some(10)),
            SameInode => (1, None),
            Recycled => (1, Some(9)),
            Ended | Another => (2, Some(20)),
        };
        let (recorded, here) = (origin(inode, id, clocks.0), origin(1, Some(10), clocks.1));
        check((kind, &recorded), &here, boots, owner, |namespace| {
            assert_eq!(namespace.inode, 2);
            matches!(place, Ended)
        })
    }

    #[test]
    fn inode_is_proof_in_every_namespace() {
        let check =
            |place, boots, owner| checked(KeyKind::Inode, place, (None, None), boots, owner);
        for place in [Ours, SameInode, Recycled, Ended, Another] {
            assert_eq!(check(place, Boots::Same, SameKey), Ok(()), "{place:?}");
        }
        for boots in [Boots::Same, Boots::Unclear] {
            for owner in [Nobody, Thread, AnotherKey] {
                for (place, gone) in [
                    (Ours, None),
                    (SameInode, None),
                    (Recycled, Some(ExitedElsewhere)),
                    (Ended, Some(ExitedElsewhere)),
                    (Another, Some(AnotherPidNamespace)),
                ] {
                    let expected = gone.unwrap_or(match owner {
                        Nobody => NoSuchProcess,
                        _ => AnotherProcess,
                    });
                    let result = check(place, boots, owner);
                    assert_eq!(result, Err(expected), "{place:?} {boots:?} {owner:?}");
                }
            }
        }
        for (place, expected) in [
            (Ours, UnclearBoot),
            (SameInode, UnclearBoot),
            // Without a reboot, a process with this inode would have exited.
            (Recycled, ExitedElsewhere),
            (Ended, ExitedElsewhere),
            (Another, AnotherPidNamespace),
        ] {
            let result = check(place, Boots::Unclear, SameKey);
            assert_eq!(result, Err(expected), "{place:?}");
        }
    }

    #[test]
    fn start_time_is_compared_in_its_namespaces_only() {
        const INITIAL: Option<u64> = Some(INITIAL_TIME_NAMESPACE);
        let same_clock = [(None, None), (INITIAL, INITIAL)];
        // The second and third inode may have been recycled.
        let other_clock = [
            (INITIAL, Some(5)),
            (Some(5), INITIAL),
            (Some(5), Some(6)),
            (None, INITIAL),
        ];
        let perhaps_same_clock = (Some(5), Some(5));
        let check =
            |place, clocks, boots, owner| checked(KeyKind::Start, place, clocks, boots, owner);
        let all_clocks = || {
            let same = same_clock.into_iter().chain(other_clock);
            same.chain([perhaps_same_clock])
        };
        for place in [Ours, SameInode] {
            for clocks in same_clock.into_iter().chain([perhaps_same_clock]) {
                assert_eq!(check(place, clocks, Boots::Same, SameKey), Ok(()));
                let unclear = check(place, clocks, Boots::Unclear, SameKey);
                assert_eq!(unclear, Err(UnclearBoot));
            }
            for boots in [Boots::Same, Boots::Unclear] {
                for clocks in all_clocks() {
                    // A missing process needs no clock.
                    assert_eq!(check(place, clocks, boots, Nobody), Err(NoSuchProcess));
                    assert_eq!(check(place, clocks, boots, Thread), Err(AnotherProcess));
                }
                for clocks in same_clock {
                    assert_eq!(check(place, clocks, boots, AnotherKey), Err(AnotherProcess));
                }
                for clocks in other_clock {
                    for owner in [SameKey, AnotherKey] {
                        let result = check(place, clocks, boots, owner);
                        assert_eq!(result, Err(AnotherTimeNamespace), "{clocks:?}");
                    }
                }
                let result = check(place, perhaps_same_clock, boots, AnotherKey);
                assert_eq!(result, Err(AnotherTimeNamespace));
            }
        }
        for (place, expected) in [
            (Recycled, ExitedElsewhere),
            (Ended, ExitedElsewhere),
            (Another, AnotherPidNamespace),
        ] {
            for clocks in all_clocks() {
                for boots in [Boots::Same, Boots::Unclear] {
                    for owner in [Nobody, Thread, SameKey, AnotherKey] {
                        let result = check(place, clocks, boots, owner);
                        assert_eq!(result, Err(expected), "{place:?} {owner:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn systems_without_namespaces_compare_the_key() {
        let nowhere = Origin::default();
        for kind in [KeyKind::Start, KeyKind::Unique] {
            for (owner, expected) in [
                (SameKey, Ok(())),
                (AnotherKey, Err(AnotherProcess)),
                (Nobody, Err(NoSuchProcess)),
            ] {
                let result = check((kind, &nowhere), &nowhere, Boots::Same, owner, |_| false);
                assert_eq!(result, expected);
            }
        }
    }
}
