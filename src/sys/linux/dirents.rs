//! Directories, read entry by entry.
//!
//! # Safety
//!
//! The block is one system call. The descriptor is borrowed, and the buffer is writable for its size.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A directory that is open for reading.
pub(super) struct Dirents(File);

/// An entry of a directory: `struct linux_dirent64` of include/linux/dirent.h.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// `DT_DIR`, or another `DT_*`.
    pub(super) kind: u8,
    /// The position of the next entry.
    pub(super) next: u64,
}

impl Dirents {
    pub(super) fn new(directory: File) -> Dirents {
        Dirents(directory)
    }

    /// Continues with the entry at this position.
    pub(super) fn seek(&mut self, position: u64) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(position)).map(drop)
    }

    /// Reads as many entries as fit into the buffer. Returns none at the end of the directory.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Entries<'a>> {
        let (fd, pointer, size) = (self.0.as_raw_fd(), buffer.as_mut_ptr(), buffer.len());
        // SAFETY: `buffer` is writable for `size` bytes.
        let length = unsafe { libc::syscall(libc::SYS_getdents64, fd, pointer, size) };
        match usize::try_from(length) {
            Ok(length) => Ok(Entries(&buffer[..length])),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Dirents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The entries in a buffer.
pub(super) struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        const NAME: usize = 19;
        let next = u64::from_ne_bytes(self.0.get(8..16)?.try_into().ok()?);
        let length = u16::from_ne_bytes(self.0.get(16..18)?.try_into().ok()?).into();
        let kind = *self.0.get(18)?;
        let name = self.0.get(NAME..length)?.split(|&byte| byte == 0).next()?;
        self.0 = &self.0[length..];
        Some(Entry { name, kind, next })
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn reads_what_std_reads() {
        let names = |size: usize| {
            let directory = Dirents::new(File::open("/proc/self/ns").unwrap());
            let mut names = Vec::new();
            let mut buffer = vec![0; size];
            loop {
                let before = names.len();
                let entries = directory.read(&mut buffer).unwrap();
                names.extend(entries.map(|entry| entry.name.to_vec()));
                if names.len() == before {
                    names.retain(|name| !name.starts_with(b"."));
                    names.sort();
                    return names;
                }
            }
        };
        let mut expected: Vec<Vec<u8>> = std::fs::read_dir("/proc/self/ns")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_encoded_bytes())
            .collect();
        expected.sort();
        assert_eq!(names(4096), expected);
        assert_eq!(names(64), expected);
    }
}
