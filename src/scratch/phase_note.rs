//! What a resumed build has noted of the phases that were run.

use std::fs::File;
use std::io::Read;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, unlinkat};
use serde::{Deserialize, Serialize};

use super::Scratch;
use crate::kept_build::KeptBuild;

/// The file in the build directory to which each phase is added when it begins.
pub const PHASE_NOTE: &str = ".nix-build-shell-phase";
/// Longer than any such note.
const LIMIT: u64 = 64 << 10;

/// The phases that were run, each with where it began and which outputs there were: three texts each, and a zero byte after each text. It
/// is for the shell of the next session, which has no more rights than whoever has written it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhasesRun(String);

impl PhasesRun {
    /// Takes what was noted; nothing where that is no such note, since a build may have written anything.
    pub(super) fn parse(note: Vec<u8>) -> Option<Self> {
        let phases = Self(String::from_utf8(note).ok()?);
        let fields: Vec<_> = phases.0.strip_suffix('\0')?.split('\0').collect();
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        let are_phases = fields.len() % 3 == 0 && fields.chunks(3).all(|phase| is_name(phase[0]));
        are_phases.then_some(phases)
    }

    /// The name of the last one.
    pub fn last(&self) -> &str {
        self.0.split('\0').rev().nth(3).unwrap_or_default()
    }

    /// The last one, with where it began and the outputs that there were.
    pub fn last_as_note(&self) -> &[u8] {
        let before = self.0.strip_suffix('\0').and_then(|text| text.rmatch_indices('\0').nth(2));
        &self.as_bytes()[before.map_or(0, |(at, _)| at + 1)..]
    }

    /// The note.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Scratch {
    /// Takes the note out of the build directory, which is made of `kept`. Nothing where there is no such file, or it is not ours: a
    /// build may have put something else into its place.
    pub fn take_phase_note(&self, kept: Option<&KeptBuild>) -> Option<PhasesRun> {
        let build = match kept.filter(|_| self.is_in_place()) {
            Some(kept) => rustix::io::dup(&kept.handle).ok()?,
            None => self.open_build().ok()?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let note = openat(&build, PHASE_NOTE, flags, Mode::empty()).ok()?;
        let status = fstat(&note).ok()?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut text = Vec::new();
        File::from(note).take(LIMIT).read_to_end(&mut text).ok()?;
        unlinkat(&build, PHASE_NOTE, AtFlags::empty()).ok()?;
        PhasesRun::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::plan::BUILD;

    #[test]
    fn only_phases_in_a_file_are_taken() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path(), None).unwrap();
        let note = scratch.path().join(BUILD).join(PHASE_NOTE);
        assert_eq!(scratch.take_phase_note(None), None);
        fs::write(&note, "buildPhase\0/build\0\0checkPhase\0/build/a\0/nix/store/x \0").unwrap();
        let phases = scratch.take_phase_note(None).unwrap();
        assert_eq!(phases.last(), "checkPhase");
        assert_eq!(phases.last_as_note(), b"checkPhase\0/build/a\0/nix/store/x \0");
        assert!(!note.exists());
        for other in ["", "checkPhase", "checkPhase\0/build\0", "\u{1b}[31m\n\0/build\0\0", "\0/build\0\0"] {
            fs::write(&note, other).unwrap();
            assert_eq!(scratch.take_phase_note(None), None, "{other:?}");
        }
        symlink("/etc/hostname", &note).unwrap();
        assert_eq!(scratch.take_phase_note(None), None);
        scratch.remove().unwrap();
    }
}
