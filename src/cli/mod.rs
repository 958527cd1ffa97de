//! The command line: options, help texts, and what is said beside the command's own output.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::kept_build::{BUILD_DIR, KeptBuild};
use crate::plan::Plan;
use crate::scratch::{CopySummary, Unreadable};

/// Open the sandbox of a failed Nix build.
///
/// Takes the directory that «nix-build --keep-failed» left, makes the build's sandbox around a copy of it, without root, and
/// runs COMMAND in it with the build's environment, or an interactive shell.
#[derive(Debug, Parser)]
#[command(
    name = "nix-build-shell",
    bin_name = "nix-build-shell",
    version,
    override_usage = "nix-build-shell [OPTIONS] BUILD_DIR [COMMAND [ARG]...]",
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

    /// Prints what would be done: what is copied, then the plan.
    ///
    /// # Errors
    /// Standard output's, but for a reader who has seen enough.
    pub fn print_dry_run(&self, kept: &KeptBuild, plan: &Plan, copy: &Path) -> io::Result<()> {
        let text = format!("copy {} to {}\n{plan}", kept.directory.display(), copy.display());
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Says what was copied and what comes next, as far as the caller wants or has to know it.
    pub fn tell(&self, kept: &KeptBuild, copied: &CopySummary, plan: &Plan) {
        let directory = kept.directory.display();
        if kept.build_top != Path::new(BUILD_DIR) {
            let top = kept.build_top.display();
            say(format_args!(
                "warning: Nix built this without its sandbox, in {top}; in here the build is in {BUILD_DIR}"
            ));
        }
        let CopySummary { entries, bytes, left_out } = copied;
        if *left_out > 0 {
            let files = if *left_out == 1 { "file" } else { "files" };
            say(format_args!(
                "left out {left_out} {files} of {directory} that you may not read; with sudo they would be there"
            ));
        }
        if self.verbose {
            say(format_args!("copied {directory}: {entries} entries, {bytes} bytes"));
            plan.to_string().lines().for_each(say);
        }
    }
}

/// Prints a line on standard error under the program's name. Where nobody can read it there is nobody to tell.
pub fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "nix-build-shell: {what}");
}
