//! What looks like a build's, and what somebody may have written all the same.

use std::collections::BTreeMap;

use super::format::FileChange;
use super::ignored::parent_of;

/// More files than anybody writes below one directory in a session, with a loop or two.
const MOST_FILES: usize = 1000;
/// More than anybody types into one file in a session, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// The same of all files below one directory.
const MOST_BYTES_OF_TREE: usize = 4 << 20;

/// Changes in doubt, by the directory that they came into being in: a tree of which there is more than a person writes is a build's.
#[derive(Debug, Default)]
pub(super) struct Doubtful {
    trees: BTreeMap<Vec<u8>, Tree>,
    /// The paths of single files that are too large.
    large: Vec<Vec<u8>>,
    /// The paths of what is in trees of many files.
    made: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Tree {
    /// Somebody may have written it: the changes, and how much text that is, in bytes.
    Few(Vec<FileChange>, usize),
    /// Nobody has.
    Many,
}

impl Doubtful {
    /// Adds a change. `is_old` tells of a directory whether it was there before the session.
    pub fn add(&mut self, change: FileChange, is_old: impl Fn(&[u8]) -> bool) {
        if change.has_text() && change.size() > MOST_BYTES {
            self.large.push(change.path().to_vec());
            return;
        }
        let new = directories_of(change.path()).take_while(|directory| !is_old(directory)).last();
        let place = new.unwrap_or(parent_of(change.path())).to_vec();
        let tree = self.trees.entry(place).or_insert(Tree::Few(Vec::new(), 0));
        match tree {
            Tree::Many => self.made.push(change.path().to_vec()),
            Tree::Few(changes, bytes) => {
                *bytes += if change.has_text() { change.size() } else { 0 };
                changes.push(change);
                if changes.len() > MOST_FILES || *bytes > MOST_BYTES_OF_TREE {
                    self.made.extend(changes.iter().map(|change| change.path().to_vec()));
                    *tree = Tree::Many;
                }
            }
        }
    }

    /// The changes that somebody may have made, and the paths of the others, those first that stand for themselves.
    pub fn divided(self) -> (Vec<FileChange>, Vec<Vec<u8>>) {
        let few = self.trees.into_values().filter_map(|tree| match tree {
            Tree::Few(changes, _) => Some(changes),
            Tree::Many => None,
        });
        (few.flatten().collect(), [self.large, self.made].concat())
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
        assert_eq!(divided(&[MOST_BYTES; 4]), (5, 0));
        assert_eq!(divided(&[MOST_BYTES; 5]), (1, 5));
    }

    #[test]
    fn a_large_file_does_not_take_its_neighbours_with_it() {
        assert_eq!(divided(&[MOST_BYTES, 1]), (3, 0));
        assert_eq!(divided(&[MOST_BYTES + 1, 1]), (2, 1));
    }
}
