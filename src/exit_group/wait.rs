//! The wait for a group.

use std::io;
use std::mem;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::task::coop;

use super::error::{OpenError, action_error, wait_error};
use super::listing::{Found, Listing};
use crate::members::{Key, Members};
use crate::poller::{LazyTimer, TaskPacer};
use crate::sys::{self, Group, Opened, group_of};

/// The number of processes that are listed before other tasks run, in about 3 ms on Linux.
const READS: u32 = 8;
const READ_SIZE: usize = 512;

/// The time from the exit of the last known member to the listing. A parent that reaps at once makes the
/// listing unnecessary.
const REAP_TIME: Duration = Duration::from_millis(1);

/// Listing is idle this many times as long as it has worked, so it uses at most 4 % of one core.
const IDLE_FACTOR: u32 = 24;
const MAX_IDLE: Duration = Duration::from_millis(200);

/// The wait for a group that may have living members.
pub(super) struct Waiting {
    group: Group,
    namesake: Namesake,
    /// The known members that have not exited.
    members: Members,
    /// The member whose pid is the number of the group.
    leader: Option<Key>,
    /// Whether no known member is left, so that the group must be listed.
    is_emptied: bool,
    recheck: Recheck,
    listing: Option<Listing>,
    /// When the next listing may start.
    pause: Option<Instant>,
    timer: LazyTimer,
    /// The time that the present listing has taken.
    spent: Duration,
    idle_until: Option<Instant>,
    /// Present while the group is checked at intervals, because the last listing has had no result.
    pacer: Option<TaskPacer>,
}

/// The process that has the number of the group as its pid. As long as it has not been reaped, no other group
/// gets the number.
enum Namesake {
    Opened(Opened<sys::Process>),
    Gone,
    Unknown,
}

/// What a listing means for the wait.
enum Verdict {
    Gone,
    /// New members have been added.
    Alive,
    /// The members have changed during the listing, or the system does not show all of them.
    Unclear,
}

/// The times at which the wait checks that a known member is still in the group. No event reports that a
/// process has moved to another group.
struct Recheck {
    is_due: bool,
    at: Instant,
    interval: Duration,
}

impl Recheck {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(60);
    const FACTOR: u32 = 10;

    /// Checks soon: a daemon forks before it moves to a group of its own. As long as the leader is alive, this
    /// does not matter, and `setsid(2)` refuses the leader itself.
    fn new(has_leader: bool) -> Recheck {
        let interval = match has_leader {
            true => Recheck::MAX,
            false => Recheck::MIN,
        };
        Recheck {
            is_due: false,
            at: Instant::now() + interval,
            interval,
        }
    }

    /// Also checks now.
    fn now(has_leader: bool) -> Recheck {
        Recheck {
            is_due: true,
            ..Recheck::new(has_leader)
        }
    }

