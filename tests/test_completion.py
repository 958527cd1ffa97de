"""Completion, as bash, zsh and fish themselves do it, with the scripts that the program makes."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.terminal import Terminal

NIX_NAME = "nix-build-greeting-1.0.drv-0"
SUBCOMMANDS = {"build", "list", "phases", "remove", "resume", "sessions"}
STDENV_PHASES = ["unpackPhase", "patchPhase", "configurePhase", "buildPhase", "checkPhase", "installPhase", "fixupPhase"]

# What bash does at the tabulator key: it calls the function that the script has named, with these variables.
BASH = """
source "$SCRIPT"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
_clap_complete_nix_build_shell nix-build-shell "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

# The start-up file of a zsh that writes down what is offered, and says when that is all.
ZSHRC = """
PROMPT='ready> '
zstyle ':completion:*' list-prompt ''
fpath=($DIRECTORY $fpath)
autoload -Uz compinit
compinit -u -d $DIRECTORY/dump
compadd() {
    # To fill an array of the caller's is not to offer something.
    if [[ ${@[(I)-[OAD]]} -eq 0 ]]; then
        local -a found
        builtin compadd -O found "$@"
        print -rl -- "${found[@]}" >> $DIRECTORY/answer
    fi
    builtin compadd "$@"
}
show-completions() { : > $DIRECTORY/answer; zle list-choices; print -r -- "completed" > /dev/tty }
zle -N show-completions
bindkey '^T' show-completions
"""


class Shell:
    """A shell that completes what this caller has typed."""

    def __init__(self, name, caller):
        self.name, self.caller = name, caller
        self.directory = caller.make_directory(f"completion-{name}")
        script = caller.run(caller.program, "--generate", f"complete-{name}")
        assert (script.returncode, script.stderr) == (0, ""), script
        self.script = self.directory / ("_nix-build-shell" if name == "zsh" else f"nix-build-shell.{name}")
        self.script.write_text(script.stdout)

    def complete(self, *words, cwd="/", **environment):
        """The candidates for the last of these words after the program's name, in the shell's order."""
        words = ["nix-build-shell", *map(str, words)]
        environment |= {"PATH": f"{Path(self.caller.program).parent}:/usr/bin:/bin", "SCRIPT": str(self.script)}
        line = " ".join(shlex.quote(word) if word else "" for word in words)
        if self.name == "bash":
            command = ["bash", "--norc", "-c", BASH, "bash", *words]
        elif self.name == "fish":
            # Not one that may be installed, and nothing of the user's.
            asked = "complete -e nix-build-shell; source $SCRIPT; complete -C $argv[1]"
            command = ["fish", "--no-config", "-c", asked, line]
        else:
            return self.complete_in_zsh(line, cwd, environment)
        result = self.caller.run(*command, env=environment, cwd=cwd)
        assert result.returncode == 0, result
        assert result.stderr == "", result
        return [line.split("\t")[0] for line in result.stdout.splitlines() if line]

    def complete_in_zsh(self, line, cwd, environment):
        """It completes only for somebody who sits at a terminal."""
        answer = self.directory / "answer"
        (self.directory / ".zshrc").write_text(ZSHRC)
        environment |= {"ZDOTDIR": str(self.directory), "DIRECTORY": str(self.directory)}
        variables = [f"{name}={value}" for name, value in environment.items()]
        with Terminal(self.caller, "env", f"--chdir={cwd}", *variables, "zsh", "-i") as terminal:
            terminal.wait_for("ready> ")
            terminal.type(line + "\x14")
            terminal.wait_for("completed")
            terminal.type("\x15exit\n")
            terminal.end()
        return [word for word in answer.read_text().splitlines() if word]


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request, user):
    return Shell(request.param, user)


@pytest.fixture
def kept(user):
    """A kept directory in this caller's directory for temporary files, beside other things."""
    directory = user.tmpdir / NIX_NAME
    subprocess.run(["cp", "-a", user.kept(), directory], check=True)
    (user.tmpdir / "something-else").mkdir()
    (user.tmpdir / "nix-build-file.drv-0").touch()
    yield directory
    for path in user.tmpdir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_build_is_completed_to_kept_directories_and_subcommands(shell, kept):
    found = shell.complete("")
    assert str(kept) in found
    assert SUBCOMMANDS <= set(found)
    assert not [word for word in found if "something-else" in word or "file.drv" in word or word.startswith("-")], found


