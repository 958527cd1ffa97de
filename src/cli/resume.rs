//! `nix-build-shell resume BUILD_DIR`: goes on with a failed build where it stopped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::build_dir::Filled;
use super::interactive::{Failure, Interactive, is_at_terminal};
use super::limit_options::tell_usage;
use super::patch_options::{PatchOptions, means, save_and_remove};
use super::sandbox_options::SandboxOptions;
use super::say::{say, say_error};
use super::which_build::Wanted;
use crate::build_progress::{BuildProgress, PhaseState};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, Preparation, StoreView, Wishes};
use crate::failed_log::FailedLog;
use crate::failed_phase::FailedPhase;
use crate::kept_session::{self, Description, Held, SessionName, Sessions};
use crate::made_outputs::MadeOutputs;
use crate::nix::Settings;
use crate::phases::Work;
use crate::plan::{self, Plan};
use crate::sandbox;
use crate::scratch::{Earlier, PHASE_NOTE, PhasesRun, Scratch};
use crate::session::{self, Signals, Terminal};
use crate::session_patch::Outside;
use crate::shell_script::{self, Phases};
use crate::start_of_phase::{directory_of, outputs_of_last_phase};

/// Which build, and what of it.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory that Nix named after «keeping build directory», or what was built [default: the newest kept directory]
    #[arg(value_name = "BUILD_DIR")]
    pub build_dir: Option<PathBuf>,

    /// Begin with this phase, and not with the one that failed
    #[arg(value_name = "PHASE")]
    pub phase: Option<String>,

    /// The same
    #[arg(long, value_name = "PHASE", value_parser = phase_name, conflicts_with = "phase")]
    pub from: Option<String>,

    /// Run this phase and no other
    #[arg(long, value_name = "PHASE", value_parser = phase_name, conflicts_with_all = ["from", "phase"])]
    pub only: Option<String>,

    /// Open a shell where a phase fails
    #[arg(long)]
    pub shell_on_failure: bool,

    /// Keep what is done in there, as a session that «nix-build-shell sessions enter NAME» enters
    #[arg(long, value_name = "NAME", conflicts_with = "save_patch")]
    pub keep_session: Option<SessionName>,

    /// The patch of what was changed in the shell.
    #[command(flatten)]
    pub patch: PatchOptions,

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

impl Options {
    /// Refuses a phase that is none by its name, and one in the place of the build.
    ///
    /// # Errors
    /// One sentence.
    fn check_order(&self) -> Result<()> {
        let (Some(build_dir), Some(phase)) = (&self.build_dir, &self.phase) else { return Ok(()) };
        let is_path = phase.contains('/') || Path::new(phase).symlink_metadata().is_ok();
        let is_phase = |text: &str| phase_name(text).is_ok() && (text.ends_with("Phase") || is_path);
        if let Some(wanted) = build_dir.to_str().filter(|text| is_phase(text))
            && !phase.ends_with("Phase")
            && build_dir.symlink_metadata().is_err()
        {
            bail!("the build comes first, and then the phase: «nix-build-shell resume {phase} {wanted}»");
        }
        phase_name(phase).map(drop).map_err(|reason| anyhow!("«{phase}» is no phase: {reason}"))
    }
}

/// The script with which stdenv builds where a package has none of its own: it runs the phases, and nothing else.
const USUAL_BUILDER: &[u8] = b"-default-builder.sh";
/// Statuses after which there is nothing to look at: its time was over, there was no such phase, or somebody has sent SIGHUP or SIGTERM.
const ENDED_BY_US: [u8; 4] = [124, 125, 128 + 1, 128 + 15];
/// The status after SIGINT. Who types Ctrl-C may want to look at a phase that hangs; who sends the signal wants an end.
const INTERRUPTED: u8 = 128 + 2;

/// What is to be run, and what it has to find.
struct Task {
    /// The whole build where this is nothing.
    phases: Option<Phases>,
    /// It begins in an empty build directory, whatever there is.
    begins_anew: bool,
    /// The phase that failed, if it comes after that and so needs what that has made.
    passed_over: Option<String>,
    /// The directory that `unpackPhase` has made, as the build's log tells it.
    source_root: Option<String>,
}

