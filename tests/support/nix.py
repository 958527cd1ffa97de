"""Kept build directories, made by the real Nix from the packages in nix/offline."""

import functools
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from support.fingerprint import fingerprint
from support.session import CHECKOUT

USER = 54321
"""An unprivileged user. Nobody has to know him: a number will do."""

# Each a sandboxed build, with nothing from a network or another machine.
OPTIONS = [
    "--option", "sandbox", "true",
    "--option", "substitute", "false",
    "--option", "substituters", "",
    "--option", "builders", "",
]  # fmt: skip
SINGLE_USER = ["--option", "build-users-group", ""]


class KeptBuilds:
    """Builds each failing package once for each kind of Nix and tells where its directory was kept."""

    def __init__(self, session):
        self.session = session
        self.tools = session.make_directory("tools")
        self.packages = session.directory / "offline"
        self.daemon = None
        self.fingerprints = {}
        self.logs = {}
        shutil.copytree(CHECKOUT / "nix" / "offline", self.packages)
        subprocess.run([self.packages / "collect-tools", self.tools], check=True)

    @functools.cache
    def by_root(self, package):
        """Kept by a single-user Nix of root."""
        kept = self.session.make_directory(f"kept/root/{package}")
        return self._build(package, kept, options=SINGLE_USER)

    @functools.cache
    def by_user(self, package):
        """Kept by a single-user Nix of the unprivileged user, who has a store of his own."""
        # The paths have to be in the machine's store too, where our program looks for the build's shell.
        self.by_root(package)
        kept = self.session.make_directory(f"kept/user/{package}", USER, USER)
        return self._build(package, kept, uid=USER, options=[*SINGLE_USER, "--store", str(self.users_store())])

    @functools.cache
    def by_daemon(self, package):
        """Kept by a multi-user Nix that built for the unprivileged user."""
        if not self.daemon:
            self.daemon = Daemon(self.session)
        # It is the daemon who keeps the directory, where its own TMPDIR says.
        return self._build(package, self.session.home(USER), uid=USER, remote=self.daemon.address)

    @functools.cache
    def users_store(self):
        """The root of the unprivileged user's own store."""
        return self.session.make_directory("users-store", USER, USER)

    def _build(self, package, tmpdir, uid=0, options=(), remote=None):
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.session.home(uid)),
            "USER": "tester",
            "TMPDIR": str(tmpdir),
            **({"NIX_REMOTE": remote} if remote else {}),
        }
        build = subprocess.run(
            ["nix-build", "--keep-failed", "--no-out-link", *OPTIONS, *options]
            + [str(self.packages), "--arg", "tools", str(self.tools), "-A", package],
            env=environment,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        told = re.search("keeping build directory '(.*)'", build.stderr)
        assert told, f"Nix kept no directory of {package}:\n{build.stderr}"
        path = Path(told[1])
        self.logs[path] = build.stderr
        self.fingerprints[path] = fingerprint(path)
        return path

    def derivation(self, kept):
        """The derivation that was built in this kept directory, as Nix named it."""
        named = re.search(r"builder for '(.*?\.drv)' failed", self.logs[kept])
        assert named, f"no derivation is named in:\n{self.logs[kept]}"
        return Path(named[1])

    def stop(self):
        if self.daemon:
            self.daemon.stop()


class Daemon:
    """A multi-user Nix. It is given its socket open, so whoever connects is served, however early."""

    def __init__(self, session):
        self.kept = session.make_directory("kept/daemon")
        path = session.make_directory("daemon") / "socket"
        self.address = f"unix://{path}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        # The daemon wants to see its own number in LISTEN_PID, and the socket as descriptor 3.
        script = 'exec 3<&"$1"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec nix-daemon "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(listener.fileno()), *OPTIONS, "--option", "build-users-group", "nixbld"],
            env={"PATH": f"{os.defpath}:/usr/sbin:/sbin", "TMPDIR": str(self.kept)},
            cwd="/",
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listener.close()

    def stop(self):
        self.process.terminate()
        self.process.wait()
