//! Scratch directories that are used more than once: those of kept sessions.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, Mode, fchmod, flock, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::geteuid;

use super::remove::{open_with_all_permissions, remove_entry};
use super::{DIRECTORY, Purpose, Scratch, check_parent, is_still_there, set_memory_aside};
use crate::plan::{BUILD, OUTPUTS, SESSION, STORE_MODE};

impl Scratch {
    /// Makes the directory of a session that is kept as `name` in the caller's directory `parent`, whose absolute path is `path`. It
    /// stays an ordinary scratch directory until it is told to [stay](Self::stay).
    ///
    /// # Errors
    /// [`Errno::EXIST`] as the cause where there is one; otherwise as of [`create`](Self::create).
    pub(crate) fn create_session(path: &Path, parent: &OwnedFd, name: &str, kept: Option<&Path>) -> Result<Self> {
        set_memory_aside()?;
        let purpose = Purpose::KeptSession;
        check_parent(path, parent, kept, purpose.remedy())?;
        let parent = rustix::io::dup(parent).context("cannot open the directory of sessions again")?;
        let path = path.join(name);
        mkdirat(&parent, name, Mode::RWXU).with_context(|| format!("cannot make {}", path.display()))?;
        let handle = open_locked(&parent, name).with_context(|| format!("cannot open {}", path.display()))?;
        // Under sudo the parent is not root's: only what root has just made is root's.
        let handle = handle.filter(|handle| fstat(handle).is_ok_and(|status| status.st_uid == geteuid().as_raw()));
        let handle = handle.with_context(|| format!("another nix-build-shell has taken {}", path.display()))?;
        Self::begin(purpose, parent, path, handle)
    }

    /// Takes the lock of the directory of a kept session; nothing where another program has it.
    ///
    /// # Errors
    /// The kernel's, such as [`Errno::NOENT`].
    pub(crate) fn open_session(path: &Path, parent: &OwnedFd, name: &OsStr) -> Result<Option<Self>> {
        let Some(handle) = open_locked(parent, name)? else {
            return Ok(None);
        };
        let parent = rustix::io::dup(parent)?;
        let path = path.join(name);
        let purpose = Purpose::KeptSession;
        let directories = purpose.directories(&path);
        let (stays, kept_mount, spare) = (true, None, Vec::new());
        Ok(Some(Self { parent, directories, path, handle, purpose, stays, kept_mount, spare }))
    }

    /// Makes a directory that was filled before fit for another sandbox: what was done in it may have closed its parts, and what only
    /// the last sandbox had goes. To be called with the rights of the caller, whose it is.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn refresh(&self) -> Result<()> {
        let cannot_open = |name: &str| format!("cannot open {}", self.path.join(name).display());
        self.unlock_build()?;
        match mkdirat(&self.handle, OUTPUTS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.no_room_or(errno, "make a directory")),
        }
        let outputs =
            open_with_all_permissions(self.handle.as_fd(), c"outputs").with_context(|| cannot_open(OUTPUTS))?;
        fchmod(&outputs, Mode::from_raw_mode(STORE_MODE)).with_context(|| cannot_open(OUTPUTS))?;
        remove_entry(&self.handle, c"session")
            .with_context(|| format!("cannot remove {}", self.path.join(SESSION).display()))
    }

    /// Has the copy of the build directory be one that can be opened, whatever was done to its mode. To be called with the rights of the
    /// caller.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn unlock_build(&self) -> Result<()> {
        let cannot_open = || format!("cannot open {}", self.path.join(BUILD).display());
        let build = open_with_all_permissions(self.handle.as_fd(), c"build").with_context(cannot_open)?;
        fchmod(&build, Mode::RWXU).with_context(cannot_open)
    }
}

/// Opens a scratch directory and takes its lock; nothing where another program has it.
fn open_locked(parent: &OwnedFd, name: impl Arg + Copy) -> rustix::io::Result<Option<OwnedFd>> {
    let handle = openat(parent, name, DIRECTORY, Mode::empty())?;
    match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        // Who had the lock may have removed the directory.
        Ok(()) if is_still_there(parent, name, &handle) => Ok(Some(handle)),
        Ok(()) => Err(Errno::NOENT),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno),
    }
}
