//! Opens what belongs to somebody else without leaving a trace in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
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

/// Why a file is none to read.
#[derive(Debug)]
pub(crate) enum Unsuitable {
    /// It cannot be opened.
    Closed(Errno),
    /// It is a directory, a fifo, a socket or a device.
    Irregular,
    /// It has so many bytes, more than the limit.
    TooLarge(u64),
    /// It is open, and the kernel does not give it.
    Unreadable(io::Error),
}

/// What is in the regular file `name` in `directory`, if it has no more than `limit` bytes; with `flags` as
/// [`open_quietly`] takes them.
///
/// # Errors
/// See [`Unsuitable`].
pub(crate) fn read_quietly(
    directory: impl AsFd,
    name: impl Arg + Copy,
    flags: OFlags,
    limit: u64,
) -> std::result::Result<Vec<u8>, Unsuitable> {
    // Without NONBLOCK a fifo of that name would keep us waiting.
    let file = open_quietly(directory, name, flags | OFlags::NONBLOCK).map_err(|errno| match errno {
        // A socket, or a device without a driver.
        Errno::NXIO | Errno::NODEV => Unsuitable::Irregular,
        other => Unsuitable::Closed(other),
    })?;
    let status = fstat(&file).map_err(|errno| Unsuitable::Unreadable(errno.into()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Unsuitable::Irregular);
    }
    let size = u64::try_from(status.st_size).unwrap_or(0);
    if size > limit {
        return Err(Unsuitable::TooLarge(size));
    }
    let mut content = Vec::with_capacity(size as usize + 1);
    File::from(file).take(limit).read_to_end(&mut content).map_err(Unsuitable::Unreadable)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("name");
        let read = |limit| read_quietly(CWD, &path, OFlags::NOFOLLOW, limit);
        assert!(matches!(read(4), Err(Unsuitable::Closed(Errno::NOENT))));
        fs::write(&path, "text").unwrap();
        assert_eq!(read(4).unwrap(), b"text");
        assert!(matches!(read(3), Err(Unsuitable::TooLarge(4))));
        symlink(&path, directory.path().join("link")).unwrap();
        let link = directory.path().join("link");
        assert!(matches!(read_quietly(CWD, &link, OFlags::NOFOLLOW, 4), Err(Unsuitable::Closed(Errno::LOOP))));
        assert_eq!(read_quietly(CWD, &link, OFlags::empty(), 4).unwrap(), b"text");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(4), Err(Unsuitable::Irregular)));
        fs::remove_dir(&path).unwrap();
        let _socket = UnixListener::bind(&path).unwrap();
        assert!(matches!(read(4), Err(Unsuitable::Irregular)));
    }
}
