//! An interactive session: its shell, its prompt, and what was typed in the ones before.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Result, bail};
use rustix::stdio::{stderr, stdin};
use rustix::termios::isatty;

use super::sandbox_options::SandboxOptions;
use super::say::say_error;
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, StoreView};
use crate::failed_log::FailedLog;
use crate::failed_phase::FailedPhase;
use crate::history::History;
use crate::plan::Session;
use crate::scratch::{Earlier, Scratch};
use crate::session_shell::SessionShell;
use crate::start_of_phase::outputs_of_last_phase;

/// Whether somebody is there to type: as a shell sees it, on standard input and standard error.
pub fn is_at_terminal() -> bool {
    isatty(stdin()) && isatty(stderr())
}

/// How the build failed, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// The phase that failed.
    pub phase: Option<String>,
    /// The directory that `unpackPhase` made, relative to the build directory.
    pub source_root: Option<String>,
}

impl Failure {
    /// What the build's log tells, if there is one.
    pub fn told_by(log: Option<&FailedLog>) -> Self {
        Self {
            phase: log.and_then(FailedLog::failed_phase).map(String::from),
            source_root: log.and_then(|log| log.log.source_root()).map(String::from),
        }
    }
}

/// What a session needs on this side of the sandbox.
#[derive(Debug)]
pub struct Interactive {
    /// What the sandbox is told.
    pub session: Session,
    history: Option<History>,
}

impl Interactive {
    /// Prepares a session in the sandbox of `build`, to which its shell is added, `shell` if there is one. Nothing is made yet.
    ///
    /// # Errors
    /// Where `shell` is no bash in the store.
    pub fn prepare(build: &mut FailedBuild, shell: Option<&Path>, failure: &Failure) -> Result<Self> {
        let shell = SessionShell::choose(build, shell)?;
        let derivation = build.derivation.as_ref();
        let name = derivation.map_or("build".into(), |derivation| String::from_utf8_lossy(derivation.package_name()));
        let remembered = build.kept.as_ref().and_then(|kept| kept.failed_phase.as_ref());
        let failed_phase = remembered.and_then(|phase| phase.name.as_deref()).or(failure.phase.as_deref());
        // A phase is called what the build likes to call it; in a prompt that is read by the shell.
        let failed_phase = failed_phase.filter(|phase| is_identifier(phase) || *phase == FailedPhase::DONE);
        Ok(Self {
            session: Session {
                shell,
                name: name.into_owned(),
                failed_phase: failed_phase.map(String::from),
                start: remembered.and_then(|phase| phase.directory.clone()),
                source_root: failure.source_root.clone(),
                made_outputs: Vec::new(),
            },
            history: None,
        })
    }

    /// Tells the session which of the outputs of `build` the phase that failed has made; they are in the directory `store`.
    pub fn note_outputs(&mut self, build: &FailedBuild, store: &Path) {
        if let (StoreView::Closure { partial_outputs, .. }, Some(kept)) = (&build.store_view, &build.kept) {
            let made = outputs_of_last_phase(partial_outputs, kept, store);
            let path = |name: &CString| format!("{}/{}", build.store.directory().display(), name.to_string_lossy());
            self.session.made_outputs = made.iter().map(path).collect();
        }
    }

    /// Puts into the scratch directory what the session is to find. To be called before [`Scratch::fill`]. That nothing of it will be kept
    /// is said, and no error.
    ///
    /// # Errors
    /// As of [`Scratch::add_session`].
    pub fn fill(
        &mut self,
        scratch: &Scratch,
        earlier: Earlier<'_>,
        build: &FailedBuild,
        caller: &Caller,
    ) -> Result<()> {
        let history = build.derivation.as_ref().map(|derivation| History::of(derivation, caller)).transpose();
        self.history = history.unwrap_or_else(|error| {
            say_error(&error.context("what you type is not kept for the next session"));
            None
        });
        scratch.add_session(self.history.as_ref().map_or(&[], |history| &history.before), earlier, caller)
    }

    /// Keeps what was typed, when the session has ended. That it cannot be kept is said, and no error.
    pub fn keep_history(&self, scratch: &Scratch, caller: &Caller) {
        if let (Some(history), Some(typed)) = (&self.history, scratch.history_of_session())
            && let Err(error) = history.keep(&typed, caller)
        {
            say_error(&error.context("what you typed is not kept for the next session"));
        }
    }
}

impl SandboxOptions {
    /// Refuses `--shell` where there is no session.
    ///
    /// # Errors
    /// One sentence.
    pub fn refuse_shell(&self) -> Result<()> {
        match &self.shell {
            Some(shell) => {
                bail!("--shell {} is for a session, without COMMAND and on a terminal", shell.display())
            }
            None => Ok(()),
        }
    }
}

/// The log of the build, if it has failed. One that cannot be read keeps nobody from the sandbox.
pub fn read_log(build: &FailedBuild) -> Option<FailedLog> {
    if !build.has_failed() {
        return None;
    }
    FailedLog::of(build).unwrap_or_else(|error| {
        say_error(&error);
        None
    })
}

fn is_identifier(phase: &str) -> bool {
    phase.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !phase.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_with_an_odd_name_is_not_shown() {
        assert!(is_identifier("buildPhase") && is_identifier("my_phase2"));
        assert!(!is_identifier("") && !is_identifier("$(id)") && !is_identifier("a b") && !is_identifier("\x1b[0m"));
    }
}
