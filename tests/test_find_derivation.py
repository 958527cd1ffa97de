"""Which derivation a kept directory is taken for where several match, and what is said where nothing tells."""

import os
import subprocess
from pathlib import Path

import pytest
from support.derivation import Derivation, nix_store

NAMELESS = "nix-4321-1234567890/build"
"""What Nix 2.30 and later call a directory."""


def instantiate(caller, name, which):
    """Registers a derivation that nobody builds. It has the name, and `which` among its variables."""
    inputs = Derivation(caller.builds.derivation(caller.kept("fails-early")), Path("/")).closure_of_inputs()
    busybox = next(path for path in inputs if path.endswith("-busybox"))
    expression = """
        { name, busybox, which }:
        derivation {
          inherit name which; system = builtins.currentSystem;
          builder = "${builtins.storePath busybox}/busybox"; args = [ "sh" "-c" "exit 1" ];
        }
    """
    arguments = [("name", name), ("busybox", f"/nix/store/{busybox}"), ("which", which)]
    arguments = [word for key, value in arguments for word in ("--argstr", key, value)]
    return subprocess.run(
        ["nix-instantiate", "--expr", expression, *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PATH": "/usr/bin:/bin"},
    ).stdout.strip()  # fmt: skip


class Logs:
    """A directory of build logs, as NIX_LOG_DIR names one. The program looks at nothing but their names and times."""

    def __init__(self, caller):
        self.directory = caller.make_directory("logs")
        self.env = {"NIX_LOG_DIR": str(self.directory)}

    def add(self, derivation, kept, seconds, suffix=".bz2"):
        """The log of a build that ended so many seconds after the kept directory last changed."""
        name = Path(derivation).name
        log = self.directory / "drvs" / name[:2] / (name[2:] + suffix)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        time = kept.stat().st_ctime_ns + round(seconds * 1e9)
        os.utime(log, ns=(time, time))


@pytest.fixture
def logs(caller):
    return Logs(caller)


# --- Several of one name ---------------------------------------------------------------------------------------------


@pytest.fixture
def twins(caller):
    """A kept directory, and two derivations of its name, registered one after the other; of neither anything was built."""
    name = f"twins-{os.getpid()}-{caller.name}"
    found = instantiate(caller, name, "first"), instantiate(caller, name, "second")
    yield name, found, caller.make_directory(f"nix-build-{name}.drv-0")
    nix_store(Path("/"), "--delete", *found)


def taken(caller, kept, **how):
    """Which of the twins a directory is taken for, and what is said about that."""
    result = caller.enter("sh", "-c", "echo $which", build_dir=kept, **how)
    assert result.returncode == 0, result
    return result.stdout.strip(), result.stderr


def test_of_several_derivations_of_one_name_the_newest_is_taken_and_a_note_says_so(caller, twins, logs):
    name, (first, second), kept = twins
    which, note = taken(caller, kept, env=logs.env)
    assert which == "second"
    assert note.count("\n") == 1
    for mention in [f"several derivations are called {name}", second, "the newest", "no", "log", "--derivation DRV"]:
        assert mention in note
    assert taken(caller, kept, env=logs.env, options=["--derivation", first]) == ("first", "")


@pytest.mark.parametrize("suffix", [".bz2", ""])
def test_the_one_that_was_built_is_taken_rather_than_the_newest(caller, twins, logs, suffix):
    name, (first, _), kept = twins
    logs.add(first, kept, -3600, suffix)
    which, note = taken(caller, kept, env=logs.env)
    assert which == "first"
    assert note.count("\n") == 1
    for mention in [f"several derivations are called {name}", first, "build ended nearest", "--derivation DRV"]:
        assert mention in note


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # One was built, and later the other: whose directory it is, its time tells.
        ((-0.002, -300), "first"),
        ((-300, -0.002), "second"),
        ((-0.002, 300), "first"),
        # A copy, made long after both: that of the last build.
        ((-3600, -7200), "first"),
        ((-7200, -3600), "second"),
    ],
)
def test_of_several_that_were_built_the_nearest_to_the_directory_is_taken(caller, twins, logs, seconds, expected):
    _, found, kept = twins
    for derivation, after in zip(found, seconds, strict=True):
        logs.add(derivation, kept, after)
    assert taken(caller, kept, env=logs.env)[0] == expected


def failed(caller, name, which):
    """Lets the real Nix fail to build a derivation, and returns the directory that it kept."""
    arguments = ["--keep-failed", "--realise", instantiate(caller, name, which)]
    options = ["--option", "sandbox", "true", "--option", "substitute", "false", "--option", "build-users-group", ""]
    tmpdir = caller.workspace / "kept"
    tmpdir.mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/", "TMPDIR": str(tmpdir)}
    before = set(tmpdir.iterdir())
    subprocess.run(["nix-store", *options, *arguments], env=environment, cwd="/", capture_output=True, check=False)
    (kept,) = set(tmpdir.iterdir()) - before
    return kept


def test_the_logs_of_the_real_nix_tell_whose_directory_it_is(root):
    """Two builds of one name failed one after the other, and each left a directory."""
    name = f"rivals-{os.getpid()}"
    directories = {which: failed(root, name, which) for which in ["first", "second"]}
    try:
        for which, kept in directories.items():
            assert taken(root, kept)[0] == which
    finally:
        nix_store(Path("/"), "--delete", *(instantiate(root, name, which) for which in directories))
