//! The system calls that take a pid or a process handle.
//!
//! # Safety
//!
//! Each block is one system call. Handles are borrowed, so they are open during the call. Pointers are
//! to locals of the type that the call expects.

use std::io;
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
};
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, FILETIME, INVALID_HANDLE_VALUE, WAIT_FAILED,
    WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentThread, GetExitCodeProcess, GetProcessId, GetProcessIdOfThread, GetProcessTimes,
    GetThreadTimes, OpenProcess, OpenThread, PROCESS_ACCESS_RIGHTS,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, PROCESS_TERMINATE,
    THREAD_QUERY_LIMITED_INFORMATION, TerminateProcess, WaitForSingleObject,
};

use super::{State, Status};
use crate::error::OpenError;

/// A handle with the right to wait for a process.
pub(super) struct ProcessHandle(OwnedHandle);

impl ProcessHandle {
    pub(super) fn open(pid: u32) -> Result<ProcessHandle, OpenError> {
        let opened = open_process(pid, PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION);
        let opened = match opened {
            // Some processes permit waiting, but no queries.
            Err(ERROR_ACCESS_DENIED) => open_process(pid, PROCESS_SYNCHRONIZE),
            opened => opened,
        };
        match opened {
            // `OpenProcess` ignores the two low bits: for pid + 3 it opens pid.
            Ok(handle) if handle.pid().unwrap_or(pid & !3) != pid => Err(OpenError::NoSuchProcess),
            Ok(handle) => Ok(handle),
            Err(ERROR_INVALID_PARAMETER) => Err(match process_of_thread(pid) {
                Some(process) => OpenError::Thread {
                    process: Some(process),
                },
                None => OpenError::NoSuchProcess,
            }),
            Err(ERROR_ACCESS_DENIED) => Err(OpenError::Denied),
            Err(code) => Err(OpenError::System(code as i32)),
        }
    }

    pub(super) fn adopt(handle: OwnedHandle) -> io::Result<(ProcessHandle, u32)> {
        // INVALID_HANDLE_VALUE is also the pseudo handle of this process, which cannot be adopted.
        let is_invalid = handle.as_raw_handle() == INVALID_HANDLE_VALUE;
        let handle = ProcessHandle(handle);
        let pid = handle.pid().filter(|_| !is_invalid).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "handle {:?} is not a process handle with PROCESS_QUERY_LIMITED_INFORMATION",
                    handle.0.as_raw_handle()
                ),
            )
        })?;
        match handle.state() {
            Ok(_) => Ok((handle, pid)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "handle {:?} of process {pid} has no right to wait: open it with SYNCHRONIZE",
                    handle.0.as_raw_handle()
                ),
            )),
        }
    }

    /// Returns the pid. `None` without the right to query it, or if this is not a process handle.
    fn pid(&self) -> Option<u32> {
        // SAFETY: the handle is open.
        let pid = unsafe { GetProcessId(self.0.as_raw_handle()) };
        (pid != 0).then_some(pid)
    }

    pub(super) fn state(&self) -> io::Result<State> {
        Ok(match self.wait(0)? {
            true => State::Exited {
                status: self.status(),
                reaped: true,
            },
            false => State::Running,
        })
    }

    /// Blocks until the process has exited, up to this number of milliseconds. Returns whether it has.
    pub(super) fn wait(&self, timeout: u32) -> io::Result<bool> {
        // SAFETY: the handle is open.
        match unsafe { WaitForSingleObject(self.0.as_raw_handle(), timeout) } {
            WAIT_OBJECT_0 => Ok(true),
            WAIT_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(false),
        }
    }

    /// Returns the creation time, in units of 100 ns since 1601.
    pub(super) fn creation_time(&self) -> io::Result<u64> {
        let (mut created, mut exited, mut kernel, mut user) = (ZERO, ZERO, ZERO, ZERO);
        let handle = self.0.as_raw_handle();
        let (kernel, user) = (&raw mut kernel, &raw mut user);
        // SAFETY: the handle is open, and all four are writable.
        let result =
            unsafe { GetProcessTimes(handle, &raw mut created, &raw mut exited, kernel, user) };
        if result == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(in_100_ns(created))
    }

    /// Terminates the process. `NotFound` after its exit.
    pub(super) fn terminate(&self, exit_code: u32) -> io::Result<()> {
        let has_exited = || self.state().map(|state| state != State::Running);
        if has_exited()? {
            return Err(io::ErrorKind::NotFound.into());
        }
        match self.try_terminate(exit_code) {
            // The call fails if the process has exited in between.
            Err(_) if has_exited()? => Err(io::ErrorKind::NotFound.into()),
            result => result,
        }
    }

    fn try_terminate(&self, exit_code: u32) -> io::Result<()> {
        let denied = || io::Error::from_raw_os_error(ERROR_ACCESS_DENIED as i32);
        let terminate = |handle: &ProcessHandle| {
            // SAFETY: the handle is open.
            let result = unsafe { TerminateProcess(handle.0.as_raw_handle(), exit_code) };
            if result == 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        // An adopted handle may have the right to terminate. The handles that this crate opens do not.
        terminate(self).or_else(|_| {
            // The pid is not recycled as long as this handle is open.
            let pid = self.pid().ok_or_else(denied)?;
            let handle = open_process(pid, PROCESS_TERMINATE)
                .map_err(|code| io::Error::from_raw_os_error(code as i32))?;
            terminate(&handle)
        })
    }

    /// Returns the exit code. `None` without the right to query it.
    ///
    /// Call this only after the exit. Before, the result is `STILL_ACTIVE`: 259, also a valid exit code.
    fn status(&self) -> Option<Status> {
        let mut code = 0;
        // SAFETY: the handle is open, and `code` is writable.
        let result = unsafe { GetExitCodeProcess(self.0.as_raw_handle(), &raw mut code) };
        (result != 0).then_some(Status(code))
    }
}

