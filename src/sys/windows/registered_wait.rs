//! The thread pool waits for a process, and calls back.
//!
//! [RegisterWaitForSingleObject](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-registerwaitforsingleobject)
//! and [UnregisterWaitEx](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-unregisterwaitex).
//!
//! What makes this difficult is the end of a wait. It must be unregistered before the handle is
//! closed, and its context must stay for as long as the callback may run. `UnregisterWaitEx` can see
//! to that by waiting for the callback. But callbacks wake tasks, which is foreign code: it may drop
//! this very wait, or another one, or need a lock that is held where a wait is dropped. So nothing is
//! ever waited for. The callback and the [`RegisteredWait`] each have a [`CallbackContext`] of the context, which keeps the
//! handle open. Once the callback has been called the system is done with that, as it waits only
//! once.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle};
use std::ptr;
use std::sync::Arc;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD,
    WT_EXECUTEONLYONCE,
};

use super::Handle;
use super::callback_context::CallbackContext;
use crate::wake_queue::{WakeQueue, wake};

/// A wait for a process, until this is dropped.
pub(super) struct RegisteredWait {
    wait: HANDLE,
    share: Arc<CallbackContext<Context>>,
}

// SAFETY: any thread may unregister a wait.
unsafe impl Send for RegisteredWait {}
// SAFETY: nothing is done with the wait by reference.
unsafe impl Sync for RegisteredWait {}

/// What the callback and the [`RegisteredWait`] share.
struct Context {
    /// Stays open until the system is done with it.
    handle: Arc<Handle>,
    queue: Arc<WakeQueue<u64>>,
    key: u64,
}

impl RegisteredWait {
    /// Has `key` put into the queue, once, when the process has exited.
    pub(super) fn new(
        handle: &Arc<Handle>,
        queue: &Arc<WakeQueue<u64>>,
        key: u64,
    ) -> io::Result<RegisteredWait> {
        if cfg!(tokio_process_exit_force_poll) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (share, callbacks) = CallbackContext::pair(Context {
            handle: handle.clone(),
            queue: queue.clone(),
            key,
        });
        let process = share.context.handle.as_handle().as_raw_handle();
        // The callback only puts a key into a queue and wakes a task, so it needs no thread of its
        // own.
        let flags = WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE;
        let mut wait: HANDLE = ptr::null_mut();
        // SAFETY: `wait` is writable. The context keeps the process's handle open, and is kept by
        // its own share until the callback has been called or the wait has been unregistered.
        let result = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                process,
                Some(call_back),
                callbacks.cast(),
                INFINITE,
                flags,
            )
        };
        if result == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: there will be no callback.
            unsafe { CallbackContext::release(callbacks) };
            return Err(error);
        }
        Ok(RegisteredWait { wait, share })
    }

    pub(super) fn queue(&self) -> &WakeQueue<u64> {
        &self.share.context.queue
    }
}

unsafe extern "system" fn call_back(context: *mut c_void, _timed_out: bool) {
    // SAFETY: the share that was made for this call. There is one call at most, and the share is
    // only given up when there will be none.
    let (share, first) =
        unsafe { CallbackContext::enter(context.cast_const().cast::<CallbackContext<Context>>()) };
    if first {
        if let Some(waker) = share.context.queue.send(share.context.key) {
            wake(waker);
        }
    }
}

impl Drop for RegisteredWait {
    fn drop(&mut self) {
        let unregister = || {
            // No event: it does not wait.
            // SAFETY: the wait is registered, and this is the only time that it is unregistered.
            let result = unsafe { UnregisterWaitEx(self.wait, ptr::null_mut()) };
            // Success means that no callback runs or will. ERROR_IO_PENDING means that one does or
            // will, and takes its share with it; after any other error that is not certain.
            result != 0
        };
        // SAFETY: as the system says; dropped once.
        unsafe { CallbackContext::cancel(&self.share, unregister) };
    }
}
