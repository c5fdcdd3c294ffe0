//! What the tests ask of Linux: threads, `/proc`, pids by choice.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Command, Output};

pub use super::unix::*;

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
    let argument = (&raw mut body).cast();
    // Again, if no pid is free.
    // SAFETY: the stack is as large as the thread needs, and `body` lives on the leader's stack,
    // which stays mapped when the leader exits.
    while unsafe { libc::clone(run::<F>, top, flags, argument) } < 0 {}
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

pub fn pidfd_open(pid: u32, flags: u32) -> OwnedFd {
    // SAFETY: takes integers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) } as RawFd)
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

/// Linux 6.15, where a reaped process's status can be read from the pidfd.
pub fn pidfd_tells_the_status() -> bool {
    release() >= (6, 15) && pidfd_can_be_asked() && !super::poll_forced()
}

/// Linux 6.13. An emulator need not know the call, whatever the kernel below.
pub fn pidfd_can_be_asked() -> bool {
    static KNOWN: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        // SAFETY: a `pidfd_info` is all integers.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        let pidfd = pidfd_open(std::process::id(), 0);
        // SAFETY: `info` is as large as the number says, and writable.
        unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) == 0 }
    });
    *KNOWN
}

/// Whether system calls can be denied. Emulators of user mode do without.
pub fn seccomp_filters() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: asks about an action, which is readable, and changes nothing.
    let known = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    known == 0
}

/// From now on a system call of this thread, and of those that it starts, fails.
pub fn deny(call: libc::c_long, errno: i32) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let filter = SeccompFilter::new(
        BTreeMap::from([(call as _, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH
            .try_into()
            .expect("an architecture with seccomp"),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
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
    let mut command = super::command(copy);
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

/// How many descriptors there is room for in this process's table by now.
pub fn descriptor_table() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)
}

/// Raises the soft limit of descriptors to the hard one, and returns it.
pub fn raise_descriptors() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit_descriptors(limit.rlim_max as _);
    limit.rlim_max as _
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
