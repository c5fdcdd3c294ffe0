//! Finding the members of a group.

use std::io;
use std::mem;

use crate::sys::{Group, GroupList};

/// A search for living members of a group. It may take several passes over all processes.
pub(super) struct Listing {
    list: GroupList,
    has_zombies: bool,
}

/// The result of a [`Listing`].
#[derive(Debug)]
pub(super) enum Found {
    /// The pids of members that had not exited when they were listed.
    Alive(Vec<u32>),
    /// No member is alive.
    Nobody { has_zombies: bool },
}

impl Listing {
    pub(super) fn start(group: Group) -> io::Result<Listing> {
        count_listing();
        Ok(Listing {
            list: GroupList::start(group)?,
            has_zombies: false,
        })
    }

    /// Reads at most `max` processes. Returns the result once it is known.
    pub(super) fn read(&mut self, max: usize) -> io::Result<Option<Found>> {
        if !self.list.read(max)? {
            return Ok(None);
        }
        let members = mem::take(&mut self.list.members);
        if !members.alive.is_empty() {
            return Ok(Some(Found::Alive(members.alive)));
        }
        self.has_zombies |= members.has_zombies;
        if self.list.next_pass()? {
            return Ok(None);
        }
        let has_zombies = self.has_zombies;
        Ok(Some(Found::Nobody { has_zombies }))
    }

    /// Lists without a pause.
    pub(super) fn read_all(group: Group) -> io::Result<Found> {
        let mut listing = Listing::start(group)?;
        loop {
            if let Some(found) = listing.read(usize::MAX)? {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
thread_local! {
    pub(super) static LISTINGS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts the listings of this thread, for the tests.
fn count_listing() {
    #[cfg(test)]
    LISTINGS.set(LISTINGS.get() + 1);
}

#[cfg(all(
    test,
    target_os = "linux",
    not(any(miri, tokio_process_exit_loom, tokio_process_exit_fake_kqueue))
))]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;
    use crate::exit_group::GroupExit;

    #[test]
    fn lists_once_per_emptying() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let mut members: Vec<Child> = Vec::new();
        for _ in 0..50 {
            let pgid = members.first().map_or(0, |leader| leader.id() as i32);
            let mut command = Command::new("sleep");
            members.push(command.arg("3600").process_group(pgid).spawn().unwrap());
        }
        let mut group = GroupExit::open(members[0].id()).unwrap();
        assert_eq!(LISTINGS.replace(0), 1);
        runtime.block_on(async {
            for member in &mut members {
                assert_eq!(LISTINGS.get(), 0);
                member.kill().unwrap();
                let timeout = std::time::Duration::from_millis(2);
                let _ = tokio::time::timeout(timeout, &mut group).await;
            }
            // The zombies are left.
            group.await.unwrap();
        });
        assert_eq!(LISTINGS.get(), 1);
        for member in &mut members {
            member.wait().unwrap();
        }
    }
}
