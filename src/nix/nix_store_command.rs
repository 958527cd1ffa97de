//! What `nix-store` says of a store whose database we cannot read.
//!
//! It takes tens of milliseconds a question, and of an output that was never built it does not know the derivation.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::store::Store;
use super::store_path::{is_store_path, name_without_hash};
use super::store_records::{InvalidPaths, Output, PathInfo};

/// What a Nix command needs of the caller's environment to find its store, its settings and its daemon.
const VARIABLES: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "NIX_CONF_DIR",
    "NIX_CONFIG",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_STATE_DIR",
    "NIX_STORE_DIR",
    "NIX_USER_CONF_FILES",
];

/// `nix-store`, asked about one store.
#[derive(Debug)]
pub(super) struct NixStoreCommand {
    program: OsString,
    options: Vec<OsString>,
    directory: PathBuf,
    physical_directory: PathBuf,
    because: String,
}

impl NixStoreCommand {
    /// Prepares questions about `store`, which `url` names, or which is the default one; `because` is why it has to be asked.
    pub(super) fn about(store: &Store, url: Option<OsString>, because: String) -> Self {
        // No substituter has to be asked what is valid here.
        let mut options: Vec<OsString> = ["--option", "substitute", "false"].map(Into::into).into();
        if let Some(url) = url {
            options.extend(["--store".into(), url]);
        }
        Self {
            program: "nix-store".into(),
            options,
            directory: store.directory().to_owned(),
            physical_directory: store.physical_directory().to_owned(),
            because,
        }
    }

    pub(super) fn because(&self) -> &str {
        &self.because
    }

    pub(super) fn derivers_of_output(&self, output: &Path) -> Result<Vec<PathBuf>> {
        let said = self.ask(&["--query", "--deriver"], [output])?;
        // «unknown-deriver» is no path.
        let derivers = words(&said).filter(|path| is_store_path(&self.directory, path));
        let mut valid = Vec::new();
        for deriver in derivers {
            if self.is_valid(&deriver)? {
                valid.push(deriver);
            }
        }
        Ok(valid)
    }

    /// What lies in the store directory; the last changed first, since Nix does not tell when it registered what.
    pub(super) fn derivations_named(&self, name: &str) -> Result<Vec<PathBuf>> {
        let wanted = format!("{name}.drv");
        let directory = &self.physical_directory;
        let mut found = Vec::new();
        for entry in
            fs::read_dir(directory).with_context(|| format!("cannot list the store {}", directory.display()))?
        {
            let entry = entry.with_context(|| format!("cannot list the store {}", directory.display()))?;
            let path = self.directory.join(entry.file_name());
            if is_store_path(&self.directory, &path)
                && name_without_hash(&path) == Some(&wanted)
                && let Ok(status) = entry.metadata()
            {
                found.push(((status.ctime(), status.ctime_nsec()), path));
            }
        }
        found.sort_unstable();
        let mut paths: Vec<PathBuf> = found.into_iter().rev().map(|(_, path)| path).collect();
        let invalid = self.invalid_of(paths.iter().map(PathBuf::as_path))?;
        paths.retain(|path| !invalid.contains(path));
        Ok(paths)
    }

    pub(super) fn is_valid(&self, path: &Path) -> Result<bool> {
        Ok(self.invalid_of([path])?.is_empty())
    }

    /// The name of an output is what its path has after the derivation's name.
    pub(super) fn outputs_of_all(&self, derivations: &[&Path]) -> Result<Vec<(PathBuf, Output)>> {
        let mut all = Vec::new();
        let invalid = self.invalid_of(derivations.iter().copied())?;
        for derivation in derivations.iter().filter(|derivation| !invalid.iter().any(|path| path == *derivation)) {
            let base = name_without_hash(derivation).and_then(|name| name.strip_suffix(".drv")).unwrap_or_default();
            for path in self.paths(&self.ask(&["--query", "--outputs"], [*derivation])?)? {
                let rest = name_without_hash(&path).and_then(|name| name.strip_prefix(base)).unwrap_or_default();
                let name = rest.strip_prefix('-').unwrap_or("out").to_owned();
                all.push((derivation.to_path_buf(), Output { name, path }));
            }
        }
        Ok(all)
    }

