//! Questions to whoever sits at the terminal.

use std::fmt::Display;
use std::io::{self, BufRead, Write};

use super::interactive::is_at_terminal;
use super::say::printable;

/// Asks whether to do something. `None` where nobody is there to ask; no answer is no.
pub(super) fn confirm(question: impl Display) -> Option<bool> {
    let answer = ask(format_args!("{question} [y/N] "))?;
    Some(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

/// Asks for one of so many, counted from 1; an empty answer is the first. The outer `None` is that nobody is there to ask, the inner
/// one that none is wanted.
pub(super) fn choose(question: impl Display, count: usize) -> Option<Option<usize>> {
    loop {
        let answer = ask(format_args!("{question} [1-{count}, q for none; 1] "))?;
        match (answer.as_str(), answer.parse()) {
            ("", _) => return Some(Some(1)),
            ("q" | "n" | "none" | "\u{4}", _) => return Some(None),
            (_, Ok(number)) if (1..=count).contains(&number) => return Some(Some(number)),
            _ => {}
        }
    }
}

/// One line of an answer; `q` at the end of the input.
fn ask(question: impl Display) -> Option<String> {
    if !is_at_terminal() {
        return None;
    }
    // Where nobody can read it nobody answers.
    let mut errors = io::stderr();
    write!(errors, "nix-build-shell: {}", printable(&question.to_string())).and_then(|()| errors.flush()).ok()?;
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer) {
        Ok(0) | Err(_) => {
            let _ = writeln!(errors);
            Some("q".into())
        }
        Ok(_) => Some(answer.trim().to_owned()),
    }
}
