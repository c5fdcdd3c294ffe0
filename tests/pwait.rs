//! What `examples/pwait.rs` promises, tried on the built program with real processes.

mod support;

use std::env::consts::EXE_SUFFIX;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use support::at_most;

/// Nothing below takes long. This only makes a hang a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// No process ever has these pids: Linux gives out none above 2^22.
const NO_PID: &str = "2147483647";
const NO_PID_EITHER: &str = "2147483646";

#[test]
fn waits_for_all() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let mut pwait = Pwait::start(&["-v", &a.pid(), &b.pid()]);
    a.exit();
    pwait.stdout.read_until(&a.exited(0));
    b.exit();
    let end = pwait.end();
    assert_eq!(end.code, 0, "{end:?}");
    assert_eq!(end.stdout, a.exited(0) + &b.exited(0));
}

#[test]
fn any_ends_at_the_first() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let pwait = Pwait::start(&["-o", "-v", &a.pid(), &b.pid()]);
    b.exit();
    let end = pwait.end();
    assert_eq!(end.code, 0, "{end:?}");
    assert_eq!(end.stdout, b.exited(0));
    assert!(a.is_running());
}

#[test]
fn count_ends_at_the_nth() {
    let (mut a, mut b, mut c) = (Target::new(0), Target::new(0), Target::new(0));
    let mut pwait = Pwait::start(&["-c", "2", "-v", &a.pid(), &b.pid(), &c.pid()]);
    c.exit();
    pwait.stdout.read_until(&c.exited(0));
    a.exit();
    let end = pwait.end();
    assert_eq!(end.code, 0, "{end:?}");
    assert_eq!(end.stdout, c.exited(0) + &a.exited(0));
    assert!(b.is_running());
}

#[test]
fn prints_each_status() {
    let (mut fine, mut failing, mut killed) = (Target::new(0), Target::new(7), Target::new(0));
    let mut pwait = Pwait::start(&["-v", &fine.pid(), &failing.pid(), &killed.pid()]);
    fine.exit();
    pwait.stdout.read_until(&fine.exited(0));
    failing.exit();
    pwait.stdout.read_until(&failing.exited(7));
    killed.kill();
    let killed = if cfg!(unix) {
        format!("{}: killed by signal 9 (SIGKILL).\n", killed.pid())
    } else {
        killed.exited(1)
    };
    let end = pwait.end();
    assert_eq!(end.code, 0, "their status is not pwait's: {end:?}");
    assert_eq!(end.stdout, fine.exited(0) + &failing.exited(7) + &killed);
}

#[test]
fn is_silent_unless_asked() {
    let mut target = Target::new(7);
    let pwait = Pwait::start(&[&target.pid()]);
    target.exit();
    pwait.end().is(0, "", "");
}

#[test]
fn times_out_with_124() {
    let mut target = Target::new(0);
    let pid = target.pid();
    Pwait::run(&["-t", "0.05", &pid]).is(124, "", "");
    Pwait::run(&["-v", "-t", "0.05", &pid]).is(124, "timeout\n", "");
    Pwait::run(&["-t", "0", &pid]).is(124, "", "");
    assert!(target.is_running());
}

#[test]
fn a_long_timeout_does_not_delay() {
    for timeout in ["1000", "1e19"] {
        let mut target = Target::new(0);
        let pwait = Pwait::start(&["-t", timeout, &target.pid()]);
        target.exit();
        pwait.end().is(0, "", "");
    }
}

#[test]
fn a_timeout_of_0_sees_all_that_have_exited() {
    // Far more than tokio lets a task handle in one go.
    let mut targets: Vec<Target> = (0..at_most(300)).map(|_| Target::new(0)).collect();
    targets.iter_mut().for_each(Target::exit);
    let pids: Vec<String> = targets.iter().map(Target::pid).collect();
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();

    Pwait::run(&pids).is(0, "", "");
    // All of them are zombies by now.
    let end = Pwait::run(&[&["-t", "0", "-v"], &pids[..]].concat());
    assert_eq!(end.code, 0, "{end:?}");
    assert_eq!(end.stdout.lines().count(), pids.len(), "{end:?}");
}

#[test]
fn reports_a_missing_pid() {
    Pwait::run(&[NO_PID, NO_PID_EITHER]).is(1, "", &(missing(NO_PID) + &missing(NO_PID_EITHER)));
}

#[test]
fn a_missing_pid_does_not_keep_it_from_the_others() {
    for options in [["-v", "-t1000"], ["-v", "-o"], ["-v", "-c2"]] {
        let mut target = Target::new(0);
        let mut pwait = Pwait::start(&[&options[..], &[NO_PID, &target.pid()]].concat());
        pwait.stderr.read_until(&missing(NO_PID));
        target.exit();
        pwait.end().is(1, &target.exited(0), &missing(NO_PID));
    }
}

