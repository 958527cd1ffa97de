"""How a sandbox ends: the command's status, signals, a SIGKILL, and what is left afterwards, which is nothing."""

import os
import select
import signal
import subprocess

import pytest
from support import processes
from support.confinement import as_caller
from support.inotify import DirectoryWatch
from support.leftovers import mounts, scratch_directories
from support.nix import USER

# Busy, since a signal that comes between two looks of bash and its next wait is not handled before that wait ends.
FOR_EVER = "while true; do :; done"

# By itself what is large would be an overlay.
COPY = ["--build-dir-mode=copy"]
PASSED_ON = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]


@pytest.fixture(scope="module")
def big_kept(session, builds):
    """A kept directory of each caller's that takes a while to copy."""

    def make(name, kept, uid):
        directory = session.make_directory(f"big/{name}", uid, uid)
        subprocess.run(["cp", "-a", f"{kept}/.", directory], check=True)
        script = "mkdir many && cd many && seq 1 20000 | xargs touch"
        subprocess.run(["bash", "-c", script], cwd=directory, user=uid, group=uid, extra_groups=[], check=True)
        return directory

    return {
        "root": make("root", builds.by_root("greeting"), 0),
        "user": make("user", builds.by_user("greeting"), USER),
    }


# --- The end of the command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "ABRT", "HUP", "INT", "PIPE", "USR1", "ALRM", "BUS", "34", "64"])
def test_a_signal_that_ends_the_command_is_128_and_its_number(caller, name):
    number = int(name) if name.isdigit() else getattr(signal, f"SIG{name}")
    result = caller.enter("bash", "-c", f"ulimit -c 0; kill -{name} $$")
    assert (result.returncode, result.stderr) == (128 + number, "")


def test_processes_in_the_background_end_with_the_command(caller):
    """Whatever they ignore, and however far away they have gone: that no process is left is checked after every test."""
    script = """
        for i in 1 2 3; do
            (trap '' TERM HUP INT QUIT; echo ready; while true; do read -r -t 1000 <> <(:); done) &
        done
        setsid bash -c 'trap "" TERM; (trap "" HUP; echo ready; exec sleep 1000) &' 2>/dev/null || echo ready
        exit 5
    """
    ready = "coproc { " + script.replace("exit 5", "wait") + " }; for i in 1 2 3 4; do read -r <&${COPROC[0]}; done; exit 5"
    assert caller.enter("bash", "-c", ready).returncode == 5


def test_an_output_that_a_background_process_holds_is_closed_at_the_end(caller):
    """Else whoever reads it would wait for ever."""
    assert caller.enter("bash", "-c", "sleep 1000 & echo $((6*7))").stdout == "42\n"


def test_orphans_are_reaped(caller):
    """Their parent gone, they are the first process's, which has to ask for their status."""
    # One that nobody reaps stays in the list. The rest are the first process, bash, the subshell that counts, ps and wc.
    caller.inside("""
        for i in {1..50}; do (true & true &) ; done
        for ((tries = 0; tries < 2000; tries++)); do
            (($(ps -e -o pid= | wc -l) > 5)) || exit 0
        done
        ps -e -o pid,ppid,stat,comm >&2
        exit 1
    """)


def test_the_status_is_the_commands_and_not_that_of_an_orphan(caller):
    assert caller.enter("bash", "-c", "for i in {1..20}; do (bash -c 'exit 9' &) ; done; exit 7").returncode == 7


def test_many_sandboxes_at_once_do_not_disturb_each_other(caller):
    command = caller.command_line("bash", "-c", "echo $1 > /build/number; cat /build/number; exit $((100 + $1))", "bash")
    how = {"env": caller.environment(), "user": caller.uid, "group": caller.uid, "extra_groups": [], "cwd": "/"}
    running = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **how)
        for number in range(64)
    ]
    results = [process.communicate(timeout=processes.PATIENCE)[0] for process in running]
    assert results == [f"{number}\n" for number in range(64)]
    assert [process.returncode for process in running] == [100 + number for number in range(64)]


