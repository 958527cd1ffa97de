"""How far a build came, and going on from there: `nix-build-shell phases` and `nix-build-shell resume`."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.derivation import without_choice
from support.terminal import Terminal

KINDS = ["plain", "structured", "several-outputs"]
FAILING = ["configurePhase", "buildPhase", "checkPhase", "installPhase"]
PHASES = [
    "unpackPhase", "patchPhase", "configurePhase", "buildPhase", "checkPhase", "installPhase", "lastlyPhase", "fixupPhase",
]  # fmt: skip


@pytest.fixture(params=[(kind, phase) for kind in KINDS for phase in FAILING], ids=lambda param: "-".join(param))
def failure(request, root):
    """A package that fails in a phase: its kept directory, and the phase."""
    kind, phase = request.param
    return root.kept(f"failing.{kind}.{phase}"), phase


def argv(caller, subcommand, *options, build_dir=None):
    """A subcommand's command line, with the options that this caller needs."""
    program, *rest = caller.command_line(build_dir=build_dir, options=options)
    return [program, subcommand, *rest]


def call(caller, subcommand, *options, build_dir=None, **how):
    return caller.run(*argv(caller, subcommand, *options, build_dir=build_dir), **how)


def mended_copy(caller, kept, name="mended-copy"):
    """A copy of a kept directory in which its package does not fail."""
    copy = caller.workspace / name
    subprocess.run(["cp", "-a", kept, copy], check=True)
    (copy / "mended").touch()
    return copy


def table(states):
    width = max(map(len, states))
    return "".join(f"{phase:{width}}  {state}\n" for phase, state in states.items())


def states(failed, phases=PHASES):
    at = phases.index(failed)
    marks = ["done"] * at + ["failed"] + ["not reached"] * (len(phases) - at - 1)
    return dict(zip(phases, marks, strict=True))


def output_of_phases(text, first):
    """What a build said, from the first line of a phase on, without what it said to Nix."""
    lines = [line for line in text.splitlines() if not line.startswith("@nix ")]
    lines = lines[lines.index(f"Running phase: {first}") :]
    # What follows is Nix's own.
    return [line for line in lines if not line.startswith(("note: keeping build", "error: "))]


# --- How far it came -------------------------------------------------------------------------------------------------


def test_each_phase_has_its_state(failure, root):
    kept, phase = failure
    result = call(root, "phases", build_dir=kept)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == table(states(phase))


def test_every_kind_of_nix_has_a_log(opener):
    result = call(opener, "phases")
    assert result.returncode == 0, result
    assert result.stdout == table(states("checkPhase", [phase for phase in PHASES if phase != "lastlyPhase"]))


def test_a_terminal_has_colours_unless_it_wants_none(root):
    with Terminal(root, *argv(root, "phases")) as terminal:
        terminal.wait_for("buildPhase      \x1b\\[32mdone\x1b\\[m")
        terminal.wait_for("checkPhase      \x1b\\[31mfailed\x1b\\[m")
        assert terminal.end() == 0
    with Terminal(root, "env", "NO_COLOR=1", *argv(root, "phases")) as terminal:
        terminal.wait_for("checkPhase      failed\r\n")


@pytest.fixture
def logs(root):
    """A directory of logs with that of greeting in it, to spoil."""
    directory = root.make_directory("logs")
    derivation = root.builds.derivation(root.kept()).name
    log = directory / "drvs" / derivation[:2] / f"{derivation[2:]}.bz2"
    log.parent.mkdir(parents=True)
    shutil.copy2(Path("/nix/var/log/nix/drvs") / log.relative_to(directory / "drvs"), log)
    return directory, log


