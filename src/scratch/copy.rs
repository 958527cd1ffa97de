//! Copies a kept build directory as `cp -a` would, owned by the caller.
//!
//! The directory comes from untrusted code, and may still change: everything is reached by directory descriptor, no symbolic
//! link is followed, and nothing but regular files and directories is opened.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Error, anyhow};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::file_copy::{FileCopy, copy_attributes};
use crate::caller::Caller;
use crate::descriptor_limit::DescriptorLimit;
use crate::owner::Owner;
use crate::quiet_open::open_quietly;

/// What to do with a file that the caller may not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Stop, and name it.
    Fail,
    /// Go on without it, and count it.
    LeaveOut,
}

/// Called now and then while a tree is copied; an error from it ends the copy.
pub type CheckInterrupt<'a> = &'a dyn Fn() -> anyhow::Result<()>;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Files, links and directories, the top one left out.
    pub entries: u64,
    /// Bytes in regular files, holes included.
    pub bytes: u64,
    /// Entries that were left out, with all below them, since the caller may not read them.
    pub left_out: u64,
}

/// Why a tree could not be copied.
#[derive(Debug)]
pub(super) enum Failure {
    /// The target cannot take it.
    NoRoom(Errno),
    /// Anything else, in words.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What there is to copy, and how.
pub(super) struct Source<'a> {
    /// The directory, as the caller can name it.
    pub path: &'a Path,
    /// The same directory, opened.
    pub handle: &'a OwnedFd,
}

/// Copies everything in `source` into the empty directory `target`, which becomes the builder's `/build`: mode 0700.
pub(super) fn copy_tree(
    source: &Source<'_>,
    target: OwnedFd,
    caller: &Caller,
    unreadable: Unreadable,
    check_interrupt: CheckInterrupt<'_>,
) -> Result<CopySummary, Failure> {
    let _limit = DescriptorLimit::raise();
    let (mut copy, mut top) = Copy::begin(source, target, caller, unreadable, check_interrupt)?;
    top.status.st_mode = Mode::RWXU.bits() as RawMode;
    copy.open.push(top);
    copy.run()?;
    Ok(copy.summary)
}

/// Copies the entries `names` of `source`, with all that is in them, into the directory `target`.
pub(super) fn copy_entries(
    source: &Source<'_>,
    names: &[CString],
    target: OwnedFd,
    caller: &Caller,
    check_interrupt: CheckInterrupt<'_>,
) -> Result<CopySummary, Failure> {
    let _limit = DescriptorLimit::raise();
    let (mut copy, top) = Copy::begin(source, target, caller, Unreadable::LeaveOut, check_interrupt)?;
    for name in names {
        let below = copy.copy_entry(&top, name, OsStr::from_bytes(name.to_bytes()).into())?;
        copy.open.extend(below);
        copy.run()?;
    }
    Ok(copy.summary)
}

/// A directory that is being copied.
struct Level {
    source: Dir,
    target: OwnedFd,
    status: Stat,
    /// Below the kept directory.
    path: PathBuf,
}

struct Copy<'a> {
    kept: &'a Path,
    unreadable: Unreadable,
    check_interrupt: CheckInterrupt<'a>,
    /// Whom the copy is given to, where that is not us.
    owner: Option<(Uid, Gid)>,
    top: OwnedFd,
    /// Where the first of a file's several names is in the copy.
    first_names: HashMap<(u64, u64), PathBuf>,
    files: FileCopy,
    summary: CopySummary,
    /// The directories from the top to where we are.
    open: Vec<Level>,
}

impl<'a> Copy<'a> {
    /// A copy of which nothing is done, and the directories that it begins with.
    fn begin(
        source: &Source<'a>,
        target: OwnedFd,
        caller: &Caller,
        unreadable: Unreadable,
        check_interrupt: CheckInterrupt<'a>,
    ) -> Result<(Self, Level), Failure> {
        let cannot_read = |errno| Failure::from(anyhow!("cannot read {}: {errno}", source.path.display()));
        let status = fstat(source.handle).map_err(cannot_read)?;
        let copy = Self {
            kept: source.path,
            unreadable,
            check_interrupt,
            owner: caller.must_change_ids().then_some((caller.uid, caller.gid)),
            top: rustix::io::dup(&target).map_err(Failure::NoRoom)?,
            first_names: HashMap::new(),
            files: FileCopy::default(),
            summary: CopySummary::default(),
            open: Vec::new(),
        };
        let source = Dir::read_from(source.handle).map_err(cannot_read)?;
        Ok((copy, Level { source, target, status, path: PathBuf::new() }))
    }