/// Runs the phase that failed and all after it in the sandbox, without a terminal, as the build would have. Returns the build's exit
/// status; 1 where every phase succeeds and an output is missing all the same.
///
/// # Errors
/// One sentence where it is not known what to run, or no sandbox could be made.
pub fn run(options: &Options) -> Result<u8> {
    options.check_order()?;
    let wanted = Wanted {
        argument: options.build_dir.as_deref(),
        store_root: options.sandbox.store_root.as_deref(),
        ..Wanted::default()
    };
    let named = wanted.existing()?;
    let signals = Signals::block()?;
    let caller = Caller::current();
    let settings = Settings::in_force();
    let mut wishes = options.sandbox.wishes();
    wishes.derivation = wishes.derivation.or(named.derivation);
    if !options.shell_on_failure {
        options.sandbox.refuse_shell()?;
    }
    let mut build = FailedBuild::open(&named.path, &wishes, &settings)?;
    let mut task = task(options, &build)?;
    begin_anew(&mut build, &task, &wishes, &settings)?;
    if options.shell_on_failure || options.keep_session.is_some() {
        task.run_phases_of_whole(&build);
    }
    prepare(&mut build, &task);
    build.add_programs(&options.sandbox.with)?;
    let kept_directory = build.kept.as_ref().map(|kept| kept.directory.as_path());
    let mut scratch = match &options.keep_session {
        Some(name) => Sessions::make(&caller)?.create(name, kept_directory)?,
        None => Scratch::create(&Scratch::default_parent(), kept_directory)?,
    };
    scratch.keep_outputs();
    let check_interrupt = || signals.check_interrupt();
    let filling = options.sandbox.filling(&build, &check_interrupt);
    let mut filled = Filled::fill(&mut scratch, &build, &caller, &filling)?;
    let mut patch = match &options.keep_session {
        Some(_) => None,
        None => options.patch.begin(&build, &caller, &scratch, options.shell_on_failure)?,
    };
    let is_noted = options.shell_on_failure || options.keep_session.is_some();
    let note = is_noted.then(|| build.build_directory.join(PHASE_NOTE));
    let command = command(&build, &task, note.as_deref())?;
    let plan_in = |scratch: &Scratch| {
        let plan = Plan::new(&build, &settings, &caller, scratch.directories(), &command)?;
        plan.executed(None, options.sandbox.as_pid_1).limited(&options.sandbox.limits.limits(), &caller)
    };
    let plan = plan_in(&scratch)?;
    options.sandbox.tell(&build, &filled, &plan);
    let failed_phase = FailedPhase::of(&build, None, build.store.physical_directory());
    let mut run = Run {
        options,
        build: &build,
        failed_phase,
        settings: &settings,
        caller: &caller,
        signals: &signals,
        held: None,
    };
    // It reads nothing, so it wants no terminal of its own.
    let status = match run.carry_out(&plan, None, &mut scratch, None) {
        Err(error) => {
            filled.fall_back(error, &mut scratch, &build, &caller, &filling)?;
            if let Some(patch) = &mut patch {
                patch.look_again(&scratch)?;
            }
            run.carry_out(&plan_in(&scratch)?, None, &mut scratch, None)?
        }
        status => status?,
    };
    let phases_run = scratch.take_phase_note(build.kept.as_ref());
    let failed_phase = phases_run.as_ref().map(|phases| phases.last().to_owned());
    let mut was_a_shell_open = false;
    run.note_phases(status, &task, phases_run.as_ref());
    let status = match status {
        0 => Ok(tell_success(&build, &task, &scratch)),
        status
            if options.shell_on_failure
                && !ENDED_BY_US.contains(&status)
                && (status != INTERRUPTED || is_at_terminal()) =>
        {
            let what = failed_phase.as_deref().unwrap_or("the build");
            say(format_args!("{what} failed with status {status}; here is a shell where it did"));
            was_a_shell_open = true;
            let failure = Failure { phase: failed_phase, source_root: task.source_root };
            let opened = run.open_shell(&mut scratch, &failure, phases_run.as_ref());
            opened.map(|()| run.status_after_shell(&scratch).unwrap_or(status))
        }
        failure => Ok(failure),
    };
    match run.held {
        Some(held) => held.end(scratch).map_or_else(|error| say_error(&error), say),
        // Without a shell nobody has typed anything, and what the phases made is no patch unless it is asked for.
        None => {
            let patch = patch.filter(|_| was_a_shell_open || options.patch.save_patch.is_some());
            save_and_remove(patch, scratch, &means(&settings, &signals, &options.sandbox.limits.limits()));
        }
    }
    status
}

