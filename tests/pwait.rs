//! Tests of the example `pwait`, run as a built program with real processes.

mod support;

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use support::at_most;

/// The longest wait for output of `pwait`. Only a test that hangs reaches this.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pids that no process has: the largest pid on Linux is 2^22.
const NO_PID: &str = "2147483647";
const OTHER_NO_PID: &str = "2147483646";

#[test]
fn waits_for_all_processes() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let mut pwait = Pwait::start(&["-v", &a.pid(), &b.pid()]);
    a.exit();
    pwait.stdout.read_until(&a.exit_line(0));
    b.exit();
    let output = pwait.output();
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, a.exit_line(0) + &b.exit_line(0));
}

#[test]
fn any_ends_at_the_first_exit() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let pwait = Pwait::start(&["-o", "-v", &a.pid(), &b.pid()]);
    b.exit();
    let output = pwait.output();
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, b.exit_line(0));
    assert!(a.is_running());
}

#[test]
fn count_ends_at_the_nth_exit() {
    let (mut a, mut b, mut c) = (Target::new(0), Target::new(0), Target::new(0));
    let mut pwait = Pwait::start(&["-c", "2", "-v", &a.pid(), &b.pid(), &c.pid()]);
    c.exit();
    pwait.stdout.read_until(&c.exit_line(0));
    a.exit();
    let output = pwait.output();
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, c.exit_line(0) + &a.exit_line(0));
    assert!(b.is_running());
}

#[test]
fn prints_each_exit_status() {
    let (mut fine, mut failing, mut killed) = (Target::new(0), Target::new(7), Target::new(0));
    let mut pwait = Pwait::start(&["-v", &fine.pid(), &failing.pid(), &killed.pid()]);
    fine.exit();
    pwait.stdout.read_until(&fine.exit_line(0));
    failing.exit();
    pwait.stdout.read_until(&failing.exit_line(7));
    killed.kill();
    let killed = if cfg!(unix) {
        killed.line("killed by signal 9 (SIGKILL).")
    } else {
        killed.exit_line(1)
    };
    let output = pwait.output();
    assert_eq!(
        output.code, 0,
        "pwait must not exit with their status: {output:?}"
    );
    assert_eq!(
        output.stdout,
        fine.exit_line(0) + &failing.exit_line(7) + &killed
    );
}

#[test]
fn prints_nothing_without_verbose() {
    let mut target = Target::new(7);
    let pwait = Pwait::start(&[&target.pid()]);
    target.exit();
    pwait.output().assert_is(0, "", "");
}

#[test]
fn times_out_with_124() {
    let mut target = Target::new(0);
    let pid = target.pid();
    Pwait::run(&["-t", "0.05", &pid]).assert_is(124, "", "");
    Pwait::run(&["-v", "-t", "0.05", &pid]).assert_is(124, "timeout\n", "");
    Pwait::run(&["-t", "0", &pid]).assert_is(124, "", "");
    assert!(target.is_running());
}

#[test]
fn timeout_has_units() {
    let target = Target::new(0);
    for timeout in ["0.01", "0.01s", "0.0001m", "0.00001h", "0.000001d"] {
        Pwait::run(&["-t", timeout, &target.pid()]).assert_is(124, "", "");
    }
}

#[test]
fn print_option_prints_the_pids_that_are_left() {
    let (mut a, mut b, c) = (Target::new(0), Target::new(0), Target::new(0));
    let remaining = format!("{}\n{}\n", a.pid(), c.pid());
    b.exit();
    let pids = [a.pid(), b.pid(), c.pid()];
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();
    // Wait until the process has exited.
    Pwait::run(&[&["-o"], &pids[..]].concat()).assert_is(0, "", "");

    Pwait::run(&[&["-p", "-t", "0.05"], &pids[..]].concat()).assert_is(124, &remaining, "");
    Pwait::run(&[&["-p", "-o"], &pids[..]].concat()).assert_is(0, &remaining, "");
    let verbose = b.exit_line(0) + "timeout\n" + &remaining;
    Pwait::run(&[&["-pv", "-t", "0.05"], &pids[..]].concat()).assert_is(124, &verbose, "");
    assert!(a.is_running());
}

