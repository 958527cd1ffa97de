"""`nix-build-shell build`: a command that builds is run as it is, and what fails is opened."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from support.building import Building, place, real_nix
from support.caller import Running
from support.processes import PATIENCE, await_that
from support.terminal import Terminal

NOTE = "note: keeping build directory '"
PROMPT = r"\[nix-build-shell {}\] \S+ \S "
SLOW = 'packages.runWithBusybox "slow" {} "echo started >&2; while :; do $builder sleep 1; done"'


@pytest.fixture
def building(caller):
    return Building(caller)


@pytest.fixture
def of_root(root):
    return Building(root)


def own_words(result):
    return [line for line in result.stderr.splitlines() if line.startswith("nix-build-shell: ")]


# --- What becomes of a build -------------------------------------------------------------------------------------------


def test_a_build_that_fails_is_opened(building):
    result = building.build("greeting", line="pwd; echo $name; ls; exit 7")
    assert result.returncode == 7, result
    assert result.stdout == "/build\ngreeting-1.0\nenv-vars\ngreeting\n"
    assert NOTE in result.stderr and "failed with exit code 2" in result.stderr
    assert own_words(result) == []
    assert building.kept() == ["nix-build-greeting-1.0.drv-0"]


def test_a_line_that_succeeds_makes_no_success_of_the_build(building):
    """A script that goes on only where the build succeeded has to stop."""
    plain = building.alone("fails-early")
    assert plain.returncode not in (0, 125)
    result = building.build("fails-early", line="true")
    assert result.returncode == plain.returncode


def test_a_build_that_succeeds_is_all(building):
    result = building.build("succeeds", line="echo it is run")
    assert result.returncode == 0
    assert re.fullmatch(r"/nix/store/\w+-greeting-1\.0\n", result.stdout)
    assert own_words(result) == [] and building.kept() == []


def test_an_error_of_evaluation_is_nix_s_to_tell(building):
    plain = building.alone("nonsense")
    result = building.run(*building.nix_build(attributes=["nonsense"]), line="echo it is run")
    assert plain.returncode != 0 and "nonsense" in plain.stderr
    assert (result.returncode, result.stdout, result.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_of_several_failures_the_first_is_opened(building):
    """They are built one after the other, and named in that order."""
    result = building.build("greeting", "two-outputs", arguments=["--keep-going"], line="echo in $name; exit 3")
    named = re.findall(r"keeping build directory '(.*)'", result.stderr)
    assert result.returncode == 3 and len(named) == 2
    first = re.fullmatch(r"nix-build-(.*)\.drv-\d+", Path(named[0]).name)[1]
    assert result.stdout == f"in {first}\n"
    said = own_words(result)
    assert said[0] == "nix-build-shell: 2 builds failed:" and said[-1] == f"nix-build-shell: opening the first, {named[0]}"
    assert [path in line for path, line in zip(named, said[1:3], strict=True)] == [True, True]


def test_a_dependency_that_fails_is_opened(building):
    building.builds.by_root("greeting")
    file = building.expression('packages.runWithBusybox "needs-it" { input = packages.greeting; } "echo > $out"')
    result = building.run(*building.nix_build(file=file), line="echo in $name; exit 4")
    assert (result.returncode, result.stdout) == (4, "in greeting-1.0\n"), result
    assert building.kept() == ["nix-build-greeting-1.0.drv-0"]


def test_a_daemon_s_build_is_opened_as_any_other(user):
    building = Building(user)
    building.builds.by_root("greeting")
    building.own_store = []
    command = building.nix_build(attributes=["greeting"])
    remote = {"NIX_REMOTE": building.builds.daemon.address}
    result = building.run(*command, line="echo in $name as $(id -un); exit 5", env=remote)
    assert (result.returncode, result.stdout) == (5, "in greeting-1.0 as nixbld\n"), result
    kept = re.search(r"keeping build directory '(.*)'", result.stderr)[1]
    assert kept.startswith(str(building.builds.daemon.kept)) and os.stat(kept).st_uid not in (0, user.uid)


def test_a_script_whose_output_nobody_sees_is_opened_as_well(building):
    """Its Nix keeps what fails because the environment says so, and the directory tells that it was kept."""
    building.builds.by_root("greeting")
    script = '"$@" > /dev/null 2>&1'
    command = building.nix_build(attributes=["greeting"])
    result = building.run("sh", "-c", script, "sh", *command, line="echo in $name; exit 6")
    assert (result.returncode, result.stdout, result.stderr) == (6, "in greeting-1.0\n", "")


def test_what_was_kept_before_is_not_opened(building):
    place(building.caller, "nix-build-greeting-1.0.drv-0")
    result = building.run("false", line="echo it is run")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


def test_what_a_builder_only_claims_is_not_opened(building):
    """The directory may be anybody's."""
    precious = building.caller.copy_of_kept(name="precious")
    link = building.caller.workspace / "nix-build-link.drv-0"
    link.symlink_to(precious)
    claims = "".join(f"echo \"note: keeping build directory '{path}'\" >&2; " for path in ("/etc", precious, link, "/no/where"))
    result = building.run("sh", "-c", f"{claims} exit 9", line="echo it is run")
    assert (result.returncode, result.stdout, own_words(result)) == (9, "", [])