def test_without_a_log_nothing_is_claimed(root):
    nowhere = {"NIX_LOG_DIR": str(root.workspace / "no-logs")}
    result = call(root, "phases", env=nowhere)
    assert result.returncode == 0
    assert set(re.findall("  +(.*)", result.stdout)) == {"not known"}
    assert result.stderr == "nix-build-shell: Nix has no log of greeting-1.0, so it is not known which phase failed\n"
    result = call(root, "resume", env=nowhere)
    assert result.returncode == 125
    assert "--from PHASE says where to begin" in result.stderr
    assert call(root, "resume", "--from", "checkPhase", env=nowhere).returncode == 2


@pytest.mark.parametrize("age", [-3600, 3600])
def test_the_log_of_another_build_is_told_from_this_one_s(root, logs, age):
    directory, log = logs
    other = (root.kept() / "env-vars").stat().st_mtime + age
    os.utime(log, (other, other))
    # Its times are those of the kept directory, and not of a test that has looked into it.
    result = call(root, "phases", env={"NIX_LOG_DIR": str(directory)})
    assert "that of another build" in result.stderr
    assert "checkPhase      failed" in result.stdout


def test_a_log_may_be_uncompressed_cut_or_none(root, logs):
    directory, log = logs
    where = {"NIX_LOG_DIR": str(directory)}
    compressed = log.read_bytes()
    log.write_bytes(compressed[:-8])
    result = call(root, "phases", env=where)
    assert "no end yet" in result.stderr and "failed" not in result.stdout, result
    log.write_bytes(b"no log at all")
    result = call(root, "phases", env=where)
    assert result.returncode == 125 and "cannot read the build's log" in result.stderr, result
    log.unlink()
    log.with_suffix("").write_text('@nix { "action": "setPhase", "phase": "unpackPhase" }\n')
    assert call(root, "phases", env=where).stdout.startswith("unpackPhase     failed\n")


def test_a_build_without_phases_says_so(root):
    for package, reason in [
        ("fails-early", "fails-early has no phases: it is not built with stdenv"),
        ("fails-before-phases", "fails-before-phases has no phases: stdenv runs its buildCommand, and nothing else"),
    ]:
        result = call(root, "phases", build_dir=root.kept(package))
        assert (result.returncode, result.stdout) == (125, "")
        assert result.stderr == f"nix-build-shell: {reason}\n"


def test_a_command_may_be_called_as_a_subcommand(root):
    result = root.enter("phases")
    assert result.returncode == 127
    assert "phases: not found" in result.stderr


# --- Going on --------------------------------------------------------------------------------------------------------


def test_the_phase_fails_as_it_did(failure, root):
    """To the byte: the variables, exported ones and arrays, the directory, the output, the failure hook; and the exit status."""
    kept, phase = failure
    result = root.run("bash", "-c", 'exec "$@" 2>&1', "bash", *argv(root, "resume", build_dir=kept))
    assert result.returncode == 3, result.stdout
    assert output_of_phases(result.stdout, phase) == output_of_phases(root.builds.logs[kept], phase)
    assert result.stdout.count('@nix { "action": "setPhase"') == 1


def test_what_was_mended_goes_on_to_the_end(failure, root):
    kept, phase = failure
    result = call(root, "resume", build_dir=mended_copy(root, kept))
    assert result.returncode == 0, result
    assert re.findall("Running phase: (.*)", result.stdout) == PHASES[PHASES.index(phase) :]
    assert "lastly\n" in result.stdout
    assert "the build succeeds; it made\n" in result.stderr
    content = "greeting" if phase == "installPhase" else "bin/"
    assert re.search(f"/nix/store/[^ ]*-{phase}: {content}\n", result.stderr), result.stderr


