//! Real processes for the tests: children, and processes that are not ours.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses a part of it"
)]

use std::future::Future;
use std::io::Write;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod trap;
#[cfg(unix)]
pub mod unix;
#[cfg(windows)]
pub mod windows;

#[cfg(unix)]
pub use unix::{Forked as Sleeper, many};
/// A process that sleeps until it is killed.
#[cfg(windows)]
pub type Sleeper = Child;

/// Processes that sleep until they are killed, as cheap as they come.
#[cfg(windows)]
pub fn many(size: usize) -> Vec<Sleeper> {
    (0..size).map(|_| Child::spawn(0)).collect()
}

/// As many processes as a test wants, or as many as it takes no minutes to start.
pub fn at_most(size: usize) -> usize {
    if cfg!(unix) { size } else { size.min(100) }
}

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

/// A shell that runs a script.
pub fn shell(script: &str) -> Command {
    #[cfg(unix)]
    let (shell, option) = ("sh", "-c");
    #[cfg(windows)]
    let (shell, option) = ("cmd", "/c");
    let mut command = Command::new(shell);
    command.arg(option);
    #[cfg(unix)]
    command.arg(script);
    // It has rules of its own for quotes.
    #[cfg(windows)]
    std::os::windows::process::CommandExt::raw_arg(&mut command, script);
    command
}

/// A shell that reads a line, and exits with `code`.
pub fn obedient_shell(code: u8) -> Command {
    let read = if cfg!(unix) {
        "read line;"
    } else {
        "set /p line= &"
    };
    shell(&format!("{read} exit {code}"))
}

impl Child {
    /// A child that will exit with `code`.
    pub fn spawn(code: u8) -> Child {
        Child::spawn_command(&mut obedient_shell(code))
    }

    /// A child that exits by itself, or at a line on its standard input.
    pub fn spawn_command(command: &mut Command) -> Child {
        command.stdin(Stdio::piped());
        // Wine is out of something in passing, where many have been started: ERROR_INTERNAL_ERROR.
        let is_passing =
            |error: &std::io::Error| cfg!(windows) && error.raw_os_error() == Some(1359);
        let mut tries = 0;
        loop {
            match command.spawn() {
                Err(error) if is_passing(&error) && tries < 100 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                spawned => return Child(spawned.expect("it starts")),
            }
        }
    }

    /// A child that has exited with `code` and has not been reaped.
    pub fn zombie(code: u8) -> Child {
        let mut child = Child::spawn(code);
        child.end();
        child.until_exited();
        child
    }

    /// Waits, blocking, until it has exited. It is left to be reaped.
    pub fn until_exited(&mut self) {
        #[cfg(unix)]
        until("a zombie", || unix::is_zombie(self.id()));
        // There are no zombies.
        #[cfg(windows)]
        until("an exit", || self.0.try_wait().expect("ours").is_some());
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

    /// Has it exited, when this returns. It is left to be reaped.
    pub fn kill(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.until_exited();
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

/// Waits until a process that has been reaped cannot be opened any more.
pub fn until_forgotten(pid: u32) {
    until("nothing to open", || {
        tokio_process_exit::ProcessExit::open(pid).is_err()
    });
}

/// Whether this build never asks the kernel for events.
pub fn poll_forced() -> bool {
    cfg!(tokio_process_exit_force_poll)
}

/// What starts a program of this target: it alone, or after what `TEST_RUNNER` names, an emulator.
pub fn runnable(program: std::path::PathBuf) -> Vec<std::ffi::OsString> {
    std::env::var_os("TEST_RUNNER")
        .into_iter()
        .chain([program.into_os_string()])
        .collect()
}

/// A command that starts a program of this target.
pub fn command(program: std::path::PathBuf) -> Command {
    let words = runnable(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// An example that cargo has built along with the tests.
pub fn example(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/pwait-0123456789abcdef
    let name_of_file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let examples = test.ancestors().nth(2).unwrap().join("examples");
    let example = examples.join(name_of_file);
    assert!(
        example.exists(),
        "{} has not been built: `cargo test` does, and `cargo build --example {name}`",
        example.display()
    );
    example
}

/// Runs one test of this binary again in a process of its own, with `ROLE` set, as `prepare` says.
///
/// The test looks at [`role`] first.
pub fn rerun(test: &str, role: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let binary = std::env::current_exe().expect("this binary");
    let mut command = command(binary);
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("ROLE", role);
    prepare(&mut command);
    command.output().expect("this binary starts again")
}

pub fn role() -> Option<String> {
    std::env::var("ROLE").ok()
}

/// Fails with what the other process said.
#[track_caller]
pub fn assert_passed(output: &Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{}\n--- stdout\n{out}\n--- stderr\n{err}",
        output.status,
    );
    for line in err.lines().filter(|line| line.starts_with("skipped:")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Whether the status of a zombie is told that is another parent's, and our user's.
pub fn tells_the_status_of_zombies() -> bool {
    #[cfg(target_os = "linux")]
    return linux::stat_tells_the_status();
    #[cfg(not(target_os = "linux"))]
    return cfg!(any(windows, target_os = "freebsd"));
}

/// Whether the status of a process that has been reaped is told, be it after its event.
pub fn tells_the_status_of_reaped() -> bool {
    #[cfg(target_os = "linux")]
    return linux::pidfd_tells_the_status();
    #[cfg(not(target_os = "linux"))]
    return cfg!(windows) || !poll_forced();
}

/// What this process has open: descriptors by name, or the number of handles.
pub fn open_handles() -> impl PartialEq + std::fmt::Debug {
    #[cfg(target_os = "linux")]
    return linux::open_fds();
    #[cfg(all(unix, not(target_os = "linux")))]
    return unix::open_fds();
    #[cfg(windows)]
    return windows::handle_count();
}

/// The number that the system gives to this thread.
#[cfg(any(target_os = "linux", windows))]
pub fn thread_id() -> u32 {
    #[cfg(target_os = "linux")]
    // SAFETY: takes nothing.
    return unsafe { libc::gettid() } as u32;
    #[cfg(windows)]
    // SAFETY: takes nothing.
    return unsafe { windows_sys::Win32::System::Threading::GetCurrentThreadId() };
}
