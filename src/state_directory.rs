//! Where this program keeps what outlives a sandbox: `$XDG_STATE_HOME/nix-build-shell`, by default `~/.local/state/nix-build-shell`, as
//! in the [XDG Base Directory Specification].
//!
//! [XDG Base Directory Specification]: https://specifications.freedesktop.org/basedir-spec/latest/

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Dir, Mode, OFlags, fchown, fstat, mkdirat, openat};
use rustix::io::Errno;

use crate::caller::Caller;

/// What it is called.
const NAME: &str = "nix-build-shell";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory of the caller's own, open, so that everything in it is reached without its name.
#[derive(Debug)]
pub struct StateDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// The directory.
    pub handle: OwnedFd,
}

impl StateDirectory {
    /// Opens `below` in the caller's directory, under sudo that of the user who called sudo, and makes what is missing, for him alone
    /// (mode 0700).
    ///
    /// Every directory that is opened or written to has to be his own, and none that is made is reached through a link: with sudo,
    /// he gets nothing done that he could not do himself.
    ///
    /// # Errors
    /// Where he has no home, or it is somebody else's, or full.
    pub fn open(caller: &Caller, below: &str) -> Result<Self> {
        let variables = ["XDG_STATE_HOME", "SUDO_HOME", "HOME"].map(|name| env::var_os(name).map(PathBuf::from));
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let [state_home, sudo_home, home] = variables.map(|path| path.filter(|path| path.is_absolute()));
        // Of root's variables some may be those of the user who called sudo.
        let of_passwd = home_of(&passwd, caller.uid.as_raw()).map(PathBuf::from);
        let homes = if caller.must_change_ids() { [sudo_home, of_passwd, home] } else { [home, of_passwd, None] };
        let state_homes =
            state_home.into_iter().chain(homes.into_iter().flatten().map(|home| home.join(".local/state")));
        let mut complaint = None;
        for state_home in state_homes {
            match Self::open_or_make(&state_home.join(NAME).join(below), caller) {
                Ok(directory) => return Ok(directory),
                Err(error) => complaint = complaint.or(Some(error)),
            }
        }
        Err(complaint.unwrap_or_else(|| anyhow::anyhow!("there is no home directory")))
    }

    fn open_or_make(path: &Path, caller: &Caller) -> Result<Self> {
        let mut missing = Vec::new();
        let mut there = path;
        let mut handle = loop {
            match openat(CWD, there, DIRECTORY, Mode::empty()) {
                Ok(handle) => break handle,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).with_context(|| format!("cannot open {}", there.display())),
            }
            missing.extend(there.file_name());
            there = there.parent().unwrap_or(Path::new("/"));
        };
        check_owner(&handle, there, caller)?;
        let mut made = there.to_owned();
        for name in missing.into_iter().rev() {
            made.push(name);
            handle = make(&handle, name, &made, caller)?;
        }
        Ok(Self { path: path.to_owned(), handle })
    }
}

fn make(parent: &OwnedFd, name: &OsStr, path: &Path, caller: &Caller) -> Result<OwnedFd> {
    let cannot_make = || format!("cannot make {}", path.display());
    let is_new = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        // Another session was quicker.
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno).with_context(cannot_make),
    };
    let handle = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).with_context(cannot_make)?;
    // The caller, whose the parent is, may have put another directory of root's there meanwhile: he gets none that holds anything.
    if is_new && caller.must_change_ids() && is_empty(&handle) {
        fchown(&handle, Some(caller.uid), Some(caller.gid)).with_context(cannot_make)?;
    }
    check_owner(&handle, path, caller)?;
    Ok(handle)
}

fn is_empty(directory: &OwnedFd) -> bool {
    Dir::read_from(directory).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")))
    })
}

fn check_owner(handle: &OwnedFd, path: &Path, caller: &Caller) -> Result<()> {
    if fstat(handle).with_context(|| format!("cannot look at {}", path.display()))?.st_uid != caller.uid.as_raw() {
        bail!("{} belongs to somebody else", path.display());
    }
    Ok(())
}

/// The home of a user, as a file of the form that [`passwd(5)`] describes has it.
///
/// [`passwd(5)`]: https://man7.org/linux/man-pages/man5/passwd.5.html
fn home_of(passwd: &str, uid: u32) -> Option<&str> {
    let uid = uid.to_string();
    let line = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|line| line.get(2) == Some(&uid.as_str()))?;
    line.get(5).copied().filter(|home| home.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_home_is_found_by_its_users_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:100:Ada:/home/ada:/bin/bash\nbroken\nno:x:7:7::\n";
        assert_eq!(home_of(passwd, 1000), Some("/home/ada"));
        assert_eq!(home_of(passwd, 100), None);
        assert_eq!(home_of(passwd, 7), None);
    }

    #[test]
    fn what_is_missing_is_made_for_the_caller_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state/nix-build-shell/history");
        let state = StateDirectory::open_or_make(&path, &Caller::current()).unwrap();
        assert_eq!(state.path, path);
        let status = fs::metadata(&path).unwrap();
        assert_eq!((status.permissions().mode() & 0o7777, status.ino()), (0o700, fstat(&state.handle).unwrap().st_ino));
        assert_eq!(fs::metadata(home.path().join("state")).unwrap().permissions().mode() & 0o7777, 0o700);
        StateDirectory::open_or_make(&path, &Caller::current()).unwrap();
    }

    #[test]
    fn a_link_that_leads_nowhere_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        symlink("elsewhere", home.path().join("state")).unwrap();
        let error = StateDirectory::open_or_make(&home.path().join("state/x"), &Caller::current()).unwrap_err();
        assert!(error.to_string().contains("cannot make"), "{error:#}");
        assert!(!home.path().join("elsewhere").exists());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_not_used() {
        let mut somebody = Caller::current();
        somebody.uid = rustix::process::Uid::from_raw(somebody.uid.as_raw() + 1);
        let home = tempfile::tempdir().unwrap();
        let error = StateDirectory::open_or_make(&home.path().join("state"), &somebody).unwrap_err();
        assert!(error.to_string().contains("belongs to somebody else"), "{error:#}");
        assert!(!home.path().join("state").exists());
    }
}
