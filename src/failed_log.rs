//! The log of a failed build, and whether it is certainly that build's.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::fs::{AtFlags, fstat, statat};
use serde::{Deserialize, Serialize};

use crate::failed_build::FailedBuild;
use crate::file_times::{changed, modified};
use crate::kept_build::KeptBuild;
use crate::nix::BuildLog;

/// Nix closes the log and then keeps the directory, at once: what lies further apart is of two builds.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The log that Nix has of a failed build's derivation.
#[derive(Clone, Debug)]
pub struct FailedLog {
    /// What it tells.
    pub log: BuildLog,
    /// Which build wrote it.
    pub origin: Origin,
}

/// Which build wrote a log. Nix has one log a derivation, that of the last build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The one that left the directory.
    ThisBuild,
    /// Another one, which failed as well, as far as the store knows.
    AnotherFailure,
    /// Another one, which succeeded.
    Success,
}

impl FailedLog {
    /// The log that there is for `build`; nothing where Nix kept none, or the derivation is not known.
    ///
    /// A log that was written before the last phase began, or after Nix had kept the directory, is another build's. That goes by the
    /// times of the directory, which are other ones once somebody has changed it.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn of(build: &FailedBuild) -> Result<Option<Self>> {
        let Some(derivation) = &build.derivation else { return Ok(None) };
        let Some(log) = BuildLog::of(&build.store, &derivation.path)? else { return Ok(None) };
        let is_of_this_build = build.kept.as_ref().is_some_and(|kept| FailureTimes::of(kept).include(log.written()));
        let origin = match is_of_this_build {
            true => Origin::ThisBuild,
            false if was_built(build) => Origin::Success,
            false => Origin::AnotherFailure,
        };
        Ok(Some(Self { log, origin }))
    }

    /// The phase that failed; nothing where it is not known.
    pub fn failed_phase(&self) -> Option<&str> {
        self.log.failed_phase().filter(|_| self.origin != Origin::Success)
    }

    /// What the user should know of a log that is not this build's: a sentence.
    pub fn caution(&self, build: &FailedBuild) -> Option<String> {
        let name = build.derivation.as_ref().map(|derivation| derivation.name().escape_ascii().to_string());
        let name = name.unwrap_or_default();
        match self.origin {
            Origin::Success => Some(format!("the log of {name} is that of another build, which succeeded")),
            _ if !self.log.is_whole() => {
                Some(format!("the log of {name} has no end yet, or too much text to read it all"))
            }
            Origin::AnotherFailure if build.kept.is_some() => {
                Some(format!("the log of {name} is that of another build of it: what is said of phases is of that one"))
            }
            Origin::ThisBuild | Origin::AnotherFailure => None,
        }
    }
}

/// Between which times a build failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureTimes {
    /// When its last phase began; nothing where stdenv has not noted it.
    phase_began: Option<SystemTime>,
    /// When Nix kept its directory.
    kept: Option<SystemTime>,
}

impl FailureTimes {
    /// Those of the build that left `kept`; where that is a session's copy, of the build that left what was copied.
    pub fn of(kept: &KeptBuild) -> Self {
        if let Some(failed_phase) = &kept.failed_phase {
            return failed_phase.times.clone();
        }
        let parent_is_nix_s = kept.directory.canonicalize().is_ok_and(|path| path.ends_with("build"));
        // Some versions change the mode of both as they keep them, and others that of the outer one.
        let outer = parent_is_nix_s.then(|| statat(&kept.handle, "..", AtFlags::empty()).ok()).flatten();
        let env_vars = statat(&kept.handle, "env-vars", AtFlags::SYMLINK_NOFOLLOW).ok();
        Self {
            phase_began: env_vars.as_ref().map(modified),
            kept: [fstat(&kept.handle).ok(), outer].iter().flatten().map(changed).max(),
        }
    }

    /// Whether a log that was finished at this time is of that build.
    fn include(&self, written: SystemTime) -> bool {
        self.kept.is_none_or(|kept| written <= kept + AT_ONCE)
            && self.phase_began.is_none_or(|began| began <= written + AT_ONCE)
    }
}

/// Whether the store has all that the derivation makes.
fn was_built(build: &FailedBuild) -> bool {
    let Some(derivation) = &build.derivation else { return false };
    let Ok(mut records) = build.store.open() else { return false };
    let mut outputs = derivation.output_paths().peekable();
    outputs.peek().is_some() && outputs.all(|(_, output)| records.is_valid(output).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::failed_phase::FailedPhase;

    #[test]
    fn a_log_is_of_the_build_that_ended_when_it_was_written_whatever_became_of_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let env_vars = directory.path().join("env-vars");
        fs::write(&env_vars, "declare -x A=\"1\"\n").unwrap();
        let mut kept = KeptBuild::open(directory.path()).unwrap();
        let times = FailureTimes::of(&kept);
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        assert!(times.include(now) && !times.include(now - hour) && !times.include(now + hour));
        // A phase is run in it.
        File::options().write(true).open(env_vars).unwrap().set_modified(now + hour).unwrap();
        assert!(!FailureTimes::of(&kept).include(now));
        kept.failed_phase = Some(FailedPhase { name: None, directory: None, outputs: Vec::new(), times });
        let remembered = FailureTimes::of(&kept);
        assert!(remembered.include(now) && !remembered.include(now + hour));
    }

    #[test]
    fn where_no_time_is_known_every_log_may_be_it() {
        assert!(FailureTimes::default().include(SystemTime::now()));
    }
}
