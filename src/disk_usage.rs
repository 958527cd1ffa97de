//! How much room a directory tree takes.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use walkdir::WalkDir;

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes, of what can be entered.
    pub bytes: u64,
    /// Whether all of it could be.
    pub is_whole: bool,
}

impl DiskUsage {
    /// As `du` counts. No link is followed, and nothing is entered that another file system is mounted on.
    pub fn of(path: &Path) -> Self {
        let mut seen = HashSet::new();
        let mut blocks = 0;
        let mut is_whole = true;
        for entry in WalkDir::new(path).same_file_system(true) {
            let Ok(metadata) = entry.and_then(|entry| entry.metadata()) else {
                is_whole = false;
                continue;
            };
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert((metadata.dev(), metadata.ino())) {
                blocks += metadata.blocks();
            }
        }
        Self { bytes: blocks * 512, is_whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_whatever_number_of_names_it_has() {
        let setting = tempfile::tempdir().unwrap();
        let bytes = || DiskUsage::of(setting.path()).bytes;
        let empty = bytes();
        std::fs::write(setting.path().join("file"), vec![1; 100_000]).unwrap();
        let once = bytes();
        assert!((empty + 90_000..empty + 200_000).contains(&once), "{empty} {once}");
        std::fs::hard_link(setting.path().join("file"), setting.path().join("other")).unwrap();
        assert_eq!(bytes(), once);
    }

    #[test]
    fn what_a_link_leads_to_does_not_count_and_what_is_missing_is_not_whole() {
        let setting = tempfile::tempdir().unwrap();
        let before = DiskUsage::of(setting.path());
        std::os::unix::fs::symlink("/usr", setting.path().join("link")).unwrap();
        assert!(DiskUsage::of(setting.path()).bytes <= before.bytes + 4096);
        assert!(before.is_whole && !DiskUsage::of(&setting.path().join("nothing")).is_whole);
    }
}
