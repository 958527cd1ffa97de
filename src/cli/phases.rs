//! `nix-build-shell phases BUILD_DIR`: which phases a failed build has, and how far it came.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::say::{print, printable, say};
use super::which_build::Wanted;
use crate::build_progress::{BuildProgress, PhaseState};
use crate::failed_build::{FailedBuild, StoreExtent, Wishes};
use crate::failed_log::FailedLog;
use crate::nix::Settings;

/// Whose phases.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory that Nix named after «keeping build directory», or what was built [default: the newest kept directory]
    #[arg(value_name = "BUILD_DIR")]
    pub build_dir: Option<PathBuf>,

    /// The derivation that was built, where it cannot be found out
    #[arg(long, value_name = "DRV")]
    pub derivation: Option<PathBuf>,

    /// The root of the store that was built in, as of «nix-build --store ROOT»
    #[arg(long, value_name = "ROOT")]
    pub store_root: Option<PathBuf>,
}

/// Prints the phases in their order, one a line, each with what became of it. Starts no sandbox.
///
/// # Errors
/// A build that has no phases, or cannot be found out about: one sentence.
pub fn run(options: &Options) -> Result<u8> {
    let wanted = Wanted {
        argument: options.build_dir.as_deref(),
        store_root: options.store_root.as_deref(),
        ..Wanted::default()
    };
    let named = wanted.existing()?;
    let wishes = Wishes {
        derivation: options.derivation.clone().or(named.derivation),
        store_root: options.store_root.clone(),
        // What the build saw of the store has no say in it.
        store: Some(StoreExtent::Full),
        ..Wishes::default()
    };
    let build = FailedBuild::open(&named.path, &wishes, &Settings::in_force())?;
    let log = FailedLog::of(&build)?;
    let progress = BuildProgress::of(&build, log.as_ref())?;
    build.notes.iter().chain(&progress.notes).for_each(say);
    let has_colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    print(&table(&progress, has_colours)).context("cannot print the phases")?;
    Ok(0)
}

fn table(progress: &BuildProgress, has_colours: bool) -> String {
    let rows: Vec<_> = progress.phases.iter().map(|(phase, state)| (printable(phase), *state)).collect();
    let width = rows.iter().map(|(phase, _)| phase.chars().count()).max().unwrap_or(0);
    let line = |(phase, state): &(String, PhaseState)| match colour(*state) {
        Some(colour) if has_colours => format!("{phase:width$}  \x1b[{colour}m{state}\x1b[m\n"),
        _ => format!("{phase:width$}  {state}\n"),
    };
    rows.iter().map(line).collect()
}

/// As terminals number them: green, red, faint.
fn colour(state: PhaseState) -> Option<u8> {
    match state {
        PhaseState::Done => Some(32),
        PhaseState::Failed => Some(31),
        PhaseState::NotReached => Some(2),
        PhaseState::NotKnown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_stand_below_each_other_and_in_colour_only_if_wanted() {
        let phases = [("ab", PhaseState::Done), ("abcd", PhaseState::Failed), ("\u{7}", PhaseState::NotReached)];
        let phases = phases.map(|(phase, state)| (phase.to_owned(), state)).into();
        let progress = BuildProgress { phases, notes: Vec::new() };
        assert_eq!(table(&progress, false), "ab     done\nabcd   failed\n\\u{7}  not reached\n");
        assert!(table(&progress, true).starts_with("ab     \x1b[32mdone\x1b[m\n"));
    }
}
