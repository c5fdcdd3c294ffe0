//! A server on a Unix socket that notices when a client dies.
//!
//! ```console
//! $ cargo run --example peer_exit -- /tmp/socket &
//! $ sleep 60 | nc -U /tmp/socket & kill -9 $!
//! process 1234 has connected
//! process 1234 exited with signal: 9 (SIGKILL)
//! ```
//!
//! The end of the connection does not tell: a client may have left it to its children, or close it
//! and live on. So the server asks the socket for a pidfd of the process that has connected
//! (`SO_PEERPIDFD`, Linux 6.5), which cannot be that of a process that has got its pid since.

#[cfg(target_os = "linux")]
mod server {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

    use tokio::net::{UnixListener, UnixStream};
    use tokio_process_exit::ProcessExit;

    pub(super) async fn run(path: &str) -> io::Result<()> {
        let listener = UnixListener::bind(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        println!("listening on {path}");
        loop {
            let (connection, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = attend(&connection).await {
                    eprintln!("{error}");
                }
            });
        }
    }

    async fn attend(connection: &UnixStream) -> io::Result<()> {
        let client = ProcessExit::try_from(peer_pidfd(connection.as_fd())?)?;
        // The pid that it had then. It may be gone already.
        let pid = connection.peer_cred()?.pid().unwrap_or_default();
        println!("process {pid} has connected");
        // Its status is told to everybody once its parent has collected it.
        match client.until_reaped().await?.status() {
            Some(status) => println!("process {pid} exited with {status}"),
            None => println!("process {pid} exited with unknown status"),
        }
        Ok(())
    }

    /// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)
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
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
    }
}

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    match std::env::args().nth(1) {
        Some(path) => server::run(&path).await,
        None => Err(std::io::Error::other("usage: peer_exit SOCKET")),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("only Linux tells who is at the other end of a socket by a pidfd");
}
