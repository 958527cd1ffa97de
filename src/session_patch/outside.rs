//! What somebody has written outside of the build directory: no patch has it, and it goes with the sandbox, of which the user is told.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};

use super::phase_times::PhaseTimes;
use super::products::{is_of_the_builder, is_tool_directory};
use super::summary::files;
use super::tree::{DEEPEST, Entry, Kind, Moment, moment_of};
use crate::failed_build::FailedBuild;
use crate::plan::{Plan, Step};
use crate::sandbox::Sandbox;
use crate::scratch::Scratch;

/// How many paths are named.
const MOST_NAMED: usize = 5;
/// More entries than anybody looks at to name five.
const MOST_ENTRIES: usize = 20_000;
/// Where programs share memory, below the root.
const SHARED_MEMORY: &str = "dev/shm";
/// What is in the name of an output that `resume` has put aside.
const ASIDE: &[u8] = b"-before-resume";
/// What programs leave in a home directory, whoever calls them.
const TRACES: [&str; 6] =
    [".bash_history", ".lesshst", ".node_repl_history", ".python_history", ".viminfo", ".wget-hsts"];

/// The root of a session's sandbox, to be looked at in the end.
#[derive(Debug)]
pub struct Outside {
    root: OwnedFd,
    /// `/dev/shm`, where that is a file system of its own.
    shared_memory: Option<OwnedFd>,
    /// Files and links that we have made there.
    planned: HashSet<Vec<u8>>,
    /// When the session had begun.
    began: Moment,
}

impl Outside {
    /// That of `sandbox`, in which `plan` was carried out, if it [shows](Plan::showing_root) it.
    pub fn of(sandbox: &mut Sandbox, plan: &Plan) -> Option<Self> {
        let root = sandbox.take_root()?;
        let path_of = |step: &Step| match step {
            Step::MakeFile { path, .. } | Step::MakeSymlink { path, .. } => Some(path.to_bytes().to_vec()),
            _ => None,
        };
        let planned = plan.steps.iter().filter_map(path_of).collect();
        let is_shared_memory =
            |step: &Step| matches!(step, Step::Mount { target, .. } if target.to_bytes() == SHARED_MEMORY.as_bytes());
        let shared_memory =
            if plan.steps.iter().any(is_shared_memory) { open_below(&root, SHARED_MEMORY) } else { None };
        Some(Self { root, shared_memory, planned, began: moment_of(SystemTime::now()) })
    }

    /// One line about what goes with the sandbox of `build`, now that all of it has ended: what a phase made that ran in the session is
    /// not worth a word. Outputs that are on the disk, `are_kept` or not.
    pub fn told(self, build: &FailedBuild, scratch: &Scratch, are_kept: bool) -> Option<String> {
        let times = PhaseTimes::of(scratch, &build.build_directory);
        let mut found = Found::new(&self.planned, self.began, times, build.store.directory());
        found.look(self.root.as_fd(), &mut Vec::new(), device_of(&self.root)?, DEEPEST);
        if let Some(directory) = &self.shared_memory {
            found.look(directory.as_fd(), &mut SHARED_MEMORY.into(), device_of(directory)?, DEEPEST);
        }
        let outputs = if are_kept { None } else { scratch.open_outputs() };
        if let Some(outputs) = outputs {
            found.look_on_disk(&outputs)?;
        }
        let build = build.build_directory.display();
        found.told(&format!("that you wrote outside of {build} went with the sandbox"))
    }
}

/// One line about what somebody wrote into the outputs of a kept session, which are in `scratch` and go with it; the store is called
/// `store`. The session `began` then, and the phases of its earlier shells had made what there was at `made`. What `resume` has put
/// aside may be older.
pub fn told_of_outputs(
    scratch: &Scratch,
    store: &Path,
    [began, made]: [SystemTime; 2],
    session: &impl Display,
) -> Option<String> {
    let times = PhaseTimes::parse(&scratch.phase_times_of_session().unwrap_or_default());
    let outputs = scratch.open_outputs()?;
    let nothing = HashSet::new();
    let mut found = Found::new(&nothing, moment_of(made), times, store);
    found.aside_began = Some(moment_of(began));
    found.look_on_disk(&outputs)?;
    found.told(&format!("that you wrote into outputs went with the session {session}"))
}

