"""Sessions that are kept: entered again, entered by a second terminal while they run, listed, removed."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest
from support import processes
from support.caller import Running
from support.kinds import KINDS, Sudoer
from support.leftovers import scratch_directories
from support.nix import USER
from support.terminal import Terminal

NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
RUNS = "echo ready; read -r line; exit 3"


class Keeper:
    """Somebody with a directory of his own for what he keeps."""

    def __init__(self, caller):
        self.caller = caller
        self.state = caller.make_directory(f"state-{caller.name}", mode=0o700)
        self.env = {"XDG_STATE_HOME": str(self.state)}

    @property
    def sessions(self):
        return self.state / "nix-build-shell" / "sessions"

    def keep(self, name, script="true", **how):
        return self.caller.enter("bash", "-c", script, options=["--keep-session", name], env=self.env, **how)

    def call(self, *arguments, **how):
        return self.caller.run(self.caller.program, "sessions", *arguments, **{"env": self.env, **how})

    def enter(self, name, script, **how):
        return self.call("enter", name, "bash", "-c", script, **how)

    def inside(self, name, script):
        result = self.enter(name, script)
        assert result.returncode == 0, result
        return result.stdout

    @contextmanager
    def running(self, name, script=RUNS):
        """The session while somebody is in it."""
        command = [self.caller.program, "sessions", "enter", name, "bash", "-c", script]
        with self.started(command) as running:
            assert running.line() == "ready"
            yield running

    @contextmanager
    def kept_running(self, name, script=RUNS, **how):
        command = self.caller.command_line("bash", "-c", script, options=["--keep-session", name], **how)
        with self.started(command) as running:
            assert running.line() == "ready"
            yield running

    def started(self, command):
        as_root = {"as_root": True} if "SUDO_UID" in self.caller.environment() else {}
        return Running(command, self.caller.as_caller(env=self.env, **as_root))

    def refused(self, *arguments, mentions=(), **how):
        result = self.call(*arguments, **how)
        assert (result.returncode, result.stdout) == (125, ""), result
        assert result.stderr.startswith("nix-build-shell: ") and result.stderr.count("\n") == 1, result.stderr
        for mention in mentions:
            assert str(mention) in result.stderr, f"{mention!r} is not in: {result.stderr}"

    def listed(self):
        result = self.call("--json")
        assert result.returncode == 0, result
        return {session["name"]: session for session in json.loads(result.stdout)}


@pytest.fixture
def keeper(caller):
    return Keeper(caller)


@pytest.fixture
def every_keeper(opener):
    """One for each kind of Nix."""
    return Keeper(opener)


# --- Keeping and entering again --------------------------------------------------------------------------------------


def test_what_was_done_is_there_when_it_is_entered_again(every_keeper):
    keeper = every_keeper
    first = keeper.keep("fix", "echo edit > $NIX_BUILD_TOP/edit; mkdir -p $out; echo made > $out/file; exit 4")
    assert first.returncode == 4
    assert first.stderr.splitlines()[-1].endswith(
        "kept as the session fix: «nix-build-shell sessions enter fix» enters it again"
    )
    again = keeper.enter("fix", "cat edit $out/file; echo more >> edit; exit 5")
    assert (again.returncode, again.stdout) == (5, "edit\nmade\n")
    assert keeper.inside("fix", "cat edit") == "edit\nmore\n"


def test_everything_in_it_belongs_to_the_caller_alone(every_keeper):
    keeper = every_keeper
    keeper.keep("fix", "mkdir -p $out; touch edit $out/file")
    owners = {path.lstat().st_uid for path in [keeper.sessions, *keeper.sessions.rglob("*")]}
    assert owners == {keeper.caller.uid}
    for path in [keeper.sessions, keeper.sessions / "fix"]:
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (keeper.sessions / "fix").glob("*.json"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_the_same_sandbox_again(every_keeper):
    """The closure, the environment, the kind of Nix that is imitated: whatever the kept directory said of them."""
    keeper = every_keeper
    look = "ls -1 /nix/store; stat -c '%A %n' / /etc /nix /bin /etc/*; env | grep -v SHLVL | sort; ls -1 /build"
    first = keeper.keep("fix", look)
    assert first.returncode == 0, first
    assert keeper.inside("fix", look) == first.stdout


def test_options_are_remembered(keeper):
    options = ["--keep-session", "fix", "--network", "--bind", "/opt/tools=/usr", "--store=full", "--like=multi-user"]
    look = "readlink /proc/self/ns/net; ls -d /opt/tools/bin; stat -c %A /; touch /nix/store/x; ls -d /nix/store/*-greeting-1.0.drv"
    first = keeper.caller.enter("bash", "-c", look, options=options, env=keeper.env)
    assert os.readlink("/proc/self/ns/net") in first.stdout
    assert keeper.enter("fix", look).stdout == first.stdout != ""


def test_a_store_path_that_is_spoilt_in_the_session_is_shown_as_it_is_the_next_time(keeper):
    """What stays behind where store paths were mounted must not be in the way, whatever it has become."""
    keeper.keep("fix", "true")
    outputs = keeper.sessions / "fix" / "outputs"
    names = sorted(path.name for path in outputs.iterdir())
    assert names
    for name, spoil in zip(names, ["file", "link", "directory", "nothing"]):
        subprocess.run(["rm", "-r", outputs / name], check=True)
        if spoil == "nothing":
            continue
        if spoil == "file":
            (outputs / name).write_text("")
        elif spoil == "link":
            (outputs / name).symlink_to("/etc")
        elif spoil == "directory":
            (outputs / name / "deeper").mkdir(parents=True, mode=0)
        keeper.caller.give(outputs / name)
    assert sorted(keeper.inside("fix", "ls -1 /nix/store").split()) == names
    assert keeper.inside("fix", "test -x $SHELL; cd /nix/store; ls -A *-coreutils | wc -l") != "0\n"


def test_a_session_whose_directories_were_closed_can_be_entered(keeper):
    keeper.keep("fix", "chmod 0 /nix/store /build")
    assert keeper.inside("fix", "stat -c %a /nix/store /build") == "1775\n700\n"


def test_the_kept_directory_may_have_gone(caller):
    keeper = Keeper(caller)
    copy = caller.copy_of_kept()
    assert keeper.keep("fix", "touch edit", build_dir=copy).returncode == 0
    shutil.rmtree(copy)
    assert keeper.inside("fix", "ls edit; ls env-vars") == "edit\nenv-vars\n"


def test_the_build_need_not_have_left_a_directory(caller):
    keeper = Keeper(caller)
    derivation = caller.builds.derivation(caller.builds.by_root("greeting"))
    assert keeper.keep("fix", "ls -A; touch edit", build_dir=derivation).returncode == 0
    assert keeper.inside("fix", "ls -A") == "edit\n"


def test_when_the_store_has_lost_the_derivation_it_says_where_the_work_is(keeper):
    keeper.keep("fix", "true")
    description = keeper.sessions / "fix" / "session.json"
    content = json.loads(description.read_text())
    content["derivation"] = "/nix/store/00000000000000000000000000000000-gone.drv"
    description.write_text(json.dumps(content))
    build = keeper.sessions / "fix" / "build"
    keeper.refused("enter", "fix", "true", mentions=["cannot be entered any more", "gone.drv", build])


@pytest.mark.parametrize("content", ["", "{}", '{"version": 99}', "[1, 2"])
def test_a_description_that_is_none_is_told(keeper, content):
    keeper.keep("fix", "true")
    (keeper.sessions / "fix" / "session.json").write_text(content)
    keeper.refused("enter", "fix", mentions=["session.json"])
    assert "session.json" in keeper.listed()["fix"]["title"]
    keeper.refused("remove", "fix", mentions=["the session fix stays", "session.json", "--no-patch"])
    assert keeper.call("remove", "--no-patch", "fix").returncode == 0


def test_a_session_that_was_killed_can_be_entered_again(every_keeper):
    keeper = every_keeper
    with keeper.kept_running("fix", "touch edit; echo ready; sleep 1000") as running:
        running.kill()
    # At once: what the kernel has not ended yet is waited for.
    assert keeper.inside("fix", "ls edit; ps -e -o comm= | grep sleep || true") == "edit\n"


def test_a_copy_that_was_interrupted_is_no_session(caller):
    keeper = Keeper(caller)
    keeper.keep("fix", "true")
    unfinished = keeper.sessions / "half"
    for path in [unfinished, unfinished / "build", unfinished / "build" / "deeper"]:
        path.mkdir()
        caller.give(path)
    assert list(keeper.listed()) == ["fix"]
    assert not unfinished.exists()


def test_where_no_sandbox_could_be_made_no_session_is_left(keeper):
    result = keeper.keep("fix", build_dir=keeper.caller.make_directory("empty"))
    assert result.returncode == 125
    spoilt = keeper.caller.enter("true", options=["--keep-session", "fix", "--bind", "/x=/missing"], env=keeper.env)
    assert spoilt.returncode == 125
    assert keeper.listed() == {}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "-x", "a b", "n" * 101, "ü"])
def test_a_name_that_is_none_is_refused(user, name):
    keeper = Keeper(user)
    result = user.enter("true", options=[f"--keep-session={name}"], env=keeper.env)
    assert result.returncode == 125 and "the name of a session" in result.stderr, result
    assert result.stderr.count("\n") == 1
    assert not keeper.sessions.exists()


def test_a_name_that_is_taken_is_refused_and_what_has_it_stays(keeper):
    keeper.keep("fix", "touch edit")
    result = keeper.keep("fix", "true")
    assert result.returncode == 125
    assert "sessions enter fix" in result.stderr and "sessions remove fix" in result.stderr
    with keeper.running("fix"):
        assert keeper.keep("fix", "true").returncode == 125
    assert keeper.inside("fix", "ls edit") == "edit\n"


def test_a_name_that_nobody_has_made_is_told(keeper):
    keeper.refused("enter", "fix", mentions=["no session called fix"])
    keeper.keep("other", "true")
    keeper.refused("enter", "fix", mentions=["no session called fix", "nix-build-shell sessions"])
    keeper.refused("remove", "fix", mentions=["no session called fix"])


def test_enter_and_remove_ask_for_a_name(user):
    keeper = Keeper(user)
    for action in ["enter", "remove"]:
        keeper.refused(action, mentions=["which session?"])
    keeper.refused("enter", "fix", "-x", mentions=["-x is no command"])


def test_a_dry_run_makes_nothing(keeper):
    result = keeper.caller.enter("true", options=["--dry-run", "--keep-session", "fix"], env=keeper.env)
    assert str(keeper.sessions / "fix" / "build") in result.stdout
    assert not keeper.sessions.exists()


def test_without_xdg_state_home_it_is_below_the_home_directory(user):
    home = user.make_directory("home")
    result = user.enter("true", options=["--keep-session", "fix"], env={"HOME": str(home)})
    assert result.returncode == 0
    assert (home / ".local/state/nix-build-shell/sessions/fix/build/env-vars").exists()
    nowhere = user.enter("true", options=["--keep-session", "fix"], env={"HOME": ""})
    assert nowhere.returncode == 125 and "set XDG_STATE_HOME" in nowhere.stderr


def test_a_directory_of_sessions_that_others_may_change_is_refused(keeper):
    keeper.keep("fix", "true")
    keeper.sessions.chmod(0o777)
    keeper.refused("enter", "fix", mentions=["is not yours alone"])
    keeper.sessions.chmod(0o700)
    os.chown(keeper.sessions, 12345, 12345)
    assert keeper.call("enter", "fix").returncode == 125
    os.chown(keeper.sessions, keeper.caller.uid, keeper.caller.uid)


# --- With a shell on a terminal --------------------------------------------------------------------------------------


def on_terminal(keeper, *arguments):
    as_root = isinstance(keeper.caller, Sudoer)
    return Terminal(keeper.caller, "env", f"XDG_STATE_HOME={keeper.state}", *arguments, as_root=as_root)


def shell_kept(keeper, name, *options, build_dir=None):
    return on_terminal(keeper, *keeper.caller.command_line(options=["--keep-session", name, *options], build_dir=build_dir))


def shell_entered(keeper, name):
    return on_terminal(keeper, keeper.caller.program, "sessions", "enter", name)


def answer(terminal, script):
    terminal.type(f"echo 'be''gin'; {script}; echo 'e''nd'\n")
    return terminal.wait_for(r"(?s)begin\r\n(.*?)end\r\n")[1].replace("\r", "")


PROMPT = r"\[nix-build-shell greeting:checkPhase\] /build/greeting \$ "
KEPT = r"kept as the session fix: «nix-build-shell sessions enter fix» enters it again\r\n"


def leave(terminal):
    terminal.type("exit 4\n")
    terminal.wait_for(KEPT)
    assert terminal.end() == 4


def test_a_shell_is_the_same_again(every_keeper):
    keeper = every_keeper
    shells = []
    for enter in [shell_kept, shell_entered, shell_entered]:
        with enter(keeper, "fix") as terminal:
            terminal.wait_for(r"greeting-1.0 failed in checkPhase\r\n")
            terminal.wait_for("what you change is kept as the session fix\r\n")
            terminal.wait_for(PROMPT)
            shells.append(answer(terminal, "tty; type -t runPhase; ls /nix/store"))
            assert answer(terminal, "ls -A $NIX_BUILD_TOP/edit 2>/dev/null") == "/build/edit\n" * (enter is shell_entered)
            terminal.type("touch $NIX_BUILD_TOP/edit\n")
            leave(terminal)
    assert shells[0] == shells[1] == shells[2]
    assert shells[0].startswith("/dev/pts/0\nfunction\n")
    assert keeper.inside("fix", "ls -A edit; ls /.nix-build-shell 2>/dev/null || echo none") == "edit\nnone\n"
    owners = {path.lstat().st_uid for path in [keeper.sessions, *keeper.sessions.rglob("*")]}
    assert owners == {keeper.caller.uid}


@pytest.mark.parametrize("kind", ["plain", "structured", "several-outputs"])
def test_after_phases_by_hand_it_is_still_known_how_the_build_failed(root, kind):
    """A phase writes another env-vars, in another directory and with other variables."""
    keeper = Keeper(root)
    kept = root.kept(f"failing.{kind}.installPhase")
    # A long one does not fit on the line.
    prompt = r"installPhase\] /build/greeting \$ "
    with shell_kept(keeper, "fix", build_dir=kept) as terminal:
        terminal.wait_for(prompt)
        answer(terminal, "cd tests; runPhase buildPhase > /dev/null 2>&1; grep -c PWD=./build/greeting/tests. /build/env-vars")
        # Somebody may think about it for a while.
        answer(terminal, "touch -d '1 hour' /build/env-vars")
        leave(terminal)
    for _ in range(2):
        with shell_entered(keeper, "fix") as terminal:
            terminal.wait_for(rf"{kind}-installPhase failed in installPhase\r\n")
            header = terminal.wait_for(f"(?s)(.*){prompt}")[1]
            assert "another build" not in header and "> installPhase fails" in header
            said = answer(terminal, "resume 2>&1; ls -d ${out%/*}/*-before-resume")
            assert "File exists" not in said and "installPhase failed with status 3" in said
            assert "No such file or directory" in said.splitlines()[-1]
            leave(terminal)


def test_what_was_put_into_an_output_by_hand_is_kept_by_resume_in_a_later_shell(root):
    keeper = Keeper(root)
    with shell_kept(keeper, "fix", build_dir=root.kept("failing.plain.installPhase")) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "echo mine > $out/by-hand")
        leave(terminal)
    with shell_entered(keeper, "fix") as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("resume\n")
        terminal.wait_for(r"installPhase begins without (\S+), as in the build; what was there is in \1-before-resume now")
        terminal.wait_for("installPhase failed with status 3")
        assert answer(terminal, "cat $out-before-resume/by-hand; ls $out") == "mine\ngreeting\n"
        leave(terminal)


@pytest.mark.parametrize("ending", ["it ends", "it is killed"])
def test_how_far_resume_came_is_known_in_a_later_shell(keeper, ending):
    def end(terminal):
        if ending == "it ends":
            return leave(terminal)
        terminal.process.kill()
        terminal.process.wait()

    fails = "installPhase() { mkdir $out; cd tests; false; }"
    with shell_kept(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        answer(terminal, f"patchShebangs tests; {fails}; resume > /dev/null 2>&1")
        terminal.wait_for("greeting:installPhase")
        with shell_entered(keeper, "fix") as second:
            second.wait_for(PROMPT.replace("checkPhase", "installPhase"))
            said = answer(second, f"{fails}; resume 2>&1")
            assert "File exists" not in said and "Running phase: checkPhase" not in said and "failed with status 1" in said
            second.type("exit\n")
            second.end()
        end(terminal)
    with shell_entered(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT.replace("checkPhase", "installPhase"))
        assert "checkPhase           done\ninstallPhase         failed\n" in answer(terminal, "phases")
        said = answer(terminal, f"{fails}; resume 2>&1")
        assert "File exists" not in said and "Running phase: checkPhase" not in said and "failed with status 1" in said
        assert "the build is complete" in answer(terminal, "unset -f installPhase; installPhase() { make install PREFIX=$out; }; resume 2>&1")
        end(terminal)
    with shell_entered(keeper, "fix") as terminal:
        terminal.wait_for(r"\[nix-build-shell greeting:done\] /build/greeting \$ ")
        assert answer(terminal, "ls $out; resume 2>&1; phases | grep -vc done") == "bin\nnix-build-shell: from which phase? «resume PHASE»\n0\n"
        leave(terminal)


MAKES_ITS_OUTPUT = "installPhase() { mkdir $out && cd tests && cd .. && make install PREFIX=$out; }"


def is_done(keeper, name):
    """A session in which all phases were run; what one of them makes it can make again."""
    with shell_entered(keeper, name) as terminal:
        header = terminal.wait_for(r"(?s)(.*)\[nix-build-shell greeting:done\] /build/greeting \$ ")[1]
        assert "greeting-1.0: in this session all phases have succeeded\r\n" in header
        assert "failed" not in header and "last lines" not in header, header
        said = answer(terminal, f"{MAKES_ITS_OUTPUT}; resume installPhase 2>&1; echo status=$?")
        assert "File exists" not in said and "the build is complete" in said and said.endswith("status=0\n"), said
        leave(terminal)


def test_in_a_session_that_is_done_a_phase_can_be_run_again(keeper):
    with shell_kept(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        said = answer(terminal, f"patchShebangs tests > /dev/null; {MAKES_ITS_OUTPUT}; resume 2>&1")
        assert "the build is complete" in said
        leave(terminal)
    is_done(keeper, "fix")
    # A command in between takes nothing away.
    assert keeper.inside("fix", "ls $out") == "bin\n"
    is_done(keeper, "fix")


def mended(caller):
    copy = caller.copy_of_kept()
    (shell,) = [line.split('"')[1] for line in (copy / "env-vars").read_text().splitlines() if line.startswith("declare -x SHELL=")]
    test = copy / "greeting" / "tests" / "is-polite"
    test.write_text(test.read_text().replace("#!/usr/bin/env bash", f"#!{shell}", 1))
    return copy


def resumed(keeper, *options):
    return keeper.caller.run(keeper.caller.program, "resume", "--keep-session", "fix", *map(str, options), env=keeper.env)


def test_a_resumed_build_that_is_kept_is_done_where_it_succeeds(caller):
    keeper = Keeper(caller)
    assert resumed(keeper, mended(caller)).returncode == 0
    is_done(keeper, "fix")


@pytest.mark.parametrize("how", ["from checkPhase", "from the beginning"])
def test_a_resumed_build_that_is_kept_tells_where_it_failed(caller, how):
    keeper = Keeper(caller)
    copy = mended(caller)
    if how == "from checkPhase":
        with open(copy / "greeting" / "Makefile", "a") as makefile:
            makefile.write("install:\n\tmkdir $(PREFIX)/once\n\tfalse\n")
        failed, options = "installPhase", [copy]
    else:
        failed, options = "checkPhase", ["--from", "unpackPhase", copy]
    result = resumed(keeper, *options)
    assert result.returncode == 2, result
    with shell_entered(keeper, "fix") as terminal:
        header = terminal.wait_for(rf"(?s)(.*)greeting:{failed}\] /build/greeting \$ ")[1]
        if failed == "installPhase":
            assert "greeting-1.0 failed in installPhase, in this session\r\n" in header and "last lines" not in header
        else:
            assert "greeting-1.0 failed in checkPhase\r\n" in header and "Error 127" in header
        said = answer(terminal, "resume 2>&1")
        assert "File exists" not in said and f"{failed} failed with status 2" in said
        # Nobody has put anything there by hand.
        assert "before-resume" not in said
        leave(terminal)


def test_a_build_that_has_not_begun_has_not_failed(keeper):
    """Whatever became of it elsewhere: the store has the log of that."""
    derivation = keeper.caller.builds.derivation(keeper.caller.builds.by_root("greeting"))
    for enter in [lambda: shell_kept(keeper, "fix", build_dir=derivation), lambda: shell_entered(keeper, "fix")]:
        with enter() as terminal:
            seen = terminal.wait_for(r"(?s)(.*)\[nix-build-shell greeting\] /build \$ ")[1]
            assert "greeting-1.0, before it is built\r\n" in seen and "last lines" not in seen and "No such file" not in seen
            assert "failed\n" not in answer(terminal, "phases 2> /dev/null")
            leave(terminal)


def test_what_was_typed_is_there_the_next_time(keeper):
    with shell_kept(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("echo typed-before\n")
        leave(terminal)
    with shell_entered(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        assert "echo typed-before" in answer(terminal, "history")
        leave(terminal)


def test_no_patch_is_written(keeper):
    with shell_kept(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("sed -i s/Hello/Hullo/ greeting.c\n")
        leave(terminal)
    assert not list(keeper.state.rglob("*.patch"))
    assert "Hullo" in (keeper.sessions / "fix" / "build" / "greeting" / "greeting.c").read_text()
    result = keeper.caller.enter("true", options=["--keep-session", "other", "--save-patch", "x"], env=keeper.env)
    assert result.returncode == 125 and "--save-patch" in result.stderr
    assert list(keeper.listed()) == ["fix"]


def test_what_was_added_is_added_again(keeper, builds):
    debugger = builds.output_by_daemon("debugger")
    kept = keeper.caller.enter("debug", options=["--keep-session", "fix", "--with", str(debugger)], env=keeper.env)
    assert kept.stdout == "all the symbols\n", kept
    assert keeper.inside("fix", "debug") == "all the symbols\n"
    with keeper.running("fix", f"ls /nix/store > /tmp/first; {RUNS}"):
        assert keeper.inside("fix", "debug; ls /nix/store | cmp - /tmp/first") == "all the symbols\n"


def test_who_joins_with_a_terminal_has_one_of_the_sandboxs_own(every_keeper):
    keeper = every_keeper
    with shell_kept(keeper, "fix") as first:
        first.wait_for(PROMPT)
        assert answer(first, "echo mark > /tmp/mark; tty") == "/dev/pts/0\n"
        with shell_entered(keeper, "fix") as second:
            second.wait_for(PROMPT)
            assert answer(second, "cat /tmp/mark; tty; type -t runPhase") == "mark\n/dev/pts/1\nfunction\n"
            # Job control is his as well.
            second.type("sleep 1000\n")
            processes.await_that(lambda: "sleep" in keeper.inside("fix", "ps -e -o comm="))
            second.type("\x1a")
            second.wait_for("Stopped.*sleep 1000\r\n")
            second.wait_for(PROMPT)
            second.type("fg\n")
            second.wait_for("sleep 1000\r\n")
            second.type("\x03")
            second.wait_for(PROMPT)
            second.type("exit 6\n")
            assert second.end() == 6
        leave(first)


def test_a_command_that_joins_is_stopped_and_goes_on(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix") as first:
        enter = f"{keeper.caller.program} sessions enter fix"
        with on_terminal(keeper, "bash", "--norc", "-i") as terminal:
            terminal.type(f"{enter} bash -c 'echo on; read -r line; echo got $line; exit 7'\n")
            terminal.wait_for("\non\r\n")
            terminal.type("\x1a")
            terminal.wait_for("Stopped")
            terminal.type("fg\n")
            terminal.wait_for(r"enter fix bash")
            terminal.type("word\n")
            terminal.wait_for("got word\r\n")
            # What is typed before belongs to the command.
            terminal.wait_for(r"[#$] ")
            terminal.type("echo status $?; exit\n")
            terminal.wait_for("status 7")
            terminal.end()
        first.say("end\n")
        assert first.end() == 3


# --- The list, and removal -------------------------------------------------------------------------------------------


def test_the_list_shows_what_there_is(keeper):
    assert keeper.call().stderr == "nix-build-shell: there are no sessions; --keep-session NAME keeps one\n"
    keeper.keep("b-session", "head -c 3000000 /dev/urandom > big")
    keeper.keep("a-session", "true")
    with keeper.running("a-session"):
        head, first, second = keeper.call().stdout.splitlines()
    assert head.split() == ["NAME", "BUILD", "SIZE", "CREATED", "LAST", "USED", "STATE"]
    assert first.split()[:2] == ["a-session", "greeting-1.0"] and first.split()[-3:] == ["just", "now", "running"]
    assert second.split()[:4] == ["b-session", "greeting-1.0", "3.0", "MiB"] and second.split()[-3:] == ["just", "now", "idle"]


def test_programs_can_read_the_list(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix"):
        session = keeper.listed()["fix"]
    assert session["running"] is True
    assert session["build"] == str(keeper.caller.kept())
    assert session["derivation"].endswith("-greeting-1.0.drv")
    assert session["path"] == str(keeper.sessions / "fix")
    assert session["created"] <= session["last_used"]
    assert keeper.listed()["fix"]["running"] is False


def test_sessions_are_removed_whatever_is_in_them(every_keeper):
    keeper = every_keeper
    keeper.keep("fix", "mkdir -p a/b; touch a/b/file; chmod 0555 a/b; chmod 0 a; chmod 0 /build")
    keeper.keep("other", "true")
    result = keeper.call("remove", "fix", "missing", "other")
    assert (result.returncode, result.stdout) == (125, "removed fix\nremoved other\n"), result
    assert "no session called missing" in result.stderr
    assert not list(keeper.sessions.iterdir())


def test_a_session_in_use_is_not_removed(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix") as running:
        keeper.refused("remove", "fix", mentions=["in use"])
        running.say("end\n")
        assert running.end() == 3
    assert keeper.call("remove", "fix").stdout == "removed fix\n"


CHANGES = r"""
    cd /build/greeting
    touch -r tests/is-polite /tmp/time; sed -i s/polite/etilop/ tests/is-polite; touch -r /tmp/time tests/is-polite
    sed -i s/Hello/Hullo/ greeting.c
    mv README notes 2>/dev/null || mv Makefile makefile
    echo new > new
    chmod +x greeting.c
    echo '#!/bin/sh' > tests/another; cp tests/another /build/elsewhere
    echo object > greeting.o; mkdir -p build; echo made > build/made
