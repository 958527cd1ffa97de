//! What a person typed in a session, as a patch: nothing of it is to be lost with the sandbox.
//!
//! Before the session every entry of the copy is looked at, and once more after it: what has another inode, size or time is read, and
//! compared with the kept directory. Of an overlay nothing is looked at before, since its upper layer has what was touched. [`rule`]
//! tells what belongs to the source from what the build makes, [`renames`] finds what was moved, [`format`] writes what git and `patch`
//! read, and [`destination`] knows where to.

mod content;
mod destination;
mod doubtful;
mod format;
mod ignored;
mod layers;
mod old_places;
mod origin;
mod outside;
mod phase_times;
mod products;
mod rebase;
mod renames;
mod rule;
mod summary;
mod tree;
mod unpacked;
mod unpacking_reason;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Dir, fstat, statat};

use self::content::{Content, LARGEST};
use self::destination::Destination;
use self::doubtful::Doubtful;
use self::format::{FileChange, Version};
use self::ignored::{Ignored, name_of, parent_of};
use self::layers::Layers;
use self::old_places::OldPlaces;
use self::origin::{FromSource, Origin};
pub use self::outside::{Outside, told_of_outputs};
use self::phase_times::PhaseTimes;
use self::products::{is_dependency_list, is_machine_code};
use self::rebase::rebased;
use self::renames::pair_renames;
use self::rule::{Rule, Touched, Verdict, touched};
use self::summary::Summary;
use self::tree::{Access, Entry, Kind, Moment, Tree, moment_of};
pub use self::unpacked::Means;
use self::unpacked::Unpacked;
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::file_times::TICK;
use crate::kept_build::KeptBuild;
use crate::scratch::Scratch;
use crate::session::Interrupted;

/// A session that may end in a patch.
#[derive(Debug)]
pub struct SessionPatch<'a> {
    build: &'a FailedBuild,
    /// What the session began with; nothing where only a derivation was given.
    kept: Option<&'a KeptBuild>,
    caller: &'a Caller,
    /// The copy that the session works on.
    copy: OwnedFd,
    before: Tree,
    is_overlay: bool,
    /// Whether what looks touched may be as it was all the same.
    is_long_ago: bool,
    destination: Destination,
}

impl<'a> SessionPatch<'a> {
    /// Notes what the copy of the build directory looks like before the session. The patch will be the new file `file`, or one in the
    /// user's directory for such. Where only a derivation was given, what is unpacked in the session is compared with the sources.
    ///
    /// # Errors
    /// A `file` that cannot be made, or where there is nothing for it to hold; a copy that cannot be read.
    pub fn begin(
        build: &'a FailedBuild,
        caller: &'a Caller,
        scratch: &Scratch,
        file: Option<&Path>,
    ) -> Result<Option<Self>> {
        let kept = build.kept.as_ref();
        if scratch.is_in_place() {
            if file.is_some() {
                bail!(
                    "the kept directory itself is changed, so --save-patch has nothing to compare with; leave out one of the two options"
                );
            }
            return Ok(None);
        }
        let destination = Destination::new(file, kept, caller)?;
        let copy = scratch.open_build()?;
        let is_overlay = scratch.is_overlay();
        let before = look(&copy, kept, is_overlay)?;
        Ok(Some(Self { build, kept, caller, copy, before, is_overlay, is_long_ago: false, destination }))
    }

