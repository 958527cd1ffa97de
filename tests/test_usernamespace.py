"""Who the command is: user 1000 and group 100, one id each, and nothing more."""

import os
import os
import re
import sys

import pytest
from support import processes

SETS = ["CapInh", "CapPrm", "CapEff", "CapAmb"]


def status(caller, *names, **how):
    """Fields of the command's own /proc/self/status."""
    lines = caller.inside("cat /proc/self/status", **how).splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return [fields[name].split() for name in names]


def test_the_command_is_user_1000_of_group_100(caller):
    assert caller.inside("id").startswith("uid=1000(nixbld) gid=100(nixbld)")
    assert status(caller, "Uid", "Gid") == [["1000"] * 4, ["100"] * 4]


def test_the_one_user_id_and_the_one_group_id_are_the_callers(caller):
    maps = caller.inside("cat /proc/self/uid_map /proc/self/gid_map").split()
    assert maps == ["1000", str(caller.uid), "1", "100", str(caller.uid), "1"]


def test_setgroups_is_denied(caller):
    assert caller.inside("cat /proc/self/setgroups") == "deny\n"


def test_the_command_has_no_capability(caller):
    assert status(caller, *SETS) == [["0000000000000000"]] * 4


def test_the_first_process_has_no_capability_either(caller):
    with caller.start("cat") as running:
        running.say("it runs\n")
        running.line()
        init = processes.status(running.init)
        assert [init[name] for name in SETS] == ["0000000000000000"] * 4
        assert init["NoNewPrivs"] == "1"


@pytest.mark.parametrize(
    "command",
    ["unshare --mount true", "chown 0 /build", "mknod /tmp/null c 1 3", "ip link del lo"],
)
def test_a_command_has_no_right_to(caller, command):
    says = caller.cannot(*command.split())
    assert re.search("Operation not permitted|Invalid argument", says), says


def test_no_privilege_can_be_gained(caller):
    assert status(caller, "NoNewPrivs") == [["1"]]


def test_roots_supplementary_groups_are_dropped(root):
    assert status(root, "Groups", groups=[4, 27, 12345]) == [[]]
    assert root.inside("id -G", groups=[4, 27, 12345]) == "100\n"


def test_files_of_the_build_belong_to_the_command(caller):
    owners = caller.inside("find /build -printf '%U:%G\\n' | sort -u")
    assert owners == "1000:100\n"


def test_files_that_the_command_makes_belong_to_the_caller(caller):
    with caller.start("bash", "-c", "touch /build/made /tmp/made; echo made; read") as running:
        assert running.line() == "made"
        for path in ["build/made", "tmp/made"]:
            made = os.stat(f"/proc/{running.command}/root/{path}")
            assert (made.st_uid, made.st_gid) == (caller.uid, caller.uid)


def test_a_build_may_make_a_user_namespace_of_its_own(user):
    """Real builds do, and a chroot alone would forbid it."""
    assert user.inside("unshare --user --map-root-user id -u") == "0\n"


def test_around_root_a_build_may_make_no_user_namespace(root):
    """In one of its own it could mount the cgroups, which belong to root, and kill the host's processes."""
    assert "No space left on device" in root.cannot("unshare", "--user", "true")
    assert "Read-only file system" in root.cannot("bash", "-c", "echo 9 > /proc/sys/user/max_user_namespaces")


READ_KEY = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    enum { KEYCTL_READ = 11 };
    char text[16] = "";
    long length = syscall(SYS_keyctl, KEYCTL_READ, atol(argv[1]), text, sizeof text - 1, 0);
    puts(length < 0 ? "closed" : text);
    return 0;
}
"""

# Makes a session keyring with a key in it, and then becomes a command that gets the key's number as its last argument.
WITH_KEY = """
import ctypes, os, sys
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
syscall = ctypes.CDLL(None).syscall
assert syscall(keyctl, 1, b"session") > 0
key = syscall(add_key, b"user", b"ticket", b"s3cret", 6, -3)
assert key > 0
os.execv(sys.argv[1], [*sys.argv[1:], str(key)])
"""


def test_the_callers_session_keyring_stays_outside(caller):
    """Tickets and the keys of encrypted directories are in it."""
    with_key = [sys.executable, "-c", WITH_KEY]
    compile = 'echo "$1" | cc -x c - -o "$2/read-key"; "$2/read-key" "$3"'
    here = caller.make_directory("here")
    outside = caller.run(*with_key, "/bin/bash", "-c", compile, "bash", READ_KEY, str(here))
    assert outside.stdout == "s3cret\n", outside
    inside = caller.run(*with_key, *caller.command_line("bash", "-c", compile, "bash", READ_KEY, "/build"))
    assert inside.stdout == "closed\n", inside
