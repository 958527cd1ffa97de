"""The shell of a session: where it starts, what it has, and what is left of it."""

import os
import re
import shlex
import stat
import subprocess

import pytest
from support.nix import USER
from support.terminal import Terminal

PROMPT = r"\[nix-build-shell {}\] {} \$ "


def session(caller, *options, package="greeting", build_dir=None, **environment):
    """A session on a terminal, in the sandbox of a build that failed."""
    variables = [f"{name}={value}" for name, value in {"XDG_STATE_HOME": caller.workspace / "state", **environment}.items()]
    command = caller.command_line(build_dir=build_dir or caller.kept(package), options=options)
    (caller.workspace / "state").mkdir(exist_ok=True)
    caller.give(caller.workspace / "state")
    return Terminal(caller, "env", *variables, *command)


def answer(terminal, script):
    """What a line of shell prints, without the prompt and the echo of what is typed."""
    terminal.type(f"echo 'be''gin'; {script}; echo 'e''nd'\n")
    return terminal.wait_for(r"(?s)begin\r\n(.*?)end\r\n")[1].replace("\r", "")


def leave(terminal, status=0):
    terminal.type(f"exit {status}\n")
    assert terminal.end() == status


# --- Where it starts ---------------------------------------------------------------------------------------------------


def test_it_starts_where_the_failed_phase_began(caller):
    with session(caller) as terminal:
        terminal.wait_for(PROMPT.format("greeting:checkPhase", "/build/greeting"))
        assert answer(terminal, "pwd; echo $PWD") == "/build/greeting\n/build/greeting\n"
        assert answer(terminal, "cd tests; echo $OLDPWD") == "/build/greeting\n"
        terminal.wait_for(PROMPT.format("greeting:checkPhase", "/build/greeting/tests"))
        leave(terminal, 3)


def test_it_starts_in_the_build_directory_where_the_other_is_gone(caller):
    copy = caller.copy_of_kept(name="nix-build-greeting-1.0.drv-0")
    subprocess.run(["rm", "-r", copy / "greeting"], check=True)
    (copy / "greeting").symlink_to("/nix")
    with session(caller, build_dir=copy) as terminal:
        terminal.wait_for(PROMPT.format("greeting:checkPhase", "/build"))
        leave(terminal)


def test_a_build_without_a_sandbox_was_elsewhere(caller):
    """env-vars has the paths of that time."""
    copy = caller.copy_of_kept(name="nix-build-greeting-1.0.drv-0")
    variables = (copy / "env-vars").read_text()
    (copy / "env-vars").write_text(variables.replace('"/build', '"/tmp/nix-build-greeting-1.0.drv-7'))
    with session(caller, build_dir=copy) as terminal:
        terminal.wait_for(PROMPT.format("greeting:checkPhase", "/build/greeting"))
        leave(terminal)


def test_without_env_vars_it_starts_in_the_sources(user, builds):
    """Of what a daemon built the caller may not read it; the log tells where they are."""
    kept = builds.by_daemon("plain-shell")
    with session(user, "--derivation", str(builds.derivation(kept)), build_dir=kept) as terminal:
        terminal.wait_for(PROMPT.format("plain-shell:buildPhase", "/build/greeting"))
        assert answer(terminal, "type -t runPhase; echo $name") == "function\nplain-shell-1.0-beta\n"
        leave(terminal)


# --- What it has -------------------------------------------------------------------------------------------------------


def test_it_has_the_variables_of_the_phase_and_stdenvs_functions_and_arrays(caller):
    """The hook of this one sets what nixpkgs' setup sets, and writes another env-vars unless it is kept from that."""
    with session(caller, package="strict") as terminal:
        terminal.wait_for(PROMPT.format("strict:buildPhase", "/build/greeting"))
        assert answer(terminal, 'echo "$changed, ${hookArray[1]}"') == "in a phase, two words\n"
        assert answer(terminal, "type -t runPhase genericBuild stripHash") == "function\n" * 3
        assert answer(terminal, "echo $nativeBuildInputs").endswith("-strict-hook\n")
        assert answer(terminal, "echo ${noDumpEnvVars-unset} $(grep -c hookArray /build/env-vars)") == "unset 0\n"
        assert answer(terminal, "grep -c 'changed=.in a phase' /build/env-vars") == "1\n"
        leave(terminal)