    /// The patch of a session in `scratch` that has ended, however long ago: it began at `began` with the kept directory of `build`,
    /// which is as it was, as a copy or as an overlay, or with a derivation. What of a copy was touched since, the times of its files
    /// tell.
    ///
    /// # Errors
    /// As of [`begin`](Self::begin).
    pub fn of_ended(
        build: &'a FailedBuild,
        caller: &'a Caller,
        scratch: &Scratch,
        (began, is_overlay): (SystemTime, bool),
        file: Option<&Path>,
    ) -> Result<Self> {
        let kept = build.kept.as_ref();
        let destination = Destination::new(file, kept, caller)?;
        let copy = scratch.open_build()?;
        let began = moment_of(began.checked_sub(TICK).unwrap_or(UNIX_EPOCH));
        let before = match kept {
            // But for what we had put there for the builder, which is in no patch.
            None => Tree::default(),
            Some(kept) if is_overlay => Tree::in_layers(Layers::kept(&kept.handle)?, Some(began)),
            Some(kept) => {
                let now = caller.with_own_rights(|| Tree::of(&copy, Access::AsOwner))??;
                // What nobody could read was left out.
                let was_copied = |path: &[u8]| Content::read(&kept.handle, path, Access::Quietly).is_ok();
                Tree::of_copy_at(began, Tree::of(&kept.handle, Access::Quietly)?, &now, was_copied)
            }
        };
        Ok(Self { build, kept, caller, copy, before, is_overlay, is_long_ago: true, destination })
    }

    /// Notes what the copy looks like that has taken the place of an overlay.
    ///
    /// # Errors
    /// A copy that cannot be read.
    pub fn look_again(&mut self, scratch: &Scratch) -> Result<()> {
        self.copy = scratch.open_build()?;
        self.is_overlay = scratch.is_overlay();
        self.before = look(&self.copy, self.kept, self.is_overlay)?;
        Ok(())
    }

    /// Writes what was changed since in `scratch`, when no process of the session lives any more. Returns what the user should know of it,
    /// a line each.
    ///
    /// # Errors
    /// What cannot be read or written: then the copy is all that has the changes.
    pub fn save(self, scratch: &Scratch, means: &Means<'_>) -> Result<Vec<String>> {
        let (after, mut touched) = self.caller.with_own_rights(|| self.look_after())??;
        if let Some(closed) = after.closed.iter().find(|path| !self.before.closed.contains(path)) {
            bail!("cannot look into the directory {}", closed.escape_ascii());
        }
        let times = PhaseTimes::of(scratch, &self.build.build_directory);
        // What is new and only phases made is not worth a word, and what they unpacked is no reason to unpack it once more. But what they
        // moved is missing elsewhere; and in a session that is kept others may type meanwhile, or have typed in it before.
        let is_nothing_missing = self.kept.is_none();
        let is_made = |path: &[u8], new: Entry| {
            !self.is_long_ago && (is_nothing_missing || times.contains(new.modified)) && times.made(path, &new)
        };
        touched.retain(|Touched { path, old, new }| old.is_some() || !new.is_some_and(|new| is_made(path, new)));
        let mut origin = Origin::of(self.build, &self.before, &after);
        let mut summary = Summary::default();
        if self.is_any_doubtful(&self.rule(&origin, &after, &times), &touched)? {
            match Unpacked::new(self.build, self.caller, means) {
                Ok(unpacked) => origin.decide_by(unpacked, self.build),
                Err(error) => {
                    summary.not_unpacked = Some(match error.downcast_ref() {
                        Some(Interrupted(signal)) => format!("signal {} has ended that", signal.as_raw()),
                        None => format!("{error:#}"),
                    });
                }
            }
        }
        let (source, elsewhere) = self.changes(&origin, &after, &touched, &times, &mut summary)?;
        let patches = [format::patch(&source), format::patch(&elsewhere)];
        let written =
            self.destination.write(self.build, self.caller, [patches[0].as_slice(), patches[1].as_slice()])?;
        let [of_source, of_elsewhere] = written;
        summary.add_patches(&origin.root, (of_source, &source), (of_elsewhere, &elsewhere));
        Ok(summary.lines())
    }

    /// What the build directory looks like now, and what of it was touched.
    fn look_after(&self) -> Result<(Tree, Vec<Touched>)> {
        let Some(kept) = self.kept.filter(|_| self.is_overlay) else {
            let after = Tree::of(&self.copy, Access::AsOwner)?;
            let mut touched = touched(&self.before, &after);
            if self.kept.is_none() {
                // Of what we had put there for the builder nobody has another copy.
                touched.iter_mut().for_each(|touched| touched.old = None);
            }
            return Ok((after, touched));
        };
        let mut after = Tree::in_layers(Layers::merged(&self.copy, &kept.handle)?, None);
        let touched = Layers::merged(&self.copy, &kept.handle)?.touched(&mut after);
        Ok((after, touched))
    }

