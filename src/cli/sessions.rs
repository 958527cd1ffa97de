//! `nix-build-shell sessions`: lists, enters and removes the sessions that were kept.

use std::ffi::OsString;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::header::{Changes, show_header};
use super::interactive::{Failure, Interactive, is_at_terminal, read_log};
use super::limit_options::{LimitOptions, tell_limits, tell_usage};
use super::patch_options::{PatchOptions, means};
use super::say::{print, printable, say, say_error};
use super::table::{age, columns, seconds_since_1970, size};
use crate::caller::Caller;
use crate::kept_session::{self, Idle, Joinable, Listed, Session, SessionName, Sessions, no_such_session};
use crate::limits::Limits;
use crate::nix::Settings;
use crate::plan::Plan;
use crate::sandbox;
use crate::scratch::Scratch;
use crate::session::{self, Signals, Terminal};
use crate::session_patch::Outside;

/// What goes before the kernel's answer when standard output takes no more.
const CANNOT_PRINT: &str = "cannot print";

/// The status of a command that SIGKILL has ended.
const KILLED: u8 = 128 + 9;

/// What to do with the sessions.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "nix-build-shell sessions [--json]\n       nix-build-shell sessions enter NAME [COMMAND [ARG]...]\n       \
                      nix-build-shell sessions remove [OPTIONS] NAME..."
)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,

    /// List them for programs to read
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a command, or an interactive shell, in a session; where one runs there, in the same sandbox
    #[command(override_usage = "nix-build-shell sessions enter [OPTIONS] NAME [COMMAND [ARG]...]")]
    Enter(Enter),
    /// Remove sessions; what was changed in them is saved as a patch
    #[command(override_usage = "nix-build-shell sessions remove [OPTIONS] NAME...")]
    Remove(Remove),
}

/// Which sessions to remove.
#[derive(Debug, Args)]
struct Remove {
    /// What they are called
    #[arg(value_name = "NAME", required = true)]
    names: Vec<SessionName>,

    /// The patch of what was changed in them.
    #[command(flatten)]
    patch: PatchOptions,
}

/// Which session to enter, and what to run there.
#[derive(Debug, Args)]
struct Enter {
    /// What the session is called
    #[arg(value_name = "NAME")]
    name: SessionName,

    /// What to run, with its arguments [default: the build's shell]
    #[arg(value_name = "COMMAND [ARG]", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,

    /// What it may use.
    #[command(flatten)]
    limits: LimitOptions,

    /// Print each step on standard error
    #[arg(short, long)]
    verbose: bool,
}

impl Options {
    /// The command to run in a session, if that is what is wanted.
    pub fn command(&self) -> &[OsString] {
        match &self.action {
            Some(Action::Enter(enter)) => &enter.command,
            _ => &[],
        }
    }
}

/// Does it. Returns the exit status, which is the command's where one was run.
///
/// # Errors
/// One sentence.
pub fn run(options: &Options) -> Result<u8> {
    match &options.action {
        None => show(options.json),
        Some(Action::Enter(enter)) => enter.run(),
        Some(Action::Remove(remove)) => remove.run(),
    }
}

impl Enter {
    fn run(&self) -> Result<u8> {
        let signals = Signals::block()?;
        let caller = Caller::current();
        let sessions = Sessions::open(&caller)?.with_context(|| no_such_session(&self.name))?;
        match sessions.enter(&self.name)? {
            Session::Idle(idle) => self.enter(&caller, &signals, *idle),
            Session::Running(joinable) => self.join(&caller, &signals, &joinable),
        }
    }

    /// Makes the sandbox around the session's directory.
    fn enter(&self, caller: &Caller, signals: &Signals, idle: Idle) -> Result<u8> {
        let settings = Settings::in_force();
        let mut build = idle.open(&settings)?;
        let mut log = None;
        let mut interactive = None;
        if self.is_interactive() {
            log = read_log(&build);
            interactive = Some(Interactive::prepare(&mut build, None, &Failure::told_by(log.as_ref()))?);
        }
        idle.take_over_outputs(&mut build, caller)?;
        if let Some(interactive) = &mut interactive {
            interactive.note_outputs(&build, &idle.scratch.outputs());
            interactive.fill(&idle.scratch, idle.earlier(), &build, caller)?;
        }
        let shell = interactive.as_ref().map(|interactive| &interactive.session);
        let directories = idle.scratch.directories();
        let plan = match shell {
            Some(shell) => Plan::for_session(&build, &settings, caller, directories, shell)?,
            None => Plan::new(&build, &settings, caller, directories, &self.command)?,
        };
        let terminal = Terminal::of_caller();
        let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), false);
        let plan = plan.limited(&self.limits.limits(), caller)?;
        let plan = if self.command.is_empty() { plan.showing_root() } else { plan };
        build.notes.iter().for_each(say);
        self.tell(&plan);
        if shell.is_some() {
            show_header(&build, log.as_ref(), Changes::KeptAs(&self.name));
        }
        signals.check_interrupt()?;
        let (mut sandbox, held) =
            sandbox::start_joinable(&plan, |sandbox| idle.begin(caller, &build, sandbox, &settings, shell))?;
        let outside = Outside::of(&mut sandbox, &plan);
        let ending = session::wait(&mut sandbox, signals, terminal, self.limits.time());
        let status = ending.map(|ending| self.limits.status(ending));
        tell_usage(&sandbox);
        // Before the session is let go of, all that ran in it has to have ended.
        drop(sandbox);
        if let Some(interactive) = &interactive {
            interactive.keep_history(&idle.scratch, caller);
        }
        let lost = outside.and_then(|outside| outside.told(&build, &idle.scratch, true));
        held.end(idle.scratch).map_or_else(|error| say_error(&error), say);
        lost.iter().for_each(say);
        status
    }

    /// Runs the command in the session's sandbox, which another nix-build-shell has made.
    fn join(&self, caller: &Caller, signals: &Signals, running: &Joinable) -> Result<u8> {
        if !self.limits.limits().is_empty() {
            bail!("the session {} runs already, and its limits are those that it runs with", self.name);
        }
        let build = running.open()?;
        let (settings, namespaces) = (running.settings(), &running.namespaces);
        let plan = match running.shell().filter(|_| self.is_interactive()) {
            Some(shell) => Plan::for_joining_session(&build, settings, caller, namespaces, shell)?,
            None => Plan::for_joining(&build, settings, caller, namespaces, &self.command)?,
        };
        let terminal = Terminal::of_caller();
        let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), false);
        let plan = running.limit(plan, caller)?;
        self.tell(&plan);
        signals.check_interrupt()?;
        let mut sandbox =
            sandbox::join(&plan).with_context(|| format!("the session {} cannot be joined", self.name))?;
        let ending = session::wait(&mut sandbox, signals, terminal, self.limits.time())?;
        let status = self.limits.status(ending);
        if status == KILLED && running.is_ending() {
            say(format_args!("the session {} has ended, and with it all that ran there", self.name));
        }
        Ok(status)
    }

    fn is_interactive(&self) -> bool {
        self.command.is_empty() && is_at_terminal()
    }

    fn tell(&self, plan: &Plan) {
        tell_limits(plan);
        if self.verbose {
            plan.to_string().lines().for_each(say);
        }
    }
}

