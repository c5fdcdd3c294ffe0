//! A supervisor that finds its daemon again after its own restart.
//!
//! Use this if a daemon must survive a restart of its supervisor. The supervisor starts a command
//! and waits for its exit. If the supervisor is killed, the daemon continues to run. The next
//! supervisor then waits for the running daemon instead of starting a second one.
//!
//! For this, the supervisor writes the daemon's `ProcessIdentity` to a file. A pid alone would not
//! be enough: after a crash or a reboot, another process may have the same pid. If the supervisor
//! cannot know whether the daemon is running, for example in another container, it starts nothing.
//!
//! A daemon may also background itself and write its own pid to a file (`--pid-file`). The supervisor
//! opens that process as soon as it has started the daemon. If the supervisor only finds a pid, for example
//! of a daemon that an init script has started, it adopts the process with a warning. `args.rs` has the
//! arguments, and `files.rs` reads, writes and locks files.
//!
//! You can try the supervisor with:
//!
//! ```console
//! $ cargo run --example readopt -- /tmp/daemon.id sh -c 'sleep 60; exit 7'
//! started process 1234
//! ^C
//! $ cargo run --example readopt -- /tmp/daemon.id sh -c 'sleep 60; exit 7'
//! found process 1234 again
//! process 1234 exited with exit status: 7
//! $ echo $?
//! 7
//! ```
//!
//! `cargo run --example readopt -- --help` explains the arguments and exit codes.
//!
//! To copy this example, copy its three files and add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! tokio = { version = "1", features = ["rt", "time"] }
//! tokio-process-exit = "0.1"
//!
//! [target.'cfg(unix)'.dependencies]
//! libc = "0.2"
//! ```

mod args;
mod files;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::runtime::{self, Runtime};
use tokio::time::sleep;
use tokio_process_exit::{Exit, ProcessExit, ProcessIdentity};

use args::{Args, ERROR, UNKNOWN};
use files::{lock, open_pid, read, read_pid, remove, with_prefix, write_identity};

/// How long a daemon may take to write its pid file.
const START_TIMEOUT: Duration = Duration::from_secs(10);

fn main() {
    let args = Args::parse();
    let result = build_runtime()
        .map_err(|error| with_prefix("cannot start the tokio runtime", &error))
        .and_then(|runtime| runtime.block_on(supervise(&args)));
    // `ExitCode` could not hold every exit code of Windows.
    std::process::exit(match result {
        Ok(exit) => exit_code(exit),
        Err(error) => {
            print_error(format_args!("readopt: {error}"));
            ERROR
        }
    })
}

fn build_runtime() -> io::Result<Runtime> {
    // A runtime takes six descriptors. Check that they are free: with the feature "signal" of tokio,
    // `build` would panic if they are not.
    #[cfg(unix)]
    [(); 3]
        .map(|()| std::os::unix::net::UnixStream::pair())
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    runtime::Builder::new_current_thread().enable_all().build()
}

fn exit_code(exit: Exit) -> i32 {
    let Some(status) = exit.status() else {
        return UNKNOWN;
    };
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128 + signal;
    }
    status.code().unwrap_or(UNKNOWN)
}

/// Finds the running daemon or starts one, and waits for its exit.
async fn supervise(args: &Args) -> io::Result<Exit> {
    let _lock = lock(&args.file)?;
    let found = find(args).await.map_err(|error| {
        let hint = "no daemon was started; once you are sure that none is running, delete the file";
        io::Error::new(error.kind(), format!("{error}\n{hint}"))
    });
    let daemon = match found? {
        Some(daemon) => daemon,
        None => start(args).await?,
    };
    // If the daemon is a child, the system reaps it when this supervisor exits.
    let exit = daemon.await?;
    print(exit);
    remove_files(exit.pid(), args)?;
    Ok(exit)
}

/// Deletes the files of the daemon, which has exited.
fn remove_files(daemon: Option<u32>, args: &Args) -> io::Result<()> {
    if let Some(pid_file) = &args.pid_file {
        // The daemon may have left its pid in the file. A later process may get the pid, and the next
        // supervisor would adopt this process.
        let is_stale = matches!(read_pid(pid_file), Ok(Some(pid)) if Some(pid) == daemon);
        if is_stale && remove(pid_file).is_err() {
            // Keep the identity: it shows the next supervisor that the daemon has exited.
            return Ok(());
        }
    }
    remove(&args.file)
}

