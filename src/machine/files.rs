//! What the file system of `TMPDIR` can do.

use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatvfs, ftruncate, ioctl_ficlone, openat};
use rustix::io::{Errno, write};

use super::kernel::said;
use super::{Fact, shown};
use crate::scratch::Scratch;

/// Whether a file can be copied without copying what is in it.
pub(super) fn reflinks(scratch: &Scratch, parent: &Path) -> Fact {
    const SUBJECT: &str = "reflinks";
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let make = |name| openat(scratch.handle(), name, flags, Mode::RUSR | Mode::WUSR);
    let tried = make("reflink-source").and_then(|source| {
        let target = make("reflink-target")?;
        write(&source, b"to be shared")?;
        // Some file systems share whole blocks only.
        ftruncate(&source, 4096)?;
        ioctl_ficlone(&target, &source)
    });
    match tried {
        Ok(()) => Fact::there(SUBJECT, format!("the file system of {} shares what is copied", shown(parent))),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::NOSYS) => Fact::dispensable(
            SUBJECT,
            format!("the file system of {} has none: what is copied takes time and room there", shown(parent)),
        ),
        Err(errno) => Fact::dispensable(SUBJECT, format!("cannot be tried in {}: {}", shown(parent), said(errno))),
    }
}

/// How much can be copied there.
pub(super) fn room(parent: &Path) -> Fact {
    const SUBJECT: &str = "TMPDIR";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(rustix::fs::CWD, parent, flags, Mode::empty()).and_then(fstatvfs) {
        Ok(status) => {
            let free = status.f_bavail.saturating_mul(status.f_frsize) as f64 / f64::from(1 << 30);
            Fact::there(SUBJECT, format!("{}, programs may run there, {free:.1} GiB free", shown(parent)))
        }
        Err(errno) => Fact::missing(SUBJECT, format!("{}: {}", shown(parent), said(errno))),
    }
}
