"""The names of the machine, as Nix gives them to a build."""

import os

NAMES = "hostname; domainname; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"


def test_the_host_is_called_localhost_and_has_no_domain(caller):
    assert caller.inside(NAMES).split("\n") == ["localhost", "(none)", "localhost", "(none)", ""]


def test_uname_says_localhost(caller):
    assert caller.inside("uname -n") == "localhost\n"


def test_the_names_cannot_be_changed(caller):
    assert "you must be root" in caller.cannot("hostname", "elsewhere")
    assert "you must be root" in caller.cannot("domainname", "elsewhere")
    for name in ["hostname", "domainname"]:
        caller.cannot("bash", "-c", f"echo elsewhere > /proc/sys/kernel/{name}")


def test_the_hosts_own_names_stay(caller):
    before = os.uname()
    caller.inside("unshare --user --map-root-user hostname elsewhere || true")
    assert os.uname() == before


def test_a_nested_root_cannot_rename_the_sandbox(caller):
    script = "unshare --user --map-root-user hostname elsewhere 2>/dev/null || true; hostname"
    assert caller.inside(script) == "localhost\n"
