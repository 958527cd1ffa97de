//! The private, writable directory of one sandbox: the copy of the kept build directory, and its removal.
//!
//! A scratch directory is locked for as long as the program that made it lives, so that a later run can tell one that a SIGKILL
//! left behind from one in use.

mod abandoned;
mod build_dir_mode;
mod copy;
mod kept;
mod outputs;
mod overlay;
mod phase_note;
#[cfg(test)]
mod races;
mod remove;
mod session_state;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Gid, Mode, OFlags, StatVfsMountFlags, Uid, chownat, fchmod, fchown, flock,
    fstat, fstatvfs, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::{getegid, geteuid};

pub(crate) use self::abandoned::linked_session;
pub use self::build_dir_mode::{BuildDirMode, Made};
pub use self::copy::{CheckInterrupt, CopySummary, Unreadable};
pub use self::phase_note::{PHASE_NOTE, PhasesRun};
pub(crate) use self::remove::{open_with_all_permissions, remove_tree};
pub use self::session_state::Earlier;
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, StoreView};
use crate::kept_build::KeptBuild;
use crate::plan::{BUILD, BuildMount, HostDirectories, OUTPUTS, OVERLAY_LOWER, OVERLAY_WORK, STORE_MODE};
use crate::sandbox::IdMappedMount;
use crate::sys;

/// How the name of every scratch directory starts, and of nothing else that anybody would make by hand.
const PREFIX: &str = ".nix-build-shell-scratch-";
/// How the name of one starts that was kept.
const KEPT_PREFIX: &str = "nix-build-shell-kept-";
/// The file in it that tells what session it is of, if it is of one: beside the directories that a sandbox shows.
pub(crate) const SESSION_RECORD: &str = "session.json";
/// How many random characters follow.
const RANDOM_CHARACTERS: usize = 12;
/// How many directories are made before it is clear that somebody takes each away.
const MOST_ATTEMPTS: usize = 100;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A scratch directory, removed with all that is in it when this value goes, unless it was told to [stay](Self::stay).
#[derive(Debug)]
pub struct Scratch {
    parent: OwnedFd,
    path: PathBuf,
    /// Open, and locked with `flock(2)`.
    handle: OwnedFd,
    directories: HostDirectories,
    purpose: Purpose,
    stays: bool,
    /// The kept directory as the sandbox is to see it, where its owner has to be mapped.
    kept_mount: Option<IdMappedMount>,
    /// What the removal needs, where this process may have no more open by then.
    spare: Vec<OwnedFd>,
}

/// As many descriptors as the removal of a tree without depth takes.
const SPARE: usize = 4;

/// Descriptors to be let go of where they are needed.
fn spare(handle: &OwnedFd) -> std::io::Result<Vec<OwnedFd>> {
    (0..SPARE).map(|_| handle.try_clone()).collect()
}

/// How a scratch directory is filled.
pub struct Filling<'a> {
    /// How the build directory becomes writable.
    pub mode: BuildDirMode,
    /// What to do with a file that the caller may not read.
    pub unreadable: Unreadable,
    /// Whether the user wants to stop.
    pub check_interrupt: CheckInterrupt<'a>,
    /// Shows how far a copy is that takes time.
    pub progress: Option<&'a dyn Progress>,
    /// What can be done while the build directory is copied.
    pub meanwhile: Option<Meanwhile<'a>>,
}

/// It is called before a copy begins, with the directories that it will be in, and without them where that is given up for another, or for
/// none.
pub type Meanwhile<'a> = &'a dyn Fn(Option<&HostDirectories>) -> Result<()>;

impl Filling<'_> {
    fn begin_copy(&self, directories: Option<&HostDirectories>) -> Result<()> {
        self.meanwhile.map_or(Ok(()), |meanwhile| meanwhile(directories))
    }
}

/// Whom the progress of a copy is told.
pub trait Progress {
    /// Whether anybody looks.
    fn is_wanted(&self) -> bool;
    /// Begins to show it for so many entries; what is returned is told how many are done.
    fn begin(&self, entries: u64) -> Box<dyn Fn(u64)>;
}

