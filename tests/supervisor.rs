//! Tests of the example `supervisor`: it restarts its workers with a backoff, and stops them at a signal.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use support::{Child, max_wait};

/// A running supervisor.
struct Supervisor {
    child: Child,
    /// The lines that the supervisor has printed on stderr.
    log: Receiver<String>,
    /// The lines that the workers have printed on stdout.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only the tests on Unix read it"))]
    output: Receiver<String>,
}

impl Supervisor {
    /// Starts a supervisor whose workers run a shell script.
    fn start(options: &[&str], script: &str) -> Supervisor {
        let shell = match cfg!(windows) {
            true => ["cmd", "/c", script],
            false => ["sh", "-c", script],
        };
        Supervisor::spawn(&[options, &shell].concat())
    }

    fn spawn(arguments: &[&str]) -> Supervisor {
        let mut command = support::command(support::example("supervisor"));
        command.args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Child::spawn_command(&mut command);
        let log = lines(child.0.stderr.take().unwrap());
        let output = lines(child.0.stdout.take().unwrap());
        Supervisor { child, log, output }
    }

    /// Waits for a line on stderr that starts with `prefix` and contains `middle`. Returns the rest.
    #[track_caller]
    fn expect(&self, prefix: &str, middle: &str) -> String {
        let line = next(&self.log).expect("a line on stderr");
        let rest = line.strip_prefix(prefix);
        let rest = rest.and_then(|rest| Some(rest.split_once(middle)?.1));
        rest.unwrap_or_else(|| panic!("{line:?} is not {prefix:?} .. {middle:?}"))
            .to_owned()
    }

    /// Waits until the worker with this number has been started. Returns its pid.
    #[track_caller]
    fn expect_start(&self, number: u32) -> u32 {
        let pid = self.expect(&format!("worker {number}: "), "started process ");
        pid.parse().unwrap()
    }
}

/// Returns the lines of a pipe, which are read on a thread.
fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    let pipe = BufReader::new(pipe).lines().map_while(Result::ok);
    std::thread::spawn(move || { pipe }.try_for_each(|line| send.send(line)));
    lines
}

/// Returns the next line, or `None` at the end.
#[track_caller]
fn next(lines: &Receiver<String>) -> Option<String> {
    match lines.recv_timeout(max_wait()) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("no line after {:?}", max_wait()),
    }
}

#[test]
fn restarts_a_worker_that_exits() {
    let supervisor = Supervisor::start(&["-n1"], "exit 3");
    let mut pids = std::collections::HashSet::new();
    for _ in 0..3 {
        let pid = supervisor.expect_start(1);
        let middle = format!("process {pid} exited with exit ");
        let rest = supervisor.expect("worker 1: ", &middle);
        assert!(rest.contains(": 3, starting again in "), "{rest}");
        pids.insert(pid);
    }
    // Windows may use the pid of an exited process again.
    assert!(pids.len() == 3 || cfg!(windows), "{pids:?}");
}

#[test]
fn pause_doubles_up_to_the_longest() {
    let start = Instant::now();
    // Each worker exits sooner than within the longest pause, after which the pause would be short again.
    let supervisor = Supervisor::start(&["-n1", "--max-pause=20"], "exit 1");
    for pause in ["100ms", "200ms", "400ms", "800ms"] {
        supervisor.expect_start(1);
        let rest = supervisor.expect("worker 1: process ", ", starting again in ");
        assert_eq!(rest, pause);
    }
    assert!(start.elapsed() >= Duration::from_millis(100 + 200 + 400));
    let supervisor = Supervisor::start(&["-n1", "--max-pause=0.05"], "exit 1");
    for _ in 0..2 {
        supervisor.expect_start(1);
        supervisor.expect("worker 1: process ", ", starting again in 50ms");
    }
}

#[test]
fn command_that_cannot_be_started_is_an_error() {
    if support::runnable(support::example("supervisor")).len() > 1 {
        return support::skip("qemu does not report the error of a started command");
    }
    let mut supervisor = Supervisor::spawn(&["/no/such/command"]);
    supervisor.expect("supervisor: cannot start ", "/no/such/command: ");
    supervisor.child.until_exited();
    assert_eq!(supervisor.child.reap().code(), Some(1));
}

