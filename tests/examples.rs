//! Tests of the examples `exit_with_parent`, `readopt` and `peer_exit`, run as built programs.

#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use support::unix::Grandchild;
use support::{Child, example};

/// The longest wait for a line of output. Only a test that hangs reaches this.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running program.
struct Running {
    child: Child,
    /// The lines that the program has printed on stdout.
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = Child::spawn_command(command.stdout(Stdio::piped()));
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        Running { child, lines }
    }

    fn example(name: &str, arguments: &[&str]) -> Running {
        Running::start(support::command(example(name)).args(arguments))
    }

    /// Returns the next line of the program's stdout, or `None` at the end of stdout.
    #[track_caller]
    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(support::scaled(DEADLINE)) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line after {DEADLINE:?}"),
        }
    }

    /// Writes a line to the program's stdin.
    fn write(&mut self, line: &str) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
    }

    /// Returns what the program has written to its piped stderr, until all writers have exited.
    fn stderr(&mut self) -> String {
        let stderr = self.child.0.stderr.take().unwrap();
        std::io::read_to_string(stderr).unwrap()
    }

    /// Waits for the program to exit, and returns its exit code.
    fn wait(&mut self) -> Option<i32> {
        self.child.until_exited();
        self.child.reap().code()
    }
}

/// Returns the path of a file that does not exist.
fn unused_path(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    file
}

mod exit_with_parent {
    use super::*;

    /// Runs a shell script in which `SERVER` stands for the command that starts the server.
    fn shell(script: &str) -> Running {
        let words = support::runnable(example("exit_with_parent"));
        let words = words
            .iter()
            .map(|word| format!("'{}'", word.to_str().unwrap()));
        let server = words.collect::<Vec<_>>().join(" ");
        Running::start(&mut support::shell(&script.replace("SERVER", &server)))
    }

    #[test]
    fn exits_with_its_editor_while_stdin_stays_open() {
        let mut editor = Grandchild::spawn();
        let mut server = Running::example("exit_with_parent", &[&editor.id().to_string()]);
        server.write("hello\n");
        assert_eq!(server.next_line().as_deref(), Some("HELLO"));
        editor.end(0);
        assert_eq!(server.wait(), Some(0));
    }

    #[test]
    fn without_an_argument_exits_with_its_parent() {
        let mut parent = shell("exec 3<&0; SERVER <&3 & wait");
        parent.write("hello\n");
        assert_eq!(parent.next_line().as_deref(), Some("HELLO"));
        parent.child.0.kill().unwrap();
        // The parent and the server share stdout, so its end means that both have exited.
        assert_eq!(parent.next_line(), None);
        // Keep the server's stdin open until here.
        let _input = parent.child.0.stdin.take().unwrap();
    }

    #[test]
    fn exits_with_its_editor_after_stderr_is_closed() {
        let mut editor = Grandchild::spawn();
        let mut command = support::command(example("exit_with_parent"));
        let (read, write) = support::unix::pipe();
        command.arg(editor.id().to_string()).stderr(write);
        let mut server = Running::start(&mut command);
        server.write("hello\n");
        assert_eq!(server.next_line().as_deref(), Some("HELLO"));
        drop((read, command));
        editor.end(0);
        assert_eq!(server.wait(), Some(0));
    }

    #[test]
    fn keeps_serving_if_given_its_own_pid() {
        let mut server = shell("exec SERVER $$");
        server.write("hello\n");
        assert_eq!(server.next_line().as_deref(), Some("HELLO"));
        drop(server.child.0.stdin.take());
        assert_eq!(server.wait(), Some(0));
    }

    #[test]
    fn keeps_serving_if_given_pid_0_or_1() {
        for pid in ["0", "1"] {
            let mut server = Running::example("exit_with_parent", &[pid]);
            server.write("hello\n");
            assert_eq!(server.next_line().as_deref(), Some("HELLO"));
            drop(server.child.0.stdin.take());
            assert_eq!(server.wait(), Some(0));
        }
    }

    #[test]
    fn fails_if_its_editor_does_not_exist() {
        let mut server = Running::example("exit_with_parent", &["2147483647"]);
        assert_eq!(server.wait(), Some(1));
    }
}

mod readopt {
    use super::*;