def test_a_phase_can_be_chosen(root):
    kept = root.kept("failing.plain.checkPhase")
    result = call(root, "resume", "--only", "buildPhase", build_dir=kept)
    assert result.returncode == 0, result
    assert re.findall("Running phase: (.*)", result.stdout) == ["buildPhase"]
    assert result.stderr.endswith("nix-build-shell: buildPhase succeeds\n")
    result = call(root, "resume", "--from", "patchPhase", build_dir=mended_copy(root, kept))
    assert result.returncode == 0, result
    assert re.findall("Running phase: (.*)", result.stdout) == PHASES[1:]
    result = call(root, "resume", "--from=installPhase", build_dir=kept)
    assert (result.returncode, re.findall("Running phase: (.*)", result.stdout)) == (0, PHASES[5:])
    # Alone, one can be run that is not among the phases.
    result = call(root, "resume", "--only", "haveMakefile", build_dir=kept)
    assert result.returncode == 0, result


def test_what_cannot_be_chosen_is_refused(root):
    kept = root.kept("failing.plain.checkPhase")
    for options, status, text in [
        (["--from", "noPhase"], 125, f"there is no phase noPhase; the phases are: {' '.join(PHASES[:2])}"),
        (["--only", "noPhase"], 125, "there is no phase noPhase"),
        (["--only", "distPhase"], 125, "distPhase is left out of this build by doDist"),
        (["--only", "$(id)"], 125, "a phase has letters, digits and underscores"),
        (["--only", "buildPhase", "--from", "buildPhase"], 125, "cannot be used with"),
    ]:
        result = call(root, "resume", *options, build_dir=kept)
        assert result.returncode == status and text in result.stderr, result


@pytest.mark.parametrize("kind", ["mnt", "net", "pid"])
def test_whichever_process_may_not_make_a_namespace_it_is_told(root, kind):
    """Here the namespaces are divided among the processes in another way than for a command."""
    setting = f"user.max_{kind}_namespaces"
    off = ["unshare", "-Ur", "sh", "-c", f'echo 0 > /proc/sys/user/max_{kind}_namespaces; exec "$@"', "sh"]
    result = root.run(*off, *argv(root, "resume", build_dir=root.kept("failing.plain.checkPhase")))
    assert result.returncode == 125, result
    assert f"{setting} is 0" in result.stderr and f"«sudo sysctl {setting}=" in result.stderr


def test_the_wrong_way_round_is_told(user):
    kept = user.kept()
    for arguments, right in [(["nosuch", str(kept)], f"{kept} nosuch"), (["installPhase", "greeting"], "greeting installPhase")]:
        result = user.run(user.program, "resume", *arguments)
        said = f"nix-build-shell: the build comes first, and then the phase: «nix-build-shell resume {right}»\n"
        assert (result.returncode, result.stderr) == (125, said)
    result = user.run(user.program, "resume", str(kept), "no phase")
    assert (result.returncode, result.stderr) == (
        125, "nix-build-shell: «no phase» is no phase: a phase has letters, digits and underscores\n",
    )  # fmt: skip
    result = user.run(user.program, "resume", "--nonsense", str(kept))
    assert result.stderr.endswith("see «nix-build-shell resume --help»\n")


def test_to_unpack_again_begins_anew(root):
    """Nothing can be unpacked twice into one directory; so the build's own sources are taken."""
    kept = root.kept("failing.plain.checkPhase")
    result = call(root, "resume", "--from", "unpackPhase", build_dir=mended_copy(root, kept))
    assert result.returncode == 3, result
    assert re.findall("Running phase: (.*)", result.stdout) == PHASES[:5]
    assert "plain-checkPhase begins anew, in an empty directory" in result.stderr
    result = call(root, "resume", "--only", "unpackPhase", build_dir=kept)
    assert result.returncode == 0, result
    # As Nix's own environment at the start of the build.
    result = call(root, "resume", build_dir=root.builds.derivation(kept))
    assert (result.returncode, re.findall("Running phase: (.*)", result.stdout)) == (3, PHASES[:5])
    said = root.builds.logs[kept]
    assert output_of_phases(result.stdout, "unpackPhase") == [
        line for line in output_of_phases(said, "unpackPhase") if line != "checkPhase fails"
    ]


