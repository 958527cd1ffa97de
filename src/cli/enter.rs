//! `nix-build-shell BUILD_DIR [COMMAND [ARG]...]`: runs a command, or an interactive shell, in the sandbox of a failed build.

use std::cell::{OnceCell, RefCell};
use std::ffi::OsString;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::ahead::Ahead;
use super::build;
use super::build_dir::Filled;
use super::header::{Changes, show_header};
use super::interactive::{Failure, Interactive, is_at_terminal, read_log};
use super::limit_options::tell_usage;
use super::patch_options::{PatchOptions, means, save_and_remove};
use super::sandbox_options::{SANDBOX, SandboxOptions};
use super::say::{print, printable, say, say_error};
use super::sessions::recover;
use super::which_build::{Target, Wanted};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::failed_phase::FailedPhase;
use crate::kept_session::{self, Description, Held, SessionName, Sessions};
use crate::nix::Settings;
use crate::plan::{BUILD, HostDirectories, Plan};
use crate::sandbox::{self, Groundwork};
use crate::scratch::{Earlier, Made, Scratch};
use crate::session::{self, Signals, Terminal};
use crate::session_patch::Outside;

/// Which build to enter, and what to run there.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Its kept directory, or its name [default: the newest]
    #[arg(value_name = "BUILD_DIR", hide_short_help = true)]
    pub build_dir: Option<PathBuf>,

    /// What to run in the sandbox [default: a shell]
    #[arg(value_name = "COMMAND [ARG]", hide_short_help = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,

    /// Run this line with the sandbox's shell
    #[arg(short = 'c', long = "command", value_name = "LINE", conflicts_with = "command")]
    pub line: Option<OsString>,

    /// What was built of default.nix, or of BUILD_DIR
    #[arg(short = 'A', long = "attr", value_name = "ATTRIBUTE")]
    pub attribute: Option<OsString>,

    /// Enter the build as it was before it began
    #[arg(long, hide_short_help = true)]
    pub fresh: bool,

    /// Options of the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxOptions,

    /// The patch of what was changed in the sandbox.
    #[command(flatten)]
    pub patch: PatchOptions,

    /// Keep it all, for «sessions enter NAME»
    #[arg(long, value_name = "NAME", conflicts_with = "save_patch")]
    pub keep_session: Option<SessionName>,

    /// Print what would be done, and do nothing
    #[arg(long, hide_short_help = true, help_heading = SANDBOX)]
    pub dry_run: bool,
}

/// Finds the build, or offers to make it where there is none yet, and enters it. Returns the command's exit status, or 128+n when the
/// signal n ended it.
///
/// # Errors
/// One sentence where there is nothing to enter, or no sandbox could be made.
pub(super) fn run(options: &Options, ahead: Option<Ahead>) -> Result<u8> {
    let wanted = Wanted {
        argument: options.build_dir.as_deref(),
        attribute: options.attribute.as_deref(),
        store_root: options.sandbox.store_root.as_deref(),
        fresh: options.fresh,
    };
    match wanted.find()? {
        Target::Build(named) => {
            let mut options = options.clone();
            options.sandbox.derivation = options.sandbox.derivation.or(named.derivation);
            enter(&options, &named.path, ahead)
        }
        Target::Missing(missing) => {
            drop(ahead);
            build::offer(options, &missing)
        }
    }
}

