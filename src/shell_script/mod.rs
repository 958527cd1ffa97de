//! What a build's bash is told to do in the sandbox.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::build_shell::BuildShell;

/// Functions that know stdenv, for [`RESUME`] and for the bash of a session.
pub(crate) const STDENV: &str = include_str!("stdenv.sh");
/// Runs phases of a build: what it takes stands at its head.
const RESUME: &str = concat!(include_str!("stdenv.sh"), include_str!("resume.sh"));
/// Has bash read its first argument as a file, with the others as arguments. Bash loses the exit status of a phase that fails in a
/// `-c`, and no file of ours is to be seen in the build. As in a build, nothing is to be read from the standard input.
const AS_FILE: &str = r#"exec 9<<<"$1" < /dev/null; shift; exec "$0" -e /dev/fd/9 "$@""#;

/// Has a builder nothing to read.
const AS_BUILDER: &str = r#"exec "$@" < /dev/null"#;

/// What is run of a build by stdenv.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phases {
    /// The first.
    pub first: String,
    /// Whether no other follows.
    pub is_only_one: bool,
    /// Where it begins, a path in the sandbox.
    pub directory: PathBuf,
    /// The directory that `unpackPhase` has made, if it was run, as the build's log tells it.
    pub source_root: Option<String>,
}

/// The command that runs `phases` with `shell`, as far as the build's stdenv has them, without reading from a terminal. At the begin of
/// each phase its name, the directory and the outputs that there are are added to the file `note`, a path in the sandbox, if there is one.
///
/// It ends as the build would have ended: with the status of the phase that fails, after stdenv's failure hook. Where there is no such
/// phase or directory it says so and ends with the status 125.
pub fn resume(shell: &BuildShell, phases: &Phases, note: Option<&Path>) -> Vec<OsString> {
    let shell: OsString = shell.path.clone().into();
    let how = if phases.is_only_one { "only" } else { "from" };
    let mut command: Vec<OsString> = vec![shell.clone(), "-c".into(), AS_FILE.into(), shell, RESUME.into(), how.into()];
    command.extend([(&phases.first).into(), phases.directory.clone().into()]);
    command.push(phases.source_root.as_deref().unwrap_or_default().into());
    command.push(note.unwrap_or(Path::new("")).into());
    command
}

