//! The steps that show paths of the host: Nix's `sandbox-paths`, and the caller's `--bind`.
//!
//! Nothing is ever made on the host: a place to mount on is made in a directory of ours, or has to be there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Access;
use super::root::{Place, Root, below_root, parents};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, HostAccess, HostPath, Kind};

/// Where programs look for a shell.
const SHELL: &str = "bin/sh";

/// Adds them. Where none of them is `/bin/sh`, the build's shell is.
pub(super) fn add_steps(root: &mut Root<'_>, build: &FailedBuild, caller: &Caller) -> Result<()> {
    for wanted in &build.host_paths {
        show(root, wanted, build, caller).with_context(|| {
            let path = &wanted.path;
            format!("{} cannot be shown as {} in the sandbox", path.source.display(), path.target.display())
        })?;
    }
    let shell = Path::new(SHELL);
    // Whoever shows his own /bin has in it what he wants.
    if root.at(shell).is_none() && root.at(Path::new("bin")) == Some(&Place::Directory) {
        root.bind_file(&without_links(&build.shell.file)?, shell, Access::ReadOnly)?;
    }
    Ok(())
}

/// The path as it has to be bound. The new root is mounted on the host's, so the child would come into it by a link, or a path, that goes up
/// to the root: `../run/systemd/resolve/stub-resolv.conf` from `/etc`.
pub(super) fn without_links(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot look at {}", path.display()))
}

/// Shows one as Nix does: a file, or a directory with what is mounted below it; a link as the same link.
fn show(root: &mut Root<'_>, wanted: &HostPath, build: &FailedBuild, caller: &Caller) -> Result<()> {
    let path = &wanted.path;
    let is_in_store = path.source.starts_with(build.store.directory());
    // Nix takes the source as it stands, also where the store is elsewhere.
    let source = if path.source.exists() { path.source.clone() } else { build.store.physical(&path.source) };
    let target = below_root(&path.target);
    let status = match fs::symlink_metadata(&source) {
        Ok(status) => status,
        Err(_) if path.optional => return Ok(()),
        Err(error) => bail!("{error}; with a «?» behind it it may be missing"),
    };
    let access = access(wanted, is_in_store, build, caller)?;
    let there = place_at(root, target)?;
    let is_same_link = status.is_symlink() && path.target == path.source && there == Some(Place::Link);
    if is_in_store && (is_same_link || there == Some(Place::OfHost(source.clone()))) {
        return Ok(());
    }
    if build.store.directory().starts_with(&path.target) {
        bail!("the store is there");
    }
    let is_directory = match there {
        None if status.is_symlink() => return root.link(fs::read_link(&source)?.as_os_str(), target),
        None => status.is_dir(),
        Some(_) => fs::metadata(&source)?.is_dir(),
    };
    match there {
        None if is_directory => root.standard_directory(target)?,
        None => root.file(target, 0o644, Vec::new())?,
        Some(Place::File) if !is_directory => {}
        Some(Place::Directory) if is_directory => {}
        Some(Place::OfHost(place)) if place.is_dir() == is_directory => {}
        Some(Place::File | Place::OfHost(_)) if is_directory => bail!("a file is there already"),
        Some(Place::Directory | Place::OfHost(_) | Place::File) => bail!("a directory is there already"),
        Some(Place::Link) => bail!("a link is there already"),
        Some(Place::Closed) => bail!("it is what makes the sandbox"),
    }
    if is_directory {
        root.bind_recursively(&without_links(&source)?, target, access)?;
        root.note(target, Place::OfHost(source));
        return Ok(());
    }
    root.bind(&without_links(&source)?, target, access)
}

