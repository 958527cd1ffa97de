"""The differences between Nix's sandbox and ours that README admits, as the facts in which they show.

Each stands in a row of README's table «Differences from Nix». There is no other list: a fact that differs and is not named
here is a defect, and what is named here and does not differ any more has to go.
"""

import ctypes
import re
from dataclasses import dataclass, field
from pathlib import Path

from support.session import CHECKOUT

SINGLE_USER, OWN_STORE, MULTI_USER, THROUGH_SUDO = SETTINGS = ("single-user", "own-store", "multi-user", "through-sudo")
"""root's Nix; a user's Nix in a store of his own; what a daemon built for a user; the same, opened with sudo."""
BUILT_BY_A_DAEMON = {MULTI_USER, THROUGH_SUDO}
AS_ROOT = {SINGLE_USER}
AS_A_USER = set(SETTINGS) - AS_ROOT
WITH_OUTPUTS_BEGUN = set(SETTINGS) - {OWN_STORE}
"""Where a failed build leaves its outputs. Nix 2.8 takes them to the machine's store, and a user has no right to that."""

BUSYBOX, BASH = "busybox", "bash"
PROBES = {
    "plain": BUSYBOX,
    "structured": BUSYBOX,
    "fixed-output": BUSYBOX,
    "several-outputs": BUSYBOX,
    "thirty-two-bit": BUSYBOX,
    "env-vars": BASH,
    "structured-env-vars": BASH,
    "fixed-output-env-vars": BASH,
    "several-outputs-env-vars": BASH,
}
"""The attributes of nix/offline/probe, and the builder of each. bash writes env-vars, as in stdenv."""
WITH_ENV_VARS = {probe for probe, builder in PROBES.items() if builder == BASH}
WITH_NETWORK = {probe for probe in PROBES if probe.startswith("fixed-output")}
WITH_SEVERAL_OUTPUTS = {probe for probe in PROBES if probe.startswith("several-outputs")}


@dataclass(frozen=True)
class Difference:
    """A fact that differs, or all facts whose subjects match the same pattern: at least one does, in every run."""

    row: str
    """What stands in the first column of README's table."""
    subject: str
    """A regular expression for all of it."""
    nix: str | None
    """A regular expression for all of the value that Nix's builder sees; None where it sees no such thing."""
    here: str | None
    settings: set = field(default_factory=lambda: set(SETTINGS))
    probes: set = field(default_factory=lambda: set(PROBES))

    def is_to_be_seen(self, probe, setting):
        return setting in self.settings and probe in self.probes

    def explains(self, subject, nix, here):
        return matches(self.subject, subject) and matches(self.nix, nix) and matches(self.here, here)

    def __str__(self):
        return f"{self.subject}: {self.nix} -> {self.here} ({self.row})"


def matches(pattern, text):
    return text is None if pattern is None else text is not None and re.fullmatch(pattern, text) is not None


def each(row, facts, **where):
    """Differences of one row: for every subject what Nix's builder sees, and what is seen here."""
    return [Difference(row, subject, nix, here, **where) for subject, (nix, here) in facts.items()]


def landlock_version():
    """How much of landlock this kernel has; 6 is the first that knows of abstract sockets, and -1 stands for nothing."""
    landlock_create_ruleset, only_tell_version = 444, 1
    return ctypes.CDLL(None).syscall(landlock_create_ruleset, None, 0, only_tell_version)


ROWS_OF_OTHER_TESTS = {"directories of `/build` that were there, if it is an overlay"}
"""No probe's build directory is large enough for these: tests/test_build_dir_modes.py sees to them."""


