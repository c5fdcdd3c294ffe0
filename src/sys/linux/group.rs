//! The members of a process group, read from `/proc`.

use std::fs::{self, File};
use std::io;
use std::str;
use std::time::{Duration, Instant};

use super::dirents::Dirents;
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
/// numbers start again in one of these two passes. Of four passes, two in a row are without a new start if the four
/// take less time than the kernel needs for all numbers, see [`time_of_all_pids`].
pub(crate) struct GroupList {
    group: Group,
    directory: Dirents,
    is_started: bool,
    pub(crate) members: GroupMembers,
    /// The number of complete passes.
    passes: u32,
    /// When the last four passes have started. `None` before the fourth.
    started: [Option<Instant>; 4],
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
            started: [None, None, None, Some(Instant::now())],
        })
    }

    /// Starts the next pass, after a pass without a living member. Returns `false` if no other pass is needed.
    pub(crate) fn next_pass(&mut self) -> io::Result<bool> {
        /// After so many passes, the machine is too slow for a certain answer.
        const MAX_PASSES: u32 = 16;
        self.passes += 1;
        let now = Instant::now();
        let [first, rest @ ..] = self.started;
        let is_certain = first.is_some_and(|first| now - first < time_of_all_pids());
        if is_certain || self.passes == MAX_PASSES {
            return Ok(false);
        }
        self.started = [rest[0], rest[1], rest[2], Some(now)];
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
        match Stat::read(pid) {
            Some(stat) if stat.exited() => self.members.has_zombies = true,
            // Reaped since.
            None if !self.group.contains(pid) => {}
            _ => self.members.alive.push(pid),
        }
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
