//! What threads share goes through locks from here, so that loom can try every order of them:
//!
//! ```sh
//! RUSTFLAGS='--cfg tokio_process_exit_loom' cargo test --release --lib loom
//! ```

#[cfg(all(test, tokio_process_exit_loom))]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, tokio_process_exit_loom)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
