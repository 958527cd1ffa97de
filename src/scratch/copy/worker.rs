//! One thread's part in the copying of a tree.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec;

use anyhow::anyhow;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, chownat, fchmod, fchown, fstat, futimens, mkdirat,
    mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::content::{FileCopy, copy_attributes};
use super::job::{Job, Work};
use super::level::Level;
use super::listing::{Listing, Name, NameBuffer};
use super::{CopySummary, Failure, How, Unreadable};
use crate::quiet_open::open_quietly;

/// How many entries are copied between two words about the progress.
const TELLING: u64 = 64;

/// A thread that copies, depth first. The names of the directory that it is in are read some at a time, and when another thread has
/// nothing to do it gets half of those that are left.
pub(super) struct Worker<'a, 'b> {
    job: &'a Job<'b>,
    /// What the first thread asks and tells; the others know only whether to stop.
    how: Option<&'a How<'b>>,
    files: FileCopy,
    names: NameBuffer,
    /// The directories from the top to where it is.
    open: Vec<Open>,
    pub summary: CopySummary,
}

struct Open {
    level: Arc<Level>,
    names: vec::IntoIter<Name>,
    /// Whether more names are to be read.
    reads_on: bool,
}

impl<'a, 'b> Worker<'a, 'b> {
    pub fn new(job: &'a Job<'b>, how: Option<&'a How<'b>>) -> Self {
        Self {
            job,
            how,
            files: FileCopy::default(),
            names: NameBuffer::default(),
            open: Vec::new(),
            summary: CopySummary::default(),
        }
    }

    /// Begins with these names in a directory, and with the others there if `reads_on`.
    pub fn begin(&mut self, level: Level, names: Vec<Name>, reads_on: bool) {
        self.open.push(Open { level: Arc::new(level), names: names.into_iter(), reads_on });
    }

    /// Copies until so many entries are done. Returns whether these were all.
    pub fn run_alone(&mut self, entries: u64) -> Result<bool, Failure> {
        while self.summary.entries < entries {
            if !self.step()? {
                return Ok(true);
            }
        }
        Ok(self.open.is_empty())
    }

    /// Copies what it has to do and what others give it, until all is done.
    pub fn work(mut self) -> CopySummary {
        if let Err(failure) = self.run() {
            self.job.fail(failure);
        }
        self.summary
    }

    fn run(&mut self) -> Result<(), Failure> {
        loop {
            while !self.job.is_stopped() && self.step()? {
                if self.job.is_anybody_hungry() {
                    self.share();
                }
                self.tell();
            }
            match self.job.take(|| self.check_interrupt())? {
                Some(Work { level, names }) => {
                    self.open.push(Open { level, names: names.into_iter(), reads_on: false });
                }
                None => return Ok(()),
            }
        }
    }

    fn tell(&self) {
        if let Some(progress) = self.how.and_then(|how| how.progress)
            && self.summary.entries.is_multiple_of(TELLING)
        {
            progress(self.job.entries.load(Ordering::Relaxed));
        }
    }

    fn check_interrupt(&self) -> Result<(), Failure> {
        match self.how {
            Some(how) => Ok((how.check_interrupt)()?),
            None if self.job.is_stopped() => Err(anyhow!("another thread has failed").into()),
            None => Ok(()),
        }
    }

    /// Gives away half of what is left in the directory nearest to the top: that is the most.
    fn share(&mut self) {
        for open in &mut self.open {
            let count = open.names.len();
            if count < 2 {
                continue;
            }
            let mut names: Vec<_> = std::mem::take(&mut open.names).collect();
            let given = names.split_off(count - count / 2);
            open.names = names.into_iter();
            return self.job.offer(Work { level: Arc::clone(&open.level), names: given });
        }
    }

