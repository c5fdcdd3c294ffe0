//! The parsers of `/proc` files never panic, and never misread a file because of a process's name.

#![no_main]
#![allow(dead_code, reason = "only the parsers are used")]

#[path = "../../src/sys/unix/syscalls.rs"]
mod syscalls;
#[path = "../../src/sys/linux/procfs.rs"]
mod procfs;
#[path = "../../src/sys/unix/wait_status.rs"]
mod wait_status;

use libfuzzer_sys::fuzz_target;
use procfs::{Stat, line_after, number_after};
use wait_status::Status;

fuzz_target!(|text: &[u8]| {
    if let Some(stat) = Stat::parse(text) {
        // The process's name must not affect the result.
        let name_end = text.iter().rposition(|&byte| byte == b')').unwrap();
        let mut renamed = b"42 (x".to_vec();
        renamed.extend(&text[name_end..]);
        assert_eq!(Stat::parse(&renamed), Some(stat));
    }
    let line = line_after(text, b"\nPid:\t");
    assert!(line.is_none_or(|line| !line.contains(&b'\n')));
    if number_after(text, b"\nPid:\t").is_some() {
        assert!(line.is_some());
    }
});
