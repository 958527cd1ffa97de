"""Builds that somebody lets the program make for him."""

import os
import shutil
from pathlib import Path

from support.nix import OPTIONS, SINGLE_USER


class Building:
    """Runs `nix-build-shell build` for a caller; what is kept is in his directory for temporary files."""

    def __init__(self, caller):
        self.caller = caller
        self.builds = caller.builds
        # The user's own Nix builds in a store of his own; our program looks where the machine's is, which has to have it all.
        self.own_store = [] if caller.is_root else ["--store", str(self.builds.users_store())]

    def nix_build(self, *arguments, attributes=(), file=None):
        """The command that builds attributes of the packages, or of a file."""
        options = [*OPTIONS, *SINGLE_USER, *self.own_store]
        what = [str(file)] if file else [str(self.builds.packages), "--arg", "tools", str(self.builds.tools)]
        wanted = [word for attribute in attributes for word in ("-A", attribute)]
        return ["nix-build", "--no-out-link", *options, *what, *wanted, *arguments]

    def command_line(self, *command, line=None, options=()):
        line = ["-c", line] if line is not None else []
        # Nix wants to know a name of whoever has none.
        return ["env", "USER=tester", self.caller.program, "build", *line, *options, "--", *command]

    def run(self, *command, line=None, options=(), **how):
        return self.caller.run(*self.command_line(*command, line=line, options=options), **how)

    def alone(self, *attributes):
        """The same build without our program."""
        return self.caller.run(*self.nix_build(attributes=attributes), env={"USER": "tester"})

    def build(self, *attributes, line=None, options=(), arguments=(), **how):
        """Builds attributes with the real Nix."""
        for attribute in attributes:
            if attribute != "succeeds":
                self.builds.by_root(attribute)
        return self.run(*self.nix_build(*arguments, attributes=attributes), line=line, options=options, **how)

    def expression(self, text, name="expression.nix"):
        """A file with a Nix expression in which `packages` are those of the tests."""
        path = self.caller.workspace / name
        path.write_text(f"let packages = import {self.builds.packages} {{ tools = {self.builds.tools}; }}; in\n{text}\n")
        return path

    def kept(self):
        """What is kept, by name."""
        return sorted(path.name for path in self.caller.tmpdir.iterdir() if path.name.startswith("nix-"))

    def program(self, name, script):
        """A program of this name, in a directory for PATH."""
        directory = self.caller.workspace / "bin"
        directory.mkdir(exist_ok=True)
        path = directory / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return path

    def path(self):
        """PATH with the programs."""
        return f"{self.caller.workspace / 'bin'}:{os.defpath}:/usr/sbin:/sbin"


def real_nix():
    """For a program called `nix` that leaves it to the real one to tell its settings."""
    return shutil.which("nix", path=os.defpath)


def place(caller, name, package="greeting", nested=False):
    """Puts what a build has left where a Nix keeps it, under the name that this Nix gives it."""
    outer = caller.tmpdir / name
    if nested:
        outer.mkdir(mode=0o755)
        caller.give(outer)
    below = Path(caller.tmpdir.name) / name
    caller.copy_of_kept(package, name=below / "build" if nested else below)
    return outer
