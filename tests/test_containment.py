"""A build is untrusted code: what it may try to get out of the sandbox, or at the host from in there.

Each attempt is a test. Most are made at once, by the programs in tests/attempts, and are made on the host too: there each has to come
through for everybody who is named beside it. That shows that the attempt is one; that it is held by what we think holds it, the
mutations in tests/mutations show.
"""

import pytest
from support.attempts import Attempts

EVERYBODY = ("root", "user")
ROOT = ("root",)
NOBODY = ()
"""Who comes through with it on the host. Of what nobody does, because there it has no sense, tests/mutations shows that it can."""

ATTEMPTS = {
    "read a file by its path": EVERYBODY,
    "open a file for writing by its path": EVERYBODY,
    "read a file by ..": EVERYBODY,
    "follow a link in the kept directory": EVERYBODY,
    "follow a linked directory in the kept directory": EVERYBODY,
    "follow a link with .. in the kept directory": EVERYBODY,
    "read by /proc/*/root": EVERYBODY,
    "read by /proc/*/cwd": EVERYBODY,
    "read by /proc/*/fd": EVERYBODY,
    "use inherited descriptors": EVERYBODY,
    "read by standard descriptors": NOBODY,
    "open a file by its handle": ROOT,
    "chroot out": EVERYBODY,
    "peel the root off": EVERYBODY,
    "mount": ROOT,
    "unmount an input": NOBODY,
    "unmount an input as root of a namespace": NOBODY,
    "remount an input writable": NOBODY,
    "remount an input writable as root of a namespace": NOBODY,
    "clone an input writable as root of a namespace": EVERYBODY,
    "change the mode of an input": ROOT,
    "change the owner of an input": ROOT,
    "change the times of an input": ROOT,
    "change the flags of an input": ROOT,
    "open an input for writing": ROOT,
    "open an input for writing by its descriptor": ROOT,
    "add to an input": ROOT,
    "link to an input": ROOT,
    "make a device": ROOT,
    "make a device as root of a namespace": NOBODY,
    "see a process": EVERYBODY,
    "signal a process": EVERYBODY,
    "be in the caller's process group": EVERYBODY,
    "be in the caller's session": EVERYBODY,
    "have the caller's terminal": NOBODY,
    "trace a process": EVERYBODY,
    "seize a process": EVERYBODY,
    "read a process's memory": EVERYBODY,
    "read a process's memory by process_vm_readv": EVERYBODY,
    "read a process's environment": EVERYBODY,
    "take a process's descriptor": EVERYBODY,
    "open a process's executable": EVERYBODY,
    "open a process's executable as a path": EVERYBODY,
    "enter a process's mount namespace": EVERYBODY,
    "enter a process's network namespace": EVERYBODY,
    "enter a process's user namespace": EVERYBODY,
    "connect to a socket by its path": EVERYBODY,
    "connect to the Nix daemon": EVERYBODY,
    "connect to an abstract socket": EVERYBODY,
    "connect to the host's loopback": EVERYBODY,
    "attach SysV shared memory": EVERYBODY,
    "open a SysV message queue": EVERYBODY,
    "open SysV semaphores": EVERYBODY,
    "open a POSIX message queue": EVERYBODY,
    "open POSIX shared memory": EVERYBODY,
    "find a key in the session keyring": EVERYBODY,
    "find a key in the user keyring": EVERYBODY,
    "request a key": EVERYBODY,
    "read a key by its number": EVERYBODY,
    "see a key in /proc/keys": EVERYBODY,
    "set kernel.core_pattern": ROOT,
    "press a system request": ROOT,
    "set vm.mmap_min_addr": ROOT,
    "write to the caller's cgroup": NOBODY,
    "type into a terminal": NOBODY,
    "speak to a console": NOBODY,
    "set a set-id bit": EVERYBODY,
}


@pytest.fixture(scope="session")
def attempts(session, builds):
    return Attempts(session, builds)


def test_every_attempt_is_listed(attempts, user):
    inside, outside = attempts.outcomes(user)
    assert set(inside) == set(outside) == set(ATTEMPTS)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_is_held(attempts, caller, attempt):
    inside, outside = attempts.outcomes(caller)
    if caller.name in ATTEMPTS[attempt]:
        assert outside[attempt] == "came through", "it is no attempt: it does not succeed without a sandbox either"
    assert inside[attempt] == "was held"
