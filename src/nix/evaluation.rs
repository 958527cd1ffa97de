//! Has Nix tell which derivation something is: an installable, or an attribute of a file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::nix_program::NixProgram;
use super::store::Store;
use super::surroundings::Surroundings;
use crate::sys::reset_signal;

/// The features are named as a setting, as in [`nix_program`](super::nix_program).
const OF_INSTALLABLE: [&str; 5] =
    ["path-info", "--derivation", "--option", "extra-experimental-features", "nix-command flakes"];
/// Errors are told and nothing else: that nobody keeps the garbage collector from the derivation is as it should be.
const OF_ATTRIBUTE: [&str; 3] = ["--quiet", "--quiet", "--quiet"];

/// The derivation that Nix's command line calls `installable`, such as `.#hello`. Nothing is built. What Nix has to say goes to standard
/// error.
///
/// # Errors
/// There is no Nix, or it fails, after its own words.
pub fn derivation_of_installable(installable: &OsStr, store: &Store) -> Result<PathBuf> {
    let mut command = Command::new(nix()?.path);
    command.args(OF_INSTALLABLE);
    if let Some(url) = store.url() {
        command.arg("--store").arg(url);
    }
    command.arg(installable);
    ask(command, installable, store)
}

/// The derivation that is the attribute `attribute` of what `file` says.
///
/// # Errors
/// The same.
pub fn derivation_of_attribute(attribute: &OsStr, file: &Path, store: &Store) -> Result<PathBuf> {
    let mut command = Command::new(nix()?.path.with_file_name("nix-instantiate"));
    command.args(OF_ATTRIBUTE);
    if let Some(url) = store.url() {
        command.arg("--store").arg(url);
    }
    // A file that begins with a dash is no option.
    let file = if file.as_os_str().as_bytes().starts_with(b"-") { Path::new(".").join(file) } else { file.to_owned() };
    command.arg(file).arg("-A").arg(attribute);
    ask(command, attribute, store)
}

fn nix() -> Result<NixProgram> {
    NixProgram::find(&Surroundings::of_process())
        .context("there is no Nix to ask: «nix» is not in PATH, nor where it usually is")
}

fn ask(mut command: Command, what: &OsStr, store: &Store) -> Result<PathBuf> {
    let program = command.get_program().to_owned();
    // Where it is ignored, as callers may leave it, a process that has ended cannot be waited for.
    reset_signal(Signal::CHILD.as_raw() as u32).context("cannot reset a signal")?;
    let answer = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let shown = what.display();
    if !answer.status.success() {
        bail!("the evaluation of {shown} failed, as Nix has said above");
    }
    match derivations_in(&answer.stdout, store).as_slice() {
        [derivation] => Ok(derivation.clone()),
        [] => bail!("Nix does not tell a derivation of {shown}, which is perhaps no package"),
        several => bail!("{shown} is {} derivations: name one of them", several.len()),
    }
}

/// A store path a line; behind it may be the output that is wanted.
fn derivations_in(answer: &[u8], store: &Store) -> Vec<PathBuf> {
    let lines = answer.split(|byte| *byte == b'\n').map(|line| line.split(|byte| matches!(byte, b'!' | b'^')).next());
    let paths = lines.flatten().map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let mut derivations: Vec<_> =
        paths.filter(|path| path.extension() == Some("drv".as_ref()) && store.is_store_path(path)).collect();
    derivations.dedup();
    derivations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivation_is_told_with_or_without_an_output() {
        let store = Store::in_root(Path::new("/")).unwrap();
        let hello = format!("/nix/store/{}-hello.drv", "0".repeat(32));
        let derivations = |answer: String| derivations_in(answer.as_bytes(), &store);
        for answer in ["{}\n", "{}!dev\n", "{}!out\n{}!dev\n", "warning\n{}^*\n"] {
            assert_eq!(derivations(answer.replace("{}", &hello)), [PathBuf::from(&hello)], "{answer}");
        }
        assert!(derivations("/etc/x.drv\n".into()).is_empty());
        assert_eq!(derivations(format!("{hello}\n{}\n", hello.replace("hello", "other"))).len(), 2);
    }
}
