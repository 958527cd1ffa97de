"""How the build directory is made writable: a copy, one that shares its blocks, an overlay, or the kept directory itself."""

import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from support.fingerprint import fingerprint
from support.leftovers import scratch_directories
from support.nix import USER
from support.processes import PATIENCE
from support.terminal import Terminal

# More than what is copied without a word.
MANY = 2300
MODES = ["auto", "copy", "overlay"]
# Of a directory the number of names is left out, which says how many directories are in it: on an overlay it is 1.
LISTING = r"find . -mindepth 1 \( -type d -printf '%P|%y|%m|%T@|%U|%G\0' -o -printf '%P|%y|%m|%T@|%n|%U|%G|%s|%l\0' \)"
ONE_LINE = re.compile(r"^nix-build-shell: .* is large, so an overlay of it was made.*EXDEV.*--build-dir-mode=copy.*$", re.MULTILINE)


def is_said_once(said):
    return len(ONE_LINE.findall(said)) == said.count("EXDEV") == 1


def mode(name):
    return [f"--build-dir-mode={name}"]


def large_copy(caller, name="large", owner=None):
    """A kept directory with many files, and with one of everything that can be in a build directory."""
    kept = caller.copy_of_kept(name=name)
    for number in range(MANY):
        path = kept / "many" / str(number % 23) / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * (number % 50))
        os.utime(path, ns=(1_600_000_000_123_456_789 + number, 1_500_000_000_987_654_321 + number))
    odd = kept / "odd"
    odd.mkdir()
    (odd / "first").write_text("linked\n")
    for number in range(20):
        os.link(odd / "first", kept / "many" / str(number) / "same-file")
    (odd / "line\nbreak, comma: colon \\ backslash").write_text("x")
    Path(os.fsdecode(os.fsencode(odd) + b"/\xff\xfe")).write_text("no UTF-8")
    os.symlink("/nowhere", odd / "dangling")
    os.link(odd / "dangling", odd / "dangling too", follow_symlinks=False)
    os.mkfifo(odd / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(odd / "socket"))
    with open(odd / "sparse", "wb") as sparse:
        sparse.seek(8 << 20)
        sparse.write(b"end")
    (odd / "executable").write_text("#!/bin/sh\n")
    (odd / "executable").chmod(0o751)
    (odd / "read-only").mkdir(mode=0o555)
    os.setxattr(odd / "first", "user.test", b"value")
    uid, gid = owner or (caller.uid, caller.uid)
    subprocess.run(["chown", "-hR", f"{uid}:{gid}", kept], check=True)
    os.utime(odd, ns=(1, 1_400_000_000_111_222_333))
    return kept


def seen_from_outside(kept, uid=1000, gid=100):
    result = subprocess.run(["bash", "-c", LISTING], cwd=kept, capture_output=True, check=True).stdout
    status = os.lstat(kept / "many")
    owner = f"|{status.st_uid}|{status.st_gid}".encode()
    return sorted(entry.replace(owner, f"|{uid}|{gid}".encode()) for entry in result.split(b"\0"))


def seen_from_inside(caller, kept, options, **how):
    result = caller.enter("bash", "-c", LISTING, build_dir=kept, options=options, text=False, **how)
    assert result.returncode == 0, result
    return sorted(result.stdout.split(b"\0")), result.stderr.decode()


# --- What is in there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODES)
def test_everything_is_there_as_it_was_and_belongs_to_the_builder(caller, name):
    kept = large_copy(caller)
    before = fingerprint(kept)
    inside, _ = seen_from_inside(caller, kept, mode(name))
    assert inside == seen_from_outside(kept)
    sums = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum"
    outside = subprocess.run(["bash", "-c", sums], cwd=kept, capture_output=True, check=True).stdout
    assert caller.enter("bash", "-c", sums, build_dir=kept, options=mode(name), text=False).stdout == outside
    assert fingerprint(kept) == before


