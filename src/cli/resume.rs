//! `nix-build-shell resume BUILD_DIR`: goes on with a failed build where it stopped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::interactive::{Interactive, is_at_terminal};
use super::limit_options::tell_usage;
use super::sandbox_options::SandboxOptions;
use super::say::{say, say_error};
use crate::build_progress::{BuildProgress, PhaseState};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, Preparation, StoreView, Wishes};
use crate::failed_log::FailedLog;
use crate::made_outputs::MadeOutputs;
use crate::nix::Settings;
use crate::plan::{BUILD, Plan};
use crate::sandbox;
use crate::scratch::{CopySummary, Scratch};
use crate::session::{self, Signals, Terminal};
use crate::shell_script::{self, Phases};
use crate::start_of_phase::{directory_of, outputs_at_start};

/// Which build, and what of it.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory that Nix named after «keeping build directory»
    #[arg(value_name = "BUILD_DIR")]
    pub build_dir: PathBuf,

    /// Begin with this phase, and not with the one that failed
    #[arg(long, value_name = "PHASE", value_parser = phase_name)]
    pub from: Option<String>,

    /// Run this phase and no other
    #[arg(long, value_name = "PHASE", value_parser = phase_name, conflicts_with = "from")]
    pub only: Option<String>,

    /// Open a shell where a phase fails
    #[arg(long)]
    pub shell_on_failure: bool,

    /// Options of the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxOptions,
}

/// A phase is a variable or a function of bash.
fn phase_name(text: &str) -> Result<String, String> {
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if is_name { Ok(text.to_owned()) } else { Err("a phase has letters, digits and underscores".into()) }
}

/// Statuses after which there is nothing to look at: its time was over, there was no such phase, or somebody has sent SIGHUP, SIGINT or SIGTERM.
const ENDED_BY_US: [u8; 5] = [124, 125, 128 + 1, 128 + 2, 128 + 15];

/// What is to be run, and what it has to find.
struct Task {
    /// The whole build where this is nothing.
    phases: Option<Phases>,
    /// It begins in an empty build directory, whatever there is.
    begins_anew: bool,
    /// It comes after what failed, and needs what that has made.
    comes_after_failure: bool,
}

impl Task {
    const WHOLE_BUILD: Self = Self { phases: None, begins_anew: true, comes_after_failure: false };
}

/// Runs the phase that failed and all after it in the sandbox, without a terminal, as the build would have. Returns the build's exit
/// status; 1 where every phase succeeds and an output is missing all the same.
///
/// # Errors
/// One sentence where it is not known what to run, or no sandbox could be made.
pub fn run(options: &Options) -> Result<u8> {
    let signals = Signals::block()?;
    let caller = Caller::current();
    let settings = Settings::in_force();
    let wishes = options.sandbox.wishes();
    if !options.shell_on_failure {
        options.sandbox.refuse_shell()?;
    }
    let mut build = FailedBuild::open(&options.build_dir, &wishes, &settings)?;
    let task = task(options, &build)?;
    begin(&mut build, &task, &wishes, &settings)?;
    build.add_programs(&options.sandbox.with)?;
    let mut scratch =
        Scratch::create(&Scratch::default_parent(), build.kept.as_ref().map(|kept| kept.directory.as_path()))?;
    scratch.keep_outputs();
    let unreadable = options.sandbox.unreadable(&build);
    let copied = scratch.fill(&build, &caller, unreadable, &|| signals.check_interrupt())?;
    let command = command(&build, &task)?;
    let plan = Plan::new(&build, &settings, &caller, scratch.directories(), &command)?;
    let plan = plan.executed(None, options.sandbox.as_pid_1).limited(&options.sandbox.limits.limits(), &caller)?;
    options.sandbox.tell(&build, &copied, &plan);
    // It reads nothing, so it wants no terminal of its own.
    let status = carry_out(&plan, &signals, None, &options.sandbox)?;
    let status = match status {
        0 => tell_success(&build, &task, &scratch),
        failure if options.shell_on_failure && !ENDED_BY_US.contains(&failure) => {
            say(format_args!("the build failed with status {failure}; here is a shell where it did"));
            open_shell(&build, &scratch, options, &settings, &caller, &signals)?;
            failure
        }
        failure => failure,
    };
    scratch.remove().unwrap_or_else(|error| say_error(&error));
    Ok(status)
}

