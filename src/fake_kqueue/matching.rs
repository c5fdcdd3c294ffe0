//! Which member of a set may be which exit that the set has yielded.
//!
//! A pid may have been recycled while it was opened, and a status may be unknown. So an exit may be of
//! several members.

/// The members of a set, by the order in which they were inserted, and the exits that were yielded.
#[derive(Default)]
pub(super) struct Matching {
    members: usize,
    removed: Vec<usize>,
    /// For each exit, the members that it may be of.
    exits: Vec<Vec<usize>>,
}

impl Matching {
    pub(super) fn insert(&mut self) {
        self.members += 1;
    }

    pub(super) fn remove(&mut self, member: usize) {
        self.removed.push(member);
    }

    /// Adds an exit. Returns whether each exit can be of a member of its own.
    pub(super) fn add_exit(&mut self, members: Vec<usize>) -> bool {
        self.exits.push(members);
        self.is_possible(|_, _| true)
    }

    /// The number of members that the set has.
    pub(super) fn len(&self) -> usize {
        self.members - self.removed.len() - self.exits.len()
    }

    /// Whether the set may have the member.
    pub(super) fn may_have(&self, member: usize) -> bool {
        !self.removed.contains(&member) && self.is_possible(|_, other| other != member)
    }

    /// Whether the set certainly has the member.
    pub(super) fn must_have(&self, member: usize) -> bool {
        let may_be = |exit: usize| {
            self.exits[exit].contains(&member)
                && self.is_possible(|it, other| (it == exit) == (other == member))
        };
        !self.removed.contains(&member) && !(0..self.exits.len()).any(may_be)
    }

    /// Whether each exit can be of a member of its own, by the permitted pairs of exits and members only.
    fn is_possible(&self, permits: impl Fn(usize, usize) -> bool) -> bool {
        let mut exit_of = vec![None; self.members];
        let is_matched = |exit| {
            let mut visited = vec![false; self.members];
            self.find(exit, &permits, &mut exit_of, &mut visited)
        };
        (0..self.exits.len()).all(is_matched)
    }

    /// Finds a member for an exit, and if necessary other members for other exits.
    fn find(
        &self,
        exit: usize,
        permits: &impl Fn(usize, usize) -> bool,
        exit_of: &mut [Option<usize>],
        visited: &mut [bool],
    ) -> bool {
        for &member in &self.exits[exit] {
            if !permits(exit, member) || self.removed.contains(&member) || visited[member] {
                continue;
            }
            visited[member] = true;
            let is_free = match exit_of[member] {
                None => true,
                Some(other) => self.find(other, permits, exit_of, visited),
            };
            if is_free {
                exit_of[member] = Some(exit);
                return true;
            }
        }
        false
    }
}
