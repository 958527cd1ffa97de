//! A failed build: what it left, what Nix knows of it, and what its sandbox therefore looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat, fstat};
use serde_json::Map;

use crate::additions::Additions;
use crate::build_shell::BuildShell;
use crate::kept_build::{KeptBuild, NoEnvVars};
use crate::nix::builder_environment::{BuildFile, BuilderEnvironment, BuilderSettings};
use crate::nix::derivation::Derivation;
use crate::nix::sandbox_paths::{impure_host_deps, store_sources};
use crate::nix::store::Store;
use crate::nix::store_records::{InvalidPaths, StoreRecords};
use crate::nix::{SandboxPath, Settings};
use crate::owner::is_build_user;

/// Where Nix shows the certificates of `ssl-cert-file` to a build that has the network.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

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

/// A path of the host in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// Where it is, here and there.
    pub path: SandboxPath,
    /// Whether it can be written to.
    pub access: HostAccess,
}

/// Whether a build can write to a path of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAccess {
    /// As Nix lets it: where the builder owns it.
    AsWithNix,
    /// It cannot.
    ReadOnly,
    /// As the caller can.
    Writable,
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

impl StoreView {
    /// Whether a build finds `path`, a path in the store, among what was there before it.
    fn shows(&self, path: &Path) -> bool {
        match self {
            Self::Whole => true,
            Self::Closure { inputs, .. } => {
                let names = || path.iter().map(OsStr::as_bytes);
                names().any(|name| inputs.binary_search_by(|input| input.to_bytes().cmp(name)).is_ok())
            }
        }
    }
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
    /// What the builder is given, without its own name in front; known only where the environment is the builder's.
    pub builder_arguments: Vec<Vec<u8>>,
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
        let store = match &wishes.store_root {
            Some(root) => Store::in_root(root)?,
            None => Store::from_environment()?,
        };
        let mut notes: Vec<_> = settings.assumption.clone().into_iter().collect();
        let is_derivation = path.extension() == Some("drv".as_ref()) && !path.is_dir();
        if is_derivation && wishes.derivation.is_some() {
            bail!("{} is a derivation itself, so --derivation has nothing to add", path.display());
        }
        let kept = if is_derivation { None } else { Some(KeptBuild::open(path)?) };
        let given = if is_derivation { Some(path) } else { wishes.derivation.as_deref() };

        let mut records = store.open();
        let derivation = match find_derivation(kept.as_ref(), given, &store, &mut records, &mut notes) {
            Ok(path) => Some(Derivation::read(&store.physical(&path))?),
            Err(error) if given.is_some() => return Err(error),
            Err(_)
                if wishes.store == Some(StoreExtent::Full)
                    && kept.as_ref().is_some_and(|kept| kept.env_vars.is_ok()) =>
            {
                None
            }
            Err(error) => {
                if let Some(Err(no_env_vars)) = kept.as_ref().map(|kept| &kept.env_vars) {
                    bail!("{}; and {error:#}; --derivation DRV names it", no_env_vars.reason());
                }
                if wishes.store == Some(StoreExtent::Closure) {
                    bail!("without its derivation the closure of a build is not known; --derivation DRV names it");
                }
                notes.push(format!(
                    "{error:#}: the sandbox has the whole store, read-only; --derivation DRV names the derivation"
                ));
                None
            }
        };

