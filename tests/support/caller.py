"""Somebody who calls the program: root, or an unprivileged user."""

import os
import select
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from support.nix import KeptBuilds
from support.processes import PATIENCE, children, first_process
from support.session import Session


@dataclass
class Caller:
    """Runs commands as one user, with a known environment and a directory of his own for temporary files."""

    name: str
    uid: int
    session: Session
    builds: KeptBuilds
    workspace: Path
    tmpdir: Path = field(init=False)

    def __post_init__(self):
        self.tmpdir = self.make_directory(f"tmp-{self.name}")

    @property
    def is_root(self):
        return self.uid == 0

    @property
    def program(self):
        return str(self.session.program)

    def kept(self, package="greeting"):
        """The directory of a failed build that this caller's own Nix kept."""
        return self.builds.by_root(package) if self.is_root else self.builds.by_user(package)

    def copy_of_kept(self, package="greeting", name="copy"):
        """The same to work on, and to spoil."""
        copy = self.workspace / name
        subprocess.run(["cp", "-a", self.kept(package), copy], check=True)
        return copy

    def make_directory(self, name, mode=0o755):
        """A new directory of this caller's, which goes with the test."""
        path = self.workspace / name
        path.mkdir()
        os.chown(path, self.uid, self.uid)
        path.chmod(mode)
        return path

    def give(self, path):
        """Makes this caller the owner of a file."""
        os.chown(path, self.uid, self.uid, follow_symlinks=False)
        return path

    def give_text(self, path, text):
        """Makes a file of this caller's with this in it."""
        path.write_text(text)
        return self.give(path)

    def environment(self, **more):
        home = str(self.session.home(self.uid))
        return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": home, "TMPDIR": str(self.tmpdir), **more}

    def as_caller(self, env=None, cwd="/", groups=(), preexec_fn=None, pass_fds=(), as_root=False):
        """How `subprocess` runs something as this caller."""
        uid = 0 if as_root else self.uid
        return {
            "env": self.environment(**(env or {})),
            "cwd": cwd,
            "user": uid,
            "group": uid,
            "extra_groups": groups,
            "preexec_fn": preexec_fn,
            "pass_fds": pass_fds,
        }

    def run(self, *argv, text=True, input=None, **how):
        """Runs a command as this caller, or with `as_root` as root with this caller's environment."""
        return subprocess.run(
            argv,
            input="" if input is None and text else b"" if input is None else input,
            capture_output=True,
            text=text,
            errors="surrogateescape" if text else None,
            timeout=PATIENCE,
            **self.as_caller(**how),
        )

    def command_line(self, *command, build_dir=None, options=()):
        return [self.program, *options, str(build_dir or self.kept()), *command]

    def enter(self, *command, build_dir=None, options=(), **how):
        """Runs a command in the sandbox of a kept build directory."""
        return self.run(*self.command_line(*command, build_dir=build_dir, options=options), **how)

    def inside(self, script, *arguments, build_dir=None, options=(), **how):
        """What a bash script prints in the sandbox, where it has to succeed."""
        command = ["bash", "-euo", "pipefail", "-c", script, "script", *arguments]
        result = self.enter(*command, build_dir=build_dir, options=options, **how)
        assert result.returncode == 0, result
        return result.stdout

    def cannot(self, *command, **how):
        """What a command says on standard error in the sandbox, where it has to run and to fail."""
        result = self.enter(*command, **how)
        assert 0 < result.returncode < 125, result
        return result.stderr

    def refused(self, *command, mentions=(), before=(), build_dir=None, options=(), **how):
        """Runs the program where it has to give up: with one sentence on standard error that holds all of `mentions`, leaving
        nothing.

        `before` is a command line that runs the program, as in «sudo PROGRAM»; with `as_root` it runs as root and has to
        change ids by itself.
        """
        result = self.run(*before, *self.command_line(*command, build_dir=build_dir, options=options), **how)
        assert result.returncode == 125, result
        assert result.stdout == "", result
        assert result.stderr.startswith("nix-build-shell: "), result.stderr
        assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
        for mention in mentions:
            assert str(mention) in result.stderr, f"{mention!r} is not in: {result.stderr}"
        assert not list(self.tmpdir.iterdir())

    def start(self, *command, build_dir=None, options=(), before=(), **how):
        """Starts a command in the sandbox and returns while it runs."""
        return Running([*before, *self.command_line(*command, build_dir=build_dir, options=options)], self.as_caller(**how))


class Running:
    """The program with a command that runs; at the end of the `with` it is asked to end, if it has not by itself."""

    def __init__(self, argv, how):
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **how
        )
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        # Not with SIGKILL, which would leave a scratch directory behind.
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()

    def line(self):
        """The next line that the command writes to standard output."""
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], f"nothing more after {line!r}"
            byte = self.process.stdout.read(1)
            assert byte, f"the end after {line!r}: {self.rest_of_errors()}"
            line += byte
        return line.decode().rstrip("\n")

    def say(self, text):
        self.process.stdin.write(text.encode())

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def end(self):
        """The exit status, once it has ended by itself."""
        return self.process.wait(PATIENCE)

    def rest_of_errors(self):
        return self.process.stderr.read().decode()

    @property
    def init(self):
        """The number of the sandbox's first process."""
        return first_process(self.pid)

    @property
    def command(self):
        """The number of the process that runs the command."""
        (command, *_) = children(self.init)
        return command