@pytest.mark.parametrize("name", ["copy", "overlay"])
def test_whatever_is_done_in_there_the_kept_directory_stays_as_it_was(caller, name):
    kept = large_copy(caller)
    before = fingerprint(kept)
    script = """
        set -e
        chmod -R u+w .
        echo more >> odd/first
        rm -r many/1 env-vars
        mv odd/executable moved
        touch many/2/* new
        find many/3 -type f -exec chmod 600 {} +
        mkdir many/1 many/1/again
        rm -r odd
        test ! -e odd -a ! -e env-vars -a -e moved -a -d many/1/again
        ls many/1 | wc -l
    """
    result = caller.enter("bash", "-c", script, build_dir=kept, options=mode(name))
    assert (result.returncode, result.stdout) == (0, "1\n"), result
    assert fingerprint(kept) == before


def test_a_copy_made_by_several_threads_has_attributes_access_lists_and_holes(caller):
    """They cannot be asked for in the sandbox. So the copy is looked at while the sandbox runs."""
    kept = large_copy(caller)
    # Version 2: the owner rw, the user 12345 r, the group r, the mask r, others r; see acl(5).
    entries = [(1, 6, 2**32 - 1), (2, 4, 12345), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 4, 2**32 - 1)]
    os.setxattr(kept / "odd/first", "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))
    with caller.start("bash", "-c", "echo ready; read", build_dir=kept, options=mode("copy")) as running:
        assert running.line() == "ready"
        (scratch,) = scratch_directories(caller.tmpdir)
        assert not (scratch / "links").exists()
        copy = scratch / "build"
        for name in ["odd/first", "many/0/same-file"]:
            assert os.getxattr(copy / name, "user.test") == b"value"
            attribute = "system.posix_acl_access"
            assert os.getxattr(copy / name, attribute) == os.getxattr(kept / name, attribute)
        assert os.stat(copy / "odd/sparse").st_blocks == os.stat(kept / "odd/sparse").st_blocks
        owners = {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in copy.rglob("*")}
        assert owners == {(caller.uid, caller.uid)}
        running.say("\n")
        assert running.end() == 0


# --- What is chosen --------------------------------------------------------------------------------------------------


def test_what_is_small_is_copied_without_a_word(caller):
    result = caller.enter("bash", "-c", "mv greeting renamed && stat -f -c %T .")
    assert result.returncode == 0 and "EXDEV" not in result.stderr, result
    assert "overlay" not in result.stdout


def test_what_is_large_is_an_overlay_and_one_line_says_what_that_means(caller):
    kept = large_copy(caller)
    result = caller.enter("stat", "-f", "-c", "%T", ".", build_dir=kept)
    assert result.stdout == "overlayfs\n"
    assert is_said_once(result.stderr), result.stderr
    asked_for = caller.enter("stat", "-f", "-c", "%T", ".", build_dir=kept, options=mode("overlay"))
    assert asked_for.stdout == "overlayfs\n" and "EXDEV" not in asked_for.stderr


def test_a_few_files_with_many_bytes_are_large_as_well(caller):
    kept = caller.copy_of_kept()
    (kept / "large").write_bytes(b"x" * (65 << 20))
    caller.give(kept / "large")
    result = caller.enter("bash", "-c", "stat -f -c %T .; stat -c %s large; ls /build | wc -l", build_dir=kept)
    assert result.stdout.split() == ["overlayfs", str(65 << 20), str(len(list(kept.iterdir())))], result
    assert is_said_once(result.stderr)


def test_a_directory_of_the_lower_layer_cannot_be_renamed_but_moved(caller):
    """As the line says. In a copy it can be."""
    kept = large_copy(caller)
    perl = 'rename("many", "renamed") or print int($!), "\\n"'
    bind = [f"--bind={path}" for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    run = ["/usr/bin/perl", "-e", perl]
    assert caller.enter(*run, build_dir=kept, options=[*mode("overlay"), *bind]).stdout == "18\n"
    assert caller.enter(*run, build_dir=kept, options=[*mode("copy"), *bind]).stdout == ""
    moved = "mv many renamed && test ! -e many && ls renamed | wc -l"
    assert caller.inside(moved, build_dir=kept, options=mode("overlay")) == "23\n"


def test_where_no_overlay_can_be_mounted_a_large_directory_is_copied(root):
    """As where the directory for temporary files is on an overlay, as in a container."""
    kept = large_copy(root)
    layers = root.make_directory("layers")
    mount = """
        cd "$1" && mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m && export TMPDIR=$1/m
        shift; "$@"; ls -A m
    """
    script = "mv many renamed && ls renamed | wc -l"
    command = root.command_line("bash", "-c", script, build_dir=kept)
    result = root.run("unshare", "--mount", "bash", "-ec", mount, "mount", layers, *command)
    assert (result.returncode, result.stdout) == (0, "23\n") and "EXDEV" not in result.stderr, result


def test_where_the_kernel_refuses_the_overlay_a_large_directory_is_copied(root):
    """As it does where the kept directory is on an overlay that is on another: more than two are not stacked."""
    kept = large_copy(root)
    layers = root.make_directory("layers")
    mounts = """
        cd "$1" && mkdir u1 w1 m1 u2 w2 m2 kept && mv "$2" kept/
        mount -t overlay overlay -o lowerdir=kept,upperdir=u1,workdir=w1 m1
        mount -t overlay overlay -o lowerdir=m1,upperdir=u2,workdir=w2 m2
        shift 2; exec "$@"
    """
    script = "stat -f -c %T .; mv many renamed && ls renamed | wc -l"
    command = root.command_line("bash", "-c", script, build_dir=layers / "m2/large")
    result = root.run("unshare", "--mount", "bash", "-ec", mounts, "mounts", layers, kept, *command)
    assert result.returncode == 0 and "overlayfs" not in result.stdout and result.stdout.endswith("23\n"), result
    assert result.stderr.endswith("so it is copied\n"), result
    asked_for = root.command_line("true", build_dir=layers / "m2/large", options=mode("overlay"))
    mounts = mounts.replace("mkdir", "ls -d").replace('&& mv "$2" kept/', "> /dev/null")
    result = root.run("unshare", "--mount", "bash", "-ec", mounts, "mounts", layers, kept, *asked_for)
    assert result.returncode == 125 and "mount a new overlay" in result.stderr and "--build-dir-mode=copy" in result.stderr, result


def test_while_much_is_copied_a_terminal_shows_how_much(user):
    """Files with another group than the caller's can be in no overlay of his."""
    kept = large_copy(user, owner=(user.uid, 12345))
    with Terminal(user, "env", "TERM=xterm", *user.command_line("true", build_dir=kept, options=mode("auto"))) as terminal:
        terminal.wait_for(r"copying [0-9,]+ of 2,[0-9]+ files")
        assert terminal.end() == 0


def test_a_terminal_that_cannot_move_its_cursor_shows_no_bar(user):
    kept = large_copy(user)
    with Terminal(user, *user.command_line("echo", "done", build_dir=kept, options=mode("copy"))) as terminal:
        terminal.wait_for("done")
        assert terminal.end() == 0
        assert "copying" not in terminal.seen


@pytest.mark.parametrize("name", ["a,b:c\\d", "two words", "line\nbreak"])
def test_a_name_with_anything_in_it_can_be_a_lower_layer(caller, name):
    kept = large_copy(caller, name=name)
    assert caller.enter("ls", "odd/fifo", build_dir=kept, options=mode("overlay")).stdout == "odd/fifo\n"


# --- Whose files they are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sudo", [False, True])
def test_root_gets_an_overlay_of_what_belongs_to_a_build_user(call_as, sudo):
    """Through an id-mapped mount: the builder owns everything, also what others may not read, and can change it."""
    caller = call_as("user" if sudo else "root")
    kept = large_copy(caller, owner=(30001, 30000))
    (kept / "secret").write_text("for nixbld1 alone\n")
    os.chown(kept / "secret", 30001, 30000)
    (kept / "secret").chmod(0o600)
    before = fingerprint(kept)
    how = {"as_root": True, "env": {"SUDO_UID": str(USER), "SUDO_GID": str(USER)} if sudo else {}}
    inside, said = seen_from_inside(caller, kept, mode("auto"), **how)
    assert inside == seen_from_outside(kept) and is_said_once(said)
    script = "stat -f -c %T .; cat secret; echo changed > secret; cat secret; rm -r many; ls"
    result = caller.enter("bash", "-c", script, build_dir=kept, options=mode("overlay"), **how)
    assert result.stdout.startswith("overlayfs\nfor nixbld1 alone\nchanged\n") and "many" not in result.stdout, result
    assert fingerprint(kept) == before
    assert not scratch_directories(caller.tmpdir)


def test_a_user_gets_a_copy_of_what_belongs_to_another(user):
    """An overlay would show it as nobody's."""
    kept = large_copy(user, owner=(30001, 30000))
    subprocess.run(["chmod", "-R", "o+rX", kept], check=True)
    inside, said = seen_from_inside(user, kept, mode("auto"))
    assert inside == seen_from_outside(kept) and "EXDEV" not in said
    user.refused("true", build_dir=kept, options=mode("overlay"), mentions=[kept, "uid 30001", "sudo", "--build-dir-mode=copy"])


def test_unreadable_files_stop_a_copy_and_no_overlay(user):
    kept = large_copy(user)
    (kept / "many/0/closed").write_text("x")
    user.give(kept / "many/0/closed").chmod(0)
    user.refused("true", build_dir=kept, options=mode("copy"), mentions=["may not read", "many/0/closed", "--ignore-unreadable"])
    left = user.enter("ls", "many/0/closed", build_dir=kept, options=["--ignore-unreadable", *mode("copy")])
    assert left.returncode == 2 and "left out 1 file" in left.stderr
    script = "chmod u+r many/0/closed; cat many/0/closed"
    assert user.inside(script, build_dir=kept, options=mode("overlay")) == "x"


# --- The kept directory itself ---------------------------------------------------------------------------------------


def test_in_place_the_kept_directory_is_changed_and_that_is_said_once(caller):
    kept = caller.copy_of_kept()
    subprocess.run(["chown", "-hR", f"{caller.uid}:{caller.uid}", kept], check=True)
    result = caller.enter("bash", "-c", "echo new > made; rm greeting/Makefile; stat -c %u:%g made", build_dir=kept, options=mode("in-place"))
    assert (result.returncode, result.stdout) == (0, "1000:100\n"), result
    assert result.stderr.count(f"nix-build-shell: you work in {kept} itself: what is changed there stays changed\n") == 1
    assert (kept / "made").read_text() == "new\n" and not (kept / "greeting/Makefile").exists()
    assert (os.stat(kept / "made").st_uid, os.stat(kept / "made").st_gid) == (caller.uid, caller.uid)


@pytest.mark.parametrize("sudo", [False, True])
def test_in_place_what_root_makes_for_a_build_user_belongs_to_him(call_as, sudo):
    caller = call_as("user" if sudo else "root")
    kept = caller.copy_of_kept()
    subprocess.run(["chown", "-hR", "30001:30000", kept], check=True)
    how = {"as_root": True, "env": {"SUDO_UID": str(USER), "SUDO_GID": str(USER)} if sudo else {}}
    result = caller.enter("bash", "-c", "echo new > made; stat -c %u:%g made env-vars", build_dir=kept, options=mode("in-place"), **how)
    assert result.stdout == "1000:100\n" * 2, result
    assert (os.stat(kept / "made").st_uid, os.stat(kept / "made").st_gid) == (30001, 30000)


def test_another_users_directory_is_no_place_for_a_user(user):
    kept = user.copy_of_kept()
    subprocess.run(["chown", "-hR", "30001:30000", kept], check=True)
    subprocess.run(["chmod", "-R", "o+rX", kept], check=True)
    user.refused("true", build_dir=kept, options=mode("in-place"), mentions=[kept, "uid 30001", "sudo"])


# --- Refusals --------------------------------------------------------------------------------------------------------


def test_a_mode_that_nobody_knows_is_refused(user):
    result = user.enter("true", options=mode("magic"))
    assert result.returncode == 125 and "magic" in result.stderr


def test_without_shared_blocks_reflink_is_refused(user):
    """As on ext4 and tmpfs, or between two file systems."""
    memory = Path("/dev/shm") / f"nix-build-shell-{os.getpid()}"
    memory.mkdir()
    os.chown(memory, user.uid, user.uid)
    try:
        env = {"TMPDIR": str(memory)}
        user.refused("true", options=mode("reflink"), env=env, mentions=["cannot share blocks", memory, "TMPDIR", "--build-dir-mode=copy"])
        assert not list(memory.iterdir())
    finally:
        memory.rmdir()


@pytest.mark.parametrize("name", ["overlay", "in-place"])
def test_a_session_that_is_kept_is_a_copy(user, name):
    options = [*mode(name), "--keep-session", "test"]
    user.refused("true", options=options, env={"XDG_STATE_HOME": str(user.make_directory("state"))}, mentions=["needs a copy", "--build-dir-mode=copy"])


def test_a_large_session_that_is_kept_survives_the_kept_directory(user):
    kept = large_copy(user)
    env = {"XDG_STATE_HOME": str(user.make_directory("state"))}
    made = user.enter("bash", "-c", "mv many renamed", build_dir=kept, options=["--keep-session", "large"], env=env)
    assert made.returncode == 0 and "EXDEV" not in made.stderr, made
    shutil.rmtree(kept)
    assert user.run(user.program, "sessions", "enter", "large", "ls", "renamed/0/same-file", env=env).returncode == 0
    assert user.run(user.program, "sessions", "remove", "--no-patch", "large", env=env).returncode == 0


def test_a_derivation_has_no_directory_to_work_in(user, builds):
    derivation = builds.derivation(user.kept())
    result = user.run(user.program, "--store-root", str(builds.users_store()), *mode("in-place"), str(derivation), "true")
    assert result.returncode == 125 and "in-place" in result.stderr and result.stderr.count("\n") == 1, result


def test_in_place_there_is_nothing_to_compare_with(user):
    kept = user.copy_of_kept()
    subprocess.run(["chown", "-hR", f"{user.uid}:{user.uid}", kept], check=True)
    patch = user.workspace / "x.patch"
    user.refused("true", build_dir=kept, options=[*mode("in-place"), "--save-patch", str(patch)], mentions=["--save-patch", "itself"])
    assert not patch.exists()


# --- The patch -------------------------------------------------------------------------------------------------------


CHANGES = """
    cd greeting
    sed -i '1s/^/# changed\\n/' Makefile
    echo new > new.txt
    mkdir deeper && echo newer > deeper/file
    rm tests/is-polite
    mv tests renamed-tests
    rm -r renamed-tests && mkdir renamed-tests && echo again > renamed-tests/only
    : >> README
    ln -s Makefile link
    chmod +x new.txt
    touch ../many/3/*
"""


@pytest.mark.parametrize("kind", ["root", "user"])
def test_the_patch_of_an_overlay_is_that_of_a_copy(call_as, kind):
    caller = call_as(kind)
    kept = large_copy(caller)
    before = fingerprint(kept)
    where = caller.make_directory("patches")
    found = {}
    for name in ["copy", "overlay"]:
        patch = where / f"{name}.patch"
        options = [*mode(name), "--save-patch", str(patch)]
        result = caller.enter("bash", "-ec", CHANGES, build_dir=kept, options=options)
        assert result.returncode == 0 and "your changes to" in result.stderr, result
        told = result.stderr.replace(f"{name}.patch", "PATCH").replace(f"{name}.rest.patch", "REST")
        found[name] = (patch.read_bytes(), told)
    assert found["overlay"][0] == found["copy"][0]
    told = {name: [line for line in said.splitlines() if "your changes to" in line] for name, (_, said) in found.items()}
    assert told["overlay"] == told["copy"]
    assert b"renamed-tests/only" in found["overlay"][0] and b"deeper/file" in found["overlay"][0]
    source = caller.workspace / "source"
    subprocess.run(["cp", "-a", kept / "greeting", source], check=True)
    applied = subprocess.run(["patch", "-p1"], cwd=source, input=found["overlay"][0], capture_output=True)
    assert applied.returncode == 0, applied
    assert (source / "Makefile").read_text().startswith("# changed\n") and not (source / "tests/is-polite").exists()
    assert fingerprint(kept) == before


def test_files_that_were_only_opened_are_not_in_the_patch(caller):
    """The kernel copies them to the upper layer all the same."""
    kept = large_copy(caller)
    patch = caller.make_directory("patches") / "x.patch"
    script = "cd greeting && : >> Makefile && chmod 600 Makefile && ln Makefile other && rm other"
    result = caller.enter("bash", "-ec", script, build_dir=kept, options=[*mode("overlay"), "--save-patch", str(patch)])
    assert result.returncode == 0 and "your changes" not in result.stderr, result
    assert not patch.exists()


# --- resume ----------------------------------------------------------------------------------------------------------


def test_resume_goes_on_in_an_overlay_and_opens_a_shell_there(root):
    kept = large_copy(root)
    before = fingerprint(kept)
    command = [root.program, "resume", "--shell-on-failure", "--from", "checkPhase", *mode("overlay"), str(kept)]
    script = "stat -f -c %T /build; test -e /build/many/0/same-file && echo there; echo done > /build/made; cat /build/made\n"
    result = root.run(*command, input=script)
    assert result.returncode not in (0, 125) and "checkPhase failed with status" in result.stderr, result
    assert "here is a shell" in result.stderr
    assert "overlayfs\nthere\ndone\n" in result.stdout, result
    assert fingerprint(kept) == before


def test_resume_in_place_knows_what_failed_and_leaves_no_note(root):
    kept = root.copy_of_kept()
    command = [root.program, "resume", "--shell-on-failure", "--from", "checkPhase", *mode("in-place"), str(kept)]
    result = root.run(*command, input="echo done > /build/made; ls -A /build\n")
    assert result.returncode not in (0, 125) and "checkPhase failed with status" in result.stderr, result
    assert (kept / "made").read_text() == "done\n"
    assert ".nix-build-shell-phase" not in os.listdir(kept) + result.stdout.split()


# --- The end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["copy", "overlay"])
def test_what_a_sigkill_leaves_a_later_run_removes(caller, name):
    kept = large_copy(caller)
    with caller.start("bash", "-c", "rm -r many/1; mkdir -p new/closed; chmod 0 new; echo ready; read", build_dir=kept, options=mode(name)) as running:
        assert running.line() == "ready"
        running.kill()
    assert scratch_directories(caller.tmpdir)
    assert caller.enter("true").returncode == 0
    assert not scratch_directories(caller.tmpdir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_copy_that_is_interrupted_leaves_nothing(caller, number):
    kept = large_copy(caller)
    huge = kept / "huge"
    with open(huge, "wb") as file:
        for _ in range(40):
            file.write(b"x" * (8 << 20))
    caller.give(huge)
    process = subprocess.Popen(
        caller.command_line("true", build_dir=kept, options=mode("copy")), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **caller.as_caller(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)),
    )  # fmt: skip
    while not scratch_directories(caller.tmpdir) and process.poll() is None:
        pass
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode in (128 + number, 0), said
    assert not scratch_directories(caller.tmpdir)


def test_a_device_is_refused_by_every_thread(root):
    kept = large_copy(root)
    os.mknod(kept / "many/22/device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    root.refused("true", build_dir=kept, options=mode("copy"), mentions=["many/22/device is a device"])


# --- The plan --------------------------------------------------------------------------------------------------------


def test_the_dry_run_says_what_would_be_made(user):
    kept = large_copy(user)
    said = {name: user.enter("true", build_dir=kept, options=["--dry-run", *mode(name)]).stdout for name in ("copy", "overlay", "in-place")}
    assert said["copy"].startswith(f"copy {kept} to ")
    assert said["overlay"].startswith("lay the empty directory ") and "mount a new overlay on" in said["overlay"]
    assert f"bind {kept} on" in said["in-place"]
