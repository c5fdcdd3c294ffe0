//! System calls that fail, or that return what another kernel version would return.
//!
//! A seccomp filter traps the system calls of this thread and of all threads that it starts later,
//! except for the calls in [`NOT_TRAPPED`]. The handler of the trap (SIGSYS) makes the call itself,
//! and adds a [key](PASS_KEY) that the filter accepts. The handler may fail the call or change its
//! result. Calls fail, and are counted, only while their thread is armed.
//!
//! The filter cannot be removed, so install it in a process that runs only one test. Such a process
//! must not start a program: the filter would stay, but the handler would be gone.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// The calls that can be made to fail: a name, and the numbers of all variants of the call.
pub const CALLS: [(&str, &[c_long]); 27] = [
    ("pidfd_open", &[libc::SYS_pidfd_open]),
    ("epoll_create1", &[libc::SYS_epoll_create1]),
    ("epoll_ctl", &[libc::SYS_epoll_ctl]),
    ("epoll_wait", &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait]),
    ("poll", &[libc::SYS_poll, libc::SYS_ppoll]),
    ("select", &[libc::SYS_select, libc::SYS_pselect6]),
    ("waitid", &[libc::SYS_waitid]),
    ("pidfd_send_signal", &[libc::SYS_pidfd_send_signal]),
    ("ioctl", &[libc::SYS_ioctl]),
    ("fstatfs", &[libc::SYS_fstatfs]),
    ("fstat", &[libc::SYS_fstat, libc::SYS_newfstatat]),
    ("stat", &[libc::SYS_stat, libc::SYS_lstat]),
    ("statx", &[libc::SYS_statx]),
    ("fcntl", &[libc::SYS_fcntl]),
    ("open", &[libc::SYS_open, libc::SYS_openat]),
    ("read", &[libc::SYS_read]),
    ("pread", &[libc::SYS_pread64]),
    ("readlink", &[libc::SYS_readlink, libc::SYS_readlinkat]),
    ("getdents64", &[libc::SYS_getdents64]),
    ("kill", &[libc::SYS_kill]),
    ("getpgid", &[libc::SYS_getpgid]),
    ("tgkill", &[libc::SYS_tgkill]),
    ("clock_gettime", &[libc::SYS_clock_gettime]),
    ("getrlimit", &[libc::SYS_getrlimit, libc::SYS_prlimit64]),
    ("uname", &[libc::SYS_uname]),
    ("close", &[libc::SYS_close]),
    ("close_range", &[libc::SYS_close_range]),
];

/// The calls that are not trapped: the allocator, threads and the tests need them. The crate itself
/// makes none of them.
const NOT_TRAPPED: [c_long; 35] = [
    libc::SYS_brk,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_prctl,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_wait4,
    libc::SYS_write,
    libc::SYS_pause,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_geteuid,
];

/// The sixth argument of a call that the filter lets pass.
///
/// No call needs this argument: `epoll_pwait` ignores it without a signal mask, and [`make`]
/// replaces `pselect6`.
const PASS_KEY: u64 = 0x7e57_ca11_7e57_ca11;

/// Returns the index of a call in [`CALLS`].
pub fn call(name: &str) -> usize {
    let index = CALLS.iter().position(|(call, _)| *call == name);
    index.unwrap_or_else(|| panic!("{name} is not in CALLS"))
}

/// Bits for the differences between another kernel and this one.
pub mod kernel {
    /// Before 6.15: the pidfd of a reaped process does not report the status.
    pub const NO_INFO_EXIT: u32 = 1 << 0;
    /// 6.9 to 6.12: pidfds have no `PIDFD_GET_INFO`, and fail with EINVAL.
    pub const NO_GET_INFO: u32 = 1 << 1;
    /// Before 6.9: all pidfds share one inode of another file system, report no event at the reap,
    /// and support no ioctl.
    pub const NO_PIDFS: u32 = 1 << 2;
    /// 5.3: `waitid` does not accept pidfds.
    pub const NO_P_PIDFD: u32 = 1 << 3;
    /// Before 5.3: there is no `pidfd_open`.
    pub const NO_PIDFD_OPEN: u32 = 1 << 4;
    /// Before 6.1: `uname` returns an older release.
    pub const OLD_RELEASE: u32 = 1 << 5;
    /// `PIDFD_GET_INFO` succeeds for a reaped process, but does not return the status.
    pub const WITHHELD: u32 = 1 << 6;
}

/// The [`kernel`] bits of the imitated kernel.
static KERNEL: AtomicU32 = AtomicU32::new(0);

/// A range of armed calls that fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Index in [`CALLS`].
    pub call: usize,
    pub errno: i32,
    /// Number of the first call that fails, counted from 1.
    pub first: u32,
    /// How many calls fail.
    pub count: u32,
}

const NO_FAULT: Fault = Fault {
    call: 0,
    errno: 0,
    first: 0,
    count: 0,
};

