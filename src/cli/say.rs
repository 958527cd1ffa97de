//! What is said beside the command's own output: a line each on standard error, under the program's name.

use std::fmt::Display;
use std::io::{self, Write};

use crate::machine::in_words;

/// Says why there is no sandbox. The kernel's answers stand in it in words; their numbers, which Rust adds, help nobody.
pub fn say_error(error: &anyhow::Error) {
    say(in_words(error));
}

/// Prints a line on standard error under the program's name. Where nobody can read it there is nobody to tell.
pub fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "nix-build-shell: {}", printable(&what.to_string()));
}

/// Prints on standard output what was asked for.
///
/// # Errors
/// Standard output's, but for a reader who has seen enough.
pub(super) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The text with its control characters escaped: names that a build chose may speak to a terminal.
pub(super) fn printable(text: &str) -> String {
    let escape = |character: char| {
        if character.is_control() { character.escape_default().to_string() } else { character.into() }
    };
    text.chars().map(escape).collect()
}
