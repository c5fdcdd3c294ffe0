//! The members of a process group, read from `/proc`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::str;
use std::time::{Duration, Instant};

use super::dirents::Dirents;
use super::pidfd::{self, Liveness};
use super::procfs::{self, OwnStatus, Stat};
use super::syscalls;
use crate::sys::{Group, GroupMembers};

/// A list of the processes in a group. The list is read in passes over all processes.
///
/// A pass is no snapshot. The kernel gives each child a higher pid than all earlier processes, until it
/// starts again at low numbers. A pass reads the pids in ascending order, each when its turn has come.
/// So a pass finds every chain of members in which each forks the next and exits, unless a pid of the chain is
/// lower than its parent's. This is so only for a parent that was there before the numbers started again.
/// All such parents have exited by the end of the first pass. So the second pass is exact, unless the
/// numbers start again in one of these two passes, see [`Start::precedes_exact_passes`].
pub(crate) struct GroupList {
    group: Group,
    directory: Dirents,
    is_started: bool,
    pub(crate) members: GroupMembers,
    /// The number of complete passes.
    passes: u32,
    /// The starts of the last four passes. `None` before the fourth.
    starts: [Option<Start>; 4],
}

/// The state of the system when a pass has started.
#[derive(Clone, Copy)]
struct Start {
    at: Instant,
    /// The last pid that the kernel has given out. `None` if the kernel does not show it.
    last_pid: Option<u32>,
}

impl Start {
    fn now() -> Start {
        Start {
            at: Instant::now(),
            last_pid: procfs::last_pid(),
        }
    }

    /// Whether two passes in a row are exact, of these passes that have ended `now`. `time_of_all_pids` is a
    /// time in which the kernel cannot give out all pids.
    ///
    /// In such a short time the numbers start again once at most. They have not if the last pid is no lower than
    /// before. If the kernel does not show it, two of four passes are without a new start.
    fn precedes_exact_passes(
        starts: [Option<Start>; 4],
        now: Start,
        time_of_all_pids: Duration,
    ) -> bool {
        let [first_of_four, _, first_of_two, _] = starts;
        let is_short =
            |start: Option<Start>| start.is_some_and(|start| now.at - start.at < time_of_all_pids);
        let has_no_new_start = || {
            let before = first_of_two.and_then(|start| start.last_pid);
            before.is_some_and(|before| now.last_pid.is_some_and(|last| before <= last))
        };
        is_short(first_of_four) || is_short(first_of_two) && has_no_new_start()
    }
}

impl GroupList {
    /// Starts a pass.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read, belongs to another pid namespace, or hides processes.
    pub(crate) fn start(group: Group) -> io::Result<GroupList> {
        if !procfs::proc_matches_our_pid_ns() || hides_processes() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(GroupList {
            group,
            directory: Dirents::new(File::open("/proc")?),
            is_started: false,
            members: GroupMembers::default(),
            passes: 0,
            starts: [None, None, None, Some(Start::now())],
        })
    }

    /// Starts the next pass, after a pass without a living member. Returns `false` if no other pass is needed.
    pub(crate) fn next_pass(&mut self) -> io::Result<bool> {
        /// After so many passes, the machine is too slow for a certain answer.
        const MAX_PASSES: u32 = 16;
        self.passes += 1;
        let now = Start::now();
        if self.passes == MAX_PASSES
            || Start::precedes_exact_passes(self.starts, now, time_of_all_pids())
        {
            return Ok(false);
        }
        let [_, second, third, fourth] = self.starts;
        self.starts = [second, third, fourth, Some(now)];
        self.is_started = false;
        self.members = GroupMembers::default();
        self.directory.seek(0)?;
        Ok(true)
    }

    /// Reads at most `max` processes. Returns whether the pass is complete.
    pub(crate) fn read(&mut self, max: usize) -> io::Result<bool> {
        if !self.is_started {
            self.skip_other_files()?;
            self.is_started = true;
        }
        for _ in 0..max {
            // Room for one pid. The kernel must not read ahead: a process that starts between two reads would be
            // missing.
            let mut buffer = [0; 40];
            let Some(entry) = self.directory.read(&mut buffer)?.next() else {
                return Ok(true);
            };
            if let Some(pid) = parse_pid(entry.name) {
                self.add(pid);
            }
        }
        Ok(false)
    }

    /// Skips the files before the first pid. Their names need more room.
    fn skip_other_files(&mut self) -> io::Result<()> {
        let mut position = 0;
        loop {
            let mut buffer = [0; 4096];
            let before = position;
            for entry in self.directory.read(&mut buffer)? {
                if parse_pid(entry.name).is_some() {
                    return self.directory.seek(position);
                }
                position = entry.next;
            }
            if position == before {
                return Ok(());
            }
        }
    }

    fn add(&mut self, pid: u32) {
        // This costs a tenth of reading `stat`, and works for hidden files too.
        if !self.group.contains(pid) {
            return;
        }
        match has_exited(pid) {
            Some(true) => self.members.has_zombies = true,
            // Reaped since.
            None if !self.group.contains(pid) => {}
            _ => self.members.alive.push(pid),
        }
    }
}

