//! Sessions that outlive their sandbox: `--keep-session NAME`, and `nix-build-shell sessions`.
//!
//! A session is a directory of the caller's: the copy of the build directory, that of the outputs, a description that tells how to
//! make the sandbox again, and while one runs, where it is. It has the lock of a [scratch directory](crate::scratch): who holds that
//! runs the session's one sandbox; others join it.

mod description;
mod kept_identity;
mod list;
mod name;
mod recovered;
mod removal;
mod running;
mod untouched;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

pub use self::description::Description;
pub use self::list::{Listed, laid_over, list, names};
pub use self::name::SessionName;
pub use self::recovered::{note, recover};
pub use self::removal::Condemned;
use self::running::Running;
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, StoreView, Wishes};
use crate::failed_phase::FailedPhase;
use crate::nix::Settings;
use crate::plan::{self, BUILD, HostDirectories, Plan};
use crate::record;
use crate::sandbox::{NamespaceHandles, Sandbox};
use crate::scratch::{Earlier, PhasesRun, SESSION_RECORD, Scratch, linked_session};
use crate::state_directory::StateDirectory;

/// Where the sessions are, in the caller's state directory.
const SESSIONS: &str = "sessions";
/// The description of a session, in its directory. Without it, what is there was never finished, or is being removed.
const DESCRIPTION: &str = SESSION_RECORD;
/// What is written down of its sandbox while that runs.
const RUNNING: &str = "running.json";

/// How long somebody who wants to enter a session waits for whoever is just making or ending its sandbox.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often he looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// The directory that holds a caller's sessions.
#[derive(Debug)]
pub struct Sessions {
    caller: Caller,
    path: PathBuf,
    handle: OwnedFd,
}

/// A session that can be entered.
#[derive(Debug)]
pub enum Session {
    /// Nobody is in it: this program is its holder now.
    Idle(Box<Idle>),
    /// Its sandbox runs.
    Running(Box<Joinable>),
}

/// A kept session without a sandbox, locked.
#[derive(Debug)]
pub struct Idle {
    /// Its directory.
    pub scratch: Scratch,
    name: SessionName,
    description: Description,
}

/// A session whose sandbox runs.
#[derive(Debug)]
pub struct Joinable {
    /// The sandbox's namespaces.
    pub namespaces: NamespaceHandles,
    running: Running,
    build: PathBuf,
    description: Description,
}

/// A session whose sandbox this program has made.
#[derive(Debug)]
pub struct Held {
    caller: Caller,
    name: SessionName,
    description: Description,
}

/// What a plan calls the directories of the session `name`: for `--dry-run`.
///
/// # Errors
/// As of [`StateDirectory::expected_path`].
pub fn example_directories(caller: &Caller, name: &SessionName) -> Result<HostDirectories> {
    Ok(Scratch::directories_of_session(&StateDirectory::expected_path(caller, SESSIONS)?.join(name.as_str())))
}

impl Sessions {
    /// The caller's, where he has a directory of sessions.
    ///
    /// # Errors
    /// A directory that others may change, or that cannot be opened.
    pub fn open(caller: &Caller) -> Result<Option<Self>> {
        StateDirectory::find(caller, SESSIONS)?.map(|directory| Self::checked(caller, directory)).transpose()
    }