def test_nothing_that_the_builder_needs_and_nobody_else_is_left_of_stdenv(caller):
    with session(caller, package="strict") as terminal:
        seen = terminal.wait_for(r"(?s)(.*)" + PROMPT.format("strict:buildPhase", "/build/greeting"))[1]
        assert "the hook speaks" not in seen.splitlines()
        assert answer(terminal, "echo [${unset_variable}] *.none; trap; shopt -q inherit_errexit || echo off") == "[] *.none\noff\n"
        assert answer(terminal, "set +o | grep -e errexit -e nounset -e pipefail").count("set +o") == 3
        assert answer(terminal, "false; echo still $?") == "still 1\n"
        # Its own end is not the build's.
        assert answer(terminal, "failureHook() { echo the build has failed; }; (exit 7); echo $?") == "7\n"
        terminal.type("exit 7\n")
        assert "the build has failed" not in terminal.seen
        assert terminal.end() == 7


def test_structured_attributes_are_variables(caller):
    with session(caller, package="structured") as terminal:
        terminal.wait_for(PROMPT.format("structured:buildPhase", "/build/greeting"))
        assert answer(terminal, 'echo "${#list[@]} ${list[1]} ${set[key]} $number $EXPORTED"') == (
            "3 two words value 42 in the environment\n"
        )
        assert answer(terminal, "echo ${!outputs[@]} ${outputs[out]##*-} ${makeFlags[1]}") == "out structured CFLAGS=-O1 -g\n"
        leave(terminal)


def test_ctrl_c_leads_back_to_the_prompt(caller):
    with session(caller, package="strict") as terminal:
        terminal.wait_for(r"\$ ")
        # It tells when it is there to be interrupted.
        terminal.type("""f() { bash -c 'echo ru''ns; exec sleep 1000'; echo goes on; }; f\n""")
        terminal.wait_for("runs\r\n")
        terminal.type("\x03")
        assert "goes on" not in terminal.wait_for(r"(?s)(.*)\$ ")[1]
        terminal.type("echo status=$?\n")
        terminal.wait_for("\nstatus=130\r")
        leave(terminal)


def test_a_phase_that_exits_does_not_end_the_session(caller):
    with session(caller, package="structured") as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("runPhase buildPhase\n")
        terminal.wait_for("this build fails with structured attributes")
        terminal.wait_for("runHook called «exit 1», and the session goes on")
        terminal.wait_for("buildPhase failed with status 1")
        # Nor does the phase.
        assert "make flags" not in terminal.wait_for(r"(?s)(.*)\$ ")[1]
        assert answer(terminal, "f() { exit 3; }; (f); echo $? $(f) $?") == "3 3\n"
        leave(terminal, 4)


def test_phases_knows_what_was_run_in_the_shell(caller):
    with session(caller, package="structured") as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "runPhase buildPhase > /dev/null 2>&1")
        assert phases(terminal)["buildPhase"] == "failed; run in this session, it fails with status 1"
        # It does not lead `resume` on: what the phase did to this shell, the next one would miss.
        answer(terminal, "buildPhase() { :; }; installPhase() { :; }; runPhase buildPhase; runPhase installPhase")
        states = phases(terminal)
        assert states["patchPhase"] == "done"
        assert states["buildPhase"] == "failed; run in this session, it succeeds"
        assert states["installPhase"] == "not reached; run in this session, it succeeds"
        refused = answer(terminal, "phases --help 2>&1; echo $?")
        answer(terminal, "resume > /dev/null 2>&1")
        assert phases(terminal)["buildPhase"] == "done"
        assert "phases takes nothing, and lists all" in refused and refused.endswith("\n125\n")
        leave(terminal)


def test_what_is_not_built_yet_begins_at_the_beginning(caller):
    derivation = caller.builds.derivation(caller.builds.by_root("greeting"))
    with session(caller, build_dir=derivation) as terminal:
        terminal.wait_for(r"\$ ")
        assert phases(terminal) == dict.fromkeys(PHASES, "not reached")
        terminal.type("genericBuild\n")
        terminal.wait_for("genericBuild failed with status 2")
        states = phases(terminal)
        assert states["buildPhase"] == "not reached; run in this session, it succeeds"
        assert states["checkPhase"] == "not reached; run in this session, it fails with status 2"
        assert states["installPhase"] == "not reached"
        leave(terminal, 2)
    with session(caller, build_dir=derivation) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("resume\n")
        terminal.wait_for("Running phase: unpackPhase")
        terminal.wait_for("checkPhase failed with status 2")
        assert phases(terminal)["checkPhase"] == "failed"
        leave(terminal, 2)


