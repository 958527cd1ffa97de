//! What a phase of a failed build found when it began.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::failed_build::FailedBuild;
use crate::file_times::born;
use crate::kept_build::KeptBuild;
use crate::nix::BuildLog;

/// The directory in which a phase begins, as the sandbox has it. For the phase that failed and those after it, it is where the last
/// phase began, if that can be read; for one that is `before_failure`, and else, the root of the sources.
pub fn directory_of(build: &FailedBuild, before_failure: bool, log: Option<&BuildLog>) -> PathBuf {
    let kept = build.kept.as_ref();
    let path = |name| kept.and_then(|kept| kept.variable(name)).map(|value| PathBuf::from(OsStr::from_bytes(value)));
    let last = path("PWD").filter(|directory| directory.is_absolute());
    // Where Nix has no sandbox, the build was elsewhere.
    let top = path("NIX_BUILD_TOP").unwrap_or_else(|| build.build_directory.clone());
    let below_top = last.as_deref().and_then(|last| last.strip_prefix(&top).ok());
    match (&last, below_top) {
        (Some(_), Some(below)) if !before_failure => return joined(&build.build_directory, below),
        (Some(last), None) if !before_failure => return last.clone(),
        _ => {}
    }
    let told = path("sourceRoot").or_else(|| log?.source_root().map(PathBuf::from));
    let first = || below_top?.components().next().map(|first| PathBuf::from(first.as_os_str()));
    joined(&build.build_directory, &told.or_else(first).unwrap_or_default())
}

/// Without a slash at the end, as bash has a directory.
fn joined(top: &Path, below: &Path) -> PathBuf {
    let parts = below.components().filter(|part| *part != Component::CurDir);
    parts.fold(top.to_owned(), |path, part| path.join(part))
}

/// Of the outputs `names`, those that the last phase has made, and will make again: in the directory `store` they are younger than the
/// file in which stdenv has noted the start of that phase.
///
/// Where the file system does not tell when a file was made, there are none. In a session it is remembered which were there before.
pub fn outputs_of_last_phase(names: &[CString], kept: &KeptBuild, store: &Path) -> Vec<CString> {
    if let Some(phase) = &kept.failed_phase {
        let was_there = |name: &CString| phase.outputs.iter().any(|found| found.as_bytes() == name.to_bytes());
        return names.iter().filter(|name| !was_there(name)).cloned().collect();
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let Ok(env_vars) = statx(&kept.handle, "env-vars", flags, StatxFlags::MTIME) else { return Vec::new() };
    let began = (env_vars.stx_mtime.tv_sec, env_vars.stx_mtime.tv_nsec);
    let is_younger = |name: &&CString| {
        let output = store.join(OsStr::from_bytes(name.to_bytes()));
        let status = statx(rustix::fs::CWD, &output, flags, StatxFlags::BTIME);
        status.is_ok_and(|status| born(&status).is_some_and(|born| born >= began))
    };
    names.iter().filter(is_younger).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::failed_log::FailureTimes;
    use crate::failed_phase::FailedPhase;

    #[test]
    fn what_a_session_remembers_goes_before_the_times_of_files() {
        let directory = tempfile::tempdir().unwrap();
        let names = [c"a-found".to_owned(), c"b-made".to_owned()];
        fs::write(directory.path().join("a-found"), "").unwrap();
        fs::write(directory.path().join("env-vars"), "declare -x A=\"1\"\n").unwrap();
        fs::write(directory.path().join("b-made"), "").unwrap();
        let mut kept = KeptBuild::open(directory.path()).unwrap();
        fs::File::open(directory.path().join("env-vars")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        // All are younger than it.
        assert_eq!(outputs_of_last_phase(&names, &kept, directory.path()).len(), 2);
        let outputs = vec!["a-found".to_owned(), "c-gone".to_owned()];
        kept.failed_phase = Some(FailedPhase { name: None, directory: None, outputs, times: FailureTimes::default() });
        assert_eq!(outputs_of_last_phase(&names, &kept, directory.path()), [c"b-made".to_owned()]);
    }
}
