//! Reads single files of the kept directory and of its copy. Both are untrusted code's: no link is followed, and nothing but regular
//! files is read.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, OFlags, fstat, readlinkat, statat};

use super::format::FileMode;
use super::tree::{Access, Entry, Kind, open};

/// Far more than anybody's source file.
pub(super) const LARGEST: u64 = 32 << 20;

/// A file or link as it is now.
#[derive(Debug)]
pub(super) struct Content {
    pub entry: Entry,
    pub mode: FileMode,
    /// The bytes of the file, or where the link leads.
    pub bytes: Vec<u8>,
}

impl Content {
    /// Reads the file or link `path` below `top`.
    ///
    /// # Errors
    /// What is neither; a file that is larger than [`LARGEST`]; the kernel's.
    pub fn read(top: &OwnedFd, path: &[u8], access: Access) -> Result<Self> {
        let what = || format!("cannot read {}", OsStr::from_bytes(path).display());
        Self::open(top, path, access).with_context(what)
    }

    fn open(top: &OwnedFd, path: &[u8], access: Access) -> Result<Self> {
        let mut parent = rustix::io::dup(top)?;
        let mut names = path.split(|byte| *byte == b'/').map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let name = names.pop().context("it has no name")?;
        for directory in &names {
            parent = open(&parent, directory, OFlags::DIRECTORY, access)?;
        }
        let entry = Entry::of(&statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?);
        if entry.kind == Kind::Link {
            let bytes = readlinkat(&parent, &name, Vec::new())?.into_bytes();
            return Ok(Self { entry, mode: FileMode::Link, bytes });
        }
        if entry.kind != Kind::File {
            bail!("it is no regular file");
        }
        let file = open(&parent, &name, OFlags::empty(), access)?;
        // What was opened may be another one by now.
        let entry = Entry { executable: entry.executable, ..Entry::of(&fstat(&file)?) };
        if entry.kind != Kind::File || entry.size > LARGEST {
            bail!("it is no regular file, or larger than {} MiB", LARGEST >> 20);
        }
        let mut bytes = Vec::with_capacity(entry.size as usize + 1);
        File::from(file).take(LARGEST).read_to_end(&mut bytes)?;
        let mode = if entry.executable { FileMode::Executable } else { FileMode::Plain };
        Ok(Self { entry, mode, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn top() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("below")).unwrap();
        let handle = fs::File::open(directory.path()).unwrap().into();
        (directory, handle)
    }

    #[test]
    fn files_and_links_are_read_and_nothing_else() {
        let (directory, handle) = top();
        let below = directory.path().join("below");
        fs::write(below.join("file"), "text").unwrap();
        fs::set_permissions(below.join("file"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("file", below.join("link")).unwrap();
        symlink("below", directory.path().join("around")).unwrap();
        let read = |path: &str| Content::read(&handle, path.as_bytes(), Access::Quietly);
        let file = read("below/file").unwrap();
        assert_eq!((file.mode, file.bytes.as_slice()), (FileMode::Executable, &b"text"[..]));
        let link = read("below/link").unwrap();
        assert_eq!((link.mode, link.bytes.as_slice()), (FileMode::Link, &b"file"[..]));
        assert!(read("around/file").is_err());
        assert!(read("below").unwrap_err().root_cause().to_string().contains("no regular file"));
        assert!(read("missing").is_err());
    }

    #[test]
    fn a_fifo_keeps_nobody_waiting() {
        let (directory, handle) = top();
        rustix::fs::mknodat(&handle, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(Content::read(&handle, b"fifo", Access::AsOwner).is_err());
        drop(directory);
    }

    #[test]
    fn a_file_that_its_owner_closed_is_read_by_him_and_stays_closed() {
        let (directory, handle) = top();
        let file = directory.path().join("file");
        fs::write(&file, "text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o100)).unwrap();
        let content = Content::read(&handle, b"file", Access::AsOwner).unwrap();
        assert_eq!((content.bytes.as_slice(), content.mode), (&b"text"[..], FileMode::Executable));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o100);
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let (directory, handle) = top();
        fs::File::create(directory.path().join("file")).unwrap().set_len(LARGEST + 1).unwrap();
        let error = Content::read(&handle, b"file", Access::Quietly).unwrap_err();
        assert!(format!("{error:#}").contains("larger than 32 MiB"), "{error:#}");
    }
}
