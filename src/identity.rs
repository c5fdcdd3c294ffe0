//! The identity of a process: a value that can be stored as text.

use std::error::Error;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A value that distinguishes a process from later processes with the same pid.
///
/// An identity can be written to a pid file. After a restart, a supervisor finds its daemons again by
/// their identities:
///
/// ```
/// use tokio_process_exit::{ProcessExit, ProcessIdentity};
///
/// # #[cfg(any(target_os = "linux", windows))]
/// # fn main() -> std::io::Result<()> {
/// # let pid = std::process::id();
/// # let directory = std::env::temp_dir();
/// # let file = directory.join(format!("daemon-{pid}.pid"));
/// # // An emulator's /proc does not show this process as it is.
/// # if cfg!(tokio_process_exit_force_poll) { return Ok(()); }
/// let daemon = ProcessExit::open(pid)?;
/// std::fs::write(&file, daemon.identity()?.to_string())?;
///
/// // Later, perhaps in another process:
/// let line = std::fs::read_to_string(&file)?;
/// let identity: ProcessIdentity = line.parse().expect("a line that `to_string` returned");
/// let daemon = identity.open()?; // `NotFound` only if the daemon has exited
/// # assert_eq!(daemon.pid(), Some(pid));
/// # std::fs::remove_file(&file)?;
/// # Ok(())
/// # }
/// # #[cfg(not(any(target_os = "linux", windows)))]
/// # fn main() {}
/// ```
///
/// # What an identity consists of
///
/// | system | identity |
/// |---|---|
/// | Linux 6.9 and later | the inode of the process's pidfds, which no other process has |
/// | Linux before 6.9, or without pidfds | the start time, in ticks of 10 ms since boot |
/// | macOS | the unique id that the system gives to each process |
/// | FreeBSD, OpenBSD | the start time, in microseconds since boot (on OpenBSD, with an error of at most one) |
/// | NetBSD, DragonFly | the start time, in microseconds |
/// | Windows | the creation time, in units of 100 ns |
///
/// The pid is part of every identity. On Linux and macOS, so is the id of the boot: after a reboot, no
/// process has the identity. An identity by start time matches a later process only if that process has
/// the same pid and starts in the same unit of time.
///
/// On Linux, an identity also says where it was recorded: in which pid namespace, and for a start time in
/// which time namespace. [`open`](ProcessIdentity::open) can therefore distinguish a process that has
/// exited from a process that may run in another container
/// ([all cases](crate::how_it_works#opening-an-identity-on-linux)).
///
/// Two identities are equal if their lines are equal. Equal identities are of the same process. A process
/// may have unequal identities: by `inode` and by `start`, or recorded in different namespaces.
///
/// # Text format
///
/// [`Display`](fmt::Display) and [`FromStr`] use one line. The format is stable:
///
/// ```text
/// 1234 inode=5678 pidns=4026531836 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5
/// ```
///
/// The pid comes first, so other programs can read it. The second word is `inode`, `start` or `unique`
/// with a decimal number. The following words are:
///
/// - on Linux, `pidns`: the inode of the pid namespace as in the link `/proc/self/ns/pid`. Since Linux
///   6.18, a colon and the namespace's unique id follow, unless a seccomp filter is installed;
/// - on Linux after `start`, `timens`: the inode of the time namespace, if the kernel has time namespaces;
/// - on Linux and macOS, `boot`: the id of the boot. On Linux, the word is `mounted-boot` if a container
///   manager has mounted another file over `/proc/sys/kernel/random/boot_id`.
///
/// White space around the line is ignored.
///
/// Write the line to a temporary file and rename that file: a truncated line may be another valid
/// identity.
///
/// With the feature `serde`, an identity is serialized as this line.
///
/// # State files with a format of their own
///
/// If the format has a field for text, store the line in that field. Some formats have only a pid and, for
/// example, a start time. Then open the process first, and compare with the recorded value afterwards. If
/// the value is the recorded value, your process has had the pid all the time, so it is the opened process.
/// In the other order, another process could get the pid between the comparison and the open.
///
/// ```
/// use std::io;
/// use tokio_process_exit::ProcessExit;
///
/// /// Opens the process, unless it has exited. `recorded` is its start time on Linux, in ticks since boot.
/// fn find(pid: u32, recorded: u64) -> io::Result<Option<ProcessExit>> {
///     let Some(process) = ProcessExit::find(pid)? else {
///         return Ok(None);
///     };
///     let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
///         Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None), // just reaped
///         stat => stat?,
///     };
///     // The second field is the name of the program, which may contain spaces and parentheses.
///     let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
///     let start = fields.and_then(|mut fields| fields.nth(19)?.parse().ok());
///     Ok((start == Some(recorded)).then_some(process))
/// }
/// # #[cfg(target_os = "linux")]
/// # assert!(find(std::process::id(), 0).unwrap().is_none());
/// # let _ = find;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    pub(crate) pid: NonZeroU32,
    pub(crate) key: IdentityKey,
    pub(crate) origin: Origin,
}

