//! The command line: what was asked for, help texts, and what is said beside the command's own output.

mod check_system;
mod enter;
mod header;
mod interactive;
mod limit_options;
mod patch_options;
mod phases;
mod resume;
mod sandbox_options;
mod say;
mod sessions;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Args, FromArgMatches, Subcommand as _};

use self::say::say;
pub use self::say::say_error;

const NAME: &str = "nix-build-shell";

const USAGE: &str = "\
nix-build-shell [OPTIONS] BUILD_DIR [COMMAND [ARG]...]
       nix-build-shell phases BUILD_DIR
       nix-build-shell resume [--from PHASE | --only PHASE] [OPTIONS] BUILD_DIR
       nix-build-shell sessions [enter NAME [COMMAND [ARG]...] | remove NAME...]
       nix-build-shell check-system";

const AFTER_HELP: &str = "\
The kept directory itself is never changed: the sandbox works on a copy, which goes with it.
Exit status: the command's own; 128+n if the signal n ended it; 124 if --timeout did; 125 if no sandbox could be made.";

const AFTER_LONG_HELP: &str = "\
Examples:
  nix-build-shell /tmp/nix-build-foo.drv-0              a shell where the build failed
  nix-build-shell /tmp/nix-build-foo.drv-0 make check   one command
  sudo nix-build-shell /tmp/nix-build-foo.drv-0         if a Nix daemon built it; it runs as you
  nix-build-shell phases /tmp/nix-build-foo.drv-0       how far the build came
  nix-build-shell resume /tmp/nix-build-foo.drv-0       the phase that failed, and all after it
  nix-build-shell --keep-session fix /tmp/nix-build-foo.drv-0
                                                        keep what is done in there
  nix-build-shell sessions enter fix                    go on with it, or join it where it runs

Options stand before BUILD_DIR; all that follows COMMAND belongs to it. A directory that is called as a
command of this program is written ./NAME.
TMPDIR says where the copy is made [default: /tmp]. The kept directory itself is never changed.
Exit status: the command's own; 126 or 127 if it could not be executed or found; 128+n if the
signal n ended it; 124 if --timeout did; 125 if no sandbox could be made, with one sentence that says why.";

const ABOUT: &str = "Open the sandbox of a failed Nix build";

const LONG_ABOUT: &str = "\
Open the sandbox of a failed Nix build.

Takes the directory that «nix-build --keep-failed» left, makes the build's sandbox around a copy of it, without root, and runs \
COMMAND in it with the build's environment, or an interactive shell.";

/// What this program was called for.
#[derive(Debug)]
pub enum Invocation {
    /// To run a command, or a shell, in a sandbox.
    Enter(enter::Options),
    /// Something else.
    Other(Subcommand),
}

/// What can be done besides running a command. A directory of such a name is written `./NAME`.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Show the phases of the build: done, failed or not reached
    Phases(phases::Options),
    /// Run the phase that failed, and all after it
    Resume(resume::Options),
    /// List the sessions that --keep-session has kept, enter one again, or remove it
    Sessions(sessions::Options),
    /// Tell what this machine allows: namespaces, overlayfs, cgroups, Nix; status 0 only if a sandbox can start
    CheckSystem(check_system::Options),
}

impl Invocation {
    /// What this program was called for.
    ///
    /// # Errors
    /// The text to show in place of a run, and the exit status that goes with it.
    pub fn from_command_line() -> Result<Self, clap::Error> {
        Self::from_arguments(std::env::args_os())
    }

    fn from_arguments(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let matches = Self::grammar().try_get_matches_from(arguments)?;
        if matches.subcommand_name().is_some() {
            let subcommand = Subcommand::from_arg_matches(&matches)?;
            if let Subcommand::Sessions(options) = &subcommand {
                check_command(options.command(), "NAME")?;
            }
            return Ok(Self::Other(subcommand));
        }
        let options = enter::Options::from_arg_matches(&matches)?;
        check_command(&options.command, "BUILD_DIR")?;
        Ok(Self::Enter(options))
    }

