"""A build is untrusted code: what it may try to get out of the sandbox, or at the host from in there.

Each attempt is a test. Most are made at once, by the programs in tests/attempts, and are made on the host too: there each has to come
through for everybody who is named beside it. That shows that the attempt is one; that it is held by what we think holds it, the
mutations in tests/mutations show.
"""

import os
import resource
import shutil
import subprocess

import pytest
from support import processes
from support.attempts import Attempts, outcomes_in
from support.cgroup import environment_with_nix
from support.kinds import Sudoer
from support.leftovers import scratch_directories
from support.nix import USER
from support.terminal import Terminal

EVERYBODY = ("root", "user")
ROOT = ("root",)
NOBODY = ()
"""Who comes through with it on the host. Of what nobody does, because there it has no sense, tests/mutations shows that it can."""

ATTEMPTS = {
    "read a file by its path": EVERYBODY,
    "open a file for writing by its path": EVERYBODY,
    "read a file by ..": EVERYBODY,
    "follow a link in the kept directory": EVERYBODY,
    "follow a linked directory in the kept directory": EVERYBODY,
    "follow a link with .. in the kept directory": EVERYBODY,
    "read by /proc/*/root": EVERYBODY,
    "read by /proc/*/cwd": EVERYBODY,
    "read by /proc/*/fd": EVERYBODY,
    "use inherited descriptors": EVERYBODY,
    "read by standard descriptors": NOBODY,
    "open a file by its handle": ROOT,
    "chroot out": EVERYBODY,
    "peel the root off": EVERYBODY,
    "mount": ROOT,
    "unmount an input": NOBODY,
    "unmount an input as root of a namespace": NOBODY,
    "remount an input writable": NOBODY,
    "remount an input writable as root of a namespace": NOBODY,
    "clone an input writable as root of a namespace": EVERYBODY,
    "change the mode of an input": ROOT,
    "change the owner of an input": ROOT,
    "change the times of an input": ROOT,
    "change the flags of an input": ROOT,
    "open an input for writing": ROOT,
    "open an input for writing by its descriptor": ROOT,
    "add to an input": ROOT,
    "link to an input": ROOT,
    "make a device": ROOT,
    "make a device as root of a namespace": NOBODY,
    "see a process": EVERYBODY,
    "signal a process": EVERYBODY,
    "be in the caller's process group": EVERYBODY,
    "be in the caller's session": EVERYBODY,
    "have the caller's terminal": NOBODY,
    "trace a process": EVERYBODY,
    "seize a process": EVERYBODY,
    "read a process's memory": EVERYBODY,
    "read a process's memory by process_vm_readv": EVERYBODY,
    "read a process's environment": EVERYBODY,
    "take a process's descriptor": EVERYBODY,
    "open a process's executable": EVERYBODY,
    "open a process's executable as a path": EVERYBODY,
    "enter a process's mount namespace": EVERYBODY,
    "enter a process's network namespace": EVERYBODY,
    "enter a process's user namespace": EVERYBODY,
    "connect to a socket by its path": EVERYBODY,
    "connect to the Nix daemon": EVERYBODY,
    "connect to an abstract socket": EVERYBODY,
    "connect to the host's loopback": EVERYBODY,
    "attach SysV shared memory": EVERYBODY,
    "open a SysV message queue": EVERYBODY,
    "open SysV semaphores": EVERYBODY,
    "open a POSIX message queue": EVERYBODY,
    "open POSIX shared memory": EVERYBODY,
    "find a key in the session keyring": EVERYBODY,
    "find a key in the user keyring": EVERYBODY,
    "request a key": EVERYBODY,
    "read a key by its number": EVERYBODY,
    "set kernel.core_pattern": ROOT,
    "press a system request": NOBODY,
    "set vm.mmap_min_addr": ROOT,
    "write to the caller's cgroup": NOBODY,
    "type into a terminal": NOBODY,
    "speak to a console": NOBODY,
    "set a set-id bit": EVERYBODY,
}


@pytest.fixture(scope="session")
def attempts(session, builds):
    return Attempts(session, builds)