/// The part of an identity that later processes with the same pid do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IdentityKey {
    pub(crate) kind: KeyKind,
    pub(crate) value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "no system has all of them")]
pub(crate) enum KeyKind {
    /// The inode of the process's pidfds, unique since boot.
    Inode,
    /// The start time, in the system's own unit.
    Start,
    /// The system's own number, unique since boot.
    Unique,
}

/// Where an identity was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// The pid namespace to which the pid belongs, on Linux.
    pub(crate) pid_namespace: Option<PidNamespace>,
    /// The inode of the time namespace to which the start time belongs. `None` on a Linux without time
    /// namespaces, and for other kinds of identities.
    pub(crate) time_namespace: Option<u64>,
    /// The boot of the system, on Linux and macOS.
    pub(crate) boot: Option<Boot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PidNamespace {
    /// The inode, which no other namespace has at the same time. The kernel recycles inodes.
    pub(crate) inode: u64,
    /// The id, which no other namespace has in the same boot (Linux 6.18).
    pub(crate) id: Option<u64>,
}

/// The id of one boot of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Boot {
    pub(crate) id: BootId,
    /// Whether the id comes from a file that is mounted over the system's. A container that restarts has
    /// then another id.
    pub(crate) is_mounted: bool,
}

/// The UUID of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BootId(u128);

impl ProcessIdentity {
    /// Returns the pid, which may belong to another process by now.
    ///
    /// # Examples
    ///
    /// ```
    /// let line = "1234 start=5678";
    /// let identity: tokio_process_exit::ProcessIdentity = line.parse().unwrap();
    /// assert_eq!(identity.pid(), 1234);
    /// ```
    pub fn pid(&self) -> u32 {
        self.pid.get()
    }
}

/// Formats the identity as one line, see [Text format](ProcessIdentity#text-format).
impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProcessIdentity { pid, key, origin } = self;
        write!(f, "{pid} {}={}", key.kind.name(), key.value)?;
        if let Some(PidNamespace { inode, id }) = origin.pid_namespace {
            write!(f, " pidns={inode}")?;
            if let Some(id) = id {
                write!(f, ":{id}")?;
            }
        }
        if let Some(inode) = origin.time_namespace {
            write!(f, " timens={inode}")?;
        }
        match origin.boot {
            Some(Boot { id, is_mounted }) => write!(f, " {}={id}", Boot::key(is_mounted)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProcessIdentity")
            .field(&format_args!("{self}"))
            .finish()
    }
}

/// Parses a line that [`Display`](fmt::Display) has formatted.
///
/// # Examples
///
/// ```
/// use tokio_process_exit::ProcessIdentity;
///
/// let line = "1234 unique=5678 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5\n";
/// let identity: ProcessIdentity = line.parse().unwrap();
/// assert_eq!(identity.pid(), 1234);
/// assert_eq!(identity.to_string(), line.trim());
///
/// // A pid alone is not an identity.
/// assert!("1234".parse::<ProcessIdentity>().is_err());
/// ```
impl FromStr for ProcessIdentity {
    type Err = ParseProcessIdentityError;

