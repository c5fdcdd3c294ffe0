//! The processes that are waited for.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use super::cgroup::Cgroup;
use crate::os;

/// The state of the killed processes while the contender collects their exits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The parent has not reaped the processes, as is usual for children of the waiting program.
    Zombie,
    /// The parent has reaped the processes, as is usual for children of another program.
    Reaped,
}

/// Children that sleep until they are killed.
///
/// They share the memory of this process, because a copy of the memory for each would take most of
/// the time of a run. All are in one process group, which the first of them leads, and in one cgroup.
pub(super) struct Sleepers {
    pub(super) pids: Vec<u32>,
    pub(super) state: State,
    /// The path of the cgroup, if there is one.
    pub(super) cgroup: Option<PathBuf>,
    reaped: Cell<bool>,
    /// Must outlive the children.
    stacks: Stacks,
}

impl Sleepers {
    pub(super) fn new(size: usize, state: State, cgroup: Option<&Cgroup>) -> io::Result<Sleepers> {
        match cgroup {
            Some(cgroup) => cgroup.start(|| Sleepers::start(size, state, Some(&cgroup.path)))?,
            None => Sleepers::start(size, state, None),
        }
    }

    fn start(size: usize, state: State, cgroup: Option<&Path>) -> io::Result<Sleepers> {
        let mut sleepers = Sleepers {
            pids: Vec::with_capacity(size),
            state,
            cgroup: cgroup.map(Path::to_owned),
            reaped: Cell::new(false),
            stacks: Stacks::new(size),
        };
        for index in 0..size {
            let stack = sleepers.stacks.top(index);
            let flags = libc::CLONE_VM | libc::SIGCHLD;
            // SAFETY: the child has a stack of its own, and makes only system calls, whose results it
            // ignores.
            match unsafe { libc::clone(sleep_for_ever, stack, flags, ptr::null_mut()) } {
                pid if pid > 0 => sleepers.pids.push(pid as u32),
                _ => return Err(io::Error::last_os_error()),
            }
            os::set_group(sleepers.pids[index], sleepers.pids[0]);
        }
        Ok(sleepers)
    }

    /// Kills all processes, and waits until all are zombies or reaped.
    pub(super) fn kill(&self) {
        self.pids.iter().copied().for_each(os::kill);
        match self.state {
            State::Zombie => self.pids.iter().copied().for_each(os::await_zombie),
            State::Reaped => {
                self.pids.iter().copied().for_each(os::reap);
                self.reaped.set(true);
            }
        }
        // Wait until the kernel has freed the memory of the processes, which it does later.
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        // After the reap, other processes may have these pids.
        if self.reaped.get() {
            return;
        }
        self.pids.iter().copied().for_each(os::kill);
        self.pids.iter().copied().for_each(os::reap);
    }
}

/// Runs in a child. Uses `syscall`, because other functions of libc may use the thread-local
/// variables, which belong to the parent.
extern "C" fn sleep_for_ever(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the call takes integers.
    unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_SET_PDEATHSIG,
            libc::SIGKILL,
            0,
            0,
            0,
        )
    };
    loop {
        // SAFETY: there are no descriptors, and the other pointers may be null.
        unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
    }
}

/// A stack for each child.
struct Stacks {
    base: *mut libc::c_void,
    count: usize,
}

impl Stacks {
    const SIZE: usize = 8192;

    fn new(count: usize) -> Stacks {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let size = count.max(1) * Stacks::SIZE;
        // SAFETY: the kernel chooses a new address for the mapping.
        let base = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        Stacks { base, count }
    }

    /// Returns the upper end of a stack.
    fn top(&self, index: usize) -> *mut libc::c_void {
        assert!(index < self.count);
        // SAFETY: the result is within the mapping, or at its end.
        unsafe { self.base.byte_add((index + 1) * Stacks::SIZE) }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // SAFETY: the children have been reaped, and nobody else uses the mapping.
        unsafe { libc::munmap(self.base, self.count.max(1) * Stacks::SIZE) };
    }
}
