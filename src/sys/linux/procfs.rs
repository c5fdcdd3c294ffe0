//! The files of a process in `/proc`.
//!
//! [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::str;
use std::sync::OnceLock;
use std::time::Duration;

use super::{Status, syscalls};

/// Returns the pid of a thread's process.
pub(super) fn process_of_thread(tid: libc::pid_t) -> Option<u32> {
    if !proc_matches_our_pid_ns() {
        return None;
    }
    let mut buffer: Buffer = [0; 4096];
    let process = number_after(
        read(tid.unsigned_abs(), "status", &mut buffer).ok()?,
        b"\nTgid:\t",
    )?;
    // 0 if the thread is being reaped.
    u32::try_from(process).ok().filter(|&process| process != 0)
}

/// Whether `/proc` belongs to our pid namespace.
///
/// A `/proc` of an outer namespace (`unshare --pid` without `--mount-proc`) shows other processes under
/// the same numbers.
pub(super) fn proc_matches_our_pid_ns() -> bool {
    let me = std::process::id();
    if !fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == me.to_string().as_str()) {
        return false;
    }
    // By chance, this process may have the same number in an outer namespace. Then `NSpid` also shows the
    // number in our namespace.
    let mut buffer: Buffer = [0; 4096];
    match read(me, "status", &mut buffer) {
        Ok(status) => line_after(status, b"\nNSpid:\t").is_none_or(|pids| !pids.contains(&b'\t')),
        // No descriptor is left, so this cannot be checked.
        Err(_) => true,
    }
}

/// Returns the last pid that the kernel has given out in our pid namespace.
///
/// `None` if the kernel was built without `CONFIG_CHECKPOINT_RESTORE`:
/// [pid_namespaces(7)](https://man7.org/linux/man-pages/man7/pid_namespaces.7.html).
pub(super) fn last_pid() -> Option<u32> {
    let mut buffer: Buffer = [0; 4096];
    let text = read_path("sys/kernel/ns_last_pid", &mut buffer).ok()?;
    str::from_utf8(text).ok()?.trim().parse().ok()
}

/// Returns the pid of a pidfd's process in the pid namespace of `/proc`, if it has a pid there.
pub(super) fn pid_of_pidfd(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let pid = pid_in_fdinfo(pidfd)?;
    // -1: the process has been reaped. 0: the process is outside that namespace.
    u32::try_from(pid).ok().filter(|&pid| pid != 0)
}

/// Whether `/proc` shows that a descriptor is a pidfd.
pub(super) fn is_pidfd(fd: BorrowedFd<'_>) -> bool {
    pid_in_fdinfo(fd).is_some()
}

/// Returns the line `Pid:`, which only pidfds have.
fn pid_in_fdinfo(fd: BorrowedFd<'_>) -> Option<i64> {
    let mut buffer: Buffer = [0; 4096];
    // Do not use `self`: that is the leader thread, which may have exited and closed its files.
    let fdinfo = read_path(
        format_args!("thread-self/fdinfo/{}", fd.as_raw_fd()),
        &mut buffer,
    );
    number_after(fdinfo.ok()?, b"\nPid:\t")
}

/// Returns the exit status of the zombie with this pid, if the kernel shows it to us.
///
/// The status is the opened process's only if that process has not been reaped after this call.
pub(super) fn zombie_status(pid: u32) -> Option<Status> {
    Stat::read(pid)?.exit_status(|| fs::read_link(format!("/proc/{pid}/ns/user")).is_ok())
}

/// Whether the parent is reaping the process at this moment (`EXIT_DEAD`).
pub(super) fn is_being_reaped(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.state == b'X')
}

/// The fields of the calling thread's `status` that are used here.
pub(super) struct OwnStatus {
    /// The effective capabilities, as a bit set.
    pub(super) capabilities: u64,
    /// Whether a seccomp filter is installed.
    pub(super) is_filtered: bool,
}

impl OwnStatus {
    pub(super) fn read() -> Option<OwnStatus> {
        let mut buffer: Buffer = [0; 4096];
        let status = read_path("thread-self/status", &mut buffer).ok()?;
        Some(OwnStatus {
            capabilities: bit_set_after(status, b"\nCapEff:\t")?,
            // A kernel without seccomp has no such line.
            is_filtered: line_after(status, b"\nSeccomp:\t").is_some_and(|mode| mode != b"0"),
        })
    }
}

/// Returns the inode of the directory `/proc/<pid>`. Needs no descriptor.
pub(super) fn inode(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}"))
        .ok()
        .map(|directory| directory.ino())
}

/// The signals that are pending for a process, as bit sets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pending {
    leader: u64,
    process: u64,
}

