//! Helpers for Linux: threads, `/proc`, denied system calls, resource limits and chosen pids.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Command, Output};
use std::time::Duration;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

pub use super::unix::*;

/// Starts a second thread that runs `body`, and ends the leader thread.
///
/// Call this only in a forked child. The child exits with the return value of `body`.
pub fn leader_exits<F: FnOnce() -> i32>(body: F) -> ! {
    two_threads(body, || None)
}

/// Starts a second thread that runs `body`, and runs `leader` in the leader thread.
///
/// Call this only in a forked child. The child exits with the return value of `body`, or with that of
/// `leader`. If `leader` returns `None`, only the leader thread exits.
pub fn two_threads<F: FnOnce() -> i32>(body: F, leader: impl FnOnce() -> Option<i32>) -> ! {
    extern "C" fn run<F: FnOnce() -> i32>(body: *mut c_void) -> i32 {
        // SAFETY: `body` is the pointer that was passed to `clone` below, and is read once.
        let body = unsafe { body.cast::<F>().read() };
        exit_group(body())
    }
    const STACK: usize = 256 << 10;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the call makes a new anonymous mapping at an address that the kernel chooses.
    let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK, protection, flags, -1, 0) };
    assert_ne!(stack, libc::MAP_FAILED);
    // SAFETY: `top` is the end of the mapping. The stack grows down from there.
    let top = unsafe { stack.byte_add(STACK) };
    let mut body = std::mem::ManuallyDrop::new(body);
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let argument = (&raw mut body).cast();
    // Retry while no pid is free.
    // SAFETY: the stack is as large as the thread needs, and `body` lives on the leader's stack,
    // which stays mapped when the leader exits.
    while unsafe { libc::clone(run::<F>, top, flags, argument) } < 0 {}
    if let Some(code) = leader() {
        exit_group(code);
    }
    // A wait must not report the code 99: it is the leader thread's, not the process's.
    // SAFETY: the call takes an integer and ends only this thread.
    unsafe { libc::syscall(libc::SYS_exit, 99) };
    unreachable!()
}

/// Replaces this process with `sh -c script`. Returns 98 if that fails.
pub fn exec_sh(script: &std::ffi::CStr) -> i32 {
    let arguments = [
        c"sh".as_ptr(),
        c"-c".as_ptr(),
        script.as_ptr(),
        std::ptr::null(),
    ];
    // SAFETY: the path and the null-terminated array of strings live until the `exec`.
    unsafe { libc::execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) };
    98
}

/// Opens a pidfd. Panics if that fails.
pub fn pidfd_open(pid: u32, flags: u32) -> OwnedFd {
    // SAFETY: the call takes integers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) } as RawFd)
}

/// Returns the state letter in `/proc/<pid>/stat`, or `None` if there is no such process.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(name_end + 2).map(|&byte| byte as char)
}

/// Whether each pidfd has the inode of its process (Linux 6.9).
pub fn pidfds_have_inodes() -> bool {
    use std::os::unix::fs::MetadataExt;
    let [this, init] = [std::process::id(), 1].map(|pid| {
        let file = fs::File::from(pidfd_open(pid, 0));
        file.metadata().expect("a pidfd has metadata").ino()
    });
    this != init
}

/// Returns the number of threads of this process.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("/proc").count()
}

/// Returns the number and the target of each open descriptor of this process.
pub fn open_fds() -> Vec<String> {
    let mut fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // Skip a descriptor that another thread has closed in the meantime.
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

/// Returns the `/proc/<pid>/stat` line of each of our children, zombies included.
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

/// Returns whether a pidfd reports the status of a reaped process (Linux 6.15).
///
/// Returns `false` if polling is forced, because no wait has a pidfd then.
pub fn pidfd_reports_status() -> bool {
    release() >= (6, 15) && pidfd_supports_get_info() && !super::poll_forced()
}

/// Returns whether pidfds support `PIDFD_GET_INFO` (Linux 6.13).
///
/// An emulator may not support the request even if the kernel does.
pub fn pidfd_supports_get_info() -> bool {
    static KNOWN: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        // SAFETY: a `pidfd_info` is all integers, for which all zeroes is a valid value.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        let pidfd = pidfd_open(std::process::id(), 0);
        // SAFETY: `info` is writable and has the size that the request number encodes.
        unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) == 0 }
    });
    *KNOWN
}

/// Returns whether seccomp can deny system calls. User-mode emulators do not support seccomp.
pub fn seccomp_filters() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads `action`, which is readable, and changes nothing.
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

/// Makes a system call fail with `errno`, in this thread and in all threads that it starts later.
pub fn deny(call: libc::c_long, errno: i32) {
    filter(call, Vec::new(), SeccompAction::Errno(errno as u32));
}

/// Makes a system call kill this process, from this thread and from all threads that it starts later.
pub fn kill_for(call: libc::c_long) {
    filter(call, Vec::new(), SeccompAction::KillProcess);
}

