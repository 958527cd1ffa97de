"""The cgroup of its own that a sandbox has where Nix's setting use-cgroups gives builds one."""

import os
import re
import signal
import subprocess

import pytest
from support import processes
from support.cgroup import Delegated, environment_with_nix
from support.confinement import on_another_machine
from support.nix import USER

USAGE = re.compile(r"nix-build-shell: user CPU ([0-9.]+)s, system CPU ([0-9.]+)s(, peak memory ([0-9.]+) MiB)?\n")
SEEN_AS_ROOT = "cut -d: -f3- /proc/self/cgroup | sort -u"


@pytest.fixture
def delegated(nothing_is_left, opener):
    """A cgroup that belongs to whoever opens the sandbox; afterwards nothing of ours is in it."""
    cgroup = Delegated(0 if opener.name == "sudo" else opener.uid)
    yield cgroup
    left = cgroup.below()
    cgroup.remove()
    assert not left


@pytest.fixture
def how(opener, delegated):
    """How to call the program in there, under a Nix with that setting."""
    return {"before": delegated.before(opener), "as_root": True, "env": environment_with_nix(opener, use_cgroups=True)}


@pytest.fixture
def enter(opener, how):
    """Runs a command in a sandbox that the setting gives a cgroup."""

    def run(*command, options=(), build_dir=None, **more):
        how_here = {**how, **more}
        before = how_here.pop("before")
        line = opener.command_line(*command, options=options, build_dir=build_dir or opener.kept())
        return opener.run(*before, *line, **how_here)

    return run


def said(errors):
    """Standard error without what is always said of a daemon's build."""
    return re.sub("^nix-build-shell: left out .*\n", "", errors, flags=re.M)


def only_kinds(*kinds):
    return pytest.mark.parametrize("opener", kinds, indirect=True)


# --- The cgroup ------------------------------------------------------------------------------------------------------


