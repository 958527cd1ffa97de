//! The kept directory as it looks when another user's files are the caller's: a mount of it that maps their owner.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{clone3, id_map};
use crate::caller::Caller;
use crate::plan::{IdMap, IdMaps};
use crate::sys;

/// A mount that is nowhere attached yet: the child does that, in the sandbox's mount namespace. It goes with this value and with the
/// sandbox. See [`mount_setattr(2)`], «ID-mapped mounts».
///
/// [`mount_setattr(2)`]: https://man7.org/linux/man-pages/man2/mount_setattr.2.html
#[derive(Debug)]
pub struct IdMappedMount {
    mount: OwnedFd,
}

impl IdMappedMount {
    /// Makes one of `directory`, in which all that belongs to `owner`, a user and a group, belongs to `caller`. Only root may.
    ///
    /// # Errors
    /// Where the file system cannot, the kernel is older than Linux 5.12, or we are no real root.
    pub fn of(directory: &OwnedFd, owner: (u32, u32), caller: &Caller, writable: bool) -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(directory, c"", flags).context("it cannot be mounted once more")?;
        let maps = IdMaps {
            uid: IdMap { inside: owner.0, outside: caller.uid.as_raw() },
            gid: IdMap { inside: owner.1, outside: caller.gid.as_raw() },
        };
        let user_namespace = user_namespace(&maps).context("its owner cannot be mapped to you")?;
        sys::map_ids_of_mount(mount.as_fd(), user_namespace.as_fd(), !writable).map_err(|errno| match errno {
            Errno::INVAL => anyhow!("its file system cannot show it as yours (no id-mapped mounts)"),
            Errno::PERM => anyhow!("only the host's root can show it as yours"),
            errno => anyhow!("it cannot be shown as yours: {errno}"),
        })?;
        Ok(Self { mount })
    }

    /// Its descriptor, which the child inherits.
    pub fn descriptor(&self) -> RawFd {
        self.mount.as_raw_fd()
    }
}

/// A user namespace with these maps, in which nobody is.
fn user_namespace(maps: &IdMaps) -> Result<OwnedFd> {
    let process = clone3::spawn_idle(crate::plan::Namespaces::USER)?;
    let namespace = id_map::write(process.pid, maps).and_then(|()| {
        let path = format!("/proc/{}/ns/user", process.pid.as_raw_nonzero());
        File::open(&path).with_context(|| format!("cannot open {path}"))
    });
    process.end();
    Ok(namespace?.into())
}