/// Makes the system refuse threads, but no processes, to this thread and to all that inherit from it.
pub fn deny_threads() {
    // The C library then calls `clone`, whose flags a filter can read.
    deny(libc::SYS_clone3, libc::ENOSYS);
    let thread = libc::CLONE_THREAD as u32;
    let has_flag = SeccompCmpOp::MaskedEq(thread.into());
    deny_if(libc::SYS_clone, 0, has_flag, thread, libc::EAGAIN);
}

/// Makes a system call fail with `errno` if its first argument is `pid`.
pub fn deny_for(call: libc::c_long, pid: u32, errno: i32) {
    deny_if(call, 0, SeccompCmpOp::Eq, pid, errno);
}

/// Makes `kill` fail with `errno` for process groups.
pub fn deny_signals_to_groups(errno: i32) {
    // The number is negative.
    let sign = 1 << 31;
    let has_sign = SeccompCmpOp::MaskedEq(sign.into());
    deny_if(libc::SYS_kill, 0, has_sign, sign, errno);
}

/// Makes opening a file only for writing fail with `errno`.
pub fn deny_writing(errno: i32) {
    let has_access = SeccompCmpOp::MaskedEq(libc::O_ACCMODE as u64);
    let write_only = libc::O_WRONLY as u32;
    deny_if(libc::SYS_openat, 2, has_access, write_only, errno);
}

/// Makes a system call fail with `errno` if `operator` holds for `value` and the low 32 bits of an argument, which
/// is counted from 0.
fn deny_if(call: libc::c_long, argument: u8, operator: SeccompCmpOp, value: u32, errno: i32) {
    let length = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(argument, length, operator, value.into());
    let rule = SeccompRule::new(vec![condition.unwrap()]).unwrap();
    filter(call, vec![rule], SeccompAction::Errno(errno as u32));
}

fn filter(call: libc::c_long, rules: Vec<SeccompRule>, action: SeccompAction) {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call as _, rules)]),
        SeccompAction::Allow,
        action,
        std::env::consts::ARCH
            .try_into()
            .expect("an architecture that seccompiler supports"),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}

/// Returns whether `/proc/<pid>/stat` shows the exit status of the whole process (Linux 5.17).
pub fn stat_shows_status() -> bool {
    group_exit_codes().0
}

/// Returns whether `waitid` with WNOWAIT returns the exit status of the whole process (Linux 5.17).
pub fn waitid_shows_status() -> bool {
    group_exit_codes().1
}

