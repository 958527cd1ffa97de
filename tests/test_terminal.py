"""The terminal: the command has one of the sandbox's own, and the caller's is as it was afterwards, however it ends."""

import contextlib
import hashlib
import os
import shlex
import signal
from pathlib import Path

import pytest
from support.confinement import as_caller
from support.faults import numbers
from support.processes import (
    await_end,
    await_end_of_sandboxes,
    await_that,
    children,
    first_process,
    of_sandboxes,
    status,
)
from support.terminal import Terminal

# Tells that it is there to read, which the echo of what is typed does not.
READER = ["bash", "-c", "echo ready; exec cat"]
MANY = 10 << 20


def at_a_terminal(caller, *command, options=(), before=()):
    """The program as the only thing on a terminal."""
    return Terminal(caller, *before, *caller.command_line(*command, options=options))


class Shell(Terminal):
    """Somebody's interactive shell, with job control, from which the program is started."""

    def __init__(self, caller):
        # Without readline, which sets the terminal's modes for each line.
        super().__init__(caller, "bash", "--norc", "--noprofile", "--noediting", "-i")
        self.caller = caller
        self.type("PS1='<$?> '; echo be''gun\n")
        self.wait_for("begun\r")
        self.prompt(0)

    def prompt(self, status=r"\d+"):
        self.wait_for(f"<{status}> ")

    def run(self, *command, options=(), after=""):
        """Types a command line that runs a command in the sandbox."""
        line = shlex.join(self.caller.command_line(*command, options=options))
        self.type(f"{line} {after}\n")
        self.wait_for(r"\n")

    def is_as_it_was(self):
        return self.modes() == self.modes_before

    def program(self):
        """The number of the program, once it is there."""

        def programs():
            return [pid for pid in children(self.process.pid) if status(pid)["Name"] == "nix-build-shell"]

        await_that(programs)
        return programs()[0]

    def await_stop(self):
        await_that(lambda: status(self.program())["State"].startswith("T"))
        assert self.is_as_it_was()

    def continue_in_foreground(self):
        """Types nothing more before the program has the terminal: what the kernel has made of it until then is another thing."""
        self.type("fg\n")
        await_that(lambda: not self.is_as_it_was())

    def leave(self):
        self.type("exit 0\n")
        assert self.end() == 0


def await_program(session, name):
    """Waits until a process of a sandbox has become this program: the shell that it was until then takes signals otherwise."""
    def is_there():
        try:
            return any(status(pid)["Name"] == name for pid in of_sandboxes(session))
        except (FileNotFoundError, ProcessLookupError):
            # One of the run before has ended between the list and the look.
            return False

    await_that(is_there)


def await_reading(pid):
    """Waits until a process waits for input. Of a signal that comes just before, bash thinks only when the input is there."""
    await_that(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[:2] == [str(numbers()["read"]), "0x0"])


def sandbox_of(program):
    """The first process of the sandbox, and the process that runs the command."""
    init = first_process(program)
    command, *_ = children(init)
    return init, command


# --- What the command has --------------------------------------------------------------------------------------------


def test_it_has_a_name_and_belongs_to_the_builds_user(caller):
    script = 'tty; stat --format "%U %g %a %t:%T" "$(tty)"; ls /dev/pts; echo through > /dev/tty; echo "<end>"'
    with at_a_terminal(caller, "bash", "-c", script) as terminal:
        seen = terminal.wait_for("(?s)(.*)<end>")[1]
        assert seen.split() == ["/dev/pts/0", "nixbld", "100", "620", "88:0", "0", "ptmx", "through"]
        assert terminal.end() == 0