#[test]
fn ignores_white_space_around_a_pid() {
    let target = Target::new(0);
    let pid = target.pid();
    for padded in [
        format!("  {pid}"),
        format!("{pid}\r\n"),
        format!("\t{pid} "),
    ] {
        Pwait::run(&["-t", "0.05", &padded]).assert_is(124, "", "");
    }
    Pwait::run(&["-c2", &pid, &format!(" {pid}")]).assert_code(2, "-c 2 exceeds the number");
}

#[test]
fn waits_for_an_identity() {
    let gone = Target::new(0);
    let (pid, identity) = (gone.pid(), gone.identity());
    let number = gone.child.id();
    drop(gone);
    // Windows may release the pid later than the process exits.
    support::until_pid_is_free(number);
    Pwait::run(&["-e", "-v", &identity]).assert_is(0, &format!("{pid}: not running.\n"), "");
    Pwait::run(&[&identity]).assert_code(1, &pid);

    let mut target = Target::new(0);
    let identity = target.identity();
    let pwait = Pwait::start(&["-v", &format!("{identity}\n")]);
    target.exit();
    pwait.output().assert_is(0, &target.exit_line(0), "");
}

#[test]
fn names_of_one_process_count_once() {
    let mut target = Target::new(0);
    let (pid, identity) = (target.pid(), target.identity());
    let pwait = Pwait::start(&["-v", "-c2", &pid, &identity]);
    target.exit();
    pwait.output().assert_is(0, &target.exit_line(0), "");
}

#[test]
fn waits_for_the_process_in_a_pid_file() {
    let mut target = Target::new(0);
    let (pid, identity) = (target.pid(), target.identity());
    let file = TempFile::new("pid");
    for content in [
        pid.clone(),
        format!("{pid}\n"),
        format!("\r\n  {pid}\r\n/var/lib/daemon\n5432\n"),
        format!("{identity}\n"),
    ] {
        file.write(&content);
        Pwait::run(&["-t0", "-F", file.path()]).assert_is(124, "", "");
    }
    let mut other = Target::new(0);
    let pwait = Pwait::start(&["-v", "--pidfile", file.path(), &other.pid()]);
    other.exit();
    target.exit();
    let output = pwait.output();
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains(&target.exit_line(0)), "{output:?}");
    assert!(output.stdout.contains(&other.exit_line(0)), "{output:?}");
}

#[test]
fn reports_a_pid_file_without_a_pid() {
    let mut target = Target::new(0);
    let file = TempFile::new("invalid");
    for content in ["", "\n\n", "daemon\n1234\n", "-5\n", "1234 5678\n"] {
        file.write(content);
        let mut pwait = Pwait::start(&["-e", "-F", file.path(), &target.pid(), "-t1000"]);
        // The other process is still waited for.
        pwait
            .stderr
            .read_until(&format!("pwait: {}: expected a pid", file.path()));
        drop(pwait);
    }
    let no_file = format!("{}-missing", file.path());
    // The daemon may be running without its file, so `-e` does not apply.
    let pwait = Pwait::start(&["-e", "-v", "-F", &no_file, &target.pid()]);
    target.exit();
    let output = pwait.output();
    assert_eq!(output.stdout, target.exit_line(0));
    output.assert_code(1, &format!("pwait: {no_file}: "));

    file.write(&format!("{NO_PID}\n"));
    Pwait::run(&["-F", file.path()]).assert_is(1, "", &missing(NO_PID));
    Pwait::run(&["-e", "-F", file.path()]).assert_is(0, "", "");
}

#[test]
fn long_timeout_does_not_delay_the_end() {
    for timeout in ["1000", "1e19"] {
        let mut target = Target::new(0);
        let pwait = Pwait::start(&["-t", timeout, &target.pid()]);
        target.exit();
        pwait.output().assert_is(0, "", "");
    }
}

#[test]
fn zero_timeout_reports_all_exited_processes() {
    // Use more processes than tokio's cooperative budget (128) lets a task handle in one poll.
    let mut targets: Vec<Target> = (0..at_most(300)).map(|_| Target::new(0)).collect();
    targets.iter_mut().for_each(Target::exit);
    let pids: Vec<String> = targets.iter().map(Target::pid).collect();
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();

    // Wait until all targets are zombies.
    Pwait::run(&pids).assert_is(0, "", "");
    let output = Pwait::run(&[&["-t", "0", "-v"], &pids[..]].concat());
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout.lines().count(), pids.len(), "{output:?}");
}

