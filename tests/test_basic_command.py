"""A command, its environment and its files: what `nix-build-shell BUILD_DIR COMMAND` is for."""

import os
import re
import signal
import socket
import subprocess

import pytest
from support.confinement import as_caller
from support.processes import await_end, children, first_process
from support.terminal import Terminal

ENTER = 'source /build/env-vars; exec "$@"'

# What Nix gives every builder, as the probes printed it (shared/nix-sandbox); then come the variables of the derivation.
BUILDER_ENVIRONMENT = {
    "HOME": "/homeless-shelter",
    "NIX_BUILD_TOP": "/build",
    "NIX_LOG_FD": "2",
    "NIX_STORE": "/nix/store",
    "PATH": "/path-not-set",
    "PWD": "/build",
    "TEMP": "/build",
    "TEMPDIR": "/build",
    "TERM": "xterm-256color",
    "TMP": "/build",
    "TMPDIR": "/build",
}


def shell_of(kept):
    """The build's shell, as the first line that declares it has it: none of our packages makes that hard."""
    return re.search('^declare -x SHELL="(.*)"$', (kept / "env-vars").read_text(errors="replace"), re.MULTILINE)[1]


def options_for(package, caller):
    """The awkward package has a file that nobody but root may read."""
    return ["--ignore-unreadable"] if package == "awkward-environment" and not caller.is_root else []


# --- The command -----------------------------------------------------------------------------------------------------


def test_the_failure_of_the_build_is_there_again(caller):
    """And so is its success, with what the author of the package would change."""
    result = caller.enter("make", "-C", "greeting", "check")
    assert result.returncode == 2
    assert "tests/is-polite: cannot execute: required file not found" in result.stderr
    assert caller.enter("make", "-C", "greeting", "check", "TEST_SHELL=bash").returncode == 0


def test_exactly_the_shell_with_the_documented_script_is_executed(caller):
    """Watched from outside by root, who sees every program that any of the processes executes."""
    trace = caller.workspace / "trace"
    watch = ["strace", "-f", "-qq", "-v", "-e", "trace=execve", "-e", "signal=none", "-s", "9999", "-o", trace]
    command = caller.command_line("printf", "%s", "two  words")
    result = caller.run(*watch, *as_caller(caller), *command, as_root=True, env={"SECRET": "of the caller"})
    assert result.stdout == "two  words"
    executed = [line.split(" ", 1)[1].strip() for line in trace.read_text().splitlines() if line.endswith(" = 0")]
    shell = shell_of(caller.kept())
    environment = ", ".join(f'"{name}={value}"' for name, value in in_our_order(BUILDER_ENVIRONMENT))
    (first,) = [call for call in executed if call.startswith(f'execve("{shell}"')]
    script = ENTER.replace('"', '\\"')
    assert (
        first == f'execve("{shell}", ["{shell}", "-c", "{script}", "--", "printf", "%s", "two  words"], [{environment}]) = 0'
    )
    after = executed[executed.index(first) + 1 :]
    assert len(after) == 1
    assert re.match(r'execve\("/nix/store/[^"]*/bin/printf", \["printf", "%s", "two  words"\]', after[0])


def in_our_order(environment):
    order = ["PATH", "HOME", "NIX_STORE", "NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD", "NIX_LOG_FD", "TERM"]
    return sorted(environment.items(), key=lambda item: order.index(item[0]))


ARGUMENTS = [
    "two words",
    "",
    "new\nline\n",
    "-v",
    "--dry-run",
    "--",
    "--help",
    "-",
    "*",
    "$HOME",
    "`id`",
    "\\",
    "'\"",
    "\udcff\udcfe",
    " ",
]


def test_arguments_reach_the_command_untouched(caller):
    out = caller.enter("bash", "-c", 'printf "%s\\0" "$@"', "bash", *ARGUMENTS).stdout
    assert out.split("\0")[:-1] == ARGUMENTS


def test_a_command_after_two_dashes_is_taken_as_it_is(caller):
    result = caller.run(caller.program, "--", caller.kept(), "printf", "%s|", "--version", "--")
    assert result.stdout == "--version|--|"