/// What to run: what was asked for, or what failed and all after it.
fn task(options: &Options, build: &FailedBuild) -> Result<Task> {
    let asked_for = options.only.as_ref().or(options.from.as_ref()).or(options.phase.as_ref());
    let log = match FailedLog::of(build) {
        Err(error) if asked_for.is_some() => {
            say_error(&error);
            None
        }
        log => log?,
    };
    let source_root = log.as_ref().and_then(|log| log.log.source_root()).map(String::from);
    let whole_build = |source_root| Task { phases: None, begins_anew: true, passed_over: None, source_root };
    let progress = match BuildProgress::of(build, log.as_ref()) {
        // There is one thing to run, if nothing else is asked for.
        Err(_) if asked_for.is_none() => return Ok(whole_build(source_root)),
        progress => progress?,
    };
    if asked_for.is_none() {
        progress.notes.iter().for_each(say);
    }
    let phase = match (asked_for, progress.failed_phase(), &build.kept) {
        (Some(phase), ..) => phase,
        (None, Some(phase), Some(_)) => phase,
        (None, _, None) => return Ok(whole_build(source_root)),
        (None, None, Some(_)) => bail!("it is not known where the build stopped; --from PHASE says where to begin"),
    };
    let place = |wanted: &str| progress.phases.iter().position(|(phase, _)| phase == wanted);
    // Nothing can be unpacked twice into one directory.
    let begins_anew =
        place(phase).is_some_and(|at| at <= place("unpackPhase").unwrap_or(0)) && build.derivation.is_some();
    if begins_anew && options.only.is_none() {
        return Ok(whole_build(source_root));
    }
    let state = place(phase).and_then(|at| progress.phases.get(at)).map(|(_, state)| *state);
    if phase == "patchPhase" && state == Some(PhaseState::Failed) {
        say("patchPhase meets what it has patched already; --from unpackPhase begins with untouched sources");
    }
    let passed_over = progress.failed_phase().filter(|_| state == Some(PhaseState::NotReached));
    let directory = if begins_anew {
        build.build_directory.clone()
    } else {
        // The phase that unpacks the sources does not begin in them, as those after it do.
        let is_unpacked = passed_over == Some("unpackPhase");
        let is_in_sources = is_unpacked || state == Some(PhaseState::Done);
        directory_of(build, is_in_sources, log.as_ref().map(|log| &log.log))
    };
    let phases = Phases {
        first: phase.to_owned(),
        is_only_one: options.only.is_some(),
        directory,
        source_root: source_root.clone(),
    };
    Ok(Task { phases: Some(phases), begins_anew, passed_over: passed_over.map(String::from), source_root })
}

impl Task {
    /// Has a whole build run phase by phase, where that is all that the builder does: then it is known which one fails.
    fn run_phases_of_whole(&mut self, build: &FailedBuild) {
        let is_usual = |builder: &[u8]| builder.ends_with(USUAL_BUILDER);
        let builder = build.derivation.as_ref().and_then(|derivation| derivation.arguments.last());
        if self.phases.is_none()
            && builder.is_some_and(|builder| is_usual(builder))
            && let Work::Phases(phases) = Work::of(build)
            && let Some(first) = phases.into_iter().next()
        {
            let directory = build.build_directory.clone();
            self.phases = Some(Phases { first, is_only_one: false, directory, source_root: None });
        }
    }
}

/// Where the task begins anew, opens the build as its derivation alone tells it.
fn begin_anew(build: &mut FailedBuild, task: &Task, wishes: &Wishes, settings: &Settings) -> Result<()> {
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
    Ok(())
}

