//! Wait for any process to exit from tokio: child or not, with its exit status, without reaping
//! it, without a busy loop.
//!
//! ```
//! # async fn wait(pid: u32) -> std::io::Result<()> {
//! let exit = tokio_process_exit::exit_of(pid).await?;
//! println!("{exit}"); // "process 1234 exited with exit status: 7"
//! # Ok(())
//! # }
//! ```
//!
//! # Why not `tokio::process`
//!
//! Because that waits for the children that it has spawned itself. This crate waits for the
//! others: the daemon whose pid stands in a file, the editor that started this language server,
//! the worker that another process spawned; and also for one's own child, which its owner can still
//! `wait` for afterwards, as nothing is reaped here.
//!
//! | instead of | write |
//! |---|---|
//! | a loop around `kill(pid, 0)` | [`exit_of(pid).await`](exit_of), which is not fooled by zombies nor by recycled pids |
//! | `psutil.Process(pid).wait(timeout)` | [`timeout(duration, exit_of(pid)).await`](tokio::time::timeout) |
//! | `psutil.wait_procs(processes, timeout)` | [`ExitSet::exits_within`] |
//! | `psutil.Process(pid) == process` | [`ProcessExit::identity`], [`ProcessIdentity`] |
//! | sysinfo's `process.wait()` | [`exit_of(pid).await`](exit_of): no thread, no interval, and a zombie has exited |
//! | `waitpid_any::WaitHandle::open(pid)?.wait()` on a thread | [`ProcessExit::open(pid)?.await`](ProcessExit::open) |
//! | `child.id()` of a [`std::process::Child`] | [`ProcessExit::from(&child)`](ProcessExit#impl-From%3C%26Child%3E-for-ProcessExit) |
//! | `child.id()` of tokio's | `child.id().map(exit_of)`, or `ProcessExit::from(&child)` with the feature `process` |
//! | SIGTERM, five seconds, SIGKILL | `ProcessExit::signal` (Unix) |
//!
//! # Supported platforms, and whose exit status is known
//!
//! | platform | mechanism | of a child | of another process, as a zombie | once reaped |
//! |---|---|---|---|---|
//! | Linux 5.3 and later, Android | a pidfd in tokio's reactor | yes (5.4) | Linux 6.1: to its user and root | Linux 6.15: yes |
//! | FreeBSD, DragonFly | a kqueue in tokio's reactor | yes | yes | yes, if it was opened before |
//! | NetBSD, OpenBSD | a kqueue in tokio's reactor | yes | yes, if it was opened before its exit | likewise |
//! | macOS, iOS | a kqueue in tokio's reactor | yes | likewise, if we may kill it | likewise |
//! | Windows | a wait of the thread pool | yes | yes, if we may ask | |
//! | other Unix | [polling](#where-events-are-refused) | no | no | no |
//! | where events are refused | polling | see [below](#where-events-are-refused) | | |
//!
//! What was run, and what only compiled, stands in the README. [How it works](how_it_works) has the
//! details, and the sources.
//!
//! # What "exited" means
//!
//! A process has exited when its last thread has. It may then be a zombie for as long as its
//! parent does not collect ("reap") it; waiting resolves all the same, at once. To wait until it
//! has been reaped too, and its pid is free again, use [`ProcessExit::until_reaped`]. Windows has no such
//! thing: there a pid is free once nobody has a handle of the process any more, and both are the
//! same.
//!
//! # The exit status
//!
//! [`Exit::status`] is never a guess. It is known for one's own children. On macOS, the BSDs and
//! Windows the system tells it along with the exit, of other processes too, unless it denies us
//! that. A process that was a zombie already when it was opened has its status told by FreeBSD and
//! DragonFly; by the others, only if it is our child. For another process on Linux it is known
//!
//! - while that is a zombie, to whoever may read it in `/proc`: its own user or root (ptrace access
//!   mode `PTRACE_MODE_READ_FSCREDS`). Linux 6.1 and later;
//! - once it has been reaped, to everybody: Linux 6.15 and later, inside one pid namespace.
//!   [`ProcessExit::until_reaped`] waits for that.
//!
//! One case is known in which Linux itself (6.18) tells a wrong status of a process that was reaped
//! before we looked: if its leading thread exits by itself while another thread ends the process. In
//! one of some thousand such coincidences, the kernel keeps the code of that thread.
//!
//! # Where events are refused
//!
//! Containers deny `pidfd_open` with old seccomp profiles, old kernels do not have it, and
//! descriptors run out. Then the wait works all the same: one poller per runtime looks at all such
//! processes in turn, on a thread of the blocking pool that it gives back at least every 40 ms. It
//! looks at each process after 0.1 ms at first, after 40 ms at last, and less often where all of
//! them would take more than 4 % of one core: some 100 ms late with 500 processes, 300 with 2,000.
//! [`ProcessExit::mechanism`] and [`ProcessExit::fallback_reason`] tell. Once there are descriptors
//! again, the wait goes back to events.
//!
//! Exited means the same then, and no status is false. What polling cannot do:
//!
//! - The status is not known of a process that was reaped between two looks; on other systems than
//!   Linux and Windows not of another's child at all, and on NetBSD and OpenBSD of none.
//! - Without a readable `/proc` (on macOS and the BSDs, of a process that is hidden from us; on
//!   other Unix, of all) a process counts as exited only when it is our own child or has been
//!   reaped, its status is not known, and a pid that went to another process between two looks is
//!   taken for the old one.
//! - With no descriptor left at all, `/proc` cannot be read either: another parent's process counts
//!   as exited once it has been reaped, or there is a descriptor again. So this crate never takes
//!   the last one.
//! - On Linux a process that starts, is opened, and is replaced by one with the same pid, all within
//!   10 ms, may be taken for that until that exits too. Its status is not.
//! - A blocking pool of a single thread is held up by up to 40 ms at a time, and holds up the poller
//!   for as long as something else has it.
//! - As all blocking work, a poller keeps the clock of `tokio::time::pause` from advancing by itself.
//!
//! On Windows and iOS a wait that is polled does not go back to events.
//!
//! On macOS and the BSDs one thing cannot be told, with events or without: a process that has exited
//! and was reaped, from another one that has got its pid and is a zombie just then.
//! [`ProcessExit::until_reaped`] waits for that one too, and [`ExitSet::insert`] takes it for the first, as
//! long as that is in the set.
//!
//! # Timeouts, many processes
//!
//! [`ProcessExit`] is a plain future, so what works for futures works for it: `timeout`, `select!`,
//! `join_all`. It is cancel safe: dropping it loses nothing, and `&mut` of it can be awaited again,
//! in another task and in another runtime. For many processes there is [`ExitSet`].
//!
//! ```
//! # #[cfg(unix)]
//! async fn stop(pid: u32) -> std::io::Result<()> {
//!     use std::time::Duration;
//!     use tokio::time::timeout;
//!     use tokio_process_exit::ProcessExit;
//!
//!     let mut exit = ProcessExit::open(pid)?;
//!     // To that very process. An error says that it has exited, or that we may not signal it.
//!     let _ = exit.signal(libc::SIGTERM);
//!     if timeout(Duration::from_secs(5), &mut exit).await.is_err() {
//!         let _ = exit.signal(libc::SIGKILL);
//!         exit.await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Cost
//!
//! A wait takes one descriptor (on Windows a handle), no thread, and four system calls: to open,
//! register, remove and close it. It sleeps until the exit, and wakes about as soon as a thread of
//! one's own in `epoll_wait` would. A process in an [`ExitSet`] takes about 64 bytes and one system
//! call less. The README has the measurements, beside those of others.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `process`: `ProcessExit::from` for the `Child` of `tokio::process`.
//! - `serde`: [`ProcessIdentity`] as a line of text.
//! - `tracing`: tells at debug level how each process is waited for, and why it is polled if it is.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![doc(test(attr(deny(warnings), allow(dead_code))))]

mod child;
mod error;
mod exit;
mod exit_set;
mod identity;
mod mechanism;
mod os;
mod poller;
mod process_exit;
mod sync;
mod sys;
mod wait_state;
mod wake_queue;

pub use exit::Exit;
pub use exit_set::ExitSet;
pub use identity::{ParseProcessIdentityError, ProcessIdentity};
pub use mechanism::Mechanism;
pub use process_exit::{ProcessExit, exit_of};

#[cfg(doc)]
#[doc = include_str!("how_it_works.md")]
pub mod how_it_works {}

// It sends signals, which Windows has not.
#[cfg(all(doctest, unix))]
#[doc = include_str!("../README.md")]
struct Readme;
