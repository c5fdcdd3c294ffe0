//! The synchronization primitives. In loom's models they are loom's, which try every order of threads.
//!
//! ```sh
//! RUSTFLAGS='--cfg tokio_process_exit_loom' cargo test --release --lib loom
//! ```

#![allow(unused_imports, reason = "not every system needs all of them")]

#[cfg(all(test, tokio_process_exit_loom))]
pub(crate) use loom::sync::{
    Arc, Condvar, Mutex, MutexGuard,
    atomic::{AtomicU8, Ordering},
};
#[cfg(all(test, tokio_process_exit_loom))]
pub(crate) use loom::thread;
#[cfg(not(all(test, tokio_process_exit_loom)))]
pub(crate) use std::sync::{
    Arc, Condvar, Mutex, MutexGuard,
    atomic::{AtomicU8, Ordering},
};
#[cfg(not(all(test, tokio_process_exit_loom)))]
pub(crate) use std::thread;