# --- Signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PASSED_ON, "SIGUSR1", "SIGUSR2"])
def test_a_signal_sent_to_us_reaches_the_commands_handler(caller, name):
    script = 'trap "echo handled; exit 9" "$1"; echo ready; ' + FOR_EVER
    with caller.start("bash", "-c", script, "bash", name) as running:
        assert running.line() == "ready"
        running.signal(getattr(signal, name))
        assert running.line() == "handled"
        assert running.end() == 9


def test_a_signal_reaches_the_command_once(caller):
    # Each one after the other: one that comes again while bash ends its trap is lost to bash.
    script = 'trap "((n++)); echo caught \\$n" TERM HUP INT QUIT USR2; trap "exit \\$n" USR1; echo ready; ' + FOR_EVER
    with caller.start("bash", "-c", script) as running:
        assert running.line() == "ready"
        for number, name in enumerate([*PASSED_ON, "SIGUSR2"], start=1):
            running.signal(getattr(signal, name))
            assert running.line() == f"caught {number}"
        running.signal(signal.SIGUSR1)
        assert running.end() == 5


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_signal_that_nobody_handles_ends_the_whole_sandbox(caller, name):
    script = """
        (trap '' TERM HUP INT QUIT; echo ready; while true; do read -r -t 1000 <> <(:); done) &
        exec sleep 1000
    """
    with caller.start("bash", "-c", script) as running:
        assert running.line() == "ready"
        # The command has become sleep: a shell would have had to be waited for.
        processes.await_that(lambda: processes.status(running.command)["Name"] == "sleep")
        number = getattr(signal, name)
        running.signal(number)
        assert running.end() == 128 + number
        assert running.rest_of_errors() == ""


def test_a_signal_that_the_command_ignores_changes_nothing(caller):
    script = 'trap "" TERM; trap "echo alive" USR1; trap "exit 4" USR2; echo ready; ' + FOR_EVER
    with caller.start("bash", "-c", script) as running:
        assert running.line() == "ready"
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGUSR1)
        assert running.line() == "alive"
        running.signal(signal.SIGUSR2)
        assert running.end() == 4


def test_what_the_caller_ignores_does_not_reach_the_command(caller):
    """As with nohup: a hang-up is not to end it, though inside it has its default again."""
    script = 'echo ready; read -r line; echo "$line"'
    how = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with caller.start("bash", "-c", script, **how) as running:
        assert running.line() == "ready"
        running.signal(signal.SIGHUP)
        running.say("alive\n")
        assert running.line() == "alive"
        assert running.end() == 0


def test_being_stopped_and_continued_confuses_nobody(caller):
    # Each signal once: one that comes again while bash ends its trap is lost to bash.
    script = 'trap "exit 6" TERM; trap "echo alive" USR1 USR2 HUP; echo ready; ' + FOR_EVER
    with caller.start("bash", "-c", script) as running:
        assert running.line() == "ready"
        signals = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]
        for pid, number in zip([running.pid, running.init, running.command], signals, strict=True):
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
            running.signal(number)
            assert running.line() == "alive"
        running.signal(signal.SIGSTOP)
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGCONT)
        assert running.end() == 6


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_signal_while_the_directory_is_copied_stops_the_copy(caller, big_kept, name):
    number = getattr(signal, name)
    with DirectoryWatch(caller.tmpdir) as watch, caller.start("sleep", "1000", build_dir=big_kept[caller.name], options=COPY) as running:
        watch.await_entry()
        running.signal(number)
        assert running.end() == 128 + number
        message = running.rest_of_errors()
    assert message.startswith("nix-build-shell: ") and f"signal {number}" in message and message.count("\n") == 1
    assert not scratch_directories(caller.tmpdir)


# --- SIGKILL ---------------------------------------------------------------------------------------------------------


def test_when_we_are_killed_every_process_of_the_sandbox_dies(caller):
    script = """
        (trap '' TERM HUP INT QUIT; echo ready; exec sleep 1000) &
        sleep 1000
    """
    with caller.start("bash", "-c", script) as running:
        assert running.line() == "ready"
        everyone = processes.of_sandboxes(caller.session)
        # We, the first process, bash and at least one sleep.
        assert len(everyone) >= 4
        running.kill()
        for pid in everyone:
            assert processes.await_end(pid)
    assert caller.enter("true").returncode == 0