def test_where_setup_fails_there_is_a_session_without_its_functions(caller):
    with session(caller, package="fails-in-setup") as terminal:
        terminal.wait_for("stdenv's setup ended with status 1, so its functions are not there")
        terminal.wait_for(PROMPT.format("fails-in-setup:buildPhase", "/build/greeting"))
        assert answer(terminal, "echo $name ${nbsSetupStatus-unset}; ls /proc/self/fd | wc -w") == "fails-in-setup unset\n4\n"
        terminal.type("phases\n")
        terminal.wait_for("there are no phases without stdenv")
        leave(terminal)


def test_a_shell_that_is_no_bash_has_a_prompt(caller):
    with session(caller, package="fails-early") as terminal:
        terminal.wait_for(PROMPT.format("fails-early", "/build"))
        terminal.type("echo $((6*7)) ${ENV-unset}; exit 5\n")
        terminal.wait_for("\n42 unset\r")
        assert terminal.end() == 5


# --- The phases --------------------------------------------------------------------------------------------------------

PHASES = ["unpackPhase", "patchPhase", "configurePhase", "buildPhase", "checkPhase", "installPhase", "fixupPhase"]


def phases(terminal):
    return dict(line.split(maxsplit=1) for line in answer(terminal, "phases").splitlines())


def test_phases_and_resume(caller):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        failed = {phase: "done" for phase in PHASES[:4]} | {"checkPhase": "failed"}
        failed |= {phase: "not reached" for phase in PHASES[5:]}
        assert phases(terminal) == failed
        # From where the phase began, wherever somebody is; and it fails again.
        terminal.type("cd /; resume\n")
        terminal.wait_for("polite: cannot execute: required file not found")
        terminal.wait_for("checkPhase failed with status 2")
        terminal.wait_for(PROMPT.format("greeting:checkPhase", "/"))
        # Mended, it fails in the next one.
        assert answer(terminal, 'cd -; patchShebangs tests > /dev/null; installPhase() { cd tests; exit 9; }') == "/build/greeting\n"
        terminal.type("resume\n")
        terminal.wait_for("polite: Hello, world!")
        terminal.wait_for("installPhase failed with status 9")
        terminal.wait_for(PROMPT.format("greeting:installPhase", "/build/greeting"))
        assert phases(terminal) == failed | {"checkPhase": "done", "installPhase": "failed"}
        assert answer(terminal, "installPhase() { cd tests; false; echo not reached; }; resume 2> /dev/null").count("Running") == 1
        assert answer(terminal, "installPhase() { make install $makeFlags out=$out PREFIX=$out; }; resume > /dev/null 2>&1") == ""
        terminal.wait_for(PROMPT.format("greeting:done", "/build/greeting"))
        assert phases(terminal) == {phase: "done" for phase in PHASES}
        terminal.type("resume fixupPhase\n")
        terminal.wait_for("the build is complete")
        terminal.wait_for(r"out: /nix/store/\S+-greeting-1.0\r\n    bin\r\n")
        terminal.type("resume; resume nonsense\n")
        terminal.wait_for("from which phase")
        terminal.wait_for("nonsense is none of the phases")
        leave(terminal)


def test_a_phase_by_hand_ends_where_the_build_would_and_with_its_status(caller):
    """Also where somebody asks for the status, which for bash is to pass over all that fails."""
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        assert answer(terminal, "runPhase checkPhase > /dev/null 2>&1; echo $?") == "2\n"
        assert answer(terminal, "runPhase checkPhase > /dev/null 2>&1 && echo no failure; echo $?") == "2\n"
        assert answer(terminal, "if genericBuild > /dev/null 2>&1; then echo no failure; fi; resume > /dev/null 2>&1 || echo $?") == "2\n"
        answer(terminal, 'checkPhase() { kept="of the phase"; cd tests; false | cat; echo goes on; }; cd /build/greeting')
        terminal.type("runPhase checkPhase\n")
        assert "goes on" not in terminal.wait_for("(?s)(.*)checkPhase failed with status 1")[1]
        terminal.wait_for(PROMPT.format("greeting:checkPhase", "/build/greeting/tests"))
        terminal.type("echo status=$? $kept\n")
        terminal.wait_for("\nstatus=1 of the phase\r\n")
        assert answer(terminal, "shopt -po errexit pipefail errtrace functrace | grep -c +o; trap") == "4\n"
        # A strict phase ends itself and not the shell, and ^C leaves nothing behind.
        answer(terminal, "checkPhase() { set -eu; (exit 4); echo goes on; }; runPhase checkPhase 2> /dev/null; echo $?")
        terminal.type("checkPhase() { bash -c 'echo ru''ns; exec sleep 1000'; }; runPhase checkPhase\n")
        terminal.wait_for("runs\r\n")
        terminal.type("\x03")
        terminal.wait_for(r"\$ ")
        assert answer(terminal, "false; echo $?; shopt -q extdebug nullglob || trap") == "1\n"
        leave(terminal)


