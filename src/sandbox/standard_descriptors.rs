//! What the command may be given as standard input, output and error: all that it has of the caller's descriptors.

use std::os::fd::BorrowedFd;

use anyhow::{Result, bail};
use rustix::fs::{FileType, fstat};
use rustix::stdio::{stderr, stdin, stdout};

/// Refuses a directory: whoever has one open can go up from it to the root of the host, past every namespace.
///
/// # Errors
/// One sentence that says which it is.
pub(super) fn check() -> Result<()> {
    let descriptors = [("standard input", stdin()), ("standard output", stdout()), ("standard error", stderr())];
    for (name, descriptor) in descriptors {
        if is_directory(descriptor) {
            bail!(
                "{name} is a directory, through which the sandbox would reach all files of the host; give something else in its place, \
                 such as /dev/null"
            );
        }
    }
    Ok(())
}

fn is_directory(descriptor: BorrowedFd<'_>) -> bool {
    fstat(descriptor).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}