#[test]
fn explains_its_arguments() {
    let run = |arguments: &[&str]| {
        let mut command = support::command(support::example("supervisor"));
        let output = command.args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, help) = run(&["--help"]);
    assert_eq!(code, Some(0), "{help}");
    for word in [
        "--workers <N>",
        "--grace <SECONDS>",
        "[default: 5]",
        "Exit codes:",
        "WORKER",
    ] {
        assert!(help.contains(word), "no {word:?} in {help}");
    }
    for arguments in [
        &[][..],
        &["-n0", "true"],
        &["-t-1", "true"],
        &["--grace=1e300", "true"],
    ] {
        let (code, text) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use support::unix::kill;
    use tokio_process_exit::ProcessExit;

    impl Supervisor {
        /// Starts a supervisor, and waits until each worker has printed a line.
        fn start_ready(workers: u32, options: &[&str], script: &str) -> (Supervisor, Vec<u32>) {
            let workers_option = format!("-n{workers}");
            let options = [&[&*workers_option], options].concat();
            let supervisor = Supervisor::start(&options, script);
            let pids = (1..=workers).map(|number| supervisor.expect_start(number));
            let pids = pids.collect();
            let mut numbers: Vec<String> = (0..workers)
                .map(|_| next(&supervisor.output).expect("a line of a worker"))
                .collect();
            numbers.sort();
            let expected: Vec<String> = (1..=workers).map(|number| number.to_string()).collect();
            assert_eq!(numbers, expected);
            (supervisor, pids)
        }

        /// Waits for the exit of the supervisor. Returns the exit code, and the rest of the log in order.
        fn wait(&mut self) -> (Option<i32>, Vec<String>) {
            self.child.until_exited();
            // All workers have exited: they share stdout and stderr with the supervisor.
            let mut log: Vec<String> = std::iter::from_fn(|| next(&self.log)).collect();
            assert_eq!(next(&self.output), None);
            log.sort();
            (self.child.reap().code(), log)
        }
    }

    /// Prints the worker's number. SIGTERM ends the shell, with the code 7. The shell would report on stderr that
    /// SIGTERM has also ended `sleep`.
    const CLEANS_UP: &str =
        "exec 2>/dev/null; trap 'exit 7' TERM; echo $WORKER; while :; do sleep 0.05; done";
    /// Prints the worker's number, and ignores SIGTERM. Exits after a minute if the test fails.
    const IGNORES_SIGTERM: &str = "trap '' TERM; echo $WORKER; n=0; \
        while [ $n -lt 1200 ]; do sleep 0.05; n=$((n + 1)); done";

    #[test]
    fn a_signal_stops_all_workers() {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            let (mut supervisor, pids) = Supervisor::start_ready(3, &["-t3600"], CLEANS_UP);
            kill(supervisor.child.id(), signal);
            let expected = pids.iter().zip(1..).map(|(pid, number)| {
                format!("worker {number}: process {pid} exited with exit status: 7")
            });
            assert_eq!(supervisor.wait(), (Some(0), expected.collect()));
        }
    }

    #[test]
    fn kills_a_worker_that_ignores_sigterm() {
        let (mut supervisor, pids) = Supervisor::start_ready(2, &["--grace=0.3"], IGNORES_SIGTERM);
        let start = Instant::now();
        kill(supervisor.child.id(), libc::SIGTERM);
        let expected = pids.iter().zip(1..).map(|(pid, number)| {
            format!("worker {number}: process {pid} exited with signal: 9 (SIGKILL)")
        });
        assert_eq!(supervisor.wait(), (Some(3), expected.collect()));
        assert!(start.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn a_second_signal_kills_at_once() {
        let (mut supervisor, _) = Supervisor::start_ready(2, &["-t3600"], IGNORES_SIGTERM);
        let id = supervisor.child.id();
        // The supervisor may notice the first of these signals only together with the second.
        support::until("the supervisor has exited", || {
            kill(id, libc::SIGINT);
            std::thread::sleep(Duration::from_millis(20));
            support::unix::is_zombie(id)
        });
        let (code, log) = supervisor.wait();
        assert_eq!(code, Some(3), "{log:?}");
        assert_eq!(log.len(), 2, "{log:?}");
    }

    #[test]
    fn a_signal_between_two_starts_ends_it() {
        let mut supervisor = Supervisor::start(&["-n1"], "exit 1");
        for _ in 0..3 {
            supervisor.expect_start(1);
            supervisor.expect("worker 1: ", "starting again in ");
        }
        kill(supervisor.child.id(), libc::SIGTERM);
        assert_eq!(supervisor.wait(), (Some(0), Vec::new()));
    }

    #[test]
    fn pause_is_short_after_a_long_run() {
        // The first run is short, and all others are longer than the longest pause.
        let flag = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let flag = flag.join(format!("supervisor-{}", std::process::id()));
        let script = format!("[ -e {0} ] && sleep 1; : > {0}", flag.display());
        let supervisor = Supervisor::start(&["-n1", "--max-pause=0.9"], &script);
        for pause in ["100ms", "100ms", "100ms"] {
            supervisor.expect_start(1);
            let rest = supervisor.expect("worker 1: process ", ", starting again in ");
            assert_eq!(rest, pause);
        }
        drop(supervisor);
        std::fs::remove_file(flag).unwrap();
    }

    #[test]
    fn each_worker_leads_a_process_group() {
        let (supervisor, pids) = Supervisor::start_ready(2, &["-t3600"], CLEANS_UP);
        for pid in pids {
            // SAFETY: the call takes an integer.
            let group = unsafe { libc::getpgid(pid as libc::pid_t) };
            assert_eq!(group, pid as libc::pid_t);
        }
        kill(supervisor.child.id(), libc::SIGTERM);
        let (code, log) = { supervisor }.wait();
        assert_eq!(code, Some(0), "{log:?}");
    }

    /// Waits until a process has been reaped, or is a zombie.
    #[track_caller]
    fn until_gone(pid: &str) {
        let pid: u32 = pid.parse().unwrap();
        support::until("the worker's child has exited", || {
            let process = ProcessExit::find(pid).unwrap();
            process.is_none_or(|mut process| process.try_wait().unwrap().is_some())
        });
    }

    #[test]
    fn a_signal_stops_the_children_of_workers() {
        let script = "sleep 3600 & echo $!; wait";
        let mut supervisor = Supervisor::start(&["-n1", "-t3600"], script);
        supervisor.expect_start(1);
        let child = next(&supervisor.output).expect("the pid of the worker's child");
        kill(supervisor.child.id(), libc::SIGTERM);
        // The child has the worker's stdout: `wait` also waits until the child has closed it.
        let (code, log) = supervisor.wait();
        assert_eq!(code, Some(0), "{log:?}");
        until_gone(&child);
    }

    #[test]
    fn kills_what_an_exited_worker_leaves_behind() {
        let script = "trap '' TERM; sleep 3600 & echo $!";
        let supervisor = Supervisor::start(&["-n1"], script);
        supervisor.expect_start(1);
        let child = next(&supervisor.output).expect("the pid of the worker's child");
        supervisor.expect("worker 1: process ", "starting again in ");
        until_gone(&child);
    }

    #[test]
    fn stops_its_workers_after_stderr_is_closed() {
        let (mut supervisor, _) = Supervisor::start_ready(2, &["-t3600"], CLEANS_UP);
        // Closing the receiver ends the thread that reads stderr, at its next line.
        supervisor.log = mpsc::channel().1;
        kill(supervisor.child.id(), libc::SIGTERM);
        supervisor.child.until_exited();
        assert_eq!(supervisor.child.reap().code(), Some(0));
        assert_eq!(next(&supervisor.output), None);
    }
}