def test_options_of_ours_stand_before_the_directory_and_the_commands_after_it(caller):
    result = caller.enter("bash", "--version", options=["--verbose"])
    assert result.stdout.startswith("GNU bash")


def test_the_command_is_found_by_the_builds_search_path(caller):
    path = caller.enter("bash", "-c", "type -P make").stdout
    assert path.startswith("/nix/store/") and path.endswith("/bin/make\n")


def test_standard_input_output_and_error_are_the_commands(caller):
    result = caller.enter("bash", "-c", "cat; echo problem >&2", input="bytes\0\x01\n")
    assert (result.stdout, result.stderr) == ("bytes\0\x01\n", "problem\n")


def test_much_passes_through_the_pipes_unharmed(caller):
    data = os.urandom(3 << 20)
    assert caller.enter("cat", text=False, input=data).stdout == data


def test_a_closed_output_ends_the_command_with_sigpipe(caller):
    script = '"$@" | head -n 1; echo "${PIPESTATUS[0]}"'
    assert caller.run("bash", "-c", script, "bash", *caller.command_line("yes")).stdout == "y\n141\n"


@pytest.mark.parametrize("status", [0, 1, 42, 125, 126, 127, 200, 255])
def test_the_exit_status_is_the_commands(caller, status):
    result = caller.enter("bash", "-c", f"exit {status}")
    assert (result.returncode, result.stderr) == (status, "")


def test_a_command_that_is_not_there_gives_127_and_one_that_is_no_program_126(caller):
    """As a shell gives them, with the shell's own words."""
    missing = caller.enter("no-such-command")
    assert missing.returncode == 127 and "no-such-command: not found" in missing.stderr
    for command in ["/build/env-vars", "/build"]:
        assert caller.enter(command).returncode == 126


@pytest.mark.parametrize("package", ["greeting", "two-outputs"])
@pytest.mark.parametrize("kind", ["by_root", "by_user"])
def test_whoever_kept_the_directory_whoever_may_read_it_can_enter(caller, builds, package, kind):
    """Nix lets nobody but the build's user read env-vars, so what root kept has to be given to the user, as a copy."""
    kept = getattr(builds, kind)(package)
    if kind == "by_root" and not caller.is_root:
        copy = caller.workspace / "copy"
        subprocess.run(["cp", "-a", kept, copy], check=True)
        subprocess.run(["chown", "-hR", f"{caller.uid}:{caller.uid}", copy], check=True)
        kept = copy
    name = {"greeting": "greeting-1.0", "two-outputs": "two-outputs"}[package]
    assert caller.inside('echo "$name"; stat --format %u:%g /build/env-vars', build_dir=kept) == f"{name}\n1000:100\n"


def test_root_can_enter_what_the_daemon_kept(root, builds):
    assert root.inside('echo "$name"; id -u', build_dir=builds.by_daemon("greeting")) == "greeting-1.0\n1000\n"


def test_through_sudo_the_user_can_enter_what_the_daemon_kept(user, builds):
    """sudo is root with two numbers in the environment. What goes into the sandbox is the user, and never root."""
    how = {"as_root": True, "env": {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}}
    script = """
        cat /proc/self/uid_map /proc/self/gid_map
        id -u; id -g; id -G
        find /build -printf '%U:%G\\n' | sort -u
        echo "$name" > /build/new
        grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status
        exec 2>/dev/null 3>> /proc/sys/kernel/core_pattern || exit 0
        echo "root's rights"
    """
    result = user.enter("bash", "-c", script, build_dir=builds.by_daemon("greeting"), **how)
    uid = str(user.uid)
    words = result.stdout.split()
    assert words[:6] == ["1000", uid, "1", "100", uid, "1"]
    assert words[6:10] == ["1000", "100", "100", "1000:100"]
    assert words[10:] == [word for name in ("Inh", "Prm", "Eff", "Amb") for word in (f"Cap{name}:", "0" * 16)]


def test_through_sudo_files_that_the_command_makes_are_the_users(user, builds):
    how = {"as_root": True, "env": {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}}
    script = "mkdir -p made/inner; chmod 0 made; echo made; read -r line"
    with user.start("bash", "-c", script, build_dir=builds.by_daemon("greeting"), **how) as running:
        running.line()
        for path in ["build", "build/made", "build/env-vars"]:
            status = os.stat(f"/proc/{running.command}/root/{path}")
            assert (status.st_uid, status.st_gid) == (user.uid, user.uid)


