//! The build directories that Nix has kept on this machine: where they are, and whose.
//!
//! They lie in directories that everybody may write to, such as `/tmp`, and anybody can make one that looks like Nix's. So a link is
//! never followed, and what belongs to another user is named and not looked into.

mod description;
mod removal;
mod told_failures;

use std::collections::HashSet;
use std::env;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags, fstat, openat, statat, statx};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

pub use self::description::{Description, open};
pub use self::removal::Removable;
pub use self::told_failures::ToldFailures;
use crate::caller::Caller;
use crate::file_times::{born, changed};
use crate::kept_build_name::KeptBuildName;
use crate::nix::Settings;
use crate::nix::store::Store;
use crate::owner::{is_build_user, keeps_what_is_in_it};

/// Where Nix 2.30 and later build, in the state directory of a store.
const BUILDS: &str = "builds";
/// Where Nix and Lix build for a store at its usual place.
const USUAL_BUILDS: &str = "/nix/var/nix/builds";
/// How the name of a directory begins in which Lix builds where it may not write to that place.
const BUILDS_OF_A_USER: &str = "nix-builds-";

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that looks like one that Nix has built in.
#[derive(Clone, Debug)]
pub struct KeptDirectory {
    /// The directory that Nix has made; with Nix 2.26 and later the build was in `build` below it.
    pub path: PathBuf,
    /// Its name.
    pub name: KeptBuildName,
    /// Whether it can be relied on.
    pub standing: Standing,
    /// Whom it belongs to: where Nix has made a `build` below it, whom that belongs to.
    pub owner: u32,
    /// Whether the build was in `build` below it.
    pub is_nested: bool,
    /// When it last changed, its mode included: Nix sets that as it keeps the directory.
    pub kept_at: SystemTime,
    identity: Identity,
}

/// By which a directory is known to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    device: u64,
    /// A number of a directory that was removed may be another's later.
    inode: u64,
    /// When it was made, in seconds since 1970 and nanoseconds, where the file system tells: see statx(2).
    #[serde(default)]
    born: Option<(i64, u32)>,
}

/// What a directory is that looks like one that Nix has built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nix has kept it.
    Kept,
    /// Nix builds in it, or was killed at it: nobody but the builder may enter it.
    Unfinished,
    /// It belongs to a user who neither is the caller nor builds for him: it may be anything.
    Strangers,
}

/// Whose directories are Nix's for a caller.
#[derive(Clone, Debug)]
pub struct Trust {
    caller: u32,
    build_users_group: String,
}

impl Trust {
    /// The caller's own, root's and the build users'.
    pub fn of(caller: &Caller, settings: &Settings) -> Self {
        Self { caller: caller.uid.as_raw(), build_users_group: settings.build_users_group.clone() }
    }

    fn includes(&self, uid: u32) -> bool {
        uid == 0 || uid == self.caller || uid == geteuid().as_raw() || is_build_user(uid, &self.build_users_group)
    }

    /// Whether nobody else can put something else in the place of what is in a directory and belongs to one of them.
    fn holds_in(&self, directory: &Stat) -> bool {
        keeps_what_is_in_it(directory, |uid| self.includes(uid))
    }

    fn standing(&self, holds_in_parent: bool, status: &Stat) -> Standing {
        let everybody_enters = Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        if !holds_in_parent || !self.includes(status.st_uid) {
            Standing::Strangers
        } else if Mode::from_raw_mode(status.st_mode).contains(everybody_enters) {
            Standing::Kept
        } else {
            Standing::Unfinished
        }
    }
}

/// All directories that look like ones that Nix has built in, the newest first: in Nix's `build-dir`, in `TMPDIR` and `/tmp`, and where
/// later versions build by themselves. What cannot be read has none.
pub fn find(settings: &Settings, store: &Store, caller: &Caller) -> Vec<KeptDirectory> {
    let trust = Trust::of(caller, settings);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for place in places(settings, store) {
        // The place itself may be reached through a link: it is the caller's, or the system's, to name.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(handle) = openat(CWD, &place, flags, Mode::empty()) {
            look_into(&handle, &place, &trust, true, &mut seen, &mut found);
        }
    }
    found.sort_by(|one, other| other.kept_at.cmp(&one.kept_at).then_with(|| one.path.cmp(&other.path)));
    found
}