def open_files(pid):
    """What a process has open. The loader may just be closing a library."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{descriptor}")


def test_the_callers_terminal_is_on_no_descriptor_of_any_process(caller):
    with at_a_terminal(caller, *READER) as terminal:
        terminal.wait_for("ready")
        name = os.readlink(f"/proc/{terminal.process.pid}/fd/0")
        init, command = sandbox_of(terminal.process.pid)
        for pid in init, command:
            opened = list(open_files(pid))
            assert opened.count("/dev/pts/0") == 3, opened
            # By its file system: the names may be the same.
            devices = {os.stat(f"/proc/{pid}/fd/{fd}").st_dev for fd in range(3)}
            assert os.stat(name).st_dev not in devices
        terminal.type("\x04")
        assert terminal.end() == 0


def test_its_size_is_that_of_the_callers_and_follows_it(caller):
    script = 'trap "stty size; exit 8" WINCH; stty size; while true; do :; done'
    with Shell(caller) as shell:
        shell.resize(33, 77)
        shell.run("bash", "-c", script)
        shell.wait_for("33 77\r")
        shell.resize(60, 200)
        shell.wait_for("60 200\r")
        shell.prompt(8)
        shell.leave()


def test_its_modes_are_those_of_the_callers(caller):
    with Shell(caller) as shell:
        shell.type("stty erase '#' kill '@' -echoctl tostop; stty -g\n")
        outside = shell.wait_for(r"\n([0-9a-f:]{30,})\r")[1]
        shell.prompt(0)
        shell.run("stty", "-g")
        assert shell.wait_for(r"([0-9a-f:]{30,})\r")[1] == outside
        shell.prompt(0)
        shell.leave()


def test_what_the_command_does_to_its_modes_is_undone(caller):
    with Shell(caller) as shell:
        shell.run("bash", "-c", "stty raw -echo; exit 3")
        shell.prompt(3)
        assert shell.is_as_it_was()
        shell.leave()


# --- Keys ------------------------------------------------------------------------------------------------------------


KEYS = pytest.mark.parametrize(("key", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])


@KEYS
def test_a_key_ends_a_program_in_the_shell_and_not_the_shell(caller, key, number):
    with at_a_terminal(caller) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("sleep 1000\n")
        await_program(caller.session, "sleep")
        terminal.type(key)
        terminal.wait_for(r"\$ ")
        terminal.type("echo it was $?\n")
        terminal.wait_for(f"\nit was {128 + number}\r")
        terminal.type("exit 4\n")
        assert terminal.end() == 4


@KEYS
def test_a_key_ends_a_command_and_all_of_its_group(caller, key, number):
    """bash waits for its child, and then ends like it; but SIGQUIT it always ignores."""
    with Shell(caller) as shell:
        shell.run("bash", "-c", "sleep 1000; exit 9")
        await_program(caller.session, "sleep")
        shell.type(key)
        shell.prompt(130 if number == signal.SIGINT else 9)
        assert shell.is_as_it_was()
        shell.leave()


def test_a_job_of_the_shell_is_stopped_and_goes_on(caller):
    with at_a_terminal(caller) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type(shlex.join(READER) + "\n")
        terminal.wait_for(r"\nready\r")
        terminal.type("\x1a")
        terminal.wait_for(r"Stopped(?s:.*)\$ ")
        terminal.type("fg\n")
        terminal.wait_for(r"exec cat'\r")
        terminal.type("it reads\n")
        terminal.wait_for("it reads\r\nit reads")
        terminal.type("\x04exit 3\n")
        assert terminal.end() == 3


def test_a_command_is_stopped_and_we_with_it_and_both_go_on(caller):
    """Twice; with a size that changes meanwhile; and what the caller does to his terminal meanwhile is not undone."""
    with Shell(caller) as shell:
        script = "trap 'echo continued' CONT; echo ready; while read -r line; do echo \"<$line $(stty size)>\"; done"
        shell.run("bash", "-c", script)
        shell.wait_for("ready")
        for rows in [25, 35]:
            shell.type("\x1a")
            shell.wait_for("Stopped")
            shell.prompt(128 + signal.SIGTSTP)
            assert shell.is_as_it_was()
            for pid in shell.program(), *sandbox_of(shell.program())[1:]:
                assert status(pid)["State"].startswith("T")
            shell.resize(rows, 80)
            shell.type("fg\n")
            shell.wait_for("continued")
            shell.type(f"line {rows}\n")
            shell.wait_for(f"<line {rows} {rows} 80>")
        shell.type("\x04")
        shell.prompt(0)
        assert shell.is_as_it_was()
        shell.leave()


def test_a_stopped_command_goes_on_in_the_background_without_the_terminal(caller):
    with Shell(caller) as shell:
        shell.run("bash", "-c", "sleep 1000 & echo ready; wait; wait; echo woken; read -r line; echo \"<$line>\"")
        shell.wait_for("ready")
        shell.type("\x1a")
        shell.prompt(128 + signal.SIGTSTP)
        (sleeper,) = children(sandbox_of(shell.program())[1])
        shell.type("bg\n")
        shell.prompt(0)
        await_that(lambda: not status(sleeper)["State"].startswith("T"))
        shell.type("echo the shell is\" here\"\n")
        shell.wait_for("the shell is here\r")
        shell.prompt(0)
        os.kill(sleeper, signal.SIGTERM)
        shell.wait_for("woken")
        shell.await_stop()
        shell.continue_in_foreground()
        shell.type("given\n")
        shell.wait_for("<given>")
        shell.prompt(0)
        shell.leave()


def test_a_shell_can_be_suspended(caller):
    with Shell(caller) as shell:
        shell.run()
        shell.wait_for(r"\$ ")
        shell.type("suspend\n")
        shell.wait_for("Stopped")
        shell.prompt()
        assert shell.is_as_it_was()
        shell.continue_in_foreground()
        shell.type("exit 6\n")
        shell.prompt(6)
        shell.leave()


def test_a_stop_that_comes_from_outside_is_passed_on(caller):
    with Shell(caller) as shell:
        shell.run(*READER)
        shell.wait_for("ready")
        os.kill(shell.program(), signal.SIGTSTP)
        shell.wait_for("Stopped")
        shell.prompt(128 + signal.SIGTSTP)
        assert shell.is_as_it_was()
        shell.continue_in_foreground()
        shell.type("it reads\n")
        shell.wait_for("it reads\r\nit reads")
        shell.type("\x04")
        shell.prompt(0)
        shell.leave()


def test_one_that_nobody_could_continue_is_not_stopped(caller):
    """As a program outside, whose process group has no shell above it."""
    with at_a_terminal(caller, *READER) as terminal:
        terminal.wait_for("ready")
        terminal.type("\x1a")
        terminal.type("it reads\n")
        terminal.wait_for("it reads\r\nit reads")
        terminal.type("\x04")
        assert terminal.end() == 0


# --- In the background -----------------------------------------------------------------------------------------------


def test_in_the_background_it_prints_and_leaves_the_terminal_alone(caller):
    with Shell(caller) as shell:
        shell.run("bash", "-c", "echo printed; sleep 1000", after="&")
        shell.wait_for("printed")
        assert shell.is_as_it_was()
        shell.type("echo the shell is\" here\"\n")
        shell.wait_for("the shell is here\r")
        shell.type("kill %1; wait %1; echo it was $?\n")
        shell.wait_for("\nit was 143\r")
        assert shell.is_as_it_was()
        shell.leave()


@pytest.mark.parametrize(
    ("command", "answer"), [(READER, "reads\r\necho it"), ([], r"\nit 42 reads\r\n.*\$ ")], ids=["reader", "shell"]
)
def test_in_the_background_it_is_stopped_when_it_wants_to_read(caller, command, answer):
    with Shell(caller) as shell:
        shell.run(*command, after="&")
        shell.prompt(0)
        shell.await_stop()
        shell.type("jobs\n")
        shell.wait_for(r"Stopped")
        shell.continue_in_foreground()
        shell.type("echo it $((6*7)) reads\n")
        shell.wait_for(answer)
        shell.type("\x04")
        shell.prompt(0)
        assert shell.is_as_it_was()
        shell.leave()


def test_from_the_background_it_is_brought_to_the_foreground_while_it_runs(caller):
    """The shell tells nobody of it: it shows when the command reads."""
    with Shell(caller) as shell:
        shell.run("bash", "-c", "sleep 1000 & echo ready; wait; read -r line; echo \"<$line>\"", after="&")
        shell.wait_for("ready")
        shell.type("fg\n")
        # On the master it is the group that has the terminal, whoever asks.
        await_that(lambda: os.tcgetpgrp(shell.ours) == os.getpgid(shell.program()))
        (sleeper,) = children(sandbox_of(shell.program())[1])
        os.kill(sleeper, signal.SIGTERM)
        await_that(lambda: not shell.is_as_it_was())
        shell.type("typed\n")
        shell.wait_for("<typed>")
        shell.prompt(0)
        assert shell.is_as_it_was()
        shell.leave()


# --- Beside other files ----------------------------------------------------------------------------------------------


def test_an_output_that_is_a_pipe_stays_one(caller):
    script = "tty; test -t 0 && echo yes; test -t 1 || echo no; test -t 2 && echo yes; readlink /proc/self/fd/1"
    with Shell(caller) as shell:
        shell.run("bash", "-c", script, after="| tr -c 'a-z0-9/\\n' +")
        shell.wait_for(r"/dev/pts/0\r\nyes\r\nno\r\nyes\r\npipe++\d+\+\r".replace("++", r"\+\+"))
        shell.prompt(0)
        assert shell.is_as_it_was()
        shell.leave()


def test_beside_a_pager_the_keys_are_the_pagers(caller):
    """Until the command wants to read, and it does not."""
    pager = "read -r first; read -r key < /dev/tty; echo \"$first and $key\"; cat"
    with Shell(caller) as shell:
        shell.run("bash", "-c", "echo first; sleep 1000", after=f"| bash -c {shlex.quote(pager)}")
        await_program(caller.session, "sleep")
        assert shell.is_as_it_was()
        shell.type("key\n")
        shell.wait_for("first and key")
        # Both ends of the pipeline get it, from the kernel the one and from us the other.
        shell.type("\x03")
        shell.prompt(130)
        assert not of_sandboxes(caller.session)
        shell.leave()


def test_beside_a_pipe_a_command_that_reads_has_the_terminal(caller):
    with Shell(caller) as shell:
        shell.run("bash", "-c", "read -r -p 'who? ' name; echo \"<$name>\"", after="| cat")
        shell.wait_for(r"who\? ")
        await_that(lambda: not shell.is_as_it_was())
        shell.type("me\n")
        shell.wait_for("<me>")
        shell.prompt(0)
        assert shell.is_as_it_was()
        shell.leave()


def test_a_pipeline_is_stopped_as_a_whole(caller):
    with Shell(caller) as shell:
        shell.run("bash", "-c", "read -r line; echo \"<$line>\"; read -r line; echo \"<$line>\"", after="| cat")
        shell.type("one\n")
        shell.wait_for("<one>")
        shell.type("\x1a")
        shell.wait_for("Stopped")
        shell.prompt()
        assert shell.is_as_it_was()
        shell.continue_in_foreground()
        shell.type("two\n")
        shell.wait_for("<two>")
        shell.prompt(0)
        shell.leave()


def test_without_a_terminal_on_standard_input_there_is_none(caller):
    script = "test -t 0 || echo no; test -t 1 && echo yes; ls /dev/pts; tty || true; echo '<end>'"
    with Shell(caller) as shell:
        shell.run("bash", "-c", script, after="< /dev/null")
        seen = shell.wait_for("(?s)(.*)<end>")[1]
        assert seen.split() == ["no", "yes", "ptmx", "not", "a", "tty"]
        shell.prompt(0)
        assert shell.is_as_it_was()
        shell.leave()


@KEYS
def test_a_key_reaches_all_of_a_command_that_has_no_terminal(caller, key, number):
    """It is in no process group of the caller's, so we pass it on."""
    name = signal.Signals(number).name
    below = f"trap 'echo below; exit 3' {name}; echo rea''dy; while true; do :; done"
    script = f"trap 'echo above; exit 9' {name}; bash -c {shlex.quote(below)}; exit 8"
    with Shell(caller) as shell:
        shell.run("bash", "-c", script, after="< /dev/null")
        shell.wait_for("ready")
        shell.type(key)
        shell.wait_for("below")
        shell.wait_for("above")
        shell.prompt(9)
        shell.leave()