impl<'a> Filling<'a> {
    /// Whatever mode is best, and every file has to be readable.
    pub fn of(check_interrupt: CheckInterrupt<'a>) -> Self {
        Self {
            mode: BuildDirMode::Auto,
            unreadable: Unreadable::Fail,
            check_interrupt,
            progress: None,
            meanwhile: None,
        }
    }
}

/// What a scratch directory is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// One sandbox, below `TMPDIR`.
    OneSandbox,
    /// A session that is kept, where the caller's state is.
    KeptSession,
}

impl Purpose {
    fn directories(self, scratch: &Path) -> HostDirectories {
        HostDirectories { scratch: scratch.to_owned(), has_outputs: self == Self::KeptSession, build: BuildMount::Copy }
    }

    /// What to do where the directory cannot be used.
    fn remedy(self) -> &'static str {
        match self {
            Self::OneSandbox => "set TMPDIR to another directory",
            Self::KeptSession => "set XDG_STATE_HOME to another directory",
        }
    }
}

impl Scratch {
    /// Where the caller wants temporary files: `TMPDIR`, or `/tmp`.
    pub fn default_parent() -> PathBuf {
        std::env::var_os("TMPDIR").filter(|value| !value.is_empty()).map_or("/tmp".into(), PathBuf::from)
    }

    /// What a plan calls the directories of a scratch directory that is not made: for `--dry-run`.
    pub fn example_directories(parent: &Path) -> HostDirectories {
        Purpose::OneSandbox.directories(&parent.join(format!("{PREFIX}{}", "X".repeat(RANDOM_CHARACTERS))))
    }

    /// The same for a session that is kept in `path`.
    pub fn directories_of_session(path: &Path) -> HostDirectories {
        Purpose::KeptSession.directories(path)
    }

    /// Makes a scratch directory below `parent`, which has to be outside of `kept`, a kept build directory. Nobody but its owner
    /// may enter it.
    ///
    /// # Errors
    /// Where `parent` is missing, full, not writable, inside the kept directory, or mounted so that no program there may run.
    pub fn create(parent: &Path, kept: Option<&Path>) -> Result<Self> {
        set_memory_aside()?;
        let remedy = Purpose::OneSandbox.remedy();
        let parent = parent.canonicalize().map_err(|error| {
            anyhow!("there is no directory {} for the scratch copy ({error}); {remedy}", parent.display())
        })?;
        let parent_handle = openat(CWD, &parent, DIRECTORY, Mode::empty())
            .map_err(|errno| anyhow!("{} cannot hold the scratch copy: {errno}; {remedy}", parent.display()))?;
        check_parent(&parent, &parent_handle, kept, remedy)?;
        let (path, handle) = make_locked(&parent, &parent_handle, remedy)?;
        Self::begin(Purpose::OneSandbox, parent_handle, path, handle)
    }

    fn begin(purpose: Purpose, parent: OwnedFd, path: PathBuf, handle: OwnedFd) -> Result<Self> {
        let spare = spare(&handle).map_err(|error| {
            // It is empty yet.
            let _ = std::fs::remove_dir(&path);
            anyhow!("cannot keep descriptors for the end ({error}): too many files are open, see «ulimit -n»")
        })?;
        let scratch = Self {
            parent,
            directories: purpose.directories(&path),
            path,
            handle,
            purpose,
            stays: false,
            kept_mount: None,
            spare,
        };
        mkdirat(&scratch.handle, BUILD, Mode::RWXU).map_err(|errno| scratch.no_room_or(errno, "make a directory"))?;
        Ok(scratch)
    }

    /// Leaves the directory where it is when this value goes.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub(crate) fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// The directories that a [`Plan`](crate::plan::Plan) needs.
    pub fn directories(&self) -> &HostDirectories {
        &self.directories
    }

    /// Has the outputs of the sandbox's build on the disk, where they are when the sandbox is gone: see
    /// [`outputs`](Self::outputs). This is for before [`fill`](Self::fill).
    pub fn keep_outputs(&mut self) {
        self.directories.has_outputs = true;
    }

