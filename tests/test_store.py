"""The store: what a build finds in it, what it can do to it, and whose it remains."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.derivation import Derivation, names, nix_store, query
from support.fingerprint import describe, fingerprint
from support.kinds import StoreOwner
from support.nix import USER

STORE = Path("/nix/store")
NO_HASH = "0" * 32


def root_of_store(opener):
    return opener.builds.users_store() if isinstance(opener, StoreOwner) else Path("/")


def on_host(opener, path):
    """Where a store path is on this machine."""
    return root_of_store(opener) / Path(path).relative_to("/")


def derivation_of(opener, package):
    return Derivation(opener.builds.derivation(opener.kept(package)), root_of_store(opener))


def in_busybox(opener, package, script, *arguments, **how):
    """What a script prints in the sandbox of a build that has nothing but busybox, as `b`, to run it."""
    kept = opener.kept(package)
    busybox = derivation_of(opener, package).builder
    how = {"build_dir": kept, **how}
    result = opener.enter(busybox, "sh", "-euc", f"b={busybox}\n{script}", "sh", *arguments, **how)
    assert result.returncode == 0, result
    return result.stdout


def shown(opener, **how):
    """The names of all that the sandbox's store holds."""
    return sorted(opener.inside("find /nix/store -mindepth 1 -maxdepth 1 -printf '%f\\n'", **how).split())


# --- What is there ---------------------------------------------------------------------------------------------------


def test_the_store_holds_the_closure_of_the_inputs_and_nothing_else(opener):
    assert shown(opener) == derivation_of(opener, "greeting").closure_of_inputs()


def test_the_closure_has_store_paths_of_every_kind(opener):
    """Files, programs, links, what only a link refers to, and of several outputs the one that is wanted."""
    inside = in_busybox(opener, "odd-inputs", "$b ls -A /nix/store").split()
    assert inside == derivation_of(opener, "odd-inputs").closure_of_inputs()
    kinds = {name.split("-", 1)[1] for name in inside}
    assert kinds == {"a-file", "a-link", "a-program", "behind-a-link", "busybox", "two-outputs-of-which-one"}


def test_a_store_path_is_what_it_is_on_the_host(opener):
    script = """
        for path in /nix/store/*; do
            if [ -L "$path" ]; then echo "${path##*/} $($b readlink "$path")"
            else echo "${path##*/} $($b stat -c '%i %a %s %Y' "$path")"; fi
        done
        """
    for line in in_busybox(opener, "odd-inputs", script).splitlines():
        name, *facts = line.split()
        path = on_host(opener, STORE / name)
        if path.is_symlink():
            assert facts == [os.readlink(path)]
        else:
            status = path.stat()
            mode = f"{status.st_mode & 0o7777:o}"
            assert facts == [str(fact) for fact in (status.st_ino, mode, status.st_size, int(status.st_mtime))]


def test_files_links_and_programs_of_the_store_work(opener):
    by_name = {name.split("-", 1)[1]: STORE / name for name in derivation_of(opener, "odd-inputs").closure_of_inputs()}
    script = '$b cat "$1" "$2"; "$3"'
    paths = [str(by_name[name]) for name in ["a-file", "a-link", "a-program"]]
    printed = in_busybox(opener, "odd-inputs", script, *paths)
    assert printed.splitlines() == ["a file is a store path, too", "found", "it runs"]


def test_what_is_no_input_is_not_there_although_the_store_has_it(caller):
    """The failing builds of the tests have brought many such paths to this store."""
    undeclared = next(path for path in STORE.iterdir() if path.name.endswith("-busybox"))
    assert "No such file" in caller.cannot("ls", str(undeclared))


# --- What can be written ---------------------------------------------------------------------------------------------


def test_the_store_is_a_writable_directory_as_nix_makes_it(opener):
    script = """
        stat --format '%A %F' /nix/store
        stat --file-system --format %T /nix/store
        echo text > /nix/store/new-file; mkdir -p /nix/store/new/directory; ln -s new /nix/store/new-link
        mv /nix/store/new /nix/store/moved; cat /nix/store/new-file; rm /nix/store/new-*
    """
    assert opener.inside(script).splitlines() == ["drwxrwxr-t directory", "tmpfs", "text"]
    for name in ["new-file", "new", "new-link", "moved"]:
        assert not os.path.lexists(on_host(opener, STORE / name))


