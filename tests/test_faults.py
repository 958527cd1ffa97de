"""What happens when something goes wrong at any moment: one sentence and nothing left, or exactly the right sandbox."""

import errno
import os
import random
import re
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.confinement import ONLY_DEVICES, on_another_machine, refuse
from support.faults import OUTLIVED, Faults, read_calls
from support.leftovers import mounts
from support.terminal import Terminal

# What tells that the sandbox is as it should be. OLDPWD is known from env-vars only, which may be closed to a caller.
SEEN = """
    id -u; id -g; pwd; hostname; ls /; ls /dev /etc /proc/sys/kernel/hostname; ls /nix/store | wc -l; env | grep -v ^OLDPWD= | sort
    grep -E '^(CapEff|CapPrm|Seccomp|NoNewPrivs|SigBlk|SigIgn):' /proc/self/status
    tail -n +3 /proc/net/dev | cut -d: -f1; ulimit -c; umask; cat /proc/self/uid_map
    touch /forbidden /etc/forbidden "$(echo /nix/store/*-bash)/forbidden" /build/allowed
"""
WHOLE_STORE = "the sandbox has the whole store, read-only"
ERRNOS = {os.strerror(number) for number in errno.errorcode}


def without_store(result):
    """What does not depend on which part of the store is shown."""
    return result.returncode, [line for line in result.stdout.splitlines() if not re.fullmatch("[0-9]+", line)]


@pytest.fixture(scope="module")
def faults(session):
    return Faults(session.directory)


def complaint(result, right, program):
    """What is wrong with an answer; nothing where it is a clear refusal, or the right one."""
    if result.returncode == OUTLIVED:
        return "a process is left"
    if (result.returncode, result.stdout) == (right.returncode, right.stdout):
        return None
    if result.returncode != 125:
        # Without what tells of the derivation there is no closure to show, and that is said.
        if WHOLE_STORE in result.stderr and without_store(result) == without_store(right):
            return None
        other = set(result.stdout.splitlines()) ^ set(right.stdout.splitlines())
        return f"status {result.returncode}, {sorted(other)}"
    if result.stdout:
        return "it has run"
    lines = result.stderr.splitlines()
    if len(lines) != 1 or not lines[0].startswith("nix-build-shell: "):
        return "no single sentence"
    said = lines[0].removeprefix("nix-build-shell: ")
    if said in ERRNOS or len(said) < 40 or "os error" in said or "panicked" in said or "was killed" in said:
        return "no clear sentence"
    return None


OF_SUDO = {"setresuid", "setresgid", "setgroups", "fchown", "fchownat", "chown", "lchown", "prctl", "fchmod"}
"""Calls that matter most where root acts for somebody else."""


@pytest.mark.parametrize("through_sudo", [False, True], ids=["user", "sudo"])
def test_every_call_of_the_start_may_fail(user, faults, through_sudo):
    """Of the real start, whatever it is: the calls come from a trace."""
    caller = user
    caller.tmpdir.chmod(0o755)
    how = {"as_root": through_sudo}
    env = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)} if through_sudo else {}
    line = caller.command_line("bash", "-c", SEEN)
    right, calls = faults.calls(caller, caller.make_directory("trace") / "calls", line, env=env, **how)
    assert right.returncode == 1 and "Seccomp:\t2" in right.stdout, right
    assert len(calls) > 200
    # Whose limits can do no harm, since nothing is watched.
    assert not [call for call in calls if "inotify" in call.name or "fanotify" in call.name]
    before = mounts()

    def attempt(fault):
        (call, error), number = fault
        tmpdir = caller.make_directory(f"fault-{number}")
        result = faults.run(caller, call, error, line, env={**env, "TMPDIR": str(tmpdir)}, **how)
        wrong = complaint(result, right, caller.program)
        if not wrong and list(tmpdir.iterdir()):
            wrong = f"left {list(tmpdir.iterdir())}"
        return wrong and f"{call}, {error}: {wrong}: {result.returncode} {result.stderr[:300]!r}"

    every = list(faults.faults(calls))
    if through_sudo:
        every = [(call, error) for call, error in every if call.name in OF_SUDO]
        assert {"setresuid", "setgroups"} <= {call.name for call, _ in every}
    with ThreadPoolExecutor(max_workers=4) as pool:
        wrong = [told for told in pool.map(attempt, zip(every, range(len(every)), strict=True)) if told]
    assert not wrong, f"{len(wrong)} of {len(every)}:\n" + "\n".join(wrong)
    assert mounts() == before


