//! What the sandbox executes at the end: the build's shell, which becomes the command, or the shell of a session.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Command, c_string};
use crate::failed_build::{FailedBuild, Preparation};
use crate::session_shell::SessionShell;
use crate::shell_script::STDENV;

/// What the shell does in the sandbox after `source /build/env-vars`: become the command.
const BECOME_COMMAND: &str = r#"; exec "$@""#;
/// Where there is no `env-vars` stdenv makes the environment anew. With structured attributes it is named in a file.
const SOURCE_STDENV: &str =
    r#"if [ -e "${NIX_ATTRS_SH_FILE-}" ]; then source "$NIX_ATTRS_SH_FILE"; fi; source "$stdenv/setup""#;
/// What the shell does after that: stdenv's functions can be commands.
const CALL_OR_BECOME_COMMAND: &str = r#"; if [ "$(type -t -- "$1")" = function ]; then "$@"; else exec "$@"; fi"#;
/// A build without stdenv has its environment from the start. The shell counts itself in one more variable.
const FORGET_LEVEL: &str = "unset SHLVL";

/// What the bash of a session reads when it starts.
const SESSION: &str = concat!(include_str!("scripts/session.sh"), include_str!("scripts/session-resume.sh"));
/// The same for other shells, which can do less.
const SESSION_OF_OTHER_SHELLS: &str = include_str!("scripts/session-of-other-shells.sh");

/// What a session has of its own, beside what the build had.
pub(super) const SESSION_DIRECTORY: &str = "/.nix-build-shell";
/// The file in it that the shell reads when it starts.
pub(super) const SESSION_SCRIPT: &str = "session.sh";
/// The directory in it that can be written to.
pub(super) const SESSION_STATE: &str = "state";

/// An interactive session in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The shell that somebody types into.
    pub shell: SessionShell,
    /// What the build is called in the prompt.
    pub name: String,
    /// The phase that failed, if that is known.
    pub failed_phase: Option<String>,
    /// Where that phase began, as the sandbox has it, where `env-vars` may be of another one.
    #[serde(with = "crate::os_text::optional")]
    pub start: Option<PathBuf>,
    /// The directory of the sources, relative to the build directory, if that is known.
    pub source_root: Option<String>,
    /// The outputs that the phase that failed has made, by their paths.
    pub made_outputs: Vec<String>,
}

/// What is to run in the sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry<'a> {
    /// A program with its arguments, or where there is none the build's shell, as it is.
    Command(&'a [&'a OsStr]),
    /// A shell for a person.
    Session(&'a Session),
}

impl Command {
    pub(super) fn of_entry(build: &FailedBuild, entry: Entry<'_>) -> Result<Self> {
        match entry {
            Entry::Command(command) => Self::in_build_shell(build, command),
            Entry::Session(session) => Self::of_session(build, session),
        }
    }

    /// `SHELL -c SCRIPT -- COMMAND ARG...`, with SHELL itself where there is no command.
    fn in_build_shell(build: &FailedBuild, command: &[&OsStr]) -> Result<Self> {
        let shell: Vec<&OsStr> =
            [build.shell.path.as_os_str()].into_iter().chain(build.shell.applet.as_deref()).collect();
        let path = match build.additions.search_path_suffix() {
            suffix if suffix.is_empty() => String::new(),
            suffix => format!("; PATH=$PATH{}", quoted(&suffix)),
        };
        let script = match build.environment.preparation {
            Preparation::EnvVars => {
                format!("source {}/env-vars{path}{BECOME_COMMAND}", quoted_path(&build.build_directory))
            }
            Preparation::Stdenv if command.is_empty() => shell_with_stdenv(&path),
            Preparation::Stdenv => format!("{SOURCE_STDENV}{path}{CALL_OR_BECOME_COMMAND}"),
            Preparation::Nothing => format!("{FORGET_LEVEL}{path}{BECOME_COMMAND}"),
        };
        let script = ["-c", &script, "--"].map(OsStr::new);
        let command = if command.is_empty() { &shell } else { command };
        Ok(Self {
            program: c_string(build.shell.path.as_os_str())?,
            arguments: shell.iter().chain(&script).chain(command).map(|word| c_string(word)).collect::<Result<_>>()?,
            environment: environment_of(build)?,
        })
    }

    fn of_session(build: &FailedBuild, session: &Session) -> Result<Self> {
        let shell = &session.shell;
        let script = Path::new(SESSION_DIRECTORY).join(SESSION_SCRIPT);
        let mut environment = environment_of(build)?;
        let arguments = if shell.is_bash {
            // Called «sh» it would read another file.
            vec![
                c_string(shell.path.with_file_name("bash").as_os_str())?,
                c"--rcfile".into(),
                c_string(script.as_os_str())?,
            ]
        } else {
            environment.push(c_string(OsStr::from_bytes(&[b"ENV=", script.as_os_str().as_bytes()].concat()))?);
            [shell.path.as_os_str()].into_iter().chain(shell.applet.as_deref()).map(c_string).collect::<Result<_>>()?
        };
        Ok(Self { program: c_string(shell.path.as_os_str())?, arguments, environment })
    }
}

/// The file [`SESSION_SCRIPT`]: values of variables, then what is done with them.
pub(super) fn session_script(build: &FailedBuild, session: &Session) -> String {
    let values = [
        ("nbsShell", session.shell.path.display().to_string()),
        ("nbsTop", build.build_directory.display().to_string()),
        ("nbsDirectory", SESSION_DIRECTORY.to_owned()),
        ("nbsName", session.name.clone()),
        ("nbsPhase", session.failed_phase.clone().unwrap_or_default()),
        ("nbsStart", session.start.as_deref().unwrap_or(Path::new("")).display().to_string()),
        ("nbsSourceRoot", session.source_root.clone().unwrap_or_default()),
        ("nbsSearchPath", build.additions.search_path_suffix()),
        ("nbsMadeOutputs", session.made_outputs.join(" ")),
    ];
    let script = if session.shell.is_bash { [STDENV, SESSION] } else { ["", SESSION_OF_OTHER_SHELLS] };
    let lines = values.iter().map(|(name, value)| format!("{name}={}\n", quoted(value)));
    lines.chain(script.map(String::from)).collect()
}

/// A shell that reads its commands from a file or a pipe and has stdenv's functions. They do not outlive an `exec`, so it reads stdenv
/// by itself, from a descriptor that it closes. An error is not to end it, nor its end to be taken for the build's.
fn shell_with_stdenv(path: &str) -> String {
    format!(
        "exec 9<<<'exec 9<&-; unset BASH_ENV; {SOURCE_STDENV}{path}; set +eu; trap - EXIT'; BASH_ENV=/dev/fd/9 exec \"$@\" --rcfile \
         /dev/fd/9"
    )
}

fn environment_of(build: &FailedBuild) -> Result<Vec<CString>> {
    let variables = build.environment.variables.iter();
    variables.map(|(name, value)| c_string(OsStr::from_bytes(&[name, &b"="[..], value].concat()))).collect()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// A text as a shell reads it: most need no quotes.
fn quoted(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.+:".contains(&byte));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_word_is_quoted() {
        assert_eq!(quoted("/build"), "/build");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
        assert_eq!(quoted(":/nix/store/x-gdb/bin"), ":/nix/store/x-gdb/bin");
    }
}
