//! Remembers what Nix answered, so that a start does not have to wait for it.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, lstat, openat};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::configuration_files::configuration_files;
use super::file_identity::FileIdentity;
use super::nix_program::NixProgram;
use super::settings::Settings;
use super::surroundings::Surroundings;

/// The one file in our cache directory.
const FILE: &str = "settings.json";
/// More than any that we write.
const FILE_LIMIT: u64 = 256 << 10;

/// Where the answer is remembered, and the part of its question that no file holds.
#[derive(Debug)]
pub struct SettingsCache {
    directory: PathBuf,
    fingerprint: u64,
    /// Whether to trust only directories that nobody but root can change.
    for_root: bool,
}

/// The files that the answer comes from, as they were when it was asked for: first the program, then the configuration.
pub type Sources = Vec<(PathBuf, FileIdentity)>;

/// What the cache file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<S> {
    /// Ours: another version may understand Nix's answer in another way.
    version: String,
    fingerprint: u64,
    sources: Sources,
    settings: S,
}

impl SettingsCache {
    /// The cache below `XDG_CACHE_HOME`, or `~/.cache`; `None` where the caller has neither.
    pub fn new(surroundings: &Surroundings) -> Option<Self> {
        let directory = match surroundings.directory("XDG_CACHE_HOME") {
            Some(directory) => directory.to_owned(),
            None => surroundings.directory("HOME")?.join(".cache"),
        };
        Some(Self {
            directory: directory.join("nix-build-shell"),
            fingerprint: surroundings.fingerprint(),
            for_root: surroundings.is_root,
        })
    }

    /// The settings that `program` told, if it still is the same program and would answer the same.
    pub fn read(&self, program: &NixProgram) -> Option<Settings> {
        let entry: Entry<Settings> = serde_json::from_slice(&self.read_file()?).ok()?;
        let ((path, identity), configuration) = entry.sources.split_first()?;
        let is_current = entry.version == env!("CARGO_PKG_VERSION")
            && entry.fingerprint == self.fingerprint
            && *path == program.path
            && *identity == program.identity
            && configuration.iter().all(|(path, identity)| FileIdentity::of(path) == *identity);
        is_current.then_some(entry.settings)
    }

    /// The cache file, if nobody else can have written it.
    fn read_file(&self) -> Option<Vec<u8>> {
        // Without NONBLOCK a fifo of that name would keep us waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, self.directory.join(FILE), flags, Mode::empty()).ok()?;
        let status = fstat(&file).ok()?;
        let size = u64::try_from(status.st_size).ok()?;
        if !is_only_for_us(&status, FileType::RegularFile) || size > FILE_LIMIT {
            return None;
        }
        let mut text = Vec::with_capacity(size as usize + 1);
        File::from(file).take(FILE_LIMIT).read_to_end(&mut text).ok()?;
        Some(text)
    }

    /// The files that an answer of `program` will come from; `None` where it cannot be remembered.
    pub fn sources(&self, surroundings: &Surroundings, program: &NixProgram) -> Option<Sources> {
        let configuration = configuration_files(surroundings, program)?.into_iter().map(|path| {
            let identity = FileIdentity::of(&path);
            (path, identity)
        });
        Some([(program.path.clone(), program.identity)].into_iter().chain(configuration).collect())
    }

    /// Remembers `settings`. Where that fails, the next run asks Nix again: nobody has to know.
    pub fn write(&self, sources: Sources, settings: &Settings) {
        let version = env!("CARGO_PKG_VERSION").into();
        let entry = Entry { version, fingerprint: self.fingerprint, sources, settings };
        let _ = self.replace_file(&entry);
    }

    /// A reader sees the old file or the new one, and of two writers the later one counts.
    fn replace_file(&self, entry: &Entry<&Settings>) -> io::Result<()> {
        let is_safe = || !self.for_root || self.directory.ancestors().all(is_absent_or_safe_to_pass);
        if !is_safe() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // What was absent may have been made by somebody else since.
        if !is_safe() || !is_absent_or_only_for_us(&self.directory) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // Readable by nobody else: tempfile makes it with mode 0600.
        let mut file = tempfile::Builder::new().prefix(".settings-").tempfile_in(&self.directory)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.persist(self.directory.join(FILE))?;
        Ok(())
    }
}

/// Whether `path` is no way for others to lead our writing elsewhere; a symbolic link is one. In a directory like `/tmp`, whose sticky
/// bit is set, nobody can replace what is ours.
fn is_absent_or_safe_to_pass(path: &Path) -> bool {
    match lstat(path) {
        Ok(status) if Mode::from_raw_mode(status.st_mode).contains(Mode::SVTX) => {
            let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
            is_directory && status.st_uid == geteuid().as_raw()
        }
        _ => is_absent_or_only_for_us(path),
    }
}

fn is_absent_or_only_for_us(path: &Path) -> bool {
    match lstat(path) {
        Ok(status) => is_only_for_us(&status, FileType::Directory),
        Err(errno) => errno == rustix::io::Errno::NOENT,
    }
}

/// Whether it is a `kind` of file that belongs to us, and that nobody else may change.
fn is_only_for_us(status: &Stat, kind: FileType) -> bool {
    let mode = Mode::from_raw_mode(status.st_mode);
    FileType::from_raw_mode(status.st_mode) == kind
        && status.st_uid == geteuid().as_raw()
        && !mode.intersects(Mode::WGRP | Mode::WOTH)
}