    /// Does the next thing there is to do; none where nothing is.
    fn step(&mut self) -> Result<bool, Failure> {
        let Some(open) = self.open.last_mut() else { return Ok(false) };
        if let Some(name) = open.names.next() {
            let level = Arc::clone(&open.level);
            self.check_interrupt()?;
            self.summary.entries += 1;
            if self.how.is_some_and(|how| how.progress.is_some()) || self.how.is_none() {
                self.job.entries.fetch_add(1, Ordering::Relaxed);
            }
            self.copy_entry(&level, name)?;
        } else if open.reads_on {
            let names = self.names.read(&open.level.source);
            let names = names.map_err(|errno| self.job.cannot_copy(&open.level, None, errno))?;
            open.reads_on = !names.is_empty();
            open.names = names.into_iter().map(|(name, _)| name.into()).collect::<Vec<_>>().into_iter();
        } else {
            let done = self.open.pop().map(|open| open.level);
            self.let_go(done)?;
        }
        Ok(true)
    }

    /// Who lets go of a directory as the last one finishes it, and then lets go of the one that it is in.
    fn let_go(&self, mut level: Option<Arc<Level>>) -> Result<(), Failure> {
        while let Some(mut done) = level.and_then(Arc::into_inner) {
            if !done.is_finished {
                // Mode, owner and times come last: writing an entry changes the times, and needs the permission.
                self.finish_opened(&done.source, &done.target, &done.status)
                    .map_err(|errno| self.job.cannot_write(&done, None, errno))?;
            }
            level = done.take_parent();
        }
        Ok(())
    }

    /// Copies an entry; one that is a directory is only begun.
    fn copy_entry(&mut self, level: &Arc<Level>, Name { name, below }: Name) -> Result<(), Failure> {
        if let Some(listing) = below {
            return self.make_directory(level, name, *listing);
        }
        let status = match statat(&level.source, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            // The directory can be listed but not entered.
            Err(errno) => return self.cannot_read(level, &name, &level.status, errno),
        };
        let kind = FileType::from_raw_mode(status.st_mode);
        #[cfg(test)]
        crate::scratch::races::before_open(&level.source, &name);
        if kind == FileType::Directory {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = open_quietly(&level.source, name.as_c_str(), flags)
                .and_then(|directory| Ok((fstat(&directory)?, directory)));
            return match opened {
                Ok((status, directory)) => {
                    let listing = Listing { directory, status, names: Vec::new(), reads_on: true };
                    self.make_directory(level, name, listing)
                }
                Err(errno) => self.cannot_read(level, &name, &status, errno),
            };
        }
        let has_more_names = status.st_nlink > 1;
        let cannot_write = |errno| self.job.cannot_write(level, Some(&name), errno);
        if has_more_names && self.job.links.link(&status, &level.target, &name).map_err(cannot_write)? {
            return Ok(());
        }
        let is_copied = match kind {
            FileType::RegularFile => self.copy_file(level, &name, &status)?,
            FileType::Symlink => self.copy_link(level, &name, &status)?,
            // Made anew, never opened.
            FileType::Fifo | FileType::Socket => self.make_node(level, &name, &status, kind)?,
            _ => return Err(self.job.is_a_device(level, &name)),
        };
        if has_more_names && is_copied {
            let put_aside = self.job.links.put_aside(&status, &level.target, &name);
            return put_aside.map_err(|errno| self.job.cannot_write(level, Some(&name), errno));
        }
        Ok(())
    }

