//! What a directory tree looks like to `stat(2)`: enough to tell later what was touched meanwhile, without reading any file.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, chmodat, fstat, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::layers::Layers;
use crate::quiet_open::open_quietly;

/// Deeper than any source is nested. Each level takes two descriptors.
pub(super) const DEEPEST: usize = 200;

/// A moment: seconds and nanoseconds since 1970.
pub(super) type Moment = (i64, i64);

/// The moment of a time.
pub(super) fn moment_of(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i64::from(since.subsec_nanos()))
}

/// Who looks at files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Somebody who leaves no trace.
    Quietly,
    /// Their owner, who lifts a mode that is in his way: for a file until it is open, for a directory for good.
    AsOwner,
}

/// What `stat(2)` tells of one file, link or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    /// Whether its owner may execute it: all of a mode that git knows.
    pub executable: bool,
    /// In bytes.
    pub size: u64,
    pub modified: Moment,
    /// When content, mode, names or owner changed last. No process can set it.
    pub changed: Moment,
    pub inode: u64,
}

/// The kinds of files that a patch can hold, and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Link,
    Directory,
    /// A fifo, a socket or a device.
    Other,
}

impl Entry {
    pub fn of(status: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Link,
            FileType::Directory => Kind::Directory,
            _ => Kind::Other,
        };
        Self {
            kind,
            executable: Mode::from_raw_mode(status.st_mode).contains(Mode::XUSR),
            size: u64::try_from(status.st_size).unwrap_or(0),
            modified: (status.st_mtime as _, status.st_mtime_nsec as _),
            changed: (status.st_ctime as _, status.st_ctime_nsec as _),
            inode: status.st_ino,
        }
    }

    /// Whether a patch can hold it.
    pub fn is_content(&self) -> bool {
        matches!(self.kind, Kind::File | Kind::Link)
    }
}

/// All that is in a directory, by its path below it, in the order of the paths' bytes; or the layers in which it can be looked up.
#[derive(Debug, Default)]
pub(super) struct Tree {
    entries: BTreeMap<Vec<u8>, Entry>,
    layers: Option<Layers>,
    last_change: Option<Moment>,
    /// Directories that resisted, so that not all is known of what is in them.
    pub closed: Vec<Vec<u8>>,
    /// Directories below which nobody looked, since they are nested too deeply.
    pub too_deep: Vec<Vec<u8>>,
}

impl Tree {
    /// Looks at everything below `top`; nothing is followed, and nothing but directories is opened.
    ///
    /// # Errors
    /// Only where `top` itself cannot be read.
    pub fn of(top: &OwnedFd, access: Access) -> Result<Self> {
        let mut tree = Self::default();
        let directory = Dir::read_from(top).context("cannot read the copy of the build directory")?;
        tree.add(directory, &mut Vec::new(), access, DEEPEST);
        Ok(tree)
    }

    fn add(&mut self, mut directory: Dir, path: &mut Vec<u8>, access: Access, levels: usize) {
        let length = path.len();
        while let Some(entry) = directory.read() {
            path.truncate(length);
            let Ok(entry) = entry else {
                self.closed.push(path.clone());
                break;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Whoever may list a directory may not always enter it.
            let Ok(status) = directory.fd().and_then(|parent| statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)) else {
                self.closed.push(path.clone());
                break;
            };
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let entry = Entry::of(&status);
            self.entries.insert(path.clone(), entry);
            if entry.kind != Kind::Directory {
                continue;
            }
            let opened = directory.fd().and_then(|parent| open(parent, name, OFlags::DIRECTORY, access));
            match opened.and_then(Dir::new) {
                Ok(below) if levels > 1 => self.add(below, path, access, levels - 1),
                Ok(_) => self.too_deep.push(path.clone()),
                Err(_) => self.closed.push(path.clone()),
            }
        }
        path.truncate(length);
    }