    fn from_str(line: &str) -> Result<ProcessIdentity, ParseProcessIdentityError> {
        let mut words = line.split_ascii_whitespace();
        let pid: NonZeroU32 = number(words.next())?;
        let (kind, value) = words
            .next()
            .and_then(|word| word.split_once('='))
            .ok_or(ParseProcessIdentityError(()))?;
        let kind = KeyKind::from_name(kind).ok_or(ParseProcessIdentityError(()))?;
        let value = number(Some(value))?;
        let mut words = words.peekable();
        let mut next_if_key = |key: &str| {
            let word = words.next_if(|word| word.split('=').next() == Some(key))?;
            word.get(key.len() + 1..)
        };
        let origin = Origin {
            pid_namespace: next_if_key("pidns").map(str::parse).transpose()?,
            time_namespace: next_if_key("timens")
                .map(|inode| number(Some(inode)))
                .transpose()?,
            boot: match next_if_key(Boot::key(false)) {
                Some(id) => Some((id, false)),
                None => next_if_key(Boot::key(true)).map(|id| (id, true)),
            }
            .map(|(id, is_mounted)| id.parse().map(|id| Boot { id, is_mounted }))
            .transpose()?,
        };
        let is_pid = i32::try_from(pid.get()).is_ok();
        if !is_pid || !origin.is_complete(kind) || words.next().is_some() {
            return Err(ParseProcessIdentityError(()));
        }
        let key = IdentityKey { kind, value };
        Ok(ProcessIdentity { pid, key, origin })
    }
}

/// Parses a number without a sign.
fn number<T: FromStr>(word: Option<&str>) -> Result<T, ParseProcessIdentityError> {
    word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|word| word.parse().ok())
        .ok_or(ParseProcessIdentityError(()))
}

impl IdentityKey {
    /// Whether two keys are of the same process. The values of one process may differ by `rounding`.
    pub(crate) fn is_same(self, other: IdentityKey, rounding: u64) -> bool {
        self.kind == other.kind && self.value.abs_diff(other.value) <= rounding
    }
}

impl Origin {
    /// Whether some system records all of this, and no more, with a key of this kind.
    fn is_complete(&self, kind: KeyKind) -> bool {
        let (in_pid_namespace, in_boot) = (self.pid_namespace.is_some(), self.boot.is_some());
        let is_linux = in_pid_namespace && in_boot;
        let is_plain = !in_pid_namespace && self.time_namespace.is_none();
        match kind {
            KeyKind::Inode => is_linux && self.time_namespace.is_none(),
            KeyKind::Start => is_linux || is_plain && !in_boot,
            KeyKind::Unique => is_plain && self.boot.is_some_and(|boot| !boot.is_mounted),
        }
    }
}

impl FromStr for PidNamespace {
    type Err = ParseProcessIdentityError;

    fn from_str(text: &str) -> Result<PidNamespace, ParseProcessIdentityError> {
        let (inode, id) = match text.split_once(':') {
            Some((inode, id)) => (inode, Some(number(Some(id))?)),
            None => (text, None),
        };
        let inode = number(Some(inode))?;
        Ok(PidNamespace { inode, id })
    }
}

impl KeyKind {
    const ALL: [KeyKind; 3] = [KeyKind::Inode, KeyKind::Start, KeyKind::Unique];

    fn name(self) -> &'static str {
        match self {
            KeyKind::Inode => "inode",
            KeyKind::Start => "start",
            KeyKind::Unique => "unique",
        }
    }

    fn from_name(name: &str) -> Option<KeyKind> {
        KeyKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Boot {
    fn key(is_mounted: bool) -> &'static str {
        if is_mounted { "mounted-boot" } else { "boot" }
    }
}

/// Formats the UUID in the usual groups of 8, 4, 4, 4 and 12 digits.
impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let groups = [
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..],
        ];
        f.write_str(&groups.join("-"))
    }
}

impl FromStr for BootId {
    type Err = ParseProcessIdentityError;

