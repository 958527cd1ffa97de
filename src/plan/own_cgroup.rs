//! Whether the sandbox can have a cgroup of its own, and where: [`cgroups(7)`].
//!
//! [`cgroups(7)`]: https://man7.org/linux/man-pages/man7/cgroups.7.html

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general::CGROUP2_SUPER_MAGIC;
use rustix::fs::{Access, access, statfs};
use rustix::io::Errno;

use crate::nix::Settings;

/// Who gives the caller a cgroup to do with as he likes.
const REMEDY: &str = "«systemd-run --user --scope --property=Delegate=yes nix-build-shell …» has one that is";

/// The cgroup of a sandbox's own, where Nix gives its builds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnCgroup {
    /// The sandbox stays in the cgroup that it is started in.
    Unwanted,
    /// The sandbox starts in a new one below this directory, which is our own cgroup.
    Below(PathBuf),
    /// The sandbox that is joined is in this one.
    Existing(PathBuf),
    /// It stays in ours, for want of the rights to make one or of a place: why, in a sentence without an end.
    Unavailable(String),
}

impl OwnCgroup {
    /// As `use-cgroups` wants it, and as far as this machine allows. Nix shows the setting as true only where its experimental
    /// feature `cgroups` is on. Like Nix it looks at cgroup v2 only, and is content with one that stands beside cgroup v1.
    pub(super) fn of(settings: &Settings) -> Self {
        if !settings.use_cgroups {
            return Self::Unwanted;
        }
        match Self::place() {
            Ok(directory) => Self::Below(directory),
            Err(reason) => Self::Unavailable(reason),
        }
    }

    /// What to do where there is none.
    pub(crate) const REMEDY: &'static str = REMEDY;

    /// The directory in which a sandbox could have one on this machine, wanted or not.
    ///
    /// # Errors
    /// Why there is none, in a sentence without an end.
    pub(crate) fn place() -> Result<PathBuf, String> {
        our_directory().and_then(delegated)
    }

    /// The directory to make it in.
    pub fn parent(&self) -> Option<&Path> {
        match self {
            Self::Below(directory) => Some(directory),
            Self::Unwanted | Self::Existing(_) | Self::Unavailable(_) => None,
        }
    }
}

/// The directory of the cgroup that this process is in.
fn our_directory() -> Result<PathBuf, String> {
    let cgroups = fs::read("/proc/self/cgroup").unwrap_or_default();
    let ours = path_of_ours(&cgroups).ok_or("cgroup v2 is not in use on this machine")?;
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<_> = mounts.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
    if mounts.is_empty() {
        return Err("cgroup v2 is not mounted".into());
    }
    let directories = mounts.iter().filter_map(|mount| mount.directory_of(&ours));
    // Something else may be mounted on top.
    let is_cgroup = |directory: &PathBuf| statfs(directory).is_ok_and(|fs| fs.f_type == i64::from(CGROUP2_SUPER_MAGIC));
    let not_shown = || format!("no mounted cgroup v2 file system shows our own cgroup, {}", ours.display());
    directories.into_iter().find(is_cgroup).ok_or_else(not_shown)
}

/// The directory again, if we may make a cgroup in it and move a process from it to there: then it is delegated to us.
fn delegated(directory: PathBuf) -> Result<PathBuf, String> {
    let needed =
        [(directory.clone(), Access::WRITE_OK | Access::EXEC_OK), (directory.join("cgroup.procs"), Access::WRITE_OK)];
    for (path, rights) in needed {
        let shown = directory.display();
        match access(path, rights) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err(format!("our own cgroup, {shown}, is not delegated to you; {REMEDY}"));
            }
            Err(Errno::ROFS) => return Err(format!("our own cgroup, {shown}, is mounted read-only")),
            Err(errno) => return Err(format!("our own cgroup, {shown}, cannot be used: {errno}")),
        }
    }
    Ok(directory)
}

/// Our cgroup's path in the hierarchy of cgroup v2, which has the number 0 and no controllers in its line of `/proc/self/cgroup`.
fn path_of_ours(cgroups: &[u8]) -> Option<PathBuf> {
    let path = cgroups.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(OsString::from_vec(path.to_vec()).into())
}