/// Makes the sandbox of the build that left `build_dir`, or of a derivation, on what was begun ahead, runs the command in it, and removes
/// it. Returns the command's exit status, or 128+n when the signal n ended it.
///
/// # Errors
/// One sentence where no sandbox could be made.
pub(super) fn enter(options: &Options, build_dir: &Path, ahead: Option<Ahead>) -> Result<u8> {
    let signals = Signals::block()?;
    let caller = Caller::current();
    // The kernel makes the namespaces while the rest is found out.
    let begin = || ahead.unwrap_or_else(|| Groundwork::begin(options.sandbox.namespaces(), &caller));
    let groundwork = options.makes_ordinary_sandbox().then(begin);
    let settings = Settings::in_force();
    let mut build = FailedBuild::open(build_dir, &options.sandbox.wishes(), &settings)?;
    build.add_programs(&options.sandbox.with)?;
    let mut log = None;
    let mut interactive = None;
    let command = options.command_in(&build);
    if command.is_empty() && is_at_terminal() {
        log = read_log(&build);
        let failure = Failure::told_by(log.as_ref());
        let mut prepared = Interactive::prepare(&mut build, options.sandbox.shell.as_deref(), &failure)?;
        prepared.note_outputs(&build, build.store.physical_directory());
        interactive = Some(prepared);
    } else {
        options.sandbox.refuse_shell()?;
    }
    let session = interactive.as_ref().map(|interactive| interactive.session.clone());
    let scratch_parent = Scratch::default_parent();
    let terminal = Terminal::of_caller();
    let plan_in = |directories: &HostDirectories| {
        let plan = match &session {
            Some(session) => Plan::for_session(&build, &settings, &caller, directories, session),
            None => Plan::new(&build, &settings, &caller, directories, &command),
        }?;
        let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), options.sandbox.as_pid_1);
        let plan = if command.is_empty() { plan.showing_root() } else { plan };
        plan.limited(&options.sandbox.limits.limits(), &caller)
    };
    if options.dry_run {
        let mut directories = match &options.keep_session {
            Some(name) => kept_session::example_directories(&caller, name)?,
            None => Scratch::example_directories(&scratch_parent),
        };
        let (mode, kept) = (options.sandbox.build_dir_mode, build.kept.as_ref());
        let (made, mount) = Scratch::expected_build(mode, kept, &caller)?;
        if options.keep_session.is_none() {
            directories.build = mount;
        }
        let plan = plan_in(&directories)?;
        print_dry_run(&build, made, &plan, &directories.scratch).context("cannot print the plan")?;
        return Ok(0);
    }
    if interactive.is_some() {
        // Before what was typed in them is read.
        recover(Scratch::abandoned_sessions(&scratch_parent), &caller);
    }
    let kept_directory = build.kept.as_ref().map(|kept| kept.directory.as_path());
    let mut scratch = match &options.keep_session {
        Some(name) => Sessions::make(&caller)?.create(name, kept_directory)?,
        None => Scratch::create(&scratch_parent, kept_directory)?,
    };
    if let Some(interactive) = &mut interactive {
        interactive.fill(&scratch, Earlier::default(), &build, &caller)?;
    }
    // While the build directory is copied, the sandbox is made around it: what is mounted has to be there, and be the caller's own.
    let is_launched_ahead = caller.is_ordinary_user() && interactive.is_none() && !build.has_partial_outputs();
    let groundwork = RefCell::new(groundwork);
    // As what else is left to the kernel at the end.
    let plan_ahead = ManuallyDrop::new(OnceCell::new());
    let launch = RefCell::new(None);
    let launch_ahead = |directories: Option<&HostDirectories>| {
        let Some(directories) = directories else {
            launch.take();
            return Ok(());
        };
        if let Some(Ok(begun)) = groundwork.borrow_mut().take_if(|begun| begun.is_ok()) {
            let plan = plan_in(directories)?.awaiting_build();
            launch.replace(begun.launch(plan_ahead.get_or_init(|| plan))?);
        }
        Ok(())
    };
    let check_interrupt = || signals.check_interrupt();
    let mut filling = options.sandbox.filling(&build, &check_interrupt);
    filling.meanwhile = is_launched_ahead.then_some(&launch_ahead);
    let mut filled = Filled::fill(&mut scratch, &build, &caller, &filling)?;
    let mut patch = match &options.keep_session {
        Some(_) => None,
        None => options.patch.begin(&build, &caller, &scratch, command.is_empty())?,
    };
    let (groundwork, launch) = (groundwork.take(), launch.take());
    let new_plan;
    let plan = match &launch {
        Some(launch) => launch.plan(),
        None => {
            new_plan = ManuallyDrop::new(plan_in(scratch.directories())?);
            &new_plan
        }
    };
    options.sandbox.tell(&build, &filled, plan);
    if interactive.is_some() {
        let changes = match &options.keep_session {
            Some(name) => Changes::KeptAs(name),
            None if scratch.is_in_place() => Changes::Itself,
            None => Changes::InCopy,
        };
        show_header(&build, log.as_ref(), changes);
    }
    let describe = |scratch: &Scratch| {
        let log = log.as_ref().map(|log| &log.log);
        Description::of(&build, FailedPhase::of(&build, log, build.store.physical_directory()), scratch)
    };
    // Should we be killed, what somebody has typed, or wants a patch of, is not to be taken for a command's leavings.
    let is_typed_into = interactive.is_some() || patch.is_some();
    let note = |scratch: &Scratch| match is_typed_into && options.keep_session.is_none() && !scratch.is_in_place() {
        true => kept_session::note(scratch, &describe(scratch), &caller),
        false => Ok(()),
    };
    note(&scratch)?;
    let (mut sandbox, held) = match (&options.keep_session, groundwork) {
        (Some(name), _) => {
            let (sandbox, held) = sandbox::start_joinable(plan, |sandbox| {
                Held::begin(&caller, name, describe(&scratch), &scratch, sandbox, &settings, session.as_ref())
            })?;
            scratch.stay();
            (sandbox, Some(held))
        }
        (None, groundwork) => {
            let started = match (launch, groundwork) {
                (Some(launch), _) => launch.go(),
                (None, Some(groundwork)) => groundwork.and_then(|groundwork| groundwork.build(plan)),
                (None, None) => sandbox::start(plan),
            };
            match started {
                Ok(sandbox) => (sandbox, None),
                Err(error) => {
                    filled.fall_back(error, &mut scratch, &build, &caller, &filling)?;
                    if let Some(patch) = &mut patch {
                        patch.look_again(&scratch)?;
                    }
                    note(&scratch)?;
                    (sandbox::start(&plan_in(scratch.directories())?)?, None)
                }
            }
        }
    };
    let outside = Outside::of(&mut sandbox, plan);
    let limits = &options.sandbox.limits;
    let ending = session::wait(&mut sandbox, &signals, terminal, limits.time());
    let status = ending.map(|ending| limits.status(ending));
    tell_usage(&sandbox);
    let sandbox = if status.is_err() || held.is_some() {
        // Nothing is to change any more what is saved.
        drop(sandbox);
        None
    } else {
        Some(sandbox)
    };
    if let Some(interactive) = &interactive {
        interactive.keep_history(&scratch, &caller);
    }
    let lost = outside.and_then(|outside| outside.told(&build, &scratch, held.is_some()));
    match held {
        Some(held) => held.end(scratch).map_or_else(|error| say_error(&error), say),
        // While the kernel takes the empty sandbox down.
        None => save_and_remove(patch, scratch, &means(&settings, &signals, &limits.limits())),
    }
    lost.iter().for_each(say);
    if let Some(sandbox) = sandbox {
        sandbox.end_with_process();
    }
    mem::forget((build, settings));
    status
}

