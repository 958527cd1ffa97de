//! Which derivations a build may be of whose kept directory tells nothing, in words.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::kept_build::{KeptBuild, NoEnvVars};
use crate::nix::build_logs::{BuildEnd, BuildLogs};
use crate::nix::derivation::Derivation;
use crate::nix::store::Store;
use crate::nix::store_records::StoreRecords;

/// How long before or after the end of a build its directory may have changed last. Nix changes it within milliseconds, but hashes
/// a large output of a fixed-output derivation first, and people look around in what was kept.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// How many builds in that time are looked at: a busy machine has hundreds, of which the nearest matter.
const LOOKED_AT: usize = 50;
/// How many derivations a sentence can hold.
const NAMED: usize = 3;

/// Why a build cannot be entered of which nothing that the caller may read names the derivation: a sentence with the derivations
/// that it may be of, for the caller to choose from.
pub(super) fn sentence(kept: &KeptBuild, no_env_vars: &NoEnvVars, store: &Store, records: &mut StoreRecords) -> String {
    let directory = kept.directory.display();
    let nothing = match no_env_vars {
        NoEnvVars::Unreadable(reason) => {
            format!("{reason}, which finds the derivation; nothing that you may read in {directory} names it")
        }
        NoEnvVars::Missing(reason) => format!("{reason}; and nothing in {directory} names the derivation"),
    };
    // Any other directory may be none of Nix's at all.
    let is_nix_s = kept.is_named_by_number() || matches!(no_env_vars, NoEnvVars::Unreadable(_));
    let change = kept.last_change().filter(|_| is_nix_s);
    let likely = change.and_then(|change| {
        let ends = likely_ends(change, store, records).ok().filter(|ends| !ends.is_empty())?;
        Some(ends.iter().map(|end| choice(end, change)).collect::<Vec<_>>().join(", or "))
    });
    match likely {
        Some(choices) => format!("{nothing}; going by the build logs, it may be {choices}"),
        None => format!("{nothing}; --derivation DRV names it"),
    }
}

fn choice(end: &BuildEnd, change: SystemTime) -> String {
    let derivation = end.derivation.display();
    format!("--derivation {derivation} (its log ended {} the directory's last change)", side_of(end.time, change))
}

/// The builds that ended nearest to `change`, the nearest first, of derivations that a kept directory can be of.
fn likely_ends(change: SystemTime, store: &Store, records: &mut StoreRecords) -> Result<Vec<BuildEnd>> {
    let (mut failed, mut built) = (Vec::new(), Vec::new());
    for end in BuildLogs::of(store).ends_near(change, WINDOW).into_iter().take(LOOKED_AT) {
        // What was collected cannot be given, and of what Nix builds by itself it keeps no directory.
        let is_possible = records.is_valid(&end.derivation)?
            && Derivation::read(&store.physical(&end.derivation)).is_ok_and(|derivation| !derivation.is_builtin());
        if is_possible && has_outputs(&end.derivation, records)? {
            built.push(end);
        } else if is_possible {
            failed.push(end);
        }
        if failed.len() == NAMED {
            break;
        }
    }
    // What has its outputs fails with «--check» alone.
    let mut likely = if failed.is_empty() { built } else { failed };
    likely.truncate(NAMED);
    Ok(likely)
}

/// Whether all outputs of a derivation are valid.
pub(super) fn has_outputs(derivation: &Path, records: &mut StoreRecords) -> Result<bool> {
    let outputs: Vec<PathBuf> = records.output_paths_of(derivation)?.into_iter().map(|output| output.path).collect();
    for output in &outputs {
        if !records.is_valid(output)? {
            return Ok(false);
        }
    }
    Ok(!outputs.is_empty())
}

/// How long before or after `change` something ended.
fn side_of(end: SystemTime, change: SystemTime) -> String {
    let (apart, side) = match change.duration_since(end) {
        Ok(apart) => (apart, "before"),
        Err(earlier) => (earlier.duration(), "after"),
    };
    match apart.as_secs() {
        0 => format!("less than 1 s {side}"),
        seconds @ 1..=119 => format!("{seconds} s {side}"),
        seconds => format!("{} min {side}", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_the_change_on_in_whole_units() {
        let change = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let told = |milliseconds: i64| {
            let apart = Duration::from_millis(milliseconds.unsigned_abs());
            side_of(if milliseconds < 0 { change - apart } else { change + apart }, change)
        };
        assert_eq!(
            [-3, -1999, -119_999, -120_000].map(told),
            ["less than 1 s before", "1 s before", "119 s before", "2 min before"]
        );
        assert_eq!([3, 60_000, 599_000].map(told), ["less than 1 s after", "60 s after", "9 min after"]);
    }
}