/// Has the sandbox as it was when the task's first phase began, as far as that is known.
fn prepare(build: &mut FailedBuild, task: &Task) {
    if task.phases.is_none() && build.environment.preparation == Preparation::Stdenv {
        // The builder sees to it.
        build.environment.preparation = Preparation::Nothing;
    }
    if build.kept.is_some() && build.environment.preparation == Preparation::Stdenv {
        let caution = "what earlier phases exported is in no env-vars that can be read: the variables are those at the start of the build";
        build.notes.push(caution.into());
    }
    if let StoreView::Closure { partial_outputs, .. } = &mut build.store_view
        && let Some(kept) = build.kept.as_ref().filter(|_| task.passed_over.is_none())
    {
        let made = outputs_of_last_phase(partial_outputs, kept, build.store.physical_directory());
        partial_outputs.retain(|output| !made.contains(output));
    }
}

fn command(build: &FailedBuild, task: &Task, note: Option<&Path>) -> Result<Vec<OsString>> {
    match (&task.phases, &build.derivation) {
        (Some(phases), _) => Ok(shell_script::resume(&build.shell, phases, note)),
        (None, Some(derivation)) => {
            let arguments = &build.environment.builder_arguments;
            Ok(shell_script::whole_build(&build.shell, &derivation.builder, arguments))
        }
        (None, None) => bail!("without its derivation a build cannot begin anew"),
    }
}

/// The sandboxes of one build, one after the other around the same copy: that of its phases, and that of a shell.
struct Run<'a> {
    options: &'a Options,
    build: &'a FailedBuild,
    /// The phase that failed last.
    failed_phase: Option<FailedPhase>,
    settings: &'a Settings,
    caller: &'a Caller,
    signals: &'a Signals,
    /// Where a session is kept.
    held: Option<Held>,
}