def test_every_process_of_the_sandbox_is_in_one_cgroup_below_ours(opener, delegated, how):
    with opener.start("bash", "-c", "sleep 1000 & echo ready; read; kill %1", **how) as running:
        assert running.line() == "ready"
        (cgroup,) = delegated.below()
        inside = {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
        assert inside == {running.init, running.command, *processes.children(running.command)}
        assert delegated.processes() == {running.pid}
        # As Nix gives it to the build user, but for the switches.
        owners = {name: (cgroup / name).stat().st_uid for name in [".", "cgroup.procs", "cgroup.threads"]}
        assert set(owners.values()) == {opener.uid}
        assert (cgroup / "cgroup.max.depth").stat().st_uid == (0 if opener.name == "sudo" else opener.uid)
        running.say("\n")
        assert running.end() == 0
    assert delegated.below() == []


def test_the_command_sees_its_cgroup_as_the_root(enter):
    """As in Nix, which moves the builder and then makes the namespace; and neither shows it the file system."""
    result = enter("bash", "-c", f"{SEEN_AS_ROOT}; ls -d /sys; grep -c cgroup /proc/self/mountinfo")
    assert result.stdout == "/\n0\n"
    assert "cannot access '/sys'" in result.stderr


def test_without_the_setting_there_is_no_cgroup(opener, delegated, how):
    without = {**how, "env": environment_with_nix(opener, use_cgroups=False)}
    with opener.start("bash", "-c", "echo ready; read", **without) as running:
        assert running.line() == "ready"
        assert delegated.below() == []
        assert {running.pid, running.init, running.command} <= delegated.processes()
        running.say("\n")
        assert running.end() == 0
        assert said(running.rest_of_errors()) == ""


@only_kinds("root")
def test_the_plan_names_it_and_a_dry_run_makes_none(delegated, enter):
    result = enter("true", options=["--dry-run"])
    lines = result.stdout.splitlines()
    assert f"make a cgroup in {delegated.path}" in lines
    assert "create a process in it and in new namespaces: user, mnt, pid, ipc, uts, net, cgroup" in lines
    assert (result.returncode, result.stderr) == (0, "")


# --- Figures at the end ----------------------------------------------------------------------------------------------


def test_the_cpu_time_is_told_at_the_end(enter):
    """The shell knows how much it was."""
    burn = "for ((i = 0; i < 150000; i++)); do :; done"
    result = enter("bash", "-c", f"( {burn} ) & wait; {burn}; times; exit 7")
    assert result.returncode == 7
    told = USAGE.fullmatch(said(result.stderr))
    assert told, result.stderr
    minutes_and_seconds = re.findall(r"(\d+)m([\d.]+)s", result.stdout)
    shells, shells_system, childrens, childrens_system = (60 * int(m) + float(s) for m, s in minutes_and_seconds)
    user = shells + childrens
    assert user > 0.1
    # Two clocks, of which one only counts ticks.
    assert 0.9 * user <= float(told[1]) + float(told[2]) <= 1.2 * (user + shells_system + childrens_system) + 0.2


def test_the_peak_of_the_memory_is_told_where_the_kernel_counts_it(delegated, enter):
    """For that nobody but us may be in the cgroup above, which is as before afterwards."""
    result = enter("bash", "-c", f"{SEEN_AS_ROOT}; for ((i = 0; i < 20; i++)); do text+=$(printf %01000000d 0); done; echo ${{#text}}")
    assert result.stdout == "/\n20000000\n"
    told = USAGE.fullmatch(said(result.stderr))
    assert told, result.stderr
    assert bool(told[3]) == delegated.counts_memory
    if told[3]:
        assert 19 < float(told[4]) < 500
    assert (delegated.path / "cgroup.subtree_control").read_text().strip() == ""
    with subprocess.Popen(["sleep", "1000"]) as process:
        delegated.set("cgroup.procs", str(process.pid))
        assert USAGE.fullmatch(said(enter("true").stderr))[3] is None
        process.kill()


@only_kinds("root")
def test_a_command_that_was_killed_has_its_figures_too(enter):
    result = enter("bash", "-c", "kill -KILL $$")
    assert result.returncode == 128 + signal.SIGKILL
    assert USAGE.fullmatch(said(result.stderr)), result.stderr


@only_kinds("root")
def test_where_there_is_no_sandbox_there_are_no_figures_and_no_cgroup(enter):
    result = enter("true", options=["--bind", "/missing"])
    assert result.returncode == 125
    assert result.stderr.count("\n") == 1 and "CPU" not in result.stderr


# --- The end of the cgroup -------------------------------------------------------------------------------------------


@only_kinds("store-owner", "daemon", "sudo")
def test_what_a_build_makes_below_its_cgroup_goes_with_it(enter):
    """In a user namespace of its own it can mount its cgroup. Around root it can have none."""
    script = """
        mount -t cgroup2 none /tmp
        mkdir -p /tmp/a/b/c /tmp/d/e
        cd /tmp/d
        for ((depth = 0; depth < 300; depth++)); do mkdir deeper; cd deeper; done
        chmod 0 /tmp/a/b /tmp/a
        echo made
    """
    result = enter("unshare", "--user", "--map-root-user", "--mount", "--cgroup", "bash", "-euc", script)
    assert result.stdout == "made\n", result
    assert USAGE.fullmatch(said(result.stderr)), result.stderr


@only_kinds("root", "daemon")
def test_what_a_sigkill_leaves_goes_with_a_later_run(opener, delegated, how, enter, session):
    with opener.start("bash", "-c", "echo ready; read", **how) as running:
        assert running.line() == "ready"
        (left,) = delegated.below()
        running.kill()
    processes.await_end_of_sandboxes(session)
    (left / "below").mkdir()
    os.chown(left / "below", opener.uid, opener.uid)
    assert delegated.below() == [left]
    assert enter("true").returncode == 0
    assert delegated.below() == []


@only_kinds("root")
def test_a_cgroup_with_a_process_in_it_is_left_alone(opener, delegated, how, enter):
    """One of somebody else's, with the name of ours, that nobody has locked."""
    other = delegated.path / "nix-build-shell-1-0"
    other.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as process:
        (other / "cgroup.procs").write_text(str(process.pid))
        assert enter("true").returncode == 0
        assert delegated.below() == [other]
        process.kill()
    assert enter("true").returncode == 0
    assert delegated.below() == []


@only_kinds("root")
def test_sandboxes_at_once_have_cgroups_of_their_own(opener, delegated, how, enter):
    with opener.start("bash", "-c", "echo ready; read", **how) as running:
        assert running.line() == "ready"
        (cgroup,) = delegated.below()
        assert enter("true").returncode == 0
        assert delegated.below() == [cgroup]
        running.say("\n")
        assert running.end() == 0


@only_kinds("root")
def test_the_last_process_is_waited_for(opener, delegated, how):
    """Here somebody put one in there that the sandbox's end does not end."""
    with opener.start("bash", "-c", "echo ready; read", **how) as running, subprocess.Popen(["sleep", "1000"]) as process:
        assert running.line() == "ready"
        (cgroup,) = delegated.below()
        init = running.init
        (cgroup / "cgroup.procs").write_text(str(process.pid))
        running.say("\n")
        assert processes.await_end(init)
        process.kill()
        assert running.end() == 0
    assert delegated.below() == []


# --- Where there can be none -----------------------------------------------------------------------------------------


def told_with_verbose(caller, *before, **how):
    """Why there is no cgroup, which has to keep nothing from working, and has to be said with --verbose only."""
    command = ["bash", "-c", SEEN_AS_ROOT]
    result = caller.run(*before, *caller.command_line(*command), **how)
    assert (result.returncode, result.stdout, result.stderr) == (0, "/\n", "")
    result = caller.run(*before, *caller.command_line(*command, options=["--verbose"]), **how)
    assert (result.returncode, result.stdout) == (0, "/\n")
    (reason,) = re.findall("make no cgroup, though Nix's use-cgroups is set: (.*)\n", result.stderr)
    assert "CPU" not in result.stderr
    return reason


def test_a_cgroup_that_is_not_delegated(user):
    cgroup = Delegated(0)
    try:
        env = environment_with_nix(user, use_cgroups=True)
        reason = told_with_verbose(user, *cgroup.before(user), as_root=True, env=env)
        assert reason.startswith(f"our own cgroup, {cgroup.path}, is not delegated to you;")
        # To make cgroups is not enough: a process has to get out of ours.
        os.chown(cgroup.path, USER, USER)
        assert "is not delegated to you" in told_with_verbose(user, *cgroup.before(user), as_root=True, env=env)
    finally:
        cgroup.remove()


# Each leaves the machine's cgroups as they are: they see to a mount namespace of their own.
EVERY_MOUNT = "for point in $(grep ' - cgroup2 ' /proc/self/mountinfo | cut -d' ' -f5); do {}; done"


@pytest.mark.parametrize(
    ("script", "mentions"),
    [
        ("umount -l $point", "cgroup v2 is not mounted"),
        ("mount -t tmpfs none $point", "no mounted cgroup v2 file system shows our own cgroup, /"),
        ("mount -o remount,bind,ro $point", "is mounted read-only"),
    ],
    ids=["absent", "hidden", "read-only"],
)
def test_a_machine_without_cgroups_to_write_to(root, script, mentions):
    before = on_another_machine(root, EVERY_MOUNT.format(script))
    assert mentions in told_with_verbose(root, *before, env=environment_with_nix(root, use_cgroups=True))


@only_kinds("root", "daemon")
@pytest.mark.parametrize(
    ("name", "value", "mentions"),
    [
        ("cgroup.max.descendants", "0", "cannot make a cgroup in "),
        ("cgroup.type", "threaded", "cannot start the sandbox in a cgroup of its own: "),
    ],
)
def test_a_cgroup_that_takes_none_below_it_or_no_process(enter, delegated, name, value, mentions):
    """Which no right could have told. It is said at the end, in place of the figures."""
    delegated.set(name, value)
    result = enter("bash", "-c", SEEN_AS_ROOT)
    assert (result.returncode, result.stdout) == (0, "/\n"), result
    assert said(result.stderr).startswith(f"nix-build-shell: the CPU time is not known: {mentions}")
    assert said(result.stderr).count("\n") == 1