    #[test]
    fn finds_its_daemon_again_but_no_other_process() {
        if let Err(error) = tokio_process_exit::exit_of(std::process::id()).identity() {
            return support::skip(&error.to_string());
        }
        let (id_file, stop_file) = (unused_path("daemon"), unused_path("end"));
        let daemon = format!(
            "until [ -e '{}' ]; do sleep 0.05; done",
            stop_file.display()
        );
        let arguments = [id_file.to_str().unwrap(), "sh", "-c", &daemon];

        let mut supervisor = Running::example("readopt", &arguments);
        let started = supervisor.next_line().unwrap();
        let pid = started.strip_prefix("started process ").unwrap();
        let written = std::fs::read_to_string(&id_file).unwrap();
        assert_eq!(written.split(' ').next(), Some(pid));
        supervisor.child.0.kill().unwrap();
        supervisor.wait();

        let mut supervisor = Running::example("readopt", &arguments);
        assert_eq!(
            supervisor.next_line(),
            Some(format!("found process {pid} again"))
        );
        std::fs::write(&stop_file, "").unwrap();
        let exited = supervisor.next_line().unwrap();
        let expected = format!("process {pid} exited with ");
        assert!(exited.starts_with(&expected), "{exited}");
        assert_exit_code(&mut supervisor, &exited, 0);
        assert!(!id_file.exists());

        // Replace the pid in the identity by the pid of another running process. The supervisor
        // must not mistake this process for its daemon.
        let our_pid = std::process::id().to_string();
        std::fs::write(&id_file, written.replacen(pid, &our_pid, 1)).unwrap();
        let mut supervisor = Running::example("readopt", &arguments);
        let started = supervisor.next_line().unwrap();
        assert!(started.starts_with("started process "), "{started}");
        assert_eq!(supervisor.wait(), Some(0));
        std::fs::remove_file(&stop_file).unwrap();
    }

    #[test]
    fn second_supervisor_starts_no_daemon() {
        let id_file = unused_path("one-daemon");
        let arguments = [id_file.to_str().unwrap(), "sleep", "60"];
        let mut first = Running::example("readopt", &arguments);
        let started = first.next_line().unwrap();
        let mut second = Running::example("readopt", &arguments);
        assert_eq!(second.next_line(), None);
        assert_eq!(second.wait(), Some(125));
        let pid = started.strip_prefix("started process ").unwrap();
        support::unix::kill(pid.parse().unwrap(), libc::SIGKILL);
        assert!(first.next_line().unwrap().contains(pid));
        assert_eq!(first.wait(), Some(128 + libc::SIGKILL));
    }

    /// Runs the supervisor. Checks that the supervisor starts no daemon, keeps the file, and says what to do.
    #[track_caller]
    fn assert_starts_nothing(supervisor: &mut Command, id_file: &Path, message: &str) {
        let before = std::fs::read(id_file).unwrap();
        let output = supervisor.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{errors}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        assert!(errors.contains(message), "{errors}");
        assert!(errors.contains("delete the file"), "{errors}");
        assert!(errors.contains(id_file.to_str().unwrap()), "{errors}");
        assert_eq!(std::fs::read(id_file).unwrap(), before);
    }

