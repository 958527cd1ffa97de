//! Where a patch goes: a new file, made with the rights of the user who gets it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::kept_build::KeptBuild;
use crate::owner::home_of;

/// The program's directory in the one for such files: see the [XDG Base Directory Specification].
///
/// [XDG Base Directory Specification]: https://specifications.freedesktop.org/basedir/latest/
const OWN_DIRECTORY: &str = "nix-build-shell";
/// A file name has 255 bytes at most; the time and the end want some of them.
const LONGEST_NAME: usize = 200;
/// How many patches of one second there may be.
const MOST_NAMES: u32 = 1000;

/// Where patches go.
#[derive(Debug)]
pub(super) enum Destination {
    /// Into this file, which is there already, empty.
    File(NewFile),
    /// Into a file of its own in the directory for such files.
    StateDirectory,
}

impl Destination {
    /// Into `path`, which is made now and must not be there, unless it is empty; or, without one, into the directory for such files.
    ///
    /// # Errors
    /// A file that cannot be made, or would be in the kept directory.
    pub fn new(path: Option<&Path>, kept: Option<&KeptBuild>, caller: &Caller) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::StateDirectory);
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_inside = |kept: PathBuf| directory.canonicalize().is_ok_and(|directory| directory.starts_with(kept));
        if kept.is_some_and(|kept| kept.directory.canonicalize().is_ok_and(is_inside)) {
            bail!("{} would be in the kept build directory, which stays untouched", path.display());
        }
        let name = path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?;
        let mode = Mode::from_raw_mode(0o666);
        let file = caller.with_own_rights(|| {
            NewFile::create(directory, name, mode, caller).or_else(|errno| match errno {
                Errno::EXIST => NewFile::take_empty(directory, name, caller)?.ok_or(errno),
                _ => Err(errno),
            })
        })?;
        file.map(Self::File).map_err(|errno| cannot_create(path, errno))
    }

    /// Writes the patches that are not empty, that of the source and that of all else. Returns where each is.
    ///
    /// # Errors
    /// The first that cannot be written.
    pub fn write(
        self,
        build: &FailedBuild,
        caller: &Caller,
        [source, elsewhere]: [&[u8]; 2],
    ) -> Result<[Option<PathBuf>; 2]> {
        if source.is_empty() && elsewhere.is_empty() {
            return Ok([None, None]);
        }
        let name = format!("{}-{}", name_of(build), jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S"));
        caller.with_own_rights(|| match self {
            Self::File(file) => {
                let (directory, end) = (file.path.with_file_name(""), file.path.extension().unwrap_or_default());
                let stem = file.path.file_stem().unwrap_or_default().to_owned();
                let rest =
                    [stem.as_bytes(), b".rest", if end.is_empty() { b"" } else { b"." }, end.as_bytes()].concat();
                let of_source = if source.is_empty() { None } else { Some(file.fill(source)?) };
                let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
                if elsewhere.is_empty() {
                    return Ok([of_source, None]);
                }
                let rest = OsStr::from_bytes(&rest);
                let file = NewFile::create(&directory, rest, Mode::from_raw_mode(0o666), caller);
                let file = file.map_err(|errno| cannot_create(&directory.join(rest), errno))?;
                Ok([of_source, Some(file.fill(elsewhere)?)])
            }
            Self::StateDirectory => {
                let directory = state_directory(caller)?;
                let put = |text: &[u8], end| -> Result<_> {
                    if text.is_empty() { Ok(None) } else { put_new(&directory, &name, end, text, caller).map(Some) }
                };
                Ok([put(source, ".patch")?, put(elsewhere, ".rest.patch")?])
            }
        })?
    }
}

/// A file that we have made, and that goes again unless something is written to it.
#[derive(Debug)]
pub(super) struct NewFile {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    file: File,
    caller: Caller,
    is_filled: bool,
}

impl NewFile {
    /// Makes the file `name` in `directory`.
    fn create(directory: &Path, name: &OsStr, mode: Mode, caller: &Caller) -> rustix::io::Result<Self> {
        let path = if directory == Path::new(".") { name.into() } else { directory.join(name) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, mode)?;
        // Nobody else may take it for one that a SIGKILL has left. Where there are no locks, it is as good without.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { path, directory, name: name.into(), file: file.into(), caller: *caller, is_filled: false })
    }