def test_builders_on_other_machines_are_passed_over(building):
    configured = {"NIX_CONFIG": "builders = ssh://nowhere.invalid x86_64-linux,i686-linux,aarch64-linux\nmax-jobs = 0"}
    building.builds.by_root("greeting")
    command = [word for word in building.nix_build(attributes=["greeting"])]
    at = command.index("builders")
    del command[at - 1 : at + 2]
    result = building.run(*command, line="echo in $name; exit 8", env=configured)
    assert (result.returncode, result.stdout) == (8, "in greeting-1.0\n"), result
    assert own_words(result)[0].startswith("nix-build-shell: this builds on this machine alone")


# --- Later versions of Nix ---------------------------------------------------------------------------------------------

LATER = r"""
[[ $1 = --keep-failed ]] || exec {nix} "$@"
printf '%s\n' "$@" > "$0.arguments"
printf '\r\e[K[1/0/1 built] building greeting\r\e[Knote: keeping build directory "%s/build"\e[0m\n' {kept} >&2
printf '\e[31;1merror:\e[0m Cannot build '"'\e[35;1m%s\e[0m'"'.\n       Reason: \e[31;1mbuilder failed with exit code 2\e[0m.\n' {derivation} >&2
exit 1
"""


def derivation_of(building, package="greeting"):
    return building.builds.derivation(building.builds.by_root(package))


@pytest.mark.parametrize("has_variables", [True, False], ids=["env-vars", "no env-vars"])
def test_a_directory_without_a_name_is_opened_by_what_nix_says(building, has_variables):
    """As Nix 2.34 has it. Without env-vars nothing but Nix's error tells the derivation."""
    caller = building.caller
    kept = place(caller, "nix-12-3456", nested=True)
    if not has_variables:
        (kept / "build" / "env-vars").unlink()
    nix = building.program("nix", LATER.format(nix=real_nix(), kept=kept, derivation=derivation_of(building)))
    (nix.parent / "nix.arguments").touch()
    caller.give(nix.parent / "nix.arguments")
    result = building.run("nix", "build", ".#greeting", line="echo in $name; exit 3", env={"PATH": building.path()})
    assert (result.returncode, result.stdout) == (3, "in greeting-1.0\n"), result
    assert (nix.parent / "nix.arguments").read_text() == "--keep-failed\nbuild\n.#greeting\n"


# --- A command that is not Nix, and what it is given -------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "given"), [("script -x", "script -x"), ("-A greeting", "--keep-failed -A greeting")])
def test_a_script_stays_the_first_argument_of_nix_shell(building, arguments, given):
    """That takes its first argument for a script only if it is no option; it is told by its environment then."""
    building.program("nix-shell", 'echo "$@"; [[ $NIX_CONFIG = *"keep-failed = true"* ]]')
    result = building.run("nix-shell", *arguments.split(), env={"PATH": building.path()})
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{given}\n", "")


