"""Waits for something to appear in a directory."""

import ctypes
import os
import select
import struct

from support.processes import PATIENCE

CREATED = 0x100
HEADER = struct.Struct("iIII")


class DirectoryWatch:
    """Sees what appears in a directory from the moment that the watch is made."""

    def __init__(self, directory):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_CLOEXEC)
        watch = libc.inotify_add_watch(self.descriptor, os.fsencode(directory), CREATED)
        assert self.descriptor >= 0 and watch >= 0, os.strerror(ctypes.get_errno())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)

    def await_entry(self):
        """The name of the next thing that is made in the directory."""
        assert select.select([self.descriptor], [], [], PATIENCE)[0], "nothing appeared in the directory"
        event = os.read(self.descriptor, HEADER.size + 256)
        length = HEADER.unpack_from(event)[3]
        return os.fsdecode(event[HEADER.size : HEADER.size + length].rstrip(b"\0"))
