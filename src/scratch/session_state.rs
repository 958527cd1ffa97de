//! The directory that a session can write to, and what is left in it.

use std::fs::{File, FileTimes};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, fchown, mkdirat, openat};

use super::{DIRECTORY, PhasesRun, Scratch};
use crate::caller::Caller;
use crate::plan::SESSION;
use crate::quiet_open::{open_quietly, read_quietly};

/// The file with what was typed.
const HISTORY: &str = "history";
/// More than anybody types in a session.
const HISTORY_LIMIT: u64 = 4 << 20;
/// The file to which `resume` writes which phase failed, where that began, and which outputs there were.
const PHASE: &str = "phase";
/// Longer than any such note.
const PHASE_LIMIT: u64 = 64 << 10;
/// The file to which the shell writes when phases ran.
const PHASE_TIMES: &str = "phase-times";
/// More than anybody runs in a session.
const PHASE_TIMES_LIMIT: u64 = 1 << 20;
/// The file to which the shell writes the paths of what was written between phases.
const TYPED: &str = "typed";
/// More than anybody writes there; not of what was unpacked by hand.
const TYPED_LIMIT: u64 = 4 << 20;
/// The file whose time tells when phases had made the outputs that there are.
const OUTPUTS_MADE: &str = "outputs";
/// The file with the phases that were run.
const PHASES_RUN: &str = "began";

/// What a session goes on with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Earlier<'a> {
    /// When the outputs that it had before were as phases had made them.
    pub outputs_made: Option<SystemTime>,
    /// The phases that were run before.
    pub phases_run: Option<&'a PhasesRun>,
}

impl Scratch {
    /// Makes the directory for a session of `caller`'s, with what was typed in earlier ones, and what it goes on with. To be called before
    /// [`fill`](Self::fill), which lets others in.
    ///
    /// # Errors
    /// No room.
    pub fn add_session(&self, history: &[u8], earlier: Earlier<'_>, caller: &Caller) -> Result<()> {
        // In one that is the caller's already he could lead root astray.
        if self.is_handed_over(caller)? {
            return caller.with_own_rights(|| self.make_session(history, earlier, caller))?;
        }
        self.make_session(history, earlier, caller)
    }

    fn make_session(&self, history: &[u8], earlier: Earlier<'_>, caller: &Caller) -> Result<()> {
        let what = "make the directory of the session";
        mkdirat(&self.handle, SESSION, Mode::RWXU).map_err(|errno| self.no_room_or(errno, what))?;
        let directory = openat(&self.handle, SESSION, DIRECTORY, Mode::empty()).context("cannot open what was made")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new_file = |name: &str| {
            let file = openat(&directory, name, flags, Mode::RUSR | Mode::WUSR);
            file.map(File::from).map_err(|errno| self.no_room_or(errno, what))
        };
        let mut file = new_file(HISTORY)?;
        file.write_all(history).context("cannot write the history of the session")?;
        let mut made = vec![OwnedFd::from(file)];
        if let Some(time) = earlier.outputs_made {
            let file = new_file(OUTPUTS_MADE)?;
            file.set_times(FileTimes::new().set_modified(time)).context("cannot set the time of a file")?;
            made.push(file.into());
        }
        if let Some(phases) = earlier.phases_run {
            let mut file = new_file(PHASES_RUN)?;
            file.write_all(phases.as_bytes()).context("cannot write what was run in the session")?;
            made.push(file.into());
        }
        made.push(directory);
        if caller.must_change_ids() {
            for made in made {
                fchown(made, Some(caller.uid), Some(caller.gid)).context("cannot give the session its directory")?;
            }
        }
        Ok(())
    }

    /// What `resume` has noted in the session of the phase that failed there, or of the end of all; nothing where it was not called.
    pub fn phase_of_session(&self) -> Option<Vec<u8>> {
        self.file_of_session(PHASE, PHASE_LIMIT)
    }

    /// What the shell has noted of when phases ran.
    pub fn phase_times_of_session(&self) -> Option<Vec<u8>> {
        self.file_of_session(PHASE_TIMES, PHASE_TIMES_LIMIT)
    }

    /// The phases that were run in the session or before it, as far as it has told.
    pub fn phases_run_in_session(&self) -> Option<PhasesRun> {
        PhasesRun::parse(self.file_of_session(PHASES_RUN, PHASE_LIMIT)?)
    }

    /// What the shell has listed of what was written before and between phases: absolute paths, each with a zero byte behind it.
    pub fn typed_between_phases(&self) -> Option<Vec<u8>> {
        self.file_of_session(TYPED, TYPED_LIMIT)
    }

    /// When phases had made the outputs that the session has left, as far as it has told.
    pub fn outputs_made_in_session(&self) -> Option<SystemTime> {
        let file = open_quietly(self.open_session_state()?, OUTPUTS_MADE, OFlags::NOFOLLOW | OFlags::NONBLOCK).ok()?;
        let status = File::from(file).metadata().ok()?;
        status.is_file().then(|| status.modified().ok())?
    }

    /// What is in the session's history when it has ended; nothing where that is no file of a sensible size. A build is untrusted: the
    /// file may be a link or a pipe by now.
    pub fn history_of_session(&self) -> Option<Vec<u8>> {
        self.file_of_session(HISTORY, HISTORY_LIMIT)
    }

    fn file_of_session(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        read_quietly(self.open_session_state()?, name, OFlags::NOFOLLOW, limit).ok()
    }

    fn open_session_state(&self) -> Option<OwnedFd> {
        openat(&self.handle, SESSION, DIRECTORY, Mode::empty()).ok()
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
        scratch.add_session(b"make\n", Earlier::default(), &Caller::current()).unwrap();
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
