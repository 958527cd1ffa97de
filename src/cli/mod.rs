//! The command line: what was asked for, help texts, and what is said beside the command's own output.

mod ahead;
mod ask;
mod build;
mod build_dir;
mod check_system;
mod completion;
mod enter;
mod generate;
mod header;
mod help;
mod interactive;
mod limit_options;
mod list;
mod manual;
mod patch_options;
mod phases;
mod remove;
mod resume;
mod sandbox_options;
mod say;
mod sessions;
mod table;
mod which_build;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, FromArgMatches, Subcommand as _};

pub use self::ahead::Ahead;
use self::ahead::begin_ahead;
use self::say::say;
pub use self::say::say_error;

const NAME: &str = "nix-build-shell";

const USAGE: &str = "\
nix-build-shell [OPTIONS] [BUILD_DIR [COMMAND [ARG]...]]
       nix-build-shell SUBCOMMAND [OPTIONS] [ARG]...";

const AFTER_HELP: &str = "\
Options stand before BUILD_DIR. Exit status: the command's, 128+signal, or 125.";

const ABOUT: &str = "Open the sandbox of a failed Nix build";

/// What this program was called for.
#[derive(Debug)]
pub enum Invocation {
    /// To run a command, or a shell, in a sandbox.
    Enter(enter::Options),
    /// Something else.
    Other(Subcommand),
    /// To make a text that goes with the program.
    Generate(generate::Text),
    /// To complete a command line, for this shell.
    Complete(OsString),
}

/// What can be done besides running a command. A directory of such a name is written `./NAME`.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Show the phases of the build: done, failed or not reached
    Phases(phases::Options),
    /// Run the phase that failed, and all after it
    Resume(resume::Options),
    /// Build with Nix, and open the sandbox of what fails
    Build(build::Options),
    /// List the build directories that Nix has kept
    List(list::Options),
    /// Remove build directories that Nix has kept
    Remove(remove::Options),
    /// List, enter or remove the sessions of --keep-session
    Sessions(sessions::Options),
    /// Tell what this machine allows a sandbox
    CheckSystem(check_system::Options),
}

impl Invocation {
    /// What this program was called for with these `arguments`, its name first; and, where that is sure to need it, a sandbox whose making
    /// has begun meanwhile.
    ///
    /// # Errors
    /// The text to show in place of a run, and the exit status that goes with it.
    pub fn of_command_line(arguments: &[OsString]) -> Result<(Self, Option<Ahead>), clap::Error> {
        if let Some(shell) = std::env::var_os(completion::ASKING_SHELL) {
            return Ok((Self::Complete(shell), None));
        }
        let ahead = begin_ahead(arguments);
        let invocation = match generate::Text::asked_for(arguments)? {
            Some(text) => Self::Generate(text),
            None => Self::from_arguments(arguments)?,
        };
        Ok((invocation, ahead))
    }