/// The command that runs a builder with its arguments, as Nix does: without anything to read.
pub fn whole_build(shell: &BuildShell, builder: &[u8], arguments: &[Vec<u8>]) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec![shell.path.clone().into()];
    command.extend(shell.applet.clone());
    command.extend(["-c", AS_BUILDER, "--"].map(OsString::from));
    let of_builder = [builder].into_iter().chain(arguments.iter().map(Vec::as_slice));
    command.extend(of_builder.map(|word| OsString::from_vec(word.to_vec())));
    command
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Output};

    use tempfile::TempDir;

    use super::*;

    /// As much of a stdenv as there was before it had runPhase and definePhases.
    const OLD_STDENV: &str = r#"
        set -e
        exitHandler() { local status=$?; if [ $status != 0 ]; then echo "hook after $status"; fi; exit $status; }
        trap exitHandler EXIT
        dumpVars() { echo "dump in ${PWD##*/}, before: ${OLDPWD##*/}, A=$A"; }
        showPhaseHeader() { echo "header $1"; }
        export A="$A again"
        unpackPhase() { mkdir src; sourceRoot=src; }
        buildPhase() { foundMakefile=1; echo "build ${PWD##*/}"; read -r line || echo nothing to read; }
        checkPhase() { echo "check in ${sourceRoot-nowhere}"; [ -n "$foundMakefile" ] || return 0; false; echo not reached; }
        otherPhase() { echo other; }
        genericBuild() {
            if [ -n "$buildCommand" ]; then eval "$buildCommand"; return; fi
            phases=${phases:-unpackPhase patchPhase configurePhase buildPhase checkPhase installPhase fixupPhase $postPhases}
            for curPhase in $phases; do
                if [ "$curPhase" = patchPhase -a -n "$dontPatch" ]; then continue; fi
                if [ "$curPhase" = configurePhase -a -n "$dontConfigure" ]; then continue; fi
                if [ "$curPhase" = checkPhase -a -z "$doCheck" ]; then continue; fi
                if [ "$curPhase" = installPhase -a -n "$dontInstall" ]; then continue; fi
                if [ "$curPhase" = fixupPhase -a -n "$dontFixup" ]; then continue; fi
                if [ "$curPhase" = installCheckPhase -o "$curPhase" = distPhase ]; then continue; fi
                if [ -n "$NIX_LOG_FD" ]; then
                    echo "@nix { \"action\": \"setPhase\", \"phase\": \"$curPhase\" }" >&"$NIX_LOG_FD"
                fi
                showPhaseHeader "$curPhase"
                dumpVars
                eval "${!curPhase:-$curPhase}"
                if [ "$curPhase" = unpackPhase ]; then cd "${sourceRoot:-.}"; fi
            done
        }
    "#;
    const NEW_STDENV: &str = "
        runPhase() { echo \"new $*\"; eval \"${!1:-$1}\"; }
        definePhases() { phases=${phases:-\"unpackPhase otherPhase buildPhase\"}; }
        genericBuild() { export GZIP_NO_TIMESTAMPS=1; }
    ";

    fn run(stdenv: &str, variables: &[(&str, &str)], how: &dyn Fn(&Path) -> Vec<OsString>) -> Output {
        let top = TempDir::new().unwrap();
        let build = top.path().join("build");
        fs::create_dir_all(build.join("here")).unwrap();
        fs::write(top.path().join("setup"), stdenv).unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let command = how(&build.join("here"));
        Command::new(&command[0])
            .args(&command[1..])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NIX_BUILD_TOP", &build)
            .env("stdenv", top.path())
            .env("A", "once")
            .envs(variables.iter().copied())
            .current_dir(build)
            .output()
            .unwrap()
    }

    /// A build of this program by Nix has no /bin/bash.
    fn bash_file() -> PathBuf {
        let search_path = std::env::var_os("PATH").unwrap();
        std::env::split_paths(&search_path).map(|directory| directory.join("bash")).find(|file| file.is_file()).unwrap()
    }

    fn bash() -> BuildShell {
        BuildShell { path: bash_file(), applet: None, file: bash_file() }
    }

    fn phases(first: &str, is_only_one: bool, directory: &Path) -> Phases {
        Phases { first: first.into(), is_only_one, directory: directory.into(), source_root: None }
    }

    fn from(phase: &'static str) -> impl Fn(&Path) -> Vec<OsString> {
        move |directory| resume(&bash(), &phases(phase, false, directory), None)
    }

    fn only(phase: &'static str) -> impl Fn(&Path) -> Vec<OsString> {
        move |directory| resume(&bash(), &phases(phase, true, directory), None)
    }

    fn said(output: &Output) -> (Vec<String>, String, i32) {
        let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(String::from).collect::<Vec<_>>();
        (lines(&output.stdout), lines(&output.stderr).join("\n"), output.status.code().unwrap_or(-1))
    }

    #[test]
    fn a_stdenv_without_run_phase_goes_on_as_its_generic_build_did() {
        let phases =
            [("phases", "unpackPhase buildPhase checkPhase otherPhase"), ("doCheck", "1"), ("buildCommand", "")];
        let (lines, errors, status) = said(&run(OLD_STDENV, &phases, &from("buildPhase")));
        assert_eq!(
            lines,
            [
                "header buildPhase",
                "dump in here, before: build, A=once",
                "build here",
                "nothing to read",
                "header checkPhase",
                "dump in here, before: build, A=once",
                "check in nowhere",
                "hook after 1"
            ]
        );
        assert_eq!((errors.as_str(), status), ("", 1));
    }

    #[test]
    fn its_phases_are_the_usual_ones_and_switches_hold() {
        let variables = [
            ("dontPatch", "1"),
            ("dontConfigure", "1"),
            ("dontInstall", "1"),
            ("dontFixup", "1"),
            ("postPhases", "otherPhase"),
            ("buildPhase", "echo instead"),
            ("NIX_LOG_FD", "2"),
        ];
        let (lines, errors, status) = said(&run(OLD_STDENV, &variables, &from("unpackPhase")));
        let lines: Vec<_> = lines.iter().filter(|line| !line.starts_with("header")).map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                "dump in here, before: build, A=once",
                "dump in src, before: here, A=once",
                "instead",
                "dump in src, before: here, A=once",
                "other"
            ]
        );
        let mark = |phase| format!("@nix {{ \"action\": \"setPhase\", \"phase\": \"{phase}\" }}");
        assert_eq!(errors, ["unpackPhase", "buildPhase", "otherPhase"].map(mark).join("\n"));
        assert_eq!(status, 0);
    }

    #[test]
    fn a_newer_stdenv_does_it_itself() {
        let stdenv = [OLD_STDENV, NEW_STDENV].concat();
        let (lines, errors, status) = said(&run(&stdenv, &[], &from("otherPhase")));
        assert_eq!(lines, ["new otherPhase", "other", "new buildPhase", "build here", "nothing to read"]);
        assert_eq!((errors.as_str(), status), ("", 0));
        assert_eq!(said(&run(&stdenv, &[], &only("otherPhase"))).0, ["new otherPhase", "other"]);
        assert_eq!(said(&run(&stdenv, &[("doCheck", "1"), ("foundMakefile", "1")], &only("checkPhase"))).2, 1);
    }

    #[test]
    fn a_whole_build_is_the_builder_with_nothing_to_read() {
        let arguments = ["-ec", "read -r line || echo nothing for \"$*\"; exit 3", "builder", "two  words"];
        let builder = |_: &Path| {
            whole_build(&bash(), bash_file().as_os_str().as_bytes(), &arguments.map(|word| word.as_bytes().to_vec()))
        };
        assert_eq!(said(&run("", &[], &builder)), (vec!["nothing for two  words".into()], String::new(), 3));
    }

    #[test]
    fn what_phases_tell_each_other_without_exporting_it_is_known_again() {
        let stdenvs = [OLD_STDENV.to_owned(), [OLD_STDENV, NEW_STDENV].concat()];
        for stdenv in stdenvs {
            let check = |makefile: bool, more: &[(&str, &str)]| {
                let list = ("phases", "unpackPhase buildPhase checkPhase");
                let variables = [&[list, ("doCheck", "1")], more].concat();
                let (lines, _, status) = said(&run(&stdenv, &variables, &|directory| {
                    if makefile {
                        fs::write(directory.join("Makefile"), "").unwrap();
                    }
                    let source_root = Some("the source".into());
                    resume(&bash(), &Phases { source_root, ..phases("checkPhase", false, directory) }, None)
                }));
                (lines.into_iter().find(|line| line.starts_with("check in")).unwrap(), status)
            };
            let fails = ("check in the source".to_owned(), 1);
            let does_nothing = ("check in the source".to_owned(), 0);
            assert_eq!(check(true, &[]), fails);
            assert_eq!(check(false, &[("makeFlags", "X=1")]), fails);
            // As in the build, where another buildPhase tells nothing.
            assert_eq!(check(false, &[]), does_nothing);
            assert_eq!(check(true, &[("buildPhase", "make")]), does_nothing);
            assert_eq!(check(true, &[("dontBuild", "1")]), does_nothing);
        }
    }

    #[test]
    fn the_phase_that_fails_is_noted() {
        let place = TempDir::new().unwrap();
        let note = place.path().join("note");
        let variables = [("phases", "otherPhase buildPhase checkPhase otherPhase"), ("doCheck", "1")];
        let with_note = |directory: &Path| resume(&bash(), &phases("otherPhase", false, directory), Some(&note));
        assert_eq!(said(&run(OLD_STDENV, &variables, &with_note)).2, 1);
        let noted = fs::read_to_string(&note).unwrap();
        let fields: Vec<_> = noted.split('\0').collect();
        let phases: Vec<_> =
            fields.chunks_exact(3).map(|phase| (phase[0], phase[1].ends_with("/build/here"), phase[2])).collect();
        assert_eq!(phases, ["otherPhase", "buildPhase", "checkPhase"].map(|phase| (phase, true, "")));
        assert_eq!(fields.last(), Some(&""));
    }

    #[test]
    fn structured_attributes_are_arrays_again() {
        let stdenv = [OLD_STDENV, NEW_STDENV, "otherPhase() { echo \"${#list[@]}: ${list[1]}\"; }"].concat();
        let attributes = TempDir::new().unwrap();
        let file = attributes.path().join("attrs.sh");
        fs::write(&file, "declare -a list=('one' 'two words')\n").unwrap();
        let variables = [("NIX_ATTRS_SH_FILE", file.to_str().unwrap())];
        assert_eq!(said(&run(&stdenv, &variables, &only("otherPhase"))).0, ["new otherPhase", "2: two words"]);
    }

    #[test]
    fn what_is_not_there_is_refused_without_stdenvs_hooks() {
        let (lines, errors, status) = said(&run(OLD_STDENV, &[("phases", "a b")], &from("otherPhase")));
        assert_eq!((lines.len(), status), (0, 125));
        assert_eq!(errors, "nix-build-shell: there is no phase otherPhase; the phases are: a b");
        let (_, errors, status) = said(&run(OLD_STDENV, &[], &only("checkPhase")));
        assert_eq!(errors, "nix-build-shell: checkPhase is left out of this build by doCheck, which is «»");
        assert_eq!(status, 125);
        let elsewhere = |_: &Path| resume(&bash(), &phases("buildPhase", true, Path::new("/no/where")), None);
        let (_, errors, status) = said(&run(OLD_STDENV, &[], &elsewhere));
        assert_eq!(errors, "nix-build-shell: there is no directory /no/where, in which buildPhase is to begin");
        assert_eq!(status, 125);
        assert_eq!(said(&run(OLD_STDENV, &[], &only("nonsense"))).2, 125);
    }
}
