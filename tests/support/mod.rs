//! Helpers that the tests share: real processes, deadlines, and reruns of a test in a new process.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses only some of the helpers"
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

/// Starts `size` processes that sleep until they are killed.
#[cfg(windows)]
pub fn many(size: usize) -> Vec<Sleeper> {
    (0..size).map(|_| Child::spawn(0)).collect()
}

/// Returns `size`, but at most 100 on Windows: starting more processes takes minutes there.
pub fn at_most(size: usize) -> usize {
    if cfg!(unix) { size } else { size.min(100) }
}

/// Returns how long [`deadline`] and [`until`] wait before they fail: 20 s, which is far more than even a
/// slow machine needs.
pub fn max_wait() -> Duration {
    scaled(Duration::from_secs(20))
}

/// Returns a deadline times the integer in `TEST_DEADLINE_FACTOR`, which an emulated machine needs.
pub fn scaled(deadline: Duration) -> Duration {
    static FACTOR: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| match std::env::var("TEST_DEADLINE_FACTOR") {
            Ok(factor) => factor.parse().expect("TEST_DEADLINE_FACTOR is an integer"),
            Err(_) => 1,
        });
    deadline * *FACTOR
}

/// Awaits a future that must resolve. Panics after [`max_wait`].
#[track_caller]
pub fn deadline<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(max_wait(), future)
            .await
            .unwrap_or_else(|_| panic!("still waiting after {:?} at {caller}", max_wait()))
    }
}

/// Awaits a future that must not resolve. Panics if the future resolves within 150 ms.
#[track_caller]
pub fn still_pending<F: Future>(future: F) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let patience = Duration::from_millis(150);
        let elapsed = tokio::time::timeout(patience, future).await;
        assert!(elapsed.is_err(), "resolved too early at {caller}");
    }
}

/// Returns a runtime of each flavour.
pub fn runtimes() -> [tokio::runtime::Runtime; 2] {
    use tokio::runtime::Builder;
    let mut multi_thread = Builder::new_multi_thread();
    multi_thread.worker_threads(2);
    [Builder::new_current_thread(), multi_thread]
        .map(|mut builder| builder.enable_all().build().unwrap())
}

/// Asserts that a wait stays pending in each of these runtimes, and again in each.
pub fn stays_pending_in_turns<F: Future + Unpin>(
    runtimes: &[tokio::runtime::Runtime],
    wait: &mut F,
) {
    for runtime in runtimes.iter().chain(runtimes) {
        runtime.block_on(async {
            for _ in 0..3 {
                let timeout = tokio::time::timeout(Duration::from_millis(10), &mut *wait);
                assert!(timeout.await.is_err());
            }
        });
    }
}

/// Polls a future once, with any number of operations in this poll. Returns its output if it is ready.
pub fn poll_once<F: Future + Unpin>(future: F) -> Option<F::Output> {
    futures::FutureExt::now_or_never(tokio::task::unconstrained(future))
}

/// Returns a future that resolves only if its first poll does: its deadline has passed long ago.
pub fn expired<F: Future>(future: F) -> tokio::time::Timeout<F> {
    tokio::time::timeout_at(tokio::time::Instant::now() - Duration::from_secs(1), future)
}

