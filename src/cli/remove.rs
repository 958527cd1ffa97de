//! `nix-build-shell remove`: removes build directories that Nix has kept.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

/// Which ones.
#[derive(Debug, Args)]
#[command(override_usage = "nix-build-shell remove [--yes] BUILD_DIR...")]
pub struct Options {
    /// The directories, as Nix named them after «keeping build directory»
    #[arg(value_name = "BUILD_DIR", required = true)]
    pub build_dirs: Vec<PathBuf>,

    /// Remove them without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// Removes them.
///
/// # Errors
/// One sentence for the last that could not be removed.
pub fn run(options: &Options) -> Result<u8> {
    anyhow::bail!("{options:?}")
}
