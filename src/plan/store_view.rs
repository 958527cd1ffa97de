//! The steps that make the sandbox's store.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, readlinkat, statat};

use super::root::{Place, Root, below_root};
use super::{Access, HostDirectories, OUTPUTS, STORE_MODE, Step, c_string};
use crate::failed_build::StoreView;
use crate::nix::store::Store;

/// Adds the store. Where `directories` has outputs, the store's own directory is one on the disk, even if there is nothing in it.
pub(super) fn add_steps(
    root: &mut Root<'_>,
    store: &Store,
    view: &StoreView,
    directories: &HostDirectories,
) -> Result<()> {
    if let StoreView::Closure { inputs: _, partial_outputs } = view {
        let directory = below_root(store.directory());
        root.directory(directory, STORE_MODE)?;
        // A mount of its own, as in Nix. What the failed build left is in it and no mount, so that it can be renamed and removed.
        if partial_outputs.is_empty() && !directories.has_outputs {
            root.bind_to_itself(directory)?;
        } else {
            root.bind(&directories.scratch.join(OUTPUTS), directory, Access::ReadWrite)?;
        }
        for name in partial_outputs {
            root.note(&directory.join(OsStr::from_bytes(name.to_bytes())), Place::Closed);
        }
    }
    // What is bound from a read-only mount is read-only, for one system call instead of one for each store path, and whoever comes
    // to the store on another way finds it read-only as well. This mount goes with the old root.
    let physical = store.physical_directory();
    let physical = physical.canonicalize().with_context(|| format!("cannot open the store {}", physical.display()))?;
    let itself = c_string(physical.as_os_str())?;
    root.push(Step::Bind { source: itself.clone(), target: itself, recursive: true, access: Access::ReadOnly });
    let directory = below_root(store.directory());
    match view {
        StoreView::Whole => {
            root.directory(directory, 0o755)?;
            root.bind_recursively(&physical, directory, Access::ReadOnly)?;
            root.note(directory, Place::OfHost(store.physical_directory().to_owned()));
        }
        StoreView::Closure { inputs, partial_outputs: _ } => {
            let handle = open_directory(&physical)?;
            for name in inputs {
                let below = OsStr::from_bytes(name.to_bytes());
                let source = physical.join(below);
                let target = directory.join(below);
                show(root, &handle, name, &source, &target)?;
                if root.at(&target) != Some(&Place::Link) {
                    root.note(&target, Place::OfHost(store.physical_directory().join(below)));
                }
            }
        }
    }
    Ok(())
}

/// Makes the store path `name`, which is also `source`, appear at `target`: a link again as a link, anything else as a mount.
fn show(root: &mut Root<'_>, store: &OwnedFd, name: &CString, source: &Path, target: &Path) -> Result<()> {
    let cannot_look = || format!("cannot look at the store path {}", name.to_string_lossy());
    let status = statat(store, name, AtFlags::SYMLINK_NOFOLLOW).with_context(cannot_look)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Symlink => {
            let link = readlinkat(store, name, Vec::new()).with_context(cannot_look)?;
            root.link(OsStr::from_bytes(link.to_bytes()), target)
        }
        FileType::Directory => {
            root.directory(target, 0o755)?;
            root.bind(source, target, Access::AsSource)
        }
        _ => root.bind_file(source, target, Access::AsSource),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open the store {}", path.display()))
}