# --- The environment -------------------------------------------------------------------------------------------------


def variables(text):
    return dict(entry.split(b"=", 1) for entry in text.split(b"\0")[:-1])


def environment_as_bash_reads_it(kept):
    """What bash makes of env-vars when it starts with what Nix gives a builder."""
    script = 'source "$0"; exec env -0'
    return subprocess.run(
        [shell_of(kept), "-c", script, kept / "env-vars"], env=BUILDER_ENVIRONMENT, cwd="/", capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize("package", ["greeting", "structured", "awkward-environment"])
def test_the_environment_is_the_builds_to_the_byte(caller, package):
    kept = caller.kept(package)
    result = caller.enter("env", "-0", text=False, build_dir=kept, options=options_for(package, caller))
    assert result.returncode == 0, result
    expected = variables(environment_as_bash_reads_it(kept))
    assert variables(result.stdout) == expected
    assert expected[b"NIX_BUILD_TOP"] == b"/build" and len(expected) > 20


AWKWARD = {
    "backslashes": '\\ \\\\ \\n \\" trailing \\',
    "backticks": "`touch /pwned`",
    "carriageReturn": "a\r\nb\r",
    "commandSubstitution": "$(touch /pwned)",
    "control": "before\x01\x07\x08\x0b\x0c\x1b[31m\x7fafter",
    "empty": "",
    "equals": "a=b==c",
    "glob": "* ? [a-z] ~ {a,b} !!",
    "lookalike": 'first line\ndeclare -x SHELL="/evil"\nlast line',
    "lookalikeEnd": '"\ndeclare -x PWNED="1',
    "newlines": "first line\nsecond line\n\nfourth line\n",
    "notUtf8": "not \udcff\udcfe utf-8",
    "quotes": "it's \"quoted\" 'twice'",
    "semicolon": "; touch /pwned; exit 0 #",
    "spaces": "  two  spaces  ",
    "tabs": "\tbefore\tand after\t",
    "utf8": "Grüße, 世界 🎉",
    "variables": "$HOME ${HOME} $$ $! \\$",
}


def test_awkward_values_arrive_as_the_package_has_them(caller):
    kept = caller.kept("awkward-environment")
    out = caller.enter("env", "-0", text=False, build_dir=kept, options=options_for("awkward-environment", caller)).stdout
    arrived = variables(out)
    for name, value in AWKWARD.items():
        assert arrived[name.encode()] == value.encode(errors="surrogateescape"), name
    assert b"PWNED" not in arrived and b"notExported" not in arrived and b"withoutValue" not in arrived


def test_a_value_with_a_command_substitution_stays_text(caller):
    """Nothing evaluates it: not we outside, nor the shell inside, which would be the build's own right."""
    kept = caller.kept("awkward-environment")
    options = options_for("awkward-environment", caller)
    for where in ["/pwned", "pwned"]:
        assert not os.path.lexists(where)
    script = 'ls -d /pwned /build/pwned 2>/dev/null || echo "$commandSubstitution"'
    assert caller.inside(script, build_dir=kept, options=options) == "$(touch /pwned)\n"
    assert not os.path.lexists("/pwned")


def test_env_vars_is_never_evaluated_outside(caller):
    """Commands in the file run in the sandbox, where bash reads it, and nowhere else."""
    kept = caller.copy_of_kept()
    witness = caller.tmpdir / "evaluated"
    with open(kept / "env-vars", "a") as file:
        file.write(f"touch {witness}\ntouch /tmp/evaluated\n$(touch {witness})\n")
    result = caller.enter("ls", "/tmp", build_dir=kept)
    assert result.stdout == "evaluated\n"
    assert not witness.exists()


def test_nothing_of_the_callers_environment_leaks(caller):
    strange = {
        "SECRET": "of the caller",
        "BASH_ENV": "/nowhere",
        "BASH_FUNC_ls%%": "() { echo evil; }",
        "ENV": "/nowhere",
        "GLOBIGNORE": "*",
        "IFS": "/",
        "LC_ALL": "C",
        "LD_LIBRARY_PATH": "/nowhere",
        "LD_PRELOAD": "/nowhere.so",
        "NIX_PATH": "nixpkgs=/nowhere",
        "PS4": "$(touch /pwned)",
        "SHELLOPTS": "xtrace",
        "TZ": "Asia/Tokyo",
        "not an identifier": "x",
    }
    plain, with_more = (caller.enter("env", "-0", env=env) for env in ({}, strange))
    assert plain.returncode == with_more.returncode == 0
    assert with_more.stdout == plain.stdout
    assert with_more.stderr == ""


def test_the_callers_working_directory_does_not_matter(caller):
    assert caller.inside("pwd -P", cwd=caller.make_directory("elsewhere")) == "/build\n"


# --- The kept directory ----------------------------------------------------------------------------------------------


def test_the_directory_may_be_named_in_every_usual_way(caller):
    kept = caller.kept()
    link = caller.workspace / "link"
    link.symlink_to(kept)
    for name, cwd in [
        (f"{kept}/", "/"),
        (link, "/"),
        (f"{link}/", "/"),
        (kept.name, kept.parent),
        (".", kept),
        ("..", kept / "greeting"),
    ]:
        assert caller.inside("ls /build", build_dir=name, cwd=cwd) == "env-vars\ngreeting\n"


@pytest.mark.parametrize("given", [".", "build", "build/"])
def test_the_directory_may_be_in_one_called_build(caller, given):
    """Since Nix 2.26 it is, and people name either."""
    parent = caller.make_directory("nix-build-greeting-1.0.drv-0")
    caller.copy_of_kept(name=f"{parent.name}/build")
    assert caller.inside("ls /build", build_dir=parent / given) == "env-vars\ngreeting\n"


def test_a_source_directory_called_build_is_not_mistaken_for_it(caller):
    kept = caller.copy_of_kept()
    (kept / "build").mkdir()
    (kept / "build" / "env-vars").write_text("not the build's")
    assert caller.inside("ls /build", build_dir=kept) == "build\nenv-vars\ngreeting\n"


LISTING = r"find . -mindepth 1 \( -type d -printf '%P|%y|%m|%T@|%n\0' -o -printf '%P|%y|%m|%T@|%n|%s|%l\0' \)"


def by_name(text):
    return {entry.split("|", 1)[0]: entry for entry in text.split("\0")[:-1]}


def awkward_trees(caller):
    """What is in the awkward kept directory, and in the sandbox made of it: a script's output in both places."""
    kept = caller.kept("awkward-environment")

    def both(script):
        options = options_for("awkward-environment", caller)
        inside = caller.inside(script, build_dir=kept, options=options)
        outside = subprocess.run(
            ["bash", "-c", script], cwd=kept, capture_output=True, text=True, errors="surrogateescape", check=True
        )
        return outside.stdout, inside

    return both


def test_the_copy_has_the_same_names_kinds_modes_times_sizes_and_links(caller):
    """Modification times in nanoseconds; a name may hold any byte but two."""
    before, after = map(by_name, awkward_trees(caller)(LISTING))
    if not caller.is_root:
        unreadable = [name for name in before if name.endswith("/unreadable")]
        assert unreadable
        for name in unreadable:
            del before[name]
    assert len(before) > 25
    assert after == before


def test_the_copy_has_the_same_content(caller):
    before, after = awkward_trees(caller)("find . -type f ! -name unreadable -print0 | sort -z | xargs -0 md5sum")
    assert after == before and len(before) > 500


def test_hard_links_are_still_links_of_one_file(caller):
    script = "find . -type f -name hard-link -o -name plain -type f | sort; stat --format %i plain 2>/dev/null || true"
    both = awkward_trees(caller)
    group = 'for i in $(find . -name plain -printf "%i\\n"); do find . -inum "$i" | sort; done'
    before, after = both(group)
    assert after == before and after.count("hard-link") == 2, script


def test_a_sparse_file_stays_sparse(caller):
    before, after = awkward_trees(caller)("find . -name sparse -printf '%s %b\\n'")
    size, blocks = map(int, after.split())
    assert size == int(before.split()[0]) == 64 << 20
    assert blocks * 512 < 1 << 20


def test_a_fifo_is_a_fifo_and_can_be_used(caller):
    script = 'fifo=$(find /build -type p); (echo through > "$fifo") & cat "$fifo"'
    options = options_for("awkward-environment", caller)
    assert caller.inside(script, build_dir=caller.kept("awkward-environment"), options=options) == "through\n"


def test_a_socket_and_set_id_bits_are_copied_as_cp_does(caller):
    kept = caller.copy_of_kept()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(kept / "socket"))
    caller.give(kept / "socket")
    for name, mode in [("set-user-id", 0o4755), ("set-group-id", 0o2755), ("sticky", 0o1755)]:
        (kept / name).touch()
        caller.give(kept / name)
        (kept / name).chmod(mode)
    kinds = caller.inside("stat --format '%A' socket set-user-id set-group-id sticky", build_dir=kept).split()
    # No program of a build may change ids: Nix forbids those bits, and nothing in the sandbox could use them.
    assert kinds == ["srwxr-xr-x", "-rwxr-xr-x", "-rwxr-xr-x", "-rwxr-xr-t"]


