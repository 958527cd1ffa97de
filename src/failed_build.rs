//! A failed build: what it left, what Nix knows of it, and what its sandbox therefore looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::fstat;
use serde_json::Map;

use crate::build_shell::BuildShell;
use crate::kept_build::{KeptBuild, NoEnvVars};
use crate::nix::builder_environment::{BuildFile, BuilderEnvironment, BuilderSettings};
use crate::nix::derivation::Derivation;
use crate::nix::sandbox_paths::{impure_host_deps, store_sources};
use crate::nix::store::Store;
use crate::nix::store_records::{InvalidPaths, StoreRecords};
use crate::nix::{SandboxPath, Settings};
use crate::owner::is_build_user;

/// What the caller knows better than what can be found out.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The derivation.
    pub derivation: Option<PathBuf>,
    /// Which part of the store is shown.
    pub store: Option<StoreExtent>,
    /// The root of a chroot store.
    pub store_root: Option<PathBuf>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreExtent {
    /// What the build could see
    Closure,
    /// All of it, read-only
    Full,
}

/// The two kinds of Nix, whose sandboxes differ in what belongs to the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Builds run as users of their own: what Nix has made for them is not theirs to write
    MultiUser,
    /// Builds run as the owner of the store
    SingleUser,
}

/// The store as the sandbox shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreView {
    /// All of it, read-only.
    Whole,
    /// A writable directory with these store paths, each read-only.
    Closure {
        /// The names of the store paths, sorted.
        inputs: Vec<CString>,
        /// The names of the outputs that the failed build left unfinished, of which the sandbox has writable copies.
        partial_outputs: Vec<CString>,
    },
}

/// How the command gets its environment.
#[derive(Clone, Debug)]
pub struct EntryEnvironment {
    /// What the shell reads before it executes the command.
    pub preparation: Preparation,
    /// The shell's environment.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
    /// Files that Nix writes into the build directory, unless they are there.
    pub files: Vec<BuildFile>,
}

/// What the shell reads before it executes the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// The dump of the build's variables.
    EnvVars,
    /// stdenv, as at the start of the build.
    Stdenv,
    /// Nothing: what the builder got is all.
    Nothing,
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
    /// Host paths in the sandbox.
    pub sandbox_paths: Vec<(SandboxPath, bool)>,
    /// What the user should know about how all this was found out: a line each.
    pub notes: Vec<String>,
}

