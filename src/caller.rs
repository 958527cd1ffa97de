//! Whose files the sandbox works with: the user who called us, also through sudo.

use std::env;

use rustix::process::{Gid, Uid, getegid, geteuid};

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

    /// Whether the sandbox's processes own root's files on the host: then modes alone protect nothing of the host's.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
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
