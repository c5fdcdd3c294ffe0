//! Promise: the wait for a job object resolves once no process in it or below is alive, and not before.

#![cfg(windows)]

mod support;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::process::Stdio;
use std::ptr;
use std::time::{Duration, Instant};

use support::{Child, deadline, expired, poll_once, runtimes, still_pending};
use tokio_process_exit::JobExit;
use windows_sys::Win32::Foundation::{DuplicateHandle, HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::IO::{CreateIoCompletionPort, GetQueuedCompletionStatus};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOBOBJECT_ASSOCIATE_COMPLETION_PORT,
    JobObjectAssociateCompletionPortInformation, SetInformationJobObject,
};
use windows_sys::Win32::System::SystemServices::{
    JOB_OBJECT_MSG_ACTIVE_PROCESS_ZERO, JOB_OBJECT_QUERY, JOB_OBJECT_TERMINATE,
};
use windows_sys::Win32::System::Threading::{CreateEventW, GetCurrentProcess};

const SHORT: Duration = Duration::from_millis(200);
/// Longer than a test runs.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn resolves_after_the_last_process() {
    for runtime in runtimes() {
        let job = Job::create();
        let mut children = [job.start(0), job.start(1), job.start(2)];
        let mut exit = job.exit();
        runtime.block_on(async {
            for child in &mut children {
                still_pending(&mut exit).await;
                // The wait has an event for each process, and does not query the job at intervals.
                let debug = format!("{exit:?}");
                assert!(debug.ends_with("polled: false }"), "{debug}");
                assert!(!exit.try_wait().unwrap());
                child.end();
                child.reap();
            }
            deadline(&mut exit).await.unwrap();
        });
        assert!(exit.is_terminated());
        assert!(exit.try_wait().unwrap());
        // The result is returned again.
        runtime.block_on(deadline(exit)).unwrap();
    }
}

#[test]
fn resolves_at_once_if_all_exited_before() {
    let runtime = &runtimes()[0];
    let job = Job::create();
    let result = runtime.block_on(async { expired(job.exit()).await });
    result.expect("ready in the first poll").unwrap();
    let mut child = job.start(0);
    child.end();
    child.reap();
    let mut exit = job.exit();
    assert!(exit.try_wait().unwrap());
    let result = runtime.block_on(async { expired(job.exit()).await });
    result.expect("ready in the first poll").unwrap();
    // A wait needs no runtime.
    poll_once(job.exit()).expect("ready").unwrap();
}

#[test]
#[allow(
    clippy::zombie_processes,
    reason = "each generation exits before the next"
)]
fn resolves_after_a_chain_of_processes() {
    const TEST: &str = "resolves_after_a_chain_of_processes";
    let generation = |lifetime: &str, left: u32| {
        let mut command = support::command(std::env::current_exe().unwrap());
        command.args(["--exact", TEST]).stdout(Stdio::null());
        command.env("ROLE", format!("{lifetime} {left}"));
        command
    };
    if let Some(role) = support::role() {
        let (lifetime, left) = role.split_once(' ').unwrap();
        // The first generation starts once it is in the job.
        io::stdin().read_line(&mut String::new()).unwrap();
        std::thread::sleep(Duration::from_millis(lifetime.parse().unwrap()));
        match left.parse::<u32>().unwrap() {
            0 => fs::write(std::env::var_os("END").unwrap(), "").unwrap(),
            left => {
                let mut next = generation(lifetime, left - 1);
                next.stdin(Stdio::null()).spawn().unwrap();
            }
        }
        return;
    }
    let end = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chain-end");
    for (runtime, lifetime) in runtimes().into_iter().zip(["50", "1"]) {
        let _ = fs::remove_file(&end);
        let job = Job::create();
        let mut first = Child::spawn_command(generation(lifetime, 20).env("END", &end));
        job.assign(&first);
        let exit = job.exit();
        first.end();
        runtime.block_on(deadline(exit)).unwrap();
        assert!(end.exists());
    }
    fs::remove_file(end).unwrap();
}

#[test]
fn a_process_in_a_job_below_counts() {
    let runtime = &runtimes()[0];
    let (job, below) = (Job::create(), Job::create());
    let mut first = job.start(0);
    below.assign(&first);
    let mut second = below.start(0);
    let (mut outer, mut inner) = (job.exit(), below.exit());
    runtime.block_on(async {
        first.end();
        first.reap();
        still_pending(&mut outer).await;
        still_pending(&mut inner).await;
        second.end();
        deadline(outer).await.unwrap();
        deadline(inner).await.unwrap();
    });
}

