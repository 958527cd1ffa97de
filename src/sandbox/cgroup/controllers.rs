//! Has the sandbox's cgroup count and limit what we may arrange.
//!
//! A cgroup can have a controller on for those below it only while no process is in it itself. So we step aside, with the children that
//! we have by then, into another cgroup below it, for as long as the sandbox is there. That is what delegation asks of whom it gives a
//! cgroup to; where others are in there too, or nobody gave it to us for that, it stays as it is.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{Mode, OFlags, fgetxattr, openat};
use rustix::io::Errno;
use rustix::process::{Pid, getegid, geteuid, getpid};

use super::Cgroup;
use super::directory::{Directory, read_file, write_file};
use crate::limits::Limits;

/// Tells which processes are in a cgroup; to write a number there moves one in.
const PROCESSES: &str = "cgroup.procs";
/// Switches controllers for the cgroups below.
const SWITCHES: &str = "cgroup.subtree_control";
/// Counts memory, the one that figures are told of.
pub(super) const MEMORY: &str = "memory";
const PIDS: &str = "pids";
const CPU: &str = "cpu";

/// What a cgroup of ours can limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controllers {
    memory: bool,
    pids: bool,
    cpu: bool,
}

impl Controllers {
    /// Those of a cgroup below `directory`, which is made, looked at, and removed again.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn tried_in(directory: &Path) -> Result<Self> {
        let cgroup = Cgroup::make(directory, geteuid(), getegid(), &[MEMORY, PIDS, CPU])?;
        let can_write = |name: &str| {
            openat(&cgroup.directory.handle, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).is_ok()
        };
        Ok(Self { memory: can_write("memory.max"), pids: can_write("pids.max"), cpu: can_write("cpu.max") })
    }

    /// Whether everything can be limited.
    pub fn is_complete(self) -> bool {
        self.memory && self.pids && self.cpu
    }

    /// Those of `limits` that such a cgroup keeps.
    pub fn keep(self, limits: Limits) -> Limits {
        Limits {
            memory: limits.memory.filter(|_| self.memory),
            processes: limits.processes.filter(|_| self.pids),
            processors: limits.processors.filter(|_| self.cpu),
        }
    }

    /// The names of those that `limits` need.
    pub(super) fn needed_by(limits: &Limits) -> Vec<&'static str> {
        let needed = [(true, MEMORY), (limits.processes.is_some(), PIDS), (limits.processors.is_some(), CPU)];
        needed.into_iter().filter_map(|(is_needed, name)| is_needed.then_some(name)).collect()
    }
}

impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.memory, "memory"), (self.pids, "processes"), (self.cpu, "processors")];
        let names: Vec<_> = all.into_iter().filter_map(|(is_there, name)| is_there.then_some(name)).collect();
        match names.split_last() {
            None => write!(f, "nothing"),
            Some((last, [])) => write!(f, "{last}"),
            Some((last, others)) => write!(f, "{} and {last}", others.join(", ")),
        }
    }
}

/// Controllers that are on for what is below our own cgroup. Dropping it puts everything back, once there is nothing below it.
#[derive(Debug)]
pub(super) struct SwitchedOn {
    ours: OwnedFd,
    names: Vec<&'static str>,
    /// Where we are meanwhile; goes last.
    aside: Directory,
}