/// Whether the process with this pid has exited. `None` if there is no such process.
fn has_exited(pid: u32) -> Option<bool> {
    // A pidfd needs a fifth of the time that `stat` needs.
    let liveness = match super::open_pidfd(libc::pid_t::try_from(pid).ok()?) {
        Ok(pidfd) => pidfd::settled_liveness(pidfd.as_fd()).ok(),
        Err(libc::ESRCH) => Some(Liveness::Reaped),
        Err(_) => None,
    };
    match liveness {
        Some(Liveness::Running) => Some(false),
        Some(Liveness::Zombie) => Some(true),
        Some(Liveness::Reaped) => None,
        // The system refuses pidfds, or no descriptor is free.
        None => Stat::read(pid).map(|stat| stat.exited()),
    }
}

/// Returns a time in which the kernel certainly cannot give out all pids.
///
/// Assumes that half of the pids are in use, and that a CPU creates a thread in 5 µs. Creating a thread takes
/// at least twice that time, and a process ten times.
fn time_of_all_pids() -> Duration {
    /// `RESERVED_PIDS` of kernel/pid.c, where the kernel starts again.
    const RESERVED_PIDS: u32 = 300;
    const PER_PID: Duration = Duration::from_micros(5);
    let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max");
    let pid_max: u32 = pid_max.map_or(0, |text| text.trim().parse().unwrap_or(0));
    PER_PID * (pid_max.saturating_sub(RESERVED_PIDS) / 2) / syscalls::cpus()
}

fn parse_pid(name: &[u8]) -> Option<u32> {
    str::from_utf8(name).ok()?.parse().ok()
}

/// Whether `/proc` may hide processes: it is mounted with `hidepid=2` or `hidepid=4`, and this process has
/// not the right to see all.
fn hides_processes() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let Ok(mounts) = fs::read_to_string("/proc/thread-self/mounts") else {
        return true;
    };
    mounts_hide_processes(&mounts)
        && OwnStatus::read().is_none_or(|status| status.capabilities & CAP_SYS_PTRACE == 0)
}

fn mounts_hide_processes(mounts: &str) -> bool {
    // The last mount covers the others.
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .rfind(|fields| fields.get(1) == Some(&"/proc"));
    let options = mount.as_ref().and_then(|fields| fields.get(3));
    options.is_some_and(|options| {
        options.split(',').any(|option| {
            matches!(
                option,
                "hidepid=2" | "hidepid=4" | "hidepid=invisible" | "hidepid=ptraceable"
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hidepid_in_the_mounts() {
        let table = [
            ("proc /proc proc rw,relatime 0 0\n", false),
            ("proc /proc proc rw,hidepid=invisible 0 0\n", true),
            ("proc /proc proc rw,gid=5,hidepid=2 0 0\n", true),
            ("proc /proc proc rw,hidepid=1 0 0\n", false),
            ("proc /other proc rw,hidepid=2 0 0\n", false),
            (
                "proc /proc proc rw,hidepid=2 0 0\nproc /proc proc rw 0 0\n",
                false,
            ),
            ("", false),
        ];
        for (mounts, expected) in table {
            assert_eq!(mounts_hide_processes(mounts), expected, "{mounts}");
        }
    }

    #[test]
    fn two_of_the_passes_must_be_without_a_new_start() {
        let limit = Duration::from_secs(4);
        let begin = Instant::now();
        let start = |seconds, last_pid: u32| {
            Some(Start {
                at: begin + Duration::from_secs(seconds),
                last_pid: Some(last_pid).filter(|&pid| pid != 0),
            })
        };
        let table = [
            ([None, None, None, start(3, 500)], start(4, 500), false),
            (
                [None, None, start(2, 500), start(3, 501)],
                start(4, 502),
                true,
            ),
            (
                [None, None, start(2, 500), start(3, 501)],
                start(4, 500),
                true,
            ),
            (
                [None, None, start(2, 500), start(3, 501)],
                start(4, 301),
                false,
            ),
            // The first pass need not be one of the two.
            (
                [None, start(1, 900), start(2, 300), start(3, 301)],
                start(4, 302),
                true,
            ),
            // All pids may have been given out.
            (
                [None, None, start(2, 500), start(3, 501)],
                start(6, 502),
                false,
            ),
            // The kernel does not show the last pid.
            ([None, None, start(2, 0), start(3, 0)], start(4, 0), false),
            (
                [start(0, 0), start(1, 0), start(2, 0), start(3, 0)],
                start(4, 0),
                false,
            ),
            (
                [start(1, 0), start(2, 0), start(3, 0), start(4, 0)],
                start(4, 0),
                true,
            ),
        ];
        for (row, (starts, now, expected)) in table.into_iter().enumerate() {
            let is_exact = Start::precedes_exact_passes(starts, now.unwrap(), limit);
            assert_eq!(is_exact, expected, "row {row}");
        }
    }

    #[cfg(not(miri))]
    #[test]
    fn a_pass_finds_every_process_of_std_s_list() {
        let group = Group::new(crate::sys::group_of(std::process::id()).unwrap()).unwrap();
        let mut list = GroupList::start(group).unwrap();
        for _ in 0..2 {
            while !list.read(7).unwrap() {}
            assert!(list.members.alive.contains(&std::process::id()));
            assert!(list.members.alive.is_sorted());
            list.next_pass().unwrap();
        }
    }
}