@pytest.mark.parametrize("status", [0, 3, 125])
def test_any_command_ends_as_it_does_alone(building, status):
    result = building.run("sh", "-c", f"echo out; echo err >&2; exit {status}", line="echo it is run")
    assert (result.returncode, result.stdout, result.stderr) == (status, "out\n", "err\n")


def test_a_command_that_a_signal_ends_has_its_status(building):
    assert building.run("sh", "-c", "kill -9 $$").returncode == 128 + 9


@pytest.mark.parametrize(
    ("command", "words"),
    [(["no-such-command"], "there is no command no-such-command"), (["/etc/passwd"], "/etc/passwd is not a program")],
)
def test_a_command_that_cannot_be_run_is_said(building, command, words):
    result = building.run(*command)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.count("\n") == 1 and words in result.stderr


def test_build_wants_a_command(building):
    result = building.caller.run(building.caller.program, "build")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("nix-build-shell: build what?") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("word", ["--keep-going", "--nonsense", "-Q"])
def test_an_option_that_build_does_not_have_is_said(building, word):
    result = building.caller.run(building.caller.program, "build", word, "--", "nix-build")
    assert (result.returncode, result.stdout) == (125, "")
    assert f"build has no option {word}:" in result.stderr and f"«nix-build-shell build -- nix-build {word}»" in result.stderr


def test_what_is_configured_stays(building):
    result = building.run("sh", "-c", 'printf %s "$NIX_CONFIG"', env={"NIX_CONFIG": "cores = 2"})
    assert result.stdout == "cores = 2\nkeep-failed = true\n"


def test_both_outputs_stay_in_their_order_where_they_are_one(building):
    script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; printf 'no newline \\033[1m\\377' >&2"
    with open(building.caller.workspace / "log", "w+b") as log:
        subprocess.run(
            building.command_line("sh", "-c", script),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=PATIENCE, **building.caller.as_caller(),
        )  # fmt: skip
        log.seek(0)
        text = log.read()
    assert text == b"".join(b"out %d\nerr %d\n" % (i, i) for i in range(1, 6)) + b"no newline \x1b[1m\xff"


def test_input_is_the_command_s(building):
    assert building.run("cat", input="typed\n").stdout == "typed\n"


