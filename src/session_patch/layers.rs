//! The layers of an overlay. The upper one has all that was changed, so nobody has to list the lower one, and nothing that grows with it
//! is kept: what is wanted of it is looked up. See [`overlayfs`], «whiteouts and opaque directories».
//!
//! [`overlayfs`]: https://docs.kernel.org/filesystems/overlayfs.html

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, fgetxattr, statat};

use super::rule::Touched;
use super::tree::{Access, DEEPEST, Entry, Kind, Tree, open};

/// The attribute by which a directory of the upper layer hides that of the lower one: its name where no root has mounted the overlay.
const OPAQUE: &CStr = c"user.overlay.opaque";

/// The kept directory, and above it perhaps what was changed.
#[derive(Debug)]
pub(super) struct Layers {
    upper: Option<OwnedFd>,
    lower: OwnedFd,
}

impl Layers {
    /// The kept directory alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kept(lower: &OwnedFd) -> Result<Self> {
        Ok(Self { upper: None, lower: rustix::io::dup(lower).context("cannot open the kept directory again")? })
    }

    /// The kept directory below `upper`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn merged(upper: &OwnedFd, lower: &OwnedFd) -> Result<Self> {
        let upper = rustix::io::dup(upper).context("cannot open the changes again")?;
        Ok(Self { upper: Some(upper), ..Self::kept(lower)? })
    }

    /// The entry `path`, as whoever looks through the layers sees it.
    pub fn get(&self, path: &[u8]) -> Option<Entry> {
        let mut upper = self.upper.as_ref().and_then(|upper| rustix::io::dup(upper).ok());
        let mut lower = rustix::io::dup(&self.lower).ok();
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let name = CString::new(name).ok()?;
            let above = upper.as_ref().and_then(|directory| look(directory, &name));
            if above.as_ref().is_some_and(is_whiteout) {
                return None;
            }
            let status = above.or_else(|| look(lower.as_ref()?, &name))?;
            if names.peek().is_none() {
                return Some(Entry::of(&status));
            }
            if above.is_some_and(|status| kind_of(&status) != FileType::Directory) {
                return None;
            }
            let next = above.and_then(|_| open_directory(upper.as_ref()?, &name, Access::AsOwner));
            lower = lower.filter(|_| !next.as_ref().is_some_and(is_opaque));
            lower = lower.and_then(|directory| open_directory(&directory, &name, Access::Quietly));
            upper = next;
        }
        None
    }

    /// What is in the directory `path` of the kept directory, one after the other.
    pub fn below(&self, path: &[u8]) -> Below {
        let mut directory = rustix::io::dup(&self.lower).ok();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let name = CString::new(name).unwrap_or_default();
            directory = directory.and_then(|directory| open_directory(&directory, &name, Access::Quietly));
        }
        let directory = directory.and_then(|directory| Dir::read_from(&directory).ok());
        Below { open: directory.map(|directory| (directory, path.to_vec())).into_iter().collect() }
    }

    /// The names of the directories at the top of the kept directory, in order.
    pub fn top_directories(&self) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = children(&self.lower).filter(|(_, entry)| entry.kind == Kind::Directory).collect();
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        names.into_iter().map(|(name, _)| name.into_bytes()).collect()
    }

    /// Files and links that are not as in the lower layer, or may not be. What resists is noted in `after`.
    pub fn touched(&self, after: &mut Tree) -> Vec<Touched> {
        let mut walk = Walk { after, found: Vec::new(), path: Vec::new() };
        if let Some(upper) = &self.upper {
            walk.compare(upper, Some(&self.lower), false, DEEPEST);
        }
        let mut found = walk.found;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }
}

/// Goes through the upper layer, beside which it looks at the lower one.
struct Walk<'a> {
    after: &'a mut Tree,
    found: Vec<Touched>,
    path: Vec<u8>,
}

