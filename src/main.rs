//! `nix-build-shell BUILD_DIR [COMMAND [ARG]...]`: see `--help`, or the README.

use std::process::ExitCode;

use anyhow::{Context, Result};
use nix_build_shell::caller::Caller;
use nix_build_shell::cli::{Options, say_error, show_usage};
use nix_build_shell::failed_build::FailedBuild;
use nix_build_shell::nix::Settings;
use nix_build_shell::plan::Plan;
use nix_build_shell::sandbox;
use nix_build_shell::scratch::Scratch;
use nix_build_shell::session::{self, Interrupted, Signals, Terminal};

/// Exit status of our own errors, out of the way of a command's; `env(1)`, `timeout(1)` and `docker run` do the same.
const OWN_ERROR: u8 = 125;

fn main() -> ExitCode {
    let status = match Options::from_command_line() {
        Ok(options) => enter(&options).unwrap_or_else(|error| report(&error)),
        Err(usage) => {
            if show_usage(&usage) {
                OWN_ERROR
            } else {
                0
            }
        }
    };
    ExitCode::from(status)
}

fn enter(options: &Options) -> Result<u8> {
    let signals = Signals::block()?;
    let caller = Caller::current();
    let settings = Settings::in_force();
    let build = FailedBuild::open(&options.build_dir, &options.wishes(), &settings)?;
    let scratch_parent = Scratch::default_parent();
    if options.dry_run {
        let directories = Scratch::example_directories(&scratch_parent);
        let plan = Plan::new(&build, &settings, &caller, &directories, &options.command)?;
        options.print_dry_run(&build, &plan, &directories.scratch).context("cannot print the plan")?;
        return Ok(0);
    }
    let scratch = Scratch::create(&scratch_parent, build.kept.as_ref().map(|kept| kept.directory.as_path()))?;
    let copied = scratch.fill(&build, &caller, options.unreadable(&build), &|| signals.check_interrupt())?;
    let plan = Plan::new(&build, &settings, &caller, scratch.directories(), &options.command)?;
    options.tell(&build, &copied, &plan);
    let terminal = Terminal::note();
    let mut sandbox = sandbox::start(&plan)?;
    let status = session::wait(&mut sandbox, &signals)?;
    drop(terminal);
    // While the kernel takes the empty sandbox down. What resists, a later run removes.
    scratch.remove().unwrap_or_else(|error| say_error(&error));
    Ok(status)
}

fn report(error: &anyhow::Error) -> u8 {
    say_error(error);
    match error.downcast_ref() {
        Some(Interrupted(signal)) => 128 + signal.as_raw() as u8,
        None => OWN_ERROR,
    }
}
