"""README's commands by task, as they are written there: each is run, and what it prints is what README shows."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.session import CHECKOUT

SECTION = (CHECKOUT / "README.md").read_text().split("\n## By task\n")[1].split("\n## ")[0]
TASKS = {task.splitlines()[0]: task for task in SECTION.split("\n### ")[1:]}
# As the preface of the section says. With flakes, since a name such as nixpkgs#strace is one.
SYSTEM = f"{os.uname().machine}-linux"
SETTINGS = """sandbox = true
substitute = false
build-users-group =
keep-failed = true
experimental-features = nix-command flakes
"""


def commands(task):
    """The commands of a task with the lines that each prints."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", TASKS[task], re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def pattern(lines):
    """«…» in a line is whatever stands there, and on a line of its own any number of lines."""
    parts = [r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in lines]
    return re.compile("".join(parts))


@pytest.fixture(scope="module")
def tools(builds):
    """Where README has them collected."""
    tools = Path("/tmp/tools")
    if tools.exists():
        yield
        return
    tools.symlink_to(builds.tools)
    yield
    tools.unlink()


@pytest.fixture
def typed(root, tools, builds):
    """Types a line as README says, but where Nix keeps what fails, and other files of ours, is not for everybody to meet."""
    directory = root.make_directory("typed")
    flake = root.make_directory("nixpkgs")
    builds.by_root("greeting")
    # These builds have strace by themselves, so that it is enough if Nix knows a package of the name.
    shutil.copytree(builds.tools / "busybox", flake / "bin")
    (flake / "flake.nix").write_text(f"""{{ outputs = {{ self }}: {{
      legacyPackages.{SYSTEM}.strace = derivation {{
        name = "strace"; system = "{SYSTEM}";
        builder = "${{./bin}}/busybox"; args = [ "mkdir" (builtins.placeholder "out") ];
      }};
    }}; }}""")
    name, place = {"type": "indirect", "id": "nixpkgs"}, {"type": "path", "path": str(flake)}
    (flake / "registry.json").write_text(json.dumps({"version": 2, "flakes": [{"from": name, "to": place}]}))
    environment = {
        "PATH": f"{Path(root.program).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "NIX_CONFIG": f"{SETTINGS}flake-registry = {flake}/registry.json",
        "TMPDIR": str(directory),
    }

    def moved(text):
        return re.sub(r"/tmp(?=/(?!tools))|(?<=-C )/tmp(?= )", str(directory), text)

    def run(command, lines):
        result = root.run("bash", "-c", f"exec 2>&1; {moved(command)}", env=environment, cwd=CHECKOUT)
        expected = [moved(line) for line in lines]
        told = f"{command}\nprints\n{result.stdout}and not\n" + "\n".join(expected)
        assert pattern(expected).fullmatch(result.stdout), told

    yield run
    subprocess.run(["chmod", "-R", "u+w", directory], check=True)
    shutil.rmtree(directory)


def test_there_is_a_task_for_each_question():
    assert len(TASKS) == 6 and all(commands(task) for task in TASKS)


def test_the_picture_shows_a_whole_session_and_nothing_of_this_machine():
    picture = CHECKOUT / "docs" / "session.svg"
    assert str(picture.relative_to(CHECKOUT)) in SECTION
    assert picture.stat().st_size < 200_000
    # One element for what came at one time in one look; the spaces of a line may be between two.
    shown = "".join("".join(ElementTree.parse(picture).getroot().itertext()).split())
    for words in ["build -- nix-build -A greeting", "failed in checkPhase", "patchShebangs tests", "polite: Hello, Ada!"]:
        assert "".join(words.split()) in shown, words
    assert "/tmp/session" not in shown


@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_there_is_what_happens(task, typed):
    if not any("build -c" in command for command, _ in commands(task)):
        typed("nix-build nix/offline -A greeting 2> /dev/null || true", [])
    for command, lines in commands(task):
        typed(command, lines)
