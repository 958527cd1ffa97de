//! Removes a directory tree that untrusted code has filled.
//!
//! Everything is reached by directory descriptor and no symbolic link is followed. Directories may lack every permission, and
//! may be nested so deeply that neither a path nor a descriptor for each level would do.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, fchmod, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::caller::Caller;
use crate::descriptor_limit::DescriptorLimit;

/// Directories open at once; what is nested deeper is moved up first.
const MOST_OPEN: usize = 64;

/// Entries that are removed before other threads are worth what it takes to start them.
const ALONE: usize = 500;
/// Subtrees that are enough to keep all threads busy until the end.
const ENOUGH: usize = 128;
/// Directories that are read, at most, to find so many.
const MOST_READ: usize = 256;
/// More threads than this only wait for each other in the file system.
const MOST_THREADS: usize = 16;

/// Removes `name` in `parent`, whose open directory is `top`, and all below it.
///
/// # Errors
/// The first thing that resists.
pub(crate) fn remove_tree(parent: &OwnedFd, name: &OsStr, top: &OwnedFd) -> Result<()> {
    let _limit = DescriptorLimit::raise();
    let caller = Caller::current();
    // What was handed to the user who called sudo is removed with his rights: he may move things in there meanwhile, and is to get
    // nothing removed that he could not remove himself.
    let is_handed_over = caller.must_change_ids() && fstat(top)?.st_uid == caller.uid.as_raw();
    let mut alone = ALONE;
    // Directories that were moved up are entries of `top`: another round meets them.
    loop {
        if is_handed_over {
            caller.with_own_rights(|| empty(top, alone))??;
        } else {
            empty(top, alone)?;
        }
        alone = usize::MAX;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno).context("cannot remove the directory itself"),
        }
    }
}

/// Removes all that is in `top`, but perhaps for what was moved up: on all cores where it has more than `alone` entries. All other threads
/// have ended when it returns.
fn empty(top: &OwnedFd, alone: usize) -> Result<()> {
    fchmod(top, Mode::RWXU)?;
    let moved_up = AtomicUsize::new(0);
    let mut removal = Removal { top: top.as_fd(), moved_up: &moved_up, alone };
    if !removal.empty(top.as_fd(), 1)? {
        remove_on_all_cores(top, &moved_up);
        removal.alone = usize::MAX;
        removal.empty(top.as_fd(), 1)?;
    }
    Ok(())
}

/// A directory that is to be removed.
struct Subtree {
    parent: Arc<OwnedFd>,
    name: CString,
}

/// Removes most of what is below `top`: directories that are not at the top, several at once. What resists is left to who goes through
/// the whole tree.
pub(super) fn remove_on_all_cores(top: &OwnedFd, moved_up: &AtomicUsize) {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
    if threads == 1 {
        return;
    }
    let subtrees = subtrees(top);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut removal = Removal { top: top.as_fd(), moved_up, alone: usize::MAX };
        while let Some(Subtree { parent, name }) = subtrees.get(next.fetch_add(1, Ordering::Relaxed)) {
            let _ = removal.remove_directory(parent.as_fd(), name, 2);
        }
    };
    thread::scope(|scope| {
        // Where there can be no more threads, those that there are do it.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(spawn).collect();
        work();
        // The end of the scope alone would not wait for the threads themselves, but only for what they do.
        for other in others {
            let _ = other.join();
        }
    });
}

/// Directories below `top`, breadth first, until there are enough of them.
fn subtrees(top: &OwnedFd) -> VecDeque<Subtree> {
    let mut found = VecDeque::new();
    let mut next = rustix::io::dup(top).ok();
    for _ in 0..MOST_READ {
        if let Some(directory) = next.take() {
            add_directories(directory, &mut found);
        }
        if found.len() >= ENOUGH {
            break;
        }
        let Some(Subtree { parent, name }) = found.pop_front() else { break };
        next = open_with_all_permissions(parent.as_fd(), &name).ok();
    }
    found
}

fn add_directories(directory: OwnedFd, found: &mut VecDeque<Subtree>) {
    let parent = Arc::new(directory);
    for entry in Dir::read_from(&*parent).into_iter().flatten().flatten().take(ENOUGH * 8) {
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..") {
            found.push_back(Subtree { parent: Arc::clone(&parent), name: name.to_owned() });
        }
    }
}

/// Removes `name` in `parent`, if it is there, and all below it.
///
/// # Errors
/// The first thing that resists.
pub(super) fn remove_entry(parent: &OwnedFd, name: &CStr) -> Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let top = open_with_all_permissions(parent.as_fd(), name)?;
    remove_tree(parent, OsStr::from_bytes(name.to_bytes()), &top)
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved_up: &'a AtomicUsize,
    /// How many entries it removes until it gives up.
    alone: usize,
}

