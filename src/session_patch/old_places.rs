//! Where a file may have been, or may have been copied from, that is in a new place.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use super::rule::Touched;
use super::tree::{Entry, Tree};

/// Files and links of the kept directory, found by their size. Nobody looks for them before one is wanted, and then once for all.
pub(super) struct OldPlaces<'a> {
    before: &'a Tree,
    /// The sizes of what is new.
    sizes: HashSet<u64>,
    found: OnceCell<BySize>,
}

/// Paths below the kept directory, and what is there.
type BySize = HashMap<u64, Vec<(Vec<u8>, Entry)>>;

impl<'a> OldPlaces<'a> {
    /// Those in which what is new in `touched` may have been.
    pub fn of(before: &'a Tree, touched: &[Touched]) -> Self {
        let new = touched.iter().filter(|touched| touched.old.is_none()).filter_map(|touched| touched.new);
        Self { before, sizes: new.map(|entry| entry.size).collect(), found: OnceCell::new() }
    }

    /// Those of this size, if something new has it.
    pub fn with_size(&self, size: u64) -> impl Iterator<Item = (&[u8], &Entry)> {
        let found = self.found.get_or_init(|| {
            let mut found = BySize::new();
            let is_wanted = |entry: &Entry| entry.is_content() && self.sizes.contains(&entry.size);
            let listed = self.before.iter().map(|(path, entry)| (path.to_vec(), *entry));
            for (path, entry) in self.before.in_kept_layer().chain(listed).filter(|(_, entry)| is_wanted(entry)) {
                found.entry(entry.size).or_default().push((path, entry));
            }
            found
        });
        found.get(&size).into_iter().flatten().map(|(path, entry)| (path.as_slice(), entry))
    }
}