/// What there is, as far as it was looked for.
struct Found<'a> {
    /// Files and links that we have made there.
    planned: &'a HashSet<Vec<u8>>,
    /// What is not younger was there before.
    began: Moment,
    /// The same of outputs that `resume` has put aside, where that is another time.
    aside_began: Option<Moment>,
    times: PhaseTimes,
    /// The directory of the store, without the slash in front.
    store: &'a [u8],
    /// Whether it is looked for on the disk, where there is what was there before.
    is_on_disk: bool,
    count: usize,
    named: Vec<Vec<u8>>,
    left: usize,
}

impl<'a> Found<'a> {
    fn new(planned: &'a HashSet<Vec<u8>>, began: Moment, times: PhaseTimes, store: &'a Path) -> Self {
        let store = store.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default();
        let (named, left) = (Vec::new(), MOST_ENTRIES);
        Self { planned, began, aside_began: None, times, store, is_on_disk: false, count: 0, named, left }
    }

    /// A line about the files that were found, of which it says `what`.
    fn told(&self, what: &str) -> Option<String> {
        let Self { count, named, left, .. } = self;
        let names = named.iter().map(|path| format!("/{}", OsStr::from_bytes(path).display())).collect::<Vec<_>>();
        let at_least = if *left == 0 { "at least " } else { "" };
        let such_as = if *count > names.len() { ", such as " } else { ": " };
        (*count > 0).then(|| format!("{at_least}{} {what}{such_as}{}", files(*count), names.join(", ")))
    }

    /// Looks at the outputs that are on the disk; nothing where they cannot be looked at.
    fn look_on_disk(&mut self, outputs: &OwnedFd) -> Option<()> {
        self.is_on_disk = true;
        self.look(outputs.as_fd(), &mut self.store.to_vec(), device_of(outputs)?, DEEPEST);
        Some(())
    }

    /// Looks at everything in `directory` but for what is mounted there, or was. Nothing is followed, and nothing but directories is
    /// opened.
    fn look(&mut self, directory: BorrowedFd<'_>, path: &mut Vec<u8>, device: u64, levels: usize) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let length = path.len();
        let Ok(opened) = openat(directory, c".", flags, Mode::empty()) else { return };
        let Ok(entries) = Dir::read_from(&opened) else { return };
        for entry in entries.flatten() {
            path.truncate(length);
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                break;
            }
            let Ok(status) = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if status.st_dev != device {
                continue;
            }
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let entry = Entry::of(&status);
            if entry.kind != Kind::Directory {
                self.judge(path, name.to_bytes(), &entry);
            } else if levels > 1
                && !is_tool_directory(name.to_bytes())
                && let Ok(below) = openat(&opened, name, flags, Mode::empty())
            {
                self.look(below.as_fd(), path, device, levels - 1);
            }
        }
        path.truncate(length);
    }

    fn judge(&mut self, path: &[u8], name: &[u8], entry: &Entry) {
        let is_nothing = !entry.is_content() || entry.size == 0;
        // Of an output its own path says enough.
        let output = path.strip_prefix(self.store).and_then(|below| below.strip_prefix(b"/")).map(|below| {
            let end = below.iter().position(|byte| *byte == b'/').unwrap_or(below.len());
            path.get(..path.len() - below.len() + end).unwrap_or(path)
        });
        let is_aside = output.is_some_and(|output| find_bytes(output, ASIDE));
        let began = self.aside_began.filter(|_| is_aside).unwrap_or(self.began);
        let is_old = (self.is_on_disk || self.planned.contains(path)) && entry.changed <= began;
        let is_trace = is_of_the_builder(name) || TRACES.iter().any(|trace| name == trace.as_bytes());
        if is_nothing || is_old || is_trace || self.times.contains(entry.changed) {
            return;
        }
        self.count += 1;
        let name = output.unwrap_or(path);
        if self.named.len() < MOST_NAMED && !self.named.iter().any(|named| named == name) {
            self.named.push(name.to_vec());
        }
    }
}

/// Opens a directory of the sandbox, while what is mounted there is still to be seen. No link is followed.
fn open_below(root: &OwnedFd, path: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS).ok()
}

fn find_bytes(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|part| part == wanted)
}

fn device_of(directory: &OwnedFd) -> Option<u64> {
    fstat(directory).ok().map(|status| status.st_dev)
}
