//! What a person typed in a session, as a patch: nothing of it is to be lost with the sandbox.
//!
//! Before the session every entry of the copy is looked at, and once more after it: what has another inode, size or time is read, and
//! compared with the kept directory. [`rule`] tells what belongs to the source from what the build makes, [`renames`] finds what was
//! moved, [`format`] writes what git and `patch` read, and [`destination`] knows where to.

mod content;
mod destination;
mod format;
mod ignored;
mod origin;
mod products;
mod renames;
mod rule;
mod summary;
mod tree;

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Result, bail};

use self::content::{Content, LARGEST};
use self::destination::Destination;
use self::format::{FileChange, Version};
use self::ignored::{Ignored, parent_of};
use self::origin::{FromSource, Origin};
use self::products::is_machine_code;
use self::renames::pair_renames;
use self::rule::{Rule, Verdict, touched};
use self::summary::Summary;
use self::tree::{Access, Entry, Kind, Tree};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::kept_build::KeptBuild;
use crate::scratch::Scratch;

/// A session that may end in a patch.
#[derive(Debug)]
pub struct SessionPatch<'a> {
    build: &'a FailedBuild,
    kept: &'a KeptBuild,
    caller: &'a Caller,
    /// The copy that the session works on.
    copy: OwnedFd,
    before: Tree,
    destination: Destination,
}

impl<'a> SessionPatch<'a> {
    /// Notes what the copy of the build directory looks like before the session. The patch will be the new file `file`, or one in the
    /// user's directory for such. Where only a derivation was given there is nothing to compare with, and so no patch.
    ///
    /// # Errors
    /// A `file` that cannot be made, or where there is nothing for it to hold; a copy that cannot be read.
    pub fn begin(
        build: &'a FailedBuild,
        caller: &'a Caller,
        scratch: &Scratch,
        file: Option<&Path>,
    ) -> Result<Option<Self>> {
        let Some(kept) = &build.kept else {
            if file.is_some() {
                bail!("a derivation has no build directory to compare with, so --save-patch has nothing to save");
            }
            return Ok(None);
        };
        let destination = Destination::new(file, kept, caller)?;
        let copy = scratch.open_build()?;
        let before = Tree::of(&copy, Access::Quietly)?;
        Ok(Some(Self { build, kept, caller, copy, before, destination }))
    }

    /// Writes what was changed since, when no process of the session lives any more. Returns what the user should know of it, a line
    /// each.
    ///
    /// # Errors
    /// What cannot be read or written: then the copy is all that has the changes.
    pub fn save(self) -> Result<Vec<String>> {
        let after = self.caller.with_own_rights(|| Tree::of(&self.copy, Access::AsOwner))??;
        if let Some(closed) = after.closed.iter().find(|path| !self.before.closed.contains(path)) {
            bail!("cannot look into the directory {}", closed.escape_ascii());
        }
        let origin = Origin::of(self.build, self.kept, &self.before, &after);
        let mut summary = Summary::default();
        let (source, elsewhere) = self.changes(&origin, &after, &mut summary)?;
        let patches = [format::patch(&source), format::patch(&elsewhere)];
        let written = self.destination.write(
            self.build,
            self.kept,
            self.caller,
            [patches[0].as_slice(), patches[1].as_slice()],
        )?;
        let [of_source, of_elsewhere] = written;
        summary.add_patches(&origin.root, (of_source, &source), (of_elsewhere, &elsewhere));
        Ok(summary.lines())
    }

    /// What has changed: in the source, with paths below its root, and elsewhere, with paths below the build directory.
    fn changes(
        &self,
        origin: &Origin,
        after: &Tree,
        summary: &mut Summary,
    ) -> Result<(Vec<FileChange>, Vec<FileChange>)> {
        summary.too_deep = after.too_deep.iter().filter(|path| !self.before.too_deep.contains(path)).cloned().collect();
        let rule = Rule { origin, ignored: Ignored::of(&self.kept.handle), before: &self.before, after };
        let (mut source, mut elsewhere, mut older) = (Vec::new(), Vec::new(), Vec::new());
        for (path, old, new) in touched(&self.before, after) {
            let verdict = rule.judge(path, old, new);
            match verdict {
                Verdict::OfBuilder => continue,
                Verdict::Product => {
                    summary.leave_out(path, verdict);
                    continue;
                }
                _ => {}
            }
            if [old, new].iter().flatten().any(|entry| entry.kind == Kind::File && entry.size > LARGEST) {
                summary.too_large.push(path.into());
                continue;
            }
            let Some(change) = self.change(origin, path, old, new)? else {
                continue;
            };
            let verdict = match (verdict, &change, new) {
                (Verdict::Older, FileChange::Added(version), Some(entry))
                    if self.came_from_source(&rule, version, entry)? =>
                {
                    Verdict::Source
                }
                _ => verdict,
            };
            if verdict == Verdict::Source && old.is_some_and(|old| was_patched(origin, path, old, &change)) {
                summary.patched_before.push(path.into());
            }
            let is_of_build = old.is_some_and(|old| origin.has(path, old) != FromSource::Yes);
            match verdict {
                _ if is_of_build && !change.has_text() => summary.leave_out(path, Verdict::Product),
                Verdict::Source => source.push(change),
                Verdict::Elsewhere => elsewhere.push(change),
                // Where something else is gone it may have been moved.
                Verdict::Older => {
                    older.push(path);
                    if origin.contains(path) { source.push(change) } else { elsewhere.push(change) }
                }
                _ => summary.leave_out(path, verdict),
            }
        }
        let mut finished = |changes: Vec<FileChange>, root: &[u8]| {
            let mut changes = pair_renames(changes);
            changes.retain(|change| is_for_a_patch(change, &older, summary));
            changes.iter_mut().for_each(|change| change.take_below(root));
            changes
        };
        Ok((finished(source, &origin.root), finished(elsewhere, b"")))
    }

