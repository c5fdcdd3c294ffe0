//! What the smaller examples promise, tried on the built programs.

#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use support::unix::Grandchild;
use support::{Child, example};

/// Nothing below takes long. This only makes a hang a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// A program that runs, and its output.
struct Running {
    child: Child,
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

    /// The next line. `None`: it has ended.
    #[track_caller]
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line after {DEADLINE:?}"),
        }
    }

    fn say(&mut self, line: &str) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
    }

    /// The exit code, once it has ended by itself.
    fn end(&mut self) -> Option<i32> {
        self.child.until_exited();
        self.child.reap().code()
    }
}

/// A name that is free.
fn file(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    file
}

mod exit_with_parent {
    use super::*;

    /// A shell that does something with the server.
    fn shell(script: &str) -> Running {
        let words = support::runnable(example("exit_with_parent"));
        let words = words
            .iter()
            .map(|word| format!("'{}'", word.to_str().unwrap()));
        let server = words.collect::<Vec<_>>().join(" ");
        Running::start(&mut support::shell(&script.replace("SERVER", &server)))
    }

    #[test]
    fn it_ends_with_its_editor_although_its_input_stays_open() {
        let mut editor = Grandchild::spawn();
        let mut server = Running::example("exit_with_parent", &[&editor.id().to_string()]);
        server.say("hello\n");
        assert_eq!(server.line().as_deref(), Some("HELLO"));
        editor.end(0);
        assert_eq!(server.end(), Some(0));
    }

    #[test]
    fn it_ends_with_its_parent_if_nothing_else_is_said() {
        let mut parent = shell("exec 3<&0; SERVER <&3 & wait");
        parent.say("hello\n");
        assert_eq!(parent.line().as_deref(), Some("HELLO"));
        parent.child.0.kill().unwrap();
        // The output ends when both have, and the input is still ours to write.
        assert_eq!(parent.line(), None);
        let _input = parent.child.0.stdin.take().unwrap();
    }

    #[test]
    fn it_ends_although_nobody_reads_what_it_says() {
        let mut editor = Grandchild::spawn();
        let mut command = support::command(example("exit_with_parent"));
        let (read, write) = support::unix::pipe();
        command.arg(editor.id().to_string()).stderr(write);
        let mut server = Running::start(&mut command);
        server.say("hello\n");
        assert_eq!(server.line().as_deref(), Some("HELLO"));
        drop((read, command));
        editor.end(0);
        assert_eq!(server.end(), Some(0));
    }

    #[test]
    fn it_serves_on_if_the_editor_is_said_to_be_itself() {
        let mut server = shell("exec SERVER $$");
        server.say("hello\n");
        assert_eq!(server.line().as_deref(), Some("HELLO"));
        drop(server.child.0.stdin.take());
        assert_eq!(server.end(), Some(0));
    }

    #[test]
    fn it_serves_on_if_there_is_no_editor() {
        // No process, and the one that outlives all.
        for pid in ["0", "1"] {
            let mut server = Running::example("exit_with_parent", &[pid]);
            server.say("hello\n");
            assert_eq!(server.line().as_deref(), Some("HELLO"));
            drop(server.child.0.stdin.take());
            assert_eq!(server.end(), Some(0));
        }
    }

    #[test]
    fn it_does_not_start_for_an_editor_that_is_gone() {
        let mut server = Running::example("exit_with_parent", &["2147483647"]);
        assert_eq!(server.end(), Some(1));
    }
}

mod readopt {
    use super::*;