    /// The same, made where there is none.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make(caller: &Caller) -> Result<Self> {
        Self::checked(caller, StateDirectory::open(caller, SESSIONS).context("no session can be kept")?)
    }

    fn checked(caller: &Caller, StateDirectory { path, handle }: StateDirectory) -> Result<Self> {
        let status = fstat(&handle).with_context(|| format!("cannot look at {}", path.display()))?;
        let others = Mode::from_raw_mode(status.st_mode).intersects(Mode::WGRP | Mode::WOTH);
        if others {
            bail!("{} is not yours alone, and so no place for your sessions", path.display());
        }
        let canonical = caller.with_own_rights(|| path.canonicalize())?;
        let path = canonical.with_context(|| format!("cannot find {}", path.display()))?;
        Ok(Self { caller: *caller, path, handle })
    }

    /// Makes the directory of a new session. It is a scratch directory like any other until the session [begins](Held::begin).
    ///
    /// # Errors
    /// Where there is one of that name; otherwise as of [`Scratch::create`].
    pub fn create(&self, name: &SessionName, kept: Option<&Path>) -> Result<Scratch> {
        let create = || Scratch::create_session(&self.path, &self.handle, name.as_str(), kept);
        let created = create();
        if !matches!(&created, Err(error) if is(error, Errno::EXIST)) {
            return created;
        }
        if self.remove_unfinished(name)? {
            return create();
        }
        bail!(
            "there is a session called {name} already: «nix-build-shell sessions enter {name}» enters it, and \
             «nix-build-shell sessions remove {name}» removes it"
        )
    }

    /// Removes what is called `name` if it was never finished, or half removed, and nobody is at it. Returns whether it was.
    fn remove_unfinished(&self, name: &SessionName) -> Result<bool> {
        match self.lock(name)? {
            Some(scratch) if description_in(scratch.handle())?.is_none() => scratch.remove().map(|_| true),
            Some(_) | None => Ok(false),
        }
    }

    /// The session `name`, for whom wants to be in it.
    ///
    /// # Errors
    /// Where there is none, or it is being made, ended or removed.
    pub fn enter(&self, name: &SessionName) -> Result<Session> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(scratch) = self.lock(name)? {
                return self.take(name, scratch).map(|idle| Session::Idle(Box::new(idle)));
            }
            if let Some(joinable) = self.find_running(name)? {
                return Ok(Session::Running(Box::new(joinable)));
            }
            if Instant::now() >= deadline {
                bail!("the session {name} is being made, ended or removed by another nix-build-shell; try again");
            }
            // Its sandbox starts or ends in this moment.
            thread::sleep(INTERVAL);
        }
    }

    fn take(&self, name: &SessionName, mut scratch: Scratch) -> Result<Idle> {
        let mut description = description_in(scratch.handle())?.with_context(|| no_such_session(name))?;
        if let Ok(Some(last)) = record::read::<Running>(scratch.handle(), RUNNING) {
            // It was not ended but killed.
            last.await_end().with_context(|| format!("the session {name} cannot be entered yet"))?;
            // Without it the session is as good.
            let _ = recovered::keep_history(&scratch, &description, &self.caller);
        }
        let layer_of = match description.is_overlay {
            true => description.kept_directory(),
            false => Ok(None),
        };
        let layer_of = layer_of.with_context(|| cannot_enter(name, &scratch))?;
        description.take_notes(&scratch);
        self.caller
            .with_own_rights(|| record::remove(scratch.handle(), RUNNING).and_then(|()| scratch.refresh()))??;
        if let Some(kept) = layer_of {
            scratch.lay_over_again(&kept, &self.caller).with_context(|| cannot_enter(name, &scratch))?;
        }
        Ok(Idle { scratch, name: name.clone(), description })
    }

    /// Nothing where its sandbox does not run yet, or not any more.
    fn find_running(&self, name: &SessionName) -> Result<Option<Joinable>> {
        let (handle, path) = self.directory(name)?;
        let cannot_join = || format!("the session {name} runs and cannot be joined");
        let running = record::read::<Running>(&handle, RUNNING).with_context(cannot_join)?;
        let description = description_in(&handle)?;
        let namespaces = running.as_ref().map(Running::namespaces).transpose().with_context(cannot_join)?.flatten();
        Ok(match (running, namespaces, description) {
            (Some(running), Some(namespaces), Some(description)) => {
                Some(Joinable { namespaces, running, build: path.join(BUILD), description })
            }
            _ => None,
        })
    }

    /// The directory of the session `name` as a scratch directory; nothing where somebody else has its lock.
    fn lock(&self, name: &SessionName) -> Result<Option<Scratch>> {
        let place = self.place(name)?;
        let scratch = Scratch::open_session(&place.path, &place.handle, &place.name)
            .map_err(|error| self.cannot_open(name, error, &place))?;
        scratch.map(|scratch| place.checked(scratch.handle(), &self.caller).map(|()| scratch)).transpose()
    }

    /// The directory of the session `name`, and where it is.
    fn directory(&self, name: &SessionName) -> Result<(OwnedFd, PathBuf)> {
        let place = self.place(name)?;
        let directory = openat(&place.handle, &place.name, DIRECTORY, Mode::empty())
            .map_err(|errno| self.cannot_open(name, errno.into(), &place))?;
        place.checked(&directory, &self.caller)?;
        Ok((directory, place.path.join(&place.name)))
    }

    /// Where the directory of the session `name` is: here, or where a link leads that tells where one was left that was killed.
    fn place(&self, name: &SessionName) -> Result<Place> {
        let linked = self.caller.with_own_rights(|| linked_session(&self.handle, name.as_str()))?;
        let Some((path, directory)) = linked.with_context(|| format!("the session {name} cannot be found"))? else {
            let handle = rustix::io::dup(&self.handle).context("cannot open the directory of sessions again")?;
            return Ok(Place { path: self.path.clone(), handle, name: name.as_str().into(), is_elsewhere: false });
        };
        let handle = self.caller.with_own_rights(|| openat(CWD, &path, DIRECTORY, Mode::empty()))?;
        let handle =
            handle.with_context(|| format!("the session {name} is in {}, which cannot be opened", path.display()))?;
        Ok(Place { path, handle, name: directory, is_elsewhere: true })
    }

    fn cannot_open(&self, name: &SessionName, error: Error, place: &Place) -> Error {
        if is(&error, Errno::NOENT) {
            return match place.is_elsewhere {
                true => anyhow!(
                    "what was done in the session {name} was in {}, and is gone from there; «nix-build-shell sessions remove \
                     {name}» clears it from the list",
                    place.path.join(&place.name).display()
                ),
                false => anyhow!(no_such_session(name)),
            };
        }
        error.context(format!("cannot open the session {name} in {}", place.path.join(&place.name).display()))
    }
}

