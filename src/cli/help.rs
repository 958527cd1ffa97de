//! Help that fits a screen. `--help` shows every option in a line or two; `-h` shows what is wanted daily, and fits half of it.

use std::ffi::OsString;
use std::io::Write;

use clap::Command;
use clap::builder::StyledStr;

use super::Invocation;

/// Columns that every terminal has.
pub const WIDTH: usize = 80;

const MORE: &str = "\
All options: nix-build-shell --help. The whole story: man nix-build-shell.";

/// Prints the help that was asked for, in colours if standard output is a terminal that shows them and `NO_COLOR` is not set. Help that
/// nobody reads is no error.
pub fn print(arguments: impl IntoIterator<Item = OsString>) {
    let _ = write!(anstream::stdout(), "{}", text(arguments).ansi());
}

/// The help of the subcommand that the arguments name, or of the program.
fn text(arguments: impl IntoIterator<Item = OsString>) -> StyledStr {
    let arguments: Vec<_> = arguments.into_iter().skip(1).collect();
    let is_brief = !arguments.iter().any(|argument| argument == "--help");
    let mut grammar = Invocation::grammar();
    if is_brief {
        grammar = grammar.after_help(MORE);
    }
    grammar.build();
    let mut command = grammar;
    let mut words = arguments.iter().filter_map(|argument| argument.to_str());
    while let Some(subcommand) = words.next().and_then(|word| command.find_subcommand(word)).cloned() {
        command = subcommand;
    }
    let levelled = if is_brief { in_brief } else { in_full };
    levelled(command).mut_arg("help", |help| help.help("Print help")).render_help()
}

/// Without headings.
fn in_brief(command: Command) -> Command {
    command.mut_args(|arg| {
        let is_hidden = arg.is_hide_short_help_set() || arg.get_id() == "version";
        arg.help_heading(None).hide_short_help(is_hidden)
    })
}

/// With the options that the brief help leaves out. (clap's own long help takes three lines for an option.)
fn in_full(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_short_help(false))
}

/// The ways to call a command, one a line.
pub fn usage(command: &Command) -> Vec<String> {
    let text = command.clone().render_usage().to_string();
    text.trim_start_matches("Usage:").lines().map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(arguments: &str) -> Vec<String> {
        let arguments = std::iter::once("nix-build-shell").chain(arguments.split_whitespace()).map(OsString::from);
        text(arguments).to_string().lines().map(String::from).collect()
    }

    #[test]
    fn help_fits_a_screen_and_brief_help_half_of_one() {
        let mut grammar = Invocation::grammar();
        grammar.build();
        let subcommands = grammar.get_subcommands().map(Command::get_name);
        for subcommand in [""].into_iter().chain(subcommands) {
            for (option, height) in [("--help", 50), ("-h", 25)] {
                let lines = lines(&format!("{subcommand} {option}"));
                assert!(lines.len() <= height, "{subcommand} {option}: {}\n{}", lines.len(), lines.join("\n"));
                let widest = lines.iter().max_by_key(|line| line.chars().count()).unwrap();
                assert!(widest.chars().count() <= WIDTH, "{widest}");
            }
        }
    }

    #[test]
    fn full_help_has_every_option() {
        let mut grammar = Invocation::grammar();
        grammar.build();
        let full = lines("--help").join("\n");
        for option in grammar.get_arguments().filter_map(|arg| arg.get_long()) {
            assert!(full.contains(&format!("--{option}")), "{option}");
        }
        assert!(lines("sessions enter --help").join("\n").contains("sessions enter [OPTIONS] NAME"));
    }
}