impl FailedBuild {
    /// Finds out all there is to know of the build that left `path`, a kept build directory or a derivation.
    ///
    /// # Errors
    /// Where there is no build to enter: one sentence with its remedy.
    pub fn open(path: &Path, wishes: &Wishes, settings: &Settings) -> Result<Self> {
        let store = match &wishes.store_root {
            Some(root) => Store::in_root(root)?,
            None => Store::from_environment()?,
        };
        let mut notes: Vec<_> = settings.assumption.clone().into_iter().collect();
        let is_derivation = path.extension() == Some("drv".as_ref()) && !path.is_dir();
        let kept = if is_derivation { None } else { Some(KeptBuild::open(path)?) };
        let given = if is_derivation { Some(path) } else { wishes.derivation.as_deref() };

        let mut records = store.open();
        let mut derivation = None;
        match find_derivation(kept.as_ref(), given, &store, &mut records, &mut notes) {
            Ok(path) => derivation = Some(Derivation::read(&store.physical(&path))?),
            Err(error) if given.is_some() => return Err(error),
            Err(_)
                if wishes.store == Some(StoreExtent::Full)
                    && kept.as_ref().is_some_and(|kept| kept.env_vars.is_ok()) => {}
            Err(error) => {
                if let Some(Err(no_env_vars)) = kept.as_ref().map(|kept| &kept.env_vars) {
                    bail!("{}; and {error:#}; --derivation DRV names it", no_env_vars.reason());
                }
                notes.push(format!(
                    "{error:#}: the sandbox has the whole store, read-only; --derivation DRV names the derivation"
                ));
            }
        }

        let (shell, environment) = entry(kept.as_ref(), derivation.as_ref(), &store, settings)?;
        let has_network = wishes.network.unwrap_or_else(|| {
            derivation.as_ref().is_some_and(|derivation| derivation.is_fixed_output() || derivation.is_impure())
        });
        let sandbox_paths = sandbox_paths(settings, wishes, derivation.as_ref(), has_network)?;
        let extent = wishes.store.unwrap_or(StoreExtent::Closure);
        let store_view = match (&derivation, extent, &mut records) {
            (Some(derivation), StoreExtent::Closure, Ok(records)) => {
                view_of_closure(derivation, kept.is_some(), &sandbox_paths, &store, records)?
            }
            (None, StoreExtent::Closure, _) if wishes.store.is_some() => {
                bail!("without its derivation the closure of a build is not known; --derivation DRV names it")
            }
            (_, _, Err(error)) if extent == StoreExtent::Closure => {
                notes.push(format!("{error:#}: the sandbox has the whole store, read-only"));
                StoreView::Whole
            }
            _ => StoreView::Whole,
        };
        if let (Some(derivation), StoreView::Closure { inputs, .. }) = (&derivation, &store_view) {
            check_shell(&shell, inputs, derivation, &store)?;
        }
        let kind = wishes.like.unwrap_or_else(|| kind_of(kept.as_ref(), settings, &store));
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
            sandbox_paths,
            notes,
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

    /// Whether the caller may not read what tells of the build, because it is a build user's.
    pub fn is_closed_to_caller(&self) -> bool {
        let env_vars = self.kept.as_ref().map(|kept| &kept.env_vars);
        matches!(env_vars, Some(Err(NoEnvVars::Unreadable(_))))
    }
}

/// The derivation's path, as the store has it.
fn find_derivation(
    kept: Option<&KeptBuild>,
    given: Option<&Path>,
    store: &Store,
    records: &mut Result<StoreRecords>,
    notes: &mut Vec<String>,
) -> Result<PathBuf> {
    if let Some(given) = given {
        if store.is_store_path(given) {
            return Ok(given.to_owned());
        }
        let found = given.canonicalize().with_context(|| format!("there is no derivation {}", given.display()))?;
        let physical = store.physical_directory();
        let physical = physical.canonicalize().unwrap_or(physical.to_owned());
        let Ok(below) = found.strip_prefix(&physical) else {
            bail!("{} is not in the store {}", given.display(), physical.display());
        };
        return Ok(store.directory().join(below));
    }
    let records = records.as_mut().map_err(|error| anyhow!("{error:#}"))?;
    let kept = kept.context("there is no build directory to go by")?;
    for output in kept.outputs() {
        if !store.is_store_path(&output) {
            continue;
        }
        if let Some(newest) = records.derivers_of_output(&output)?.into_iter().next() {
            return Ok(newest);
        }
    }
    if let Some(name) = kept.derivation_name() {
        let mut found = records.derivations_named(&name)?.into_iter();
        if let Some(newest) = found.next() {
            if found.next().is_some() {
                notes.push(format!(
                    "several derivations are called {name}, and this is taken for the newest, {}; --derivation DRV names another",
                    newest.display()
                ));
            }
            return Ok(newest);
        }
    }
    bail!("the store has no derivation (any more) that makes what was built in {}", kept.directory.display())
}

/// The shell, and the environment that it gives to the command.
fn entry(
    kept: Option<&KeptBuild>,
    derivation: Option<&Derivation>,
    store: &Store,
    settings: &Settings,
) -> Result<(BuildShell, EntryEnvironment)> {
    if let Some(kept) = kept
        && kept.env_vars.is_ok()
    {
        let file = kept.env_vars_file();
        let shell = kept.variable("SHELL").with_context(|| {
            format!(
                "{} declares no SHELL, so there is no shell to run: it is not the whole file that stdenv writes",
                file.display()
            )
        })?;
        let shell = BuildShell::named(Path::new(OsStr::from_bytes(shell)), &file, store)?;
        let environment = EntryEnvironment {
            preparation: Preparation::EnvVars,
            variables: initial_variables(store, &settings.sandbox_build_dir),
            files: Vec::new(),
        };
        return Ok((shell, environment));
    }
    let derivation = derivation.context("there is neither an env-vars nor a derivation")?;
    let Some(shell) = BuildShell::builder_of(derivation, store)? else {
        bail!(
            "the builder of {} is {}, which is no shell to run a command in",
            derivation.path.display(),
            derivation.builder.escape_ascii()
        );
    };
    let built = BuilderEnvironment::of(
        derivation,
        &BuilderSettings {
            store: store.directory(),
            build_directory: &settings.sandbox_build_dir,
            attributes_directory: &settings.sandbox_build_dir,
            cores: settings.cores as usize,
            references_graphs: Map::new(),
            variable_of_nix: &|name| env::var_os(OsStr::from_bytes(name)).map(OsStringExt::into_vec),
        },
    )?;
    let preparation = if derivation.stdenv().is_some() { Preparation::Stdenv } else { Preparation::Nothing };
    Ok((shell, EntryEnvironment { preparation, variables: built.variables, files: built.files }))
}

/// A derivation that the caller has named may be that of another build.
fn check_shell(shell: &BuildShell, inputs: &[CString], derivation: &Derivation, store: &Store) -> Result<()> {
    let below_store = shell.path.strip_prefix(store.directory()).unwrap_or(&shell.path);
    let name = below_store.iter().next().unwrap_or_default().as_bytes();
    if inputs.binary_search_by(|input| input.to_bytes().cmp(name)).is_err() {
        bail!(
            "the build's shell {} is not among the inputs of {}, which is the derivation of another build; --derivation DRV names \
             the right one, and with --store=full it does not matter",
            shell.path.display(),
            derivation.path.display()
        );
    }
    Ok(())
}

/// What Nix gives every builder, before the derivation's own variables: what a shell starts with that reads these from `env-vars`.
fn initial_variables(store: &Store, build_directory: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (store, top) = (store.directory().as_os_str().as_bytes(), build_directory.as_os_str().as_bytes());
    let of_all: [(&str, &[u8]); 11] = [
        ("PATH", b"/path-not-set"),
        ("HOME", b"/homeless-shelter"),
        ("NIX_STORE", store),
        ("NIX_BUILD_TOP", top),
        ("TMPDIR", top),
        ("TEMPDIR", top),
        ("TMP", top),
        ("TEMP", top),
        ("PWD", top),
        ("NIX_LOG_FD", b"2"),
        ("TERM", b"xterm-256color"),
    ];
    of_all.map(|(name, value)| (name.into(), value.into())).into()
}

/// Nix's own sandbox paths, then the caller's, each with whether it can be written to.
fn sandbox_paths(
    settings: &Settings,
    wishes: &Wishes,
    derivation: Option<&Derivation>,
    has_network: bool,
) -> Result<Vec<(SandboxPath, bool)>> {
    let requested = derivation.and_then(|derivation| derivation.variable("__impureHostDeps")).unwrap_or_default();
    let requested = String::from_utf8_lossy(requested);
    let of_derivation = impure_host_deps(requested.split_ascii_whitespace(), &settings.allowed_impure_host_deps)?;
    let of_nix = settings.sandbox_paths.iter().cloned().chain(of_derivation).map(|path| (path, true));
    let of_caller = wishes.bind.iter().cloned().map(|path| (path, false));
    let writable = wishes.bind_writable.iter().cloned().map(|path| (path, true));
    // As for Nix, the last of equal targets counts.
    let mut by_target = BTreeMap::new();
    let certificates = has_network.then(certificates).flatten().map(|path| (path, false));
    for (path, is_writable) in certificates.into_iter().chain(of_nix).chain(of_caller).chain(writable) {
        by_target.insert(path.target.clone(), (path, is_writable));
    }
    Ok(by_target.into_values().collect())
}

/// What a fixed-output derivation checks servers with: Nix's setting `ssl-cert-file`, whose default this is.
fn certificates() -> Option<SandboxPath> {
    const TARGET: &str = "/etc/ssl/certs/ca-certificates.crt";
    let named = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"].into_iter().find_map(env::var_os);
    let file = named.map_or(TARGET.into(), PathBuf::from).canonicalize().ok()?;
    SandboxPath::new(Path::new(TARGET), &file, true).ok()
}

/// The closure of the derivation's inputs and of the sandbox paths that are in the store, and the partial outputs. Where the sandbox is
/// as at the start of the build, `has_begun` being false, there is no output yet.
fn view_of_closure(
    derivation: &Derivation,
    has_begun: bool,
    sandbox_paths: &[(SandboxPath, bool)],
    store: &Store,
    records: &mut StoreRecords,
) -> Result<StoreView> {
    let missing = |error: anyhow::Error| match error.downcast_ref::<InvalidPaths>() {
        Some(paths) => anyhow!("of the build's inputs, {paths}; --store=full goes on without"),
        None => error,
    };
    let sources: Vec<_> = derivation.input_sources.iter().collect();
    let inputs: Vec<(&PathBuf, Vec<String>)> = derivation
        .input_derivations
        .iter()
        .map(|(path, wanted)| {
            let names = wanted.names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            (path, names.collect())
        })
        .collect();
    let mut paths: BTreeSet<PathBuf> = records.input_closure(&sources, &inputs).map_err(missing)?.into_iter().collect();
    for source in store_sources(sandbox_paths.iter().map(|(path, _)| path), store.directory()) {
        // As Nix does: what is not valid has no closure.
        if records.is_valid(&source)? {
            paths.extend(records.closure(&[source])?);
        }
    }
    let name_of = |path: &Path| CString::new(path.file_name().unwrap_or_default().as_bytes());
    let mut partial_outputs = Vec::new();
    for (_, output) in derivation.output_paths() {
        paths.remove(output);
        if has_begun
            && store.is_store_path(output)
            && store.physical(output).symlink_metadata().is_ok()
            && !records.is_valid(output)?
        {
            partial_outputs.push(name_of(output)?);
        }
    }
    let inputs = paths.iter().map(|path| name_of(path)).collect::<Result<_, _>>()?;
    Ok(StoreView::Closure { inputs, partial_outputs })
}

/// What the owner of the kept directory tells; without one, whether this machine's Nix builds as other users.
fn kind_of(kept: Option<&KeptBuild>, settings: &Settings, store: &Store) -> Kind {
    let is_multi_user = match kept.map(|kept| fstat(&kept.handle)) {
        Some(Ok(status)) => is_build_user(status.st_uid, &settings.build_users_group),
        _ => store.state_directory().join("daemon-socket/socket").exists(),
    };
    if is_multi_user { Kind::MultiUser } else { Kind::SingleUser }
}
