//! The process that a wait is for, as the oracle knows it.

use std::fmt;
use std::process::ExitStatus;

use crate::exit::Exit;
use crate::sys::fake::{Model, Phase, System, with_model};

/// The process that a wait is for.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) pid: i32,
    /// The processes that had the pid while the wait was opened. Almost always there is only one.
    pub(super) processes: Vec<usize>,
    pub(super) until_reaped: bool,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = if self.until_reaped {
            "the reap"
        } else {
            "the exit"
        };
        write!(f, "pid {} until {until}, of ", self.pid)?;
        with_model(|model| {
            let processes = self.processes.iter();
            let processes = processes.map(|&number| (number, &model.processes[number]));
            f.debug_map().entries(processes).finish()
        })
    }
}

impl Target {
    /// The target of a wait that has been opened since.
    pub(super) fn opened(pid: i32, since: u64) -> Target {
        Target {
            pid,
            processes: with_model(|model| model.owners(pid, since)),
            until_reaped: false,
        }
    }

    /// Returns the only process that the wait can be for.
    pub(super) fn only(&self) -> Option<usize> {
        match self.processes[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether any query shows the status: the process is a zombie, and the system shows the status and
    /// the process's id.
    pub(super) fn shows_status(&self, system: System) -> bool {
        let Some(only) = self.only() else {
            return false;
        };
        with_model(|model| {
            let process = &model.processes[only];
            let is_shown = match system {
                System::FreeBsd => true,
                System::Xnu => process.is_child || !process.is_foreign,
                System::NetBsd | System::OpenBsd | System::DragonFly => false,
            };
            is_shown && process.phase == Phase::Zombie
        })
    }

    pub(super) fn shares_a_process(&self, other: &Target) -> bool {
        self.processes
            .iter()
            .any(|process| other.processes.contains(process))
    }

    pub(super) fn any(&self, condition: impl Fn(Phase) -> bool) -> bool {
        let phase = |model: &mut Model, number: &usize| model.processes[*number].phase;
        with_model(|model| {
            self.processes
                .iter()
                .any(|number| condition(phase(model, number)))
        })
    }

    /// Whether the exit may be of this target.
    pub(super) fn admits(&self, exit: &Exit) -> bool {
        let first = if self.until_reaped {
            Phase::Reaped
        } else {
            Phase::Exiting
        };
        let admits = |model: &mut Model, number: &usize| {
            let process = &model.processes[*number];
            let status = process.status.exit_status();
            process.phase >= first && exit.status().is_none_or(|it: ExitStatus| it == status)
        };
        exit.pid() == Some(self.pid as u32)
            && with_model(|model| self.processes.iter().any(|number| admits(model, number)))
    }
}
