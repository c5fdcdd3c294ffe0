//! Await the exit of any process from tokio, whether or not it is your child.
//!
//! ```
//! # async fn wait(pid: u32) -> std::io::Result<()> {
//! let exit = tokio_process_exit::exit_of(pid).await?;
//! println!("{exit}"); // process 1234 exited with exit status: 7
//! # Ok(())
//! # }
//! ```
//!
//! The kernel reports the exit through tokio's reactor. The process is not reaped, so its parent still
//! gets the exit status. There is no busy loop.
//!
//! - [`exit_of`] returns a future for one process: [`ProcessExit`].
//! - [`ExitSet`] waits for thousands of processes. [`ExitMap`] has a key for each process.
//! - `exit_of_group` (Unix) waits for a whole process group, `exit_of_cgroup` (Linux) for a cgroup, and
//!   `JobExit` (Windows) for a job object: [Groups](groups).
//! - [`ProcessIdentity`] is a line for a pid file. It finds the same process again, not a later process
//!   with the same pid.
//!
//! # When to use it
//!
//! `tokio::process` waits for the children that it has spawned, and reaps them. Use this crate for all
//! other processes: a daemon whose pid is in a file, the editor that started a language server, a worker
//! of another supervisor. Use it also for your own child if another part of the program reaps it.
//!
//! | instead of | write |
//! |---|---|
//! | a loop around `kill(pid, 0)` until the exit | [`exit_of(pid).await`](exit_of), which also resolves for a zombie |
//! | a loop around `kill(pid, 0)` until the pid is free | [`exit_of(pid).until_reaped().await`](ProcessExit::until_reaped) |
//! | `psutil.Process(pid).wait(timeout)` | [`timeout(duration, exit_of(pid)).await`](tokio::time::timeout) |
//! | `psutil.Process(pid).wait(timeout)` without a runtime | [`ProcessExit::blocking_wait`] |
//! | `psutil.wait_procs(processes, timeout)` | [`ExitSet::exits_within`] |
//! | `psutil.Process(pid) == process` | [`ProcessExit::identity`], [`ProcessIdentity`] |
//! | sysinfo's `process.wait()` | [`exit_of(pid).await`](exit_of) |
//! | `waitpid_any::WaitHandle::open(pid)?.wait()` on a thread | [`ProcessExit::open(pid)?.await`](ProcessExit::open), [`ProcessExit::blocking_wait`] |
//! | `child.id()` of a [`std::process::Child`] | [`ProcessExit::from(&child)`](ProcessExit#impl-From%3C%26Child%3E-for-ProcessExit) |
//! | `child.id()` of tokio's `Child` | `child.id().map(exit_of)`, or `ProcessExit::from(&child)` with the feature `process` |
//! | SIGTERM, five seconds, SIGKILL | [`ProcessExit::stop`], [`ExitSet::stop`], [`ExitMap::stop`] |
//! | an extra match arm for a process that is gone | [`ProcessExit::find`], [`ProcessIdentity::find`] |
//!
//! [Comparison](comparison) says what these other crates and programs do, and where they are better.
//!
//! # When not to use it
//!
//! - To spawn a child and wait for it: `tokio::process` does both.
//! - To reap: the parent must wait for its children as before. Only `ProcessExit::reap` (Unix) reaps, for a
//!   subreaper or pid 1.
//! - To wait for a tree of processes, a session or a thread. [Groups](groups) explains why, and what to use
//!   instead.
//! - To notice that a process starts, stops, forks or calls `execve`: only exits are reported.
//! - Without tokio: every wait needs a tokio runtime, except for [`ProcessExit::blocking_wait`],
//!   [`ProcessExit::try_wait`], [`ExitSet::try_next_exit`] and [`ExitMap::try_next_exit`].
//!
//! # What "exited" means
//!
//! A process has exited when its last thread has exited. The process is then a zombie until its parent
//! reaps it, that is, collects its exit status. A wait resolves at the exit. `kill(pid, 0)` succeeds for a
//! zombie, and fails only after the reap. [`ProcessExit::until_reaped`] waits for the reap, after which the
//! pid is free. Windows has no zombies.
//!
//! # The exit status
//!
//! [`Exit::status`] is never a guess. The status of your own children is known on every system but "other
//! Unix", with the exceptions in [Platforms](platforms#the-exit-status). For other processes that are not
//! polled:
//!
//! | system | the exit status of a process that is not your child |
//! |---|---|
//! | Linux, zombie | Linux 5.17 and later, to the process's user and root |
//! | Linux, reaped | Linux 6.15 and later, to everybody in the pid namespace (see [`ProcessExit::until_reaped`]) |
//! | FreeBSD, DragonFly | yes |
//! | NetBSD | yes, if the process is your user's |
//! | OpenBSD | yes, if the process was opened before its exit |
//! | macOS, iOS | yes, if the process was opened before its exit and you may kill it |
//! | Windows | yes, if you may query the process |
//! | other Unix | no |
//!
//! A zombie's status is unknown if the parent reaps the process before the waiting thread has run.
//! [Platforms](platforms#linux-before-615-processes-that-are-reaped-at-once) has figures for Linux before
//! 6.15.
//!
//! In one known case, Linux itself reports a wrong status, the code of the process's leader thread: on Linux
//! 6.18, after the reap, if the leader thread exits by itself at the moment at which another thread ends the
//! process. The status is wrong in a few of some thousand such cases.
//!
//! # Timeouts and many processes
//!
//! [`ProcessExit`] is a plain future, so `timeout`, `select!` and `join_all` work with it. It is cancel
//! safe: a future that was polled by `&mut` can be awaited again, in another task or another runtime.
//! Timeouts and grace periods are measured by the clock of tokio. This clock stops while a Linux or macOS system
//! is suspended, and `tokio::time::pause` changes it ([How it works](how_it_works#clocks)).
//!
//! A signal is a number, here of the crate `libc`. [`ProcessExit::signal`](ProcessExit#method.signal) lists
//! other sources of signal numbers:
//!
//! ```
//! # #[cfg(unix)]
//! async fn stop(pid: u32) -> std::io::Result<()> {
//!     use std::time::Duration;
//!     use tokio::time::timeout;
//!     use tokio_process_exit::ProcessExit;
//!
//!     let Some(mut process) = ProcessExit::find(pid)? else {
//!         return Ok(()); // already gone
//!     };
//!     // SIGINT first. An error means that the process has exited, or that we may not signal it.
//!     let _ = process.signal(libc::SIGINT);
//!     if timeout(Duration::from_secs(5), &mut process).await.is_err() {
//!         // SIGTERM, up to five seconds, SIGKILL.
//!         process.stop(Duration::from_secs(5)).await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! [`ExitSet::stop`] does this for many processes, side by side. A supervisor that restarts its workers uses
//! an [`ExitMap`], which returns the key of a worker along with its exit:
//!
//! ```
//! use std::time::Duration;
//! use tokio_process_exit::ExitMap;
//!
//! # fn start(_: &str) -> std::io::Result<u32> { todo!() }
//! # async fn stop_requested() {}
//! async fn supervise(mut workers: ExitMap<String>) -> std::io::Result<()> {
//!     loop {
//!         tokio::select! {
//!             Some((name, exit)) = workers.next_exit() => {
//!                 println!("{name}: {}", exit?);
//!                 let pid = start(&name)?;
//!                 workers.insert(name, pid)?;
//!             }
//!             () = stop_requested() => break,
//!         }
//!     }
//!     for (name, exit) in workers.stop(Duration::from_secs(5)).await {
//!         println!("{name}: {}", exit?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # In a library
//!
//! A library that waits for processes runs in the runtime of its caller:
//!
//! - Open the process in a function that is not async: [`ProcessExit::open`] needs no runtime. An error is then
//!   returned before anything is awaited.
//! - Write async functions, and do not build a runtime. A wait works in every flavour of runtime, and may move
//!   between runtimes.
//! - On Unix, awaiting [panics](ProcessExit#panics) outside a runtime, and in a runtime without I/O. The methods
//!   with a timeout or a grace period also panic without timers. Document these panics as your own.
//! - If the caller's runtime may have no I/O, call [`ProcessExit::blocking_wait`] in
//!   [`spawn_blocking`](tokio::task::spawn_blocking) or on a thread of your own, with a timeout.
//! - Do not raise the limit of descriptors, and do not reap: both belong to the program. Accept that
//!   [`Exit::status`] can be `None`.
//!
//! # Platforms
//!
//! Linux and Android use a pidfd, macOS and the BSDs a kqueue, Windows a wait of the system's thread
//! pool. [Platforms](platforms) lists the versions, and what was run where.
//!
//! If the system refuses an event source, the process is [polled](Mechanism::Polling): under an old seccomp
//! profile, on an old kernel, or when descriptors run out. The exit is then noticed later.
//! [`ProcessExit::mechanism`] and [`ProcessExit::fallback_reason`] show whether and why a process is
//! polled. [How it works](how_it_works#polling) lists what polling cannot do.
//!
//! # Cost
//!
//! A wait takes one descriptor (on Windows a handle) and no thread. On Linux it takes five system calls
//! besides the queries after an event: open, register, query, deregister and close. If the process is not your
//! child, Linux takes a second descriptor and six more system calls, to
//! [read the exit status faster](how_it_works#keeping-the-stat-of-a-process). On Linux, a task that waits for
//! your own child is woken about 10 % later than a thread in `epoll_wait`. For another process it is about
//! 25 % later. `benches/README.md` in the repository has all measurements.
//!
//! # Features
//!
//! All features are off by default.
//!
//! - `process`: `ProcessExit::from` for the `Child` of `tokio::process`.
//! - `serde`: [`ProcessIdentity`] is serialized as a line of text.
//! - `tracing`: logs the mechanism of each wait at debug level, and why a process is polled.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![doc(test(attr(deny(warnings), allow(dead_code))))]

