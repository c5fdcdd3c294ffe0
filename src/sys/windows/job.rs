//! A job object.
//!
//! [Job objects](https://learn.microsoft.com/windows/win32/procthread/job-objects)
//!
//! # Safety
//!
//! Each block is one system call, or reads what the call has written. Handles are borrowed, so they are open
//! during the call. Pointers are to locals of the type and the size that the call expects.

use std::ffi::c_void;
use std::io;
use std::mem::{self, offset_of};
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_INVALID_HANDLE, ERROR_MORE_DATA};
use windows_sys::Win32::System::JobObjects::{
    IsProcessInJob, JOBOBJECT_BASIC_ACCOUNTING_INFORMATION, JOBOBJECT_BASIC_PROCESS_ID_LIST,
    JOBOBJECTINFOCLASS, JobObjectBasicAccountingInformation, JobObjectBasicProcessIdList,
    QueryInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// A job object, by a handle with the right to query it.
pub(crate) struct Job(OwnedHandle);

impl Job {
    /// Adopts a handle of a job object.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other handle, and for a handle that may not query the job.
    pub(crate) fn adopt(handle: OwnedHandle) -> io::Result<Job> {
        let raw = handle.as_raw_handle();
        let refused = |reason| {
            let message = format!("handle {raw:?} {reason}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        };
        // To the system calls, a null handle is the job of this process.
        if raw.is_null() {
            return refused("is not a handle of a job object");
        }
        let job = Job(handle);
        match job.active_processes() {
            Ok(_) => Ok(job),
            Err(error) => match error.raw_os_error().map(|code| code as u32) {
                Some(ERROR_INVALID_HANDLE) => refused("is not a handle of a job object"),
                Some(ERROR_ACCESS_DENIED) => {
                    refused("has no right to query the job: open it with JOB_OBJECT_QUERY")
                }
                _ => Err(error),
            },
        }
    }

    /// Returns the number of processes in the job, and in the jobs below, that have not exited.
    pub(crate) fn active_processes(&self) -> io::Result<u32> {
        // SAFETY: the structure is all integers, for which all zeroes is a valid value.
        let mut accounting: JOBOBJECT_BASIC_ACCOUNTING_INFORMATION = unsafe { mem::zeroed() };
        let size = size_of_val(&accounting);
        // SAFETY: `accounting` is writable, and has this size.
        unsafe {
            self.query(
                JobObjectBasicAccountingInformation,
                (&raw mut accounting).cast(),
                size,
            )
        }?;
        Ok(accounting.ActiveProcesses)
    }

    /// Returns the pids of the processes in the job, and in the jobs below, that have not exited.
    pub(crate) fn processes(&self) -> io::Result<Vec<u32>> {
        /// The list follows a header, which is as large as this many entries.
        const HEADER: usize =
            offset_of!(JOBOBJECT_BASIC_PROCESS_ID_LIST, ProcessIdList) / size_of::<usize>();

        let mut capacity = 64;
        loop {
            let mut buffer = vec![0_usize; HEADER + capacity];
            let size = size_of_val(&buffer[..]);
            let list = buffer.as_mut_ptr();
            // SAFETY: the buffer is writable, and has this size and the alignment of the structure.
            match unsafe { self.query(JobObjectBasicProcessIdList, list.cast(), size) } {
                Err(error) if error.raw_os_error() == Some(ERROR_MORE_DATA as i32) => {
                    // Twice as large: the job may have grown meanwhile.
                    capacity *= 2;
                    continue;
                }
                result => result?,
            }
            // SAFETY: the buffer is larger than the structure, and has its alignment. Any integers are valid.
            let list = unsafe { list.cast::<JOBOBJECT_BASIC_PROCESS_ID_LIST>().read() };
            let length = capacity.min(list.NumberOfProcessIdsInList as usize);
            let pids = &buffer[HEADER..][..length];
            return Ok(pids.iter().map(|&pid| pid as u32).collect());
        }
    }

    /// # Safety
    ///
    /// `information` is writable, and has this size in bytes and the alignment of the class's structure.
    unsafe fn query(
        &self,
        class: JOBOBJECTINFOCLASS,
        information: *mut c_void,
        size: usize,
    ) -> io::Result<()> {
        let (job, size) = (self.0.as_raw_handle(), size as u32);
        // SAFETY: the handle is open, and by the contract the information is writable.
        let result =
            unsafe { QueryInformationJobObject(job, class, information, size, ptr::null_mut()) };
        check(result)
    }

    /// Whether this process is in the job, or in a job below.
    pub(crate) fn contains_this_process(&self) -> io::Result<bool> {
        // SAFETY: takes nothing, and returns the pseudo handle of this process.
        let process = unsafe { GetCurrentProcess() };
        let (job, mut is_in_job) = (self.0.as_raw_handle(), 0);
        // SAFETY: the handle is open, the pseudo handle is always valid, and `is_in_job` is writable.
        check(unsafe { IsProcessInJob(process, job, &raw mut is_in_job) })?;
        Ok(is_in_job != 0)
    }

    /// Terminates all processes in the job, and in the jobs below.
    pub(crate) fn terminate(&self, exit_code: u32) -> io::Result<()> {
        // SAFETY: the handle is open.
        check(unsafe { TerminateJobObject(self.0.as_raw_handle(), exit_code) })
    }
}

impl AsHandle for Job {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// Converts the result of a system call, which is 0 after a failure.
fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
