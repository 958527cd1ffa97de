//! What is compared: ways to run the same no-op.

mod bare_clone3;
pub mod bubblewrap;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix_build_shell::sandbox;

use crate::fixture::{Fixture, compile};

/// The kernel's own price of the namespaces.
pub const FLOOR: &str = "bare clone3";
/// Our library, with the plan made beforehand.
pub const LIBRARY: &str = "library call";
/// Our program, as a user calls it: the copy of a small package's directory is in it.
pub const PROGRAM: &str = "whole command";
/// The same where there is next to nothing to copy, as bubblewrap copies nothing.
pub const PROGRAM_ALONE: &str = "whole command, env-vars only";
/// The same with the exact store: a closure of 23 paths, looked up among 20,000.
pub const SMALL_CLOSURE: &str = "whole command, closure of 23";
/// And of 1,000.
const LARGE_CLOSURE: &str = "whole command, closure of 1,000";
/// The nearest thing that others have.
pub const BUBBLEWRAP: &str = "bubblewrap";
/// What people do all day: the build's own bash sources `env-vars` and executes a command that is built into it.
pub const BASH: &str = "whole command, bash and env-vars";
/// The same by bubblewrap.
pub const BASH_IN_BUBBLEWRAP: &str = "bubblewrap, bash and env-vars";
/// What Nix has for it: no sandbox.
pub const NIX_SHELL: &str = "nix-shell DRV --run true";
/// The floor as a program: what any static program of this machine's C library takes to get there, before it does anything.
const LEAST_PROGRAM: &str = "bare clone3 by a C program";
/// The same with a store of 1,000 bind mounts: what the kernel takes for them.
const LEAST_LARGE_CLOSURE: &str = "bare clone3 by a C program, 1,000 binds";
/// No sandbox at all.
const SPAWN: &str = "spawn and exec";

/// One way to run the no-op.
pub struct Candidate<'a> {
    /// Its row in the table.
    pub name: &'static str,
    /// Runs the no-op once, and waits for its end.
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
    /// It runs in one of so many rounds: of what takes long a few times tell enough.
    pub one_round_of: usize,
}

impl<'a> Candidate<'a> {
    fn new(name: &'static str, run: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { name, run: Box::new(run), one_round_of: 1 }
    }
}

/// All candidates that this machine has: bubblewrap may be missing.
pub fn all(fixture: &Fixture) -> Result<Vec<Candidate<'_>>> {
    let mut candidates = vec![
        Candidate::new(SPAWN, program(Command::new(&fixture.noop))),
        Candidate::new(FLOOR, bare_clone3::candidate(&fixture.noop)?),
        Candidate::new(LEAST_PROGRAM, program(least_program(fixture)?)),
        Candidate::new(LEAST_LARGE_CLOSURE, program(least_large_closure(fixture)?)),
        Candidate::new(LIBRARY, library_call(fixture)),
        Candidate::new(PROGRAM, program(whole_store(fixture, &fixture.kept))),
        Candidate::new(PROGRAM_ALONE, program(whole_store(fixture, &fixture.kept_env_vars))),
    ];
    for build in &fixture.builds {
        let name = if build.closure < 100 { SMALL_CLOSURE } else { LARGE_CLOSURE };
        candidates.push(Candidate::new(name, program(exact_store(fixture, &build.kept))));
    }
    if let Some(executable) = find_in_path("bwrap") {
        candidates.push(Candidate::new(BUBBLEWRAP, in_bubblewrap(bubblewrap::Call::of_noop(&executable, fixture)?)));
    }
    if let Some(build) = &fixture.real_build {
        let mut command = whole_command(fixture);
        command.arg(&build.kept).arg("true");
        candidates.push(Candidate::new(BASH, program(command)));
        if let Some(executable) = find_in_path("bwrap") {
            let call = bubblewrap::Call::of(&executable, fixture, &build.kept, &build.shell, &build.command)?;
            candidates.push(Candidate::new(BASH_IN_BUBBLEWRAP, in_bubblewrap(call)));
        }
        let nix_shell = Candidate::new(NIX_SHELL, program(nix_shell(&build.derivation)));
        candidates.push(Candidate { one_round_of: 25, ..nix_shell });
    }
    Ok(candidates)
}

/// As an ordinary user has it, through a daemon.
fn nix_shell(derivation: &Path) -> Command {
    let mut command = Command::new("nix-shell");
    command.arg(derivation).args(["--run", "true", "--option", "substitute", "false"]);
    command.env("NIX_REMOTE", "daemon").env("NIX_BUILD_SHELL", "bash").stderr(Stdio::null());
    command
}

fn library_call(fixture: &Fixture) -> impl FnMut() -> Result<()> {
    || {
        let status = sandbox::start(&fixture.plan)?.wait()?;
        ensure!(status == 0, "the no-op in the sandbox ended with status {status}");
        Ok(())
    }
}

fn least_program(fixture: &Fixture) -> Result<Command> {
    let program = fixture.directory().join("bare-clone3");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/bare_clone3.c");
    compile(&["-O2", "-static"], Path::new(source), &program)?;
    let mut command = Command::new(program);
    command.arg(&fixture.noop);
    Ok(command)
}

fn least_large_closure(fixture: &Fixture) -> Result<Command> {
    let mut command = least_program(fixture)?;
    command.arg(fixture.store_root.join("nix/store")).arg("1000");
    Ok(command)
}

/// The call of our program that runs the no-op with the whole store.
pub fn whole_store(fixture: &Fixture, kept: &Path) -> Command {
    let mut command = whole_command(fixture);
    command.arg("--store=full").arg(kept).arg("true");
    command
}

/// The same with the exact store, of a build in the large one.
pub fn exact_store(fixture: &Fixture, kept: &Path) -> Command {
    let mut command = whole_command(fixture);
    command.arg("--store-root").arg(&fixture.store_root).arg(kept).arg("true");
    command
}

/// Our program, which makes its scratch directories in the fixture's directory.
pub fn whole_command(fixture: &Fixture) -> Command {
    // The checkout may be where another user may not go.
    let program = env::var_os("NIX_BUILD_SHELL").unwrap_or_else(|| env!("CARGO_BIN_EXE_nix-build-shell").into());
    let mut command = Command::new(program);
    command.env("TMPDIR", fixture.directory());
    command
}

/// A program as a process of its own, with its arguments and environment prepared.
fn program(mut command: Command) -> impl FnMut() -> Result<()> {
    move || run(&mut command)
}

fn in_bubblewrap(mut call: bubblewrap::Call) -> impl FnMut() -> Result<()> {
    move || run(call.command()?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{} ended with {status}", command.get_program().display());
    Ok(())
}

/// The program `name` in `PATH`.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|file| file.is_file())
}