impl Pending {
    pub(super) fn read(pid: u32) -> Option<Pending> {
        let mut buffer: Buffer = [0; 4096];
        Pending::parse(read(pid, "status", &mut buffer).ok()?)
    }

    fn parse(status: &[u8]) -> Option<Pending> {
        Some(Pending {
            leader: bit_set_after(status, b"\nSigPnd:\t")?,
            process: bit_set_after(status, b"\nShdPnd:\t")?,
        })
    }

    /// Whether a signal is pending for the leader thread alone.
    pub(super) fn leader_has(&self, signal: i32) -> bool {
        self.leader >> (signal - 1) & 1 != 0
    }

    /// Whether a signal is pending for the process, that is, for any of its threads.
    pub(super) fn process_has(&self, signal: i32) -> bool {
        self.process >> (signal - 1) & 1 != 0
    }
}

/// Converts a time since boot to the unit of `stat`: USER_HZ, which is 100 except on the Alpha.
pub(super) fn ticks(since_boot: Duration) -> u64 {
    since_boot.as_millis() as u64 / 10
}

/// Whether the kernel reports the exit code of a process, and not that of its leader thread: in `stat`, and
/// by `waitid` with WNOWAIT.
///
/// The two codes differ if the leader thread has exited by itself before the others. Source: `do_task_stat`
/// and `wait_task_zombie` of Linux 5.17. Run: wrong on 5.10, right on 6.1, 6.12 and 6.18.
pub(super) fn has_group_exit_code() -> bool {
    // The answer is valid for the life of this process, as long as the process stays on its kernel. Do not
    // remember a failed call, which a sandbox may deny to one thread only.
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(&answer) = ANSWER.get() {
        return answer;
    }
    let release = syscalls::kernel_release();
    !release.is_empty() && *ANSWER.get_or_init(|| release_is_at_least(&release, (5, 17)))
}

fn release_is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

/// The fields of `/proc/<pid>/stat` that are used here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    state: u8,
    /// The flags of the leader thread: `PF_*` of include/linux/sched.h.
    pub(super) flags: u32,
    num_threads: u32,
    /// The start time, in ticks since boot.
    pub(super) start_time: u64,
    /// Whether the process sleeps or is dead. `false` for a reader without ptrace rights.
    waits: bool,
    exit_code: i32,
}

impl Stat {
    /// Reads the file. `None` if there is no such process, or if `/proc` does not show it.
    pub(super) fn read(pid: u32) -> Option<Stat> {
        let mut buffer: Buffer = [0; 4096];
        Stat::parse(read(pid, "stat", &mut buffer).ok()?)
    }

    pub(super) fn parse(text: &[u8]) -> Option<Stat> {
        // The second field is the name in parentheses. It may contain spaces, newlines and parentheses, so
        // count the fields from the last parenthesis.
        let name_end = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = str::from_utf8(&text[name_end + 1..])
            .ok()?
            .split_ascii_whitespace();
        let state = fields.next()?;
        let flags = fields.nth(5)?;
        let num_threads = fields.nth(10)?;
        let start_time = fields.nth(1)?;
        let waits = fields.nth(12)? != "0";
        let exit_code = fields.nth(16)?;
        Some(Stat {
            state: *state.as_bytes().first()?,
            flags: flags.parse().ok()?,
            num_threads: num_threads.parse().ok()?,
            start_time: start_time.parse().ok()?,
            waits,
            exit_code: exit_code.parse().ok()?,
        })
    }

    /// Whether all threads have exited and the process has not been reaped.
    ///
    /// A leader thread that has exited before the others is also shown as a zombie (`Z`), but with the
    /// number of all threads. A leader thread that another thread replaces by `execve` is shown as dead
    /// (`X`), or with no threads.
    pub(super) fn exited(&self) -> bool {
        self.state == b'Z' && self.num_threads == 1
    }

    /// Returns the exit status if the process has exited and the kernel shows the status to us.
    ///
    /// `can_read_link` reads the link `ns/user` of the same process.
    pub(super) fn exit_status(&self, can_read_link: impl FnOnce() -> bool) -> Option<Status> {
        // A process that is being reaped is shown as dead. A leader thread that is replaced by `execve` is
        // dead too, but the number of threads is then 2, or 0 (`de_thread` in fs/exec.c).
        let has_exited = matches!(self.state, b'Z' | b'X') && self.num_threads == 1;
        if !has_exited || !has_group_exit_code() {
            return None;
        }
        // A reader without ptrace rights gets 0, which is also the status of success. The fields `wchan`
        // (since Linux 5.16, from the last step of the exit on) and the link need the same rights, so the 0
        // is real if they can be read (`do_task_stat` in fs/proc/array.c, PTRACE_MODE_READ_FSCREDS).
        let is_real = self.exit_code != 0 || self.waits || can_read_link();
        is_real.then_some(Status(self.exit_code))
    }
}