def test_a_command_that_has_no_terminal_is_stopped_and_continued_with_us(caller):
    with Shell(caller) as shell:
        shell.run("bash", "-c", "echo rea''dy; while true; do :; done", after="< /dev/null")
        shell.wait_for("ready")
        command = number_of_command(shell)
        shell.type("\x1a")
        shell.await_stop()
        await_that(lambda: status(command)["State"].startswith("T"))
        shell.prompt(148)
        shell.type("fg\n")
        await_that(lambda: status(command)["State"].startswith("R"))
        shell.type("\x03")
        shell.prompt(130)
        shell.leave()


def number_of_command(shell):
    """The number of the process that runs the command."""
    (command,) = children(first_process(shell.program()))
    return command


def test_without_a_terminal_it_costs_one_system_call(caller):
    trace = caller.workspace / "trace"
    watch = ["strace", "-f", "-qq", "-e", "trace=ioctl,clone3,openat", "-o", trace]
    # What Nix was asked is remembered: its processes are in the first run only.
    assert caller.enter("true").returncode == 0
    result = caller.run(*watch, *as_caller(caller), *caller.command_line("true"), as_root=True)
    assert result.returncode == 0, result
    calls = trace.read_text()
    assert calls.count("TIOCGDEV") == 1
    assert "/dev/pts/ptmx" not in calls
    # The forerunner, its helper, the sandbox's first process, and the command.
    assert calls.count("clone3(") == 4