    /// What a copy of `kept` looked like at the moment `began`, which looks like `now`. What was not touched since is there as it was;
    /// of all else is known what a copy takes over. What `was_copied` denies, and is not there now, never was.
    pub fn of_copy_at(began: Moment, kept: Self, now: &Self, was_copied: impl Fn(&[u8]) -> bool) -> Self {
        let as_copied = |entry: &Entry| (entry.kind, entry.executable, entry.size, entry.modified);
        let entry = |(path, old): (Vec<u8>, Entry)| match now.get(&path) {
            Some(new) if new.changed <= began && as_copied(&new) == as_copied(&old) => Some((path, new)),
            Some(_) => Some((path, Entry { inode: 0, ..old })),
            None => was_copied(&path).then_some((path, Entry { inode: 0, ..old })),
        };
        let entries = kept.entries.into_iter().filter_map(entry).collect();
        Self { entries, last_change: Some(began), ..kept }
    }

    /// What can be looked up in `layers`, of which nothing had changed after `last_change`.
    pub fn in_layers(layers: Layers, last_change: Option<Moment>) -> Self {
        Self { layers: Some(layers), last_change, ..Self::default() }
    }

    pub fn get(&self, path: &[u8]) -> Option<Entry> {
        match &self.layers {
            Some(layers) => layers.get(path),
            None => self.entries.get(path).copied(),
        }
    }

    /// All that is in the kept layer, looked up one after the other; nothing where there are no layers.
    pub fn in_kept_layer(&self) -> impl Iterator<Item = (Vec<u8>, Entry)> {
        self.layers.iter().flat_map(|layers| layers.below(b""))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_slice(), entry))
    }

    /// Whether there is something in the directory `path`, at any depth, that a patch can hold, and `condition` holds for all of it.
    pub fn all_below(&self, path: &[u8], condition: impl Fn(&Entry) -> bool) -> bool {
        let mut is_any = false;
        let mut holds = |entry: &Entry| {
            is_any |= entry.is_content();
            !entry.is_content() || condition(entry)
        };
        let all = match &self.layers {
            Some(layers) => layers.below(path).all(|(_, entry)| holds(&entry)),
            None => self.below(path).all(|(_, entry)| holds(entry)),
        };
        all && is_any
    }

    /// What is in the directory `path`, at any depth; all where the path is empty.
    fn below(&self, path: &[u8]) -> impl Iterator<Item = (&[u8], &Entry)> {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let range = self.entries.range((Bound::Included(start.clone()), Bound::Unbounded));
        range.take_while(move |(path, _)| path.starts_with(&start)).map(|(path, entry)| (path.as_slice(), entry))
    }

    /// The names of the directories at the top.
    pub fn top_directories(&self) -> Vec<Vec<u8>> {
        let is_one = |(path, entry): &(&[u8], &Entry)| entry.kind == Kind::Directory && !path.contains(&b'/');
        match &self.layers {
            Some(layers) => layers.top_directories(),
            None => self.iter().filter(is_one).map(|(path, _)| path.into()).collect(),
        }
    }

    /// The moment of the last change of all, on the clock of the file system. What a process does from now on bears no earlier one.
    pub fn last_change(&self) -> Moment {
        let last = self.last_change.or_else(|| self.entries.values().map(|entry| entry.changed).max());
        last.unwrap_or((i64::MIN, 0))
    }
}

/// Opens the file or directory `name` for reading. A directory is opened to look at what is in it.
///
/// # Errors
/// As of [`openat(2)`](https://man7.org/linux/man-pages/man2/openat.2.html); a link is `ELOOP`, or `ENOTDIR`.
pub(super) fn open(
    parent: impl AsFd + Copy,
    name: &CStr,
    flags: OFlags,
    access: Access,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let is_directory = flags.contains(OFlags::DIRECTORY);
    let closed = match open_quietly(parent, name, flags) {
        Ok(opened) if access == Access::AsOwner && is_directory && !may_enter(&opened)? => opened,
        Err(Errno::ACCESS) if access == Access::AsOwner => {
            openat(parent, name, flags.difference(OFlags::NONBLOCK) | OFlags::PATH, Mode::empty())?
        }
        result => return result,
    };
    let before = fstat(&closed)?.st_mode;
    if FileType::from_raw_mode(before) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    // Through the descriptor, since a name could have come to mean something else.
    let path = format!("/proc/self/fd/{}", closed.as_raw_fd());
    chmodat(CWD, &path, Mode::RWXU, AtFlags::empty())?;
    let opened = open_quietly(parent, name, flags);
    if !is_directory {
        chmodat(CWD, &path, Mode::from_raw_mode(before), AtFlags::empty())?;
    }
    opened
}