/// A buffer for one file. The longest line of `stat` is about 1,100 bytes.
pub(super) type Buffer = [u8; 4096];

fn read<'a>(pid: u32, file: &str, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
    read_path(format_args!("{pid}/{file}"), buffer)
}

/// Reads a file below `/proc`, or as much of it as fits into the buffer.
fn read_path(path: impl Display, buffer: &mut Buffer) -> io::Result<&[u8]> {
    read_file(File::open(format!("/proc/{path}"))?, buffer)
}

/// Reads a file of `/proc`, or as much of it as fits into the buffer.
pub(super) fn read_file(mut file: File, buffer: &mut Buffer) -> io::Result<&[u8]> {
    // Each file is one record, and one read returns it whole: fs/seq_file.c.
    let length = loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    Ok(&buffer[..length])
}

/// Returns the number that follows the first `key` in `text`.
pub(super) fn number_after(text: &[u8], key: &[u8]) -> Option<i64> {
    str::from_utf8(line_after(text, key)?)
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Returns the bit set that follows the first `key` in `text`, in hexadecimal digits.
fn bit_set_after(text: &[u8], key: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(line_after(text, key)?).ok()?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// Returns the rest of the line that follows the first `key` in `text`.
pub(super) fn line_after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(key.len()).position(|window| window == key)? + key.len();
    text[at..].split(|&byte| byte == b'\n').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: char, num_threads: u32, exit_code: i32) -> Vec<u8> {
        let zeroes = |n| vec!["0"; n].join(" ");
        let (a, b, c) = (zeroes(16), zeroes(1), zeroes(29));
        format!("42 ({name}) {state} {a} {num_threads} {b} 33 {c} {exit_code}\n").into_bytes()
    }

    #[test]
    fn parses_a_line_with_any_name() {
        for name in ["sh", "a b", ")", "((", ") Z 1 (", "\n42 (x) Z 0\n", ""] {
            let expected = Stat {
                state: b'Z',
                flags: 0,
                num_threads: 1,
                start_time: 33,
                waits: false,
                exit_code: 1792,
            };
            assert_eq!(
                Stat::parse(&stat(name, 'Z', 1, 1792)),
                Some(expected),
                "{name:?}"
            );
        }
    }

    #[test]
    fn rejects_truncated_and_invalid_lines() {
        let line = stat("sh", 'Z', 1, 1792);
        // Without the last field the line has no exit code. (A line cut within the last field cannot be
        // recognized; the kernel never returns one.)
        for end in 0..line.len() - "1792\n".len() {
            assert_eq!(Stat::parse(&line[..end]), None, "{end}");
        }
        assert_eq!(Stat::parse(b"\xff) \xff"), None);
        assert_eq!(Stat::parse(b"no parenthesis"), None);
    }

    #[test]
    fn a_zombie_with_live_threads_has_not_exited() {
        let exited = |state, threads| {
            Stat::parse(&stat("sh", state, threads, 0))
                .unwrap()
                .exited()
        };
        assert!(exited('Z', 1));
        assert!(!exited('Z', 2));
        assert!(!exited('Z', 0));
        assert!(!exited('X', 1));
        assert!(!exited('X', 0));
        assert!(!exited('R', 1));
        assert!(!exited('S', 1));
    }

    #[test]
    #[cfg_attr(miri, ignore = "calls uname")]
    fn returns_only_a_status_that_is_shown() {
        if !has_group_exit_code() {
            return eprintln!("skipped: Linux before 5.17");
        }
        let status = |state, num_threads, exit_code, waits, can_read_link| {
            let stat = Stat {
                state,
                flags: 0,
                num_threads,
                start_time: 33,
                waits,
                exit_code,
            };
            stat.exit_status(|| can_read_link).map(|Status(code)| code)
        };
        for state in [b'Z', b'X'] {
            assert_eq!(status(state, 1, 1792, false, false), Some(1792));
            assert_eq!(status(state, 1, 0, true, false), Some(0));
            assert_eq!(status(state, 1, 0, false, true), Some(0));
            assert_eq!(status(state, 1, 0, false, false), None);
            assert_eq!(status(state, 2, 1792, true, true), None);
            assert_eq!(status(state, 0, 1792, true, true), None);
        }
        assert_eq!(status(b'S', 1, 1792, true, true), None);
    }

    #[test]
    fn reads_a_live_process() {
        assert!(proc_matches_our_pid_ns());
        // Read another process: an emulator's `/proc` does not show this process as it is.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let stat = Stat::read(pid).unwrap();
        assert!(!stat.exited());
        // The process has started within the last 100 hours.
        let now = ticks(super::super::task::time_since_boot());
        assert!(
            stat.start_time <= now && now - stat.start_time < 100 * 3600,
            "{stat:?} {now}"
        );
        assert_eq!(inode(pid), inode(pid));
        assert!(Stat::read(i32::MAX as u32).is_none());
        assert!(zombie_status(pid).is_none());
        // `cat` exits when its input is closed.
        child.wait().unwrap();
    }

    #[test]
    fn compares_releases_as_numbers() {
        assert!(release_is_at_least("6.1.0-13-amd64\n", (6, 1)));
        assert!(release_is_at_least("6.18.44-fc-v509\n", (6, 1)));
        assert!(release_is_at_least("10.0\n", (6, 1)));
        assert!(!release_is_at_least("5.15.0\n", (6, 1)));
        assert!(!release_is_at_least("6\n", (6, 1)));
        assert!(!release_is_at_least("unknown\n", (6, 1)));
    }

    #[test]
    fn reads_flags_after_any_name() {
        let mut line = b"42 (a) Z 1 2 3) Z 1 42 42 0 -1 4228172 97".to_vec();
        line.extend(b" 0".repeat(42));
        assert_eq!(Stat::parse(&line).unwrap().flags, 4_228_172);
        assert_eq!(Stat::parse(b"42 (a) Z 1 42 42 0 -1"), None);
    }

    #[test]
    fn reads_pending_signals() {
        let status =
            b"Name:\ta\nSigQ:\t0/9\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000040000\n";
        let pending = Pending::parse(status).unwrap();
        assert!(pending.leader_has(libc::SIGKILL) && !pending.process_has(libc::SIGKILL));
        assert!(pending.process_has(libc::SIGSTOP) && !pending.leader_has(libc::SIGSTOP));
        assert_eq!(
            Pending::parse(b"Name:\ta\nSigPnd:\t0000000000000100\n"),
            None
        );
    }

    #[cfg(target_os = "linux")]
    mod properties {
        use super::*;
        use proptest::collection::vec;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn a_name_is_never_taken_for_a_field(
                name in vec(any::<u8>(), 0..64),
                state in "[RSDZTtXIKWP]",
                flags: u32,
                num_threads: u32,
                start_time: u64,
                exit_code: i32,
                others in vec(any::<i64>(), 47),
            ) {
                let others: Vec<String> = others.iter().map(i64::to_string).collect();
                let (a, e) = (others[..5].join(" "), others[6..16].join(" "));
                let (b, c) = (&others[16], others[17..29].join(" "));
                let (wchan, d) = (&others[29], others[30..46].join(" "));
                let mut line = b"42 (".to_vec();
                line.extend(&name);
                let rest = format!(
                    ") {state} {a} {flags} {e} {num_threads} {b} {start_time} {c} {wchan} {d} {exit_code}\n"
                );
                line.extend(rest.as_bytes());
                let state = state.as_bytes()[0];
                prop_assert_eq!(
                    Stat::parse(&line),
                    Some(Stat { state, flags, num_threads, start_time, waits: wchan != "0", exit_code })
                );
                // A truncated line has no exit code, whatever the name contains.
                let last_field = line.len() - exit_code.to_string().len() - 1;
                let after_name = 4 + name.len();
                for end in after_name + 1..last_field {
                    prop_assert_eq!(Stat::parse(&line[..end]), None);
                }
            }

            #[test]
            fn parsers_do_not_panic(
                text in vec(prop_oneof![any::<u8>(), prop::sample::select(b" ()\n\tZ019-".to_vec())], 0..512),
                key in vec(any::<u8>(), 1..8),
            ) {
                let _ = Stat::parse(&text);
                let _ = number_after(&text, b"\nPid:\t");
                let line = line_after(&text, &key);
                prop_assert!(line.is_none_or(|line| !line.contains(&b'\n')));
                prop_assert_eq!(line.is_some(), text.windows(key.len()).any(|window| window == key));
            }

            #[test]
            fn reads_the_number_of_the_right_line(
                before in "([A-Za-z]{1,8}:\t[0-9a-zA-Z \t-]{0,16}\n){0,6}",
                pid: i64,
                after in "([A-Za-z]{1,8}:\t[0-9a-zA-Z \t-]{0,16}\n){0,6}",
            ) {
                prop_assume!(!before.contains("Pid:"));
                let text = format!("x:\t1\n{before}Pid:\t{pid}\n{after}");
                prop_assert_eq!(number_after(text.as_bytes(), b"\nPid:\t"), Some(pid));
                let without = format!("x:\t1\nNSPid:\t{pid}\nTracerPid:\t{pid}\n{before}");
                prop_assert_eq!(number_after(without.as_bytes(), b"\nPid:\t"), None);
            }
        }
    }
}
