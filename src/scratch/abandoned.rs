//! What a SIGKILL has left: scratch directories that no living program holds. A later run removes them, but for those of sessions, since
//! somebody may have typed into them.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, flock, fstat, openat, readlinkat, renameat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{
    DIRECTORY, KEPT_PREFIX, PREFIX, Purpose, RANDOM_CHARACTERS, SESSION_RECORD, Scratch, is_still_there, remove,
};
use crate::caller::Caller;

impl Scratch {
    /// Removes the other scratch directories of the caller's beside this one that no living program holds. Those of sessions stay, and
    /// are returned, with their locks.
    ///
    /// At the end of a run nobody waits for it. What resists is left to a later run.
    pub(super) fn sweep(&self) -> Vec<Self> {
        let Some(parent_path) = self.path.parent() else { return Vec::new() };
        let look = |name: &OsStr| {
            let (handle, owner) = hold_abandoned(&self.parent, name)?;
            if is_of_session(&handle, owner) {
                return Self::of_abandoned_session(parent_path, &self.parent, name, handle).map(Some);
            }
            remove::remove_tree(&self.parent, name, &handle).map(|()| None)
        };
        names(&self.parent).iter().filter_map(|name| look(name).ok().flatten()).collect()
    }

    /// The directories of sessions below `parent` whose program was killed, with their locks.
    pub fn abandoned_sessions(parent: &Path) -> Vec<Self> {
        let Ok(parent_path) = parent.canonicalize() else { return Vec::new() };
        let Ok(parent) = openat(CWD, &parent_path, DIRECTORY, Mode::empty()) else { return Vec::new() };
        let look = |name: &OsStr| {
            let (handle, owner) = hold_abandoned(&parent, name)?;
            if !is_of_session(&handle, owner) {
                bail!("it is for the sweep");
            }
            Self::of_abandoned_session(&parent_path, &parent, name, handle)
        };
        names(&parent).iter().filter_map(|name| look(name).ok()).collect()
    }

    fn of_abandoned_session(parent_path: &Path, parent: &OwnedFd, name: &OsStr, handle: OwnedFd) -> Result<Self> {
        if !is_still_there(parent, name, &handle) {
            bail!("another run has been here");
        }
        let path = parent_path.join(name);
        let purpose = Purpose::KeptSession;
        Ok(Self {
            parent: rustix::io::dup(parent)?,
            directories: purpose.directories(&path),
            path,
            handle,
            purpose,
            stays: true,
            kept_mount: None,
            spare: Vec::new(),
        })
    }

    /// Moves the directory of a session that was abandoned into the directory `sessions` of the caller's, as `name`. On another file
    /// system it stays where it is, under a name that no run removes, and a link leads there. To be called with the rights of the
    /// caller.
    ///
    /// # Errors
    /// [`Errno::EXIST`] as the cause where the name is taken; otherwise the kernel's.
    pub(crate) fn move_to_sessions(&self, sessions: &OwnedFd, name: &str) -> Result<()> {
        let old = self.path.file_name().context("a scratch directory has a name")?;
        let target = self.path.with_file_name(self.kept_name());
        match readlinkat(sessions, name, Vec::new()) {
            // A run was killed after it had made the link.
            Ok(link) if link.as_bytes() == target.as_os_str().as_bytes() => {}
            Err(Errno::NOENT) => match renameat(&self.parent, old, sessions, name) {
                Err(Errno::XDEV) => symlinkat(&target, sessions, name).context("cannot make a link to it")?,
                moved => return moved.context("cannot rename it"),
            },
            _ => return Err(Errno::EXIST.into()),
        }
        renameat(&self.parent, old, &self.parent, self.kept_name()).context("cannot rename it")
    }

    /// A name that no later run removes.
    pub(super) fn kept_name(&self) -> OsString {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        let random = name.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
        OsString::from_vec([KEPT_PREFIX.as_bytes(), random].concat())
    }
}

/// Where a link among the sessions leads: the directory around it, and its name in there. Nothing where there is no such link.
///
/// # Errors
/// The kernel's; a link that none of us has made.
pub(crate) fn linked_session(sessions: &OwnedFd, name: &str) -> Result<Option<(PathBuf, OsString)>> {
    let target = match readlinkat(sessions, name, Vec::new()) {
        Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
        target => PathBuf::from(OsStr::from_bytes(target.context("cannot read the link")?.as_bytes())),
    };
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) if target.is_absolute() && name.as_bytes().starts_with(KEPT_PREFIX.as_bytes()) => {
            Ok(Some((parent.to_owned(), name.to_owned())))
        }
        _ => bail!("the link to {} is none that nix-build-shell has made", target.display()),
    }
}

/// What in `parent` is called like a scratch directory.
fn names(parent: &OwnedFd) -> Vec<OsString> {
    let entries = Dir::read_from(parent).into_iter().flatten().flatten();
    let is_ours = |name: &[u8]| name.len() == PREFIX.len() + RANDOM_CHARACTERS && name.starts_with(PREFIX.as_bytes());
    let names = entries.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    names.filter(|name| is_ours(name.as_bytes())).collect()
}

/// Opens the scratch directory `name` if it is the caller's, and takes its lock if nobody has it. Returns whose it is as well.
///
/// # Errors
/// Where it is none of the caller's, or in use.
fn hold_abandoned(parent: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, u32)> {
    let handle = openat(parent, name, DIRECTORY, Mode::empty())?;
    let owner = fstat(&handle)?.st_uid;
    if owner != geteuid().as_raw() && owner != Caller::current().uid.as_raw() {
        bail!("it belongs to somebody else");
    }
    flock(&handle, FlockOperation::NonBlockingLockExclusive)?;
    Ok((handle, owner))
}

/// Whether a scratch directory is that of a session, and was ready to be typed into: it has a record, outside of all that the sandbox
/// shows. Under sudo it has been handed over by then.
fn is_of_session(handle: &OwnedFd, owner: u32) -> bool {
    let is_file = statat(handle, SESSION_RECORD, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
    is_file && owner == Caller::current().uid.as_raw()
}

/// Has what is about to be removed be no session any more.
pub(super) fn forget_session(handle: &OwnedFd) {
    // What is not there need not go, and what resists makes the removal fail.
    let _ = unlinkat(handle, SESSION_RECORD, AtFlags::empty());
}