def test_every_attempt_is_listed(attempts, user):
    inside, outside = attempts.outcomes(user)
    assert set(inside) == set(outside) == set(ATTEMPTS)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_is_held(attempts, caller, attempt):
    inside, outside = attempts.outcomes(caller)
    if caller.name in ATTEMPTS[attempt]:
        assert outside[attempt] == "came through", "it is no attempt: it does not succeed without a sandbox either"
    assert inside[attempt] == "was held"


# What the caller gives, or is thought to have given.


@pytest.mark.parametrize("number, name", enumerate(["standard input", "standard output", "standard error"]))
def test_a_directory_on_a_standard_descriptor_is_refused(attempts, caller, number, name):
    """From one that is open, «..» leads to the host's root, past every namespace: CVE-2024-21626."""
    copy, secret = attempts.prepare(caller)
    token = (secret / "secret").read_text()
    # What is read goes to a descriptor that is still a pipe.
    read = ["bash", "-c", f"exec 3<&{number} 1>&{2 if number == 1 else 1}; cat /proc/self/fd/3/secret"]

    def with_directory(*command):
        return caller.run("bash", "-c", f'"$@" {number}< {secret}; exit $?', "bash", *command)

    outside = with_directory(*read)
    assert token in outside.stdout + outside.stderr
    inside = with_directory(*caller.command_line(*read, build_dir=copy))
    assert token not in inside.stdout + inside.stderr, "came through"
    assert inside.returncode == 125
    if number != 2:
        assert inside.stderr.startswith(f"nix-build-shell: {name} is a directory")


IN_STANDARD_OUTPUT = ["type into a terminal", "speak to a console", "have the caller's terminal"]


def on_terminal(attempts, caller, *command, after=""):
    with Terminal(caller, "bash", "-c", f'"$@" < /dev/null; echo the end{after}', "bash", *map(str, command)) as terminal:
        return outcomes_in(terminal.wait_for("(?s)(.*)the end")[1].replace("\r", ""))


def test_nothing_is_typed_into_the_terminal_that_is_standard_output(attempts, caller):
    """CVE-2017-5226: else the caller's shell would run it when the sandbox has ended."""
    copy, _ = attempts.prepare(caller)
    command = caller.command_line("/build/attempt", "/build/facts", "/build", *IN_STANDARD_OUTPUT, build_dir=copy)
    inside = on_terminal(attempts, caller, *command)
    assert inside["type into a terminal"] == inside["speak to a console"] == "was held"


def test_the_terminal_that_controls_the_caller_is_not_the_commands(attempts, caller):
    copy, _ = attempts.prepare(caller)
    command = caller.command_line("/build/attempt", "/build/facts", "/build", *IN_STANDARD_OUTPUT, build_dir=copy)
    assert on_terminal(attempts, caller, *command)["have the caller's terminal"] == "was held"
    outside = on_terminal(attempts, caller, copy / "attempt", copy / "facts", copy, "have the caller's terminal")
    assert outside["have the caller's terminal"] == "came through"


# What the kept directory says.


def with_env_vars(caller, **variables):
    """A copy of a kept directory in whose env-vars these variables are, written as they are, in place of others."""
    copy = caller.copy_of_kept()
    file = copy / "env-vars"
    lines = [line for line in file.read_text().splitlines(keepends=True) if not any(f" {name}=" in line for name in variables)]
    file.write_text("".join(lines) + "".join(f"declare -x {name}={value}\n" for name, value in variables.items()))
    return copy


@pytest.mark.parametrize("shell", ["/proc/self/exe", "/proc/1/exe", "/nix/store/../../proc/self/exe", "/bin/sh", "bash"])
def test_a_shell_of_the_builds_that_is_our_own_program_is_refused(caller, shell):
    """Executed in there, it could be opened, and written to when it runs no more: CVE-2019-5736."""
    caller.refused("true", build_dir=with_env_vars(caller, SHELL=f'"{shell}"'), mentions=["SHELL"])


def test_what_is_in_env_vars_is_not_evaluated_outside(caller):
    place = caller.make_directory("place")
    copy = with_env_vars(caller, NOTE=f'"$(echo > {place}/evaluated; echo `echo > {place}/evaluated`)"')
    caller.enter("true", build_dir=copy)
    assert not list(place.iterdir())
    caller.run("bash", "-c", f"source {copy}/env-vars")
    assert list(place.iterdir())


