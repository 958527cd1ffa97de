//! The table of sessions.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::Dir;
use serde::Serialize;

use super::running::Running;
use super::{RUNNING, SessionName, Sessions, description_in};
use crate::disk_usage::DiskUsage;
use crate::record;

/// A session as the list shows it.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// What it is called.
    pub name: String,
    /// The name of what is built, or why that cannot be told.
    pub title: String,
    /// The derivation.
    #[serde(with = "crate::os_text::optional")]
    pub derivation: Option<PathBuf>,
    /// The kept build directory that it began with, which may have gone.
    #[serde(with = "crate::os_text::optional")]
    pub build: Option<PathBuf>,
    /// Its own directory.
    #[serde(with = "crate::os_text")]
    pub path: PathBuf,
    /// Bytes on the disk.
    pub size: u64,
    /// When it was begun, in seconds since 1970.
    pub created: Option<u64>,
    /// When a sandbox was last made for it, or ended, in seconds since 1970.
    pub last_used: Option<u64>,
    /// Whether its sandbox runs.
    pub running: bool,
}

impl Listed {
    /// One of which nothing is known.
    fn unknown(name: &SessionName, title: String, path: PathBuf) -> Self {
        Self {
            name: name.as_str().to_owned(),
            title,
            derivation: None,
            build: None,
            path,
            size: 0,
            created: None,
            last_used: None,
            running: false,
        }
    }
}

/// The sessions, in the order of their names. What is just being made or removed is left out, and what a SIGKILL has left of that is
/// removed.
///
/// # Errors
/// When their directory cannot be read.
pub fn list(sessions: &Sessions) -> Result<Vec<Listed>> {
    Ok(names(sessions)?.iter().filter_map(|name| look_at(sessions, name)).collect())
}

/// What the sessions are called, in order, without a look at any of them.
///
/// # Errors
/// When their directory cannot be read.
pub fn names(sessions: &Sessions) -> Result<Vec<SessionName>> {
    let cannot_read = || format!("cannot read {}", sessions.path.display());
    let mut names = Vec::new();
    for entry in Dir::read_from(&sessions.handle).with_context(cannot_read)? {
        let entry = entry.with_context(cannot_read)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        names.extend(name.to_str().and_then(|name| name.parse::<SessionName>().ok()));
    }
    names.sort();
    Ok(names)
}

/// The names of the sessions that are layers over the kept directory `kept`, and need it.
///
/// # Errors
/// When their directory cannot be read.
pub fn laid_over(sessions: &Sessions, kept: &Path) -> Result<Vec<SessionName>> {
    let kept = kept.canonicalize().with_context(|| format!("cannot find {}", kept.display()))?;
    let is_over = |name: &SessionName| {
        let description = sessions.directory(name).ok().and_then(|(directory, _)| description_in(&directory).ok()?);
        let is_below = |build: PathBuf| build.canonicalize().is_ok_and(|build| build.starts_with(&kept));
        description.is_some_and(|description| description.is_overlay && is_below(description.build))
    };
    Ok(names(sessions)?.into_iter().filter(is_over).collect())
}

fn look_at(sessions: &Sessions, name: &SessionName) -> Option<Listed> {
    let (directory, path) = match sessions.directory(name) {
        Ok(found) => found,
        // One that is elsewhere, and is not to vanish from here without a word.
        Err(error) if sessions.place(name).is_ok_and(|place| place.is_elsewhere) => {
            let title =
                if sessions.is_dangling(name).unwrap_or(false) { "(gone)".into() } else { format!("({error})") };
            return Some(Listed::unknown(name, title, sessions.path.join(name.as_str())));
        }
        Err(_) => return None,
    };
    let (title, description) = match description_in(&directory) {
        Ok(Some(description)) => (description.title(), Some(description)),
        Ok(None) => {
            // What resists is left to a later run.
            let _ = sessions.remove_unfinished(name);
            return None;
        }
        Err(error) => (format!("({error})"), None),
    };
    let running =
        record::read::<Running>(&directory, RUNNING).ok().flatten().is_some_and(|running| running.has_holder());
    Some(Listed {
        name: name.as_str().to_owned(),
        title,
        size: DiskUsage::of(&path).bytes,
        path,
        created: description.as_ref().map(|description| description.created),
        last_used: description.as_ref().map(|description| description.last_used),
        derivation: description.as_ref().and_then(|description| description.derivation.clone()),
        build: description.map(|description| description.build),
        running,
    })
}
