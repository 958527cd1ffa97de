"""`nix-build-shell list` and `remove`, and the newest directory where none is named."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from support.building import Building, place
from support.nix import USER
from support.terminal import Terminal

STRANGER = 54322
"""A user who is not the caller and builds for nobody."""


def listed(caller, **how):
    """What the list tells of each directory in the caller's own place for temporary files, by name; the machine may have more."""
    result = caller.run(caller.program, "list", "--json", **how)
    assert result.returncode == 0, result
    everything = json.loads(result.stdout)
    return {Path(build["path"]).name: build for build in everything if Path(build["path"]).is_relative_to(caller.tmpdir)}


def strangers(caller, name="nix-build-greeting-1.0.drv-0"):
    path = place(caller, name)
    os.chown(path, STRANGER, STRANGER)
    return path


# --- The list ----------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_build_is_listed(caller):
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    build = listed(caller)[path.name]
    size = int(subprocess.run(["du", "-s", "-B1", path], check=True, capture_output=True, text=True).stdout.split()[0])
    assert build.pop("derivation").endswith("-greeting-1.0.drv")
    assert abs(build.pop("kept") - path.stat().st_ctime) < 1
    assert build == {
        "path": str(path),
        "name": "greeting-1.0",
        "failed_phase": "checkPhase",
        "exit_status": None,
        "size": size,
        "size_is_complete": True,
        "layout": ".",
        "owner": "root" if caller.is_root else str(caller.uid),
        "state": "kept",
        "readable": True,
        "obstacle": None,
    }


def test_a_build_in_a_directory_below_is_listed(caller):
    build = listed(caller, env={"HOME": str(place(caller, "nix-12-345", nested=True))})["nix-12-345"]
    assert (build["layout"], build["name"], build["failed_phase"]) == ("build", "greeting-1.0", "checkPhase")


def test_the_table_is_for_people_and_the_newest_stands_first(caller):
    older = place(caller, "nix-build-greeting-1.0.drv-0")
    newer = place(caller, "nix-build-two-outputs.drv-0", package="two-outputs")
    os.chmod(newer, 0o755)
    result = caller.run(caller.program, "list")
    assert result.returncode == 0, result
    head, *rows = result.stdout.splitlines()
    assert head.split("  ")[0] == "BUILD" and head.split()[-1] == "DIRECTORY"
    ours = [row.split() for row in rows if str(caller.tmpdir) in row]
    assert [(row[0], row[1], row[-1]) for row in ours] == [
        ("two-outputs", "installPhase", str(newer)),
        ("greeting-1.0", "checkPhase", str(older)),
    ]
    assert "nix-build-shell remove" in result.stderr and result.stderr.count("\n") == 1


def test_what_another_user_has_put_there_is_named_and_not_looked_into(caller):
    path = strangers(caller)
    build = listed(caller)[path.name]
    assert (build["state"], build["owner"], build["name"]) == ("stranger's", str(STRANGER), "greeting-1.0")
    assert (build["readable"], build["size"], build["derivation"]) == (False, 0, None)


def test_a_place_that_anybody_can_write_to_is_not_relied_on(caller):
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    caller.tmpdir.chmod(0o777)
    assert listed(caller)[path.name]["state"] == "stranger's"
    caller.tmpdir.chmod(0o1777)
    assert listed(caller)[path.name]["state"] == "kept"


def test_a_directory_that_nix_still_builds_in_is_not_kept(caller):
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    path.chmod(0o700)
    assert listed(caller)[path.name]["state"] == "unfinished"


def test_links_and_other_names_are_passed_over(caller):
    kept = caller.copy_of_kept(name="elsewhere")
    (caller.tmpdir / "nix-build-link.drv-0").symlink_to(kept)
    (caller.tmpdir / "nix-build-file.drv-0").write_text("")
    place(caller, "copy-of-nix-build-greeting-1.0.drv-0")
    assert listed(caller) == {}


