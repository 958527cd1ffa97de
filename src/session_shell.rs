//! The shell that a person types into: one with line editing, which the bash of stdenv may lack.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::additions::{file_in_store, store_path_of};
use crate::build_shell::{BuildShell, find};
use crate::failed_build::FailedBuild;
use crate::nix::usual_program_directories;

/// Only a bash with line editing has the builtin `bind`, and so the first words of its help, in every version since 2.
const MARK_OF_LINE_EDITING: &[u8] = b"bind [-lp";
/// More than any bash, static ones included.
const SIZE_LIMIT: u64 = 64 << 20;
/// How nixpkgs calls a bash with line editing; a version may follow.
const INTERACTIVE_BASH: &str = "bash-interactive";
/// Where Nix's own profiles have a bash, beside the usual directories for Nix itself.
const SYSTEM_PROFILE: &str = "/run/current-system/sw/bin";
/// `e_machine` of [`elf(5)`](https://man7.org/linux/man-pages/man5/elf.5.html) for this machine.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// A shell in the sandbox for somebody to type into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionShell {
    /// Its path in the sandbox.
    #[serde(with = "crate::os_text")]
    pub path: PathBuf,
    /// What comes before a shell's own arguments: `sh` for a busybox.
    #[serde(with = "crate::os_text::optional")]
    pub applet: Option<OsString>,
    /// Whether it can have stdenv's functions.
    pub is_bash: bool,
}

impl SessionShell {
    /// Chooses the shell for a session in `build`, and adds it to the sandbox if the build did not have it: `asked` if there is one;
    /// what `NIX_BUILD_SHELL` names, as for nix-shell; the caller's `SHELL`; the build's own shell where it has line editing; a bash
    /// with line editing in a profile, or anywhere in the store; else the build's own.
    ///
    /// # Errors
    /// Where `asked` is no bash in the store, or not complete there: one sentence. All others are passed over.
    pub fn choose(build: &mut FailedBuild, asked: Option<&Path>) -> Result<Self> {
        if let Some(asked) = asked {
            return Self::bash(asked, "--shell", build);
        }
        if let Some(named) = env::var_os("NIX_BUILD_SHELL").filter(|value| !value.is_empty()) {
            match Self::bash(Path::new(&named), "NIX_BUILD_SHELL", build) {
                Ok(shell) => return Ok(shell),
                Err(error) => build.notes.push(format!("{error:#}; another shell is taken")),
            }
        }
        let of_caller = env::var_os("SHELL").map(PathBuf::from);
        if let Some(shell) = of_caller.and_then(|shell| Self::if_editing(&shell, build)) {
            return Ok(shell);
        }
        let own = Self::of_build(&build.shell);
        // A busybox edits lines itself.
        if own.applet.is_some() || has_line_editing(&build.shell.file) {
            return Ok(own);
        }
        let better = candidates(build).into_iter().find_map(|candidate| Self::if_editing(&candidate, build));
        Ok(better.unwrap_or(own))
    }

    fn of_build(shell: &BuildShell) -> Self {
        Self { path: shell.path.clone(), applet: shell.applet.clone(), is_bash: is_bash(&shell.file) }
    }

    /// The bash at `path`, or in the store path `path`.
    fn bash(path: &Path, what: &str, build: &mut FailedBuild) -> Result<Self> {
        let Some(mut in_store) = file_in_store(path, &build.store) else {
            bail!("{what} is {path:?}, which is in no store, and so not for the sandbox");
        };
        if build.store.is_store_path(&in_store) {
            in_store.push("bin/bash");
        }
        let file = find(&in_store, what, &build.store)?;
        if !is_bash(&file) {
            bail!("{what} is {path:?}, which is no bash, and stdenv's functions are for bash alone");
        }
        // The name that leads to it may be a link in a store path that the sandbox need not have.
        let in_store = file_in_store(&file, &build.store).unwrap_or(in_store);
        let store_path: Vec<_> = store_path_of(&in_store, &build.store).into_iter().collect();
        build.add_store_paths(&store_path)?;
        Ok(Self { path: in_store, applet: None, is_bash: true })
    }

    /// The same where it has line editing, and none where there is anything else about it.
    fn if_editing(path: &Path, build: &mut FailedBuild) -> Option<Self> {
        let in_store = file_in_store(path, &build.store)?;
        let file = find(&in_store, "a shell", &build.store).ok()?;
        if !has_line_editing(&file) {
            return None;
        }
        Self::bash(path, "a shell", build).ok()
    }
}

/// Where a bash with line editing may be: in the profiles, then in the store, the highest version first.
fn candidates(build: &FailedBuild) -> Vec<PathBuf> {
    let profiles = [PathBuf::from(SYSTEM_PROFILE)].into_iter().chain(usual_program_directories());
    let mut candidates: Vec<_> = profiles.map(|directory| directory.join("bash")).collect();
    let entries = fs::read_dir(build.store.physical_directory()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut named: Vec<_> = names.filter(|name| is_interactive_bash(name)).collect();
    named.sort_unstable_by(|one, other| other.get(33..).cmp(&one.get(33..)).then_with(|| one.cmp(other)));
    candidates.extend(named.into_iter().map(|name| build.store.directory().join(name).join("bin/bash")));
    candidates
}

/// Whether a name in a store is that of nixpkgs' interactive bash.
fn is_interactive_bash(name: &str) -> bool {
    let Some(name) = name.get(33..) else { return false };
    let is_file = [".drv", ".lock", ".check"].iter().any(|end| name.ends_with(end));
    !is_file && name.strip_prefix(INTERACTIVE_BASH).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn is_bash(file: &Path) -> bool {
    file.file_name() == Some("bash".as_ref())
}

/// Whether a file is a bash with line editing, for this machine.
fn has_line_editing(file: &Path) -> bool {
    let mut content = Vec::new();
    let read = File::open(file).and_then(|file| file.take(SIZE_LIMIT).read_to_end(&mut content));
    read.is_ok()
        && content.get(18..20).is_some_and(|machine| *machine == MACHINE.to_le_bytes())
        && content.windows(MARK_OF_LINE_EDITING.len()).any(|part| part == MARK_OF_LINE_EDITING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nixpkgs_interactive_bash_is_known_by_its_name() {
        let name = |name: &str| is_interactive_bash(&format!("{}-{name}", "0".repeat(32)));
        assert!(name("bash-interactive") && name("bash-interactive-5.2p37"));
        assert!(!name("bash-5.2") && !name("bash-interactive-5.2.drv") && !name("bash-interactiveness"));
        assert!(!is_interactive_bash("bash-interactive-5.2"));
    }

    #[test]
    fn line_editing_shows_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let is_editing = |machine: u16, text: &[u8]| {
            let file = directory.path().join("bash");
            fs::write(&file, [&[0; 18][..], &machine.to_le_bytes(), text].concat()).unwrap();
            has_line_editing(&file)
        };
        assert!(is_editing(MACHINE, b"...bind [-lpsvPSVX] [-m keymap]..."));
        assert!(!is_editing(MACHINE, b"...cd [-L]..."));
        assert!(!is_editing(MACHINE + 1, b"bind [-lpsvPSVX]"));
        assert!(!has_line_editing(directory.path()));
    }
}
