"""What the command finds in its environment where there is no env-vars to read it from: what Nix gave to the builder."""

import json
import os
import re

import pytest
from support.derivation import Derivation, without_choice
from support.kinds import KINDS
from support.nix import USER
from support.terminal import Terminal

# Where a shell is when it writes env-vars, it does not tell us for the sake of the next one.
OF_THE_MOMENT = {"PWD", "OLDPWD"}
# Some Nix names the directory outside of the sandbox, where no build can find it.
NAMED_OUTSIDE = {"NIX_ATTRS_JSON_FILE", "NIX_ATTRS_SH_FILE"}


def variables(text):
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


def without(names, variables):
    return {name: value for name, value in variables.items() if name not in names}


@pytest.fixture
def daemon_user(session, builds, workspace):
    return KINDS["daemon"]("daemon", USER, session, builds, workspace)


@pytest.fixture
def sudoer(session, builds, workspace):
    return KINDS["sudo"]("sudo", USER, session, builds, workspace)


# --- Without stdenv --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["recorded", "recorded-structured", "recorded-fixed-output"])
def test_the_environment_is_what_nix_gave_to_the_builder(opener, package):
    """To the last byte of the last variable, as the builder recorded it."""
    kept = opener.kept(package)
    result = opener.enter("cat", "/proc/self/environ", build_dir=kept)
    assert (result.returncode, result.stderr) == (0, "")
    given, found = variables((kept / "environ").read_text()), variables(result.stdout)
    assert without(NAMED_OUTSIDE, found) == without(NAMED_OUTSIDE, given)
    for name in NAMED_OUTSIDE & given.keys():
        assert found[name] == f"/build/{os.path.basename(given[name])}"
    assert found.keys() == given.keys()


def test_a_build_without_stdenv_has_its_builder_for_a_shell(opener):
    """Nothing is in PATH; what it can do it does by itself."""
    result = opener.enter(build_dir=opener.kept("fails-early"), input='echo "$PATH $HOME $NIX_BUILD_TOP $name $0"; exit 7')
    assert result.stdout == "/path-not-set /homeless-shelter /build fails-early sh\n"
    assert (result.returncode, result.stderr) == (7, "")


def derivation_of(opener, package):
    root = opener.builds.users_store() if isinstance(opener, KINDS["store-owner"]) else "/"
    return Derivation(opener.builds.derivation(opener.kept(package)), root)


def test_without_a_shell_nothing_can_be_run(opener):
    kept = opener.kept("no-shell")
    opener.refused("true", build_dir=kept, mentions=["the builder of", "-no-shell.drv", "-busybox/busybox", "is no shell"])


# --- The files that Nix writes ---------------------------------------------------------------------------------------


def files_for_the_builder(opener, build_dir):
    """What stands in the build directory at the start: names, modes and content."""
    describe = 'echo "== $(stat -c "%n %a %U" "$file")"; cat "$file"'
    script = f'for file in $(ls -A); do [ "$file" = environ ] || {{ {describe}; }}; done'
    result = opener.enter("sh", "-euc", script, build_dir=build_dir)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("package", ["recorded", "recorded-structured", "graphs", "graphs-structured"])
def test_the_files_for_the_builder_are_those_that_nix_wrote(opener, package):
    """In the directory that Nix kept they are still there; with the derivation alone they are made again."""
    kept = opener.kept(package)
    files = [path for path in sorted(kept.iterdir()) if path.name != "environ"]
    assert files
    written = "".join(f"== {path.name} 644 nixbld\n{path.read_text()}" for path in files)
    assert files_for_the_builder(opener, kept) == written
    made = files_for_the_builder(opener, opener.builds.derivation(kept))
    # Nix 2.8 does not say that what it describes is valid; later versions do.
    assert made.replace(',"valid":true', "") == written


@pytest.mark.parametrize("package, file", [("graphs", "build"), ("graphs", "program"), ("graphs-structured", ".attrs.json")])
def test_where_the_database_cannot_be_read_nix_tells_of_closures(root, package, file):
    """All but which path is addressed by its content, and how."""
    kept = root.kept(package)
    command = root.command_line("cat", file, build_dir=root.builds.derivation(kept))
    hide = 'mount -t tmpfs none /nix/var/nix/db; exec "$@"'
    how = {"env": {"NIX_REMOTE": root.builds.daemon.address}}
    result = root.run("unshare", "--mount", "bash", "-euc", hide, "bash", *command, **how)
    assert (result.returncode, result.stderr) == (0, "")
    written = re.sub('"ca":"[^"]*",', "", (kept / file).read_text())
    assert result.stdout.replace(',"valid":true', "") == written


def test_what_is_passed_as_a_file_is_where_the_variable_says(opener):
    script = 'cat "$longPath" "$quotedPath"; echo; echo "${long-unset} ${quoted-unset}"; echo "$elsewhere"'
    result = opener.enter("sh", "-euc", script, build_dir=opener.kept("recorded"))
    outputs = derivation_of(opener, "recorded").outputs
    assert result.stdout.splitlines() == [
        "first line",
        f"second line, to be in {outputs['out']}",
        "it's \"quoted\" $(touch /pwned)",
        "unset unset",
        str(outputs["doc"]),
    ]


