//! `--build-dir-mode`: how the build directory becomes writable, what is said of it, and what is done where it cannot be.

use anyhow::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::sandbox_options::SandboxOptions;
use super::say::say;
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::sandbox::NoOverlay;
use crate::scratch::{CheckInterrupt, CopySummary, Filling, Made, Progress, Scratch};

impl SandboxOptions {
    /// How the scratch directory of `build` is to be filled.
    pub fn filling<'a>(&self, build: &FailedBuild, check_interrupt: CheckInterrupt<'a>) -> Filling<'a> {
        Filling {
            mode: self.build_dir_mode,
            unreadable: self.unreadable(build),
            check_interrupt,
            progress: Some(&Bar),
            meanwhile: None,
        }
    }
}

/// What a scratch directory was filled with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filled {
    /// What was copied.
    pub copied: CopySummary,
    /// What the build directory was made of.
    pub made: Made,
}

impl Filled {
    /// Fills `scratch` for `build`.
    ///
    /// # Errors
    /// As of [`Scratch::fill`].
    pub fn fill(scratch: &mut Scratch, build: &FailedBuild, caller: &Caller, filling: &Filling<'_>) -> Result<Self> {
        let (copied, made) = scratch.fill(build, caller, filling)?;
        Ok(Self { copied, made })
    }

    /// Has a copy in place of an overlay that the kernel has refused and that nobody has asked for.
    ///
    /// # Errors
    /// `error`, where it tells of something else; otherwise as of [`Scratch::fill`].
    pub fn fall_back(
        &mut self,
        error: Error,
        scratch: &mut Scratch,
        build: &FailedBuild,
        caller: &Caller,
        filling: &Filling<'_>,
    ) -> Result<()> {
        if self.made != (Made::Overlay { unasked: true }) || !error.is::<NoOverlay>() {
            return Err(error);
        }
        say("the kernel makes no overlay of it here, so it is copied");
        self.copied = scratch.copy_instead(build, caller, filling)?;
        self.made = Made::Copy;
        Ok(())
    }

    /// Says what the user has to know of it.
    pub fn tell(&self, build: &FailedBuild) {
        let directory = build.name().display();
        match self.made {
            Made::Overlay { unasked: true } => say(format_args!(
                "{directory} is large, so an overlay of it was made, and no copy: to rename a directory that was in there fails with \
                 EXDEV, which mv knows and other programs may not; --build-dir-mode=copy makes an exact copy"
            )),
            Made::InPlace => say(format_args!("you work in {directory} itself: what is changed there stays changed")),
            Made::Overlay { unasked: false } | Made::SharedCopy | Made::Copy => {}
        }
    }
}

/// Shows on a terminal that can move its cursor how much was copied. It is gone when that is done.
struct Bar;

impl Progress for Bar {
    fn is_wanted(&self) -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    fn begin(&self, entries: u64) -> Box<dyn Fn(u64)> {
        let style = ProgressStyle::with_template("copying {human_pos} of {human_len} files {wide_bar} {eta}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(entries).with_style(style).with_finish(ProgressFinish::AndClear);
        Box::new(move |copied| bar.set_position(copied))
    }
}