"""


def changed(keeper, name, script=CHANGES):
    """A session in which something was changed, and the patch of the same changes in a session that was not kept."""
    patch = keeper.state / "as-ever.patch"
    caller = keeper.caller
    assert caller.enter("bash", "-c", script, options=["--save-patch", str(patch)]).returncode == 0
    assert keeper.keep(name, script).returncode == 0
    return patch


def test_what_was_changed_is_saved_when_it_is_removed_as_at_the_end_of_any_session(every_keeper):
    keeper = every_keeper
    as_ever = changed(keeper, "fix")
    # What was changed later on is in it as well.
    assert keeper.enter("fix", "cd /build/greeting; echo later > later; rm new").returncode == 0
    assert keeper.enter("fix", "cd /build/greeting; rm later; echo new > new").returncode == 0
    removed = keeper.call("remove", "fix")
    assert (removed.returncode, removed.stdout) == (0, "removed fix\n"), removed
    first = removed.stderr.splitlines()[0]
    assert re.match(r"nix-build-shell: your changes to \d files of greeting are in ", first), removed.stderr
    (patch,) = [path for path in keeper.state.glob("nix-build-shell/*.patch") if not path.name.endswith(".rest.patch")]
    assert patch.read_bytes() == as_ever.read_bytes() and str(patch) in first
    assert patch.lstat().st_uid == keeper.caller.uid
    rest = keeper.state.glob("nix-build-shell/*.rest.patch")
    assert [path.read_bytes() for path in rest] == [as_ever.with_suffix(".rest.patch").read_bytes()]
    assert not list(keeper.sessions.iterdir())


def test_the_patch_goes_where_it_is_wanted_or_nowhere(keeper):
    as_ever = changed(keeper, "fix")
    changed_too = keeper.keep("other", CHANGES)
    assert changed_too.returncode == 0
    file = keeper.state / "file.patch"
    keeper.refused("remove", "--save-patch", str(file), "fix", "other", mentions=["one session"])
    keeper.refused("remove", "--save-patch", str(as_ever), "fix", mentions=["the session fix stays", "there already", as_ever])
    assert keeper.call("remove", "--save-patch", str(file), "fix").stdout == "removed fix\n"
    assert file.read_bytes() == as_ever.read_bytes()
    quiet = keeper.call("remove", "--no-patch", "other")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert not list(keeper.state.glob("nix-build-shell/*.patch"))


def test_where_nothing_was_changed_nothing_is_saved_or_said(every_keeper):
    keeper = every_keeper
    keeper.keep("fix", "cat /build/greeting/*; ls -R /build")
    removed = keeper.call("remove", "fix")
    assert (removed.returncode, removed.stdout, removed.stderr) == (0, "removed fix\n", "")


def test_what_was_left_out_was_not_removed_and_a_product_that_is_as_it_was_is_not_told(user):
    keeper = Keeper(user)
    copy = user.copy_of_kept()
    (copy / "greeting" / "closed.c").write_text("for root\n")
    (copy / "greeting" / "closed.c").chmod(0o600)
    user.give_text(copy / "greeting" / "old.o", "an object\n")
    user.give(copy / "greeting")
    options = ["--ignore-unreadable", "--keep-session", "fix"]
    result = user.enter("bash", "-c", "ls greeting/closed.c; chmod a-w greeting/old.o", build_dir=copy, options=options, env=keeper.env)
    assert "cannot access" in result.stderr, result
    removed = keeper.call("remove", "fix")
    assert (removed.returncode, removed.stdout, removed.stderr) == (0, "removed fix\n", "")


def test_where_there_is_nothing_to_compare_with_it_stays(caller):
    keeper = Keeper(caller)
    copy = caller.copy_of_kept()
    keeper.keep("of-another", "touch edit", build_dir=copy)
    (copy / "env-vars").touch()
    keeper.refused("remove", "of-another", mentions=["the session of-another stays", copy, "is not as it was", "--no-patch"])
    shutil.rmtree(copy)
    keeper.refused("remove", "of-another", mentions=["the session of-another stays", copy, "--no-patch"])
    assert keeper.inside("of-another", "ls edit") == "edit\n"
    assert keeper.call("remove", "--no-patch", "of-another").stdout == "removed of-another\n"


def test_what_was_unpacked_in_the_session_of_a_derivation_is_compared_when_it_is_removed(caller):
    keeper = Keeper(caller)
    derivation = caller.builds.derivation(caller.builds.by_root("greeting"))
    script = "source $stdenv/setup; runPhase unpackPhase; echo '// typed' >> greeting.c"
    assert keeper.keep("typed", f"{script}; echo a note > ../notes", build_dir=derivation).returncode == 0
    assert keeper.keep("empty", build_dir=derivation).returncode == 0
    file = keeper.state / "of-removed.patch"
    removed = keeper.call("remove", "--save-patch", file, "typed")
    assert (removed.returncode, removed.stdout) == (0, "removed typed\n"), removed
    patch = file.read_text()
    assert re.findall("^diff --git (.*)$", patch, re.M) == ["a/greeting.c b/greeting.c"] and "\n+// typed\n" in patch
    rest = file.with_suffix(".rest.patch").read_text()
    assert re.findall("^diff --git (.*)$", rest, re.M) == ["a/notes b/notes"]
    removed = keeper.call("remove", "empty")
    assert (removed.returncode, removed.stdout, removed.stderr) == (0, "removed empty\n", "")


def test_what_was_written_by_hand_into_outputs_is_named_when_the_session_is_removed(root):
    keeper = Keeper(root)
    kept = root.kept("failing.plain.installPhase")
    went = r"nix-build-shell: (1 file|2 files) that you wrote into outputs went with the session fix(?:: |, such as )(\S+)\n"
    with shell_kept(keeper, "fix", build_dir=kept) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "mkdir -p $out/etc; echo conf > $out/etc/conf")
        terminal.type("exit\n")
        terminal.end()
    assert keeper.enter("fix", "echo conf > $out/etc/conf2").returncode == 0
    removed = keeper.call("remove", "fix")
    assert re.search(went, removed.stderr), removed
    number, output = re.search(went, removed.stderr).groups()
    assert (removed.stdout, number) == ("removed fix\n", "2 files") and "before-resume" not in output, removed
    # What a phase has made is no loss, and what it has put aside was made by hand.
    with shell_kept(keeper, "fix", build_dir=kept) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "echo mine > $out/by-hand")
        answer(terminal, "resume 2>&1")
        terminal.type("exit\n")
        terminal.end()
    # Later shells know it as well.
    assert keeper.enter("fix", "true").returncode == 0
    removed = keeper.call("remove", "--no-patch", "fix")
    assert re.search(went, removed.stderr).groups() == ("1 file", f"{output}-before-resume"), removed
    with shell_kept(keeper, "fix", build_dir=kept) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, "runPhase installPhase 2>&1; ls $out; ls -l $out/bin")
        terminal.type("exit\n")
        terminal.end()
    removed = keeper.call("remove", "--no-patch", "fix")
    assert (removed.stdout, removed.stderr) == ("removed fix\n", "")


# --- Joining a session that runs -------------------------------------------------------------------------------------


def test_a_second_terminal_is_in_the_same_namespaces(every_keeper):
    keeper = every_keeper
    look = 'cd /proc/self/ns; readlink cgroup ipc mnt net pid user uts; hostname; ls -1 /nix/store; stat -c "%d %i" / /build /tmp'
    with keeper.kept_running("fix", f"({look}) > /tmp/first; touch /tmp/mark; {RUNS}") as running:
        assert keeper.inside("fix", look) == keeper.inside("fix", "cat /tmp/first")
        seen = keeper.inside("fix", "ps -e -o comm=; ls /tmp/mark").split()
        assert seen.count("nix-build-shell") == 2 and "/tmp/mark" in seen
        host = {os.readlink(f"/proc/{running.command}/ns/{name}") for name in NAMESPACES}
        assert host == set(keeper.inside("fix", look).split()[:7])
        running.say("end\n")
        assert running.end() == 3


RESTRICTIONS = r"""
    grep -vE '^(Name|Pid|PPid|Tgid|Ngid|NSpid|NStgid|NSpgid|NSsid|SigQ|Vm|Rss|Hugetlb|Cpus|Mems|Threads|THP|State|voluntary|nonvol)' /proc/self/status
    cat /proc/self/limits /proc/self/personality /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups /proc/self/mountinfo
    readlink /proc/self/root /proc/self/cwd; ls /proc/self/fd; umask; cat /proc/self/oom_score_adj; id
    (umask 0; : > file; chmod u+s file; unshare --mount true; unshare --user true; mount -t tmpfs none /tmp; echo x > /proc/sys/kernel/hostname) 2>&1
    rm -f file; env | grep -vE '^(SHLVL|_)='  | sort