def test_a_file_that_the_build_has_changed_stays_as_it_is(caller):
    """What Nix wrote the builder may have written over."""
    copy = caller.copy_of_kept("recorded", "nix-build-recorded.drv-0")
    (file,) = [path for path in copy.iterdir() if "quoted" in path.read_text() and path.name.startswith(".attr-")]
    caller.give(file).write_text("changed\n")
    assert caller.enter("sh", "-c", 'cat "$quotedPath"', build_dir=copy).stdout == "changed\n"


# --- With stdenv, and nothing else to read -----------------------------------------------------------------------------


def test_the_environment_before_any_phase_is_what_stdenv_makes_of_it(opener):
    """Nobody has written it down: the same derivation's builder is asked what it exports when it has read stdenv."""
    result = opener.enter("env", "-0", build_dir=opener.kept("fails-before-phases"))
    assert (result.returncode, without_choice(result.stderr)) == (0, "")
    found = variables(result.stdout)
    expected = derivation_of(opener, "fails-before-phases").environment
    assert {name: found.get(name) for name in expected} == expected
    assert found["HOME"] == "/homeless-shelter" and found["NIX_BUILD_TOP"] == "/build"
    assert found["SHELL"].endswith("-bash/bin/bash")
    assert [path.rsplit("-", 1)[1] for path in found["PATH"].split(":")] == [
        "bash/bin", "coreutils/bin", "tools/bin", "binutils/bin", "cc/bin",
    ]  # fmt: skip


@pytest.mark.parametrize("package", ["half-installed", "structured", "fixed-output"])
def test_the_environment_is_what_the_build_has_written_for_itself_alone(daemon_user, sudoer, package):
    """Its env-vars can be read with sudo only; without, the derivation tells the same."""
    kept = daemon_user.kept(package)
    assert (kept / "env-vars").stat().st_mode & 0o777 == 0o600
    written = variables(sudoer.inside("cat /proc/self/environ", build_dir=kept))
    assert "PATH" in written and "NIX_BUILD_TOP" in written
    made = variables(daemon_user.inside("cat /proc/self/environ", build_dir=kept))
    assert without(OF_THE_MOMENT | NAMED_OUTSIDE, made) == without(OF_THE_MOMENT | NAMED_OUTSIDE, written)
    assert made["PWD"] == "/build"


def test_the_file_that_cannot_be_read_is_counted_and_the_rest_is_there(daemon_user, sudoer):
    kept = daemon_user.kept("half-installed")
    result = daemon_user.enter("ls", "-A", build_dir=kept)
    assert (result.returncode, result.stdout) == (0, "greeting\n")
    said = f"left out 1 file of {kept} that you may not read; with sudo it would be there"
    assert result.stderr == f"nix-build-shell: {said}\n"
    result = sudoer.enter("ls", "-A", build_dir=kept)
    assert (result.returncode, result.stdout, result.stderr) == (0, "env-vars\ngreeting\n", "")


def test_with_sudo_all_belongs_to_the_user_who_called_it(sudoer):
    kept = sudoer.kept("half-installed")
    script = "find /build $out ! -user 1000 -o ! -group 100; cat /proc/self/uid_map; touch env-vars"
    printed = sudoer.inside(script, build_dir=kept)
    assert printed.split() == ["1000", str(USER), "1"]


def test_a_function_of_stdenv_can_be_the_command(daemon_user):
    """As in the build: with the phase's header, its hooks, and its exit status."""
    kept = daemon_user.kept("half-installed")
    result = daemon_user.enter("runPhase", "unpackPhase", build_dir=kept)
    assert result.stdout.startswith("Running phase: unpackPhase\nunpacking source archive /nix/store/")
    assert result.returncode == 1 and "unpacking made no directory" in result.stderr
    result = daemon_user.enter("makeWith", "buildFlags", "-C", "greeting", "clean", "greeting", build_dir=kept)
    assert result.returncode == 0, result
    assert "gcc -O2" in result.stdout or "cc -O2" in result.stdout
    result = daemon_user.enter("stripHash", f"/nix/store/{'0' * 32}-name", build_dir=kept)
    assert result.stdout == "name\n"


def test_a_whole_build_runs_in_what_the_derivation_tells(opener):
    """From an empty directory to where it failed in Nix, with the same message."""
    derivation = opener.builds.derivation(opener.kept("half-installed"))
    result = opener.enter("genericBuild", build_dir=derivation)
    phases = [line.split()[-1] for line in result.stdout.splitlines() if line.startswith("Running phase:")]
    assert phases == ["unpackPhase", "patchPhase", "configurePhase", "buildPhase", "installPhase"]
    assert result.returncode == 1
    assert result.stderr.endswith("half of it is installed\n")


