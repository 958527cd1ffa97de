//! `nix-build-shell check-system`: tells what this machine allows.

use anyhow::{Context, Result};
use clap::Args;
use rustix::stdio::stdout;
use rustix::termios::isatty;

use super::say::{print, printable};
use crate::caller::Caller;
use crate::machine::{Fact, Machine, Verdict};
use crate::session::Signals;

/// Status where no sandbox can be started, as it is everywhere else.
const NO_SANDBOX: u8 = 125;

/// Nothing is to be said.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, hide = true)]
    from_inside: bool,
}

/// Tries what a sandbox needs, and prints a line for each fact. Returns 0 only if a sandbox can be started.
///
/// # Errors
/// One sentence where something could not be tried at all.
pub fn run(options: &Options) -> Result<u8> {
    if options.from_inside {
        return Ok(0);
    }
    let signals = Signals::block()?;
    let machine = Machine::examine(&Caller::current(), &signals)?;
    let is_coloured = isatty(stdout()) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines: String = machine.facts.iter().map(|fact| line(fact, is_coloured)).collect();
    print(&lines).context("cannot print what was found")?;
    Ok(if machine.can_start { 0 } else { NO_SANDBOX })
}

fn line(fact: &Fact, is_coloured: bool) -> String {
    let (mark, colour) = match fact.verdict {
        Verdict::There => ("✓", "32"),
        Verdict::Dispensable => ("–", "33"),
        Verdict::Missing => ("✗", "31"),
    };
    let mark = if is_coloured { format!("\x1b[{colour}m{mark}\x1b[m") } else { mark.to_owned() };
    format!("{mark} {:16} {}\n", fact.subject, printable(&fact.words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(verdict: Verdict) -> Fact {
        Fact { subject: "landlock", verdict, words: "a\tb".into() }
    }

    #[test]
    fn a_mark_tells_what_is_there_and_a_colour_only_underlines_it() {
        assert_eq!(line(&fact(Verdict::There), false), "✓ landlock         a\\tb\n");
        assert_eq!(line(&fact(Verdict::Dispensable), false), "– landlock         a\\tb\n");
        assert_eq!(line(&fact(Verdict::Missing), true), "\u{1b}[31m✗\u{1b}[m landlock         a\\tb\n");
    }
}