"""


@pytest.mark.parametrize("options", [[], ["--network"]], ids=["its own network", "the host's network"])
def test_who_joins_is_bound_by_the_same_restrictions(opener, options):
    keeper = Keeper(opener)
    first = f"({RESTRICTIONS}) > /tmp/first; {RUNS}"
    command = ["bash", "-c", first]
    line = opener.command_line(*command, options=["--keep-session", "fix", *options])
    with keeper.started(line) as running:
        assert running.line() == "ready"
        joined = keeper.inside("fix", f"({RESTRICTIONS})")
        assert joined.splitlines() == keeper.inside("fix", "cat /tmp/first").splitlines()
        assert "NoNewPrivs:\t1" in joined and "CapEff:\t0000000000000000" in joined and "Seccomp:\t2" in joined
        assert "chmod: changing permissions of 'file': Operation not permitted" in joined


@pytest.mark.parametrize("status", [0, 7, 255])
def test_who_joins_gets_the_status_of_his_own_command(keeper, status):
    keeper.keep("fix", "true")
    with keeper.running("fix") as running:
        assert keeper.enter("fix", f"exit {status}").returncode == status
        assert keeper.enter("fix", "kill -TERM $$").returncode == 128 + signal.SIGTERM
        assert keeper.call("enter", "fix", "no-such-command").returncode == 127
        running.say("end\n")
        assert running.end() == 3


def test_who_joins_and_goes_leaves_the_others_alone(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix") as running:
        # What he leaves in the background stays to the end of the session, and is reaped.
        assert keeper.inside("fix", "(trap '' TERM HUP; exec sleep 1000) > /dev/null 2>&1 & (true &) ; echo $?") == "0\n"
        seen = keeper.inside("fix", "ps -e -o stat=,comm=")
        assert "sleep" in seen and "Z" not in seen
        running.say("end\n")
        assert running.end() == 3


def test_signals_reach_the_command_of_who_is_signalled(keeper):
    keeper.keep("fix", "true")
    script = 'trap "echo first; exit 9" TERM; echo ready; while true; do :; done'
    with keeper.running("fix", script) as first, keeper.running("fix", script.replace("first", "second")) as second:
        second.signal(signal.SIGTERM)
        assert second.line() == "second" and second.end() == 9
        first.signal(signal.SIGTERM)
        assert first.line() == "first" and first.end() == 9


def test_when_the_session_ends_it_ends_for_all(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix") as first, keeper.running("fix", "trap '' TERM HUP; echo ready; sleep 1000") as second:
        first.say("end\n")
        assert first.end() == 3
        assert second.end() == 128 + signal.SIGKILL
        assert "the session fix has ended" in second.rest_of_errors()
    assert keeper.listed()["fix"]["running"] is False


def test_a_second_terminal_that_is_stopped_does_not_keep_the_session_from_ending(keeper):
    """The kernel takes a PID namespace down only when the last process in it was reaped."""
    keeper.keep("fix", "true")
    with keeper.running("fix") as first, keeper.running("fix", "echo ready; sleep 1000") as second:
        second.signal(signal.SIGSTOP)
        try:
            first.say("end\n")
            assert first.end() == 3
            assert keeper.inside("fix", "echo again") == "again\n"
        finally:
            second.signal(signal.SIGCONT)
        assert second.end() == 128 + signal.SIGKILL, second.rest_of_errors()


def test_when_his_first_process_is_killed_from_inside_his_command_dies_too(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix") as first, keeper.running("fix", "echo ready; exec sleep 1234") as second:
        assert keeper.inside("fix", "kill -KILL $(ps -e -o ppid=,comm= | awk '$2 == \"sleep\" { print $1 }'); echo $?") == "0\n"
        assert second.end() == 128 + signal.SIGKILL
        processes.await_that(lambda: "sleep" not in keeper.inside("fix", "ps -e -o comm="))
        assert second.rest_of_errors() == ""
        first.say("end\n")
        assert first.end() == 3


def test_when_who_has_joined_is_killed_his_command_dies_with_him(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix") as first, keeper.running("fix", "echo ready; exec sleep 1234") as second:
        # Whoever joins is not PID 1.
        (joined,) = processes.children(second.pid)
        (command,) = processes.children(joined)
        second.kill()
        assert processes.await_end(command)
        first.say("end\n")
        assert first.end() == 3


def test_a_terminal_can_be_the_second_one(keeper):
    keeper.keep("fix", "true")
    with keeper.running("fix", f"touch /tmp/mark; {RUNS}") as first:
        how = keeper.caller
        command = ["env", f"XDG_STATE_HOME={keeper.state}", how.program, "sessions", "enter", "fix", "bash", "--norc"]
        with Terminal(how, *command) as terminal:
            terminal.type("ls /tmp/mark; sleep 1000\n")
            terminal.wait_for("\n/tmp/mark")
            processes.await_that(lambda: "sleep" in keeper.inside("fix", "ps -e -o comm="))
            terminal.type("\x03")
            terminal.type("echo $((6*7)); exit 6\n")
            terminal.wait_for("\n42")
            assert terminal.end() == 6
        first.say("end\n")
        assert first.end() == 3


# --- Who joins is out of reach for what is inside --------------------------------------------------------------------

OUTSIDERS = """
    for pid in $(ps -e -o pid=,comm= | awk '$2 == "nix-build-shell" && $1 != 1 { print $1 }'); do
        for what in environ mem maps auxv; do head -c1 /proc/$pid/$what && echo "read $what"; done
        for what in exe root cwd fd/0; do readlink /proc/$pid/$what && echo "read $what"; done
        timeout 5 strace -p $pid && echo traced
        : > /proc/$pid/exe && echo written
        echo "tried $pid"
    done