    /// Fills the scratch directory with all that the sandbox of `build` needs, and hands it over to `caller`.
    ///
    /// # Errors
    /// The first file that cannot be copied, by name; no room; a mode that is not possible here; or what `check_interrupt` answers.
    pub fn fill(&mut self, build: &FailedBuild, caller: &Caller, filling: &Filling<'_>) -> Result<(CopySummary, Made)> {
        let (copied, made) = self.make_build(build.kept.as_ref(), caller, filling)?;
        if let StoreView::Closure { partial_outputs, .. } = &build.store_view {
            self.copy_outputs(build.store.physical_directory(), partial_outputs, caller, filling.check_interrupt)?;
        }
        self.add_build_files(build, caller)?;
        // Only now: while root copies, nobody else may reach what it copies into.
        self.hand_over(caller)?;
        Ok((copied, made))
    }

    /// Copies the entries `names` of the store directory `store`, for the caller: what a failed build left of its outputs. What
    /// he may not read is left out.
    ///
    /// # Errors
    /// As of [`fill`](Self::fill).
    fn copy_outputs(
        &self,
        store: &Path,
        names: &[CString],
        caller: &Caller,
        check_interrupt: CheckInterrupt<'_>,
    ) -> Result<()> {
        if names.is_empty() && !self.directories.has_outputs {
            return Ok(());
        }
        let cannot_open = || format!("cannot open the store {}", store.display());
        let handle =
            openat(CWD, store, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()).with_context(cannot_open)?;
        let what = "write the copy of the outputs";
        mkdirat(&self.handle, OUTPUTS, Mode::RWXU).map_err(|errno| self.no_room_or(errno, what))?;
        let target =
            openat(&self.handle, OUTPUTS, DIRECTORY, Mode::empty()).context("cannot open the copy of the outputs")?;
        // It is the sandbox's store itself.
        fchmod(&target, Mode::from_raw_mode(STORE_MODE)).map_err(|errno| self.no_room_or(errno, what))?;
        let source = copy::Source { path: store, handle: &handle };
        let how = copy::How {
            caller,
            unreadable: Unreadable::LeaveOut,
            most_bytes: None,
            check_interrupt,
            progress: None,
            scratch: &self.handle,
        };
        copy::copy_entries(&source, names, target, &how).map_err(|failure| self.explained(failure, what))?;
        Ok(())
    }

    /// Writes the files that Nix writes for a builder into the copy of the build directory, but for those that are there.
    ///
    /// # Errors
    /// No room.
    fn add_build_files(&self, build: &FailedBuild, caller: &Caller) -> Result<()> {
        let files = &build.environment.files;
        let kept = build.kept.as_ref().filter(|_| self.directories.build != BuildMount::Copy);
        let mut owner = caller.must_change_ids().then_some((caller.uid, caller.gid));
        let build = match kept {
            // What Nix would have written there is missing in the kept directory itself.
            Some(kept) if matches!(self.directories.build, BuildMount::InPlace(_)) => {
                let status = fstat(&kept.handle).context("cannot look at the kept build directory")?;
                let its_owner = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
                owner = geteuid().is_root().then_some(its_owner);
                rustix::io::dup(&kept.handle).context("cannot open the kept build directory again")?
            }
            _ => self.open_build()?,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for file in files {
            let is_there =
                |kept: &KeptBuild| statat(&kept.handle, file.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
            if kept.is_some_and(is_there) {
                continue;
            }
            let cannot_write = |errno| self.no_room_or(errno, "write a file of the build");
            let handle = match openat(&build, file.name.as_slice(), flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => continue,
                handle => handle.map_err(cannot_write)?,
            };
            let mut handle = std::fs::File::from(handle);
            std::io::Write::write_all(&mut handle, &file.content).context("cannot write a file of the build")?;
            if let Some((user, group)) = owner {
                fchown(&handle, Some(user), Some(group)).map_err(cannot_write)?;
            }
            fchmod(&handle, Mode::from_raw_mode(file.mode)).map_err(cannot_write)?;
        }
        Ok(())
    }

    /// Lets `caller` in, for whom all this was made: under sudo he is somebody else. Until then root alone could reach what it wrote.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn hand_over(&self, caller: &Caller) -> Result<()> {
        if !caller.must_change_ids() {
            return Ok(());
        }
        for name in [BUILD, OUTPUTS, OVERLAY_WORK, OVERLAY_LOWER] {
            match chownat(&self.handle, name, Some(caller.uid), Some(caller.gid), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).context("cannot give the scratch copy to the user who called sudo"),
            }
        }
        fchown(&self.handle, Some(caller.uid), Some(caller.gid))
            .with_context(|| format!("cannot give {} to the user who called sudo", self.path.display()))
    }

