//! A server on a Unix socket that notices the exit of its clients.
//!
//! Use this if a server must clean up after a client process, for example if it grants locks. The
//! end of the connection is not enough. A child of the client may inherit the connection and hold
//! it open. A client may also close its connection and continue to run.
//!
//! Therefore, the server gets a pidfd of the client from the socket (`SO_PEERPIDFD`, Linux 6.5) and
//! waits for the exit of this process. Unlike a pid, a pidfd never refers to a later process.
//!
//! You can start the server with:
//!
//! ```console
//! $ cargo run --example peer_exit -- /tmp/socket
//! listening on /tmp/socket
//! process 1234 has connected
//! process 1234 exited with signal: 9 (SIGKILL)
//! ```
//!
//! Connect and kill a client in another terminal:
//!
//! ```console
//! $ sleep 60 | nc -U /tmp/socket &
//! $ kill -9 $!
//! ```
//!
//! To copy this example, add to your `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! libc = "0.2"
//! tokio = { version = "1", features = ["macros", "net", "rt"] }
//! tokio-process-exit = "0.1"
//! ```

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod server {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

    use tokio::net::{UnixListener, UnixStream};
    use tokio_process_exit::ProcessExit;

    /// Accepts clients until an error occurs.
    pub(super) async fn run(path: &str) -> io::Result<()> {
        // Check before any client connects whether this kernel has the option.
        let (socket, _peer) = UnixStream::pair()?;
        peer_pidfd(socket.as_fd())?;
        let listener = UnixListener::bind(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        println!("listening on {path}");
        loop {
            let (connection, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = watch_client(&connection).await {
                    eprintln!("peer_exit: {error}");
                }
            });
        }
    }

    /// Waits for the process that has connected, and prints its exit status.
    async fn watch_client(connection: &UnixStream) -> io::Result<()> {
        let client = ProcessExit::try_from(peer_pidfd(connection.as_fd())?)?;
        // Get the pid from the socket: a pidfd has no pid if the client has already been reaped.
        let pid = connection.peer_cred()?.pid().unwrap_or_default();
        println!("process {pid} has connected");
        // Wait until the client has been reaped: from then on, Linux (6.15) returns its status to
        // every user. A parent may never reap, so await `client` itself if no status is needed.
        match client.until_reaped().await?.status() {
            Some(status) => println!("process {pid} exited with {status}"),
            None => println!("process {pid} exited with unknown status"),
        }
        Ok(())
    }

    /// Returns a pidfd of the process at the other end of the socket.
    ///
    /// See [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html).
    fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let mut pidfd: RawFd = -1;
        let mut size = size_of_val(&pidfd) as libc::socklen_t;
        let (level, option, value) = (
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
        );
        // SAFETY: `pidfd` is writable for `size` bytes.
        let result =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut size) };
        if result < 0 {
            let error = io::Error::last_os_error();
            let reason = format!("SO_PEERPIDFD, which needs Linux 6.5: {error}");
            return Err(io::Error::new(error.kind(), reason));
        }
        // SAFETY: the kernel has just created this descriptor, so it has no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
    }
}

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let path = std::env::args().nth(1);
    let Some(path) = path.filter(|path| !path.starts_with('-')) else {
        eprintln!("usage: peer_exit SOCKET");
        return ExitCode::FAILURE;
    };
    match server::run(&path).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer_exit: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("peer_exit: SO_PEERPIDFD, which needs Linux 6.5");
    ExitCode::FAILURE
}
