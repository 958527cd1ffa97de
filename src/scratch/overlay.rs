//! Makes the sandbox's build directory of the kept one: by a copy, by an overlay, or of the kept directory itself.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Mode, fchown, fstat, mkdirat, statat};
use rustix::process::{getegid, geteuid};

use super::build_dir_mode::{SMALL, check_reflink, check_upper, kept_mount};
use super::copy::{self, CopySummary, Failure, How, Listing, Source};
use super::remove::remove_entry;
use super::{BuildDirMode, Filling, Made, Purpose, Scratch, Unreadable};
use crate::caller::Caller;
use crate::descriptor_limit::DescriptorLimit;
use crate::failed_build::FailedBuild;
use crate::kept_build::KeptBuild;
use crate::plan::{BUILD, BuildMount, KeptMount, OVERLAY_LOWER, OVERLAY_WORK};

/// What a build directory tells of its build.
const TOLD_BY_BUILD: [&CStr; 3] = [c"env-vars", c".attrs.json", c".attrs.sh"];

impl Scratch {
    /// Makes the build directory writable, as `filling` wants it.
    ///
    /// # Errors
    /// As of [`fill`](Self::fill).
    pub(super) fn make_build(
        &mut self,
        kept: Option<&KeptBuild>,
        caller: &Caller,
        filling: &Filling<'_>,
    ) -> Result<(CopySummary, Made)> {
        let Some(kept) = kept else {
            if filling.mode == BuildDirMode::InPlace {
                bail!("a derivation has no build directory to work in, so --build-dir-mode=in-place has none to take");
            }
            return Ok((CopySummary::default(), Made::Copy));
        };
        if self.purpose == Purpose::KeptSession && matches!(filling.mode, BuildDirMode::Overlay | BuildDirMode::InPlace)
        {
            bail!(
                "a session that is kept needs a copy, since the kept build directory may change or go before it is entered again: \
                 --build-dir-mode=copy makes one"
            );
        }
        // What is listed before it is copied stays open.
        let _limit = DescriptorLimit::raise();
        match filling.mode {
            BuildDirMode::Auto => self.make_best(kept, caller, filling),
            BuildDirMode::Copy => {
                filling.begin_copy(Some(&self.directories))?;
                Ok((self.copy_all(kept, caller, filling)?, Made::Copy))
            }
            BuildDirMode::Reflink => {
                check_reflink(kept, &self.handle).with_context(|| {
                    let (scratch, kept) = (self.parent_name(), kept.directory.display());
                    format!(
                        "files in {scratch} cannot share blocks with those in {kept}: set TMPDIR to a directory on the same file \
                         system, if that is btrfs, XFS or another that can; --build-dir-mode=copy does without"
                    )
                })?;
                Ok((self.copy_all(kept, caller, filling)?, Made::SharedCopy))
            }
            BuildDirMode::Overlay => {
                let cannot = || {
                    format!("cannot make an overlay of {}, but --build-dir-mode=copy a copy", kept.directory.display())
                };
                let mount = self.overlay_mount(kept, caller).with_context(cannot)?;
                self.make_overlay(kept, caller, mount)?;
                Ok((CopySummary::default(), Made::Overlay { unasked: false }))
            }
            BuildDirMode::InPlace => {
                self.take_in_place(kept, caller)?;
                Ok((CopySummary::default(), Made::InPlace))
            }
        }
    }

    /// What is exact and takes no time; else what is exact and takes little; else what takes no time.
    fn make_best(&mut self, kept: &KeptBuild, caller: &Caller, filling: &Filling<'_>) -> Result<(CopySummary, Made)> {
        let cannot_read = || format!("cannot read {}", kept.directory.display());
        if let Some(listing) = Listing::of_small_tree(&kept.handle, SMALL).with_context(cannot_read)? {
            filling.begin_copy(Some(&self.directories))?;
            match self.copy(kept, Some(listing), caller, filling, None) {
                Err(Failure::TooMuch) => {
                    filling.begin_copy(None)?;
                    self.empty_build()?;
                }
                copied => return Ok((copied.map_err(|failure| self.cannot_copy(failure))?, Made::Copy)),
            }
        }
        if check_reflink(kept, &self.handle).is_ok() {
            return Ok((self.copy_all(kept, caller, filling)?, Made::SharedCopy));
        }
        if self.purpose != Purpose::KeptSession
            && let Ok(mount) = self.overlay_mount(kept, caller)
        {
            self.make_overlay(kept, caller, mount)?;
            return Ok((CopySummary::default(), Made::Overlay { unasked: true }));
        }
        Ok((self.copy_all(kept, caller, filling)?, Made::Copy))
    }

