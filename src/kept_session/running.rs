//! The sandbox that runs in a session: who holds it, and how to find its namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::nix::Settings;
use crate::plan::Session;
use crate::sandbox::{NamespaceHandles, Sandbox};

/// How long the kernel may take to end the processes of a sandbox whose parent was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a sandbox may take to end after its command.
const MOMENT: Duration = Duration::from_millis(500);

/// What is written down of a sandbox while it runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Running {
    /// The nix-build-shell that has made it.
    holder: Process,
    /// Its first process.
    init: Process,
    /// Under which numbers the holder has its namespaces open.
    namespaces: BTreeMap<String, RawFd>,
    /// What it was made with.
    pub settings: Settings,
    /// What limits it.
    #[serde(default)]
    pub limits: Limits,
    /// The cgroup that keeps some of them, and which.
    #[serde(default)]
    pub cgroup: Option<(PathBuf, Limits)>,
    /// What it was made for, if that was an interactive session.
    pub shell: Option<Session>,
}

impl Running {
    /// A sandbox that this process has just started, of a plan to be joined.
    pub fn of(sandbox: &Sandbox, settings: &Settings, shell: Option<&Session>) -> Result<Self> {
        Ok(Self {
            holder: Process::named(getpid())?,
            init: Process::named(sandbox.first_process())?,
            namespaces: sandbox.namespaces().context("the sandbox's namespaces are not open")?.numbers(),
            settings: settings.clone(),
            limits: sandbox.limits().all,
            cgroup: Some(sandbox.limits().in_cgroup)
                .filter(|limits| !limits.is_empty())
                .and_then(|limits| Some((sandbox.cgroup()?, limits))),
            shell: shell.cloned(),
        })
    }

    /// Whether the program that made the sandbox is still there.
    pub fn has_holder(&self) -> bool {
        self.holder.directory().is_some()
    }

    /// The namespaces of the sandbox; nothing where it has ended.
    ///
    /// # Errors
    /// Where they are not the caller's to join.
    pub fn namespaces(&self) -> Result<Option<NamespaceHandles>> {
        let Some(holder) = self.holder.directory() else {
            return Ok(None);
        };
        NamespaceHandles::held_by(holder.as_fd(), &self.namespaces).map(Some)
    }

    /// Waits until no process of the sandbox is left, after the program that made it was killed.
    ///
    /// # Errors
    /// When the kernel does not end them.
    pub fn await_end(&self) -> Result<()> {
        if !self.ends_within(PATIENCE)? {
            bail!("processes of its last sandbox do not end, such as {}", self.init.pid);
        }
        Ok(())
    }

    /// Whether the whole sandbox ends now, or has ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_ending(&self) -> Result<bool> {
        self.ends_within(MOMENT)
    }

    fn ends_within(&self, patience: Duration) -> Result<bool> {
        let Some(init) = self.init.open()? else {
            return Ok(true);
        };
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&init, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for its last sandbox"),
            }
        }
    }
}

/// A process by number, start and boot: another that gets its number has another start.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    pid: u32,
    /// In clock ticks since the machine was started.
    start: u64,
    boot: String,
}

impl Process {
    /// The process that has this number now.
    fn named(pid: Pid) -> Result<Self> {
        let pid = pid.as_raw_nonzero().get().cast_unsigned();
        let read = || -> io::Result<Self> { Ok(Self { pid, start: start_of(&open(pid)?)?, boot: boot()? }) };
        read().with_context(|| format!("cannot look at the process {pid}"))
    }

    /// Its directory in `/proc`, which is of no use any more when it has ended, whoever gets its number; nothing where it has.
    fn directory(&self) -> Option<OwnedFd> {
        let directory = open(self.pid).ok()?;
        let is_this = start_of(&directory).ok()? == self.start && boot().ok()? == self.boot;
        is_this.then_some(directory)
    }

    /// Its pidfd; nothing where it has ended.
    fn open(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // It had the number while it was opened if it has it now.
            Ok(pidfd) => Ok(self.directory().map(|_| pidfd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno).with_context(|| format!("cannot open the process {}", self.pid)),
        }
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?)
}

/// Field 22 of its `stat`; see [`proc_pid_stat(5)`](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
fn start_of(process: &OwnedFd) -> io::Result<u64> {
    let mut stat = String::new();
    File::from(openat(process, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?).read_to_string(&mut stat)?;
    // The second field is a name in parentheses, which may hold anything.
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let start = after_name.and_then(|rest| rest.split(' ').nth(22 - 3)?.parse().ok());
    start.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this() -> Process {
        Process::named(getpid()).unwrap()
    }

    #[test]
    fn a_process_is_found_again_and_no_other_under_its_number() {
        assert!(this().directory().is_some() && this().open().unwrap().is_some());
        let with_other_start = Process { start: this().start + 1, ..this() };
        assert!(with_other_start.directory().is_none() && with_other_start.open().unwrap().is_none());
        let before_the_boot = Process { boot: "another".into(), ..this() };
        assert!(before_the_boot.directory().is_none());
        let no_process = Process { pid: u32::MAX, ..this() };
        assert!(no_process.directory().is_none() && no_process.open().unwrap().is_none());
    }

    #[test]
    fn a_process_that_has_ended_is_none() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = Process::named(Pid::from_child(&child)).unwrap();
        assert!(process.directory().is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(process.directory().is_none() && process.open().unwrap().is_none());
    }
}
