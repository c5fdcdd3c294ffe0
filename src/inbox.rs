//! Where one task waits for what other threads have to tell it.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// A queue with one task at its end.
pub(crate) struct Inbox<T> {
    contents: Mutex<Contents<T>>,
}

struct Contents<T> {
    news: VecDeque<T>,
    waker: Option<Waker>,
}

impl<T> Inbox<T> {
    pub(crate) fn poll_news(&self, cx: &mut Context<'_>) -> Poll<T> {
        // Wakers run foreign code when cloned and dropped, so neither is done under the lock.
        let mut waker = Some(cx.waker().clone());
        let mut contents = lock(&self.contents);
        if let Some(news) = contents.news.pop_front() {
            return Poll::Ready(news);
        }
        mem::swap(&mut contents.waker, &mut waker);
        drop(contents);
        Poll::Pending
    }

    pub(crate) fn try_news(&self) -> Option<T> {
        lock(&self.contents).news.pop_front()
    }

    /// Puts news in. Returns whom to [`wake`], when no lock is held any more.
    pub(crate) fn put(&self, news: T) -> Option<Waker> {
        let mut contents = lock(&self.contents);
        contents.news.push_back(news);
        contents.waker.take()
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Inbox {
            contents: Mutex::new(Contents {
                news: VecDeque::new(),
                waker: None,
            }),
        }
    }
}

/// Wakes a task from a thread that has others to serve.
pub(crate) fn wake(waker: Waker) {
    // One that panics must not keep the news from others.
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

    fn put(inbox: &Arc<Inbox<u32>>, news: u32) -> loom::thread::JoinHandle<()> {
        let inbox = inbox.clone();
        loom::thread::spawn(move || {
            if let Some(waker) = inbox.put(news) {
                wake(waker);
            }
        })
    }

    #[test]
    fn all_news_of_two_threads_arrives_and_wakes() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::default());
            let threads = [put(&inbox, 1), put(&inbox, 2)];
            let mut both =
                [0, 0].map(|_| loom::future::block_on(poll_fn(|cx| inbox.poll_news(cx))));
            both.sort();
            assert_eq!(both, [1, 2]);
            assert!(inbox.try_news().is_none());
            threads.map(|thread| thread.join().unwrap());
        });
    }
}
