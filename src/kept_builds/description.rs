//! What can be told of a kept build directory without opening a sandbox.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{KeptDirectory, Standing, ToldFailures};
use crate::disk_usage::DiskUsage;
use crate::failed_build::{FailedBuild, StoreExtent, Wishes};
use crate::failed_log::FailedLog;
use crate::kept_build::{KeptBuild, NoEnvVars};
use crate::nix::Settings;
use crate::owner::name_of_user;

/// A kept build directory as the list shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The directory that Nix has made.
    #[serde(with = "crate::os_text")]
    pub path: PathBuf,
    /// The derivation's name, if that is known.
    pub name: Option<String>,
    /// The derivation, if that is known.
    #[serde(with = "crate::os_text::optional")]
    pub derivation: Option<PathBuf>,
    /// When it was kept, in seconds since 1970.
    pub kept: u64,
    /// The phase that failed, if that is known.
    pub failed_phase: Option<String>,
    /// How the builder ended, if that is known: as a shell says it, 128+n for the signal n.
    pub exit_status: Option<u8>,
    /// Bytes on the disk, of what the caller may read.
    pub size: u64,
    /// Whether that is all of it.
    pub size_is_complete: bool,
    /// Where in it the build was: `.`, or `build` with Nix 2.26 and later.
    pub layout: &'static str,
    /// Whom it belongs to: the name, or the number of a user without one.
    pub owner: String,
    /// `kept`, `unfinished` where Nix builds in it or was killed at it, or `stranger's`.
    pub state: &'static str,
    /// Whether the caller may read what tells of the build.
    pub readable: bool,
    /// Why its sandbox cannot be opened, where it cannot.
    pub obstacle: Option<String>,
}

impl Description {
    /// Finds out about a directory. One that is not Nix's is not looked into.
    pub fn of(kept: &KeptDirectory, settings: &Settings, store_root: Option<&Path>, told: &ToldFailures) -> Self {
        let (state, is_ours) = match kept.standing {
            Standing::Kept => ("kept", true),
            Standing::Unfinished => ("unfinished", false),
            Standing::Strangers => ("stranger's", false),
        };
        let mut described = Self {
            path: kept.path.clone(),
            name: kept.name.derivation().map(String::from),
            derivation: None,
            kept: kept.seconds(),
            failed_phase: None,
            exit_status: None,
            size: 0,
            size_is_complete: false,
            layout: if kept.is_nested { "build" } else { "." },
            owner: name_of_user(kept.owner).unwrap_or_else(|| kept.owner.to_string()),
            state,
            readable: false,
            obstacle: None,
        };
        if is_ours {
            let told = told.about(kept);
            described.exit_status = told.and_then(|told| told.status);
            described.look_inside(settings, store_root, told.map(|told| told.derivation.as_path()));
        }
        described
    }

    fn look_inside(&mut self, settings: &Settings, store_root: Option<&Path>, derivation: Option<&Path>) {
        let DiskUsage { bytes, is_whole } = DiskUsage::of(&self.path);
        (self.size, self.size_is_complete) = (bytes, is_whole);
        match open(&self.path, settings, store_root, derivation) {
            Ok(build) => {
                self.readable = !build.is_closed_to_caller();
                self.failed_phase =
                    FailedLog::of(&build).ok().flatten().and_then(|log| log.failed_phase().map(String::from));
                if let Some(derivation) = &build.derivation {
                    self.name = Some(String::from_utf8_lossy(derivation.name()).into_owned());
                    self.derivation = Some(derivation.path.clone());
                }
            }
            Err(error) => {
                self.readable = KeptBuild::open(&self.path)
                    .is_ok_and(|kept| !matches!(kept.env_vars, Err(NoEnvVars::Unreadable(_))));
                self.obstacle = Some(format!("{error:#}"));
            }
        }
    }
}

/// Opens a build only to tell of it: what it saw of the store has no say in that. `derivation` is its
/// derivation, if that is known.
///
/// # Errors
/// As of [`FailedBuild::open`].
pub fn open(
    path: &Path,
    settings: &Settings,
    store_root: Option<&Path>,
    derivation: Option<&Path>,
) -> anyhow::Result<FailedBuild> {
    let wishes = Wishes {
        derivation: derivation.map(Path::to_owned),
        store: Some(StoreExtent::Full),
        store_root: store_root.map(Path::to_owned),
        ..Wishes::default()
    };
    FailedBuild::open(path, &wishes, settings)
}
