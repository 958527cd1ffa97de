//! Store paths that the sandbox has beside what the build had: the session's shell, and what `--with` asks for.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::failed_build::{FailedBuild, StoreView};
use crate::nix::store::Store;
use crate::nix::store_records::InvalidPaths;
use crate::nix::{installable, is_store_name};

/// What was added to a sandbox, and is not part of the build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Additions {
    /// What was wanted, and the build did not have.
    pub wanted: Vec<PathBuf>,
    /// What that needs, and the build did not have either.
    pub needed: Vec<PathBuf>,
    /// Directories with programs, for the end of `PATH`.
    pub search_path: Vec<PathBuf>,
    /// What was wanted, and has no such directory.
    #[serde(default)]
    pub without_programs: Vec<PathBuf>,
}

impl Additions {
    /// What comes behind a `PATH`: a colon and a directory each.
    pub fn search_path_suffix(&self) -> String {
        self.search_path.iter().map(|directory| format!(":{}", directory.display())).collect()
    }

    /// Says what is not part of the build, and what of it has no programs, a line each.
    pub fn sentences(&self) -> Vec<String> {
        let without = self.without_programs.iter();
        let without = without.map(|path| format!("{} has no bin/, so it adds nothing to PATH", path.display()));
        self.sentence().into_iter().chain(without).collect()
    }

    fn sentence(&self) -> Option<String> {
        let wanted: Vec<_> = self.wanted.iter().map(|path| path.display().to_string()).collect();
        let needed = match self.needed.len() {
            _ if wanted.is_empty() => return None,
            0 => String::new(),
            1 => " (and 1 store path that comes with it)".to_owned(),
            count => format!(" (and {count} store paths that come with it)"),
        };
        Some(format!("not part of the build: {}{needed}", wanted.join(", ")))
    }
}

impl FailedBuild {
    /// Shows the store paths `wanted`, and all that they refer to, in the sandbox.
    ///
    /// # Errors
    /// A path that the store does not have, that needs what this build is to make, or whose closure is not known.
    pub fn add_store_paths(&mut self, wanted: &[PathBuf]) -> Result<()> {
        if self.store_view == StoreView::Whole {
            return match wanted.iter().find(|path| self.store.physical(path).symlink_metadata().is_err()) {
                Some(missing) => Err(InvalidPaths(vec![missing.clone()]).into()),
                None => Ok(()),
            };
        }
        let closure = self.store.open()?.closure(wanted)?;
        self.add_closure(wanted, closure)
    }

    /// Shows the store paths that `requests` of the command line lead to, and appends their programs to `PATH`.
    ///
    /// # Errors
    /// As of [`add_store_paths`](Self::add_store_paths); or where Nix cannot make one.
    pub fn add_programs(&mut self, requests: &[impl AsRef<OsStr>]) -> Result<()> {
        for request in requests {
            let request = request.as_ref();
            let paths = match store_path_of(Path::new(request), &self.store) {
                Some(path) => vec![path],
                None => installable::build(request, &self.store)?,
            };
            self.add_store_paths(&paths)?;
            let programs: Vec<_> = paths.iter().map(|path| path.join("bin")).collect();
            let programs: Vec<_> = programs.into_iter().filter(|path| self.store.physical(path).is_dir()).collect();
            if programs.is_empty() {
                self.additions.without_programs.extend(paths);
            }
            for programs in programs {
                if !self.additions.search_path.contains(&programs) {
                    self.additions.search_path.push(programs);
                }
            }
        }
        Ok(())
    }

    /// Adds what an earlier sandbox of this build had. What the store has lost meanwhile is told in a note.
    pub fn add_again(&mut self, earlier: &Additions) {
        for path in &earlier.wanted {
            if let Err(error) = self.add_store_paths(std::slice::from_ref(path)) {
                self.notes.push(format!("{error:#}: the sandbox is without"));
            }
        }
        self.additions.search_path.clone_from(&earlier.search_path);
    }

    fn add_closure(&mut self, wanted: &[PathBuf], closure: Vec<PathBuf>) -> Result<()> {
        let StoreView::Closure { inputs, partial_outputs: _ } = &mut self.store_view else {
            return Ok(());
        };
        let outputs = self.derivation.iter().flat_map(|derivation| derivation.output_paths());
        let outputs: BTreeSet<&Path> = outputs.map(|(_, path)| path).collect();
        if let Some(output) = closure.iter().find(|path| outputs.contains(path.as_path())) {
            bail!("{} needs {}, which this build itself is to make", wanted_in_words(wanted), output.display());
        }
        let had: BTreeSet<CString> = inputs.iter().cloned().collect();
        for path in closure {
            let name = CString::new(path.file_name().unwrap_or_default().as_bytes())?;
            if !had.contains(&name) {
                inputs.push(name);
                let known =
                    if wanted.contains(&path) { &mut self.additions.wanted } else { &mut self.additions.needed };
                known.push(path);
            }
        }
        inputs.sort_unstable();
        Ok(())
    }
}

fn wanted_in_words(wanted: &[PathBuf]) -> String {
    let wanted: Vec<_> = wanted.iter().map(|path| path.display().to_string()).collect();
    wanted.join(" and ")
}

/// The store path that a path in the store is in, also by way of links such as those of a profile.
pub fn store_path_of(path: &Path, store: &Store) -> Option<PathBuf> {
    let name = file_in_store(path, store)?.strip_prefix(store.directory()).ok()?.iter().next()?.to_owned();
    is_store_name(name.as_bytes()).then(|| store.directory().join(name))
}

/// A path in the store as the store calls it, also where it is called by way of links.
pub fn file_in_store(path: &Path, store: &Store) -> Option<PathBuf> {
    if path.starts_with(store.directory()) {
        return Some(path.to_owned());
    }
    let physical = store.physical_directory();
    let physical = physical.canonicalize().unwrap_or(physical.to_owned());
    let file = path.canonicalize().ok()?;
    Some(store.directory().join(file.strip_prefix(physical).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn additions(wanted: &[&str], needed: &[&str]) -> Additions {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Additions { wanted: paths(wanted), needed: paths(needed), ..Additions::default() }
    }

    #[test]
    fn what_is_not_part_of_the_build_is_told_in_one_line() {
        assert_eq!(additions(&[], &[]).sentence(), None);
        assert_eq!(additions(&["/s/gdb"], &[]).sentence().unwrap(), "not part of the build: /s/gdb");
        let text = additions(&["/s/gdb", "/s/bash"], &["/s/glibc"]).sentence().unwrap();
        assert_eq!(text, "not part of the build: /s/gdb, /s/bash (and 1 store path that comes with it)");
    }

    #[test]
    fn a_link_leads_to_the_store_path_that_it_is_in() {
        let root = tempfile::tempdir().unwrap();
        let name = format!("{}-gdb", "0".repeat(32));
        let bin = root.path().join("nix/store").join(&name).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(&bin, root.path().join("link")).unwrap();
        let store = Store::in_root(root.path()).unwrap();
        let expected = PathBuf::from(format!("/nix/store/{name}"));
        assert_eq!(store_path_of(&root.path().join("link"), &store), Some(expected.clone()));
        assert_eq!(store_path_of(&expected.join("bin/gdb"), &store), Some(expected));
        assert_eq!(store_path_of(root.path(), &store), None);
        assert_eq!(store_path_of(Path::new("/nix/store/"), &store), None);
        assert_eq!(store_path_of(Path::new("nixpkgs#strace"), &store), None);
    }
}
