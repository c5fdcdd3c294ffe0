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
//! You can try the supervisor with:
//!
//! ```console
//! $ cargo run --example readopt -- /tmp/daemon.id sleep 60
//! started process 1234
//! ^C
//! $ cargo run --example readopt -- /tmp/daemon.id sleep 60
//! found process 1234 again
//! process 1234 exited with exit status: 0
//! ```
//!
//! `cargo run --example readopt -- --help` explains the arguments and exit codes.
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! tokio = { version = "1", features = ["rt"] }
//! tokio-process-exit = "0.1"
//!
//! [target.'cfg(unix)'.dependencies]
//! libc = "0.2"
//! ```

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use tokio::runtime::{self, Runtime};
use tokio_process_exit::{ProcessExit, ProcessIdentity};

/// Start a daemon, or find it running, and wait for its exit
#[derive(Parser)]
#[command(name = "readopt", after_help = AFTER_HELP)]
struct Args {
    /// File with the identity of the running daemon; FILE.lock is locked against other supervisors
    file: PathBuf,

    /// Command that starts the daemon, unless the daemon in FILE is running
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    The daemon has exited, with any exit status
  1    An error was printed on stderr; no daemon was started, or it was stopped again
  2    The command line is invalid

If the supervisor is killed, the daemon continues to run. Start the supervisor again to find it.
If readopt cannot know whether the daemon in FILE is running, it starts nothing. Make sure that
the daemon is not running, and delete FILE.

Keep FILE where a container that restarts does not find it again, for example in a tmpfs.

Example:
  readopt /run/daemon.id sleep 60";

fn main() -> ExitCode {
    let args = Args::parse();
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    let result = match build_runtime() {
        Ok(runtime) => runtime.block_on(supervise(&args.file, command)),
        Err(error) => {
            let message = format!("cannot start the tokio runtime: {error}");
            Err(io::Error::new(error.kind(), message))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(format_args!("readopt: {error}"));
            ExitCode::FAILURE
        }
    }
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

/// Finds the running daemon or starts one, and waits for its exit.
async fn supervise(file: &Path, command: Command) -> io::Result<()> {
    let _lock = lock(&with_suffix(file, ".lock"))?;
    let found = find(file).map_err(|error| {
        let hint = "no daemon was started; once you are sure that none is running, delete the file";
        with_path(
            file,
            &io::Error::new(error.kind(), format!("{error}\n{hint}")),
        )
    });
    let daemon = match found? {
        Some(daemon) => daemon,
        None => start(file, command)?,
    };
    print(daemon.await?);
    fs::remove_file(file).map_err(|error| with_path(file, &error))
}

/// Opens the daemon whose identity is in the file. Returns `None` if it has exited.
fn find(file: &Path) -> io::Result<Option<ProcessExit>> {
    let line = match fs::read_to_string(file) {
        Ok(line) => line,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let identity: ProcessIdentity = line.parse().map_err(io::Error::other)?;
    match identity.open() {
        Ok(daemon) => {
            print(format_args!("found process {} again", identity.pid()));
            Ok(Some(daemon))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // After any other error the daemon may be running, so do not start a second daemon. `Unsupported`
        // means that this cannot be known here: the file is from another container or system.
        Err(error) => Err(error),
    }
}

/// Starts the daemon and writes its identity to the file.
fn start(file: &Path, mut command: Command) -> io::Result<ProcessExit> {
    // Use a new process group, so that Ctrl-C in the terminal does not stop the daemon too.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .spawn()
        .map_err(|error| with_path(&program, &error))?;
    let (pid, daemon) = (child.id(), ProcessExit::from(&child));
    let written = daemon
        .identity()
        .and_then(|identity| write_identity(file, identity));
    if let Err(error) = written {
        // Stop the daemon: without the file, the next supervisor would start a second one.
        child.kill()?;
        child.wait()?;
        return Err(with_path(file, &error));
    }
    print(format_args!("started process {pid}"));
    // Reap the daemon on a thread, because awaiting a `ProcessExit` does not reap the process. If the
    // system refuses a thread, the daemon is reaped when this supervisor exits.
    let _ = std::thread::Builder::new().spawn(move || child.wait());
    Ok(daemon)
}

/// Writes the identity to the file atomically, so that the file never holds a part of a line.
fn write_identity(file: &Path, identity: ProcessIdentity) -> io::Result<()> {
    let new = with_suffix(file, ".new");
    fs::write(&new, format!("{identity}\n"))?;
    fs::rename(&new, file)
}

/// Locks a file against other supervisors.
///
/// The lock is held until the returned file is closed. The system closes the file when this process
/// exits.
fn lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    // On Windows, the lock consists in opening the file without sharing.
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0);
    let file = options
        .open(path)
        .map_err(|error| with_path(path, &error))?;
    #[cfg(unix)]
    {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: `flock` takes two integers, and accesses no memory of this process.
        if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            let error = match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("another supervisor is running"),
                _ => error,
            };
            return Err(with_path(path, &error));
        }
    }
    Ok(file)
}

/// Returns the path with a suffix appended to the file name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Returns the error with the path in front of its message.
fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
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
