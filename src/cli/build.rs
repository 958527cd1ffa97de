//! `nix-build-shell build -- COMMAND`: runs a command that builds with Nix, and opens the sandbox of what failed.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use super::patch_options::PatchOptions;
use super::sandbox_options::SandboxOptions;

/// What to build, and what to do where that fails.
#[derive(Debug, Args)]
#[command(override_usage = "nix-build-shell build [-c LINE] [OPTIONS] -- COMMAND [ARG]...")]
pub struct Options {
    /// Where the build fails, run this line in its sandbox, with the sandbox's shell, in place of a session
    #[arg(short, long = "command", value_name = "LINE")]
    pub line: Option<OsString>,

    /// What builds, such as «nix-build -A hello» or «nix build .#hello»: it is run with --keep-failed, and builds on this machine
    #[arg(value_name = "COMMAND [ARG]", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub build: Vec<OsString>,

    /// Options of the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxOptions,

    /// The patch of what was changed in the sandbox.
    #[command(flatten)]
    pub patch: PatchOptions,
}

/// Runs the command, and where that fails what was wanted then. Returns the exit status.
///
/// # Errors
/// One sentence where it could not be run.
pub fn run(options: &Options) -> Result<u8> {
    anyhow::bail!("{options:?}")
}
