//! The source as the build's own `unpackPhase` unpacks it, in a sandbox of its own: whatever the archives are, and whatever the package
//! does to unpack them, this is what a patch of the source is applied to.

use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};

use super::content::Content;
use super::layers::Layers;
use super::origin::sources_of;
use super::tree::{Access, Entry, Tree};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, Wishes};
use crate::limits::Limits;
use crate::nix::Settings;
use crate::phases::Work;
use crate::plan::Plan;
use crate::sandbox;
use crate::scratch::{Filling, Scratch};
use crate::session::{self, Ending, Signals};
use crate::shell_script::{self, Phases};

/// The phase that unpacks.
const UNPACK_PHASE: &str = "unpackPhase";
/// The number of the first descriptor that is no standard one.
const FIRST_OF_OTHERS: RawFd = 3;
/// How long that may take at the end of a session.
const PATIENCE: Duration = Duration::from_secs(60);

/// A build directory in which the sources were unpacked, and nothing else was done. It goes with this value.
#[derive(Debug)]
pub(super) struct Unpacked {
    tree: Tree,
    top: OwnedFd,
    /// `None` in a test.
    _scratch: Option<Scratch>,
}

/// From this size of the archives on, in bytes, the user is told what is waited for.
const LARGE: u64 = 16 << 20;

/// What it takes to make another sandbox at the end of a session.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Nix's settings.
    pub settings: &'a Settings,
    /// What the user may send who does not want to wait.
    pub signals: &'a Signals,
    /// What limited the session.
    pub limits: &'a Limits,
    /// Tells the user what takes time.
    pub say: &'a dyn Fn(&str),
}

impl Unpacked {
    /// Whether there is anything that unpacks the sources of `build`.
    pub fn is_possible(build: &FailedBuild) -> bool {
        let has_phase = |phases: &[String]| phases.iter().any(|phase| phase == UNPACK_PHASE);
        build.derivation.is_some() && matches!(Work::of(build), Work::Phases(phases) if has_phase(&phases))
    }

    /// Whether somebody waits for that.
    pub fn takes_time(build: &FailedBuild) -> bool {
        sources_of(build).iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum::<u64>() > LARGE
    }

    /// Unpacks the sources of `build` once more. Nobody sees what that says.
    ///
    /// # Errors
    /// Where there is no derivation, no sandbox or no room, where unpacking fails or takes too long, and where the user has ended it.
    pub fn new(build: &FailedBuild, caller: &Caller, means: &Means<'_>) -> Result<Self> {
        let Means { settings, signals, limits, say } = means;
        let derivation = build.derivation.as_ref().context("its derivation is not known")?;
        if Self::takes_time(build) {
            say("unpacking the sources once more, to tell what came with them; Ctrl-C leaves it at a guess");
        }
        let wishes = Wishes {
            known_store: Some(build.store.clone()),
            network: Some(build.has_network),
            like: Some(build.kind),
            ..Wishes::default()
        };
        let build = FailedBuild::open(&derivation.path, &wishes, settings)?;
        let mut scratch = Scratch::create(&Scratch::default_parent(), None)?;
        scratch.fill(&build, caller, &Filling::of(&|| signals.check_interrupt()))?;
        let phases = Phases {
            first: UNPACK_PHASE.into(),
            is_only_one: true,
            directory: build.build_directory.clone(),
            source_root: None,
        };
        let command = shell_script::resume(&build.shell, &phases, None);
        let plan = Plan::new(&build, settings, caller, scratch.directories(), &command)?.limited(limits, caller)?;
        let mut sandbox = unheard(|| sandbox::start(&plan))??;
        let ending = session::wait_unattended(&mut sandbox, signals, PATIENCE)?;
        drop(sandbox);
        match ending {
            Ending::Exited(0) => {}
            Ending::Exited(status) => bail!("{UNPACK_PHASE} ended with status {status}"),
            Ending::TimedOut => bail!("{UNPACK_PHASE} took more than {} seconds", PATIENCE.as_secs()),
        }
        let top = scratch.open_build()?;
        Ok(Self { tree: Tree::in_layers(Layers::kept(&top)?, None), top, _scratch: Some(scratch) })
    }

    /// All of it.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What there is at `path`.
    pub fn get(&self, path: &[u8]) -> Option<Entry> {
        self.tree.get(path)
    }

    /// The file or link `path`.
    pub fn content(&self, path: &[u8]) -> Option<Content> {
        Content::read(&self.top, path, Access::Quietly).ok()
    }
}

/// Has whatever process `start` begins neither read nor write anything of the caller's: his terminal is his shell's again in a moment, and
/// from here on nobody looks at what the build does with it.
fn unheard<T>(start: impl FnOnce() -> T) -> Result<T> {
    let nothing = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("cannot open /dev/null")?;
    let ours = [stdin(), stdout(), stderr()].map(|descriptor| fcntl_dupfd_cloexec(descriptor, FIRST_OF_OTHERS));
    let [input, output, errors] = ours.map(|copy| copy.context("cannot keep the standard descriptors"));
    let (input, output, errors) = (input?, output?, errors?);
    let cannot_set = "cannot set the standard descriptors";
    let set = |input: &OwnedFd, output: &OwnedFd, errors: &OwnedFd| {
        dup2_stdin(input).and(dup2_stdout(output)).and(dup2_stderr(errors)).context(cannot_set)
    };
    let result = set(&nothing, &nothing, &nothing).map(|()| start());
    set(&input, &output, &errors)?;
    result
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    impl Unpacked {
        /// What is in `directory`.
        pub fn example(directory: &Path) -> Self {
            let top: OwnedFd = std::fs::File::open(directory).unwrap().into();
            Self { tree: Tree::in_layers(Layers::kept(&top).unwrap(), None), top, _scratch: None }
        }
    }
}
