//! The end of a run: all processes end, and no exit may be lost.

use tokio::time::timeout;

use super::{DEADLINE, Run, Wait};
use crate::exit::Exit;
use crate::mechanism::Mechanism;
use crate::sys::fake::{Model, Phase, System, with_model};

/// Lets all processes proceed to this phase.
fn proceed_to(last: Phase) {
    with_model(|model| {
        for number in model.living() {
            while model.processes[number].phase < last {
                model.proceed(number);
            }
        }
    });
}

impl Run {
    /// Ends all processes, and checks that no exit is lost.
    pub(super) async fn finish(mut self) {
        // DragonFly does not show zombies, so a polled zombie of another user ends with its reap.
        let has_foreign = with_model(|model| model.odds.foreign > 0);
        let must_reap = self.system == System::DragonFly && has_foreign;
        let reap_at_once = self.rng.bool() || must_reap;
        proceed_to(if reap_at_once {
            Phase::Reaped
        } else {
            Phase::Zombie
        });
        // A poller takes milliseconds, so most runs query instead, as a poller would.
        let by_poller = self.rng.u8(0..8) == 0;
        for until_reaped in [false, true] {
            if until_reaped {
                proceed_to(Phase::Reaped);
            }
            self.finish_waits(until_reaped, by_poller).await;
            self.finish_set(until_reaped, by_poller).await;
            self.finish_map(until_reaped, by_poller).await;
        }
        assert_eq!(self.matching.len(), 0);
        assert!(self.set.is_empty() && self.keyed.map.is_empty());
        let (kqueues, filters) = with_model(Model::open);
        assert!(
            kqueues <= 2 && filters == 0,
            "{kqueues} kqueues, {filters} filters"
        );
        drop(self);
        assert_eq!(
            with_model(Model::open),
            (0, 0),
            "kqueues and filters are left"
        );
    }

    async fn finish_waits(&mut self, until_reaped: bool, by_poller: bool) {
        for n in (0..self.waits.len()).rev() {
            if self.waits[n].target.until_reaped == until_reaped {
                let mut wait = self.waits.swap_remove(n);
                let Some(exit) = finish_wait(&mut wait, by_poller).await else {
                    panic!("the exit of {:?} was lost: {:?}", wait.target, wait.exit);
                };
                self.check_exit(&wait, &exit);
            }
        }
    }

    async fn finish_set(&mut self, until_reaped: bool, by_poller: bool) {
        let has_more = |run: &Run| match until_reaped {
            false => run.must_have(|member| !member.until_reaped),
            true => run.matching.len() > 0,
        };
        while has_more(self) {
            let is_polled = self.set.polled_len() > 0 || until_reaped;
            let exit = if is_polled && !by_poller {
                self.set.try_next_exit()
            } else {
                timeout(DEADLINE, self.set.next_exit()).await.ok().flatten()
            };
            let Some(exit) = exit else {
                let lost = self.set.pids().map(|pid| self.members_with(pid as i32));
                panic!("exits were lost: {:?}", lost.collect::<Vec<_>>());
            };
            self.check_yield(&exit.unwrap());
        }
    }
}

/// Waits for an exit, or queries the process. Returns `None` if the exit is lost.
async fn finish_wait(wait: &mut Wait, by_poller: bool) -> Option<Exit> {
    let is_polled = wait.exit.mechanism() == Some(Mechanism::Polling);
    if (is_polled || wait.target.until_reaped) && !by_poller {
        wait.exit.try_wait().unwrap()
    } else {
        let exit = timeout(DEADLINE, &mut wait.exit).await;
        exit.ok().map(Result::unwrap)
    }
}
