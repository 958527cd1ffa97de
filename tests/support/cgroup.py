"""Cgroups of version 2 for tests: one that is delegated to a caller, and a Nix that gives builds one of their own."""

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest
from support.confinement import as_caller


def our_own():
    """The directory of the cgroup that the tests run in. It may be one beside cgroups of version 1."""
    own = [line.removeprefix("0::") for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    found = [Path(point, own[0].removeprefix(root).lstrip("/")) for _, _, _, root, point, *_ in mounts if own and own[0].startswith(root)]
    usable = [directory for directory in found if os.access(directory / "cgroup.procs", os.W_OK)]
    if not usable:
        pytest.fail("these tests need a cgroup v2 file system that root can write to: mount one, as «mount -t cgroup2 none /sys/fs/cgroup»")
    return usable[0]


class Delegated:
    """A cgroup that belongs to a caller, as of «systemd-run --property=Delegate=yes»."""

    def __init__(self, uid):
        self.path = our_own() / f"delegated-{uuid.uuid4()}"
        self.path.mkdir()
        for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]:
            os.chown(self.path / name, uid, uid)
        # The mark that systemd sets.
        os.setxattr(self.path, "user.delegate", b"1")

    def below(self):
        """The cgroups in it."""
        return sorted(path for path in self.path.iterdir() if path.is_dir())

    def processes(self):
        return {int(pid) for pid in (self.path / "cgroup.procs").read_text().split()}

    def before(self, caller):
        """What to put before a command line that root runs, to have it run in there as this caller."""
        enter = ["bash", "-euc", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "bash", str(self.path)]
        # Who calls sudo has his rights changed by it, and not before.
        return enter if caller.name == "sudo" else [*enter, *as_caller(caller)]

    def set(self, name, value):
        (self.path / name).write_text(value)

    @property
    def counts_memory(self):
        """Whether the kernel can count the memory of what is in there: not where version 1 has that controller."""
        return "memory" in (self.path / "cgroup.controllers").read_text().split()

    def remove(self):
        for directory in reversed([Path(directory) for directory, _, _ in os.walk(self.path)]):
            directory.rmdir()


def environment_with_nix(caller, **settings):
    """Environment variables with which a Nix is found that has these settings. The one that is installed may not know them all."""
    command = ["nix", "--extra-experimental-features", "nix-command", "show-config", "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    answer.update({name.replace("_", "-"): {"value": value} for name, value in settings.items()})
    directory = caller.make_directory(f"nix-{uuid.uuid4()}")
    (directory / "answer").write_text(json.dumps(answer))
    program = directory / "nix"
    program.write_text(f"#!/bin/sh\nexec cat {directory}/answer\n")
    program.chmod(0o755)
    # What it answers is not for other tests to remember.
    return {"PATH": f"{directory}:/usr/bin:/bin:/usr/sbin:/sbin", "XDG_CACHE_HOME": str(directory)}
