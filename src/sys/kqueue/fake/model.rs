//! A kernel: processes, kqueues and the process table.
//!
//! Processes exit in steps, as the kernels' sources say: the process is exiting, then the kernel posts
//! `NOTE_EXIT`, then the process is a zombie, then it is reaped and the pid is free. Other processes
//! proceed before and after each system call, and where a kernel can be preempted while it adds a filter.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use super::super::Status;
use super::super::proc_info::Entry;
use super::super::semantics::{Presence, System};
use super::process::{Phase, Process};

pub(crate) type Flags = u16;

pub(crate) const EVFILT_PROC: i16 = -5;
pub(crate) const EV_ADD: Flags = 0x1;
pub(crate) const EV_DELETE: Flags = 0x2;
pub(crate) const EV_ONESHOT: Flags = 0x10;
pub(crate) const NOTE_EXIT: u32 = 0x8000_0000;
pub(crate) const NOTE_EXITSTATUS: u32 = 0x0400_0000;

/// A filter in a kqueue.
#[derive(Debug)]
struct Knote {
    pid: libc::pid_t,
    /// The number of the process.
    process: usize,
    fflags: u32,
    state: KnoteState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KnoteState {
    /// FreeBSD: `knote` skips the filter, because `kqueue_register` is at work on it.
    InFlux,
    /// On the process's list.
    Attached,
    /// The event has this number, by which events are ordered.
    Active(u64),
    /// On the list of a process that has posted `NOTE_EXIT` already.
    Lost,
}

pub(super) struct Event {
    pub(super) pid: libc::pid_t,
    pub(super) fflags: u32,
    pub(super) data: isize,
}

struct Kqueue {
    /// The number that the backend has. It owns that end of the pair.
    fd: libc::c_int,
    /// Our end. A byte makes the backend's end readable, for tokio's reactor.
    ours: UnixStream,
    knotes: Vec<Knote>,
}

/// How likely each thing is, in percent. Drawn anew for each seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds {
    pub(crate) preempt: u8,
    pub(crate) exhausted: u8,
    pub(crate) foreign: u8,
    pub(crate) pids: i32,
    /// The least number of system calls after which a free pid is used again. Not percent.
    pub(crate) calls_until_reuse: u64,
}

pub(crate) struct Model {
    pub(super) system: System,
    pub(super) rng: fastrand::Rng,
    pub(crate) odds: Odds,
    /// All processes that have ever lived, by their number.
    pub(crate) processes: Vec<Process>,
    /// The processes that have a pid.
    by_pid: BTreeMap<libc::pid_t, usize>,
    /// For each pid that is free again, the number of the system call during which it became free.
    freed: BTreeMap<libc::pid_t, u64>,
    kqueues: Vec<Kqueue>,
    /// The number of system calls so far.
    calls: u64,
    /// The number of steps so far.
    pub(crate) now: u64,
    /// The sum of all steps by which the clock has been set.
    clock: i64,
    /// The processes that have been signalled, by their number.
    pub(crate) signalled: Vec<usize>,
    /// The number of events that were lost while their filters were added.
    pub(crate) lost: u64,
}

const FIRST_PID: libc::pid_t = 100;

impl Model {
    pub(super) fn new(system: System, mut rng: fastrand::Rng) -> Model {
        let mut odds = Odds {
            preempt: *rng.choice(&[5, 20, 50]).unwrap(),
            exhausted: *rng.choice(&[0, 0, 0, 10, 50]).unwrap(),
            foreign: *rng.choice(&[0, 30]).unwrap(),
            pids: *rng.choice(&[1, 2, 4, 8]).unwrap(),
            calls_until_reuse: *rng.choice(&[1, 3, 20]).unwrap(),
        };
        if system == System::DragonFly && odds.foreign > 0 {
            // Documented: whether a zombie of another user has been reaped is not known while polling.
            odds.exhausted = 0;
        }
        if system == System::DragonFly {
            // Nothing distinguishes a zombie from another zombie, not even while a filter is added.
            odds.calls_until_reuse = 20;
        }
        let mut model = Model {
            system,
            rng,
            odds,
            processes: Vec::new(),
            by_pid: BTreeMap::new(),
            freed: BTreeMap::new(),
            kqueues: Vec::new(),
            calls: 0,
            now: 0,
            clock: 0,
            signalled: Vec::new(),
            lost: 0,
        };
        model.start(std::process::id() as libc::pid_t);
        model
    }

