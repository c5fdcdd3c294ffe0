//! What `/proc` tells of a process.
//!
//! [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str;
use std::sync::LazyLock;

use super::Status;

/// What a number means to the kernel.
pub(super) enum Task {
    /// Nothing.
    None,
    /// A process: the thread that leads a thread group.
    Process,
    /// A thread that leads none.
    Thread { process: Option<u32> },
}

/// Finds out what the number `pid` means.
pub(super) fn task(pid: libc::pid_t) -> Task {
    let mut buffer: Buffer = [0; 4096];
    let process = match read(pid, "status", &mut buffer) {
        Ok(text) if numbers_as_we_do() => number_after(text, b"\nTgid:\t"),
        _ => None,
    };
    match process {
        Some(process) if process == i64::from(pid) => Task::Process,
        Some(process) => Task::Thread {
            process: u32::try_from(process).ok(),
        },
        // No /proc, or it hides this one. The caller has learned that it is no process, so if it
        // is anything, it is a thread.
        None if exists(pid) => Task::Thread { process: None },
        None => Task::None,
    }
}

/// Whether this `/proc` belongs to our pid namespace. One of an outer namespace (`unshare --pid`
/// without `--mount-proc`) shows other processes under the numbers that we know.
fn numbers_as_we_do() -> bool {
    fs::read_link("/proc/self")
        .is_ok_and(|me| me.as_os_str() == std::process::id().to_string().as_str())
}

/// Whether there is a task with this number, zombies included.
fn exists(pid: libc::pid_t) -> bool {
    // SAFETY: takes two integers; signal 0 sends nothing. `pid` is positive, so it is no group.
    let result = unsafe { libc::kill(pid, 0) };
    // EPERM: it is there, and not ours to signal.
    result == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// The pid of the process behind a pidfd, as this `/proc` numbers it. `None`: it has none.
pub(super) fn pid_of_pidfd(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let mut buffer: Buffer = [0; 4096];
    // thread-self, as self is the leading thread, which may have exited and closed its files.
    let path = format_args!("thread-self/fdinfo/{}", pidfd.as_raw_fd());
    let pid = number_after(read_path(path, &mut buffer).ok()?, b"\nPid:\t")?;
    // -1: reaped. 0: outside this namespace.
    u32::try_from(pid).ok().filter(|&pid| pid != 0)
}

/// The exit status of the zombie behind a pidfd, where the kernel shows it to us.
///
/// It is that process's only if the zombie turns out to be unreaped after this call.
pub(super) fn zombie_status(pidfd: BorrowedFd<'_>) -> Option<Status> {
    if !*STAT_HAS_THE_GROUP_STATUS {
        return None;
    }
    // Through the descriptor, as /proc may belong to another pid namespace than ours, where the
    // same number means another process.
    let pid = pid_of_pidfd(pidfd)? as libc::pid_t;
    let mut buffer: Buffer = [0; 4096];
    let stat = Stat::parse(read(pid, "stat", &mut buffer).ok()?)?;
    if !stat.exited() {
        return None;
    }
    // Readers without ptrace rights are shown 0, which is also success. The link below is read
    // with the same rights (PTRACE_MODE_READ_FSCREDS), so it proves that the 0 is real.
    let real = stat.exit_code != 0 || fs::read_link(format!("/proc/{pid}/ns/user")).is_ok();
    real.then_some(Status(stat.exit_code))
}

/// Whether the exit code in `stat` is the process's. Older kernels show that of its leading
/// thread, which is another one if that thread has exited by itself before the rest.
///
/// Read in the source of Linux 6.1 (`do_task_stat` takes `group_exit_code`), run on 6.18.
static STAT_HAS_THE_GROUP_STATUS: LazyLock<bool> = LazyLock::new(|| {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .is_ok_and(|release| release_is_at_least(&release, (6, 1)))
});

fn release_is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    num_threads: u32,
    exit_code: i32,
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Stat> {
        // The second field is the name in parentheses. It may hold anything, spaces, newlines and
        // parentheses too, so the fields are counted from the last parenthesis.
        let name_end = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = str::from_utf8(&text[name_end + 1..])
            .ok()?
            .split_ascii_whitespace();
        let state = fields.next()?;
        let num_threads = fields.nth(16)?;
        let exit_code = fields.nth(31)?;
        Some(Stat {
            state: *state.as_bytes().first()?,
            num_threads: num_threads.parse().ok()?,
            exit_code: exit_code.parse().ok()?,
        })
    }

    /// Whether the whole process has exited. A leading thread that has exited before the others
    /// is shown as a zombie too, with their number.
    fn exited(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.num_threads <= 1
    }
}

/// Room for the files read here: the longest line of `stat` is about 1,100 bytes.
type Buffer = [u8; 4096];

fn read<'a>(pid: libc::pid_t, file: &str, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
    read_path(format_args!("{pid}/{file}"), buffer)
}

/// Reads as much of a file below `/proc` as fits.
fn read_path(path: impl Display, buffer: &mut Buffer) -> io::Result<&[u8]> {
    let mut file = File::open(format!("/proc/{path}"))?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..length])
}

/// The number that follows the first `key` in `text`.
fn number_after(text: &[u8], key: &[u8]) -> Option<i64> {
    let at = text.windows(key.len()).position(|window| window == key)? + key.len();
    let line = text[at..].split(|&byte| byte == b'\n').next()?;
    str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: char, num_threads: u32, exit_code: i32) -> Vec<u8> {
        let zeroes = |n| vec!["0"; n].join(" ");
        let (before, after) = (zeroes(16), zeroes(31));
        format!("42 ({name}) {state} {before} {num_threads} {after} {exit_code}\n").into_bytes()
    }

    #[test]
    fn the_fields_are_counted_past_any_name() {
        for name in ["sh", "a b", ")", "((", ") Z 1 (", "\n42 (x) Z 0\n", ""] {
            let expected = Stat {
                state: b'Z',
                num_threads: 1,
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
    fn a_line_that_is_cut_short_or_garbage_is_no_answer() {
        let line = stat("sh", 'Z', 1, 1792);
        // Without its last field the line says nothing of the exit. (A cut inside of it is not
        // told apart: the kernel never gives one.)
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
        assert!(exited('X', 1));
        assert!(exited('X', 0));
        assert!(!exited('Z', 2));
        assert!(!exited('R', 1));
        assert!(!exited('S', 1));
    }

    #[test]
    fn our_own_stat_and_threads_read_as_they_are() {
        let me = std::process::id() as libc::pid_t;
        let mut buffer: Buffer = [0; 4096];
        let stat = Stat::parse(read(me, "stat", &mut buffer).unwrap()).unwrap();
        assert!(!stat.exited());
        assert!(matches!(task(me), Task::Process));
        assert!(matches!(task(i32::MAX), Task::None));
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(release_is_at_least("6.1.0-13-amd64\n", (6, 1)));
        assert!(release_is_at_least("6.18.44-fc-v509\n", (6, 1)));
        assert!(release_is_at_least("10.0\n", (6, 1)));
        assert!(!release_is_at_least("5.15.0\n", (6, 1)));
        assert!(!release_is_at_least("6\n", (6, 1)));
        assert!(!release_is_at_least("unknown\n", (6, 1)));
    }
}
