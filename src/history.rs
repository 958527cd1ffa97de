//! What was typed in the sessions of a derivation: kept outside of the sandbox, for the next one.
//!
//! A build is untrusted, so it never has the file itself, which it could fill or replace. A session has a copy, and what it has left
//! at its end is taken over as a text: its last lines, of a sensible length, without control characters, which could speak to the
//! terminal of somebody who looks at it. Nothing on the host ever runs it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::caller::Caller;
use crate::nix::derivation::Derivation;
use crate::state_directory::StateDirectory;

/// Where the histories are, in the caller's state directory.
const DIRECTORY: &str = "history";
/// How many lines are kept.
const MOST_LINES: usize = 2000;
/// How many bytes are kept.
const MOST_BYTES: usize = 256 << 10;
/// A line that is longer is not worth to be kept.
const LONGEST_LINE: usize = 4096;

/// The history of a derivation's sessions.
#[derive(Debug)]
pub struct History {
    directory: StateDirectory,
    /// The name of the derivation, which is that of the file.
    name: OsString,
    /// What a session begins with.
    pub before: Vec<u8>,
}

impl History {
    /// Reads the history of the sessions of all derivations of this one's name. None is an empty one.
    ///
    /// # Errors
    /// Where the caller has no directory for it, or the file is not his.
    pub fn of(derivation: &Derivation, caller: &Caller) -> Result<Self> {
        Self::named(derivation.name(), caller)
    }

    /// The same by the name of the derivations.
    ///
    /// # Errors
    /// As of [`of`](Self::of).
    pub fn named(name: &[u8], caller: &Caller) -> Result<Self> {
        let directory = StateDirectory::open(caller, DIRECTORY)?;
        let name = OsString::from_vec(name.to_owned());
        let before = caller.with_own_rights(|| read(&directory.handle, &name, caller))??;
        Ok(Self { directory, name, before })
    }

    /// Takes over what a session has left of its history, `after`. Sessions that ran at the same time add to each other.
    ///
    /// # Errors
    /// No room, or what the kernel says.
    pub fn keep(&self, after: &[u8], caller: &Caller) -> Result<()> {
        caller.with_own_rights(|| self.keep_with_these_rights(after, caller))?
    }

    /// The same of a session that was killed, of which nobody knows any more what it began with: as far as it is what there is now.
    ///
    /// # Errors
    /// As of [`keep`](Self::keep).
    pub fn keep_of_killed(mut self, after: &[u8], caller: &Caller) -> Result<()> {
        let lines = |text: &[u8]| text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (now, after_lines) = (lines(&self.before), lines(after));
        let is_alike = |(one, other): &(&Vec<u8>, &Vec<u8>)| one == other;
        let common = now.iter().zip(&after_lines).take_while(is_alike).map(|(line, _)| line.len()).sum();
        self.before.truncate(common);
        self.keep(after, caller)
    }

    fn keep_with_these_rights(&self, after: &[u8], caller: &Caller) -> Result<()> {
        let handle = &self.directory.handle;
        flock(handle, FlockOperation::LockExclusive).context("cannot lock the history")?;
        let text = match after.strip_prefix(self.before.as_slice()) {
            Some([]) => return Ok(()),
            // Others may have added to it since.
            Some(new) => [&read(handle, &self.name, caller)?, new].concat(),
            // Somebody has cleared or edited it.
            None => after.to_owned(),
        };
        write(handle, &self.name, &sensible(&text))?;
        flock(handle, FlockOperation::Unlock).context("cannot unlock the history")
    }
}

fn read(directory: &OwnedFd, name: &OsStr, caller: &Caller) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        file => file.context("cannot open its file")?,
    };
    let status = fstat(&file).context("cannot look at its file")?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || status.st_uid != caller.uid.as_raw() {
        anyhow::bail!("what has its name is no file of yours");
    }
    let mut content = Vec::new();
    File::from(file).take(MOST_BYTES as u64).read_to_end(&mut content).context("cannot read its file")?;
    Ok(sensible(&content))
}