    /// Lets other processes proceed, or not.
    pub(super) fn preempt(&mut self) {
        while self.rng.u8(0..100) < self.odds.preempt {
            self.step();
        }
    }

    /// Lets one other process proceed.
    pub(crate) fn step(&mut self) {
        let pid = FIRST_PID + self.rng.i32(0..self.odds.pids);
        match self.by_pid.get(&pid).copied() {
            None if self.may_reuse(pid) => self.start(pid),
            None => {}
            Some(number) => {
                let is_running = self.processes[number].phase == Phase::Running;
                // Let most processes run for a while.
                if !is_running || self.rng.u8(0..4) == 0 {
                    self.proceed(number);
                }
            }
        }
        if self.rng.u16(0..500) == 0 {
            self.clock += self.rng.i64(-5_000_000..5_000_000);
        }
    }

    fn may_reuse(&mut self, pid: libc::pid_t) -> bool {
        let calls = self.calls - self.freed.get(&pid).unwrap_or(&0);
        calls >= self.odds.calls_until_reuse && self.rng.u8(0..8) == 0
    }

    /// Counts a system call.
    pub(crate) fn count_call(&mut self) {
        self.calls += 1;
    }

    fn start(&mut self, pid: libc::pid_t) {
        self.now += 1;
        // Few processes have the same status, so the oracle knows whose a status is.
        let number = self.processes.len() as i32;
        let status = match self.rng.u8(0..10) {
            0 => 0,
            _ => (number & 0xff) << 8 | number >> 8 & 0x7f,
        };
        let is_foreign = self.rng.u8(0..100) < self.odds.foreign;
        self.by_pid.insert(pid, self.processes.len());
        self.processes.push(Process {
            pid,
            phase: Phase::Running,
            status: Status(status),
            born: self.now,
            reaped: None,
            // Two processes that start in the same microsecond do not have the same pid.
            start: self.now as i64 * 10,
            is_child: self.rng.bool(),
            is_foreign,
        });
    }

    /// Lets a process take the next step of its exit.
    pub(crate) fn proceed(&mut self, number: usize) {
        self.now += 1;
        let process = &mut self.processes[number];
        process.phase = match process.phase {
            Phase::Running => Phase::Exiting,
            Phase::Exiting => Phase::Posted,
            Phase::Posted => Phase::Zombie,
            Phase::Zombie | Phase::Reaped => Phase::Reaped,
        };
        match process.phase {
            Phase::Posted => self.post(number),
            Phase::Reaped => {
                process.reaped = Some(self.now);
                self.by_pid.remove(&process.pid);
                self.freed.insert(process.pid, self.calls);
            }
            _ => {}
        }
    }

    /// Posts `NOTE_EXIT` to the filters of a process.
    fn post(&mut self, number: usize) {
        for kqueue in 0..self.kqueues.len() {
            for knote in 0..self.kqueues[kqueue].knotes.len() {
                let this = &mut self.kqueues[kqueue].knotes[knote];
                match this.state {
                    KnoteState::Attached if this.process == number => self.activate(kqueue, knote),
                    KnoteState::InFlux if this.process == number => {
                        this.state = KnoteState::Lost;
                        self.lost += 1;
                    }
                    _ => {}
                }
            }
        }
    }

    fn activate(&mut self, kqueue: usize, knote: usize) {
        self.now += 1;
        let kqueue = &mut self.kqueues[kqueue];
        kqueue.knotes[knote].state = KnoteState::Active(self.now);
        // The peer may have been closed, or its buffer be full. Then it is readable.
        let _ = kqueue.ours.write(&[0]);
    }

    pub(super) fn kqueue(&mut self, preempted: bool) -> Result<libc::c_int, i32> {
        if preempted && self.rng.u8(0..100) < self.odds.exhausted {
            let is_freebsd = self.system == System::FreeBsd;
            return Err(if is_freebsd && self.rng.bool() {
                libc::ENOMEM
            } else {
                libc::EMFILE
            });
        }
        self.remove_closed();
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let fd = theirs.into_raw_fd();
        self.kqueues.push(Kqueue {
            fd,
            ours,
            knotes: Vec::new(),
        });
        Ok(fd)
    }

