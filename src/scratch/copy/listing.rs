//! Reads the names in a directory tree, as far as it is small.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, Stat, fstat, openat};
use rustix::io::Result;

use crate::quiet_open::open_quietly;

/// Room for some thousand names at once.
const BUFFER: usize = 32 << 10;
/// Directories that are held open at once: with what else is open, fewer than any usual limit allows.
const MOST_DIRECTORIES: usize = 250;
/// Levels of directories; what is nested more deeply counts as large.
const DEEPEST: usize = 50;

/// Where a small tree ends and a large one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Files, links and directories.
    pub entries: usize,
    /// On the disk.
    pub bytes: u64,
}

/// A directory, opened, and the names in it.
pub(crate) struct Listing {
    pub directory: OwnedFd,
    pub status: Stat,
    pub names: Vec<Name>,
    /// Whether there may be more names.
    pub reads_on: bool,
}

/// A name in a directory, and what is below it if that is a directory that was listed as well.
pub(crate) struct Name {
    pub name: CString,
    pub below: Option<Box<Listing>>,
}

impl From<CString> for Name {
    fn from(name: CString) -> Self {
        Self { name, below: None }
    }
}

impl Listing {
    /// The directory alone.
    pub fn begin(directory: &OwnedFd) -> Result<Self> {
        let status = fstat(directory)?;
        // Opened anew, since the place up to which it was read belongs to who has opened it.
        let directory = openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { directory, status, names: Vec::new(), reads_on: true })
    }

    /// The whole tree below `directory`; nothing where it has more entries than `line` allows. What cannot be listed is left to who
    /// copies it.
    pub fn of_small_tree(directory: &OwnedFd, line: Line) -> Result<Option<Self>> {
        let mut survey = Survey { left: line.entries, directories: MOST_DIRECTORIES, names: NameBuffer::default() };
        let mut top = Self::begin(directory)?;
        Ok(survey.list(&mut top, DEEPEST)?.map(|()| top))
    }
}

struct Survey {
    left: usize,
    directories: usize,
    names: NameBuffer,
}

impl Survey {
    /// Lists what is below `listing`; nothing where it is too much.
    fn list(&mut self, listing: &mut Listing, levels: usize) -> Result<Option<()>> {
        let mut below = Vec::new();
        loop {
            let names = self.names.read(&listing.directory)?;
            if names.is_empty() {
                break;
            }
            let Some(left) = self.left.checked_sub(names.len()) else { return Ok(None) };
            self.left = left;
            for (name, kind) in names {
                if kind == FileType::Directory {
                    below.push(listing.names.len());
                }
                listing.names.push(name.into());
            }
        }
        listing.reads_on = false;
        for index in below {
            let Some(name) = listing.names.get_mut(index) else { continue };
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let Ok(directory) = open_quietly(&listing.directory, name.name.as_c_str(), flags) else { continue };
            let Ok(status) = fstat(&directory) else { continue };
            let Some(directories) = self.directories.checked_sub(1).filter(|_| levels > 1) else { return Ok(None) };
            self.directories = directories;
            let mut listed = Listing { directory, status, names: Vec::new(), reads_on: true };
            if self.list(&mut listed, levels - 1)?.is_none() {
                return Ok(None);
            }
            name.below = Some(Box::new(listed));
        }
        Ok(Some(()))
    }
}

/// How many entries there are below `directory`, as far as they can be seen: for whom waits until they are copied.
pub(crate) fn count(directory: &OwnedFd) -> u64 {
    let mut names = NameBuffer::default();
    let mut entries = 0;
    let top = openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    // Depth first, so that few directories are open at once: those on the way, of which some names are left.
    let mut open: Vec<(OwnedFd, Vec<CString>)> = top.into_iter().map(|top| (top, Vec::new())).collect();
    while let Some((directory, below)) = open.last_mut() {
        if let Some(name) = below.pop() {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = open_quietly(&*directory, name.as_c_str(), flags);
            open.extend(opened.map(|opened| (opened, Vec::new())));
            continue;
        }
        match names.read(&*directory) {
            Ok(found) if !found.is_empty() => {
                entries += found.len() as u64;
                let is_directory = |(name, kind)| (kind == FileType::Directory).then_some(name);
                below.extend(found.into_iter().filter_map(is_directory));
            }
            _ => drop(open.pop()),
        }
    }
    entries
}

/// Reads names, some at a time.
pub(super) struct NameBuffer(Vec<MaybeUninit<u8>>);

impl Default for NameBuffer {
    fn default() -> Self {
        let mut buffer = Vec::with_capacity(BUFFER);
        buffer.resize_with(BUFFER, MaybeUninit::uninit);
        Self(buffer)
    }
}

impl NameBuffer {
    /// The next names in `directory`, with what the file system says that they are; none at the end. «.» and «..» are left out.
    pub fn read(&mut self, directory: impl AsFd) -> Result<Vec<(CString, FileType)>> {
        let mut entries = RawDir::new(directory, &mut self.0);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push((name.to_owned(), entry.file_type()));
            }
            if entries.is_buffer_empty() && !names.is_empty() {
                break;
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: usize) -> (tempfile::TempDir, OwnedFd) {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        for number in 0..files {
            fs::write(top.path().join(format!("a/b/{number}")), "").unwrap();
        }
        let handle = fs::File::open(top.path()).unwrap().into();
        (top, handle)
    }

    #[test]
    fn a_tree_is_small_up_to_the_line() {
        let (_top, handle) = tree(8);
        let line = |entries| Line { entries, bytes: 0 };
        assert!(Listing::of_small_tree(&handle, line(9)).unwrap().is_none());
        let listing = Listing::of_small_tree(&handle, line(10)).unwrap().unwrap();
        let below = listing.names[0].below.as_ref().unwrap();
        assert_eq!(below.names[0].below.as_ref().unwrap().names.len(), 8);
        assert_eq!(count(&handle), 10);
    }

    #[test]
    fn what_is_nested_deeply_is_large() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("d/".repeat(DEEPEST))).unwrap();
        let handle: OwnedFd = fs::File::open(top.path()).unwrap().into();
        assert!(Listing::of_small_tree(&handle, Line { entries: 1000, bytes: 0 }).unwrap().is_none());
        assert_eq!(count(&handle), DEEPEST as u64);
    }

    #[test]
    fn many_names_are_read_bit_by_bit() {
        let (top, _) = tree(3000);
        let handle: OwnedFd = fs::File::open(top.path().join("a/b")).unwrap().into();
        let mut buffer = NameBuffer::default();
        let (mut all, mut reads) = (std::collections::HashSet::new(), 0);
        loop {
            let names = buffer.read(&handle).unwrap();
            if names.is_empty() {
                break;
            }
            reads += 1;
            all.extend(names.into_iter().map(|(name, _)| name));
        }
        assert_eq!(all.len(), 3000);
        assert!(reads > 1);
    }
}