@pytest.mark.parametrize("package", ["half-installed", "structured", "fails-before-phases"])
def test_an_interactive_shell_has_stdenvs_functions(daemon_user, package):
    kept = daemon_user.kept(package)
    with Terminal(daemon_user, *daemon_user.command_line(build_dir=kept)) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("echo is a $(type -t runPhase), $0 ${BASH_ENV-none} $(ls /proc/self/fd | wc -w)\n")
        # The last descriptor is that of ls.
        terminal.wait_for(r"\nis a function, /nix/store/\S+-bash/bin/bash none 4\r")
        terminal.wait_for(r"\$ ")
        terminal.type("false; echo still $?\n")
        terminal.wait_for("\nstill 1\r")
        terminal.type("list+=(four); echo ${list[*]-}; exit 5\n")
        if package == "structured":
            terminal.wait_for('\none two words "three" four\r')
        assert terminal.end() == 5


def test_a_shell_that_reads_a_script_has_stdenvs_functions(daemon_user):
    kept = daemon_user.kept("half-installed")
    script = "type -t runPhase\nfalse\ncat\nls /proc/self/fd | wc -w\nexit 5\n"
    result = daemon_user.enter(build_dir=kept, input=script)
    assert result.stdout.split("\n")[0] == "function"
    # cat has read the rest of the script.
    assert (result.returncode, result.stdout.split("\n")[1:]) == (0, script.split("\n")[3:])


# --- Structured attributes -------------------------------------------------------------------------------------------


def test_structured_attributes_are_variables_of_the_functions(daemon_user):
    """They are in no environment: a function has them, and a program finds them in the files."""
    kept = daemon_user.kept("structured")
    printed = daemon_user.inside('jq=$NIX_ATTRS_JSON_FILE; cat "$jq"', build_dir=kept)
    attributes = json.loads(printed)
    assert attributes["list"] == ["one", "two words", '"three"']
    assert attributes["outputs"] == {"out": str(derivation_of(daemon_user, "structured").outputs["out"])}
    script = 'source "$NIX_ATTRS_SH_FILE"; echo "${list[1]} ${set[key]} $number"'
    assert daemon_user.inside(script, build_dir=kept) == "two words value 42\n"
    result = daemon_user.enter("runHook", "preBuild", build_dir=kept)
    assert result.stdout == "elements of list: 3; set[key]: value; EXPORTED: in the environment\n"
    assert (result.returncode, result.stderr.splitlines()[-1]) == (1, "this build fails with structured attributes")


# --- Fixed outputs ---------------------------------------------------------------------------------------------------


def test_a_fixed_output_has_the_callers_impure_variables_and_no_others(opener):
    """Those that impureEnvVars names; one that is not set is empty."""
    kept = opener.kept("recorded-fixed-output")
    environment = {"http_proxy": "http://proxy:3128", "https_proxy": "http://other:3128", "name": "mine"}
    found = variables(opener.enter("cat", "/proc/self/environ", build_dir=kept, env=environment).stdout)
    assert (found["http_proxy"], found["UNSET"], found["name"]) == ("http://proxy:3128", "", "recorded-fixed-output")
    assert "https_proxy" not in found
    assert found["NIX_OUTPUT_CHECKED"] == "1"


def test_of_the_callers_other_variables_a_build_of_a_daemon_has_none(opener):
    """The daemon had its own. What is a build user's to read may be anybody's, and the caller's may be secret."""
    environment = {"https_proxy": "http://proxy:3128", "ALL_PROXY": "socks://proxy", "TOKEN": "secret"}
    kept = opener.kept("wants-secrets")
    found = variables(opener.enter("cat", "/proc/self/environ", build_dir=kept, env=environment).stdout)
    of_a_daemon = opener.name in ["daemon", "sudo"]
    expected = {"UNSET": "", "ALL_PROXY": "socks://proxy", "TOKEN": "" if of_a_daemon else "secret"}
    assert {name: found.get(name) for name in [*expected, "https_proxy"]} == {**expected, "https_proxy": None}


def test_a_build_whose_output_is_not_fixed_has_none_of_the_callers_variables(opener):
    kept = opener.kept("recorded")
    found = variables(opener.enter("cat", "/proc/self/environ", build_dir=kept, env={"http_proxy": "p", "MINE": "m"}).stdout)
    assert found.keys() == variables((kept / "environ").read_text()).keys()


# --- Where the derivation tells nothing of what happened meanwhile ------------------------------------------------------


def test_a_copy_without_env_vars_is_entered_by_the_derivation(caller):
    """Somebody has removed it: the name of the directory still tells."""
    copy = caller.copy_of_kept("half-installed", "nix-build-half-installed.drv-0")
    (copy / "env-vars").unlink()
    assert caller.inside("type -t runPhase || echo $name", build_dir=copy) == "half-installed\n"
    assert caller.enter("stripHash", "/x/name", build_dir=copy).stdout == "name\n"
