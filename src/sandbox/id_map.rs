//! Writes a child's id maps, as Nix's own startChild does: `uid_map`, `setgroups`, `gid_map`, one write each.

use std::fs::{self, OpenOptions};
use std::io::Write;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::plan::IdMaps;

/// Maps the one user and the one group in the user namespace of the process `pid`; see [`user_namespaces(7)`].
///
/// # Errors
/// The kernel's refusal, as where the caller is himself not mapped in the namespace around him.
///
/// [`user_namespaces(7)`]: https://man7.org/linux/man-pages/man7/user_namespaces.7.html
pub(super) fn write(pid: Pid, maps: &IdMaps) -> Result<()> {
    write_file(pid, "uid_map", &maps.uid.to_string())?;
    // Without root's rights the kernel takes a group map only from whom has given up setgroups(2).
    write_file(pid, "setgroups", "deny")?;
    write_file(pid, "gid_map", &maps.gid.to_string())
}

/// Whether the process `pid` is in a user namespace with the one user and the one group of `maps`.
///
/// # Errors
/// When it is not, or cannot be seen.
pub(super) fn check(pid: Pid, maps: &IdMaps) -> Result<()> {
    for (name, expected) in [("uid_map", maps.uid), ("gid_map", maps.gid)] {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        let found = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        if !found.split_whitespace().eq(expected.to_string().split(' ')) {
            bail!("what runs there is no sandbox of yours: its {name} is not «{expected}»");
        }
    }
    Ok(())
}

fn write_file(pid: Pid, name: &str, content: &str) -> Result<()> {
    let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| {
            format!(
                "cannot write «{content}» to {path}, the sandbox's map of ids; in a container the user may be unknown: call \
                 nix-build-shell outside of it"
            )
        })
}
