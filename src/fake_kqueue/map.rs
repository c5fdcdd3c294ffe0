//! An `ExitMap`, in which a process may be under several keys.

use std::collections::HashMap;

use tokio::time::timeout;

use super::{DEADLINE, Run, Wait};
use crate::exit::Exit;
use crate::exit_map::ExitMap;
use crate::sys::fake::with_model;

use super::target::Target;

/// Few keys, so that insertions often replace a wait.
const KEYS: u8 = 6;

/// A map, with what the oracle knows about it.
#[derive(Default)]
pub(super) struct Map {
    pub(super) map: ExitMap<u8>,
    targets: HashMap<u8, Target>,
}

impl Run {
    pub(super) fn operate_map(&mut self) {
        let key = self.rng.u8(0..KEYS);
        match self.rng.u8(0..10) {
            0..4 => self.insert_key(key),
            4..6 => self.insert_exit_key(key),
            6 => {
                let removed = self.keyed.map.remove(&key);
                assert_eq!(removed, self.keyed.targets.remove(&key).is_some());
            }
            _ => {
                if let Some((key, exit)) = self.keyed.map.try_next_exit() {
                    self.check_key(key, &exit.unwrap());
                }
            }
        }
    }

    fn insert_key(&mut self, key: u8) {
        let (pid, since) = with_model(|model| (model.any_pid(), model.now));
        match self.keyed.map.insert(key, pid as u32) {
            Ok(()) => {
                let target = Target::opened(pid, since);
                assert!(
                    !target.processes.is_empty(),
                    "pid {pid} was free, but was inserted"
                );
                self.keyed.targets.insert(key, target);
            }
            Err(error) => Run::check_open_error(pid, since, &error),
        }
    }

    fn insert_exit_key(&mut self, key: u8) {
        if let Some(n) = self.any_wait() {
            let Wait { exit, target } = self.waits.swap_remove(n);
            self.keyed.map.insert_exit(key, exit);
            self.keyed.targets.insert(key, target);
        }
    }

    fn check_key(&mut self, key: u8, exit: &Exit) {
        let target = self.keyed.targets.remove(&key);
        let target = target.unwrap_or_else(|| panic!("{exit} was yielded with the free key {key}"));
        assert!(target.admits(exit), "{exit} was yielded for {target:?}");
    }

    pub(super) async fn finish_map(&mut self, until_reaped: bool, by_poller: bool) {
        let has_more = |run: &Run| {
            let mut targets = run.keyed.targets.values();
            targets.any(|target| until_reaped || !target.until_reaped)
        };
        while has_more(self) {
            let map = &mut self.keyed.map;
            let next = match by_poller {
                true => timeout(DEADLINE, map.next_exit()).await.ok().flatten(),
                false => map.try_next_exit(),
            };
            let Some((key, exit)) = next else {
                panic!("exits were lost: {:?}", self.keyed.targets);
            };
            self.check_key(key, &exit.unwrap());
        }
    }
}