    #[test]
    fn invalid_identity_file_starts_no_daemon() {
        let id_file = unused_path("no-id");
        for (text, message) in [
            ("1234 5678\n", "not the identity of a process"),
            ("-1", "not the identity of a process"),
            ("", "not the identity of a process"),
            ("0", "0"),
        ] {
            std::fs::write(&id_file, text).unwrap();
            let mut supervisor = support::command(example("readopt"));
            supervisor.arg(&id_file).arg("true");
            assert_starts_nothing(&mut supervisor, &id_file, message);
        }
        std::fs::remove_file(&id_file).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn in_another_container_starts_no_daemon() {
        let container = ["-pf", "--mount-proc"];
        match Command::new("unshare").args(container).arg("true").output() {
            Ok(output) if output.status.success() => {}
            refused => return support::skip(&format!("no pid namespaces: {refused:?}")),
        }
        let id_file = unused_path("elsewhere");
        let arguments = [id_file.to_str().unwrap(), "sleep", "60"];
        let mut supervisor = Running::example("readopt", &arguments);
        let started = supervisor.next_line().unwrap();
        let pid = started.strip_prefix("started process ").unwrap();
        supervisor.child.0.kill().unwrap();
        supervisor.wait();

        let mut elsewhere = Command::new("unshare");
        elsewhere
            .args(container)
            .args(support::runnable(example("readopt")))
            .args([id_file.as_os_str(), "echo".as_ref(), "started".as_ref()]);
        let message = format!("cannot verify the identity of process {pid}");
        assert_starts_nothing(&mut elsewhere, &id_file, &message);

        let mut supervisor = Running::example("readopt", &arguments);
        let found = supervisor.next_line().unwrap();
        assert_eq!(found, format!("found process {pid} again"));
        support::unix::kill(pid.parse().unwrap(), libc::SIGKILL);
        let exited = supervisor.next_line().unwrap();
        assert_exit_code(&mut supervisor, &exited, 128 + libc::SIGKILL);
    }

    #[test]
    fn explains_its_arguments() {
        let run = |arguments: &[&str]| {
            let output = support::command(example("readopt"))
                .args(arguments)
                .output();
            let output = output.unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(text).unwrap())
        };
        let (code, help) = run(&["--help"]);
        assert_eq!(code, Some(0), "{help}");
        for word in ["FILE", "COMMAND", "Exit codes", "delete FILE"] {
            assert!(help.contains(word), "{word}: {help}");
        }
        for arguments in [&[][..], &["file"], &["--unknown", "file", "true"]] {
            let (code, text) = run(arguments);
            assert_eq!(code, Some(2), "{arguments:?}: {text}");
            assert!(text.contains("Usage: readopt"), "{text}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn waits_for_its_daemon_without_a_thread() {
        use support::linux;
        if !linux::seccomp_filters() {
            return support::skip("seccomp filters are not supported");
        }
        let id_file = unused_path("unthreaded");
        let mut command = support::command(example("readopt"));
        command.args([id_file.to_str().unwrap(), "true"]);
        let output = || {
            // Only processes that this thread starts inherit the filter.
            linux::deny_threads();
            command.output().unwrap()
        };
        let output = std::thread::scope(|scope| scope.spawn(output).join().unwrap());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        assert!(!id_file.exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn too_few_descriptors_are_one_clear_line() {
        if support::runnable(example("readopt")).len() > 1 {
            return support::skip("an emulator needs descriptors of its own");
        }
        let id_file = unused_path("descriptors");
        for descriptors in 4..7 {
            let mut command = support::command(example("readopt"));
            command.args([id_file.to_str().unwrap(), "true"]);
            let limit = rlimit::Resource::NOFILE;
            support::linux::limit(&mut command, limit, descriptors, descriptors);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let line =
                "readopt: cannot start the tokio runtime: Too many open files (os error 24)\n";
            assert_eq!(String::from_utf8_lossy(&output.stderr), line);
        }
        assert!(!id_file.exists());
    }

    #[test]
    fn passes_options_to_the_command() {
        let id_file = unused_path("options");
        let arguments = [
            id_file.to_str().unwrap(),
            "sh",
            "-c",
            "read line; exit 3",
            "--help",
        ];
        let mut supervisor = Running::example("readopt", &arguments);
        let started = supervisor.next_line().unwrap();
        assert!(started.starts_with("started process "), "{started}");
        // The daemon has inherited the supervisor's stdin.
        supervisor.write("\n");
        let exited = supervisor.next_line().unwrap();
        assert!(exited.contains(" exited"), "{exited}");
        assert_eq!(supervisor.wait(), Some(3));
    }

    /// Checks the exit code of a supervisor that is not the parent of its daemon.
    #[track_caller]
    fn assert_exit_code(supervisor: &mut Running, exited: &str, expected: i32) {
        let is_known = !exited.ends_with("unknown status");
        assert!(is_known || !support::reaped_status_is_known(), "{exited}");
        let expected = if is_known { expected } else { 255 };
        assert_eq!(supervisor.wait(), Some(expected), "{exited}");
    }

    /// Returns a command that starts the supervisor of a daemon with a pid file.
    fn with_pid_file(pid_file: &Path, id_file: &Path, script: &str) -> Command {
        let mut command = support::command(example("readopt"));
        command.arg("--pid-file").args([pid_file, id_file]);
        command.args(["sh", "-c", script]);
        command
    }

    #[test]
    fn waits_for_a_daemon_that_backgrounds_itself() {
        if let Err(error) = tokio_process_exit::exit_of(std::process::id()).identity() {
            return support::skip(&error.to_string());
        }
        let [pid_file, id_file, stop_file] = ["pid", "id", "stop"].map(unused_path);
        // A file of an earlier daemon, which is not running.
        std::fs::write(&pid_file, "2147483647").unwrap();
        let (pid_path, stop_path) = (pid_file.display(), stop_file.display());
        let daemon = format!(
            "sleep 0.2; echo $$ >{pid_path}; until [ -e {stop_path} ]; do sleep 0.05; done; exit 7"
        );
        // The daemon is not a child of the supervisor: its parent exits at once.
        let script = format!("sh -c '{daemon}' </dev/null >/dev/null 2>&1 &");

        let command = || with_pid_file(&pid_file, &id_file, &script);
        let mut supervisor = Running::start(&mut command());
        let started = supervisor.next_line().unwrap();
        let pid = started.strip_prefix("started process ").unwrap();
        assert_eq!(std::fs::read_to_string(&pid_file).unwrap().trim(), pid);
        supervisor.child.0.kill().unwrap();
        supervisor.wait();

        let mut command = command();
        command.stderr(Stdio::piped());
        let mut supervisor = Running::start(&mut command);
        let found = supervisor.next_line().unwrap();
        assert_eq!(found, format!("found process {pid} again"));
        std::fs::write(&stop_file, "").unwrap();
        let exited = supervisor.next_line().unwrap();
        assert_exit_code(&mut supervisor, &exited, 7);
        assert_eq!(supervisor.stderr(), "");
        // The daemon has left its pid file behind. A later process may get the pid.
        assert!(!pid_file.exists());
        std::fs::remove_file(&stop_file).unwrap();
    }

    /// The file has a part of the pid at first, which is the pid of another process.
    #[test]
    fn reads_a_pid_file_again_that_is_being_written() {
        let process = Child::spawn(0);
        let other = process.id();
        for format in ["%s", "%s\\n", "%s\\nfurther line\\n"] {
            let [pid_file, id_file] = ["partial-pid", "partial-id"].map(unused_path);
            let path = pid_file.display();
            let script = format!(
                "printf {other} >{path}; sleep 0.05; printf '{format}' $$ >{path}; read line; exit 3"
            );
            let mut supervisor = Running::start(&mut with_pid_file(&pid_file, &id_file, &script));
            let started = supervisor.next_line().unwrap();
            assert_ne!(started, format!("started process {other}"));
            let text = std::fs::read_to_string(&pid_file).unwrap();
            let pid = text.lines().next().unwrap();
            assert_eq!(started, format!("started process {pid}"));
            supervisor.write("\n");
            assert!(supervisor.next_line().unwrap().contains(" exited"));
            assert_eq!(supervisor.wait(), Some(3));
            assert!(!pid_file.exists());
        }
    }

    #[test]
    fn a_pid_file_that_is_a_fifo_is_an_error() {
        let [pid_file, id_file] = ["fifo-pid", "fifo-id"].map(unused_path);
        let status = Command::new("mkfifo").arg(&pid_file).status().unwrap();
        assert!(status.success());
        let mut command = with_pid_file(&pid_file, &id_file, "true");
        let mut supervisor = Running::start(command.stderr(Stdio::piped()));
        assert_eq!(supervisor.next_line(), None);
        assert_eq!(supervisor.wait(), Some(125));
        let errors = supervisor.stderr();
        assert!(errors.contains("not a regular file"), "{errors}");
        std::fs::remove_file(&pid_file).unwrap();
    }

    #[test]
    fn adopts_the_process_of_a_bare_pid_with_a_warning() {
        if let Err(error) = tokio_process_exit::exit_of(std::process::id()).identity() {
            return support::skip(&error.to_string());
        }
        let [pid_file, id_file] = ["bare-pid", "bare-id"].map(unused_path);
        for file in [&pid_file, &id_file] {
            let mut daemon = Child::spawn(7);
            let pid = daemon.id();
            std::fs::write(file, format!("{pid}\n")).unwrap();
            let mut command = with_pid_file(&pid_file, &id_file, "echo started");
            let mut supervisor = Running::start(command.stderr(Stdio::piped()));
            let adopted = supervisor.next_line().unwrap();
            assert_eq!(adopted, format!("adopted process {pid}"));
            // From here on, the process is certain.
            let identity = std::fs::read_to_string(&id_file).unwrap();
            let identity: tokio_process_exit::ProcessIdentity = identity.trim().parse().unwrap();
            assert_eq!(identity.pid(), pid);
            daemon.end();
            let exited = supervisor.next_line().unwrap();
            assert!(
                exited.starts_with(&format!("process {pid} exited")),
                "{exited}"
            );
            let is_known = !exited.ends_with("unknown status");
            assert!(is_known || !support::zombie_status_is_known(), "{exited}");
            let expected = if is_known { 7 } else { 255 };
            assert_eq!(supervisor.wait(), Some(expected));
            let errors = supervisor.stderr();
            let path = file.display().to_string();
            assert!(errors.contains("readopt: warning:"), "{errors}");
            assert!(
                errors.contains("not certain") && errors.contains(&path),
                "{errors}"
            );
            daemon.reap();
            assert!(!pid_file.exists());
        }
        assert!(!id_file.exists());
    }

    /// The daemon has exited without deleting its pid file, and another process has got its pid.
    #[test]
    fn does_not_adopt_the_pid_of_an_exited_daemon() {
        let other = Child::spawn(0);
        let identity = match tokio_process_exit::exit_of(std::process::id()).identity() {
            Ok(identity) => identity.to_string(),
            Err(error) => return support::skip(&error.to_string()),
        };
        let [pid_file, id_file] = ["stale-pid", "stale-id"].map(unused_path);
        let pid = other.id().to_string();
        std::fs::write(&pid_file, &pid).unwrap();
        let identity = identity.replacen(&std::process::id().to_string(), &pid, 1);
        std::fs::write(&id_file, identity).unwrap();
        // This daemon stays in the foreground.
        let script = format!("echo $$ > {}; read line; exit 3", pid_file.display());
        let mut supervisor = Running::start(&mut with_pid_file(&pid_file, &id_file, &script));
        let started = supervisor.next_line().unwrap();
        assert!(started.starts_with("started process "), "{started}");
        assert!(!started.ends_with(&format!(" {pid}")), "{started}");
        supervisor.write("\n");
        assert!(supervisor.next_line().unwrap().contains(" exited"));
        assert_eq!(supervisor.wait(), Some(3));
        assert!(!pid_file.exists());
    }

    #[test]
    fn daemon_that_does_not_start_is_an_error() {
        for (script, message) in [
            ("exit 3", "has failed: exit status: 3"),
            ("true", "no pid of a running process after 10s"),
        ] {
            let [pid_file, id_file] = ["failed-pid", "failed-id"].map(unused_path);
            let output = with_pid_file(&pid_file, &id_file, script).output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains(message), "{errors}");
            assert!(!id_file.exists());
        }
    }
}

#[cfg(target_os = "linux")]
mod peer_exit {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn notices_a_client_exit_with_an_open_connection() {
        if support::role().is_some() {
            // This process is the client. A forked child inherits the connection, which stays open.
            let path = std::env::var_os("SOCKET").unwrap();
            let connection = UnixStream::connect(path).unwrap();
            let child = support::unix::fork(|| support::unix::forever());
            println!("{}", child.id());
            std::io::stdin().read_line(&mut String::new()).unwrap();
            drop((child, connection));
            return;
        }
        if !has_peer_pidfd() {
            return support::skip("SO_PEERPIDFD needs Linux 6.5, and emulators do not have it");
        }
        let path = unused_path("socket");
        let mut server = Running::example("peer_exit", &[path.to_str().unwrap()]);
        assert!(server.next_line().unwrap().starts_with("listening"));

        let test = "peer_exit::notices_a_client_exit_with_an_open_connection";
        let mut client = support::command(std::env::current_exe().unwrap());
        client
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("ROLE", "client")
            .env("SOCKET", &path);
        let mut client = Running::start(&mut client);
        let pid = client.child.id();
        assert_eq!(
            server.next_line(),
            Some(format!("process {pid} has connected"))
        );
        client.child.0.kill().unwrap();
        client.child.reap();
        let exited = server.next_line().unwrap();
        let expected = format!("process {pid} exited with ");
        assert!(exited.starts_with(&expected), "{exited}");
        server.child.0.kill().unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn fails_with_a_reason_before_linux_6_5() {
        if has_peer_pidfd() && !support::linux::seccomp_filters() {
            return support::skip("system calls cannot be denied");
        }
        let path = unused_path("old-socket");
        let mut server = support::command(example("peer_exit"));
        server.arg(&path);
        // The program inherits the filter of the thread that starts it.
        let output = std::thread::spawn(move || {
            if support::linux::seccomp_filters() {
                support::linux::deny(libc::SYS_getsockopt, libc::ENOPROTOOPT);
            }
            server.output().unwrap()
        });
        let output = output.join().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("which needs Linux 6.5"), "{error}");
        assert!(!path.exists());
    }

    /// Returns whether this kernel has `SO_PEERPIDFD`.
    fn has_peer_pidfd() -> bool {
        use std::os::fd::AsRawFd;
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut pidfd: libc::c_int = -1;
        let mut size = size_of_val(&pidfd) as libc::socklen_t;
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERPIDFD);
        let (socket, value) = (ours.as_raw_fd(), (&raw mut pidfd).cast());
        // SAFETY: `pidfd` is writable for `size` bytes.
        let result = unsafe { libc::getsockopt(socket, level, option, value, &mut size) };
        if result == 0 {
            drop(support::unix::own(pidfd));
        }
        result == 0
    }
}
