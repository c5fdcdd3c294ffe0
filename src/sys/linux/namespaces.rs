//! Where an identity is recorded: the boot and the namespaces.
//!
//! # Safety
//!
//! Each block is one system call, or the conversion of a descriptor that a system call has returned. The
//! calls take integers, a string that ends with a null byte, and pointers to locals.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use super::procfs::OwnStatus;
use super::{is_exhaustion, pidfd, proc_unavailable};
use crate::identity::{Boot, IdentityKey, KeyKind, Origin, PidNamespace};
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
    let id = our_pid_namespace_handle()
        .filter(|handle| u64::from(handle.content.inode) == inode)
        .map(|handle| handle.content.id);
    Some(PidNamespace { inode, id })
}

fn inode(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|namespace| namespace.ino())
}

/// Whether a process of another pid namespace than ours has certainly exited.
///
/// The file handles of the process and of its namespace contain unique ids. The kernel does not open them
/// after the end.
pub(crate) fn has_exited_elsewhere(key: IdentityKey, namespace: PidNamespace) -> bool {
    if !may_use_handles() {
        return false;
    }
    let has_exited = key.kind == KeyKind::Inode && sees_all_processes() && {
        // Open our own pidfd too: otherwise the kernel may deny or lack the call.
        pidfd::open(std::process::id() as libc::pid_t).is_ok_and(|ours| {
            let own = pidfd::inode(ours.as_fd());
            own.is_some_and(|own| process_handle(own).open(ours.as_raw_fd()).is_ok())
                && process_handle(key.value).open(ours.as_raw_fd()) == Err(libc::ESTALE)
        })
    };
    has_exited || has_ended(namespace)
}

/// Whether this thread may try the system calls that take file handles.
///
/// Containers and hardened services often deny these calls. A seccomp filter may even kill this process for
/// them: by default those of Android and of systemd's `SystemCallFilter` do. So do not try them below any filter.
fn may_use_handles() -> bool {
    OwnStatus::read().is_some_and(|status| !status.is_filtered)
}

/// Whether the kernel opens the handle of every process for us. It does not open the processes outside our pid
/// namespace, but every process is inside the initial one (`pidfs_ino_get_pid`).
fn sees_all_processes() -> bool {
    // `PID_NS_INIT_INO` of include/uapi/linux/nsfs.h.
    const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
    // With 32 bits, `stat` truncates the unique id.
    cfg!(target_pointer_width = "64")
        && our_pid_namespace().is_some_and(|ours| ours.inode == INITIAL_PID_NAMESPACE)
}

/// Whether the pid namespace has certainly ended, with all of its processes.
///
/// The inode alone proves nothing: another namespace may have it by now.
fn has_ended(namespace: PidNamespace) -> bool {
    /// `FD_NSFS_ROOT` of include/uapi/linux/fcntl.h.
    const NSFS_ROOT: RawFd = -10003;
    let (Some(id), Ok(inode)) = (namespace.id, u32::try_from(namespace.inode)) else {
        return false;
    };
    may_open_all_namespaces()
        // Open our own namespace too: otherwise the kernel may deny or lack the call.
        && our_pid_namespace_handle().is_some_and(|ours| ours.open(NSFS_ROOT).is_ok())
        && pid_namespace_handle(id, inode).open(NSFS_ROOT) == Err(libc::ESTALE)
}

/// Whether the kernel opens every namespace for this thread. For others, the kernel returns the same error
/// for a namespace that has ended and for a namespace that may not be opened (`nsfs_fh_to_dentry`).
fn may_open_all_namespaces() -> bool {
    // `USER_NS_INIT_INO` of include/uapi/linux/nsfs.h, and `CAP_SYS_ADMIN` of linux/capability.h.
    const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;
    const CAP_SYS_ADMIN: u32 = 21;
    inode("/proc/thread-self/ns/user") == Some(INITIAL_USER_NAMESPACE)
        && OwnStatus::read().is_some_and(|own| own.capabilities & (1 << CAP_SYS_ADMIN) != 0)
        // A security module may deny the capability.
        && match fs::read("/proc/thread-self/attr/current") {
            Ok(label) => label.starts_with(b"unconfined\n") || label.is_empty(),
            // No security module has labels.
            Err(error) => matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)),
        }
}

