//! The command line: what was asked for, help texts, and what is said beside the command's own output.

mod enter;
mod patch_options;
mod sandbox_options;
mod say;

use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;

use self::say::say;
pub use self::say::say_error;

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
pub struct Invocation {
    #[command(flatten)]
    enter: enter::Options,
}

impl Invocation {
    /// What this program was called for.
    ///
    /// # Errors
    /// The text to show in place of a run, and the exit status that goes with it.
    pub fn from_command_line() -> Result<Self, clap::Error> {
        let invocation = Self::try_parse()?;
        match invocation.enter.command.first() {
            // The shell's `exec` would take it for an option of its own.
            Some(word) if word.as_bytes().starts_with(b"-") => Err(clap::Error::raw(
                ErrorKind::UnknownArgument,
                format!("{} is no command, and options stand before BUILD_DIR", word.display()),
            )),
            _ => Ok(invocation),
        }
    }

    /// Does it. Returns the exit status.
    ///
    /// # Errors
    /// One sentence, where it could not be done.
    pub fn run(&self) -> Result<u8> {
        enter::run(&self.enter)
    }
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
