//! Where an identity is recorded: the boot and the namespaces.
//!
//! # Safety
//!
//! Each block is one system call, or the conversion of a descriptor that a system call has returned. The
//! calls take integers, a string that ends with a null byte, and pointers to locals.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use super::{is_exhaustion, proc_unavailable, procfs};
use crate::identity::{Boot, KeyKind, Origin, PidNamespace};
use crate::sys::unix::syscalls::errno;

pub(crate) fn origin(kind: KeyKind) -> io::Result<Origin> {
    let pid_namespace = our_pid_namespace().ok_or_else(proc_unavailable)?;
    // `stat` shows start times by the clock of the reader's time namespace. An inode is the same everywhere.
    let time_namespace = match kind {
        KeyKind::Start => inode("/proc/thread-self/ns/time"),
        _ => None,
    };
    Ok(Origin {
        pid_namespace: Some(pid_namespace),
        time_namespace,
        boot: Some(boot()?),
    })
}

/// Reads the boot id: [proc_sys_kernel(5)](https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html).
///
/// Do not cache the id: this process may enter another mount namespace, or be restored from a checkpoint
/// after a reboot.
fn boot() -> io::Result<Boot> {
    const FOLDER: &str = "/proc/sys/kernel/random";
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let unsupported = |reason| io::Error::new(io::ErrorKind::Unsupported, reason);
    let read = || {
        fs::read_to_string(FILE).map_err(|error| match error.raw_os_error() {
            Some(errno) if is_exhaustion(errno) => error,
            _ => unsupported(format!("cannot read {FILE}: {error}")),
        })
    };
    let text = read()?;
    // Read again: the file may be a mount of `uuid` in the same folder, which changes with each read.
    if read()? != text {
        return Err(unsupported(format!("{FILE} changes with each read")));
    }
    // LXC and systemd-nspawn mount a file of another file system over the kernel's.
    let device = |path| fs::metadata(path).map(|file| file.dev());
    Ok(Boot {
        id: crate::sys::parse_boot_id(&text)?,
        is_mounted: !matches!((device(FILE), device(FOLDER)), (Ok(file), Ok(folder)) if file == folder),
    })
}

const OUR_PID_NAMESPACE: &std::ffi::CStr = c"/proc/thread-self/ns/pid";

fn our_pid_namespace() -> Option<PidNamespace> {
    let inode = inode(OUR_PID_NAMESPACE.to_str().ok()?)?;
    let id = Handle::of_our_pid_namespace()
        .filter(|handle| u64::from(handle.inode) == inode)
        .map(|handle| handle.id);
    Some(PidNamespace { inode, id })
}

fn inode(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|namespace| namespace.ino())
}

/// Whether the pid namespace has certainly ended. All of its processes have exited then.
///
/// An inode proves nothing: another namespace may have it by now. So this needs the unique id.
pub(crate) fn has_ended(namespace: PidNamespace) -> bool {
    let (Some(id), Ok(inode)) = (namespace.id, u32::try_from(namespace.inode)) else {
        return false;
    };
    // Open our own namespace too: otherwise the kernel may deny or lack the call.
    may_open_all_namespaces()
        && Handle::of_our_pid_namespace().is_some_and(|ours| ours.open().is_ok())
        && Handle::new(id, inode).open() == Err(libc::ESTALE)
}

/// Whether the kernel opens every namespace for this thread. For others, the kernel returns the same error
/// for a namespace that has ended and for a namespace that may not be opened (`nsfs_fh_to_dentry`).
fn may_open_all_namespaces() -> bool {
    // `USER_NS_INIT_INO` of include/uapi/linux/nsfs.h, and `CAP_SYS_ADMIN` of linux/capability.h.
    const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;
    const CAP_SYS_ADMIN: u32 = 21;
    inode("/proc/thread-self/ns/user") == Some(INITIAL_USER_NAMESPACE)
        && procfs::effective_capabilities().is_some_and(|set| set & (1 << CAP_SYS_ADMIN) != 0)
        // A security module may deny the capability.
        && match fs::read("/proc/thread-self/attr/current") {
            Ok(label) => label.starts_with(b"unconfined\n") || label.is_empty(),
            // No security module has labels.
            Err(error) => matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)),
        }
}

/// A file handle of a namespace (Linux 6.18): `struct file_handle` of
/// [open_by_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html) with a
/// `struct nsfs_file_handle` of include/uapi/linux/nsfs.h.
#[repr(C)]
#[derive(Debug)]
struct Handle {
    size: libc::c_uint,
    handle_type: libc::c_int,
    id: u64,
    namespace_type: u32,
    inode: u32,
}

impl Handle {
    /// The size of the last three fields.
    const SIZE: libc::c_uint = 16;

    /// `FILEID_NSFS` of include/linux/exportfs.h.
    const TYPE: libc::c_int = 0xf1;

    /// Returns the handle of a pid namespace.
    fn new(id: u64, inode: u32) -> Handle {
        Handle {
            size: Handle::SIZE,
            handle_type: Handle::TYPE,
            id,
            namespace_type: libc::CLONE_NEWPID as u32,
            inode,
        }
    }

    /// Returns the handle of our own pid namespace, if the kernel has such handles and permits the call.
    fn of_our_pid_namespace() -> Option<Handle> {
        let mut handle = Handle::new(0, 0);
        let mut mount_id: libc::c_int = 0;
        let (path, flags) = (OUR_PID_NAMESPACE.as_ptr(), libc::AT_SYMLINK_FOLLOW);
        let (buffer, mount) = (&raw mut handle, &raw mut mount_id);
        let call = libc::SYS_name_to_handle_at;
        // SAFETY: `path` ends with a null byte, `handle` has room for `size` bytes after its first two
        // fields, and `mount_id` is writable.
        let result = unsafe { libc::syscall(call, libc::AT_FDCWD, path, buffer, mount, flags) };
        let is_known = (handle.size, handle.handle_type) == (Handle::SIZE, Handle::TYPE);
        (result == 0 && is_known && handle.id != 0).then_some(handle)
    }

    /// Opens the namespace and closes it again. The error is the errno.
    fn open(&self) -> Result<(), i32> {
        /// `FD_NSFS_ROOT` of include/uapi/linux/fcntl.h.
        const NSFS_ROOT: libc::c_int = -10003;
        let (call, flags) = (libc::SYS_open_by_handle_at, libc::O_PATH | libc::O_CLOEXEC);
        // SAFETY: the handle is readable, and has `size` bytes after its first two fields.
        let fd = unsafe { libc::syscall(call, NSFS_ROOT, &raw const *self, flags) };
        if fd < 0 {
            return Err(errno());
        }
        // SAFETY: the system call has just returned this descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_namespace_has_not_ended() {
        let namespace = our_pid_namespace().unwrap();
        assert!(!has_ended(namespace));
        assert!(!has_ended(PidNamespace {
            id: None,
            ..namespace
        }));
        assert_eq!(our_pid_namespace(), Some(namespace));
    }

    #[test]
    fn namespace_that_never_was_has_ended() {
        if !may_open_all_namespaces() {
            return eprintln!("skipped: not the system's root");
        }
        let ours = our_pid_namespace().unwrap();
        // Ids count from 1 on.
        let id = ours.id.map(|_| u64::MAX - 1);
        assert_eq!(has_ended(PidNamespace { id, ..ours }), id.is_some());
    }
}
