"""What happens when something goes wrong at any moment: one sentence and nothing left, or exactly the right sandbox."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.faults import OUTLIVED, Faults
from support.leftovers import mounts

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


def test_every_call_of_the_start_may_fail(call_as, faults, request):
    """Of the real start, whatever it is: the calls come from a trace."""
    caller = call_as("user")
    line = caller.command_line("bash", "-c", SEEN)
    right, calls = faults.calls(caller, caller.make_directory("trace") / "calls", line)
    assert right.returncode == 1 and "Seccomp:\t2" in right.stdout, right
    assert len(calls) > 200
    before = mounts()

    def attempt(fault):
        (call, error), number = fault
        tmpdir = caller.make_directory(f"fault-{number}")
        result = faults.run(caller, call, error, line, env={"TMPDIR": str(tmpdir)})
        wrong = complaint(result, right, caller.program)
        if not wrong and list(tmpdir.iterdir()):
            wrong = f"left {list(tmpdir.iterdir())}"
        return wrong and f"{call}, {error}: {wrong}: {result.returncode} {result.stderr[:300]!r}"

    every = list(faults.faults(calls))
    with ThreadPoolExecutor(max_workers=4) as pool:
        wrong = [told for told in pool.map(attempt, zip(every, range(len(every)), strict=True)) if told]
    assert not wrong, f"{len(wrong)} of {len(every)}:\n" + "\n".join(wrong)
    assert mounts() == before
