"""Run as a program, by whoever calls nix-build-shell: is all that a build could get at on the host, and runs commands meanwhile.

    outside.py MARK DIRECTORY FACTS OUTPUT...  with commands on standard input, a JSON list each

It is the caller's script, which waits: it is in the process group and the session of what it runs, its working directory is DIRECTORY,
and it has files open. FACTS is a file to which it adds what it has, a line each. What the Nth command prints goes to the Nth OUTPUT.
"""

import ctypes
import json
import os
import platform
import socket
import subprocess
import sys

ADD_KEY, KEYCTL, SHMGET, SHMCTL, MSGGET, MSGCTL, SEMGET, SEMCTL, MQ_OPEN, MQ_UNLINK, NAME_TO_HANDLE_AT = {
    "x86_64": (248, 250, 29, 31, 68, 71, 64, 66, 240, 241, 303),
    "aarch64": (217, 219, 194, 195, 186, 187, 190, 191, 180, 181, 264),
}[platform.machine()]
JOIN_SESSION_KEYRING, SET_PERMISSIONS, LINK_KEY, UNLINK_KEY, SESSION_KEYRING, USER_KEYRING = 1, 5, 8, 9, -3, -4
ALL_PERMISSIONS = 0x3F3F3F3F
CREATE, REMOVE = 0o1000, 0

libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    """What a system call answers; an error ends the program."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


def handle_of(path):
    """The file's handle, as name_to_handle_at(2) tells it: its type and its bytes."""
    handle = ctypes.create_string_buffer((128).to_bytes(4, "little"), 136)
    call(NAME_TO_HANDLE_AT, -100, path.encode(), handle, ctypes.byref(ctypes.c_int()), 0)
    size, kind = int.from_bytes(handle.raw[:4], "little"), int.from_bytes(handle.raw[4:8], "little")
    return kind, handle.raw[8 : 8 + size].hex()


class Outside:
    def __init__(self, mark, directory):
        os.chdir(directory)
        self.mark = mark
        self.secret = os.path.join(directory, "secret")
        with open(self.secret) as file:
            token = file.read().strip()
        self.open = [os.open(self.secret, os.O_RDONLY), os.open(directory, os.O_RDONLY)]
        number = os.getpid()
        call(KEYCTL, JOIN_SESSION_KEYRING, f"session-{mark}".encode())
        # As pam_keyinit(8) does, so that the user's keys are his.
        call(KEYCTL, LINK_KEY, USER_KEYRING, SESSION_KEYRING)
        keys = [call(ADD_KEY, b"user", mark.encode(), token.encode(), len(token), ring) for ring in [SESSION_KEYRING, USER_KEYRING]]
        for key in keys:
            call(KEYCTL, SET_PERMISSIONS, key, ALL_PERMISSIONS)
        self.memory = call(SHMGET, number, 4096, CREATE | 0o600)
        self.queue = call(MSGGET, number, CREATE | 0o600)
        self.semaphores = call(SEMGET, number, 1, CREATE | 0o600)
        # Of one message of one byte: a user may have few of the size that is usual.
        call(MQ_OPEN, mark.encode(), os.O_CREAT | os.O_RDWR, 0o600, (ctypes.c_long * 8)(0, 1, 1))
        self.shared = f"/dev/shm/{mark}"
        open(self.shared, "x").close()
        self.sockets = [socket.socket(kind) for kind in [socket.AF_UNIX, socket.AF_UNIX, socket.AF_INET]]
        path = os.path.join(directory, "socket")
        for listener, address in zip(self.sockets, [path, f"\0{mark}", ("127.0.0.1", 0)]):
            listener.bind(address)
            listener.listen(100)
        kind, handle = handle_of(self.secret)
        self.facts = {
            "mark": mark, "token": token, "secret": self.secret, "handle": handle, "handle type": kind,
            "victim": number, "group": os.getpgrp(), "session": os.getsid(0),
            "socket": path, "abstract": mark, "port": self.sockets[2].getsockname()[1],
            "shared memory": self.memory, "key of queue": number, "key of semaphores": number,
            "posix queue": f"/{mark}", "posix memory": f"/{mark}", "key": keys[1],
        }  # fmt: skip

    def remove(self):
        call(KEYCTL, UNLINK_KEY, self.facts["key"], USER_KEYRING)
        call(SHMCTL, self.memory, REMOVE, 0)
        call(MSGCTL, self.queue, REMOVE, 0)
        call(SEMCTL, self.semaphores, 0, REMOVE, 0)
        call(MQ_UNLINK, self.mark.encode())
        os.unlink(self.shared)
        os.unlink(self.facts["socket"])


def main():
    mark, directory, facts, *outputs = sys.argv[1:]
    commands = [json.loads(line) for line in sys.stdin]
    outside = Outside(mark, directory)
    try:
        with open(facts, "a") as file:
            file.writelines(f"{name}={value}\n" for name, value in outside.facts.items())
        for command, output in zip(commands, outputs, strict=True):
            with open(output, "w") as file:
                subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, pass_fds=outside.open, check=False
                )
    finally:
        outside.remove()


if __name__ == "__main__":
    main()