impl SwitchedOn {
    /// Switches those on below `ours`, our own cgroup, that are off and can be had. `None` where there are none: what is missing then,
    /// whoever needs it sees by himself.
    pub(super) fn below(ours: &OwnedFd, wanted: &[&'static str]) -> Option<Self> {
        let file = |name| read_file(ours, name).unwrap_or_default();
        let names = to_be_switched_on(&file("cgroup.controllers"), &file(SWITCHES), wanted);
        if names.is_empty() || !is_delegated(ours) || !are_ours(&processes_in(ours)) {
            return None;
        }
        let aside = Directory::make_in(ours).ok()?;
        // From here on dropping it takes us back.
        let mut switched_on = Self { ours: ours.try_clone().ok()?, names: Vec::new(), aside };
        if !move_all(ours, &switched_on.aside.handle) {
            return None;
        }
        switched_on.names = names.into_iter().filter(|name| switch(ours, '+', name)).collect();
        Some(switched_on)
    }
}

impl Drop for SwitchedOn {
    fn drop(&mut self) {
        // Where this fails, somebody else has moved in meanwhile, and what is on stays on.
        for name in &self.names {
            switch(&self.ours, '-', name);
        }
        move_all(&self.aside.handle, &self.ours);
    }
}

/// Moves all processes of one cgroup into another, and tells whether none has resisted. One that has just ended needs not be moved.
fn move_all(from: &OwnedFd, to: &OwnedFd) -> bool {
    let is_moved = |process: Pid| {
        let moved = write_file(to, PROCESSES, &process.as_raw_nonzero().to_string());
        matches!(moved, Ok(()) | Err(Errno::SRCH))
    };
    // Each is tried, whatever became of the others.
    processes_in(from).into_iter().filter(|process| !is_moved(*process)).count() == 0
}

/// The processes in a cgroup, as far as they have a number here.
fn processes_in(cgroup: &OwnedFd) -> Vec<Pid> {
    let numbers = read_file(cgroup, PROCESSES).unwrap_or_default();
    numbers.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn switch(ours: &OwnedFd, how: char, name: &str) -> bool {
    write_file(ours, SWITCHES, &format!("{how}{name}")).is_ok()
}

/// Those that are there and off.
fn to_be_switched_on(controllers: &str, switched_on: &str, wanted: &[&'static str]) -> Vec<&'static str> {
    let has = |list: &str, wanted: &str| list.split_ascii_whitespace().any(|controller| controller == wanted);
    wanted.iter().copied().filter(|name| has(controllers, name) && !has(switched_on, name)).collect()
}

/// Whether these are nobody but ourselves, and children of ours: the process that makes a sandbox's namespaces is one.
fn are_ours(processes: &[Pid]) -> bool {
    let us = getpid();
    processes.contains(&us) && processes.iter().all(|process| *process == us || parent_of(*process) == Some(us))
}

fn parent_of(process: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    Pid::from_raw(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?)
}

/// Whether systemd, or who else manages cgroups, has marked it as one that its processes may arrange as they like.
fn is_delegated(cgroup: &OwnedFd) -> bool {
    let mut value = [0; 2];
    matches!(fgetxattr(cgroup, "user.delegate", &mut value), Ok(length) if value[..length] == *b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_off_is_switched_on() {
        let switched = |controllers, on| to_be_switched_on(controllers, on, &[MEMORY, PIDS]);
        assert_eq!(switched("cpuset cpu memory pids\n", "cpu\n"), [MEMORY, PIDS]);
        assert_eq!(switched("cpu memory_other pids\n", "pids\n"), [""; 0]);
        assert_eq!(switched("cpu memory\n", "memory\n"), [""; 0]);
    }

    #[test]
    fn only_who_is_alone_with_his_children_arranges_anything() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (us, child_of_ours) = (getpid(), Pid::from_child(&child));
        assert!(are_ours(&[us]) && are_ours(&[child_of_ours, us]));
        let parent = rustix::process::getppid().unwrap_or(Pid::INIT);
        assert!(!are_ours(&[]) && !are_ours(&[child_of_ours]) && !are_ours(&[us, parent]));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn where_it_cannot_be_done_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cgroup.controllers", "memory\n".into()),
            (SWITCHES, String::new()),
            (PROCESSES, format!("{}\n", getpid())),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let handle = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        // Not delegated; then there is no file to write us into.
        assert!(SwitchedOn::below(&handle, &[MEMORY]).is_none());
        if rustix::fs::fsetxattr(&handle, "user.delegate", b"1", rustix::fs::XattrFlags::empty()).is_ok() {
            assert!(SwitchedOn::below(&handle, &[MEMORY]).is_none());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
        assert_eq!(std::fs::read_to_string(directory.path().join(SWITCHES)).unwrap(), "");
    }

    #[test]
    fn a_cgroup_keeps_the_limits_that_it_has_controllers_for() {
        let limits = Limits { memory: Some(1), processes: Some(2), processors: None };
        let controllers = Controllers { memory: true, pids: false, cpu: true };
        assert_eq!(controllers.keep(limits), Limits { memory: Some(1), ..Limits::default() });
        assert_eq!(controllers.to_string(), "memory and processors");
        assert_eq!(Controllers::needed_by(&limits), [MEMORY, PIDS]);
    }
}