    fn from_str(text: &str) -> Result<BootId, ParseProcessIdentityError> {
        let is_uuid = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        u128::from_str_radix(&text.replace('-', ""), 16)
            .ok()
            .filter(|_| is_uuid)
            .map(BootId)
            .ok_or(ParseProcessIdentityError(()))
    }
}

/// The error of parsing a [`ProcessIdentity`].
///
/// # Examples
///
/// ```
/// let error = "1234".parse::<tokio_process_exit::ProcessIdentity>().unwrap_err();
/// assert!(error.to_string().starts_with("not the identity of a process"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseProcessIdentityError(pub(crate) ());

impl fmt::Display for ParseProcessIdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not the identity of a process: expected a whole line such as \"1234 inode=5678 pidns=9 boot=UUID\"",
        )
    }
}

impl Error for ParseProcessIdentityError {}

#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl serde::Serialize for ProcessIdentity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl<'de> serde::Deserialize<'de> for ProcessIdentity {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ProcessIdentity, D::Error> {
        struct Line;

        impl serde::de::Visitor<'_> for Line {
            type Value = ProcessIdentity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the identity of a process as a line of text")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<ProcessIdentity, E> {
                line.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5";

    #[test]
    fn parses_what_it_formats() {
        for line in [
            format!("1 inode=0 pidns=0 boot={BOOT}"),
            format!("1234 inode=5678 pidns=4026531836:4100 boot={BOOT}"),
            format!("1234 inode=5678 pidns=4026531836:4100 mounted-boot={BOOT}"),
            format!("2147483647 start=18446744073709551615 pidns=1 boot={BOOT}"),
            "1234 start=133742".into(),
            format!("1234 start=133742 pidns=4026531836 timens=4026531834 boot={BOOT}"),
            format!("1234 start=133742 pidns=1:18446744073709551615 timens=2 mounted-boot={BOOT}"),
            format!("1234 unique=1 boot={BOOT}"),
        ] {
            assert_eq!(line.parse::<ProcessIdentity>().unwrap().to_string(), line);
            let padded = format!(" {line}\r\n");
            assert_eq!(padded.parse::<ProcessIdentity>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn rejects_any_other_line() {
        for line in [
            "",
            "1234",
            "1234 ",
            "0 start=1",
            "-1 start=1",
            "+1 start=1",
            "2147483648 start=1",
            "4294967297 start=1",
            "1234 inode=1",
            "1234 unique=1",
            "1234 inode=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 inode=1 pidns=2",
            "1234 inode=1 pidns=2 timens=3 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 unique=1 pidns=2 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 unique=1 timens=2 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 unique=1 mounted-boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=1",
            "1234 start=1 timens=1",
            "1234 start=1 timens=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns= boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=-1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=1: boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=:1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=1:2:3 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=1:+2 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=1 timens= boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 timens=1 pidns=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 pidns=1 pidns=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5 pidns=1",
            "1234 start=1 pidns=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5 mounted-boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 unique=1 boot=boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 start",
            "1234 start=",
            "1234 start=-1",
            "1234 start=+1",
            "1234 start=1a",
            "1234 start=18446744073709551616",
            "1234 Start=1",
            "1234 time=1",
            "1234 unique=1 boot=",
            "1234 unique=1 boot=2b8b8fd13c6e4bfea6cff0a1d3f8f9d5",
            "1234 unique=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d",
            "1234 unique=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-+0a1d3f8f9d5",
            "1234 unique=1 boot=2b8b8fd1-3c6e-4bfe-a6cf_f0a1d3f8f9d5",
            "1234 unique=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-é0a1d3f8f9d",
            "1234 unique=1 2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5",
            "1234 unique=1 boot=2b8b8fd1-3c6e-4bfe-a6cf-f0a1d3f8f9d5 more",
            "1234\0 start=1",
        ] {
            assert_eq!(
                line.parse::<ProcessIdentity>(),
                Err(ParseProcessIdentityError(())),
                "{line:?}"
            );
        }
    }
}
