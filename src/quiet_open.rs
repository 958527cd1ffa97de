//! Opens what belongs to somebody else without leaving a trace in it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// Opens `name` in `directory` for reading, and leaves its access time alone where the kernel lets us: only the owner, and root,
/// may ask for `O_NOATIME`.
///
/// # Errors
/// As of [`openat(2)`](https://man7.org/linux/man-pages/man2/openat.2.html).
pub(crate) fn open_quietly(directory: impl AsFd, name: impl Arg + Copy, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    match openat(&directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(&directory, name, flags, Mode::empty()),
        result => result,
    }
}
