//! The end of a kept session: what was changed in it is saved, and it is removed.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, statat, unlinkat};
use rustix::io::Errno;

use super::running::Running;
use super::{DESCRIPTION, Description, RUNNING, SessionName, Sessions, description_in, no_such_session};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::plan::BUILD;
use crate::record;
use crate::scratch::Scratch;
use crate::session_patch::{Means, SessionPatch, told_of_outputs};

/// A session that is about to be removed; nobody else can enter it.
#[derive(Debug)]
pub struct Condemned {
    name: SessionName,
    /// Nothing where what was done has gone already.
    content: Option<(Scratch, Result<Description>)>,
}

impl Sessions {
    /// Takes the session `name`, to remove it.
    ///
    /// # Errors
    /// Where there is none, or it is in use.
    pub fn condemn(&self, name: &SessionName) -> Result<Condemned> {
        let name = name.clone();
        if self.is_dangling(&name)? {
            return Ok(Condemned { name, content: None });
        }
        let Some(scratch) = self.lock(&name)? else {
            bail!("the session {name} is in use; it can be removed when it has ended");
        };
        if let Ok(Some(last)) = record::read::<Running>(scratch.handle(), RUNNING) {
            last.await_end().with_context(|| format!("the session {name} cannot be removed yet"))?;
        }
        let description =
            description_in(scratch.handle()).and_then(|found| found.with_context(|| no_such_session(&name)));
        Ok(Condemned { name, content: Some((scratch, description)) })
    }

    /// Removes a session, with all that was done in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, condemned: Condemned) -> Result<()> {
        if let Some((scratch, _)) = condemned.content {
            // First of all: what is half removed is no session any more.
            self.caller.with_own_rights(|| record::remove(scratch.handle(), DESCRIPTION))??;
            scratch.remove()?;
        }
        // The link to one that is elsewhere is all that is left.
        match self.caller.with_own_rights(|| unlinkat(&self.handle, condemned.name.as_str(), AtFlags::empty()))? {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => {
                Err(errno).with_context(|| format!("cannot remove the link to the session {}", condemned.name))
            }
        }
    }

    /// Whether a link to a session that is elsewhere is all that there is of it.
    pub(super) fn is_dangling(&self, name: &SessionName) -> Result<bool> {
        self.caller.with_own_rights(|| {
            let has = |flags| statat(&self.handle, name.as_str(), flags).is_ok();
            has(AtFlags::SYMLINK_NOFOLLOW) && !has(AtFlags::empty())
        })
    }
}

impl Condemned {
    /// One line about what was written by hand into its outputs, which are in no patch and go with it.
    ///
    /// # Errors
    /// Where the caller's rights cannot be taken.
    pub fn told_of_outputs(&self, caller: &Caller) -> Result<Option<String>> {
        let Some((scratch, Ok(description))) = &self.content else { return Ok(None) };
        let times = [description.began(), description.outputs_made.unwrap_or(description.began())];
        let store = description.store.directory();
        caller.with_own_rights(|| told_of_outputs(scratch, store, times, &self.name))
    }

    /// Saves what was changed in it as a patch, in `file` if there is one. Returns what the user should know of it, a line each.
    ///
    /// # Errors
    /// Where there is nothing to compare with any more, or the patch cannot be written.
    pub fn save_patch(&self, file: Option<&Path>, means: &Means<'_>, caller: &Caller) -> Result<Vec<String>> {
        let Some((scratch, description)) = &self.content else { return Ok(Vec::new()) };
        let stays = || {
            format!(
                "the session {} stays, since there is no patch of what was changed in it; --no-patch removes it without one",
                self.name
            )
        };
        let description = description.as_ref().map_err(|error| anyhow!("{error:#}")).with_context(stays)?;
        let kept = description.kept_directory().map_err(|error| {
            let (name, build) = (&self.name, scratch.path().join(BUILD));
            let build = build.display();
            anyhow!("the session {name} stays: {error:#}; its changes are in {build}, and --no-patch removes it without a patch")
        })?;
        let save = || -> Result<Vec<String>> {
            let mut wishes = description.wishes();
            if kept.is_none() {
                // That is what is opened.
                wishes.derivation = None;
            }
            let build = FailedBuild::open(&description.build, &wishes, means.settings)?;
            caller.with_own_rights(|| scratch.unlock_build())??;
            let how = (description.began(), description.is_overlay);
            SessionPatch::of_ended(&build, caller, scratch, how, file)?.save(scratch, means)
        };
        save().with_context(stays)
    }
}
