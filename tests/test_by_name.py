"""A build that is named by what it was to make."""

import subprocess

import pytest
from support.building import Building, place, real_nix
from support.terminal import Terminal

OPENS = "echo in $name; exit 3"


@pytest.fixture
def building(caller):
    return Building(caller)


def opens(caller, *arguments, **how):
    """Opens what the arguments name, which has to be the build of `greeting`."""
    result = caller.run(caller.program, "-c", OPENS, *map(str, arguments), **how)
    assert (result.returncode, result.stdout) == (3, "in greeting-1.0\n"), result
    return result


def is_missing(caller, *arguments, command, **how):
    result = caller.run(caller.program, *map(str, arguments), **how)
    assert (result.returncode, result.stdout) == (125, ""), result
    assert f"«nix-build-shell build -- {command}»" in result.stderr.splitlines()[-1], result.stderr
    return result


def derivation(caller, package="greeting"):
    return caller.builds.derivation(caller.builds.by_root(package))


def output(caller, package="greeting"):
    query = ["nix-store", "--query", "--outputs", derivation(caller, package)]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]


@pytest.mark.parametrize("name", ["greeting", "greeting-1.0"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_name_finds_its_directory(caller, name, nested):
    path = place(caller, "nix-12-345" if nested else "nix-build-greeting-1.0.drv-0", nested=nested)
    result = opens(caller, name)
    assert result.stderr == f"nix-build-shell: opening {path}, kept just now\n"


def test_phases_and_resume_take_a_name(caller):
    place(caller, "nix-build-greeting-1.0.drv-0")
    phases = caller.run(caller.program, "phases", "greeting")
    assert phases.returncode == 0 and phases.stdout.startswith("unpackPhase")
    resumed = caller.run(caller.program, "resume", "greeting")
    assert resumed.returncode == 2 and "Error 127" in resumed.stdout + resumed.stderr


def test_a_derivation_finds_its_directory_or_is_entered_before_it_is_built(caller):
    path = derivation(caller)
    before = caller.run(caller.program, "-c", "ls; exit 3", str(path), env={"TMPDIR": str(caller.make_directory("no-kept"))})
    kept = place(caller, "nix-build-greeting-1.0.drv-0")
    result = opens(caller, path)
    assert result.stderr == f"nix-build-shell: opening {kept}, kept just now\n"
    fresh = caller.run(caller.program, "--fresh", "-c", "ls; exit 3", str(path))
    assert (fresh.returncode, fresh.stdout) == (3, "")
    # The machine may have one that is not ours.
    assert before.returncode == 3 and (before.stdout == "" or "opening" in before.stderr)


def test_an_output_finds_its_directory(caller):
    place(caller, "nix-build-greeting-1.0.drv-0")
    opens(caller, output(caller))
    opens(caller, output(caller) + "/bin/greeting")
    link = caller.workspace / "result"
    link.symlink_to(derivation(caller, "two-outputs"))
    place(caller, "nix-build-two-outputs.drv-0", package="two-outputs")
    result = caller.run(caller.program, "-c", "echo in $name", str(link))
    assert result.stdout == "in two-outputs\n", result


def test_of_an_output_without_a_directory_the_derivation_is_told(caller):
    path = derivation(caller, "fails-in-setup")
    is_missing(caller, output(caller, "fails-in-setup"), command=f"nix-store --realise {path}")


def test_an_attribute_finds_its_directory(building):
    caller = building.caller
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    file = building.expression("packages", name="default.nix")
    env = {"USER": "tester", **_store(building)}
    for arguments, cwd in ((["-A", "greeting"], caller.workspace), (["-A", "greeting", file], "/")):
        result = opens(caller, *arguments, cwd=cwd, env=env)
        assert result.stderr == f"nix-build-shell: opening {path}, kept just now\n"
    command = f"nix-build {file} -A odd-inputs"
    is_missing(caller, "-A", "odd-inputs", file, command=command, env=env)
    is_missing(caller, "-A", "odd-inputs", command="nix-build -A odd-inputs", env=env, cwd=caller.workspace)


def _store(building):
    """Who may not write to the machine's store instantiates in his own, where derivations have the same names."""
    if building.caller.is_root:
        return {}
    return {"NIX_REMOTE": building.builds.daemon.address}


def test_an_attribute_that_is_not_there_is_nix_s_to_tell(building):
    file = building.expression("packages")
    caller = building.caller
    result = caller.run(caller.program, "-A", "nonsense", str(file), env={"USER": "tester", **_store(building)})
    assert result.returncode == 125
    assert "nonsense" in result.stderr.splitlines()[0] and result.stderr.endswith("the evaluation of nonsense failed, as Nix has said above\n")
    result = caller.run(caller.program, "-A", "x", cwd=caller.tmpdir)
    assert result.returncode == 125 and "there is no ./default.nix to look up x in" in result.stderr


def test_an_installable_finds_its_directory(building):
    """A flake sees nothing of the machine, so it takes a Nix that only tells the derivation."""
    caller = building.caller
    asked = "path-info --derivation --option extra-experimental-features nix-command flakes .#"
    script = f'[[ $* = "{asked}"* ]] || exec {real_nix()} "$@"\necho "{{}}"'
    building.program("nix", script.replace("{}", str(derivation(caller))))
    env = {"PATH": building.path()}
    place(caller, "nix-build-greeting-1.0.drv-0")
    opens(caller, ".#greeting", env=env)
    building.program("nix", script.replace("{}", str(derivation(caller, "fails-in-setup"))))
    is_missing(caller, ".#other", command="nix build .#other", env=env)
    building.program("nix", script.replace('echo "{}"', "echo 'error: no such flake' >&2; exit 1"))
    result = caller.run(caller.program, ".#other", env=env)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr == "error: no such flake\nnix-build-shell: the evaluation of .#other failed, as Nix has said above\n"


def test_a_directory_of_the_name_wins(caller):
    place(caller, "nix-build-two-outputs.drv-0", package="two-outputs")
    caller.copy_of_kept(name="two-outputs")
    result = caller.run(caller.program, "-c", OPENS, "two-outputs", cwd=caller.workspace)
    assert (result.returncode, result.stdout, result.stderr) == (3, "in greeting-1.0\n", ""), result


def test_what_is_no_kept_directory_does_not_stand_before_a_build_of_its_name(caller):
    """As the sources of a package often are in a directory that is called like it."""
    path = place(caller, "nix-build-greeting-1.0.drv-0")
    caller.make_directory("greeting")
    result = opens(caller, "greeting", cwd=caller.workspace)
    assert result.stderr.splitlines() == [
        f"nix-build-shell: opening {path}, kept just now",
        "nix-build-shell: that is the build greeting; ./greeting is no kept build directory",
    ]
    by_path = caller.run(caller.program, "./greeting", "true", cwd=caller.workspace)
    assert by_path.returncode == 125 and "opening" not in by_path.stderr, by_path


def test_the_directory_of_another_derivation_is_not_taken_for_it(caller):
    """Of the same name, but made of something else, as after a change of the package."""
    place(caller, "nix-build-greeting-1.0.drv-0")
    instantiate = ["nix-instantiate", "--quiet", "--quiet", "--quiet", caller.builds.packages, "-A", "succeeds"]
    instantiate += ["--arg", "tools", caller.builds.tools]
    mended = subprocess.run(instantiate, check=True, capture_output=True, text=True).stdout.strip()
    assert mended.endswith("-greeting-1.0.drv") and mended != str(derivation(caller))
    result = caller.run(caller.program, "-c", "ls; exit 3", mended)
    assert (result.returncode, result.stdout, result.stderr) == (3, "", ""), result


@pytest.mark.parametrize(
    ("file", "command"),
    [("default.nix", "nix-build -A no-such-package"), ("flake.nix", "nix build .#no-such-package")]
    + [(None, "nix-build '<nixpkgs>' -A no-such-package")],
)
def test_a_name_without_a_directory_tells_how_to_build_it(caller, file, command):
    where = caller.make_directory("package")
    if file:
        (where / file).write_text("{ }\n")
    result = is_missing(caller, "no-such-package", command=command, cwd=where)
    is_missing(caller, "no-such-package-1.2", command=command, cwd=where)
    assert result.stderr.count("\n") == 1
    phases = caller.run(caller.program, "phases", "no-such-package", cwd=where)
    assert (phases.returncode, phases.stdout, phases.stderr) == (125, "", result.stderr)


@pytest.mark.parametrize("answer", ["y", "n"])
def test_somebody_is_asked_whether_to_build(root, answer):
    building = Building(root)
    file = building.expression("packages", name="default.nix")
    config = "NIX_CONFIG=sandbox = true\nsubstitute = false\nbuild-users-group =\n"
    command = ["env", config, root.program, "-c", OPENS, "-A", "fails-early", str(file)]
    root.builds.by_root("fails-early")
    with Terminal(root, *command) as terminal:
        terminal.wait_for(rf"build -- nix-build {file} -A fails-early» .*shall it be run\? \[y/N\] ")
        terminal.type(answer + "\n")
        if answer == "y":
            terminal.wait_for("keeping build directory")
            terminal.wait_for("in fails-early")
        assert terminal.end() == (3 if answer == "y" else 1)
    assert len(building.kept()) == (answer == "y")


# --- One of several derivations of a name ------------------------------------------------------------------------------


def several(building):
    """Files of two derivations of one name."""
    body = 'packages.runWithBusybox "several-of-this-name" {} "echo {}; exit 3"'
    return [building.expression(f"{{ it = {body.replace('{};', word + ';')}; }}", name=f"{word}.nix") for word in ("one", "other")]


def instantiated(file):
    command = ["nix-instantiate", "--quiet", "--quiet", "--quiet", file, "-A", "it"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("means", ["derivation", "output", "attribute", "name", "directory", "nothing"])
def test_of_several_derivations_of_a_name_the_one_that_is_meant_is_opened(root, means):
    building = Building(root)
    one, other = several(building)
    kept = root.tmpdir / "nix-build-several-of-this-name.drv-0"
    config = {"NIX_CONFIG": "sandbox = true\nsubstitute = false\nbuild-users-group =\n"}
    building.run(*building.nix_build("-A", "it", file=one), line="true")
    # A build whose log ends nearer to when the directory changed last, and which keeps nothing.
    root.run(*building.nix_build("-A", "it", file=other), env=config)
    kept.chmod(0o755)
    path = instantiated(one)
    query = ["nix-store", "--query", "--outputs"]
    outputs = [
        subprocess.run([*query, drv], check=True, capture_output=True, text=True).stdout.strip()
        for drv in (path, instantiated(other))
    ]
    assert outputs[0] != outputs[1]
    arguments = {
        "derivation": [path],
        "output": [outputs[0]],
        "attribute": ["-A", "it", str(one)],
        "name": ["several-of-this-name"],
        "directory": [str(kept)],
        "nothing": [],
    }[means]
    result = root.run(root.program, *arguments, "-c", "echo $out")
    assert (result.returncode, result.stdout) == (0, f"{outputs[0]}\n"), result
    assert "several derivations" not in result.stderr