# --- On a terminal ---------------------------------------------------------------------------------------------------

OF_TERMINAL = {"ioctl", "setsid", "setpgid", "dup2", "dup3", "fcntl", "pipe2", "signalfd4", "poll", "ppoll", "clone3", "sendmsg", "sendto"}
"""Calls that a terminal has to do with."""


def on_terminal(caller, *argv):
    """Runs something on a terminal; its status, what was seen, and whether the terminal is as it was."""
    with Terminal(caller, *map(str, argv)) as terminal:
        status = terminal.end()
        while True:
            try:
                terminal.seen += os.read(terminal.ours, 4096).decode(errors="replace")
            except OSError:
                break
        return status, terminal.seen, terminal.modes() == terminal.modes_before


def test_a_call_that_fails_leaves_the_terminal_as_it_was(user, faults):
    line = user.command_line("bash", "-c", "tty; stty -a | head -n 1")
    trace = user.make_directory("trace") / "calls"
    on_terminal(user, *line)
    status, seen, is_restored = on_terminal(user, *faults.tracing(trace), *line)
    assert status == 0 and "/dev/pts/0" in seen and is_restored
    assert set(PROCESSES.values()) >= {call.process for call in read_calls(trace) if call.name in ("pivot_root", "setpgid")}
    # Until the end, since the relay begins when the command runs.
    calls = [call for call in read_calls(trace) if call.name in OF_TERMINAL and call.process in PROCESSES.values()]
    every = list(faults.faults(calls))
    assert {"ioctl", "setsid", "signalfd4"} <= {call.name for call in calls}

    def attempt(fault):
        call, error = fault
        status, seen, is_restored = on_terminal(user, *faults.failing(call, getattr(errno, error)), *line)
        # The build's own shell may need the call as well.
        of_shell = call.process == PROCESSES["command"] and seen.count("nix-build-shell: ") == 0 and "bash: " in seen
        is_clear = status == 125 and seen.rstrip().count("nix-build-shell: ") == 1 and len(seen) > 40
        # A command that runs without a terminal, or with one whose size is another, runs: its status is its own.
        runs = status in (0, 1) and ("tty" in seen or "/dev/pts" in seen)
        killed = status == 128 + signal.SIGKILL and error == "EINTR"
        left = list(user.tmpdir.iterdir())
        wrong = not is_restored or left or status == OUTLIVED or not (is_clear or runs or killed or of_shell)
        return f"{call}, {error}: {status} {seen!r} restored: {is_restored} left: {left}" if wrong else None

    wrong = [told for told in map(attempt, every) if told]
    assert not wrong, f"{len(wrong)} of {len(every)}:\n" + "\n".join(wrong)


# --- Killed at any moment --------------------------------------------------------------------------------------------

KILLS = int(os.environ.get("NIX_BUILD_SHELL_KILLS", "500"))
"""How many moments are tried."""
PROCESSES = {"program": 0, "forerunner": 1, "helper": 2, "init": 3, "command": 4}


def test_whoever_is_killed_at_any_moment_nothing_is_left(user, faults, session):
    """Of the program itself a scratch directory is left, to the next run."""
    line = user.command_line("bash", "-c", "echo begun; cat env-vars > copy; echo ended")
    right, calls = faults.all_calls(user, user.make_directory("trace") / "calls", line)
    assert (right.returncode, right.stdout) == (0, "begun\nended\n"), right
    shared = user.make_directory("shared")
    seed = 20261128
    chance = random.Random(seed)
    moments = [(chance.choice(calls), chance.choice(list(PROCESSES)), number) for number in range(KILLS)]

    def attempt(moment):
        call, victim, number = moment
        tmpdir = shared if victim == "program" else user.make_directory(f"kill-{number}")
        result = faults.kill(user, call, PROCESSES[victim], line, env={"TMPDIR": str(tmpdir)})
        killed = 128 + signal.SIGKILL
        ended = (result.returncode, result.stdout) == (0, right.stdout)
        if victim == "program":
            wrong = not ended and (result.returncode, result.stderr) != (killed, "")
        else:
            refused = result.returncode == 125 and re.fullmatch("nix-build-shell: .{20,}\n", result.stderr) and not result.stdout
            wrong = not (ended or refused or (result.returncode == killed and result.stderr == "")) or list(tmpdir.iterdir())
        return f"seed {seed}, {victim} killed at {call}: {result}" if wrong else None

    with ThreadPoolExecutor(max_workers=4) as pool:
        wrong = [told for told in pool.map(attempt, moments) if told]
    assert not wrong, f"{len(wrong)} of {len(moments)}:\n" + "\n".join(wrong)
    assert user.enter("true", env={"TMPDIR": str(shared)}).returncode == 0
    assert not list(shared.iterdir())


