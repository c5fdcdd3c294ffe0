//! Attaching a filter that certainly reports the exit.

use std::io;
use std::os::fd::BorrowedFd;

use super::kernel::system;
use super::probe::{Exited, PidProbe, Probe};
use super::proc_info::{self, StartId};
use super::semantics::{Attachment, EsrchCause, Refusal, attachment, esrch_cause, refusal};
use super::{Opened, errno_of, exit_event_unavailable, kevent};
use crate::error::OpenError;

/// Attaches a filter to the process that has the pid. Returns its id, if the system shows that.
///
/// The kqueue must not have a filter for this pid.
pub(super) fn attach(
    kqueue: BorrowedFd<'_>,
    pid: libc::pid_t,
) -> Result<Opened<Option<StartId>>, OpenError> {
    if cfg!(tokio_process_exit_force_poll) {
        let reason = io::Error::from_raw_os_error(libc::ENOSYS);
        return PidProbe::open(pid, reason);
    }
    // Each further round needs an exit or a recycled pid at this very moment.
    const MAX_ROUNDS: u32 = 16;
    for _ in 0..MAX_ROUNDS {
        let before = proc_info::entry(pid);
        if let Err(error) = kevent::register(kqueue, pid) {
            if refusal(errno_of(&error), false) != Refusal::NotRunning {
                return PidProbe::open(pid, error);
            }
            if let Some(exited) = Exited::child(pid) {
                return Ok(refused(exited));
            }
            let (entry, start_id) = proc_info::read(pid);
            match esrch_cause(system(), entry.presence) {
                EsrchCause::NoSuchProcess => return Err(OpenError::NoSuchProcess),
                EsrchCause::Zombie | EsrchCause::Exiting => {
                    let reason = exit_event_unavailable();
                    return PidProbe::open_entry(pid, entry, start_id, reason);
                }
                EsrchCause::Recycled => continue,
            }
        }
        // Read after the filter was added: the kernel may drop the event of an exit that began before.
        let (after, start_id) = proc_info::read(pid);
        let same = before.is_same(&after);
        match attachment(system(), before.presence, same, after.presence) {
            Attachment::Reliable => return Ok(Opened::WithEvents(start_id)),
            Attachment::AddAgain => kevent::deregister(kqueue, pid),
            Attachment::Unreliable => {
                kevent::deregister(kqueue, pid);
                let reason = exit_event_unavailable();
                return PidProbe::open_entry(pid, after, start_id, reason);
            }
        }
    }
    let reason = io::Error::from_raw_os_error(libc::ESRCH);
    PidProbe::open(pid, reason)
}

fn refused<T>(exited: Exited) -> Opened<T> {
    Opened::refused(Probe::Exited(exited), exit_event_unavailable())
}
