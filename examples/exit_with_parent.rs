//! A server that ends when its editor does, as a language server must.
//!
//! ```console
//! $ cargo run --example exit_with_parent -- 1234
//! hello
//! HELLO
//! process 1234 exited with unknown status: so do I
//! ```
//!
//! The end of the input does not do. An editor that crashes may leave other processes behind that
//! hold the pipe open. The language server protocol has the client pass its pid for this
//! (`InitializeParams.processId`). Without an argument it is the parent process.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_process_exit::{Exit, ProcessExit};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let editor = match editor() {
        Ok(editor) => editor,
        // It has gone already, or has passed something that is not its pid.
        Err(error) => {
            say(format_args!("no editor to serve: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let served = tokio::select! {
        result = serve() => result,
        result = gone(editor) => result.map(|exit| say(format_args!("{exit}: so do I"))),
    };
    // Not by returning: a thread still reads the input, and the runtime would wait for it.
    std::process::exit(match served {
        Ok(()) => 0,
        Err(error) => {
            say(error);
            1
        }
    })
}

/// Not `eprintln!`, which panics if nobody listens: the editor that did is gone.
fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The editor's process. `None`: there is none to end with.
fn editor() -> io::Result<Option<ProcessExit>> {
    let argument = std::env::args().nth(1);
    let pid = match &argument {
        Some(pid) => pid.parse().map_err(io::Error::other)?,
        None => match parent() {
            Some(pid) => pid,
            None => return Ok(None),
        },
    };
    // Some editors pass the server's own pid, and one waits for oneself for ever. Who has been
    // started by init (1), or in another pid namespace (0), has been meant to stay.
    if pid <= 1 || pid == std::process::id() {
        return Ok(None);
    }
    let editor = ProcessExit::open(pid)?;
    // If the parent has exited before it was opened, its pid may be another's. But then we have got
    // another parent.
    if argument.is_none() && parent() != Some(pid) {
        return Err(io::Error::other("the parent process has exited"));
    }
    Ok(Some(editor))
}

#[cfg(unix)]
fn parent() -> Option<u32> {
    Some(std::os::unix::process::parent_id())
}

#[cfg(not(unix))]
fn parent() -> Option<u32> {
    None
}

async fn gone(editor: Option<ProcessExit>) -> io::Result<Exit> {
    match editor {
        Some(editor) => editor.await,
        None => std::future::pending().await,
    }
}

/// Stands for all that a server does: answers each line in capitals, until the input ends.
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