def test_a_command_that_would_go_on_ends_when_the_program_is_killed_at_its_start(user, faults):
    """One that ends by itself does so in any case, and takes the sandbox with it."""

    def line(seconds):
        return user.command_line("bash", "-c", f"echo begun; exec sleep {seconds}")

    right, calls = faults.calls(user, user.make_directory("trace") / "calls", line(0))
    assert right.returncode == 0
    shared = user.make_directory("shared")
    chance = random.Random(20261128)
    moments = [chance.choice(calls) for _ in range(max(20, KILLS // 10))]

    def attempt(call):
        # Longer than is waited for who is left.
        return faults.kill(user, call, PROCESSES["program"], line(9), env={"TMPDIR": str(shared)}).returncode

    with ThreadPoolExecutor(max_workers=4) as pool:
        statuses = list(pool.map(attempt, moments))
    # A moment that does not come, since a call was not repeated, ends with the command.
    assert set(statuses) <= {0, 128 + signal.SIGKILL}, list(zip(moments, statuses, strict=True))
    assert statuses.count(0) < len(statuses) // 4
    assert user.enter("true", env={"TMPDIR": str(shared)}).returncode == 0
    assert not list(shared.iterdir())


def test_a_terminal_is_given_back_whoever_is_killed(user, faults):
    line = user.command_line("bash", "-c", "stty -echo; echo begun")
    trace = user.make_directory("trace") / "calls"
    on_terminal(user, *line)
    status, _, _ = on_terminal(user, *faults.tracing(trace), *line)
    assert status == 0
    chance = random.Random(20261128)
    calls = read_calls(trace)
    for _ in range(max(20, KILLS // 10)):
        call, victim = chance.choice(calls), chance.choice(list(PROCESSES))
        status, seen, is_restored = on_terminal(user, *faults.failing(call, f"k{PROCESSES[victim]}"), *line)
        assert is_restored and status in (0, 125, 128 + signal.SIGKILL), (call, victim, status, seen)
    assert user.enter("true").returncode == 0
    assert not list(user.tmpdir.iterdir())


# --- At the limits of the caller -------------------------------------------------------------------------------------


def limit(kind, number):
    return lambda: resource.setrlimit(kind, (number, number))


def refused_or_right(user, result):
    assert result.returncode in (0, 125), result
    if result.returncode == 0:
        assert result.stdout == "ran\n", result
    else:
        assert re.fullmatch("nix-build-shell: .{20,}\n", result.stderr) and not result.stdout, result
        assert "os error" not in result.stderr and "panicked" not in result.stderr
    assert not list(user.tmpdir.iterdir())
    return result.returncode


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (resource.RLIMIT_NOFILE, range(3, 40)),
        (resource.RLIMIT_NPROC, range(0, 8)),
        (resource.RLIMIT_SIGPENDING, range(0, 3)),
        (resource.RLIMIT_MEMLOCK, [0]),
        (resource.RLIMIT_STACK, [1 << 20]),
    ],
    ids=["descriptors", "processes", "signals", "locked-memory", "stack"],
)
def test_a_limit_of_the_callers_is_named_or_does_no_harm(user, kind, numbers):
    # A process of his own is counted with those of others that are the same user's, so the last of these numbers may refuse too.
    statuses = []
    for number in numbers:
        result = user.enter("bash", "-c", "echo ran", preexec_fn=limit(kind, number))
        statuses.append(refused_or_right(user, result))
    if kind == resource.RLIMIT_NOFILE:
        assert statuses[0] == 125 and statuses[-1] == 0
    if kind in (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MEMLOCK):
        assert set(statuses) == {0}


def test_no_memory_is_a_sentence(user):
    """From the first size at which the program itself can be loaded to the first one that is enough."""
    size, statuses = 4 << 20, []
    while 0 not in statuses:
        # In steps of less than the heap grows by.
        size += 16 << 10
        assert size < 64 << 20, statuses
        result = user.enter("bash", "-c", "echo ran", preexec_fn=limit(resource.RLIMIT_AS, size))
        if result.returncode in (-signal.SIGSEGV, -signal.SIGABRT, 127) and not statuses:
            # The kernel, the C library and Rust's start of a program say each in its way that there is no room for one.
            continue
        if result.returncode in (127, 128 + signal.SIGKILL, 128 + signal.SIGSEGV):
            # In the sandbox it is the build's own shell that has no room.
            assert "memory allocation" not in result.stderr
            continue
        statuses.append(refused_or_right(user, result))


# --- Machines that lack something ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--network"], ["--store=full"]], ids=["exact", "network", "store"])
@pytest.mark.parametrize("call", ["mount_setattr", "landlock_create_ruleset", "keyctl", "copy_file_range", "statx"])
def test_a_kernel_without_this_call_has_the_same_sandbox(caller, call, options):
    line = {"options": options}
    right = caller.enter("bash", "-c", SEEN, **line)
    there = caller.enter("bash", "-c", SEEN, preexec_fn=refuse(call, "ENOSYS"), **line)
    assert same_but_for(right, there, set()), there


def same_but_for(right, there, missing):
    """Whether the two saw the same, but for what the machine lacks, and what the filter that makes it lack it leaves."""
    other = set(there.stdout.splitlines()) ^ set(right.stdout.splitlines())
    return there.returncode == right.returncode and not {line for line in other if line not in missing and "NoNewPrivs" not in line}


def test_a_machine_without_ipv6_has_the_same_sandbox(caller):
    without = refuse("socket", "EAFNOSUPPORT", argument=int(socket.AF_INET6))
    lacks = ["python3", "-c", "import socket; socket.socket(socket.AF_INET6)"]
    assert "not supported" in caller.run(*lacks, preexec_fn=without).stderr
    for options in [], ["--network"]:
        right = caller.enter("bash", "-c", SEEN, options=options)
        there = caller.enter("bash", "-c", SEEN, options=options, preexec_fn=without)
        assert same_but_for(right, there, set()), there


def test_a_machine_with_the_least_of_devices_has_the_same_sandbox(caller):
    """No /dev/shm, no /dev/kvm."""
    machine = on_another_machine(caller, ONLY_DEVICES, str(caller.make_directory("dev")))
    assert caller.run(*machine, "ls", "/dev", as_root=True).stdout.split() == ["full", "null", "pts", "random", "tty", "urandom", "zero"]
    script = SEEN + "\necho text > /dev/shm/file; cat /dev/shm/file"
    right = caller.enter("bash", "-c", script)
    there = caller.run(*machine, *caller.command_line("bash", "-c", script), as_root=True)
    assert right.stdout.endswith("text\n") and there.stdout.endswith("text\n")
    assert same_but_for(right, there, {"kvm"}), there


@pytest.mark.parametrize(("call", "mentions"), [("close_range", "Linux 5.10 or newer"), ("clone3", "seccomp")])
def test_a_kernel_without_this_call_has_none_and_that_is_said(user, call, mentions):
    user.refused("true", preexec_fn=refuse(call, "ENOSYS"), mentions=[mentions])


def test_mounts_keep_the_flags_that_are_locked_on_an_older_kernel(user):
    """Those below it too, whatever is in their names."""
    script = r"""
        mkdir "$1"; mount -t tmpfs -o nosuid,nodev,noatime none "$1"
        mkdir "$1/a b" "$1/a b/c\\d"; mount -t tmpfs -o noexec,strictatime none "$1/a b"; mkdir "$1/a b/c\\d"
        mount -t tmpfs -o nodiratime none "$1/a b/c\\d"
        chmod 777 "$1" "$1/a b" "$1/a b/c\\d"
        shift
    """
    top = user.workspace / "mounts"
    inside = r"""
        for place in "$1" "$1/a b" "$1/a b/c\\d"; do touch "$place/file" && echo written; done
        grep mounts /proc/self/mountinfo | cut -d" " -f5,6
    """
    line = user.command_line("bash", "-c", inside, "bash", str(top), options=[f"--bind={top}"])
    before = on_another_machine(user, script, str(top))
    told = []
    for preexec in [None, refuse("mount_setattr", "ENOSYS")]:
        result = user.run(*before, *line, as_root=True, preexec_fn=preexec)
        assert result.stderr.count("Read-only file system") == 3, result
        told.append(result.stdout)
        top.rmdir()
    assert told[0] == told[1] and told[0].count("ro,") == 3 and "noexec" in told[0], told
