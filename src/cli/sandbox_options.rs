//! The options that shape a sandbox, for every way into one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::limit_options::{LimitOptions, tell_limits};
use super::say::say;
use crate::failed_build::{FailedBuild, Kind, StoreExtent, Wishes};
use crate::kept_build::KeptBuild;
use crate::nix::SandboxPath;
use crate::plan::{Namespaces, Plan};
use crate::scratch::{CopySummary, Unreadable};

/// What the caller knows better than what can be found out, and how much of it all is said.
#[derive(Clone, Debug, Args)]
pub struct SandboxOptions {
    /// Go on without the files of the kept directory that you may not read
    #[arg(long)]
    pub ignore_unreadable: bool,

    /// The derivation that was built, where it cannot be found out
    #[arg(long, value_name = "DRV")]
    pub derivation: Option<PathBuf>,

    /// What of the store is shown: what the build could see, or all of it
    #[arg(long, value_name = "closure|full", hide_possible_values = true)]
    pub store: Option<StoreExtent>,

    /// The root of the store that was built in, as of «nix-build --store ROOT»
    #[arg(long, value_name = "ROOT")]
    pub store_root: Option<PathBuf>,

    /// Share the host's network, as a fixed-output derivation does
    #[arg(long, overrides_with = "no_network")]
    pub network: bool,

    /// Have no network but lo
    #[arg(long)]
    pub no_network: bool,

    /// Whose sandbox it is to be like: one built by a Nix daemon, or by the owner of the store
    #[arg(long, value_name = "multi-user|single-user", hide_possible_values = true)]
    pub like: Option<Kind>,

    /// Show a path of the host, read-only; with a «?» behind it it may be missing
    #[arg(long, value_name = "TARGET[=SOURCE]", value_parser = SandboxPath::option_value())]
    pub bind: Vec<SandboxPath>,

    /// The same, writable: what is written there is written on the host
    #[arg(long, value_name = "TARGET[=SOURCE]", value_parser = SandboxPath::option_value())]
    pub bind_rw: Vec<SandboxPath>,

    /// Add a store path with all that it needs, or what Nix builds of a name such as nixpkgs#strace, and its programs to PATH
    #[arg(long, value_name = "PATH_OR_INSTALLABLE")]
    pub with: Vec<OsString>,

    /// The bash of an interactive session, from any store path
    #[arg(long, value_name = "PATH")]
    pub shell: Option<PathBuf>,

    /// Execute the command as PID 1 itself, as Nix does its builder, and not as a child of our init
    #[arg(long)]
    pub as_pid_1: bool,

    /// What the sandbox may use.
    #[command(flatten)]
    pub limits: LimitOptions,

    /// Print each step on standard error
    #[arg(short, long)]
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
    pub fn tell(&self, build: &FailedBuild, copied: &CopySummary, plan: &Plan) {
        let directory = build.name().display();
        let build_top = build.kept.as_ref().and_then(KeptBuild::build_top);
        if let Some(top) = build_top.filter(|top| *top != build.build_directory) {
            let (top, here) = (top.display(), build.build_directory.display());
            say(format_args!("warning: Nix built this without its sandbox, in {top}; in here the build is in {here}"));
        }
        build.notes.iter().for_each(say);
        build.additions.sentence().iter().for_each(say);
        tell_limits(plan);
        let CopySummary { entries, bytes, left_out } = copied;
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
            say(format_args!("copied {directory}: {entries} entries, {bytes} bytes"));
            plan.to_string().lines().for_each(say);
        }
    }
}
