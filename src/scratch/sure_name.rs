//! Whether a name leads tomorrow where it leads today.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::geteuid;

/// Whether nobody but this process's user and root can put something else in the place of `path`, an absolute path without links: whoever
/// may write to a directory can rename what is in it, in one with the sticky bit only what is his; and its owner always.
pub(super) fn is_sure(path: &Path) -> bool {
    path.ancestors().skip(1).all(|directory| {
        fs::symlink_metadata(directory).is_ok_and(|status| {
            let mode = Mode::from_raw_mode(status.mode());
            let others_write = mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX);
            !others_write && (status.uid() == 0 || status.uid() == geteuid().as_raw())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn what_others_can_rename_has_no_sure_name() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        for (mode, is_firm) in [(0o700, true), (0o755, true), (0o775, false), (0o777, false), (0o1777, true)] {
            for (there, path) in [(directory.path(), inner.join("name")), (&inner, inner.join("name"))] {
                fs::set_permissions(there, Permissions::from_mode(mode)).unwrap();
                assert_eq!(is_sure(&path), is_firm, "{mode:o} {}", there.display());
                fs::set_permissions(there, Permissions::from_mode(0o700)).unwrap();
            }
        }
        assert!(!is_sure(&directory.path().join("missing/name")));
        if geteuid().is_root() {
            chown(directory.path(), Some(1234), None).unwrap();
            assert!(!is_sure(&inner.join("name")));
        }
    }
}