    fn poll_due(&mut self, timer: &mut LazyTimer, cx: &mut Context<'_>) -> Poll<()> {
        if mem::take(&mut self.is_due) {
            return Poll::Ready(());
        }
        match timer.poll_until(self.at, cx) {
            Some(Poll::Ready(())) => {
                self.interval = Recheck::MAX.min(self.interval * Recheck::FACTOR);
                self.at = Instant::now() + self.interval;
                Poll::Ready(())
            }
            // Without timers, only exits lead to a check.
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

impl Waiting {
    pub(super) fn open(pgid: u32) -> Result<Waiting, OpenError> {
        let group = Group::new(pgid).ok_or(OpenError::OutOfRange)?;
        // Open it before the listing: it must be the process that has the pid as long as the group is ours.
        let namesake = match sys::Process::open(pgid) {
            Ok(opened) => Namesake::Opened(opened),
            Err(crate::error::OpenError::NoSuchProcess) => Namesake::Gone,
            Err(_) => Namesake::Unknown,
        };
        let no_such_group = || OpenError::NoSuchGroup {
            other: group_of(pgid).filter(|&other| other != pgid),
        };
        if group.is_empty() {
            return Err(no_such_group());
        }
        let mut waiting = Waiting {
            group,
            namesake,
            members: Members::default(),
            leader: None,
            is_emptied: true,
            recheck: Recheck::new(false),
            listing: None,
            pause: None,
            timer: LazyTimer::default(),
            spent: Duration::ZERO,
            idle_until: None,
            pacer: None,
        };
        match Listing::read_all(group) {
            Ok(Found::Nobody { has_zombies: false }) if !group.can_be_known_empty() => {
                return Err(no_such_group());
            }
            Ok(Found::Alive(pids)) => {
                waiting.add(&pids);
            }
            Ok(Found::Nobody { .. }) | Err(_) => {}
        }
        Ok(waiting)
    }

    pub(super) fn group(&self) -> Group {
        self.group
    }

    /// Returns the number of known members that have not exited.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Waits until no member is alive.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.poll_gone(cx));
        Poll::Ready(result.map_err(|error| wait_error(self.group.id(), &error)))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_emptied {
                match ready!(self.poll_listing(cx))? {
                    Verdict::Gone => return Poll::Ready(Ok(())),
                    Verdict::Alive | Verdict::Unclear => continue,
                }
            }
            match self.members.poll_next(cx)? {
                // Also a member that can no longer be queried: the listing finds it again if it is alive.
                Poll::Ready(Some(_)) => self.recheck = Recheck::now(self.has_leader()),
                Poll::Ready(None) => self.set_emptied(),
                Poll::Pending => {
                    ready!(self.recheck.poll_due(&mut self.timer, cx));
                    if !self.has_member_in_group() {
                        self.members = Members::default();
                        self.set_emptied();
                    }
                }
            }
        }
    }

    /// Whether no member is alive, without waiting.
    pub(super) fn try_gone(&mut self) -> io::Result<bool> {
        let pgid = self.group.id();
        while let Some(_ended) = self.members.try_next().map_err(|e| wait_error(pgid, &e))? {
            self.recheck = Recheck::now(self.has_leader());
        }
        if self.members.len() > 0 {
            if self.has_member_in_group() {
                return Ok(false);
            }
            self.members = Members::default();
        }
        self.set_emptied();
        if self.group.is_empty() {
            return Ok(true);
        }
        Ok(match Listing::read_all(self.group) {
            Ok(found) => matches!(self.conclude(&found), Verdict::Gone),
            Err(_) => false,
        })
    }

    /// Sends a signal to all members. `NotFound` if no member is alive.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        let result = match self.is_alive() {
            true => self.group.signal(signal),
            false => Err(io::ErrorKind::NotFound.into()),
        };
        result.map_err(|error| action_error("signal", self.group.id(), &error))
    }

    /// Whether a member is alive, so that the number is still the group's.
    fn is_alive(&self) -> bool {
        if self.living_members().next().is_some() {
            return true;
        }
        // The known members have exited. They may have children.
        if self.group.is_empty() || self.is_recycled() {
            return false;
        }
        match Listing::read_all(self.group) {
            Ok(Found::Alive(_)) => !self.is_recycled(),
            Ok(Found::Nobody { has_zombies }) => self.is_hidden(has_zombies),
            Err(_) => true,
        }
    }

    /// Returns the known members that have not exited and are in the group.
    fn living_members(&self) -> impl Iterator<Item = Key> + '_ {
        self.members.waiting().filter(|&key| {
            self.is_in_group(key)
                && !matches!(self.members.try_signal(key), Err(error) if error.kind() == io::ErrorKind::NotFound)
        })
    }

    /// Returns the error if members are alive and none may be signalled.
    pub(super) fn refusal(&self) -> Option<io::Error> {
        let mut refusal = None;
        for key in self.living_members() {
            match self.members.try_signal(key) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    refusal = Some(error);
                }
                _ => return None,
            }
        }
        refusal.map(|error| action_error("kill", self.group.id(), &error))
    }

    fn is_in_group(&self, key: Key) -> bool {
        let pid = self.members.pid(key);
        pid.is_some_and(|pid| self.group.contains(pid.get()))
    }

    /// Whether the leader of the group is known and has not exited.
    fn has_leader(&self) -> bool {
        self.leader
            .is_some_and(|key| self.members.pid(key).is_some())
    }

    fn has_member_in_group(&self) -> bool {
        self.members.waiting().any(|key| self.is_in_group(key))
    }

    fn set_emptied(&mut self) {
        self.is_emptied = true;
        self.listing = None;
        self.spent = Duration::ZERO;
        let after_reap = Instant::now() + REAP_TIME;
        let idle_until = self.idle_until.take();
        self.pause = Some(idle_until.map_or(after_reap, |until| until.max(after_reap)));
    }

    /// Lists the group, once the pause is over.
    fn poll_listing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Verdict>> {
        if self.group.is_empty() {
            return Poll::Ready(Ok(Verdict::Gone));
        }
        if let Some(pacer) = &mut self.pacer {
            ready!(pacer.poll_due(cx))?;
        } else if let Some(until) = self.pause {
            // Without timers there is no pause.
            if let Some(Poll::Pending) = self.timer.poll_until(until, cx) {
                return Poll::Pending;
            }
            self.pause = None;
            if self.group.is_empty() {
                return Poll::Ready(Ok(Verdict::Gone));
            }
        }
        ready!(coop::poll_proceed(cx)).made_progress();
        let started = Instant::now();
        let result = self.read_listing();
        self.spent += started.elapsed();
        let Some(result) = result.transpose() else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        self.listing = None;
        let verdict = match result {
            Ok(found) => self.conclude(&found),
            Err(_) => Verdict::Unclear,
        };
        let spent = mem::take(&mut self.spent);
        self.idle_until = Some(Instant::now() + MAX_IDLE.min(spent.saturating_mul(IDLE_FACTOR)));
        match verdict {
            Verdict::Unclear => {
                let pacer = self.pacer.get_or_insert_default();
                pacer.schedule(started, 1, 1);
            }
            Verdict::Gone | Verdict::Alive => self.pacer = None,
        }
        Poll::Ready(Ok(verdict))
    }

    /// Reads some processes. Returns the result once the listing is complete.
    fn read_listing(&mut self) -> io::Result<Option<Found>> {
        let listing = match &mut self.listing {
            Some(listing) => listing,
            none => none.insert(Listing::start(self.group)?),
        };
        for _ in 0..READS {
            if let Some(found) = listing.read(READ_SIZE)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn conclude(&mut self, found: &Found) -> Verdict {
        match found {
            Found::Alive(pids) => self.add(pids),
            Found::Nobody { has_zombies } if self.is_hidden(*has_zombies) => Verdict::Unclear,
            Found::Nobody { .. } => Verdict::Gone,
        }
    }

    /// Whether the group has members that the list does not show.
    fn is_hidden(&self, has_zombies: bool) -> bool {
        !has_zombies && !self.group.is_empty() && self.group.can_be_known_empty()
    }

    /// Opens the processes with these pids, and adds those that are in the group.
    fn add(&mut self, pids: &[u32]) -> Verdict {
        // A process needs little room, but many grow the descriptor table in steps.
        const MANY: usize = 64;
        if pids.len() > MANY {
            self.members.reserve(pids.len());
        }
        self.leader = None;
        for &pid in pids {
            if let Ok(key) = self.members.open(pid) {
                // Check this after the process has been opened: before, its pid may be another process's.
                if !self.group.contains(pid) {
                    self.members.remove(key);
                } else if pid == self.group.id() {
                    self.leader = Some(key);
                }
            }
        }
        if self.is_recycled() {
            self.members = Members::default();
            return Verdict::Gone;
        }
        if self.members.len() == 0 {
            return Verdict::Unclear;
        }
        self.is_emptied = false;
        self.recheck = Recheck::new(self.has_leader());
        Verdict::Alive
    }

    /// Whether the number certainly belongs to a later group: the pid of a new group's first process is the
    /// number of the group.
    fn is_recycled(&self) -> bool {
        let is_free = match &self.namesake {
            Namesake::Opened(Opened::WithEvents(process)) => process.is_reaped(),
            Namesake::Opened(Opened::Refused(refused)) => refused.probe.is_reaped(),
            Namesake::Gone => true,
            Namesake::Unknown => false,
        };
        is_free && group_of(self.group.id()).is_some()
    }
}