        let kind = wishes.like.unwrap_or_else(|| kind_of(kept.as_ref(), settings, &store));
        let (own_shell, environment) = entry(kept.as_ref(), derivation.as_ref(), kind, &store, settings)?;
        let has_network = wishes.network.unwrap_or_else(|| {
            derivation.as_ref().is_some_and(|derivation| derivation.is_fixed_output() || derivation.is_impure())
        });
        let host_paths = host_paths(settings, wishes, derivation.as_ref(), has_network)?;
        let shows_store = host_paths.iter().any(|wanted| wanted.path.target == store.directory());
        let store_view = match (&derivation, &mut records) {
            _ if wishes.store == Some(StoreExtent::Full) || shows_store => StoreView::Whole,
            (None, _) => StoreView::Whole,
            (Some(derivation), Ok(records)) => {
                let (inputs, mut outputs) = (
                    inputs_of(derivation, &host_paths, &store, records)?,
                    if kept.is_some() { begun_outputs(derivation, &store, records)? } else { Vec::new() },
                );
                outputs.retain(|output| {
                    let can_be_read = can_be_read(&store.physical(output));
                    if !can_be_read {
                        notes.push(format!(
                            "you may not read what the build left of {}; with sudo it would be there",
                            output.display()
                        ));
                    }
                    can_be_read
                });
                StoreView::Closure { inputs: names_of(&inputs)?, partial_outputs: names_of(&outputs)? }
            }
            (Some(_), Err(error)) if wishes.store.is_some() => bail!("{error:#}, and so the closure is not known"),
            (Some(_), Err(error)) => {
                notes.push(format!("{error:#}: the sandbox has the whole store, read-only"));
                StoreView::Whole
            }
        };
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
    let name = kept.derivation_name();
    // What the build says of itself must not contradict what Nix has called its directory: another derivation may have the network.
    let has_name = |path: &Path| match (&name, path.file_name()) {
        (Some(name), Some(file)) => file.as_bytes().get(32..) == Some(format!("-{name}.drv").as_bytes()),
        _ => true,
    };
    for output in kept.outputs().iter().filter(|output| store.is_store_path(output)) {
        if let Some(newest) = records.derivers_of_output(output)?.into_iter().find(|path| has_name(path)) {
            return Ok(newest);
        }
    }
    if let Some(name) = name {
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

/// The shell of the build, if it is a shell's, and the environment that it gives to the command.
fn entry(
    kept: Option<&KeptBuild>,
    derivation: Option<&Derivation>,
    kind: Kind,
    store: &Store,
    settings: &Settings,
) -> Result<(Option<BuildShell>, EntryEnvironment)> {
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
            builder_arguments: Vec::new(),
        };
        return Ok((Some(shell), environment));
    }
    let derivation = derivation.context("there is neither an env-vars nor a derivation")?;
    let built = BuilderEnvironment::of(
        derivation,
        &BuilderSettings {
            store: store.directory(),
            build_directory: &settings.sandbox_build_dir,
            attributes_directory: &settings.sandbox_build_dir,
            cores: settings.cores as usize,
            references_graphs: Map::new(),
            variable_of_nix: &|name| variable_of_nix(kind, name),
        },
    )?;
    let preparation = if derivation.stdenv().is_some() { Preparation::Stdenv } else { Preparation::Nothing };
    let builder_arguments = built.arguments.into_iter().skip(1).collect();
    let environment =
        EntryEnvironment { preparation, variables: built.variables, files: built.files, builder_arguments };
    Ok((BuildShell::builder_of(derivation, store)?, environment))
}

/// What runs the command in a build that sees this of its store: its own shell, or where its builder is none, one among its inputs.
fn shell_in(
    view: &StoreView,
    own: Option<BuildShell>,
    derivation: Option<&Derivation>,
    store: &Store,
) -> Result<BuildShell> {
    match (own, derivation, view) {
        (Some(shell), Some(derivation), view) if !view.shows(&shell.path) => bail!(
            "the build's shell {} is not among the inputs of {}, which is the derivation of another build; --derivation DRV names the \
             right one, and with --store=full it does not matter",
            shell.path.display(),
            derivation.path.display()
        ),
        (Some(shell), _, _) => Ok(shell),
        (None, Some(derivation), view) => {
            let among_inputs = match view {
                StoreView::Closure { inputs, .. } => BuildShell::among(inputs, store),
                StoreView::Whole => None,
            };
            among_inputs.with_context(|| {
                format!(
                    "the builder of {} is {}, which is no shell to run a command in, and none of its inputs is seen to have one",
                    derivation.path.display(),
                    derivation.builder.escape_ascii()
                )
            })
        }
        (None, None, _) => bail!("there is neither an env-vars nor a derivation"),
    }
}

