//! What a kept build directory is known by again.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::file_times::born;
use crate::kept_build::KeptBuild;

/// Which directory it is, and what was in it. When its inode changed last is none of that: to rename it and back changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptIdentity {
    directory: Known,
    /// That of `env-vars`, if there is one.
    env_vars: Option<Known>,
}

/// One of its inodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    inode: u64,
    /// Where the file system notes it: seconds and nanoseconds since 1970.
    born: Option<(i64, u32)>,
    modified: (i64, u32),
}

impl KeptIdentity {
    /// That of `kept`; nothing where the kernel does not tell it.
    pub fn of(kept: &KeptBuild) -> Option<Self> {
        let directory = Known::of(&kept.handle, "", AtFlags::EMPTY_PATH)?;
        let env_vars = Known::of(&kept.handle, "env-vars", AtFlags::SYMLINK_NOFOLLOW);
        Some(Self { directory, env_vars })
    }
}

impl Known {
    fn of(directory: impl AsFd, name: &str, flags: AtFlags) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::MTIME | StatxFlags::BTIME;
        let status = statx(directory, name, flags, wanted).ok()?;
        let modified = status.stx_mtime;
        Some(Self { inode: status.stx_ino, born: born(&status), modified: (modified.tv_sec, modified.tv_nsec) })
    }
}