def test_after_unpacking_failed_at_its_end_what_follows_begins_in_the_sources(root):
    """As it does with «cd greeting; runPhase patchPhase»."""
    kept = root.kept("failing.plain.unpackPhase")
    result = call(root, "resume", "--from", "patchPhase", build_dir=kept)
    assert result.returncode == 0, result
    assert re.findall("Running phase: (.*)", result.stdout)[0] == "patchPhase"
    assert re.search("-plain-unpackPhase: bin/\n", result.stderr), result
    # Unpacked anew it fails anew.
    result = call(root, "resume", build_dir=kept)
    assert (result.returncode, re.findall("Running phase: (.*)", result.stdout)) == (3, PHASES[:1])
    assert "begins anew, in an empty directory" in result.stderr


def test_what_has_no_phases_is_built_again(root):
    for package, text in [("fails-before-phases", "no phase begins"), ("fails-early", "this builder gives up at once")]:
        result = call(root, "resume", build_dir=root.kept(package))
        assert result.returncode == 1
        said = without_choice(result.stderr).splitlines()
        assert said == [f"nix-build-shell: {package} begins anew, in an empty directory", text]
    result = call(root, "resume", "--from", "buildPhase", build_dir=root.kept("fails-before-phases"))
    assert result.returncode == 125 and "has no phases" in result.stderr
    result = call(root, "resume", "--only", "buildPhase", build_dir=root.kept("fails-early"))
    assert result.returncode == 125 and "not built with stdenv" in result.stderr


def test_an_output_that_nobody_made_is_no_success(root):
    result = call(root, "resume", "--from", "fixupPhase", build_dir=root.kept("two-outputs"))
    assert result.returncode == 1
    assert "Nix would miss what they did not make: dev\n" in result.stderr
    assert re.search("-two-outputs: bin/\n", result.stderr), result.stderr


def test_what_failed_does_not_succeed_by_being_passed_over(root):
    kept = root.kept("failing.plain.checkPhase")
    result = call(root, "resume", "installPhase", build_dir=kept)
    # As `resume --from`, with the build first.
    assert result.returncode == 125, result
    result = call(root, "resume", "--from", "installPhase", build_dir=kept)
    assert result.returncode == 0, result
    said = "installPhase and all after it succeed; checkPhase, which failed, was passed over, so the build is not complete; they made\n"
    assert said in without_choice(result.stderr) and "the build succeeds" not in result.stderr
    with Terminal(root, *argv(root, "resume", "--shell-on-failure", build_dir=kept)) as terminal:
        terminal.wait_for("here is a shell where it did")
        terminal.wait_for(r"\$ ")
        terminal.type("resume installPhase\n")
        terminal.wait_for("which failed, was passed over, so the build is not complete")
        terminal.type("phases\n")
        terminal.wait_for(r"checkPhase +failed\r\ninstallPhase +not reached; run in this session, it succeeds\r\n")
        terminal.type("installPhase() { false; }; resume installPhase; phases\n")
        terminal.wait_for("installPhase failed with status 1")
        terminal.wait_for(r"checkPhase +failed\r\ninstallPhase +not reached; run in this session, it fails with status 1\r\n")
        terminal.type("exit\n")
        # As the build that is not mended.
        assert terminal.end() == 3
    with Terminal(root, *argv(root, "resume", "--shell-on-failure", build_dir=kept)) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("checkPhase() { :; }; runPhase checkPhase; resume installPhase\n")
        terminal.wait_for("the build is complete")
        terminal.type("exit\n")
        assert terminal.end() == 0


