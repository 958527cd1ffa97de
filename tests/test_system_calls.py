"""Which system calls a build may not make: the filter that Nix installs, and what a terminal needs beside it."""

import errno
import platform
from pathlib import Path

import pytest
from support.terminal import Terminal

MACHINE = platform.machine()
SAME_ORDER = ["setxattr", "lsetxattr", "fsetxattr", "getxattr", "lgetxattr", "fgetxattr", "listxattr"]


def numbers(first_xattr, **others):
    return others | {name: first_xattr + index for index, name in enumerate(SAME_ORDER)}


X32 = 0x4000_0000
CALLS = {
    "x86_64": {
        "x86_64": numbers(188, chmod=90, fchmod=91, fchmodat=268, fchmodat2=452, ioctl=16),
        "i386": numbers(226, chmod=15, fchmod=94, fchmodat=306, fchmodat2=452, ioctl=54),
        "x32": numbers(X32 + 188, chmod=X32 + 90, fchmod=X32 + 91, fchmodat=X32 + 268, fchmodat2=X32 + 452, ioctl=X32 + 514),
    },
    "aarch64": {"aarch64": numbers(5, fchmod=52, fchmodat=53, fchmodat2=452, ioctl=29)},
}[MACHINE]
"""The numbers of system calls, for each way into the kernel that a program of this machine has."""

GET_SETTINGS, TYPE, SPEAK_TO_CONSOLE = 0x5401, 0x5412, 0x541C
"""Requests to a terminal: TCGETS, TIOCSTI and TIOCLINUX."""
THIS_DIRECTORY = -100 & 0xFFFFFFFF
"""AT_FDCWD."""
NOT_SUPPORTED = errno.errorcode[errno.ENOTSUP]
HIGH_HALF = 0xFFFFFFFF_00000000
"""What the kernel ignores of an argument that it takes as a number of 32 bits."""

# Makes one system call and prints its errno. An argument is a number or, after an «@», a string. Strings lie below 4 GB,
# where a 32-bit call can point to.
CALL = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char strings[6][256];

int main(int argc, char **argv) {
    unsigned long arguments[6] = {0}, number = strtoul(argv[2], NULL, 0);
    for (int i = 0; i < argc - 3; i++) {
        char *text = argv[i + 3];
        arguments[i] = text[0] == '@' ? (unsigned long)strcpy(strings[i], text + 1) : strtoul(text, NULL, 0);
    }
    long result;
    errno = 0;
#ifdef __x86_64__
    if (strcmp(argv[1], "i386") == 0) {
        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "a"(number), "b"(arguments[0]), "c"(arguments[1]), "d"(arguments[2]), "S"(arguments[3])
                         : "memory", "r8", "r9", "r10", "r11");
        errno = (int)result < 0 ? -(int)result : 0;
    } else