def test_extended_attributes_are_copied(caller):
    kept = caller.copy_of_kept()
    files = ["env-vars", "greeting", "greeting/Makefile"]
    for name in files:
        os.setxattr(kept / name, "user.nix-build-shell", name.encode() + b"\0\xff")
    with caller.start("bash", "-c", "echo started; read -r line", build_dir=kept) as running:
        running.line()
        for name in files:
            path = f"/proc/{running.command}/root/build/{name}"
            assert os.getxattr(path, "user.nix-build-shell") == name.encode() + b"\0\xff"


def test_the_copy_is_read_without_changing_access_times(caller):
    """Where the caller owns the files; others cannot read without it."""
    kept = caller.copy_of_kept()
    file = kept / "greeting" / "Makefile"
    os.utime(file, (0, 0))
    assert caller.inside("stat --format %X greeting/Makefile", build_dir=kept) == "0\n"
    assert file.stat().st_atime == 0


def test_the_directories_are_read_only_or_not_as_they_were(caller):
    script = """
        cd "$(dirname "$(find . -name read-only-directory)")"
        if touch read-only-directory/new 2>/dev/null; then echo written; fi
        chmod u+w read-only-directory; touch read-only-directory/new; ls read-only-directory
    """
    options = options_for("awkward-environment", caller)
    assert caller.inside(script, build_dir=caller.kept("awkward-environment"), options=options).split() == [
        "file",
        "inner",
        "new",
    ]


