//! The thread pool waits for a process, and calls back.
//!
//! [RegisterWaitForSingleObject](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-registerwaitforsingleobject)
//! and [UnregisterWaitEx](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-unregisterwaitex).
//!
//! What makes this difficult is the end of a wait. It must be unregistered before the handle is
//! closed, and its context must stay for as long as the callback may run. `UnregisterWaitEx` can see
//! to that by waiting for the callback. But the callback wakes a task, which is foreign code: it may
//! drop this very wait, or another one, or need a lock that is held where the wait is dropped. So
//! whichever comes first, the callback or the drop, settles it:
//!
//! - The drop comes first. Then the callback, if it is ever called, returns at once, and waiting for
//!   it is harmless. A callback that drops *another* wait leaves that to a different thread, as it
//!   may occupy the one that is waited for.
//! - The callback comes first. Then the system is done with the handle, as it waits only once, and
//!   the callback has a share in its context. Nothing needs to be waited for.

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Threading::{
    INFINITE, QueueUserWorkItem, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEDEFAULT,
    WT_EXECUTEINWAITTHREAD, WT_EXECUTEONLYONCE,
};

use super::Handle;
use crate::inbox::{Inbox, wake};

/// A wait for a process, until this is dropped.
pub(super) struct Wait {
    registered: Registered,
}

/// What the callback and the [`Wait`] share.
struct Context {
    progress: AtomicU8,
    /// Stays open until the system is done with it.
    handle: Arc<Handle>,
    inbox: Arc<Inbox<u64>>,
    key: u64,
}

// The progress of a wait.
const WAITING: u8 = 0;
/// The wait was dropped, and the callback has not been called since.
const CANCELLED: u8 = 1;
/// The callback has been called, and has taken its share of the context.
const CALLED: u8 = 2;

impl Wait {
    /// Has `key` put into the inbox, once, when the process has exited.
    pub(super) fn new(handle: &Arc<Handle>, inbox: &Arc<Inbox<u64>>, key: u64) -> io::Result<Wait> {
        if cfg!(tokio_process_exit_force_poll) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let context = Arc::new(Context {
            progress: AtomicU8::new(WAITING),
            handle: handle.clone(),
            inbox: inbox.clone(),
            key,
        });
        let process = context.handle.as_handle().as_raw_handle();
        let share = Arc::into_raw(context.clone());
        // The callback only puts a key into a queue and wakes a task, so it needs no thread of its
        // own.
        let flags = WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE;
        let mut wait: HANDLE = ptr::null_mut();
        // SAFETY: `wait` is writable. The context keeps the process's handle open, and is kept by
        // `share` until the callback has been called or the wait has been unregistered.
        let result = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                process,
                Some(call_back),
                share.cast(),
                INFINITE,
                flags,
            )
        };
        if result == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: made above, and nobody else has it, as there will be no callback.
            drop(unsafe { Arc::from_raw(share) });
            return Err(error);
        }
        Ok(Wait {
            registered: Registered { wait, context },
        })
    }
}

thread_local! {
    /// Whether this thread is in a callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "system" fn call_back(context: *mut c_void, _timed_out: bool) {
    // SAFETY: this is the share that was made for us. We are called once, and never after it was
    // taken back.
    let context = unsafe { Arc::from_raw(context.cast_const().cast::<Context>()) };
    if context.progress.swap(CALLED, Ordering::AcqRel) == WAITING {
        if let Some(waker) = context.inbox.put(context.key) {
            IN_CALLBACK.set(true);
            wake(waker);
            IN_CALLBACK.set(false);
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let progress = &self.registered.context.progress;
        let cancelled =
            progress.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        if cancelled.is_err() {
            self.registered.release();
        } else if IN_CALLBACK.get() {
            self.registered.clone().cancel_elsewhere();
        } else {
            self.registered.cancel();
        }
    }
}

/// A registered wait.
#[derive(Clone)]
struct Registered {
    wait: HANDLE,
    context: Arc<Context>,
}

// SAFETY: a wait may be unregistered by any thread.
unsafe impl Send for Registered {}
// SAFETY: nothing is done with the wait by reference, but for unregistering it in `Drop`.
unsafe impl Sync for Registered {}

impl Registered {
    /// Unregisters it once it has been called back.
    fn release(&self) {
        // It fails with ERROR_IO_PENDING if the callback has not returned yet. The wait goes then.
        // SAFETY: the wait is registered, and this is the only time that it is unregistered.
        unsafe { UnregisterWaitEx(self.wait, ptr::null_mut()) };
    }

    /// Unregisters it, cancelled before it was called back. Waits for a callback that has begun
    /// since, which does nothing.
    fn cancel(&self) {
        // SAFETY: the wait is registered, and this is the only time that it is unregistered.
        let result = unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) };
        // If that failed there may be a callback yet, whatever the reason: its share stays.
        if result != 0 && self.context.progress.load(Ordering::Acquire) == CANCELLED {
            // SAFETY: the callback has not taken this share, and there will be none any more.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(&self.context)) };
        }
    }

    fn cancel_elsewhere(self) {
        unsafe extern "system" fn run(registered: *mut c_void) -> u32 {
            // SAFETY: made below, for us alone.
            let registered = unsafe { Box::from_raw(registered.cast::<Registered>()) };
            registered.cancel();
            0
        }
        let registered = Box::into_raw(Box::new(self));
        // SAFETY: `run` takes the box over. If it cannot be queued, the wait and its context stay
        // for good: rather that than a thread that waits for itself.
        unsafe { QueueUserWorkItem(Some(run), registered.cast(), WT_EXECUTEDEFAULT) };
    }
}