#[test]
fn reports_a_missing_pid() {
    Pwait::run(&[NO_PID, OTHER_NO_PID]).assert_is(
        1,
        "",
        &(missing(NO_PID) + &missing(OTHER_NO_PID)),
    );
}

#[test]
fn missing_pid_does_not_stop_the_other_waits() {
    for options in [["-v", "-t1000"], ["-v", "-o"], ["-v", "-c2"]] {
        let mut target = Target::new(0);
        let mut pwait = Pwait::start(&[&options[..], &[NO_PID, &target.pid()]].concat());
        pwait.stderr.read_until(&missing(NO_PID));
        target.exit();
        pwait
            .output()
            .assert_is(1, &target.exit_line(0), &missing(NO_PID));
    }
}

#[test]
fn exited_option_counts_missing_pids_as_exited() {
    let mut target = Target::new(0);
    let not_running = format!("{NO_PID}: not running.\n");

    Pwait::run(&["-e", NO_PID, OTHER_NO_PID]).assert_is(0, "", "");
    Pwait::run(&["-e", "-v", NO_PID]).assert_is(0, &not_running, "");
    Pwait::run(&["-e", "-o", &target.pid(), NO_PID]).assert_is(0, "", "");
    Pwait::run(&["-e", "-c", "2", &target.pid(), NO_PID, OTHER_NO_PID]).assert_is(0, "", "");
    assert!(target.is_running());

    let pwait = Pwait::start(&["-e", "-v", &target.pid(), NO_PID]);
    target.exit();
    pwait
        .output()
        .assert_is(0, &(not_running + &target.exit_line(0)), "");
}

#[test]
fn reports_pid_0_and_thread_ids_as_errors() {
    let output = Pwait::run(&["-e", "0"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.starts_with("pwait: pid 0 "), "{output:?}");

    #[cfg(any(target_os = "linux", windows))]
    thread::scope(|scope| {
        let (id_sender, id_receiver) = mpsc::channel();
        let (_stop_sender, stop_receiver) = mpsc::channel::<()>();
        scope.spawn(move || {
            id_sender.send(support::thread_id().to_string()).unwrap();
            let _ = stop_receiver.recv();
        });
        let thread = id_receiver.recv().unwrap();
        let output = Pwait::run(&["-e", &thread]);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("thread"), "{output:?}");
        assert!(output.stderr.contains(&thread), "{output:?}");
    });
}

#[cfg(unix)]
#[test]
fn refuses_to_wait_for_itself() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" $$", "sh"])
        .args(support::runnable(support::example("pwait")));
    let output = Pwait::spawn(command.stdin(Stdio::null())).output();
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("is pwait itself"), "{output:?}");
}

#[test]
fn duplicates_count_once() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let (pid_a, pid_b) = (a.pid(), b.pid());

    let mut pwait = Pwait::start(&["-v", "-c2", &pid_a, &pid_a, &pid_b]);
    a.exit();
    pwait.stdout.read_until(&a.exit_line(0));
    b.exit();
    pwait
        .output()
        .assert_is(0, &(a.exit_line(0) + &b.exit_line(0)), "");

    Pwait::run(&[NO_PID, NO_PID]).assert_is(1, "", &missing(NO_PID));
    let output = Pwait::run(&["-c2", &pid_a, &pid_a]);
    assert_eq!(output.code, 2, "{output:?}");
}

#[test]
fn shows_no_progress_when_piped() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let mut pwait = Pwait::start(&["-v", &a.pid(), &b.pid()]);
    a.exit();
    pwait.stdout.read_until(&a.exit_line(0));
    b.exit();
    pwait
        .output()
        .assert_is(0, &(a.exit_line(0) + &b.exit_line(0)), "");
}

