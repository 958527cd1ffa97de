//! Completion in bash, zsh and fish: the shell asks this program at each press of the tabulator key, and this program knows its own
//! grammar. What a value is completed to goes by its name in the help, so a new option or subcommand needs nothing here.

mod values;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::engine::{ArgValueCompleter, PathCompleter};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use self::values::{HostCommand, Phases, SandboxCommand, builds, is_derivation, kept_directories, sessions};
use super::{Invocation, NAME};

/// Set to the shell's name by a shell that asks.
pub const ASKING_SHELL: &str = "NIX_BUILD_SHELL_COMPLETE";

/// Set to the place of the word to complete; fish leaves out what follows that word.
const PLACE: &str = "_CLAP_COMPLETE_INDEX";

const SHELLS: [&dyn EnvCompleter; 3] = [&Bash, &Fish, &Zsh];

fn shell_called(name: &str) -> Option<&'static dyn EnvCompleter> {
    SHELLS.into_iter().find(|shell| shell.is(name))
}

/// The script that has a shell ask this program; `None` for a shell that there is no script for.
pub fn script(shell: &str) -> Option<Vec<u8>> {
    let shell = shell_called(shell)?;
    let mut script = Vec::new();
    shell.write_registration(ASKING_SHELL, NAME, NAME, NAME, &mut script).expect("memory takes it");
    if shell.name() == "zsh" {
        // In a directory of `fpath` it is loaded at the first completion, and has to carry that out as well.
        let function = NAME.replace('-', "_");
        let call = format!("\nif [[ $funcstack[1] == _{NAME} ]]; then _clap_dynamic_completer_{function}; fi\n");
        script.extend(call.as_bytes());
    }
    Some(script)
}

/// Answers a shell: a candidate a line on standard output, in that shell's own form. `arguments` are this program's name, `--`, and the
/// words of the command line so far.
///
/// # Errors
/// A shell that is not known, or one that asks nothing.
pub fn answer(shell: &OsStr, arguments: Vec<OsString>) -> Result<()> {
    let Some(completer) = shell.to_str().and_then(shell_called) else {
        bail!("{ASKING_SHELL} is {}, and completes for bash, fish and zsh", shell.display());
    };
    let words: Vec<_> = arguments.into_iter().skip_while(|argument| argument != "--").skip(1).collect();
    if words.is_empty() {
        bail!(
            "{ASKING_SHELL} is for a shell that completes; «nix-build-shell --generate complete-bash» makes its script"
        );
    }
    let place = env::var(PLACE).ok().and_then(|place| place.parse().ok()).unwrap_or(words.len() - 1);
    let mut grammar = grammar_for(&words, place);
    let mut answer = Vec::new();
    let here = env::current_dir().ok();
    completer.write_complete(&mut grammar, words, here.as_deref(), &mut answer).context("cannot complete")?;
    std::io::stdout().write_all(&answer).context("cannot print")
}

/// The grammar with all that is needed to complete the word at `place`.
fn grammar_for(words: &[OsString], place: usize) -> Command {
    let first = words.get(1).and_then(|word| word.to_str());
    let is_subcommand = |grammar: &Command| first.is_some_and(|first| grammar.find_subcommand(first).is_some());
    let mut grammar = Invocation::grammar();
    if place > 1 && !is_subcommand(&grammar) {
        // A subcommand stands first or is none, which the engine does not know.
        grammar = Invocation::grammar_without_subcommands();
    }
    grammar.build();
    let wants_options = words.get(place).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    let completing = Completing { words, place, wants_options };
    completing.prepare(grammar, false)
}

struct Completing<'a> {
    words: &'a [OsString],
    place: usize,
    wants_options: bool,
}

impl Completing<'_> {
    fn prepare(&self, command: Command, is_of_sessions: bool) -> Command {
        let is_of_sessions = is_of_sessions || command.get_name() == "sessions";
        let runs_outside = command.get_name() == "build";
        command
            .mut_args(|arg| self.completed(arg, is_of_sessions, runs_outside))
            .mut_subcommands(|subcommand| self.prepare(subcommand, is_of_sessions))
    }

    fn completed(&self, arg: Arg, is_of_sessions: bool, runs_outside: bool) -> Arg {
        // An option is offered to who begins one, or where there is nothing else.
        let is_hidden = !arg.is_positional() && !self.wants_options;
        let arg = if is_hidden { arg.hide(true) } else { arg };
        let Some(name) = arg.get_value_names().and_then(|names| names.first()) else { return arg };
        match name.as_str() {
            // One of several is to be removed, and named as exactly as that wants.
            "BUILD_DIR" if matches!(arg.get_action(), ArgAction::Append) => {
                arg.add(ArgValueCompleter::new(kept_directories))
            }
            "BUILD_DIR" => arg.add(ArgValueCompleter::new(builds)),
            "NAME" if is_of_sessions => arg.add(ArgValueCompleter::new(sessions)),
            "PHASE" => arg.add(ArgValueCompleter::new(Phases::of_build_among(self.words))),
            "COMMAND [ARG]" if runs_outside => arg.add(ArgValueCompleter::new(HostCommand)),
            "COMMAND [ARG]" => {
                let before = &self.words[..self.place.min(self.words.len())];
                arg.add(ArgValueCompleter::new(SandboxCommand::of_build_among(before)))
            }
            "DRV" => arg.add(ArgValueCompleter::new(PathCompleter::file().filter(is_derivation))),
            "FILE" | "PATH" | "ROOT" | "TARGET[=SOURCE]" => arg.value_hint(ValueHint::AnyPath),
            _ => arg,
        }
    }
}

/// What a shell shows beside a candidate.
fn beside(text: impl Into<String>) -> Option<StyledStr> {
    Some(StyledStr::from(text.into()))
}
