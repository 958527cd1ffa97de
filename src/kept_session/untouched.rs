//! Whether anything was done in a session that was killed: what nobody has touched is not worth to be kept.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::path::Arg;

use super::Description;
use crate::caller::Caller;
use crate::file_times::{TICK, changed, modified};
use crate::history::History;
use crate::quiet_open::read_quietly;
use crate::scratch::Scratch;

/// More entries than it is worth to look at: then it is kept.
const MOST_ENTRIES: usize = 200_000;
/// More levels than a directory is looked into: then it is kept.
const DEEPEST: usize = 200;
/// A file that is larger is not read: then it is kept.
const LARGEST: u64 = 16 << 20;

/// Whether nothing in `scratch` has changed since the session began that `description` is of, and nothing was typed there. What cannot be
/// told, or not soon, counts as changed.
pub(super) fn is_untouched(scratch: &Scratch, description: &Description, caller: &Caller) -> bool {
    let Some(began) = description.began else { return false };
    let typed = caller.with_own_rights(|| scratch.history_of_session()).ok().flatten();
    if let Some(typed) = typed.filter(|typed| !typed.is_empty()) {
        // Sessions that ran meanwhile may have added to it.
        let is_known =
            |name: String| History::named(name.as_bytes(), caller).is_ok_and(|now| now.before.starts_with(&typed));
        if !description.derivation_name().is_some_and(is_known) {
            return false;
        }
    }
    caller.with_own_rights(|| is_as_it_began(scratch, description, began)).unwrap_or(false)
}

fn is_as_it_began(scratch: &Scratch, description: &Description, began: SystemTime) -> bool {
    let Ok(build) = scratch.open_build() else { return false };
    let kept = description.kept_directory().ok().flatten();
    let mut look = Look { began, left: MOST_ENTRIES, is_store: false };
    // In a layer there is nothing but what was touched, or copied into it before.
    let original = kept.as_ref().filter(|_| !description.is_overlay).map(|kept| kept.handle.as_fd());
    // An entry may have gone from the top. When that changed otherwise says nothing: the kernel may have marked that of a layer.
    let is_as_it_was = |status: &Stat| {
        let modified_now = modified(status);
        let is_as_before = |kept| fstat(kept).is_ok_and(|before| modified(&before) == modified_now);
        modified_now <= began && (modified_now + TICK < began || original.is_none_or(is_as_before))
    };
    if !fstat(&build).is_ok_and(|status| is_as_it_was(&status)) {
        return false;
    }
    if !look.is_untouched(build.as_fd(), original, DEEPEST) {
        return false;
    }
    look.is_store = true;
    let store = open(CWD, description.store.physical_directory()).ok();
    let store = store.as_ref().map(OwnedFd::as_fd);
    scratch.open_outputs().is_none_or(|outputs| look.is_untouched(outputs.as_fd(), store, DEEPEST))
}

/// What is looked for, and how far.
struct Look {
    began: SystemTime,
    left: usize,
    /// Whether it begins in a store, where the sandbox itself makes what store paths are mounted on: empty files, links and directories.
    is_store: bool,
}

impl Look {
    /// Whether nothing in `directory` has changed. What did so in the moment before the session began has to be as in `original`, of which
    /// it was copied then.
    fn is_untouched(&mut self, directory: BorrowedFd<'_>, original: Option<BorrowedFd<'_>>, levels: usize) -> bool {
        let Ok(opened) = open(directory, c".") else { return false };
        let Ok(entries) = Dir::read_from(&opened) else { return false };
        for entry in entries {
            let Ok(entry) = entry else { return false };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(status) = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
            self.left = self.left.saturating_sub(1);
            let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
            let is_mounted_on = self.is_store && levels == DEEPEST && is_bare(&opened, name, &status);
            // What Nix writes for a builder, we have written just before.
            let name_bytes = name.to_bytes();
            let is_builders = levels == DEEPEST && (name_bytes == b"env-vars" || name_bytes.starts_with(b".attr"));
            let is_as_before = || {
                let before = original.and_then(|original| statat(original, name, AtFlags::SYMLINK_NOFOLLOW).ok());
                before.is_some_and(|before| is_copy(&status, &before))
                    && original.is_some_and(|original| is_alike(original, &opened, name, &status))
            };
            let changed = changed(&status);
            let is_certain = changed + TICK < self.began;
            if self.left == 0
                || !is_mounted_on && (changed > self.began || !is_certain && !is_builders && !is_as_before())
            {
                return false;
            }
            if is_directory {
                let original = original.and_then(|original| open(original, name).ok());
                let below = open(opened.as_fd(), name);
                let original = original.as_ref().map(OwnedFd::as_fd);
                if levels == 1 || !below.is_ok_and(|below| self.is_untouched(below.as_fd(), original, levels - 1)) {
                    return false;
                }
            }
        }
        true
    }
}

/// Whether it is what something was mounted on, with nothing in it, or a link in a store.
fn is_bare(directory: &OwnedFd, name: &CStr, status: &Stat) -> bool {
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => status.st_size == 0,
        FileType::Symlink => true,
        FileType::Directory => open(directory.as_fd(), name).and_then(Dir::new).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")))
        }),
        _ => false,
    }
}

/// Whether one is as a copy makes it of the other.
fn is_copy(copy: &Stat, original: &Stat) -> bool {
    let is_directory = FileType::from_raw_mode(original.st_mode) == FileType::Directory;
    let same_size = is_directory || copy.st_size == original.st_size;
    copy.st_mode == original.st_mode && same_size && modified(copy) == modified(original)
}

/// Whether a file has the same content in both directories, or a link the same target.
fn is_alike(original: BorrowedFd<'_>, copy: &OwnedFd, name: &CStr, status: &Stat) -> bool {
    let read = |directory| read_quietly(directory, name, OFlags::NOFOLLOW, LARGEST);
    let follow = |directory| readlinkat(directory, name, Vec::new());
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => read(original).is_ok_and(|before| read(copy.as_fd()).is_ok_and(|now| now == before)),
        FileType::Symlink => follow(original).is_ok_and(|before| follow(copy.as_fd()).is_ok_and(|now| now == before)),
        _ => true,
    }
}

fn open(directory: BorrowedFd<'_>, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}
