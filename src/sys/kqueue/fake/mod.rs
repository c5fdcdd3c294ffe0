//! A model of the kernels with kqueue, for this backend's tests on Linux.
//!
//! The backend makes its system calls through `kernel` and `proc_info`, and in these tests both call the
//! [model](Model). The tests are in `src/fake_kqueue`.
//!
//! # Safety
//!
//! `kevent` is called as the system's, so the pointers are what the kernel would be passed. Each block is
//! one read or write of what a pointer points to.

mod model;
mod process;

use std::cell::Cell;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::model::Flags;
pub(crate) use self::model::Model;
pub(crate) use self::process::Phase;
use super::Status;
use super::proc_info::{self, Entry};
use super::semantics::StatusDelivery;
pub(crate) use super::semantics::System;

static MODEL: Mutex<Option<Model>> = Mutex::new(None);

thread_local! {
    /// Whether the model preempts the calls of this thread. Never in a poller's thread: when its calls
    /// happen depends on the time, so a seed would not replay.
    static IS_PREEMPTED: Cell<bool> = const { Cell::new(false) };
}

/// Starts a kernel. This thread's calls are not preempted.
pub(crate) fn start(system: System, seed: u64) {
    IS_PREEMPTED.set(false);
    *model() = Some(Model::new(system, fastrand::Rng::with_seed(seed)));
    // The backend remembers the start of this process. Otherwise the first calls would depend on an
    // earlier kernel.
    proc_info::read(std::process::id() as libc::pid_t);
}

/// Sets whether this thread's calls are preempted. Returns whether they were.
pub(crate) fn set_preempted(is_preempted: bool) -> bool {
    IS_PREEMPTED.replace(is_preempted)
}

/// Calls a function with the kernel.
pub(crate) fn with_model<T>(f: impl FnOnce(&mut Model) -> T) -> T {
    f(model().as_mut().expect("a test has started a kernel"))
}

fn model() -> MutexGuard<'static, Option<Model>> {
    MODEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a system call of the model. Other processes run before and after the call.
fn call<T>(call: impl FnOnce(&mut Model, bool) -> T) -> T {
    let is_preempted = IS_PREEMPTED.get();
    with_model(|model| {
        if is_preempted {
            model.count_call();
            model.preempt();
        }
        let result = call(model, is_preempted);
        if is_preempted {
            model.preempt();
        }
        result
    })
}

pub(super) fn system() -> System {
    let model = model();
    model.as_ref().map_or(System::FreeBsd, |model| model.system)
}

pub(super) fn delivery() -> StatusDelivery {
    match system() {
        System::Xnu => StatusDelivery::IfFlagged(model::NOTE_EXITSTATUS),
        _ => StatusDelivery::Always,
    }
}

/// The process table of `proc_info`.
pub(super) mod table {
    use super::*;

    pub(in super::super) fn entry(pid: libc::pid_t) -> Option<Entry> {
        call(|model, _| model.entry(pid))
    }

    pub(in super::super) fn time_of_boot() -> Option<i64> {
        call(|model, _| Some(model.time_of_boot()))
    }

    pub(in super::super) fn boot_id() -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// The names that `kernel` has.
pub(super) mod calls {
    use std::ptr;

    use super::*;

    pub(crate) use super::model::{EV_ADD, EV_DELETE, EV_ONESHOT, EVFILT_PROC, NOTE_EXIT};

    #[allow(non_camel_case_types, reason = "the name of the system")]
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(crate) struct kevent {
        pub(crate) ident: usize,
        pub(crate) filter: i16,
        pub(crate) flags: u16,
        pub(crate) fflags: u32,
        pub(crate) data: isize,
        pub(crate) udata: *mut libc::c_void,
    }

    fn result(result: Result<libc::c_int, i32>) -> libc::c_int {
        result.unwrap_or_else(|errno| {
            // SAFETY: the location of this thread's errno.
            let location = unsafe { libc::__errno_location() };
            // SAFETY: the location is valid for this thread.
            unsafe { *location = errno };
            -1
        })
    }

    /// # Safety
    ///
    /// None: unsafe as the system's.
    pub(crate) unsafe fn kqueue() -> libc::c_int {
        result(call(Model::kqueue))
    }

    /// # Safety
    ///
    /// As the system's: `changes` and `events` have as many entries as their numbers say.
    pub(crate) unsafe fn kevent(
        kqueue: libc::c_int,
        changes: *const kevent,
        changes_len: libc::c_int,
        events: *mut kevent,
        events_len: libc::c_int,
        _timeout: *const libc::timespec,
    ) -> libc::c_int {
        if changes_len == 1 {
            // SAFETY: the caller passes one change.
            let change = unsafe { ptr::read(changes) };
            assert_eq!(change.filter, EVFILT_PROC);
            let (pid, flags) = (change.ident as libc::pid_t, change.flags as Flags);
            let fflags = change.fflags;
            return result(call(|model, preempted| {
                model.change(kqueue, pid, flags, fflags, preempted)
            }));
        }
        let read = call(|model, _| model.read(kqueue, events_len as usize));
        let read = match read {
            Ok(read) => read,
            Err(errno) => return result(Err(errno)),
        };
        for (n, event) in read.iter().enumerate() {
            let event = kevent {
                ident: event.pid as usize,
                filter: EVFILT_PROC,
                flags: EV_ONESHOT,
                fflags: event.fflags,
                data: event.data,
                udata: ptr::null_mut(),
            };
            // SAFETY: the model returns at most as many events as the caller has room for.
            let place = unsafe { events.add(n) };
            // SAFETY: as above.
            unsafe { ptr::write(place, event) };
        }
        read.len() as libc::c_int
    }

    pub(crate) fn signal_0(pid: libc::pid_t) -> Result<(), i32> {
        call(|model, _| model.kill(pid, 0))
    }

    pub(crate) fn send_signal(pid: libc::pid_t, signal: i32) -> io::Result<()> {
        call(|model, _| model.kill(pid, signal)).map_err(|errno| match errno {
            libc::ESRCH => io::ErrorKind::NotFound.into(),
            errno => io::Error::from_raw_os_error(errno),
        })
    }

    pub(crate) fn child_status(kind: libc::idtype_t, id: libc::id_t) -> Option<Status> {
        assert_eq!(kind, libc::P_PID);
        call(|model, _| model.child_status(id as libc::pid_t).flatten())
    }

    pub(crate) fn is_child(pid: libc::pid_t) -> bool {
        call(|model, _| model.child_status(pid).is_some())
    }
}
