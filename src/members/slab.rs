//! A slab whose keys stay unique after their values have been removed.

use std::mem;
use std::num::NonZeroU32;

/// The key of a value in a [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    index: u32,
    /// The number of values that the entry held before.
    generation: u32,
}

impl Key {
    /// Returns the index of the entry. Two values never have the same index at the same time.
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }

    /// Packs the key into the integer that an event source carries.
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_u64(key: u64) -> Key {
        Key {
            index: key as u32,
            generation: (key >> 32) as u32,
        }
    }
}

/// A collection of values, one for each process, that gives each value a key.
///
/// A key never finds a later value: an entry that is reused has a new generation.
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// The index of the first vacant entry; `entries.len()` if there is none.
    vacant: u32,
    len: usize,
}

struct Entry<T> {
    generation: u32,
    /// The pid of the value's process, if the process has a pid here. Fills padding.
    pid: Option<NonZeroU32>,
    content: Content<T>,
}

enum Content<T> {
    /// `next` is the index of the next vacant entry, as in [`Slab::vacant`].
    Vacant {
        next: u32,
    },
    Occupied(T),
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn reserve(&mut self, additional: usize) {
        self.entries.reserve(additional);
    }

    /// Returns the key that the next insertion will give.
    pub(super) fn next_key(&self) -> Key {
        let entry = self.entries.get(self.vacant as usize);
        Key {
            index: self.vacant,
            generation: entry.map_or(0, |entry| entry.generation),
        }
    }

    pub(super) fn insert(&mut self, pid: Option<NonZeroU32>, value: T) -> Key {
        let key = self.next_key();
        let content = Content::Occupied(value);
        match self.entries.get_mut(key.index as usize) {
            Some(entry) => {
                if let Content::Vacant { next } = entry.content {
                    self.vacant = next;
                }
                (entry.pid, entry.content) = (pid, content);
            }
            None => {
                let generation = key.generation;
                self.entries.push(Entry {
                    generation,
                    pid,
                    content,
                });
                self.vacant += 1;
            }
        }
        self.len += 1;
        key
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        match &entry.content {
            Content::Occupied(value) if entry.generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        match &mut entry.content {
            Content::Occupied(value) if entry.generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Returns the pid of a value's process. `None` also if the key finds nothing.
    pub(super) fn pid(&self, key: Key) -> Option<NonZeroU32> {
        self.get(key)?;
        self.entries[key.index as usize].pid
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<(Option<NonZeroU32>, T)> {
        self.get(key)?;
        let entry = &mut self.entries[key.index as usize];
        let vacant = Content::Vacant { next: self.vacant };
        let Content::Occupied(value) = mem::replace(&mut entry.content, vacant) else {
            return None;
        };
        entry.generation = entry.generation.wrapping_add(1);
        self.vacant = key.index;
        self.len -= 1;
        Some((entry.pid, value))
    }

    /// Iterates over the values in the order of their entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> + '_ {
        let entries = self.entries.iter().zip(0..);
        entries.filter_map(|(entry, index)| match &entry.content {
            Content::Vacant { .. } => None,
            Content::Occupied(value) => {
                let generation = entry.generation;
                Some((Key { index, generation }, value))
            }
        })
    }

    /// Iterates over the pids of the processes that have a pid here.
    pub(super) fn pids(&self) -> impl Iterator<Item = NonZeroU32> + '_ {
        let occupied = self
            .entries
            .iter()
            .filter(|entry| matches!(entry.content, Content::Occupied(_)));
        occupied.filter_map(|entry| entry.pid)
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            entries: Vec::new(),
            vacant: 0,
            len: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_finds_nothing_again() {
        let mut slab = Slab::default();
        let first = slab.insert(None, "first");
        assert_eq!(slab.remove(first), Some((None, "first")));
        assert_eq!(slab.remove(first), None);

        let second = slab.insert(None, "second");
        assert_eq!(second.index, first.index);
        assert_ne!(second, first);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn reuses_vacant_entries_and_predicts_the_key() {
        let mut slab = Slab::default();
        let keys = [0, 1, 2, 3].map(|value| slab.insert(None, value));
        for key in [keys[1], keys[2]] {
            slab.remove(key);
        }
        let reused = [4, 5, 6].map(|value| {
            let next = slab.next_key();
            assert_eq!(slab.get(next), None);
            assert_eq!(slab.insert(None, value), next);
            next.index
        });
        assert_eq!(reused, [2, 1, 4]);
        assert_eq!(slab.entries.len(), 5);
    }

    #[test]
    fn iterates_over_occupied_entries() {
        let mut slab = Slab::default();
        let keys = [0, 1, 2, 3, 4].map(|value| slab.insert(None, value));
        for key in [keys[0], keys[3]] {
            slab.remove(key);
        }
        let all: Vec<_> = slab.iter().map(|(key, &value)| (key, value)).collect();
        assert_eq!(all, [1, 2, 4].map(|n| (keys[n], n)));
        assert_eq!(slab.len(), 3);
    }

    #[test]
    fn keeps_the_pid_beside_the_value() {
        let [one, two] = [1, 2].map(NonZeroU32::new);
        let mut slab = Slab::default();
        let keys = [one, None, two].map(|pid| slab.insert(pid, "value"));
        assert_eq!(keys.map(|key| slab.pid(key)), [one, None, two]);
        assert_eq!(slab.remove(keys[0]), Some((one, "value")));
        assert_eq!(slab.pid(keys[0]), None);
        assert_eq!(slab.pids().map(Some).collect::<Vec<_>>(), [two]);
        let reused = slab.insert(two, "value");
        assert_eq!((reused.index, slab.pid(reused)), (keys[0].index, two));
    }

    /// The documentation states the memory of a process in a set. Most of that memory is this entry.
    #[cfg(all(target_os = "linux", not(tokio_process_exit_fake_kqueue)))]
    #[test]
    fn an_entry_of_the_set_takes_at_most_24_bytes() {
        assert!(size_of::<Entry<crate::members::slot::Slot>>() <= 24);
    }

    #[test]
    fn converts_keys_to_integers_and_back() {
        for (index, generation) in [(0, 0), (1, 0), (0, 1), (u32::MAX, u32::MAX), (7, 1 << 31)] {
            let key = Key { index, generation };
            assert_eq!(Key::from_u64(key.to_u64()), key);
        }
    }
}
