"""What a derivation says, and what the real Nix says of it."""

import ast
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Derivation:
    """A derivation in the store of a root directory: / is the machine's."""

    path: Path
    root: Path

    def _fields(self, path):
        # After its first word it is written as Python would write it, too.
        text = (self.root / path.relative_to("/")).read_text(errors="surrogateescape")
        return ast.literal_eval(text.removeprefix("Derive"))

    @property
    def outputs(self):
        """The paths of its outputs by name."""
        return {name: Path(path) for name, path, *_ in self._fields(self.path)[0]}

    @property
    def builder(self):
        return self._fields(self.path)[4]

    @property
    def environment(self):
        return dict(self._fields(self.path)[6])

    def inputs(self):
        """The store paths that it names as its inputs."""
        _, derivations, sources, *_ = self._fields(self.path)
        built = [
            path
            for derivation, wanted in derivations
            for name, path, *_ in self._fields(Path(derivation))[0]
            if name in wanted
        ]
        return [*built, *sources]

    def closure_of_inputs(self):
        """The names of all that its builder finds in the store, as Nix says."""
        return names(query(self.root, "--requisites", *self.inputs()))


def query(root, *question):
    """The store paths that are nix-store's answer."""
    return nix_store(root, "--query", *question).split()


def nix_store(root, *arguments):
    """What nix-store prints about the store of a root directory, as the user whose it is: to another it would be given."""
    store = [] if root == Path("/") else ["--store", str(root)]
    owner = os.stat(root).st_uid
    command = ["nix-store", *store, "--option", "substitute", "false", "--option", "build-users-group", "", *arguments]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/", "USER": "tester"}
    answer = subprocess.run(
        command, env=environment, cwd="/", user=owner, group=owner, extra_groups=[], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def names(paths):
    return sorted(Path(path).name for path in paths)


def without_choice(said):
    """What was said, but for the choice among several derivations of one name, which a store that has been used for a while has."""
    return re.sub("^nix-build-shell: several derivations are called .*\n", "", said, flags=re.MULTILINE)
