"""What this machine has to have before a test can say anything."""

import grp
import os
import shutil

COMMANDS = [
    "nix-build", "nix-daemon", "nix-instantiate", "nix-shell", "nix-store",
    # What nix/offline makes its packages of.
    "busybox", "gcc", "hostname", "ip", "make", "patchelf", "ps", "script", "strace", "xz",
    # What the tests themselves call.
    "bash", "chroot", "fish", "git", "man", "mandoc", "mount", "patch", "rm", "stty", "unshare", "zsh",
]  # fmt: skip

# What packages in nix/offline/sandbox-only find on a machine, and not in the sandbox; and the Debian package that has it.
FILES = {"/etc/services": "netbase", "/usr/share/zoneinfo/Europe/Berlin": "tzdata"}


def missing():
    """Why the tests cannot run here, in one sentence with the remedy; None where they can."""
    if os.geteuid() != 0:
        return "the tests start a Nix daemon and change ids: run them as root («make check» does, through sudo)"
    lacking = [command for command in COMMANDS if not shutil.which(command)]
    if lacking:
        return f"not installed: {', '.join(lacking)}; «make setup» installs what the tests need"
    lacking = [path for path in FILES if not os.path.exists(path)]
    if lacking:
        packages = " and ".join(FILES[path] for path in lacking)
        return f"not there: {', '.join(lacking)}; «make setup» installs {packages}, which the tests need"
    if not has_build_users():
        return "the group nixbld has no users, so no multi-user Nix can build; «make setup» installs the package that makes them"
    return None


def has_build_users():
    try:
        return bool(grp.getgrnam("nixbld").gr_mem)
    except KeyError:
        return False
