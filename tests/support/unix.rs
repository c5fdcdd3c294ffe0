//! Processes that `std::process` cannot start: grandchildren, and forks that execute no program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
#[cfg(not(target_os = "linux"))]
use std::process::Command;

/// A process that is not our child, and whose parent reaps it only at [`Grandchild::reap`].
pub struct Grandchild {
    id: u32,
    parent: Forked,
    /// Carries the exit code to the grandchild.
    exit: File,
    /// Carries the request to reap to the parent.
    reap: File,
    /// Carries the grandchild's pid from the parent, and a byte after the reap.
    report: File,
    reaped: bool,
}

impl Grandchild {
    pub fn spawn() -> Grandchild {
        let (exit_read, exit) = pipe();
        let (reap_read, reap) = pipe();
        let (mut report, report_write) = pipe();
        let (exit_fd, reap_fd, report_fd) = (
            exit_read.as_raw_fd(),
            reap_read.as_raw_fd(),
            report_write.as_raw_fd(),
        );
        let parent = fork(|| {
            let grandchild = fork_raw();
            if grandchild == 0 {
                die_with_parent();
                return i32::from(read_byte(exit_fd));
            }
            write_bytes(report_fd, &grandchild.to_ne_bytes());
            read_byte(reap_fd);
            reap_raw(grandchild);
            write_bytes(report_fd, &[1]);
            0
        });
        let mut id = [0; 4];
        report
            .read_exact(&mut id)
            .expect("the parent reports the pid");
        let id = u32::from_ne_bytes(id);
        Grandchild {
            id,
            parent,
            exit,
            reap,
            report,
            reaped: false,
        }
    }

    /// Returns a grandchild that has exited with `code` and has not been reaped.
    pub fn zombie(code: u8) -> Grandchild {
        let mut grandchild = Grandchild::spawn();
        grandchild.end(code);
        super::until("the grandchild is a zombie", || is_zombie(grandchild.id));
        grandchild
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Makes the grandchild exit with `code`.
    pub fn end(&mut self, code: u8) {
        self.exit
            .write_all(&[code])
            .expect("the grandchild reads the code");
    }

    /// Sends a signal to the grandchild.
    pub fn kill(&mut self, signal: i32) {
        assert!(!self.reaped);
        kill(self.id, signal);
    }

    /// Has the parent reap the grandchild. Blocks until the grandchild exits and has been reaped.
    pub fn reap(&mut self) {
        self.reap
            .write_all(&[1])
            .expect("the parent reads the request");
        self.report
            .read_exact(&mut [0])
            .expect("the parent reports the reap");
        self.reaped = true;
    }
}

impl Drop for Grandchild {
    fn drop(&mut self) {
        if !self.reaped {
            // Ignore errors: the grandchild may have exited, or this process has changed its user.
            let _ = self.exit.write_all(&[0]);
            kill(self.id, libc::SIGKILL);
            self.reap();
        }
        // Dropping this field afterwards kills and reaps the parent.
        let _ = &self.parent;
    }
}

/// A child made by `fork` without `exec`. Dropping the child kills and reaps it.
pub struct Forked {
    id: libc::pid_t,
}

impl Forked {
    pub fn id(&self) -> u32 {
        self.id as u32
    }

    /// Kills the child and blocks until it is a zombie.
    pub fn kill(&mut self) {
        kill(self.id(), libc::SIGKILL);
        super::until("the child is a zombie", || is_zombie(self.id()));
    }

    /// Reaps the child and returns its wait status.
    pub fn reap(self) -> i32 {
        let status = reap_raw(self.id);
        std::mem::forget(self);
        status
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        kill(self.id as u32, libc::SIGKILL);
        reap_raw(self.id);
    }
}

/// Forks a child that runs `body` and exits with the return value.
///
/// `body` may only make system calls. Code that allocates or locks could block forever: another
/// thread may hold a lock during the fork, and the child never releases this lock.
pub fn fork(body: impl FnOnce() -> i32) -> Forked {
    let id = fork_raw();
    if id == 0 {
        die_with_parent();
        exit_group(body());
    }
    assert!(id > 0, "fork: {}", std::io::Error::last_os_error());
    Forked { id }
}

/// Forks `size` children that sleep until they are killed.
pub fn many(size: usize) -> Vec<Forked> {
    (0..size).map(|_| fork(|| forever())).collect()
}

/// Returns the reading and the writing end of a pipe.
pub fn pipe() -> (File, File) {
    // Use sockets: not every system has `pipe2`, and programs would inherit both ends of a `pipe`.
    let (read, write) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    (OwnedFd::from(read).into(), OwnedFd::from(write).into())
}

/// Takes ownership of a descriptor that a system call has just returned. Panics if the call failed.
pub fn own(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the caller passes a new descriptor, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sends a signal to a process.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: the call takes integers. The pid is positive, so it names no process group.
    unsafe { libc::kill(i32::try_from(pid).expect("a pid"), signal) };
}

pub fn fork_raw() -> libc::pid_t {
    // SAFETY: the child only makes system calls, see `fork`.
    unsafe { libc::fork() }
}

/// Ends this process without running any exit handlers.
pub fn exit_group(code: i32) -> ! {
    // SAFETY: the call takes an integer.
    unsafe { libc::_exit(code) }
}

/// Waits for a child to exit, reaps it and returns its wait status.
pub fn reap_raw(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        let reaped = unsafe { libc::waitpid(pid, &mut status, 0) };
        if reaped >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return status;
        }
    }
}

/// Has the kernel kill this process when its parent exits: no process then outlives a killed test.
///
/// Does nothing on systems other than Linux, which do not support this.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes integers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
}

/// Returns whether a process has exited and has not been reaped.
///
/// Rests on the state that `ps` prints on systems other than Linux.
pub fn is_zombie(pid: u32) -> bool {
    // The leader thread is a zombie before the other threads have ended. An emulator has such threads.
    #[cfg(target_os = "linux")]
    return super::linux::state_of(pid) == Some('Z')
        && std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() == 1);
    #[cfg(not(target_os = "linux"))]
    {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &pid.to_string()])
            .output();
        ps.expect("ps").stdout.trim_ascii_start().starts_with(b"Z")
    }
}

/// Waits for a byte and returns it, or 97 at the end of the pipe. Makes only system calls.
pub fn read_byte(fd: RawFd) -> u8 {
    let mut byte = 97_u8;
    // SAFETY: `byte` has room for one byte.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
    byte
}

pub fn write_bytes(fd: RawFd, bytes: &[u8]) {
    // SAFETY: `bytes` is readable for its length.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Sleeps until this process is killed.
pub fn forever() -> ! {
    loop {
        // SAFETY: the call takes no arguments.
        unsafe { libc::pause() };
    }
}

pub fn is_root() -> bool {
    // SAFETY: the call takes no arguments.
    unsafe { libc::geteuid() == 0 }
}

/// Returns the numbers of this process's open descriptors, as far as they are below 1024.
#[cfg(not(target_os = "linux"))]
pub fn open_fds() -> Vec<RawFd> {
    // SAFETY: the call takes integers.
    let is_open = |&fd: &RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    (0..1024).filter(is_open).collect()
}
