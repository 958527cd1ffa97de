//! The steps that make the sandbox's root file system and move into it.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, statat};

use super::{Access, HostDirectories, Step, c_string, etc_files};
use crate::caller::Caller;
use crate::kept_build::KeptBuild;

/// Nix's database, profiles and sockets.
const NIX_STATE: &str = "/nix/var";
/// Directories in `/proc` in which nothing can be written, or nothing that stays.
const READ_ONLY_IN_PROC: [&CStr; 3] = [c"pressure", c"sysvipc", c"tty"];
/// Devices that every build has.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// The device for virtual machines: a build has it where the machine has it.
const KVM: &str = "kvm";
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
    kept: &KeptBuild,
    caller: &Caller,
    directories: &HostDirectories,
) -> Result<()> {
    let mut root = Root { steps };
    root.steps.push(Step::SetUmask(0));
    // The new root hides the copy in the directory that it is mounted on, but not from whom is there already.
    root.steps.push(Step::ChangeDirectory(c_string(directories.build.as_os_str())?));
    root.mount("tmpfs", directories.scratch.as_os_str(), "mode=0750")?;
    let build = c_string(directories.scratch.join("build").as_os_str())?;
    root.steps.push(Step::MakeDirectory { path: build.clone(), mode: 0o700 });
    root.steps.push(Step::Bind { source: c".".into(), target: build, recursive: false, access: Access::ReadWrite });
    root.steps.push(Step::ChangeDirectory(c_string(directories.scratch.as_os_str())?));

    // Made early: it is the empty directory that hides what no builder sees.
    root.directory("proc", 0o555)?;
    root.directory("nix", 0o755)?;
    root.bind_recursively("/nix", "nix", Access::ReadOnly)?;
    if Path::new(NIX_STATE).is_dir() {
        // A read-only mount keeps nobody from the Nix daemon's socket in there.
        root.bind(Path::new("proc"), NIX_STATE.trim_start_matches('/'), Access::ReadOnly)?;
    }
    root.directory("bin", 0o755)?;
    root.bind_file(&kept.shell_file, "bin/sh", Access::ReadOnly)?;
    root.directory("etc", 0o555)?;
    for file in etc_files::all() {
        root.file(&format!("etc/{}", file.name), 0o644, file.content.into())?;
    }
    add_devices(&mut root, caller)?;
    root.directory("tmp", 0o1777)?;
    // Before the old root goes: the kernel grants a new /proc only to whom sees a whole one already.
    root.mount("proc", "proc".as_ref(), "")?;
    if caller.is_root() {
        // In a user namespace of its own a build could mount the cgroups, which are root's, and kill the host's processes.
        root.steps.push(Step::ForbidUserNamespaces);
        shut_kernel_settings(&mut root)?;
    }
    root.steps.push(Step::PivotRoot);
    Ok(())
}

fn add_devices(root: &mut Root<'_>, caller: &Caller) -> Result<()> {
    // A device can be used through a read-only mount; what cannot be done is to change its mode or owner. Only root owns the
    // host's devices, so only from root they have to be kept.
    let access = if caller.is_root() { Access::ReadOnly } else { Access::ReadWrite };
    root.directory("dev", 0o755)?;
    let host_devices = Path::new("/dev");
    let kvm = host_devices.join(KVM).exists().then_some(KVM);
    for device in DEVICES.into_iter().chain(kvm) {
        root.bind_file(&host_devices.join(device), &format!("dev/{device}"), access)?;
    }
    root.directory("dev/shm", 0o1777)?;
    // A mount of its own, as in Nix, but of the root's tmpfs, which has the same limit: half of the memory.
    root.bind(Path::new("dev/shm"), "dev/shm", Access::ReadWrite)?;
    // An instance of its own, as Nix mounts it: through the host's, a build could read and write the caller's other terminals.
    root.directory("dev/pts", 0o755)?;
    root.mount("devpts", "dev/pts".as_ref(), "newinstance,mode=0620,ptmxmode=0666")?;
    root.bind_file(Path::new("dev/pts/ptmx"), "dev/ptmx", Access::ReadWrite)?;
    for (name, link) in DEVICE_LINKS {
        root.link(link, &format!("dev/{name}"))?;
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
            root.steps.push(Step::Bind {
                source: path.clone(),
                target: path,
                recursive: false,
                access: Access::ReadOnly,
            });
        }
    }
    Ok(())
}

/// Adds steps below the new root, a target with each mount.
struct Root<'a> {
    steps: &'a mut Vec<Step>,
}

impl Root<'_> {
    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let path = CString::new(path)?;
        self.steps.push(Step::MakeDirectory { path, mode });
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<()> {
        let path = CString::new(path)?;
        self.steps.push(Step::MakeFile { path, mode, content });
        Ok(())
    }

    fn link(&mut self, link: &str, path: &str) -> Result<()> {
        let (link, path) = (CString::new(link)?, CString::new(path)?);
        self.steps.push(Step::MakeSymlink { link, path });
        Ok(())
    }

    fn mount(&mut self, kind: &str, target: &OsStr, options: &str) -> Result<()> {
        self.steps.push(Step::Mount {
            kind: CString::new(kind)?,
            target: c_string(target)?,
            options: CString::new(options)?,
        });
        Ok(())
    }

    fn bind(&mut self, source: &Path, target: &str, access: Access) -> Result<()> {
        self.steps.push(Step::Bind {
            source: c_string(source.as_os_str())?,
            target: CString::new(target)?,
            recursive: false,
            access,
        });
        Ok(())
    }

    fn bind_file(&mut self, source: &Path, target: &str, access: Access) -> Result<()> {
        self.file(target, 0o644, Vec::new())?;
        self.bind(source, target, access)
    }

    fn bind_recursively(&mut self, source: &str, target: &str, access: Access) -> Result<()> {
        self.steps.push(Step::Bind {
            source: CString::new(source)?,
            target: CString::new(target)?,
            recursive: true,
            access,
        });
        Ok(())
    }
}
