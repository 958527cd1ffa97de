//! How the build directory becomes writable: the strategies, and which of them is possible here.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use rustix::fs::{
    AtFlags, Dir, FileType, FsWord, Mode, OFlags, Stat, XattrFlags, fremovexattr, fsetxattr, fstat, fstatfs,
    ioctl_ficlone, openat, unlinkat,
};
use rustix::process::geteuid;

use super::copy::Line;
use crate::caller::Caller;
use crate::kept_build::KeptBuild;
use crate::owner::Owner;
use crate::plan::KeptMount;
use crate::quiet_open::open_quietly;
use crate::sandbox::IdMappedMount;

/// Up to here a tree is copied without a word: copying it and removing the copy take less than a tenth of a second, in which nobody
/// sees a prompt come late.
pub(super) const SMALL: Line = Line { entries: 2000, bytes: 64 << 20 };

/// How the sandbox's build directory is made writable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BuildDirMode {
    /// Shared blocks where that is possible; else a copy of what is small, an overlay of what is large
    #[default]
    Auto,
    /// A copy, file by file
    Copy,
    /// A copy that shares its blocks with the kept directory
    Reflink,
    /// The kept directory with a layer above it that takes all changes
    Overlay,
    /// The kept directory itself
    InPlace,
}

/// What was made of the build directory, for whom it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Made {
    /// A copy.
    #[default]
    Copy,
    /// A copy that shares its blocks.
    SharedCopy,
    /// An overlay; whether nobody had asked for one.
    Overlay {
        /// Nobody had.
        unasked: bool,
    },
    /// Nothing: it is the kept directory.
    InPlace,
}

/// How the sandbox sees the kept directory itself: as it is where all of it is the caller's, else with its owner mapped to him.
///
/// # Errors
/// Why it cannot, in words that go on after «cannot … DIR:».
pub(super) fn kept_mount(
    kept: &KeptBuild,
    caller: &Caller,
    writable: bool,
) -> Result<(KeptMount, Option<IdMappedMount>)> {
    let status = fstat(&kept.handle).context("it cannot be looked at")?;
    if (status.st_uid, status.st_gid) == (caller.uid.as_raw(), caller.gid.as_raw()) {
        let path = kept.directory.canonicalize().context("it has no path")?;
        return Ok((KeptMount::Path(path), None));
    }
    if !geteuid().is_root() {
        bail!("it belongs to {}, and only with sudo it can be shown as yours", owner_in_words(&status, caller));
    }
    let mount = IdMappedMount::of(&kept.handle, (status.st_uid, status.st_gid), caller, writable)?;
    Ok((KeptMount::IdMapped(mount.descriptor()), Some(mount)))
}

fn owner_in_words(status: &Stat, caller: &Caller) -> String {
    if status.st_uid == caller.uid.as_raw() {
        return format!("the group {}, which is not yours", status.st_gid);
    }
    Owner::of(status).to_string()
}

/// Whether a directory can be the upper layer of an overlay, as far as that can be told from its file system: it has to keep
/// attributes, and be no overlay itself.
///
/// # Errors
/// Why not, in words that go on after «cannot … DIR:».
pub(super) fn check_upper(scratch: &OwnedFd) -> Result<()> {
    const TRIAL: &CStr = c"user.overlay.trial";
    /// File systems that are known not to do.
    const UNFIT: [(FsWord, &str); 6] = [
        (0x794c_7630, "an overlay itself"),
        (0x6969, "NFS"),
        (0x6573_5546, "FUSE"),
        (0x4d44, "FAT"),
        (0x2011_bab0, "exFAT"),
        (0x0102_1997, "9P"),
    ];
    let kind = fstatfs(scratch).context("the scratch directory cannot be looked at")?.f_type;
    match UNFIT.iter().find(|(number, _)| *number == kind) {
        Some((_, name)) => {
            bail!("the directory for temporary files is on {name}, which cannot take the changes; TMPDIR names another")
        }
        None => {
            // The kernel would do without, and fail later.
            fsetxattr(scratch, TRIAL, b"y", XattrFlags::empty()).and_then(|()| fremovexattr(scratch, TRIAL)).context(
                "the file system of the directory for temporary files keeps no attributes; TMPDIR names another",
            )
        }
    }
}

/// Whether files in `scratch` can share blocks with those in the kept directory: tried with the first file that is found.
///
/// # Errors
/// Why not.
pub(super) fn check_reflink(kept: &KeptBuild, scratch: &OwnedFd) -> Result<()> {
    const TRIAL: &str = "reflink";
    let file = first_file(&kept.handle, 8, &mut { MOST_TRIED }).context("no file was found to try it with")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let trial =
        openat(scratch, TRIAL, flags, Mode::RUSR | Mode::WUSR).context("cannot write to the scratch directory")?;
    let shared = ioctl_ficlone(&trial, &file);
    unlinkat(scratch, TRIAL, AtFlags::empty()).context("cannot remove a file in the scratch directory")?;
    shared.map_err(|errno| anyhow!("{errno}"))
}

/// Entries that are looked at, at most, to find a file to try something with.
const MOST_TRIED: usize = 100;

/// The first file that is not empty and may be read, in the order of the directories; nothing after `tries` entries.
fn first_file(directory: &OwnedFd, levels: usize, tries: &mut usize) -> Option<OwnedFd> {
    let mut below = Vec::new();
    for entry in Dir::read_from(directory).ok()?.flatten() {
        *tries = tries.checked_sub(1)?;
        let name = entry.file_name();
        match entry.file_type() {
            FileType::RegularFile => {
                let Ok(file) = open_quietly(directory.as_fd(), name, OFlags::NOFOLLOW | OFlags::NONBLOCK) else {
                    continue;
                };
                let is_file = |status: Stat| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
                if fstat(&file).is_ok_and(|status| is_file(status) && status.st_size > 0) {
                    return Some(file);
                }
            }
            FileType::Directory if !matches!(name.to_bytes(), b"." | b"..") => below.push(name.to_owned()),
            _ => {}
        }
    }
    below.iter().filter(|_| levels > 1).find_map(|name| {
        let directory = open_quietly(directory, name.as_c_str(), OFlags::DIRECTORY | OFlags::NOFOLLOW).ok()?;
        first_file(&directory, levels - 1, tries)
    })
}