# What stdenv evaluates for a phase, and the status with which a build by `genericBuild` would end there.
PHASE_FORMS = [
    ("ourPhase() { true; }", "ourPhase", 0),
    ("ourPhase() { false; }", "ourPhase", 1),
    ("ourPhase() { return 5; }", "ourPhase", 5),
    ("ourPhase() { exit 6; }", "ourPhase", 6),
    ("ourPhase() { (exit 7); true; }", "ourPhase", 7),
    ("ourPhase='true'", "ourPhase", 0),
    ("ourPhase='exit 7'", "ourPhase", 7),
    ("ourPhase='(exit 8); true'", "ourPhase", 8),
    ("ourPhase='return 9'", "ourPhase", 9),
    (":", "true", 0),
    (":", "false", 1),
    (":", "no_such_phase", 127),
    # Bash looks for a variable of that name, and gives up.
    (":", "'exit 7'", 1),
    (":", "'exit 0'", 1),
    (":", "no-variable", 1),
]


def test_the_status_of_a_phase_by_hand_is_its_own_in_every_form(caller):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        for definition, phase, status in PHASE_FORMS:
            seen = answer(terminal, f"{definition}; runPhase {phase} > /dev/null 2>&1; echo $?; unset ourPhase")
            assert seen == f"{status}\n", (definition, phase)
            # It is the status that a builder ends with.
            builder = shlex.quote(f"source $stdenv/setup; {definition}; runPhase {phase}")
            assert answer(terminal, f"bash /dev/stdin <<< {builder} > /dev/null 2>&1; echo $?") == f"{status}\n", (definition, phase)
        assert answer(terminal, "shopt -po errexit pipefail errtrace functrace | grep -c +o; trap; shopt -q extdebug || echo off") == "4\noff\n"
        leave(terminal)


def test_lines_for_nix_are_kept_from_the_terminal_alone(caller):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("runPhase checkPhase; resume\n")
        shown = terminal.wait_for("(?s)(.*)checkPhase failed with status 2.*checkPhase failed with status 2")[0]
        assert shown.count("Running phase: checkPhase") == 2 and "@nix" not in shown
        assert answer(terminal, "resume 2>&1 | grep -c @nix; echo $NIX_LOG_FD") == "1\n2\n"
        leave(terminal)


@pytest.mark.parametrize("kind", ["plain", "structured", "several-outputs"])
def test_resume_begins_with_the_outputs_that_the_phase_found(root, kind):
    """Its phase says `mkdir $out`. What somebody has made there by hand is kept, beside it."""
    with session(root, package=f"failing.{kind}.installPhase") as terminal:
        terminal.wait_for(r"\$ ")
        for _ in range(2):
            assert "File exists" not in answer(terminal, "resume 2>&1; ls -d $out*").replace("before-resume", "")
        assert answer(terminal, "ls -d $out*; echo mine > $out/by-hand") .count("\n") == 1
        terminal.type("resume\n")
        terminal.wait_for(r"installPhase begins without (\S+), as in the build; what was there is in \1-before-resume now")
        terminal.wait_for("installPhase failed with status 3")
        assert answer(terminal, "cat $out-before-resume/by-hand; ls $out") == "mine\ngreeting\n"
        # What comes after it needs what is there.
        answer(terminal, "touch /build/mended; echo mine > $out/by-hand")
        terminal.type("resume --from fixupPhase\n")
        terminal.wait_for("fixupPhase and all after it succeed; installPhase, which failed, was passed over")
        assert answer(terminal, "cat $out/by-hand") == "mine\n"
        leave(terminal)


