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

    def __init__(self, caller, *argv):
        self.ours, theirs = pty.openpty()
        os.chown(os.ttyname(theirs), caller.uid, -1)
        self.seen = ""
        self.process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=caller.environment(TERM="dumb"),
            cwd="/",
            user=caller.uid,
            group=caller.uid,
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

    def type(self, text):
        os.write(self.ours, text.encode())

    def end(self):
        return self.process.wait(PATIENCE)
