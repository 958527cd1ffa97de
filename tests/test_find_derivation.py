"""Which derivation a kept directory is taken for where several match, and what is said where nothing tells."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from support.derivation import Derivation, query

NAMELESS = "nix-4321-1234567890/build"
"""What Nix 2.30 and later call a directory."""


def new_name(caller, name):
    """A name that no derivation in the store has but those of this test run."""
    return f"{name}-{caller.session.directory.name}"


def instantiate(caller, name, which, script="exit 1"):
    """Registers a derivation with this name and builder's script, and `which` among its variables.

    It stays, as do all that the tests make: to delete one, Nix looks at every process of the machine, and fails if one is in a
    directory with too long a path, as another test may be.
    """
    inputs = Derivation(caller.builds.derivation(caller.kept("fails-early")), Path("/")).closure_of_inputs()
    busybox = next(path for path in inputs if path.endswith("-busybox"))
    expression = """
        { name, busybox, which, script }:
        derivation {
          inherit name which; system = builtins.currentSystem;
          builder = "${builtins.storePath busybox}/busybox"; args = [ "sh" "-c" script ];
        }
    """
    arguments = [("name", name), ("busybox", f"/nix/store/{busybox}"), ("which", which), ("script", script)]
    arguments = [word for key, value in arguments for word in ("--argstr", key, value)]
    return nix_instantiate(expression, *arguments)


def nix_instantiate(expression, *arguments):
    """The derivation that an expression makes."""
    return subprocess.run(
        ["nix-instantiate", "--expr", expression, *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PATH": "/usr/bin:/bin"},
    ).stdout.strip()  # fmt: skip


class Logs:
    """A directory of build logs, as NIX_LOG_DIR names one. The program looks at nothing but their names and times."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
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
def logs(workspace):
    return Logs(workspace / "logs")


# --- Several of one name ---------------------------------------------------------------------------------------------


@pytest.fixture
def twins(caller):
    """A kept directory, and two derivations of its name, registered one after the other; of neither anything was built."""
    name = new_name(caller, "twins")
    found = instantiate(caller, name, "first"), instantiate(caller, name, "second")
    return name, found, caller.make_directory(f"nix-build-{name}.drv-0")


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


def test_one_that_is_not_built_is_taken_rather_than_one_that_is(caller, logs):
    name = new_name(caller, "built")
    failing = instantiate(caller, name, "failing")
    built = instantiate(caller, name, "built", script="echo > $out")
    in_no_sandbox = ["--option", "sandbox", "false", "--option", "build-users-group", "", "--option", "substitute", "false"]
    subprocess.run(["nix-store", "--realise", built, *in_no_sandbox], check=True, capture_output=True)
    kept = caller.make_directory(f"nix-build-{name}.drv-0")
    logs.add(failing, kept, -3600)
    logs.add(built, kept, -0.002)
    which, note = taken(caller, kept, env=logs.env)
    assert which == "failing"
    assert failing in note and "not built" in note


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
    directories = {which: failed(root, new_name(root, "rivals"), which) for which in ["first", "second"]}
    for which, kept in directories.items():
        assert taken(root, kept)[0] == which


# --- Nothing tells ---------------------------------------------------------------------------------------------------


def nameless(caller, package="fails-early", name=NAMELESS):
    """A copy of a kept directory, called as by Nix 2.30 and later."""
    kept = caller.workspace / name
    kept.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", caller.kept(package), kept], check=True)
    return kept


def closed(caller):
    """What a daemon of Nix 2.30 and later keeps of a build that writes env-vars as stdenv does now: nothing in it tells."""
    kept = caller.workspace / NAMELESS
    kept.parent.mkdir()
    subprocess.run(["cp", "-a", caller.builds.by_daemon("greeting"), kept], check=True)
    (kept / "env-vars").chmod(0o600)
    return kept


def failed_derivations(caller, *packages):
    """Derivations that nobody could build."""
    return [str(caller.builds.derivation(caller.builds.by_root(package))) for package in packages]


def says(caller, kept, logs, *mentions):
    """The one sentence that is said instead of a sandbox."""
    caller.refused("true", build_dir=kept, env=logs.env, mentions=mentions)
    return caller.enter("true", build_dir=kept, env=logs.env).stderr


def named_in(sentence):
    """The derivations that a sentence says to try."""
    return re.findall("--derivation (/[^ ]*)", sentence)