    pub(super) fn closure(&self, roots: &[&Path]) -> Result<Vec<PathBuf>> {
        let invalid = self.invalid_of(roots.iter().copied())?;
        if !invalid.is_empty() {
            return Err(InvalidPaths::new(invalid).into());
        }
        let mut closure = self.paths(&self.ask(&["--query", "--requisites"], roots.iter().copied())?)?;
        closure.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
        closure.dedup();
        Ok(closure)
    }

    /// A dump has for each path, a line each: the path, the hash and the size of its archive, what made it, how many references it
    /// has, and these.
    pub(super) fn path_infos(&self, paths: &[&Path]) -> Result<Vec<PathInfo>> {
        let invalid = self.invalid_of(paths.iter().copied())?;
        if !invalid.is_empty() {
            return Err(InvalidPaths::new(invalid).into());
        }
        let said = self.ask(&["--dump-db"], paths.iter().copied())?;
        let is_odd = || anyhow!("nix-store --dump-db said what is no dump of a Nix database");
        let text = str::from_utf8(&said).map_err(|_| is_odd())?;
        let mut lines = text.lines();
        let mut infos = Vec::with_capacity(paths.len());
        while let Some(path) = lines.next() {
            let mut info = || {
                let nar_hash = PathInfo::nar_hash_of(lines.next()?.as_bytes())?;
                let nar_size = lines.next()?.parse().ok()?;
                let _deriver = lines.next()?;
                let count = lines.next()?.parse().ok()?;
                let references = lines.by_ref().take(count).collect::<Vec<_>>().join("\n");
                Some((nar_hash, nar_size, references))
            };
            let (nar_hash, nar_size, references) = info().ok_or_else(is_odd)?;
            let mut references = self.paths(references.as_bytes())?;
            references.sort_unstable();
            infos.push(PathInfo { path: path.into(), nar_hash, nar_size, references, content_address: None });
        }
        let is_whole = infos.iter().map(|info| info.path.as_path()).eq(paths.iter().copied());
        if is_whole { Ok(infos) } else { Err(is_odd()) }
    }

    fn invalid_of<'a>(&self, paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<PathBuf>> {
        self.paths(&self.ask(&["--check-validity", "--print-invalid"], paths)?)
    }

    fn paths(&self, said: &[u8]) -> Result<Vec<PathBuf>> {
        words(said)
            .map(|path| {
                if is_store_path(&self.directory, &path) {
                    Ok(path)
                } else {
                    Err(anyhow!("nix-store said {path:?} where a path in {} has to be", self.directory.display()))
                }
            })
            .collect()
    }

    /// What nix-store prints. About nothing it would complain.
    fn ask<'a>(&self, operation: &[&str], paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<u8>> {
        let paths: Vec<&Path> = paths.into_iter().collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = Command::new(&self.program);
        command.env_clear().envs(VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command.args(&self.options).args(operation).args(paths);
        let because = &self.because;
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("{because}, and there is no «nix-store» in PATH to ask instead"),
            _ => anyhow!("{because}, and «nix-store» cannot be started: {error}"),
        })?;
        if !output.status.success() {
            let complaint = complaint(&output.stderr, &output.status);
            bail!("{because}, and «nix-store {}» fails: {complaint}", operation.join(" "));
        }
        Ok(output.stdout)
    }
}

fn words(said: &[u8]) -> impl Iterator<Item = PathBuf> {
    said.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| OsString::from_vec(word.to_vec()).into())
}