    /// Whether the directory is that of the user who called sudo by now.
    ///
    /// # Errors
    /// The kernel's.
    fn is_handed_over(&self, caller: &Caller) -> Result<bool> {
        let owner = fstat(&self.handle).context("cannot look at the scratch directory")?.st_uid;
        Ok(caller.must_change_ids() && owner == caller.uid.as_raw())
    }

    /// Root has it for itself again, to write in it once more.
    fn take_back(&self, caller: &Caller) -> Result<()> {
        if caller.must_change_ids() {
            fchown(&self.handle, Some(geteuid()), Some(getegid()))
                .and_then(|()| fchmod(&self.handle, Mode::RWXU))
                .with_context(|| format!("cannot take {} back", self.path.display()))?;
        }
        Ok(())
    }

    /// The directory that it is in, for messages.
    fn parent_name(&self) -> std::path::Display<'_> {
        self.path.parent().unwrap_or(&self.path).display()
    }

    /// The copy of the build directory, opened; or, of an overlay, the upper layer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_build(&self) -> Result<OwnedFd> {
        openat(&self.handle, BUILD, DIRECTORY, Mode::empty()).context("cannot open the scratch copy")
    }

    /// Leaves the directory to the caller, under a name that no later run removes. Returns where the copy of the build directory is.
    ///
    /// # Errors
    /// The kernel's; then it keeps its name.
    pub fn keep(mut self) -> Result<PathBuf> {
        let name = self.path.file_name().context("a scratch directory has a name")?;
        let kept = self.kept_name();
        self.stays = true;
        renameat(&self.parent, name, &self.parent, &kept)
            .with_context(|| format!("cannot rename {}, which the next run will remove", self.path.display()))?;
        Ok(self.path.with_file_name(kept).join(BUILD))
    }

    fn explained(&self, failure: copy::Failure, what: &str) -> anyhow::Error {
        match failure {
            copy::Failure::NoRoom(errno) => self.no_room_or(errno, what),
            copy::Failure::TooMuch => anyhow!("the build directory has more in it than was to be copied"),
            copy::Failure::Other(error) => error,
        }
    }

    /// Removes the directory and all that is in it. Returns the directories of sessions beside it that a SIGKILL has left, and that
    /// nobody removes unasked.
    ///
    /// # Errors
    /// What could not be removed; a later run tries again.
    pub fn remove(mut self) -> Result<Vec<Self>> {
        self.remove_now()
    }

    fn remove_now(&mut self) -> Result<Vec<Self>> {
        self.stays = true;
        abandoned::forget_session(&self.handle);
        let name = self.path.file_name().context("a scratch directory has a name")?;
        let path = self.path.display();
        self.spare.clear();
        // Once more: what has failed may have been for a moment only.
        let removed = remove::remove_tree(&self.parent, name, &self.handle)
            .or_else(|_| remove::remove_tree(&self.parent, name, &self.handle));
        match self.purpose {
            Purpose::OneSandbox => {
                removed.with_context(|| {
                    format!("cannot remove the scratch directory {path}; a later run will try again")
                })?;
                Ok(self.sweep())
            }
            Purpose::KeptSession => removed.map(|()| Vec::new()).with_context(|| format!("cannot remove {path}")),
        }
    }

    fn no_room_or(&self, errno: Errno, what: &str) -> anyhow::Error {
        let parent = self.parent_name();
        let remedy = self.purpose.remedy();
        match errno {
            Errno::NOSPC | Errno::DQUOT => {
                anyhow!("no space left in {parent} for the copy of the build directory: free some there, or {remedy}")
            }
            other => anyhow!("cannot {what} in {parent}: {other}; {remedy}"),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.stays {
            // An error is under way already; what stays, a later run removes.
            let _ = self.remove_now();
        }
    }
}

