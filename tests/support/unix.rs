//! Processes that take more than `std::process`: grandchildren, and children without a program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
#[cfg(not(target_os = "linux"))]
use std::process::Command;

/// A process that is not our child. Its parent, the parent, reaps it only when told.
pub struct Grandchild {
    id: u32,
    parent: Forked,
    /// Carries the exit code to the grandchild.
    exit: File,
    /// Carries the order to reap to the parent, and its report back.
    reap: File,
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

    /// One that has exited with `code`, a zombie as long as this lives and nobody reaps it.
    pub fn zombie(code: u8) -> Grandchild {
        let mut grandchild = Grandchild::spawn();
        grandchild.end(code);
        super::until("a zombie", || is_zombie(grandchild.id));
        grandchild
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn end(&mut self, code: u8) {
        self.exit.write_all(&[code]).expect("it listens");
    }

    pub fn kill(&mut self, signal: i32) {
        assert!(!self.reaped);
        kill(self.id, signal);
    }

    /// Has it reaped by its parent, once it has exited.
    pub fn reap(&mut self) {
        self.reap.write_all(&[1]).expect("the parent listens");
        self.report
            .read_exact(&mut [0])
            .expect("the parent reports the reap");
        self.reaped = true;
    }
}

impl Drop for Grandchild {
    fn drop(&mut self) {
        if !self.reaped {
            // Either may be refused, after a change of user or once it has exited.
            let _ = self.exit.write_all(&[0]);
            kill(self.id, libc::SIGKILL);
            self.reap();
        }
        // The parent goes with its own drop.
        let _ = &self.parent;
    }
}

/// A child made by `fork` alone. Killed and reaped when dropped.
pub struct Forked {
    id: libc::pid_t,
}

impl Forked {
    pub fn id(&self) -> u32 {
        self.id as u32
    }

    /// Has it exited, when this returns. It is left to be reaped.
    pub fn kill(&mut self) {
        kill(self.id(), libc::SIGKILL);
        super::until("a zombie", || is_zombie(self.id()));
    }

    /// Its wait status.
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

/// Runs `body` in a child and exits with what it returns.
///
/// The test process has threads, so `body` may only make system calls: no allocation, no lock.
pub fn fork(body: impl FnOnce() -> i32) -> Forked {
    let id = fork_raw();
    if id == 0 {
        die_with_parent();
        exit_group(body());
    }
    assert!(id > 0, "fork: {}", std::io::Error::last_os_error());
    Forked { id }
}

/// Children that cost next to nothing, and sleep until they are killed.
pub fn many(size: usize) -> Vec<Forked> {
    (0..size).map(|_| fork(|| forever())).collect()
}

pub fn pipe() -> (File, File) {
    // Of a pair of sockets, as `pipe2` is not everywhere, and `pipe` leaves them open in others.
    let (read, write) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    (OwnedFd::from(read).into(), OwnedFd::from(write).into())
}

/// Takes ownership of a descriptor that a system call has just returned.
pub fn own(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: new, by the contract of this function.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: takes integers. The pid is positive, so it is no group.
    unsafe { libc::kill(i32::try_from(pid).expect("a pid"), signal) };
}

fn fork_raw() -> libc::pid_t {
    // SAFETY: the child only makes system calls, see `fork`.
    unsafe { libc::fork() }
}

pub fn exit_group(code: i32) -> ! {
    // SAFETY: takes an integer.
    unsafe { libc::_exit(code) }
}

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

/// So that a killed test leaves nothing behind, where the system offers that.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes integers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
}

/// Whether it has exited and has not been reaped.
pub fn is_zombie(pid: u32) -> bool {
    #[cfg(target_os = "linux")]
    return super::linux::state_of(pid) == Some('Z');
    #[cfg(not(target_os = "linux"))]
    {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &pid.to_string()])
            .output();
        ps.expect("ps").stdout.trim_ascii_start().starts_with(b"Z")
    }
}

/// In a forked child: waits for a byte. 97 at the end of the pipe.
pub fn read_byte(fd: RawFd) -> u8 {
    let mut byte = 97_u8;
    // SAFETY: room for one byte.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
    byte
}

fn write_bytes(fd: RawFd, bytes: &[u8]) {
    // SAFETY: `bytes` is readable for its length.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

pub fn forever() -> ! {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

pub fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// The numbers of this process's open descriptors.
#[cfg(not(target_os = "linux"))]
pub fn open_fds() -> Vec<RawFd> {
    // SAFETY: takes integers.
    let is_open = |&fd: &RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    (0..1024).filter(is_open).collect()
}
