//! The keys of the members.
//!
//! Keys run the user's code in `clone`, `hash`, `eq` and `drop`, and each may panic. So that a panic loses no
//! exit, the methods say when they call this code.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::members::Key as MemberKey;

pub(super) struct Keys<K> {
    members: HashMap<K, MemberKey>,
    /// The key of each member, at the [index](MemberKey::index) of the member.
    by_member: Vec<Option<K>>,
}

impl<K> Keys<K> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &K> + '_ {
        self.members.keys()
    }

    /// Returns the key of a member.
    pub(super) fn of(&self, member: MemberKey) -> Option<&K> {
        self.by_member.get(member.index())?.as_ref()
    }

    /// Removes and returns the key of a member that has been removed. Does not call the user's code.
    pub(super) fn take(&mut self, member: MemberKey) -> Option<K> {
        self.by_member.get_mut(member.index())?.take()
    }
}

impl<K: Eq + Hash> Keys<K> {
    pub(super) fn reserve(&mut self, additional: usize) {
        self.members.reserve(additional);
        self.by_member.reserve(additional);
    }

    /// Returns the member under a key.
    pub(super) fn member(&self, key: &K) -> Option<MemberKey> {
        self.members.get(key).copied()
    }

    /// Returns the place of a key. Calls `clone`, `hash` and `eq` before anything changes.
    pub(super) fn place(&mut self, key: K) -> Place<'_, K>
    where
        K: Clone,
    {
        Place {
            entry: self.members.entry(key.clone()),
            key,
            by_member: &mut self.by_member,
        }
    }

    /// Removes a key, and returns its member. Calls `hash` and `eq` before anything changes.
    ///
    /// The caller drops the returned keys after its own changes.
    pub(super) fn remove(&mut self, key: &K) -> Option<(MemberKey, impl Sized + use<K>)> {
        let (key, member) = self.members.remove_entry(key)?;
        Some((member, (key, self.take(member))))
    }

    /// Frees the key of a member, which [`take`](Keys::take) then returns.
    ///
    /// Calls `hash`, `eq` and `drop`. After a panic, this may be called again.
    pub(super) fn free(&mut self, member: MemberKey) {
        if let Some(Some(key)) = self.by_member.get(member.index()) {
            self.members.remove(key);
        }
    }
}

impl<K> Default for Keys<K> {
    fn default() -> Self {
        Keys {
            members: HashMap::new(),
            by_member: Vec::new(),
        }
    }
}

/// The place of a key, which may be free.
pub(super) struct Place<'a, K> {
    entry: Entry<'a, K, MemberKey>,
    key: K,
    by_member: &'a mut Vec<Option<K>>,
}

impl<K> Place<'_, K> {
    /// Returns the member that has this place.
    pub(super) fn member(&self) -> Option<MemberKey> {
        match &self.entry {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(_) => None,
        }
    }

    /// Gives the place to a new member.
    ///
    /// Does not call the user's code: the caller drops the returned keys after its own changes.
    #[must_use = "drop the keys last"]
    pub(super) fn set(self, member: MemberKey) -> impl Sized {
        let earlier = self.member();
        let earlier = earlier.and_then(|earlier| self.by_member.get_mut(earlier.index())?.take());
        let index = member.index();
        if index >= self.by_member.len() {
            self.by_member.resize_with(index + 1, || None);
        }
        let replaced = self.by_member[index].replace(self.key);
        (self.entry.insert_entry(member), earlier, replaced)
    }
}
