"""Limits that the caller sets: by a cgroup where its controllers are to be had, else of each process; and a time."""

import os
import re

import pytest
from support.cgroup import Delegated
from support.processes import await_end_of_sandboxes, read
from support.terminal import Terminal

TOLD = "nix-build-shell: the sandbox has at most "
# Bash would wait, and try again.
FORK = r"""
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>
int main(void) {
    int count = 0;
    pid_t child;
    while (count < 100 && (child = fork()) > 0)
        count++;
    if (child == 0)
        pause();
    printf("%d %s\n", count, strerror(errno));
    return 0;
}
"""
MORE_PROCESSES = f"echo '{FORK}' | cc -x c - -o fork && exec PREFIX ./fork"
HOLD = 'x=$(head -c {}M /dev/zero | tr "\\0" x); echo ${{#x}}'


def limited(caller, option, script, **how):
    return caller.enter("bash", "-c", script, options=[option], **how)


def test_each_process_has_so_much_data_where_no_cgroup_counts_memory(user):
    result = limited(user, "--memory-max=64M", HOLD.format(20))
    assert result.returncode == 0 and result.stdout == f"{20 << 20}\n", result
    words = "64 MiB of data in each process, whatever all have together (RLIMIT_DATA), since our own cgroup, "
    assert result.stderr.startswith(TOLD + words), result.stderr
    assert result.stderr.count("\n") == 1
    result = limited(user, "--memory-max=64M", HOLD.format(200))
    assert result.returncode != 0 and "cannot allocate" in result.stderr
    result = limited(user, "--memory-max=64M", "ulimit -Sd; ulimit -Hd; ulimit -d 100000")
    assert result.stdout == "65536\n65536\n" and result.returncode == 1


def test_so_many_processes_and_none_more(user):
    result = limited(user, "--pids-max=20", MORE_PROCESSES.replace("PREFIX", ""))
    # One is the program itself.
    assert result.stdout == "19 Resource temporarily unavailable\n", result
    assert TOLD + "20 processes (RLIMIT_NPROC), since our own cgroup, " in result.stderr
    # Those of the same user outside do not count.
    assert limited(user, "--pids-max=1", "echo alone").stdout == "alone\n"


def test_a_nested_user_namespace_counts_as_well(user):
    result = limited(user, "--pids-max=20", MORE_PROCESSES.replace("PREFIX", "unshare --user --map-root-user"))
    assert result.stdout == "19 Resource temporarily unavailable\n", result


def test_roots_processes_are_counted_by_nobody_and_that_is_said(root):
    root.refused("true", options=["--pids-max=5"], mentions=["--pids-max cannot be kept", "of root's"])


def test_as_many_processors_as_are_wanted(caller):
    assert len(os.sched_getaffinity(0)) > 1, "this test needs two processors"
    result = limited(caller, "--cpus=0.5", "nproc")
    assert result.stdout == "1\n"
    assert TOLD + "1 processor, by an affinity that a program can widen, since " in result.stderr
    assert limited(caller, "--cpus=1000", "nproc").stdout == f"{len(os.sched_getaffinity(0))}\n"


def test_the_limits_are_in_the_plan_and_in_one_line(user):
    options = ["--memory-max=1G", "--pids-max=100", "--cpus=1", "--dry-run"]
    lines = user.enter("true", options=options).stdout.splitlines()
    for step in ["limit the data of each process to 1 GiB", "limit the processes to 101, our init among them", "run on 1 processor"]:
        assert step in lines
    result = user.enter("true", options=options[:3])
    assert result.stderr.count("\n") == 1 and result.stderr.count(" since ") == 1


@pytest.mark.parametrize(
    ("option", "mentions"),
    [
        ("--memory-max=lots", "such as 512M"),
        ("--memory-max=0", "with no memory nothing runs"),
        ("--pids-max=0", "with no process nothing runs"),
        ("--cpus=0", "at least 0.01"),
        ("--timeout=soon", "such as 90s or 1.5h"),
        ("--timeout=0", "in no time at all nothing runs"),
    ],
)
def test_what_is_no_limit_is_refused(user, option, mentions):
    user.refused("true", options=[option], mentions=[mentions])


def test_a_limit_that_leaves_no_room_is_named(user):
    result = user.enter("true", options=["--memory-max=4K"])
    assert result.returncode in (125, 127, 128 + 9, 128 + 11), result
    assert not list(user.tmpdir.iterdir())


# --- By a cgroup -----------------------------------------------------------------------------------------------------


@pytest.fixture
def delegated(nothing_is_left, user):
    cgroup = Delegated(user.uid)
    yield cgroup
    left = cgroup.below()
    cgroup.remove()
    assert not left


