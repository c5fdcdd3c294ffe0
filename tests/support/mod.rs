//! Real processes for the tests: children, and processes that are not ours.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::future::Future;
use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

#[cfg(target_os = "linux")]
pub mod linux;

/// What the slowest machine needs by far. A test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits what must come to pass.
#[track_caller]
pub fn deadline<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(DEADLINE, future)
            .await
            .unwrap_or_else(|_| panic!("still waiting after {DEADLINE:?} at {caller}"))
    }
}

/// Awaits a little while what must not come to pass.
#[track_caller]
pub fn still_pending<F: Future>(future: F) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let patience = Duration::from_millis(150);
        let elapsed = tokio::time::timeout(patience, future).await;
        assert!(elapsed.is_err(), "resolved too early at {caller}");
    }
}

/// Waits, blocking, for a condition that must come about.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: not so after {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says that a test, or a part of it, cannot run here.
pub fn skip(why: &str) {
    // Straight to the terminal, past the capture of the test harness.
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// Our own child, which exits when told. Killed and reaped when dropped.
pub struct Child(pub std::process::Child);

impl Child {
    /// A child that will exit with `code`.
    pub fn spawn(code: u8) -> Child {
        let script = format!("read line; exit {code}");
        Child::spawn_command(Command::new("sh").args(["-c", &script]))
    }

    /// A child that exits by itself, or at a line on its standard input.
    pub fn spawn_command(command: &mut Command) -> Child {
        Child(command.stdin(Stdio::piped()).spawn().expect("sh starts"))
    }

    /// A child that has exited with `code` and has not been reaped.
    pub fn zombie(code: u8) -> Child {
        let mut child = Child::spawn(code);
        child.end();
        #[cfg(target_os = "linux")]
        until("a zombie", || linux::state_of(child.id()) == Some('Z'));
        child
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Tells it to exit.
    pub fn end(&mut self) {
        // A line rather than the end of the pipe, which a fork of this process would hold up.
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
    }

    pub fn kill(&mut self) {
        self.0.kill().expect("a child can be killed");
    }

    pub fn reap(&mut self) -> ExitStatus {
        self.end();
        self.0.wait().expect("its status was left to us")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this build never asks the kernel for events.
pub fn poll_forced() -> bool {
    cfg!(tokio_process_exit_force_poll)
}

/// An example that cargo has built along with the tests.
pub fn example(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/pwait-0123456789abcdef
    let example = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        example.exists(),
        "{} has not been built: `cargo test` does, and `cargo build --example {name}`",
        example.display()
    );
    example
}
