//! What is measured on: a store with a command in it, and two kept build directories.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const FILES: usize = 50_000;
const IN_A_DIRECTORY: usize = 100;
/// The shell of the builds, in a store of its own.
const SHELL: &str = "/nix/store/00000000000000000000000000000000-wait";

/// All in one temporary directory, which goes with this value.
pub struct Setting {
    /// A kept directory with 50,000 small files.
    pub many: PathBuf,
    /// One with nothing but `env-vars`.
    pub empty: PathBuf,
    directory: TempDir,
}

impl Setting {
    /// Makes it all.
    ///
    /// # Errors
    /// Without a C compiler, or room.
    pub fn make() -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("build-directory-");
        let directory = builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())?;
        let shell = directory.path().join("root").join(SHELL.trim_start_matches('/'));
        fs::create_dir_all(shell.parent().context("a store path has a parent")?)?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/wait.S");
        let source = env::var_os("NIX_BUILD_SHELL_BENCH_WAIT").unwrap_or_else(|| source.into());
        let compiled = Command::new("cc").args(["-static", "-nostdlib", "-s", "-o"]).arg(&shell).arg(source).status();
        let compiled = compiled.context("the benches need «cc»; «make setup» installs it")?;
        ensure!(compiled.success(), "«cc» failed");
        let [many, empty] = ["many", "empty"].map(|name| directory.path().join(name));
        make_kept(&many, FILES)?;
        make_kept(&empty, 0)?;
        fs::create_dir(directory.path().join("tmp"))?;
        Ok(Self { many, empty, directory })
    }

    /// Where temporary files may be.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The call of the program with this mode.
    pub fn enter(&self, mode: &str, kept: &Path) -> Command {
        let program = env::var_os("NIX_BUILD_SHELL").unwrap_or_else(|| env!("CARGO_BIN_EXE_nix-build-shell").into());
        let mut command = Command::new(program);
        command.env("TMPDIR", self.directory().join("tmp"));
        command.arg(format!("--build-dir-mode={mode}")).arg("--store=full");
        command.arg("--store-root").arg(self.directory().join("root")).arg(kept).arg("true");
        command
    }
}

fn make_kept(kept: &Path, files: usize) -> Result<()> {
    fs::create_dir(kept)?;
    let output = "/nix/store/11111111111111111111111111111111-large";
    fs::write(kept.join("env-vars"), format!("declare -x SHELL=\"{SHELL}\"\ndeclare -x out=\"{output}\"\n"))?;
    for number in 0..files / IN_A_DIRECTORY {
        let directory = kept.join(format!("source/{}/{number}", number % 20));
        fs::create_dir_all(&directory)?;
        for file in 0..IN_A_DIRECTORY {
            fs::write(directory.join(format!("file-{file}")), "x".repeat(file * 37 % 4000 + 1))?;
        }
    }
    Ok(())
}
