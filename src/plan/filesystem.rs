//! The steps that make the sandbox's root file system and move into it.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, statat};

use super::entry::{Entry, SESSION_DIRECTORY, SESSION_SCRIPT, SESSION_STATE, session_script};
use super::root::{Place, Root, below_root, parents};
use super::step::NEW_ROOT;
use super::{
    Access, BUILD, BuildMount, HostDirectories, KeptMount, OVERLAY_LOWER, OVERLAY_WORK, SESSION, Step, c_string,
    etc_files, host_paths, store_view,
};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, Kind};
use crate::nix::{Settings, TmpfsSize};

/// Directories in `/proc` in which nothing can be written, or nothing that stays.
const READ_ONLY_IN_PROC: [&CStr; 3] = [c"pressure", c"sysvipc", c"tty"];
/// Devices that every build has.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// The device for virtual machines: a build has it where the machine has it.
const KVM: &str = "kvm";
/// Where the host has them.
const HOST_DEVICES: &str = "/dev";
/// What processes share memory by.
const SHARED_MEMORY: &str = "dev/shm";
/// Of the root.
const ROOT_MODE: u32 = 0o750;
/// Of a directory that Nix makes as needed, where the build is not its owner.
const CLOSED: u32 = 0o555;
/// Where the sandbox has something else than the build.
const OTHER_DIRECTORIES: [&str; 5] = ["bin", "dev", "etc", "proc", "tmp"];
/// Links in `/dev`, as a builder sees them.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Adds the new root, with what is in it whatever the build and however Nix was set: all that can be made before that is known. What a
/// multi-user Nix closes is still open.
pub(super) fn begin_root<'a>(steps: &'a mut Vec<Step>, caller: &Caller) -> Result<Root<'a>> {
    let mut root = Root::new(steps);
    root.push(Step::KeepMountsFromHost);
    root.push(Step::SetUmask(0));
    root.mount_itself("tmpfs", &format!("mode={ROOT_MODE:04o},size={}", TmpfsSize::default().as_str()))?;
    for name in ["bin", "dev"] {
        root.standard_directory(name)?;
    }
    root.directory(Path::new("etc"), 0o555)?;
    for device in DEVICES {
        root.bind_file(
            &Path::new(HOST_DEVICES).join(device),
            &Path::new("dev").join(device),
            access_to_devices(caller),
        )?;
    }
    root.directory(Path::new(SHARED_MEMORY), 0o1777)?;
    // An instance of its own, as Nix mounts it: through the host's, a build could read and write the caller's other terminals.
    root.directory(Path::new("dev/pts"), 0o755)?;
    root.mount("devpts", Path::new("dev/pts"), "newinstance,mode=0620,ptmxmode=0666")?;
    root.bind_file(Path::new("dev/pts/ptmx"), Path::new("dev/ptmx"), Access::ReadWrite)?;
    for (name, link) in DEVICE_LINKS {
        root.link(link.as_ref(), &Path::new("dev").join(name))?;
    }
    root.directory(Path::new("tmp"), 0o1777)?;
    root.directory(Path::new("proc"), 0o555)?;
    Ok(root)
}