/// Why a name that nobody has made is refused.
pub fn no_such_session(name: &SessionName) -> String {
    format!("there is no session called {name}; «nix-build-shell sessions» lists those that there are")
}

fn is(error: &Error, errno: Errno) -> bool {
    error.downcast_ref() == Some(&errno)
}

fn description_in(directory: &OwnedFd) -> Result<Option<Description>> {
    record::read(directory, DESCRIPTION)
}

/// Where the directory of a session is.
struct Place {
    /// The directory around it.
    path: PathBuf,
    handle: OwnedFd,
    /// What it is called in there.
    name: OsString,
    /// Whether that is not among the sessions.
    is_elsewhere: bool,
}

impl Place {
    /// Refuses what somebody else may have put there: it may be anywhere.
    fn checked(&self, directory: &OwnedFd, caller: &Caller) -> Result<()> {
        let status = fstat(directory).context("cannot look at the directory of the session")?;
        let is_open = Mode::from_raw_mode(status.st_mode).intersects(Mode::RWXG | Mode::RWXO);
        if self.is_elsewhere && (status.st_uid != caller.uid.as_raw() || is_open) {
            bail!("{} is not yours alone, and so none of your sessions", self.path.join(&self.name).display());
        }
        Ok(())
    }
}

fn cannot_enter(name: &SessionName, scratch: &Scratch) -> String {
    format!(
        "the session {name} cannot be entered any more; what was done in it is in {}",
        scratch.path().join(BUILD).display()
    )
}

impl Idle {
    /// The session's build, as its sandbox was made when it began.
    ///
    /// What there is to read is read from the session's own copy, never from the kept build directory: that may have gone, or its
    /// name may be another build's by now.
    ///
    /// # Errors
    /// Where the store has lost what the sandbox needs.
    pub fn open(&self, settings: &Settings) -> Result<FailedBuild> {
        let build = self.scratch.path().join(BUILD);
        let mut build = open(&build, &self.description.wishes(), settings)
            .with_context(|| cannot_enter(&self.name, &self.scratch))?;
        build.add_again(&self.description.additions);
        if let Some(kept) = &mut build.kept {
            kept.failed_phase.clone_from(&self.description.failed_phase);
            kept.is_of_failed_build = self.description.is_of_failed_build();
        }
        Ok(build)
    }

