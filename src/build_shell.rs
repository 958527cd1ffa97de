//! The shell of a build: what runs the command in the sandbox.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::fs::{FileType, Mode, Stat, stat};

use crate::nix::derivation::Derivation;
use crate::nix::is_store_name;
use crate::nix::store::Store;

/// Names under which a builder is a shell.
const SHELLS: [&str; 7] = ["ash", "bash", "dash", "ksh", "mksh", "sh", "zsh"];
/// A program that is a shell if its first argument says so.
const MULTICALL: [&str; 2] = ["busybox", "toybox"];
/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// A shell in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildShell {
    /// Its path in the sandbox, as the build had it.
    pub path: PathBuf,
    /// What comes before a shell's own arguments: `sh` for a busybox.
    pub applet: Option<OsString>,
    /// The file on this machine that the path leads to, free of symbolic links.
    pub file: PathBuf,
}

impl BuildShell {
    /// The shell that a build's environment names in `SHELL`; `origin` is the file that says so.
    ///
    /// # Errors
    /// One that is not in the store, or not any more, or no program.
    pub fn named(shell: &Path, origin: &Path, store: &Store) -> Result<Self> {
        let file = find(shell, &format!("SHELL in {}", origin.display()), store)?;
        Ok(Self { path: shell.to_owned(), applet: None, file })
    }

    /// The shell that builds `derivation`; nothing where its builder is no shell.
    ///
    /// # Errors
    /// As of [`named`](Self::named).
    pub fn builder_of(derivation: &Derivation, store: &Store) -> Result<Option<Self>> {
        let path = PathBuf::from(OsStr::from_bytes(&derivation.builder));
        let is_shell = |name: &OsStr| SHELLS.iter().any(|shell| name == *shell);
        let name = path.file_name().unwrap_or_default();
        let applet = derivation.arguments.first().map(|argument| OsStr::from_bytes(argument));
        let applet = match applet {
            _ if is_shell(name) => None,
            Some(applet) if MULTICALL.iter().any(|program| name == *program) && is_shell(applet) => Some(applet),
            _ => return Ok(None),
        };
        let file = find(&path, &format!("the builder of {}", derivation.path.display()), store)?;
        Ok(Some(Self { path, applet: applet.map(OsStr::to_owned), file }))
    }

    /// A shell among the store paths that are called `names`, for a build that is no shell's: bash before any other.
    pub fn among(names: &[CString], store: &Store) -> Option<Self> {
        let at = |program: &str| {
            names.iter().find_map(|name| {
                let path = store.directory().join(OsStr::from_bytes(name.to_bytes())).join(program);
                let file = find(&path, "a shell", store).ok()?;
                Some(Self { path, applet: None, file })
            })
        };
        at("bin/bash").or_else(|| at("bin/sh"))
    }
}

/// The file that `shell` leads to, which has to be an executable one in the store; `what` says whose it is.
///
/// # Errors
/// One that is not in the store, or not any more, or no program.
pub(crate) fn find(shell: &Path, what: &str, store: &Store) -> Result<PathBuf> {
    let directory = store.directory();
    let Ok(below_store) = shell.strip_prefix(directory) else {
        bail!("{what} is {shell:?}, which is no path in {}: the sandbox has nothing else", directory.display());
    };
    let name = below_store.iter().next().unwrap_or_default();
    if !is_store_name(name.as_bytes()) {
        bail!("{what} is {shell:?}, in which no store path is named");
    }
    let Some(file) = follow_links(shell, store) else {
        let store_path = directory.join(name);
        let store_path = store_path.display();
        if store.physical(shell) != shell {
            let file = store.physical(shell);
            bail!("{what} is {shell:?}, and {} is not there (any more): is it this store?", file.display());
        }
        bail!(
            "{what} is {shell:?}, which is not there (any more): «nix-store --realise {store_path}» brings it back if a substituter has it"
        );
    };
    let physical = store.physical_directory();
    let physical = physical.canonicalize().unwrap_or(physical.to_owned());
    if !file.starts_with(&physical) {
        bail!("{what} is {shell:?}, which leads out of {}, to {file:?}", directory.display());
    }
    let is_program = stat(&file)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile && is_executable(&status));
    if !is_program {
        bail!("{what} is {shell:?}, which is no program");
    }
    Ok(file)
}

/// Links in a store lead to where its paths are for Nix; in a chroot store that is not where they are on this machine.
fn follow_links(path: &Path, store: &Store) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let physical = store.physical(&path);
        match fs::read_link(&physical) {
            Ok(link) => path = path.parent()?.join(link),
            Err(_) => return physical.canonicalize().ok(),
        }
    }
    None
}

fn is_executable(status: &Stat) -> bool {
    Mode::from_raw_mode(status.st_mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH)
}
