//! A cgroup for the processes.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::os;

/// An empty cgroup v2, in a hierarchy that only this program and its children see at this place.
pub(super) struct Cgroup {
    pub(super) path: PathBuf,
    mount: PathBuf,
    /// The cgroup of this program.
    home: PathBuf,
}

impl Cgroup {
    /// Fails without the right to mount.
    pub(super) fn create() -> io::Result<Cgroup> {
        let name = format!("tokio-process-exit-bench-{}", std::process::id());
        let mount = std::env::temp_dir().join(&name);
        fs::create_dir_all(&mount)?;
        os::mount_privately(c"cgroup2", mount.as_os_str().as_bytes()).inspect_err(|_| {
            _ = fs::remove_dir(&mount);
        })?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let cgroup = Cgroup {
            path: mount.join(name),
            home: mount.join(own.ok_or(io::ErrorKind::Unsupported)?),
            mount,
        };
        fs::create_dir(&cgroup.path)?;
        Ok(cgroup)
    }

    /// Starts processes in the cgroup.
    pub(super) fn start<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        // A child starts in the cgroup of its parent. To move each would take longer.
        move_to(&self.path)?;
        let started = start();
        move_to(&self.home)?;
        Ok(started)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        _ = fs::remove_dir(&self.path);
        os::unmount(self.mount.as_os_str().as_bytes());
        _ = fs::remove_dir(&self.mount);
    }
}

/// Moves this program to another cgroup.
fn move_to(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}