#[test]
fn a_missing_pid_counts_as_exited_if_asked_to() {
    let mut target = Target::new(0);
    let gone = format!("{NO_PID}: not running.\n");

    Pwait::run(&["-e", NO_PID, NO_PID_EITHER]).is(0, "", "");
    Pwait::run(&["-e", "-v", NO_PID]).is(0, &gone, "");
    Pwait::run(&["-e", "-o", &target.pid(), NO_PID]).is(0, "", "");
    Pwait::run(&["-e", "-c", "2", &target.pid(), NO_PID, NO_PID_EITHER]).is(0, "", "");
    assert!(target.is_running());

    let pwait = Pwait::start(&["-e", "-v", &target.pid(), NO_PID]);
    target.exit();
    pwait.end().is(0, &(gone + &target.exited(0)), "");
}

#[test]
fn reports_what_is_no_process() {
    let end = Pwait::run(&["-e", "0"]);
    assert_eq!(end.code, 1, "{end:?}");
    assert!(end.stderr.starts_with("pwait: pid 0 "), "{end:?}");

    #[cfg(any(target_os = "linux", windows))]
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let (_end, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            tell.send(support::thread_id().to_string()).unwrap();
            let _ = ended.recv();
        });
        let thread = told.recv().unwrap();
        let end = Pwait::run(&["-e", &thread]);
        assert_eq!(end.code, 1, "{end:?}");
        assert!(end.stderr.contains("thread"), "{end:?}");
        assert!(end.stderr.contains(&thread), "{end:?}");
    });
}

#[cfg(unix)]
#[test]
fn does_not_wait_for_itself() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" $$", "sh"])
        .args(support::runnable(support::example("pwait")));
    let end = Pwait::spawn(command.stdin(Stdio::null())).end();
    assert_eq!(end.code, 1, "{end:?}");
    assert!(end.stderr.contains("is pwait itself"), "{end:?}");
}

#[test]
fn duplicates_count_once() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let (pid_a, pid_b) = (a.pid(), b.pid());

    let mut pwait = Pwait::start(&["-v", "-c2", &pid_a, &pid_a, &pid_b]);
    a.exit();
    pwait.stdout.read_until(&a.exited(0));
    b.exit();
    pwait.end().is(0, &(a.exited(0) + &b.exited(0)), "");

    Pwait::run(&[NO_PID, NO_PID]).is(1, "", &missing(NO_PID));
    let end = Pwait::run(&["-c2", &pid_a, &pid_a]);
    assert_eq!(end.code, 2, "{end:?}");
}

#[test]
fn no_progress_when_piped() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let mut pwait = Pwait::start(&["-v", &a.pid(), &b.pid()]);
    a.exit();
    pwait.stdout.read_until(&a.exited(0));
    b.exit();
    pwait.end().is(0, &(a.exited(0) + &b.exited(0)), "");
}

