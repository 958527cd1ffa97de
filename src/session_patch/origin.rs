//! Where the source of a build is in its build directory, and which of the files there came with it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statat, statx};

use super::content::Content;
use super::doubtful::directories_of as directories_above;
use super::tree::{Access, Entry, Kind, Moment, Tree};
use super::unpacked::Unpacked;
use crate::failed_build::FailedBuild;
use crate::file_times::born;
use crate::kept_build::KeptBuild;
use crate::quiet_open::open_quietly;

/// The source as the build unpacked it.
#[derive(Debug)]
pub(super) struct Origin {
    /// The directory that patches are applied in, below the build directory; empty where that is it.
    pub root: Vec<u8>,
    /// Whether there is one, as far as anybody knows.
    is_root_known: bool,
    /// The sources that are directories in the store, and the directory that each was copied to.
    directories: Vec<(Vec<u8>, PathBuf)>,
    /// The build directory as it is when all sources were unpacked once more, and nothing else was done.
    unpacked: Option<Unpacked>,
    /// When the build began: what is older came with the source, since unpacking keeps the times. Nothing where nobody knows.
    began: Option<Moment>,
    /// Whether it began no earlier.
    is_begin_known: bool,
}

/// Whether a file came with the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromSource {
    Yes,
    No,
    /// It was written while the build ran: perhaps it was patched, perhaps made.
    Perhaps,
}

impl Origin {
    /// Finds out where the source of `build` is, from the build directory as it was before the session; where that had nothing of it
    /// that we may read, it may have been unpacked in the session.
    pub fn of(build: &FailedBuild, before: &Tree, after: &Tree) -> Self {
        let directories = directories_of(build);
        let root = root_of(build, before).or_else(|| {
            let was_unpacked = |(name, _): &&(Vec<u8>, PathBuf)| is_directory(after, name);
            directories.iter().find(was_unpacked).map(|(name, _)| name.clone())
        });
        let (began, is_begin_known) = build.kept.as_ref().map_or((None, false), began);
        let is_root_known = root.is_some();
        Self { root: root.unwrap_or_default(), is_root_known, directories, unpacked: None, began, is_begin_known }
    }

    /// Has what was `unpacked` once more of the sources of `build` decide what came with them, where no directory in the store does.
    pub fn decide_by(&mut self, unpacked: Unpacked, build: &FailedBuild) {
        if !self.is_root_known
            && let Some(root) = root_of(build, unpacked.tree())
        {
            self.root = root;
            self.is_root_known = true;
        }
        self.unpacked = Some(unpacked);
    }

    /// Whether the sources may have been unpacked in the session alone, and it is not known what they are.
    pub fn is_unknown(&self) -> bool {
        !self.is_root_known && self.directories.is_empty()
    }