/// A file handle, the `struct file_handle` of
/// [open_by_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html).
#[repr(C)]
#[derive(Debug)]
struct Handle<T> {
    size: libc::c_uint,
    handle_type: libc::c_int,
    content: T,
}

/// `struct nsfs_file_handle` of include/uapi/linux/nsfs.h.
#[repr(C)]
#[derive(Debug)]
struct NamespaceContent {
    id: u64,
    namespace_type: u32,
    inode: u32,
}

/// Returns the handle of a process, which contains the inode of its pidfds (Linux 6.14).
fn process_handle(inode: u64) -> Handle<u64> {
    const FILEID_KERNFS: libc::c_int = 0xfe; // include/linux/exportfs.h
    Handle::new(FILEID_KERNFS, inode)
}

const FILEID_NSFS: libc::c_int = 0xf1; // include/linux/exportfs.h

/// Returns the handle of a pid namespace (Linux 6.18).
fn pid_namespace_handle(id: u64, inode: u32) -> Handle<NamespaceContent> {
    let namespace_type = libc::CLONE_NEWPID as u32;
    let content = NamespaceContent {
        id,
        namespace_type,
        inode,
    };
    Handle::new(FILEID_NSFS, content)
}

/// Returns the handle of our own pid namespace, if the kernel has such handles.
fn our_pid_namespace_handle() -> Option<Handle<NamespaceContent>> {
    if !may_use_handles() {
        return None;
    }
    let mut handle = pid_namespace_handle(0, 0);
    let mut mount_id: libc::c_int = 0;
    let (path, flags) = (OUR_PID_NAMESPACE.as_ptr(), libc::AT_SYMLINK_FOLLOW);
    let (buffer, mount) = (&raw mut handle, &raw mut mount_id);
    let call = libc::SYS_name_to_handle_at;
    // SAFETY: `path` ends with a null byte, `content` has room for `size` bytes, and `mount_id` is writable.
    let result = unsafe { libc::syscall(call, libc::AT_FDCWD, path, buffer, mount, flags) };
    let is_whole = handle.size as usize == size_of::<NamespaceContent>();
    let is_known = is_whole && handle.handle_type == FILEID_NSFS && handle.content.id != 0;
    (result == 0 && is_known).then_some(handle)
}

impl<T> Handle<T> {
    fn new(handle_type: libc::c_int, content: T) -> Handle<T> {
        Handle {
            size: size_of::<T>() as libc::c_uint,
            handle_type,
            content,
        }
    }

    /// Opens the file in the file system of `mount`, and closes it again. The error is the errno.
    fn open(&self, mount: RawFd) -> Result<(), i32> {
        let (call, flags) = (
            libc::SYS_open_by_handle_at,
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        // SAFETY: the handle is readable, and `content` has `size` bytes.
        let fd = unsafe { libc::syscall(call, mount, &raw const *self, flags) };
        if fd < 0 {
            return Err(errno());
        }
        // SAFETY: the system call has just returned this descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        Ok(())
    }
}

// Miri does not support these system calls.
#[cfg(all(test, not(miri)))]
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
    fn only_a_missing_process_has_exited_elsewhere() {
        let unknown = PidNamespace { inode: 1, id: None };
        let ours = pidfd::open(std::process::id() as libc::pid_t).unwrap();
        let Some(value) = pidfd::inode(ours.as_fd()) else {
            return eprintln!("skipped: no pidfs (Linux 6.9)");
        };
        let kind = KeyKind::Inode;
        assert!(!has_exited_elsewhere(IdentityKey { kind, value }, unknown));
        let never = IdentityKey {
            kind,
            value: u64::MAX,
        };
        let is_known = may_use_handles()
            && sees_all_processes()
            && process_handle(value).open(ours.as_raw_fd()).is_ok();
        assert_eq!(has_exited_elsewhere(never, unknown), is_known);
        let start = IdentityKey {
            kind: KeyKind::Start,
            value: u64::MAX,
        };
        assert!(!has_exited_elsewhere(start, unknown));
    }

    #[test]
    fn namespace_that_never_was_has_ended() {
        if !may_use_handles() || !may_open_all_namespaces() {
            return eprintln!("skipped: not the system's root");
        }
        let ours = our_pid_namespace().unwrap();
        // Ids count from 1 on.
        let id = ours.id.map(|_| u64::MAX - 1);
        assert_eq!(has_ended(PidNamespace { id, ..ours }), id.is_some());
    }
}
