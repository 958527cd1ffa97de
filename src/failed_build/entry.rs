//! What a command meets when it enters: the shell that runs it, and its environment.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Kind, StoreView};
use crate::build_shell::BuildShell;
use crate::kept_build::KeptBuild;
use crate::nix::Settings;
use crate::nix::base_variables::BaseVariables;
use crate::nix::builder_environment::{BuildFile, BuilderEnvironment, BuilderSettings};
use crate::nix::derivation::Derivation;
use crate::nix::references_graph::ReferencesGraphs;
use crate::nix::store::Store;

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

/// The shell of the build, if it is a shell's, and the environment that it gives to the command.
pub(super) fn entry(
    kept: Option<&KeptBuild>,
    derivation: Option<&Derivation>,
    kind: Kind,
    store: &Store,
    settings: &Settings,
    notes: &mut Vec<String>,
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
            variables: BaseVariables::of(store.directory(), &settings.sandbox_build_dir).all(),
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
            references_graphs: ReferencesGraphs::requested_by(derivation, store).unwrap_or_else(|error| {
                notes.push(format!("{error:#}: the sandbox goes without"));
                ReferencesGraphs::default()
            }),
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
pub(super) fn shell_in(
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