    /// Has a copy in place of the overlay that the kernel has refused.
    ///
    /// # Errors
    /// As of [`fill`](Self::fill).
    pub fn copy_instead(&mut self, build: &FailedBuild, caller: &Caller, filling: &Filling<'_>) -> Result<CopySummary> {
        let Some(kept) = &build.kept else { return Ok(CopySummary::default()) };
        self.take_back(caller)?;
        self.directories.build = BuildMount::Copy;
        self.kept_mount = None;
        let emptied = [OVERLAY_WORK, OVERLAY_LOWER].into_iter().try_for_each(|name| self.remove_own(name));
        if let Err(error) = emptied.and_then(|()| self.empty_build()) {
            // What is left is the caller's: it is removed with his rights.
            self.hand_over(caller)?;
            return Err(error);
        }
        let copied = self.copy_all(kept, caller, filling)?;
        self.add_build_files(build, caller)?;
        self.hand_over(caller)?;
        Ok(copied)
    }

    fn empty_build(&self) -> Result<()> {
        self.remove_own(BUILD)?;
        mkdirat(&self.handle, BUILD, Mode::RWXU).map_err(|errno| self.no_room_or(errno, "make a directory"))
    }

    fn remove_own(&self, name: &str) -> Result<()> {
        let c_name = CString::new(name)?;
        remove_entry(&self.handle, &c_name).with_context(|| format!("cannot remove {}", self.path.join(name).display()))
    }

    /// Copies all of `kept`, with a word about the progress.
    fn copy_all(&self, kept: &KeptBuild, caller: &Caller, filling: &Filling<'_>) -> Result<CopySummary> {
        let progress = filling.progress.filter(|progress| progress.is_wanted()).and_then(|progress| {
            let entries = copy::count(&kept.handle);
            // Nobody has to be told of what is done before he could read it.
            (entries > SMALL.entries as u64).then(|| progress.begin(entries))
        });
        self.copy(kept, None, caller, filling, progress.as_deref()).map_err(|failure| self.cannot_copy(failure))
    }

    fn copy(
        &self,
        kept: &KeptBuild,
        listing: Option<Listing>,
        caller: &Caller,
        filling: &Filling<'_>,
        progress: Option<&dyn Fn(u64)>,
    ) -> Result<CopySummary, Failure> {
        let target = self.open_build()?;
        let source = Source { path: &kept.directory, handle: &kept.handle };
        let how = How {
            caller,
            unreadable: filling.unreadable,
            most_bytes: listing.is_some().then_some(SMALL.bytes),
            check_interrupt: filling.check_interrupt,
            progress,
            scratch: &self.handle,
        };
        copy::copy_tree(&source, listing, target, &how)
    }

    fn cannot_copy(&self, failure: Failure) -> anyhow::Error {
        self.explained(failure, "write the copy of the build directory")
    }

    /// How the kept directory becomes a lower layer.
    fn overlay_mount(&mut self, kept: &KeptBuild, caller: &Caller) -> Result<KeptMount> {
        check_upper(&self.handle)?;
        let (mount, id_mapped) = kept_mount(kept, caller, false)?;
        self.kept_mount = id_mapped;
        Ok(mount)
    }

    /// Makes the directories of an overlay. What belongs to the top of the kept directory goes to the upper layer, whose top is seen.
    fn make_overlay(&mut self, kept: &KeptBuild, caller: &Caller, mount: KeptMount) -> Result<()> {
        if matches!(mount, KeptMount::IdMapped(_)) {
            mkdirat(&self.handle, OVERLAY_LOWER, Mode::RWXU)
                .map_err(|errno| self.no_room_or(errno, "make a directory"))?;
        }
        self.directories.build = BuildMount::Overlay { lower: mount };
        let upper = self.open_build()?;
        let status = fstat(&kept.handle).with_context(|| format!("cannot look at {}", kept.directory.display()))?;
        copy::finish_top(&kept.handle, &upper, &status, caller)
            .map_err(|errno| self.no_room_or(errno, "write the copy of the build directory"))?;
        self.make_overlay_work()
    }

    /// Makes the directory in which the kernel works; one that a mount had is not for another.
    fn make_overlay_work(&self) -> Result<()> {
        self.remove_own(OVERLAY_WORK)?;
        mkdirat(&self.handle, OVERLAY_WORK, Mode::RWXU).map_err(|errno| self.no_room_or(errno, "make a directory"))
    }