CHANGES = """
    for path in /nix/store/*; do
        # A link is made again, here as in Nix: it is the sandbox's own.
        [ ! -L "$path" ] || continue
        attempt() { if "$@" 2>/dev/null; then echo "$@"; fi; }
        attempt $b chmod "$($b stat -c %a "$path")" "$path"
        attempt $b chown 1000:100 "$path"
        attempt $b touch -c -d @1 "$path"
        attempt $b mv "$path" "$path-moved"
        attempt $b ln "$path" /nix/store/name
        attempt $b rmdir "$path"
        if [ -d "$path" ]; then
            attempt $b touch "$path/new"
            attempt $b mkdir "$path/new"
            for below in "$path"/*; do
                attempt $b chmod "$($b stat -c %a "$below")" "$below"
                attempt $b touch -c -d @1 "$below"
                attempt $b mv "$below" "$path/moved"
                attempt $b ln "$below" "$path/name"
            done
        else
            attempt $b unlink "$path"
            (echo more >> "$path") 2>/dev/null && echo "append $path"
            (: > "$path") 2>/dev/null && echo "truncate $path" || true
        fi
    done
"""


def test_no_input_can_be_changed_renamed_or_removed(opener):
    """Neither the directories and files in the store nor what is in them. Where one goes through it does little harm."""
    inputs = [on_host(opener, STORE / name) for name in derivation_of(opener, "odd-inputs").closure_of_inputs()]
    before = {path: fingerprint(path) if path.is_dir() else describe(path) for path in inputs}
    assert in_busybox(opener, "odd-inputs", CHANGES) == ""
    assert {path: fingerprint(path) if path.is_dir() else describe(path) for path in inputs} == before


def test_an_input_with_a_whole_tree_below_it_is_read_only_to_the_last_file(opener):
    """A tree like any other in a store; what could be written is only looked for."""
    assert opener.inside("find /nix/store -mindepth 1 ! -type l -writable") == ""


def test_every_input_is_a_mount_of_its_own_and_read_only(opener):
    table = [line.split() for line in opener.inside("cat /proc/self/mountinfo").splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in table}
    for name in derivation_of(opener, "greeting").closure_of_inputs():
        assert "ro" in options[f"/nix/store/{name}"]
    assert "rw" in options["/nix/store"]


@pytest.mark.parametrize(
    "attempt",
    [
        'mount --options remount,bind,rw "$input"',
        'mount --bind "$input" /tmp && mount --options remount,bind,rw /tmp',
        'umount "$input"',
        "umount /nix/store",
        "umount --lazy /nix/store",
    ],
)
def test_a_nested_root_cannot_open_an_input_for_writing(user, attempt):
    script = f'input=${{SHELL%/bin/*}}; {attempt}'
    says = user.cannot("unshare", "--user", "--map-root-user", "--mount", "bash", "-euc", script)
    assert "permission denied" in says or "Operation not permitted" in says or "not mounted" in says or "Invalid" in says


def test_what_a_nested_root_mounts_over_an_input_only_he_sees(user):
    script = """
        input=${SHELL%/bin/*}
        unshare --user --map-root-user --mount bash -euc 'mount -t tmpfs none "$1"; : > "$1/new"; ls "$1"' bash "$input"
        [[ ! -e $input/new ]]
    """
    assert user.inside(script) == "new\n"


# --- What the failed build left of its outputs -----------------------------------------------------------------------


def outputs_on_host(opener, package="half-installed"):
    """The paths of the outputs on this machine by name, and what is there."""
    paths = {name: on_host(opener, path) for name, path in derivation_of(opener, package).outputs.items()}
    found = {
        name: fingerprint(path) if path.is_dir() else describe(path) for name, path in paths.items() if os.path.lexists(path)
    }
    return paths, found


