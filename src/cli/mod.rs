//! The command line: options, help texts, and what is said beside the command's own output.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use crate::failed_build::{FailedBuild, Kind, StoreExtent, Wishes};
use crate::kept_build::KeptBuild;
use crate::nix::SandboxPath;
use crate::plan::{BUILD, Plan};
use crate::scratch::{CopySummary, Unreadable};

const AFTER_HELP: &str = "\
The kept directory itself is never changed: the sandbox works on a copy, which goes with it.
Exit status: the command's own; 128+n if the signal n ended it; 125 if no sandbox could be made.";

const AFTER_LONG_HELP: &str = "\
Examples:
  nix-build-shell /tmp/nix-build-foo.drv-0              a shell where the build failed
  nix-build-shell /tmp/nix-build-foo.drv-0 make check   one command
  sudo nix-build-shell /tmp/nix-build-foo.drv-0         if a Nix daemon built it; it runs as you

Options stand before BUILD_DIR; all that follows COMMAND belongs to it.
TMPDIR says where the copy is made [default: /tmp]. The kept directory itself is never changed.
Exit status: the command's own; 126 or 127 if it could not be executed or found; 128+n if the
signal n ended it; 125 if no sandbox could be made, with one sentence that says why.";

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
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP
)]
pub struct Options {
    /// The directory that Nix named after «keeping build directory»
    #[arg(value_name = "BUILD_DIR")]
    pub build_dir: PathBuf,

    /// What to run in the sandbox, with its arguments [default: the build's shell]
    #[arg(value_name = "COMMAND [ARG]", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,

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

    /// Print what would be done, a step a line, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Print each step on standard error
    #[arg(short, long)]
    pub verbose: bool,
}

impl Options {
    /// The options that this program was called with.
    ///
    /// # Errors
    /// The text to show in place of a run, and the exit status that goes with it.
    pub fn from_command_line() -> Result<Self, clap::Error> {
        let options = Self::try_parse()?;
        match options.command.first() {
            // The shell's `exec` would take it for an option of its own.
            Some(word) if word.as_bytes().starts_with(b"-") => Err(clap::Error::raw(
                ErrorKind::UnknownArgument,
                format!("{} is no command, and options stand before BUILD_DIR", word.display()),
            )),
            _ => Ok(options),
        }
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
            network: if self.network { Some(true) } else { self.no_network.then_some(false) },
            like: self.like,
            bind: self.bind.clone(),
            bind_writable: self.bind_rw.clone(),
        }
    }

    /// Prints what would be done: what is copied, then the plan.
    ///
    /// # Errors
    /// Standard output's, but for a reader who has seen enough.
    pub fn print_dry_run(&self, build: &FailedBuild, plan: &Plan, scratch: &Path) -> io::Result<()> {
        let copy = scratch.join(BUILD);
        let text = match &build.kept {
            Some(kept) => format!("copy {} to {}\n{plan}", kept.directory.display(), copy.display()),
            None => format!("make the empty directory {}\n{plan}", copy.display()),
        };
        let lines: String = text.lines().map(|line| printable(line) + "\n").collect();
        match io::stdout().write_all(lines.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
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

/// The text with its control characters escaped: names that a build chose may speak to a terminal.
fn printable(text: &str) -> String {
    let escape = |character: char| {
        if character.is_control() { character.escape_default().to_string() } else { character.into() }
    };
    text.chars().map(escape).collect()
}

/// Shows what clap has to say: help and version as they are, a mistake in one sentence of our own voice. Returns whether it was a
/// mistake.
pub fn show_usage(usage: &clap::Error) -> bool {
    let text = usage.to_string();
    let first = text.lines().next().unwrap_or_default();
    let see_help = "see «nix-build-shell --help»";
    match usage.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Help that nobody reads is no error.
            let _ = usage.print();
            return false;
        }
        ErrorKind::MissingRequiredArgument => {
            say(format_args!(
                "which directory? Give the one that Nix names after «keeping build directory»; {see_help}"
            ));
        }
        _ => say(format_args!("{}; {see_help}", first.trim_start_matches("error: "))),
    }
    true
}

/// Says why there is no sandbox. The kernel's answers stand in it in words; their numbers, which Rust adds, help nobody.
pub fn say_error(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let mut parts = text.split(" (os error ");
    let start = parts.next().unwrap_or_default().to_owned();
    say(parts.fold(start, |said, part| said + part.split_once(')').map_or(part, |(_, rest)| rest)));
}

/// Prints a line on standard error under the program's name. Where nobody can read it there is nobody to tell.
pub fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "nix-build-shell: {}", printable(&what.to_string()));
}
