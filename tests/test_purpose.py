"""What the program is for: packages that fail only in Nix's sandbox fail in here as they failed there, and nowhere else.

README's table is the list of them. What it quotes and claims is what these tests look for.
"""

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.session import CHECKOUT

HEADING = "## What fails only in the sandbox"
SOURCES = CHECKOUT / "nix" / "offline" / "sandbox-only"
SEGMENT = Path("/dev/shm/scoreboard")
"""What the package «shared-memory» shares, once its user has run `make serve`."""
PHASES = {"buildPhase": "make", "checkPhase": "make check", "installPhase": "make install PREFIX=$PWD/installed"}
"""How somebody without Nix does what a phase does."""

ROW = re.compile(
    r"""
    \| \ \[.*\]\(nix/offline/sandbox-only/(?P<package>[a-z-]+)\)\ # the cause
    \| \ `(?P<message>.*)`\ # nix-build
    \| \ (?P<elsewhere>works(,\ as\ root)?(,\ on\ a\ terminal)?(,\ after\ `(?P<before>.*)`)?)\ # nix-shell
    \| \ the\ same(,\ as\ `(?P<step>.*)`)?(?P<without_terminal>,\ with\ `</dev/null`)?\ \| # nix-build-shell
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Cause:
    """A row of the table."""

    package: str
    message: re.Pattern
    as_root: bool
    on_terminal: bool
    before: str | None
    """What a user has run on his machine some day, and forgotten."""
    step: str | None
    """What fails in here, where the whole phase does not."""
    without_terminal: bool
    """Whether it fails in here only while standard input is no terminal."""


def rows():
    """The lines of the table, without its heading."""
    section = (CHECKOUT / "README.md").read_text().split(f"\n{HEADING}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def cause_of(row):
    cells = ROW.fullmatch(row)
    assert cells, f"not a row as the others are: {row}"
    return Cause(
        package=cells["package"],
        message=re.compile(".*".join(map(re.escape, cells["message"].split("…")))),
        as_root="as root" in cells["elsewhere"],
        on_terminal="on a terminal" in cells["elsewhere"],
        before=cells["before"],
        step=cells["step"],
        without_terminal=cells["without_terminal"] is not None,
    )


CAUSES = {cause.package: cause for cause in map(cause_of, rows())}


@pytest.fixture(params=CAUSES)
def cause(request):
    return CAUSES[request.param]


@pytest.fixture
def failure(cause, builds):
    failures = builds.failures_by_daemon("sandbox-only")
    assert cause.package in failures, "Nix had it already, built without a sandbox? «nix-store --delete» its output"
    return failures[cause.package]


@pytest.fixture
def somebody(cause, root, user):
    """Who outside of the sandbox has no such failure: anybody, or root."""
    return root if cause.as_root else user


def phase_of(failure):
    """The phase that failed."""
    return re.findall("^Running phase: (.*)$", failure.log, re.MULTILINE)[-1]


def said_in_phase(output):
    """What came after the announcement of the last phase."""
    return re.split(r"^Running phase: .*\n@nix .*\n", output, flags=re.MULTILINE)[-1]


def on_terminal(*argv):
    """A command line that gives a command a terminal of its own."""
    return ["script", "--quiet", "--return", "--command", shlex.join(argv), "/dev/null"]


def as_it_is(*argv):
    return argv


def enter(user, failure, step, options=(), through_sudo=False):
    """Runs a step of the build in the sandbox that it failed in, with stdenv's functions, as README tells."""
    how = {"as_root": True, "env": {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}} if through_sudo else {}
    script = f"exec 2>&1; {commands(failure, step)} < /dev/null"
    return user.enter("bash", "-e", build_dir=failure.kept, options=options, input=script, **how)


def commands(failure, step):
    # buildPhase would tell the phases that check something.
    return f'source "$stdenv/setup"; foundMakefile=1; cd {shlex.quote(source_of(failure).name)}; {step}'


def source_of(failure):
    """The directory that the build has unpacked."""
    (source,) = (path for path in failure.kept.iterdir() if path.is_dir())
    return source


def taken_out(failure, caller):
    """The same source tree, as it was when the build failed, in the hands of this caller."""
    copy = caller.workspace / "taken-out"
    shutil.copytree(source_of(failure), copy, symlinks=True)
    for path in [copy, *copy.rglob("*")]:
        caller.give(path)
    return copy


def test_the_table_has_every_package():
    assert len(CAUSES) == len(rows())
    assert set(CAUSES) == {path.name for path in SOURCES.iterdir() if path.is_dir()}


def test_nix_builds_none_of_them(builds):
    assert set(builds.failures_by_daemon("sandbox-only")) == set(CAUSES)


def test_nix_build_says_what_the_table_quotes(cause, failure):
    assert any(cause.message.fullmatch(line) for line in said_in_phase(failure.log).splitlines()), failure.log


@pytest.mark.parametrize("through_sudo", [False, True], ids=["user", "sudo"])
def test_nix_build_shell_fails_with_the_same_output_and_status(user, cause, failure, through_sudo):
    step = cause.step or f"runPhase {phase_of(failure)}"
    result = enter(user, failure, step, through_sudo=through_sudo)
    assert said_in_phase(result.stdout) == said_in_phase(failure.log), result.stderr
    assert result.returncode == failure.status


def those(condition):
    """The tests that want a `cause` get only these."""
    chosen = [cause for cause in CAUSES.values() if condition(cause)]
    assert chosen
    return pytest.mark.parametrize("cause", chosen, ids=[cause.package for cause in chosen])


@those(lambda cause: cause.without_terminal)
def test_in_here_a_terminal_of_the_caller_hides_it(user, failure):
    command = ["bash", "-c", commands(failure, f"runPhase {phase_of(failure)}")]
    result = user.run(*on_terminal(*user.command_line(*command, build_dir=failure.kept)))
    assert result.returncode == 0, result


@those(lambda cause: cause.step)
def test_in_here_the_whole_phase_hides_it(user, failure):
    result = enter(user, failure, f"runPhase {phase_of(failure)}")
    assert result.returncode == 0, result


@those(lambda cause: cause.package == "undeclared-input")
def test_in_here_the_whole_store_hides_it(user, failure):
    result = enter(user, failure, f"runPhase {phase_of(failure)}", options=["--store=full"])
    assert result.returncode == 0, result


@those(lambda cause: cause.package == "home")
def test_a_single_user_nix_does_not_know_it(user, failure, builds):
    """There the root directory is the build's own, as it is in here when it is to be like that."""
    assert builds.builds_for_user("sandbox-only.home")
    result = enter(user, failure, f"runPhase {phase_of(failure)}", options=["--like=single-user"])
    assert result.returncode == 0, result


@pytest.fixture
def tree(cause, failure, somebody):
    """What the build had unpacked, in the hands of somebody outside of the sandbox, on a machine that is in use."""
    tree = taken_out(failure, somebody)
    if cause.before:
        assert somebody.run(*shlex.split(cause.before), cwd=tree).returncode == 0
    yield tree
    SEGMENT.unlink(missing_ok=True)


def test_outside_it_works(cause, failure, somebody, tree):
    command = cause.step or PHASES[phase_of(failure)]
    on = on_terminal if cause.on_terminal else as_it_is
    result = somebody.run(*on("bash", "-c", command), cwd=tree, env={"HOME": str(somebody.tmpdir)})
    assert result.returncode == 0, result


def nix_shell(caller, builds, failure, on=as_it_is):
    """Runs everything in `nix-shell`, from the beginning to the phase that failed."""
    phases = ["unpackPhase", "patchPhase", "configurePhase", "buildPhase", "checkPhase", "installPhase"]
    wanted = phases[: phases.index(phase_of(failure)) + 1]
    # The place that `out` names cannot be written here.
    script = f'set -e; out=$PWD/installed; phases="{" ".join(wanted)}" genericBuild'
    environment = {
        "HOME": str(caller.tmpdir),
        "NIX_REMOTE": builds.daemon.address,
        # Else it would look for bash in nixpkgs.
        "NIX_BUILD_SHELL": str(builds.output_by_daemon("bash") / "bin" / "bash"),
    }
    directory = caller.make_directory("nix-shell")
    result = caller.run(*on("nix-shell", failure.derivation, "--run", script), cwd=directory, env=environment)
    assert f"Running phase: {wanted[-1]}" in result.stdout + result.stderr
    return result


@pytest.mark.usefixtures("tree")
def test_nix_shell_hides_it(cause, failure, somebody, builds):
    result = nix_shell(somebody, builds, failure, on_terminal if cause.on_terminal else as_it_is)
    assert result.returncode == 0, result


@those(lambda cause: cause.as_root or cause.on_terminal or cause.before)
def test_nix_shell_hides_it_only_so(failure, user, builds):
    """To anybody else, without a terminal, and on a machine that is new."""
    result = nix_shell(user, builds, failure)
    assert result.returncode != 0, result
