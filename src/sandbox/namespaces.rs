//! The namespaces of a running sandbox, held open so that another process can join them.
//!
//! The sandbox's first process is closed to an unprivileged caller once it has hidden its memory: the kernel then refuses to open
//! `/proc/PID/ns`, and to take its pidfd for [`setns(2)`]. So whoever starts the sandbox opens its namespaces before that, and others
//! find them among his descriptors.
//!
//! [`setns(2)`]: https://man7.org/linux/man-pages/man2/setns.2.html

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::process::Pid;

use crate::plan::Namespaces;

const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Open namespaces by their names, as `/proc/PID/ns` has them.
#[derive(Debug)]
pub struct NamespaceHandles(BTreeMap<&'static str, OwnedFd>);

impl NamespaceHandles {
    /// Those of the child `pid`, which must not have hidden its memory yet.
    pub(super) fn of_child(pid: Pid, namespaces: Namespaces) -> Result<Self> {
        let open = |name: &'static str| {
            let path = format!("/proc/{}/ns/{name}", pid.as_raw_nonzero());
            let handle = openat(CWD, &path, READ, Mode::empty())
                .with_context(|| format!("cannot keep the sandbox's namespaces open: {path}"))?;
            Ok((name, handle))
        };
        namespaces.names().map(open).collect::<Result<_>>().map(Self)
    }

    /// Those that a process has open under these numbers; `process` is its directory in `/proc`. The network's may be missing.
    ///
    /// # Errors
    /// Where the process belongs to somebody else, or has no namespaces there.
    pub fn held_by(process: BorrowedFd<'_>, numbers: &BTreeMap<String, RawFd>) -> Result<Self> {
        let mut handles = BTreeMap::new();
        for name in Namespaces::all().names() {
            let Some(number) = numbers.get(name) else {
                if Namespaces::with_hosts_network().names().any(|needed| needed == name) {
                    bail!("its {name} namespace is not recorded");
                }
                continue;
            };
            let path = format!("fd/{number}");
            let link = readlinkat(process, &path, Vec::new()).context("its namespaces are closed to you")?;
            if !link.to_bytes().starts_with(format!("{name}:[").as_bytes()) {
                bail!("its {name} namespace is not where it was recorded");
            }
            let handle = openat(process, &path, READ, Mode::empty()).context("its namespaces are closed to you")?;
            handles.insert(name, handle);
        }
        Ok(Self(handles))
    }

    /// The descriptors' numbers in this process.
    pub fn numbers(&self) -> BTreeMap<String, RawFd> {
        self.0.iter().map(|(name, handle)| ((*name).to_owned(), handle.as_raw_fd())).collect()
    }

    /// The user namespace, which owns the others.
    pub(crate) fn user(&self) -> Option<BorrowedFd<'_>> {
        self.0.get("user").map(AsFd::as_fd)
    }

    /// Each kind that is open, with its flag: the user namespace first, since it gives the rights to join the others.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (u32, &'static str, RawFd)> {
        let of_kind = |(flag, name): (u32, &'static str)| Some((flag, name, self.0.get(name)?.as_raw_fd()));
        Namespaces::KINDS.into_iter().filter_map(of_kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_of_process() -> OwnedFd {
        openat(CWD, "/proc/self", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn namespaces_are_found_among_the_descriptors_of_a_process() {
        let opened = NamespaceHandles::of_child(rustix::process::getpid(), Namespaces::all()).unwrap();
        let process = directory_of_process();
        let found = NamespaceHandles::held_by(std::os::fd::AsFd::as_fd(&process), &opened.numbers()).unwrap();
        let kinds: Vec<_> = found.in_order().map(|(_, name, _)| name).collect();
        assert_eq!(kinds, ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"]);
    }

    #[test]
    fn what_is_no_such_namespace_is_not_taken() {
        let opened = NamespaceHandles::of_child(rustix::process::getpid(), Namespaces::all()).unwrap();
        let process = directory_of_process();
        let found = |numbers| {
            NamespaceHandles::held_by(std::os::fd::AsFd::as_fd(&process), &numbers).map_err(|error| error.to_string())
        };
        let mut numbers = opened.numbers();
        numbers.insert("mnt".into(), opened.numbers()["pid"]);
        assert!(found(numbers).unwrap_err().contains("mnt namespace is not where"));
        let mut numbers = opened.numbers();
        numbers.remove("net");
        assert!(found(numbers.clone()).is_ok());
        numbers.remove("pid");
        assert!(found(numbers).unwrap_err().contains("pid namespace is not recorded"));
    }
}