def test_resume_takes_the_same_as_outside(caller):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        began = "2>&1 | sed -n 's/Running phase: //p'"
        assert answer(terminal, f"cd /; resume --only buildPhase {began}") == "buildPhase\n"
        for form in ["--from installPhase", "--from=installPhase", "installPhase"]:
            assert answer(terminal, f"resume {form} {began}") == "installPhase\nfixupPhase\n"
        assert "resume --only PHASE" in answer(terminal, "resume --help")
        for arguments, said in [
            ("--frm x", "resume has no option --frm; «resume --help» says"),
            ("--from", "--from which phase?"),
            ("--from=", "the name of a phase is empty"),
            ("a b", "one phase to begin with, not a and b"),
            ("nonsense", "nonsense is none of the phases"),
            ("--only 'exit 7'", "exit 7 is none of the phases"),
            ("distPhase", "distPhase is left out of this build by doDist"),
            ("unpackPhase", "the sources are unpacked already"),
        ]:
            lines = answer(terminal, f"resume {arguments} 2>&1 > /dev/null; echo $?").splitlines()
            assert lines[0].startswith("nix-build-shell: ") and said in lines[0]
            # A phase can end with 1 and 2 as well.
            assert lines[1:] == ["125"]
        assert answer(terminal, "resume -- 2>/dev/null; echo $?; nbsPhase=; resume 2> /dev/null; echo $?") == "125\n125\n"
        leave(terminal)


@pytest.mark.parametrize("mode", ["copy", "overlay"])
def test_where_unpacking_failed_at_its_end_it_is_done_again_beside_what_was_there(root, mode):
    with session(root, f"--build-dir-mode={mode}", package="failing.plain.unpackPhase") as terminal:
        terminal.wait_for(r":unpackPhase\] /build \$ ")
        where = "configurePhase='echo in $PWD,'; resume --only configurePhase 2>&1; unset configurePhase"
        assert "\nin /build/greeting,\n" in answer(terminal, where)
        said = answer(terminal, "cd /build/greeting; echo mine > mine; resume 2>&1; echo status=$?")
        assert "unpackPhase begins without sources, as in the build; what was there is in /build/before-resume now\n" in said
        assert said.endswith("unpackPhase failed with status 3\nstatus=3\n"), said
        assert answer(terminal, "pwd -P; ls mine; cat ../before-resume/*/mine") == (
            "/build/greeting\nls: cannot access 'mine': No such file or directory\nmine\n"
        )
        said = answer(terminal, "touch /build/mended; resume 2>&1; echo status=$?")
        assert "in /build/before-resume-2 now\n" in said and "the build is complete\n" in said and said.endswith("status=0\n"), said
        leave(terminal)


def test_an_output_that_nobody_made_is_missed_in_the_session_too(root):
    with session(root, package="two-outputs") as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("resume fixupPhase; echo status=$?\n")
        terminal.wait_for("Nix would miss what they did not make: dev\r\n")
        terminal.wait_for("status=1\r\n")
        leave(terminal)


def test_a_build_by_one_command_has_no_phases(caller):
    with session(caller, package="fails-before-phases") as terminal:
        terminal.wait_for(PROMPT.format("fails-before-phases", "/build"))
        terminal.type("resume\n")
        terminal.wait_for("this build has no phases but one command")
        leave(terminal)


# --- A better shell ----------------------------------------------------------------------------------------------------


@pytest.fixture
def interactive_bash(builds):
    return builds.output_by_daemon("bash-interactive")


def test_the_builds_own_shell_is_taken_if_it_can_edit_lines(caller, interactive_bash):
    with session(caller) as terminal:
        seen = terminal.wait_for(r"(?s)(.*)\$ ")[1]
        assert "not part of the build" not in seen
        assert answer(terminal, "echo $BASH; ls -d /nix/store/*-bash-interactive-*") .startswith("/nix/store/")
        leave(terminal)