impl Run<'_> {
    /// Runs what is planned, which has `terminal` in place of the caller's if there is one. `session` is what it is for, if somebody
    /// types into it.
    fn carry_out(
        &mut self,
        plan: &Plan,
        terminal: Option<Terminal>,
        scratch: &mut Scratch,
        session: Option<&plan::Session>,
    ) -> Result<u8> {
        let mut sandbox = match &self.options.keep_session {
            Some(name) => {
                let (sandbox, held) = sandbox::start_joinable(plan, |sandbox| {
                    let description = Description::of(self.build, self.failed_phase.clone(), scratch);
                    Held::begin(self.caller, name, description, scratch, sandbox, self.settings, session)
                })?;
                scratch.stay();
                self.held = Some(held);
                sandbox
            }
            None => sandbox::start(plan)?,
        };
        let outside = Outside::of(&mut sandbox, plan);
        let limits = &self.options.sandbox.limits;
        let ending = session::wait(&mut sandbox, self.signals, terminal, limits.time())?;
        tell_usage(&sandbox);
        let lost = outside.and_then(|outside| outside.told(self.build, scratch, self.held.is_some()));
        lost.iter().for_each(say);
        Ok(limits.status(ending))
    }

    /// Has a session that is kept know what was run, and how that ended.
    fn note_phases(&mut self, status: u8, task: &Task, run: Option<&PhasesRun>) {
        let Some(held) = &mut self.held else { return };
        let is_one_alone = task.phases.as_ref().is_some_and(|phases| phases.is_only_one);
        // What failed does not succeed by being passed over.
        if let Some(run) = run.filter(|_| !is_one_alone && task.passed_over.is_none()) {
            let phase = self.failed_phase.get_or_insert_default();
            phase.take_note(run.last_as_note());
            if status == 0 {
                phase.name = Some(FailedPhase::DONE.into());
            }
        }
        held.note_phases(self.failed_phase.clone(), run.cloned());
    }

    /// Opens a shell on what the failed phase has left, as `nix-build-shell BUILD_DIR` does on a kept directory: in another sandbox
    /// around the same copy and the same outputs.
    fn open_shell(&mut self, scratch: &mut Scratch, failure: &Failure, run: Option<&PhasesRun>) -> Result<()> {
        let Self { options, build, settings, caller, .. } = *self;
        let copy = scratch.prepare_again(build.kept.as_ref(), caller)?;
        let derivation = build.derivation.as_ref().map(|derivation| derivation.path.clone());
        let wishes = Wishes { derivation, like: Some(build.kind), ..options.sandbox.wishes() };
        let mut left = FailedBuild::open(&copy, &wishes, settings)?;
        left.notes.clear();
        if let StoreView::Closure { inputs, partial_outputs } = &mut left.store_view {
            *partial_outputs = caller.with_own_rights(|| scratch.take_over_outputs(inputs))??;
        }
        left.add_programs(&options.sandbox.with)?;
        let times = self.failed_phase.take().map(|phase| phase.times).unwrap_or_default();
        let failed_phase = FailedPhase::of(&left, None, &scratch.outputs());
        self.failed_phase = failed_phase.map(|phase| FailedPhase { name: failure.phase.clone(), times, ..phase });
        let mut interactive = None;
        if is_at_terminal() {
            let mut prepared = Interactive::prepare(&mut left, options.sandbox.shell.as_deref(), failure)?;
            prepared.note_outputs(&left, &scratch.outputs());
            prepared.fill(scratch, Earlier { phases_run: run, ..Earlier::default() }, &left, caller)?;
            interactive = Some(prepared);
        }
        let session = interactive.as_ref().map(|interactive| &interactive.session);
        let directories = scratch.directories();
        let no_command: [&Path; 0] = [];
        let plan = match session {
            Some(session) => Plan::for_session(&left, settings, caller, directories, session)?,
            None => Plan::new(&left, settings, caller, directories, &no_command)?,
        };
        let terminal = Terminal::of_caller();
        let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), options.sandbox.as_pid_1);
        let plan = plan.limited(&options.sandbox.limits.limits(), caller)?;
        options.sandbox.tell(&left, &Filled::default(), &plan);
        let is_typed_into = interactive.is_some() || !options.patch.no_patch;
        if options.keep_session.is_none() && is_typed_into && !scratch.is_in_place() {
            // Should we be killed, what somebody has typed is not to be taken for a command's leavings.
            let description = Description::of(build, self.failed_phase.clone(), scratch);
            kept_session::note(scratch, &description, caller)?;
        }
        self.carry_out(&plan.showing_root(), terminal, scratch, session)?;
        if let Some(interactive) = &interactive {
            interactive.keep_history(scratch, caller);
        }
        Ok(())
    }

    /// The status where somebody has mended it in the shell, and has resumed it there to the end: then the build succeeds, as far as
    /// Nix would miss no output.
    fn status_after_shell(&self, scratch: &Scratch) -> Option<u8> {
        let mut state = FailedPhase::default();
        state.take_note(&scratch.phase_of_session()?);
        let is_done = state.name.as_deref() == Some(FailedPhase::DONE);
        let is_missing = made_outputs(self.build, scratch).is_some_and(|outputs| outputs.missing().next().is_some());
        is_done.then_some(is_missing.into())
    }
}

/// What was made of the outputs of `build`; nothing where it is not known which there are to be.
fn made_outputs(build: &FailedBuild, scratch: &Scratch) -> Option<MadeOutputs> {
    let derivation = build.derivation.as_ref().filter(|_| build.store_view != StoreView::Whole)?;
    Some(MadeOutputs::of(derivation, build.kept.as_ref(), &build.store, &scratch.outputs()))
}

/// Says that all succeeded, and what there is now. Returns the status that says the same.
fn tell_success(build: &FailedBuild, task: &Task, scratch: &Scratch) -> u8 {
    if let Some(Phases { first, is_only_one: true, .. }) = &task.phases {
        say(format_args!("{first} succeeds"));
        return 0;
    }
    let what = match (&task.phases, &task.passed_over) {
        (Some(Phases { first, .. }), Some(failed)) => {
            format!(
                "{first} and all after it succeed; {failed}, which failed, was passed over, so the build is not complete"
            )
        }
        _ => "the build succeeds".into(),
    };
    let Some(outputs) = made_outputs(build, scratch) else {
        say(what);
        return 0;
    };
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
            say(format_args!("{what}; {} made", if task.passed_over.is_some() { "they" } else { "it" }));
            outputs.lines().iter().for_each(say);
            0
        }
    }
}