#[test]
fn closed_stdout_does_not_stop_the_wait() {
    let (mut a, mut b) = (Target::new(0), Target::new(0));
    let mut pwait = {
        let mut command = pwait_command(&["-v", NO_PID, &a.pid(), &b.pid()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        Pwait::new(child)
    };
    pwait.stderr.read_until(&missing(NO_PID));
    a.exit();
    b.exit();
    pwait.output().assert_is(1, "", &missing(NO_PID));
}

#[cfg(target_os = "linux")]
#[test]
fn waits_for_a_whole_group() {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sh");
    // The shell exits before the process in the background.
    command.args(["-c", "sleep 3600 >&- & echo $!"]);
    let child = command.process_group(0).stdout(Stdio::piped()).spawn();
    let mut shell = child.unwrap();
    let mut sleep = String::new();
    let mut stdout = shell.stdout.take().unwrap();
    stdout.read_to_string(&mut sleep).unwrap();
    let pgid = shell.id().to_string();
    shell.wait().unwrap();

    let name = format!("group {pgid}\n");
    Pwait::run(&["-p", "-t0.1", "-g", &pgid]).assert_is(124, &name, "");
    let mut other = Target::new(0);
    let mut pwait = Pwait::start(&["-v", "-c1", "-g", &pgid, &other.pid()]);
    other.exit();
    pwait.stdout.read_until(&other.exit_line(0));
    pwait.output().assert_is(0, &other.exit_line(0), "");
    // pwait has opened the group once it prints the exit of the other process.
    let mut other = Target::new(0);
    let mut pwait = Pwait::start(&["-v", "-g", &pgid, &other.pid()]);
    other.exit();
    pwait.stdout.read_until(&other.exit_line(0));
    let sleep = sleep.trim().parse().unwrap();
    support::unix::kill(sleep, libc::SIGKILL);
    let output = format!("{}group {pgid}: gone.\n", other.exit_line(0));
    pwait.output().assert_is(0, &output, "");

    support::until_pid_is_free(sleep);
    let not_running = format!("group {pgid}: not running.\n");
    Pwait::run(&["-v", "-e", "-g", &pgid]).assert_is(0, &not_running, "");
    Pwait::run(&["-g", &pgid]).assert_code(1, &format!("process group {pgid}"));
    Pwait::run(&["-g", "0"]).assert_code(1, "0 names no process group");
}

#[test]
fn help_explains_every_option() {
    let output = Pwait::run(&["--help"]);
    assert_eq!(output.code, 0, "{output:?}");
    for word in [
        "Wait for processes to exit",
        &format!("Usage: pwait{EXE_SUFFIX} [OPTIONS] [PID]..."),
        "-t, --timeout <DURATION>",
        "-o, --any",
        "-c, --count <N>",
        "-v, --verbose",
        "-p, --print",
        "-e, --exited",
        "-F, --pidfile <FILE>",
        #[cfg(unix)]
        "-g, --group <PGID>",
        #[cfg(target_os = "linux")]
        "-c CGROUP",
        "1234:5678",
        "124",
        "Examples:",
    ] {
        assert!(
            output.stdout.contains(word),
            "no {word:?} in {}",
            output.stdout
        );
    }
}

#[test]
fn refuses_invalid_arguments() {
    let target = Target::new(0);
    let pid = target.pid();
    for (arguments, expected) in [
        (&[][..], "<PID>..."),
        (&["12ab"], "12ab"),
        (&["-1"], "-1"),
        (&["99999999999"], "99999999999"),
        (&[""], "expected a pid"),
        (&["1234 5678"], "1234 5678"),
        (&["1234:"], "1234:"),
        (&["1234:-5"], "1234:-5"),
        (&[":5678"], ":5678"),
        (&["-F"], "a value is required"),
        (&["-t", "5x", &pid], "0 or more"),
        (&["-t", "m", &pid], "0 or more"),
        (&["-t", "5ms", &pid], "0 or more"),
        (&["--no-such-option", &pid], "--no-such-option"),
        (&["-t", "-1", &pid], "0 or more"),
        (&["-t", "nan", &pid], "0 or more"),
        (&["-t", "soon", &pid], "0 or more"),
        (&["-t", "1e300", &pid], "too long"),
        (&["-t", "inf", &pid], "too long"),
        (&["-o", "-c", "1", &pid], "cannot be used with"),
        (&["-c", "0", &pid], "'--count <N>'"),
        (&["-c", "2", &pid], "-c 2 exceeds the number"),
    ] {
        let output = Pwait::run(arguments);
        assert_eq!(output.code, 2, "{arguments:?}: {output:?}");
        assert!(
            output.stderr.contains(expected),
            "{arguments:?}: {output:?}"
        );
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
}

/// Returns the line that `pwait` prints for a pid that no process has.
fn missing(pid: &str) -> String {
    format!("pwait: no process with pid {pid}\n")
}

/// A process to wait for. After its exit, the process is a zombie until this value is dropped.
struct Target {
    child: support::Child,
}

impl Target {
    /// Starts a process that exits with this status after a call of [`exit`](Target::exit).
    fn new(status: u8) -> Target {
        Target {
            child: support::Child::spawn(status),
        }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Returns the line of the identity of this process.
    fn identity(&self) -> String {
        let process = tokio_process_exit::ProcessExit::open(self.child.id()).unwrap();
        process.identity().unwrap().to_string()
    }

    /// Returns the line that `pwait -v` prints for the exit of this process.
    fn exit_line(&self, status: u8) -> String {
        self.line(&format!("exited with status {status}."))
    }

    /// Returns the line of `pwait -v` for an exit. `what` is the part that needs the status.
    fn line(&self, what: &str) -> String {
        // `pwait` is not the parent.
        #[cfg(target_os = "linux")]
        if !support::linux::stat_shows_status() {
            return format!("{}: exited with unknown status.\n", self.pid());
        }
        format!("{}: {what}\n", self.pid())
    }

    /// Makes the process exit. Does not wait for the exit.
    fn exit(&mut self) {
        self.child.end();
    }

    /// Kills the process and waits until it is a zombie.
    fn kill(&mut self) {
        self.child.kill();
    }

    /// Returns whether the process is still running. If not, this reaps the process.
    fn is_running(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }
}

/// A running `pwait`.
struct Pwait {
    child: Child,
    stdout: OutputReader,
    stderr: OutputReader,
}

/// The exit code and the complete output of `pwait`.
#[derive(Debug)]
struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Pwait {
    /// Runs `pwait` until it exits.
    fn run(arguments: &[&str]) -> Output {
        Pwait::start(arguments).output()
    }

    fn start(arguments: &[&str]) -> Pwait {
        Pwait::spawn(&mut pwait_command(arguments))
    }

    fn spawn(command: &mut Command) -> Pwait {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Pwait::new(command.spawn().unwrap())
    }

    fn new(mut child: Child) -> Pwait {
        let stdout = child
            .stdout
            .take()
            .map_or_else(OutputReader::empty, OutputReader::new);
        let stderr = child
            .stderr
            .take()
            .map_or_else(OutputReader::empty, OutputReader::new);
        Pwait {
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for `pwait` to exit.
    fn output(mut self) -> Output {
        // Both streams end when `pwait` exits, so their deadline also limits the wait below.
        let (stdout, stderr) = (self.stdout.read_all(), self.stderr.read_all());
        let status = self.child.wait().unwrap();
        Output {
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

impl Output {
    #[track_caller]
    fn assert_is(&self, code: i32, stdout: &str, stderr: &str) {
        let Output {
            code: c,
            stdout: o,
            stderr: e,
        } = self;
        assert_eq!((*c, o.as_str(), e.as_str()), (code, stdout, stderr));
    }

    /// Asserts the code, and that stderr contains a text.
    #[track_caller]
    fn assert_code(&self, code: i32, stderr: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains(stderr), "no {stderr:?} in {self:?}");
    }
}

/// A file that is removed when this value is dropped.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str) -> TempFile {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        TempFile(directory.join(format!("pwait-{name}-{}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn write(&self, content: &str) {
        fs::write(&self.0, content).unwrap();
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn pwait_command(arguments: &[&str]) -> Command {
    let mut command = support::command(support::example("pwait"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A reader of a process's output, with a deadline. The blocking reads are on a thread.
struct OutputReader {
    /// The output that has been read so far.
    read: Vec<u8>,
    /// The chunks that the thread has read.
    chunks: Receiver<Vec<u8>>,
}

impl OutputReader {
    fn new(mut source: impl Read + Send + 'static) -> OutputReader {
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pseudoterminal ends with an error when its other end is closed.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        OutputReader {
            read: Vec::new(),
            chunks,
        }
    }

    fn empty() -> OutputReader {
        OutputReader::new(io::empty())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Reads until the output contains `wanted`.
    #[track_caller]
    fn read_until(&mut self, wanted: &str) {
        while !self.text().contains(wanted) {
            match self.chunks.recv_timeout(support::scaled(DEADLINE)) {
                Ok(chunk) => self.read.extend(chunk),
                Err(error) => panic!("{error}: no {wanted:?} in {:?}", self.text()),
            }
        }
    }

    /// Reads to the end, and returns the complete output.
    #[track_caller]
    fn read_all(&mut self) -> String {
        loop {
            match self.chunks.recv_timeout(support::scaled(DEADLINE)) {
                Ok(chunk) => self.read.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => return self.text(),
                Err(RecvTimeoutError::Timeout) => panic!("still running: {:?}", self.text()),
            }
        }
    }
}

/// Tests that need a pseudoterminal or `/dev/full`.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::process::CommandExt;

    use super::*;
    use support::linux::{self, Unthreaded};

    #[test]
    fn shows_progress_on_a_terminal() {
        let (mut a, mut b) = (Target::new(0), Target::new(0));
        let (terminal, stderr) = open_terminal().unwrap();
        let mut pwait = {
            let mut command = pwait_command(&["-v", &a.pid(), &b.pid()]);
            command.stdout(Stdio::piped()).stderr(stderr);
            Pwait::new(on_terminal(&mut command).spawn().unwrap())
        };
        pwait.stderr = OutputReader::new(terminal);

        pwait.stderr.read_until("waiting for 2 processes (00:00:0");
        a.exit();
        pwait.stderr.read_until("waiting for 1 process (00:00:0");
        // The line is updated.
        pwait.stderr.read_until("waiting for 1 process (00:00:02)");
        b.exit();
        let output = pwait.output();
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(output.stdout, a.exit_line(0) + &b.exit_line(0));
        let clear_line = "\r\u{1b}[2K";
        assert!(output.stderr.ends_with(clear_line), "{output:?}");
    }

    #[test]
    fn terminal_without_a_thread_is_no_error() {
        let Some(user) = Unthreaded::new() else {
            return;
        };
        let mut target = Target::new(0);
        let (terminal, stderr) = open_terminal().unwrap();
        let mut pwait = {
            let mut command = user.command("pwait");
            command.arg(target.pid()).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(stderr);
            Pwait::new(on_terminal(&mut command).spawn().unwrap())
        };
        pwait.stderr = OutputReader::new(terminal);
        pwait.stderr.read_until("waiting for 1 process");
        target.exit();
        let output = pwait.output();
        assert_eq!(output.code, 0, "{output:?}");
        assert!(!output.stderr.contains("panicked"), "{output:?}");
    }

    #[test]
    fn polling_without_a_thread_is_no_storm() {
        let Some(user) = Unthreaded::new() else {
            return;
        };
        if !linux::seccomp_filters() {
            return support::skip("seccomp filters are not supported");
        }
        let mut target = support::Child::spawn_command(&mut support::shell("sleep 1; exit 7"));
        let mut command = user.command("pwait");
        command.args(["-v", &target.id().to_string()]);
        command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
        let spawn = || {
            // Only processes that this thread starts inherit the filter.
            linux::deny(libc::SYS_pidfd_open, libc::EPERM);
            Pwait::spawn(&mut command)
        };
        let pwait = thread::scope(|scope| scope.spawn(spawn).join().unwrap());
        // Where `/proc` hides the processes of other users (`hidepid=1`), the zombie is not seen.
        target.reap();
        let output = pwait.output();
        assert_eq!((output.code, &*output.stderr), (0, ""), "{output:?}");
        let line = format!("{}: exited with ", target.id());
        assert!(output.stdout.starts_with(&line), "{output:?}");
    }

    #[test]
    fn too_few_descriptors_are_one_clear_line() {
        if support::runnable(support::example("pwait")).len() > 1 {
            return support::skip("an emulator needs descriptors of its own");
        }
        let mut target = Target::new(0);
        for descriptors in 4..16 {
            let mut command = pwait_command(&["-t0", &target.pid()]);
            linux::limit(
                &mut command,
                rlimit::Resource::NOFILE,
                descriptors,
                descriptors,
            );
            let output = Pwait::spawn(&mut command).output();
            if output.code != 124 || descriptors < 7 {
                let line =
                    "pwait: cannot start the tokio runtime: Too many open files (os error 24)\n";
                output.assert_is(1, "", line);
                assert!(descriptors < 10, "{descriptors} descriptors suffice");
            }
        }
        assert!(target.is_running());
    }

    #[test]
    fn raises_the_soft_limit_of_descriptors() {
        let target = Target::new(0);
        let mut command = pwait_command(&[NO_PID, &target.pid()]);
        linux::limit(&mut command, rlimit::Resource::NOFILE, 64, 512);
        let mut pwait = Pwait::spawn(&mut command);
        pwait.stderr.read_until(&missing(NO_PID));
        let limits = fs::read_to_string(format!("/proc/{}/limits", pwait.child.id())).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        assert_eq!(words[3..5], ["512", "512"], "{line:?}");
    }

    #[test]
    fn waits_for_a_pid_with_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let mut target = Target::new(0);
        let inode_of = |process: &tokio_process_exit::ProcessExit| {
            let pidfd = process.as_pidfd()?.try_clone_to_owned().unwrap();
            Some(File::from(pidfd).metadata().unwrap().ino())
        };
        let pid = target.pid();
        let process = tokio_process_exit::ProcessExit::open(target.child.id()).unwrap();
        let own = tokio_process_exit::ProcessExit::open(std::process::id()).unwrap();
        let Some(inode) = inode_of(&process).filter(|&inode| Some(inode) != inode_of(&own)) else {
            let refused = match process.fallback_reason() {
                Some(reason) => reason.to_string(),
                None => "this system has no inode for each process".into(),
            };
            return Pwait::run(&["-e", &format!("{pid}:5678")]).assert_code(1, &refused);
        };
        let wrong = format!("{pid}:{}", inode + 1);
        let gone = format!("pwait: {wrong}: this process has exited");
        Pwait::run(&[&wrong]).assert_code(1, &gone);
        Pwait::run(&["-e", "-v", &wrong]).assert_is(0, &format!("{pid}: not running.\n"), "");

        let pwait = Pwait::start(&["-v", &format!("{pid}:{inode}")]);
        target.exit();
        pwait.output().assert_is(0, &target.exit_line(0), "");
    }

    #[test]
    fn reports_why_an_inode_cannot_be_read() {
        if !linux::seccomp_filters() {
            return support::skip("seccomp filters are not supported");
        }
        let target = Target::new(0);
        let argument = format!("{}:5678", target.pid());
        let mut command = pwait_command(&["-e", &argument]);
        let spawn = || {
            // Only processes that this thread starts inherit the filter.
            linux::deny(libc::SYS_pidfd_open, libc::EPERM);
            Pwait::spawn(&mut command)
        };
        let output = thread::scope(|scope| scope.spawn(spawn).join().unwrap()).output();
        let reason = match support::poll_forced() {
            true => "Function not implemented (os error 38)",
            false => "Operation not permitted (os error 1)",
        };
        let line = format!("pwait: {argument}: cannot read the inode of the process: {reason}\n");
        output.assert_is(1, "", &line);
    }

    #[test]
    fn background_job_does_not_draw_or_stop() {
        let mut target = Target::new(0);
        let done = TempFile::new("done");
        let mut shell = InteractiveShell::start();
        shell.run("stty tostop");
        shell.run(&format!(
            "$PWAIT -v {} && : >'{}' &",
            target.pid(),
            done.path()
        ));
        target.exit();
        shell
            .screen
            .read_until(&target.exit_line(0).replace('\n', "\r\n"));
        support::until("the list of commands has ended", || done.0.exists());
        let screen = shell.screen.text();
        assert!(!screen.contains("waiting for"), "{screen}");
    }

    #[test]
    fn draws_only_while_in_the_foreground() {
        let mut targets = [(); 4].map(|()| Target::new(0));
        let pids = targets.each_ref().map(Target::pid).join(" ");
        let mut shell = InteractiveShell::start();
        let mut exit = |shell: &mut InteractiveShell, at: usize| {
            targets[at].exit();
            shell
                .screen
                .read_until(&targets[at].exit_line(0).replace('\n', "\r\n"));
        };

        shell.run(&format!("$PWAIT -v {pids}"));
        shell.screen.read_until("waiting for 4 processes");
        shell.write("\x1a"); // Ctrl-Z
        shell.screen.read_until("Stopped");
        shell.run("bg");
        let start = shell.screen.text().len();
        // In between, the line would be drawn for three and for two processes.
        for at in 0..3 {
            exit(&mut shell, at);
        }
        let screen = shell.screen.text().split_off(start);
        assert!(!screen.contains("waiting for"), "{screen}");
        assert!(
            !screen.contains("\x1b"),
            "the background clears nothing: {screen}"
        );

        shell.run("fg");
        shell.screen.read_until("waiting for 1 process ");
        exit(&mut shell, 3);
        shell.run("echo code=$?");
        shell.screen.read_until("code=0");
    }

    #[test]
    fn reports_a_stdout_error_only_once() {
        let (mut a, mut b) = (Target::new(0), Target::new(0));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut pwait = {
            let mut command = pwait_command(&["-v", &a.pid(), &b.pid()]);
            command.stdout(full).stderr(Stdio::piped());
            Pwait::new(command.spawn().unwrap())
        };
        a.exit();
        pwait.stderr.read_until("cannot write to stdout");
        b.exit();
        let output = pwait.output();
        assert_eq!(output.code, 1, "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    }

    /// An interactive shell on a terminal of its own.
    struct InteractiveShell {
        _process: Pwait,
        keyboard: File,
        screen: OutputReader,
    }

    impl InteractiveShell {
        fn start() -> InteractiveShell {
            let (emulator, terminal) = open_terminal().unwrap();
            let mut command = Command::new("sh");
            let words = support::runnable(support::example("pwait"));
            let words = words.join(std::ffi::OsStr::new(" "));
            command.arg("-i").env("PWAIT", words).env_remove("ENV");
            command.stdin(terminal.try_clone().unwrap());
            command
                .stdout(terminal.try_clone().unwrap())
                .stderr(terminal);
            let process = Pwait::new(on_terminal(&mut command).spawn().unwrap());
            InteractiveShell {
                _process: process,
                keyboard: emulator.try_clone().unwrap(),
                screen: OutputReader::new(emulator),
            }
        }

        /// Types a command line.
        fn run(&mut self, line: &str) {
            self.write(&format!("{line}\n"));
        }

        fn write(&mut self, text: &str) {
            io::Write::write_all(&mut self.keyboard, text.as_bytes()).unwrap();
        }
    }

    /// Makes the terminal on stderr the controlling terminal of the command's process.
    fn on_terminal(command: &mut Command) -> &mut Command {
        let control = || {
            // SAFETY: the call takes no arguments.
            let session = unsafe { libc::setsid() };
            // SAFETY: `TIOCSCTTY` takes an integer.
            let controlled = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCSCTTY, 0) };
            match session.min(controlled) {
                ..0 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure makes only system calls.
        unsafe { command.env("TERM", "xterm").pre_exec(control) }
    }

    /// Opens a pseudoterminal. Returns the end for a terminal emulator and the end for programs.
    ///
    /// Both ends are closed on exec: otherwise the processes of other tests would keep them open.
    fn open_terminal() -> io::Result<(File, OwnedFd)> {
        let emulator = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open("/dev/ptmx")?;
        // SAFETY: `unlockpt` takes an open descriptor.
        if unsafe { libc::unlockpt(emulator.as_raw_fd()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: `TIOCGPTPEER` takes an open descriptor and an integer.
        let program = unsafe { libc::ioctl(emulator.as_raw_fd(), libc::TIOCGPTPEER, flags) };
        if program < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just created this descriptor, so it has no other owner.
        Ok((emulator, unsafe { OwnedFd::from_raw_fd(program) }))
    }
}
