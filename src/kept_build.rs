//! A kept build directory: what `nix-build --keep-failed` left of a failed build.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, stat, statat};
use rustix::io::Errno;

use crate::env_vars::EnvVars;
use crate::nix::is_store_name;
use crate::owner::Owner;
use crate::quiet_open::open_quietly;

/// Where a build finds itself in Nix's sandbox (`sandbox-build-dir`).
pub const BUILD_DIR: &str = "/build";

/// Where Nix keeps what it built.
const STORE: &str = "/nix/store";
/// The file that stdenv writes at the start of each phase.
const ENV_VARS: &str = "env-vars";
/// More than any environment that a kernel would execute a program with; a real file has a few kilobytes.
const ENV_VARS_LIMIT: u64 = 16 << 20;

/// A failed build's directory and what it tells of its sandbox.
#[derive(Debug)]
pub struct KeptBuild {
    /// The directory that was `/build`, as the caller can name it.
    pub directory: PathBuf,
    /// The same directory, opened, so that everything below it is reached without its name.
    pub handle: OwnedFd,
    /// The build's shell: a path in the store, as the build had it in `SHELL`.
    pub shell: PathBuf,
    /// The file on this machine that `shell` leads to, free of symbolic links.
    pub shell_file: PathBuf,
    /// `NIX_BUILD_TOP`, where the build was: another directory than `/build` says that Nix built without its sandbox.
    pub build_top: PathBuf,
}

impl KeptBuild {
    /// Opens the kept build directory `path`, or `path/build`, where Nix 2.26 and later put it, when `env-vars` is only there.
    ///
    /// # Errors
    /// Whatever keeps the directory from being entered, one sentence each with its remedy: no directory, no or no readable or
    /// no sensible `env-vars` in it, no shell named there, or one that the store no longer has.
    pub fn open(path: &Path) -> Result<Self> {
        let top = open_directory(path)?;
        let has_env_vars =
            |directory: &OwnedFd| statat(directory, ENV_VARS, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let (directory, handle) = if has_env_vars(&top) {
            (path.to_owned(), top)
        } else {
            match open_quietly(&top, "build", OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                Ok(below) if has_env_vars(&below) => (path.join("build"), below),
                Err(Errno::ACCESS) => return Err(cannot_read(&path.join("build"))),
                _ => bail!(
                    "there is no env-vars in {}: give the directory that Nix names after «keeping build directory»; if it is \
                     that one, the build does not use stdenv, or failed before stdenv began",
                    path.display()
                ),
            }
        };
        let env_vars_path = directory.join(ENV_VARS);
        let env_vars = read_env_vars(&handle, &env_vars_path)?;
        let shell = env_vars.get("SHELL").with_context(|| {
            format!(
                "{} declares no SHELL, so there is no shell to run: it is not the whole file that stdenv writes",
                env_vars_path.display()
            )
        })?;
        let shell = path_of(shell);
        let shell_file = find_shell(&shell, &env_vars_path)?;
        let build_top = env_vars.get("NIX_BUILD_TOP").map_or(BUILD_DIR.into(), path_of);
        Ok(Self { directory, handle, shell, shell_file, build_top })
    }
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
        Errno::NOTDIR if path.extension() == Some("drv".as_ref()) => anyhow!(
            "{0} is a derivation: build it with «nix-store --realise --keep-failed {0}», and give the directory that Nix keeps",
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

fn read_env_vars(directory: &OwnedFd, path: &Path) -> Result<EnvVars> {
    // Without NONBLOCK a fifo of that name would keep us waiting.
    let file = open_quietly(directory, ENV_VARS, OFlags::NOFOLLOW | OFlags::NONBLOCK).map_err(|errno| match errno {
        Errno::ACCESS | Errno::PERM => cannot_read(path),
        Errno::LOOP => anyhow!("{} is a symbolic link; stdenv writes a file", path.display()),
        // A socket, or a device without a driver.
        Errno::NXIO | Errno::NODEV => anyhow!("{} is not a regular file; stdenv writes one", path.display()),
        other => anyhow!("cannot open {}: {other}", path.display()),
    })?;
    let status = fstat(&file).with_context(|| format!("cannot look at {}", path.display()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        bail!("{} is not a regular file; stdenv writes one", path.display());
    }
    let size = u64::try_from(status.st_size).unwrap_or(0);
    if size > ENV_VARS_LIMIT {
        bail!(
            "{} has {} MiB, and no environment has more than {} MiB: it is not the file that stdenv writes",
            path.display(),
            size >> 20,
            ENV_VARS_LIMIT >> 20
        );
    }
    let mut text = Vec::with_capacity(size as usize + 1);
    File::from(file)
        .take(ENV_VARS_LIMIT)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    EnvVars::parse(&text).map_err(|reason| anyhow!("{} {reason}", path.display()))
}

/// The file that the build's `SHELL` leads to, which has to be an executable one in the store.
fn find_shell(shell: &Path, env_vars: &Path) -> Result<PathBuf> {
    let env_vars = env_vars.display();
    let Ok(below_store) = shell.strip_prefix(STORE) else {
        bail!("SHELL in {env_vars} is {shell:?}, which is no path in {STORE}: the sandbox has nothing else");
    };
    let Ok(file) = shell.canonicalize() else {
        let name = below_store.iter().next().unwrap_or_default();
        if !is_store_name(name.as_bytes()) {
            bail!("SHELL in {env_vars} is {shell:?}, in which no store path is named");
        }
        let store_path = Path::new(STORE).join(name);
        bail!(
            "SHELL in {env_vars} is {shell:?}, which is not there (any more): «nix-store --realise {}» brings it back if a \
             substituter has it",
            store_path.display()
        );
    };
    let store = Path::new(STORE).canonicalize().unwrap_or(STORE.into());
    if !file.starts_with(&store) {
        bail!("SHELL in {env_vars} is {shell:?}, which leads out of {STORE}, to {file:?}");
    }
    let is_program = stat(&file)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile && is_executable(&status));
    if !is_program {
        bail!("SHELL in {env_vars} is {shell:?}, which is no program");
    }
    Ok(file)
}

fn is_executable(status: &Stat) -> bool {
    Mode::from_raw_mode(status.st_mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH)
}
