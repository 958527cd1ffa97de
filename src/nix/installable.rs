//! Has Nix build what its command line calls an installable: `nixpkgs#strace`, `.#package`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::nix_program::NixProgram;
use super::store::Store;
use super::surroundings::Surroundings;
use crate::sys::reset_signal;

/// What every version since 2.4 knows; `--print-out-paths` is younger. The features are named as a setting, as in
/// [`nix_program`](super::nix_program).
const ARGUMENTS: [&str; 6] =
    ["build", "--no-link", "--json", "--option", "extra-experimental-features", "nix-command flakes"];

/// Has [`nix build`] build or fetch `installable` into `store`, and tells its store paths. What Nix has to say goes to standard error
/// as it comes: it may take long.
///
/// [`nix build`]: https://nix.dev/manual/nix/latest/command-ref/new-cli/nix3-build
///
/// # Errors
/// There is no Nix, or it fails, after its own words.
pub fn build(installable: &OsStr, store: &Store) -> Result<Vec<PathBuf>> {
    let shown = installable.display();
    if installable.is_empty() || installable.as_bytes().starts_with(b"-") {
        bail!("{installable:?} is neither a store path nor anything that Nix could build");
    }
    let nix = NixProgram::find(&Surroundings::of_process())
        .with_context(|| format!("{shown} is no store path, and there is no Nix to build it"))?;
    // Where it is ignored, as callers may leave it, a process that has ended cannot be waited for.
    reset_signal(Signal::CHILD.as_raw() as u32).context("cannot reset a signal")?;
    let mut command = Command::new(&nix.path);
    command.args(ARGUMENTS);
    if let Some(url) = store.url() {
        command.arg("--store").arg(url);
    }
    let answer = command
        .arg(installable)
        // What is typed, or piped, is for the sandbox.
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", nix.path.display()))?;
    if !answer.status.success() {
        bail!("{shown} is no store path, and Nix could not build it");
    }
    let paths = store_paths(&answer.stdout, store);
    if paths.is_empty() {
        bail!("Nix does not tell the store path of {shown}, which is perhaps no package");
    }
    Ok(paths)
}

/// The store paths in Nix's answer: a list of `{"outputs": {"out": PATH}}` or, for what no derivation makes, `{"path": PATH}`, or just
/// the path.
fn store_paths(answer: &[u8], store: &Store) -> Vec<PathBuf> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let built = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let paths = built.iter().flat_map(|built| match built {
        Value::String(path) => vec![path.as_str()],
        Value::Object(built) => match (built.get("outputs").and_then(Value::as_object), built.get("path")) {
            (Some(outputs), _) => outputs.values().filter_map(Value::as_str).collect(),
            (None, path) => path.and_then(Value::as_str).into_iter().collect(),
        },
        _ => Vec::new(),
    });
    paths.map(PathBuf::from).filter(|path| store.is_store_path(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_answers_of_all_versions_are_understood() {
        let store = Store::in_root(Path::new("/")).unwrap();
        let path = |name: &str| format!("/nix/store/{}-{name}", "0".repeat(32));
        let (out, man) = (path("hello"), path("hello-man"));
        let paths = |answer: String| store_paths(answer.as_bytes(), &store);
        let derivation = format!(r#"[{{"drvPath":"x","outputs":{{"man":"{man}","out":"{out}"}},"startTime":0}}]"#);
        assert_eq!(paths(derivation), [&man, &out].map(PathBuf::from));
        assert_eq!(paths(format!(r#"[{{"path":"{out}"}}]"#)), [PathBuf::from(&out)]);
        assert_eq!(paths(format!(r#"["{out}"]"#)), [PathBuf::from(&out)]);
        assert!(paths(r#"[{"outputs":{"out":null}}]"#.into()).is_empty());
        assert!(paths("no JSON".into()).is_empty());
        assert!(paths(r#"["/etc"]"#.into()).is_empty());
    }
}