#[test]
fn a_reader_that_leaves_does_not_stop_the_wait() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let mut pwait = {
        let mut command = pwait_command(&["-v", NO_PID, &a.pid(), &b.pid()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        Pwait::of(child)
    };
    pwait.stderr.read_until(&missing(NO_PID));
    a.exit();
    b.exit();
    pwait.end().is(1, "", &missing(NO_PID));
}

#[test]
fn help_explains_every_option() {
    let end = Pwait::run(&["--help"]);
    assert_eq!(end.code, 0, "{end:?}");
    for word in [
        "Wait for processes to exit",
        &format!("Usage: pwait{EXE_SUFFIX} [OPTIONS] <PID>..."),
        "-t, --timeout <SECONDS>",
        "-o, --any",
        "-c, --count <N>",
        "-v, --verbose",
        "-e, --exited",
        "124",
        "Examples:",
    ] {
        assert!(end.stdout.contains(word), "no {word:?} in {}", end.stdout);
    }
}

#[test]
fn refuses_invalid_arguments() {
    let target = Target::new(0);
    let pid = target.pid();
    for (arguments, complaint) in [
        (&[][..], "<PID>..."),
        (&["12ab"], "12ab"),
        (&["-1"], "-1"),
        (&["99999999999"], "99999999999"),
        (&["--no-such-option", &pid], "--no-such-option"),
        (&["-t", "-1", &pid], "0 or more"),
        (&["-t", "nan", &pid], "0 or more"),
        (&["-t", "soon", &pid], "0 or more"),
        (&["-t", "1e300", &pid], "longer than"),
        (&["-t", "inf", &pid], "longer than"),
        (&["-o", "-c", "1", &pid], "cannot be used with"),
        (&["-c", "0", &pid], "'--count <N>'"),
        (&["-c", "2", &pid], "-c 2 asks for more"),
    ] {
        let end = Pwait::run(arguments);
        assert_eq!(end.code, 2, "{arguments:?}: {end:?}");
        assert!(end.stderr.contains(complaint), "{arguments:?}: {end:?}");
        assert_eq!(end.stdout, "", "{arguments:?}");
    }
}

/// How `pwait` reports a pid that no process has.
fn missing(pid: &str) -> String {
    format!("pwait: no process with pid {pid}\n")
}

/// A process to wait for, which exits when it is told to. It stays a zombie until dropped.
struct Target {
    child: support::Child,
}

impl Target {
    fn new(status: u8) -> Target {
        Target {
            child: support::Child::spawn(status),
        }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// How `pwait -v` prints its exit.
    fn exited(&self, status: u8) -> String {
        format!("{}: exited with status {status}.\n", self.pid())
    }

    fn exit(&mut self) {
        self.child.end();
    }

    fn kill(&mut self) {
        self.child.kill();
    }

    fn is_running(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }
}

/// A running `pwait`.
struct Pwait {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// A `pwait` that has ended.
#[derive(Debug)]
struct End {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Pwait {
    fn run(arguments: &[&str]) -> End {
        Pwait::start(arguments).end()
    }

    fn start(arguments: &[&str]) -> Pwait {
        Pwait::spawn(&mut pwait_command(arguments))
    }

    fn spawn(command: &mut Command) -> Pwait {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Pwait::of(command.spawn().unwrap())
    }

    fn of(mut child: Child) -> Pwait {
        let stdout = child.stdout.take().map_or_else(Output::none, Output::of);
        let stderr = child.stderr.take().map_or_else(Output::none, Output::of);
        Pwait {
            child,
            stdout,
            stderr,
        }
    }

    fn end(mut self) -> End {
        // Both end with the process, so the deadline for them is one for it.
        let (stdout, stderr) = (self.stdout.read_all(), self.stderr.read_all());
        let status = self.child.wait().unwrap();
        End {
            code: status.code().unwrap_or_else(|| panic!("pwait: {status}")),
            stdout,
            stderr,
        }
    }
}

impl Drop for Pwait {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    #[track_caller]
    fn is(&self, code: i32, stdout: &str, stderr: &str) {
        let End {
            code: c,
            stdout: o,
            stderr: e,
        } = self;
        assert_eq!((*c, o.as_str(), e.as_str()), (code, stdout, stderr));
    }
}

fn pwait_command(arguments: &[&str]) -> Command {
    let mut command = support::command(support::example("pwait"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a process prints, read in the background so that waiting for it can have a deadline.
struct Output {
    read: Vec<u8>,
    chunks: Receiver<Vec<u8>>,
}

impl Output {
    fn of(mut source: impl Read + Send + 'static) -> Output {
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal that everybody else has closed ends with an error.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Output {
            read: Vec::new(),
            chunks,
        }
    }

    fn none() -> Output {
        Output::of(io::empty())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Reads until `wanted` has come.
    #[track_caller]
    fn read_until(&mut self, wanted: &str) {
        while !self.text().contains(wanted) {
            match self.chunks.recv_timeout(DEADLINE) {
                Ok(chunk) => self.read.extend(chunk),
                Err(error) => panic!("{error}: no {wanted:?} in {:?}", self.text()),
            }
        }
    }

    /// Reads to the end, and returns everything that has been read from the start.
    #[track_caller]
    fn read_all(&mut self) -> String {
        loop {
            match self.chunks.recv_timeout(DEADLINE) {
                Ok(chunk) => self.read.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => return self.text(),
                Err(RecvTimeoutError::Timeout) => panic!("pwait goes on: {:?}", self.text()),
            }
        }
    }
}

/// With what only Linux has.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn shows_progress_on_a_terminal() {
        let (mut a, mut b) = (Target::new(0), Target::new(0));
        let (terminal, stderr) = open_terminal().unwrap();
        let mut pwait = {
            let mut command = pwait_command(&["-v", &a.pid(), &b.pid()]);
            command.env("TERM", "xterm").stdout(Stdio::piped());
            Pwait::of(command.stderr(stderr).spawn().unwrap())
        };
        pwait.stderr = Output::of(terminal);

        pwait.stderr.read_until("waiting for 2 processes (00:00:0");
        a.exit();
        pwait.stderr.read_until("waiting for 1 process (00:00:0");
        b.exit();
        let end = pwait.end();
        assert_eq!(end.code, 0, "{end:?}");
        assert_eq!(end.stdout, a.exited(0) + &b.exited(0));
        let clear_line = "\r\u{1b}[2K";
        assert!(end.stderr.ends_with(clear_line), "{end:?}");
    }

    #[test]
    fn reports_once_that_it_cannot_print() {
        let (mut a, mut b) = (Target::new(0), Target::new(0));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut pwait = {
            let mut command = pwait_command(&["-v", &a.pid(), &b.pid()]);
            command.stdout(full).stderr(Stdio::piped());
            Pwait::of(command.spawn().unwrap())
        };
        a.exit();
        pwait.stderr.read_until("cannot write to stdout");
        b.exit();
        let end = pwait.end();
        assert_eq!(end.code, 1, "{end:?}");
        assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
    }

    /// A new terminal: the end that a person would sit at, and the end for programs. Both are closed
    /// on exec, so that no other test's processes keep it open.
    fn open_terminal() -> io::Result<(File, OwnedFd)> {
        let person = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open("/dev/ptmx")?;
        // SAFETY: takes an open descriptor.
        if unsafe { libc::unlockpt(person.as_raw_fd()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: takes an open descriptor, and an integer for this request.
        let program = unsafe { libc::ioctl(person.as_raw_fd(), libc::TIOCGPTPEER, flags) };
        if program < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok((person, unsafe { OwnedFd::from_raw_fd(program) }))
    }
}