#[test]
fn a_process_that_is_assigned_later_counts() {
    let runtime = &runtimes()[0];
    let job = Job::create();
    let mut first = job.start(0);
    let mut exit = job.exit();
    runtime.block_on(async {
        still_pending(&mut exit).await;
        let mut second = job.start(0);
        first.end();
        first.reap();
        still_pending(&mut exit).await;
        second.end();
        deadline(exit).await.unwrap();
    });
}

#[test]
fn the_completion_port_stays_the_owners() {
    let runtime = &runtimes()[0];
    let job = Job::create();
    let waits = [job.exit(), job.exit()];
    for wait in waits {
        runtime.block_on(deadline(wait)).unwrap();
    }
    let mut child = job.start(0);
    let waits = [job.exit(), job.exit()];
    // SAFETY: takes no pointers, and the handle is the one that stands for none.
    let port = unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, 1) };
    let port = owned(port);
    let association = JOBOBJECT_ASSOCIATE_COMPLETION_PORT {
        CompletionKey: ptr::null_mut(),
        CompletionPort: port.as_raw_handle(),
    };
    // SAFETY: both handles are open, and the structure has this size.
    let result = unsafe {
        SetInformationJobObject(
            job.0.as_raw_handle(),
            JobObjectAssociateCompletionPortInformation,
            (&raw const association).cast(),
            size_of_val(&association) as u32,
        )
    };
    assert_ne!(result, 0, "{}", io::Error::last_os_error());
    child.end();
    let waits = waits.into_iter().chain([job.exit()]);
    for wait in waits {
        runtime.block_on(deadline(wait)).unwrap();
    }
    loop {
        let (mut message, mut key, mut data) = (0, 0, ptr::null_mut());
        // SAFETY: the port is open, and all three are writable.
        let result = unsafe {
            GetQueuedCompletionStatus(
                port.as_raw_handle(),
                &raw mut message,
                &raw mut key,
                &raw mut data,
                10_000,
            )
        };
        assert_ne!(result, 0, "{}", io::Error::last_os_error());
        if message == JOB_OBJECT_MSG_ACTIVE_PROCESS_ZERO {
            break;
        }
    }
}

#[test]
fn waits_for_many_jobs_at_once() {
    for runtime in runtimes() {
        let mut jobs: Vec<(Job, Child)> = (0..30)
            .map(|_| {
                let job = Job::create();
                let child = job.start(0);
                (job, child)
            })
            .collect();
        let waits: Vec<_> = jobs
            .iter()
            .map(|(job, _)| runtime.spawn(job.exit()))
            .collect();
        for (_, child) in &mut jobs {
            child.end();
        }
        runtime.block_on(async {
            for wait in waits {
                deadline(wait).await.unwrap().unwrap();
            }
        });
    }
}

#[test]
fn a_wait_can_move_between_runtimes() {
    let job = Job::create();
    let mut child = job.start(0);
    let mut exit = job.exit();
    let runtimes = runtimes();
    support::stays_pending_in_turns(&runtimes, &mut exit);
    child.end();
    let task = runtimes[1].spawn(deadline(exit));
    runtimes[1].block_on(task).unwrap().unwrap();
}

