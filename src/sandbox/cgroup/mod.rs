//! The sandbox's own cgroup: made before its first process, which starts in it, and removed after its last: [`cgroups(7)`].
//!
//! [`cgroups(7)`]: https://man7.org/linux/man-pages/man7/cgroups.7.html

mod controllers;
mod directory;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, chownat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

pub use self::controllers::Controllers;
use self::controllers::SwitchedOn;
use self::directory::{DIRECTORY, Directory, read_file, write_file};
use crate::limits::{Limits, counted};

/// A cgroup with nothing in it but a sandbox. Dropping it removes it, and with it what a build has made below it; no process may
/// be left in there.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: Directory,
    /// Ends after the cgroup.
    _controllers: Option<SwitchedOn>,
}

impl Cgroup {
    /// Makes a cgroup in `parent`, our own cgroup, that belongs to this user and group, as Nix's belong to the build user, and that
    /// keeps `limits`. With them it has an init, so it may have that many processes more than the command.
    ///
    /// # Errors
    /// The kernel's, where `parent` is none, not for us to write, or may have no more below it, or a limit cannot be kept there.
    pub(super) fn create_in(parent: &Path, user: Uid, group: Gid, limits: &Limits) -> Result<Self> {
        let cgroup = Self::make(parent, user, group, &Controllers::needed_by(limits))?;
        cgroup.limit(limits).with_context(|| format!("cannot limit a cgroup in {}", parent.display()))?;
        Ok(cgroup)
    }

    /// Makes one that has these controllers, as far as they can be had.
    fn make(parent: &Path, user: Uid, group: Gid, controllers: &[&'static str]) -> Result<Self> {
        let cannot = || format!("cannot make a cgroup in {}", parent.display());
        let parent_handle = openat(CWD, parent, DIRECTORY, Mode::empty()).with_context(cannot)?;
        let controllers = SwitchedOn::below(&parent_handle, controllers);
        let directory = Directory::make_in(&parent_handle).with_context(cannot)?;
        let cgroup = Self { directory, _controllers: controllers };
        if user != geteuid() {
            cgroup.give_to(user, group).with_context(cannot)?;
        }
        Ok(cgroup)
    }

    /// Its files of limits stay root's, or whose our own cgroup is: the build cannot write them, since it does not see them.
    fn limit(&self, limits: &Limits) -> rustix::io::Result<()> {
        let memory = limits.memory.map(|bytes| ("memory.max", bytes.to_string()));
        let processes = limits.processes.map(|number| ("pids.max", number.to_string()));
        let processors = limits.processors.map(|number| ("cpu.max", format!("{} {PERIOD}", number.quota(PERIOD))));
        for (name, text) in [memory, processes, processors].into_iter().flatten() {
            write_file(&self.directory.handle, name, &text)?;
        }
        Ok(())
    }

    /// For `CLONE_INTO_CGROUP`.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.handle.as_fd()
    }

