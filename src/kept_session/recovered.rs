//! Sessions whose nix-build-shell was killed: what somebody typed there is kept, as if he had asked for it.

use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::io::Errno;

use super::untouched::is_untouched;
use super::{DESCRIPTION, Description, Sessions, description_in, is};
use crate::caller::Caller;
use crate::history::History;
use crate::record;
use crate::scratch::Scratch;

/// More sessions of one build have not begun in one second.
const MOST_NAMES: u32 = 1000;
/// As much of a name as leaves room for the rest of a session's name.
const LONGEST_TITLE: usize = 70;

/// Writes down what session the directory `scratch` is of, so that a later run keeps what is done there, should this one be killed.
///
/// # Errors
/// No room.
pub fn note(scratch: &Scratch, description: &Description, caller: &Caller) -> Result<()> {
    record::write(scratch.handle(), DESCRIPTION, description, caller)
}

/// Keeps what was done in a session that was killed, whose directory is `abandoned`, and what was typed there. Returns what to tell the
/// user; nothing where nothing had been done yet, and it is removed.
///
/// # Errors
/// What cannot be kept, and where it is; no later run removes that.
pub fn recover(abandoned: Scratch, caller: &Caller) -> Result<Option<String>> {
    let description = description_in(abandoned.handle()).ok().flatten();
    let description = description.as_ref();
    if let Some(description) = description
        && is_untouched(&abandoned, description, caller)
    {
        return abandoned.remove().map(|_| None);
    }
    let name = description.map_or_else(|| "session-recovered".into(), name_of);
    let history = description.map_or(Ok(()), |description| keep_history(&abandoned, description, caller));
    let has_outputs = description.is_some_and(|description| description.has_outputs);
    let has_some = abandoned.open_outputs().is_some();
    match move_to_sessions(&abandoned, &name, caller) {
        Ok(name) => {
            let (kept, lost) = match (has_outputs, has_some) {
                (true, _) => ("the build directory and in outputs", "elsewhere"),
                (false, true) => ("the build directory and in outputs that there were before", "elsewhere"),
                (false, false) => ("the build directory", "in outputs and elsewhere"),
            };
            let told = format!(
                "a session was killed; what was changed in {kept} is kept as the session {name}, what was {lost} went with the sandbox: \
                 «nix-build-shell sessions enter {name}» enters it, «nix-build-shell sessions remove {name}» saves its changes as a patch \
                 and removes it"
            );
            history.with_context(|| format!("{told}; but what was typed is not kept for the next session"))?;
            Ok(Some(told))
        }
        Err(error) => {
            let kept = abandoned.keep()?;
            Err(error.context(format!(
                "a session was killed, and what was done in it is in {}; remove it when you have it",
                kept.display()
            )))
        }
    }
}

/// Keeps what was typed in a session that was killed, for the next one of its build.
///
/// # Errors
/// As of [`History::keep`].
pub(super) fn keep_history(scratch: &Scratch, description: &Description, caller: &Caller) -> Result<()> {
    let Some(name) = description.derivation_name() else { return Ok(()) };
    match caller.with_own_rights(|| scratch.history_of_session())? {
        Some(typed) => History::named(name.as_bytes(), caller)?.keep_of_killed(&typed, caller),
        None => Ok(()),
    }
}

/// What is built, and when the session began.
fn name_of(description: &Description) -> String {
    let is_plain = |character: &char| character.is_ascii_alphanumeric() || "+-._".contains(*character);
    let title: String = description.title().chars().filter(is_plain).take(LONGEST_TITLE).collect();
    let title = title.trim_start_matches(|first: char| !first.is_ascii_alphanumeric());
    let began = i64::try_from(description.created).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let began = began.unwrap_or_default().strftime("%Y%m%dT%H%M%S");
    format!("{}-recovered-{began}", if title.is_empty() { "session" } else { title })
}

fn move_to_sessions(abandoned: &Scratch, name: &str, caller: &Caller) -> Result<String> {
    let sessions = Sessions::make(caller)?;
    caller.with_own_rights(|| {
        for number in 1..MOST_NAMES {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            match abandoned.move_to_sessions(&sessions.handle, &name) {
                Err(error) if is(&error, Errno::EXIST) => {}
                moved => return moved.map(|()| name),
            }
        }
        Err(Errno::EXIST.into())
    })?
}