/// Makes the directories above `target`, and tells what is there: below a directory of the host, [`Place::OfHost`] of what that has.
fn place_at(root: &mut Root<'_>, target: &Path) -> Result<Option<Place>> {
    if let Some(place) = root.at(target) {
        return Ok(Some(place.clone()));
    }
    let parents = parents(target);
    let known = parents.iter().rposition(|parent| root.at(parent).is_some());
    let (above, to_make) = parents.split_at(known.map_or(0, |known| known + 1));
    if let Some(parent) = above.last() {
        match root.at(parent) {
            Some(Place::Directory) | None => {}
            Some(Place::OfHost(directory)) => {
                return place_on_host(directory, target.strip_prefix(parent).unwrap_or(target)).map(Some);
            }
            Some(Place::Closed) => bail!("nothing can be put into /{}", parent.display()),
            Some(Place::File | Place::Link) => bail!("/{} is no directory in the sandbox", parent.display()),
        }
    }
    for parent in to_make {
        root.standard_directory(parent)?;
    }
    Ok(None)
}

/// What a directory of the host has at `below`, to be mounted on. The kernel would follow a link out of the sandbox.
fn place_on_host(directory: &Path, below: &Path) -> Result<Place> {
    let mut place = directory.to_owned();
    for name in below.iter().map(Path::new) {
        place.push(name);
        match fs::symlink_metadata(&place) {
            Ok(status) if status.is_symlink() => bail!("on the way there, {} is a link", place.display()),
            Ok(_) => {}
            Err(_) => bail!("there is no {} to mount it on, and on the host nothing is made", place.display()),
        }
    }
    Ok(Place::OfHost(place))
}

/// Nix mounts its own as the host's modes permit. A build user owns nothing of the host's; the caller does, and so what a build user
/// made is kept from writing, and every build from writing as root.
fn access(wanted: &HostPath, is_in_store: bool, build: &FailedBuild, caller: &Caller) -> Result<Access> {
    Ok(match wanted.access {
        HostAccess::Writable if is_in_store => bail!("the store stays as it is: --bind shows it, read-only"),
        HostAccess::Writable => Access::ReadWrite,
        HostAccess::AsWithNix if !is_in_store && build.kind == Kind::SingleUser && !caller.is_root() => {
            Access::ReadWrite
        }
        HostAccess::AsWithNix | HostAccess::ReadOnly => Access::ReadOnly,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn on_the_host_a_place_has_to_be_there_and_no_link_on_the_way() {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir(host.path().join("real")).unwrap();
        fs::write(host.path().join("real/file"), "").unwrap();
        symlink("real", host.path().join("link")).unwrap();
        let mut steps = Vec::new();
        let mut root = Root::new(&mut steps);
        root.note(Path::new("opt"), Place::OfHost(host.path().to_owned()));
        let mut place = |target: &str| place_at(&mut root, Path::new(target));
        let file = host.path().join("real/file");
        assert_eq!(place("opt/real/file").unwrap(), Some(Place::OfHost(file)));
        assert!(place("opt/real/new").unwrap_err().to_string().contains("on the host nothing is made"));
        assert!(place("opt/link/file").unwrap_err().to_string().contains("is a link"));
        assert!(steps.is_empty());
    }

    #[test]
    fn directories_are_made_in_our_own_and_nowhere_else() {
        let mut steps = Vec::new();
        let mut root = Root::new(&mut steps);
        root.standard_directory("etc").unwrap();
        root.note(Path::new("etc/hosts"), Place::File);
        root.note(Path::new("build"), Place::Closed);
        root.note(Path::new("dev/fd"), Place::Link);
        assert_eq!(place_at(&mut root, Path::new("etc/deep/er/file")).unwrap(), None);
        assert_eq!(place_at(&mut root, Path::new("etc/hosts")).unwrap(), Some(Place::File));
        for closed in ["build/x", "dev/fd/7", "etc/hosts/x"] {
            assert!(place_at(&mut root, Path::new(closed)).is_err(), "{closed}");
        }
        let words: Vec<_> = steps.iter().map(ToString::to_string).collect();
        let made =
            ["etc", "etc/deep", "etc/deep/er"].map(|path| format!("make the directory sandbox:/{path} (mode 0755)"));
        assert_eq!(words, made);
    }
}
