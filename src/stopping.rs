//! What stopping a process, a group, a cgroup, a job and a set have in common.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

/// Asks for an exit, and waits for it up to `grace`. Returns `None` after that.
///
/// If the wait needs what the runtime does not have, this panics before it asks.
pub(crate) async fn stop_within<W, T>(
    wait: &mut W,
    grace: Duration,
    request_exit: impl AsyncFnOnce(&W) -> io::Result<()>,
) -> Option<io::Result<T>>
where
    W: Future<Output = io::Result<T>> + Unpin,
{
    let within_grace = async {
        if let Poll::Ready(result) = poll_once(&mut *wait).await {
            return result;
        }
        request_exit(wait).await?;
        wait.await
    };
    // Without timers, `timeout` panics before it polls.
    timeout(grace, within_grace).await.ok()
}

/// Polls a future once.
///
/// Before a signal, this lets a wait panic that needs what the runtime does not have.
pub(crate) async fn poll_once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await
}

/// Sends SIGTERM, and SIGCONT so that a stopped process can handle it.
#[cfg(unix)]
pub(crate) fn request_exit(mut signal: impl FnMut(i32) -> io::Result<()>) -> io::Result<()> {
    signal(libc::SIGTERM)?;
    // Ignore an error: SIGTERM has been sent, and SIGKILL also ends a stopped process.
    let _ = signal(libc::SIGCONT);
    Ok(())
}

/// Kills again and again until the wait ends, because the processes may have forked meanwhile.
///
/// After each interval, `check` returns an error if killing cannot succeed.
pub(crate) async fn kill_until_gone<W, T>(
    wait: &mut W,
    mut kill: impl AsyncFnMut(&W) -> io::Result<()>,
    check: impl Fn(&W) -> io::Result<()>,
) -> io::Result<T>
where
    W: Future<Output = io::Result<T>> + Unpin,
{
    const MAX_INTERVAL: Duration = Duration::from_secs(1);
    let mut interval = Duration::from_millis(10);
    loop {
        kill(wait).await?;
        if let Ok(result) = timeout(interval, &mut *wait).await {
            return result;
        }
        check(wait)?;
        interval = MAX_INTERVAL.min(interval * 2);
    }
}

/// Ignores the error that nobody is left to be signalled: the wait returns that.
pub(crate) fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