    /// All options, arguments and subcommands, with their help texts. A subcommand stands first, or is none: what follows BUILD_DIR is
    /// a command for the sandbox.
    fn grammar() -> clap::Command {
        let command = Subcommand::augment_subcommands(enter::Options::augment_args(clap::Command::new(NAME)));
        command
            .bin_name(NAME)
            .version(env!("CARGO_PKG_VERSION"))
            .about(ABOUT)
            .long_about(LONG_ABOUT)
            .override_usage(USAGE)
            .after_help(AFTER_HELP)
            .after_long_help(AFTER_LONG_HELP)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
            .subcommand_required(false)
            .arg_required_else_help(false)
            .disable_help_subcommand(true)
            .subcommand_help_heading("Subcommands")
    }

    /// Does it. Returns the exit status.
    ///
    /// # Errors
    /// One sentence, where it could not be done.
    pub fn run(&self) -> Result<u8> {
        match self {
            Self::Enter(options) => enter::run(options),
            Self::Other(Subcommand::Phases(options)) => phases::run(options),
            Self::Other(Subcommand::Resume(options)) => resume::run(options),
            Self::Other(Subcommand::Sessions(options)) => sessions::run(options),
            Self::Other(Subcommand::CheckSystem(options)) => check_system::run(options),
        }
    }
}

/// The shell's `exec` would take a word with a hyphen in front for an option of its own.
fn check_command(command: &[OsString], after: &str) -> Result<(), clap::Error> {
    match command.first() {
        Some(word) if word.as_bytes().starts_with(b"-") => Err(clap::Error::raw(
            ErrorKind::UnknownArgument,
            format!("{} is no command, and options stand before {after}", word.display()),
        )),
        _ => Ok(()),
    }
}

const WHICH: &str = "Give the one that Nix names after «keeping build directory»";
const SEE_HELP: &str = "see «nix-build-shell --help»";

/// Shows what clap has to say: help and version as they are, a mistake in one sentence of our own voice. Returns whether it was a
/// mistake.
pub fn show_usage(usage: &clap::Error) -> bool {
    let text = usage.to_string();
    let first = text.lines().next().unwrap_or_default();
    match usage.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Help that nobody reads is no error.
            let _ = usage.print();
            return false;
        }
        ErrorKind::MissingRequiredArgument if text.contains("<NAME>") => {
            say("which session? «nix-build-shell sessions» lists those that there are");
        }
        ErrorKind::MissingRequiredArgument => {
            say(format_args!("which directory? {WHICH}; {SEE_HELP}"));
        }
        _ => say(format_args!("{}; {SEE_HELP}", first.trim_start_matches("error: "))),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(arguments: &str) -> Result<String, String> {
        let arguments = std::iter::once(NAME).chain(arguments.split_whitespace());
        match Invocation::from_arguments(arguments) {
            Ok(Invocation::Enter(options)) => {
                Ok(format!("enter {} {:?}", options.build_dir.display(), options.command))
            }
            Ok(Invocation::Other(other)) => Ok(format!("{other:?}").to_lowercase()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Invocation::grammar().debug_assert();
    }

    #[test]
    fn only_the_first_word_can_be_a_subcommand() {
        assert_eq!(invocation("dir").unwrap(), "enter dir []");
        assert_eq!(invocation("dir phases").unwrap(), r#"enter dir ["phases"]"#);
        assert_eq!(invocation("dir phases --verbose").unwrap(), r#"enter dir ["phases", "--verbose"]"#);
        assert_eq!(invocation("./phases").unwrap(), "enter ./phases []");
        assert_eq!(invocation("-v dir phases").unwrap(), r#"enter dir ["phases"]"#);
        assert_eq!(invocation("help").unwrap(), "enter help []");
        assert!(invocation("phases dir").unwrap().starts_with("phases(options { build_dir: \"dir\""));
    }

    #[test]
    fn what_is_missing_or_too_much_is_an_error() {
        for arguments in ["", "-v", "phases", "phases dir more", "phases --network dir", "dir --nonsense"] {
            assert!(invocation(arguments).is_err(), "{arguments}");
        }
    }
}