/// The four fields of each of two [`Fault`]s.
struct Faults([AtomicU32; 8]);

static FAULTS: Faults = Faults([const { AtomicU32::new(0) }; 8]);

/// How often each call has been made by armed threads.
static MADE: [AtomicU32; CALLS.len()] = [const { AtomicU32::new(0) }; CALLS.len()];
/// How many calls the second fault has failed.
static FAILED: AtomicU32 = AtomicU32::new(0);
/// Number of a trapped call that is not in [`CALLS`], or -1.
static UNKNOWN: AtomicI32 = AtomicI32::new(-1);

/// Whether a thread is armed that has not been armed or disarmed itself.
static ARMED_BY_DEFAULT: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether the calls of this thread are counted and may fail.
    static ARMED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Counts all calls of the other threads from now on, and lets them fail: also those of the poller.
pub fn arm_other_threads() {
    ARMED.set(Some(false));
    ARMED_BY_DEFAULT.store(true, Relaxed);
}

/// Runs code whose calls are counted and may fail.
pub fn armed<T>(body: impl FnOnce() -> T) -> T {
    struct Disarm;
    impl Drop for Disarm {
        fn drop(&mut self) {
            ARMED.set(Some(false));
        }
    }
    let _disarm = Disarm;
    ARMED.set(Some(true));
    body()
}

/// Awaits a future whose calls are counted and may fail. The runtime's own calls are not affected.
pub async fn armed_future<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| armed(|| future.as_mut().poll(cx))).await
}

/// Returns how often each call has been made by armed threads.
pub fn made() -> [u32; CALLS.len()] {
    std::array::from_fn(|call| MADE[call].load(Relaxed))
}

/// Returns how many calls the second fault has failed.
pub fn failed() -> u32 {
    FAILED.load(Relaxed)
}

/// Returns the number of a trapped call that is not in [`CALLS`], if there has been one.
pub fn unknown() -> Option<i32> {
    Some(UNKNOWN.load(Relaxed)).filter(|&number| number >= 0)
}

/// Traps the calls of this thread and of all threads that it starts later.
pub fn install(kernel: u32, faults: [Option<Fault>; 2]) {
    KERNEL.store(kernel, Relaxed);
    for (index, fault) in faults.into_iter().enumerate() {
        let fault = fault.unwrap_or(NO_FAULT);
        let fields = [
            fault.call as u32,
            fault.errno as u32,
            fault.first,
            fault.count,
        ];
        for (offset, field) in fields.into_iter().enumerate() {
            FAULTS.0[4 * index + offset].store(field, Relaxed);
        }
    }
    // SAFETY: a `sigaction` is all integers, for which all zeroes is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_trap as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handler only makes system calls and counts.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0);

    let has_pass_key = || {
        let condition =
            SeccompCondition::new(5, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, PASS_KEY).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    let numbers = CALLS.iter().flat_map(|(_, numbers)| numbers.iter());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = numbers
        .map(|&number| (number, vec![has_pass_key()]))
        .collect();
    rules.extend(NOT_TRAPPED.map(|number| (number, Vec::new())));
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        architecture,
    )
    .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a context to a handler with SA_SIGINFO, and nothing else uses it.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    let arguments = [
        libc::REG_RDI,
        libc::REG_RSI,
        libc::REG_RDX,
        libc::REG_R10,
        libc::REG_R8,
    ]
    .map(|register| registers[register as usize]);
    let number = registers[libc::REG_RAX as usize];
    registers[libc::REG_RAX as usize] = result_of(number, arguments);
}

/// Returns the result of a trapped call, or its errno negated.
fn result_of(number: c_long, arguments: [i64; 5]) -> i64 {
    let has_number = |(_, numbers): &(&str, &[c_long])| numbers.contains(&number);
    let Some(call) = CALLS.iter().position(has_number) else {
        UNKNOWN.store(number as i32, Relaxed);
        return -i64::from(libc::ENOSYS);
    };
    if let Some(errno) = count_and_fail(call) {
        if number == libc::SYS_close {
            // Close the descriptor all the same, as Linux does when `close` fails.
            make(number, arguments);
        }
        return -i64::from(errno);
    }
    let kernel = KERNEL.load(Relaxed);
    if kernel == 0 {
        make(number, arguments)
    } else {
        make_as(kernel, number, arguments)
    }
}

/// Counts a call of an armed thread. Returns the errno if the call must fail.
fn count_and_fail(call: usize) -> Option<i32> {
    if !ARMED
        .get()
        .unwrap_or_else(|| ARMED_BY_DEFAULT.load(Relaxed))
    {
        return None;
    }
    let made = MADE[call].fetch_add(1, Relaxed) + 1;
    let failure = (0..2).find_map(|index| {
        let field = |offset: usize| FAULTS.0[4 * index + offset].load(Relaxed);
        let (first, count) = (field(2), field(3));
        let hit = field(0) as usize == call && made >= first && made - first < count;
        hit.then(|| (index, field(1) as i32))
    });
    let (index, errno) = failure?;
    if index == 1 {
        FAILED.fetch_add(1, Relaxed);
    }
    Some(errno)
}