/// What to run: what was asked for, or what failed and all after it.
fn task(options: &Options, build: &FailedBuild) -> Result<Task> {
    let asked_for = options.only.as_ref().or(options.from.as_ref());
    let log = match FailedLog::of(build) {
        Err(error) if asked_for.is_some() => {
            say_error(&error);
            None
        }
        log => log?,
    };
    let progress = match BuildProgress::of(build, log.as_ref()) {
        // There is one thing to run, if nothing else is asked for.
        Err(_) if asked_for.is_none() => return Ok(Task::WHOLE_BUILD),
        progress => progress?,
    };
    if asked_for.is_none() {
        progress.notes.iter().for_each(say);
    }
    let phase = match (asked_for, progress.failed_phase(), &build.kept) {
        (Some(phase), ..) => phase,
        (None, Some(phase), Some(_)) => phase,
        (None, _, None) => return Ok(Task::WHOLE_BUILD),
        (None, None, Some(_)) => bail!("it is not known where the build stopped; --from PHASE says where to begin"),
    };
    let place = |wanted: &str| progress.phases.iter().position(|(phase, _)| phase == wanted);
    // Nothing can be unpacked twice into one directory.
    let begins_anew =
        place(phase).is_some_and(|at| at <= place("unpackPhase").unwrap_or(0)) && build.derivation.is_some();
    if begins_anew && options.only.is_none() {
        return Ok(Task::WHOLE_BUILD);
    }
    let state = place(phase).and_then(|at| progress.phases.get(at)).map(|(_, state)| *state);
    if phase == "patchPhase" && state == Some(PhaseState::Failed) {
        say("patchPhase meets what it has patched already; --from unpackPhase begins with untouched sources");
    }
    let directory = if begins_anew {
        build.build_directory.clone()
    } else {
        directory_of(build, state == Some(PhaseState::Done), log.as_ref().map(|log| &log.log))
    };
    let phases = if options.only.is_some() { Phases::Only } else { Phases::From };
    let phases = phases(phase.to_owned(), directory);
    Ok(Task { phases: Some(phases), begins_anew, comes_after_failure: state == Some(PhaseState::NotReached) })
}

/// Has the sandbox as it was when the task's first phase began, as far as that is known.
fn begin(build: &mut FailedBuild, task: &Task, wishes: &Wishes, settings: &Settings) -> Result<()> {
    if task.begins_anew && build.kept.is_some() {
        let derivation = build.derivation.as_ref().context("without its derivation a build cannot begin anew")?;
        say(format_args!("{} begins anew, in an empty directory", derivation.name().escape_ascii()));
        let path = derivation.path.clone();
        let wishes = Wishes { derivation: None, like: Some(build.kind), ..wishes.clone() };
        let notes = std::mem::take(&mut build.notes);
        *build = FailedBuild::open(&path, &wishes, settings)?;
        build.notes.retain(|note| !notes.contains(note));
        build.notes.splice(..0, notes);
    }
    if task.phases.is_none() && build.environment.preparation == Preparation::Stdenv {
        // The builder sees to it.
        build.environment.preparation = Preparation::Nothing;
    }
    if build.kept.is_some() && build.environment.preparation == Preparation::Stdenv {
        let caution = "what earlier phases exported is in no env-vars that can be read: the variables are those at the start of the build";
        build.notes.push(caution.into());
    }
    if let StoreView::Closure { partial_outputs, .. } = &mut build.store_view
        && let Some(kept) = build.kept.as_ref().filter(|_| !task.comes_after_failure)
    {
        outputs_at_start(partial_outputs, kept, build.store.physical_directory());
    }
    Ok(())
}