def test_a_bash_of_the_hosts_store_is_taken_if_the_builds_cannot(caller, interactive_bash):
    """For the session alone: what runs in it is told of the build's own. A store that has been used for a while has others as well."""
    with session(caller, package="plain-shell") as terminal:
        terminal.wait_for("nix-build-shell: not part of the build: /nix/store/[^\r]*-bash-interactive-5\r")
        terminal.wait_for(PROMPT.format("plain-shell:buildPhase", "/build/greeting"))
        assert answer(terminal, "echo $BASH").endswith("-bash-interactive-5/bin/bash\n")
        assert answer(terminal, "echo ${SHELL##*-}; type -t runPhase bind") == "bash/bin/bash\nfunction\nbuiltin\n"
        assert "plain-bash" in answer(terminal, "echo $SHELL")
        leave(terminal)


@pytest.mark.parametrize("where", ["bin/bash", "", "profile"])
def test_a_shell_can_be_named(caller, interactive_bash, where):
    named = interactive_bash / where
    if where == "profile":
        named = caller.workspace / "profile"
        named.symlink_to(interactive_bash / "bin")
        named = named / "bash"
    for options, environment in [(["--shell", named], {}), ([], {"NIX_BUILD_SHELL": named})]:
        with session(caller, *map(str, options), **environment) as terminal:
            terminal.wait_for(f"not part of the build: {interactive_bash}\r")
            terminal.wait_for(PROMPT.format("greeting:checkPhase", "/build/greeting"))
            assert answer(terminal, "echo $BASH; type -t runPhase") == f"{interactive_bash}/bin/bash\nfunction\n"
            leave(terminal)


def test_the_callers_own_shell_is_taken_if_it_is_in_the_store(caller, interactive_bash):
    with session(caller, SHELL=interactive_bash / "bin" / "bash") as terminal:
        terminal.wait_for(f"not part of the build: {interactive_bash}\r")
        leave(terminal)
    with session(caller, SHELL="/bin/bash") as terminal:
        assert "not part" not in terminal.wait_for(r"(?s)(.*)\$ ")[1]
        leave(terminal)


def test_a_shell_that_cannot_be_in_the_sandbox_is_refused(caller, builds):
    debugger = builds.output_by_daemon("debugger")
    for shell, reason in [("/bin/bash", "which is in no store"), (f"{debugger}/bin/debug", "which is no bash"),
                          (f"{debugger}", "which is not there")]:  # fmt: skip
        with session(caller, "--shell", shell) as terminal:
            terminal.wait_for(f'nix-build-shell: --shell is "{shell}[^\r]*{reason}')
            assert terminal.end() == 125
    caller.refused("true", options=["--shell", "/bin/bash"], mentions=["--shell /bin/bash", "without COMMAND and on a terminal"])


def test_what_nix_build_shell_names_in_vain_is_told(caller):
    with session(caller, NIX_BUILD_SHELL="/bin/zsh") as terminal:
        terminal.wait_for('NIX_BUILD_SHELL is "/bin/zsh", which is in no store[^\r]*; another shell is taken')
        terminal.wait_for(r"\$ ")
        leave(terminal)


# --- What was typed ----------------------------------------------------------------------------------------------------


def test_the_next_session_knows_what_was_typed(caller):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "echo first")
        # The shell has no time to write anything when it ends.
        terminal.type("kill -KILL $$\n")
        assert terminal.end() == 137
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        assert "echo first" in answer(terminal, "history")
        leave(terminal)
    with session(caller, package="structured") as terminal:
        terminal.wait_for(r"\$ ")
        assert "first" not in answer(terminal, "history")
        leave(terminal)
    directory = caller.workspace / "state/nix-build-shell/history"
    file = directory / "greeting-1.0"
    assert "echo first" in file.read_text().splitlines()[0]
    for path, mode in [(directory, 0o700), (directory.parent, 0o700), (file, 0o600)]:
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (mode, caller.uid)


@pytest.mark.parametrize("script", [
    "rm $HISTFILE; ln -s /etc/passwd $HISTFILE",
    "rm $HISTFILE; mkdir $HISTFILE",
    "rm $HISTFILE; mknod $HISTFILE p",
    "head -c 9000000 /dev/zero | tr '\\\\0' x > $HISTFILE",
])  # fmt: skip
def test_a_build_cannot_make_something_else_of_the_history(caller, script):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "echo first")
        leave(terminal)
    before = (caller.workspace / "state/nix-build-shell/history/greeting-1.0").read_bytes()
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, f"unset PROMPT_COMMAND; trap 'unset HISTFILE' EXIT; {script}")
        leave(terminal)
    assert (caller.workspace / "state/nix-build-shell/history/greeting-1.0").read_bytes() == before


