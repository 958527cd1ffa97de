"""Machines that refuse a sandbox, made of this one: seccomp filters, and settings that this kernel may not have."""

import ctypes
import errno
import platform
import struct

# Of linux/filter.h, linux/seccomp.h and linux/prctl.h.
LOAD_NUMBER = 0x20
FIRST_ARGUMENT = 16
IF_EQUAL = 0x15
RETURN = 0x06
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
SET_NO_NEW_PRIVS = 38
SET_SECCOMP = 22
FILTER = 2

# The newer ones have the same number everywhere.
NUMBERS = {"clone3": 435, "close_range": 436, "openat2": 437, "mount_setattr": 442, "landlock_create_ruleset": 444}
NUMBERS |= {
    "x86_64": {"mount": 165, "sethostname": 170, "seccomp": 317, "keyctl": 250, "copy_file_range": 326, "statx": 332, "socket": 41},
    "aarch64": {"mount": 40, "sethostname": 161, "seccomp": 277, "keyctl": 219, "copy_file_range": 285, "statx": 291, "socket": 198},
}[platform.machine()]


def refuse(call, error, argument=None):
    """A function for the child before it executes: from then on this system call fails so, as in a container; or only where its first
    argument is this."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    only_with = [] if argument is None else [(LOAD_NUMBER, 0, 0, FIRST_ARGUMENT), (IF_EQUAL, 0, 1, argument)]
    instructions = [
        (LOAD_NUMBER, 0, 0, 0),
        (IF_EQUAL, 0, 1 + len(only_with), NUMBERS[call]),
        *only_with,
        (RETURN, 0, 0, ERRNO | getattr(errno, error)),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    program = Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)

    def confine(keep=code):
        for arguments in [(SET_NO_NEW_PRIVS, 1, 0, 0, 0), (SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0)]:
            if libc.prctl(*arguments) != 0:
                raise OSError(ctypes.get_errno(), "prctl")

    return confine


def as_caller(caller):
    """The rest of a command line of root's that goes on as this caller."""
    return ["chroot", f"--userspec={caller.uid}:{caller.uid}", "--groups=", "/"]


def on_another_machine(caller, script, *arguments):
    """A command line of root's that runs a script in a mount namespace of its own, then goes on as this caller."""
    return ["unshare", "--mount", "bash", "-euc", script + '\nexec "$@"', "bash", *arguments, *as_caller(caller)]


ONLY_DEVICES = """
    mount -t tmpfs none "$1"
    for device in full null random tty urandom zero; do touch "$1/$device"; mount --bind "/dev/$device" "$1/$device"; done
    mkdir "$1/pts"
    mount --rbind "$1" /dev
    shift
"""
"""A script whose first argument is an empty directory: a machine that has nothing else in /dev, no shm, no kvm."""


def with_kernel_setting(caller, name, value):
    """The same, on a machine with this file in /proc/sys/kernel."""
    script = 'mount -t tmpfs none /proc/sys/kernel; echo "$2" > "/proc/sys/kernel/$1"; shift 2'
    return on_another_machine(caller, script, name, value)
