//! Whom a file belongs to, in words.

use std::fmt;
use std::fs;

use rustix::fs::{Mode, Stat};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_of_his_line() {
        let passwd = "root:x:0:0::/root:/bin/sh\nodd line\nnixbld1:x:30001:30000::/var/empty:/sbin/nologin\n";
        assert_eq!(name_of(passwd, 30001), Some("nixbld1"));
        assert_eq!(name_of(passwd, 7), None);
    }
}