fn command(build: &FailedBuild, task: &Task) -> Result<Vec<OsString>> {
    match (&task.phases, &build.derivation) {
        (Some(phases), _) => Ok(shell_script::resume(&build.shell, phases)),
        (None, Some(derivation)) => {
            let arguments = &build.environment.builder_arguments;
            Ok(shell_script::whole_build(&build.shell, &derivation.builder, arguments))
        }
        (None, None) => bail!("without its derivation a build cannot begin anew"),
    }
}

/// Runs what is planned, which has `terminal` in place of the caller's if there is one.
fn carry_out(plan: &Plan, signals: &Signals, terminal: Option<Terminal>, options: &SandboxOptions) -> Result<u8> {
    let mut sandbox = sandbox::start(plan)?;
    let ending = session::wait(&mut sandbox, signals, terminal, options.limits.time())?;
    tell_usage(&sandbox);
    Ok(options.limits.status(ending))
}

/// Says that all succeeded, and what there is now. Returns the status that says the same.
fn tell_success(build: &FailedBuild, task: &Task, scratch: &Scratch) -> u8 {
    if let Some(Phases::Only(phase, _)) = &task.phases {
        say(format_args!("{phase} succeeds"));
        return 0;
    }
    let Some(derivation) = build.derivation.as_ref().filter(|_| build.store_view != StoreView::Whole) else {
        say("the build succeeds");
        return 0;
    };
    let outputs = MadeOutputs::of(derivation, build.kept.as_ref(), &build.store, &scratch.outputs());
    match outputs.missing().next() {
        Some(_) => {
            let missing: Vec<_> = outputs.missing().collect();
            say(format_args!(
                "every phase succeeds, but Nix would miss what they did not make: {}",
                missing.join(", ")
            ));
            outputs.lines().iter().for_each(say);
            1
        }
        None => {
            say("the build succeeds; it made");
            outputs.lines().iter().for_each(say);
            0
        }
    }
}

/// Opens a shell on what the failed phase has left, as `nix-build-shell BUILD_DIR` does on a kept directory: in another sandbox around
/// the same copy and the same outputs.
fn open_shell(
    build: &FailedBuild,
    scratch: &Scratch,
    options: &Options,
    settings: &Settings,
    caller: &Caller,
    signals: &Signals,
) -> Result<()> {
    let copy = scratch.directories().scratch.join(BUILD);
    let derivation = build.derivation.as_ref().map(|derivation| derivation.path.clone());
    let wishes = Wishes { derivation, like: Some(build.kind), ..options.sandbox.wishes() };
    let mut left = FailedBuild::open(&copy, &wishes, settings)?;
    left.notes.clear();
    if let StoreView::Closure { inputs, partial_outputs } = &mut left.store_view {
        *partial_outputs = scratch.take_over_outputs(inputs)?;
    }
    left.add_programs(&options.sandbox.with)?;
    let directories = scratch.directories();
    if !is_at_terminal() {
        let no_command: [&Path; 0] = [];
        let plan = Plan::new(&left, settings, caller, directories, &no_command)?;
        let (terminal, plan) = on_terminal(plan, options, caller)?;
        options.sandbox.tell(&left, &CopySummary::default(), &plan);
        return carry_out(&plan, signals, terminal, &options.sandbox).map(drop);
    }
    // The log is not of what has failed now.
    let mut interactive = Interactive::prepare(&mut left, options.sandbox.shell.as_deref(), None)?;
    interactive.fill(scratch, &left, caller)?;
    let plan = Plan::for_session(&left, settings, caller, directories, &interactive.session)?;
    let (terminal, plan) = on_terminal(plan, options, caller)?;
    options.sandbox.tell(&left, &CopySummary::default(), &plan);
    carry_out(&plan, signals, terminal, &options.sandbox)?;
    interactive.keep_history(scratch, caller);
    Ok(())
}

/// The caller's terminal, if there is one, and the plan for a command that has it.
fn on_terminal(plan: Plan, options: &Options, caller: &Caller) -> Result<(Option<Terminal>, Plan)> {
    let terminal = Terminal::of_caller();
    let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), options.sandbox.as_pid_1);
    Ok((terminal, plan.limited(&options.sandbox.limits.limits(), caller)?))
}
