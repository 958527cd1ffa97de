//! What there is on this machine to complete a value to.

use std::collections::{BTreeSet, HashSet};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use super::beside;
use crate::build_progress::BuildProgress;
use crate::caller::Caller;
use crate::cli::table::age;
use crate::failed_log::FailedLog;
use crate::kept_build::KeptBuild;
use crate::kept_builds::{self, KeptDirectory, Standing};
use crate::kept_session::{self, Sessions};
use crate::nix::Settings;
use crate::nix::store::Store;
use crate::phases;

/// A build: its kept directory, or the name of what was built.
pub fn builds(current: &OsStr) -> Vec<CompletionCandidate> {
    let directories = kept_directories(current);
    if current.is_empty() || current.as_bytes().contains(&b'/') {
        return directories;
    }
    let mut seen = HashSet::new();
    let named = find_kept().filter_map(|kept| Some((name(&kept)?, kept)));
    let begun = named.filter(|(name, _)| name.as_bytes().starts_with(current.as_bytes()) && seen.insert(name.clone()));
    let names: Vec<_> =
        begun.map(|(name, kept)| CompletionCandidate::new(name).help(beside(description(&kept)))).collect();
    directories.into_iter().chain(names).collect()
}

/// The directories that Nix has kept, the newest first, written as `current` begins: with their whole path, or from where the caller is.
/// Where it leads to none of them, any directory and derivation there: a kept directory may have been copied.
pub fn kept_directories(current: &OsStr) -> Vec<CompletionCandidate> {
    let (beginning, place) = place_of(current);
    let candidate = |kept: &KeptDirectory| {
        let written = if current.is_empty() || current.as_bytes().starts_with(b"/") {
            kept.path.clone().into_os_string()
        } else if kept.path.parent()?.canonicalize().ok()? == *place.as_ref()? {
            let mut written = beginning.to_owned();
            written.push(kept.path.file_name()?);
            written
        } else {
            return None;
        };
        let is_begun = written.as_bytes().starts_with(current.as_bytes());
        is_begun.then(|| CompletionCandidate::new(written).help(beside(description(kept))))
    };
    let kept: Vec<_> = find_kept().filter_map(|kept| candidate(&kept)).collect();
    if kept.is_empty() && current.as_bytes().contains(&b'/') {
        let is_build = |path: &Path| path.is_dir() || is_derivation(path);
        return PathCompleter::any().filter(is_build).complete(current);
    }
    kept
}

/// Whether a file is called as a derivation in the store is.
pub fn is_derivation(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("drv"))
}

/// The beginning of a path up to its last slash, and the directory that it leads to.
fn place_of(current: &OsStr) -> (&OsStr, Option<PathBuf>) {
    let bytes = current.as_bytes();
    let beginning = &bytes[..bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)];
    let beginning = OsStr::from_bytes(beginning);
    (beginning, env::current_dir().ok().and_then(|here| here.join(beginning).canonicalize().ok()))
}

fn find_kept() -> impl Iterator<Item = KeptDirectory> {
    let store = Store::chosen(None).ok();
    let found = store.map(|store| kept_builds::find(&Settings::in_force(), &store, &Caller::current()));
    found.unwrap_or_default().into_iter().filter(|kept| kept.standing == Standing::Kept)
}

/// The name of what was built there, as far as that is quickly told.
fn name(kept: &KeptDirectory) -> Option<String> {
    let exported = || {
        let build = KeptBuild::open(&kept.path).ok()?;
        build.variable("name").map(|name| String::from_utf8_lossy(name).into_owned())
    };
    let name = kept.name.derivation().map(String::from).or_else(exported)?;
    Some(name.chars().filter(|character| !character.is_control()).collect())
}

/// What was built there, and when.
fn description(kept: &KeptDirectory) -> String {
    let since = SystemTime::now().duration_since(kept.kept_at).map_or(0, |since| since.as_secs());
    name(kept).map_or_else(|| age(since), |name| format!("{name}, {}", age(since)))
}

/// The sessions that are kept.
pub fn sessions(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = || -> Result<Vec<_>> {
        Sessions::open(&Caller::current())?.map_or(Ok(Vec::new()), |sessions| kept_session::names(&sessions))
    };
    let names = names().unwrap_or_default();
    let names = names.iter().filter(|name| name.as_str().as_bytes().starts_with(current.as_bytes()));
    names.map(|name| CompletionCandidate::new(name.as_str())).collect()
}

/// The phases of a build, or stdenv's own.
pub struct Phases(Vec<OsString>);

impl Phases {
    /// Those of the build among the words of a command line, if it is there already.
    pub fn of_build_among(words: &[OsString]) -> Self {
        Self(words.to_owned())
    }

    fn of_build(&self) -> Option<Vec<String>> {
        let build = kept_builds::open(kept_directory_among(&self.0)?, &Settings::in_force(), None, None).ok()?;
        let log = FailedLog::of(&build).ok()?;
        let progress = BuildProgress::of(&build, log.as_ref()).ok()?;
        Some(progress.phases.into_iter().map(|(phase, _)| phase).collect())
    }
}

impl ValueCompleter for Phases {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let phases = self.of_build().unwrap_or_else(|| phases::standard().map(String::from).collect());
        let begun = phases.into_iter().filter(|phase| phase.as_bytes().starts_with(current.as_bytes()));
        begun.map(CompletionCandidate::new).collect()
    }
}

/// A command for the sandbox: the programs that the build had in its `PATH`, then files in its directory.
pub struct SandboxCommand(Vec<OsString>);

impl SandboxCommand {
    /// For the build among the words of a command line.
    pub fn of_build_among(words: &[OsString]) -> Self {
        Self(words.to_owned())
    }
}

impl ValueCompleter for SandboxCommand {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        self.complete_at(0, current)
    }

    fn complete_at(&self, place: usize, current: &OsStr) -> Vec<CompletionCandidate> {
        let build = kept_directory_among(&self.0).and_then(|path| KeptBuild::open(path).ok());
        let Some(build) = build else { return Vec::new() };
        if place > 0 || current.as_bytes().contains(&b'/') {
            return PathCompleter::any().current_dir(&build.directory).complete(current);
        }
        programs(OsStr::from_bytes(build.variable("PATH").unwrap_or_default()), current)
    }
}

/// A command for this machine: the programs in the caller's `PATH`, then files.
pub struct HostCommand;

impl ValueCompleter for HostCommand {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        self.complete_at(0, current)
    }

    fn complete_at(&self, place: usize, current: &OsStr) -> Vec<CompletionCandidate> {
        if place > 0 || current.as_bytes().contains(&b'/') {
            return PathCompleter::any().complete(current);
        }
        programs(&env::var_os("PATH").unwrap_or_default(), current)
    }
}

/// The programs of a search path that begin so.
fn programs(path: &OsStr, current: &OsStr) -> Vec<CompletionCandidate> {
    let directories = env::split_paths(path).filter(|directory| directory.is_absolute());
    let entries = directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let is_program = |path: PathBuf| {
        fs::metadata(path).is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
    };
    let begun = entries.filter(|entry| entry.file_name().as_bytes().starts_with(current.as_bytes()));
    let names: BTreeSet<_> = begun.filter(|entry| is_program(entry.path())).map(|entry| entry.file_name()).collect();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The first word after the program's name that is a directory.
fn kept_directory_among(words: &[OsString]) -> Option<&Path> {
    let is_directory = |path: &&Path| !path.as_os_str().as_bytes().starts_with(b"-") && path.is_dir();
    words.iter().skip(1).map(Path::new).find(is_directory)
}