impl Remove {
    fn run(&self) -> Result<u8> {
        if let (Some(file), [_, _, ..]) = (&self.patch.save_patch, self.names.as_slice()) {
            bail!("--save-patch {} is for one session; remove them one by one", file.display());
        }
        let caller = Caller::current();
        let sessions = Sessions::open(&caller)?;
        let mut failures = Vec::new();
        for name in &self.names {
            let removed = match &sessions {
                Some(sessions) => self.remove(sessions, name, &caller),
                None => Err(anyhow::anyhow!(no_such_session(name))),
            };
            match removed {
                Ok(()) => print(&format!("removed {name}\n")).context(CANNOT_PRINT)?,
                Err(error) => failures.push(error),
            }
        }
        // The last one becomes the exit status.
        let last = failures.pop();
        failures.iter().for_each(say_error);
        last.map_or(Ok(0), Err)
    }

    fn remove(&self, sessions: &Sessions, name: &SessionName, caller: &Caller) -> Result<()> {
        let condemned = sessions.condemn(name)?;
        if !self.patch.no_patch {
            let file = self.patch.save_patch.as_deref();
            let (settings, signals, limits) = (Settings::in_force(), Signals::block()?, Limits::default());
            condemned.save_patch(file, &means(&settings, &signals, &limits), caller)?.iter().for_each(say);
        }
        let lost = condemned.told_of_outputs(caller)?;
        sessions.remove(condemned)?;
        lost.iter().for_each(say);
        Ok(())
    }
}

/// Keeps the sessions whose program was killed, and says so, once.
pub(super) fn recover(abandoned: Vec<Scratch>, caller: &Caller) {
    for scratch in abandoned {
        match kept_session::recover(scratch, caller) {
            Ok(told) => told.iter().for_each(say),
            Err(error) => say_error(&error),
        }
    }
}

fn show(json: bool) -> Result<u8> {
    let caller = Caller::current();
    recover(Scratch::abandoned_sessions(&Scratch::default_parent()), &caller);
    let sessions = Sessions::open(&caller)?;
    let listed = sessions.as_ref().map(kept_session::list).transpose()?.unwrap_or_default();
    if json {
        print(&(serde_json::to_string_pretty(&listed)? + "\n")).context(CANNOT_PRINT)?;
    } else if listed.is_empty() {
        say("there are no sessions; --keep-session NAME keeps one");
    } else {
        print(&table(&listed, seconds_since_1970(SystemTime::now()))).context(CANNOT_PRINT)?;
    }
    Ok(0)
}

/// A line for each session, below one that names the columns.
fn table(sessions: &[Listed], now: u64) -> String {
    let head = ["NAME", "BUILD", "SIZE", "CREATED", "LAST USED", "STATE"].map(String::from);
    let rows = sessions.iter().map(|session| {
        [
            session.name.clone(),
            printable(&session.title),
            // Of what cannot be looked at nothing is known.
            session.created.map_or_else(|| "?".into(), |_| size(session.size)),
            session.created.map_or("?".into(), |then| age(now.saturating_sub(then))),
            session.last_used.map_or("?".into(), |then| age(now.saturating_sub(then))),
            if session.running { "running".into() } else { "idle".into() },
        ]
    });
    columns([head].into_iter().chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_the_table_stand_below_each_other() {
        let listed = |name: &str, title: &str, running| Listed {
            name: name.into(),
            title: title.into(),
            derivation: None,
            build: None,
            path: "/x".into(),
            size: 4096,
            created: Some(1000),
            last_used: Some(4000),
            running,
        };
        let sessions = [listed("a", "hello-2.12", false), listed("a-longer-one", "\u{1b}x", true)];
        assert_eq!(
            table(&sessions, 4600),
            "NAME          BUILD       SIZE   CREATED     LAST USED       STATE\n\
             a             hello-2.12  4 KiB  1 hour ago  10 minutes ago  idle\n\
             a-longer-one  \\u{1b}x     4 KiB  1 hour ago  10 minutes ago  running\n"
        );
    }
}
