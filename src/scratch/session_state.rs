//! The directory that a session can write to, and what is left in it.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags, fchown, fstat, mkdirat, openat};

use super::{DIRECTORY, Scratch};
use crate::caller::Caller;
use crate::plan::SESSION;

/// The file with what was typed.
const HISTORY: &str = "history";
/// More than anybody types in a session.
const HISTORY_LIMIT: u64 = 4 << 20;

impl Scratch {
    /// Makes the directory for a session of `caller`'s, with what was typed in earlier ones. To be called before
    /// [`fill`](Self::fill), which lets others in.
    ///
    /// # Errors
    /// No room.
    pub fn add_session(&self, history: &[u8], caller: &Caller) -> Result<()> {
        // In one that is the caller's already he could lead root astray.
        if self.is_handed_over(caller)? {
            return caller.with_own_rights(|| self.make_session(history, caller))?;
        }
        self.make_session(history, caller)
    }

    fn make_session(&self, history: &[u8], caller: &Caller) -> Result<()> {
        let what = "make the directory of the session";
        mkdirat(&self.handle, SESSION, Mode::RWXU).map_err(|errno| self.no_room_or(errno, what))?;
        let directory = openat(&self.handle, SESSION, DIRECTORY, Mode::empty()).context("cannot open what was made")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, HISTORY, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.no_room_or(errno, what))?;
        let mut file = File::from(file);
        file.write_all(history).context("cannot write the history of the session")?;
        if caller.must_change_ids() {
            for made in [directory, file.into()] {
                fchown(made, Some(caller.uid), Some(caller.gid)).context("cannot give the session its directory")?;
            }
        }
        Ok(())
    }

    /// What is in the session's history when it has ended; nothing where that is no file of a sensible size. A build is untrusted: the
    /// file may be a link or a pipe by now.
    pub fn history_of_session(&self) -> Option<Vec<u8>> {
        let directory = openat(&self.handle, SESSION, DIRECTORY, Mode::empty()).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&directory, HISTORY, flags, Mode::empty()).ok()?;
        let status = fstat(&file).ok()?;
        let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
        let is_sensible = u64::try_from(status.st_size).is_ok_and(|size| size <= HISTORY_LIMIT);
        let mut content = Vec::new();
        (is_file && is_sensible).then(|| File::from(file).take(HISTORY_LIMIT).read_to_end(&mut content))?.ok()?;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_a_file_is_taken_for_a_history() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path(), None).unwrap();
        scratch.add_session(b"make\n", &Caller::current()).unwrap();
        assert_eq!(scratch.history_of_session().unwrap(), b"make\n");
        let file = scratch.path.join(SESSION).join(HISTORY);
        fs::remove_file(&file).unwrap();
        assert_eq!(scratch.history_of_session(), None);
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(scratch.history_of_session(), None);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(scratch.history_of_session(), None);
        fs::remove_dir(&file).unwrap();
        File::create(&file).unwrap().set_len(HISTORY_LIMIT + 1).unwrap();
        assert_eq!(scratch.history_of_session(), None);
    }
}
