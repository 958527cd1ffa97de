//! What is known of the phase that failed, to be known later on as well.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failed_build::{FailedBuild, StoreView};
use crate::failed_log::FailureTimes;
use crate::nix::BuildLog;
use crate::start_of_phase::{directory_of, outputs_of_last_phase};

/// What the phase that failed found when it began. The kept directory tells it by what is in `env-vars` and by the times of its files;
/// in a session's copy each phase that is run there writes another `env-vars`, and so it is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedPhase {
    /// Which it is, where a resumed build has told; else the log of the build tells. [`DONE`](Self::DONE) where no phase is left.
    pub name: Option<String>,
    /// Where it began, as the sandbox has it, if that is known.
    #[serde(with = "crate::os_text::optional")]
    pub directory: Option<PathBuf>,
    /// The outputs that there were: names of store paths.
    pub outputs: Vec<String>,
    /// When the build failed that Nix had begun.
    pub times: FailureTimes,
}

impl FailedPhase {
    /// In the place of a name: no phase has failed, and all are done.
    pub const DONE: &str = "-";

    /// The one that has ended `build`, of which there may be a `log`, and whose outputs are in the directory `store`; nothing where only
    /// a derivation was given.
    pub fn of(build: &FailedBuild, log: Option<&BuildLog>, store: &Path) -> Option<Self> {
        let kept = build.kept.as_ref()?;
        let outputs = match &build.store_view {
            StoreView::Closure { partial_outputs, .. } => {
                let made = outputs_of_last_phase(partial_outputs, kept, store);
                let found = partial_outputs.iter().filter(|output| !made.contains(output));
                found.map(|output| output.to_string_lossy().into_owned()).collect()
            }
            StoreView::Whole => Vec::new(),
        };
        let is_known = kept.env_vars.is_ok() || log.is_some();
        let directory = is_known.then(|| directory_of(build, false, log));
        Some(Self { name: None, directory, outputs, times: FailureTimes::of(kept) })
    }

    /// Takes over what a session has noted of a phase that has failed in it: name, directory and the paths of the outputs, each with a
    /// zero byte after it. A build may have written something else there, which says nothing.
    pub fn take_note(&mut self, note: &[u8]) {
        let Some([name, directory, outputs]) = str::from_utf8(note).ok().and_then(fields) else { return };
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.is_empty();
        let directory = Path::new(directory);
        if (is_name || name == Self::DONE) && directory.is_absolute() {
            self.name = Some(name.to_owned());
            self.directory = Some(directory.to_owned());
            let names = outputs.split_ascii_whitespace().filter_map(|path| Path::new(path).file_name()?.to_str());
            self.outputs = names.map(String::from).collect();
        }
    }
}

fn fields(note: &str) -> Option<[&str; 3]> {
    let fields: Vec<_> = note.strip_suffix('\0')?.split('\0').collect();
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(note: &[u8]) -> FailedPhase {
        let times = FailureTimes::default();
        let mut phase = FailedPhase { name: None, directory: None, outputs: vec!["a".into()], times };
        phase.take_note(note);
        phase
    }

    #[test]
    fn a_note_is_taken_over() {
        let phase = noted(b"installPhase\0/build/a b\0/nix/store/x-out /nix/store/y-dev \0");
        assert_eq!(
            (phase.name.as_deref(), phase.directory.as_deref()),
            (Some("installPhase"), Some(Path::new("/build/a b")))
        );
        assert_eq!(phase.outputs, ["x-out", "y-dev"]);
        assert_eq!(noted(b"-\0/build\0\0").name.as_deref(), Some(FailedPhase::DONE));
    }

    #[test]
    fn what_is_no_note_says_nothing() {
        let notes: [&[u8]; 8] = [
            b"",
            b"installPhase",
            b"installPhase\0/build\0",
            b"installPhase\0/build\0\0\0",
            b"\0/build\0\0",
            b"$(id)\0/build\0\0",
            b"installPhase\0build\0\0",
            b"installPhase\0/build/\xff\0\0",
        ];
        for note in notes {
            let phase = noted(note);
            assert_eq!((phase.name, phase.outputs), (None, vec!["a".to_owned()]), "{}", note.escape_ascii());
        }
    }
}
