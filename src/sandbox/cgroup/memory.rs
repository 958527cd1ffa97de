//! Has the memory of the sandbox's cgroup counted, where we may arrange that.
//!
//! A cgroup can have the memory controller on for those below it only while no process is in it itself. So we step aside, into
//! another cgroup below it, for as long as the sandbox is there. That is what delegation asks of whom it gives a cgroup to; where
//! others are in there too, or nobody gave it to us for that, it stays as it is.

use std::os::fd::OwnedFd;

use rustix::fs::fgetxattr;
use rustix::process::{Pid, getpid};

use super::directory::{Directory, read_file, write_file};

/// Writes a process into a cgroup: its number, or this for ourselves.
const PROCESSES: &str = "cgroup.procs";
const OURSELVES: &str = "0";
/// Switches controllers for the cgroups below.
const SWITCHES: &str = "cgroup.subtree_control";

/// The memory controller is on for what is below our own cgroup. Dropping it puts everything back, once there is nothing below it.
#[derive(Debug)]
pub(super) struct MemoryAccounting {
    ours: OwnedFd,
    /// Where we are meanwhile; goes last.
    _aside: Directory,
}

impl MemoryAccounting {
    /// Switches the controller on below `ours`, our own cgroup. `None` where that is not needed or not to be had: it is only about
    /// one figure.
    pub(super) fn switch_on(ours: &OwnedFd) -> Option<Self> {
        let file = |name| read_file(ours, name).unwrap_or_default();
        let can_be = can_be_switched_on(&file("cgroup.controllers"), &file(SWITCHES), &file(PROCESSES), getpid());
        if !can_be || !is_delegated(ours) {
            return None;
        }
        let aside = Directory::make_in(ours).ok()?;
        write_file(&aside.handle, PROCESSES, OURSELVES).ok()?;
        // From here on dropping it takes us back.
        let accounting = Self { ours: ours.try_clone().ok()?, _aside: aside };
        write_file(ours, SWITCHES, "+memory").ok()?;
        Some(accounting)
    }
}

impl Drop for MemoryAccounting {
    fn drop(&mut self) {
        // Where this fails, somebody else has moved in meanwhile, and the figures go on being counted.
        let _ = write_file(&self.ours, SWITCHES, "-memory");
        let _ = write_file(&self.ours, PROCESSES, OURSELVES);
    }
}

/// Whether the controller is there, is off, and keeps nobody but `us` from being switched on.
fn can_be_switched_on(controllers: &str, switched_on: &str, processes: &str, us: Pid) -> bool {
    let has_memory = |list: &str| list.split_ascii_whitespace().any(|controller| controller == "memory");
    has_memory(controllers) && !has_memory(switched_on) && processes.trim_end() == us.to_string()
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
    fn the_controller_is_switched_on_only_where_we_are_alone() {
        let us = Pid::from_raw(42).unwrap();
        assert!(can_be_switched_on("cpuset cpu memory pids\n", "cpu\n", "42\n", us));
        for (controllers, switched_on, processes) in [
            ("cpuset cpu pids\n", "\n", "42\n"),
            ("cpu memory_other\n", "\n", "42\n"),
            ("cpu memory\n", "memory\n", "42\n"),
            ("cpu memory\n", "\n", "41\n42\n"),
            ("cpu memory\n", "\n", "420\n"),
            ("cpu memory\n", "\n", ""),
        ] {
            assert!(
                !can_be_switched_on(controllers, switched_on, processes, us),
                "{controllers}{switched_on}{processes}"
            );
        }
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
        assert!(MemoryAccounting::switch_on(&handle).is_none());
        if rustix::fs::fsetxattr(&handle, "user.delegate", b"1", rustix::fs::XattrFlags::empty()).is_ok() {
            assert!(is_delegated(&handle));
            assert!(MemoryAccounting::switch_on(&handle).is_none());
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 3);
        assert_eq!(std::fs::read_to_string(directory.path().join(SWITCHES)).unwrap(), "");
    }
}
