//! `nix-build-shell BUILD_DIR [COMMAND [ARG]...]`: runs a command, or an interactive shell, in the sandbox of a failed build.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::sandbox_options::SandboxOptions;
use super::say::{printable, say_error};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::nix::Settings;
use crate::plan::{BUILD, Plan};
use crate::sandbox;
use crate::scratch::Scratch;
use crate::session::{self, Signals, Terminal};

/// Which build to enter, and what to run there.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory that Nix named after «keeping build directory»
    #[arg(value_name = "BUILD_DIR")]
    pub build_dir: PathBuf,

    /// What to run in the sandbox, with its arguments [default: the build's shell]
    #[arg(value_name = "COMMAND [ARG]", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,

    /// Options of the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxOptions,

    /// Print what would be done, a step a line, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Makes the sandbox, runs the command in it, and removes it. Returns the command's exit status, or 128+n when the signal n ended it.
///
/// # Errors
/// One sentence where no sandbox could be made.
pub fn run(options: &Options) -> Result<u8> {
    let signals = Signals::block()?;
    let caller = Caller::current();
    let settings = Settings::in_force();
    let build = FailedBuild::open(&options.build_dir, &options.sandbox.wishes(), &settings)?;
    let scratch_parent = Scratch::default_parent();
    let terminal = Terminal::of_caller();
    if options.dry_run {
        let directories = Scratch::example_directories(&scratch_parent);
        let plan = Plan::new(&build, &settings, &caller, &directories, &options.command)?;
        let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), options.sandbox.as_pid_1);
        print_dry_run(&build, &plan, &directories.scratch).context("cannot print the plan")?;
        return Ok(0);
    }
    let scratch = Scratch::create(&scratch_parent, build.kept.as_ref().map(|kept| kept.directory.as_path()))?;
    let unreadable = options.sandbox.unreadable(&build);
    let copied = scratch.fill(&build, &caller, unreadable, &|| signals.check_interrupt())?;
    let plan = Plan::new(&build, &settings, &caller, scratch.directories(), &options.command)?;
    let plan = plan.executed(terminal.as_ref().map(Terminal::for_command), options.sandbox.as_pid_1);
    options.sandbox.tell(&build, &copied, &plan);
    let mut sandbox = sandbox::start(&plan)?;
    let status = session::wait(&mut sandbox, &signals, terminal)?;
    // While the kernel takes the empty sandbox down. What resists, a later run removes.
    scratch.remove().unwrap_or_else(|error| say_error(&error));
    Ok(status)
}

/// Prints what would be done: what is copied, then the plan.
fn print_dry_run(build: &FailedBuild, plan: &Plan, scratch: &Path) -> io::Result<()> {
    let copy = scratch.join(BUILD);
    let text = match &build.kept {
        Some(kept) => format!("copy {} to {}\n{plan}", kept.directory.display(), copy.display()),
        None => format!("make the empty directory {}\n{plan}", copy.display()),
    };
    let lines: String = text.lines().map(|line| printable(line) + "\n").collect();
    match io::stdout().write_all(lines.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