    fn rule<'b>(&'b self, origin: &'b Origin, after: &'b Tree, times: &'b PhaseTimes) -> Rule<'b> {
        let ignored = Ignored::of(self.base());
        Rule { origin, ignored, before: &self.before, after, times, made: RefCell::default() }
    }

    /// What has changed: in the source, with paths below its root, and elsewhere, with paths below the build directory.
    fn changes(
        &self,
        origin: &Origin,
        after: &Tree,
        touched: &[Touched],
        times: &PhaseTimes,
        summary: &mut Summary,
    ) -> Result<(Vec<FileChange>, Vec<FileChange>)> {
        summary.too_deep = after.too_deep.iter().filter(|path| !self.before.too_deep.contains(path)).cloned().collect();
        let rule = self.rule(origin, after, times);
        let places = OldPlaces::of(&self.before, touched);
        let (mut source, mut elsewhere, mut older) = (Vec::new(), Vec::new(), Vec::new());
        let mut doubtful = Doubtful::default();
        for Touched { path, old, new } in touched {
            let (path, old, new) = (path.as_slice(), old.as_ref(), new.as_ref());
            // The kernel copies a file to the upper layer as soon as somebody opens it to write, or changes its mode.
            if (self.is_overlay || self.is_long_ago)
                && is_alike(old, new)
                && self.change(origin, path, old, new)?.is_none()
            {
                continue;
            }
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
                    if self.came_from_source(&rule, &places, version, entry)? =>
                {
                    Verdict::Source
                }
                (Verdict::ProbableProduct, change, _) => self.judge_doubtful(&places, change)?,
                _ => verdict,
            };
            if verdict == Verdict::Source && old.is_some_and(|old| origin.has(path, old) == FromSource::Perhaps) {
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
                Verdict::ProbableProduct => doubtful.add(change, |directory| self.before.get(directory).is_some()),
                _ => summary.leave_out(path, verdict),
            }
        }
        let (written, made) = doubtful.divided();
        elsewhere.extend(written);
        made.iter().for_each(|path| summary.leave_out(path, Verdict::ProbableProduct));
        let mut of_source = Vec::new();
        for change in pair_renames(source) {
            match rebased(change, origin) {
                Ok(change) => of_source.extend(change),
                Err(change) => {
                    summary.conflicts.push(change.path().into());
                    elsewhere.push(change);
                }
            }
        }
        let mut finished = |mut changes: Vec<FileChange>, root: &[u8]| {
            changes.retain(|change| is_for_a_patch(change, &older, summary));
            changes.iter_mut().for_each(|change| change.take_below(root));
            changes
        };
        Ok((finished(of_source, &origin.root), finished(pair_renames(elsewhere), b"")))
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

    /// Whether what looks like a product may have been written by somebody.
    fn judge_doubtful(&self, places: &OldPlaces<'_>, change: &FileChange) -> Result<Verdict> {
        let new = match change {
            FileChange::Deleted(_) => return Ok(Verdict::Product),
            FileChange::Changed { new, .. } => return Ok(product_or(Verdict::ProbableProduct, new)),
            FileChange::Added(new) => new,
        };
        let size = new.content.len().try_into().unwrap_or(u64::MAX);
        // Files with next to nothing in them are often alike; of a tree that was copied the names are the same.
        let name = name_of(&new.path);
        let stem = name.strip_suffix(b".orig").unwrap_or(name);
        let is_original = |path: &[u8], before: &Entry| {
            let is_like_it = [name, stem].contains(&name_of(path)) && (before.kind == Kind::Link) == new.mode.is_link();
            Ok(is_like_it && self.original(path, before)?.bytes == new.content)
        };
        let is_copy = size > 0 && is_any(places.with_size(size), is_original)?;
        Ok(if is_copy { Verdict::Copy } else { product_or(Verdict::ProbableProduct, new) })
    }