@pytest.fixture
def half_installed(opener):
    """Its kept directory; at the end of the test the store has what it had."""
    kept = opener.kept("half-installed")
    paths, before = outputs_on_host(opener)
    by_hand = not before and isinstance(opener, StoreOwner)
    if by_hand:
        # Of a store with a root of its own, some Nix loses them.
        for path in derivation_of(opener, "half-installed").outputs.values():
            if path.exists():
                subprocess.run(["cp", "-a", path, on_host(opener, path)], check=True)
                subprocess.run(["chown", "-Rh", f"{opener.uid}:{opener.uid}", on_host(opener, path)], check=True)
        paths, before = outputs_on_host(opener)
    assert sorted(before) == ["doc", "out"]
    yield kept
    assert outputs_on_host(opener) == (paths, before)
    if by_hand:
        subprocess.run(["rm", "-rf", *paths.values()], check=True)


@pytest.mark.parametrize("opener", ["root", "daemon", "sudo"], indirect=True)
def test_what_the_caller_may_not_read_is_left_out_with_a_note(opener):
    """A directory, and a file."""
    kept = opener.kept("closed-outputs")
    result = opener.enter("sh", "-c", 'for path in $out $doc; do [ ! -e "$path" ] || echo there; done', build_dir=kept)
    may_read = opener.name != "daemon"
    assert (result.returncode, result.stdout) == (0, "there\nthere\n" if may_read else "")
    outputs = derivation_of(opener, "closed-outputs").outputs
    notes = [
        f"nix-build-shell: you may not read what the build left of {outputs[name]}; with sudo it would be there\n"
        for name in ["doc", "out"]
    ]
    assert result.stderr == ("" if may_read else "".join(notes))


def test_the_half_that_was_installed_is_there(opener, half_installed):
    script = 'find $out $doc -printf "%P %y %m %l %u\\n" | sort; cat $out/link $doc; [[ ! -e $missing ]]'
    assert opener.inside(script, build_dir=half_installed).splitlines() == [
        " d 755  nixbld",
        " f 644  nixbld",
        "link l 777 share/first nixbld",
        "share d 555  nixbld",
        "share/first f 444  nixbld",
        "first",
        "whole",
    ]


def test_the_store_holds_the_closure_and_the_partial_outputs(opener, half_installed):
    derivation = derivation_of(opener, "half-installed")
    outputs = names(path for name, path in derivation.outputs.items() if name != "missing")
    inside = shown(opener, build_dir=half_installed)
    assert inside == sorted(derivation.closure_of_inputs() + outputs)


def test_an_installation_can_go_on_where_it_stopped(opener, half_installed):
    """The outputs and what is in them can be changed; what is on the host is as it was."""
    script = """
        make -C greeting install PREFIX=$out
        $out/bin/greeting
        chmod u+w $out/share; chmod u+w $out/share/first
        echo second >> $out/share/first; cat $out/link
        rm $out/link; mv $out/share/first $out/first
        rm $doc; mkdir $doc $missing; echo text > $doc/text
    """
    assert opener.inside(script, build_dir=half_installed).splitlines()[-3:] == ["Hello, world!", "first", "second"]


def test_an_output_can_be_begun_anew(opener, half_installed):
    script = """
        chmod -R u+w $out; rm -r $out; mkdir $out; mv $doc $out/doc; ln $out/doc $doc; mv $out $missing
        ls $missing; echo more >> $doc; cat $missing/doc
    """
    assert opener.inside(script, build_dir=half_installed).split() == ["doc", "whole", "more"]


def test_a_phase_can_be_run_into_the_outputs(opener, half_installed):
    script = "source $stdenv/setup; cd greeting; installPhase=; runPhase installPhase; [[ -x $out/bin/greeting ]]"
    opener.inside(script, build_dir=half_installed)


# --- What is not shown -----------------------------------------------------------------------------------------------


def test_nothing_of_nixs_own_state_is_shown(opener):
    assert opener.inside("ls -A /nix") == "store\n"
    assert opener.inside("find / -xdev -type s") == ""


# --- The whole store -------------------------------------------------------------------------------------------------


