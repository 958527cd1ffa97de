//! The directory of a cgroup that we make: locked for as long as we live, as a scratch directory is, so that a later run can tell one
//! that a SIGKILL left behind from one in use.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat, unlinkat,
};
use rustix::io::{Errno, pread, write};
use rustix::process::{geteuid, getpid};

use crate::caller::Caller;
use crate::scratch::{is_still_there, open_with_all_permissions};

/// How the name of every such cgroup starts; the number of our process follows, and one more.
const PREFIX: &str = "nix-build-shell-";
/// How many of one process's number there can be: some come from another PID namespace, or were left behind.
const MOST_NUMBERS: u32 = 1000;
/// How long a process that has ended may take to leave.
const TIME_TO_LEAVE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// To open a directory with.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A cgroup of ours. Dropping it removes it, and with it what has been made below it; no process may be left in there.
#[derive(Debug)]
pub(super) struct Directory {
    parent: OwnedFd,
    name: CString,
    /// Open, and locked with `flock(2)`.
    pub(super) handle: OwnedFd,
}

impl Directory {
    /// Makes a cgroup in the open directory `parent`.
    ///
    /// # Errors
    /// The kernel's, where `parent` is not for us to write, or may have no more below it.
    pub(super) fn make_in(parent: &OwnedFd) -> Result<Self> {
        let parent = parent.try_clone()?;
        let (name, handle) = make_locked(&parent)?;
        Ok(Self { parent, name, handle })
    }

    /// Removes the other cgroups of the caller's beside this one that no living program holds, and no process is in.
    fn sweep(&self) {
        let Ok(entries) = Dir::read_from(&self.parent) else {
            return;
        };
        let caller = Caller::current().uid.as_raw();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !is_name_of_ours(name.to_bytes()) {
                continue;
            }
            let Ok(handle) = openat(&self.parent, name, DIRECTORY, Mode::empty()) else {
                continue;
            };
            let is_ours = fstat(&handle).is_ok_and(|status| [geteuid().as_raw(), caller].contains(&status.st_uid));
            if is_ours && flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // What resists is left to a later run.
                let _ = remove_tree(&self.parent, name, &handle);
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What resists, a later run removes.
        if let Err(error) = remove_tree(&self.parent, &self.name, &self.handle)
            && error.downcast_ref() == Some(&Errno::BUSY)
        {
            // A process that has been waited for may still be counted for a moment.
            await_last_process(&self.handle);
            let _ = remove_tree(&self.parent, &self.name, &self.handle);
        }
        self.sweep();
    }
}

/// Makes a cgroup and takes its lock. Between the two another run may come by and take it for an abandoned one: then another.
fn make_locked(parent: &OwnedFd) -> Result<(CString, OwnedFd)> {
    for number in 0..MOST_NUMBERS {
        let name = CString::new(format!("{PREFIX}{}-{number}", getpid()))?;
        match mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let handle = match openat(parent, &name, DIRECTORY, Mode::empty()) {
            // Another run has swept it away.
            Err(Errno::NOENT) => continue,
            Err(errno) => {
                let _ = unlinkat(parent, &name, AtFlags::REMOVEDIR);
                return Err(errno.into());
            }
            Ok(handle) => handle,
        };
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_still_there(parent, &name, &handle) => return Ok((name, handle)),
            Ok(()) | Err(Errno::WOULDBLOCK) => {}
            Err(errno) => {
                let _ = unlinkat(parent, &name, AtFlags::REMOVEDIR);
                return Err(errno.into());
            }
        }
    }
    bail!("too many of them have been left there")
}

/// Whether it is `nix-build-shell-PID-NUMBER`.
fn is_name_of_ours(name: &[u8]) -> bool {
    let Some(numbers) = name.strip_prefix(PREFIX.as_bytes()) else {
        return false;
    };
    let mut numbers = numbers.split(|byte| *byte == b'-');
    let mut is_number =
        || numbers.next().is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit));
    is_number() && is_number() && numbers.next().is_none()
}