def rows_of_readme():
    """The first column of the table «Differences from Nix»."""
    section = (CHECKOUT / "README.md").read_text().split("\n## Differences from Nix\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    # The heading, and the line below it.
    return [line.strip("|").split(" | ")[0].strip() for line in table[2:]]



# Values, as the probe prints them.
ANY = ".*"
YES = "yes"
NOT_PERMITTED, DENIED, READ_ONLY = (
    f"no, .*: {message}" for message in ("Operation not permitted", "Permission denied", "Read-only file system")
)
THE_BUILDERS, UNMAPPED = "1000:100", "65534:65534"
STORE_PATH = "/nix/store/[^/]+"
ATTRIBUTES = {"NIX_ATTRS_JSON_FILE": ".attrs.json", "NIX_ATTRS_SH_FILE": ".attrs.sh"}


def the_same(values, *subjects):
    """Several subjects with the same values."""
    return dict.fromkeys(subjects, values)


def file_of_nixs(path):
    """What a build may not write to in a multi-user Nix."""
    return {f"owner of {path}": (UNMAPPED, THE_BUILDERS), f"mode of {path}": ("-rw-r--r--", "-r--r--r--")}


DIFFERENCES = [
    *each(
        "PID 1",
        {
            **the_same(("1", "2"), "pid", "processes", "status (Tgid|Pid|NStgid|NSpid)"),
            **the_same(("0", "1"), "status PPid"),
            # The session is that of the first process, as in Nix, and the command has a process group of its own.
            **the_same(("1", "2"), "process group", "status NSpgid"),
            "first process": (".*/facts.sh .*|.*-facts.sh .*", ".*/nix-build-shell .*"),
            "try readlink /proc/1/exe": ("yes, busybox", "no,"),
            "try readlink /proc/1/root": ("yes, /", "no,"),
            "call ptrace the first process": (YES, "EPERM"),
            "call setns of the first process's user namespace": ("EINVAL", "EBADF"),
            "call setns of the first process's mount namespace": ("EPERM", "EBADF"),
        },
    ),
    *each("`/`", {"mount /": ("disk", "tmpfs")}),
    # Where it holds what the build had begun, it is on the disk, too.
    *each("`/`", {"mount /nix/store": ("disk", "tmpfs")}, probes=set(PROBES) - WITH_SEVERAL_OUTPUTS),
    *each(
        "`/`",
        {"mount /nix/store": ("disk", "tmpfs")},
        settings=set(SETTINGS) - WITH_OUTPUTS_BEGUN,
        probes=WITH_SEVERAL_OUTPUTS,
    ),
    *each(
        "inputs in `/nix/store`",
        {
            f"options of {STORE_PATH}": ("rw,relatime; rw; shared", "ro,relatime; rw"),
            "options of /nix/store": ("rw,relatime; rw; shared", "rw,relatime; rw"),
            f"mount {STORE_PATH}-(facts.sh|probe-answers)": (None, "disk"),
            f"options of {STORE_PATH}-(facts.sh|probe-answers)": (None, "ro,relatime; rw"),
        },
    ),
    *each(
        "inputs in `/nix/store`",
        the_same((YES, READ_ONLY), "try set the mode of busybox", "try set the mode of facts.sh"),
        settings={SINGLE_USER, OWN_STORE},
    ),
    *each(
        "inputs in `/nix/store`",
        the_same((NOT_PERMITTED, READ_ONLY), "try set the mode of busybox", "try set the mode of facts.sh"),
        settings=BUILT_BY_A_DAEMON,
    ),
    *each(
        "outputs that the build had begun",
        {
            f"mode of {STORE_PATH}": (None, "drwxr-xr-x"),
            f"mode of {STORE_PATH}-dev": (None, "-rw-r--r--"),
            f"owner of {STORE_PATH}": (None, THE_BUILDERS),
            f"content of {STORE_PATH}-dev": (None, ANY),
            f"files in {STORE_PATH}": (None, ANY),
        },
        settings=WITH_OUTPUTS_BEGUN,
        probes=WITH_SEVERAL_OUTPUTS,
    ),
    *each(
        "owner of `/`, `/etc`, `/dev`, `/nix`, `/bin` with a multi-user Nix",
        {
            **the_same(("65534:100", THE_BUILDERS), "owner of /", "owner of /nix/store"),
            **the_same((UNMAPPED, THE_BUILDERS), *(f"owner of {path}" for path in ("/dev", "/etc", "/nix", "/tmp"))),
            **file_of_nixs("/etc/(group|passwd)"),
            "owner of /dev/(fd|pts/ptmx|shm|std.*)": (UNMAPPED, THE_BUILDERS),
            "mode of /": ("drwxr-x---", "dr-xr-x---"),
            **the_same(("drwxr-xr-x", "dr-xr-xr-x"), "mode of /dev", "mode of /etc", "mode of /nix"),
            **the_same((NOT_PERMITTED, YES), *(f"try set the mode of {path}" for path in ("/", "/dev", "/dev/shm", "/etc"))),
            **the_same((NOT_PERMITTED, YES), *(f"try set the mode of {path}" for path in ("/nix", "/nix/store", "/tmp"))),
            "try set the mode of /etc/(group|passwd)": (NOT_PERMITTED, YES),
        },
        settings=BUILT_BY_A_DAEMON,
    ),
    *each(
        "owner of `/`, `/etc`, `/dev`, `/nix`, `/bin` with a multi-user Nix",
        {**file_of_nixs("/etc/hosts"), "try set the mode of /etc/hosts": (NOT_PERMITTED, YES)},
        settings=BUILT_BY_A_DAEMON,
        probes=set(PROBES) - WITH_NETWORK,
    ),
    *each(
        "owner of `/`, `/etc`, `/dev`, `/nix`, `/bin` with a multi-user Nix",
        file_of_nixs("/etc/nsswitch.conf"),
        settings=BUILT_BY_A_DAEMON,
        probes=WITH_NETWORK,
    ),
    *each(
        "owner of `/`, `/etc`, `/dev`, `/nix`, `/bin` with a multi-user Nix",
        {"owner of /build/closure-of-answers": (UNMAPPED, THE_BUILDERS)},
        settings=BUILT_BY_A_DAEMON,
        probes=WITH_SEVERAL_OUTPUTS,
    ),
    *each(
        "the host's ids of the builder, in `/proc/self/uid_map` and `gid_map`",
        {"uid_map": (r"1000 (?!54321 )\d+ 1", "1000 54321 1"), "gid_map": (r"100 (?!54321 )\d+ 1", "100 54321 1")},
        settings=BUILT_BY_A_DAEMON,
    ),
    *each(
        "`/etc` with a single-user Nix",
        {"mode of /etc": ("drwxr-xr-x", "dr-xr-xr-x"), "try mkdir /etc/new": (YES, DENIED)},
        settings={SINGLE_USER, OWN_STORE},
    ),
    *each(
        "the host's files in `/etc` that a fixed-output derivation has",
        the_same(("rw,relatime; rw", "ro,relatime; rw"), "options of /etc/(hosts|resolv.conf|services)"),
        probes=WITH_NETWORK,
    ),
    *each(
        "the host's files in `/etc` that a fixed-output derivation has",
        the_same((YES, READ_ONLY), "try append to /etc/(hosts|resolv.conf)", "try set the mode of /etc/(hosts|resolv.conf)"),
        settings=AS_ROOT,
        probes=WITH_NETWORK,
    ),
    *each(
        "the host's files in `/etc` that a fixed-output derivation has",
        {"try set the mode of /etc/(hosts|resolv.conf)": (NOT_PERMITTED, READ_ONLY)},
        settings=AS_A_USER,
        probes=WITH_NETWORK,
    ),
    *each(
        "`NIX_ATTRS_JSON_FILE`, `NIX_ATTRS_SH_FILE`",
        {f"environment {name}": (f"/.*/nix-build-.*/{file}", f"/build/{file}") for name, file in ATTRIBUTES.items()},
        probes={"structured"},
    ),
    # Where env-vars can be read, the names are in it as Nix gave them.
    *each(
        "`NIX_ATTRS_JSON_FILE`, `NIX_ATTRS_SH_FILE`",
        {
            **{f"environment {name}": (f"/.*/nix-build-.*/{file}", f"/build/{file}") for name, file in ATTRIBUTES.items()},
            "content of /build/env-vars": (ANY, ANY),
        },
        settings={MULTI_USER},
        probes={"structured-env-vars"},
    ),
    *each(
        "abstract sockets of the host",
        {"call connect to an abstract name outside": (YES, "EPERM")},
        probes=WITH_NETWORK if landlock_version() >= 6 else set(),
    ),
    *each(
        "`/dev/ptmx`",
        {
            "mount /dev/ptmx": (None, "devpts"),
            "options of /dev/ptmx": (None, "rw,relatime; rw"),
            "mode of /dev/ptmx": ("lrwxrwxrwx", "crw-rw-rw-"),
            "link /dev/ptmx": ("/dev/pts/ptmx", None),
            "device /dev/ptmx": (None, "5:2"),
            # Nix changes the mode later.
            "options of the terminals": ("rw,mode=620,ptmxmode=000", "rw,mode=620,ptmxmode=666"),
        },
    ),
    *each(
        "`/dev/ptmx`",
        {"owner of /dev/ptmx": (UNMAPPED, THE_BUILDERS)},
        settings=BUILT_BY_A_DAEMON,
    ),
    *each(
        "`/bin/sh`",
        {
            "mount /bin/sh": (None, "disk"),
            "options of /bin/sh": (None, "ro,relatime; rw"),
            "mode of /bin": (None, "dr.xr-xr-x"),
            "mode of /bin/sh": (None, "-r-xr-xr-x"),
            "owner of /bin": (None, THE_BUILDERS),
            "owner of /bin/sh": (None, f"{THE_BUILDERS}|{UNMAPPED}"),
            "content of /bin/sh": (None, ANY),
            "try mkdir /bin": (f"{YES}|{DENIED}", None),
            "try mkdir /bin/new": (None, f"{YES}|{DENIED}"),
            "try set the mode of /bin": (None, YES),
            "try append to /bin/sh": (None, DENIED),
            "try set the mode of /bin/sh": (None, READ_ONLY),
            "try ls /bin": ("no, .*: No such file or directory", "yes, sh"),
        },
    ),
    *each(
        "supplementary groups",
        {"status Groups": ("", "65534"), "id": (ANY, r".* groups=65534\(nogroup\)")},
        settings={OWN_STORE, MULTI_USER},
    ),
    *each("extended attributes", {"call getxattr": ("ENODATA", "EOPNOTSUPP")}),
    *each("set-id bits by way of `fchmodat2`", {"call fchmodat2 4755": (f"{YES}|ENOSYS", "EPERM")}),
    *each(
        "to type into a terminal (`TIOCSTI`, `TIOCLINUX`)",
        the_same(("ENOTTY", "EPERM"), "call TIOCSTI", "call TIOCLINUX"),
    ),
    *each(
        "standard input",
        {
            "descriptor 0": ("/dev/null", "/dev/pts/N"),
            "descriptor 0 is a terminal": (None, YES),
            # It controls the command, as a terminal does that one works at.
            "terminal": ("0", "34816"),
            "mode of /dev/pts/0": (None, "crw--w----"),
            "owner of /dev/pts/0": (None, THE_BUILDERS),
            "device /dev/pts/0": (None, "88:0"),
            "try open /dev/tty": ("no, .*: No such device or address", YES),
            "call open /dev/tty": ("ENXIO", YES),
            # The next one that is made.
            "call its name": ("/dev/pts/0", "/dev/pts/1"),
        },
    ),
    *each(
        "as root, without sudo: the files of `/proc` that are no process, the devices",
        {
            "mount /proc/.*": (None, "proc"),
            "options of /proc/.*": (None, "ro,relatime; rw"),
            "try append to /proc/sys/.*": (YES, READ_ONLY),
            "options of /dev/(full|kvm|null|random|tty|urandom|zero)": ("rw,relatime; rw", "ro,relatime; rw"),
            "try set the mode of /dev/(full|null)": (YES, READ_ONLY),
        },
        settings=AS_ROOT,
    ),
    *each(
        "as root, without sudo: user namespaces in the sandbox",
        {
            "try unshare -U .*": (f"{YES}|yes, 0|no, umount: .*: Invalid argument", "no, .*: No space left on device"),
            "call unshare user": (YES, "ENOSPC"),
        },
        settings=AS_ROOT,
    ),
    *each(
        "the kernel's keys (`keyctl`)",
        {
            "call bytes of numbers of keys in the session keyring": (r"[1-9]\d*", "ENOSYS"),
            "call add a key to the thread keyring": (YES, "ENOSYS"),
        },
    ),
    *each("cgroup namespace", {"namespace cgroup": ("the host's", "its own")}),
]