def test_control_characters_stay_in_the_sandbox(caller):
    with session(caller) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, r"unset PROMPT_COMMAND; trap 'unset HISTFILE' EXIT; printf 'evil \e]0;x\a\n' >> $HISTFILE")
        leave(terminal)
    assert (caller.workspace / "state/nix-build-shell/history/greeting-1.0").read_text() == "evil ]0;x\n"


def test_the_history_itself_is_not_in_the_sandbox(caller):
    """What a build does to its own, another session does not see before the end."""
    with session(caller) as one, session(caller) as other:
        one.wait_for(r"\$ ")
        other.wait_for(r"\$ ")
        answer(one, "echo one")
        assert "one" not in answer(other, "cat $HISTFILE")
        leave(one)
        answer(other, "echo other")
        leave(other)
    lines = (caller.workspace / "state/nix-build-shell/history/greeting-1.0").read_text().splitlines()
    assert [line.split("; ")[1:2] for line in lines] == [["echo one"], [], ["cat $HISTFILE"], ["echo other"], []]


def test_without_a_place_for_it_there_is_a_session(user):
    """As for a user who has no home of his own."""
    with session(user, XDG_STATE_HOME="/nonexistent/state", HOME="/nonexistent") as terminal:
        terminal.wait_for("what you type is not kept for the next session: ")
        terminal.wait_for(r"\$ ")
        leave(terminal)


@pytest.fixture
def session_with_sudo(root, user, builds):
    """A session as sudo starts it for the user, and his home."""
    home = user.make_directory("home")
    variables = [f"SUDO_UID={USER}", f"SUDO_GID={USER}", f"SUDO_HOME={home}", "HOME=/root"]
    command = root.command_line(build_dir=builds.by_daemon("greeting"))
    return home, lambda: Terminal(root, "env", *variables, *command)


def test_with_sudo_it_belongs_to_the_user_who_called_it(session_with_sudo):
    home, start = session_with_sudo
    with start() as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "echo first")
        leave(terminal)
    file = home / ".local/state/nix-build-shell/history/greeting-1.0"
    assert "echo first" in file.read_text()
    for path in [file, *list(file.parents)[:4]]:
        assert path.stat().st_uid == USER, path


@pytest.mark.parametrize("link", [".local", ".local/state/nix-build-shell", ".local/state/nix-build-shell/history"])
def test_with_sudo_no_link_of_the_users_leads_root_elsewhere(session_with_sudo, root, link):
    home, start = session_with_sudo
    target = root.make_directory("root-only", 0o700)
    (home / link).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", home], check=True)
    (home / link).symlink_to(target)
    with start() as terminal:
        terminal.wait_for("what you type is not kept for the next session: [^\r]*(belongs to somebody else|Permission denied)")
        terminal.wait_for(r"\$ ")
        leave(terminal)
    assert not list(target.iterdir())


# --- What is added -----------------------------------------------------------------------------------------------------

FLAKE = """{
  outputs = { self }: {
    tool = derivation {
      name = "tool-of-a-flake";
      system = "SYSTEM";
      builder = "${self}/busybox";
      args = [ "sh" "-euc" ''
        $builder mkdir -p $out/bin
        printf '#!%s sh\necho the tool runs\n' $builder > $out/bin/tool
        $builder chmod +x $out/bin/tool
      '' ];
    };
    broken = throw "this flake is broken";
  };
}
"""


@pytest.fixture
def flake(caller):
    """A package that only a name leads to, and its flake, which needs nothing else."""
    directory = caller.make_directory("flake")
    system = os.uname().machine + "-linux"
    (directory / "flake.nix").write_text(FLAKE.replace("SYSTEM", system))
    subprocess.run(["cp", caller.builds.tools / "busybox" / "busybox", directory], check=True)
    subprocess.run(["chown", "-R", f"{caller.uid}:{caller.uid}", directory], check=True)
    return f"path:{directory}"


def nix_of(caller):
    """How Nix builds for the caller: root's by itself, for others a daemon."""
    options = {"NIX_CONFIG": "sandbox = true\nsubstitute = false\nbuild-users-group =\n"}
    return options if caller.is_root else options | {"NIX_REMOTE": caller.builds.daemon.address}