impl Walk<'_> {
    /// `is_hidden` says that what is gone below `lower` was noted already.
    fn compare(&mut self, upper: &OwnedFd, lower: Option<&OwnedFd>, is_hidden: bool, levels: usize) {
        let Ok(mut directory) = Dir::read_from(upper) else {
            return self.after.closed.push(self.path.clone());
        };
        while let Some(entry) = directory.read() {
            let Ok(entry) = entry else {
                return self.after.closed.push(self.path.clone());
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(status) = look(upper, name) else {
                return self.after.closed.push(self.path.clone());
            };
            let length = self.enter(name);
            self.compare_entry(upper, lower, name, &status, is_hidden, levels);
            self.path.truncate(length);
        }
    }

    fn compare_entry(
        &mut self,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        name: &CStr,
        status: &Stat,
        is_hidden: bool,
        levels: usize,
    ) {
        let before = lower.and_then(|lower| look(lower, name)).map(|status| Entry::of(&status));
        let old = before.filter(Entry::is_content);
        let new = Entry::of(status);
        let below = before.filter(|entry| entry.kind == Kind::Directory).and_then(|_| {
            let lower = lower?;
            open_directory(lower, name, Access::Quietly)
        });
        if new.is_content() && !is_whiteout(status) {
            self.found.push(Touched { path: self.path.clone(), old, new: Some(new) });
        } else if old.is_some() && !is_hidden {
            self.found.push(Touched { path: self.path.clone(), old, new: None });
        }
        if new.kind != Kind::Directory {
            if let Some(below) = below.filter(|_| !is_hidden) {
                self.note_gone(&below, None, levels);
            }
            return;
        }
        let Some(opened) = open_directory(upper, name, Access::AsOwner) else {
            return self.after.closed.push(self.path.clone());
        };
        if levels <= 1 {
            return self.after.too_deep.push(self.path.clone());
        }
        let is_opaque = is_opaque(&opened);
        if let Some(below) = below.as_ref().filter(|_| is_opaque && !is_hidden) {
            self.note_gone(below, Some(&opened), levels);
        }
        self.compare(&opened, below.as_ref(), is_hidden || is_opaque, levels - 1);
    }

    /// Notes all that is in `lower` and not in `upper`, which hides it.
    fn note_gone(&mut self, lower: &OwnedFd, upper: Option<&OwnedFd>, levels: usize) {
        if levels <= 1 {
            return self.after.too_deep.push(self.path.clone());
        }
        for (name, entry) in children(lower) {
            let length = self.enter(&name);
            let in_place = upper.and_then(|upper| look(upper, &name)).map(|status| Entry::of(&status));
            if entry.is_content() && !in_place.is_some_and(|entry| entry.is_content()) {
                self.found.push(Touched { path: self.path.clone(), old: Some(entry), new: None });
            }
            if entry.kind == Kind::Directory
                && let Some(below) = open_directory(lower, &name, Access::Quietly)
            {
                let above = upper.and_then(|upper| open_directory(upper, &name, Access::AsOwner));
                self.note_gone(&below, above.as_ref(), levels - 1);
            }
            self.path.truncate(length);
        }
    }

    /// Adds a name to the path. Returns how long that was.
    fn enter(&mut self, name: &CStr) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        length
    }
}

/// All that is in a directory, depth first; a few directories are open at a time.
pub(super) struct Below {
    open: Vec<(Dir, Vec<u8>)>,
}

impl Iterator for Below {
    type Item = (Vec<u8>, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (directory, path) = self.open.last_mut()?;
            let Some(Ok(entry)) = directory.read() else {
                self.open.pop();
                continue;
            };
            let name = entry.file_name();
            let parent = directory.fd().ok().and_then(|parent| parent.try_clone_to_owned().ok());
            let Some((parent, status)) = parent.and_then(|parent| look(&parent, name).map(|status| (parent, status)))
            else {
                continue;
            };
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path =
                if path.is_empty() { name.to_bytes().to_vec() } else { [path, &b"/"[..], name.to_bytes()].concat() };
            let entry = Entry::of(&status);
            if entry.kind == Kind::Directory && self.open.len() < DEEPEST {
                let below = open_directory(&parent, name, Access::Quietly).and_then(|below| Dir::new(below).ok());
                self.open.extend(below.map(|below| (below, path.clone())));
            }
            return Some((path, entry));
        }
    }
}

/// What is in a directory, that can be looked at.
fn children(directory: &OwnedFd) -> impl Iterator<Item = (CString, Entry)> {
    let entries = Dir::read_from(directory).into_iter().flatten().flatten();
    let names =
        entries.map(|entry| entry.file_name().to_owned()).filter(|name| !matches!(name.to_bytes(), b"." | b".."));
    names.filter_map(|name| look(directory, &name).map(|status| (name, Entry::of(&status))))
}

