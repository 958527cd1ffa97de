//! When builds ended, as the files tell that Nix keeps their logs in.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::store::Store;

/// What Nix adds to the name of a log's file with its setting `compress-build-log`, the default.
const COMPRESSED: &str = ".bz2";
/// How many characters of a store path's name are the name of the directory that its log is in.
const DIRECTORY_LENGTH: usize = 2;

/// The logs of the builds of a store, one a derivation: of its last build.
#[derive(Clone, Copy, Debug)]
pub struct BuildLogs<'a> {
    store: &'a Store,
}

/// The end of a derivation's last build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildEnd {
    /// The store path of the derivation. It may have been collected since.
    pub derivation: PathBuf,
    /// When Nix wrote the rest of the log: as soon as the builder had ended, and before it let go of the build directory.
    pub time: SystemTime,
}

impl<'a> BuildLogs<'a> {
    /// The logs that Nix keeps of builds in `store`.
    pub fn of(store: &'a Store) -> Self {
        Self { store }
    }

    /// When the last build of `derivation` ended; nothing where there is no log that we may look at.
    pub fn last_end(&self, derivation: &Path) -> Option<SystemTime> {
        let name = derivation.file_name()?.as_bytes();
        let (directory, rest) = name.split_at_checked(DIRECTORY_LENGTH)?;
        let directory = self.directory().join(OsStr::from_bytes(directory));
        // Both are there where the setting was changed between two builds.
        ["", COMPRESSED]
            .iter()
            .filter_map(|suffix| {
                changed(&directory.join(OsStr::from_bytes(&[rest, suffix.as_bytes()].concat())).metadata().ok()?)
            })
            .max()
    }

    /// The builds that ended no further than `distance` from `moment`, the nearest first. It looks at every log there is: a
    /// second for some hundred thousand.
    pub fn ends_near(&self, moment: SystemTime, distance: Duration) -> Vec<BuildEnd> {
        let mut ends: Vec<BuildEnd> = Vec::new();
        for directory in entries(&self.directory()) {
            for log in entries(&directory.path()) {
                let Some(time) = log.metadata().ok().as_ref().and_then(changed) else { continue };
                let name = [directory.file_name().as_bytes(), log.file_name().as_bytes()].concat();
                let name = name.strip_suffix(COMPRESSED.as_bytes()).unwrap_or(&name);
                let derivation = self.store.directory().join(OsStr::from_bytes(name));
                if between(time, moment) <= distance && self.store.is_store_path(&derivation) {
                    ends.push(BuildEnd { derivation, time });
                }
            }
        }
        ends.sort_by(|one, other| {
            let key = |end: &BuildEnd| between(end.time, moment);
            key(one).cmp(&key(other)).then_with(|| one.derivation.cmp(&other.derivation))
        });
        let mut seen = HashSet::new();
        ends.retain(|end| seen.insert(end.derivation.clone()));
        ends
    }

    fn directory(&self) -> PathBuf {
        self.store.log_directory().join("drvs")
    }
}

/// The time between two moments, whichever is the earlier.
pub fn between(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|earlier| earlier.duration())
}

fn changed(file: &fs::Metadata) -> Option<SystemTime> {
    file.is_file().then(|| file.modified().ok()).flatten()
}

fn entries(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tempfile::TempDir;

    use super::*;

    const A: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a.drv";
    const B: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-b.drv";
    const C: &str = "/nix/store/z123456789abcdfghijklmnpqrsvwxyz-c.drv";

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    fn store(logs: &[(&str, u64)]) -> (TempDir, Store) {
        let root = TempDir::new().unwrap();
        let store = Store::in_root(root.path()).unwrap();
        for (file, second) in logs {
            let file = store.log_directory().join("drvs").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            File::create(file).unwrap().set_modified(at(*second)).unwrap();
        }
        (root, store)
    }

    const LOGS: [(&str, u64); 4] = [
        ("01/23456789abcdfghijklmnpqrsvwxyz-a.drv.bz2", 10),
        ("01/23456789abcdfghijklmnpqrsvwxyz-b.drv", 40),
        ("01/23456789abcdfghijklmnpqrsvwxyz-b.drv.bz2", 20),
        ("z1/23456789abcdfghijklmnpqrsvwxyz-c.drv.bz2", 33),
    ];

    #[test]
    fn a_log_is_found_compressed_or_not() {
        let (_root, store) = store(&LOGS);
        let logs = BuildLogs::of(&store);
        assert_eq!([A, B, C].map(|path| logs.last_end(path.as_ref())), [10, 40, 33].map(at).map(Some));
        for absent in ["/nix/store/y123456789abcdfghijklmnpqrsvwxyz-c.drv", "/nix/store/z", "/"] {
            assert_eq!(logs.last_end(absent.as_ref()), None);
        }
    }

    #[test]
    fn the_nearest_comes_first_on_either_side() {
        let (_root, store) = store(&LOGS);
        let near = |second, distance| {
            let ends = BuildLogs::of(&store).ends_near(at(second), Duration::from_secs(distance));
            ends.into_iter().map(|end| (end.derivation.display().to_string(), end.time)).collect::<Vec<_>>()
        };
        let expected =
            |ends: &[(&str, u64)]| ends.iter().map(|(path, s)| (String::from(*path), at(*s))).collect::<Vec<_>>();
        assert_eq!(near(36, 4), expected(&[(C, 33), (B, 40)]));
        assert_eq!(near(38, 28), expected(&[(B, 40), (C, 33), (A, 10)]));
        assert_eq!(near(100, 50), expected(&[]));
    }

    #[test]
    fn what_is_no_log_is_passed_over() {
        let (_root, store) = store(&[("01/not-a-store-path.bz2", 10), ("stray", 10), ("02/x/y", 10)]);
        assert_eq!(BuildLogs::of(&store).ends_near(at(10), Duration::MAX), []);
        let (_root, nowhere) = self::store(&[]);
        assert_eq!(BuildLogs::of(&nowhere).ends_near(at(10), Duration::MAX), []);
    }
}