    /// Where it is, if that can still be told.
    pub(super) fn path(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.directory.handle.as_raw_fd())).ok()
    }

    /// What the sandbox has used until now. Of processes that have ended all is counted, whoever waited for them.
    ///
    /// # Errors
    /// The kernel tells no times.
    pub(super) fn usage(&self) -> Result<Usage> {
        let handle = &self.directory.handle;
        let times = read_file(handle, "cpu.stat").context("cannot read the CPU time of the sandbox's cgroup")?;
        let mut usage = Usage::read(&times, read_file(handle, "memory.peak").ok().as_deref())?;
        usage.killed = event(&read_file(handle, "memory.events").unwrap_or_default(), "oom_kill");
        usage.refused = event(&read_file(handle, "pids.events").unwrap_or_default(), "max");
        Ok(usage)
    }

    /// As Nix does, all but the switches of controllers.
    fn give_to(&self, user: Uid, group: Gid) -> rustix::io::Result<()> {
        for name in [".", "cgroup.procs", "cgroup.threads"] {
            match chownat(&self.directory.handle, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// Opens the cgroup of a sandbox that runs.
///
/// # Errors
/// The kernel's, where it is gone.
pub(super) fn open(directory: &Path) -> Result<OwnedFd> {
    openat(CWD, directory, DIRECTORY, Mode::empty())
        .with_context(|| format!("cannot open the cgroup {} that limits the sandbox", directory.display()))
}

/// The period in which a cgroup has its share of the processors, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;

/// How often something has happened, from a file of events.
fn event(events: &str, name: &str) -> u32 {
    let line = events.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a sandbox has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in the programs themselves.
    pub user_time: Duration,
    /// CPU time in the kernel for them.
    pub system_time: Duration,
    /// The most memory that was in use at once, in bytes, files in the page cache included. Known from Linux 5.19 on, and where the
    /// cgroup above has its memory controller on for those below it, or we may switch it on.
    pub peak_memory: Option<u64>,
    /// Processes that the kernel has killed for want of memory.
    pub killed: u32,
    /// How often there could be no more processes.
    pub refused: u32,
}

impl Usage {
    /// From the content of `cpu.stat` and of `memory.peak`.
    fn read(times: &str, peak_memory: Option<&str>) -> Result<Self> {
        let time = |name| {
            let line = times.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse().ok()).map(Duration::from_micros)
        };
        let (Some(user_time), Some(system_time)) = (time("user_usec"), time("system_usec")) else {
            bail!("the sandbox's cgroup tells no CPU time");
        };
        let peak_memory = peak_memory.and_then(|text| text.trim_end().parse().ok());
        Ok(Self { user_time, system_time, peak_memory, killed: 0, refused: 0 })
    }
}

impl fmt::Display for Usage {
    /// In the words of Nix's log, whose figures are in seconds too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, system) = (self.user_time.as_secs_f64(), self.system_time.as_secs_f64());
        write!(f, "user CPU {user:.3}s, system CPU {system:.3}s")?;
        if let Some(bytes) = self.peak_memory {
            write!(f, ", peak memory {:.1} MiB", bytes as f64 / f64::from(1 << 20))?;
        }
        if self.killed > 0 {
            write!(f, ", {} killed for want of memory", counted(self.killed, "process", "es"))?;
        }
        if self.refused > 0 {
            write!(f, ", no more processes {}", counted(self.refused, "time", "s"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::process::getegid;

    use super::*;

    fn create_in(parent: &Path) -> Result<Cgroup> {
        Cgroup::create_in(parent, geteuid(), getegid(), &Limits::default())
    }

    #[test]
    fn figures_are_read_from_the_cgroup() {
        let parent = tempfile::tempdir().unwrap();
        let cgroup = create_in(parent.path()).unwrap();
        let directory = parent.path().read_dir().unwrap().next().unwrap().unwrap().path();
        assert!(cgroup.usage().is_err());
        let times = "usage_usec 61500000\nuser_usec 61234567\nsystem_usec 265433\nnice_usec 0\nnr_periods 0\n";
        fs::write(directory.join("cpu.stat"), times).unwrap();
        assert_eq!(cgroup.usage().unwrap().to_string(), "user CPU 61.235s, system CPU 0.265s");
        fs::write(directory.join("memory.peak"), "13421773\n").unwrap();
        assert_eq!(cgroup.usage().unwrap().to_string(), "user CPU 61.235s, system CPU 0.265s, peak memory 12.8 MiB");
        fs::write(directory.join("memory.events"), "low 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        fs::write(directory.join("pids.events"), "max 1\n").unwrap();
        let told = cgroup.usage().unwrap().to_string();
        assert!(told.ends_with("12.8 MiB, 2 processes killed for want of memory, no more processes 1 time"), "{told}");
        fs::write(directory.join("cpu.stat"), "usage_usec 5\nuser_usec\n").unwrap();
        assert!(cgroup.usage().unwrap_err().to_string().contains("tells no CPU time"));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_an_error_and_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let limits = Limits { memory: Some(1 << 20), ..Limits::default() };
        let error = Cgroup::create_in(parent.path(), geteuid(), getegid(), &limits).unwrap_err();
        assert!(error.to_string().starts_with("cannot limit a cgroup in "), "{error}");
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let error = create_in(Path::new("/nonexistent/cgroup")).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "cannot make a cgroup in /nonexistent/cgroup: No such file or directory (os error 2)"
        );
    }
}
