//! What a build has put into the sandbox's store, once the sandbox is gone.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::fs::{Dir, Mode, openat};
use rustix::io::Errno;

use super::remove::remove_entry;
use super::{DIRECTORY, OUTPUTS, Scratch};
use crate::nix::is_store_name;

impl Scratch {
    /// Where the outputs are after a run, each under its store path's name. Everything there was made by untrusted code.
    pub fn outputs(&self) -> PathBuf {
        self.path.join(OUTPUTS)
    }

    /// The same, opened; nothing where they were never on the disk.
    pub(crate) fn open_outputs(&self) -> Option<OwnedFd> {
        openat(&self.handle, OUTPUTS, DIRECTORY, Mode::empty()).ok()
    }

    /// Makes the store that a sandbox has left ready for another sandbox with the same `inputs`, names of store paths: removes what they
    /// were mounted on, or what has come into its place. Returns the names of the other store paths that are there.
    ///
    /// Without [`keep_outputs`](Self::keep_outputs) there may be no such store, and no name.
    ///
    /// # Errors
    /// The first thing that resists.
    pub fn take_over_outputs(&self, inputs: &[CString]) -> Result<Vec<CString>> {
        let store = match openat(&self.handle, OUTPUTS, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            store => store.context("cannot open the outputs of the sandbox")?,
        };
        for input in inputs {
            remove_entry(&store, input)
                .with_context(|| format!("cannot remove {} from the sandbox's store", input.to_string_lossy()))?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&store).context("cannot list the outputs of the sandbox")? {
            let name = entry.context("cannot list the outputs of the sandbox")?.file_name().to_owned();
            if is_store_name(name.to_bytes()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn name(letter: char) -> CString {
        CString::new(format!("{}-x", letter.to_string().repeat(32))).unwrap()
    }

    #[test]
    fn mount_points_go_and_outputs_stay() {
        let parent = TempDir::new().unwrap();
        let scratch = Scratch::create(parent.path(), None).unwrap();
        assert!(scratch.take_over_outputs(&[name('a')]).unwrap().is_empty());
        let store = scratch.outputs();
        let path = |letter| store.join(name(letter).to_str().unwrap());
        fs::create_dir_all(path('a')).unwrap();
        fs::write(path('b'), "").unwrap();
        symlink("nowhere", path('c')).unwrap();
        fs::create_dir_all(path('d').join("bin")).unwrap();
        fs::write(store.join("no store path"), "").unwrap();
        let inputs = ['a', 'b', 'c', 'f'].map(name);
        assert_eq!(scratch.take_over_outputs(&inputs).unwrap(), [name('d')]);
        assert!(!path('a').exists() && !path('b').exists() && path('c').symlink_metadata().is_err());
        fs::create_dir_all(path('a').join("full")).unwrap();
        assert_eq!(scratch.take_over_outputs(&inputs).unwrap(), [name('d')]);
        assert!(!path('a').exists());
        scratch.remove().unwrap();
    }
}