/// Whether a directory's owner may reach what is in it. Root may anything.
fn may_enter(directory: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(geteuid().is_root() || Mode::from_raw_mode(fstat(directory)?.st_mode).contains(Mode::XUSR))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    impl Tree {
        /// A tree as it is described: paths that end in a slash are directories. Files are as old as `modified` says.
        pub fn example(paths: &[(&str, i64)]) -> Self {
            let entry = |(path, modified): &(&str, i64)| {
                let kind = if path.ends_with('/') { Kind::Directory } else { Kind::File };
                let (modified, changed) = ((*modified, 0), (0, 0));
                let entry = Entry { kind, executable: false, size: 1, modified, changed, inode: 1 };
                (path.trim_end_matches('/').into(), entry)
            };
            Self { entries: paths.iter().map(entry).collect(), ..Self::default() }
        }
    }

    #[test]
    fn everything_is_met_and_no_link_is_followed() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        fs::write(top.path().join("a/b/file"), "four").unwrap();
        std::os::unix::fs::symlink("/", top.path().join("link")).unwrap();
        let tree = Tree::of(&fs::File::open(top.path()).unwrap().into(), Access::AsOwner).unwrap();
        let found: Vec<_> = tree.iter().map(|(path, entry)| (path, entry.kind)).collect();
        let expected: [(&[u8], Kind); 4] =
            [(b"a", Kind::Directory), (b"a/b", Kind::Directory), (b"a/b/file", Kind::File), (b"link", Kind::Link)];
        assert_eq!(found, expected);
        assert_eq!(tree.get(b"a/b/file").unwrap().size, 4);
        assert_eq!(tree.below(b"a").count(), 2);
        assert_eq!(tree.below(b"").count(), 4);
        assert_eq!(tree.top_directories(), [b"a"]);
    }

    #[test]
    fn what_became_a_link_since_it_was_looked_at_is_not_opened() {
        let top = tempfile::tempdir().unwrap();
        let precious = tempfile::tempdir().unwrap();
        fs::write(precious.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(precious.path(), top.path().join("directory")).unwrap();
        std::os::unix::fs::symlink(precious.path().join("file"), top.path().join("file")).unwrap();
        let handle: OwnedFd = fs::File::open(top.path()).unwrap().into();
        for access in [Access::Quietly, Access::AsOwner] {
            let directory = open(&handle, c"directory", OFlags::DIRECTORY, access);
            assert!(matches!(directory, Err(Errno::LOOP | Errno::NOTDIR)));
            assert_eq!(open(&handle, c"file", OFlags::empty(), access).unwrap_err(), Errno::LOOP);
        }
    }

    #[test]
    fn a_directory_that_its_owner_closed_is_read_by_him_and_by_nobody_else() {
        let top = tempfile::tempdir().unwrap();
        for (name, mode) in [("none", 0o000), ("listed", 0o400)] {
            let closed = top.path().join(name);
            fs::create_dir(&closed).unwrap();
            fs::write(closed.join("file"), "").unwrap();
            fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
        }
        let handle = fs::File::open(top.path()).unwrap().into();
        let quietly = Tree::of(&handle, Access::Quietly).unwrap();
        assert_eq!(quietly.closed.len(), if geteuid().is_root() { 0 } else { 2 });
        assert_eq!(top.path().join("none").metadata().unwrap().permissions().mode() & 0o777, 0);
        let as_owner = Tree::of(&handle, Access::AsOwner).unwrap();
        assert!(as_owner.get(b"none/file").is_some() && as_owner.get(b"listed/file").is_some());
    }

    #[test]
    fn what_is_nested_too_deeply_is_named() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("d/".repeat(DEEPEST + 1))).unwrap();
        let tree = Tree::of(&fs::File::open(top.path()).unwrap().into(), Access::AsOwner).unwrap();
        assert_eq!((tree.too_deep.len(), tree.closed.len()), (1, 0));
        assert_eq!(tree.iter().count(), DEEPEST);
    }
}