def test_what_it_leaves_running_keeps_nobody(building):
    """An ssh that stays for the next connection has standard error open."""
    result = building.run("sh", "-c", "sleep 1000 > /dev/null & echo $! ; echo the last words >&2")
    os.kill(int(result.stdout), signal.SIGKILL)
    assert (result.returncode, result.stderr) == (0, "the last words\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_goes_to_the_command_and_nothing_is_opened(building, number):
    script = f"trap 'echo got it; exit 44' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    command = building.command_line("bash", "-c", script, line="echo it is run")
    with Running(command, building.caller.as_caller()) as running:
        assert running.line() == "ready"
        running.signal(number)
        assert running.line() == "got it"
        assert running.end() == 44
        assert running.process.stdout.read() == b""


# --- On a terminal -----------------------------------------------------------------------------------------------------


def test_the_command_has_a_terminal_of_the_same_size(building):
    shows = 'for i in 0 1 2; do [ -t $i ] && printf "%s " $i; done; stty size <&2'
    script = f'trap "stty size <&2; exit 3" WINCH; {shows}; while :; do sleep 0.1; done'
    with Terminal(building.caller, *building.command_line("bash", "-c", script)) as terminal:
        # The first size is the one at the start, whatever it is.
        terminal.wait_for(r"0 1 2 \d+ \d+\r\n")
        terminal.resize(33, 44)
        terminal.wait_for(r"33 44\r\n")
        assert terminal.end() == 3
        assert terminal.modes() == terminal.modes_before


def test_a_terminal_that_goes_takes_the_build_with_it(building):
    """Of a terminal that runs nothing else the kernel tells us alone."""
    script = "trap 'echo > got-it; exit' HUP; echo ready; while :; do sleep 0.1; done"
    where = building.caller.make_directory("where")
    command = building.command_line("bash", "-c", f"cd {where}; {script}", line="echo it is run > opened")
    with Terminal(building.caller, *command) as terminal:
        terminal.wait_for("ready")
        terminal.hang_up()
        terminal.end()
    await_that((where / "got-it").exists)
    assert not (where / "opened").exists()


def test_every_byte_is_shown_as_it_is_written(building):
    """What a terminal makes of a newline, the caller's does once."""
    script = r"printf 'a\n\r\033[Kb\t\033[31mred\033[m\n' >&2; printf 'c\n'; exit 4"
    with Terminal(building.caller, *building.command_line("sh", "-c", script)) as terminal:
        terminal.wait_for(re.escape("a\r\n\r\x1b[Kb\t\x1b[31mred\x1b[m\r\nc\r\n"))
        assert terminal.end() == 4


def test_a_session_is_opened_where_somebody_can_type(building):
    building.builds.by_root("greeting")
    plain = building.alone("greeting")
    with Terminal(building.caller, *building.command_line(*building.nix_build(attributes=["greeting"]))) as terminal:
        terminal.wait_for(r"greeting-1.0 failed in checkPhase with status 2\r\n")
        terminal.wait_for(PROMPT.format("greeting:checkPhase"))
        terminal.type("exit 0\n")
        assert terminal.end() == plain.returncode
        assert terminal.modes() == terminal.modes_before


@pytest.mark.parametrize(("answer", "opened"), [("2", 1), ("nonsense\n1", 0), ("", 0), ("q", None)])
def test_of_several_failures_somebody_chooses(of_root, answer, opened):
    building = of_root
    command = building.nix_build("--keep-going", attributes=["greeting", "two-outputs"])
    for package in ("greeting", "two-outputs"):
        building.builds.by_root(package)
    with Terminal(building.caller, *building.command_line(*command, line="echo in $name; exit 3")) as terminal:
        names = [terminal.wait_for(rf"  {number}  (\S+), in /\S+")[1] for number in (1, 2)]
        terminal.wait_for(r"which one shall be opened\?")
        terminal.type(answer + "\n")
        if opened is not None:
            terminal.wait_for(f"in {names[opened]}")
        assert terminal.end() == (100 if opened is None else 3)


def test_a_key_ends_the_build_and_nothing_is_opened(of_root):
    building = of_root
    command = building.nix_build(file=building.expression(SLOW))
    with Terminal(building.caller, *building.command_line(*command, line="echo it is run")) as terminal:
        terminal.wait_for("started")
        terminal.type("\x03")
        terminal.wait_for("interrupted by the user")
        assert terminal.end() == 1
        assert "it is run" not in terminal.seen
        assert terminal.modes() == terminal.modes_before
    # Nix kept it all the same.
    await_that(lambda: building.kept() == ["nix-build-slow.drv-0"])


def test_the_command_is_stopped_with_us_and_goes_on(building):
    """It is in our process group: the shell that we are a job of needs to know nothing."""
    script = 'echo ready >&2; read -r line; echo "<$line>" >&2; exit 3'
    with Terminal(building.caller, "bash", "--norc", "--noprofile", "--noediting", "-i") as shell:
        shell.type("PS1='{$?} '; echo be''gun\n")
        shell.wait_for("begun\r")
        shell.wait_for(r"\{0\} ")
        shell.type(shlex.join(building.command_line("bash", "-c", script)) + "\n")
        shell.wait_for(r"\nready\r")
        shell.type("\x1a")
        shell.wait_for("Stopped")
        shell.wait_for(rf"\{{{128 + signal.SIGTSTP}\}} ")
        shell.type("fg\n")
        shell.wait_for(r"exit 3'\r")
        shell.type("typed\n")
        shell.wait_for(r"\n<typed>\r")
        shell.wait_for(r"\{3\} ")
        shell.type("exit 0\n")
        assert shell.end() == 0