# --- Much ------------------------------------------------------------------------------------------------------------


def test_10_mib_go_in_unharmed(caller):
    data = os.urandom(MANY)
    script = 'stty raw -echo; echo "ready"; head -c "$1" | sha256sum; stty sane'
    with at_a_terminal(caller, "bash", "-c", script, "bash", str(MANY)) as terminal:
        terminal.wait_for("ready\n")
        # What comes out is the sum alone.
        seen, written = "", 0
        while written < len(data):
            try:
                written += os.write(terminal.ours, data[written : written + (1 << 16)])
            except BlockingIOError:
                os.sched_yield()
        seen = terminal.wait_for("[0-9a-f]{64}")[0]
        assert seen == hashlib.sha256(data).hexdigest()
        assert terminal.end() == 0


def test_10_mib_come_out_unharmed(caller):
    script = 'stty raw -echo; head -c "$1" /dev/urandom > bytes; sha256sum < bytes; head -c 1 > /dev/null; cat bytes'
    with at_a_terminal(caller, "bash", "-c", script, "bash", str(MANY)) as terminal:
        expected = terminal.wait_for("([0-9a-f]{64})  -\n")[1]
        assert hashlib.sha256(terminal.pass_through(b"x", MANY)).hexdigest() == expected
        assert terminal.end() == 0