#[test]
fn what_is_no_job_is_refused() {
    let child = Child::spawn(0);
    // SAFETY: takes no pointers but null ones.
    let event = unsafe { CreateEventW(ptr::null(), 0, 0, ptr::null()) };
    // SAFETY: nobody owns these values, and closing them does nothing.
    let [null, invalid] = [ptr::null_mut(), INVALID_HANDLE_VALUE]
        .map(|handle| unsafe { OwnedHandle::from_raw_handle(handle) });
    let handles = [
        (
            child.0.as_handle().try_clone_to_owned().unwrap(),
            "job object",
        ),
        (owned(event), "job object"),
        (null, "job object"),
        (invalid, "job object"),
        (
            Job::create().with_rights(JOB_OBJECT_TERMINATE),
            "JOB_OBJECT_QUERY",
        ),
    ];
    for (handle, message) in handles {
        let error = JobExit::try_from(handle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn stop_terminates_after_the_grace() {
    for runtime in runtimes() {
        let (job, below) = (Job::create(), Job::create());
        let mut children = [job.start(0), job.start(0), job.start(0)];
        below.assign(&children[2]);
        let mut exit = job.exit();
        let start = Instant::now();
        runtime.block_on(deadline(exit.stop(SHORT))).unwrap();
        assert!(start.elapsed() >= SHORT);
        for child in &mut children {
            assert_eq!(child.reap().code(), Some(1));
        }
        // The job is empty.
        runtime.block_on(deadline(exit.stop(LONG))).unwrap();
        runtime
            .block_on(deadline(job.exit().stop(Duration::ZERO)))
            .unwrap();
    }
}

#[test]
fn stop_returns_once_all_have_exited() {
    for runtime in runtimes() {
        let job = Job::create();
        let mut child = job.start(7);
        let mut exit = job.exit();
        runtime.block_on(async {
            let mut stop = Box::pin(exit.stop(LONG));
            still_pending(&mut stop).await;
            child.end();
            deadline(stop).await.unwrap();
        });
        assert_eq!(child.reap().code(), Some(7));
    }
}

#[test]
fn a_cancelled_stop_terminates_nothing() {
    let runtime = &runtimes()[0];
    let job = Job::create();
    let mut child = job.start(7);
    let mut exit = job.exit();
    runtime.block_on(async {
        let stop = exit.stop(LONG);
        assert!(tokio::time::timeout(SHORT, stop).await.is_err());
        still_pending(&mut exit).await;
        child.end();
        deadline(exit).await.unwrap();
    });
    assert_eq!(child.reap().code(), Some(7));
}

#[test]
fn terminate_ends_all_processes() {
    let runtime = &runtimes()[0];
    let job = Job::create();
    assert_eq!(
        job.exit().terminate(9).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let mut children = [job.start(0), job.start(0)];
    let exit = job.exit();
    exit.terminate(9).unwrap();
    runtime.block_on(deadline(exit)).unwrap();
    for child in &mut children {
        assert_eq!(child.reap().code(), Some(9));
    }
    assert_eq!(
        job.exit().terminate(9).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_handle_without_the_right_may_not_terminate() {
    let runtime = &runtimes()[0];
    let job = Job::create();
    let mut child = job.start(7);
    let mut exit = JobExit::try_from(job.with_rights(JOB_OBJECT_QUERY)).unwrap();
    let denied = exit.terminate(9).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "{denied}");
    let denied = runtime.block_on(deadline(exit.stop(SHORT))).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "{denied}");
    child.end();
    runtime.block_on(deadline(exit)).unwrap();
    assert_eq!(child.reap().code(), Some(7));
}

#[test]
fn our_own_job_is_not_stopped() {
    const TEST: &str = "our_own_job_is_not_stopped";
    if !support::has_own_process(TEST) {
        return;
    }
    let (job, below) = (Job::create(), Job::create());
    for job in [&job, &below] {
        // SAFETY: takes nothing, and returns a constant that stands for this process.
        job.assign_handle(unsafe { GetCurrentProcess() });
    }
    let runtime = &runtimes()[0];
    for job in [job, below] {
        let mut exit = job.exit();
        let error = runtime.block_on(exit.stop(Duration::ZERO)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        runtime.block_on(still_pending(exit));
    }
}

#[test]
fn stop_needs_a_runtime_with_timers() {
    let job = Job::create();
    let mut child = job.start(7);
    let mut exit = job.exit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let stop = std::panic::AssertUnwindSafe(|| runtime.block_on(exit.stop(Duration::ZERO)));
    std::panic::catch_unwind(stop).unwrap_err();
    // Awaiting needs none.
    child.end();
    runtime.block_on(exit).unwrap();
    assert_eq!(child.reap().code(), Some(7));
}

struct Job(OwnedHandle);

impl Job {
    fn create() -> Job {
        // SAFETY: null pointers stand for the default.
        Job(owned(unsafe { CreateJobObjectW(ptr::null(), ptr::null()) }))
    }

    fn exit(&self) -> JobExit {
        JobExit::try_from(self.0.try_clone().unwrap()).unwrap()
    }

    /// Starts a child in the job, which exits with `code` at [`Child::end`].
    fn start(&self, code: u8) -> Child {
        let child = Child::spawn(code);
        self.assign(&child);
        child
    }

    fn assign(&self, child: &Child) {
        self.assign_handle(child.0.as_raw_handle());
    }

    fn assign_handle(&self, process: HANDLE) {
        // SAFETY: both handles are open.
        let result = unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process) };
        assert_ne!(result, 0, "{}", io::Error::last_os_error());
    }

    /// Returns another handle, which has only these rights.
    fn with_rights(&self, rights: u32) -> OwnedHandle {
        let mut duplicate = ptr::null_mut();
        // SAFETY: takes nothing, and returns a constant that stands for this process.
        let process = unsafe { GetCurrentProcess() };
        let job = self.0.as_raw_handle();
        // SAFETY: the handle is open, and `duplicate` is writable.
        let result =
            unsafe { DuplicateHandle(process, job, process, &raw mut duplicate, rights, 0, 0) };
        assert_ne!(result, 0, "{}", io::Error::last_os_error());
        owned(duplicate)
    }
}

/// Converts the result of a system call, which is a new handle or null.
fn owned(handle: HANDLE) -> OwnedHandle {
    assert!(!handle.is_null(), "{}", io::Error::last_os_error());
    // SAFETY: the system has just created this handle, and nobody else owns it.
    unsafe { OwnedHandle::from_raw_handle(handle) }
}