@pytest.mark.parametrize("output", ["/nix/store/../..{}", "/nix/store/00000000000000000000000000000000-x/../../..{}", "{}"])
def test_an_output_that_leads_out_of_the_store_shows_nothing(caller, output):
    place = caller.make_directory("place")
    caller.give_text(place / "secret", "secret\n")
    copy = with_env_vars(caller, out=f'"{output.format(place)}"')
    result = caller.enter("bash", "-c", 'cat "$out/secret" /nix/store/*/secret', build_dir=copy)
    assert "secret\n" not in result.stdout
    assert result.returncode != 0


@pytest.mark.parametrize("target", ["/build/../../outside", "/tmp/../../outside", "../outside", "/", "/nix/store", "/proc/1"])
def test_a_sandbox_path_has_its_place_in_the_sandbox_or_none(caller, target):
    place = caller.make_directory("place")
    caller.give_text(place / "marker", "")
    caller.refused("true", options=["--bind", f"{target}={place}"])
    # Of a setting, what names no place is passed over, and said.
    look = 'for place in / /outside /build/outside "$1"; do if [[ -e $place/marker ]]; then exit 3; fi; done'
    settings = environment_with_nix(caller, sandbox_paths=[f"{target}={place}"])
    result = caller.enter("bash", "-c", look, "bash", target, env=settings)
    assert result.returncode in (0, 125) and str(place) in result.stderr, result


# What is left.


def test_the_cleanup_follows_no_link_out_of_the_scratch_directory(caller):
    precious = caller.make_directory("precious")
    caller.give_text(precious / "file", "precious")
    script = """
        mkdir -p deep/er "$out"
        for place in . deep deep/er "$out" /nix/store; do
            ln -s "$1" "$place/link"; ln -s "$1/file" "$place/other"; ln -s .. "$place/up"
        done
        chmod 0 deep/er; rm -rf greeting; ln -s "$1" greeting
    """
    caller.inside(script, str(precious))
    assert (precious / "file").read_text() == "precious"


def test_with_sudo_only_what_the_user_could_remove_is_removed(session, builds, workspace):
    """He may move what he likes into the copy, which is his, while root removes it."""
    sudoer = Sudoer("sudo", USER, session, builds, workspace)
    his = sudoer.make_directory("his")
    (his / "roots").mkdir()
    (his / "roots" / "file").touch()
    with sudoer.start("bash", "-c", "echo ready; read -r line", as_root=True) as running:
        running.line()
        (scratch,) = scratch_directories(sudoer.tmpdir)
        moved = scratch / "build" / "his"
        his.rename(moved)
        running.say("go on\n")
        assert running.end() == 0
        assert "cannot remove the scratch directory" in running.rest_of_errors()
    assert (moved / "roots" / "file").exists()
    shutil.rmtree(scratch)


def test_a_fork_bomb_ends_with_us(user):
    def few():
        resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))

    bomb = 'trap "" TERM HUP INT; bomb() { bomb & bomb & read -t 1000 < <(:); wait; }; echo ready; bomb 2> /dev/null'
    with user.start("bash", "-c", bomb, preexec_fn=few) as running:
        running.line()
        processes.await_that(lambda: len(processes.of_sandboxes(user.session)) > 100)
        running.kill()
        processes.await_end_of_sandboxes(user.session)
    # What a SIGKILL leaves, the next run removes.
    user.inside("true")
    assert not scratch_directories(user.tmpdir)


def test_a_full_disk_is_as_empty_afterwards_as_before(caller):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=8m,uid={caller.uid}", "none", caller.tmpdir], check=True)
    try:
        before = os.statvfs(caller.tmpdir).f_bfree
        script = "cat /dev/zero > full"
        result = caller.enter("bash", "-c", script)
        assert "No space left on device" in result.stderr
        assert not scratch_directories(caller.tmpdir)
        assert os.statvfs(caller.tmpdir).f_bfree == before
    finally:
        subprocess.run(["umount", caller.tmpdir], check=True)