"""


def test_the_memory_of_who_joins_and_his_program_are_closed(caller):
    keeper = Keeper(caller)
    keeper.keep("fix", "true")
    with keeper.running("fix") as first:
        keeper.env["SECRET"] = "of the caller"
        with keeper.running("fix") as second:
            del keeper.env["SECRET"]
            seen = keeper.enter("fix", OUTSIDERS)
            # The second terminal, and the one that looks.
            assert seen.stdout.count("tried") == 2, seen
            assert "read" not in seen.stdout and "traced" not in seen.stdout and "written" not in seen.stdout
            second.say("end\n")
            assert second.end() == 3
        first.say("end\n")
        assert first.end() == 3


WATCHER = """
    echo ready
    while true; do
        for directory in /proc/[0-9]*; do
            case ${directory#/proc/} in 1|$$) continue;; esac
            exe=$(readlink $directory/exe) || continue
            case $exe in */nix-build-shell) echo "saw $exe";; esac
            if grep -qs SECRET $directory/environ; then echo "saw the environment"; fi
        done
    done 2>/dev/null
"""


def test_at_no_moment_can_who_joins_be_looked_into(caller):
    """From the moment that it is in the sandbox's PID namespace, before its command is executed, and after."""
    keeper = Keeper(caller)
    keeper.keep("fix", "true")
    with keeper.running("fix", WATCHER) as first:
        for _ in range(60):
            assert keeper.enter("fix", "exit 2", env={**keeper.env, "SECRET": "SECRET"}).returncode == 2
        first.signal(signal.SIGKILL)
        first.process.wait(processes.PATIENCE)
        assert first.process.stdout.read() == b""
    processes.await_end_of_sandboxes(caller.session)