    /// The directory at the top of the build directory that the source was unpacked to.
    pub fn top(&self) -> &[u8] {
        self.root.split(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Whether a path is in the directory that patches are applied in.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.is_root_known && is_below(path, &self.root)
    }

    /// Whether the file `path`, which was there before the session, came with the source.
    pub fn has(&self, path: &[u8], before: &Entry) -> FromSource {
        if let Some(original) = self.original(path) {
            return if original.is_some_and(|entry| entry.is_content()) { FromSource::Yes } else { FromSource::No };
        }
        match self.began {
            Some(began) if before.modified < began => FromSource::Yes,
            _ => FromSource::Perhaps,
        }
    }

    /// Whether that is no more than a guess.
    pub fn is_guessed(&self, path: &[u8], before: &Entry) -> bool {
        self.original(path).is_none() && !self.is_older_than_build(before)
    }

    /// Whether the build may have removed a file `path` that came with the source: then the directory that it was in has changed since.
    pub fn may_have_lost(&self, path: &[u8], before: &Tree) -> bool {
        let directory = directories_above(path).find_map(|directory| before.get(directory));
        self.original(path).is_none() && !directory.is_some_and(|directory| self.is_older_than_build(&directory))
    }

    fn is_older_than_build(&self, before: &Entry) -> bool {
        // What is copied from the store with its time bears the store's, whoever copied it.
        let is_older =
            |began: Moment| self.is_begin_known && before.modified < began && before.modified.0 > TIME_IN_STORE;
        self.began.is_some_and(is_older)
    }

    /// Whether the source has the file `path`, which was not there before the session: then it was unpacked once more.
    pub fn has_original(&self, path: &[u8]) -> bool {
        self.original(path).flatten().is_some_and(|original| original.is_content())
    }

    /// Whether the directory `path` was there before the session, and nothing in it came with the source.
    pub fn is_made_by_build(&self, path: &[u8], before: &Tree) -> bool {
        if !before.get(path).is_some_and(|entry| entry.kind == Kind::Directory) {
            return false;
        }
        if let Some(original) = self.original(path) {
            return original.is_none_or(|entry| entry.kind != Kind::Directory);
        }
        let Some(began) = self.began else {
            return false;
        };
        before.all_below(path, |entry| entry.modified >= began)
    }

    /// The file `path` as the source has it, where that is known.
    pub fn content(&self, path: &[u8]) -> Option<Content> {
        let Some((directory, below)) = self.place(path) else {
            return self.unpacked.as_ref()?.content(path);
        };
        let handle = open_quietly(CWD, directory, OFlags::DIRECTORY | OFlags::NOFOLLOW).ok()?;
        Content::read(&handle, below, Access::Quietly).ok()
    }

    /// What the source has as `path`, which may be nothing; nothing at all where it is not known what the source has.
    fn original(&self, path: &[u8]) -> Option<Option<Entry>> {
        match (self.place(path), &self.unpacked) {
            (Some((directory, below)), _) => {
                let path = directory.join(OsStr::from_bytes(below));
                Some(statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok().map(|status| Entry::of(&status)))
            }
            (None, Some(unpacked)) => Some(unpacked.get(path)),
            (None, None) => None,
        }
    }

    /// Where in the store the file `path` was copied from, or would have been: the directory, and the path below it.
    fn place<'a>(&self, path: &'a [u8]) -> Option<(&Path, &'a [u8])> {
        let (top, directory) = self.directories.iter().find(|(top, _)| is_below(path, top))?;
        let below = path.get(top.len()..)?;
        Some((directory, below.strip_prefix(b"/").unwrap_or(below)))
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn is_directory(tree: &Tree, path: &[u8]) -> bool {
    path.is_empty() || tree.get(path).is_some_and(|entry| entry.kind == Kind::Directory)
}

/// `sourceRoot`, where the derivation says it; else the directory at the top in which the last phase began; else the only one. Where
/// there are several it is the build directory; where there is none, nobody knows.
fn root_of(build: &FailedBuild, before: &Tree) -> Option<Vec<u8>> {
    let kept = build.kept.as_ref();
    let below_top = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        let tops = [kept.and_then(KeptBuild::build_top), Some(build.build_directory.clone())];
        let below = tops
            .into_iter()
            .flatten()
            .find_map(|top| path.strip_prefix(top).ok())
            .or(path.is_relative().then_some(path));
        below.and_then(plain)
    };
    if let Some(root) = attribute(build, "sourceRoot").and_then(|root| below_top(&root))
        && is_directory(before, &root)
    {
        return Some(root);
    }
    let directory = kept.and_then(|kept| kept.variable("PWD"));
    let directory = directory.filter(|path| path.starts_with(b"/")).and_then(below_top).unwrap_or_default();
    let top = directory.split(|byte| *byte == b'/').next().unwrap_or_default();
    if !top.is_empty() && is_directory(before, top) {
        return Some(top.to_vec());
    }
    match before.top_directories().as_slice() {
        [only] => Some(only.clone()),
        [] => None,
        _ => Some(Vec::new()),
    }
}

/// A relative path without «.»; nothing where it leads upwards.
fn plain(path: &Path) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.as_bytes()),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts.join(&b'/'))
}