impl Removal<'_> {
    /// Removes what is in `directory`, which is `depth` levels below the parent of the whole tree. Returns false where it has given up.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) -> Result<bool> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(alone) = self.alone.checked_sub(1) else { return Ok(false) };
            self.alone = alone;
            // The kind is only a hint that saves a call: some file systems do not tell it.
            let removed = match entry.file_type() {
                FileType::Directory => Err(Errno::ISDIR),
                _ => unlinkat(directory, name, AtFlags::empty()),
            };
            match removed {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) if self.remove_directory(directory, name, depth)? => {}
                Err(Errno::ISDIR) => return Ok(false),
                Err(errno) => {
                    return Err(errno).with_context(|| format!("cannot remove {}", name.to_string_lossy()));
                }
            }
        }
        Ok(true)
    }

    /// Moves a directory to the top, under a name that the build has not used there.
    fn move_up(&self, parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        loop {
            let number = self.moved_up.fetch_add(1, Ordering::Relaxed) + 1;
            match renameat(parent, name, self.top, format!("moved-up-{number}")) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                moved => return moved,
            }
        }
    }

    fn remove_directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<bool> {
        let what = || format!("cannot remove {}", name.to_string_lossy());
        // An empty one goes at once, and needs no permission of its own.
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno).with_context(what),
        }
        loop {
            // Each time anew: in the place of one that was emptied another thread may have put what it moves up.
            let directory = open_with_all_permissions(parent, name).with_context(what)?;
            if depth == MOST_OPEN {
                self.move_up(parent, name).with_context(what)?;
                return Ok(true);
            }
            if !self.empty(directory.as_fd(), depth + 1)? {
                return Ok(false);
            }
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(true),
                // Reading a directory that shrinks may pass over an entry.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(errno).with_context(what),
            }
        }
    }
}

/// Opens the directory `name` in `parent`, whatever its mode; the owner may then do anything in it.
pub(crate) fn open_with_all_permissions(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    #[cfg(test)]
    super::races::before_open(parent, name);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags | OFlags::RDONLY, Mode::empty()) {
        Ok(directory) => {
            // Root needs no permission, and changes nothing in a tree that a user could meddle with.
            if !geteuid().is_root() {
                fchmod(&directory, Mode::RWXU)?;
            }
            Ok(directory)
        }
        Err(Errno::ACCESS) => {
            // Through the descriptor, since a name could have come to mean something else.
            let closed = openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", closed.as_raw_fd());
            chmodat(CWD, path, Mode::RWXU, AtFlags::empty())?;
            Ok(openat(parent, name, flags | OFlags::RDONLY, Mode::empty())?)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    fn remove(setting: &tempfile::TempDir) {
        let parent = openat(CWD, setting.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let top = openat(&parent, "tree", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        remove_tree(&parent, "tree".as_ref(), &top).unwrap();
        assert!(!setting.path().join("tree").exists());
    }

    #[test]
    fn directories_deeper_than_any_path_are_removed() {
        let setting = tempfile::tempdir().unwrap();
        std::fs::create_dir(setting.path().join("tree")).unwrap();
        let mut directory = openat(CWD, setting.path().join("tree"), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&directory, "deeper", Mode::RWXU).unwrap();
            directory = openat(&directory, "deeper", OFlags::PATH, Mode::empty()).unwrap();
        }
        remove(&setting);
    }

    #[test]
    fn what_several_threads_remove_is_gone_however_it_is_nested() {
        let setting = tempfile::tempdir().unwrap();
        for number in 0..40 {
            let deep = setting.path().join("tree").join(format!("{number}/{}", "deeper/".repeat(MOST_OPEN + 5)));
            std::fs::create_dir_all(&deep).unwrap();
            std::fs::write(deep.join("file"), "").unwrap();
            let wide = setting.path().join(format!("tree/common/{number}"));
            std::fs::create_dir_all(&wide).unwrap();
            (0..30).for_each(|file| std::fs::write(wide.join(file.to_string()), "").unwrap());
        }
        remove(&setting);
    }

    #[test]
    fn names_that_a_build_may_have_foreseen_are_no_obstacle() {
        let setting = tempfile::tempdir().unwrap();
        let tree = setting.path().join("tree");
        std::fs::create_dir_all(tree.join("d/".repeat(3 * MOST_OPEN))).unwrap();
        std::fs::create_dir_all(tree.join("moved-up-1/full")).unwrap();
        std::fs::write(tree.join("moved-up-2"), "").unwrap();
        remove(&setting);
    }

    #[test]
    fn directories_without_permissions_are_removed() {
        let setting = tempfile::tempdir().unwrap();
        let closed = setting.path().join("tree/closed");
        std::fs::create_dir_all(closed.join("below")).unwrap();
        std::fs::write(closed.join("file"), "").unwrap();
        let handle = std::fs::File::open(&closed).unwrap();
        fchmod(&handle, Mode::empty()).unwrap();
        remove(&setting);
    }

    #[test]
    fn what_a_symbolic_link_leads_to_stays() {
        let setting = tempfile::tempdir().unwrap();
        let precious = setting.path().join("precious");
        std::fs::create_dir(&precious).unwrap();
        std::fs::write(precious.join("file"), "").unwrap();
        std::fs::create_dir(setting.path().join("tree")).unwrap();
        std::os::unix::fs::symlink(&precious, setting.path().join("tree/link")).unwrap();
        remove(&setting);
        assert!(precious.join("file").exists());
    }
}
