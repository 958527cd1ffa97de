//! What has to be known to enter a session again.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::kept_identity::KeptIdentity;
use crate::additions::Additions;
use crate::failed_build::{FailedBuild, HostAccess, Kind, StoreExtent, StoreView, Wishes};
use crate::failed_log::FailureTimes;
use crate::failed_phase::FailedPhase;
use crate::kept_build::KeptBuild;
use crate::nix::SandboxPath;
use crate::nix::store::Store;
use crate::scratch::{PhasesRun, Scratch};

/// How a session's sandbox was made, and when. What was found out is in it as if it had been asked for, so that it is the same
/// sandbox again whatever becomes of the kept build directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The kept build directory, or the derivation where that was given in its place.
    #[serde(with = "crate::os_text")]
    pub build: PathBuf,
    /// The derivation; nothing where Nix did not know it.
    #[serde(with = "crate::os_text::optional")]
    pub derivation: Option<PathBuf>,
    /// When it was begun, in seconds since 1970.
    pub created: u64,
    /// The same, exactly, by the clock that the times of files go by: what is younger was changed in it.
    #[serde(default)]
    pub began: Option<SystemTime>,
    /// When a sandbox was last made for it, or ended.
    pub last_used: u64,
    /// Whether what was done in it is a layer over the kept directory, and no copy.
    #[serde(default)]
    pub is_overlay: bool,
    /// Whether its outputs are on the disk, and not only those that there were when it began.
    #[serde(default)]
    pub has_outputs: bool,
    pub(super) store: Store,
    store_extent: StoreExtent,
    network: bool,
    like: Kind,
    bind: Vec<SandboxPath>,
    bind_writable: Vec<SandboxPath>,
    /// What the kept directory is known by again; nothing where the build had left none.
    #[serde(default)]
    pub kept: Option<KeptIdentity>,
    /// The phase that failed; nothing where the build had left no directory.
    #[serde(default)]
    pub failed_phase: Option<FailedPhase>,
    /// When its outputs were as they had been copied, or as phases had made them: what is younger somebody has made by hand.
    #[serde(default)]
    pub outputs_made: Option<SystemTime>,
    /// The phases that were run in it, for its next shell.
    #[serde(default)]
    pub phases_run: Option<PhasesRun>,
    /// What was added to its last sandbox.
    pub additions: Additions,
}

impl Description {
    /// The description of `build`, which ended with `failed_phase`, and for which `scratch` was filled, to be kept from now on.
    pub fn of(build: &FailedBuild, failed_phase: Option<FailedPhase>, scratch: &Scratch) -> Self {
        let bound = |access| {
            let paths = build.host_paths.iter().filter(move |wanted| wanted.access == access);
            paths.map(|wanted| wanted.path.clone()).collect()
        };
        let now = now();
        Self {
            build: std::path::absolute(build.name()).unwrap_or_else(|_| build.name().to_owned()),
            derivation: build.derivation.as_ref().map(|derivation| derivation.path.clone()),
            created: now,
            began: Some(SystemTime::now()),
            last_used: now,
            is_overlay: scratch.is_overlay(),
            has_outputs: scratch.directories().has_outputs,
            store: build.store.clone(),
            store_extent: match build.store_view {
                StoreView::Whole => StoreExtent::Full,
                StoreView::Closure { .. } => StoreExtent::Closure,
            },
            network: build.has_network,
            like: build.kind,
            bind: bound(HostAccess::ReadOnly),
            bind_writable: bound(HostAccess::Writable),
            kept: build.kept.as_ref().and_then(KeptIdentity::of),
            failed_phase,
            outputs_made: Some(SystemTime::now()),
            phases_run: None,
            additions: build.additions.clone(),
        }
    }

    /// Whether the session began with what a failed build had left, and not with a derivation alone.
    pub(super) fn is_of_failed_build(&self) -> bool {
        // A directory may be called like a derivation.
        self.failed_phase.is_some() || self.build.extension() != Some("drv".as_ref())
    }

    /// Takes over what the last shell of the session has noted, in its directory.
    pub(super) fn take_notes(&mut self, directory: &Scratch) {
        if let (Some(phase), Some(note)) = (&mut self.failed_phase, directory.phase_of_session()) {
            let mut noted = phase.clone();
            noted.take_note(&note);
            // In a session that was not to be kept, and was killed, what phases have made since has gone with the sandbox.
            if noted.outputs.is_empty() || directory.outputs().exists() {
                *phase = noted;
            }
        }
        self.phases_run = directory.phases_run_in_session().or_else(|| self.phases_run.take());
        self.outputs_made = directory.outputs_made_in_session().or(self.outputs_made);
    }

    /// What to open the session's copy of the build directory with.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            derivation: self.derivation.clone(),
            store: Some(self.store_extent),
            store_root: None,
            known_store: Some(self.store.clone()),
            network: Some(self.network),
            like: Some(self.like),
            bind: self.bind.clone(),
            bind_writable: self.bind_writable.clone(),
        }
    }

    /// The kept directory that it was made of, as it was then; nothing where it began with a derivation.
    ///
    /// # Errors
    /// Where it has gone, or is another one by now, or was changed.
    pub fn kept_directory(&self) -> Result<Option<KeptBuild>> {
        let Some(phase) = self.failed_phase.as_ref().filter(|phase| phase.times != FailureTimes::default()) else {
            return Ok(None);
        };
        let build = self.build.display();
        if !self.build.try_exists().unwrap_or(true) {
            bail!("{build}, which it was made of, is gone");
        }
        let kept = KeptBuild::open(&self.build).context("what it was made of cannot be opened")?;
        let is_the_same = match &self.kept {
            Some(identity) => KeptIdentity::of(&kept).as_ref() == Some(identity),
            None => FailureTimes::of(&kept) == phase.times,
        };
        if !is_the_same {
            bail!("{build}, which it was made of, is not as it was when the session began");
        }
        Ok(Some(kept))
    }

    /// When it was begun, as exactly as it is known.
    pub(super) fn began(&self) -> SystemTime {
        self.began.unwrap_or(UNIX_EPOCH + Duration::from_secs(self.created))
    }

    /// The name of the derivation, without the hash; nothing where Nix did not know it.
    pub(super) fn derivation_name(&self) -> Option<String> {
        self.derivation.as_ref().map(|_| self.title())
    }

    /// What the list shows of it: the derivation's name without the hash, or what was given.
    pub fn title(&self) -> String {
        let shown = self.derivation.as_deref().unwrap_or(&self.build);
        let name = shown.file_name().unwrap_or(shown.as_os_str()).to_string_lossy();
        match (&self.derivation, name.split_once('-')) {
            (Some(_), Some((_, rest))) => rest.trim_end_matches(".drv").to_owned(),
            _ => name.into_owned(),
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
