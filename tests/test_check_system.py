"""What `check-system` tells of this machine, and of machines that refuse something."""

import os
import re

import pytest
from support.confinement import ONLY_DEVICES, on_another_machine, refuse, with_kernel_setting
from support.terminal import Terminal

SUBJECTS = [
    "kernel", "user namespaces", "overlayfs", "idmapped mounts", "reflinks", "seccomp", "landlock", "/dev/kvm", "cgroup v2", "Nix",
    "store database", "settings", "TMPDIR", "sandbox",
]  # fmt: skip


def facts(result):
    """Each subject with its mark and its words."""
    lines = [re.fullmatch(r"([✓–✗]) (.{16}) (\S.*)", line) for line in result.stdout.splitlines()]
    assert all(lines), result
    return {line[2].strip(): (line[1], line[3]) for line in lines}


def check(caller, *before, **how):
    return caller.run(*before, caller.program, "check-system", **how)


def test_a_machine_that_allows_a_sandbox_is_told_so_and_nothing_is_left(caller):
    caller.kept()
    result = check(caller)
    told = facts(result)
    assert list(told) == SUBJECTS
    assert (result.returncode, result.stderr) == (0, "")
    assert told["sandbox"] == ("✓", "a whole one was started, and a program has run in it")
    assert told["kernel"] == ("✓", f"Linux {os.uname().release} on {os.uname().machine}")
    assert [told[subject][0] for subject in ["user namespaces", "seccomp", "TMPDIR"]] == ["✓"] * 3
    assert told["idmapped mounts"][0] == "–" or caller.is_root
    assert not list(caller.tmpdir.iterdir())


def test_through_sudo_it_is_the_user_who_is_told(user):
    env = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}
    user.tmpdir.chmod(0o755)
    result = check(user, as_root=True, env=env)
    assert (result.returncode, facts(result)["sandbox"][0]) == (0, "✓"), result
    assert not list(user.tmpdir.iterdir())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("unprivileged_userns_clone", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("apparmor_restrict_unprivileged_userns", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ],
)
def test_the_switch_that_forbids_user_namespaces_is_named(user, name, remedy):
    """The kernel's refusal is a filter's; only the switch is to be found."""
    value = "0" if name == "unprivileged_userns_clone" else "1"
    result = check(user, *with_kernel_setting(user, name, value), as_root=True, preexec_fn=refuse("clone3", "EPERM"))
    told = facts(result)
    assert result.returncode == 125
    for subject in ["user namespaces", "sandbox"]:
        assert told[subject][0] == "✗" and remedy in told[subject][1]
    assert told["overlayfs"][0] == "–"


def test_a_limit_of_namespaces_is_named(user):
    script = 'mount -t tmpfs none /proc/sys/user; echo 0 > /proc/sys/user/max_net_namespaces'
    before = on_another_machine(user, script)
    told = facts(check(user, *before, as_root=True, preexec_fn=refuse("clone3", "ENOSPC")))
    assert "sudo sysctl user.max_net_namespaces=15000" in told["user namespaces"][1]


def test_a_machine_without_filters(user):
    result = check(user, preexec_fn=refuse("seccomp", "ENOSYS"))
    told = facts(result)
    assert result.returncode == 125
    assert told["seccomp"][0] == "✗" and "; one is upon this program already" in told["seccomp"][1]
    assert told["user namespaces"][0] == "✓"
    assert told["sandbox"][0] == "✗" and "cannot filter system calls" in told["sandbox"][1]


@pytest.mark.parametrize(
    ("call", "error", "subject", "mark", "mentions"),
    [
        ("landlock_create_ruleset", "ENOSYS", "landlock", "–", "Function not implemented: a build that shares the network can"),
        ("landlock_create_ruleset", "EOPNOTSUPP", "landlock", "–", "switched off («lsm=landlock,…»"),
        ("mount_setattr", "ENOSYS", "sandbox", "✓", "a whole one was started"),
    ],
)
def test_a_kernel_without_something_that_can_be_missed(user, call, error, subject, mark, mentions):
    result = check(user, preexec_fn=refuse(call, error))
    told = facts(result)
    assert told[subject][0] == mark and mentions in told[subject][1], told[subject]
    assert result.returncode == 0


def test_what_root_can_map_is_told_to_root(root):
    told = facts(check(root, preexec_fn=refuse("mount_setattr", "EINVAL")))
    assert told["idmapped mounts"][0] == "–" and told["idmapped mounts"][1].startswith("not of the file system of")


def test_devices_and_file_systems_that_are_not_there(user):
    machine = on_another_machine(user, ONLY_DEVICES, str(user.make_directory("dev")))
    result = check(user, *machine, as_root=True)
    assert facts(result)["/dev/kvm"] == ("–", "this machine has none; only builds that ask for kvm want it")
    assert result.returncode == 0, result


def test_a_place_for_copies_that_cannot_be_used(user):
    result = check(user, env={"TMPDIR": "/missing"})
    told = facts(result)
    assert result.returncode == 125
    assert told["TMPDIR"][0] == "✗" and "there is no directory /missing" in told["TMPDIR"][1]
    assert told["sandbox"] == ("✗", "none was tried, for want of a place for it")


def test_the_settings_in_force_and_the_store_are_told(root):
    root.kept()
    told = facts(check(root, env={"NIX_CONFIG": "sandbox-build-dir = /elsewhere\nfilter-syscalls = false"}))
    assert "sandbox-build-dir = /elsewhere" in told["settings"][1] and "filter-syscalls = false" in told["settings"][1]
    assert told["store database"] == ("✓", "the database /nix/var/nix/db/db.sqlite")
    assert re.fullmatch(r"nix \(Nix\) [0-9.]+\S*, /.*/nix", told["Nix"][1])
    told = facts(check(root, env={"NIX_STATE_DIR": str(root.tmpdir)}))
    assert told["store database"][0] == "✗"


def test_a_store_that_is_missing_is_a_sandbox_that_cannot_start(root):
    result = check(root, env={"NIX_STORE_DIR": "/missing/store"})
    assert result.returncode == 125
    assert facts(result)["sandbox"] == ("✗", "cannot open the store /missing/store: No such file or directory")


def test_colours_are_for_a_terminal_and_for_who_wants_them(user):
    assert "\x1b" not in check(user).stdout
    for variables, has_colours in [("TERM=xterm", True), ("NO_COLOR=1", False), ("NO_COLOR=", True)]:
        with Terminal(user, "env", variables, user.program, "check-system") as terminal:
            line = terminal.wait_for("(?s)^(.*)kernel")[1]
            terminal.wait_for("(?s)sandbox *a whole one.*\n")
            assert terminal.end() == 0
            assert line == ("\x1b[32m✓\x1b[m " if has_colours else "✓ ")


def test_who_listens_no_more_is_no_error_and_a_full_disk_is_one(user):
    line = f'"{user.program}" check-system'
    assert user.run("bash", "-c", f"{line} | true; exit ${{PIPESTATUS[0]}}").returncode == 0
    result = user.run("bash", "-c", f"{line} > /dev/full")
    assert (result.returncode, result.stderr) == (125, "nix-build-shell: cannot print what was found: No space left on device\n")