def test_a_session_that_was_entered_with_sudo_is_joined_with_sudo(session, builds, workspace):
    opener = Sudoer("sudo", USER, session, builds, workspace)
    keeper = Keeper(opener)
    with keeper.kept_running("fix", RUNS):
        without_sudo = {key: value for key, value in opener.environment(**keeper.env).items() if not key.startswith("SUDO")}
        result = subprocess.run(
            [opener.program, "sessions", "enter", "fix", "true"],
            env=without_sudo, user=opener.uid, group=opener.uid, extra_groups=[], cwd="/", capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 125 and "closed to you" in result.stderr, result
        assert keeper.enter("fix", "exit 4").returncode == 4


def test_nobody_is_led_into_the_sandbox_of_somebody_else(user, root):
    """Who may call this program with sudo, and nothing else, can write into his own records what he likes."""
    victim, attacker = Keeper(root), Keeper(user)
    attacker.keep("fix", "true")
    victim.keep("secret", "true")
    with victim.running("secret"):
        record = (victim.sessions / "secret" / "running.json").read_text()
        session = attacker.sessions / "fix"
        (session / "running.json").write_text(record)
        directory = os.open(session, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
        attacker.refused("enter", "fix", "true", mentions=["closed to you"])
        sudo = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}
        how = {"env": {**attacker.env, **sudo}, "as_root": True}
        attacker.refused("enter", "fix", "true", mentions=["no sandbox of yours"], **how)
        os.close(directory)


def test_a_session_that_is_just_being_made_is_told(keeper):
    keeper.keep("fix", "true")
    directory = os.open(keeper.sessions / "fix", os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    keeper.refused("enter", "fix", mentions=["try again"])
    os.close(directory)
    assert keeper.inside("fix", "echo now") == "now\n"


# --- A session that nobody had asked to keep, and that was killed -----------------------------------------------------


RECOVERED = r"kept as the session (\S+-recovered-\d{8}T\d{6}(-2)?), what was (?:in outputs and )?elsewhere went with the sandbox: "


def shell_killed(keeper, script, *options, build_dir=None, env=()):
    """Leaves what somebody has done in an ordinary session, whose program is killed."""
    command = keeper.caller.command_line(options=options, build_dir=build_dir)
    with on_terminal(keeper, *env, *command) as terminal:
        terminal.wait_for(r"\$ ")
        answer(terminal, script)
        terminal.wait_for(r"\$ ")
        terminal.process.kill()
        terminal.process.wait()
    processes.await_end_of_sandboxes(keeper.caller.session)


def recovered(keeper, text):
    """The name of the session that a later run has said, once, it has kept."""
    assert len(re.findall("was killed", text)) == 1, text
    return re.search(RECOVERED, text)[1]


# What belongs to a build user is no layer for anybody but root.
ALL_MODES = [(kind, mode) for kind in KINDS for mode in ["copy", "overlay"] if (kind, mode) != ("daemon", "overlay")]


@pytest.mark.parametrize(("opener", "mode"), ALL_MODES, indirect=["opener"])
def test_what_was_typed_before_a_sigkill_is_kept_by_the_next_run(opener, mode):
    keeper = Keeper(opener)
    script = "sed -i s/Hello/Hullo/ /build/greeting/greeting.c; rm /build/greeting/Makefile; echo new > /build/greeting/new"
    shell_killed(keeper, script, f"--build-dir-mode={mode}")
    run = keeper.caller.enter("true", env=keeper.env)
    assert "changed in the build directory is kept" in run.stderr and "what was in outputs and elsewhere went with" in run.stderr
    name = recovered(keeper, run.stderr)
    assert not scratch_directories(keeper.caller.tmpdir)
    assert "killed" not in keeper.caller.enter("true", env=keeper.env).stderr
    assert list(keeper.listed()) == [name]
    look = "cd /build/greeting; grep -o Hullo greeting.c; ls Makefile new; ls | wc -l"
    for _ in range(2):
        entered = keeper.enter(name, look)
        assert entered.stdout.startswith("Hullo\nnew\n") and "cannot access 'Makefile'" in entered.stderr, entered
        assert int(entered.stdout.split()[-1]) > 2
    with shell_entered(keeper, name) as terminal:
        terminal.wait_for(PROMPT)
        assert "sed -i s/Hello/Hullo/" in answer(terminal, "history")
        terminal.type("exit\n")
        terminal.end()
    owners = {path.lstat().st_uid for path in [keeper.sessions, *keeper.sessions.rglob("*")]}
    assert owners == {keeper.caller.uid}
    patch = keeper.state / "file.patch"
    removed = keeper.call("remove", "--save-patch", str(patch), name)
    assert removed.returncode == 0 and "your changes to 3 files of greeting" in removed.stderr, removed
    text = patch.read_text()
    assert "+++ b/new\n" in text and "--- a/Makefile\n+++ /dev/null" in text and "Hullo" in text


def shell_killed_at_once(keeper, *options, build_dir=None):
    """Before anybody has typed anything."""
    with on_terminal(keeper, *keeper.caller.command_line(options=options, build_dir=build_dir)) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.process.kill()
        terminal.process.wait()
    processes.await_end_of_sandboxes(keeper.caller.session)


@pytest.mark.parametrize(("opener", "mode"), ALL_MODES, indirect=["opener"])
def test_a_session_in_which_nothing_was_done_is_removed(opener, mode):
    keeper = Keeper(opener)
    # What others typed before is nothing new.
    with on_terminal(keeper, *opener.command_line()) as terminal:
        terminal.wait_for(PROMPT)
        answer(terminal, "true")
        terminal.type("exit\n")
        terminal.end()
    shell_killed_at_once(keeper, f"--build-dir-mode={mode}")
    assert scratch_directories(opener.tmpdir)
    assert "killed" not in opener.enter("true", env=keeper.env).stderr
    assert not scratch_directories(opener.tmpdir) and keeper.listed() == {}


@pytest.mark.parametrize("kind", ["plain", "structured", "several-outputs"])
@pytest.mark.parametrize("phase", ["installPhase", "a derivation"])
def test_so_is_one_that_has_outputs_or_no_directory(caller, kind, phase):
    keeper = Keeper(caller)
    root = f"failing.{kind}.installPhase"
    build_dir = caller.kept(root) if phase == "installPhase" else caller.builds.derivation(caller.builds.by_root(root))
    shell_killed_at_once(keeper, build_dir=build_dir)
    assert scratch_directories(caller.tmpdir)
    listed = keeper.call("--json")
    assert (json.loads(listed.stdout or "[]"), listed.stderr) == ([], "")
    assert not scratch_directories(caller.tmpdir)


CHANGED_LITTLE = ["rm Makefile", "chmod +x greeting.c", "mv greeting.c other.c", "sed -i s/Hello/Hullo/ greeting.c; touch -r Makefile greeting.c", "mkdir new", "rm ../env-vars"]


@pytest.mark.parametrize("mode", ["copy", "overlay"])
@pytest.mark.parametrize("change", CHANGED_LITTLE)
def test_one_in_which_anything_was_done_is_kept(user, mode, change):
    keeper = Keeper(user)
    with keeper.started(user.command_line(options=[f"--build-dir-mode={mode}"])) as running:
        running.say(f"cd /build/greeting; {change}; echo ready; sleep 1000\n")
        assert running.line() == "ready"
        running.kill()
        processes.await_end_of_sandboxes(user.session)
    recovered(keeper, user.enter("true", env=keeper.env).stderr)


def test_one_in_which_only_an_output_was_changed_is_kept_and_what_is_kept_of_it_is_said(root):
    keeper = Keeper(root)
    with keeper.started(root.command_line(build_dir=root.kept("failing.plain.installPhase"))) as running:
        running.say("rm -r $out/*; echo mine > $out/mine; echo ready; sleep 1000\n")
        assert running.line() == "ready"
        running.kill()
        processes.await_end_of_sandboxes(root.session)
    said = root.enter("true", env=keeper.env).stderr
    (name,) = keeper.listed()
    assert (
        f"what was changed in the build directory and in outputs that there were before is kept as the session {name}, what was elsewhere"
        " went with the sandbox: "
    ) in said
    assert keeper.inside(name, "ls $out") == "mine\n"


@pytest.mark.parametrize("command", [["bash", "-c", "{}"], ["bash"]], ids=["a command", "a shell as a command"])
def test_so_is_what_a_command_did_of_which_a_patch_is_wanted(keeper, command):
    file = keeper.state / "wanted.patch"
    script = "sed -i s/Hello/Hullo/ /build/greeting/greeting.c; echo ready"
    options = ["--save-patch", str(file)]
    command = [word.format(f"{script}; sleep 1000") for word in command]
    with keeper.started(keeper.caller.command_line(*command, options=options)) as running:
        running.say(f"{script}; sleep 1000\n")
        assert running.line() == "ready"
        # While it runs, the file is its own.
        refused = keeper.caller.enter("true", options=options, env=keeper.env)
        assert refused.returncode == 125 and f"{file} is there already" in refused.stderr
        running.kill()
        processes.await_end_of_sandboxes(keeper.caller.session)
    again = keeper.caller.enter("bash", "-c", script, options=options, env=keeper.env)
    assert again.returncode == 0 and "your changes to 1 file of greeting are in" in again.stderr, again
    first = file.read_text()
    name = recovered(keeper, again.stderr)
    other = keeper.state / "other.patch"
    assert keeper.call("remove", "--save-patch", str(other), name).returncode == 0
    assert other.read_text() == first and "+++ b/greeting.c" in first
    keeper.caller.refused("true", options=options, mentions=["is there already", file])


def test_what_was_typed_in_it_is_in_the_history_of_the_run_that_keeps_it(keeper):
    shell_killed(keeper, "true typed-before")
    with on_terminal(keeper, *keeper.caller.command_line()) as terminal:
        terminal.wait_for(PROMPT)
        assert "true typed-before" in answer(terminal, "history")
        terminal.type("exit\n")
        terminal.end()


def test_it_is_kept_by_whoever_looks_for_it_and_by_the_next_session_at_once(keeper):
    shell_killed(keeper, "touch /build/first")
    listed = keeper.call("--json")
    name = recovered(keeper, listed.stderr)
    assert list(json.loads(listed.stdout)) and keeper.inside(name, "ls /build/first") == "/build/first\n"
    shell_killed(keeper, "touch /build/second")
    with on_terminal(keeper, *keeper.caller.command_line()) as terminal:
        # Before its header.
        before = terminal.wait_for(r"(?s)(.*)greeting-1.0 failed in checkPhase")[1]
        assert keeper.inside(recovered(keeper, before), "ls /build/second") == "/build/second\n"
        terminal.wait_for(PROMPT)
        terminal.type("exit\n")
        terminal.end()
    assert len(keeper.listed()) == 2


def test_what_phases_had_made_is_gone_and_the_session_knows_it(keeper):
    """The outputs were in the memory of a sandbox that nobody had asked to keep."""
    shell_killed(keeper, "patchShebangs tests > /dev/null; resume > /dev/null 2>&1")
    name = recovered(keeper, keeper.caller.enter("true", env=keeper.env).stderr)
    with shell_entered(keeper, name) as terminal:
        terminal.wait_for("greeting-1.0 failed in checkPhase\r\n")
        terminal.wait_for(PROMPT)
        assert "the build is complete" in answer(terminal, "resume 2>&1")
        terminal.type("exit\n")
        terminal.end()


def test_that_of_somebody_else_is_left_to_him(user, root):
    keeper, roots = Keeper(user), Keeper(root)
    shell_killed(keeper, "touch /build/edit")
    left = scratch_directories(user.tmpdir)
    env = {**roots.env, "TMPDIR": str(user.tmpdir)}
    assert root.enter("true", env=env).stderr == "" and "killed" not in roots.call(env=env).stderr
    assert scratch_directories(user.tmpdir) == left != []
    # What only looks like one of his is none.
    for owner, name in [(0, "0123456789ab"), (user.uid, "0123456789ac")]:
        fake = user.tmpdir / f".nix-build-shell-scratch-{name}"
        fake.mkdir(mode=0o755)
        (fake / "session.json").mkdir() if owner else (fake / "session.json").write_text("{}")
        os.chown(fake, owner, owner)
    recovered(keeper, user.enter("true", env=keeper.env).stderr)
    (roots_own,) = scratch_directories(user.tmpdir)
    assert roots_own.name.endswith("ab") and len(keeper.listed()) == 1
    shutil.rmtree(roots_own)


def test_so_is_what_was_typed_after_a_phase_that_fails_anew(keeper):
    command = keeper.caller.command_line(options=["resume", "--shell-on-failure"])
    with on_terminal(keeper, *command) as terminal:
        terminal.wait_for(PROMPT)
        answer(terminal, "touch /build/edit")
        terminal.process.kill()
        terminal.process.wait()
    processes.await_end_of_sandboxes(keeper.caller.session)
    said = keeper.caller.enter("true", env=keeper.env).stderr
    name = recovered(keeper, said)
    assert "what was changed in the build directory and in outputs is kept as" in said
    with shell_entered(keeper, name) as terminal:
        terminal.wait_for(PROMPT)
        assert answer(terminal, "ls /build/edit; resume 2>&1 | tail -n 1") == "/build/edit\nnix-build-shell: checkPhase failed with status 2\n"
        terminal.type("exit\n")
        terminal.end()


def test_so_is_what_was_written_to_the_standard_input_of_a_session(keeper):
    with keeper.started(keeper.caller.command_line()) as running:
        running.say("touch /build/edit; echo ready; sleep 1000\n")
        assert running.line() == "ready"
        running.kill()
        processes.await_end_of_sandboxes(keeper.caller.session)
    name = recovered(keeper, keeper.caller.enter("true", env=keeper.env).stderr)
    assert keeper.inside(name, "ls /build/edit") == "/build/edit\n"


@pytest.mark.parametrize("options", [["--no-patch"], []], ids=["without a patch", "a command"])
def test_what_nobody_wants_to_have_is_removed(keeper, options):
    command = [] if options else ["bash"]
    with keeper.started(keeper.caller.command_line(*command, options=options)) as running:
        # The name of the record in the build is not the record.
        running.say("echo {} > /build/session.json; echo ready; sleep 1000\n")
        assert running.line() == "ready"
        running.kill()
        processes.await_end_of_sandboxes(keeper.caller.session)
    assert keeper.caller.enter("true", env=keeper.env).stderr == ""
    assert not scratch_directories(keeper.caller.tmpdir) and keeper.listed() == {}


def test_where_it_cannot_be_moved_to_it_stays_and_is_a_session_all_the_same(keeper):
    """In a file system of its own, as /tmp often is."""
    elsewhere = keeper.caller.tmpdir
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0755,uid={keeper.caller.uid}", "none", elsewhere], check=True)
    try:
        shell_killed(keeper, "touch /build/edit")
        run = keeper.caller.enter("true", env=keeper.env)
        name = recovered(keeper, run.stderr)
        (left,) = elsewhere.iterdir()
        assert os.readlink(keeper.sessions / name) == str(left)
        assert keeper.listed()[name]["path"] == str(left)
        assert keeper.inside(name, "ls /build/edit") == "/build/edit\n"
        with keeper.running(name):
            assert keeper.inside(name, "ls /build/edit") == "/build/edit\n"
        # Nobody else is trusted with it.
        left.chmod(0o770)
        keeper.refused("enter", name, mentions=["not yours alone", left])
        left.chmod(0o700)
        os.chown(left, 12345, 12345)
        keeper.refused("enter", name, mentions=[left])
        os.chown(left, keeper.caller.uid, keeper.caller.uid)
        assert keeper.call("remove", "--no-patch", name).returncode == 0
        assert not list(elsewhere.iterdir()) and not list(keeper.sessions.iterdir())
        shell_killed(keeper, "true")
        name = recovered(keeper, keeper.caller.enter("true", env=keeper.env).stderr)
    finally:
        subprocess.run(["umount", elsewhere], check=True)
    # As after a restart of the machine.
    assert keeper.listed()[name]["title"] == "(gone)"
    assert keeper.call().stdout.splitlines()[1].split()[:3] == [name, "(gone)", "?"]
    keeper.refused("enter", name, mentions=["gone from there", elsewhere, f"«nix-build-shell sessions remove {name}» clears it"])
    assert keeper.call("remove", name).returncode == 0
    assert not list(keeper.sessions.iterdir())


def test_where_there_is_no_place_for_sessions_it_is_told_where_it_is(user):
    keeper = Keeper(user)
    shell_killed(keeper, "touch /build/edit")
    user.give_text(keeper.state / "file", "")
    run = user.enter("true", env={"XDG_STATE_HOME": str(keeper.state / "file"), "HOME": "/nowhere"})
    build = re.search(r"a session was killed, and what was done in it is in (\S+/build);", run.stderr)[1]
    assert os.path.exists(f"{build}/edit")
    assert "killed" not in user.enter("true", env=keeper.env).stderr


def test_a_layer_over_what_is_not_there_any_more_is_told(user):
    keeper = Keeper(user)
    copy = user.copy_of_kept()
    shell_killed(keeper, "touch /build/edit", "--build-dir-mode=overlay", build_dir=copy)
    name = recovered(keeper, user.enter("true", env=keeper.env).stderr)
    (copy / "env-vars").touch()
    keeper.refused("enter", name, mentions=["cannot be entered any more", keeper.sessions / name / "build", "is not as it was"])
    shutil.rmtree(copy)
    keeper.refused("enter", name, mentions=[keeper.sessions / name / "build", "which it was made of, is gone", copy])


def test_a_layer_is_laid_over_what_was_renamed_and_back_and_its_removal_is_warned_of(user):
    keeper = Keeper(user)
    copy = user.tmpdir / "nix-build-greeting-1.0.drv-0"
    user.copy_of_kept().rename(copy)
    shell_killed(keeper, "echo new > /build/greeting/new", "--build-dir-mode=overlay", build_dir=copy)
    name = recovered(keeper, user.enter("true", env=keeper.env).stderr)
    copy.rename(copy.with_name("elsewhere"))
    keeper.refused("remove", name, mentions=[f"the session {name} stays: {copy}, which it was made of, is gone; its changes are in"])
    copy.with_name("elsewhere").rename(copy)
    assert keeper.inside(name, "cat /build/greeting/new") == "new\n"
    keep = keeper.keep("a-copy", build_dir=copy)
    assert keep.returncode == 0
    said = f"without {copy} the session {name}, a layer over it, can neither be entered nor saved as a patch; «nix-build-shell sessions remove {name}»"
    asked = user.run(user.program, "remove", str(copy), env=keeper.env)
    assert asked.returncode == 125 and said in asked.stderr and copy.exists() and "a-copy" not in asked.stderr, asked
    file = keeper.state / "file.patch"
    removed = keeper.call("remove", "--save-patch", str(file), name)
    assert removed.returncode == 0 and "+++ b/new\n" in file.read_text(), removed
    assert user.run(user.program, "remove", "--yes", str(copy), env=keeper.env).stderr == ""


def test_the_help_says_that_the_kept_directory_itself_is_changed(user):
    keeper = Keeper(user)
    command = user.command_line(options=["--build-dir-mode=in-place"], build_dir=user.copy_of_kept())
    with on_terminal(keeper, *command) as terminal:
        header = terminal.wait_for(f"(?s)(.*){PROMPT}")[1]
        terminal.type("exit\n")
        terminal.end()
    assert "«exit» leaves the sandbox, and what you change there stays changed" in header and "in a copy" not in header


def test_what_a_kept_session_was_typed_into_before_a_sigkill_is_in_the_next_history(keeper):
    with shell_kept(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        answer(terminal, "true typed-before")
        terminal.wait_for(PROMPT)
        terminal.process.kill()
        terminal.process.wait()
    with shell_entered(keeper, "fix") as terminal:
        terminal.wait_for(PROMPT)
        assert "true typed-before" in answer(terminal, "history")
        leave(terminal)
