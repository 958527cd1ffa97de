"""What goes with the program: the manual, the help, colours, and where `make install` puts it all."""

import re
import subprocess

import pytest
from support.session import CHECKOUT
from support.terminal import Terminal

TEXTS = {
    "share/man/man1/nix-build-shell.1": "man",
    "share/bash-completion/completions/nix-build-shell": "complete-bash",
    "share/zsh/site-functions/_nix-build-shell": "complete-zsh",
    "share/fish/vendor_completions.d/nix-build-shell.fish": "complete-fish",
}
DOCUMENTS = ["README.md", "CHANGELOG.md", "LICENSE"]


def make(target, directory, *variables):
    command = ["make", "--no-print-directory", target, f"DESTDIR={directory}", *variables]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)


def files_below(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("prefix", ["/usr/local", "/opt/two words"])
def test_what_is_installed_is_removed_again(user, workspace, prefix):
    """Beside what others have put there."""
    below = workspace / "staged" / prefix.lstrip("/")
    other = below / "share/man/man1/other.1"
    other.parent.mkdir(parents=True)
    other.touch()
    variables = [f"PREFIX={prefix}"] if prefix != "/usr/local" else []
    make("install", workspace / "staged", *variables)
    documents = {f"share/doc/nix-build-shell/{name}" for name in DOCUMENTS}
    assert files_below(below) == {"bin/nix-build-shell", *TEXTS, *documents, "share/man/man1/other.1"}
    modes = {name: (below / name).stat().st_mode & 0o7777 for name in files_below(below)}
    assert modes.pop("bin/nix-build-shell") == 0o755
    assert set(modes.values()) == {0o644}
    for name, text in TEXTS.items():
        assert (below / name).read_text() == user.run(user.program, "--generate", text).stdout
    assert subprocess.run([below / "bin/nix-build-shell", "--version"], check=True).returncode == 0
    make("uninstall", workspace / "staged", *variables)
    assert files_below(below) == {"share/man/man1/other.1"}
    assert not list(workspace.rglob("*nix-build-shell*"))


def test_where_nothing_was_built_nothing_is_installed(workspace):
    checkout = workspace / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    for name in ["Makefile", "scripts/install"]:
        (checkout / name).write_bytes((CHECKOUT / name).read_bytes())
        (checkout / name).chmod(0o755)
    command = ["make", "--no-print-directory", "install", f"DESTDIR={workspace}/staged"]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "«make build» builds it" in result.stderr
    assert not (workspace / "staged").exists()


# --- The manual ------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(user, workspace):
    page = workspace / "nix-build-shell.1"
    page.write_text(user.run(user.program, "--generate", "man").stdout)
    return page


def test_the_manual_is_shown_without_warnings(user, page):
    shown = user.run("man", "--warnings", "--local-file", str(page), env={"LC_ALL": "C.UTF-8", "MANWIDTH": "100"})
    assert (shown.returncode, shown.stderr) == (0, "")
    for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "EXIT STATUS", "ENVIRONMENT", "EXAMPLES"]:
        assert re.search(f"^{heading}$", shown.stdout, re.MULTILINE), heading
    assert "«keeping build directory»" in shown.stdout
    linted = user.run("mandoc", "-T", "lint", "-W", "warning", str(page))
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_manual_tells_of_every_option_in_any_help(user, page):
    def options(*arguments):
        told = user.run(user.program, *arguments, "--help").stdout
        subcommands = re.findall(r"^  ([a-z][a-z-]*)  ", told.split("Options:")[0].split("Arguments:")[0], re.MULTILINE)
        found = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+[a-z0-9])", told, re.MULTILINE))
        return found.union(*[options(*arguments, subcommand) for subcommand in subcommands])

    found = options()
    assert {"--keep-session", "--shell-on-failure", "--json", "--yes"} <= found
    text = page.read_text().replace("\\-", "-")
    assert not {option for option in found if f"\\fB{option}\\fR" not in text}


# --- Help and colours ------------------------------------------------------------------------------------------------


def on_terminal(caller, *arguments, rows=50, columns=80, **environment):
    """What the program shows on a terminal of this size."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", "TERM=xterm-256color", *variables, caller.program, *map(str, arguments)]
    with Terminal(caller, "bash", "-c", 'read -r; "$@"; echo; echo "the end"', "bash", *command) as terminal:
        terminal.resize(rows, columns)
        terminal.type("\n")
        seen = ""
        while not seen.endswith("the end\r\n"):
            seen += terminal.wait_for(r"(?s).+")[0]
        return seen.removeprefix("\r\n").removesuffix("\r\nthe end\r\n")


PLAIN = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("option, height", [("--help", 50), ("-h", 25)])
def test_help_fits_a_screen_and_brief_help_half_of_one(user, option, height):
    lines = PLAIN.sub("", on_terminal(user, option)).removesuffix("\r\n").split("\r\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= 80
    for word in ["Subcommands:", "resume", "--with", "man nix-build-shell" if option == "-h" else "Exit status"]:
        assert word in "\n".join(lines)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["resume", "--help"]])
def test_help_has_colours_only_on_a_terminal_that_wants_them(user, arguments):
    shown = on_terminal(user, *arguments)
    assert "\x1b[" in shown
    plain = user.run(user.program, *arguments).stdout
    assert plain == PLAIN.sub("", shown).replace("\r\n", "\n")
    for environment in [{"NO_COLOR": "1"}, {"TERM": "dumb"}]:
        assert "\x1b" not in on_terminal(user, *arguments, **environment)


def test_what_the_program_says_itself_has_colours_only_on_a_terminal_that_wants_them(user):
    assert "\x1b[31mfailed" in on_terminal(user, "phases", user.kept())
    for arguments in [["phases", user.kept()], ["list"], ["sessions"], ["--dry-run", user.kept()], ["--no-such-option"]]:
        assert "\x1b" not in on_terminal(user, *arguments, NO_COLOR="1").replace("\x1b[?2004", "")
        result = user.run(user.program, *map(str, arguments))
        assert "\x1b" not in result.stdout + result.stderr