def test_names_cannot_speak_to_a_terminal(caller):
    path = place(caller, "nix-build-evil\x1b[2J.drv-0")
    result = caller.run(caller.program, "list")
    assert "\x1b" not in result.stdout and r"evil\u{1b}[2J" in result.stdout
    assert path.name in listed(caller)


def test_a_daemon_s_directory_is_readable_in_part(user):
    """It belongs to a build user, as what is in it does."""
    kept = user.builds.by_daemon("greeting")
    result = user.run(user.program, "list", "--json", env={"TMPDIR": str(kept.parent)})
    (build,) = [build for build in json.loads(result.stdout) if build["path"] == str(kept)]
    assert build["state"] == "kept" and build["owner"].startswith("nixbld")
    assert build["readable"] == os.access(kept / "env-vars", os.R_OK, effective_ids=False) or not build["readable"]
    assert (build["name"], build["failed_phase"]) == ("greeting-1.0", "checkPhase")


def test_an_empty_list_is_said(caller):
    """Where there is nothing on the whole machine."""
    result = caller.run(caller.program, "list")
    if result.stdout == "":
        assert result.stderr.startswith("nix-build-shell: there are no kept build directories")
    assert result.returncode == 0


# --- The newest --------------------------------------------------------------------------------------------------------


def test_without_a_name_the_newest_is_taken(caller):
    place(caller, "nix-build-greeting-1.0.drv-0")
    newest = place(caller, "nix-build-two-outputs.drv-0", package="two-outputs")
    os.chmod(newest, 0o755)
    strangers(caller, "nix-build-other.drv-0")
    unfinished = place(caller, "nix-build-unfinished.drv-0")
    unfinished.chmod(0o700)
    empty = caller.make_directory(f"{caller.tmpdir.name}/nix-9-9")
    assert empty.is_dir(), "which cannot be opened"
    result = caller.run(caller.program, "-c", "echo in $name; exit 3")
    assert (result.returncode, result.stdout) == (3, "in two-outputs\n"), result
    assert result.stderr == f"nix-build-shell: opening {newest}, kept just now\n"
    phases = caller.run(caller.program, "phases")
    assert phases.returncode == 0 and ["installPhase", "failed"] in [line.split() for line in phases.stdout.splitlines()]


# --- Removal -----------------------------------------------------------------------------------------------------------


def remove(caller, *arguments, **how):
    return caller.run(caller.program, "remove", *map(str, arguments), **how)


def read_only(path):
    for directory, directories, files in os.walk(path, topdown=False):
        for name in [*files, *directories]:
            if not (Path(directory) / name).is_symlink():
                os.chmod(Path(directory) / name, 0o555)


def test_a_directory_is_removed_with_all_that_is_read_only_in_it(caller):
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    precious = caller.make_directory("precious")
    (precious / "file").write_text("still here")
    (path / "greeting" / "link").symlink_to(precious)
    read_only(path)
    path.chmod(0o555)
    result = remove(caller, "--yes", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"removed {path}\n", "")
    assert not path.exists() and (precious / "file").read_text() == "still here"


def test_of_a_name_the_directory_is_told_and_stays(caller):
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    result = remove(caller, "--yes", "greeting")
    assert (result.returncode, result.stdout) == (125, ""), result
    assert f"«nix-build-shell remove {path}»" in result.stderr and result.stderr.count("\n") == 1
    assert path.exists()


def test_either_directory_of_a_later_version_names_both(caller):
    path = place(caller, "nix-12-345", nested=True)
    result = remove(caller, "--yes", path / "build", path)
    assert (result.returncode, result.stdout) == (0, f"removed {path}\n"), result
    assert not path.exists()


def test_without_anybody_to_ask_nothing_is_removed(caller):
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    result = remove(caller, path)
    assert (result.returncode, result.stdout) == (125, "")
    assert "--yes" in result.stderr and result.stderr.count("\n") == 1
    assert (path / "env-vars").exists()


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("Yes", 0), ("n", 1), ("", 1), ("\x04", 1)])
def test_somebody_is_asked(root, answer, status):
    path = place(root, "nix-build-greeting-1.0.drv-0")
    with Terminal(root, root.program, "remove", str(path)) as terminal:
        terminal.wait_for(rf"remove {path} \(\d+ KiB\)\? \[y/N\] ")
        terminal.type(answer if answer == "\x04" else answer + "\n")
        assert terminal.end() == status
    assert path.exists() == (status == 1)