/// Adds what makes the root, from the first mount to the change into it.
pub(super) fn add_steps(
    steps: &mut Vec<Step>,
    build: &FailedBuild,
    settings: &Settings,
    caller: &Caller,
    directories: &HostDirectories,
    entry: Entry<'_>,
) -> Result<()> {
    let mut root = begin_root(steps, caller)?;
    // Not before: until now what is mounted or unmounted on the host, as by looking at what is to be shown, is so here too.
    root.push(Step::MakeMountsPrivate);
    let file_mode = match build.kind {
        Kind::SingleUser => 0o644,
        // What Nix makes as another user, a build cannot write to.
        Kind::MultiUser => {
            root.directory_mode = CLOSED;
            0o444
        }
    };
    let build_directory = below_root(&build.build_directory);
    let store = below_root(build.store.directory());
    if build_directory.starts_with(store)
        || store.starts_with(build_directory)
        || OTHER_DIRECTORIES.iter().any(|name| build_directory.starts_with(name))
    {
        bail!(
            "Nix's sandbox-build-dir is {}, where the sandbox has something else; choose another with NIX_CONFIG='sandbox-build-dir = \
             /build'",
            build.build_directory.display()
        );
    }
    for parent in parents(&build.build_directory) {
        root.standard_directory(parent)?;
    }
    root.directory(build_directory, 0o700)?;
    mount_build(&mut root, directories, build_directory)?;
    if let Entry::Session(session) = entry {
        let directory = below_root(Path::new(SESSION_DIRECTORY));
        let state = directory.join(SESSION_STATE);
        root.directory(directory, 0o755)?;
        root.file(&directory.join(SESSION_SCRIPT), 0o444, session_script(build, session).into())?;
        root.directory(&state, 0o700)?;
        root.bind(&directories.scratch.join(SESSION), &state, Access::ReadWrite)?;
        root.note(directory, Place::Closed);
    }
    for parent in parents(build.store.directory()) {
        root.standard_directory(parent)?;
    }
    if build.kind == Kind::MultiUser {
        root.close(".", 0o550)?;
        for name in ["bin", "dev"] {
            root.close(name, CLOSED)?;
        }
    }
    store_view::add_steps(&mut root, &build.store, &build.store_view, directories)?;
    for file in etc_files::written(&build.build_directory, build.has_network) {
        root.file(&Path::new("etc").join(file.name), file_mode, file.content.into())?;
    }
    add_devices(&mut root, build, settings, caller)?;
    if build.has_network {
        for name in etc_files::of_host() {
            let source = host_paths::without_links(&Path::new("/etc").join(name))?;
            root.bind_file(&source, &Path::new("etc").join(name), Access::ReadOnly)?;
        }
    }
    for closed in [build_directory, Path::new("proc"), Path::new("dev/pts")] {
        root.note(closed, Place::Closed);
    }
    host_paths::add_steps(&mut root, build, caller)?;
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

fn mount_build(root: &mut Root<'_>, directories: &HostDirectories, target: &Path) -> Result<()> {
    let scratch = directories.scratch.as_path();
    let lower = match &directories.build {
        BuildMount::Copy => return root.bind(&scratch.join(BUILD), target, Access::ReadWrite),
        BuildMount::InPlace(KeptMount::Path(path)) => return root.bind(path, target, Access::ReadWrite),
        BuildMount::InPlace(KeptMount::IdMapped(descriptor)) => return root.attach(*descriptor, target),
        BuildMount::Overlay { lower } => lower,
    };
    // The options have little room, so what can be is called from there.
    root.push(Step::ChangeDirectory(c_string(scratch.as_os_str())?));
    let options = match lower {
        KeptMount::Path(path) => overlay_options(path)?,
        KeptMount::IdMapped(descriptor) => {
            root.attach(*descriptor, &Path::new(".").join(OVERLAY_LOWER))?;
            overlay_options(Path::new(OVERLAY_LOWER))?
        }
    };
    root.mount_bytes("overlay", &Path::new(NEW_ROOT).join(target), options)?;
    root.push(Step::ChangeDirectory(CString::new(NEW_ROOT)?));
    Ok(())
}

/// The options of an overlay, as [`overlayfs`] explains them: `userxattr` is for who is not the host's root, `index=off` lets the same
/// upper layer be used again, and nothing has to reach a disk, since all of it goes with the sandbox. Directories of the lower layer
/// cannot be renamed: the kernel allows `redirect_dir` to the host's root only.
///
/// [`overlayfs`]: https://docs.kernel.org/filesystems/overlayfs.html
fn overlay_options(lower: &Path) -> Result<CString> {
    let mut options = b"userxattr,index=off,volatile,upperdir=".to_vec();
    options.extend_from_slice(format!("{BUILD},workdir={OVERLAY_WORK},lowerdir=").as_bytes());
    for byte in lower.as_os_str().as_bytes() {
        // Between options stand commas, and between lower layers colons.
        if matches!(byte, b'\\' | b',' | b':') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    Ok(CString::new(options)?)
}

/// A device can be used through a read-only mount; what cannot be done is to change its mode or owner. Only root owns the host's devices,
/// so only from root they have to be kept.
fn access_to_devices(caller: &Caller) -> Access {
    if caller.is_root() { Access::ReadOnly } else { Access::ReadWrite }
}

/// Adds to `/dev` what not every build has.
fn add_devices(root: &mut Root<'_>, build: &FailedBuild, settings: &Settings, caller: &Caller) -> Result<()> {
    let kvm = Path::new(HOST_DEVICES).join(KVM);
    // The feature is there where who asks may use the device. A daemon always may.
    if (settings.has_feature(KVM) || build.kind == Kind::MultiUser) && kvm.exists() {
        root.bind_file(&kvm, &Path::new("dev").join(KVM), access_to_devices(caller))?;
    }
    let shared_memory = Path::new(SHARED_MEMORY);
    if settings.sandbox_dev_shm_size == TmpfsSize::default() {
        // A mount of its own, as in Nix, but of the root's tmpfs, which has the same limit: half of the memory.
        root.bind_to_itself(shared_memory)
    } else {
        root.mount("tmpfs", shared_memory, &format!("size={}", settings.sandbox_dev_shm_size.as_str()))
    }
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
