"""What a test may not leave behind."""

import os
from pathlib import Path

from support import processes
from support.fingerprint import fingerprint

SCRATCH = ".nix-build-shell-scratch-"


def mounts():
    """The host's mount table, a line each."""
    return Path("/proc/self/mountinfo").read_text().splitlines()


def scratch_directories(directory):
    return sorted(path for path in Path(directory).iterdir() if path.name.startswith(SCRATCH))


class Watch:
    """Notes what is there before a test, to tell afterwards that nothing else is."""

    def __init__(self, session, workspace):
        self.session = session
        self.workspace = workspace
        self.mounts = mounts()

    def check(self, kept_fingerprints):
        left = processes.of_sandboxes(self.session)
        # Where there are some this test fails, and the next one is not to find them.
        told = "\n".join(map(processes.kill, left))
        assert not left, f"left running:\n{told}"
        # What other programs on this machine mount in their own places is theirs.
        ours = str(self.session.directory), SCRATCH, " /nix"
        changed = [line for line in set(mounts()) ^ set(self.mounts) if any(place in line for place in ours)]
        assert not changed, f"mounts that came or went: {changed}"
        for directory, directories, _ in os.walk(self.workspace):
            scratch = [name for name in directories if name.startswith(SCRATCH)]
            assert not scratch, f"left in {directory}: {scratch}"
        for path, before in kept_fingerprints.items():
            assert fingerprint(path) == before, f"the kept directory {path} has changed"
