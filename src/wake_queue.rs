//! Where one task waits for what other threads have to tell it.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// A queue with one task at its end.
pub(crate) struct WakeQueue<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    items: VecDeque<T>,
    waker: Option<Waker>,
}

impl<T> WakeQueue<T> {
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<T> {
        // Wakers run foreign code when cloned and dropped, so neither is done under the lock.
        let mut waker = Some(cx.waker().clone());
        let mut state = lock(&self.state);
        if let Some(items) = state.items.pop_front() {
            return Poll::Ready(items);
        }
        mem::swap(&mut state.waker, &mut waker);
        drop(state);
        Poll::Pending
    }

    pub(crate) fn try_recv(&self) -> Option<T> {
        lock(&self.state).items.pop_front()
    }

    /// Puts items in. Returns whom to [`wake`], when no lock is held any more.
    pub(crate) fn send(&self, items: T) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.items.push_back(items);
        state.waker.take()
    }
}

impl<T> Default for WakeQueue<T> {
    fn default() -> Self {
        WakeQueue {
            state: Mutex::new(State {
                items: VecDeque::new(),
                waker: None,
            }),
        }
    }
}

/// Wakes a task from a thread that has others to serve.
pub(crate) fn wake(waker: Waker) {
    // One that panics must not keep the items from others.
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

/// A panic while a lock was held has left nothing half done: what is locked in this crate is only
/// assigned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, tokio_process_exit_loom))]
mod loom_tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    fn put(queue: &Arc<WakeQueue<u32>>, items: u32) -> loom::thread::JoinHandle<()> {
        let queue = queue.clone();
        loom::thread::spawn(move || {
            if let Some(waker) = queue.send(items) {
                wake(waker);
            }
        })
    }

    #[test]
    fn all_news_of_two_threads_arrives_and_wakes() {
        loom::model(|| {
            let queue = Arc::new(WakeQueue::default());
            let threads = [put(&queue, 1), put(&queue, 2)];
            let mut both =
                [0, 0].map(|_| loom::future::block_on(poll_fn(|cx| queue.poll_recv(cx))));
            both.sort();
            assert_eq!(both, [1, 2]);
            assert!(queue.try_recv().is_none());
            threads.map(|thread| thread.join().unwrap());
        });
    }
}