    #[test]
    fn a_daemon_outlives_its_supervisor_and_is_found_again_but_no_stranger() {
        if let Err(error) = tokio_process_exit::exit_of(std::process::id()).identity() {
            return support::skip(&error.to_string());
        }
        let (id, end) = (file("daemon"), file("end"));
        let daemon = format!("until [ -e '{}' ]; do sleep 0.05; done", end.display());
        let arguments = [id.to_str().unwrap(), "sh", "-c", &daemon];

        let mut supervisor = Running::example("readopt", &arguments);
        let started = supervisor.line().unwrap();
        let pid = started.strip_prefix("started process ").unwrap();
        let written = std::fs::read_to_string(&id).unwrap();
        assert_eq!(written.split(' ').next(), Some(pid));
        supervisor.child.0.kill().unwrap();
        supervisor.end();

        let mut supervisor = Running::example("readopt", &arguments);
        assert_eq!(
            supervisor.line(),
            Some(format!("found process {pid} again"))
        );
        std::fs::write(&end, "").unwrap();
        let exited = supervisor.line().unwrap();
        let expected = format!("process {pid} exited with ");
        assert!(exited.starts_with(&expected), "{exited}");
        assert_eq!(supervisor.end(), Some(0));
        assert!(!id.exists());

        // The pid of one that certainly runs, and is not it.
        let me = std::process::id().to_string();
        std::fs::write(&id, written.replacen(pid, &me, 1)).unwrap();
        let mut supervisor = Running::example("readopt", &arguments);
        let started = supervisor.line().unwrap();
        assert!(started.starts_with("started process "), "{started}");
        assert_eq!(supervisor.end(), Some(0));
        std::fs::remove_file(&end).unwrap();
    }

    #[test]
    fn two_supervisors_do_not_both_start_a_daemon() {
        let id = file("one-daemon");
        let arguments = [id.to_str().unwrap(), "sleep", "60"];
        let mut first = Running::example("readopt", &arguments);
        let started = first.line().unwrap();
        let mut second = Running::example("readopt", &arguments);
        assert_eq!(second.line(), None);
        assert_eq!(second.end(), Some(1));
        let pid = started.strip_prefix("started process ").unwrap();
        support::unix::kill(pid.parse().unwrap(), libc::SIGKILL);
        assert!(first.line().unwrap().contains(pid));
        assert_eq!(first.end(), Some(0));
    }

    #[test]
    fn a_file_that_tells_of_no_process_starts_nothing() {
        let id = file("no-id");
        std::fs::write(&id, "1234\n").unwrap();
        let mut supervisor = Running::example("readopt", &[id.to_str().unwrap(), "true"]);
        assert_eq!(supervisor.line(), None);
        assert_eq!(supervisor.end(), Some(1));
        assert_eq!(std::fs::read_to_string(&id).unwrap(), "1234\n");
        std::fs::remove_file(&id).unwrap();
    }
}

#[cfg(target_os = "linux")]
mod peer_exit {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_death_of_a_client_is_noticed_although_its_connection_stays_open() {
        if support::role().is_some() {
            // The client. What it has opened is left to its child.
            let path = std::env::var_os("SOCKET").unwrap();
            let connection = UnixStream::connect(path).unwrap();
            let parent = support::unix::fork(|| support::unix::forever());
            println!("{}", parent.id());
            std::io::stdin().read_line(&mut String::new()).unwrap();
            drop((parent, connection));
            return;
        }
        if !knows_its_peer() {
            return support::skip("no SO_PEERPIDFD before Linux 6.5, nor in emulators");
        }
        let path = file("socket");
        let mut server = Running::example("peer_exit", &[path.to_str().unwrap()]);
        assert!(server.line().unwrap().starts_with("listening"));

        let test = "peer_exit::the_death_of_a_client_is_noticed_although_its_connection_stays_open";
        let mut client = support::command(std::env::current_exe().unwrap());
        client
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("ROLE", "client")
            .env("SOCKET", &path);
        let mut client = Running::start(&mut client);
        let pid = client.child.id();
        assert_eq!(server.line(), Some(format!("process {pid} has connected")));
        client.child.0.kill().unwrap();
        client.child.reap();
        let exited = server.line().unwrap();
        let expected = format!("process {pid} exited with ");
        assert!(exited.starts_with(&expected), "{exited}");
        server.child.0.kill().unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    fn knows_its_peer() -> bool {
        use std::os::fd::AsRawFd;
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut pidfd: libc::c_int = -1;
        let mut size = size_of_val(&pidfd) as libc::socklen_t;
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERPIDFD);
        let (socket, value) = (ours.as_raw_fd(), (&raw mut pidfd).cast());
        // SAFETY: room for a descriptor, and its size.
        let result = unsafe { libc::getsockopt(socket, level, option, value, &mut size) };
        if result == 0 {
            drop(support::unix::own(pidfd));
        }
        result == 0
    }
}
