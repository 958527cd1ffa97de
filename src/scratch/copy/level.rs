//! A directory that is being copied, perhaps by several threads.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Stat;

/// A directory, opened on both sides. Whoever lets go of it last gives it its mode and times.
pub(super) struct Level {
    pub source: OwnedFd,
    pub target: OwnedFd,
    pub status: Stat,
    /// Whether it has its mode and times already.
    pub is_finished: bool,
    name: CString,
    parent: Option<Arc<Level>>,
}

impl Level {
    pub fn top(source: OwnedFd, target: OwnedFd, status: Stat) -> Self {
        Self { source, target, status, is_finished: false, name: CString::default(), parent: None }
    }

    pub fn below(parent: &Arc<Level>, name: CString, source: OwnedFd, target: OwnedFd, status: Stat) -> Self {
        Self { source, target, status, is_finished: false, name, parent: Some(Arc::clone(parent)) }
    }

    /// The directory that this one is in, which is let go of.
    pub fn take_parent(&mut self) -> Option<Arc<Level>> {
        self.parent.take()
    }

    /// Where it is below `top`.
    pub fn path(&self, top: &Path) -> PathBuf {
        let mut names = Vec::new();
        let mut level = self;
        while let Some(parent) = level.parent.as_deref() {
            names.push(level.name.as_c_str());
            level = parent;
        }
        names.iter().rev().fold(top.to_owned(), |path, name| path.join(OsStr::from_bytes(name.to_bytes())))
    }

    /// Where `name` in it is below `top`.
    pub fn path_to(&self, top: &Path, name: &CStr) -> PathBuf {
        self.path(top).join(OsStr::from_bytes(name.to_bytes()))
    }
}

impl Drop for Level {
    /// One after the other: the levels may be more than there is stack for.
    fn drop(&mut self) {
        let mut next = self.take_parent();
        while let Some(mut level) = next.and_then(Arc::into_inner) {
            next = level.take_parent();
        }
    }
}