/// Opens the running daemon. Returns `None` if no daemon is running.
async fn find(args: &Args) -> io::Result<Option<ProcessExit>> {
    let mut exited = None;
    if let Some(line) = read(&args.file)? {
        let line = line.trim();
        let (pid, daemon) = match line.parse::<u32>() {
            Ok(pid) => (pid, adopt(&args.file, args, None).await?),
            Err(_) => {
                find_identity(line).map_err(|error| with_prefix(args.file.display(), &error))?
            }
        };
        if daemon.is_some() {
            return Ok(daemon);
        }
        exited = Some(pid);
    }
    match &args.pid_file {
        // If the pid is that of the exited daemon, the daemon has left the file behind.
        Some(pid_file) => adopt(pid_file, args, exited).await,
        None => Ok(None),
    }
}

/// Opens the daemon with this identity, which is `None` if the daemon has exited. Also returns its pid.
fn find_identity(line: &str) -> io::Result<(u32, Option<ProcessExit>)> {
    let identity: ProcessIdentity = line.parse().map_err(io::Error::other)?;
    // After an error the daemon may be running, so do not start a second daemon. `Unsupported` means
    // that this cannot be known here: the file is from another container or system.
    let daemon = identity.find()?;
    if daemon.is_some() {
        print(format_args!("found process {} again", identity.pid()));
    }
    Ok((identity.pid(), daemon))
}

/// Opens the process whose pid is in the file, which may or may not be the daemon. Returns `None` if there is
/// none, or if it has the pid of the `exited` daemon.
async fn adopt(file: &Path, args: &Args, exited: Option<u32>) -> io::Result<Option<ProcessExit>> {
    // After the restart of a container, this supervisor itself may have got the pid of the daemon.
    let is_stale = |pid| pid == std::process::id() || Some(pid) == exited;
    let Some((pid, daemon)) = open_pid(file, is_stale).await? else {
        return Ok(None);
    };
    write_identity(&args.file, &daemon)?;
    print(format_args!("adopted process {pid}"));
    print_error(format_args!(
        "readopt: warning: {} contains only a pid: it is not certain that process {pid} is the daemon",
        file.display()
    ));
    Ok(Some(daemon))
}

/// Starts the daemon and writes its identity to the file.
async fn start(args: &Args) -> io::Result<ProcessExit> {
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    // Use a new process group, so that Ctrl-C in the terminal does not stop the daemon too.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if let Some(pid_file) = &args.pid_file {
        // The pid of an earlier daemon must not be taken for the pid of this daemon.
        remove(pid_file)?;
    }
    let mut child = command
        .spawn()
        .map_err(|error| with_prefix(args.command[0].to_string_lossy(), &error))?;
    let mut daemon = match &args.pid_file {
        Some(pid_file) => backgrounded(&mut child, pid_file).await?,
        None => ProcessExit::from(&child),
    };
    let pid = daemon.pid().unwrap_or_default();
    if pid != child.id() {
        // Reap the command on a thread. Do not reap the daemon: its exit status is known until then.
        let _ = std::thread::Builder::new().spawn(move || child.wait());
    }
    if let Err(error) = write_identity(&args.file, &daemon) {
        // Kill the daemon: without the file, the next supervisor would start a second one.
        daemon.stop(Duration::ZERO).await?;
        return Err(error);
    }
    print(format_args!("started process {pid}"));
    Ok(daemon)
}

/// Waits until a daemon that backgrounds itself has written its pid, and opens its process.
async fn backgrounded(command: &mut Child, pid_file: &Path) -> io::Result<ProcessExit> {
    let start = Instant::now();
    while start.elapsed() < START_TIMEOUT {
        if let Some((_, daemon)) = open_pid(pid_file, |_| false).await? {
            return Ok(daemon);
        }
        match command.try_wait()? {
            Some(status) if !status.success() => {
                let reason = format!("the command that starts the daemon has failed: {status}");
                return Err(io::Error::other(reason));
            }
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
    let reason = format!("no pid of a running process after {START_TIMEOUT:?}");
    let error = io::Error::new(io::ErrorKind::TimedOut, reason);
    Err(with_prefix(pid_file.display(), &error))
}

/// Prints a line on stdout.
///
/// Unlike `println!`, this does not panic if stdout is closed.
fn print(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints a line on stderr.
///
/// Unlike `eprintln!`, this does not panic if stderr is closed.
fn print_error(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