    fn make_directory(
        &mut self,
        level: &Arc<Level>,
        name: std::ffi::CString,
        Listing { directory, status, names, reads_on }: Listing,
    ) -> Result<(), Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = mkdirat(&level.target, &name, Mode::RWXU)
            .and_then(|()| openat(&level.target, &name, flags, Mode::empty()))
            .map_err(|errno| self.job.cannot_write(level, Some(&name), errno))?;
        self.begin(Level::below(level, name, directory, target, status), names, reads_on);
        Ok(())
    }

    /// Returns whether it was copied, and not left out.
    fn copy_file(&mut self, level: &Level, name: &CStr, status: &Stat) -> Result<bool, Failure> {
        // NONBLOCK and the second look: it may have become a fifo since.
        let opened = open_quietly(&level.source, name, OFlags::NOFOLLOW | OFlags::NONBLOCK)
            .and_then(|file| Ok((fstat(&file)?, file)));
        let (status, file) = match opened {
            Ok((now, file)) if FileType::from_raw_mode(now.st_mode) == FileType::RegularFile => (now, file),
            Ok(_) => return Err(self.job.has_changed(level, name)),
            Err(errno) => return self.cannot_read(level, name, status, errno).map(|()| false),
        };
        self.job.count_bytes(&status)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let cannot_write = |errno| self.job.cannot_write(level, Some(name), errno);
        let target = openat(&level.target, name, flags, Mode::RUSR | Mode::WUSR).map_err(cannot_write)?;
        let (job, how) = (self.job, self.how);
        let check_interrupt = || match how {
            Some(how) => (how.check_interrupt)(),
            None if job.is_stopped() => Err(anyhow!("another thread has failed")),
            None => Ok(()),
        };
        self.files.copy(&file, &target, &status, &check_interrupt).map_err(|failure| match failure {
            Failure::NoRoom(errno) => cannot_write(errno),
            other => other,
        })?;
        self.summary.bytes += u64::try_from(status.st_size).unwrap_or(0);
        self.finish_opened(&file, &target, &status).map_err(cannot_write)?;
        Ok(true)
    }

    fn copy_link(&self, level: &Level, name: &CStr, status: &Stat) -> Result<bool, Failure> {
        let link = readlinkat(&level.source, name, Vec::new())
            .map_err(|errno| self.job.cannot_copy(level, Some(name), errno))?;
        symlinkat(&link, &level.target, name)
            .and_then(|()| self.finish_unopened(level, name, status))
            .map_err(|errno| self.job.cannot_write(level, Some(name), errno))?;
        Ok(true)
    }

    fn make_node(&self, level: &Level, name: &CStr, status: &Stat, kind: FileType) -> Result<bool, Failure> {
        mknodat(&level.target, name, kind, mode_of(status), 0)
            .and_then(|()| self.finish_unopened(level, name, status))
            .map_err(|errno| self.job.cannot_write(level, Some(name), errno))?;
        Ok(true)
    }

    /// Owner and times of what is not opened.
    fn finish_unopened(&self, level: &Level, name: &CStr, status: &Stat) -> rustix::io::Result<()> {
        if let Some((uid, gid)) = self.job.owner {
            chownat(&level.target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        utimensat(&level.target, name, &times_of(status), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn finish_opened(&self, source: impl AsFd, target: &OwnedFd, status: &Stat) -> rustix::io::Result<()> {
        finish_opened(source, target, status, self.job.owner)
    }

    /// The source cannot be opened: left out, where that was asked for and it is for want of permission.
    fn cannot_read(&mut self, level: &Level, name: &CStr, status: &Stat, errno: Errno) -> Result<(), Failure> {
        if !matches!(errno, Errno::ACCESS | Errno::PERM) {
            return Err(self.job.cannot_copy(level, Some(name), errno));
        }
        if self.job.unreadable == Unreadable::LeaveOut {
            self.summary.entries -= 1;
            self.summary.left_out += 1;
            return Ok(());
        }
        Err(self.job.may_not_read(level, name, status))
    }
}

/// Attributes, owner, mode and times of what is open: the times last, since the others change them.
pub(super) fn finish_opened(
    source: impl AsFd,
    target: &OwnedFd,
    status: &Stat,
    owner: Option<(rustix::fs::Uid, rustix::fs::Gid)>,
) -> rustix::io::Result<()> {
    copy_attributes(source, target)?;
    if let Some((uid, gid)) = owner {
        fchown(target, Some(uid), Some(gid))?;
    }
    fchmod(target, mode_of(status))?;
    futimens(target, &times_of(status))
}

/// As `cp` does where the owner changes, and Nix forbids in any build: no set-user-id, no set-group-id.
fn mode_of(status: &Stat) -> Mode {
    Mode::from_raw_mode(status.st_mode).difference(Mode::SUID | Mode::SGID)
}

fn times_of(status: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: status.st_atime as _, tv_nsec: status.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: status.st_mtime as _, tv_nsec: status.st_mtime_nsec as _ },
    }
}