    /// What became of the file `path`; nothing where it is as it was. What was unpacked in the session was as the store has it.
    fn change(
        &self,
        origin: &Origin,
        path: &[u8],
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Result<Option<FileChange>> {
        let version = |content: Content| Version { path: path.into(), mode: content.mode, content: content.bytes };
        let old = match old {
            Some(entry) => Some(self.original(path, entry)?),
            None => origin.content(path),
        };
        let old = old.map(version);
        let read = |_| self.caller.with_own_rights(|| Content::read(&self.copy, path, Access::AsOwner))?;
        let new = new.map(read).transpose()?.map(version);
        Ok(match (old, new) {
            (Some(old), Some(new)) if old == new => None,
            (Some(old), Some(new)) => Some(FileChange::Changed { old, new, similarity: 100 }),
            (Some(old), None) => Some(FileChange::Deleted(old)),
            (None, Some(new)) => Some(FileChange::Added(new)),
            (None, None) => None,
        })
    }

    /// Whether what is new in the source, and older than the session, is a file of the source all the same, under another name: it was
    /// moved, and something else may be in its old place, or it was copied with its time. What was unpacked once more, in a directory
    /// of its own, is none.
    fn came_from_source(&self, rule: &Rule<'_>, new: &Version, entry: &Entry) -> Result<bool> {
        if !rule.origin.contains(&new.path) {
            return Ok(false);
        }
        let is_in_old_directory = self.before.get(parent_of(&new.path)).is_some();
        for (path, before) in self.before.iter() {
            if before.kind != entry.kind || rule.judge(path, Some(before), Some(before)) != Verdict::Source {
                continue;
            }
            if before.inode == entry.inode {
                return Ok(true);
            }
            let is_still_there = || rule.after.get(path).is_some_and(|after| after.kind == before.kind);
            // Empty files are alike and yet nothing to do with each other.
            if before.size == entry.size
                && entry.size > 0
                && (is_in_old_directory || !is_still_there())
                && self.original(path, before)?.bytes == new.content
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file `path` as the session found it: the kept directory still has it.
    fn original(&self, path: &[u8], before: &Entry) -> Result<Content> {
        let content = Content::read(&self.kept.handle, path, Access::Quietly)?;
        // Not every file system keeps the fraction of a second.
        if (content.entry.size, content.entry.modified.0) != (before.size, before.modified.0) {
            bail!("{} was changed in the kept build directory meanwhile", path.escape_ascii());
        }
        Ok(content)
    }
}

/// Whether the build itself had changed a file of the source before the session did, as far as anybody knows.
fn was_patched(origin: &Origin, path: &[u8], before: &Entry, change: &FileChange) -> bool {
    let (FileChange::Changed { old, .. } | FileChange::Deleted(old)) = change else {
        return false;
    };
    match origin.content(path) {
        Some(original) => original.bytes != old.content,
        None => origin.has(path, before) == FromSource::Perhaps,
    }
}

/// Whether a patch can hold a change, and is to; else it is noted. `older` are the files that are older than the session, sorted.
fn is_for_a_patch(change: &FileChange, older: &[&[u8]], summary: &mut Summary) -> bool {
    match change {
        FileChange::Added(new) if older.binary_search(&new.path.as_slice()).is_ok() => {
            summary.leave_out(&new.path, Verdict::Older);
            false
        }
        // What compilers make has no name of its own, but looks like nothing that a person writes.
        FileChange::Added(new) if is_machine_code(&new.content) => {
            summary.leave_out(&new.path, Verdict::Product);
            false
        }
        change if change.has_text() => true,
        _ => {
            summary.binaries.push(change.path().into());
            false
        }
    }
}
