//! Public items that only some systems have.

#[cfg(any(unix, windows))]
mod exit_map;
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(all(test, tokio_process_exit_fake_kqueue))
))]
mod linux;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