fn places(settings: &Settings, store: &Store) -> Vec<PathBuf> {
    let of_environment = env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let mut places: Vec<_> = settings.build_dir.clone().into_iter().chain(of_environment).collect();
    places.extend(["/tmp".into(), store.state_directory().join(BUILDS), USUAL_BUILDS.into()]);
    places
}

fn look_into(
    place: &OwnedFd,
    path: &Path,
    trust: &Trust,
    is_outermost: bool,
    seen: &mut HashSet<(u64, u64)>,
    found: &mut Vec<KeptDirectory>,
) {
    let (Ok(status), Ok(entries)) = (fstat(place), Dir::read_from(place)) else { return };
    // One place may go by two names.
    if !seen.insert((status.st_dev, status.st_ino)) {
        return;
    }
    let holds = trust.holds_in(&status);
    for entry in entries.flatten() {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let Some(text) = name.to_str() else { continue };
        if let Some(kept_name) = KeptBuildName::parse(text) {
            found.extend(look_at(place, path, name, kept_name, trust, holds));
        } else if is_outermost && text.starts_with(BUILDS_OF_A_USER) {
            let inner = openat(place, name, DIRECTORY | OFlags::RDONLY, Mode::empty());
            let is_trusted = |handle: &OwnedFd| fstat(handle).is_ok_and(|status| trust.includes(status.st_uid));
            if let Some(inner) = inner.ok().filter(is_trusted) {
                look_into(&inner, &path.join(name), trust, false, seen, found);
            }
        }
    }
}