def test_the_whole_store_is_shown_if_asked_for_and_cannot_be_written(opener):
    opener.kept()
    on_machine = set(os.listdir(on_host(opener, STORE)))
    inside = shown(opener, options=["--store=full"])
    # Whoever else uses this machine's store may add to it, and take away what nothing needs.
    assert set(inside) >= set(derivation_of(opener, "greeting").closure_of_inputs())
    assert len(on_machine & set(inside)) > 0.9 * len(on_machine)
    for command in ["touch /nix/store/new", "chmod 0555 $SHELL", "touch ${SHELL%/*}/new", "rm $SHELL"]:
        assert "Read-only file system" in opener.cannot("bash", "-c", command, options=["--store=full"])
    assert opener.inside("ls -A /nix", options=["--store=full"]) == "store\n"


@pytest.mark.parametrize("command", ["touch /nix/store/new", "chmod --reference /nix/store /nix/store"])
def test_the_directory_of_a_whole_store_cannot_be_changed(user, root, command):
    for caller in [user, root]:
        assert "Read-only file system" in caller.cannot("bash", "-c", command, options=["--store=full"])


# --- The derivation --------------------------------------------------------------------------------------------------


def without_derivation(opener, name="copy", package="greeting"):
    """A copy of a kept directory of which nothing leads to its derivation."""
    copy = opener.workspace / name
    subprocess.run(["cp", "-a", opener.builds.by_root(package), copy], check=True)
    opener.give(copy)
    file = opener.give(copy / "env-vars")
    # Every other store path in it stays.
    out = str(Derivation(opener.builds.derivation(opener.builds.by_root(package)), Path("/")).outputs["out"])
    text = file.read_text()
    assert f'declare -x out="{out}"' in text
    file.write_text(text.replace(f'declare -x out="{out}"', f'declare -x out="/nix/store/{NO_HASH}-greeting"'))
    return copy


NO_DERIVATION = "the store has no derivation (any more) that makes what was built in"


def test_without_its_derivation_a_build_has_the_whole_store_and_one_line_says_so(caller):
    copy = without_derivation(caller)
    result = caller.enter("ls", "/nix/store", build_dir=copy)
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1
    for mention in [NO_DERIVATION, copy, "whole store, read-only", "--derivation DRV"]:
        assert str(mention) in result.stderr
    assert len(result.stdout.split()) > 50
    assert "Read-only file system" in caller.cannot("touch", "/nix/store/new", build_dir=copy)


def test_the_closure_cannot_be_had_without_the_derivation(caller):
    copy = without_derivation(caller)
    mentions = ["derivation", "closure", "--derivation DRV"]
    caller.refused("true", build_dir=copy, options=["--store=closure"], mentions=mentions)


def test_a_directory_of_another_name_is_known_by_its_output(caller):
    copy = caller.copy_of_kept(name="renamed")
    expected = derivation_of(caller, "greeting").closure_of_inputs()
    assert shown(caller, build_dir=copy) == expected


def test_a_directory_with_structured_attributes_is_known_by_the_outputs_in_them(caller):
    """.attrs.json is all that there is: no env-vars, and a name that says nothing."""
    copy = caller.copy_of_kept("recorded-structured", "renamed")
    assert not (copy / "env-vars").exists()
    inside = in_busybox(caller, "recorded-structured", "$b ls -A /nix/store", build_dir=copy).split()
    assert inside == derivation_of(caller, "recorded-structured").closure_of_inputs()


def test_the_derivation_can_be_named(caller):
    copy = without_derivation(caller)
    derivation = derivation_of(caller, "greeting")
    result = caller.enter("ls", "/nix/store", build_dir=copy, options=["--derivation", str(derivation.path)])
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(result.stdout.split()) == derivation.closure_of_inputs()
    # By a link to it, as «nix-instantiate --add-root» makes one.
    link = caller.workspace / "link"
    link.symlink_to(derivation.path)
    assert shown(caller, build_dir=copy, options=["--derivation", str(link)]) == derivation.closure_of_inputs()