def test_a_deep_directory_is_copied_under_a_low_limit_of_open_files(caller):
    """The copy opens more than that, while the network namespace is made by a process with the same table."""
    kept = caller.copy_of_kept()
    (kept / "/".join("n" * 600)).mkdir(parents=True)
    limited = ["bash", "-c", 'ulimit -Sn 20; exec taskset --cpu-list 0 "$@"', "bash"]
    for _ in range(8):
        result = caller.run(*limited, *caller.command_line("bash", "-c", "ulimit -Sn", build_dir=kept))
        assert (result.returncode, result.stdout) == (0, "20\n"), result


def test_a_deeply_nested_directory_is_copied(caller):
    kept = caller.copy_of_kept()
    path = "/".join(["a-directory-in-a-directory"] * 100)
    os.makedirs(kept / path)
    (kept / path / "bottom").write_text("reached\n")
    subprocess.run(["chown", "-R", f"{caller.uid}:{caller.uid}", kept], check=True)
    assert caller.inside('cat "$1/bottom"', path, build_dir=kept) == "reached\n"


# --- The interactive shell -------------------------------------------------------------------------------------------


def test_without_a_command_the_builds_shell_reads_standard_input(caller):
    result = caller.enter(input='echo "$name $((6*7)) $PWD"\nexit 3\n')
    assert (result.stdout, result.returncode) == ("greeting-1.0 42 /build\n", 3)