fn look_at(
    place: &OwnedFd,
    path: &Path,
    name: &OsStr,
    kept_name: KeptBuildName,
    trust: &Trust,
    holds_in_parent: bool,
) -> Option<KeptDirectory> {
    let handle = openat(place, name, DIRECTORY | OFlags::PATH, Mode::empty()).ok()?;
    let status = fstat(&handle).ok()?;
    // What is in a stranger's directory is his to say.
    let standing = trust.standing(holds_in_parent, &status);
    let below = statat(&handle, "build", AtFlags::SYMLINK_NOFOLLOW).ok().filter(|below| {
        standing != Standing::Strangers && FileType::from_raw_mode(below.st_mode) == FileType::Directory
    });
    // A source may well have a directory of that name, but Nix keeps nothing else beside its own.
    let below = below.filter(|_| !has_file(&handle, "env-vars"));
    let outer = changed(&status);
    let birth = statx(&handle, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok();
    Some(KeptDirectory {
        path: path.join(name),
        name: kept_name,
        standing,
        owner: below.as_ref().map_or(status.st_uid, |below| below.st_uid),
        is_nested: below.is_some(),
        kept_at: below.as_ref().map_or(outer, |below| outer.max(changed(below))),
        identity: Identity { device: status.st_dev, inode: status.st_ino, born: birth.as_ref().and_then(born) },
    })
}

fn has_file(directory: &OwnedFd, name: &str) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

impl KeptDirectory {
    /// Looks at a directory that somebody has named: the one that Nix has made, or `build` in it, whatever links lead there. `None` for
    /// one that Nix does not call so, or that is not there.
    pub fn at(path: &Path, trust: &Trust) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let is_named_by_nix = |path: &Path| KeptBuildName::parse(path.file_name()?.to_str()?);
        let (path, name) = match (is_named_by_nix(&path), path.parent()) {
            (Some(name), _) => (path, name),
            (None, Some(parent)) if path.ends_with("build") => (parent.to_owned(), is_named_by_nix(parent)?),
            (None, _) => return None,
        };
        let parent = path.parent()?;
        let handle = openat(CWD, parent, DIRECTORY | OFlags::PATH, Mode::empty()).ok()?;
        let holds = trust.holds_in(&fstat(&handle).ok()?);
        look_at(&handle, parent, path.file_name()?, name, trust, holds)
    }

    /// When it was kept, in seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.kept_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Whether `later` is the same directory, and not another that has its number now. Where the file system does not tell when a directory
    /// was made, one that has changed may be another.
    pub fn is_unchanged_in(&self, later: &Self) -> bool {
        self.is_same(later) && (self.identity.born.is_some() || self.kept_at == later.kept_at)
    }

    /// Whether two values are of the same directory, as it is on the disk.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A place with directories of these names and modes, whatever else is on this machine.
    fn find_in(place: &Path) -> Vec<KeptDirectory> {
        let settings = Settings { build_dir: Some(place.to_owned()), ..Settings::default() };
        let store = Store::in_root(place).unwrap();
        let found = find(&settings, &store, &Caller::current());
        found.into_iter().filter(|kept| kept.path.starts_with(place)).collect()
    }

    fn make(place: &Path, name: &str, mode: u32) -> PathBuf {
        let path = place.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_directories_with_nix_s_names_are_found_and_the_newest_comes_first() {
        let place = tempfile::tempdir().unwrap();
        make(place.path(), "nix-build-a-1.drv-0", 0o755);
        make(place.path(), "nix-1-2", 0o755);
        make(place.path(), "nix-build-b.drv-0", 0o700);
        make(place.path(), "something", 0o755);
        fs::write(place.path().join("nix-build-file.drv-0"), "").unwrap();
        symlink("nix-1-2", place.path().join("nix-build-link.drv-0")).unwrap();
        let found = find_in(place.path());
        let told: Vec<_> = found
            .iter()
            .map(|kept| (kept.path.file_name().unwrap().to_str().unwrap(), kept.name.derivation(), kept.standing))
            .collect();
        // The times may be the same.
        for expected in [
            ("nix-build-a-1.drv-0", Some("a-1"), Standing::Kept),
            ("nix-1-2", None, Standing::Kept),
            ("nix-build-b.drv-0", Some("b"), Standing::Unfinished),
        ] {
            assert!(told.contains(&expected), "{expected:?} in {told:?}");
        }
        assert_eq!(found.len(), 3);
        assert!(found.is_sorted_by(|one, other| one.kept_at >= other.kept_at));
    }

    #[test]
    fn the_places_of_later_versions_are_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let builds = root.path().join("nix/var/nix/builds");
        fs::create_dir_all(&builds).unwrap();
        fs::create_dir(make(&builds, "nix-7-8", 0o755).join("build")).unwrap();
        let of_lix = make(root.path(), "nix-builds-1000-0", 0o700);
        make(&of_lix, "nix-build-c.drv-0", 0o755);
        let found = find_in(root.path());
        let nested: Vec<_> = found.iter().map(|kept| (kept.name.derivation(), kept.is_nested)).collect();
        assert_eq!(nested.len(), 2);
        assert!(nested.contains(&(None, true)) && nested.contains(&(Some("c"), false)), "{nested:?}");
    }

    #[test]
    fn where_anybody_can_replace_what_is_there_nothing_is_relied_on() {
        let place = tempfile::tempdir().unwrap();
        make(place.path(), "nix-1-2", 0o755);
        fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(find_in(place.path())[0].standing, Standing::Strangers);
        fs::set_permissions(place.path(), Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(find_in(place.path())[0].standing, Standing::Kept);
    }

    #[test]
    fn a_directory_is_known_by_either_of_its_names() {
        let place = tempfile::tempdir().unwrap();
        let outer = make(place.path(), "nix-1-2", 0o755);
        fs::create_dir(outer.join("build")).unwrap();
        let settings = Settings::default();
        let trust = Trust::of(&Caller::current(), &settings);
        let at = |path: &Path| KeptDirectory::at(path, &trust);
        let (one, other) = (at(&outer).unwrap(), at(&outer.join("build/.")).unwrap());
        assert!(one.is_same(&other) && one.is_nested && one.path == other.path);
        assert!(at(place.path()).is_none() && at(&outer.join("nowhere")).is_none());
    }
}