def test_a_path_is_completed_only_to_what_nix_has_kept(shell, kept, user):
    assert shell.complete(f"{user.tmpdir}/") == [str(kept)]
    assert shell.complete("remove", f"{user.tmpdir}/n") == [str(kept)]
    assert shell.complete("resume", "--network", f"{user.tmpdir}/n") == [str(kept)]
    assert shell.complete("./n", cwd=user.tmpdir) == [f"./{NIX_NAME}"]


def test_where_nothing_is_kept_any_directory_can_be_reached(shell, user):
    (user.workspace / "elsewhere").mkdir()
    (word,) = shell.complete(f"{user.workspace}/else")
    assert word.rstrip("/") == str(user.workspace / "elsewhere")


def test_a_build_is_completed_to_its_name(shell, kept):
    assert "greeting-1.0" in shell.complete("gree")
    # It is not a thing to be removed.
    assert "greeting-1.0" not in shell.complete("remove", "gree")


def test_options_are_completed_and_their_values(shell):
    assert shell.complete("--keep-s") == ["--keep-session"]
    assert shell.complete("resume", "--shell-on") == ["--shell-on-failure"]
    assert sorted(shell.complete("--store", "")) == ["closure", "full"]
    assert sorted(shell.complete("--like", "")) == ["multi-user", "single-user"]


def test_every_option_in_the_help_is_completed(shell, user):
    told = user.run(user.program, "--help").stdout
    options = {word.rstrip(",") for line in told.splitlines() for word in line.split()[:2] if word.startswith("--")}
    assert "--bind-rw" in options
    missing = options - set(shell.complete("--"))
    assert not missing


def test_phases_are_completed_of_the_build_or_of_stdenv(shell, kept):
    assert shell.complete("resume", "--from", "bu") == ["buildPhase"]
    assert "distPhase" in shell.complete("resume", "--only", "")
    assert shell.complete("resume", kept, "--from", "") == STDENV_PHASES


def test_sessions_are_completed_by_name(shell, user):
    state = user.make_directory("state")
    try:
        for name in ["polite", "rude"]:
            assert user.enter("true", options=["--keep-session", name], env={"XDG_STATE_HOME": str(state)}).returncode == 0
        for action in ["enter", "remove"]:
            assert sorted(shell.complete("sessions", action, "", XDG_STATE_HOME=str(state))) == ["polite", "rude"]
        assert shell.complete("sessions", "enter", "po", XDG_STATE_HOME=str(state)) == ["polite"]
        # A name for a new one is not theirs.
        assert not {"polite", "rude"} & set(shell.complete("--keep-session", "", XDG_STATE_HOME=str(state)))
    finally:
        for name in ["polite", "rude"]:
            user.run(user.program, "sessions", "remove", name, env={"XDG_STATE_HOME": str(state)})


def test_a_command_is_completed_to_what_the_build_had(shell, kept):
    assert shell.complete(kept, "mak") == ["make"]
    (word,) = shell.complete(kept, "make", "-C", "gre")
    assert word.rstrip("/") == "greeting"
    # What builds is one of this machine's.
    assert shell.complete("build", "--", "mandoc") == ["mandoc"]
    # Behind the build there are no subcommands any more.
    assert shell.complete(kept, "phas") == []


def test_control_characters_in_a_name_are_not_shown(user):
    shell = Shell("fish", user)
    directory = user.tmpdir / "nix-1-2"
    directory.mkdir()
    (directory / "env-vars").write_text("declare -x name=$'a\\E[31mred'\ndeclare -x out=\"/nix/store/x\"\n")
    subprocess.run(["chown", "-R", f"{user.uid}", directory], check=True)
    line = f"nix-build-shell {user.tmpdir}/"
    path = {"PATH": f"{Path(user.program).parent}:/usr/bin:/bin"}
    shown = user.run("fish", "--no-config", "-c", f"source {shell.script}; complete -C '{line}'", env=path)
    shutil.rmtree(directory)
    assert shown.stdout.startswith(f"{directory}\ta[31mred, ")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--generate"], "man, complete-bash"),
        (["--generate", "complete-tcsh"], "complete-tcsh"),
        (["--generate", "man", "more"], "one word"),
    ],
)
def test_a_text_that_there_is_not_is_explained(user, arguments, words):
    result = user.run(user.program, *arguments)
    assert (result.returncode, result.stdout) == (125, "")
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_a_shell_that_is_not_known_is_explained(user):
    for shell, arguments in [("tcsh", ["--", "nix-build-shell", ""]), ("bash", [])]:
        result = user.run(user.program, *arguments, env={"NIX_BUILD_SHELL_COMPLETE": shell})
        assert (result.returncode, result.stdout) == (125, "")
        assert "NIX_BUILD_SHELL_COMPLETE" in result.stderr and result.stderr.count("\n") == 1