    /// Removes the kqueues that the backend has closed, with their filters.
    fn remove_closed(&mut self) {
        // Nobody writes to our end, so it is readable only once the other end has been closed.
        self.kqueues.retain_mut(|kqueue| {
            kqueue
                .ours
                .read(&mut [0])
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
    }

    /// Returns the number of kqueues, and that of filters which have not fired.
    pub(crate) fn open(&mut self) -> (usize, usize) {
        self.remove_closed();
        let knotes = self.kqueues.iter().map(|kqueue| kqueue.knotes.len()).sum();
        (self.kqueues.len(), knotes)
    }

    fn find(&mut self, fd: libc::c_int) -> usize {
        self.remove_closed();
        let found = self.kqueues.iter().position(|kqueue| kqueue.fd == fd);
        found.expect("the backend passes a kqueue that it has not closed")
    }

    pub(super) fn change(
        &mut self,
        fd: libc::c_int,
        pid: libc::pid_t,
        flags: Flags,
        fflags: u32,
        preempted: bool,
    ) -> Result<libc::c_int, i32> {
        assert!(
            pid > 0,
            "a kernel has processes of its own that are 0 or less"
        );
        let kqueue = self.find(fd);
        let old = self.kqueues[kqueue]
            .knotes
            .iter()
            .position(|knote| knote.pid == pid);
        if flags & EV_DELETE != 0 {
            let old = old.ok_or(libc::ENOENT)?;
            self.kqueues[kqueue].knotes.remove(old);
            return Ok(0);
        }
        assert_eq!(flags & EV_ADD, EV_ADD);
        if let Some(old) = old {
            // The kernel changes the filter, whether or not its process still lives.
            self.kqueues[kqueue].knotes[old].fflags = fflags;
            return Ok(0);
        }
        if preempted && self.rng.u8(0..100) < self.odds.exhausted {
            return Err(libc::ENOMEM);
        }
        self.add(kqueue, pid, fflags, preempted).map(|()| 0)
    }

    fn add(
        &mut self,
        kqueue: usize,
        pid: libc::pid_t,
        fflags: u32,
        preempted: bool,
    ) -> Result<(), i32> {
        let &number = self.by_pid.get(&pid).ok_or(libc::ESRCH)?;
        let Process {
            phase,
            is_child,
            is_foreign,
            ..
        } = self.processes[number];
        let is_running = phase == Phase::Running;
        let fires_at_once = match self.system {
            System::FreeBsd => !is_running,
            System::DragonFly => phase == Phase::Zombie,
            // `proc_find` finds a process until its references have been drained, early in its exit.
            System::Xnu | System::NetBsd | System::OpenBsd if !is_running => {
                return Err(libc::ESRCH);
            }
            System::Xnu if fflags & NOTE_EXITSTATUS != 0 && !is_child && is_foreign => {
                return Err(libc::EACCES);
            }
            System::NetBsd if is_foreign => return Err(libc::EACCES),
            _ => false,
        };
        let preempt = |model: &mut Model| {
            if preempted {
                model.preempt();
            }
        };
        let mut knote = Knote {
            pid,
            process: number,
            fflags,
            state: KnoteState::Attached,
        };
        if fires_at_once {
            self.kqueues[kqueue].knotes.push(knote);
            let last = self.kqueues[kqueue].knotes.len() - 1;
            self.activate(kqueue, last);
            return Ok(());
        }
        match self.system {
            System::Xnu | System::NetBsd => self.kqueues[kqueue].knotes.push(knote),
            System::FreeBsd => {
                knote.state = KnoteState::InFlux;
                self.kqueues[kqueue].knotes.push(knote);
                preempt(self);
                let knotes = &mut self.kqueues[kqueue].knotes;
                let knote = knotes.iter_mut().find(|knote| knote.pid == pid).unwrap();
                if knote.state == KnoteState::InFlux {
                    knote.state = KnoteState::Attached;
                }
            }
            System::OpenBsd | System::DragonFly => {
                // The thread may sleep before it inserts the filter into the list.
                preempt(self);
                if self.processes[number].phase >= Phase::Posted {
                    knote.state = KnoteState::Lost;
                    self.lost += 1;
                }
                self.kqueues[kqueue].knotes.push(knote);
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, fd: libc::c_int, room: usize) -> Result<Vec<Event>, i32> {
        let system = self.system;
        let kqueue = self.find(fd);
        let Model {
            kqueues, processes, ..
        } = self;
        let kqueue = &mut kqueues[kqueue];
        let mut events = Vec::new();
        let first_active = |knotes: &[Knote]| {
            let active = knotes
                .iter()
                .enumerate()
                .filter_map(|(n, knote)| match knote.state {
                    KnoteState::Active(since) => Some((since, n)),
                    _ => None,
                });
            active.min().map(|(_, n)| n)
        };
        while events.len() < room {
            let Some(first) = first_active(&kqueue.knotes) else {
                break;
            };
            // EV_ONESHOT: the filter ends.
            let knote = kqueue.knotes.remove(first);
            let status = processes[knote.process].status.0 as isize;
            let has_status = system != System::Xnu || knote.fflags & NOTE_EXITSTATUS != 0;
            events.push(Event {
                pid: knote.pid,
                fflags: knote.fflags,
                data: if has_status { status } else { 0 },
            });
        }
        if first_active(&kqueue.knotes).is_none() {
            let mut bytes = [0_u8; 256];
            loop {
                let (buffer, len) = (bytes.as_mut_ptr().cast(), bytes.len());
                // SAFETY: `bytes` is writable for `len` bytes, and the backend has the descriptor open.
                let read = unsafe { libc::recv(kqueue.fd, buffer, len, libc::MSG_DONTWAIT) };
                if read <= 0 {
                    break;
                }
            }
        }
        Ok(events)
    }

    pub(super) fn entry(&self, pid: libc::pid_t) -> Option<Entry> {
        let process = &self.processes[*self.by_pid.get(&pid)?];
        let is_zombie = process.phase == Phase::Zombie;
        let presence = match process.phase {
            Phase::Running => Presence::Running,
            Phase::Exiting | Phase::Posted => Presence::Exiting,
            Phase::Zombie if self.system.hides_zombies() => return None,
            Phase::Zombie => Presence::Zombie,
            Phase::Reaped => return None,
        };
        let shows_start = !is_zombie || matches!(self.system, System::FreeBsd | System::Xnu);
        let start = match self.system.start_follows_clock() {
            true => process.start + self.clock,
            false => process.start,
        };
        let shows_status = match self.system {
            System::FreeBsd | System::NetBsd => is_zombie,
            System::Xnu => is_zombie && !process.is_foreign,
            System::OpenBsd | System::DragonFly => false,
        };
        Some(Entry::new(
            presence,
            shows_start.then_some(start),
            shows_status.then_some(process.status),
        ))
    }

    pub(super) fn time_of_boot(&self) -> i64 {
        self.clock
    }

    pub(super) fn kill(&mut self, pid: libc::pid_t, signal: i32) -> Result<(), i32> {
        assert!(pid > 0, "0 and negative numbers are groups");
        let &number = self.by_pid.get(&pid).ok_or(libc::ESRCH)?;
        if self.processes[number].is_foreign {
            return Err(libc::EPERM);
        }
        if signal != 0 {
            self.signalled.push(number);
        }
        Ok(())
    }

    /// `waitid` with `WNOWAIT`. `None` if the process is not our child.
    pub(super) fn child_status(&self, pid: libc::pid_t) -> Option<Option<Status>> {
        let process = &self.processes[*self.by_pid.get(&pid)?];
        let is_waitable = process.phase == Phase::Zombie;
        process
            .is_child
            .then(|| is_waitable.then_some(process.status))
    }

    /// Returns the numbers of the processes that had the pid at any time since.
    pub(crate) fn owners(&self, pid: libc::pid_t, since: u64) -> Vec<usize> {
        let had_pid = |process: &Process| {
            process.pid == pid && process.reaped.is_none_or(|reaped| reaped > since)
        };
        let all = self.processes.iter().enumerate();
        all.filter(|(_, process)| had_pid(process))
            .map(|(number, _)| number)
            .collect()
    }

    /// Returns the numbers of the living processes, without that of this process.
    pub(crate) fn living(&self) -> Vec<usize> {
        let this = std::process::id() as libc::pid_t;
        let others = self.by_pid.iter().filter(|&(&pid, _)| pid != this);
        others.map(|(_, &number)| number).collect()
    }

    /// Returns a pid that a process may have.
    pub(crate) fn any_pid(&mut self) -> libc::pid_t {
        FIRST_PID + self.rng.i32(0..self.odds.pids)
    }
}
