//! What a resumed build has noted of the phase that failed.

use std::fs::File;
use std::io::Read;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, unlinkat};

use super::Scratch;
use crate::kept_build::KeptBuild;

/// The file in the build directory to which the name of each phase is written when it begins.
pub const PHASE_NOTE: &str = ".nix-build-shell-phase";
/// Longer than the name of any phase.
const LONGEST_NAME: u64 = 256;

impl Scratch {
    /// Takes the note out of the build directory, which is made of `kept`: the phase that began last. Nothing where there is no such
    /// file, or it is not ours: a build may have put something else into its place.
    pub fn take_phase_note(&self, kept: Option<&KeptBuild>) -> Option<String> {
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
        let mut name = String::new();
        File::from(note).take(LONGEST_NAME).read_to_string(&mut name).ok()?;
        unlinkat(&build, PHASE_NOTE, AtFlags::empty()).ok()?;
        Some(name).filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::plan::BUILD;

    #[test]
    fn only_a_name_in_a_file_is_taken() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path(), None).unwrap();
        let note = scratch.path().join(BUILD).join(PHASE_NOTE);
        assert_eq!(scratch.take_phase_note(None), None);
        fs::write(&note, "checkPhase").unwrap();
        assert_eq!(scratch.take_phase_note(None).as_deref(), Some("checkPhase"));
        assert!(!note.exists());
        fs::write(&note, "\u{1b}[31m\n").unwrap();
        assert_eq!(scratch.take_phase_note(None), None);
        symlink("/etc/hostname", &note).unwrap();
        assert_eq!(scratch.take_phase_note(None), None);
        scratch.remove().unwrap();
    }
}
