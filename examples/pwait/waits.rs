//! The waits for processes, process groups and cgroups.

use std::ffi::OsString;
use std::io;

use tokio::task::JoinSet;
use tokio_process_exit::{Exit, ExitSet};

/// The waits that have not ended.
#[derive(Default)]
pub(crate) struct Waits {
    pub(crate) set: ExitSet,
    /// The waits for groups and cgroups. Each returns its name.
    groups: JoinSet<io::Result<String>>,
    /// The names of the groups and cgroups.
    names: Vec<String>,
}

/// A wait that has ended.
pub(crate) enum Ended {
    Process(Exit),
    /// The name of a group or cgroup.
    Group(String),
}

impl Waits {
    pub(crate) fn len(&self) -> usize {
        self.set.len() + self.groups.len()
    }

    /// Waits for the next wait to end. `None` if there is none.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Ended>> {
        tokio::select! {
            biased;
            Some(exit) = self.set.next_exit() => Some(exit.map(Ended::Process)),
            Some(joined) = self.groups.join_next() => {
                let result = joined.unwrap_or_else(|error| Err(io::Error::other(error)));
                if let Ok(name) = &result {
                    self.names.retain(|other| other != name);
                }
                Some(result.map(Ended::Group))
            }
            else => None,
        }
    }

    /// Returns the names of the groups and cgroups whose wait has not ended.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    #[cfg(unix)]
    pub(crate) fn insert_group(&mut self, pgid: u32) -> io::Result<()> {
        let group = tokio_process_exit::GroupExit::open(pgid)?;
        if nix::unistd::getpgrp().as_raw().unsigned_abs() == pgid {
            let message = format!("pwait is in process group {pgid}: it would wait forever");
            return Err(io::Error::other(message));
        }
        self.insert(format!("group {pgid}"), group);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn insert_cgroup(&mut self, path: &std::path::Path) -> io::Result<()> {
        let cgroup = tokio_process_exit::CgroupExit::open(path)?;
        self.insert(format!("cgroup {}", path.display()), cgroup);
        Ok(())
    }

    #[cfg(unix)]
    fn insert(
        &mut self,
        name: String,
        wait: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        self.names.push(name.clone());
        self.groups.spawn(async { wait.await.map(|()| name) });
    }
}

/// Replaces `-c CGROUP` by `--cgroup CGROUP`: FreeBSD's `-c N` is a count, which has no slash.
pub(crate) fn with_long_cgroup(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if cfg!(target_os = "linux") {
        for n in 1..arguments.len() {
            let has_slash = |text: &OsString| text.to_string_lossy().contains('/');
            if arguments[n] == "-c" && arguments.get(n + 1).is_some_and(has_slash) {
                arguments[n] = "--cgroup".into();
            }
        }
    }
    arguments
}
