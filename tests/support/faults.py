"""Lets one system call of a program fail, whichever it is: see fault.c."""

import errno
import functools
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

OUTLIVED = 99
"""The exit status that says that a process was still there."""

CANNOT_FAIL = {
    # By their manual pages, for the arguments that the program gives.
    "arch_prctl", "brk", "exit", "exit_group", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpid", "getppid", "gettid",
    "getuid", "munmap", "madvise", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "set_tid_address", "sigaltstack", "umask",
    "close", "restart_syscall", "rt_sigtimedwait", "clock_gettime", "sched_yield", "getrandom", "uname", "getcwd", "set_robust_list",
    "rseq", "futex",
    # It fails only where there is no memory, and then nothing can be said any more.
    "mmap", "mprotect", "mremap",
    # Of a process that is there and is ours.
    "wait4", "waitid",
}  # fmt: skip

PLAUSIBLE = {
    "clone3": ["EAGAIN", "ENOSPC", "EPERM", "ENOSYS"],
    "unshare": ["ENOSPC", "EPERM"],
    "mount": ["EPERM", "ENOMEM", "ENOSPC"],
    "mount_setattr": ["EPERM", "ENOSYS"],
    "openat": ["EMFILE", "EACCES", "ENOENT"],
    "open": ["EMFILE", "EACCES", "ENOENT"],
    "openat2": ["EMFILE", "EACCES", "ENOSYS"],
    "mkdirat": ["ENOSPC", "EACCES"],
    "mkdir": ["ENOSPC", "EACCES"],
    "mknodat": ["ENOSPC", "EPERM"],
    "symlinkat": ["ENOSPC", "EACCES"],
    "write": ["ENOSPC", "EINTR"],
    "read": ["EIO", "EINTR"],
    "recvmsg": ["ENOMEM", "EINTR"],
    "recvfrom": ["ENOMEM", "EINTR"],
    "sendmsg": ["ENOBUFS"],
    "sendto": ["ENOBUFS"],
    "poll": ["ENOMEM", "EINTR"],
    "ppoll": ["ENOMEM", "EINTR"],
    "socket": ["EMFILE", "EAFNOSUPPORT"],
    "socketpair": ["EMFILE"],
    "fcntl": ["EMFILE", "EINVAL"],
    "fstat": ["EIO"],
    "newfstatat": ["EACCES", "EIO"],
    "statx": ["EACCES", "ENOSYS"],
    "getdents64": ["EIO"],
    "copy_file_range": ["EXDEV", "ENOSPC"],
    "ioctl": ["EPERM", "ENOTTY"],
    "keyctl": ["ENOSYS", "EDQUOT"],
    "seccomp": ["ENOSYS", "EINVAL"],
    "setns": ["EPERM"],
    "close_range": ["ENOSYS"],
    "execve": ["ENOENT", "ENOMEM", "EACCES"],
    "signalfd4": ["EMFILE", "ENOMEM"],
    "flock": ["ENOLCK", "EWOULDBLOCK"],
}
"""What may go wrong with a call; any other may be forbidden, or lack memory."""
OF_OTHERS = ["EPERM", "ENOMEM"]


@dataclass(frozen=True)
class Call:
    """One system call of a run."""

    process: int
    """In the order in which they begin: the program, its forerunner, the helper that makes the network, the sandbox's first process, the
    command."""
    name: str
    occurrence: int

    def __str__(self):
        return f"{self.name} no. {self.occurrence} of process {self.process}"


@functools.cache
def numbers():
    """The number of each system call by its name."""
    header = subprocess.run(["gcc", "-E", "-dM", "-include", "sys/syscall.h", "-xc", "/dev/null"], check=True, capture_output=True, text=True)
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\n", header.stdout)}


class Faults:
    """The program that lets calls fail, compiled for one run of the tests."""

    def __init__(self, directory):
        self.program = Path(directory) / "fault"
        source = Path(__file__).with_name("fault.c")
        subprocess.run(["gcc", "-O2", "-o", self.program, source], check=True)
        self.program.chmod(0o755)

    def calls(self, caller, trace, command_line, **how):
        """What a run that nothing happens to answers, and all its calls until the command runs."""
        result, calls = self.all_calls(caller, trace, command_line, **how)
        return result, until_command(calls)

    def all_calls(self, caller, trace, command_line, **how):
        """The same to the end."""
        # What Nix was asked is remembered: its processes are in the first run only, and would shift the numbers of all others.
        caller.run(*command_line, **how)
        return caller.run(*self.tracing(trace), *command_line, **how), read_calls(trace)

    def tracing(self, trace):
        """What to put before a command line to have all its calls written down."""
        return [self.program, str(trace), "-", "-", "-", "-"]

    def failing(self, call, outcome):
        """The same to have one fail with an error, or a process killed before it."""
        return [self.program, "-", str(call.process), str(numbers()[call.name]), str(call.occurrence), str(outcome)]

    def faults(self, calls):
        """Each of the calls with each error that it may fail with."""
        for call in calls:
            if call.name not in CANNOT_FAIL:
                for error in PLAUSIBLE.get(call.name, OF_OTHERS):
                    yield call, error

    def run(self, caller, call, error, command_line, **how):
        return caller.run(*self.failing(call, getattr(errno, error)), *command_line, **how)

    def kill(self, caller, call, victim, command_line, **how):
        """Runs it with a process killed in the moment of a call."""
        return caller.run(*self.failing(call, f"k{victim}"), *command_line, **how)


def read_calls(trace):
    """The calls of a run that wrote them down."""
    names = {number: name for name, number in numbers().items()}
    seen, calls = Counter(), []
    for line in Path(trace).read_text().splitlines():
        process, number = map(int, line.split())
        name = names[number]
        seen[process, name] += 1
        calls.append(Call(process, name, seen[process, name]))
    return calls


def until_command(calls):
    """The calls of the start, but for those of Nix's own processes. The sandbox's first process changes the root, and the next one becomes
    the command by its first execve."""
    (init,) = {call.process for call in calls if call.name == "pivot_root"}
    last = min(index for index, call in enumerate(calls) if call.name == "execve" and call.process > init)
    command = calls[last].process
    of_others = {call.process for call in calls[:last] if call.name == "execve"}
    return [call for call in calls[: last + 1] if call.process == command or call.process not in of_others]
