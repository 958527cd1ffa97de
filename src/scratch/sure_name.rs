//! Whether a name leads tomorrow where it leads today.

use std::path::Path;

use rustix::fs::lstat;
use rustix::process::geteuid;

use crate::owner::keeps_what_is_in_it;

/// Whether nobody but this process's user and root can put something else in the place of `path`, an absolute path without links, or of a
/// directory on the way to it.
pub(super) fn is_sure(path: &Path) -> bool {
    let is_trusted = |uid| uid == 0 || uid == geteuid().as_raw();
    path.ancestors()
        .skip(1)
        .all(|directory| lstat(directory).is_ok_and(|status| keeps_what_is_in_it(&status, is_trusted)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
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