def test_when_the_first_process_is_killed_all_end_and_we_tell(caller):
    with caller.start("bash", "-c", "echo ready; sleep 1000") as running:
        assert running.line() == "ready"
        os.kill(running.init, signal.SIGKILL)
        assert running.end() == 128 + signal.SIGKILL


RUNS = 40
LONGEST = 0.04
"""Seconds: longer than a sandbox takes to start."""


def test_a_kill_at_any_moment_leaves_no_process_and_a_later_run_removes_the_rest(caller):
    """The moments are spread over a start; the first ones are before the scratch directory is made, the last ones late."""
    had_processes = left_scratch = 0
    for number in range(RUNS):
        with caller.start("sleep", "1000") as running:
            descriptor = os.pidfd_open(running.pid)
            # It does not end by itself: this is the delay.
            select.select([descriptor], [], [], LONGEST * number / RUNS)
            os.close(descriptor)
            had_processes += len(processes.of_sandboxes(caller.session)) > 1
            running.kill()
            processes.await_end_of_sandboxes(caller.session)
        left_scratch += bool(scratch_directories(caller.tmpdir))
    assert had_processes and left_scratch
    assert caller.enter("true").returncode == 0
    assert not scratch_directories(caller.tmpdir)


def test_when_we_die_before_the_first_process_has_asked_to_die_with_us_it_ends_too(caller):
    """The order that chance gives once in thousands of runs: we tell it to go on, and die, and only then it asks.

    SIGXCPU and not SIGKILL, which would keep the call that it comes with, the one that tells, from being made.
    """
    watch = ["strace", "-f", "-qq", "-o", "/dev/null"]
    moments = ["-e", "inject=sendto:signal=SIGXCPU", "-e", "inject=prctl:delay_enter=300000"]
    result = caller.run(*watch, *moments, *as_caller(caller), *caller.command_line("sleep", "1000"), as_root=True)
    assert result.returncode == -signal.SIGXCPU, result
    assert caller.enter("true").returncode == 0


def test_a_kill_while_the_directory_is_copied_leaves_what_a_later_run_removes(caller, big_kept):
    with DirectoryWatch(caller.tmpdir) as watch, caller.start("true", build_dir=big_kept[caller.name], options=COPY) as running:
        name = watch.await_entry()
        running.kill()
    assert [path.name for path in scratch_directories(caller.tmpdir)] == [name]
    assert caller.enter("true").returncode == 0
    assert not scratch_directories(caller.tmpdir)


def killed_with(caller, script):
    """Leaves a scratch directory behind that a command has filled."""
    with caller.start("bash", "-euc", script + "\necho ready; sleep 1000") as running:
        assert running.line() == "ready"
        running.kill()
        processes.await_end_of_sandboxes(caller.session)
    (left,) = scratch_directories(caller.tmpdir)
    return left


def test_a_scratch_directory_in_use_is_not_removed_by_another_run(caller):
    with caller.start("bash", "-c", "echo ready; while read -r line; do cat /build/env-vars | wc -l; done") as running:
        assert running.line() == "ready"
        (in_use,) = scratch_directories(caller.tmpdir)
        assert caller.enter("true").returncode == 0
        assert scratch_directories(caller.tmpdir) == [in_use]
        running.say("still there?\n")
        assert int(running.line()) > 20
        running.process.stdin.close()
        assert running.end() == 0
    assert not scratch_directories(caller.tmpdir)


def test_one_that_was_left_with_directories_without_permissions_is_removed(caller):
    killed_with(caller, "mkdir -p a/b; touch a/b/file; chmod 0 a/b a; chmod 0 /build")
    assert caller.enter("true").returncode == 0
    assert not scratch_directories(caller.tmpdir)


def test_roots_run_leaves_the_users_scratch_directories_to_the_user(user, root):
    """And the user's run could not remove root's: nobody touches what is not his."""
    left = killed_with(user, "true")
    assert root.enter("true", env={"TMPDIR": str(user.tmpdir)}).returncode == 0
    assert scratch_directories(user.tmpdir) == [left]
    assert user.enter("true").returncode == 0
    assert not scratch_directories(user.tmpdir)


