//! Processes that take more than `std::process`: grandchildren, process groups of threads.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Output};

/// A process that is not our child. Its parent, the keeper, reaps it only when told.
pub struct Grandchild {
    id: u32,
    keeper: Forked,
    /// Carries the exit code to the grandchild.
    exit: File,
    /// Carries the order to reap to the keeper, and its report back.
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
        let keeper = fork(|| {
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
            .expect("the keeper reports the pid");
        let id = u32::from_ne_bytes(id);
        Grandchild {
            id,
            keeper,
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
        super::until("a zombie", || state_of(grandchild.id) == Some('Z'));
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
        self.reap.write_all(&[1]).expect("the keeper listens");
        self.report
            .read_exact(&mut [0])
            .expect("the keeper reports the reap");
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
        // The keeper goes with its own drop.
        let _ = &self.keeper;
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
pub fn herd(size: usize) -> Vec<Forked> {
    (0..size).map(|_| fork(|| forever())).collect()
}

/// In a forked child: starts a second thread that runs `body`, and ends the leading thread.
///
/// What `body` returns is the exit code of the process.
pub fn leader_exits<F: FnOnce() -> i32>(body: F) -> ! {
    extern "C" fn run<F: FnOnce() -> i32>(body: *mut c_void) -> i32 {
        // SAFETY: the pointer that was passed to `clone` below, read once.
        let body = unsafe { body.cast::<F>().read() };
        exit_group(body())
    }
    const STACK: usize = 256 << 10;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK, protection, flags, -1, 0) };
    assert_ne!(stack, libc::MAP_FAILED);
    // SAFETY: the end of the mapping, from which the stack grows down.
    let top = unsafe { stack.byte_add(STACK) };
    let mut body = std::mem::ManuallyDrop::new(body);
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    // SAFETY: the stack is as large as the thread needs, and `body` lives on the leader's stack,
    // which stays mapped when the leader exits.
    unsafe { libc::clone(run::<F>, top, flags, (&raw mut body).cast()) };
    // SAFETY: ends this thread only, and takes an integer. The code must not be believed.
    unsafe { libc::syscall(libc::SYS_exit, 99) };
    unreachable!()
}

/// Replaces the process by `sh -c script`.
pub fn exec_sh(script: &std::ffi::CStr) -> i32 {
    let arguments = [
        c"sh".as_ptr(),
        c"-c".as_ptr(),
        script.as_ptr(),
        std::ptr::null(),
    ];
    // SAFETY: a path and a null-terminated array of strings that live until the exec.
    unsafe { libc::execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) };
    98
}

pub fn pipe() -> (File, File) {
    let mut fds: [RawFd; 2] = [0; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0, "pipe2: {}", std::io::Error::last_os_error());
    (own(fds[0]).into(), own(fds[1]).into())
}

/// Takes ownership of a descriptor that a system call has just returned.
pub fn own(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: new, by the contract of this function.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn pidfd_open(pid: u32, flags: u32) -> OwnedFd {
    // SAFETY: takes integers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) } as RawFd)
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: takes integers. The pid is positive, so it is no group.
    unsafe { libc::kill(i32::try_from(pid).expect("a pid"), signal) };
}

fn fork_raw() -> libc::pid_t {
    // SAFETY: the child only makes system calls, see `fork`.
    unsafe { libc::fork() }
}

fn exit_group(code: i32) -> ! {
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

/// So that a killed test leaves nothing behind.
fn die_with_parent() {
    // SAFETY: takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
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

/// The state letter in `/proc/<pid>/stat`. `None`: no such process.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(name_end + 2).map(|&byte| byte as char)
}

/// The names of this process's open descriptors.
pub fn open_fds() -> Vec<String> {
    let mut fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // The directory itself is gone by now.
            let target = fs::read_link(entry.path()).ok()?;
            Some(format!(
                "{} {}",
                entry.file_name().to_string_lossy(),
                target.display()
            ))
        })
        .collect();
    fds.sort();
    fds
}

/// Our children, dead or alive.
pub fn children() -> Vec<String> {
    let me = std::process::id().to_string();
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| {
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.split_whitespace().nth(1) == Some(&me)
        })
        .collect()
}

