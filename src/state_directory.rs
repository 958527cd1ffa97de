//! Where this program keeps what outlives a sandbox: `$XDG_STATE_HOME/nix-build-shell`, by default `~/.local/state/nix-build-shell`, as
//! in the [XDG Base Directory Specification].
//!
//! [XDG Base Directory Specification]: https://specifications.freedesktop.org/basedir-spec/latest/

use std::env;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{CWD, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;

use crate::caller::Caller;
use crate::owner::home_of;

/// What it is called.
const NAME: &str = "nix-build-shell";
const NO_HOME: &str = "there is no home directory to keep anything in: set XDG_STATE_HOME to a directory of yours";
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
    /// It is done with his rights, every directory that is opened or written to has to be his own, and none that is made is reached
    /// through a link: with sudo, he gets nothing done that he could not do himself.
    ///
    /// # Errors
    /// Where he has no home, or it is somebody else's, or full.
    pub fn open(caller: &Caller, below: &str) -> Result<Self> {
        let mut complaint = None;
        for path in paths(caller, below) {
            match caller.with_own_rights(|| Self::open_or_make(&path, caller))? {
                Ok(directory) => return Ok(directory),
                Err(error) => complaint = complaint.or(Some(error)),
            }
        }
        Err(complaint.unwrap_or_else(|| anyhow!(NO_HOME)))
    }

    /// The same where it is there already; nothing where it is not.
    ///
    /// # Errors
    /// Where what is there is somebody else's, or cannot be opened.
    pub fn find(caller: &Caller, below: &str) -> Result<Option<Self>> {
        let mut complaint = None;
        for path in paths(caller, below) {
            let found = match caller.with_own_rights(|| openat(CWD, &path, DIRECTORY, Mode::empty()))? {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => Err(errno).with_context(|| format!("cannot open {}", path.display())),
                Ok(handle) => check_owner(&handle, &path, caller).map(|()| Self { path, handle }),
            };
            match found {
                Ok(directory) => return Ok(Some(directory)),
                Err(error) => complaint = complaint.or(Some(error)),
            }
        }
        complaint.map_or(Ok(None), Err)
    }

    /// Where [`open`](Self::open) would look first.
    ///
    /// # Errors
    /// Where the caller has no home.
    pub fn expected_path(caller: &Caller, below: &str) -> Result<PathBuf> {
        paths(caller, below).next().ok_or_else(|| anyhow!(NO_HOME))
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

/// Where the directory may be, the best place first.
fn paths(caller: &Caller, below: &str) -> impl Iterator<Item = PathBuf> {
    let variables = ["XDG_STATE_HOME", "SUDO_HOME", "HOME"].map(|name| env::var_os(name).map(PathBuf::from));
    let [state_home, sudo_home, home] = variables.map(|path| path.filter(|path| path.is_absolute()));
    // Of root's variables some may be those of the user who called sudo.
    let of_passwd = home_of(caller.uid.as_raw());
    let homes = if caller.must_change_ids() { [sudo_home, of_passwd, home] } else { [home, of_passwd, None] };
    let below_home = |home: PathBuf| home.join(".local/state");
    let below = Path::new(NAME).join(below);
    state_home.into_iter().chain(homes.into_iter().flatten().map(below_home)).map(move |home| home.join(&below))
}

fn make(parent: &OwnedFd, name: &OsStr, path: &Path, caller: &Caller) -> Result<OwnedFd> {
    let cannot_make = || format!("cannot make {}", path.display());
    match mkdirat(parent, name, Mode::RWXU) {
        // Another session was quicker.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).with_context(cannot_make),
    }
    let handle = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).with_context(cannot_make)?;
    check_owner(&handle, path, caller)?;
    Ok(handle)
}

fn check_owner(handle: &OwnedFd, path: &Path, caller: &Caller) -> Result<()> {
    if fstat(handle).with_context(|| format!("cannot look at {}", path.display()))?.st_uid != caller.uid.as_raw() {
        bail!("{} belongs to somebody else", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

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
