//! What a source itself says is no part of it: its `.gitignore` files.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::content::Content;
use super::tree::Access;

/// Far more than anybody writes; what is beyond is not taken for one.
const MOST_BYTES: usize = 256 << 10;
const MOST_LINES: usize = 4000;

/// The `.gitignore` files of a source, each read when it is first wanted. See [`gitignore(5)`].
///
/// [`gitignore(5)`]: https://git-scm.com/docs/gitignore
pub(super) struct Ignored<'a> {
    /// The kept directory, as the session found it.
    kept: &'a OwnedFd,
    /// By the directory they are in.
    files: RefCell<HashMap<Vec<u8>, Gitignore>>,
}

impl<'a> Ignored<'a> {
    pub fn of(kept: &'a OwnedFd) -> Self {
        Self { kept, files: RefCell::default() }
    }

    /// Whether the file `path`, in the unpacked source `top`, is ignored: the file nearest to it that speaks of it decides.
    pub fn contains(&self, top: &[u8], path: &[u8]) -> bool {
        let mut files = self.files.borrow_mut();
        let mut directory = parent_of(path);
        loop {
            let below = path.get(directory.len()..).unwrap_or_default();
            let below = below.strip_prefix(b"/").unwrap_or(below);
            let file = files.entry(directory.to_vec()).or_insert_with(|| self.read(directory));
            match file.matched_path_or_any_parents(Path::new(OsStr::from_bytes(below)), false) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None if directory.len() <= top.len() => return false,
                Match::None => directory = parent_of(directory),
            }
        }
    }

    fn read(&self, directory: &[u8]) -> Gitignore {
        let path = if directory.is_empty() { b".gitignore".to_vec() } else { [directory, b"/.gitignore"].concat() };
        let text = Content::read(self.kept, &path, Access::Quietly).map(|content| content.bytes).unwrap_or_default();
        let text = if text.len() > MOST_BYTES { String::new() } else { String::from_utf8_lossy(&text).into_owned() };
        let mut rules = GitignoreBuilder::new("");
        for line in text.lines().take(MOST_LINES) {
            // A line that is no pattern says nothing to git either.
            let _ = rules.add_line(None, line);
        }
        rules.build().unwrap_or_else(|_| Gitignore::empty())
    }
}

/// The directory that a path is in; empty for one at the top.
pub(super) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|end| path.get(..end)).unwrap_or_default()
}

/// The last part of a path.
pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_file_decides() {
        let kept = tempfile::tempdir().unwrap();
        fs::create_dir_all(kept.path().join("source/sub")).unwrap();
        fs::write(kept.path().join(".gitignore"), "*\n").unwrap();
        fs::write(kept.path().join("source/.gitignore"), "# comment\n*.gen\n/made/\nsub/only\n[\n").unwrap();
        fs::write(kept.path().join("source/sub/.gitignore"), "!keep.gen\n").unwrap();
        let handle = fs::File::open(kept.path()).unwrap().into();
        let ignored = Ignored::of(&handle);
        let is_ignored = |path: &str| ignored.contains(b"source", path.as_bytes());
        assert!(is_ignored("source/a.gen") && is_ignored("source/sub/a.gen") && is_ignored("source/new/a.gen"));
        assert!(is_ignored("source/made/by/hand.c") && is_ignored("source/sub/only"));
        // Above the source nobody is asked.
        assert!(!is_ignored("source/main.c") && !is_ignored("source/sub/keep.gen") && !is_ignored("source/sub/made/x"));
    }

    #[test]
    fn a_path_is_its_directory_and_its_name() {
        assert_eq!((parent_of(b"a/b/c"), name_of(b"a/b/c")), (&b"a/b"[..], &b"c"[..]));
        assert_eq!((parent_of(b"c"), name_of(b"c")), (&b""[..], &b"c"[..]));
    }
}
