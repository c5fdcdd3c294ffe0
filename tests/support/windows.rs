//! Helpers for Windows.

use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessHandleCount};

/// Returns how many handles this process has open.
///
/// Wine always returns 0.
pub fn handle_count() -> u32 {
    let mut count = 0;
    // SAFETY: the call takes no arguments, and returns a constant that stands for this process.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: `count` is writable.
    let result = unsafe { GetProcessHandleCount(process, &raw mut count) };
    assert_ne!(result, 0, "{}", std::io::Error::last_os_error());
    if count == 0 {
        super::skip("this system does not count handles");
    }
    count
}