/// A variable as Nix itself had it. Where a daemon built that was the daemon's, and of the caller's, in which there may be secrets, a
/// build gets no more than the way to the network.
fn variable_of_nix(kind: Kind, name: &[u8]) -> Option<Vec<u8>> {
    let is_proxy = name.to_ascii_lowercase().ends_with(b"_proxy");
    let is_known = kind == Kind::SingleUser || is_proxy;
    env::var_os(OsStr::from_bytes(name)).filter(|_| is_known).map(OsStringExt::into_vec)
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

/// Nix's own sandbox paths, then the caller's.
fn host_paths(
    settings: &Settings,
    wishes: &Wishes,
    derivation: Option<&Derivation>,
    has_network: bool,
) -> Result<Vec<HostPath>> {
    let requested = derivation.and_then(|derivation| derivation.variable("__impureHostDeps")).unwrap_or_default();
    let requested = String::from_utf8_lossy(requested);
    let of_derivation = impure_host_deps(requested.split_ascii_whitespace(), &settings.allowed_impure_host_deps)?;
    let certificates = settings.ssl_cert_file.iter().filter(|_| has_network).map(|file| SandboxPath {
        target: CERTIFICATES.into(),
        // A link would lead to nothing.
        source: file.canonicalize().unwrap_or(file.clone()),
        optional: true,
    });
    let of_nix = certificates.chain(settings.sandbox_paths.iter().cloned()).chain(of_derivation);
    let all = [
        (of_nix.collect::<Vec<_>>(), HostAccess::AsWithNix),
        (wishes.bind.clone(), HostAccess::ReadOnly),
        (wishes.bind_writable.clone(), HostAccess::Writable),
    ];
    // As for Nix, the last of equal targets counts.
    let mut by_target = BTreeMap::new();
    for (paths, access) in all {
        by_target.extend(paths.into_iter().map(|path| (path.target.clone(), HostPath { path, access })));
    }
    Ok(by_target.into_values().collect())
}

/// The closure of the derivation's inputs and of the sandbox paths that are in the store: what a build sees there.
fn inputs_of(
    derivation: &Derivation,
    host_paths: &[HostPath],
    store: &Store,
    records: &mut StoreRecords,
) -> Result<BTreeSet<PathBuf>> {
    let missing = |error: anyhow::Error| match error.downcast_ref::<InvalidPaths>() {
        Some(paths) => anyhow!("of the build's inputs, {paths}; --store=full goes on without"),
        None => error.context("the closure of the build's inputs is not known (--store=full goes on without)"),
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
    for source in store_sources(host_paths.iter().map(|wanted| &wanted.path), store.directory()) {
        // As Nix does: what is not valid has no closure.
        if records.is_valid(&source)? {
            paths.extend(records.closure(&[source])?);
        }
    }
    for (_, output) in derivation.output_paths() {
        paths.remove(output);
    }
    Ok(paths)
}

/// What the failed build left of its outputs.
fn begun_outputs(derivation: &Derivation, store: &Store, records: &mut StoreRecords) -> Result<Vec<PathBuf>> {
    let mut begun = Vec::new();
    for (_, output) in derivation.output_paths().filter(|(_, output)| store.is_store_path(output)) {
        if store.physical(output).symlink_metadata().is_ok() && !records.is_valid(output)? {
            begun.push(output.to_owned());
        }
    }
    Ok(begun)
}

/// The names of store paths, in their order.
fn names_of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Vec<CString>> {
    let name_of = |path: &PathBuf| CString::new(path.file_name().unwrap_or_default().as_bytes());
    Ok(paths.into_iter().map(name_of).collect::<Result<_, _>>()?)
}

/// Whether we may read a file, or list and enter a directory.
fn can_be_read(path: &Path) -> bool {
    let wanted = if path.is_dir() { Access::READ_OK | Access::EXEC_OK } else { Access::READ_OK };
    path.is_symlink() || accessat(CWD, path, wanted, AtFlags::EACCESS).is_ok()
}

/// What the owner of the kept directory tells; without one, whether this machine's Nix builds as other users.
fn kind_of(kept: Option<&KeptBuild>, settings: &Settings, store: &Store) -> Kind {
    let is_multi_user = match kept.map(|kept| fstat(&kept.handle)) {
        Some(Ok(status)) => is_build_user(status.st_uid, &settings.build_users_group),
        _ => store.state_directory().join("daemon-socket/socket").exists(),
    };
    if is_multi_user { Kind::MultiUser } else { Kind::SingleUser }
}
