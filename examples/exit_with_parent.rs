//! A server that exits when its editor exits.
//!
//! Use this for a program that an editor starts, such as a language server. Such a program cannot
//! rely on the end of its input: when the editor crashes, another process may still hold the pipe
//! open. Therefore, an editor passes its pid to a language server (`InitializeParams.processId`).
//!
//! This server answers each line of its input in upper case. The server exits at the end of its
//! input or when its editor exits, whichever comes first. The editor is the process whose pid is the
//! first argument. Without an argument, on Unix, the editor is the parent process.
//!
//! You can try the server with:
//!
//! ```console
//! $ sleep 60 & cargo run --example exit_with_parent -- $!
//! hello
//! HELLO
//! process 1234 exited with exit status: 0, shutting down
//! ```
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! tokio = { version = "1", features = ["io-std", "io-util", "macros", "rt"] }
//! tokio-process-exit = "0.1"
//! ```

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_process_exit::{Exit, ProcessExit};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Opening fails if the editor has already exited, or if the argument is not a pid.
    let editor = match open_editor() {
        Ok(editor) => editor,
        Err(error) => {
            log(format_args!(
                "exit_with_parent: cannot wait for the editor: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    let result = tokio::select! {
        result = serve() => result,
        result = exit_of_editor(editor) => {
            result.map(|exit| log(format_args!("{exit}, shutting down")))
        }
    };
    let exit_code = match result {
        Ok(()) => 0,
        Err(error) => {
            log(format_args!("exit_with_parent: {error}"));
            1
        }
    };
    // Do not return from `main`: the runtime would wait for its thread that still reads stdin.
    std::process::exit(exit_code)
}

/// Prints a line on stderr.
///
/// Unlike `eprintln!`, this does not panic if stderr is closed, for example by the editor's exit.
fn log(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Opens the editor's process. Returns `None` if the server should only exit with its input.
fn open_editor() -> io::Result<Option<ProcessExit>> {
    let argument = std::env::args().nth(1);
    let pid = match &argument {
        Some(argument) => argument.parse().map_err(|error| {
            io::Error::other(format!("{argument:?} is not a process id: {error}"))
        })?,
        None => match parent_pid() {
            Some(pid) => pid,
            None => return Ok(None),
        },
    };
    // Process 1 is init, and the parent's pid is 0 if the parent is in another pid namespace. In
    // both cases, no editor has started this server. Some editors pass the server's own pid: a wait
    // for the server itself would never resolve.
    if pid <= 1 || pid == std::process::id() {
        return Ok(None);
    }
    let editor = ProcessExit::open(pid)?;
    // Check the parent's pid after the open: if the parent has exited before, the opened process may
    // be a later one with the same pid. `parent_pid` then differs: an orphan gets a new parent.
    if argument.is_none() && parent_pid() != Some(pid) {
        return Err(io::Error::other("the parent process has exited"));
    }
    Ok(Some(editor))
}

#[cfg(unix)]
fn parent_pid() -> Option<u32> {
    Some(std::os::unix::process::parent_id())
}

#[cfg(not(unix))]
fn parent_pid() -> Option<u32> {
    None
}

/// Waits for the editor to exit. Never resolves if there is no editor.
async fn exit_of_editor(editor: Option<ProcessExit>) -> io::Result<Exit> {
    match editor {
        Some(editor) => editor.await,
        None => std::future::pending().await,
    }
}

/// Answers each line of the input in upper case, until the input ends.
///
/// A real server would handle its requests here.
async fn serve() -> io::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        output.write_all(line.to_uppercase().as_bytes()).await?;
        output.write_all(b"\n").await?;
        output.flush().await?;
    }
    Ok(())
}