/// Puts a new file in the place of the old one, so that nobody ever finds half of it.
fn write(directory: &OwnedFd, name: &OsStr, content: &[u8]) -> Result<()> {
    let new = OsString::from_vec([b".new-", process::id().to_string().as_bytes(), b"-", name.as_bytes()].concat());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Left by an earlier process of our number.
    let _ = unlinkat(directory, &new, AtFlags::empty());
    let written = || -> Result<()> {
        let file = openat(directory, &new, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(content)?;
        Ok(renameat(directory, &new, directory, name)?)
    };
    let result = written().context("cannot write its file");
    if result.is_err() {
        // What cannot be removed either, a later session replaces.
        let _ = unlinkat(directory, &new, AtFlags::empty());
    }
    result
}

/// The last lines of a text, as far as they are ones that somebody may have typed.
fn sensible(text: &[u8]) -> Vec<u8> {
    let mut lines = VecDeque::new();
    let mut size = 0;
    for line in String::from_utf8_lossy(text).lines().rev() {
        let line: String = line.chars().filter(|character| !character.is_control() || *character == '\t').collect();
        if line.trim().is_empty() || line.len() > LONGEST_LINE {
            continue;
        }
        size += line.len() + 1;
        if size > MOST_BYTES || lines.len() == MOST_LINES {
            break;
        }
        lines.push_front(line + "\n");
    }
    lines.into_iter().collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn history(directory: &Path) -> History {
        let handle = fs::File::open(directory).unwrap().into();
        let directory = StateDirectory { path: directory.to_owned(), handle };
        let before = read(&directory.handle, OsStr::new("hello"), &Caller::current()).unwrap();
        History { directory, name: "hello".into(), before }
    }

    #[test]
    fn what_a_session_adds_is_kept_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hello");
        history(directory.path()).keep(b"make\n", &Caller::current()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"make\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        // Two at once.
        let (one, other) = (history(directory.path()), history(directory.path()));
        assert_eq!(one.before, b"make\n");
        one.keep(b"make\nmake one\n", &Caller::current()).unwrap();
        other.keep(b"make\nmake other\n", &Caller::current()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"make\nmake one\nmake other\n");
        history(directory.path()).keep(b"cleared\n", &Caller::current()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"cleared\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_a_session_that_was_killed_only_what_is_new_is_added() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hello");
        fs::write(&file, "make\nmake other\n").unwrap();
        let of_killed = |after: &[u8]| history(directory.path()).keep_of_killed(after, &Caller::current()).unwrap();
        of_killed(b"make\nmake one\n");
        assert_eq!(fs::read(&file).unwrap(), b"make\nmake other\nmake one\n");
        of_killed(b"make\nmake other\n");
        assert_eq!(fs::read(&file).unwrap(), b"make\nmake other\nmake one\n");
    }

    #[test]
    fn a_link_in_its_place_is_neither_read_nor_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let before = history(directory.path());
        let target = directory.path().join("target");
        fs::write(&target, "mine\n").unwrap();
        symlink(&target, directory.path().join("hello")).unwrap();
        assert!(read(&before.directory.handle, OsStr::new("hello"), &Caller::current()).is_err());
        assert!(before.keep(b"new\n", &Caller::current()).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"mine\n");
    }

    #[test]
    fn only_what_can_have_been_typed_is_taken_over() {
        assert_eq!(sensible(b"ls\n\n\x1b]0;title\x07cd \xff\n\ta\n"), "ls\n]0;titlecd \u{fffd}\n\ta\n".as_bytes());
        assert_eq!(sensible(&[b"x".repeat(LONGEST_LINE + 1), b"\nlast\n".to_vec()].concat()), b"last\n");
        let many: String = (0..MOST_LINES + 5).map(|number| format!("{number}\n")).collect();
        assert!(sensible(many.as_bytes()).starts_with(b"5\n6\n"));
        let large = format!("{}\n", "y".repeat(4000)).repeat(100);
        assert!(sensible(large.as_bytes()).len() <= MOST_BYTES);
    }
}
