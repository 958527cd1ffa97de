//! The options about the patch of what was typed in a session, and its end.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::say::{say, say_error};
use super::sessions::recover;
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::limits::Limits;
use crate::nix::Settings;
use crate::scratch::Scratch;
use crate::session::Signals;
use crate::session_patch::{Means, SessionPatch};

/// Whether there is a patch of what was changed in the sandbox, and where.
#[derive(Clone, Debug, Args)]
pub struct PatchOptions {
    /// Save what you change in the source in FILE
    #[arg(long, value_name = "FILE")]
    pub save_patch: Option<PathBuf>,

    /// Save no patch
    #[arg(long, conflicts_with = "save_patch", hide_short_help = true)]
    pub no_patch: bool,
}

impl PatchOptions {
    /// Prepares the patch that is wanted: of a session unless the caller wants none, of a command only if he does.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn begin<'a>(
        &self,
        build: &'a FailedBuild,
        caller: &'a Caller,
        scratch: &Scratch,
        is_session: bool,
    ) -> Result<Option<SessionPatch<'a>>> {
        match &self.save_patch {
            None if self.no_patch || !is_session => Ok(None),
            file => SessionPatch::begin(build, caller, scratch, file.as_deref()),
        }
    }
}

/// What a patch may need at the end of a session.
pub fn means<'a>(settings: &'a Settings, signals: &'a Signals, limits: &'a Limits) -> Means<'a> {
    Means { settings, signals, limits, say: &|text| say(text) }
}

/// Saves the patch and removes the scratch directory, and keeps the sessions that a SIGKILL has left beside it. Where nothing can be saved,
/// the directory is kept: it has all that was typed.
pub fn save_and_remove(patch: Option<SessionPatch<'_>>, scratch: Scratch, means: &Means<'_>) {
    let saved = patch.map_or(Ok(Vec::new()), |patch| patch.save(&scratch, means));
    match saved {
        Ok(lines) => {
            lines.iter().for_each(say);
            // What resists, a later run removes.
            scratch.remove().map_or_else(|error| say_error(&error), |abandoned| recover(abandoned, &Caller::current()));
        }
        Err(error) => {
            say_error(&error.context("there is no patch of your changes"));
            let is_overlay = scratch.is_overlay();
            match scratch.keep() {
                Ok(kept) if is_overlay => say(format_args!(
                    "your changes are in {}, the upper layer of the overlay: what you have removed is a device there; remove it when you \
                     have them",
                    kept.display()
                )),
                Ok(kept) => say(format_args!("your changes are in {}; remove it when you have them", kept.display())),
                Err(error) => say_error(&error),
            }
        }
    }
}