/// Blocks until a condition is true. Panics with its description after [`max_wait`].
#[track_caller]
pub fn until(description: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < max_wait(),
            "timed out after {:?}: {description}",
            max_wait()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reports that a test, or a part of a test, cannot run here.
pub fn skip(why: &str) {
    // Write to stderr directly: the test harness would capture the output of `eprintln!`.
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// A child of this process, which exits at [`Child::end`]. Dropping the child kills and reaps it.
pub struct Child(pub std::process::Child);

/// Returns a command that runs a script in the system's shell.
pub fn shell(script: &str) -> Command {
    #[cfg(unix)]
    let (shell, option) = ("sh", "-c");
    #[cfg(windows)]
    let (shell, option) = ("cmd", "/c");
    let mut command = Command::new(shell);
    command.arg(option);
    #[cfg(unix)]
    command.arg(script);
    // Pass the script as it is: `cmd` does not understand the quotes that `arg` adds.
    #[cfg(windows)]
    std::os::windows::process::CommandExt::raw_arg(&mut command, script);
    command
}

/// Returns a command that reads a line from its standard input and exits with `code`.
fn exit_after_line(code: u8) -> Command {
    let read = if cfg!(unix) {
        "read line;"
    } else {
        "set /p line= &"
    };
    shell(&format!("{read} exit {code}"))
}

impl Child {
    /// Starts a child that exits with `code` at [`Child::end`].
    pub fn spawn(code: u8) -> Child {
        Child::spawn_command(&mut exit_after_line(code))
    }

    /// Starts a child. The command must exit by itself or after a line on its standard input.
    pub fn spawn_command(command: &mut Command) -> Child {
        command.stdin(Stdio::piped());
        // Once many processes have been started, Wine sometimes fails with ERROR_INTERNAL_ERROR.
        let is_transient =
            |error: &std::io::Error| cfg!(windows) && error.raw_os_error() == Some(1359);
        let mut tries = 0;
        loop {
            match command.spawn() {
                Err(error) if is_transient(&error) && tries < 100 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                spawned => return Child(spawned.expect("the command can be started")),
            }
        }
    }

    /// Returns a child that has exited with `code` and has not been reaped.
    pub fn zombie(code: u8) -> Child {
        let mut child = Child::spawn(code);
        child.end();
        child.until_exited();
        child
    }

    /// Blocks until the child has exited. On Unix, the child is not reaped.
    pub fn until_exited(&mut self) {
        #[cfg(unix)]
        until("the child is a zombie", || unix::is_zombie(self.id()));
        // Windows has no zombies.
        #[cfg(windows)]
        until("the child has exited", || {
            self.0.try_wait().expect("our own child").is_some()
        });
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Makes the child exit, by writing a line to its standard input.
    pub fn end(&mut self) {
        // Do not merely close the pipe: another fork of this process may still hold it open.
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
    }

    /// Kills the child and blocks until it has exited. On Unix, the child is not reaped.
    pub fn kill(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.until_exited();
    }

    /// Makes the child exit, reaps it and returns its status.
    pub fn reap(&mut self) -> ExitStatus {
        self.end();
        self.0.wait().expect("the child has not been reaped")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Blocks until a reaped process can no longer be opened by its pid.
///
/// Rests on the other programs of a Windows system: a handle that one of them keeps also keeps the pid. On
/// every system it rests on the pid, which must not be reused before the check.
pub fn until_pid_is_free(pid: u32) {
    until("the pid cannot be opened", || {
        tokio_process_exit::ProcessExit::open(pid).is_err()
    });
}

/// Returns whether this build polls all processes, without events from the kernel.
pub fn poll_forced() -> bool {
    cfg!(tokio_process_exit_force_poll)
}

/// Returns the command line of a program of this target, which starts with the emulator in
/// `TEST_RUNNER` if there is one.
pub fn runnable(program: std::path::PathBuf) -> Vec<std::ffi::OsString> {
    std::env::var_os("TEST_RUNNER")
        .into_iter()
        .chain([program.into_os_string()])
        .collect()
}

/// Returns a command that starts a program of this target, in the emulator if there is one.
pub fn command(program: std::path::PathBuf) -> Command {
    let words = runnable(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Returns the path of an example that cargo has built along with the tests.
pub fn example(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/pwait-0123456789abcdef
    let name_of_file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let examples = test.ancestors().nth(2).unwrap().join("examples");
    let example = examples.join(name_of_file);
    assert!(
        example.exists(),
        "{} has not been built: run `cargo test`, or `cargo build --example {name}`",
        example.display()
    );
    example
}

/// Runs one test of this binary again, in a new process that has `ROLE` set.
///
/// The test must check [`role`] first. `prepare` may change the command.
pub fn rerun(test: &str, role: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let binary = std::env::current_exe().expect("the path of this binary");
    let mut command = command(binary);
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("ROLE", role);
    prepare(&mut command);
    command.output().expect("this binary can be started")
}

/// Returns whether this process was started to run only `test`.
///
/// If not, runs `test` in a new process and asserts that the test passes there.
#[track_caller]
pub fn has_own_process(test: &str) -> bool {
    let has_own_process = role().is_some();
    if !has_own_process {
        assert_passed(&rerun(test, "alone", |_| {}));
    }
    has_own_process
}

/// Returns the role that [`rerun`] gave to this process. `None` in the original process.
pub fn role() -> Option<String> {
    std::env::var("ROLE").ok()
}

/// Panics with the output of a [`rerun`] unless its test has passed. Repeats its `skipped:` lines.
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

/// Returns whether the status of another parent's zombie is known if our user owns the zombie.
pub fn zombie_status_is_known() -> bool {
    #[cfg(target_os = "linux")]
    return linux::stat_shows_status();
    #[cfg(not(target_os = "linux"))]
    return cfg!(any(windows, target_os = "freebsd"));
}

/// Returns whether the status of a process is known even if it was reaped before the first query.
///
/// A kqueue's exit event contains this status.
pub fn reaped_status_is_known() -> bool {
    #[cfg(target_os = "linux")]
    return linux::pidfd_reports_status();
    #[cfg(not(target_os = "linux"))]
    return cfg!(windows) || !poll_forced();
}

/// Returns the open descriptors of this process on Unix, and the number of its handles on Windows.
pub fn open_handles() -> impl PartialEq + std::fmt::Debug {
    #[cfg(target_os = "linux")]
    return linux::open_fds();
    #[cfg(all(unix, not(target_os = "linux")))]
    return unix::open_fds();
    #[cfg(windows)]
    return windows::handle_count();
}

/// Returns the system's id of the calling thread.
#[cfg(any(target_os = "linux", windows))]
pub fn thread_id() -> u32 {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes no arguments.
    return unsafe { libc::gettid() } as u32;
    #[cfg(windows)]
    // SAFETY: the call takes no arguments.
    return unsafe { windows_sys::Win32::System::Threading::GetCurrentThreadId() };
}