/// Removes the cgroup `name` in `parent`, whose open directory is `top`, and those below it, the lowest first. A build may have
/// nested them deeper than descriptors or a stack would reach, so the way back up is by «..».
///
/// # Errors
/// `EBUSY` where a process is in one of them.
fn remove_tree(parent: &OwnedFd, name: &CStr, top: &OwnedFd) -> Result<()> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Where the build has closed it; root needs no right, and changes nothing that a user could meddle with.
    if !geteuid().is_root() {
        fchmod(top, Mode::RWXU)?;
    }
    let mut directory = openat(top, c".", DIRECTORY, Mode::empty())?;
    let mut way_down: Vec<CString> = Vec::new();
    loop {
        if let Some(child) = first_directory(&directory)? {
            directory = open_with_all_permissions(directory.as_fd(), &child)?;
            way_down.push(child);
        } else if let Some(lowest) = way_down.pop() {
            directory = openat(&directory, c"..", DIRECTORY, Mode::empty())?;
            unlinkat(&directory, &lowest, AtFlags::REMOVEDIR)?;
        } else {
            return Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?);
        }
    }
}

fn first_directory(directory: &OwnedFd) -> rustix::io::Result<Option<CString>> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..") {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Waits until no process is in the cgroup any more, or for as long as is reasonable.
fn await_last_process(cgroup: &OwnedFd) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    // The kernel wakes who polls this file when it changes after it was read.
    let Ok(events) = openat(cgroup, "cgroup.events", flags, Mode::empty()) else {
        return;
    };
    while read_text(&events).is_ok_and(|text| text.lines().any(|line| line == "populated 1")) {
        let mut changes = [PollFd::new(&events, PollFlags::PRI)];
        match poll(&mut changes, Some(&TIME_TO_LEAVE)) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Reads a file of the cgroup whose directory is `handle`.
///
/// # Errors
/// `ENOENT` where this kernel, or this cgroup, has no such file.
pub(super) fn read_file(handle: &OwnedFd, name: &str) -> rustix::io::Result<String> {
    read_text(&openat(handle, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Writes a file of the cgroup whose directory is `handle`.
///
/// # Errors
/// What [`cgroups(7)`] says of this file.
///
/// [`cgroups(7)`]: https://man7.org/linux/man-pages/man7/cgroups.7.html
pub(super) fn write_file(handle: &OwnedFd, name: &str, text: &str) -> rustix::io::Result<()> {
    let file = openat(handle, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, text.as_bytes()).map(|_| ())
}

/// The text of a file that the kernel makes, which is short.
fn read_text(file: &OwnedFd) -> rustix::io::Result<String> {
    let mut bytes = [0; 4096];
    let length = pread(file, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustix::fs::CWD;

    use super::*;

    fn make_in(parent: &Path) -> Directory {
        Directory::make_in(&openat(CWD, parent, DIRECTORY, Mode::empty()).unwrap()).unwrap()
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_locked_or_not_ours_stays_and_what_was_left_behind_goes() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir_all(parent.path().join("nix-build-shell-1-0/below/deeper")).unwrap();
        fs::create_dir(parent.path().join("nix-build-shell-1.scope")).unwrap();
        let (first, second) = (make_in(parent.path()), make_in(parent.path()));
        let name = first.name.to_str().unwrap().to_owned();
        assert_eq!(name, format!("nix-build-shell-{}-0", getpid()));
        drop(second);
        let mut left = ["nix-build-shell-1.scope".to_owned(), name];
        left.sort();
        assert_eq!(names_in(parent.path()), left);
        drop(first);
        assert_eq!(names_in(parent.path()), ["nix-build-shell-1.scope"]);
    }

    #[test]
    fn only_names_of_ours_are_taken_for_ours() {
        assert!(is_name_of_ours(b"nix-build-shell-12345-0"));
        for name in [
            "nix-build-shell-",
            "nix-build-shell-1",
            "nix-build-shell-1-",
            "nix-build-shell-1-2-3",
            "nix-build-pid-1-0",
        ] {
            assert!(!is_name_of_ours(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn cgroups_nested_deeper_than_descriptors_reach_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let cgroup = make_in(parent.path());
        let mut directory = openat(&cgroup.handle, c".", DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..1500 {
            mkdirat(&directory, c"beside", Mode::RWXU).unwrap();
            mkdirat(&directory, c"deeper", Mode::RWXU).unwrap();
            directory = openat(&directory, c"deeper", DIRECTORY, Mode::empty()).unwrap();
        }
        fchmod(&directory, Mode::empty()).unwrap();
        fchmod(&cgroup.handle, Mode::empty()).unwrap();
        drop(cgroup);
        assert_eq!(names_in(parent.path()), [""; 0]);
    }
}
