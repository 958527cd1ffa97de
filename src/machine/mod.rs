//! What this machine allows, tried and not guessed: for `nix-build-shell check-system`.

mod files;
mod kernel;
mod nix;
mod trial;

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Error, Result};

pub(crate) use self::kernel::version_of;
pub use self::trial::FROM_INSIDE;
use self::trial::Trial;
use crate::caller::Caller;
use crate::nix::Settings;
use crate::scratch::Scratch;
use crate::session::Signals;

/// What a fact means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    There,
    /// It is missing, and nothing fails for it.
    Dispensable,
    /// It is missing, and something fails for it.
    Missing,
}

/// One fact about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub subject: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// In words, and where something is missing, what to do about it.
    pub words: String,
}

impl Fact {
    fn there(subject: &'static str, words: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::There, words: words.into() }
    }

    fn dispensable(subject: &'static str, words: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Dispensable, words: words.into() }
    }

    fn missing(subject: &'static str, words: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Missing, words: words.into() }
    }

    /// What is there, or why it is not.
    fn needed(subject: &'static str, found: Result<impl Into<String>>) -> Self {
        match found {
            Ok(words) => Self::there(subject, words),
            Err(error) => Self::missing(subject, in_words(&error)),
        }
    }
}

/// All that was found out.
#[derive(Clone, Debug)]
pub struct Machine {
    /// A line each.
    pub facts: Vec<Fact>,
    /// Whether a sandbox has been started, and a program has run in it.
    pub can_start: bool,
}

impl Machine {
    /// Tries everything on this machine, as `caller`, with a scratch directory that is gone afterwards.
    ///
    /// # Errors
    /// A signal that came meanwhile, or the kernel's where a trial ran and could not be waited for.
    pub fn examine(caller: &Caller, signals: &Signals) -> Result<Self> {
        let parent = Scratch::default_parent();
        let settings = Settings::in_force();
        let scratch = Scratch::create(&parent, None);
        let mut facts = vec![kernel::version()];
        let mut can_start = false;
        match &scratch {
            Ok(scratch) => {
                let trial = Trial::prepare(caller, signals, scratch)?;
                facts.push(trial.user_namespaces()?);
                facts.push(trial.overlayfs(&parent)?);
                facts.push(trial.id_mapped_mounts(&parent)?);
                facts.push(files::reflinks(scratch, &parent));
                let whole = trial.whole_sandbox(&settings)?;
                can_start = whole.verdict == Verdict::There;
                facts.extend([kernel::seccomp(), kernel::landlock(), kernel::kvm(), kernel::cgroups()]);
                facts.extend(nix::facts(&settings));
                facts.push(files::room(&parent));
                facts.push(whole);
            }
            Err(error) => {
                facts.extend([kernel::seccomp(), kernel::landlock(), kernel::kvm(), kernel::cgroups()]);
                facts.extend(nix::facts(&settings));
                facts.push(Fact::missing("TMPDIR", in_words(error)));
                facts.push(Fact::missing("sandbox", "none was tried, for want of a place for it"));
            }
        }
        if let Ok(scratch) = scratch {
            scratch.remove()?;
        }
        Ok(Self { facts, can_start })
    }
}

/// An error as a person reads it: the kernel's answers stand in it in words; their numbers, which Rust adds, help nobody.
pub(crate) fn in_words(error: &Error) -> String {
    without_numbers(&format!("{error:#}"))
}

fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let start = parts.next().unwrap_or_default().to_owned();
    parts.fold(start, |said, part| said + part.split_once(')').map_or(part, |(_, rest)| rest))
}

/// A path as it stands in a sentence.
fn shown(path: &Path) -> Cow<'_, str> {
    path.to_string_lossy()
}
