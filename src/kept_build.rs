//! A kept build directory: what `nix-build --keep-failed` left of a failed build.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow, bail};
use rustix::fs::{CWD, Dir, OFlags, fstat, stat, statat};
use rustix::io::Errno;
use serde_json::{Map, Value};

use crate::env_vars::EnvVars;
use crate::failed_phase::FailedPhase;
use crate::kept_build_name::KeptBuildName;
use crate::owner::Owner;
use crate::quiet_open::{Unsuitable, open_quietly, read_quietly};

/// The file that stdenv writes at the start of each phase.
const ENV_VARS: &str = "env-vars";
/// More than any environment that a kernel would execute a program with; a real file has a few kilobytes.
const ENV_VARS_LIMIT: u64 = 16 << 20;
/// Where structured attributes are, for programs to read.
const ATTRIBUTES: &str = ".attrs.json";
/// More than Nix can send to a builder through a pipe in a sensible time.
const ATTRIBUTES_LIMIT: u64 = 64 << 20;

/// A failed build's directory and what it tells of its sandbox.
#[derive(Debug)]
pub struct KeptBuild {
    /// The directory that was `/build`, as the caller can name it.
    pub directory: PathBuf,
    /// The same directory, opened, so that everything below it is reached without its name.
    pub handle: OwnedFd,
    /// What stdenv exported when the last phase began, or why that cannot be known.
    pub env_vars: Result<EnvVars, NoEnvVars>,
    /// The phase that failed, as it is remembered where this is a session's copy.
    pub failed_phase: Option<FailedPhase>,
    /// Whether it is what a failed build has left: a session may have begun in an empty directory.
    pub is_of_failed_build: bool,
}

/// Why there is no `env-vars` to go by: one sentence.
#[derive(Clone, Debug)]
pub enum NoEnvVars {
    /// The build does not use stdenv, or failed before stdenv began.
    Missing(String),
    /// It belongs to a build user.
    Unreadable(String),
}

impl NoEnvVars {
    /// The sentence.
    pub fn reason(&self) -> &str {
        match self {
            Self::Missing(reason) | Self::Unreadable(reason) => reason,
        }
    }
}

impl KeptBuild {
    /// Opens the kept build directory `path`, or `path/build`, where Nix 2.26 and later put it, when `env-vars` is only there or
    /// there is nothing else.
    ///
    /// # Errors
    /// Whatever keeps the directory from being entered, one sentence each with its remedy; or an `env-vars` that is none.
    pub fn open(path: &Path) -> Result<Self> {
        let top = open_directory(path)?;
        let has_env_vars =
            |directory: &OwnedFd| statat(directory, ENV_VARS, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let (directory, handle) = if has_env_vars(&top) {
            (path.to_owned(), top)
        } else {
            match open_quietly(&top, "build", OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                Ok(below) if has_env_vars(&below) || holds_nothing_but_build(&top) => (path.join("build"), below),
                Err(Errno::ACCESS) => return Err(cannot_read(&path.join("build"))),
                _ => (path.to_owned(), top),
            }
        };
        let env_vars = read_env_vars(&handle, &directory.join(ENV_VARS))?;
        Ok(Self { directory, handle, env_vars, failed_phase: None, is_of_failed_build: true })
    }

    /// The value of a variable that was exported when the last phase began.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env_vars.as_ref().ok()?.get(name)
    }

    /// Where `env-vars` is, or would be.
    pub fn env_vars_file(&self) -> PathBuf {
        self.directory.join(ENV_VARS)
    }

    /// Where Nix built: `NIX_BUILD_TOP`.
    pub fn build_top(&self) -> Option<PathBuf> {
        self.variable("NIX_BUILD_TOP").map(path_of)
    }

    /// The store paths that the build was to make, as its variables or its structured attributes name them. They come from the
    /// build: what is no store path may be among them.
    pub fn outputs(&self) -> Vec<PathBuf> {
        let names = self.variable("outputs").unwrap_or(b"out").split(u8::is_ascii_whitespace);
        let of_variables: Vec<_> = names
            .filter_map(|name| Some(path_of(self.variable(str::from_utf8(name).ok()?)?)))
            .filter(|path| path.is_absolute())
            .collect();
        if of_variables.is_empty() { self.outputs_of_attributes() } else { of_variables }
    }

    fn outputs_of_attributes(&self) -> Vec<PathBuf> {
        let attributes = self.structured_attributes().unwrap_or_default();
        let outputs = attributes.get("outputs").and_then(Value::as_object).into_iter().flat_map(Map::values);
        outputs.filter_map(|path| path.as_str().map(PathBuf::from)).collect()
    }

