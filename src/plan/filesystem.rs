//! The steps that make the sandbox's root file system and move into it.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, statat};

use super::store_view::{self, below_root};
use super::{Access, BUILD, HostDirectories, Step, c_string, etc_files};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, Kind, StoreView};
use crate::nix::{SandboxPath, Settings, TmpfsSize};

/// Directories in `/proc` in which nothing can be written, or nothing that stays.
const READ_ONLY_IN_PROC: [&CStr; 3] = [c"pressure", c"sysvipc", c"tty"];
/// Devices that every build has.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// The device for virtual machines: a build has it where the machine has it.
const KVM: &str = "kvm";
/// Where the sandbox has something else than the build.
const OTHER_DIRECTORIES: [&str; 5] = ["bin", "dev", "etc", "proc", "tmp"];
/// Links in `/dev`, as a builder sees them.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Adds what makes the root, from the first private mount to the change into it.
pub(super) fn add_steps(
    steps: &mut Vec<Step>,
    build: &FailedBuild,
    settings: &Settings,
    caller: &Caller,
    directories: &HostDirectories,
) -> Result<()> {
    // Where Nix makes them for another user, a build cannot write to the directories around its own.
    let (root_mode, directory_mode) = match build.kind {
        Kind::MultiUser => (0o550, 0o555),
        Kind::SingleUser => (0o750, 0o755),
    };
    let mut root = Root { steps, directory_mode, made: BTreeSet::new() };
    root.push(Step::SetUmask(0));
    // The new root hides the copies in the directory that it is mounted on, but not from whom is there already.
    let scratch = directories.scratch.as_path();
    root.push(Step::ChangeDirectory(c_string(scratch.as_os_str())?));
    root.mount("tmpfs", scratch, &format!("mode={root_mode:04o}"))?;
    let below = below_root(&build.build_directory);
    if below.starts_with(below_root(build.store.directory()))
        || OTHER_DIRECTORIES.iter().any(|name| below.starts_with(name))
    {
        bail!(
            "Nix's sandbox-build-dir is {}, where the sandbox has something else; choose another with NIX_CONFIG='sandbox-build-dir = \
             /build'",
            build.build_directory.display()
        );
    }
    for parent in parents(&build.build_directory) {
        root.directory_above(scratch, parent)?;
    }
    let build_directory = scratch.join(below);
    root.made.insert(below.to_owned());
    root.push(Step::MakeDirectory { path: c_string(build_directory.as_os_str())?, mode: 0o700 });
    root.bind(Path::new(BUILD), &build_directory, Access::ReadWrite)?;
    for parent in parents(build.store.directory()) {
        root.directory_above(scratch, parent)?;
    }
    root.made.insert(below_root(build.store.directory()).to_owned());
    store_view::add_early_steps(&mut root, &build.store, &build.store_view, scratch)?;
    root.push(Step::ChangeDirectory(c_string(scratch.as_os_str())?));

    store_view::add_steps(&mut root, &build.store, &build.store_view)?;
    root.standard_directory("bin")?;
    root.directory(Path::new("etc"), 0o555)?;
    for file in etc_files::written(&build.build_directory, build.has_network) {
        root.file(&Path::new("etc").join(file.name), 0o644, file.content.into())?;
    }
    add_devices(&mut root, build, settings, caller)?;
    root.directory(Path::new("tmp"), 0o1777)?;
    if build.has_network {
        for name in etc_files::of_host() {
            root.bind_file(&Path::new("/etc").join(name), &Path::new("etc").join(name), Access::ReadOnly)?;
        }
    }
    add_sandbox_paths(&mut root, build)?;
    root.directory(Path::new("proc"), 0o555)?;
    // Before the old root goes: the kernel grants a new /proc only to whom sees a whole one already.
    root.mount("proc", Path::new("proc"), "")?;
    if caller.is_root() {
        // In a user namespace of its own a build could mount the cgroups, which are root's, and kill the host's processes.
        root.push(Step::ForbidUserNamespaces);
        shut_kernel_settings(&mut root)?;
    }
    root.push(Step::PivotRoot);
    Ok(())
}

