//! What a callback and whoever waits for it share, and which of them lets go of it.
//!
//! Each has a share of the context, and neither ever waits for the other. Whichever comes first, the
//! callback or the end of the wait, settles it:
//!
//! - The end comes first. Then the callback, if it is called after all, only gives up its share.
//!   Whether it will be, the system tells. If not, the end gives up that share too.
//! - The callback comes first. Then it has given up its share.

use crate::sync::{Arc, AtomicU8, Ordering};

pub(crate) struct CallbackContext<T> {
    progress: AtomicU8,
    pub(crate) context: T,
}

// The progress of a wait.
const WAITING: u8 = 0;
/// The wait has ended, and the callback has not been called since.
const CANCELLED: u8 = 1;
/// The callback has been called, and has taken its share.
const CALLED: u8 = 2;

impl<T> CallbackContext<T> {
    /// The share of whoever waits, and the callback's.
    pub(crate) fn pair(context: T) -> (Arc<CallbackContext<T>>, *const CallbackContext<T>) {
        let share = Arc::new(CallbackContext {
            progress: AtomicU8::new(WAITING),
            context,
        });
        (share.clone(), Arc::into_raw(share))
    }

    /// What the callback does first: takes its share. Returns also whether it is still waited for.
    ///
    /// # Safety
    ///
    /// `share` is the callback's, and this is the only call with it. It has not been given up by
    /// [`give_up`](CallbackContext::release) nor [`end`](CallbackContext::cancel).
    pub(crate) unsafe fn enter(
        share: *const CallbackContext<T>,
    ) -> (Arc<CallbackContext<T>>, bool) {
        // SAFETY: made by `pair`, and by the contract nobody else takes it.
        let share = unsafe { Arc::from_raw(share) };
        let first = share.progress.swap(CALLED, Ordering::AcqRel) == WAITING;
        (share, first)
    }

    /// Gives up the callback's share.
    ///
    /// # Safety
    ///
    /// The callback has not been called, nor will it be.
    pub(crate) unsafe fn release(share: *const CallbackContext<T>) {
        // SAFETY: made by `pair`, and by the contract nobody else takes it.
        drop(unsafe { Arc::from_raw(share) });
    }

    /// Ends the wait. `unregister` returns whether the callback is certain neither to run now nor
    /// later.
    ///
    /// # Safety
    ///
    /// That is true, and this is the only call.
    pub(crate) unsafe fn cancel(share: &Arc<Self>, unregister: impl FnOnce() -> bool) {
        let (from, to) = (WAITING, CANCELLED);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let cancelled = share.progress.compare_exchange(from, to, success, failure);
        let is_over = unregister();
        // It may have been called between the two.
        if cancelled.is_ok() && is_over && share.progress.load(Ordering::Acquire) == CANCELLED {
            // SAFETY: it has not been called, and will not be.
            unsafe { CallbackContext::release(Arc::as_ptr(share)) };
        }
    }
}

#[cfg(all(test, tokio_process_exit_loom))]
mod loom_tests {
    use loom::sync::Mutex;

    use super::*;

    /// What the system knows of a registered wait.
    #[derive(Clone, Copy, PartialEq)]
    enum System {
        Registered,
        Calling,
        Called,
        Unregistered,
    }

    /// The process exits at any moment, and the wait ends at any moment. loom sees to it that what they share is
    /// used by nobody afterwards, and does not leak.
    #[test]
    fn whoever_comes_first_nothing_leaks_and_nothing_is_used_afterwards() {
        struct Raw(*const CallbackContext<Mutex<u32>>);
        // SAFETY: what it points to may be used and dropped on any thread.
        unsafe impl Send for Raw {}

        loom::model(|| {
            let (share, raw) = CallbackContext::pair(Mutex::new(0));
            let system = Arc::new(Mutex::new(System::Registered));
            let raw = Raw(raw);
            let pool = loom::thread::spawn({
                let system = system.clone();
                move || {
                    let Raw(raw) = { raw };
                    {
                        let mut system = system.lock().unwrap();
                        if *system == System::Unregistered {
                            return;
                        }
                        *system = System::Calling;
                    }
                    // SAFETY: called once, as it is still registered.
                    let (share, first) = unsafe { CallbackContext::enter(raw) };
                    if first {
                        *share.context.lock().unwrap() += 1;
                    }
                    drop(share);
                    *system.lock().unwrap() = System::Called;
                }
            });
            // SAFETY: the answer is the system's, under its lock.
            unsafe {
                CallbackContext::cancel(&share, || {
                    let mut system = system.lock().unwrap();
                    let is_over = *system != System::Calling;
                    *system = match *system {
                        System::Registered => System::Unregistered,
                        called => called,
                    };
                    is_over
                });
            }
            assert!(*share.context.lock().unwrap() <= 1);
            drop(share);
            pool.join().unwrap();
        });
    }
}
