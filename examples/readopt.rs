//! A supervisor of one daemon, which it finds again when it is restarted itself.
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
//! The file has the daemon's [`ProcessIdentity`], so that after a crash or a reboot no stranger is taken
//! for the daemon because it has got its pid.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use tokio_process_exit::{ProcessExit, ProcessIdentity};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), Some(program)) = (arguments.next(), arguments.next()) else {
        complain("usage: readopt FILE COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    match supervise(&PathBuf::from(file), command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("readopt: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Sees to it that the daemon runs, and waits for its exit.
async fn supervise(file: &Path, command: Command) -> io::Result<()> {
    let _lock = lock(&beside(file, ".lock"))?;
    let daemon = match adopt(file).map_err(|error| about(file, &error))? {
        Some(daemon) => daemon,
        None => start(file, command)?,
    };
    say(daemon.await?);
    fs::remove_file(file).map_err(|error| about(file, &error))
}

/// The daemon that the file tells of, if it still runs.
fn adopt(file: &Path) -> io::Result<Option<ProcessExit>> {
    let line = match fs::read_to_string(file) {
        Ok(line) => line,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let id: ProcessIdentity = line.parse().map_err(io::Error::other)?;
    match id.open() {
        Ok(daemon) => {
            say(format_args!("found process {} again", id.pid()));
            Ok(Some(daemon))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Better none than two: it may run.
        Err(error) => Err(error),
    }
}

fn start(file: &Path, mut command: Command) -> io::Result<ProcessExit> {
    // What ends the supervisor from the terminal is not for the daemon.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let program = PathBuf::from(command.get_program());
    let mut child = command.spawn().map_err(|error| about(&program, &error))?;
    let (pid, daemon) = (child.id(), ProcessExit::from(&child));
    let written = daemon.identity().and_then(|id| write(file, id));
    if let Err(error) = written {
        // Nobody would find it again.
        child.kill()?;
        child.wait()?;
        return Err(about(file, &error));
    }
    say(format_args!("started process {pid}"));
    // It is ours to reap.
    std::thread::spawn(move || child.wait());
    Ok(daemon)
}

/// All of it or nothing, whenever we are killed.
fn write(file: &Path, id: ProcessIdentity) -> io::Result<()> {
    let new = beside(file, ".new");
    fs::write(&new, format!("{id}\n"))?;
    fs::rename(&new, file)
}

/// As long as the result lives, no other supervisor has the daemon. The system ends that with us.
fn lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0);
    let file = options.open(path).map_err(|error| about(path, &error))?;
    #[cfg(unix)]
    {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: takes integers.
        if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            let error = match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("another supervisor is at work"),
                _ => error,
            };
            return Err(about(path, &error));
        }
    }
    Ok(file)
}

/// The file of that name with something appended.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

// Not `println!`, which panics if nobody listens any more.

fn say(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