@pytest.mark.parametrize("kind", ["name", "link", "file", "missing", "unfinished", "stranger's", "root directory", "copy"])
def test_nothing_else_is_removed(caller, kind):
    """Nor is a kept directory that is named beside it."""
    kept = place(caller, "nix-build-greeting-1.0.drv-0")
    other = caller.tmpdir / "nix-build-greeting-1.0.drv-1"
    words = "is not called as Nix calls what it keeps"
    if kind == "name":
        other = caller.make_directory("precious")
    elif kind == "copy":
        other = place(caller, "greeting")
    elif kind == "root directory":
        other = Path("/")
    elif kind == "link":
        other.symlink_to(kept)
        words = "is a symbolic link"
    elif kind == "file":
        other.write_text("")
        words = "is not a directory"
    elif kind == "missing":
        words = "cannot look at"
    elif kind == "unfinished":
        place(caller, other.name).chmod(0o700)
        words = "is not kept"
    else:
        strangers(caller, other.name)
        words = f"belongs to the user {STRANGER}"
    result = remove(caller, "--yes", kept, other)
    assert (result.returncode, result.stdout) == (125, ""), result
    assert words in result.stderr and str(other) in result.stderr and result.stderr.count("\n") == 1
    assert (kept / "env-vars").exists() and (kind == "missing" or other.exists())


def test_what_only_root_may_remove_wants_sudo(user, root):
    """A daemon's directory belongs to a build user, in a directory of root's."""
    kept = user.builds.by_daemon("greeting")
    copy = root.tmpdir / kept.name
    subprocess.run(["cp", "-a", kept, copy], check=True)
    result = remove(user, "--yes", copy)
    assert result.returncode == 125 and f"«sudo nix-build-shell remove {copy}»" in result.stderr, result
    assert copy.exists() and stat.S_IMODE(copy.stat().st_mode) == 0o755
    result = remove(user, "--yes", copy, as_root=True, env={"SUDO_UID": str(USER), "SUDO_GID": str(USER)})
    assert (result.returncode, result.stdout) == (0, f"removed {copy}\n"), result
    assert not copy.exists()


def test_what_a_build_has_just_left_is_listed_with_its_status_and_can_be_removed(caller):
    building = Building(caller)
    building.build("fails-early", line="true")
    (name,) = building.kept()
    build = listed(caller)[name]
    assert (build["exit_status"], build["name"], build["failed_phase"]) == (1, "fails-early", None)
    result = remove(caller, "--yes", caller.tmpdir / name)
    assert result.returncode == 0 and building.kept() == []


def told(caller):
    (record,) = Path(caller.environment()["HOME"]).glob("**/nix-build-shell/builds/failures.json")
    return record


def test_what_was_told_of_a_directory_is_not_told_of_another_with_its_number(caller):
    """File systems give the number of what was removed to what is made next."""
    building = Building(caller)
    building.build("fails-early", line="true")
    (name,) = building.kept()
    path = caller.tmpdir / name
    assert listed(caller)[name]["exit_status"] == 1
    number = path.stat().st_ino
    shutil.rmtree(path)
    place(caller, name, package="fails-early")
    record = told(caller)
    text = record.read_text()
    assert str(number) in text
    record.write_text(text.replace(str(number), str(path.stat().st_ino)))
    assert listed(caller)[name]["exit_status"] is None


def test_what_is_removed_is_forgotten(caller):
    building = Building(caller)
    building.build("fails-early", line="true")
    (name,) = building.kept()
    assert str(caller.tmpdir / name) in told(caller).read_text()
    assert remove(caller, "--yes", caller.tmpdir / name).returncode == 0
    assert str(caller.tmpdir / name) not in told(caller).read_text()
