//! `nix-build-shell build -- COMMAND`: runs a command that builds with Nix, and opens the sandbox of what failed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, bail};
use clap::Args;

use super::ask::{choose, confirm};
use super::enter::{self, enter};
use super::patch_options::PatchOptions;
use super::sandbox_options::SandboxOptions;
use super::say::say;
use super::which_build::Missing;
use crate::build_command::{self, Failure, KeepFailed, Outcome};
use crate::caller::Caller;
use crate::kept_build_name::KeptBuildName;
use crate::kept_builds::{self, KeptDirectory, Standing, ToldFailures, Trust};
use crate::nix::Settings;
use crate::nix::store::Store;

/// What to build, and what to do where that fails.
#[derive(Debug, Args)]
#[command(override_usage = "nix-build-shell build [-c LINE] [OPTIONS] -- COMMAND [ARG]...")]
pub struct Options {
    /// Where the build fails, run this line in its sandbox, with the sandbox's shell, in place of a session
    #[arg(short = 'c', long = "command", value_name = "LINE")]
    pub line: Option<OsString>,

    /// What builds, such as «nix-build -A hello» or «nix build .#hello»: it is run with --keep-failed, and builds on this machine
    #[arg(value_name = "COMMAND [ARG]", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub build: Vec<OsString>,

    /// Options of the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxOptions,

    /// The patch of what was changed in the sandbox.
    #[command(flatten)]
    pub patch: PatchOptions,
}

/// Runs the command, and where that fails what was wanted then. Returns 0 if the build succeeded, and only then: else what the
/// session or the line ended with, and the command's own status where that is 0 or there was nothing to enter.
///
/// # Errors
/// One sentence where the command could not be run, or there is no sandbox.
pub fn run(options: &Options) -> Result<u8> {
    if let Some(word) = options.build.first().filter(|word| word.as_bytes().starts_with(b"-")) {
        let word = word.display();
        bail!(
            "build has no option {word}: see «nix-build-shell build --help»; an option of Nix's goes behind the command, as in \
             «nix-build-shell build -- nix-build {word}»"
        );
    }
    let entry = enter::Options {
        build_dir: None,
        command: Vec::new(),
        line: options.line.clone(),
        attribute: None,
        fresh: false,
        sandbox: options.sandbox.clone(),
        patch: options.patch.clone(),
        keep_session: None,
        dry_run: false,
    };
    build(&options.build, entry)
}

/// Offers to make the build that the caller wants to enter.
///
/// # Errors
/// Where nobody is there to say so: one sentence.
pub(super) fn offer(options: &enter::Options, missing: &Missing) -> Result<u8> {
    match confirm(format_args!("{}; shall it be run?", missing.sentence())) {
        None => bail!(missing.sentence()),
        Some(false) => Ok(NOT_WANTED),
        Some(true) => build(&missing.command, options.clone()),
    }
}

/// The status of what somebody did not want when he was asked.
const NOT_WANTED: u8 = 1;

/// Runs `command`, and where that fails enters what it has left, as `entry` says but for the directory.
fn build(command: &[OsString], mut entry: enter::Options) -> Result<u8> {
    let settings = Settings::in_force();
    let store = Store::chosen(entry.sandbox.store_root.as_deref())?;
    let caller = Caller::current();
    let keep_failed = KeepFailed::under(&settings);
    let find = || kept_builds::find(&settings, &store, &caller);
    let before = find();
    if keep_failed.keeps_from_other_machines() {
        say("this builds on this machine alone, where the directory of what fails is kept");
    }
    let outcome = build_command::run(command, &keep_failed)?;
    // Whoever ends a build has seen enough.
    if outcome.status == 0 || outcome.is_interrupted {
        return Ok(outcome.status);
    }
    let mut kept = named(&outcome, &Trust::of(&caller, &settings));
    if kept.is_empty() {
        kept = unnamed(&before, find());
    }
    if kept.is_empty() {
        if let Some(failure) = outcome.failures.first() {
            let derivation = failure.derivation.display();
            say(format_args!("of {derivation} no directory was kept on this machine, so there is nothing to open"));
        }
        return Ok(outcome.status);
    }
    write_down(&kept, &outcome.failures, &caller);
    let Some(chosen) = choose_one(&kept) else { return Ok(outcome.status) };
    if entry.sandbox.derivation.is_none() {
        entry.sandbox.derivation =
            failure_in(chosen, &kept, &outcome.failures).map(|failure| failure.derivation.clone());
    }
    let status = enter(&entry, &chosen.path, None)?;
    Ok(if status == 0 { outcome.status } else { status })
}

