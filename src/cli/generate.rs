//! `nix-build-shell --generate WHAT`: the texts that go with the program, for packagers and for who has installed it by `cargo install`.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, Result};
use clap::error::ErrorKind;

use super::{completion, manual};

/// No option of the grammar, since every call pays for those.
const OPTION: &str = "--generate";

const WHAT: &str = "it makes man, complete-bash, complete-fish and complete-zsh";

/// A text, made from the grammar of the command line.
#[derive(Debug)]
pub struct Text(Vec<u8>);

impl Text {
    /// The text that was asked for, if one was.
    ///
    /// # Errors
    /// A text that there is not.
    pub fn asked_for(arguments: &[OsString]) -> Result<Option<Self>, clap::Error> {
        let Some((_, [option, asked_for @ ..])) = arguments.split_first() else { return Ok(None) };
        if option != OPTION {
            return Ok(None);
        }
        let mistake = |text: String| clap::Error::raw(ErrorKind::InvalidValue, text);
        let [what] = asked_for else {
            return Err(mistake(format!("{OPTION} wants one word: {WHAT}")));
        };
        let text = match what.to_str() {
            Some("man") => Some(manual::page()),
            Some(what) => what.strip_prefix("complete-").and_then(completion::script),
            None => None,
        };
        let text = text.ok_or_else(|| mistake(format!("there is no text {} for {OPTION}: {WHAT}", what.display())))?;
        Ok(Some(Self(text)))
    }

    /// Prints it.
    ///
    /// # Errors
    /// Standard output's.
    pub fn generate(&self) -> Result<()> {
        std::io::stdout().write_all(&self.0).context("cannot print it")
    }
}