/// Nix's own sandbox paths and the caller's. Where none of them is `/bin/sh`, the build's shell is.
fn add_sandbox_paths(root: &mut Root<'_>, build: &FailedBuild) -> Result<()> {
    const SHELL: &str = "/bin/sh";
    for (path, is_writable) in &build.sandbox_paths {
        if build.store_view == StoreView::Whole && path.target.starts_with(build.store.directory()) {
            if path.target == path.source {
                continue;
            }
            bail!(
                "{} is to be in the sandbox as {}, which is in the store, and the whole store is read-only: give it another place",
                path.source.display(),
                path.target.display()
            );
        }
        let access = if *is_writable { Access::ReadWrite } else { Access::ReadOnly };
        root.host_path(path, &build.store.physical(&path.source), access)?;
    }
    if !build.sandbox_paths.iter().any(|(path, _)| path.target == Path::new(SHELL)) {
        root.bind_file(&build.shell.file, below_root(Path::new(SHELL)), Access::ReadOnly)?;
    }
    Ok(())
}

fn add_devices(root: &mut Root<'_>, build: &FailedBuild, settings: &Settings, caller: &Caller) -> Result<()> {
    // A device can be used through a read-only mount; what cannot be done is to change its mode or owner. Only root owns the
    // host's devices, so only from root they have to be kept.
    let access = if caller.is_root() { Access::ReadOnly } else { Access::ReadWrite };
    root.standard_directory("dev")?;
    let host_devices = Path::new("/dev");
    // The feature is there where who asks may use the device. A daemon always may.
    let has_kvm = (settings.has_feature(KVM) || build.kind == Kind::MultiUser) && host_devices.join(KVM).exists();
    for device in DEVICES.into_iter().chain(has_kvm.then_some(KVM)) {
        root.bind_file(&host_devices.join(device), &Path::new("dev").join(device), access)?;
    }
    let shared_memory = Path::new("dev/shm");
    root.directory(shared_memory, 0o1777)?;
    if settings.sandbox_dev_shm_size == TmpfsSize::default() {
        // A mount of its own, as in Nix, but of the root's tmpfs, which has the same limit: half of the memory.
        root.bind(shared_memory, shared_memory, Access::ReadWrite)?;
    } else {
        root.mount("tmpfs", shared_memory, &format!("size={}", settings.sandbox_dev_shm_size.as_str()))?;
    }
    // An instance of its own, as Nix mounts it: through the host's, a build could read and write the caller's other terminals.
    root.directory(Path::new("dev/pts"), 0o755)?;
    root.mount("devpts", Path::new("dev/pts"), "newinstance,mode=0620,ptmxmode=0666")?;
    root.bind_file(Path::new("dev/pts/ptmx"), Path::new("dev/ptmx"), Access::ReadWrite)?;
    for (name, link) in DEVICE_LINKS {
        root.link(link.as_ref(), &Path::new("dev").join(name))?;
    }
    Ok(())
}

/// Makes everything in `/proc` that is not a process read-only.
///
/// The files there ask for no capability, only for the host's root as owner: as root, a build could set
/// `kernel.core_pattern` or press a magic SysRq key.
fn shut_kernel_settings(root: &mut Root<'_>) -> Result<()> {
    let cannot_list = "cannot list /proc";
    let proc =
        open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(cannot_list)?;
    for entry in Dir::read_from(&proc).context(cannot_list)? {
        let entry = entry.context(cannot_list)?;
        let name = entry.file_name();
        let first = name.to_bytes().first().copied().unwrap_or_default();
        // «.» and «..», and the processes, of which there may be many.
        if first == b'.' || first.is_ascii_digit() {
            continue;
        }
        let can_be_written = match entry.file_type() {
            FileType::Directory => !READ_ONLY_IN_PROC.contains(&name),
            FileType::RegularFile => {
                let status = statat(&proc, name, AtFlags::SYMLINK_NOFOLLOW).context(cannot_list)?;
                Mode::from_raw_mode(status.st_mode).intersects(Mode::WUSR | Mode::WGRP | Mode::WOTH)
            }
            _ => false,
        };
        if can_be_written {
            let path = c_string(Path::new("proc").join(OsStr::from_bytes(name.to_bytes())).as_os_str())?;
            root.push(Step::Bind { source: path.clone(), target: path, recursive: false, access: Access::ReadOnly });
        }
    }
    Ok(())
}

