//! The thread pool waits for a process, and calls back.
//!
//! [RegisterWaitForSingleObject](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-registerwaitforsingleobject)
//! and [UnregisterWaitEx](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-unregisterwaitex).
//!
//! What makes this difficult is the end of a wait. It must be unregistered before the handle is
//! closed, and its context must stay for as long as the callback may run. `UnregisterWaitEx` can see
//! to that by waiting for the callback. But callbacks wake tasks, which is foreign code: it may drop
//! this very wait, or another one, or need a lock that is held where a wait is dropped. So nothing is
//! ever waited for. The callback and the [`Wait`] each have a share in the context, which keeps the
//! handle open, and whichever comes first, the callback or the drop, settles it:
//!
//! - The drop comes first. Then the callback, if it is called after all, only gives up its share.
//!   Whether it will be, `UnregisterWaitEx` tells. If not, the drop gives up that share too.
//! - The callback comes first. Then the system is done with the handle, as it waits only once, and
//!   the callback has given up its share.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD,
    WT_EXECUTEONLYONCE,
};

use super::Handle;
use crate::inbox::{Inbox, wake};

/// A wait for a process, until this is dropped.
pub(super) struct Wait {
    wait: HANDLE,
    context: Arc<Context>,
}

// SAFETY: any thread may unregister a wait.
unsafe impl Send for Wait {}
// SAFETY: nothing is done with the wait by reference.
unsafe impl Sync for Wait {}

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
        Ok(Wait { wait, context })
    }

    pub(super) fn inbox(&self) -> &Inbox<u64> {
        &self.context.inbox
    }
}

unsafe extern "system" fn call_back(context: *mut c_void, _timed_out: bool) {
    // SAFETY: the share that was made for this call. There is one call at most, and the share is
    // only taken back when there will be none.
    let context = unsafe { Arc::from_raw(context.cast_const().cast::<Context>()) };
    if context.progress.swap(CALLED, Ordering::AcqRel) == WAITING {
        if let Some(waker) = context.inbox.put(context.key) {
            wake(waker);
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let progress = &self.context.progress;
        let cancelled =
            progress.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        // No event: it does not wait.
        // SAFETY: the wait is registered, and this is the only time that it is unregistered.
        let result = unsafe { UnregisterWaitEx(self.wait, ptr::null_mut()) };
        // Success means that no callback runs or will. ERROR_IO_PENDING means that one does or will,
        // and takes its share with it; after any other error that is not certain, so it stays.
        if cancelled.is_ok() && result != 0 && progress.load(Ordering::Acquire) == CANCELLED {
            // SAFETY: the share that was made for the callback, which will not be called.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(&self.context)) };
        }
    }
}
