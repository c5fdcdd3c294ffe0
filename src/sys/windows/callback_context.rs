//! A context that a callback and a wait share.
//!
//! The callback and the wait each have a reference to the context, and neither waits for the other. The
//! order of the call and the cancellation decides which of them releases the callback's reference:
//!
//! - If the wait is cancelled first and the callback is still called, the callback only releases its
//!   reference. If the system reports that the callback will not be called, the wait does.
//! - If the callback is called first, the callback releases its reference.

use crate::sync::{Arc, AtomicU8, Ordering};

pub(crate) struct CallbackContext<T> {
    phase: AtomicU8,
    pub(crate) data: T,
}

/// The wait was not cancelled, and the callback was not called.
const WAITING: u8 = 0;
/// The wait was cancelled, and the callback has not been called since.
const CANCELLED: u8 = 1;
/// The callback was called, and releases its reference.
const CALLED: u8 = 2;

impl<T> CallbackContext<T> {
    /// Creates a context. Returns the references of the wait and of the callback.
    pub(crate) fn pair(data: T) -> (Arc<CallbackContext<T>>, *const CallbackContext<T>) {
        let context = Arc::new(CallbackContext {
            phase: AtomicU8::new(WAITING),
            data,
        });
        (context.clone(), Arc::into_raw(context))
    }

    /// Converts the callback's reference. Also returns whether the wait has not been cancelled.
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
    /// What `unregister` returns is true, and this is the only call.
    pub(crate) unsafe fn cancel(context: &Arc<Self>, unregister: impl FnOnce() -> bool) {
        let (from, to) = (WAITING, CANCELLED);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let cancelled = context.phase.compare_exchange(from, to, success, failure);
        let is_over = unregister();
        // The callback may have been called before `unregister`.
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
    enum SystemWait {
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
            let system = Arc::new(Mutex::new(SystemWait::Registered));
            let raw = Raw(raw);
            let pool = loom::thread::spawn({
                let system = system.clone();
                move || {
                    let Raw(raw) = { raw };
                    {
                        let mut system = system.lock().unwrap();
                        if *system == SystemWait::Unregistered {
                            return;
                        }
                        *system = SystemWait::Calling;
                    }
                    // SAFETY: this is the only call, and the wait is still registered.
                    let (context, is_waited_for) = unsafe { CallbackContext::enter(raw) };
                    if is_waited_for {
                        *context.data.lock().unwrap() += 1;
                    }
                    drop(context);
                    *system.lock().unwrap() = SystemWait::Called;
                }
            });
            // SAFETY: the closure returns the system's state, under its lock.
            unsafe {
                CallbackContext::cancel(&context, || {
                    let mut system = system.lock().unwrap();
                    let is_over = *system != SystemWait::Calling;
                    *system = match *system {
                        SystemWait::Registered => SystemWait::Unregistered,
                        called => called,
                    };
                    is_over
                });
            }
            assert!(*context.data.lock().unwrap() <= 1);
            drop(context);
            pool.join().unwrap();
        });
    }
}
