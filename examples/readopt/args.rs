//! The arguments and exit codes.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

/// Start a daemon, or find it running, and wait for its exit
#[derive(Parser)]
#[command(name = "readopt", after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The daemon backgrounds itself, and writes its pid to PIDFILE
    #[arg(short, long, value_name = "PIDFILE")]
    pub(crate) pid_file: Option<PathBuf>,

    /// File with the identity of the running daemon; FILE.lock is locked against other supervisors
    pub(crate) file: PathBuf,

    /// Command that starts the daemon, unless the daemon in FILE or PIDFILE is running
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// The exit code after an error, as of timeout(1) and env(1).
pub(crate) const ERROR: i32 = 125;
/// The exit code for an exit whose status is not known.
pub(crate) const UNKNOWN: i32 = 255;

const AFTER_HELP: &str = "\
Exit codes:
  N      The daemon has exited with the exit code N
  128+N  Signal N has killed the daemon
  255    The daemon has exited, but its exit status is not known: see below
  125    An error was printed on stderr
  2      The command line is invalid

If the supervisor is killed, the daemon continues to run. Start the supervisor again to find it.
If readopt cannot know whether the daemon in FILE is running, it starts nothing. Make sure that
the daemon is not running, and delete FILE.

If FILE or PIDFILE has only a pid, readopt adopts the process with this pid, and prints a warning:
the daemon may have exited, and the pid may be that of another process. Once adopted, FILE
identifies this process. After the exit of the daemon, readopt deletes FILE, and PIDFILE if the
daemon has left its pid there.

The exit status of a daemon that the same readopt has started is known, unless the daemon has
backgrounded itself. Other statuses are known to the daemon's user and root on Linux 6.15 and
later. Elsewhere they may be unknown.

Keep FILE where a container that restarts does not find it again, for example in a tmpfs.

Examples:
  readopt /run/daemon.id sleep 60
  readopt -p /run/sshd.pid /run/sshd.id /usr/sbin/sshd";