/// An attribute of the derivation, as the build had it or as it was written down.
pub(super) fn attribute(build: &FailedBuild, name: &str) -> Option<Vec<u8>> {
    let of_build = || build.kept.as_ref()?.variable(name).filter(|value| !value.is_empty()).map(<[u8]>::to_vec);
    let derivation = build.derivation.as_ref();
    let structured = || derivation?.structured_attributes()?.get(name)?.as_str().map(Into::into);
    let written = || derivation?.variable(name).map(<[u8]>::to_vec);
    of_build().or_else(structured).or_else(written)
}

/// The sources that stdenv copies: those that are directories. It names each copy after the store path, without the hash.
fn directories_of(build: &FailedBuild) -> Vec<(Vec<u8>, PathBuf)> {
    let is_directory = |path: &PathBuf| path.symlink_metadata().is_ok_and(|status| status.is_dir());
    let named = |path: PathBuf| Some((path.file_name()?.as_bytes().get(33..)?.to_vec(), path));
    sources_of(build).into_iter().filter(is_directory).filter_map(named).collect()
}

/// The sources that are in the store, where they are on the host.
pub(super) fn sources_of(build: &FailedBuild) -> Vec<PathBuf> {
    let lists = ["src", "srcs"].map(|name| attribute(build, name).unwrap_or_default());
    let paths = lists.iter().flat_map(|list| list.split(u8::is_ascii_whitespace));
    let paths = paths.map(|path| Path::new(OsStr::from_bytes(path))).filter(|path| build.store.is_store_path(path));
    paths.map(|path| build.store.physical(path)).collect()
}