def test_a_phase_that_hangs_is_left_by_ctrl_c_for_a_shell(root):
    copy = root.copy_of_kept()
    # Not below make, which sometimes ends with 2 when a key ends its children: «*** wait: No child processes». And in a shell of its own,
    # since the phase's, which has a trap, would go on to sleep where the key comes between the two.
    with (copy / "env-vars").open("a") as env_vars:
        env_vars.write("declare -x preCheck=\"$SHELL -c 'echo it hangs; exec sleep 1000'\"\n")
    with Terminal(root, *argv(root, "resume", "--shell-on-failure", build_dir=copy)) as terminal:
        terminal.wait_for("it hangs")
        terminal.type("\x03")
        terminal.wait_for("checkPhase failed with status 130; here is a shell where it did")
        terminal.wait_for(r"\$ ")
        terminal.type("exit\n")
        assert terminal.end() == 130


def test_every_kind_of_nix_can_be_resumed(opener):
    result = call(opener, "resume")
    assert result.returncode == 2, result
    assert "Running phase: checkPhase\n" in result.stdout
    assert "tests/is-polite: cannot execute: required file not found" in result.stderr
    result = call(opener, "resume", "--from", "installPhase")
    assert result.returncode == 0, result
    assert re.search("-greeting-1.0: bin/\n", result.stderr), result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_shell_opens_on_what_a_failed_phase_has_left(root, kind):
    kept = root.kept(f"failing.{kind}.installPhase")
    script = "cd $PWD; ls $out; cat $out/greeting > $out/copy && ls $out | wc -l; declare -p mark; exit 7\n"
    result = call(root, "resume", "--shell-on-failure", build_dir=kept, input=script)
    assert result.returncode == 3, result
    shell = result.stdout.split("the failure hook has run\n")[1]
    assert shell == 'greeting\n2\ndeclare -x mark="of patchPhase"\n'
    # Nothing fails, so nobody has to type.
    mended = mended_copy(root, kept)
    result = call(root, "resume", "--shell-on-failure", build_dir=mended, input="exit 7\n")
    assert result.returncode == 0, result


def test_what_is_typed_where_a_phase_failed_is_in_a_patch(caller):
    state = caller.make_directory("state", mode=0o700)
    typed = {"env": {"XDG_STATE_HOME": str(state)}, "input": "echo '// typed' >> /build/greeting/greeting.c; echo x > /tmp/notes\n"}

    def resume(*options):
        result = call(caller, "resume", "--shell-on-failure", *options, build_dir=caller.kept(), **typed)
        assert result.returncode == 2, result
        assert "1 file that you wrote outside of /build went with the sandbox: /tmp/notes\n" in result.stderr
        return result, [path for path in state.rglob("*.patch") if "+// typed" in path.read_text()]

    result, (patch,) = resume()
    assert str(patch) in result.stderr
    _, still = resume("--no-patch")
    assert still == [patch]
    mine = state / "mine.patch"
    result, found = resume("--save-patch", str(mine))
    assert sorted(found) == sorted([patch, mine]) and str(mine) in result.stderr


@pytest.mark.parametrize(("package", "options", "phase"), [
    ("failing.plain.checkPhase", ["--from", "buildPhase"], "checkPhase"),
    ("failing.plain.buildPhase", ["--from", "unpackPhase"], "buildPhase"),
    ("greeting", ["patchPhase"], "checkPhase"),
])  # fmt: skip
def test_the_shell_knows_which_phase_failed_in_that_run(root, package, options, phase):
    kept = root.kept(package)
    with Terminal(root, *argv(root, "resume", "--shell-on-failure", build_dir=kept), *options) as terminal:
        status = 2 if package == "greeting" else 3
        terminal.wait_for(f"nix-build-shell: {phase} failed with status {status}; here is a shell where it did\r\n")
        terminal.wait_for(rf":{phase}\] /build/\S+ \$ ")
        terminal.type("phases; ls -A /build; resume; echo status=$?; exit\n")
        terminal.wait_for(f"\n{phase} +failed\r\n")
        assert "nix-build-shell-phase" not in terminal.wait_for(f"(?s)(.*){phase} failed with status {status}\r\n")[1]
        terminal.wait_for(f"status={status}\r\n")
        assert terminal.end() == status


