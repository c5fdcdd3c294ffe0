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
//! `tokio::process` waits for the children that it has spawned itself. This crate waits for the
//! others: the daemon whose pid stands in a file, the editor that started this language server,
//! the worker that another process spawned, and also one's own child, which its owner can still
//! `wait` for afterwards.
//!
//! # Supported platforms
//!
//! | platform | mechanism | exit status of a child | of another process |
//! |---|---|---|---|
//! | Linux 5.3 and later, Android | a pidfd in tokio's reactor | yes | see [below](#the-exit-status) |
//! | FreeBSD, NetBSD, OpenBSD, DragonFly | a kqueue in tokio's reactor | yes | yes |
//! | macOS, iOS | a kqueue in tokio's reactor | yes | if we may kill it |
//! | Windows | a wait of the thread pool | yes | yes, if we may ask |
//! | other Unix | [polling](#where-events-are-refused) | no | no |
//! | where events are refused | polling | see [below](#where-events-are-refused) | |
//!
//! What was run, and what only compiled, stands in the README.
//!
//! # What "exited" means
//!
//! A process has exited when its last thread has. It may then be a zombie for as long as its
//! parent does not collect ("reap") it; waiting resolves all the same, at once. To wait until it
//! has been reaped too, and its pid is free again, use [`ProcessExit::reaped`]. Windows has no such
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
//!   [`ProcessExit::reaped`] waits for that.
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
//! [`ProcessExit::reaped`] waits for that one too, and [`ExitSet::insert`] takes it for the first, as
//! long as that is in the set.
//!
//! # Timeouts, many processes
//!
//! For many processes there is [`ExitSet`]. [`ProcessExit`] is a plain future, so what works for
//! futures works for it:
//!
//! ```
//! use std::time::Duration;
//! use tokio::time::timeout;
//! use tokio_process_exit::ProcessExit;
//!
//! # async fn stop(pid: u32, kill: impl Fn(&str)) -> std::io::Result<()> {
//! let mut exit = ProcessExit::open(pid)?; // opened before the signal: no race
//! kill("TERM");
//! if timeout(Duration::from_secs(5), &mut exit).await.is_err() {
//!     kill("KILL");
//!     exit.await?;
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![doc(test(attr(deny(warnings), allow(dead_code))))]

mod error;
mod exit;
mod id;
mod inbox;
mod poller;
mod set;
mod sync;
mod sys;
mod trace;

pub use exit::{Exit, Mechanism, ProcessExit, exit_of};
pub use id::{ParseProcessIdError, ProcessId};
pub use set::ExitSet;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
