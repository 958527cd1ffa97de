"""Processes, IPC objects, cgroups, and what the command inherits from the caller."""

import ctypes
import os
import resource
import signal
from contextlib import contextmanager

import pytest

NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]


def test_all_seven_namespaces_are_new(caller):
    inside = caller.inside('cd /proc/self/ns; readlink "$@"', *NAMESPACES).split()
    host = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert not set(inside) & set(host)
    assert [name.split(":")[0] for name in inside] == NAMESPACES


def test_two_sandboxes_share_no_namespace(caller):
    with caller.start("bash", "-c", "echo started; read -r line") as running:
        running.line()
        first = {os.readlink(f"/proc/{running.command}/ns/{name}") for name in NAMESPACES}
        assert not first & set(caller.inside('cd /proc/self/ns; readlink "$@"', *NAMESPACES).split())


# --- Processes -------------------------------------------------------------------------------------------------------


def test_only_the_sandboxs_processes_are_seen(caller):
    processes = caller.enter("ps", "-e", "-o", "pid=,ppid=,comm=").stdout.split("\n")
    assert [line.split() for line in processes] == [["1", "0", "nix-build-shell"], ["2", "1", "ps"], []]


def test_no_process_of_the_host_can_be_signalled(caller):
    assert "No such process" in caller.cannot("bash", "-c", 'kill -0 "$1"', "bash", str(os.getpid()))


@pytest.mark.parametrize(
    "attempt",
    ["cat /proc/1/environ", "cat /proc/1/maps", "cat /proc/1/auxv", "cat /proc/1/task/1/environ", "head -c1 /proc/1/mem"]
    + [
        "readlink -v /proc/1/exe",
        "readlink -v /proc/1/cwd",
        "readlink -v /proc/1/root",
        "readlink -v /proc/1/fd/0",
        "ls /proc/1/map_files/",
    ],
)
def test_the_first_process_tells_nothing_of_the_caller(caller, attempt):
    assert "Permission denied" in caller.cannot(*attempt.split(), env={"SECRET": "of the caller"})


def test_the_first_processs_command_line_is_no_secret_and_its_memory_is_one(caller):
    """It is the caller's own command line, without his environment."""
    assert "SECRET" not in caller.inside("cat /proc/1/cmdline /proc/1/status | tr '\\0' ' '", env={"SECRET": "SECRET"})


def test_the_command_cannot_stop_or_kill_the_first_process(caller):
    assert caller.inside("kill -KILL 1; kill -STOP 1; kill -TERM 1; kill -CHLD 1; echo still here") == "still here\n"


def test_the_command_cannot_trace_the_first_process(caller):
    assert "Operation not permitted" in caller.cannot("strace", "-p", "1")


def test_a_command_can_be_traced_by_another_of_the_sandbox(caller):
    assert "+++ exited with 0 +++" in caller.inside("strace -e none true 2>&1")


# --- IPC -------------------------------------------------------------------------------------------------------------


@contextmanager
def shared_memory_of_the_host(key):
    libc = ctypes.CDLL(None, use_errno=True)
    create, private = 0o1000 | 0o2000, 0o600
    segment = libc.shmget(key, 4096, create | private)
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        libc.shmctl(segment, 0, None)


def test_shared_memory_of_the_host_is_not_seen(caller):
    key = 0x6E697862
    with shared_memory_of_the_host(key):
        read = "cat /proc/sysvipc/shm"
        assert str(key) in caller.run("bash", "-c", read).stdout
        assert len(caller.inside(read).splitlines()) == 1


def test_the_limits_of_ipc_are_those_of_a_new_namespace(caller):
    assert caller.inside("cat /proc/sysvipc/msg /proc/sysvipc/sem | wc -l") == "2\n"


# --- Cgroups ---------------------------------------------------------------------------------------------------------


def test_the_command_sees_its_cgroup_as_the_root(caller):
    lines = caller.inside("cat /proc/self/cgroup").splitlines()
    assert lines and {line.split(":", 2)[2] for line in lines} == {"/"}


# --- What is inherited -----------------------------------------------------------------------------------------------


def test_the_command_has_descriptors_0_1_and_2_and_no_other(caller):
    """Three more are open in the caller, one of them with a number that is high and odd."""
    extra = [os.open("/", os.O_RDONLY) for _ in range(2)] + [os.dup2(0, 777)]
    try:
        for descriptor in extra:
            os.set_inheritable(descriptor, True)
        # The fourth is the listing's own.
        assert caller.inside("ls /proc/self/fd", pass_fds=extra).split() == ["0", "1", "2", "3"]
    finally:
        for descriptor in extra:
            os.close(descriptor)


def test_the_first_process_holds_no_descriptor_of_the_callers(caller):
    """But for the three, only the one by which it talks to us."""
    extra = os.open("/", os.O_RDONLY)
    try:
        os.set_inheritable(extra, True)
        with caller.start("bash", "-c", "echo started; read -r line", pass_fds=[extra]) as running:
            running.line()
            held = [os.readlink(f"/proc/{running.init}/fd/{name}") for name in os.listdir(f"/proc/{running.init}/fd")]
            assert sorted(target.split(":")[0] for target in held) == ["pipe"] * 3 + ["socket"], held
    finally:
        os.close(extra)


def test_the_umask_is_022(caller):
    assert (
        caller.inside("umask; touch /tmp/file; stat --format %a /tmp/file", preexec_fn=lambda: os.umask(0o077))
        == "0022\n644\n"
    )


def test_core_files_are_limited_to_0_bytes_until_the_command_wants_them(caller):
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    how = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited)}
    assert caller.inside("ulimit -S -c; ulimit -H -c", **how) == "0\nunlimited\n"


def test_addresses_are_not_randomised(caller):
    assert caller.inside("cat /proc/self/personality") == "00040000\n"
    stacks = caller.inside("for i in 1 2 3; do grep -F '[stack]' /proc/self/maps; done")
    assert len(set(stacks.splitlines())) == 1


def ignore_and_block_signals():
    for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTSTP, signal.SIGRTMIN):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGRTMAX})


@pytest.mark.parametrize(
    "prepare", [None, ignore_and_block_signals], ids=["ordinary caller", "caller that ignores and blocks"]
)
def test_no_signal_is_ignored_or_blocked(caller, prepare):
    lines = caller.inside("grep -E '^Sig(Blk|Ign|Pnd)|^ShdPnd' /proc/self/status", preexec_fn=prepare).splitlines()
    assert {line.split()[1] for line in lines} == {"0" * 16}
    assert len(lines) == 4


def test_the_command_is_in_a_session_and_a_process_group_of_the_sandboxs_own(caller):
    """Whoever is in the caller's group can signal all of it, from inside any namespace."""
    with caller.start("bash", "-c", "echo started; read -r line") as running:
        running.line()
        assert os.getpgid(running.command) == running.command
        assert os.getsid(running.command) == running.init


def test_a_signal_to_its_group_or_to_all_reaches_nobody_outside(caller):
    """The caller's script is in our process group: with it this signal would end us both."""
    # In «all» it is not itself, and nobody else is there but the first process.
    for target, status in [("0", 137), ("-1", 1)]:
        inside = caller.command_line("bash", "-c", f"kill -KILL {target}")
        script = '"$@"; echo "still here: $?"'
        result = caller.run("bash", "-c", script, "bash", *inside, preexec_fn=os.setpgrp)
        assert result.stdout == f"still here: {status}\n", (target, result)


def test_the_nice_value_stays_the_callers(caller):
    assert caller.inside("nice", preexec_fn=lambda: os.nice(7)) == "7\n"
