//! What Nix said of kept directories while `nix-build-shell build` listened: it writes that down nowhere itself.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Identity, KeptDirectory, Trust};
use crate::caller::Caller;
use crate::nix::Settings;
use crate::record;
use crate::state_directory::StateDirectory;

/// Where it is written down, in the caller's state directory.
const DIRECTORY: &str = "builds";
const FILE: &str = "failures.json";
/// The directories go in time; who never removes them has the last ones told.
const MOST: usize = 500;

/// What Nix said of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldFailure {
    #[serde(with = "crate::os_text")]
    directory: PathBuf,
    identity: Identity,
    kept: u64,
    /// The derivation that was built in it.
    #[serde(with = "crate::os_text")]
    pub derivation: PathBuf,
    /// How its builder ended, as of [`Failure`](crate::build_command::Failure).
    pub status: Option<u8>,
}

/// All that was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldFailures {
    failures: Vec<ToldFailure>,
}

impl ToldFailures {
    /// What is written down for a caller. What cannot be read was never told.
    pub fn of(caller: &Caller) -> Self {
        let state = StateDirectory::find(caller, DIRECTORY).ok().flatten();
        state.and_then(|state| record::read(&state.handle, FILE).ok().flatten()).unwrap_or_default()
    }

    /// What was told of the directory that a caller calls so.
    pub fn about_path(path: &Path, caller: &Caller) -> Option<ToldFailure> {
        let kept = KeptDirectory::at(path, &Trust::of(caller, &Settings::default()))?;
        Self::of(caller).about(&kept).cloned()
    }

    /// What was told of a directory.
    pub fn about(&self, kept: &KeptDirectory) -> Option<&ToldFailure> {
        self.failures.iter().rev().find(|told| told.is_of(kept))
    }

    /// Adds what was told of a directory.
    pub fn add(&mut self, kept: &KeptDirectory, derivation: &Path, status: Option<u8>) {
        self.failures.push(ToldFailure {
            directory: kept.path.clone(),
            identity: kept.identity,
            kept: kept.seconds(),
            derivation: derivation.to_owned(),
            status,
        });
    }

    /// Forgets what was told of directories that are gone.
    ///
    /// # Errors
    /// No room.
    pub fn forget_what_is_gone(caller: &Caller) -> Result<()> {
        let told = Self::of(caller);
        let is_gone = |told: &ToldFailure| told.directory.symlink_metadata().is_err();
        if told.failures.iter().any(is_gone) { told.keep(caller) } else { Ok(()) }
    }

    /// Writes it down, but for directories that are gone.
    ///
    /// # Errors
    /// No room, or no home.
    pub fn keep(mut self, caller: &Caller) -> Result<()> {
        self.failures.retain(|told| told.directory.symlink_metadata().is_ok());
        let surplus = self.failures.len().saturating_sub(MOST);
        self.failures.drain(..surplus);
        record::write(&StateDirectory::open(caller, DIRECTORY)?.handle, FILE, &self, caller)
    }
}

impl ToldFailure {
    /// Its time changes with its mode, but never to an earlier one.
    fn is_of(&self, kept: &KeptDirectory) -> bool {
        self.identity == kept.identity && self.directory == kept.path && self.kept <= kept.seconds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept_builds::Trust;
    use crate::nix::Settings;

    #[test]
    fn what_was_told_is_of_the_directory_as_long_as_it_is_the_same() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("nix-1-2");
        let trust = Trust::of(&Caller::current(), &Settings::default());
        std::fs::create_dir(&path).unwrap();
        let kept = KeptDirectory::at(&path, &trust).unwrap();
        let mut told = ToldFailures::default();
        assert_eq!(told.about(&kept), None);
        told.add(&kept, Path::new("/nix/store/x.drv"), Some(2));
        assert_eq!(told.about(&kept).map(|told| told.status), Some(Some(2)));
        let other = place.path().join("nix-1-3");
        std::fs::create_dir(&other).unwrap();
        assert_eq!(told.about(&KeptDirectory::at(&other, &trust).unwrap()), None);
        let mut known = KeptDirectory::at(&path, &trust).unwrap();
        assert!(told.about(&known).is_some());
        known.identity.born = known.identity.born.map(|(seconds, nanoseconds)| (seconds + 1, nanoseconds));
        assert_eq!(told.about(&known).is_some(), known.identity.born.is_none(), "one that was made later");
        std::fs::rename(&path, place.path().join("nix-1-4")).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(told.about(&KeptDirectory::at(&path, &trust).unwrap()), None);
    }
}
