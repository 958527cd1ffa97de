//! Which derivation a kept build directory is of.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::StoreExtent;
use super::likely_derivations::{self, has_outputs};
use crate::kept_build::KeptBuild;
use crate::nix::build_logs::{BuildLogs, between};
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
    if let Some(kept) = kept
        && let Err(no_env_vars) = &kept.env_vars
    {
        match records {
            Ok(records) if !names_derivation(kept) => {
                bail!(likely_derivations::sentence(kept, no_env_vars, store, records))
            }
            _ => bail!("{}; and {error:#}; --derivation DRV names it", no_env_vars.reason()),
        }
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
    let has_name = |path: &PathBuf| match (&name, path.file_name()) {
        (Some(name), Some(file)) => file.as_bytes().get(32..) == Some(format!("-{name}.drv").as_bytes()),
        _ => true,
    };
    for output in kept.outputs().iter().filter(|output| store.is_store_path(output)) {
        let makers = records.derivers_of_output(output)?.into_iter().filter(has_name).collect();
        if let Some(choice) = choose(makers, kept, store, records)? {
            return Ok(choice.derivation);
        }
    }
    if let Some(name) = name
        && let Some(choice) = choose(records.derivations_named(&name)?, kept, store, records)?
    {
        if let Some(reason) = choice.reason {
            let derivation = choice.derivation.display();
            notes.push(format!(
                "several derivations are called {name}, and this is taken for {derivation}, {reason}; --derivation DRV names another"
            ));
        }
        return Ok(choice.derivation);
    }
    bail!("the store has no derivation (any more) that makes what was built in {}", kept.directory.display())
}

/// Whether the directory tells anything of its derivation, which the store need not have any more.
fn names_derivation(kept: &KeptBuild) -> bool {
    kept.derivation_name().is_some() || !kept.outputs().is_empty()
}

/// The derivation that was taken.
struct Choice {
    derivation: PathBuf,
    /// Where there were several, why this one: words that go after it.
    reason: Option<&'static str>,
}

/// Of several derivations one that is not built, if there is such a one: only «--check» fails with outputs that are there. Among
/// those, the one whose log tells of a build that ended when `kept` last changed, as nearly as possible; without logs the first of
/// `newest_first`.
///
/// Nix ends the log of a build, and then sets the mode of the directory that it keeps: milliseconds lie between. Of a directory
/// that was changed or copied since, the nearest build is the last one.
fn choose(
    newest_first: Vec<PathBuf>,
    kept: &KeptBuild,
    store: &Store,
    records: &mut StoreRecords,
) -> Result<Option<Choice>> {
    let alone = |derivation, reason| Ok(Some(Choice { derivation, reason }));
    let mut candidates = match <[PathBuf; 1]>::try_from(newest_first) {
        Ok([only]) => return alone(only, None),
        Err(several) => several,
    };
    let mut unbuilt = Vec::new();
    for derivation in &candidates {
        if !has_outputs(derivation, records)? {
            unbuilt.push(derivation.clone());
        }
    }
    if !unbuilt.is_empty() {
        candidates = unbuilt;
    }
    if let [only] = candidates.as_slice() {
        return alone(only.clone(), Some("the only one that is not built"));
    }
    let logs = BuildLogs::of(store);
    let nearest = kept.last_change().and_then(|change| {
        let ends = candidates.iter().filter_map(|path| Some((between(logs.last_end(path)?, change), path)));
        ends.min_by_key(|(distance, _)| *distance)
    });
    match (nearest, candidates.first()) {
        (Some((_, path)), _) => {
            alone(path.clone(), Some("the one whose build ended nearest to the directory's last change"))
        }
        (None, Some(newest)) => alone(newest.clone(), Some("the newest, since none has a build log")),
        (None, None) => Ok(None),
    }
}