fn look(directory: &OwnedFd, name: &CStr) -> Option<Stat> {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

fn open_directory(parent: &OwnedFd, name: &CStr, access: Access) -> Option<OwnedFd> {
    open(parent.as_fd(), name, OFlags::DIRECTORY, access).ok()
}

fn kind_of(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

/// What stands in the upper layer for something that is gone: a device that no build can make.
fn is_whiteout(status: &Stat) -> bool {
    kind_of(status) == FileType::CharacterDevice && status.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = Vec::with_capacity(2);
    fgetxattr(directory, OPAQUE, spare_capacity(&mut value)).is_ok() && value == b"y"
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{CWD, Mode, XattrFlags, mknodat, setxattr};

    use super::*;

    struct Setting {
        top: tempfile::TempDir,
    }

    impl Setting {
        /// A kept directory with these files; directories end in a slash.
        fn new(kept: &[&str]) -> Self {
            let setting = Self { top: tempfile::tempdir().unwrap() };
            ["kept", "upper"].iter().for_each(|layer| fs::create_dir(setting.top.path().join(layer)).unwrap());
            kept.iter().for_each(|path| setting.make("kept", path));
            setting
        }

        fn make(&self, layer: &str, path: &str) {
            let path = self.top.path().join(layer).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.to_str().unwrap().ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::write(path, "x").unwrap();
            }
        }

        fn remove(&self, path: &str) {
            let path = self.top.path().join("upper").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }

        fn make_opaque(&self, path: &str) {
            let path = self.top.path().join("upper").join(path);
            fs::create_dir_all(&path).unwrap();
            setxattr(&path, OPAQUE, b"y", XattrFlags::empty()).unwrap();
        }

        fn layers(&self) -> Layers {
            let open = |path: &Path| OwnedFd::from(fs::File::open(path).unwrap());
            Layers::merged(&open(&self.top.path().join("upper")), &open(&self.top.path().join("kept"))).unwrap()
        }

        /// «-» before what is gone, «+» before what is new, nothing before what may have changed.
        fn touched(&self) -> Vec<String> {
            let mut after = Tree::default();
            let told = |touched: Touched| {
                let sign = match (touched.old, touched.new) {
                    (Some(_), None) => "-",
                    (None, _) => "+",
                    _ => "",
                };
                sign.to_owned() + str::from_utf8(&touched.path).unwrap()
            };
            let found = self.layers().touched(&mut after).into_iter().map(told).collect();
            assert!(after.closed.is_empty() && after.too_deep.is_empty());
            found
        }
    }

    #[test]
    fn the_upper_layer_tells_what_was_touched() {
        let setting = Setting::new(&["a", "b/c", "b/d", "e/f/g", "h/i", "same"]);
        setting.make("upper", "a");
        setting.remove("b/c");
        setting.make("upper", "new/n");
        setting.remove("e");
        setting.make("upper", "h");
        symlink("a", setting.top.path().join("upper/link")).unwrap();
        assert_eq!(setting.touched(), ["a", "-b/c", "-e/f/g", "+h", "-h/i", "+link", "+new/n"]);
    }

    #[test]
    fn an_opaque_directory_hides_what_was_there() {
        let setting = Setting::new(&["d/a", "d/b", "d/e/f", "d/e/g", "d/file", "d/dir/x"]);
        setting.make_opaque("d");
        setting.make("upper", "d/b");
        setting.make("upper", "d/e/g");
        setting.make("upper", "d/file/below");
        setting.make("upper", "d/dir");
        assert_eq!(
            setting.touched(),
            ["-d/a", "d/b", "+d/dir", "-d/dir/x", "-d/e/f", "d/e/g", "-d/file", "+d/file/below"]
        );
        let layers = setting.layers();
        let is_there = |path: &str| layers.get(path.as_bytes()).is_some();
        assert!(is_there("d/b") && is_there("d/e/g") && is_there("d/file/below"));
        assert!(!is_there("d/a") && !is_there("d/e/f") && !is_there("d/dir/x"));
    }

    #[test]
    fn what_is_looked_up_is_seen_through_the_layers() {
        let setting = Setting::new(&["a/b", "a/c", "x/y"]);
        setting.remove("a/b");
        setting.make("upper", "x");
        let layers = setting.layers();
        let is_there = |path: &str| layers.get(path.as_bytes()).is_some();
        assert!(is_there("a") && is_there("a/c") && is_there("x"));
        assert!(!is_there("a/b") && !is_there("x/y") && !is_there("a/c/d") && !is_there("z"));
        let below: Vec<_> = layers.below(b"a").map(|(path, _)| path).collect();
        assert!(below.len() == 2 && below.contains(&b"a/b".to_vec()), "{below:?}");
        assert_eq!(layers.below(b"").count(), 5);
        assert_eq!(layers.top_directories(), [b"a", b"x"]);
    }
}
