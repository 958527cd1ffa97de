//! Files with several names. Each is put aside once, under a name of its own, and every other name of it becomes a link to that: so
//! nobody has to remember them, however many there are.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, linkat, mkdirat, openat, unlinkat};
use rustix::io::{Errno, Result};

use crate::scratch::remove::remove_entry;

/// Where they are put aside, in the scratch directory.
const DIRECTORY: &CStr = c"links";

/// The files that were put aside.
pub(super) struct HardLinks<'a> {
    scratch: &'a OwnedFd,
    /// Made when the first file needs it.
    directory: OnceLock<OwnedFd>,
}

impl<'a> HardLinks<'a> {
    pub fn new(scratch: &'a OwnedFd) -> Self {
        Self { scratch, directory: OnceLock::new() }
    }

    /// Makes `name` in `target` a link to the copy of the file that `status` tells of. Returns whether there is such a copy.
    pub fn link(&self, status: &Stat, target: impl AsFd, name: &CStr) -> Result<bool> {
        let Some(directory) = self.directory.get() else { return Ok(false) };
        match linkat(directory, key(status), target, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Puts the finished copy `name` in `target` aside. Where another thread was faster `name` becomes a link to what that has made.
    pub fn put_aside(&self, status: &Stat, target: impl AsFd, name: &CStr) -> Result<()> {
        match linkat(&target, name, self.made()?, key(status), AtFlags::empty()) {
            Err(Errno::EXIST) => {
                unlinkat(&target, name, AtFlags::empty())?;
                self.link(status, target, name).map(drop)
            }
            put => put,
        }
    }

    /// Removes the names under which they were put aside: a file has to have as many as it had.
    pub fn end(&self) -> anyhow::Result<()> {
        match self.directory.get() {
            Some(_) => remove_entry(self.scratch, DIRECTORY),
            None => Ok(()),
        }
    }

    fn made(&self) -> Result<&OwnedFd> {
        if let Some(directory) = self.directory.get() {
            return Ok(directory);
        }
        match mkdirat(self.scratch, DIRECTORY, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(self.scratch, DIRECTORY, flags, Mode::empty())?;
        // Another thread's will do as well.
        Ok(self.directory.get_or_init(|| directory))
    }
}

fn key(status: &Stat) -> String {
    format!("{:x}-{:x}", status.st_dev, status.st_ino)
}
