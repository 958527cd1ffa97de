//! The options that shape a sandbox, for every way into one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::build_dir::Filled;
use super::limit_options::{LimitOptions, tell_limits};
use super::say::say;
use crate::failed_build::{FailedBuild, Kind, StoreExtent, Wishes};
use crate::kept_build::KeptBuild;
use crate::nix::SandboxPath;
use crate::plan::{Namespaces, Plan};
use crate::scratch::{BuildDirMode, CopySummary, Made, Unreadable};

/// What these options stand below in help texts.
pub(super) const SANDBOX: &str = "Sandbox";

/// What the caller knows better than what can be found out, and how much of it all is said.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = SANDBOX)]
pub struct SandboxOptions {
    /// Share the host's network
    #[arg(long, overrides_with = "no_network")]
    pub network: bool,

    /// Have no network but lo
    #[arg(long, hide_short_help = true)]
    pub no_network: bool,

    /// Add programs: a store path, or nixpkgs#strace
    #[arg(long, value_name = "PATH|NAME")]
    pub with: Vec<OsString>,

    /// Show a path of the host, read-only
    #[arg(long, value_name = "TARGET[=SOURCE]", value_parser = SandboxPath::option_value())]
    pub bind: Vec<SandboxPath>,

    /// The same, writable: it changes the host
    #[arg(long, value_name = "TARGET[=SOURCE]", value_parser = SandboxPath::option_value(), hide_short_help = true)]
    pub bind_rw: Vec<SandboxPath>,

    /// Show all the store, not the inputs only
    #[arg(long, value_name = "closure|full", hide_possible_values = true, hide_short_help = true)]
    pub store: Option<StoreExtent>,

    /// The store is that of «nix-build --store ROOT»
    #[arg(long, value_name = "ROOT", hide_short_help = true)]
    pub store_root: Option<PathBuf>,

    /// The derivation, where it is not found out
    #[arg(long, value_name = "DRV", hide_short_help = true)]
    pub derivation: Option<PathBuf>,

    /// Make /build a copy, an overlay, or in-place
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true,
        hide_short_help = true
    )]
    pub build_dir_mode: BuildDirMode,

    /// Leave out files that you may not read
    #[arg(long, hide_short_help = true)]
    pub ignore_unreadable: bool,

    /// Be like a multi-user or single-user Nix's
    #[arg(long, value_name = "KIND", hide_possible_values = true, hide_short_help = true)]
    pub like: Option<Kind>,

    /// Run the command as PID 1, as Nix does
    #[arg(long, hide_short_help = true)]
    pub as_pid_1: bool,

    /// The bash of a session, from any store path
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub shell: Option<PathBuf>,

    /// What the sandbox may use.
    #[command(flatten)]
    pub limits: LimitOptions,

    /// Print each step on standard error
    #[arg(short, long, hide_short_help = true)]
    pub verbose: bool,
}

impl SandboxOptions {
    /// The namespaces that a build most likely has: only a fixed-output derivation shares the host's network.
    pub fn namespaces(&self) -> Namespaces {
        if self.network { Namespaces::with_hosts_network() } else { Namespaces::all() }
    }

    /// What to do with a file that the caller may not read. Where the build belongs to a build user there are always some.
    pub fn unreadable(&self, build: &FailedBuild) -> Unreadable {
        if self.ignore_unreadable || build.is_closed_to_caller() { Unreadable::LeaveOut } else { Unreadable::Fail }
    }

    /// What the caller knows better than what can be found out.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            derivation: self.derivation.clone(),
            store: self.store,
            store_root: self.store_root.clone(),
            known_store: None,
            network: if self.network { Some(true) } else { self.no_network.then_some(false) },
            like: self.like,
            bind: self.bind.clone(),
            bind_writable: self.bind_rw.clone(),
        }
    }

    /// Says what was found out and copied and what comes next, as far as the caller wants or has to know it.
    pub fn tell(&self, build: &FailedBuild, filled: &Filled, plan: &Plan) {
        let directory = build.name().display();
        let build_top = build.kept.as_ref().and_then(KeptBuild::build_top);
        if let Some(top) = build_top.filter(|top| *top != build.build_directory) {
            let (top, here) = (top.display(), build.build_directory.display());
            say(format_args!("warning: Nix built this without its sandbox, in {top}; in here the build is in {here}"));
        }
        build.notes.iter().for_each(say);
        build.additions.sentences().iter().for_each(say);
        tell_limits(plan);
        filled.tell(build);
        let CopySummary { entries, bytes, left_out } = &filled.copied;
        if *left_out > 0 {
            let (files, they) = if *left_out == 1 { ("file", "it") } else { ("files", "they") };
            say(format_args!(
                "left out {left_out} {files} of {directory} that you may not read; with sudo {they} would be there"
            ));
        }
        if self.verbose {
            if let Some(derivation) = &build.derivation {
                say(format_args!("the derivation is {}", derivation.path.display()));
            }
            if let Made::Copy | Made::SharedCopy = filled.made {
                say(format_args!("copied {directory}: {entries} entries, {bytes} bytes"));
            }
            plan.to_string().lines().for_each(say);
        }
    }
}