/// The directories that Nix said it keeps, of those that are really Nix's: a builder can say anything.
fn named(outcome: &Outcome, trust: &Trust) -> Vec<KeptDirectory> {
    let mut kept: Vec<KeptDirectory> = Vec::new();
    for directory in outcome.kept.iter().filter_map(|path| KeptDirectory::at(path, trust)) {
        if directory.standing == Standing::Kept && !kept.iter().any(|known| known.is_same(&directory)) {
            kept.push(directory);
        }
    }
    kept
}

/// The directories that were kept while a command ran that did not show what Nix said, the first one first.
fn unnamed(before: &[KeptDirectory], after: Vec<KeptDirectory>) -> Vec<KeptDirectory> {
    let was_kept = |directory: &KeptDirectory| {
        before.iter().any(|known| known.standing == Standing::Kept && known.is_unchanged_in(directory))
    };
    let is_new = |directory: &KeptDirectory| directory.standing == Standing::Kept && !was_kept(directory);
    let mut new: Vec<_> = after.into_iter().filter(is_new).collect();
    new.reverse();
    new
}

/// One of several, which somebody chooses if he is there; else the first.
fn choose_one(kept: &[KeptDirectory]) -> Option<&KeptDirectory> {
    let [_, _, ..] = kept else { return kept.first() };
    say(format_args!("{} builds failed:", kept.len()));
    for (number, directory) in kept.iter().enumerate() {
        say(format_args!("{:3}  {}", number + 1, told(directory)));
    }
    match choose("which one shall be opened?", kept.len()) {
        Some(number) => kept.get(number? - 1),
        None => {
            let first = kept.first()?;
            say(format_args!("opening the first, {}", first.path.display()));
            Some(first)
        }
    }
}

fn told(directory: &KeptDirectory) -> String {
    let path = directory.path.display();
    directory.name.derivation().map_or_else(|| path.to_string(), |name| format!("{name}, in {path}"))
}

/// Keeps what Nix said for «list», and for whoever opens a directory later whose name tells nothing. Where that fails, both do with less:
/// nobody has to know.
fn write_down(kept: &[KeptDirectory], failures: &[Failure], caller: &Caller) {
    let mut told = ToldFailures::of(caller);
    for directory in kept {
        if let Some(Failure { derivation, status }) = failure_in(directory, kept, failures) {
            told.add(directory, derivation, *status);
        }
    }
    let _ = told.keep(caller);
}

/// What Nix said has failed in a directory: by its name, else because there are as many of the one as of the other, in the same order.
fn failure_in<'a>(chosen: &KeptDirectory, kept: &[KeptDirectory], failures: &'a [Failure]) -> Option<&'a Failure> {
    let names = |failure: &Failure| KeptBuildName::of_derivation(&failure.derivation).as_ref() == Some(&chosen.name);
    let mut of_that_name = failures.iter().filter(|failure| names(failure));
    let by_name = of_that_name.next().filter(|_| of_that_name.next().is_none());
    let place = kept.iter().position(|known| known.is_same(chosen));
    let by_place = place.filter(|_| chosen.name.derivation().is_none() && kept.len() == failures.len());
    by_name.or_else(|| failures.get(by_place?))
}
