//! A map by pid.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Pids are numbers that the system gives out, near each other and each once, so that there is
/// nothing to defend against, and neighbours may stay neighbours in memory.
pub(crate) type PidMap<T> = HashMap<u32, T, BuildHasherDefault<PidHasher>>;

#[derive(Default)]
pub(crate) struct PidHasher(u64);

impl Hasher for PidHasher {
    fn write_u32(&mut self, pid: u32) {
        // The low bits choose the place in the table, and the uppermost tell those apart that have
        // chosen the same. On Windows all pids are multiples of four.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let (place, mixed) = (pid.rotate_right(2), u64::from(pid).wrapping_mul(ODD));
        self.0 = mixed >> 32 << 32 | u64::from(place);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::PidHasher;

    #[test]
    fn no_more_than_four_neighbours_share_a_place_and_those_differ_elsewhere() {
        for stride in [1, 4] {
            let pids = (0..1000).map(|nth| 100_000 + nth * stride);
            let hashes = pids.map(|pid| BuildHasherDefault::<PidHasher>::default().hash_one(pid));
            let mut places = [0; 1024];
            let mut both = HashSet::new();
            for hash in hashes {
                let place = hash % 1024;
                places[place as usize] += 1;
                both.insert((place, hash >> 57));
            }
            assert!(places.iter().all(|&pids| pids <= 4), "stride {stride}");
            assert!(both.len() > 950, "stride {stride}: {}", both.len());
        }
    }
}
