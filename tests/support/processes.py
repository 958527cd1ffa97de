"""Processes as the host sees them."""

import os
import select
import signal
import time

PATIENCE = 30
"""Seconds after which something that has to happen is taken for something that never will."""


def of_sandboxes(session):
    """The numbers of all processes that our program made and of our program itself, by what the kernel tells of them."""
    return {pid for pid in everyone() if is_ours(pid, session)}


def everyone():
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def is_ours(pid, session):
    """Whether it runs our program, or lives in a mount namespace of its own that shows a directory of ours."""
    try:
        if os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") == str(session.program):
            return True
        if os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            return False
        with open(f"/proc/{pid}/mountinfo", errors="replace") as mounts:
            return session.directory.name in mounts.read()
    except OSError:
        # It has ended meanwhile, or it is a thread of the kernel.
        return False


def await_end(pid, patience=PATIENCE):
    """Waits until this process has ended; false if it has not in all that time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], patience)[0])
    finally:
        os.close(descriptor)


def await_that(condition, patience=PATIENCE):
    """Waits until something is so of which the kernel sends no word."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        os.sched_yield()


def await_end_of_sandboxes(session):
    """Waits for the end of whatever still runs after our program was killed."""
    while pids := of_sandboxes(session):
        for pid in pids:
            assert await_end(pid), f"process {pid} outlives the program:\n{read(pid, 'status')}"


def kill(pid):
    """Ends a process that should not be there. Returns what it was."""
    try:
        told = read(pid, "status")
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid}, which has ended meanwhile"
    await_end(pid)
    return told


def read(pid, name):
    with open(f"/proc/{pid}/{name}") as file:
        return file.read()


def status(pid):
    """The fields of /proc/PID/status."""
    fields = (line.split(":", 1) for line in read(pid, "status").splitlines())
    return {name: value.strip() for name, value in fields}


def children(pid):
    return [int(child) for child in read(pid, f"task/{pid}/children").split()]


def first_process(program):
    """The first process of the sandbox that this nix-build-shell has made, among its other children: PID 1 of its namespace."""
    (first,) = [child for child in children(program) if is_pid_1(child)]
    return first


def is_pid_1(pid):
    try:
        return status(pid)["NSpid"].split()[1:] == ["1"]
    except (FileNotFoundError, ProcessLookupError):
        return False