@pytest.mark.parametrize(
    ("path", "mentions"),
    [
        (f"/nix/store/{NO_HASH}-gone.drv", ["there is no derivation", "gone.drv"]),
        ("/nowhere/greeting.drv", ["there is no derivation /nowhere/greeting.drv"]),
        ("/etc/passwd", ["/etc/passwd is not in the store /nix/store"]),
        ("/nix/store", ["/nix/store", "no derivation"]),
        ("greeting.drv", ["there is no derivation greeting.drv"]),
    ],
)
def test_what_is_named_has_to_be_a_derivation(caller, path, mentions):
    caller.refused("true", options=["--derivation", path], mentions=mentions)


def test_a_store_path_that_is_no_derivation_is_refused(caller):
    bash = caller.inside("echo ${SHELL%/bin/*}").strip()
    caller.refused("true", options=["--derivation", bash], mentions=[bash, "no derivation"])
    caller.refused("true", options=["--derivation", f"{bash}/bin/bash"], mentions=[bash, "derivation"])


def test_the_derivation_of_another_build_is_refused(caller):
    """It has other inputs, and this build's shell is not among them."""
    other = derivation_of(caller, "fails-early").path
    mentions = [other, "/bin/bash is not among the inputs", "the derivation of another build"]
    caller.refused("true", options=["--derivation", str(other)], mentions=mentions)


def test_what_a_daemon_kept_is_known_by_its_name(user):
    """Nothing in it can be read by the user that tells more."""
    result = user.enter("stripHash", "/x/it-runs", build_dir=user.builds.by_daemon("half-installed"))
    assert (result.returncode, result.stdout) == (0, "it-runs\n")
    result = user.enter("sh", "-c", "echo $name", build_dir=user.builds.by_daemon("half-installed"))
    assert (result.returncode, result.stdout) == (0, "half-installed\n")


def test_a_derivation_alone_begins_in_an_empty_build_directory(opener):
    derivation = derivation_of(opener, "greeting")
    script = """
        pwd; stat --format %A /build; find /build -mindepth 1
        echo "$name $out"
        touch file; ls
    """
    printed = opener.inside(script, build_dir=derivation.path).splitlines()
    assert printed == ["/build", "drwx------", f"{derivation.environment['name']} {derivation.outputs['out']}", "file"]
    assert shown(opener, build_dir=derivation.path) == derivation.closure_of_inputs()


def test_a_whole_build_can_be_run_from_the_derivation_alone(opener):
    """As it failed in Nix it fails here."""
    derivation = derivation_of(opener, "greeting")
    result = opener.enter("genericBuild", build_dir=derivation.path)
    assert result.returncode == 2
    assert "tests/is-polite: cannot execute: required file not found" in result.stderr


