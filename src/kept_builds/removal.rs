//! Removes kept build directories, and nothing else.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, fstat, lstat, openat};
use rustix::process::geteuid;

use super::{DIRECTORY, KeptDirectory, Standing, Trust};
use crate::owner::name_of_user;
use crate::scratch::{is_still_there, open_with_all_permissions, remove_tree};

/// A kept build directory that the caller can remove.
#[derive(Debug)]
pub struct Removable {
    /// The directory that Nix has made.
    pub path: PathBuf,
    parent: OwnedFd,
    /// The directory when it was looked at.
    handle: OwnedFd,
}

impl Removable {
    /// Looks whether `path` is a kept build directory, or `build` in one, and whether the caller may remove it. Nothing is changed.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(path: &Path, trust: &Trust) -> Result<Self> {
        let shown = path.display();
        let status = lstat(path).map_err(|errno| anyhow!("cannot look at {shown}: {errno}"))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => {
                bail!("{shown} is a symbolic link, which Nix does not keep: name the directory itself")
            }
            _ => bail!("{shown} is not a directory, and Nix keeps directories"),
        }
        let kept = KeptDirectory::at(path, trust).with_context(|| {
            format!(
                "{shown} is not called as Nix calls what it keeps, nix-build-NAME.drv-N or nix-PID-N, so it is left alone; if you have \
                 made it yourself, «rm -r» removes it"
            )
        })?;
        let shown = kept.path.display();
        match kept.standing {
            Standing::Kept => {}
            Standing::Unfinished => bail!(
                "{shown} is not kept: Nix may be building in it just now; if Nix was killed at it, «rm -r» removes it"
            ),
            Standing::Strangers => bail!(
                "{shown} belongs to {}, who does not build for you, so it is left alone",
                name_of_user(kept.owner).unwrap_or_else(|| format!("the user {}", kept.owner))
            ),
        }
        let parent_path = kept.path.parent().unwrap_or(Path::new("/"));
        let name = name_of(&kept.path);
        let cannot_open = || format!("cannot open {}", parent_path.display());
        let parent = openat(CWD, parent_path, DIRECTORY | OFlags::RDONLY, Mode::empty())
            .or_else(|_| openat(CWD, parent_path, DIRECTORY | OFlags::PATH, Mode::empty()))
            .with_context(cannot_open)?;
        let handle = openat(&parent, name, DIRECTORY | OFlags::PATH, Mode::empty())
            .with_context(|| format!("cannot open {shown}"))?;
        if !may_remove(&parent, &handle, &kept)? {
            bail!(
                "you may not remove {shown}, which belongs to {}; «sudo nix-build-shell remove {shown}» does",
                name_of_user(kept.owner).unwrap_or_else(|| format!("the user {}", kept.owner))
            );
        }
        Ok(Self { path: kept.path, parent, handle })
    }

    /// Removes it, whatever the modes in it are. No link is followed.
    ///
    /// # Errors
    /// What resists.
    pub fn remove(self) -> Result<()> {
        let name = name_of(&self.path);
        let cannot_remove = || format!("cannot remove all of {}", self.path.display());
        if !is_still_there(&self.parent, name, &self.handle) {
            bail!("{} has become another directory meanwhile, and is left alone", self.path.display());
        }
        let c_name =
            std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name)).with_context(cannot_remove)?;
        let top =
            open_with_all_permissions(std::os::fd::AsFd::as_fd(&self.parent), &c_name).with_context(cannot_remove)?;
        remove_tree(&self.parent, name, &top).with_context(cannot_remove)
    }
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// Root may; others where they may write to the parent, and the directory and what is below it is theirs.
fn may_remove(parent: &OwnedFd, handle: &OwnedFd, kept: &KeptDirectory) -> Result<bool> {
    if geteuid().is_root() {
        return Ok(true);
    }
    let writable = accessat(parent, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    let owner = fstat(handle).context("cannot look at the directory")?.st_uid;
    let uid = geteuid().as_raw();
    Ok(writable && owner == uid && kept.owner == uid)
}