mod child;
mod empty_wait;
mod error;
mod exit;
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(all(test, tokio_process_exit_fake_kqueue))
))]
mod exit_cgroup;
#[cfg(unix)]
mod exit_group;
#[cfg(windows)]
mod exit_job;
mod exit_map;
mod exit_set;
#[cfg(all(test, tokio_process_exit_fake_kqueue))]
mod fake_kqueue;
mod identity;
mod mechanism;
mod members;
mod os;
mod poller;
mod process_exit;
mod stopping;
mod sync;
mod sys;
mod wait_state;
mod wake_queue;

pub use error::ProcessError;
pub use exit::Exit;
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(all(test, tokio_process_exit_fake_kqueue))
))]
pub use exit_cgroup::{CgroupExit, exit_of_cgroup};
#[cfg(unix)]
pub use exit_group::{GroupExit, exit_of_group};
#[cfg(windows)]
pub use exit_job::JobExit;
pub use exit_map::ExitMap;
pub use exit_set::ExitSet;
pub use identity::{ParseProcessIdentityError, ProcessIdentity};
pub use mechanism::Mechanism;
pub use process_exit::{ProcessExit, exit_of};

#[cfg(doc)]
#[doc = include_str!("comparison.md")]
pub mod comparison {}

#[cfg(doc)]
#[doc = include_str!("groups.md")]
pub mod groups {}

#[cfg(doc)]
#[doc = include_str!("how_it_works.md")]
pub mod how_it_works {}

#[cfg(doc)]
#[doc = include_str!("platforms.md")]
pub mod platforms {}

// The README's examples send signals, which Windows does not have.
#[cfg(all(doctest, unix))]
#[doc = include_str!("../README.md")]
struct Readme;