    /// What [`fill`](Self::fill) would make of `kept`, as far as it can be told without a scratch directory, and how a plan mounts that:
    /// for `--dry-run`.
    ///
    /// # Errors
    /// As of [`fill`](Self::fill).
    pub fn expected_build(mode: BuildDirMode, kept: Option<&KeptBuild>, caller: &Caller) -> Result<(Made, BuildMount)> {
        let copied = Ok((Made::Copy, BuildMount::Copy));
        let Some(kept) = kept else { return copied };
        let overlay = |unasked| {
            let (lower, _) = kept_mount(kept, caller, false)?;
            anyhow::Ok((Made::Overlay { unasked }, BuildMount::Overlay { lower }))
        };
        match mode {
            BuildDirMode::Copy => copied,
            BuildDirMode::Reflink => Ok((Made::SharedCopy, BuildMount::Copy)),
            BuildDirMode::Auto => match Listing::of_small_tree(&kept.handle, SMALL) {
                Ok(None) => overlay(true).or(copied),
                _ => copied,
            },
            BuildDirMode::Overlay => {
                overlay(false).with_context(|| format!("cannot make an overlay of {}", kept.directory.display()))
            }
            BuildDirMode::InPlace => {
                let (mount, _) = kept_mount(kept, caller, true)
                    .with_context(|| format!("cannot work in {} itself", kept.directory.display()))?;
                Ok((Made::InPlace, BuildMount::InPlace(mount)))
            }
        }
    }

    /// Makes the build directory ready for another sandbox after the first, and tells where what is at its top can be read. An overlay's
    /// upper layer gets what Nix and stdenv had written there, where the first sandbox has left that as it was.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare_again(&self, kept: Option<&KeptBuild>, caller: &Caller) -> Result<PathBuf> {
        match (&self.directories.build, kept) {
            (BuildMount::InPlace(_), Some(kept)) => return Ok(kept.directory.clone()),
            (BuildMount::Overlay { .. }, Some(kept)) => {
                self.take_back(caller)?;
                self.make_overlay_work()?;
                let upper = self.open_build()?;
                if caller.must_change_ids() {
                    // So nobody changes what is at its top while root writes there.
                    fchown(&upper, Some(geteuid()), Some(getegid())).context("cannot take the upper layer back")?;
                }
                let is_left = |name: &&CStr| {
                    let is_in = |directory| statat(directory, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
                    is_in(&kept.handle) && !is_in(&upper)
                };
                let names: Vec<CString> = TOLD_BY_BUILD.into_iter().filter(is_left).map(CStr::to_owned).collect();
                let source = Source { path: &kept.directory, handle: &kept.handle };
                let how = How {
                    caller,
                    unreadable: Unreadable::LeaveOut,
                    most_bytes: None,
                    check_interrupt: &|| Ok(()),
                    progress: None,
                    scratch: &self.handle,
                };
                let copied = copy::copy_entries(&source, &names, upper, &how);
                self.hand_over(caller)?;
                copied.map_err(|failure| self.cannot_copy(failure))?;
            }
            _ => {}
        }
        Ok(self.path.join(BUILD))
    }

    /// Lays the layer that a session has left over `kept` once more, which it was made of.
    ///
    /// # Errors
    /// As of [`fill`](Self::fill).
    pub(crate) fn lay_over_again(&mut self, kept: &KeptBuild, caller: &Caller) -> Result<()> {
        self.directories.build = BuildMount::Overlay { lower: self.overlay_mount(kept, caller)? };
        self.prepare_again(Some(kept), caller).map(drop)
    }

    /// Whether the build directory is an overlay.
    pub fn is_overlay(&self) -> bool {
        matches!(self.directories.build, BuildMount::Overlay { .. })
    }

    /// Whether it is the kept directory itself.
    pub fn is_in_place(&self) -> bool {
        matches!(self.directories.build, BuildMount::InPlace(_))
    }

    fn take_in_place(&mut self, kept: &KeptBuild, caller: &Caller) -> Result<()> {
        let (mount, id_mapped) = kept_mount(kept, caller, true)
            .with_context(|| format!("cannot work in {} itself", kept.directory.display()))?;
        self.kept_mount = id_mapped;
        self.directories.build = BuildMount::InPlace(mount);
        Ok(())
    }
}
