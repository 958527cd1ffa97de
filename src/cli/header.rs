//! What is told at the head of an interactive session: which build this is, and how it failed.

use std::io::{self, Write};

use super::say::printable;
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::failed_log::{FailedLog, Origin};
use crate::failed_phase::FailedPhase;
use crate::kept_builds::ToldFailures;
use crate::kept_session::SessionName;

/// As much as is shown of a line of the log, in characters: compilers are called with long lines.
const LINE_LENGTH: usize = 400;

/// What becomes of what is changed in a session.
#[derive(Clone, Copy, Debug)]
pub enum Changes<'a> {
    /// It goes with the copy, but for a patch.
    InCopy,
    /// The kept directory itself is changed.
    Itself,
    /// It is kept as a session of this name.
    KeptAs(&'a SessionName),
}

/// Shows the header of a session on standard error. Where nobody can read it there is nobody to tell.
pub fn show_header(build: &FailedBuild, log: Option<&FailedLog>, changes: Changes<'_>) {
    let _ = io::stderr().write_all(header(build, log, changes).as_bytes());
}

/// A few lines: the derivation, the phase that failed, the last lines of the log, and one line of help. What the build says of itself is
/// escaped, so that a terminal takes it for text.
///
/// The exit status is among it where Nix told it while `nix-build-shell build` listened: it writes it nowhere.
fn header(build: &FailedBuild, log: Option<&FailedLog>, changes: Changes<'_>) -> String {
    let directory = build.name().display().to_string();
    let name = match &build.derivation {
        Some(derivation) => derivation.name().escape_ascii().to_string(),
        None => directory.clone(),
    };
    let mut lines = Vec::new();
    // What was run in a session since is in no log.
    let in_session = build.kept.as_ref().and_then(|kept| kept.failed_phase.as_ref()?.name.as_deref());
    let in_session = in_session.filter(|phase| log.and_then(FailedLog::failed_phase) != Some(phase));
    let log = log.filter(|_| in_session.is_none());
    let phase = log.and_then(FailedLog::failed_phase).filter(|_| build.has_failed());
    let how = if build.has_failed() { told_status(build).map(|status| format!(" with status {status}")) } else { None };
    let how = how.unwrap_or_default();
    lines.push(match (in_session, phase, build.has_failed()) {
        (Some(FailedPhase::DONE), ..) => format!("{name}: in this session all phases have succeeded"),
        (Some(phase), ..) => format!("{name} failed in {phase}, in this session"),
        (None, Some(phase), _) => format!("{name} failed in {phase}{how}"),
        (None, None, true) => format!("{name} failed{how}"),
        (None, None, false) => format!("{name}, before it is built"),
    });
    if let Some(derivation) = &build.derivation {
        lines.push(format!("  derivation: {}", derivation.path.display()));
    }
    lines.extend(log.and_then(|log| log.caution(build)).map(|caution| format!("  {caution}")));
    if let Some(failed) = log.filter(|log| build.has_failed() && log.origin != Origin::Success) {
        lines.push(format!("  last lines of {}:", failed.log.path().display()));
        lines.extend(failed.log.last_lines().iter().map(|line| format!("  > {}", shortened(line))));
    }
    let resume = phase.map(|phase| format!("; «nix-build-shell resume {directory}» runs {phase} and all after it"));
    let resume = resume.unwrap_or_default();
    let changes = match (changes, &build.kept) {
        (Changes::KeptAs(name), _) => format!(", and what you change is kept as the session {name}"),
        (Changes::Itself, _) => format!(", and what you change there stays changed{resume}"),
        (Changes::InCopy, Some(_)) => format!(", and what you change is changed in a copy{resume}"),
        (Changes::InCopy, None) => {
            ", and a patch has what you change in the sources that you unpack; --keep-session NAME keeps all".into()
        }
    };
    lines.push(format!("«exit» leaves the sandbox{changes}"));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

/// How the builder ended, if anybody was told.
fn told_status(build: &FailedBuild) -> Option<u8> {
    let kept = build.kept.as_ref()?;
    ToldFailures::about_path(&kept.directory, &Caller::current())?.status
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE_LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(shortened("é"), "é");
        assert_eq!(shortened(&"é".repeat(400)), "é".repeat(400));
        assert_eq!(shortened(&"é".repeat(401)), "é".repeat(400) + "…");
    }
}
