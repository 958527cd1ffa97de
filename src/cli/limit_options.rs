//! The options that limit a sandbox, for every way into one.

use std::time::Duration;

use clap::Args;

use super::say::{say, say_error};
use crate::limits::{Limits, Processors};
use crate::plan::Plan;
use crate::sandbox::Sandbox;
use crate::session::Ending;

/// What the command and all that it starts may use.
#[derive(Clone, Debug, Args)]
pub struct LimitOptions {
    /// At most so much memory, as 512M or 2G
    #[arg(long, value_name = "SIZE", value_parser = Limits::parse_memory, hide_short_help = true)]
    memory_max: Option<u64>,

    /// At most so many processes and threads
    #[arg(long, value_name = "N", value_parser = Limits::parse_processes, hide_short_help = true)]
    pids_max: Option<u32>,

    /// At most so many processors, as 2 or 1.5
    #[arg(long, value_name = "N", value_parser = Limits::parse_processors, hide_short_help = true)]
    cpus: Option<Processors>,

    /// End all after so long, with status 124
    #[arg(long, value_name = "DURATION", value_parser = Limits::parse_duration, hide_short_help = true)]
    timeout: Option<Duration>,
}

impl LimitOptions {
    /// What it may use at once.
    pub fn limits(&self) -> Limits {
        Limits { memory: self.memory_max, processes: self.pids_max, processors: self.cpus }
    }

    /// How long it may run.
    pub fn time(&self) -> Option<Duration> {
        self.timeout
    }

    /// The exit status of a command that has ended so; that its time was over is said.
    pub fn status(&self, ending: Ending) -> u8 {
        if ending == Ending::TimedOut {
            say(format_args!("the time of {:?} is over: all that ran was ended", self.timeout.unwrap_or_default()));
        }
        ending.status()
    }
}

/// Says how the limits of a plan are kept, if it has some.
pub fn tell_limits(plan: &Plan) {
    plan.limits.words.iter().for_each(say);
}

/// Says what the sandbox has used, where it has a cgroup of its own: the figures are what one sets Nix's `use-cgroups` for, and what
/// limits are found by.
pub fn tell_usage(sandbox: &Sandbox) {
    match sandbox.usage() {
        Some(Ok(usage)) => say(usage),
        Some(Err(error)) => say_error(&error.context("the CPU time is not known")),
        None => {}
    }
}