pub fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// Linux 6.15, where a reaped process's status can be read from the pidfd.
pub fn pidfd_tells_the_status() -> bool {
    release() >= (6, 15) && !super::poll_forced()
}

/// Where `/proc/<pid>/stat` holds the status of the whole process.
pub fn stat_tells_the_status() -> bool {
    release() >= (6, 1)
}

pub fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Runs one test of this binary again in a process of its own, with `ROLE` set, as `prepare` says.
///
/// The test looks at [`role`] first.
pub fn rerun(test: &str, role: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let binary = std::env::current_exe().expect("this binary");
    let mut command = Command::new(binary);
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("ROLE", role);
    prepare(&mut command);
    command.output().expect("this binary starts again")
}

/// As [`rerun`], as another user than root. `None`: that user cannot start this binary.
pub fn rerun_as_nobody(test: &str, environment: &[(&str, String)]) -> Option<Output> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // A copy, as the way to the binary itself may be closed to others.
    let directory = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
    fs::create_dir_all(&directory).ok()?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).ok()?;
    let copy = directory.join("test");
    fs::copy(std::env::current_exe().ok()?, &copy).ok()?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).ok()?;
    let mut command = Command::new(&copy);
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("ROLE", "nobody")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .uid(65534)
        .gid(65534)
        .current_dir("/");
    let mut output = command.output();
    // A fork by another test may have the copy open for writing, until its exec.
    while output
        .as_ref()
        .is_err_and(|error| error.raw_os_error() == Some(libc::ETXTBSY))
    {
        std::thread::yield_now();
        output = command.output();
    }
    let _ = fs::remove_dir_all(&directory);
    output.ok()
}

pub fn role() -> Option<String> {
    std::env::var("ROLE").ok()
}

/// Fails with what the other process said.
#[track_caller]
pub fn assert_passed(output: &Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{}\n--- stdout\n{out}\n--- stderr\n{err}",
        output.status,
    );
    for line in err.lines().filter(|line| line.starts_with("skipped:")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Whether any process but `except` holds a pidfd of `pid`.
pub fn holds_pidfd_of(pid: u32, except: u32) -> bool {
    let line = format!("\nPid:\t{pid}\n");
    let holds = |process: &fs::DirEntry| {
        let Ok(fds) = fs::read_dir(process.path().join("fdinfo")) else {
            return false;
        };
        fds.filter_map(|fd| fs::read_to_string(fd.ok()?.path()).ok())
            .any(|text| text.contains(&line))
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name() != *except.to_string())
        .any(|process| holds(&process))
}

/// Of all threads of this process so far.
pub fn voluntary_context_switches() -> i64 {
    usage().ru_nvcsw as _
}

/// Makes a process that has this free pid. `None` where pids cannot be chosen.
pub fn recycle<T>(pid: u32, spawn: impl Fn() -> T, id: impl Fn(&T) -> u32) -> Option<T> {
    // The kernel goes on from here, unless another process comes in between.
    (0..100).find_map(|_| {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        Some(spawn()).filter(|process| id(process) == pid)
    })
}

/// Of all threads of this process so far.
pub fn cpu_time() -> std::time::Duration {
    let usage = usage();
    [usage.ru_utime, usage.ru_stime]
        .map(|time| std::time::Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .iter()
        .sum()
}

fn usage() -> libc::rusage {
    // SAFETY: a `rusage` is all integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage
}

/// Sets the soft limit of descriptors, and returns what it was.
pub fn limit_descriptors(soft: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let before = std::mem::replace(&mut limit.rlim_cur, soft as _);
    // SAFETY: `limit` is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    before as _
}