#endif
        result = syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]);
    printf("%d\n", errno);
    return 0;
}
"""
COMPILE = 'echo "$1" | cc -x c -no-pie - -o /build/call; shift\n'


def errnos(caller, entry, *calls):
    """What system calls answer in the sandbox: the names of their errnos, nothing for those that succeed.

    A call is its name and its arguments. There are /build/file and descriptor 3, which is the same file, open.
    """
    lines = [f"{entry} {CALLS[entry][name]} {' '.join(map(str, arguments))}" for name, *arguments in calls]
    each = "touch file; exec 3< file; for call; do /build/call $call; done"
    output = caller.inside(COMPILE + each, CALL, *lines)
    return [errno.errorcode[int(code)] if int(code) else None for code in output.split()]


def successes(entry):
    """What a call that the filter allows may answer. Few kernels have x32, and the filter is asked before them."""
    return {None, "ENOSYS"} if entry == "x32" else {None}


def set_modes(entry, modes):
    calls = [
        ("chmod", "@/build/file"),
        ("fchmod", 3),
        ("fchmodat", THIS_DIRECTORY, "@/build/file"),
        ("fchmodat2", THIS_DIRECTORY, "@/build/file"),
    ]
    return [(*call, mode) for call in calls for mode in modes if call[0] in CALLS[entry]]


# coreutils, as builds call them.


@pytest.mark.parametrize("mode", ["u+s", "g+s", "4755", "2755", "6755"])
def test_chmod_sets_no_set_id_bit(caller, mode):
    says = caller.inside('touch file; chmod 644 file; ! chmod "$1" file 2>&1; stat --format %a file', mode)
    assert "Operation not permitted" in says
    assert says.endswith("\n644\n")


def test_a_directory_gets_no_set_group_id_bit_either(caller):
    assert "Operation not permitted" in caller.cannot("bash", "-c", "mkdir directory; chmod g+s directory")


def test_install_makes_no_set_user_id_program(caller):
    assert "Operation not permitted" in caller.cannot("install", "-m", "4755", "/build/env-vars", "/build/installed")


def test_every_other_mode_can_be_set(caller):
    modes = ["0", "644", "755", "777", "1777", "u-s", "g-s", "a+rX"]
    script = 'touch file; for mode; do chmod "$mode" file; stat --format %a file; done'
    assert caller.inside(script, *modes).split() == ["0", "644", "755", "777", "1777", "1777", "1777", "1777"]


def test_install_and_copies_keep_other_modes(caller):
    script = "install -m 751 env-vars installed; cp --preserve=all installed copy; stat --format %a installed copy"
    assert caller.inside(script).split() == ["751", "751"]


# The calls themselves, by each way into the kernel.


@pytest.mark.parametrize("entry", CALLS)
def test_no_call_sets_a_set_id_bit(caller, entry):
    calls = set_modes(entry, [0o4755, 0o2755, HIGH_HALF | 0o4000, 1 << 20 | 0o2000])
    assert errnos(caller, entry, *calls) == ["EPERM"] * len(calls)


@pytest.mark.parametrize("entry", CALLS)
def test_the_same_calls_set_other_modes(caller, entry):
    calls = set_modes(entry, [0o644, 0o1755, HIGH_HALF | 0o700])
    # fchmodat2 came with Linux 6.6.
    calls = [call for call in calls if call[0] != "fchmodat2"]
    assert set(errnos(caller, entry, *calls)) <= successes(entry)


@pytest.mark.parametrize("entry", CALLS)
def test_extended_attributes_are_neither_set_nor_read(caller, entry):
    """As under Nix 2.26 to 2.34."""
    calls = [(name, "@/build/file", "@user.name", "@value", 5, 0) for name in ["setxattr", "lsetxattr"]]
    calls += [("fsetxattr", 3, "@user.name", "@value", 5, 0)]
    calls += [(name, "@/build/file", "@user.name", "@", 0) for name in ["getxattr", "lgetxattr"]]
    calls += [("fgetxattr", 3, "@user.name", "@", 0)]
    assert errnos(caller, entry, *calls) == [NOT_SUPPORTED] * len(calls)
    assert set(errnos(caller, entry, ("listxattr", "@/build/file", 0, 0))) <= successes(entry)


@pytest.mark.parametrize("entry", CALLS)
def test_nothing_is_typed_into_a_terminal(caller, entry):
    requests = [TYPE, SPEAK_TO_CONSOLE, HIGH_HALF | TYPE, 1 << 32 | SPEAK_TO_CONSOLE]
    calls = [("ioctl", 3, request, "@x") for request in requests]
    assert errnos(caller, entry, *calls) == ["EPERM"] * len(calls)


@pytest.mark.parametrize("entry", [entry for entry in CALLS if entry != "x32"])
def test_other_requests_reach_the_device(caller, entry):
    assert errnos(caller, entry, ("ioctl", 3, GET_SETTINGS, "@")) == ["ENOTTY"]


def test_a_command_types_nothing_into_the_callers_terminal(caller):
    """Else the caller's shell would run it when the sandbox has ended."""
    type_it = COMPILE + 'for byte in t y p e d; do /build/call "$@" "@$byte"; done'
    call = [MACHINE, str(CALLS[MACHINE]["ioctl"]), "0", str(TYPE)]
    command = caller.command_line("bash", "-c", type_it, "bash", CALL, *call)
    after = '"$@"; echo the sandbox has ended; read -r line; echo "read <$line>"'
    with Terminal(caller, "bash", "-c", after, "bash", *command) as terminal:
        answers = terminal.wait_for("(?s)(.*)the sandbox has ended")[1]
        assert answers.split() == [str(errno.EPERM)] * 5
        terminal.type("by hand\n")
        assert terminal.wait_for("read <(.*)>")[1] == "by hand"


# The filter itself.


def status(text):
    return dict(line.split(":\t", 1) for line in text.splitlines())


def test_one_filter_is_upon_every_process(caller):
    outside = status(Path("/proc/self/status").read_text())
    for process in ["self", "1"]:
        inside = status(caller.inside('cat "/proc/$1/status"', process))
        assert inside["Seccomp"] == "2"
        if "Seccomp_filters" in outside:
            assert int(inside["Seccomp_filters"]) == int(outside["Seccomp_filters"]) + 1


def test_it_binds_a_user_namespace_of_the_builds_own(user):
    script = "id -u; touch file; ! chmod u+s file 2>&1"
    assert "Operation not permitted" in user.inside(f"unshare --user --map-root-user bash -c '{script}'")