def test_a_store_path_is_added_with_what_it_needs(caller, builds):
    debugger = builds.output_by_daemon("debugger")
    told = f"nix-build-shell: not part of the build: {debugger} (and 1 store path that comes with it)\n"
    for package, path in [("greeting", debugger), ("greeting", debugger / "bin/debug"), ("structured", debugger)]:
        result = caller.enter("debug", build_dir=caller.kept(package), options=["--with", str(path)])
        assert (result.stdout, result.returncode) == ("all the symbols\n", 0), result
        # busybox is an input of no package that has stdenv.
        assert result.stderr.startswith(f"nix-build-shell: not part of the build: {debugger} (and "), result.stderr
        assert result.stderr.count("\n") == 1
    result = caller.enter("debug", build_dir=caller.kept("fails-early"), options=["--with", str(debugger)])
    assert (result.stdout, result.stderr) == ("all the symbols\n", told)


def test_its_programs_come_last(caller, builds):
    debugger = builds.output_by_daemon("debugger")
    with_it = caller.inside("echo $PATH", options=["--with", str(debugger), "--with", str(debugger)])
    assert with_it == caller.inside("echo $PATH").rstrip("\n") + f":{debugger}/bin\n"
    assert "debugger" not in caller.inside("ls /nix/store")
    with session(caller, "--with", str(debugger), "--with", str(builds.output_by_daemon("bash-interactive"))) as terminal:
        terminal.wait_for(rf"not part of the build: {debugger}, /nix/store/\S+-bash-interactive-5 \(and \d store paths")
        terminal.wait_for(r"\$ ")
        assert answer(terminal, "debug; command -v debug bash | grep -c interactive") == "all the symbols\n0\n"
        leave(terminal)


def test_with_the_whole_store_only_its_programs_are_added(caller, builds):
    debugger = builds.output_by_daemon("debugger")
    result = caller.enter("debug", options=["--store=full", "--with", str(debugger)])
    assert (result.stdout, result.stderr, result.returncode) == ("all the symbols\n", "", 0)


def test_what_has_no_programs_is_told_to_add_nothing(caller, builds):
    debugger = builds.output_by_daemon("debugger")
    (source,) = re.findall('^declare -x src="(.*)"', (caller.kept() / "env-vars").read_text(), re.MULTILINE)
    options = ["--with", source, "--with", str(debugger)]
    told = f"nix-build-shell: {source} has no bin/, so it adds nothing to PATH\n"
    for result in [
        caller.enter("debug", options=options),
        caller.run(caller.program, "resume", *options, "--only", "buildPhase", str(caller.kept())),
    ]:
        assert result.returncode == 0 and told in result.stderr and f"{debugger} has no" not in result.stderr, result


def test_without_env_vars_it_is_added_as_well(user, builds):
    """A daemon's build, of which the caller may read hardly anything."""
    debugger = builds.output_by_daemon("debugger")
    kept = builds.by_daemon("greeting")
    options = ["--with", str(debugger), "--derivation", str(builds.derivation(kept))]
    assert user.enter("debug", build_dir=kept, options=options).stdout == "all the symbols\n"
    result = user.enter(build_dir=kept, options=options, input="debug; type -t runPhase\n")
    assert result.stdout == "all the symbols\nfunction\n"


def test_what_the_store_does_not_have_is_refused(caller):
    missing = f"/nix/store/{'0' * 32}-gdb"
    for options in [[], ["--store=full"]]:
        caller.refused("true", options=[*options, "--with", missing], mentions=["does not have", missing, "--realise"])
    caller.refused("true", options=["--with", ""], mentions=["neither a store path nor"])


def test_nix_builds_what_only_a_name_leads_to(caller, flake):
    result = caller.enter("tool", options=["--with", f"{flake}#tool"], env=nix_of(caller))
    assert (result.stdout, result.returncode) == ("the tool runs\n", 0), result
    assert "not part of the build: /nix/store/" in result.stderr and "-tool-of-a-flake" in result.stderr


def test_what_nix_says_is_shown_where_it_cannot(caller, flake):
    result = caller.enter("true", options=["--with", f"{flake}#broken"], env=nix_of(caller))
    assert (result.stdout, result.returncode) == ("", 125)
    assert "error: this flake is broken" in result.stderr
    assert result.stderr.endswith(f"nix-build-shell: {flake}#broken is no store path, and Nix could not build it\n")