def test_a_build_of_which_nothing_tells_its_derivation(caller, logs):
    """The whole sentence holds: no sandbox is promised."""
    kept = nameless(caller)
    says(caller, kept, logs, "no env-vars", f"nothing in {kept} names the derivation", "--derivation DRV names it")
    (derivation,) = failed_derivations(caller, "fails-early")
    assert caller.enter("true", build_dir=kept, options=["--derivation", derivation], env=logs.env).returncode == 0


def test_without_logs_sudo_finds_the_derivation_of_a_closed_directory(user, logs):
    kept = closed(user)
    mentions = [f"may not read {kept}/env-vars", "with sudo, which finds the derivation", "--derivation DRV names it"]
    sentence = says(user, kept, logs, f"nothing that you may read in {kept} names it", *mentions)
    assert "log" not in sentence
    # As it says.
    sudo = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid), **logs.env}
    result = user.enter("sh", "-c", "echo $name", build_dir=kept, env=sudo, as_root=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "greeting-1.0\n", "")


def test_the_build_whose_log_ended_nearest_is_named_to_be_tried(user, logs):
    kept = closed(user)
    derivation = str(user.builds.derivation(user.builds.by_daemon("greeting")))
    logs.add(derivation, kept, -0.002)
    mentions = ["with sudo, which finds the derivation", "it may be", "less than 1 s before the directory's last change"]
    assert named_in(says(user, kept, logs, *mentions)) == [derivation]
    result = user.enter("sh", "-c", "echo $name", build_dir=kept, options=["--derivation", derivation])
    assert (result.returncode, result.stdout) == (0, "greeting-1.0\n")


def test_of_builds_that_failed_the_three_nearest_are_named_in_their_order(caller, logs):
    kept = nameless(caller)
    near, nearer, nearest, far, farther = failed_derivations(
        caller, "fails-early", "odd-inputs", "greeting", "half-installed", "structured"
    )
    for derivation, seconds in [(near, -400), (nearer, 30), (nearest, -2.5), (far, -500), (farther, -601)]:
        logs.add(derivation, kept, seconds)
    sentence = says(caller, kept, logs, "2 s before", "30 s after", "6 min before", "its log ended")
    assert named_in(sentence) == [nearest, nearer, near]


def test_what_cannot_have_left_a_directory_is_not_named(caller, logs):
    """What was built, what Nix builds by itself, and what is no longer there to be given; nor what ended long before."""
    kept = nameless(caller)
    long_ago, failed = failed_derivations(caller, "greeting", "fails-early")
    inputs = query(Path("/"), "--references", *failed_derivations(caller, "odd-inputs"))
    (built,) = [path for path in inputs if path.endswith("-a-link.drv")]
    for derivation in [built, instantiate_builtin(), f"/nix/store/{'0' * 32}-gone.drv"]:
        logs.add(derivation, kept, -0.002)
    logs.add(long_ago, kept, -601)
    # It fails with «--check» alone, so it is not named beside what did fail.
    assert named_in(says(caller, kept, logs)) == [built]
    logs.add(failed, kept, -500)
    assert named_in(says(caller, kept, logs)) == [failed]


def instantiate_builtin():
    return nix_instantiate("""
        derivation {
          name = "own"; system = "builtin"; builder = "builtin:fetchurl"; url = "file:///nowhere";
          outputHash = "0000000000000000000000000000000000000000000000000000"; outputHashAlgo = "sha256";
        }
    """)


@pytest.mark.parametrize(
    ("name", "mention"),
    [
        ("some-directory", "nothing in {} names the derivation"),
        # It has a name, and that the derivation is gone is all there is to say.
        ("nix-build-gone.drv-0", "the store has no derivation (any more) that makes what was built in {}"),
    ],
)
def test_no_derivation_is_proposed_for_a_directory_that_may_be_none_of_nixs_or_has_a_name(caller, logs, name, mention):
    kept = nameless(caller, name=name)
    (derivation,) = failed_derivations(caller, "fails-early")
    logs.add(derivation, kept, -0.002)
    assert named_in(says(caller, kept, logs, "no env-vars", mention.format(kept), "--derivation DRV names it")) == []


def test_the_log_of_the_real_nix_leads_to_the_derivation(root):
    """A build that failed just now, and a directory that it might have left as Nix 2.30 calls it."""
    kept = root.workspace / NAMELESS
    kept.parent.mkdir()
    name = new_name(root, "just-now")
    failed(root, name, "only").rename(kept)
    result = root.enter("true", build_dir=kept)
    assert result.returncode == 125
    assert instantiate(root, name, "only") in named_in(result.stderr)
