//! The command line: options and help texts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::kept_build::KeptBuild;
use crate::plan::Plan;
use crate::scratch::{CopySummary, Unreadable};

/// Open the sandbox of a failed Nix build.
///
/// Takes the directory that «nix-build --keep-failed» left, makes the build's sandbox around a copy of it, without root, and
/// runs COMMAND in it with the build's environment, or an interactive shell.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "The kept directory itself is never changed: the sandbox works on a copy, which goes with it.\n\
                  Exit status: the command's own; 128+n if the signal n ended it; 125 if no sandbox could be made."
)]
pub struct Options {
    /// The directory that Nix named after «keeping build directory»
    #[arg(value_name = "BUILD_DIR")]
    pub build_dir: PathBuf,

    /// What to run in the sandbox, with its arguments [default: the build's shell]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,

    /// Go on without the files of the kept directory that you may not read
    #[arg(long)]
    pub ignore_unreadable: bool,

    /// Print what would be done, a step a line, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Print each step on standard error
    #[arg(short, long)]
    pub verbose: bool,
}

impl Options {
    /// What to do with a file that the caller may not read.
    pub fn unreadable(&self) -> Unreadable {
        if self.ignore_unreadable { Unreadable::LeaveOut } else { Unreadable::Fail }
    }

    /// Tells on standard error what was copied and what comes next, as far as the caller wants or has to know it.
    pub fn tell(&self, kept: &KeptBuild, copied: &CopySummary, plan: &Plan) {
        if copied.left_out > 0 {
            eprintln!(
                "nix-build-shell: left out {} of {} that you may not read; with sudo they would be there",
                count(copied.left_out, "file", "files"),
                kept.directory.display()
            );
        }
        if self.verbose {
            let CopySummary { entries, bytes, .. } = copied;
            let entries = count(*entries, "file", "files");
            eprintln!("nix-build-shell: copied {entries} ({bytes} bytes) of {}", kept.directory.display());
            for line in plan.to_string().lines() {
                eprintln!("nix-build-shell: {line}");
            }
        }
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
