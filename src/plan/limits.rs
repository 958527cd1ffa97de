//! How the limits that the caller sets are kept: by the sandbox's cgroup where there can be one, else by what binds its processes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::system::uname;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu};

use super::{OwnCgroup, Plan, Step};
use crate::caller::Caller;
use crate::limits::{Limits, counted, size};
use crate::machine::{in_words, version_of};
use crate::sandbox::Controllers;

/// Since then `RLIMIT_NPROC` counts the processes of a user namespace apart from the user's others.
const COUNTS_BY_NAMESPACE: (u32, u32) = (5, 14);

/// The limits of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlannedLimits {
    /// All of them.
    pub all: Limits,
    /// Those that the cgroup keeps.
    pub in_cgroup: Limits,
    /// What is to be told of all of them, and how each is kept.
    pub words: Option<String>,
}

impl Plan {
    /// The same plan, of `caller`'s, under these limits.
    ///
    /// # Errors
    /// A limit that cannot be kept on this machine: why, and what to do.
    pub fn limited(mut self, limits: &Limits, caller: &Caller) -> Result<Self> {
        if limits.is_empty() {
            return Ok(self);
        }
        let (in_cgroup, reason) = match OwnCgroup::place() {
            Ok(directory) => match Controllers::tried_in(&directory) {
                Ok(controllers) => {
                    let reason =
                        format!("the cgroup {} has no controller for that; {}", directory.display(), OwnCgroup::REMEDY);
                    let in_cgroup = controllers.keep(*limits);
                    if !in_cgroup.is_empty() {
                        self.cgroup = OwnCgroup::Below(directory);
                    }
                    (in_cgroup, reason)
                }
                Err(error) => (Limits::default(), in_words(&error)),
            },
            Err(reason) => (Limits::default(), reason),
        };
        let words = self.limit_processes(limits.without(in_cgroup), caller, &reason)?;
        let whole = in_cgroup.words("");
        let whole = (!whole.is_empty()).then(|| format!("{whole}, by a cgroup of its own"));
        let words: Vec<_> = whole.into_iter().chain(words).collect();
        let words = Some(format!("the sandbox has at most {}", words.join("; ")));
        self.limits = PlannedLimits { all: *limits, in_cgroup, words };
        Ok(self)
    }

    /// The same for a plan that joins a sandbox under these limits, of which a cgroup keeps some.
    ///
    /// # Errors
    /// As of [`limited`](Self::limited).
    pub fn limited_as(mut self, limits: &Limits, cgroup: Option<&(PathBuf, Limits)>, caller: &Caller) -> Result<Self> {
        let in_cgroup = cgroup.map_or_else(Limits::default, |(_, in_cgroup)| *in_cgroup);
        if let Some((directory, _)) = cgroup {
            self.cgroup = OwnCgroup::Existing(directory.clone());
        }
        self.limit_processes(limits.without(in_cgroup), caller, "the session's sandbox has none")?;
        Ok(self)
    }

    /// Limits each process, where `reason` keeps a cgroup from limiting all of them. Returns what to tell.
    fn limit_processes(&mut self, limits: Limits, caller: &Caller, reason: &str) -> Result<Option<String>> {
        let mut steps = Vec::new();
        let mut words = Vec::new();
        if let Some(bytes) = limits.memory {
            steps.push(Step::LimitData(bytes));
            words.push(format!("{} of data in each process, whatever all have together (RLIMIT_DATA)", size(bytes)));
        }
        if let Some(number) = limits.processes {
            // The kernel lets root have as many as he likes.
            let is_bound = !caller.is_root()
                && version_of(&uname().release().to_string_lossy())
                    .is_none_or(|version| version >= COUNTS_BY_NAMESPACE);
            if !is_bound {
                let who = if caller.is_root() { "of root's" } else { "before Linux 5.14" };
                bail!(
                    "--pids-max cannot be kept: nothing but a cgroup counts the processes of a sandbox {who}, and {reason}"
                );
            }
            steps.push(Step::LimitProcesses(self.with_init(number)));
            words.push(format!("{} (RLIMIT_NPROC)", counted(number, "process", "es")));
        }
        if let Some(number) = limits.processors {
            let cores = cores(number.whole()).context("cannot choose the processors for --cpus")?;
            words
                .push(format!("{}, by an affinity that a program can widen", counted(cores.count(), "processor", "s")));
            steps.push(Step::RunOn(cores));
        }
        if steps.is_empty() {
            return Ok(None);
        }
        let at = self.steps.iter().position(|step| *step == Step::DropCapabilities).unwrap_or(self.steps.len());
        self.steps.splice(at..at, steps);
        Ok(Some(format!("{}, since {reason}", words.join(", "))))
    }

    /// A number of the command's processes, with the init that is beside them.
    pub(crate) fn with_init(&self, number: u32) -> u32 {
        number + u32::from(!self.as_pid_1)
    }
}

/// So many of the processors that we may run on, from the one that we are on.
fn cores(wanted: u32) -> rustix::io::Result<CpuSet> {
    let allowed = sched_getaffinity(None)?;
    let here = sched_getcpu();
    let all = (here..CpuSet::MAX_CPU).chain(0..here);
    let mut chosen = CpuSet::new();
    all.filter(|core| allowed.is_set(*core)).take(wanted as usize).for_each(|core| chosen.set(core));
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_cores_are_chosen_as_there_are() {
        let allowed = sched_getaffinity(None).unwrap();
        assert_eq!(cores(1).unwrap().count(), 1);
        assert_eq!(cores(100_000).unwrap(), allowed);
    }
}