/// The last error among the lines that Nix printed, without its colours.
fn complaint(stderr: &[u8], status: &std::process::ExitStatus) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<String> = text.lines().map(without_colours).filter(|line| !line.trim().is_empty()).collect();
    let error =
        lines.iter().rev().find_map(|line| line.split_once("error: ").map(|(_, error)| error.trim().to_owned()));
    error.or_else(|| lines.last().map(|line| line.trim().to_owned())).unwrap_or_else(|| status.to_string())
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000000-a";
    const DRV: &str = "/nix/store/11111111111111111111111111111111-a-1.drv";

    /// A nix-store that is a line of shell, in which `$operation` and `$paths` are what it is asked.
    fn nix_store(line: &str) -> NixStoreCommand {
        let store = Store::in_root(Path::new("/root-of-store")).expect("a root");
        let mut command = NixStoreCommand::about(&store, None, "the reason".into());
        command.program = "sh".into();
        let script = format!("operation=\"$1 $2\"; shift 2; paths=$*; case $operation in {line} esac");
        command.options = ["-c".into(), script.into(), "nix-store".into()].into();
        command
    }

    #[test]
    fn a_closure_is_sorted_and_each_path_there_once() {
        let command = nix_store(&format!("*print-invalid) ;; *requisites) echo {DRV}; echo $paths; echo $paths;;"));
        assert_eq!(command.closure(&[Path::new(A)]).expect("a closure"), [Path::new(A), Path::new(DRV)]);
    }

    #[test]
    fn an_invalid_root_is_named() {
        let command = nix_store("*print-invalid) printf '%s ' $paths;;");
        let error = command.closure(&[Path::new(A)]).expect_err("invalid");
        assert_eq!(error.downcast_ref(), Some(&InvalidPaths::new(vec![A.into()])));
        assert!(!command.is_valid(Path::new(A)).expect("an answer"));
    }

    #[test]
    fn an_output_has_the_end_of_its_path_as_its_name() {
        let paths =
            "/nix/store/22222222222222222222222222222222-a-1 /nix/store/33333333333333333333333333333333-a-1-dev";
        let command = nix_store(&format!("*outputs) echo {paths};; *print-invalid) ;;"));
        let outputs = command.outputs_of_all(&[Path::new(DRV)]).expect("outputs");
        let names: Vec<_> = outputs.iter().map(|(_, output)| output.name.as_str()).collect();
        assert_eq!(names, ["out", "dev"]);
    }

    #[test]
    fn a_dump_tells_of_each_path_that_was_asked_for() {
        let hash = "ff".repeat(32);
        let dumped = |lines: &str| {
            let command = nix_store(&format!("*print-invalid) ;; '--dump-db '*) printf '%s\n' {lines};;"));
            command.path_infos(&[Path::new(A), Path::new(DRV)])
        };
        let a = format!("{A} {hash} 7 '' 2 {DRV} {A}");
        let infos = dumped(&format!("{a} {DRV} {hash} 8 {A} 0")).expect("path infos");
        let expected = |path: &str, nar_size, references: &[&str]| PathInfo {
            path: path.into(),
            nar_hash: [0xff; 32],
            nar_size,
            references: references.iter().map(PathBuf::from).collect(),
            content_address: None,
        };
        assert_eq!(infos, [expected(A, 7, &[A, DRV]), expected(DRV, 8, &[])]);
        for cut in [a.clone(), format!("{a} {DRV} {hash} 8"), format!("{a} {DRV} x 8 {A} 0")] {
            assert!(dumped(&cut).expect_err("no dump").to_string().contains("no dump of a Nix database"), "{cut}");
        }
    }

    #[test]
    fn an_unknown_deriver_is_none() {
        let command = nix_store("*deriver) echo unknown-deriver;;");
        assert_eq!(command.derivers_of_output(Path::new(A)).expect("an answer"), [] as [&Path; 0]);
    }

    #[test]
    fn a_refusal_is_one_sentence_with_what_nix_said_and_why_it_was_asked() {
        let command =
            nix_store(r"*) printf 'warning: x\n\033[31;1merror:\033[0m it \033[35;1mis\033[0m so\n' >&2; exit 1;;");
        let error = command.closure(&[Path::new(A)]).expect_err("a refusal");
        assert_eq!(error.to_string(), "the reason, and «nix-store --check-validity --print-invalid» fails: it is so");
        let mut absent = command;
        absent.program = "/nonexistent/nix-store".into();
        let error = absent.is_valid(Path::new(A)).expect_err("no program");
        assert_eq!(error.to_string(), "the reason, and there is no «nix-store» in PATH to ask instead");
    }

    #[test]
    fn what_is_no_store_path_is_refused() {
        let command = nix_store("*print-invalid) ;; *) echo /nix/store/../../etc;;");
        assert!(command.closure(&[Path::new(A)]).is_err());
    }

    #[test]
    fn the_environment_is_small() {
        let command = nix_store("*) env | grep -c '^CARGO' >&2; exit 1;;");
        let error = command.is_valid(Path::new(A)).expect_err("the count");
        assert!(error.to_string().ends_with("fails: 0"), "{error}");
    }
}
