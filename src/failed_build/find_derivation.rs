//! Which derivation a kept build directory is of.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::StoreExtent;
use crate::kept_build::KeptBuild;
use crate::nix::derivation::Derivation;
use crate::nix::store::Store;
use crate::nix::store_records::StoreRecords;

/// The derivation of the build that left `kept`, or that the caller has given; nothing where it can do without.
pub(super) fn derivation_of(
    kept: Option<&KeptBuild>,
    given: Option<&Path>,
    extent: Option<StoreExtent>,
    store: &Store,
    records: &mut Result<StoreRecords>,
    notes: &mut Vec<String>,
) -> Result<Option<Derivation>> {
    let error = match find_derivation(kept, given, store, records, notes) {
        Ok(path) => return Derivation::read(&store.physical(&path)).map(Some),
        Err(error) => error,
    };
    if given.is_some() {
        return Err(error);
    }
    if let Some(Err(no_env_vars)) = kept.map(|kept| &kept.env_vars) {
        bail!("{}; and {error:#}; --derivation DRV names it", no_env_vars.reason());
    }
    match extent {
        Some(StoreExtent::Full) => {}
        Some(StoreExtent::Closure) => {
            bail!("without its derivation the closure of a build is not known; --derivation DRV names it")
        }
        None => notes.push(format!(
            "{error:#}: the sandbox has the whole store, read-only; --derivation DRV names the derivation"
        )),
    }
    Ok(None)
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
