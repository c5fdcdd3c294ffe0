//! Many processes at once: `ExitSet` beside epoll by hand and the usual collections of futures.
//!
//! `cargo bench --bench herd`, or with sizes: `cargo bench --bench herd -- 1000 9900`.
//!
//! The herd are children of this program. They are registered while they sleep; then, for the
//! second table, they are all killed, left unreaped, and waited for. The contenders take turns,
//! several times over, each with a herd of its own where it is killed. Of each figure the median is
//! shown and its ratio to the first row, `epoll by hand`, which does what must be done in any
//! design: open, add, wait, ask for the exit status, close.

#[cfg(target_os = "linux")]
mod linux;

fn main() {
    // `cargo bench` adds `--bench`, `cargo test --benches` does not.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return println!("run it with cargo bench");
    }
    let mut sizes: Vec<usize> = arguments
        .iter()
        .filter_map(|size| size.parse().ok())
        .collect();
    if sizes.is_empty() {
        sizes = vec![1000, 5000, 9900, 19_000];
    }
    for size in sizes {
        #[cfg(target_os = "linux")]
        linux::herd_of(size);
        #[cfg(not(target_os = "linux"))]
        println!("{size} processes: this benchmark is for Linux");
    }
}
