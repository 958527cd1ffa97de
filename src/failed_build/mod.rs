//! A failed build: what it left, what Nix knows of it, and what its sandbox therefore looks like.

mod entry;
mod find_derivation;
mod host_paths;
mod kind;
mod likely_derivations;
mod store_view;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use self::entry::{entry, shell_in};
use self::find_derivation::derivation_of;
use self::host_paths::host_paths;
use self::kind::kind_of;
use self::store_view::store_view;
use crate::additions::Additions;
use crate::build_shell::BuildShell;
use crate::kept_build::{KeptBuild, NoEnvVars};
use crate::nix::derivation::Derivation;
use crate::nix::store::Store;
use crate::nix::{SandboxPath, Settings};

pub use self::entry::{EntryEnvironment, Preparation};
pub use self::host_paths::{HostAccess, HostPath};
pub use self::kind::Kind;
pub use self::store_view::StoreView;

/// What the caller knows better than what can be found out.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The derivation.
    pub derivation: Option<PathBuf>,
    /// Which part of the store is shown.
    pub store: Option<StoreExtent>,
    /// The root of a chroot store.
    pub store_root: Option<PathBuf>,
    /// The store itself, where that is known already.
    pub known_store: Option<Store>,
    /// Whether the build has the host's network.
    pub network: Option<bool>,
    /// Whose sandbox it is like.
    pub like: Option<Kind>,
    /// Host paths in the sandbox besides Nix's own.
    pub bind: Vec<SandboxPath>,
    /// The same, writable.
    pub bind_writable: Vec<SandboxPath>,
}

/// How much of the store the sandbox has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum StoreExtent {
    /// What the build could see
    Closure,
    /// All of it, read-only
    Full,
}

/// A failed build.
#[derive(Debug)]
pub struct FailedBuild {
    /// What it left; nothing where only the derivation was given.
    pub kept: Option<KeptBuild>,
    /// How it was made; nothing where Nix does not know.
    pub derivation: Option<Derivation>,
    /// Where it finds itself in the sandbox: `/build`, unless `sandbox-build-dir` says otherwise.
    pub build_directory: PathBuf,
    /// Where its store is.
    pub store: Store,
    /// What of the store it saw.
    pub store_view: StoreView,
    /// What runs the command.
    pub shell: BuildShell,
    /// What the command finds in its environment.
    pub environment: EntryEnvironment,
    /// Whose Nix made it.
    pub kind: Kind,
    /// Whether it has the host's network: fixed-output derivations do.
    pub has_network: bool,
    /// Store paths that the sandbox has besides.
    pub additions: Additions,
    /// Host paths in the sandbox, one a target, in the order of the targets.
    pub host_paths: Vec<HostPath>,
    /// What the user should know about how all this was found out: a line each.
    pub notes: Vec<String>,
}

impl FailedBuild {
    /// Finds out all there is to know of the build that left `path`, a kept build directory or a derivation.
    ///
    /// # Errors
    /// Where there is no build to enter: one sentence with its remedy.
    pub fn open(path: &Path, wishes: &Wishes, settings: &Settings) -> Result<Self> {
        let store = match &wishes.known_store {
            Some(store) => store.clone(),
            None => Store::chosen(wishes.store_root.as_deref())?,
        };
        let mut notes: Vec<_> = settings.assumption.clone().into_iter().collect();
        let is_derivation = path.extension() == Some("drv".as_ref()) && !path.is_dir();
        if is_derivation && wishes.derivation.is_some() {
            bail!("{} is a derivation itself, so --derivation has nothing to add", path.display());
        }
        let kept = if is_derivation { None } else { Some(KeptBuild::open(path)?) };
        let given = if is_derivation { Some(path) } else { wishes.derivation.as_deref() };

        let mut records = store.open();
        let derivation = derivation_of(kept.as_ref(), given, wishes.store, &store, &mut records, &mut notes)?;
        let kind = wishes.like.unwrap_or_else(|| kind_of(kept.as_ref(), settings, &store));
        let (own_shell, environment) = entry(kept.as_ref(), derivation.as_ref(), kind, &store, settings, &mut notes)?;
        let has_network = wishes.network.unwrap_or_else(|| {
            derivation.as_ref().is_some_and(|derivation| derivation.is_fixed_output() || derivation.is_impure())
        });
        let host_paths = host_paths(settings, wishes, derivation.as_ref(), has_network)?;
        let store_view = store_view(
            derivation.as_ref(),
            kept.is_some(),
            wishes.store,
            &host_paths,
            &store,
            &mut records,
            &mut notes,
        )?;
        let shell = shell_in(&store_view, own_shell, derivation.as_ref(), &store)?;
        Ok(Self {
            kept,
            derivation,
            build_directory: settings.sandbox_build_dir.clone(),
            store,
            store_view,
            shell,
            environment,
            kind,
            has_network,
            additions: Additions::default(),
            host_paths,
            notes,
        })
    }

    /// A build of which there is nothing but the sandbox that Nix would make for it: to try one. Its shell is no program.
    ///
    /// # Errors
    /// Where there is no store, or the settings name host paths that cannot be shown.
    pub(crate) fn of_nothing(settings: &Settings) -> Result<Self> {
        let store = Store::from_environment()?;
        Ok(Self {
            kept: None,
            derivation: None,
            build_directory: settings.sandbox_build_dir.clone(),
            store_view: StoreView::Closure { inputs: Vec::new(), partial_outputs: Vec::new() },
            shell: BuildShell { path: "/bin/sh".into(), applet: None, file: "/dev/null".into() },
            environment: EntryEnvironment {
                preparation: Preparation::Nothing,
                variables: Vec::new(),
                files: Vec::new(),
                builder_arguments: Vec::new(),
            },
            kind: kind_of(None, settings, &store),
            has_network: false,
            additions: Additions::default(),
            host_paths: host_paths(settings, &Wishes::default(), None, false)?,
            notes: Vec::new(),
            store,
        })
    }

    /// The kept build directory's path, or the derivation's where that is all there is.
    pub fn name(&self) -> &Path {
        match (&self.kept, &self.derivation) {
            (Some(kept), _) => &kept.directory,
            (None, Some(derivation)) => &derivation.path,
            (None, None) => Path::new("/"),
        }
    }

    /// Whether something of its outputs was left, which is copied into the sandbox's store.
    pub fn has_partial_outputs(&self) -> bool {
        matches!(&self.store_view, StoreView::Closure { partial_outputs, .. } if !partial_outputs.is_empty())
    }

    /// Whether there is what it has left, and not an empty directory in which it can begin.
    pub fn has_failed(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_of_failed_build)
    }

    /// Whether the caller may not read what tells of the build, because it is a build user's.
    pub fn is_closed_to_caller(&self) -> bool {
        let env_vars = self.kept.as_ref().map(|kept| &kept.env_vars);
        matches!(env_vars, Some(Err(NoEnvVars::Unreadable(_))))
    }
}