/// The directories above `path`, the root left out, from the top.
fn parents(path: &Path) -> Vec<&Path> {
    let mut parents: Vec<_> = path.ancestors().skip(1).filter(|parent| parent.parent().is_some()).collect();
    parents.reverse();
    parents
}

/// Adds steps below the new root, a target with each mount.
pub(super) struct Root<'a> {
    steps: &'a mut Vec<Step>,
    /// Of directories that Nix makes as needed.
    directory_mode: u32,
    /// What there is already, as called from the root.
    made: BTreeSet<PathBuf>,
}

impl Root<'_> {
    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(super) fn directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        self.made.insert(path.to_owned());
        self.push(Step::MakeDirectory { path: c_string(path.as_os_str())?, mode });
        Ok(())
    }

    fn standard_directory(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.directory(path.as_ref(), self.directory_mode)
    }

    /// Before the new root is the working directory.
    fn directory_above(&mut self, scratch: &Path, path: &Path) -> Result<()> {
        if !self.made.insert(below_root(path).to_owned()) {
            return Ok(());
        }
        let path = c_string(scratch.join(below_root(path)).as_os_str())?;
        self.push(Step::MakeDirectory { path, mode: self.directory_mode });
        Ok(())
    }

    fn file(&mut self, path: &Path, mode: u32, content: Vec<u8>) -> Result<()> {
        self.made.insert(path.to_owned());
        self.push(Step::MakeFile { path: c_string(path.as_os_str())?, mode, content });
        Ok(())
    }

    pub(super) fn link(&mut self, link: &OsStr, path: &Path) -> Result<()> {
        self.made.insert(path.to_owned());
        self.push(Step::MakeSymlink { link: c_string(link)?, path: c_string(path.as_os_str())? });
        Ok(())
    }

    fn mount(&mut self, kind: &str, target: &Path, options: &str) -> Result<()> {
        let (kind, options) = (CString::new(kind)?, CString::new(options)?);
        self.push(Step::Mount { kind, target: c_string(target.as_os_str())?, options });
        Ok(())
    }

    pub(super) fn bind(&mut self, source: &Path, target: &Path, access: Access) -> Result<()> {
        self.bind_tree(source, target, false, access)
    }

    pub(super) fn bind_recursively(&mut self, source: &Path, target: &Path, access: Access) -> Result<()> {
        self.bind_tree(source, target, true, access)
    }

    fn bind_tree(&mut self, source: &Path, target: &Path, recursive: bool, access: Access) -> Result<()> {
        let (source, target) = (c_string(source.as_os_str())?, c_string(target.as_os_str())?);
        self.push(Step::Bind { source, target, recursive, access });
        Ok(())
    }

    /// Binds a file on one that is made for that, unless there is one.
    pub(super) fn bind_file(&mut self, source: &Path, target: &Path, access: Access) -> Result<()> {
        if !self.made.contains(target) {
            self.file(target, 0o644, Vec::new())?;
        }
        self.bind(source, target, access)
    }

    /// Shows a path of the host, as Nix does: a file or a directory with what is mounted below it; a link as the same link.
    fn host_path(&mut self, path: &SandboxPath, source: &Path, access: Access) -> Result<()> {
        let status = match fs::symlink_metadata(source) {
            Ok(status) => status,
            Err(_) if path.optional => return Ok(()),
            Err(error) => {
                return Err(anyhow!(
                    "{} is to be in the sandbox as {}, and there is no such path: {error}; with a «?» behind it it may be missing",
                    path.source.display(),
                    path.target.display()
                ));
            }
        };
        let target = below_root(&path.target);
        for parent in parents(&path.target) {
            let parent = below_root(parent);
            if !self.made.contains(parent) {
                self.standard_directory(parent)?;
            }
        }
        if status.is_symlink() {
            let link = fs::read_link(source).with_context(|| format!("cannot read the link {}", source.display()))?;
            return if self.made.contains(target) { Ok(()) } else { self.link(link.as_os_str(), target) };
        }
        if !status.is_dir() {
            return self.bind_file(source, target, access);
        }
        if !self.made.contains(target) {
            self.standard_directory(target)?;
        }
        self.bind_recursively(source, target, access)
    }
}