# Not a shell with job control: that one would itself put back what we are to put back. A key that reaches the whole group is not to
# end this shell, whose own affair it is.
AROUND = """
trap : INT
before=$(stty -g)
"$@"
echo "status=$?"
after=$(stty -g)
[[ $after == "$before" ]] && echo "modes are the same"
read -r own foreground < <(ps -o pgid=,tpgid= -p $$)
[[ $own == "$foreground" ]] && echo "in the foreground"
echo the end
"""


# It tells when it is there to read, which the echo of what is typed does not.
READER = "bash -c 'echo ready; exec cat'\n"


def at_a_terminal(caller, *command):
    return Terminal(caller, "bash", "-c", AROUND, "bash", *caller.command_line(*command))


def test_at_a_terminal_the_shell_is_interactive_with_job_control(caller):
    with at_a_terminal(caller) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("echo $((6*7)) $-\n")
        assert "i" in terminal.wait_for(r"\n42 (\S+)\r")[1]
        terminal.type("sleep 1000 &\n")
        terminal.wait_for(r"\[1\] \d+")
        terminal.type("kill %1; wait %1; echo waited=$?\n")
        terminal.wait_for("\nwaited=143")
        terminal.type(READER)
        terminal.wait_for(r"\nready\r")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.type("fg\n")
        terminal.wait_for(r"\nbash -c 'echo ready; exec cat'\r\n")
        terminal.type("it reads\n")
        terminal.wait_for("it reads\r\nit reads")
        terminal.type("\x04exit 3\n")
        terminal.wait_for("status=3")
        terminal.wait_for("the end")
        assert terminal.end() == 0


@pytest.mark.parametrize("last_line, status", [("exit 3", 3), ("kill -KILL $$", 137)])
def test_the_terminal_is_given_back_as_it_was(caller, last_line, status):
    """With the shell's exit status, in the foreground, and with its modes."""
    with at_a_terminal(caller) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("stty -echo -icanon 2>/dev/null; echo set\n")
        terminal.wait_for(r"\nset\r")
        terminal.type(f"{last_line}\n")
        terminal.wait_for(f"status={status}")
        terminal.wait_for("modes are the same")
        terminal.wait_for("in the foreground")
        terminal.wait_for("the end")
        assert terminal.end() == 0


def test_ctrl_c_reaches_a_command_that_left_the_process_group(caller):
    """As timeout(1) does; the kernel signals the terminal's group only."""
    with at_a_terminal(caller, "timeout", "1000", "bash", "-c", "echo ready; exec sleep 1000") as terminal:
        terminal.wait_for(r"ready\r")
        terminal.type("\x03")
        terminal.wait_for(r"status=(124|130)")


def test_ctrl_c_interrupts_the_command_and_not_the_shell(caller):
    with at_a_terminal(caller) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type(READER)
        terminal.wait_for(r"\nready\r")
        terminal.type("\x03")
        terminal.wait_for(r"\$ ")
        terminal.type("echo status-of-cat=$?\n")
        terminal.wait_for("status-of-cat=130")
        terminal.type("exit 0\n")
        terminal.wait_for("status=0")
        assert terminal.end() == 0


def test_ctrl_c_ends_a_command_that_was_given(caller):
    with at_a_terminal(caller, "cat") as terminal:
        terminal.type("it reads\n")
        terminal.wait_for("it reads\r\nit reads")
        terminal.type("\x03")
        terminal.wait_for("status=130")
        terminal.wait_for("modes are the same")
        terminal.wait_for("in the foreground")
        assert terminal.end() == 0


def test_a_signal_that_comes_with_the_end_of_the_command_does_not_end_us(caller):
    """It would leave the scratch directory behind, which the end of every test looks for."""
    with at_a_terminal(caller, "cat") as terminal:
        terminal.type("it reads\n")
        terminal.wait_for("it reads\r\nit reads")
        (program,) = children(terminal.process.pid)
        init = first_process(program)
        (command,) = children(init)
        os.kill(program, signal.SIGSTOP)
        os.kill(command, signal.SIGTERM)
        assert await_end(init)
        os.kill(program, signal.SIGINT)
        os.kill(program, signal.SIGCONT)
        terminal.wait_for("status=143")
        terminal.wait_for("modes are the same")
        assert terminal.end() == 0
