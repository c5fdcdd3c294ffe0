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
//! The file has the daemon's [`ProcessId`], so that after a crash or a reboot no stranger is taken
//! for the daemon because it has got its pid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use tokio_process_exit::{ProcessExit, ProcessId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: readopt FILE COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    match supervise(&PathBuf::from(file), command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("readopt: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sees to it that the daemon runs, and waits for its exit.
async fn supervise(file: &Path, command: Command) -> io::Result<()> {
    let daemon = match adopt(file)? {
        Some(daemon) => {
            println!("found process {} again", daemon.id());
            daemon
        }
        None => start(file, command)?,
    };
    println!("{}", daemon.await?);
    fs::remove_file(file)
}

/// The daemon that the file tells of, if it still runs.
fn adopt(file: &Path) -> io::Result<Option<ProcessExit>> {
    let line = match fs::read_to_string(file) {
        Ok(line) => line,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let id: ProcessId = line.parse().map_err(io::Error::other)?;
    match id.open() {
        Ok(daemon) => Ok(Some(daemon)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Better none than two: it may run.
        Err(error) => Err(error),
    }
}

fn start(file: &Path, mut command: Command) -> io::Result<ProcessExit> {
    // What ends the supervisor from the terminal is not for the daemon.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let daemon = ProcessExit::from(&child);
    let written = daemon.process_id().and_then(|id| write(file, id));
    if let Err(error) = written {
        // Nobody would find it again.
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    println!("started process {}", daemon.id());
    // It is ours to reap.
    std::thread::spawn(move || child.wait());
    Ok(daemon)
}

/// All of it or nothing, whenever we are killed.
fn write(file: &Path, id: ProcessId) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, format!("{id}\n"))?;
    fs::rename(&new, file)
}
