//! Whom a file belongs to, in words, and who could exchange it.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use rustix::fs::{Mode, Stat};
use rustix::process::geteuid;

/// Owner and mode of a file: `nixbld1 (uid 30001, mode 0600)`.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    uid: u32,
    mode: u32,
}

impl Owner {
    /// The owner and the mode that a `stat` call told.
    pub fn of(status: &Stat) -> Self {
        Self { uid: status.st_uid, mode: Mode::from_raw_mode(status.st_mode).bits() }
    }
}

/// The ids that Nix takes for builds by itself with `auto-allocate-uids`: its settings `start-id` and `id-count`, by default.
const ALLOCATED_IDS: std::ops::Range<u32> = 0x3400_0000..0x3400_0000 + 0x0080_0000;

/// Whether `uid` is one that a multi-user Nix builds as: a member of its group of build users, as `nixbld1` is of `nixbld`, or an
/// id of [`auto-allocate-uids`].
///
/// [`auto-allocate-uids`]: https://nix.dev/manual/nix/latest/command-ref/conf-file#conf-auto-allocate-uids
pub fn is_build_user(uid: u32, group: &str) -> bool {
    if uid == 0 || uid == geteuid().as_raw() {
        return false;
    }
    if ALLOCATED_IDS.contains(&uid) {
        return true;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some(name) = name_of(&passwd, uid) else {
        return false;
    };
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    is_numbered(name, "nixbld") || is_member(&groups, group, name) || is_member(&groups, "nixbld", name)
}

/// Whether nobody but those whom `is_trusted` tells can put something else in the place of what is in a directory and belongs to one of
/// them: its owner always can, and who may write to it, unless the sticky bit is set.
pub fn keeps_what_is_in_it(directory: &Stat, is_trusted: impl FnOnce(u32) -> bool) -> bool {
    let mode = Mode::from_raw_mode(directory.st_mode);
    let is_shared = mode.intersects(Mode::WGRP | Mode::WOTH);
    is_trusted(directory.st_uid) && (!is_shared || mode.contains(Mode::SVTX))
}

/// `nixbld7`, and on macOS and some Linux distributions `_nixbld7`.
fn is_numbered(name: &str, stem: &str) -> bool {
    let number = name.trim_start_matches('_').strip_prefix(stem);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether `user` is listed as a member of `group` in a file of the form that [`group(5)`] describes.
///
/// [`group(5)`]: https://man7.org/linux/man-pages/man5/group.5.html
fn is_member(groups: &str, group: &str, user: &str) -> bool {
    groups.lines().any(|line| {
        let mut fields = line.split(':');
        fields.next() == Some(group) && fields.nth(2).is_some_and(|members| members.split(',').any(|name| name == user))
    })
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, mode } = self;
        // Only a name for a message: a user that is not in the file (LDAP, systemd) keeps his number.
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        match name_of(&passwd, *uid) {
            Some(name) => write!(f, "{name} (uid {uid}, mode {mode:04o})"),
            None => write!(f, "uid {uid} (mode {mode:04o})"),
        }
    }
}

/// The name of a user, as `/etc/passwd` has it.
pub fn name_of_user(uid: u32) -> Option<String> {
    name_of(&fs::read_to_string("/etc/passwd").ok()?, uid).map(String::from)
}

/// The name of the user `uid` in a file of the form that [`passwd(5)`] describes.
///
/// [`passwd(5)`]: https://man7.org/linux/man-pages/man5/passwd.5.html
fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The home directory of a user, as `/etc/passwd` has it.
pub fn home_of(uid: u32) -> Option<PathBuf> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    home_in(&passwd, uid).map(PathBuf::from).filter(|home| home.is_absolute())
}

/// The home directory of the user `uid` in a file of the form that [`passwd(5)`] describes.
///
/// [`passwd(5)`]: https://man7.org/linux/man-pages/man5/passwd.5.html
fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).copied())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_users_are_known_by_number_group_and_range() {
        assert!(is_numbered("nixbld12", "nixbld") && is_numbered("_nixbld1", "nixbld"));
        assert!(!is_numbered("nixbld", "nixbld") && !is_numbered("nixbldx", "nixbld"));
        let groups = "users:x:100:\nbuilders:x:30000:build-a,build-b\n";
        assert!(is_member(groups, "builders", "build-b"));
        assert!(!is_member(groups, "builders", "build") && !is_member(groups, "users", "build-a"));
        assert!(is_build_user(0x3400_0001, "") && !is_build_user(0, "nixbld"));
    }

    #[test]
    fn a_user_has_the_home_of_his_line() {
        let passwd = "odd line\nada:x:1000:100:Ada:/home/ada:/bin/sh\nshort:x:1001\n";
        assert_eq!((home_in(passwd, 1000), home_in(passwd, 1001), home_in(passwd, 7)), (Some("/home/ada"), None, None));
    }

    #[test]
    fn a_user_has_the_name_of_his_line() {
        let passwd = "root:x:0:0::/root:/bin/sh\nodd line\nnixbld1:x:30001:30000::/var/empty:/sbin/nologin\n";
        assert_eq!(name_of(passwd, 30001), Some("nixbld1"));
        assert_eq!(name_of(passwd, 7), None);
    }
}