/// Returns whether `stat` and `waitid` show the exit code of a process, or that of its leader thread.
fn group_exit_codes() -> (bool, bool) {
    static KNOWN: std::sync::LazyLock<(bool, bool)> = std::sync::LazyLock::new(|| {
        if std::env::var_os("TEST_RUNNER").is_some() {
            // Under an emulator the leader thread cannot exit alone.
            return (release() >= (5, 17), release() >= (5, 17));
        }
        // The two codes certainly differ if the leader thread has exited before the other thread exits.
        let (mut read, mut write) = pipe();
        let child = fork(|| {
            leader_exits(|| {
                let _ = read.read(&mut [0]);
                5
            })
        });
        super::until("the leader has exited", || {
            state_of(child.id()) == Some('Z')
        });
        write.write_all(&[1]).expect("the child reads");
        // SAFETY: a siginfo is integers and pointers, for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `info` is writable.
        let result = unsafe { libc::waitid(libc::P_PID, child.id(), &mut info, options) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("/proc");
        let exit_code = stat
            .split_ascii_whitespace()
            .next_back()
            .expect("52 fields");
        // SAFETY: the siginfo is a child's.
        let by_waitid = unsafe { info.si_status() };
        let codes = (exit_code == (5 << 8).to_string(), by_waitid == 5);
        assert_eq!(child.reap(), 5 << 8);
        codes
    });
    *KNOWN
}

/// Checks the exit code of a process that is not our child, if the kernel shows the status of a zombie.
#[track_caller]
pub fn assert_code_if_shown(exit: tokio_process_exit::Exit, code: i32) {
    assert_code_or_skip(exit, code, stat_shows_status());
}

/// Checks the exit code of a child that has had several threads, if the kernel shows it.
#[track_caller]
pub fn assert_code_of_threads(exit: tokio_process_exit::Exit, code: i32) {
    assert_code_or_skip(exit, code, waitid_shows_status());
}

#[track_caller]
fn assert_code_or_skip(exit: tokio_process_exit::Exit, code: i32, is_shown: bool) {
    match exit.status() {
        None if !is_shown => super::skip("this kernel does not show the status"),
        status => assert_eq!(status.expect("a status").code(), Some(code)),
    }
}

/// Returns the first two numbers of the kernel's release.
pub fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Runs one test of this binary again as the user `nobody`, with `ROLE` set to "nobody".
///
/// Returns `None` if that user cannot start this binary.
pub fn rerun_as_nobody(test: &str, environment: &[(&str, String)]) -> Option<Output> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // Start a copy: the user may have no access to the directory of the binary itself.
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
    // Retry: a fork by another test may hold the copy open for writing until it executes a program.
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

/// Returns whether any process other than `except` holds a pidfd of `pid`.
pub fn holds_pidfd_of(pid: u32, except: u32) -> bool {
    let line = format!("\nPid:\t{pid}\n");
    let holds = |entry: &fs::DirEntry| {
        let Ok(fds) = fs::read_dir(entry.path().join("fdinfo")) else {
            return false;
        };
        fds.filter_map(|fd| fs::read_to_string(fd.ok()?.path()).ok())
            .any(|text| text.contains(&line))
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name() != *except.to_string())
        .any(|entry| holds(&entry))
}

/// Returns the number of voluntary context switches of all threads of this process so far.
pub fn voluntary_context_switches() -> i64 {
    usage().ru_nvcsw as _
}

/// Returns the number of voluntary context switches of this program in a wait of this duration.
///
/// The wait is done briefly before. Its code may have to be read from disk at first use, and each
/// read is a voluntary context switch too.
pub fn context_switches_of(duration: Duration, mut wait: impl FnMut(Duration)) -> i64 {
    wait(Duration::from_millis(10));
    let before = voluntary_context_switches();
    wait(duration);
    let switches = voluntary_context_switches() - before;
    println!("{switches} voluntary context switches in {duration:?}");
    switches
}

/// Starts a process that gets this free pid. Returns `None` if pids cannot be chosen.
pub fn recycle<T>(pid: u32, spawn: impl Fn() -> T, id: impl Fn(&T) -> u32) -> Option<T> {
    // The kernel assigns the next pid after `ns_last_pid`. Retry: another process may get it first.
    (0..100).find_map(|_| {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        Some(spawn()).filter(|child| id(child) == pid)
    })
}

/// Returns the identity by start time of a process of our namespaces.
pub fn identity_by_start(pid: u32) -> tokio_process_exit::ProcessIdentity {
    use std::os::unix::fs::MetadataExt;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    let start = stat.rsplit(')').next().unwrap();
    let start = start.split_whitespace().nth(19).unwrap();
    let inode = |name| fs::metadata(format!("/proc/self/ns/{name}")).map(|link| link.ino());
    let pidns = inode("pid").unwrap();
    let timens = inode("time").map_or(String::new(), |inode| format!(" timens={inode}"));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("/proc");
    let line = format!("{pid} start={start} pidns={pidns}{timens} boot={boot}");
    line.parse().expect("the identity is complete")
}

/// Returns the processor time of all threads of this process so far.
pub fn cpu_time() -> Duration {
    let usage = usage();
    [usage.ru_utime, usage.ru_stime]
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .iter()
        .sum()
}

fn usage() -> libc::rusage {
    // SAFETY: a `rusage` is all integers, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage
}

/// Returns the current size of this process's descriptor table.
pub fn descriptor_table() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)
}

/// Raises the soft limit of descriptors to the hard limit, and returns that limit.
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

/// Sets the soft limit of descriptors, and returns the previous one.
pub fn limit_descriptors(soft: u64) -> u64 {
    // The answer is remembered, and takes descriptors to find out.
    group_exit_codes();
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

/// Sets a resource limit of the command's process.
pub fn limit(command: &mut Command, resource: rlimit::Resource, soft: u64, hard: u64) {
    use std::os::unix::process::CommandExt;
    let set = move || resource.set(soft, hard);
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(set) };
}

/// A user who can start no thread. Dropping this value removes the copies of the programs.
pub struct Unthreaded {
    directory: std::path::PathBuf,
}

impl Unthreaded {
    /// Returns `None`, and reports a skipped test, if threads can be started all the same.
    pub fn new() -> Option<Unthreaded> {
        if super::runnable("emulator".into()).len() > 1 {
            super::skip("an emulator needs threads");
            return None;
        }
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").replace("::", "-");
        let directory = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for temporary files");
        Some(Unthreaded { directory })
    }

    /// Returns a command that runs an example as this user.
    pub fn command(&self, example: &str) -> Command {
        // Start a copy: the user may have no access to the directory of the example itself.
        let copy = self.directory.join(example);
        // Let another process write the copy: a fork of this process could hold it open for writing.
        let mut cp = Command::new("cp");
        let copied = cp.arg(super::example(example)).arg(&copy).status();
        assert!(copied.expect("cp can be started").success());
        let mut command = self.user(Command::new(&copy));
        limit(&mut command, rlimit::Resource::NPROC, 1, 1);
        command
    }

    /// Makes a command run as this user, but without the limit of threads.
    pub fn user(&self, mut command: Command) -> Command {
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::process::CommandExt;
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&self.directory, open).expect("our own directory");
        // The limit does not apply to root.
        if is_root() {
            command.uid(54321).gid(54321);
        }
        command.current_dir("/");
        command
    }
}

impl Drop for Unthreaded {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
