"""Kept build directories, made by the real Nix from the packages in nix/offline."""

import functools
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FailedBuild:
    """A build that failed: what Nix said of it, and what it kept."""

    derivation: str
    status: int
    log: str
    """All that the builder wrote."""
    kept: Path


class KeptBuilds:
    """Builds each failing package once for each kind of Nix and tells where its directory was kept."""

    def __init__(self, session):
        self.session = session
        self.tools = session.make_directory("tools")
        self.packages = session.directory / "offline"
        self._daemon = None
        self.fingerprints = {}
        # What Nix said while it made each directory.
        self.logs = {}
        shutil.copytree(CHECKOUT / "nix" / "offline", self.packages)
        subprocess.run([self.packages / "collect-tools", self.tools], check=True)

    @functools.cache
    def by_root(self, package):
        """Kept by a single-user Nix of root."""
        kept = self.session.make_directory(f"kept/root/{package}")
        return self._kept(package, self._nix_build(package, kept, options=SINGLE_USER))[0]

    @functools.cache
    def by_root_under(self, package, setting, value):
        """The same under another setting."""
        kept = self.session.make_directory(f"kept/{setting}/{package}")
        return self._kept(package, self._nix_build(package, kept, options=[*SINGLE_USER, "--option", setting, value]))[0]

    @functools.cache
    def by_user(self, package):
        """Kept by a single-user Nix of the unprivileged user, who has a store of his own."""
        # The paths have to be in the machine's store too, where our program looks for the build's shell.
        self.by_root(package)
        kept = self.session.make_directory(f"kept/user/{package}", USER, USER)
        return self._kept(package, self._ask_users_nix(package, kept))[0]

    def builds_for_user(self, package):
        """Whether the same Nix can build it. In a store of his own, no other Nix takes it for built."""
        return self._ask_users_nix(package, self.session.home(USER)).returncode == 0

    @functools.cache
    def by_daemon(self, package):
        """Kept by a multi-user Nix that built for the unprivileged user."""
        return self._kept(package, self._ask_daemon(package))[0]

    @functools.cache
    def failures_by_daemon(self, packages):
        """Those packages of a set that the same Nix could not build, by name."""
        build = self._ask_daemon(packages, "--keep-going")
        kept = {directory.name: directory for directory in self._kept(packages, build)}
        failures = {}
        for derivation, status in re.findall("error: builder for '(.*)' failed with exit code ([0-9]+)", build.stderr):
            name = Path(derivation).name.split("-", 1)[1]
            log = subprocess.run(["nix-store", "--read-log", derivation], check=True, capture_output=True, text=True).stdout
            failures[name.removesuffix(".drv")] = FailedBuild(derivation, int(status), log, kept[f"nix-build-{name}-0"])
        return failures

    @functools.cache
    def output_by_daemon(self, package):
        """The store path of a package that the same Nix can build."""
        build = self._ask_daemon(package)
        assert build.returncode == 0, build.stderr
        return Path(build.stdout.strip())

    @property
    def daemon(self):
        """The multi-user Nix, which runs from the first time that somebody wants it."""
        if not self._daemon:
            self._daemon = Daemon(self.session)
        return self._daemon

    def _ask_users_nix(self, package, tmpdir):
        options = [*SINGLE_USER, "--store", str(self.users_store())]
        return self._nix_build(package, tmpdir, uid=USER, options=options)

    def _ask_daemon(self, package, *options):
        # It is the daemon who keeps the directory, where its own TMPDIR says.
        return self._nix_build(package, self.session.home(USER), uid=USER, options=options, remote=self.daemon.address)

    @functools.cache
    def users_store(self):
        """The root of the store that the unprivileged user has for himself."""
        return self.session.make_directory("users-store", USER, USER)

    def _kept(self, package, build):
        """The directories that a build has kept, at least one."""
        kept = [Path(path) for path in re.findall("keeping build directory '(.*)'", build.stderr)]
        assert kept, f"Nix kept no directory of {package}:\n{build.stderr}"
        self.fingerprints.update((path, fingerprint(path)) for path in kept)
        self.logs.update((path, build.stderr) for path in kept)
        return kept

    def _nix_build(self, package, tmpdir, uid=0, options=(), remote=None):
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.session.home(uid)),
            "USER": "tester",
            "TMPDIR": str(tmpdir),
            **({"NIX_REMOTE": remote} if remote else {}),
        }
        return subprocess.run(
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

    def derivation(self, kept):
        """The derivation that was built in this kept directory, as Nix named it."""
        named = re.search(r"builder for '(.*?\.drv)' failed", self.logs[kept])
        assert named, f"no derivation is named in:\n{self.logs[kept]}"
        return Path(named[1])

    def stop(self):
        if self._daemon:
            self._daemon.stop()


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
