//! What looks like a build's, and what somebody may have written all the same.

use std::collections::BTreeMap;

use super::format::FileChange;
use super::ignored::parent_of;

/// More files than anybody writes below one directory in a session.
const MOST_FILES: usize = 100;
/// More than anybody types below one directory in a session, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// Changes in doubt, by the directory that they came into being in: a tree of which there is more than a person writes is a build's.
#[derive(Debug, Default)]
pub(super) struct Doubtful(BTreeMap<Vec<u8>, Tree>);

#[derive(Debug)]
enum Tree {
    /// Somebody may have written it.
    Few { changes: Vec<FileChange>, bytes: usize },
    /// Nobody has: these are the paths.
    Many(Vec<Vec<u8>>),
}

impl Doubtful {
    /// Adds a change. `is_old` tells of a directory whether it was there before the session.
    pub fn add(&mut self, change: FileChange, is_old: impl Fn(&[u8]) -> bool) {
        let new = directories_of(change.path()).take_while(|directory| !is_old(directory)).last();
        let place = new.unwrap_or(parent_of(change.path())).to_vec();
        let tree = self.0.entry(place).or_insert(Tree::Few { changes: Vec::new(), bytes: 0 });
        match tree {
            Tree::Many(paths) => paths.push(change.path().to_vec()),
            Tree::Few { changes, bytes } => {
                *bytes += change.size();
                changes.push(change);
                if changes.len() > MOST_FILES || *bytes > MOST_BYTES {
                    *tree = Tree::Many(changes.iter().map(|change| change.path().to_vec()).collect());
                }
            }
        }
    }

    /// The changes that somebody may have made, and the paths of the others.
    pub fn divided(self) -> (Vec<FileChange>, Vec<Vec<u8>>) {
        let (mut written, mut made) = (Vec::new(), Vec::new());
        for tree in self.0.into_values() {
            match tree {
                Tree::Few { changes, .. } => written.extend(changes),
                Tree::Many(paths) => made.extend(paths),
            }
        }
        (written, made)
    }
}

/// The directories that a path is in, from the innermost.
pub(super) fn directories_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| Some(parent_of(path)).filter(|parent| !parent.is_empty())).skip(1)
}

#[cfg(test)]
mod tests {
    use super::super::format::{FileMode, Version};
    use super::*;

    fn added(path: String, size: usize) -> FileChange {
        FileChange::Added(Version { path: path.into(), mode: FileMode::Plain, content: vec![b'x'; size] })
    }

    /// Of files of these sizes in the new directory `new`, and one in the old directory `old`, how many may be written and are made.
    fn divided(sizes: &[usize]) -> (usize, usize) {
        let mut doubtful = Doubtful::default();
        let is_old = |directory: &[u8]| directory == b"old";
        doubtful.add(added("old/file".into(), 1), is_old);
        for (number, size) in sizes.iter().enumerate() {
            doubtful.add(added(format!("new/{}/{number}", number % 7), *size), is_old);
        }
        let (written, made) = doubtful.divided();
        assert!(written.iter().any(|change| change.path() == b"old/file"));
        (written.len(), made.len())
    }

    #[test]
    fn a_tree_is_a_builds_if_it_has_more_than_a_person_writes() {
        assert_eq!(divided(&[1; MOST_FILES]), (1 + MOST_FILES, 0));
        assert_eq!(divided(&[1; MOST_FILES + 1]), (1, MOST_FILES + 1));
        assert_eq!(divided(&[1; 3 * MOST_FILES]), (1, 3 * MOST_FILES));
        assert_eq!(divided(&[MOST_BYTES]), (2, 0));
        assert_eq!(divided(&[MOST_BYTES, 1, 1]), (1, 3));
    }
}