impl Options {
    /// Whether there will be a sandbox that nobody else is to join.
    pub(super) fn makes_ordinary_sandbox(&self) -> bool {
        !self.dry_run && self.keep_session.is_none()
    }

    /// The command, which may be a line for the build's shell.
    fn command_in(&self, build: &FailedBuild) -> Vec<OsString> {
        match &self.line {
            Some(line) => {
                let shell = [build.shell.path.clone().into()].into_iter().chain(build.shell.applet.clone());
                shell.chain(["-c".into(), line.clone()]).collect()
            }
            None => self.command.clone(),
        }
    }
}

/// Prints what would be done: what the build directory is made of, then the plan.
fn print_dry_run(build: &FailedBuild, made: Made, plan: &Plan, scratch: &Path) -> io::Result<()> {
    let copy = scratch.join(BUILD);
    let copy = copy.display();
    let text = match &build.kept {
        Some(kept) => {
            let kept = kept.directory.display();
            match made {
                Made::Copy => format!("copy {kept} to {copy}\n{plan}"),
                Made::SharedCopy => format!("copy {kept} to {copy}, with shared blocks\n{plan}"),
                Made::Overlay { .. } => format!("lay the empty directory {copy} over {kept}\n{plan}"),
                Made::InPlace => format!("change {kept} itself\n{plan}"),
            }
        }
        None => format!("make the empty directory {copy}\n{plan}"),
    };
    let lines: String = text.lines().map(|line| printable(line) + "\n").collect();
    print(&lines)
}
