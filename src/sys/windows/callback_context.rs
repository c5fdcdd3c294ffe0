//! A context that a callback and a wait share.
//!
//! Each of the two has a reference to the context, and neither waits for the other. The one that comes
//! first decides who releases the callback's reference:
//!
//! - The wait is cancelled first. If the callback is called after all, it only releases its reference.
//!   If the system reports that it will not be called, the wait releases that reference.
//! - The callback is called first. It releases its reference itself.

use crate::sync::{Arc, AtomicU8, Ordering};

pub(crate) struct CallbackContext<T> {
    phase: AtomicU8,
    pub(crate) target: T,
}

/// The phases of a wait: neither has happened.
const WAITING: u8 = 0;
/// The wait was cancelled, and the callback has not been called since.
const CANCELLED: u8 = 1;
/// The callback was called, and has taken its reference.
const CALLED: u8 = 2;

impl<T> CallbackContext<T> {
    /// Creates a context. Returns the references of the wait and of the callback.
    pub(crate) fn pair(target: T) -> (Arc<CallbackContext<T>>, *const CallbackContext<T>) {
        let context = Arc::new(CallbackContext {
            phase: AtomicU8::new(WAITING),
            target,
        });
        (context.clone(), Arc::into_raw(context))
    }

    /// Takes the callback's reference. Returns also whether the wait has not been cancelled.
    ///
    /// # Safety
    ///
    /// `context` is the callback's reference, and this is the only call with it. Neither
    /// [`release`](CallbackContext::release) nor [`cancel`](CallbackContext::cancel) has released it.
    pub(crate) unsafe fn enter(
        context: *const CallbackContext<T>,
    ) -> (Arc<CallbackContext<T>>, bool) {
        // SAFETY: `pair` has created the reference, and by the contract nobody else takes it.
        let context = unsafe { Arc::from_raw(context) };
        let is_waited_for = context.phase.swap(CALLED, Ordering::AcqRel) == WAITING;
        (context, is_waited_for)
    }

    /// Releases the callback's reference.
    ///
    /// # Safety
    ///
    /// The callback has not been called, and will not be called.
    pub(crate) unsafe fn release(context: *const CallbackContext<T>) {
        // SAFETY: `pair` has created the reference, and by the contract nobody else takes it.
        drop(unsafe { Arc::from_raw(context) });
    }

    /// Cancels the wait. `unregister` returns whether the callback neither runs nor will run.
    ///
    /// # Safety
    ///
    /// The answer of `unregister` is true, and this is the only call.
    pub(crate) unsafe fn cancel(context: &Arc<Self>, unregister: impl FnOnce() -> bool) {
        let (from, to) = (WAITING, CANCELLED);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let cancelled = context.phase.compare_exchange(from, to, success, failure);
        let is_over = unregister();
        // The callback may have been called between the two.
        if cancelled.is_ok() && is_over && context.phase.load(Ordering::Acquire) == CANCELLED {
            // SAFETY: the callback has not been called, and will not be called.
            unsafe { CallbackContext::release(Arc::as_ptr(context)) };
        }
    }
}

#[cfg(all(test, tokio_process_exit_loom))]
mod loom_tests {
    use loom::sync::Mutex;

    use super::*;

    /// The system's view of a registered wait.
    #[derive(Clone, Copy, PartialEq)]
    enum System {
        Registered,
        Calling,
        Called,
        Unregistered,
    }

    /// The process exits at any moment, and the wait is cancelled at any moment. loom checks that the
    /// context is not used after it has been freed, and that it does not leak.
    #[test]
    fn exit_and_cancellation_free_the_context_once() {
        struct Raw(*const CallbackContext<Mutex<u32>>);
        // SAFETY: the context may be used and dropped on any thread.
        unsafe impl Send for Raw {}

        loom::model(|| {
            let (context, raw) = CallbackContext::pair(Mutex::new(0));
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
                    // SAFETY: this is the only call, and the wait is still registered.
                    let (context, is_waited_for) = unsafe { CallbackContext::enter(raw) };
                    if is_waited_for {
                        *context.target.lock().unwrap() += 1;
                    }
                    drop(context);
                    *system.lock().unwrap() = System::Called;
                }
            });
            // SAFETY: the answer is the system's, under its lock.
            unsafe {
                CallbackContext::cancel(&context, || {
                    let mut system = system.lock().unwrap();
                    let is_over = *system != System::Calling;
                    *system = match *system {
                        System::Registered => System::Unregistered,
                        called => called,
                    };
                    is_over
                });
            }
            assert!(*context.target.lock().unwrap() <= 1);
            drop(context);
            pool.join().unwrap();
        });
    }
}
