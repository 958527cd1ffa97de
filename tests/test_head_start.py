"""The forerunner begins at the program's first instruction, and is gone where no sandbox comes of it."""

import re

import pytest
from support.confinement import as_caller


def calls_of(caller, *command, status=0):
    """Number and call of what strace saw, from the first call that makes a namespace."""
    trace = caller.workspace / "trace"
    watch = ["strace", "-f", "-q", "-e", "trace=clone3,unshare,brk,waitid", "-e", "signal=none", "-o", trace]
    result = caller.run(*watch, *as_caller(caller), *command, as_root=True)
    assert result.returncode == status, result
    calls = [line.split(None, 1) for line in trace.read_text().splitlines()]
    return calls[next(index for index, (_, call) in enumerate(calls) if "CLONE_NEWUSER" in call) :]


def test_the_namespaces_are_begun_before_the_c_library_and_only_once(caller):
    calls = calls_of(caller, *caller.command_line("true"))
    program = calls[0][0]
    # The C library's first call is to make a heap.
    assert any(call.startswith("brk(NULL") for number, call in calls if number == program)
    for kind in ["CLONE_NEWUSER", "CLONE_NEWNET", "CLONE_NEWNS"]:
        made = [call for _, call in calls if call.startswith(("clone3(", "unshare(")) and kind in call]
        assert len(made) == 1, (kind, made)


@pytest.mark.parametrize(
    ("option", "status"), [("--dry-run", 0), ("--nonsense", 125), ("--derivation=/nix/nonsense.drv", 125), ("--network", 0)]
)
def test_a_head_start_that_is_of_no_use_is_ended_by_the_program(caller, option, status):
    calls = calls_of(caller, caller.program, option, caller.kept(), "true", status=status)
    program = calls[0][0]
    own = [call for number, call in calls if number == program]
    # Where another process runs meanwhile, strace tells the answer in a line of its own.
    forerunner = next(re.search(r"\}, 88\) = (\d+)$", call)[1] for call in own if "}, 88) = " in call)
    assert any("waitid" in call and f"CLD_KILLED, si_pid={forerunner}," in call for call in own), own