@pytest.mark.parametrize(("typed", "status"), [
    ("patchShebangs tests; resume", 0),
    ("patchShebangs tests; resume --only checkPhase", 2),
    ("patchShebangs tests; resume; resume --only noPhase", 0),
    ("patchShebangs tests; installPhase() { :; }; fixupPhase() { :; }; resume", 1),
    ("true", 2),
])  # fmt: skip
def test_what_is_mended_and_resumed_in_the_shell_succeeds(root, typed, status):
    """Whatever the shell itself ends with: that is the status of what was typed last."""
    with Terminal(root, *argv(root, "resume", "--shell-on-failure")) as terminal:
        terminal.wait_for(r"checkPhase\] /build/greeting \$ ")
        terminal.type(f"{typed}; exit 7\n")
        assert terminal.end() == status


def test_lines_for_nix_are_not_for_people(root):
    with Terminal(root, *argv(root, "resume", build_dir=root.kept())) as terminal:
        assert "@nix" not in terminal.wait_for(r"(?s)(.*)Error 127")[1]
        assert terminal.end() == 2


def test_a_resumed_build_can_be_kept(caller):
    state = caller.make_directory("state", mode=0o700)
    env = {"XDG_STATE_HOME": str(state)}
    result = call(caller, "resume", "--keep-session", "fix", env=env)
    assert result.returncode == 2
    assert "kept as the session fix" in result.stderr
    script = "patchShebangs greeting/tests > /dev/null; cd greeting; runPhase checkPhase"
    result = caller.run(
        caller.program, "sessions", "enter", "fix", "bash", "-c", f"source $stdenv/setup; foundMakefile=1; {script}", env=env
    )
    assert result.returncode == 0 and "polite: Hello, Ada!" in result.stdout, result
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *argv(caller, "resume", "--shell-on-failure", "--keep-session", "two")) as terminal:
        terminal.wait_for(r"checkPhase\] /build/greeting \$ ")
        terminal.type("echo edit > /build/edit; exit\n")
        terminal.wait_for("kept as the session two")
        assert terminal.end() == 2
    assert caller.run(caller.program, "sessions", "enter", "two", "cat", "/build/edit", env=env).stdout == "edit\n"


# --- The head of a session -------------------------------------------------------------------------------------------


def test_a_session_on_a_terminal_tells_how_the_build_failed(root):
    with Terminal(root, *root.command_line()) as terminal:
        terminal.wait_for("greeting-1.0 failed in checkPhase\r\n")
        terminal.wait_for("  derivation: /nix/store/[^ ]*-greeting-1.0.drv\r\n")
        terminal.wait_for(r"  > make: \*\*\* \[Makefile:10: check\] Error 127\r\n")
        terminal.wait_for("nix-build-shell resume ")
        terminal.type("exit\n")
        assert terminal.end() == 0


def test_a_command_and_a_pipe_are_told_nothing(root):
    assert root.enter("true").stderr == ""
    assert root.enter(input="exit\n").stderr == ""
    with Terminal(root, *root.command_line("echo", "ran")) as terminal:
        terminal.wait_for("^ran\r\n")


def test_a_log_cannot_speak_to_the_terminal(root, logs):
    directory, log = logs
    log.unlink()
    log.with_suffix("").write_bytes(b"10%\r\x1b[K100%\n\x1b]0;title\x07caf\xe9 \x01\x9b31m\n")
    with Terminal(root, "env", f"NIX_LOG_DIR={directory}", *root.command_line()) as terminal:
        terminal.wait_for(r"greeting-1.0 failed\r\n")
        lines = "  > 100%\r\n  > caf\N{REPLACEMENT CHARACTER} \\u{1}\N{REPLACEMENT CHARACTER}31m\r\n"
        terminal.wait_for(re.escape(lines))
        terminal.type("exit\n")