def test_10_mib_go_in_and_come_out_at_the_same_time(caller):
    data = os.urandom(MANY)
    with at_a_terminal(caller, "bash", "-c", 'stty raw -echo; echo ready; head -c "$1"', "bash", str(MANY)) as terminal:
        terminal.wait_for("ready\n")
        assert terminal.pass_through(data) == data
        assert terminal.end() == 0


def test_what_is_written_last_is_not_lost(caller):
    """Though nobody reads it before the command has ended."""
    script = 'stty raw; head -c 50000 /dev/zero | tr "\\0" x; echo "<end>"'
    with at_a_terminal(caller, "bash", "-c", script) as terminal:
        assert terminal.wait_for("(x*)<end>")[1] == "x" * 50000
        assert terminal.end() == 0


# --- However it ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["no-such-command"], ["bash", "-c", "stty raw; kill -KILL $$"], ["true"]])
def test_the_terminal_is_as_it_was_when_the_command_ends(caller, command):
    with Shell(caller) as shell:
        shell.run(*command)
        shell.prompt()
        assert shell.is_as_it_was()
        assert not of_sandboxes(caller.session)
        shell.leave()


@pytest.mark.parametrize("victim", ["first process", "command"])
def test_it_is_as_it_was_when_a_process_of_the_sandbox_is_killed(caller, victim):
    with Shell(caller) as shell:
        shell.run(*READER)
        shell.wait_for("ready")
        init, command = sandbox_of(shell.program())
        os.kill(init if victim == "first process" else command, signal.SIGKILL)
        shell.prompt(128 + signal.SIGKILL)
        assert shell.is_as_it_was()
        assert not of_sandboxes(caller.session)
        shell.leave()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGALRM])
@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["alone", "with the group"])
def test_it_is_as_it_was_when_we_are_killed(caller, number, kill):
    """There is no shell here that would put it back; and a group's end is not the end of the process that does it."""
    with at_a_terminal(caller, *READER) as terminal:
        terminal.wait_for("ready")
        assert terminal.modes() != terminal.modes_before
        everyone = of_sandboxes(caller.session)
        # We, who puts it back, the first process and the command.
        assert len(everyone) == 4
        kill(terminal.process.pid, number)
        assert terminal.end() == -number
        for pid in everyone:
            assert await_end(pid)
        assert terminal.modes() == terminal.modes_before
    assert caller.enter("true").returncode == 0


def test_whoever_has_the_terminal_when_we_are_killed_while_we_are_stopped_keeps_it(caller):
    with Shell(caller) as shell:
        shell.run(*READER)
        shell.wait_for("ready")
        shell.type("\x1a")
        shell.prompt(128 + signal.SIGTSTP)
        program = shell.program()
        shell.type("stty raw -echo; echo mine; read -r line; stty sane\n")
        shell.wait_for("mine\n")
        modes = shell.modes()
        os.kill(program, signal.SIGKILL)
        await_end(program)
        await_end_of_sandboxes(caller.session)
        assert shell.modes() == modes
        shell.type("\n")
        shell.prompt()
        shell.leave()
    assert caller.enter("true").returncode == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_sent_to_us_reaches_the_command(caller, name):
    number = getattr(signal, name)
    with Shell(caller) as shell:
        shell.run("bash", "-c", f"trap 'echo handled; exit 9' {name}; echo ready; while true; do :; done")
        shell.wait_for("ready")
        os.kill(shell.program(), number)
        shell.wait_for("handled")
        shell.prompt(9)
        shell.run("sleep", "1000")
        await_program(caller.session, "sleep")
        os.kill(shell.program(), number)
        shell.prompt(128 + number)
        assert shell.is_as_it_was()
        shell.leave()