    /// Takes the file `name` in `directory` if it is an empty one of the caller's and nobody is about to fill it: a run that was killed has
    /// left it, or nothing is lost with it.
    fn take_empty(directory: &Path, name: &OsStr, caller: &Caller) -> rustix::io::Result<Option<Self>> {
        let path = if directory == Path::new(".") { name.into() } else { directory.join(name) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(&directory, name, flags, Mode::empty()) else { return Ok(None) };
        let is_locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let status = fstat(&file)?;
        let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
        let is_ours = is_file && status.st_uid == caller.uid.as_raw() && status.st_nlink == 1;
        if !is_locked || !is_ours || status.st_size != 0 {
            return Ok(None);
        }
        Ok(Some(Self { path, directory, name: name.into(), file: file.into(), caller: *caller, is_filled: false }))
    }

    /// Writes `text` and closes the file. Returns where it is.
    fn fill(mut self, text: &[u8]) -> Result<PathBuf> {
        self.file.write_all(text).with_context(|| format!("cannot write the patch to {}", self.path.display()))?;
        self.is_filled = true;
        Ok(self.path.clone())
    }

    fn remove(&self) -> rustix::io::Result<()> {
        let (named, made) = (statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?, fstat(&self.file)?);
        if (named.st_dev, named.st_ino) == (made.st_dev, made.st_ino) {
            unlinkat(&self.directory, &self.name, AtFlags::empty())?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_filled {
            // An empty file that stays does no harm.
            let _ = self.caller.with_own_rights(|| self.remove());
        }
    }
}

fn cannot_create(path: &Path, errno: Errno) -> anyhow::Error {
    let path = path.display();
    match errno {
        Errno::EXIST => anyhow!("{path} is there already, and no patch overwrites anything"),
        errno => anyhow!("cannot make the file {path} for the patch: {errno}"),
    }
}

/// Writes `text` to a file `NAME END` in `directory`, or `NAME-2 END` and so on where that is there already.
fn put_new(directory: &Path, name: &str, end: &str, text: &[u8], caller: &Caller) -> Result<PathBuf> {
    for number in 1..MOST_NAMES {
        let number = if number == 1 { String::new() } else { format!("-{number}") };
        let name = OsString::from(format!("{name}{number}{end}"));
        match NewFile::create(directory, &name, Mode::RUSR | Mode::WUSR, caller) {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(cannot_create(&directory.join(&name), errno)),
            Ok(file) => return file.fill(text),
        }
    }
    bail!("{} has a thousand patches of this second", directory.display())
}

/// The directory for patches, made where it is missing: `$XDG_STATE_HOME/nix-build-shell`, or `~/.local/state/nix-build-shell`.
fn state_directory(caller: &Caller) -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let below_home = |home: PathBuf| home.join(".local/state");
    // sudo sets HOME to root's.
    let of_user = || caller.must_change_ids().then(|| home_of(caller.uid.as_raw())).flatten();
    let homes = [
        of_user(),
        absolute("SUDO_HOME").filter(|_| caller.must_change_ids()),
        absolute("HOME"),
        home_of(caller.uid.as_raw()),
    ];
    let candidates = absolute("XDG_STATE_HOME").into_iter().chain(homes.into_iter().flatten().map(below_home));
    let first = candidates.into_iter().find(|path| !caller.is_root() || is_roots(path));
    let directory = first.context("neither XDG_STATE_HOME nor HOME says where to write the patch")?.join(OWN_DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot make the directory {} for the patch", directory.display()))?;
    Ok(directory)
}

/// Whether what there is of a path belongs to root: «su» leaves HOME as it was, and in his own home a user could lead root astray.
fn is_roots(path: &Path) -> bool {
    path.ancestors().find_map(|path| path.metadata().ok()).is_some_and(|status| status.uid() == 0)
}

/// The name of the derivation, or what may be taken for it.
fn name_of(build: &FailedBuild) -> String {
    let kept = build.kept.as_ref();
    let of_derivation = build.derivation.as_ref().map(|derivation| derivation.name().to_vec());
    let of_directory = || kept.and_then(KeptBuild::derivation_name).map(String::into_bytes);
    let of_build = || kept.and_then(|kept| kept.variable("name")).map(<[u8]>::to_vec);
    file_name(&of_derivation.or_else(of_directory).or_else(of_build).unwrap_or_default())
}

/// As much of a name as a store path could have.
fn file_name(name: &[u8]) -> String {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
    let name: Vec<u8> = name.iter().copied().filter(is_allowed).take(LONGEST_NAME).collect();
    let name = String::from_utf8(name).unwrap_or_default();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "build".into() } else { name.into() }
}
