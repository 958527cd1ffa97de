//! `nix-build-shell list`: the build directories that Nix has kept.

use anyhow::Result;
use clap::Args;

/// How they are shown.
#[derive(Debug, Args)]
pub struct Options {
    /// List them for programs to read
    #[arg(long)]
    pub json: bool,
}

/// Prints them, the newest first.
///
/// # Errors
/// Standard output's.
pub fn run(options: &Options) -> Result<u8> {
    anyhow::bail!("{options:?}")
}
