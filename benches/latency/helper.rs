//! Other processes, which wait for a process on order.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tokio_process_exit::{Mechanism, exit_of};

use super::contenders::code_of;
use crate::os::{self, now};
use crate::run::{Role, self_command};

/// Another process, which waits for a process on order.
pub(super) struct Helper {
    child: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts a helper. Returns what the helper prints if it is not ready.
    pub(super) fn start(mut command: Command) -> Result<Helper, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the helper starts");
        let mut helper = Helper {
            orders: child.stdin.take().expect("the stream is piped"),
            replies: BufReader::new(child.stdout.take().expect("the stream is piped")),
            child,
        };
        match helper.receive_line().as_str() {
            "ready" => Ok(helper),
            reason => Err(reason.to_owned()),
        }
    }

    /// Starts a process that uses this crate while a filter denies pidfds.
    pub(super) fn polled() -> Result<Helper, String> {
        Helper::start(self_command(Role::Polled))
    }

    pub(super) fn send(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the helper reads");
    }

    /// Returns the time at which the helper ran.
    pub(super) fn receive(&mut self) -> u64 {
        self.receive_line()
            .parse()
            .expect("the helper replies with a time")
    }

    pub(super) fn receive_line(&mut self) -> String {
        let mut line = String::new();
        self.replies
            .read_line(&mut line)
            .expect("the helper writes");
        line.trim().to_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Waits for each process whose pid is in a line of standard input, while a filter denies pidfds to
/// this process.
pub(crate) fn serve_polled() {
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    let denied = std::env::consts::ARCH
        .try_into()
        .and_then(|arch| {
            SeccompFilter::new(
                [(libc::SYS_pidfd_open as _, Vec::new())].into(),
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM as u32),
                arch,
            )
        })
        .and_then(seccompiler::BpfProgram::try_from);
    match denied.map(|program| apply_filter(&program)) {
        Ok(Ok(())) => {}
        _ => return println!("seccomp filters are not available"),
    }
    let process = exit_of(std::process::id());
    if process.mechanism() != Some(Mechanism::Polling) {
        return println!("the filter did not deny pidfds");
    }
    println!("ready");
    let runtime = os::current_thread();
    for pid in std::io::stdin().lines() {
        let pid = pid.expect("a line of text").parse().expect("a pid");
        let now = runtime.block_on(async {
            let mut process = exit_of(pid);
            let exit = (&mut process).await.expect("an exit");
            let now = now();
            assert_eq!(code_of(exit), Some(7));
            now
        });
        println!("{now}");
    }
}