def test_through_sudo_what_was_left_is_removed_too(user, builds):
    how = {
        "as_root": True,
        "env": {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)},
        "build_dir": builds.by_daemon("greeting"),
    }
    with user.start("bash", "-c", "mkdir -p a/b; chmod 0 a; echo ready; sleep 1000", **how) as running:
        assert running.line() == "ready"
        running.kill()
        processes.await_end_of_sandboxes(user.session)
    assert scratch_directories(user.tmpdir)
    assert user.enter("true", **how).returncode == 0
    assert not scratch_directories(user.tmpdir)


def test_a_directory_of_another_name_is_nobodys_to_remove(caller):
    """Names that only look like ours, a file, and a link to somewhere else."""
    names = [".nix-build-shell-scratch-", ".nix-build-shell-scratch-notes", ".nix-build-shell-scratch-0123456789abX"]
    for name in names:
        (caller.tmpdir / name).mkdir()
    elsewhere = caller.make_directory("elsewhere")
    (elsewhere / "file").touch()
    link = caller.tmpdir / ".nix-build-shell-scratch-0123456789ab"
    link.symlink_to(elsewhere)
    assert caller.enter("true").returncode == 0
    assert (elsewhere / "file").exists()
    link.unlink(missing_ok=True)
    for name in names:
        (caller.tmpdir / name).rmdir()


# --- What a command leaves in the scratch directory ------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "mkdir -p a/b/c; touch a/b/c/file; chmod 0 a/b/c a/b a",
        "mkdir -p a/b; touch a/b/file; chmod 0555 a/b a",
        "mkdir -p a/b; touch a/b/file; chmod 0111 a/b; chmod 0222 a",
        "touch file; chmod 0 file; chmod 0 /build",
        "mkdir a; mkfifo a/fifo; ln -s / a/root; ln -s .. a/up; ln env-vars a/env; chmod 0 a",
        "mkdir -- $'new\\nline' $'\\xff' ' ' -rf; for d in ./*/; do touch \"$d/-f\"; done",
        "ln -s /nix/store store; ln -s /proc/self/root host; ln -s . loop",
        "cd /; rm -rf /build/*; rm -rf /build/.??*",
        "for i in {1..3000}; do : > $i; done",
    ],
)
def test_it_is_removed_whatever_the_command_makes_of_it(caller, script):
    """That no scratch directory is left is checked after every test."""
    assert caller.enter("bash", "-euc", script).returncode == 0
    assert not scratch_directories(caller.tmpdir)


@pytest.mark.parametrize(
    ("name", "levels", "times"), [("d", 1000, 3), ("n" * 200, 10, 30)], ids=["3000 levels", "names of 200 bytes"]
)
def test_very_deeply_nested_directories_are_removed(caller, name, levels, times):
    """Too deep for a path, and for a descriptor a level."""
    script = """
        path=$(printf "$1/%.0s" $(seq $2))
        for ((i = 0; i < $3; i++)); do mkdir -p "$path"; cd -P "$path"; done
        touch bottom
        chmod 0555 . ..
    """
    assert caller.enter("bash", "-euc", script, "bash", name, str(levels), str(times)).returncode == 0
    assert not scratch_directories(caller.tmpdir)


def test_a_file_that_is_still_open_is_no_obstacle(caller):
    with caller.start("bash", "-c", "exec 5> open; (exec sleep 1000) & echo ready; read -r line; exit 3") as running:
        assert running.line() == "ready"
        running.say("end\n")
        assert running.end() == 3
    assert not scratch_directories(caller.tmpdir)


# --- The host --------------------------------------------------------------------------------------------------------


def test_the_hosts_mount_table_is_the_same_before_while_and_after(caller):
    before = mounts()
    with caller.start("bash", "-c", "echo ready; read -r line") as running:
        assert running.line() == "ready"
        assert mounts() == before
    assert mounts() == before


def test_nobody_else_can_look_into_the_scratch_directory(caller):
    with caller.start("bash", "-c", "chmod 0777 /build; echo ready; read -r line") as running:
        assert running.line() == "ready"
        (scratch,) = scratch_directories(caller.tmpdir)
        assert scratch.stat().st_mode & 0o777 == 0o700
        assert scratch.stat().st_uid == caller.uid