    fn run(&mut self) -> Result<(), Failure> {
        while let Some(mut level) = self.open.pop() {
            let Some(entry) = level.source.read() else {
                self.finish_directory(&level)?;
                continue;
            };
            let entry = entry.map_err(|errno| self.cannot_copy(&level.path, errno))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                self.open.push(level);
                continue;
            }
            (self.check_interrupt)()?;
            let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
            let below = self.copy_entry(&level, name, path)?;
            self.open.push(level);
            self.open.extend(below);
        }
        Ok(())
    }

    /// Copies an entry; one that is a directory is only begun, and returned.
    fn copy_entry(&mut self, level: &Level, name: &CStr, path: PathBuf) -> Result<Option<Level>, Failure> {
        let source = level.source.fd().map_err(|errno| self.cannot_copy(&path, errno))?;
        self.summary.entries += 1;
        let status = match statat(source, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            // The directory can be listed but not entered.
            Err(errno) => {
                self.cannot_read(&path, &level.status, errno)?;
                return Ok(None);
            }
        };
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::Directory {
            return self.begin_directory(level, name, path, status);
        }
        if status.st_nlink > 1 {
            let key = (status.st_dev, status.st_ino);
            if let Some(first) = self.first_names.get(&key) {
                linkat(&self.top, first, &level.target, name, AtFlags::empty())
                    .map_err(|errno| self.cannot_write(&path, errno))?;
                return Ok(None);
            }
            self.first_names.insert(key, path.clone());
        }
        match kind {
            FileType::RegularFile => self.copy_file(level, name, &path, &status)?,
            FileType::Symlink => self.copy_link(level, name, &path, &status)?,
            // Made anew, never opened.
            FileType::Fifo | FileType::Socket => self.make_node(level, name, &path, &status, kind)?,
            _ => {
                return Err(anyhow!(
                    "{} is a device, which no build can make; remove it",
                    self.kept.join(&path).display()
                )
                .into());
            }
        }
        Ok(None)
    }

    fn begin_directory(
        &mut self,
        level: &Level,
        name: &CStr,
        path: PathBuf,
        status: Stat,
    ) -> Result<Option<Level>, Failure> {
        let source = level.source.fd().map_err(|errno| self.cannot_copy(&path, errno))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            open_quietly(source, name, flags).and_then(|directory| Ok((fstat(&directory)?, Dir::new(directory)?)));
        let (status, source) = match opened {
            Ok((status, source)) => (status, source),
            Err(errno) => {
                self.cannot_read(&path, &status, errno)?;
                return Ok(None);
            }
        };
        let target = mkdirat(&level.target, name, Mode::RWXU)
            .and_then(|()| openat(&level.target, name, flags | OFlags::RDONLY, Mode::empty()))
            .map_err(|errno| self.cannot_write(&path, errno))?;
        Ok(Some(Level { source, target, status, path }))
    }

    /// Mode, owner and times come last: writing an entry changes the times, and needs the permission.
    fn finish_directory(&self, level: &Level) -> Result<(), Failure> {
        let source = level.source.fd().map_err(|errno| self.cannot_copy(&level.path, errno))?;
        self.finish_opened(source, &level.target, &level.status).map_err(|errno| self.cannot_write(&level.path, errno))
    }

    fn copy_file(&mut self, level: &Level, name: &CStr, path: &Path, status: &Stat) -> Result<(), Failure> {
        let source = level.source.fd().map_err(|errno| self.cannot_copy(path, errno))?;
        // NONBLOCK and the second look: it may have become a fifo since.
        let opened =
            open_quietly(source, name, OFlags::NOFOLLOW | OFlags::NONBLOCK).and_then(|file| Ok((fstat(&file)?, file)));
        let (status, file) = match opened {
            Ok((now, file)) if FileType::from_raw_mode(now.st_mode) == FileType::RegularFile => (now, file),
            Ok(_) => return Err(anyhow!("{} changed while it was copied", self.kept.join(path).display()).into()),
            Err(errno) => return self.cannot_read(path, status, errno),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(&level.target, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.cannot_write(path, errno))?;
        self.files.copy(&file, &target, &status, self.check_interrupt).map_err(|failure| match failure {
            Failure::NoRoom(errno) => self.cannot_write(path, errno),
            other => other,
        })?;
        self.summary.bytes += u64::try_from(status.st_size).unwrap_or(0);
        self.finish_opened(file.as_fd(), &target, &status).map_err(|errno| self.cannot_write(path, errno))
    }

    fn copy_link(&self, level: &Level, name: &CStr, path: &Path, status: &Stat) -> Result<(), Failure> {
        let source = level.source.fd().map_err(|errno| self.cannot_copy(path, errno))?;
        let link = readlinkat(source, name, Vec::new()).map_err(|errno| self.cannot_copy(path, errno))?;
        symlinkat(&link, &level.target, name)
            .and_then(|()| self.finish_unopened(level, name, status))
            .map_err(|errno| self.cannot_write(path, errno))
    }

    fn make_node(&self, level: &Level, name: &CStr, path: &Path, status: &Stat, kind: FileType) -> Result<(), Failure> {
        mknodat(&level.target, name, kind, self.mode_of(status), 0)
            .and_then(|()| self.finish_unopened(level, name, status))
            .map_err(|errno| self.cannot_write(path, errno))
    }

    /// Owner and times of what is not opened.
    fn finish_unopened(&self, level: &Level, name: &CStr, status: &Stat) -> rustix::io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            chownat(&level.target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        utimensat(&level.target, name, &times_of(status), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Attributes, owner, mode and times of what is open: the times last, since the others change them.
    fn finish_opened(&self, source: BorrowedFd<'_>, target: &OwnedFd, status: &Stat) -> rustix::io::Result<()> {
        copy_attributes(source, target)?;
        if let Some((uid, gid)) = self.owner {
            fchown(target, Some(uid), Some(gid))?;
        }
        fchmod(target, self.mode_of(status))?;
        futimens(target, &times_of(status))
    }

    /// As `cp` does where the owner changes, and Nix forbids in any build: no set-user-id, no set-group-id.
    fn mode_of(&self, status: &Stat) -> Mode {
        Mode::from_raw_mode(status.st_mode).difference(Mode::SUID | Mode::SGID)
    }

    /// The source cannot be opened: left out, where that was asked for and it is for want of permission.
    fn cannot_read(&mut self, path: &Path, status: &Stat, errno: Errno) -> Result<(), Failure> {
        if !matches!(errno, Errno::ACCESS | Errno::PERM) {
            return Err(self.cannot_copy(path, errno));
        }
        if self.unreadable == Unreadable::LeaveOut {
            self.summary.entries -= 1;
            self.summary.left_out += 1;
            // Another name of it must not become a link to nothing.
            self.first_names.remove(&(status.st_dev, status.st_ino));
            return Ok(());
        }
        Err(anyhow!(
            "you may not read {}, which belongs to {}: call nix-build-shell with sudo, or leave such files out with --ignore-unreadable",
            self.kept.join(path).display(),
            Owner::of(status)
        )
        .into())
    }

    fn cannot_copy(&self, path: &Path, errno: Errno) -> Failure {
        let cause = match errno {
            Errno::INVAL if self.owner.is_some() => " (the user who called sudo is not known in this user namespace)",
            Errno::FBIG => " (it is larger than the limit «ulimit -f»)",
            Errno::MFILE => " (its directories are nested too deeply for the limit «ulimit -Hn»)",
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR => " (it changed while it was copied)",
            _ => "",
        };
        anyhow!("cannot copy {}: {errno}{cause}", self.kept.join(path).display()).into()
    }

    fn cannot_write(&self, path: &Path, errno: Errno) -> Failure {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Failure::NoRoom(errno),
            _ => self.cannot_copy(path, errno),
        }
    }
}

fn times_of(status: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: status.st_atime as _, tv_nsec: status.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: status.st_mtime as _, tv_nsec: status.st_mtime_nsec as _ },
    }
}