    /// What the next shell of it goes on with.
    pub fn earlier(&self) -> Earlier<'_> {
        let Description { outputs_made, phases_run, .. } = &self.description;
        Earlier { outputs_made: *outputs_made, phases_run: phases_run.as_ref() }
    }

    /// Gives `build`, to which nothing will be added any more, what is in the session's copy of the outputs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_over_outputs(&self, build: &mut FailedBuild, caller: &Caller) -> Result<()> {
        if let StoreView::Closure { inputs, partial_outputs } = &mut build.store_view {
            *partial_outputs = caller.with_own_rights(|| self.scratch.take_over_outputs(inputs))??;
        }
        Ok(())
    }

    /// A sandbox of it is about to run, and can be joined then.
    ///
    /// # Errors
    /// No room.
    pub fn begin(
        &self,
        caller: &Caller,
        build: &FailedBuild,
        sandbox: &Sandbox,
        settings: &Settings,
        shell: Option<&plan::Session>,
    ) -> Result<Held> {
        let mut description = self.description.clone();
        description.additions.clone_from(&build.additions);
        Held::write(caller, &self.name, description, &self.scratch, Running::of(sandbox, settings, shell))
    }
}

impl Joinable {
    /// The session's build, as its sandbox was made.
    ///
    /// # Errors
    /// As of [`FailedBuild::open`].
    pub fn open(&self) -> Result<FailedBuild> {
        let mut build = open(&self.build, &self.description.wishes(), self.settings())?;
        build.additions.clone_from(&self.description.additions);
        Ok(build)
    }

    /// The settings that the sandbox was made with.
    pub fn settings(&self) -> &Settings {
        &self.running.settings
    }

    /// The plan of another command in there, under what limits the sandbox.
    ///
    /// # Errors
    /// As of [`Plan::limited_as`].
    pub fn limit(&self, plan: Plan, caller: &Caller) -> Result<Plan> {
        plan.limited_as(&self.running.limits, self.running.cgroup.as_ref(), caller)
    }

    /// What the sandbox was made for, if that was an interactive session.
    pub fn shell(&self) -> Option<&plan::Session> {
        self.running.shell.as_ref()
    }

    /// Whether the whole sandbox ends now, or has ended.
    pub fn is_ending(&self) -> bool {
        self.running.is_ending().unwrap_or(false)
    }
}

fn open(path: &Path, wishes: &Wishes, settings: &Settings) -> Result<FailedBuild> {
    let mut build = FailedBuild::open(path, wishes, settings)?;
    // How it was found out was said when the session began.
    build.notes.clear();
    Ok(build)
}

impl Held {
    /// What is a scratch directory is to be the session `name`: its sandbox is about to run, and can be joined then. Once it does, the
    /// directory has to be told to [stay](Scratch::stay).
    ///
    /// # Errors
    /// No room.
    pub fn begin(
        caller: &Caller,
        name: &SessionName,
        description: Description,
        scratch: &Scratch,
        sandbox: &Sandbox,
        settings: &Settings,
        shell: Option<&plan::Session>,
    ) -> Result<Self> {
        Self::write(caller, name, description, scratch, Running::of(sandbox, settings, shell))
    }

    fn write(
        caller: &Caller,
        name: &SessionName,
        mut description: Description,
        scratch: &Scratch,
        running: Result<Running>,
    ) -> Result<Self> {
        let cannot_keep = || format!("the session {name} cannot be kept in {}", scratch.path().display());
        description.last_used = description::now();
        let running = running.with_context(cannot_keep)?;
        record::write(scratch.handle(), RUNNING, &running, caller).with_context(cannot_keep)?;
        record::write(scratch.handle(), DESCRIPTION, &description, caller).with_context(cannot_keep)?;
        Ok(Self { caller: *caller, name: name.clone(), description })
    }

    /// Notes which phase failed last, or that none did, and which were run.
    pub fn note_phases(&mut self, failed_phase: Option<FailedPhase>, phases_run: Option<PhasesRun>) {
        self.description.failed_phase = failed_phase;
        self.description.phases_run = phases_run;
        self.description.outputs_made = Some(SystemTime::now());
    }

    /// Notes that the sandbox has ended, all of it, and lets go of the session. Returns what to tell the user.
    ///
    /// # Errors
    /// The kernel's; the session is there all the same.
    pub fn end(mut self, scratch: Scratch) -> Result<String> {
        self.caller.with_own_rights(|| record::remove(scratch.handle(), RUNNING))??;
        self.description.last_used = description::now();
        record::write(scratch.handle(), DESCRIPTION, &self.description, &self.caller)?;
        Ok(format!("kept as the session {0}: «nix-build-shell sessions enter {0}» enters it again", self.name))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