/// For what comes once there is something to be removed again.
fn set_memory_aside() -> Result<()> {
    sys::set_memory_aside().map_err(|_| anyhow!("there is no memory left for it (see «ulimit -v», and what else runs)"))
}

/// Whether a scratch directory can be in `parent`, which has to be outside of `kept`.
fn check_parent(parent: &Path, handle: &OwnedFd, kept: Option<&Path>, remedy: &str) -> Result<()> {
    if kept.is_some_and(|kept| kept.canonicalize().is_ok_and(|kept| parent.starts_with(kept))) {
        bail!("{} is inside the kept build directory, which stays untouched; {remedy}", parent.display());
    }
    let mount = fstatvfs(handle)
        .map_err(|errno| anyhow!("{} cannot hold the scratch copy: {errno}; {remedy}", parent.display()))?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        bail!(
            "{} is mounted noexec, so the build's own programs could not run in a copy there; {remedy}",
            parent.display()
        );
    }
    Ok(())
}

/// Makes a directory and takes its lock. Between the two a sweep may come by and take it for an abandoned one, or under sudo the user,
/// whose the parent may be, may put another in its place: then another.
fn make_locked(parent: &Path, parent_handle: &OwnedFd, remedy: &str) -> Result<(PathBuf, OwnedFd)> {
    for _ in 0..MOST_ATTEMPTS {
        let path = make_anywhere(parent, parent_handle)
            .map_err(|reason| anyhow!("cannot make a scratch directory in {}: {reason}; {remedy}", parent.display()))?;
        let name = path.file_name().unwrap_or_default();
        let handle = match openat(parent_handle, name, DIRECTORY, Mode::empty()) {
            // Another run has swept it away.
            Err(Errno::NOENT) => continue,
            Err(errno) => {
                let _ = std::fs::remove_dir(&path);
                return Err(errno)
                    .with_context(|| format!("cannot open a scratch directory in {}; {remedy}", parent.display()));
            }
            Ok(handle) => handle,
        };
        let locked = flock(&handle, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| Ok(is_still_there(parent_handle, name, &handle) && is_as_made(&handle)?));
        match locked {
            Ok(true) => return Ok((path, handle)),
            Ok(false) | Err(Errno::WOULDBLOCK) => {}
            Err(errno) => {
                let _ = unlinkat(parent_handle, name, AtFlags::REMOVEDIR);
                return Err(errno)
                    .with_context(|| format!("cannot lock a scratch directory in {}; {remedy}", parent.display()));
            }
        }
    }
    bail!("another program takes every scratch directory away that is made in {}; {remedy}", parent.display())
}

/// Makes an empty directory that nobody but we may enter, under a name that nobody can foretell.
fn make_anywhere(parent: &Path, parent_handle: &OwnedFd) -> std::io::Result<PathBuf> {
    let make = |path: &Path| Ok(mkdirat(parent_handle, path.file_name().unwrap_or_default(), Mode::RWXU)?);
    let made = tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM_CHARACTERS).make_in(parent, make)?;
    let ((), path) = made.keep()?;
    Ok(path)
}

/// Whether a directory is ours alone, and empty, as one that we have just made: what others could enter is no place to write to with
/// root's rights.
///
/// # Errors
/// The kernel's, such as `EMFILE`.
fn is_as_made(directory: &OwnedFd) -> rustix::io::Result<bool> {
    let status = fstat(directory)?;
    let mode = Mode::from_raw_mode(status.st_mode);
    let is_ours = status.st_uid == geteuid().as_raw() && !mode.intersects(Mode::RWXG | Mode::RWXO);
    Ok(is_ours && is_empty(directory)?)
}

/// Whether nothing is in a directory.
fn is_empty(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `name` in `parent` still is the directory that was opened as `handle`.
pub(crate) fn is_still_there(parent: &OwnedFd, name: impl Arg, handle: &OwnedFd) -> bool {
    match (statat(parent, name, AtFlags::SYMLINK_NOFOLLOW), fstat(handle)) {
        (Ok(named), Ok(opened)) => (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino),
        _ => false,
    }
}
