"""Facts about the sandbox that a process is in, as the probe in nix/offline/probe prints them."""

import ast
import contextlib
import difflib
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import tty
from dataclasses import dataclass
from pathlib import Path

from support.processes import PATIENCE

MARKED = re.compile(r"^--- facts begin ---\r?\n(.*?)^--- facts end ---\r?$", re.DOTALL | re.MULTILINE)
NOT_ON_A_DISK = {"devpts", "devtmpfs", "proc", "sysfs", "tmpfs"}


def facts_in(output):
    """What the probe printed somewhere in this output: values by subject, in the probe's order."""
    marked = MARKED.search(output)
    assert marked, f"the probe did not come to its end:\n{output}"
    facts = {}
    for line in marked[1].splitlines():
        subject, _, value = line.partition(":")
        # What something complains about twice counts twice.
        while subject in facts:
            subject += " again"
        facts[subject] = independent_of_the_machine(subject, value.strip())
    return facts


def independent_of_the_machine(subject, value):
    """The same word for what is the same: which disk, and the number of which namespace, does not matter."""
    if subject.startswith("mount "):
        return value if value in NOT_ON_A_DISK else "disk"
    if subject.startswith("namespace "):
        kind = subject.removeprefix("namespace ")
        outside = os.readlink(f"/proc/self/ns/{kind}")
        return "the host's" if value == outside else "its own"
    if subject == "number of descriptors":
        # Now and then the builder of Nix 2.8's daemon has one more than at other times. Ours are counted in test_pid_ipc_namespace.py.
        return "a few"
    if subject == "status SigIgn":
        # Signals 32 and 33 are the C library's own: make ignores them for what it starts, Nix included, and nothing can undo it.
        return f"{int(value, 16) & ~(3 << 31):016x}"
    return value


def different(theirs, ours):
    """The values of both, by subject, where they are not the same; None stands for no such fact."""
    subjects = [*theirs, *(subject for subject in ours if subject not in theirs)]
    pairs = {subject: (theirs.get(subject), ours.get(subject)) for subject in subjects}
    return {subject: pair for subject, pair in pairs.items() if pair[0] != pair[1]}


def told(theirs, ours, subjects):
    """The facts about these subjects, for somebody who has to find out why they differ."""
    texts = [[f"{subject}: {facts[subject]}" for subject in facts if subject in subjects] for facts in (theirs, ours)]
    lines = difflib.unified_diff(*texts, "Nix's builder", "nix-build-shell", n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith("@@"))


@contextlib.contextmanager
def abstract_listener():
    """Somebody whom the probe can reach in the host's network and only there."""
    with socket.socket(socket.AF_UNIX) as listener:
        # Another run of these tests is as good a listener.
        with contextlib.suppress(OSError):
            listener.bind("\0nix-build-shell-probe-outside")
            listener.listen()
        yield listener


def be_untidy():
    """What a caller may have set and Nix's builder never sees."""
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])


@dataclass(frozen=True)
class BuilderCall:
    """The program and its arguments that Nix started to build a derivation."""

    derivation: str
    program: str
    arguments: list[str]

    @classmethod
    def in_failed_build(cls, log):
        """Of the derivation that this log says could not be built."""
        named = re.search(r"builder for '(.*?\.drv)' failed", log)
        assert named, f"no derivation is named in:\n{log}"
        # After its first word it is written as Python would write it, too.
        derivation = ast.literal_eval(Path(named[1]).read_text().removeprefix("Derive"))
        _outputs, _derivations, _sources, _system, program, arguments, _environment = derivation
        return cls(named[1], program, arguments)

    def command(self):
        return [self.program, *self.arguments]


def printed_on_a_terminal(argv, **how):
    """What a command prints where all three of its descriptors are a terminal that passes every byte on, as Nix's is.

    As in Nix, it is not the terminal that controls the command.
    """
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.chown(os.ttyname(theirs), how["user"], -1)
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **how)
    os.close(theirs)
    printed = b""
    try:
        while some := read_soon(ours):
            printed += some
        process.wait(PATIENCE)
    except (TimeoutError, subprocess.TimeoutExpired):
        # Not with SIGKILL, which would leave a scratch directory behind.
        process.terminate()
        process.wait(PATIENCE)
        text = printed.decode(errors="replace")
        raise AssertionError(f"nothing more comes, and it does not end, after:\n{text}") from None
    finally:
        os.close(ours)
    return printed.decode(errors="replace")


def read_soon(terminal):
    """What has been written on the other side; nothing once all of those who had it open have closed it."""
    if not select.select([terminal], [], [], PATIENCE)[0]:
        raise TimeoutError
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""
