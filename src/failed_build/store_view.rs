//! What a build sees of the store.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{HostPath, StoreExtent};
use crate::nix::derivation::Derivation;
use crate::nix::sandbox_paths::store_sources;
use crate::nix::store::Store;
use crate::nix::store_records::{InvalidPaths, StoreRecords};

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
    pub(super) fn shows(&self, path: &Path) -> bool {
        match self {
            Self::Whole => true,
            Self::Closure { inputs, .. } => {
                let names = || path.iter().map(OsStr::as_bytes);
                names().any(|name| inputs.binary_search_by(|input| input.to_bytes().cmp(name)).is_ok())
            }
        }
    }
}

/// What of the store the sandbox shows: as much as the caller wants, else as much as is known of what the build saw.
pub(super) fn store_view(
    derivation: Option<&Derivation>,
    has_failed: bool,
    extent: Option<StoreExtent>,
    host_paths: &[HostPath],
    store: &Store,
    records: &mut Result<StoreRecords>,
    notes: &mut Vec<String>,
) -> Result<StoreView> {
    let is_mounted = host_paths.iter().any(|wanted| wanted.path.target == store.directory());
    let Some(derivation) = derivation.filter(|_| extent != Some(StoreExtent::Full) && !is_mounted) else {
        return Ok(StoreView::Whole);
    };
    let records = match records {
        Ok(records) => records,
        Err(error) if extent.is_some() => bail!("{error:#}, and so the closure is not known"),
        Err(error) => {
            notes.push(format!("{error:#}: the sandbox has the whole store, read-only"));
            return Ok(StoreView::Whole);
        }
    };
    let inputs = inputs_of(derivation, host_paths, store, records)?;
    let mut outputs = if has_failed { begun_outputs(derivation, store, records)? } else { Vec::new() };
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
    Ok(StoreView::Closure { inputs, partial_outputs: names_of(&outputs)? })
}

/// The names of the closure of the derivation's inputs and of the sandbox paths that are in the store: what a build sees there.
fn inputs_of(
    derivation: &Derivation,
    host_paths: &[HostPath],
    store: &Store,
    records: &mut StoreRecords,
) -> Result<Vec<CString>> {
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
    let mut names = names_of(&records.input_closure(&sources, &inputs).map_err(missing)?)?;
    for source in store_sources(host_paths.iter().map(|wanted| &wanted.path), store.directory()) {
        // As Nix does: what is not valid has no closure.
        if records.is_valid(&source)? {
            names.extend(names_of(&records.closure(&[source])?)?);
        }
    }
    // As bytes: paths are compared by their components, which takes longer than all else here.
    names.sort_unstable();
    names.dedup();
    let own: Vec<_> = derivation.output_paths().filter_map(|(_, output)| output.file_name()).collect();
    names.retain(|name| !own.contains(&OsStr::from_bytes(name.to_bytes())));
    Ok(names)
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