impl AsHandle for ProcessHandle {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// [OpenProcess](https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-openprocess)
fn open_process(pid: u32, rights: PROCESS_ACCESS_RIGHTS) -> Result<ProcessHandle, u32> {
    // SAFETY: takes integers.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    own_handle(handle).map(ProcessHandle)
}

/// Returns the process of the thread with this id. Threads and processes share their ids.
fn process_of_thread(number: u32) -> Option<u32> {
    // SAFETY: takes integers.
    let handle = unsafe { OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, number) };
    let thread = own_handle(handle).ok()?;
    // SAFETY: the handle is open.
    let process = unsafe { GetProcessIdOfThread(thread.as_raw_handle()) };
    // `OpenThread` ignores the two low bits too.
    (process != 0 && number & 3 == 0).then_some(process)
}

/// Converts the result of a system call, which is a new handle or null.
fn own_handle(handle: RawHandle) -> Result<OwnedHandle, u32> {
    if handle.is_null() {
        let error = io::Error::last_os_error().raw_os_error();
        return Err(error.unwrap_or(0) as u32);
    }
    // SAFETY: the system has just created this handle, and nobody else owns it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

const ZERO: FILETIME = FILETIME {
    dwLowDateTime: 0,
    dwHighDateTime: 0,
};

/// Returns a time in units of 100 ns.
fn in_100_ns(time: FILETIME) -> u64 {
    u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime)
}

/// Returns the CPU time of the calling thread.
pub(crate) fn thread_cpu_time() -> Duration {
    let (mut created, mut exited, mut kernel, mut user) = (ZERO, ZERO, ZERO, ZERO);
    // SAFETY: takes nothing, and returns the pseudo handle of this thread.
    let thread = unsafe { GetCurrentThread() };
    let (created, exited) = (&raw mut created, &raw mut exited);
    // SAFETY: all four are writable.
    unsafe { GetThreadTimes(thread, created, exited, &raw mut kernel, &raw mut user) };
    Duration::from_nanos(100)
        * u32::try_from(in_100_ns(kernel) + in_100_ns(user)).unwrap_or(u32::MAX)
}
