//! Timers of runtimes that may have none.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Mutex as StaticMutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::runtime::{self, Handle};
use tokio::time::Sleep;

/// A timer of the current runtime, if that has timers.
#[derive(Default)]
pub(crate) struct LazyTimer(Option<Timer>);

/// A timer, and its runtime.
struct Timer {
    runtime: runtime::Id,
    due: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// The runtimes that were found to have no timers, or to have shut down. This stays true: tokio takes the
/// ids from a counter, so no later runtime has the id of an earlier one.
static WITHOUT_TIMERS: StaticMutex<Vec<runtime::Id>> = StaticMutex::new(Vec::new());

impl LazyTimer {
    /// Waits until `due`. Returns `None` if the current runtime has no timers.
    pub(crate) fn poll_until(&mut self, due: Instant, cx: &mut Context<'_>) -> Option<Poll<()>> {
        let runtime = Handle::try_current().ok()?.id();
        let without_timers = || {
            WITHOUT_TIMERS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if without_timers().contains(&runtime) {
            return None;
        }
        let timer = self.0.take();
        let timer = timer.filter(|timer| (timer.runtime, timer.due) == (runtime, due));
        // tokio has no other way to find out than a panic.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut timer = timer.unwrap_or_else(|| {
                let sleep = Box::pin(tokio::time::sleep_until(due.into()));
                Timer {
                    runtime,
                    due,
                    sleep,
                }
            });
            let elapsed = timer.sleep.as_mut().poll(cx);
            (timer, elapsed)
        }));
        match polled {
            Ok((timer, elapsed)) => {
                self.0 = Some(timer);
                Some(elapsed)
            }
            Err(_) => {
                // Remember this, because the program's panic hook prints each panic.
                without_timers().push(runtime);
                None
            }
        }
    }
}
