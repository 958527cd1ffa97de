//! Sandboxes that are started to see whether they can be: a small one for each question, and a whole one.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::kernel::said;
use super::{Fact, in_words, shown};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::nix::Settings;
use crate::plan::{Command, Plan, Step};
use crate::sandbox::{self, NamespaceHandles};
use crate::scratch::Scratch;
use crate::session::{self, Signals};
use crate::sys;

/// What this program is called with in a sandbox that is tried: there it has nothing to do but to end well.
pub const FROM_INSIDE: [&str; 2] = ["check-system", "--from-inside"];
/// Its name there.
const PROGRAM: &str = "nix-build-shell";
/// Directories of a small sandbox, in the scratch directory.
const DIRECTORIES: [&str; 5] = ["program", "lower", "upper", "work", "merged"];

/// Who tries, and with what.
pub(super) struct Trial<'a> {
    caller: &'a Caller,
    signals: &'a Signals,
    scratch: &'a Scratch,
    /// This program, whole: it runs wherever it is written to.
    program: Vec<u8>,
}

impl<'a> Trial<'a> {
    pub(super) fn prepare(caller: &'a Caller, signals: &'a Signals, scratch: &'a Scratch) -> Result<Self> {
        let program = fs::read("/proc/self/exe").context("cannot read this program, to run it in a sandbox")?;
        scratch.hand_over(caller)?;
        Ok(Self { caller, signals, scratch, program })
    }

    /// All kinds of namespaces, a mount in them, and a program.
    pub(super) fn user_namespaces(&self) -> Result<Fact> {
        let tried = self.run(&self.small_plan("user-namespaces", None)?)?;
        Ok(Fact::needed(
            "user namespaces",
            tried.map(|()| "with those of mounts, processes, IPC, names, network and cgroups"),
        ))
    }

    pub(super) fn overlayfs(&self, parent: &Path) -> Result<Fact> {
        let options = "userxattr,lowerdir=lower,upperdir=upper,workdir=work";
        let mount = Step::Mount { kind: c"overlay".into(), target: c"merged".into(), options: CString::new(options)? };
        let tried = self.run(&self.small_plan("overlayfs", Some(mount))?)?;
        Ok(match tried {
            Ok(()) => {
                Fact::there("overlayfs", format!("in a user namespace, with what is changed in {}", shown(parent)))
            }
            Err(error) => {
                let words = in_words(&error);
                // Of the sentence only what the kernel said: large build directories are copied then.
                let answer = words.split(": ").nth(1).unwrap_or(&words).to_owned();
                Fact::dispensable("overlayfs", format!("not in a user namespace on {}: {answer}", shown(parent)))
            }
        })
    }

    /// Those of the file system of `TMPDIR`, by a user namespace such as a sandbox has.
    pub(super) fn id_mapped_mounts(&self, parent: &Path) -> Result<Fact> {
        const SUBJECT: &str = "idmapped mounts";
        const WITHOUT: &str = "a build user's large directory is copied";
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = match open_tree(CWD, self.scratch.path(), flags) {
            Ok(tree) => tree,
            Err(errno) => {
                return Ok(Fact::dispensable(SUBJECT, format!("not for you: {}; {WITHOUT}", said(errno))));
            }
        };
        let plan = self.small_plan("idmapped", None)?;
        let mut answer = None;
        let tried = sandbox::start_joinable(&plan, |sandbox| {
            let namespace =
                sandbox.namespaces().and_then(NamespaceHandles::user).context("it has no user namespace")?;
            answer = Some(sys::map_ids_of_mount(tree.as_fd(), namespace, false));
            Ok(())
        });
        if let Ok((mut sandbox, ())) = tried {
            session::wait(&mut sandbox, self.signals, None, None)?.status();
        }
        Ok(match answer {
            Some(Ok(())) => Fact::there(SUBJECT, format!("of the file system of {}", shown(parent))),
            Some(Err(errno)) => Fact::dispensable(
                SUBJECT,
                format!("not of the file system of {}: {}; {WITHOUT}", shown(parent), said(errno)),
            ),
            None => Fact::dispensable(SUBJECT, "without a user namespace there are none"),
        })
    }

    /// Every step that a build's sandbox has, on a build of which there is nothing.
    pub(super) fn whole_sandbox(&self, settings: &Settings) -> Result<Fact> {
        let started = FailedBuild::of_nothing(settings).and_then(|build| {
            let no_command: [&OsStr; 0] = [];
            let mut plan = Plan::new(&build, settings, self.caller, self.scratch.directories(), &no_command)?;
            let last = plan.steps.iter().position(|step| *step == Step::PivotRoot).unwrap_or(plan.steps.len());
            plan.steps.insert(last, self.write_program(Path::new(PROGRAM))?);
            plan.command = command(&Path::new("/").join(PROGRAM))?;
            self.run(&plan)?
        });
        Ok(Fact::needed("sandbox", started.map(|()| "a whole one was started, and a program has run in it")))
    }

    /// A sandbox that shows the host as it is, with this program on a tmpfs; `step` is done in a directory of its own, `name`.
    fn small_plan(&self, name: &str, step: Option<Step>) -> Result<Plan> {
        let top = self.scratch.path().join(name);
        let directory = |path: &Path| anyhow::Ok(Step::MakeDirectory { path: c_string(path)?, mode: 0o700 });
        let mut steps = vec![Step::ChangeDirectory(c_string(self.scratch.path())?), directory(Path::new(name))?];
        steps.push(Step::ChangeDirectory(c_string(&top)?));
        for name in DIRECTORIES {
            steps.push(directory(Path::new(name))?);
        }
        steps.push(Step::Mount { kind: c"tmpfs".into(), target: c"program".into(), options: c"mode=0755".into() });
        steps.push(self.write_program(&Path::new("program").join(PROGRAM))?);
        steps.extend(step);
        Ok(Plan::of_steps(self.caller, steps, command(&top.join("program").join(PROGRAM))?))
    }

    fn write_program(&self, path: &Path) -> Result<Step> {
        Ok(Step::MakeFile { path: c_string(path)?, mode: 0o555, content: self.program.clone() })
    }

    /// Runs it to its end. The outer error is one that ends the whole examination.
    fn run(&self, plan: &Plan) -> Result<Result<()>> {
        self.signals.check_interrupt()?;
        let mut sandbox = match sandbox::start(plan) {
            Ok(sandbox) => sandbox,
            Err(error) => return Ok(Err(error)),
        };
        let status = session::wait(&mut sandbox, self.signals, None, None)?.status();
        self.signals.check_interrupt()?;
        Ok(match status {
            0 => Ok(()),
            status => (|| bail!("a program that was run in it ended with status {status}"))(),
        })
    }
}

fn command(program: &Path) -> Result<Command> {
    let program = c_string(program)?;
    let arguments = FROM_INSIDE.iter().map(|word| CString::new(*word)).collect::<Result<Vec<_>, _>>()?;
    Ok(Command { arguments: [vec![program.clone()], arguments].concat(), program, environment: Vec::new() })
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path holds a NUL byte")
}