def test_a_whole_build_that_succeeds_in_nix_succeeds_here(caller):
    expression = caller.builds.packages
    arguments = ["--arg", "tools", str(caller.builds.tools), "-A", "succeeds"]
    derivation = subprocess.run(
        ["nix-instantiate", str(expression), *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PATH": "/usr/bin:/bin"},
    ).stdout.strip()  # fmt: skip
    script = "source $stdenv/setup; genericBuild >&2; $out/bin/greeting Ada"
    assert caller.inside(script, build_dir=derivation) == "Hello, Ada!\n"


@pytest.mark.parametrize(
    ("path", "mentions"),
    [
        (f"/nix/store/{NO_HASH}-gone.drv", ["there is no derivation", "gone.drv", "nix-instantiate"]),
        ("/nowhere/greeting.drv", ["there is no derivation /nowhere/greeting.drv"]),
    ],
)
def test_a_derivation_that_is_not_there(caller, path, mentions):
    caller.refused("true", build_dir=path, mentions=mentions)


def test_a_file_that_is_called_like_a_derivation(caller):
    file = caller.workspace / "greeting.drv"
    shutil.copy(derivation_of(caller, "greeting").path, file)
    caller.refused("true", build_dir=file, mentions=[file, "not in the store /nix/store"])


# --- The layouts of kept directories ---------------------------------------------------------------------------------


LAYOUTS = ["nix-build-{name}.drv-7", "nix-build-{name}.drv-7/build", "nix-4321-1234567890/build"]


@pytest.mark.parametrize("directory", LAYOUTS)
@pytest.mark.parametrize("argument", ["itself", "build"])
def test_a_kept_directory_is_known_in_every_layout(caller, directory, argument):
    kept = caller.workspace / directory.format(name="greeting-1.0")
    kept.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", caller.kept(), kept], check=True)
    if argument == "itself" and kept.name == "build":
        kept = kept.parent
    expected = derivation_of(caller, "greeting").closure_of_inputs()
    result = caller.enter("ls", "/nix/store", "/build", build_dir=kept)
    assert (result.returncode, result.stderr) == (0, "")
    listed = result.stdout.split()
    assert listed == ["/build:", "env-vars", "greeting", "/nix/store:", *expected]


@pytest.mark.parametrize("below", ["", "build"])
def test_a_build_without_env_vars_is_known_by_the_name_in_both_layouts_that_have_one(caller, below):
    kept = caller.workspace / "nix-build-outlives-its-input.drv-12" / below
    kept.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", caller.kept("outlives-its-input"), kept], check=True)
    inside = in_busybox(caller, "outlives-its-input", "$b ls -A /nix/store", build_dir=kept).split()
    assert inside == derivation_of(caller, "outlives-its-input").closure_of_inputs()


# --- Garbage collection ----------------------------------------------------------------------------------------------


def test_an_input_that_was_collected_is_named_with_the_remedy(opener):
    kept = opener.kept("outlives-its-input")
    derivation = derivation_of(opener, "outlives-its-input")
    (collected,) = [path for path in derivation.inputs() if path.endswith("-short-lived")]
    root = root_of_store(opener)
    (deriver,) = [path for path in query(root, "--references", derivation.path) if path.endswith("-short-lived.drv")]
    nix_store(root, "--delete", collected)
    try:
        mentions = [collected, f"«nix-store --realise {collected}»", "--store=full"]
        opener.refused("true", build_dir=kept, mentions=mentions)
        assert opener.enter("true", build_dir=kept, options=["--store=full"]).returncode == 0
    finally:
        nix_store(root, "--realise", deriver)


def test_a_shell_that_was_collected_is_named_with_the_remedy(caller):
    copy = without_derivation(caller)
    file = copy / "env-vars"
    shell = f"/nix/store/{NO_HASH}-bash"
    lines = [f'declare -x SHELL="{shell}/bin/bash"' if "x SHELL=" in line else line for line in file.read_text().split("\n")]
    file.write_text("\n".join(lines))
    caller.refused("true", build_dir=copy, mentions=[f"{shell}/bin/bash", f"«nix-store --realise {shell}»"])


# --- Stores elsewhere ------------------------------------------------------------------------------------------------


@pytest.fixture
def store_owner(session, builds, workspace):
    return StoreOwner("store-owner", USER, session, builds, workspace)


def test_a_chroot_store_is_shown_as_nix_store(store_owner):
    """Another file than the machine's store has at this path, of which it has a copy."""
    shell = store_owner.inside("echo $SHELL").strip()
    inode = int(store_owner.inside('stat --format %i "$1"', shell))
    assert inode == on_host(store_owner, shell).stat().st_ino
    assert inode != Path(shell).stat().st_ino


@pytest.mark.parametrize("remote", ["{root}", "local?root={root}", "local://{root}"])
def test_a_chroot_store_is_known_by_nix_remote(store_owner, user, remote):
    remote = remote.format(root=store_owner.builds.users_store())
    shell = store_owner.inside("echo $SHELL").strip()
    how = {"build_dir": store_owner.kept(), "env": {"NIX_REMOTE": remote}}
    assert int(user.inside('stat --format %i "$1"', shell, **how)) == on_host(store_owner, shell).stat().st_ino
    assert shown(user, **how) == derivation_of(store_owner, "greeting").closure_of_inputs()


def test_a_store_root_that_is_none(caller):
    shell = caller.inside("echo $SHELL").strip()
    for root in [caller.make_directory("empty"), Path("/nowhere")]:
        caller.refused("true", options=["--store-root", str(root)], mentions=[shell, f"{root}{shell} is not there"])