@pytest.mark.parametrize("ignoring", [False, True], ids=["told by a signal", "told by nobody"])
def test_when_the_terminal_hangs_up_the_session_ends(caller, ignoring):
    """Whoever is told of it: without a SIGHUP to us, the command's terminal hangs up as the caller's did."""
    around = ["bash", "-c", "trap '' HUP; \"$@\"; exit $?", "bash"] if ignoring else []
    with at_a_terminal(caller, *READER, before=around) as terminal:
        terminal.wait_for("ready")
        everyone = of_sandboxes(caller.session)
        assert len(everyone) >= 4
        terminal.hang_up()
        for pid in everyone:
            assert await_end(pid)
        # With which status, is chance: the end of its input may reach cat before the signal does.
        terminal.end()


# --- As PID 1 --------------------------------------------------------------------------------------------------------


def test_the_command_can_be_pid_1(caller):
    out = caller.inside("echo $$; ps -e -o pid=,comm= | head -1; ls /proc/self/fd | wc -l", options=["--as-pid-1"])
    assert out.split() == ["1", "1", "bash", "4"]


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_status_of_pid_1_is_ours(caller, code):
    how = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    result = caller.enter("bash", "-c", f"sleep 1000 & exit {code}", options=["--as-pid-1"], **how)
    assert (result.returncode, result.stderr) == (code, "")


def test_signals_reach_pid_1_if_it_has_handlers(caller):
    script = "trap 'echo handled; exit 9' TERM; echo ready; while true; do :; done"
    with caller.start("bash", "-c", script, options=["--as-pid-1"]) as running:
        assert running.line() == "ready"
        # Without a handler: the kernel keeps it from the first process.
        running.signal(signal.SIGUSR1)
        running.signal(signal.SIGTERM)
        assert running.line() == "handled"
        assert running.end() == 9


def test_a_signal_that_ends_pid_1_is_told(caller):
    with caller.start("bash", "-c", "echo ready; while true; do :; done", options=["--as-pid-1"]) as running:
        assert running.line() == "ready"
        os.kill(running.init, signal.SIGKILL)
        assert running.end() == 128 + signal.SIGKILL


def test_when_we_are_killed_pid_1_dies(caller):
    with caller.start("bash", "-c", "sleep 1000 & echo ready; wait", options=["--as-pid-1"]) as running:
        assert running.line() == "ready"
        everyone = of_sandboxes(caller.session)
        assert len(everyone) >= 3
        running.kill()
        for pid in everyone:
            assert await_end(pid)
    assert caller.enter("true").returncode == 0


def test_pid_1_has_a_terminal_too(caller):
    script = "trap 'echo interrupted' INT; tty; ps -o sid=,pgid=,tpgid= -p 1; stty size; read -r line; echo \"<$line>\"; exit 7"
    with Shell(caller) as shell:
        shell.resize(22, 66)
        shell.run("bash", "-c", script, options=["--as-pid-1"])
        shell.wait_for(r"/dev/pts/0\r\n *1 +1 +1\r\n22 66\r")
        await_reading(first_process(shell.program()))
        shell.type("\x03")
        shell.wait_for("interrupted")
        shell.type("typed\n")
        shell.wait_for("<typed>")
        shell.prompt(7)
        assert shell.is_as_it_was()
        shell.leave()


def test_a_shell_that_is_pid_1_has_job_control(caller):
    with at_a_terminal(caller, options=["--as-pid-1"]) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type(shlex.join(READER) + "\n")
        terminal.wait_for(r"\nready\r")
        terminal.type("\x1a")
        terminal.wait_for(r"Stopped(?s:.*)\$ ")
        terminal.type("fg\n")
        terminal.wait_for(r"exec cat'\r")
        terminal.type("it reads\n")
        terminal.wait_for("reads\r\nit reads")
        terminal.type("\x03")
        terminal.wait_for(r"\$ ")
        terminal.type("exit 5\n")
        assert terminal.end() == 5
