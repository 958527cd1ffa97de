"""Attempts to get out of the sandbox: the programs in tests/attempts, made in it and, to see that they can come through, outside."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

from support.session import CHECKOUT

SOURCES = CHECKOUT / "tests" / "attempts"
OUTSIDE = Path(__file__).with_name("outside.py")


class Attempts:
    """Makes all the attempts of a caller's, once, in one sandbox, and once more on the host."""

    def __init__(self, session, builds):
        self.session = session
        self.builds = builds
        self.program = session.directory / "attempt"
        command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", self.program, *sorted(SOURCES.glob("*.c"))]
        subprocess.run(command, check=True)
        self.made = {}

    def outcomes(self, caller):
        """What became of each attempt of this caller's: in the sandbox, and outside."""
        if caller.name not in self.made:
            self.made[caller.name] = self._make(caller)
        inside, outside = self.made[caller.name]
        return outcomes_in(inside), outcomes_in(outside)

    def prepare(self, caller):
        """A copy of a kept directory with the program, facts about the host, and links that lead out of it. Returns it and the
        directory of what is secret."""
        secret = caller.make_directory("host")
        caller.give_text(secret / "secret", f"token-{uuid.uuid4()}\n")
        copy = caller.copy_of_kept()
        (copy / "attempt").write_bytes(self.program.read_bytes())
        (copy / "attempt").chmod(0o755)
        input = self._input(copy)
        daemon = self.builds.daemon.address.removeprefix("unix://")
        caller.give_text(copy / "facts", f"daemon={daemon}\ninput={input}\ninput file={input}/bin/bash\n")
        links = {"link": secret / "secret", "linked-directory": secret, "dot-dot": f"{'../' * 20}{secret}/secret"}
        for name, target in links.items():
            (copy / name).symlink_to(target)
            caller.give(copy / name)
        caller.give(copy / "attempt")
        return copy, secret

    @staticmethod
    def _input(copy):
        """The store path of the build's bash."""
        (line,) = [line for line in (copy / "env-vars").read_text().splitlines() if line.startswith("declare -x SHELL=")]
        return Path(line.split('"')[1]).parents[1]

    def _make(self, caller):
        copy, secret = self.prepare(caller)
        inside = caller.command_line("/build/attempt", "/build/facts", "/build", build_dir=copy)
        outside = [str(copy / "attempt"), str(copy / "facts"), str(copy)]
        if caller.is_root:
            # What comes through is not to mount anything where others are.
            outside = ["unshare", "--mount", "--propagation", "private", *outside]
        outputs = [caller.workspace / name for name in ["inside", "outside"]]
        for output in outputs:
            caller.give_text(output, "")
        mark = f"attempts-{uuid.uuid4()}"
        command = [sys.executable, OUTSIDE, mark, secret, copy / "facts", *outputs]
        lines = "".join(json.dumps(command) + "\n" for command in [inside, outside])
        result = caller.run(*map(str, command), input=lines)
        # One that failed is not repeated for each attempt: there every test fails by what it says.
        return [output.read_text() if result.returncode == 0 else result.stderr for output in outputs]


def outcomes_in(text):
    """Attempts with what became of them."""
    lines = [line.rsplit(": ", 1) for line in text.splitlines()]
    assert lines and all(len(line) == 2 for line in lines), text
    return dict(lines)
