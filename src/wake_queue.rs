//! A queue from any number of threads to one task.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// A queue that wakes the task that waits for an item.
pub(crate) struct WakeQueue<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    items: VecDeque<T>,
    /// The waker of the task that polled last and found no item.
    waker: Option<Waker>,
}

impl<T> WakeQueue<T> {
    /// Removes the first item, or stores the task's waker for the next item.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<T> {
        // Clone and drop wakers outside the lock: both run the user's code.
        let mut waker = Some(cx.waker().clone());
        let mut inner = lock(&self.inner);
        let item = inner.items.pop_front();
        if item.is_none() {
            mem::swap(&mut inner.waker, &mut waker);
        }
        drop(inner);
        discard(waker);
        item.map_or(Poll::Pending, Poll::Ready)
    }

    pub(crate) fn try_recv(&self) -> Option<T> {
        lock(&self.inner).items.pop_front()
    }

    /// Appends an item.
    ///
    /// Returns the waker of the waiting task. The caller passes it to [`wake`] after it has released
    /// all locks.
    pub(crate) fn send(&self, item: T) -> Option<Waker> {
        let mut inner = lock(&self.inner);
        inner.items.push_back(item);
        inner.waker.take()
    }
}

impl<T> Default for WakeQueue<T> {
    fn default() -> Self {
        WakeQueue {
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                waker: None,
            }),
        }
    }
}

/// Drops the waker without the user's panic: the last owner may be the poller, or a callback of the system.
impl<T> Drop for WakeQueue<T> {
    fn drop(&mut self) {
        discard(lock(&self.inner).waker.take());
    }
}

/// Drops a waker. Catches a panic of its drop, which must not lose an item.
fn discard(waker: Option<Waker>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
}

/// Wakes a task. Catches a panic of its waker, which must not keep other tasks from being woken.
pub(crate) fn wake(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

/// Locks a mutex, and ignores poisoning: under the locks of this crate, no panic leaves data
/// inconsistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(tokio_process_exit_loom)))]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    #[test]
    fn dropping_a_queue_catches_a_panic_of_its_waker() {
        struct PanicsInDrop;
        impl Wake for PanicsInDrop {
            fn wake(self: Arc<Self>) {
                unreachable!("nothing is sent");
            }
        }
        impl Drop for PanicsInDrop {
            fn drop(&mut self) {
                panic!("this waker panics in its drop");
            }
        }
        let queue = WakeQueue::<u32>::default();
        let waker = Waker::from(Arc::new(PanicsInDrop));
        assert!(
            queue
                .poll_recv(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(waker);
        drop(queue);
    }
}

#[cfg(all(test, tokio_process_exit_loom))]
mod loom_tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    fn send(queue: &Arc<WakeQueue<u32>>, item: u32) -> loom::thread::JoinHandle<()> {
        let queue = queue.clone();
        loom::thread::spawn(move || {
            if let Some(waker) = queue.send(item) {
                wake(waker);
            }
        })
    }

    #[test]
    fn delivers_the_items_of_two_threads_and_wakes() {
        loom::model(|| {
            let queue = Arc::new(WakeQueue::default());
            let threads = [send(&queue, 1), send(&queue, 2)];
            let mut both =
                [0, 0].map(|_| loom::future::block_on(poll_fn(|cx| queue.poll_recv(cx))));
            both.sort();
            assert_eq!(both, [1, 2]);
            assert!(queue.try_recv().is_none());
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}
