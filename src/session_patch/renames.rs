//! Finds the files that were moved: one is gone, and one is new that holds the same, or nearly.

use std::collections::HashMap;

use super::format::{FileChange, FileMode, Version, similarity};
use super::ignored::name_of;

/// Half of a file has to be the same, as for git.
const LEAST_SIMILARITY: u8 = 50;
/// Beyond, only those are found that hold just the same.
const MOST_COMPARISONS: usize = 20_000;

/// Makes one change of each deletion and addition that belong together.
pub(super) fn pair_renames(changes: Vec<FileChange>) -> Vec<FileChange> {
    let (mut deleted, mut added, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match change {
            FileChange::Deleted(old) => deleted.push(Some(old)),
            FileChange::Added(new) => added.push(Some(new)),
            changed @ FileChange::Changed { .. } => others.push(changed),
        }
    }
    let mut pair = |old: &mut Option<Version>, new: &mut Option<Version>, similarity| {
        // One of the two may have found another.
        if old.is_some()
            && new.is_some()
            && let (Some(old), Some(new)) = (old.take(), new.take())
        {
            others.push(FileChange::Changed { old, new, similarity });
        }
    };
    for (old, new) in same_content(&deleted, &added) {
        pair(&mut deleted[old], &mut added[new], 100);
    }
    for (similarity, old, new) in similar_content(&deleted, &added) {
        pair(&mut deleted[old], &mut added[new], similarity);
    }
    others.extend(deleted.into_iter().flatten().map(FileChange::Deleted));
    others.extend(added.into_iter().flatten().map(FileChange::Added));
    others.sort_by(|a, b| a.path().cmp(b.path()));
    others
}

/// Empty files are alike and yet nothing to do with each other.
fn can_be_moved(version: &Option<Version>) -> Option<&Version> {
    version.as_ref().filter(|version| !version.content.is_empty())
}

/// Indices of what holds the same, those of the same name first. None is used twice.
fn same_content(deleted: &[Option<Version>], added: &[Option<Version>]) -> Vec<(usize, usize)> {
    let mut by_content: HashMap<(bool, &[u8]), Vec<usize>> = HashMap::new();
    for (index, new) in added.iter().enumerate() {
        if let Some(new) = can_be_moved(new) {
            by_content.entry((new.mode == FileMode::Link, &new.content)).or_default().push(index);
        }
    }
    let mut pairs = Vec::new();
    for by_name in [true, false] {
        for (index, old) in deleted.iter().enumerate() {
            let Some(old) = can_be_moved(old) else {
                continue;
            };
            if pairs.iter().any(|(used, _)| *used == index) {
                continue;
            }
            let Some(candidates) = by_content.get_mut(&(old.mode == FileMode::Link, old.content.as_slice())) else {
                continue;
            };
            let has_name = |new: &usize| {
                added.get(*new).and_then(Option::as_ref).is_some_and(|new| name_of(&new.path) == name_of(&old.path))
            };
            let Some(position) = candidates.iter().position(|new| !by_name || has_name(new)) else {
                continue;
            };
            pairs.push((index, candidates.remove(position)));
        }
    }
    pairs
}

/// Indices of what holds nearly the same, and how nearly, the most similar first.
fn similar_content(deleted: &[Option<Version>], added: &[Option<Version>]) -> Vec<(u8, usize, usize)> {
    let count = |versions: &[Option<Version>]| versions.iter().flatten().count();
    if count(deleted) * count(added) > MOST_COMPARISONS {
        return Vec::new();
    }
    let files = |versions: &'_ [Option<Version>]| -> Vec<usize> {
        let is_file = |index: &usize| {
            let version = versions.get(*index).and_then(can_be_moved);
            version.is_some_and(|version| version.mode != FileMode::Link)
        };
        (0..versions.len()).filter(is_file).collect()
    };
    let mut pairs = Vec::new();
    for old in files(deleted) {
        for new in files(added) {
            let (Some(old_version), Some(new_version)) = (&deleted[old], &added[new]) else {
                continue;
            };
            let (a, b) = (old_version.content.len(), new_version.content.len());
            // No more than the smaller one can be common to both.
            if a.min(b) * 100 < a.max(b) * usize::from(LEAST_SIMILARITY) {
                continue;
            }
            let similarity = similarity(&old_version.content, &new_version.content);
            if similarity >= LEAST_SIMILARITY {
                pairs.push((similarity, old, new));
            }
        }
    }
    // Of equals the first stay first.
    pairs.sort_by_key(|(similarity, ..)| std::cmp::Reverse(*similarity));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(path: &str, content: &str) -> Version {
        Version { path: path.into(), mode: FileMode::Plain, content: content.into() }
    }

    /// In words: «old>new» for a rename, «-old» and «+new» for the rest.
    fn paired(deleted: &[(&str, &str)], added: &[(&str, &str)]) -> Vec<String> {
        let deleted = deleted.iter().map(|(path, content)| FileChange::Deleted(version(path, content)));
        let added = added.iter().map(|(path, content)| FileChange::Added(version(path, content)));
        let name = |version: &Version| String::from_utf8(version.path.clone()).unwrap();
        let told = |change: FileChange| match change {
            FileChange::Added(new) => format!("+{}", name(&new)),
            FileChange::Deleted(old) => format!("-{}", name(&old)),
            FileChange::Changed { old, new, similarity } => format!("{}>{} {similarity}", name(&old), name(&new)),
        };
        pair_renames(deleted.chain(added).collect()).into_iter().map(told).collect()
    }

    #[test]
    fn a_file_with_the_same_content_was_moved() {
        assert_eq!(paired(&[("a", "x\n")], &[("b", "x\n")]), ["a>b 100"]);
        assert_eq!(paired(&[("a", "x\n")], &[("b", "y\n")]), ["-a", "+b"]);
        assert_eq!(paired(&[("a", "")], &[("b", "")]), ["-a", "+b"]);
    }

    #[test]
    fn of_several_the_one_of_the_same_name_is_taken() {
        let found = paired(&[("a/one", "x\n"), ("a/two", "x\n")], &[("b/two", "x\n"), ("c/one", "x\n")]);
        assert_eq!(found, ["a/two>b/two 100", "a/one>c/one 100"]);
    }

    #[test]
    fn a_file_that_is_half_the_same_was_moved_and_the_most_similar_wins() {
        let old = "1\n2\n3\n4\n";
        assert_eq!(paired(&[("a", old)], &[("b", "1\n2\nx\ny\n"), ("c", "1\n2\n3\nx\n")]), ["+b", "a>c 75"]);
        assert_eq!(paired(&[("a", old)], &[("b", "1\nx\ny\nz\n")]), ["-a", "+b"]);
    }

    #[test]
    fn a_link_is_no_file_with_the_same_text() {
        let link = Version { mode: FileMode::Link, ..version("b", "x") };
        let changes = pair_renames(vec![FileChange::Deleted(version("a", "x")), FileChange::Added(link)]);
        assert_eq!(changes.len(), 2);
    }
}
