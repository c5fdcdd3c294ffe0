//! A wait of the system's thread pool, which calls back when a process has exited.
//!
//! [RegisterWaitForSingleObject](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-registerwaitforsingleobject)
//! and [UnregisterWaitEx](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-unregisterwaitex).
//!
//! The difficult part is the end of a wait. The wait must be unregistered before the handle closes, and
//! the context must live as long as the callback may run. `UnregisterWaitEx` can wait for the callback,
//! but that could deadlock. The callback wakes a task, and the waker is the user's code: it may drop a
//! wait, or take a lock that is held where a wait is dropped. So nothing ever waits for the callback.
//! Instead the callback and the [`RegisteredWait`] share the [`CallbackContext`], which keeps the handle
//! open. After its only call, the system no longer needs the handle.

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

use super::ProcessHandle;
use super::callback_context::CallbackContext;
use crate::wake_queue::{WakeQueue, wake};

/// A wait for a process. Dropping it ends the wait.
pub(super) struct RegisteredWait {
    wait: HANDLE,
    context: Arc<CallbackContext<WaitData>>,
}

// SAFETY: any thread may unregister a wait.
unsafe impl Send for RegisteredWait {}
// SAFETY: no method uses the wait by reference.
unsafe impl Sync for RegisteredWait {}

/// The data that a wait shares with its callback.
struct WaitData {
    /// Open until the system no longer needs it.
    handle: Arc<ProcessHandle>,
    queue: Arc<WakeQueue<u64>>,
    key: u64,
}

impl RegisteredWait {
    /// Waits for a process. Once it has exited, `key` is sent to the queue.
    pub(super) fn new(
        handle: &Arc<ProcessHandle>,
        queue: &Arc<WakeQueue<u64>>,
        key: u64,
    ) -> io::Result<RegisteredWait> {
        if cfg!(tokio_process_exit_force_poll) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (context, for_callback) = CallbackContext::pair(WaitData {
            handle: handle.clone(),
            queue: queue.clone(),
            key,
        });
        let process = context.data.handle.as_handle().as_raw_handle();
        // The callback only sends a key and wakes a task, so it may run in the thread that waits.
        let flags = WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE;
        let mut wait: HANDLE = ptr::null_mut();
        // SAFETY: `wait` is writable. The context keeps the process's handle open. The callback's
        // reference keeps the context alive until it has been called or the wait is unregistered.
        let result = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                process,
                Some(call_back),
                for_callback.cast(),
                INFINITE,
                flags,
            )
        };
        if result == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: the wait is not registered, so there will be no callback.
            unsafe { CallbackContext::release(for_callback) };
            return Err(error);
        }
        Ok(RegisteredWait { wait, context })
    }

    pub(super) fn queue(&self) -> &WakeQueue<u64> {
        &self.context.data.queue
    }
}

unsafe extern "system" fn call_back(context: *mut c_void, _timed_out: bool) {
    let context = context.cast_const().cast::<CallbackContext<WaitData>>();
    // SAFETY: this is the callback's reference. The system calls back at most once, and the wait releases
    // the reference only if the system will not call back.
    let (context, is_waited_for) = unsafe { CallbackContext::enter(context) };
    if is_waited_for {
        let data = &context.data;
        if let Some(waker) = data.queue.send(data.key) {
            wake(waker);
        }
    }
}

impl Drop for RegisteredWait {
    fn drop(&mut self) {
        let unregister = || {
            // Without an event, the call does not wait for the callback.
            // SAFETY: the wait is registered, and this is the only call that unregisters it.
            let result = unsafe { UnregisterWaitEx(self.wait, ptr::null_mut()) };
            // Success means that the callback neither runs nor will run. ERROR_IO_PENDING means that the
            // callback runs or will run, and releases its reference. Other errors prove nothing.
            result != 0
        };
        // SAFETY: `unregister` returns what the system has reported, and a wait is dropped once.
        unsafe { CallbackContext::cancel(&self.context, unregister) };
    }
}
