//! Whose files the sandbox works with: the user who called us, also through sudo.

use std::env;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, dumpable_behavior, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The user and group that the sandbox's one user id and group id are mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user outside.
    pub uid: Uid,
    /// The group outside.
    pub gid: Gid,
    through_sudo: bool,
}

impl Caller {
    /// The user who runs us; under sudo the one who called sudo, as `SUDO_UID` and `SUDO_GID` tell, since real root never goes
    /// into the sandbox when there is somebody else to map.
    pub fn current() -> Self {
        let id = |name| env::var(name).ok()?.parse::<u32>().ok();
        Self::from_ids(geteuid(), getegid(), id("SUDO_UID"), id("SUDO_GID"))
    }

    fn from_ids(uid: Uid, gid: Gid, sudo_uid: Option<u32>, sudo_gid: Option<u32>) -> Self {
        match (sudo_uid, sudo_gid) {
            (Some(user), Some(group)) if uid.is_root() && user != 0 && user != NO_ID && group != NO_ID => {
                Self { uid: Uid::from_raw(user), gid: Gid::from_raw(group), through_sudo: true }
            }
            _ => Self { uid, gid, through_sudo: false },
        }
    }

    /// Whether the child is cloned as somebody else and has to become the mapped user first.
    pub fn must_change_ids(&self) -> bool {
        self.through_sudo
    }

    /// Whether this process itself is the caller, and has no more rights than any user.
    pub fn is_ordinary_user(&self) -> bool {
        !self.is_root() && !self.must_change_ids()
    }

    /// Does `action` with no more rights than the caller has: under sudo, in a directory of his, he could lead root astray. It may only
    /// be called while there is no other thread, of which it would say nothing.
    ///
    /// # Errors
    /// Where the ids cannot be changed: the action is not done then. Where they cannot be changed back, it is, and this process goes on
    /// with no more rights than the caller has.
    pub fn with_own_rights<T>(&self, action: impl FnOnce() -> T) -> Result<T> {
        if !self.through_sudo || geteuid() == self.uid {
            return Ok(action());
        }
        let rights = OwnRights::take(self).context("cannot take the rights of the user who called sudo")?;
        let result = action();
        rights.give_back().context("cannot take root's rights again, after those of the user who called sudo")?;
        Ok(result)
    }

    /// Whether the sandbox's processes own root's files on the host: then modes alone protect nothing of the host's.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }
}

/// The effective ids are the caller's, until they are given back. The others stay root's: he can neither trace nor end us meanwhile.
struct OwnRights {
    group: Gid,
    dumpable: DumpableBehavior,
}

impl OwnRights {
    fn take(caller: &Caller) -> rustix::io::Result<Self> {
        // The kernel forgets it when ids change.
        let rights = Self { group: getegid(), dumpable: dumpable_behavior()? };
        match set_thread_groups(&[]) {
            Ok(()) => {}
            // A user namespace without «setgroups»: there no group gives rights that are worth something.
            Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        set_thread_res_gid(None, caller.gid, None)?;
        match set_thread_res_uid(None, caller.uid, None) {
            Ok(()) => Ok(rights),
            Err(errno) => rights.give_back().and(Err(errno)),
        }
    }

    fn give_back(self) -> rustix::io::Result<()> {
        set_thread_res_uid(None, Uid::ROOT, None)?;
        set_thread_res_gid(None, self.group, None)?;
        match set_dumpable_behavior(self.dumpable) {
            // Nobody may ask for what a system is set to where a program changes its user: for root alone.
            Err(Errno::INVAL) => Ok(()),
            answer => answer,
        }
    }
}

/// The highest number means «no id» to the kernel.
const NO_ID: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, sudo: Option<(u32, u32)>) -> Caller {
        Caller::from_ids(
            Uid::from_raw(uid),
            Gid::from_raw(uid),
            sudo.map(|(user, _)| user),
            sudo.map(|(_, group)| group),
        )
    }

    #[test]
    fn under_sudo_the_caller_is_who_called_sudo() {
        let caller = caller(0, Some((501, 20)));
        assert_eq!((caller.uid.as_raw(), caller.gid.as_raw()), (501, 20));
        assert!(caller.must_change_ids() && !caller.is_root());
    }

    #[test]
    fn a_user_in_the_group_of_root_is_not_root() {
        let caller = caller(0, Some((501, 0)));
        assert_eq!((caller.uid.as_raw(), caller.gid.as_raw()), (501, 0));
    }

    #[test]
    fn sudo_to_root_by_root_is_root() {
        assert!(caller(0, Some((0, 0))).is_root());
        assert!(caller(0, Some((u32::MAX, 20))).is_root());
    }

    #[test]
    fn an_unprivileged_user_is_himself_whatever_the_environment_says() {
        assert_eq!(caller(501, Some((0, 0))).uid.as_raw(), 501);
        assert_eq!(caller(501, Some((502, 502))).uid.as_raw(), 501);
    }
}
