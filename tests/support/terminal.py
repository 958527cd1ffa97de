"""A terminal with somebody in front of it."""

import fcntl
import os
import pty
import re
import select
import subprocess
import termios

from support.processes import PATIENCE


class Terminal:
    """Runs a command as the leader of a session on a new terminal, and types into it."""

    def __init__(self, caller, *argv, as_root=False):
        uid = 0 if as_root else caller.uid
        self.ours, theirs = pty.openpty()
        # Not to be waited for: what the other side reads and writes at the same time may be more than a terminal holds.
        os.set_blocking(self.ours, False)
        os.chown(os.ttyname(theirs), uid, -1)
        self.modes_before = self.modes()
        self.seen = ""
        self.process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=caller.environment(TERM="dumb"),
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[],
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What is in the foreground, and the session's leader with it, gets a SIGHUP.
        os.close(self.ours)
        self.process.wait(PATIENCE)

    def wait_for(self, pattern):
        """Waits until something appears that was not looked for before; returns the match."""
        while not (match := re.search(pattern, self.seen)):
            assert select.select([self.ours], [], [], PATIENCE)[0], f"no {pattern!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.ours, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the end, and no {pattern!r} in {self.seen!r}") from None
        self.seen = self.seen[match.end() :]
        return match

    def rest(self):
        """What appears until the end."""
        while select.select([self.ours], [], [], PATIENCE)[0]:
            try:
                self.seen += os.read(self.ours, 4096).decode(errors="replace")
            except OSError:
                break
        return self.seen

    def type(self, text):
        os.write(self.ours, text.encode())

    def pass_through(self, data, wanted=None):
        """Types all these bytes, and returns as many, or as many as are `wanted`, that appear meanwhile and afterwards."""
        data, seen, written = memoryview(data), bytearray(), 0
        wanted = len(data) if wanted is None else wanted
        while len(seen) < wanted:
            typing = [self.ours] if written < len(data) else []
            readable, writable, _ = select.select([self.ours], typing, [], PATIENCE)
            assert readable or writable, f"stuck after {written} bytes in and {len(seen)} out"
            if readable:
                seen += os.read(self.ours, 1 << 16)
            if writable:
                written += os.write(self.ours, data[written : written + (1 << 16)])
        return bytes(seen)

    def resize(self, rows, columns):
        termios.tcsetwinsize(self.ours, (rows, columns))

    def modes(self):
        """Of the terminal, as anybody who has it open sees them; on a pseudo-terminal both sides have the same."""
        return termios.tcgetattr(self.ours)

    def hang_up(self):
        """As a window that is closed, or a connection that breaks."""
        os.close(self.ours)
        self.ours = os.open("/dev/null", os.O_RDONLY)

    def end(self):
        return self.process.wait(PATIENCE)