/// A cgroup v2 file system that is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Which cgroup is seen at the mount point.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Reads a line of `/proc/self/mountinfo`, as of `proc_pid_mountinfo(5)`, if it is such a mount's.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        // Optional fields end with a lone hyphen, and the type follows.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| Self { root: unescaped(root), point: unescaped(point) })
    }

    /// Where this mount shows the cgroup `path`; `None` where it is above or beside what is mounted.
    fn directory_of(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.root).ok()?;
        // Seen from a cgroup namespace, what is outside of it begins with «/..».
        let is_inside = !below.iter().any(|name| name == "..");
        is_inside.then(|| self.point.join(below).components().collect())
    }
}

/// A path with the kernel's escapes taken back: three octal digits after a backslash.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn our_cgroup_is_the_one_of_the_second_version() {
        let hybrid = b"9:name=systemd:/user\n4:memory:/elsewhere\n0::/user.slice/a b.scope\n";
        assert_eq!(path_of_ours(hybrid), Some("/user.slice/a b.scope".into()));
        assert_eq!(path_of_ours(b"4:memory:/elsewhere\n1:cpu:/\n"), None);
    }

    #[test]
    fn mounts_of_the_second_version_are_found_among_others() {
        let mount = Mount::parse(
            br"41 31 0:38 /init\040scope /sys/fs/cgroup\134x rw,relatime shared:4 master:2 - cgroup2 none rw",
        );
        assert_eq!(mount, Some(Mount { root: "/init scope".into(), point: r"/sys/fs/cgroup\x".into() }));
        for line in [
            &b"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"[..],
            b"33 31 0:30 / /cgroup2 rw,relatime - tmpfs cgroup2 rw",
            b"34 31 0:31 / /cgroup2 rw -",
            b"",
        ] {
            assert_eq!(Mount::parse(line), None);
        }
    }

    #[test]
    fn a_mount_shows_what_is_below_its_root() {
        let whole = Mount { root: "/".into(), point: "/sys/fs/cgroup".into() };
        assert_eq!(whole.directory_of(Path::new("/a/b")), Some("/sys/fs/cgroup/a/b".into()));
        // Without a slash at the end.
        assert_eq!(whole.directory_of(Path::new("/")).unwrap().as_os_str(), "/sys/fs/cgroup");
        assert_eq!(whole.directory_of(Path::new("/../b")), None);
        let part = Mount { root: "/a".into(), point: "/mnt".into() };
        assert_eq!(part.directory_of(Path::new("/a/b")), Some("/mnt/b".into()));
        assert_eq!(part.directory_of(Path::new("/ab")), None);
        assert_eq!(part.directory_of(Path::new("/")), None);
        let above = Mount { root: "/..".into(), point: "/mnt".into() };
        assert_eq!(above.directory_of(Path::new("/a")), None);
    }

    #[test]
    fn only_a_backslash_with_three_octal_digits_is_an_escape() {
        for (field, path) in [(r"a\040b\011", "a b\t"), (r"\04", r"\04"), (r"\999\134", r"\999\"), ("", "")] {
            assert_eq!(unescaped(field.as_bytes()), Path::new(path));
        }
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let reason = delegated(directory.path().to_owned()).unwrap_err();
        assert!(reason.ends_with("cannot be used: No such file or directory (os error 2)"), "{reason}");
        let processes = directory.path().join("cgroup.procs");
        fs::write(&processes, "").unwrap();
        assert_eq!(delegated(directory.path().to_owned()).unwrap(), directory.path());
        // Root may write whatever the mode says.
        if !rustix::process::geteuid().is_root() {
            fs::set_permissions(&processes, fs::Permissions::from_mode(0o444)).unwrap();
            assert!(delegated(directory.path().to_owned()).unwrap_err().contains("is not delegated to you"));
        }
    }

    #[test]
    fn without_the_setting_nothing_is_looked_up() {
        assert_eq!(OwnCgroup::of(&Settings::default()), OwnCgroup::Unwanted);
    }
}