    /// Whether what is new in the source, and older than the session, is a file of the source all the same, under another name: it was
    /// moved, and something else may be in its old place, or it was copied with its time. What was unpacked once more, in a directory
    /// of its own, is none.
    fn came_from_source(&self, rule: &Rule<'_>, places: &OldPlaces<'_>, new: &Version, entry: &Entry) -> Result<bool> {
        if !rule.origin.contains(&new.path) {
            return Ok(false);
        }
        let is_in_old_directory = self.before.get(parent_of(&new.path)).is_some();
        let was_at = |path: &[u8], before: &Entry| {
            if before.kind != entry.kind || rule.judge(path, Some(before), Some(before)) != Verdict::Source {
                return Ok(false);
            }
            // Every file that an overlay has moved is a new one; the other layer's numbers may be those of another file system.
            if before.inode == entry.inode && !self.is_overlay {
                return Ok(true);
            }
            let now = rule.after.get(path);
            let is_still_there =
                if self.is_overlay { now == Some(*before) } else { now.is_some_and(|now| now.kind == before.kind) };
            let may_be_it = if entry.size > 0 {
                is_in_old_directory || !is_still_there
            } else {
                // Empty files are alike and yet nothing to do with each other.
                self.is_overlay && !is_still_there && before.modified == entry.modified
            };
            Ok(may_be_it && self.original(path, before)?.bytes == new.content)
        };
        if self.is_overlay {
            return is_any(places.with_size(entry.size), was_at);
        }
        is_any(self.before.iter(), was_at)
    }

    /// The directory that the session began with.
    fn base(&self) -> &OwnedFd {
        self.kept.map_or(&self.copy, |kept| &kept.handle)
    }

    /// The file `path` as the session found it: the kept directory still has it.
    fn original(&self, path: &[u8], before: &Entry) -> Result<Content> {
        let content = Content::read(self.base(), path, Access::Quietly)?;
        // Not every file system keeps the fraction of a second.
        if (content.entry.size, content.entry.modified.0) != (before.size, before.modified.0) {
            bail!("{} was changed in the kept build directory meanwhile", path.escape_ascii());
        }
        Ok(content)
    }
}

/// What only a compiler writes is a product, and else it is as `verdict` says.
fn product_or(verdict: Verdict, version: &Version) -> Verdict {
    if is_machine_code(&version.content) || is_dependency_list(&version.content) { Verdict::Product } else { verdict }
}

/// What there is before a session.
fn look(copy: &OwnedFd, kept: Option<&KeptBuild>, is_overlay: bool) -> Result<Tree> {
    let Some(kept) = kept.filter(|_| is_overlay) else {
        return Tree::of(copy, Access::Quietly);
    };
    Ok(Tree::in_layers(Layers::kept(&kept.handle)?, Some(last_change_of(copy)?)))
}

/// When the upper layer of an overlay, in which next to nothing is yet, or something at its top changed last.
fn last_change_of(upper: &OwnedFd) -> Result<Moment> {
    let top = Entry::of(&fstat(upper).context("cannot look at the upper layer")?).changed;
    let entries = Dir::read_from(upper).context("cannot read the upper layer")?.flatten();
    let statuses = entries.filter_map(|entry| statat(upper, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok());
    Ok(statuses.map(|status| Entry::of(&status).changed).fold(top, Moment::max))
}

/// Whether one of these fulfils `condition`.
fn is_any<'a>(
    entries: impl Iterator<Item = (&'a [u8], &'a Entry)>,
    condition: impl Fn(&[u8], &Entry) -> Result<bool>,
) -> Result<bool> {
    for (path, entry) in entries {
        if condition(path, entry)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether two files could be the same, and one can read them.
fn is_alike(old: Option<&Entry>, new: Option<&Entry>) -> bool {
    let traits = |entry: &Entry| (entry.kind, entry.executable, entry.size, entry.modified);
    old.zip(new).is_some_and(|(old, new)| traits(old) == traits(new) && new.size <= LARGEST)
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