    fn from_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let is_subcommand = |word: &OsString| word.to_str().is_some_and(Subcommand::has_subcommand);
        // To describe what all subcommands can have takes longer than the rest of the reading, and the command waits for it. The grammar
        // that has them tells of mistakes, and gives help.
        if !arguments.get(1).is_some_and(is_subcommand) {
            let matches = Self::grammar_without_subcommands().try_get_matches_from(arguments);
            if let Ok(invocation) = matches.and_then(|matches| Self::entering(&matches)) {
                return Ok(invocation);
            }
        }
        Self::from_any_arguments(arguments)
    }

    fn from_any_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let matches = Self::grammar().try_get_matches_from(arguments)?;
        if matches.subcommand_name().is_some() {
            let subcommand = Subcommand::from_arg_matches(&matches)?;
            if let Subcommand::Sessions(options) = &subcommand {
                check_command(options.command(), "NAME")?;
            }
            return Ok(Self::Other(subcommand));
        }
        Self::entering(&matches)
    }

    fn entering(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let options = enter::Options::from_arg_matches(matches)?;
        check_command(&options.command, "BUILD_DIR")?;
        Ok(Self::Enter(options))
    }

    /// All options, arguments and subcommands, with their help texts. A subcommand stands first, or is none: what follows BUILD_DIR is
    /// a command for the sandbox.
    fn grammar() -> clap::Command {
        Subcommand::augment_subcommands(Self::grammar_without_subcommands())
            .max_term_width(help::WIDTH)
            .version(env!("CARGO_PKG_VERSION"))
            .about(ABOUT)
            .override_usage(USAGE)
            .after_help(AFTER_HELP)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
            .subcommand_required(false)
            .arg_required_else_help(false)
            .disable_help_subcommand(true)
            .subcommand_help_heading("Subcommands")
    }

    fn grammar_without_subcommands() -> clap::Command {
        enter::Options::augment_args(clap::Command::new(NAME).bin_name(NAME))
    }

    /// Does it. Returns the exit status.
    ///
    /// # Errors
    /// One sentence, where it could not be done.
    pub fn run(&self, ahead: Option<Ahead>) -> Result<u8> {
        match self {
            Self::Enter(options) => enter::run(options, ahead),
            Self::Generate(text) => text.generate().map(|()| 0),
            Self::Complete(shell) => completion::answer(shell, std::env::args_os().collect()).map(|()| 0),
            Self::Other(Subcommand::Phases(options)) => phases::run(options),
            Self::Other(Subcommand::Resume(options)) => resume::run(options),
            Self::Other(Subcommand::Build(options)) => build::run(options),
            Self::Other(Subcommand::List(options)) => list::run(options),
            Self::Other(Subcommand::Remove(options)) => remove::run(options),
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

/// Where to read what the command line may have: of the subcommand that was called, if one was.
fn see_help(arguments: impl IntoIterator<Item = OsString>) -> String {
    let mut grammar = &Invocation::grammar();
    let mut command = NAME.to_owned();
    for word in arguments.into_iter().skip(1) {
        let Some(subcommand) = grammar.find_subcommand(&word) else { break };
        command = format!("{command} {}", subcommand.get_name());
        grammar = subcommand;
    }
    format!("see «{command} --help»")
}

/// Shows what clap has to say: help and version as they are, a mistake in one sentence of our own voice. Returns whether it was a
/// mistake.
pub fn show_usage(usage: &clap::Error) -> bool {
    let text = usage.to_string();
    let first = text.lines().next().unwrap_or_default();
    match usage.kind() {
        ErrorKind::DisplayHelp => {
            help::print(std::env::args_os());
            return false;
        }
        ErrorKind::DisplayVersion => {
            // A version that nobody reads is no error.
            let _ = usage.print();
            return false;
        }
        _ => {}
    }
    let see_help = see_help(std::env::args_os());
    match usage.kind() {
        ErrorKind::MissingRequiredArgument if text.contains("<NAME>") => {
            say("which session? «nix-build-shell sessions» lists those that there are");
        }
        ErrorKind::MissingRequiredArgument if text.contains("COMMAND [ARG]") => {
            say(format_args!(
                "build what? Give a command that builds, as in «nix-build-shell build -- nix-build»; {see_help}"
            ));
        }
        ErrorKind::MissingRequiredArgument => {
            say(format_args!("which directory? {WHICH}; {see_help}"));
        }
        _ => say(format_args!("{}; {see_help}", first.trim_start_matches("error: "))),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(arguments: &str) -> Vec<OsString> {
        std::iter::once(NAME).chain(arguments.split_whitespace()).map(OsString::from).collect()
    }

    fn invocation(arguments: &str) -> Result<String, String> {
        match Invocation::from_arguments(&words(arguments)) {
            Ok(Invocation::Enter(options)) => {
                let build_dir = options.build_dir.unwrap_or_else(|| "the newest".into());
                Ok(format!("enter {} {:?}", build_dir.display(), options.command))
            }
            Ok(Invocation::Other(other)) => Ok(format!("{other:?}").to_lowercase()),
            Ok(other) => Err(format!("{other:?}")),
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
        assert!(invocation("phases dir").unwrap().starts_with("phases(options { build_dir: some(\"dir\""));
    }

    #[test]
    fn without_a_subcommand_the_short_way_reads_the_same() {
        for arguments in [
            "",
            "dir",
            "dir command --help -x",
            "-v dir phases",
            "--attr hello resume",
            "--store=full --network dir -- list",
            "--store full --store-root /root dir true",
            "-c line dir",
            "-c line dir command",
            "--keep-session x --save-patch y dir",
            "--version",
            "-V dir",
            "dir --version",
            "dir -V",
            "dir -vV",
            "dir -cV",
            "dir -AV",
            "dir command -V",
            "--help",
            "dir --help",
            "--nonsense",
            "--store nonsense dir",
            "dir -x",
            "list",
            "list --help",
            "-v list",
            "--as-pid-1 remove dir",
            "help",
            "--generate man",
        ] {
            let read = |invocation: Result<Invocation, clap::Error>| match invocation {
                Ok(invocation) => format!("{invocation:?}"),
                Err(error) => format!("{:?}: {error}", error.kind()),
            };
            let words = words(arguments);
            let any = read(Invocation::from_any_arguments(&words));
            assert_eq!(read(Invocation::from_arguments(&words)), any, "{arguments}");
        }
    }

    #[test]
    fn the_help_of_what_was_called_is_pointed_to() {
        let help = |arguments: &str| see_help(words(arguments));
        assert_eq!(help("--nonsense"), "see «nix-build-shell --help»");
        assert_eq!(help("dir resume"), "see «nix-build-shell --help»");
        assert_eq!(help("resume --nonsense sessions"), "see «nix-build-shell resume --help»");
        assert_eq!(help("sessions enter --nonsense"), "see «nix-build-shell sessions enter --help»");
    }

    #[test]
    fn what_is_missing_or_too_much_is_an_error() {
        for arguments in
            ["build", "build -c x", "remove", "list x", "phases dir more", "phases --network dir", "dir --nonsense"]
        {
            assert!(invocation(arguments).is_err(), "{arguments}");
        }
    }
}
