//! What the new root holds, step by step: each mount with the file or directory that it needs to be mounted on.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::step::NEW_ROOT;
use super::{Access, Step, c_string};

/// What is at a place in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A directory of ours, in which more can be made.
    Directory,
    /// A file, on which another can be mounted.
    File,
    /// A symbolic link.
    Link,
    /// This directory of the host: nothing is made in there.
    OfHost(PathBuf),
    /// What the kernel or the build has filled: nothing is made in there, and no name in there can be trusted.
    Closed,
}

/// Adds steps below the new root, which is the working directory. All paths in the sandbox are written without the slash in front.
pub(super) struct Root<'a> {
    steps: &'a mut Vec<Step>,
    /// Of directories that Nix makes as needed, from here on.
    pub directory_mode: u32,
    places: HashMap<PathBuf, Place>,
}

impl<'a> Root<'a> {
    /// A root in which directories are open to their owner where nothing else is said.
    pub fn new(steps: &'a mut Vec<Step>) -> Self {
        Self { steps, directory_mode: 0o755, places: HashMap::new() }
    }

    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Mounts the root itself, on the host's, and goes into it. There it is in nobody's way: until it takes the old one's place, what has an
    /// absolute name on the host, in which nothing goes up to the root, goes on to have it.
    pub fn mount_itself(&mut self, kind: &str, options: &str) -> Result<()> {
        self.mount(kind, Path::new("/"), options)?;
        self.push(Step::ChangeDirectory(CString::new(NEW_ROOT)?));
        Ok(())
    }

    /// What was put at a place so far.
    pub fn at(&self, path: &Path) -> Option<&Place> {
        self.places.get(path)
    }

    /// Notes what is at a place without adding a step.
    pub fn note(&mut self, path: &Path, place: Place) {
        self.places.insert(path.to_owned(), place);
    }

    /// Makes a directory, unless there is one.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        if self.at(path) == Some(&Place::Directory) {
            return Ok(());
        }
        self.note(path, Place::Directory);
        let path = c_string(path.as_os_str())?;
        self.push(Step::MakeDirectory { path, mode });
        Ok(())
    }

    /// Takes from a directory that is there what its owner has no right to.
    pub fn close(&mut self, name: &str, mode: u32) -> Result<()> {
        let path = c_string(name.as_ref())?;
        self.push(Step::ChangeMode { path, mode });
        Ok(())
    }

    pub fn standard_directory(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.directory(path.as_ref(), self.directory_mode)
    }

    pub fn file(&mut self, path: &Path, mode: u32, content: Vec<u8>) -> Result<()> {
        self.note(path, Place::File);
        let path = c_string(path.as_os_str())?;
        self.push(Step::MakeFile { path, mode, content });
        Ok(())
    }

    pub fn link(&mut self, link: &OsStr, path: &Path) -> Result<()> {
        self.note(path, Place::Link);
        let path = c_string(path.as_os_str())?;
        self.push(Step::MakeSymlink { link: c_string(link)?, path });
        Ok(())
    }

    pub fn mount(&mut self, kind: &str, target: &Path, options: &str) -> Result<()> {
        self.mount_bytes(kind, target, CString::new(options)?)
    }

    /// The same with options that hold a path.
    pub fn mount_bytes(&mut self, kind: &str, target: &Path, options: CString) -> Result<()> {
        let target = c_string(target.as_os_str())?;
        self.push(Step::Mount { kind: CString::new(kind)?, target, options });
        Ok(())
    }

    /// Attaches a mount that the parent has made.
    pub fn attach(&mut self, descriptor: RawFd, target: &Path) -> Result<()> {
        let target = c_string(target.as_os_str())?;
        self.push(Step::AttachMount { descriptor, target });
        Ok(())
    }

    /// Binds a path of the host, or one below the root.
    pub fn bind(&mut self, source: &Path, target: &Path, access: Access) -> Result<()> {
        self.bind_tree(source, target, false, access)
    }

    pub fn bind_recursively(&mut self, source: &Path, target: &Path, access: Access) -> Result<()> {
        self.bind_tree(source, target, true, access)
    }

    /// Makes a mount of its own of what is there.
    pub fn bind_to_itself(&mut self, path: &Path) -> Result<()> {
        let path = c_string(path.as_os_str())?;
        self.push(Step::Bind { source: path.clone(), target: path, recursive: false, access: Access::ReadWrite });
        Ok(())
    }

    /// Binds a file on one that is made for that, unless there is one.
    pub fn bind_file(&mut self, source: &Path, target: &Path, access: Access) -> Result<()> {
        if self.at(target).is_none() {
            self.file(target, 0o644, Vec::new())?;
        }
        self.bind(source, target, access)
    }

    fn bind_tree(&mut self, source: &Path, target: &Path, recursive: bool, access: Access) -> Result<()> {
        let (source, target) = (c_string(source.as_os_str())?, c_string(target.as_os_str())?);
        self.push(Step::Bind { source, target, recursive, access });
        Ok(())
    }
}

/// An absolute path as it is called from the root.
pub(super) fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The directories above an absolute path, the root left out, from the top, as they are called from the root.
pub(super) fn parents(path: &Path) -> Vec<&Path> {
    let mut parents: Vec<_> = below_root(path).ancestors().skip(1).filter(|parent| *parent != Path::new("")).collect();
    parents.reverse();
    parents
}
