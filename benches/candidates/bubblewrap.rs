//! The sandbox of bubblewrap that is nearest to ours.
//!
//! It is the weaker one: the kept directory itself is bound, not a copy; the domain name, the personality, the keyring, the limit
//! of core files and the protection of root's `/proc` are left out, since bubblewrap does not have them. Nor does it wait until
//! the kernel has taken the sandbox down. The filter of system calls is our own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use nix_build_shell::plan;

use crate::fixture::Fixture;

/// A call of `bwrap`.
pub struct Call {
    command: Command,
    filter: PathBuf,
}

impl Call {
    /// The one that runs the no-op on the kept directory.
    pub fn of_noop(bwrap: &Path, fixture: &Fixture) -> Result<Self> {
        Self::of(bwrap, fixture, &fixture.kept, &fixture.noop, &fixture.plan.command)
    }

    /// The same for any kept directory, with the build's `shell` and `wanted`, the command that our own plan has.
    pub fn of(bwrap: &Path, fixture: &Fixture, kept: &Path, shell: &Path, wanted: &plan::Command) -> Result<Self> {
        Ok(Self { command: command_of(bwrap, fixture, kept, shell, wanted)?, filter: fixture.filter.clone() })
    }

    /// The call as it can be done once. It reads the filter from its standard input, and closes that: what runs has no use for it.
    pub fn command(&mut self) -> Result<&mut Command> {
        Ok(self.command.stdin(File::open(&self.filter)?))
    }
}

fn command_of(bwrap: &Path, fixture: &Fixture, kept: &Path, shell: &Path, wanted: &plan::Command) -> Result<Command> {
    let mut command = Command::new(bwrap);
    command.args(["--unshare-all", "--die-with-parent", "--new-session", "--uid", "1000", "--gid", "100"]);
    command.args(["--hostname", "localhost"]);
    command.arg("--clearenv");
    for variable in &wanted.environment {
        let variable = variable.to_str()?;
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.args(["--setenv", name, value]);
    }
    command.args(["--ro-bind", "/nix", "/nix", "--tmpfs", "/nix/var", "--bind"]).arg(kept).arg("/build");
    command.arg("--ro-bind").arg(shell).arg("/bin/sh");
    for name in ["group", "passwd", "hosts"] {
        command.arg("--ro-bind").arg(fixture.directory().join(name)).arg(format!("/etc/{name}"));
    }
    command.args([
        "--dev",
        "/dev",
        "--dev-bind-try",
        "/dev/kvm",
        "/dev/kvm",
        "--perms",
        "1777",
        "--tmpfs",
        "/dev/shm",
        "--proc",
        "/proc",
    ]);
    command.args(["--perms", "1777", "--dir", "/tmp", "--chdir", "/build", "--seccomp", "0", "--"]);
    command.args(wanted.arguments.iter().map(|argument| OsStr::from_bytes(argument.to_bytes())));
    Ok(command)
}
