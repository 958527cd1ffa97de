"""The directory that holds everything the tests make, and the program they run."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


class Session:
    """A directory that every user may enter: the checkout, and the files of a test of pytest's own, may be closed to some."""

    def __init__(self, program):
        self.directory = Path(tempfile.mkdtemp(prefix="nix-build-shell-tests-"))
        self.directory.chmod(0o755)
        self.program = self.directory / "bin" / "nix-build-shell"
        self.program.parent.mkdir()
        shutil.copy(program, self.program)
        self.program.chmod(0o755)

    def make_directory(self, name, uid=0, gid=0, mode=0o755):
        """A new directory that belongs to this user; the directories on the way to it are root's."""
        path = self.directory / name
        path.mkdir(parents=True)
        os.chown(path, uid, gid)
        path.chmod(mode)
        return path

    @functools.cache
    def home(self, uid):
        """The home directory of a user."""
        return self.make_directory(f"home/{uid}", uid, uid)

    def remember_settings(self, uid):
        """Lets the program ask Nix for its settings, once for all tests, of which some allow no other program."""
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.home(uid))}
        subprocess.run(
            [self.program, self.directory / "missing"],
            env=environment, user=uid, group=uid, extra_groups=[], stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def remove(self):
        # Not shutil: a test may have left a tree that is nested deeper than Python can follow.
        subprocess.run(["rm", "-rf", "--one-file-system", self.directory], check=True)


def built_program():
    """The release build of the program; None where there is none."""
    programs = sorted(CHECKOUT.glob("target/*/release/nix-build-shell"), key=lambda path: path.stat().st_mtime)
    return programs[-1] if programs else None