/// Makes a call. Returns its result, or its errno negated.
fn make(number: c_long, [a, b, c, d, e]: [i64; 5]) -> i64 {
    // `pselect6` needs its sixth argument, so call `select`: they agree if the timeout is zero.
    let number = match number {
        libc::SYS_pselect6 => libc::SYS_select,
        number => number,
    };
    // SAFETY: the call takes no arguments, and returns the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` is readable.
    let before = unsafe { *errno };
    // SAFETY: the trapped code made this call with the same arguments.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, PASS_KEY) };
    // SAFETY: `errno` is writable.
    let failure = unsafe { std::mem::replace(&mut *errno, before) };
    if result == -1 {
        -i64::from(failure)
    } else {
        result
    }
}

/// Makes a call, and returns or writes the result of the imitated kernel.
fn make_as(kernel: u32, number: c_long, arguments: [i64; 5]) -> i64 {
    const SHARED_INODE: u64 = 15;
    const ANON_INODE_FS_MAGIC: c_long = 0x0904_1934;
    const PID_FS_MAGIC: c_long = 0x5049_4446;
    let is = |bit: u32| kernel & bit != 0;
    let [first, second, third, ..] = arguments;
    match number {
        libc::SYS_pidfd_open if is(kernel::NO_PIDFD_OPEN) => return -i64::from(libc::ENOSYS),
        libc::SYS_waitid if is(kernel::NO_P_PIDFD) && first as libc::idtype_t == libc::P_PIDFD => {
            return -i64::from(libc::EINVAL);
        }
        libc::SYS_ioctl if second as u32 == libc::PIDFD_GET_INFO as u32 => {
            if is(kernel::NO_PIDFS) {
                return -i64::from(libc::ENOTTY);
            }
            if is(kernel::NO_GET_INFO) {
                return -i64::from(libc::EINVAL);
            }
        }
        _ => {}
    }
    let result = make(number, arguments);
    if result < 0 {
        return result;
    }
    // The call has succeeded, so it has written to the memory that is changed below.
    match number {
        libc::SYS_ioctl if second as u32 == libc::PIDFD_GET_INFO as u32 => {
            // SAFETY: `third` points to the caller's `pidfd_info`.
            let info = unsafe { &mut *(third as *mut libc::pidfd_info) };
            let has_a_pid = info.mask & u64::from(libc::PIDFD_INFO_PID) != 0 && info.pid != 0;
            if is(kernel::NO_INFO_EXIT) && !has_a_pid {
                return -i64::from(libc::ESRCH);
            }
            if is(kernel::NO_INFO_EXIT | kernel::WITHHELD) {
                info.mask &= !u64::from(libc::PIDFD_INFO_EXIT);
                info.exit_code = 0;
            }
        }
        libc::SYS_poll if is(kernel::NO_PIDFS) => {
            // SAFETY: `first` points to the caller's `pollfd`. The crate polls one at a time.
            let poll = unsafe { &mut *(first as *mut libc::pollfd) };
            poll.revents &= !libc::POLLHUP;
        }
        libc::SYS_epoll_wait if is(kernel::NO_PIDFS) => {
            let events = second as *mut libc::epoll_event;
            // SAFETY: the call has written `result` events to the caller's array.
            let events = unsafe { std::slice::from_raw_parts_mut(events, result as usize) };
            for event in events {
                event.events &= !(libc::EPOLLHUP as u32);
            }
        }
        libc::SYS_fstatfs if is(kernel::NO_PIDFS) => {
            // SAFETY: `second` points to the caller's `statfs`.
            let stat = unsafe { &mut *(second as *mut libc::statfs) };
            if stat.f_type as c_long == PID_FS_MAGIC {
                stat.f_type = ANON_INODE_FS_MAGIC as _;
            }
        }
        libc::SYS_fstat if is(kernel::NO_PIDFS) => {
            // SAFETY: `second` points to the caller's `stat`.
            unsafe { (*(second as *mut libc::stat)).st_ino = SHARED_INODE };
        }
        libc::SYS_newfstatat
            if is(kernel::NO_PIDFS) && arguments[3] == libc::AT_EMPTY_PATH as i64 =>
        {
            // SAFETY: `third` points to the caller's `stat`.
            unsafe { (*(third as *mut libc::stat)).st_ino = SHARED_INODE };
        }
        libc::SYS_uname if is(kernel::OLD_RELEASE) => {
            // SAFETY: `first` points to the caller's `utsname`.
            let name = unsafe { &mut *(first as *mut libc::utsname) };
            for (to, from) in name.release.iter_mut().zip(b"5.15.0\0") {
                *to = *from as libc::c_char;
            }
        }
        _ => {}
    }
    result
}