/// When the build began: Nix made its directory then. A copy of that is younger than stdenv's dump of the environment, of which it
/// keeps the time: then nothing of the source is younger than `SOURCE_DATE_EPOCH`, which stdenv takes from the source.
/// Else it began before the dump, nobody knows how long: then the second value is false.
fn began(kept: &KeptBuild) -> (Option<Moment>, bool) {
    let birth = statx(&kept.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok();
    let birth = birth.and_then(|status| born(&status)).map(|(seconds, nanos)| (seconds, i64::from(nanos)));
    let dump =
        statat(&kept.handle, "env-vars", AtFlags::SYMLINK_NOFOLLOW).ok().map(|status| Entry::of(&status).modified);
    let epoch: Option<i64> =
        kept.variable("SOURCE_DATE_EPOCH").and_then(|value| str::from_utf8(value).ok()?.parse().ok());
    match (birth, dump) {
        (Some(birth), Some(dump)) if birth <= dump => (Some(birth), true),
        (Some(birth), None) => (Some(birth), false),
        (_, dump) => match epoch {
            Some(seconds) if seconds > NO_EPOCH => (Some((seconds, 1_000_000_000)), true),
            _ => (dump, false),
        },
    }
}

/// The time of every file in the store, in seconds.
const TIME_IN_STORE: i64 = 1;
/// What stdenv sets `SOURCE_DATE_EPOCH` to where it knows nothing better: 1980, the first year of zip archives.
const NO_EPOCH: i64 = 315_532_800;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LATE: i64 = 1000;

    impl Origin {
        /// A source that was unpacked from an archive.
        pub fn example(root: &[u8], began: Option<Moment>) -> Self {
            Self {
                root: root.into(),
                is_root_known: true,
                directories: Vec::new(),
                unpacked: None,
                began,
                is_begin_known: true,
            }
        }

        /// One that was copied from a directory.
        pub fn with_directory(self, name: &[u8], directory: &Path) -> Self {
            Self { directories: vec![(name.into(), directory.into())], ..self }
        }
    }

    fn origin(directories: Vec<(Vec<u8>, PathBuf)>) -> Origin {
        Origin { directories, ..Origin::example(b"source", Some((LATE, 0))) }
    }

    #[test]
    fn what_is_older_than_the_build_came_with_the_source() {
        let tree = Tree::example(&[
            ("source/", LATE + 1),
            ("source/old", 2),
            ("source/of-store", 1),
            ("source/young", LATE + 1),
            ("source/made/", LATE + 1),
            ("source/made/young", LATE + 1),
            ("source/empty/", LATE + 1),
        ]);
        let origin = origin(Vec::new());
        let has = |path: &[u8]| origin.has(path, &tree.get(path).unwrap());
        assert_eq!((has(b"source/old"), has(b"source/young")), (FromSource::Yes, FromSource::Perhaps));
        let is_guessed = |origin: &Origin, path: &[u8]| origin.is_guessed(path, &tree.get(path).unwrap());
        assert!(is_guessed(&origin, b"source/young") && is_guessed(&origin, b"source/of-store"));
        assert!(!is_guessed(&origin, b"source/old"));
        let is_made = |path: &[u8]| origin.is_made_by_build(path, &tree);
        assert!(is_made(b"source/made"));
        assert!(
            !is_made(b"source") && !is_made(b"source/empty") && !is_made(b"source/missing") && !is_made(b"source/old")
        );
    }

    #[test]
    fn a_source_that_is_a_directory_tells_what_is_in_it() {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir(store.path().join("kept")).unwrap();
        fs::write(store.path().join("main.c"), "").unwrap();
        let tree = Tree::example(&[
            ("source/main.c", LATE + 1),
            ("source/made.c", 1),
            ("source/made/", 1),
            ("source/kept/", 1),
        ]);
        let origin = origin(vec![(b"source".into(), store.path().into())]);
        let has = |path: &[u8]| origin.has(path, &tree.get(path).unwrap());
        assert_eq!((has(b"source/main.c"), has(b"source/made.c")), (FromSource::Yes, FromSource::No));
        assert!(origin.is_made_by_build(b"source/made", &tree) && !origin.is_made_by_build(b"source/kept", &tree));
    }

    #[test]
    fn a_source_that_was_unpacked_once_more_tells_what_is_in_it() {
        let unpacked = tempfile::tempdir().unwrap();
        fs::create_dir_all(unpacked.path().join("source/kept")).unwrap();
        fs::write(unpacked.path().join("source/main.c"), "1").unwrap();
        let tree = Tree::example(&[
            ("source/main.c", LATE + 1),
            ("source/made.c", 2),
            ("source/made/", LATE + 1),
            ("source/kept/", LATE + 1),
            ("source/kept/made.c", LATE + 1),
        ]);
        let mut origin = origin(Vec::new());
        origin.unpacked = Some(Unpacked::example(unpacked.path()));
        let has = |path: &[u8]| origin.has(path, &tree.get(path).unwrap());
        assert_eq!((has(b"source/main.c"), has(b"source/made.c")), (FromSource::Yes, FromSource::No));
        assert!(!origin.is_guessed(b"source/made.c", &tree.get(b"source/made.c").unwrap()));
        assert!(origin.has_original(b"source/main.c") && !origin.has_original(b"source/new.c"));
        assert!(origin.is_made_by_build(b"source/made", &tree) && !origin.is_made_by_build(b"source/kept", &tree));
        assert_eq!(origin.content(b"source/main.c").unwrap().bytes, b"1");
    }

    #[test]
    fn a_path_is_in_the_root_or_not() {
        let origin = Origin { root: b"source/python".into(), ..origin(Vec::new()) };
        assert_eq!(origin.top(), b"source");
        assert!(origin.contains(b"source/python/setup.py") && origin.contains(b"source/python"));
        assert!(!origin.contains(b"source/python2") && !origin.contains(b"source/main.c"));
    }

    #[test]
    fn a_path_that_leads_upwards_is_no_root() {
        assert_eq!(plain(Path::new("./source//sub/.")), Some(b"source/sub".to_vec()));
        assert_eq!(plain(Path::new(".")), Some(Vec::new()));
        assert_eq!(plain(Path::new("../source")), None);
        assert_eq!(plain(Path::new("/source")), None);
    }
}