    /// The structured attributes as the build had them: `.attrs.json`, if there is such a file and the caller may read it.
    pub fn structured_attributes(&self) -> Option<Map<String, Value>> {
        let text = read_quietly(&self.handle, ATTRIBUTES, OFlags::NOFOLLOW, ATTRIBUTES_LIMIT).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// When the directory itself last changed, its mode and its owner included: Nix sets its mode as soon as the build has failed,
    /// and copying or renaming it changes it as well.
    pub fn last_change(&self) -> Option<SystemTime> {
        let status = fstat(&self.handle).ok()?;
        let since_epoch = Duration::new(status.st_ctime.try_into().ok()?, status.st_ctime_nsec.try_into().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since_epoch)
    }

    /// The name of the derivation in the directory's, as Nix before 2.30 has it.
    pub fn derivation_name(&self) -> Option<String> {
        self.name()?.derivation().map(String::from)
    }

    /// Whether the directory is called by numbers, as Nix 2.30 and later call it, which names no derivation.
    pub fn is_named_by_number(&self) -> bool {
        self.name() == Some(KeptBuildName::Number)
    }

    fn name(&self) -> Option<KeptBuildName> {
        KeptBuildName::parse(&self.name_given_by_nix()?)
    }

    /// The last name in the directory's path but `build`.
    fn name_given_by_nix(&self) -> Option<String> {
        // Whatever «.» and links the caller has written.
        let path = self.directory.canonicalize().ok()?;
        let directory = if path.ends_with("build") { path.parent()? } else { &path };
        Some(directory.file_name()?.to_str()?.to_owned())
    }
}

/// Whether `build` is all that is in a directory, as in the one that Nix 2.26 and later make around it.
fn holds_nothing_but_build(directory: &OwnedFd) -> bool {
    let Ok(entries) = Dir::read_from(directory) else {
        return false;
    };
    entries.flatten().all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".." | b"build"))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    open_quietly(CWD, path, OFlags::DIRECTORY).map_err(|errno| match errno {
        Errno::NOENT => anyhow!(
            "there is no directory {}: give the one that Nix names after «keeping build directory»",
            path.display()
        ),
        Errno::NOTDIR => anyhow!(
            "{} is not a directory: give the one that Nix names after «keeping build directory»",
            path.display()
        ),
        Errno::ACCESS => cannot_read(path),
        other => anyhow!("cannot open the directory {}: {other}", path.display()),
    })
}

/// `path` exists and the caller may not read it: whose it is, and what to do.
fn cannot_read(path: &Path) -> anyhow::Error {
    let owner = match stat(path) {
        Ok(status) => format!("it belongs to {}", Owner::of(&status)),
        Err(_) => "a directory on the way to it is closed to you".into(),
    };
    anyhow!("you may not read {}: {owner}; call nix-build-shell with sudo", path.display())
}

/// The outer error is a file that cannot be what stdenv writes.
fn read_env_vars(directory: &OwnedFd, path: &Path) -> Result<Result<EnvVars, NoEnvVars>> {
    let text = match read_quietly(directory, ENV_VARS, OFlags::NOFOLLOW, ENV_VARS_LIMIT) {
        Ok(text) => text,
        Err(Unsuitable::Closed(Errno::ACCESS | Errno::PERM)) => {
            return Ok(Err(NoEnvVars::Unreadable(cannot_read(path).to_string())));
        }
        Err(Unsuitable::Closed(Errno::NOENT)) => {
            let in_directory = path.parent().unwrap_or(path).display();
            return Ok(Err(NoEnvVars::Missing(format!(
                "there is no env-vars in {in_directory}: give the directory that Nix names after «keeping build \
                 directory»; if it is that one, the build does not use stdenv, or failed before stdenv began"
            ))));
        }
        Err(Unsuitable::Closed(Errno::LOOP)) => bail!("{} is a symbolic link; stdenv writes a file", path.display()),
        Err(Unsuitable::Closed(other)) => bail!("cannot open {}: {other}", path.display()),
        Err(Unsuitable::Irregular) => bail!("{} is not a regular file; stdenv writes one", path.display()),
        Err(Unsuitable::TooLarge(size)) => bail!(
            "{} has {} MiB, and no environment has more than {} MiB: it is not the file that stdenv writes",
            path.display(),
            size >> 20,
            ENV_VARS_LIMIT >> 20
        ),
        Err(Unsuitable::Unreadable(error)) => bail!("cannot read {}: {error}", path.display()),
    };
    EnvVars::parse(&text).map(Ok).map_err(|reason| anyhow!("{} {reason}", path.display()))
}
