//! What the user is told at the end of a session.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::content::LARGEST;
use super::format::FileChange;
use super::rule::Verdict;

/// How many paths a line names.
const MOST_NAMED: usize = 5;

/// What became of everything that was touched.
#[derive(Debug, Default)]
pub(super) struct Summary {
    written: Vec<String>,
    products: Vec<Vec<u8>>,
    probable_products: Vec<Vec<u8>>,
    older: Vec<Vec<u8>>,
    copies: Vec<Vec<u8>>,
    /// Files in the patch of the source that are no longer, or may not be, as the source has them.
    pub patched_before: Vec<Vec<u8>>,
    /// Files of the source in which the build itself had changed the same lines.
    pub conflicts: Vec<Vec<u8>>,
    /// Why the source could not be unpacked once more.
    pub not_unpacked: Option<String>,
    /// Changed files of the source that are no text.
    pub binaries: Vec<Vec<u8>>,
    /// Files that nobody reads.
    pub too_large: Vec<Vec<u8>>,
    /// Directories below which nobody looked.
    pub too_deep: Vec<Vec<u8>>,
}

impl Summary {
    /// Notes a file that is in no patch.
    pub fn leave_out(&mut self, path: &[u8], why: Verdict) {
        let list = match why {
            Verdict::Older => &mut self.older,
            Verdict::Copy => &mut self.copies,
            Verdict::ProbableProduct => &mut self.probable_products,
            _ => &mut self.products,
        };
        list.push(path.into());
    }

    /// Notes the patches that were written, with what is in them: that of the source, whose root is `root` in the build directory,
    /// and that of all else.
    pub fn add_patches(
        &mut self,
        root: &[u8],
        (source, source_changes): (Option<PathBuf>, &[FileChange]),
        (elsewhere, other_changes): (Option<PathBuf>, &[FileChange]),
    ) {
        if let Some(path) = source {
            let (file, count) = (path.display(), files(source_changes.len()));
            let name = path.file_name().unwrap_or_default().display();
            let root =
                if root.is_empty() { "the source".into() } else { OsStr::from_bytes(root).display().to_string() };
            self.written.push(format!("your changes to {count} of {root} are in {file}"));
            self.written.push(format!(
                "in the root of the source «git apply» or «patch -p1 <» takes them, in the package patches = [ ./{name} ];"
            ));
            if needs_git(source_changes) {
                self.written.push(
                    "a directory has taken the place of a file there, or a file that of a directory, which git can apply and patch cannot"
                        .into(),
                );
            }
        }
        if let Some(path) = elsewhere {
            let (file, count) = (path.display(), files(other_changes.len()));
            self.written.push(format!(
                "changes to {count} that the build makes, or outside of the source, are in {file}, which applies to a copy of the build directory, not to the source"
            ));
        }
    }

    /// All of it, a line each; nothing where nothing was changed but what tools make.
    pub fn lines(self) -> Vec<String> {
        let told = |paths: &[Vec<u8>], why: String| (!paths.is_empty()).then(|| format!("{why}: {}", names(paths)));
        let is_told = !self.written.is_empty() || !self.probable_products.is_empty() || !self.older.is_empty();
        let products = [self.probable_products, if is_told { self.products } else { Vec::new() }].concat();
        let copies = if is_told { self.copies } else { Vec::new() };
        let left_out = |paths: &[Vec<u8>], why: &str| format!("left out {}{why}", files(paths.len()));
        let others = [
            told(
                &self.patched_before,
                format!(
                    "the build itself had changed {} of these before, so that the patch may not fit the source without that",
                    files(self.patched_before.len())
                ),
            ),
            told(
                &self.conflicts,
                format!(
                    "the build itself had changed the same lines of {}, so these are not for the source and stand in the rest patch",
                    files(self.conflicts.len())
                ),
            ),
            self.not_unpacked.map(|why| {
                format!("what came with the source is guessed by the times of files, since it could not be unpacked once more: {why}")
            }),
            told(&self.binaries, left_out(&self.binaries, " whose content is no text, so that no patch can hold it")),
            told(&self.too_large, left_out(&self.too_large, &format!(" of more than {} MiB", LARGEST >> 20))),
            told(&products, left_out(&products, " that the build makes, by all appearances")),
            told(&copies, left_out(&copies, " that were only copied")),
            told(&self.older, left_out(&self.older, " whose content is older than the session")),
            told(&self.too_deep, "did not look below directories that are nested too deeply".into()),
        ];
        self.written.into_iter().chain(others.into_iter().flatten()).collect()
    }
}

pub(super) fn files(count: usize) -> String {
    if count == 1 { "1 file".into() } else { format!("{count} files") }
}

fn names(paths: &[Vec<u8>]) -> String {
    let named = paths.iter().take(MOST_NAMED).map(|path| OsStr::from_bytes(path).display().to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(MOST_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Whether what is new lies below what is gone, or above it: `patch` removes files only in the end.
fn needs_git(changes: &[FileChange]) -> bool {
    let gone = changes.iter().filter_map(|change| match change {
        FileChange::Deleted(old) => Some(&old.path),
        FileChange::Changed { old, new, .. } if old.path != new.path => Some(&old.path),
        _ => None,
    });
    let gone: Vec<_> = gone.collect();
    let is_below = |path: &[u8], above: &[u8]| path.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/"));
    let is_in_the_way = |new: &[u8]| gone.iter().any(|old| is_below(new, old) || is_below(old, new));
    !gone.is_empty()
        && changes.iter().any(|change| !matches!(change, FileChange::Deleted(_)) && is_in_the_way(change.path()))
}

#[cfg(test)]
mod tests {
    use super::super::format::{FileMode, Version};
    use super::*;

    fn version(path: &str) -> Version {
        Version { path: path.into(), mode: FileMode::Plain, content: Vec::new() }
    }

    #[test]
    fn nothing_is_said_of_what_tools_make_alone() {
        let mut summary = Summary::default();
        summary.leave_out(b"main.o", Verdict::Product);
        assert_eq!(summary.lines(), [""; 0]);
    }

    #[test]
    fn what_somebody_may_have_written_is_named_and_not_more_than_five() {
        let mut summary = Summary::default();
        summary.leave_out(b"Makefile", Verdict::ProbableProduct);
        (1..=6).for_each(|number| summary.leave_out(format!("{number}.o").as_bytes(), Verdict::Product));
        let expected =
            "left out 7 files that the build makes, by all appearances: Makefile, 1.o, 2.o, 3.o, 4.o and 2 more";
        assert_eq!(summary.lines(), [expected]);
    }

    #[test]
    fn a_patch_is_told_with_what_can_be_done_with_it() {
        let mut summary = Summary::default();
        summary.add_patches(b"hello", (Some("/p/h.patch".into()), &[FileChange::Added(version("new"))]), (None, &[]));
        let lines = summary.lines();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], "your changes to 1 file of hello are in /p/h.patch");
        assert!(lines[1].contains("«git apply»") && lines[1].ends_with("patches = [ ./h.patch ];"), "{lines:?}");
    }

    #[test]
    fn what_patch_cannot_do_is_known() {
        let gone = |path| FileChange::Deleted(version(path));
        let new = |path| FileChange::Added(version(path));
        assert!(needs_git(&[gone("a"), new("a/b")]) && needs_git(&[gone("a/b"), new("a")]));
        assert!(
            !needs_git(&[gone("a"), new("ab")]) && !needs_git(&[new("a/b")]) && !needs_git(&[gone("a"), gone("a/b")])
        );
    }
}
