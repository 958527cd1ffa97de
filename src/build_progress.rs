//! How far a failed build came: its phases, and what became of each.

use std::fmt;

use anyhow::{Result, bail};

use crate::failed_build::FailedBuild;
use crate::failed_log::{FailedLog, Origin};
use crate::phases::Work;

/// What became of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseState {
    /// It was run to its end.
    Done,
    /// It was begun, and no other after it.
    Failed,
    /// It was to come later.
    NotReached,
    /// There is no log that tells.
    NotKnown,
}

impl fmt::Display for PhaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::NotReached => "not reached",
            Self::NotKnown => "not known",
        })
    }
}

/// The phases of a failed build, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildProgress {
    /// Each phase and what became of it.
    pub phases: Vec<(String, PhaseState)>,
    /// What the user should know of how this was found out: a sentence each.
    pub notes: Vec<String>,
}

impl BuildProgress {
    /// How far `build` came, by its log: what was begun is in there. What was still to come, stdenv's variables tell.
    ///
    /// # Errors
    /// A build that has no phases: a sentence.
    pub fn of(build: &FailedBuild, log: Option<&FailedLog>) -> Result<Self> {
        let name = match &build.derivation {
            Some(derivation) => derivation.name().escape_ascii().to_string(),
            None => build.name().display().to_string(),
        };
        let begun = log.map(|failed| failed.log.phases()).unwrap_or_default();
        let planned = match Work::of(build) {
            Work::Phases(phases) => phases,
            // A command, or another builder, may run phases all the same.
            _ if !begun.is_empty() => Vec::new(),
            Work::BuildCommand => bail!("{name} has no phases: stdenv runs its buildCommand, and nothing else"),
            Work::NoStdenv => bail!("{name} has no phases: it is not built with stdenv"),
        };
        let mut notes: Vec<_> = log.and_then(|log| log.caution(build)).into_iter().collect();
        let phases = match log {
            Some(log) if log.failed_phase().is_some() => progress(begun, planned),
            Some(log) if log.origin == Origin::Success => not_known(begun.to_vec()),
            Some(log) if build.kept.is_some() && log.log.is_whole() => not_reached(planned),
            Some(_) => not_known(planned),
            None => {
                notes.push(format!("Nix has no log of {name}, so it is not known which phase failed"));
                not_known(planned)
            }
        };
        if let Some((last, PhaseState::Failed)) = phases.last() {
            notes.push(format!(
                "{last} is the last phase: the build may have failed after it, in what Nix asks of outputs"
            ));
        }
        Ok(Self { phases, notes })
    }

    /// The phase that failed; nothing where it is not known, or none was begun.
    pub fn failed_phase(&self) -> Option<&str> {
        let failed = self.phases.iter().find(|(_, state)| *state == PhaseState::Failed);
        failed.map(|(name, _)| name.as_str())
    }
}

/// What was begun, and after the last of that what was still to come.
fn progress(begun: &[String], planned: Vec<String>) -> Vec<(String, PhaseState)> {
    // A setup hook may have added the last phase: then it goes on after the one before it that is known.
    let known = begun.iter().rev().find_map(|phase| planned.iter().rposition(|known| known == phase));
    let next = known.map_or(0, |known| known + 1);
    let still_to_come = planned.into_iter().skip(next).map(|phase| (phase, PhaseState::NotReached));
    let mut phases: Vec<_> = begun.iter().map(|phase| (phase.clone(), PhaseState::Done)).collect();
    if let Some((_, state)) = phases.last_mut() {
        *state = PhaseState::Failed;
    }
    phases.extend(still_to_come);
    phases
}

fn not_reached(phases: Vec<String>) -> Vec<(String, PhaseState)> {
    phases.into_iter().map(|phase| (phase, PhaseState::NotReached)).collect()
}

fn not_known(phases: Vec<String>) -> Vec<(String, PhaseState)> {
    phases.into_iter().map(|phase| (phase, PhaseState::NotKnown)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(begun: &str, planned: &str) -> String {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let phases = progress(&words(begun), words(planned));
        phases.iter().map(|(phase, state)| format!("{phase} {state}")).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_last_phase_that_began_failed() {
        assert_eq!(shown("a b", "a b c d"), "a done, b failed, c not reached, d not reached");
        assert_eq!(shown("a b c", "a b c"), "a done, b done, c failed");
    }

    #[test]
    fn what_a_hook_added_stands_where_it_ran() {
        assert_eq!(shown("a x b", "a b c"), "a done, x done, b failed, c not reached");
        assert_eq!(shown("a x", "a b c"), "a done, x failed, b not reached, c not reached");
        assert_eq!(shown("x", "a"), "x failed, a not reached");
    }

    #[test]
    fn what_was_passed_over_is_not_shown() {
        assert_eq!(shown("a c", "a b c d"), "a done, c failed, d not reached");
        assert_eq!(shown("x y", ""), "x done, y failed");
    }
}
