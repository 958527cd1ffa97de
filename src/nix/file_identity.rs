//! Tells whether a file is still the one that was read.

use std::path::Path;

use rustix::fs::{Stat, stat};
use serde::{Deserialize, Serialize};

/// What changes when the file that a path leads to is changed or replaced; or why there is none, as the kernel's error number:
/// that a file is missing is worth remembering too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity(Result<[i64; 7], i32>);

impl FileIdentity {
    /// The identity of the file that `path` leads to, through symbolic links.
    pub fn of(path: &Path) -> Self {
        Self(stat(path).map(|status| numbers(&status)).map_err(|errno| errno.raw_os_error()))
    }

    /// The identity of the file of which a `stat` call told.
    pub fn of_status(status: &Stat) -> Self {
        Self(Ok(numbers(status)))
    }
}

/// A file's place, its size, and when it was changed: the second pair of times cannot be set back by anybody.
fn numbers(status: &Stat) -> [i64; 7] {
    [
        status.st_dev as i64,
        status.st_ino as i64,
        status.st_size,
        status.st_mtime,
        status.st_mtime_nsec as i64,
        status.st_ctime,
        status.st_ctime_nsec as i64,
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_another_when_it_is_changed_replaced_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("file"), directory.path().join("other"));
        let mut seen = vec![FileIdentity::of(&file)];
        let mut note = || {
            let now = FileIdentity::of(&file);
            assert!(!seen.contains(&now), "{now:?} in {seen:?}");
            assert_eq!(now, FileIdentity::of(&file));
            seen.push(now);
        };
        fs::write(&file, "a").unwrap();
        note();
        fs::write(&file, "bc").unwrap();
        note();
        fs::write(&other, "bc").unwrap();
        fs::rename(&other, &file).unwrap();
        note();
        fs::remove_file(&file).unwrap();
        assert_eq!(FileIdentity::of(&file), seen[0]);
    }
}