def test_a_cgroup_keeps_the_limits_that_it_has_controllers_for(user, delegated):
    """Where cgroup v1 has them, there are none, and that is said; else the files say what was asked for."""
    has = set((delegated.path / "cgroup.controllers").read_text().split())
    options = ["--memory-max=64M", "--pids-max=20", "--cpus=1.5"]
    line = user.command_line("bash", "-c", "echo ready; read", options=options)
    with user.start("bash", "-c", "echo ready; read", options=options, before=delegated.before(user), as_root=True) as running:
        assert running.line() == "ready", line
        wanted = {"memory": ("memory.max", f"{64 << 20}"), "pids": ("pids.max", "21"), "cpu": ("cpu.max", "150000 100000")}
        kept = {name: file for name, file in wanted.items() if name in has}
        if kept:
            (cgroup,) = [path for path in delegated.below() if running.init in map(int, (path / "cgroup.procs").read_text().split())]
            for file, value in kept.values():
                assert (cgroup / file).read_text().strip() == value
        else:
            assert delegated.below() == []
        limits = read(running.command, "limits")
        for name, line in {"memory": r"Max data size +67108864 +67108864 ", "pids": r"Max processes +21 +21 "}.items():
            assert bool(re.search(line, limits)) == (name not in has), limits
        running.say("\n")
        assert running.end() == 0
        told = running.rest_of_errors()
    assert ("by a cgroup of its own" in told) == bool(kept)
    assert (f"the cgroup {delegated.path} has no controller for that; «systemd-run" in told) == (kept.keys() != wanted.keys())


# --- In a session ----------------------------------------------------------------------------------------------------


def test_who_joins_a_session_has_its_limits(user):
    env = {"XDG_STATE_HOME": str(user.make_directory("state"))}
    options = ["--keep-session=limited", "--pids-max=20", "--memory-max=128M"]
    with user.start("bash", "-c", "echo ready; read", options=options, env=env) as running:
        assert running.line() == "ready"
        result = user.run(user.program, "sessions", "enter", "limited", "bash", "-c", "ulimit -u; ulimit -d", env=env)
        assert (result.returncode, result.stdout) == (0, f"21\n{128 << 10}\n"), result
        result = user.run(user.program, "sessions", "enter", "--pids-max=3", "limited", "true", env=env)
        assert result.returncode == 125 and "its limits are those that it runs with" in result.stderr
        result = user.run(user.program, "sessions", "enter", "--timeout=0.1", "limited", "sleep", "1000", env=env)
        assert result.returncode == 124
        running.say("\n")
        assert running.end() == 0
    result = user.run(user.program, "sessions", "enter", "--pids-max=3", "limited", "bash", "-c", "ulimit -u", env=env)
    assert (result.returncode, result.stdout) == (0, "4\n"), result


# --- A time ----------------------------------------------------------------------------------------------------------


def test_all_that_runs_ends_with_its_time(caller, session):
    script = "trap '' TERM HUP; sleep 1000 & (trap '' HUP; exec sleep 1000) & echo started; wait"
    result = limited(caller, "--timeout=0.5s", script)
    assert (result.returncode, result.stdout) == (124, "started\n"), result
    assert result.stderr == "nix-build-shell: the time of 500ms is over: all that ran was ended\n"
    assert not list(caller.tmpdir.iterdir())
    await_end_of_sandboxes(session)


def test_a_command_that_ends_in_time_is_not_touched(user):
    result = limited(user, "--timeout=1h", "exit 7")
    assert (result.returncode, result.stderr) == (7, "")


def test_pid_1_ends_with_its_time(user):
    result = user.enter("sleep", "1000", options=["--as-pid-1", "--timeout=0.2"])
    assert result.returncode == 124


def test_a_phase_ends_with_its_time(user):
    """And no shell is opened on what it has left."""
    result = user.run(user.program, "resume", "--timeout=0.01", "--shell-on-failure", "--from=unpackPhase", str(user.kept()))
    assert result.returncode == 124, result
    assert "here is a shell" not in result.stderr and "is over: all that ran was ended" in result.stderr


def test_a_session_on_a_terminal_ends_with_its_time_and_gives_it_back(user):
    with Terminal(user, *user.command_line("bash", "-c", "stty raw; echo started; sleep 1000", options=["--timeout=1s"])) as terminal:
        terminal.wait_for("started")
        terminal.wait_for("the time of 1s is over")
        assert terminal.end() == 124
        assert terminal.modes() == terminal.modes_before


def test_what_was_changed_until_then_is_saved(user):
    patch = user.tmpdir / "saved.patch"
    options = [f"--save-patch={patch}", "--timeout=1"]
    result = limited(user, options[1], "true")
    assert result.returncode == 0
    result = user.enter("bash", "-c", "echo more >> greeting/greeting.c; sleep 1000", options=options)
    assert result.returncode == 124
    assert re.search(r"^\+more$", patch.read_text(), re.M)
    patch.unlink()
