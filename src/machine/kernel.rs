//! What the kernel has.

use std::fs;

use linux_raw_sys::landlock::LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::system::uname;

use super::Fact;
use crate::plan::OwnCgroup;
use crate::sandbox::Controllers;
use crate::sys;

/// The oldest kernel on which all that a sandbox needs is there.
const OLDEST: (u32, u32) = (5, 10);
/// The version of landlock's interface that can keep a process away from abstract sockets.
const SCOPES: u32 = 6;

pub(super) fn version() -> Fact {
    let names = uname();
    let (release, machine) = (names.release().to_string_lossy(), names.machine().to_string_lossy());
    let words = format!("Linux {release} on {machine}");
    match version_of(&release) {
        Some(version) if version < OLDEST => {
            Fact::missing("kernel", format!("{words}; Linux {}.{} or newer is needed", OLDEST.0, OLDEST.1))
        }
        _ => Fact::there("kernel", words),
    }
}

/// The first two numbers of a kernel's release.
pub(crate) fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn seccomp() -> Fact {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_confined = status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    let ours = if is_confined { "; one is upon this program already, as in a container" } else { "" };
    match sys::can_filter_system_calls() {
        Ok(()) => Fact::there("seccomp", format!("filters that answer with an error{ours}")),
        Err(errno) => Fact::missing(
            "seccomp",
            format!("the kernel takes no filters: {}; it was built without CONFIG_SECCOMP_FILTER{ours}", said(errno)),
        ),
    }
}

pub(super) fn landlock() -> Fact {
    let consequence = "a build that shares the network can reach the host's abstract sockets";
    match sys::landlock_version() {
        Ok(version) if version < SCOPES => {
            Fact::dispensable("landlock", format!("version {version}, without scopes (Linux 6.12): {consequence}"))
        }
        Ok(version) => match sys::landlock_create_ruleset(LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET) {
            Ok(_) => Fact::there("landlock", format!("version {version}, with scopes")),
            Err(errno) => Fact::dispensable("landlock", format!("it refuses a scope: {}; {consequence}", said(errno))),
        },
        Err(Errno::OPNOTSUPP) => Fact::dispensable(
            "landlock",
            format!("built into the kernel and switched off («lsm=landlock,…» on its command line): {consequence}"),
        ),
        Err(errno) => Fact::dispensable("landlock", format!("{}: {consequence}", said(errno))),
    }
}

pub(super) fn kvm() -> Fact {
    match open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Fact::there("/dev/kvm", "you may use it"),
        Err(Errno::NOENT) => {
            Fact::dispensable("/dev/kvm", "this machine has none; only builds that ask for kvm want it")
        }
        Err(Errno::ACCESS) => {
            Fact::dispensable("/dev/kvm", "not for you to use; «sudo usermod -aG kvm $USER» and a new login allow it")
        }
        Err(errno) => Fact::dispensable("/dev/kvm", format!("cannot be opened: {}", said(errno))),
    }
}

pub(super) fn cgroups() -> Fact {
    const SUBJECT: &str = "cgroup v2";
    match OwnCgroup::place() {
        Ok(directory) => match Controllers::tried_in(&directory) {
            Ok(controllers) if controllers.is_complete() => {
                Fact::there(SUBJECT, format!("{} is yours, and limits {controllers}", directory.display()))
            }
            Ok(controllers) => Fact::dispensable(
                SUBJECT,
                format!(
                    "{} is yours, and limits {controllers}; other limits are those of processes",
                    directory.display()
                ),
            ),
            Err(error) => Fact::dispensable(SUBJECT, super::in_words(&error)),
        },
        Err(reason) => Fact::dispensable(SUBJECT, format!("{reason}; limits are those of processes")),
    }
}

/// An errno in the kernel's words.
pub(super) fn said(errno: Errno) -> String {
    super::without_numbers(&errno.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_two_numbers() {
        assert_eq!(version_of("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version_of("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version_of("6.1"), Some((6, 1)));
        assert_eq!(version_of("rc"), None);
    }
}
