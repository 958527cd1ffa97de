"""What somebody changed in a session outlives it: the patch, what is in it and what is not, and where it is."""

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from support.leftovers import scratch_directories
from support.nix import OPTIONS, SINGLE_USER, USER
from support.processes import await_end_of_sandboxes, await_that, children
from support.terminal import Terminal

SESSION_END = r"your changes to [0-9]+ files? of .* are in (\S+\.patch)"
# The time of the newest file of an archive, in seconds. As stdenv does, its package sets SOURCE_DATE_EPOCH to it.
NEWEST = 1577836800
NUMBERS = "".join(f"{number}\n" for number in range(1, 41))

# A source of a directory that has one of everything a patch has to be able to hold.
FILES = {
    b"plain.c": NUMBERS.encode(),
    b"two words.c": NUMBERS.encode(),
    b'quote".c': NUMBERS.encode(),
    b"back\\slash": b"1\n",
    b"new\nline": NUMBERS.encode(),
    b"tab\there": b"1\n",
    "Grüße".encode(): NUMBERS.encode(),
    b"latin1": "Gr\xfc\xdfe\n".encode("latin-1") * 3,
    b"no-newline": b"first\nlast",
    b"crlf.bat": b"a\r\nb\r\nc\r\n",
    b"gone.c": b"1\n2\n",
    b"empty": b"",
    b"mode.sh": b"#!/bin/sh\n",
    b"mode and space.sh": b"#!/bin/sh\n",
    b"moved.c": NUMBERS.encode() + b"moved\n",
    b"moved and changed.c": NUMBERS.encode() + b"moved and changed\n",
    b"picture.png": bytes(range(256)),
    b"photo.png": bytes(range(255, -1, -1)),
    b"sub/deeper/file.h": b"1\n",
    b"a/file": b"one\n",
    b"b/file": b"two\n",
    b".gitignore": b"*.gen\n",
}
LINKS = {b"link": b"plain.c", b"old-link": b"plain.c", b"to-be-a-file": b"plain.c", b"upwards": b"../../elsewhere"}

CHANGES = """
    for file in plain.c 'two words.c' 'quote".c' $'new\\nline' Grüße latin1; do sed -i '2s/.*/changed/' "$file"; done
    sed -i 's/1/2/' 'back\\slash' $'tab\\there' sub/deeper/file.h
    printf 'first\\nstill no newline' > no-newline
    printf 'a\\r\\nB\\r\\nc\\r\\n' > crlf.bat
    rm gone.c empty old-link
    chmod +x mode.sh 'mode and space.sh'
    mkdir new-directory
    mv moved.c new-directory/
    mv 'moved and changed.c' 'changed and moved.c'
    sed -i '3d' 'changed and moved.c'
    mv photo.png new-directory/photo.png
    printf 'new\\n' > new-directory/new.c
    printf '#!/bin/sh\\n' > new.sh
    chmod +x new.sh
    : > 'empty and new'
    ln -sfn sub link
    ln -s nowhere new-link
    ln -sfn ../../../elsewhere upwards
    rm to-be-a-file
    printf 'a file\\n' > to-be-a-file
    rm sub/deeper/file.h
    ln -s ../../plain.c sub/deeper/file.h
"""


class Sources:
    """Packages of our own, each with a source that the test has written, whose build the real Nix could not finish."""

    def __init__(self, session, builds):
        self.session = session
        self.builds = builds
        self.directory = session.make_directory("patch-sources")
        self.derivations = {}

    def expression(self, name, attributes):
        path = self.directory / f"{name}.nix"
        path.write_text(
            f"let offline = import {self.builds.packages} {{ tools = {self.builds.tools}; }}; in "
            f"offline.mkDerivation {{ name = \"{name}\"; {attributes} }}"
        )  # fmt: skip
        return path

    def build(self, expression, *options):
        return subprocess.run(
            ["nix-build", *options, "--no-out-link", *OPTIONS, *SINGLE_USER, expression],
            env={"PATH": os.defpath, "HOME": str(self.session.home(0)), "TMPDIR": str(self.directory)},
            cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip

    def kept(self, name, attributes):
        result = self.build(self.expression(name, attributes), "--keep-failed")
        kept = Path(re.search("keeping build directory '(.*)'", result.stderr)[1])
        self.derivations[kept] = re.search(r"builder for '(.*?\.drv)' failed", result.stderr)[1]
        return kept


@pytest.fixture(scope="module")
def sources(session, builds):
    return Sources(session, builds)


@pytest.fixture(scope="module")
def odd(sources):
    """The source with one of everything, and the directory of a build of it that failed."""
    source = sources.directory / "odd"
    for name, content in FILES.items():
        path = os.fsencode(source) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(content)
    for name, target in LINKS.items():
        os.symlink(target, os.fsencode(source) + b"/" + name)
    # Among what the build makes there is text, too.
    make = "mkdir objects; echo 1 > objects/list.txt; echo 1 > made.c; printf '\\\\0' > program; echo > x.log; exit 1"
    return source, sources.kept("odd", f'src = {source}; buildPhase = "{make}";')


@pytest.fixture(scope="module")
def packed(sources):
    """The same for a source that is an archive, whose files keep their times, and that is configured."""
    source = sources.directory / "packed-1.0"
    source.mkdir()
    (source / "main.c").write_text("int main(void) { return 1 }\n")
    (source / "patched.c").write_text("int unused = @VALUE@;\n")
    (source / "Makefile.in").write_text("all:\n\t$(CC) -o main main.c\n")
    (source / "configure").write_text("echo configured > config.log\nsed s/x/x/ Makefile.in > Makefile\n")
    (source / "configure").chmod(0o755)
    archive = sources.directory / "packed-1.0.tar"
    subprocess.run(["tar", "cf", archive, f"--mtime=@{NEWEST}", "-C", sources.directory, source.name], check=True)
    return source, sources.kept("packed", f'src = {archive}; SOURCE_DATE_EPOCH = "{NEWEST}"; postPatch = "sed -i s/@VALUE@/1/ patched.c";')


def own_copy(caller, kept):
    """A kept directory of the caller's own."""
    copy = caller.workspace / "kept"
    subprocess.run(["cp", "-a", kept, copy], check=True)
    subprocess.run(["chown", "-hR", f"{caller.uid}:{caller.uid}", copy], check=True)
    return copy


@pytest.fixture
def state(caller):
    return caller.make_directory("state")


@pytest.fixture
def state_of_user(user):
    return user.make_directory("state")


def state_of(caller):
    return {"XDG_STATE_HOME": str(caller.workspace / "state")}


def session_of(caller, script, build_dir=None, options=(), **how):
    """A shell without a command, which reads a script; it starts in the directory of the source."""
    build_dir = build_dir or caller.kept()
    first = "cd /build/*/ || exit; " if script else ""
    result = caller.enter(build_dir=build_dir, options=options, input=first + script, env=state_of(caller), **how)
    assert result.returncode == 0, result
    return result


def patches(caller):
    directory = caller.workspace / "state" / "nix-build-shell"
    return sorted(path for path in directory.iterdir() if path.is_file()) if directory.exists() else []


def only_patch(caller):
    (patch,) = patches(caller)
    return patch


def both_patches(caller):
    """That of the source, and that of all else."""
    of_source, of_rest = sorted(patches(caller), key=lambda path: path.name.endswith(".rest.patch"))
    assert of_rest.name.endswith(".rest.patch") and not of_source.name.endswith(".rest.patch")
    return of_source, of_rest


def names_in(patch):
    return re.findall("^diff --git a/(.*) b/", patch.read_text(), re.MULTILINE)


def tree(top):
    """What git would know of a tree: content, links and executable bits."""
    found = {}
    top = os.fsencode(top)
    for directory, directories, files in os.walk(top):
        for name in files + [name for name in directories if os.path.islink(os.path.join(directory, name))]:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            is_link = stat.S_ISLNK(mode)
            content = os.readlink(path) if is_link else Path(os.fsdecode(path)).read_bytes()
            found[os.path.relpath(path, top)] = (is_link, not is_link and bool(mode & 0o100), content)
    return found


APPLY = {"git": ["git", "apply", "--whitespace=nowarn", "-"], "patch": ["patch", "-p1"]}


def applied(caller, source, patch, tool):
    """What comes of a source with the patch, by either tool."""
    copy = caller.workspace / f"applied-by-{tool}"
    subprocess.run(["cp", "-a", source, copy], check=True)
    result = subprocess.run(
        APPLY[tool], cwd=copy, input=patch.read_bytes(), capture_output=True,
        env={"PATH": os.defpath, "HOME": "/", "GIT_CEILING_DIRECTORIES": "/"},
    )  # fmt: skip
    assert result.returncode == 0, result
    return tree(copy)


# --- The patch does what the session did -----------------------------------------------------------------------------


def test_with_the_patch_of_a_session_the_real_build_succeeds(caller, state, sources):
    """The story of the README: the failure, the fix in the sandbox, and the package with one line more."""
    result = session_of(caller, "sed -i 's/^TEST_SHELL =$/TEST_SHELL = bash/' Makefile; make check")
    assert "polite: Hello, Ada!" in result.stdout
    patch = only_patch(caller)
    assert re.fullmatch(r"greeting-1\.0-[0-9]{8}T[0-9]{6}\.patch", patch.name)
    said = result.stderr.splitlines()
    assert f"nix-build-shell: your changes to 1 file of greeting are in {patch}" in said
    assert any("git apply" in line and "patch -p1" in line and f"patches = [ ./{patch.name} ];" in line for line in said)

    expression = sources.directory / f"mended-{caller.name}.nix"
    expression.write_text(
        f"let offline = import {sources.builds.packages} {{ tools = {sources.builds.tools}; }}; in "
        f"derivation (offline.greeting.drvAttrs // {{ patches = [ {patch} ]; }})"
    )
    built = sources.build(expression)
    assert built.returncode == 0, built.stderr
    assert "polite: Hello, Ada!" in built.stderr
    # Without it Nix cannot build it, and has not taken the one for the other.
    expression.write_text(expression.read_text().replace(str(patch), ""))
    assert sources.build(expression).returncode != 0


@pytest.mark.parametrize("tool", APPLY)
def test_either_tool_makes_of_the_source_what_the_session_made(caller, state, odd, tool):
    source, kept = odd
    result = session_of(caller, f"set -e\n{CHANGES}", own_copy(caller, kept))
    expected = caller.workspace / "expected"
    subprocess.run(["cp", "-a", source, expected], check=True)
    subprocess.run(["bash", "-ec", CHANGES], cwd=expected, check=True, env={"PATH": os.defpath, "LC_ALL": "C"})
    assert applied(caller, source, only_patch(caller), tool) == tree(expected)
    assert f"are in {only_patch(caller)}" in result.stderr


def test_what_was_moved_is_a_rename_and_not_the_whole_file_twice(caller, state, odd):
    _, kept = odd
    session_of(caller, CHANGES, own_copy(caller, kept))
    text = only_patch(caller).read_bytes()
    assert b"similarity index 100%\nrename from moved.c\nrename to new-directory/moved.c\n" in text
    assert b'rename from "moved and changed.c"\nrename to "changed and moved.c"\n' in text
    assert b"old mode 100644\nnew mode 100755\n" in text
    assert b"new file mode 120000\n" in text and b"deleted file mode 120000\n" in text
    assert b"\\ No newline at end of file\n" in text
    assert "-Gr\xfc\xdfe\n".encode("latin-1") in text


def test_git_makes_the_same_of_two_trees(caller, state, odd):
    """Every «index» line has the names that git gives the contents."""
    _, kept = odd
    session_of(caller, CHANGES, own_copy(caller, kept))
    for line in only_patch(caller).read_bytes().splitlines():
        if match := re.match(rb"index ([0-9a-f]{40})\.\.([0-9a-f]{40})", line):
            assert len(set(match.groups())) == 2
    path = caller.workspace / "content"
    path.write_bytes(FILES[b"plain.c"])
    name = subprocess.run(["git", "hash-object", path], capture_output=True, check=True, cwd="/").stdout.strip()
    assert b"index " + name + b".." in only_patch(caller).read_bytes()


# --- What is in it ---------------------------------------------------------------------------------------------------


def test_a_session_that_changed_nothing_writes_and_says_nothing(caller, state):
    result = session_of(caller, "cat Makefile; touch greeting.c; chmod g+w greeting.c; echo x > /tmp/x; rm /tmp/x; exit 0")
    assert (result.stderr, patches(caller)) == ("", [])


def test_a_change_that_hides_its_time_is_found(caller, state):
    script = "sed 's/Hello/Hullo/' greeting.c > x; touch -r greeting.c x; mv x greeting.c"
    session_of(caller, script)
    assert b"+    return printf(\"Hullo" in only_patch(caller).read_bytes()


def test_a_file_of_a_directory_that_took_anothers_place_is_found(caller, state, odd):
    """Its times and its length are those of the file that was there."""
    _, kept = odd
    session_of(caller, "mv a c; mv b a; mv c b", own_copy(caller, kept))
    text = only_patch(caller).read_bytes()
    assert b"-one\n+two\n" in text and b"-two\n+one\n" in text


PRODUCTS = """
    sed -i '2s/.*/changed/' plain.c
    echo 2 >> objects/list.txt; echo 2 > objects/more.txt; echo 2 >> x.log; printf '2\\0' > program; printf '\\177ELF\\0' > new-program
    mkdir -p build __pycache__ cache .git; echo > build/x.c; echo > __pycache__/x.pyc; echo > cache/CACHEDIR.TAG; echo > cache/x.c
    echo > main.o; echo > y.log; echo > x.gen; echo > plain.c.orig; echo > .git/config; echo > core.7
    mkdir /build/home; echo > /build/home/x; echo > /build/tmp.1234567890; echo > /build/env-vars
"""


def test_products_of_a_build_are_left_out_and_said_to_be(caller, state, odd):
    source, kept = odd
    result = session_of(caller, PRODUCTS, own_copy(caller, kept))
    of_source, of_rest = both_patches(caller)
    after = applied(caller, source, of_source, "git")
    assert {name for name in after if after[name] != tree(source).get(name)} == {b"plain.c"}
    # Somebody may have written these, for all that is known.
    assert names_in(of_rest) == [
        "home/x", "odd/build/x.c", "odd/objects/list.txt", "odd/objects/more.txt", "odd/plain.c.orig", "odd/x.gen", "odd/y.log"
    ]  # fmt: skip
    assert "odd/cache/x.c" in re.search(" files that the build makes, by all appearances: .*", result.stderr)[0]
    # stdenv writes it at each phase.
    assert "env-vars" not in result.stderr


def test_a_tree_with_more_than_a_person_writes_is_left_out_and_its_neighbours_are_not(caller, state, odd):
    _, kept = odd
    script = "mkdir -p ../cache/deeper ../mine; for i in $(seq 1001); do echo $i > ../cache/deeper/$i; done; echo 1 > ../mine/1; seq 200000 > ../mine/trace"
    result = session_of(caller, script, own_copy(caller, kept))
    assert names_in(only_patch(caller)) == ["mine/1"]
    assert "left out 1002 files that the build makes, by all appearances: mine/trace, cache/deeper/1, " in result.stderr


@pytest.mark.parametrize("where", ["/build", "/build/mine"])
def test_many_small_files_beside_the_source_are_not_too_many(caller, state, odd, where):
    _, kept = odd
    result = session_of(caller, f"mkdir -p {where}; for i in $(seq 150); do echo $i > {where}/typed-$i; done", own_copy(caller, kept))
    assert len(names_in(only_patch(caller))) == 150 and "left out" not in result.stderr


def test_what_has_a_name_that_tools_give_too_is_not_lost(caller, state, odd):
    """Of a backup that an editor makes, the file itself is there; of what it has not saved the user learns."""
    _, kept = odd
    script = """
        for name in notes.log x.rej sub/y.orig z.tmp idea~ /build/notes.log; do echo mine > $name; done
        cp plain.c plain.c.orig; echo more > plain.c~; printf '\\0' > .plain.c.swp; : > .#plain.c
    """
    result = session_of(caller, script, own_copy(caller, kept))
    assert names_in(only_patch(caller)) == ["notes.log"] + [f"odd/{name}" for name in ("idea~", "notes.log", "sub/y.orig", "x.rej", "z.tmp")]
    assert "left out 1 file whose content is no text, so that no patch can hold it: odd/.plain.c.swp\n" in result.stderr


def test_what_phases_write_in_a_session_is_not_taken_for_typed(caller, state):
    """Unless somebody has begun it, or it runs in the background, where somebody types meanwhile."""
    phase = (
        "echo mine > begun.c; buildPhase() { echo > test.log; mkdir -p /build/tree; echo > /build/tree/x; echo > made.c; echo >> begun.c; }; "
        "runPhase buildPhase; checkPhase() { echo > meanwhile.c; }; runPhase checkPhase & wait"
    )
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line()) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type(f"{phase}; until [[ typed.log -nt test.log ]]; do echo > typed.log; done; echo > typed.c; exit\n")
        said = terminal.wait_for("(?s).* or outside of the source, are in (.*?), which")[0]
        terminal.end()
    of_source, of_rest = both_patches(caller)
    assert names_in(of_source) == ["typed.c"]
    assert names_in(of_rest) == ["greeting/begun.c", "greeting/meanwhile.c", "greeting/typed.log"], said


def test_what_compilers_write_for_make_is_left_out(caller, state, odd):
    _, kept = odd
    script = "echo 'plain.o: plain.c' > plain.d; mkdir obj; echo 'plain.lo: plain.c' > obj/x.Plo; sed -i 2d plain.c"
    session_of(caller, script, own_copy(caller, kept))
    assert names_in(only_patch(caller)) == ["plain.c"]


def test_nothing_is_said_of_products_alone(caller, state, odd):
    _, kept = odd
    result = session_of(caller, "echo > main.o; printf '\\177ELF\\0' > program2; echo 2 > x.log; mkdir .git; echo > .git/x", own_copy(caller, kept))
    assert (result.stderr, patches(caller)) == ("", [])


def test_what_the_build_made_has_a_patch_of_its_own(caller, state, odd):
    """It was changed and is text, but the source does not have it: a patch of the source would not apply."""
    source, kept = odd
    kept = own_copy(caller, kept)
    result = session_of(caller, "echo 2 >> made.c; sed -i 2d plain.c; echo note > /build/notes", kept)
    of_source, of_rest = both_patches(caller)
    assert str(of_rest) in result.stderr and str(of_source) in result.stderr
    applied(caller, source, of_source, "patch")
    caller.workspace.joinpath("applied-by-patch").rename(caller.workspace / "source")
    after = applied(caller, kept, of_rest, "patch")
    assert after[b"odd/made.c"][2] == b"1\n2\n" and after[b"notes"][2] == b"note\n"


@pytest.mark.parametrize("is_copy", [False, True], ids=["as-nix-left-it", "copied"])
def test_files_of_an_archive_are_told_from_the_builds_by_their_age(call_as, is_copy, packed):
    """What was patched counts as source; what is configured, and its sources are there, does not."""
    caller = call_as("user" if is_copy else "root")
    caller.make_directory("state")
    source, kept = packed
    script = """
        sed -i 's/1 }/0; }/' main.c
        sed -i 's/main.c/$(SOURCES)/' Makefile.in
        sed -i 's/1/2/' patched.c
        ./configure; make SOURCES=main.c; echo more >> config.log
    """
    result = session_of(caller, script, own_copy(caller, kept) if is_copy else kept)
    of_source, of_rest = both_patches(caller)
    text = of_source.read_text()
    assert names_in(of_source) == ["Makefile.in", "main.c"], text
    # Which of the two has changed it, the person or `configure`, nobody knows.
    assert names_in(of_rest) == ["packed-1.0/Makefile", "packed-1.0/patched.c"]
    assert "config.log" in re.search("left out .*", result.stderr)[0]
    assert re.search("the build itself had changed the same lines of 1 file.*: packed-1.0/patched.c", result.stderr)
    applied(caller, source, of_source, "git")


# What patchPhase rewrites, of which one has no neighbour that was left as it was, and what configurePhase makes.
IN_BUILD = """
    postPatch = "for file in scripts/run lib/patched.c; do sed -i s,@SHELL@,/bin/sh, $file; done; rm lib/gone.c";
    configurePhase = "echo made > config.h; echo made > sub/made.c; cp -p ${old} lib/of-store.c";
"""
EDITS = """
    sed -i '$s/20/twenty/' scripts/run; sed -i '18s/.*/changed/' lib/patched.c; chmod +x lib/patched.c
    echo mine >> config.h; echo mine >> sub/made.c; chmod u+w lib/of-store.c; echo mine >> lib/of-store.c
    sed -i 2d main.c; echo mine > lib/gone.c
"""


def unpacked_in(sources, name, how):
    """A source as an archive, unpacked in one way or another, whose build does all that, and fails."""
    source = sources.directory / name / "tree-1.0"
    numbers = "".join(f"{number}\n" for number in range(1, 21))
    for path, content in {
        "scripts/run": f"#!@SHELL@\n{numbers}", "lib/patched.c": f"@SHELL@\n{numbers}", "lib/gone.c": "1\n",
        "sub/other.c": "1\n", "main.c": numbers, "untouched/other.c": "1\n",
    }.items():  # fmt: skip
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(content)
    archive = source.parent / f"tree-1.0.{how['end']}"
    subprocess.run(["tar", "-C", source.parent, *how["pack"], archive, f"--mtime=@{NEWEST}", source.name], check=True)
    old = source.parent / "old.c"
    old.write_text("of another package\n")
    text = how["attributes"].format(archive=archive) + IN_BUILD.replace("${old}", "${" + str(old) + "}")
    return source, sources.kept(name, text + 'buildPhase = "exit 1";')


UNPACKING = {
    "tar": {"end": "tar", "pack": ["-cf"], "attributes": "src = {archive};"},
    "gzip": {"end": "tar.gz", "pack": ["-czf"], "attributes": "src = {archive};"},
    "own": {
        "end": "data", "pack": ["-cf"],
        "attributes": 'src = {archive}; unpackPhase = "mkdir here; tar -C here -xf $src"; sourceRoot = "here/tree-1.0";',
    },
    "several": {"end": "tar", "pack": ["-cf"], "attributes": 'srcs = [ {archive} ./odd ]; sourceRoot = "tree-1.0";'},
}  # fmt: skip


@pytest.mark.parametrize("how", UNPACKING)
def test_a_patch_of_an_archive_has_what_the_archive_has_and_fits_it(call_as, sources, odd, how):
    """What the build has changed, and what it has made, is told from the source by unpacking that once more."""
    caller = call_as("root" if how == "tar" else "user")
    caller.make_directory("state")
    source, kept = unpacked_in(sources, f"unpacked-{how}-{caller.name}", UNPACKING[how])
    root = "here/tree-1.0" if how == "own" else "tree-1.0"
    result = caller.enter(build_dir=own_copy(caller, kept), input=f"cd /build/{root}\n{EDITS}", env=state_of(caller))
    of_source, of_rest = both_patches(caller)
    assert names_in(of_source) == ["lib/gone.c", "lib/patched.c", "main.c", "scripts/run"], result.stderr
    assert names_in(of_rest) == [f"{root}/{name}" for name in ("config.h", "lib/of-store.c", "sub/made.c")]
    before = tree(source)
    for tool in APPLY:
        after = applied(caller, source, of_source, tool)
        assert after[b"scripts/run"][2] == before[b"scripts/run"][2].replace(b"20", b"twenty")
        assert after[b"lib/patched.c"] == (False, True, before[b"lib/patched.c"][2].replace(b"17\n", b"changed\n"))
        assert after[b"lib/gone.c"][2] == b"mine\n"
    assert "times of files" not in result.stderr


@pytest.fixture(scope="module")
def unpacked_once(sources):
    """Its unpackPhase succeeds only where somebody listens."""
    unpack = "tar -xf $src; [ ! /dev/stdout -ef /dev/null ]"
    how = {**UNPACKING["tar"], "attributes": f'src = {{archive}}; unpackPhase = "{unpack}"; sourceRoot = "tree-1.0"; SOURCE_DATE_EPOCH = "{NEWEST}";'}
    return unpacked_in(sources, "unpacked-once", how)


def test_where_the_source_cannot_be_unpacked_once_more_it_is_guessed_and_said(caller, state, unpacked_once):
    _, kept = unpacked_once
    result = session_of(caller, "sed -i 2d main.c; echo mine >> config.h", own_copy(caller, kept))
    assert "guessed by the times of files, since it could not be unpacked once more: unpackPhase ended with status 1" in result.stderr
    assert b"mine" in b"".join(path.read_bytes() for path in patches(caller))


def test_nothing_is_unpacked_for_what_is_as_the_source_has_it(caller, state, unpacked_once):
    """Nor is it for what a compiler makes, and what is not changed."""
    source, kept = unpacked_once
    script = """
        sed -i 2d main.c; echo new > untouched/new.c; mkdir untouched/new; echo new > untouched/new/new.c; touch config.h
        printf '\\177ELF\\0' > sub/made.c; printf '\\177ELF\\0' > sub/program; echo > sub/made.o; echo > main.d
    """
    result = session_of(caller, script, own_copy(caller, kept))
    assert "times of files" not in result.stderr
    of_source, of_rest = both_patches(caller)
    assert names_in(of_rest) == ["tree-1.0/main.d"]
    applied(caller, source, of_source, "git")


@pytest.fixture(scope="module")
def unpacked_dated(sources):
    """Of which it is known when the build began, whoever copies it."""
    how = {**UNPACKING["tar"], "attributes": f'src = {{archive}}; SOURCE_DATE_EPOCH = "{NEWEST}";'}
    return unpacked_in(sources, "unpacked-dated", how)


@pytest.fixture(scope="module")
def unpacked_undated(sources):
    return unpacked_in(sources, "unpacked-undated", UNPACKING["tar"])


@pytest.mark.parametrize("script", ["chmod u+w lib/of-store.c; echo mine >> lib/of-store.c", "echo mine >> config.h"], ids=["of-store", "made"])
@pytest.mark.parametrize("what", ["unpacked_dated", "unpacked_undated"])
def test_what_the_build_has_made_is_not_for_the_source_whatever_its_time(caller, state, request, what, script):
    """What is copied from the store bears an old time, and so does all where nobody knows when the build began. Nothing else is changed."""
    _, kept = request.getfixturevalue(what)
    result = caller.enter(build_dir=own_copy(caller, kept), input=f"cd /build/tree-1.0; {script}", env=state_of(caller))
    assert only_patch(caller).name.endswith(".rest.patch"), result


@pytest.mark.parametrize("script", ["echo mine > lib/gone.c", "mv main.c lib/gone.c"], ids=["written", "moved"])
@pytest.mark.parametrize("what", ["unpacked_dated", "unpacked_undated"])
def test_what_is_new_where_the_build_had_removed_a_file_is_a_change_of_that(caller, state, request, what, script):
    source, kept = request.getfixturevalue(what)
    caller.enter(build_dir=own_copy(caller, kept), input=f"cd /build/tree-1.0; {script}", env=state_of(caller))
    text = tree(source)[b"main.c"][2] if script.startswith("mv") else b"mine\n"
    for tool in APPLY:
        assert applied(caller, source, only_patch(caller), tool)[b"lib/gone.c"][2] == text


# So large that somebody waits for it. Nothing ends its unpackPhase where nobody listens.
LARGE_UNPACKING = """
    unpackPhase = "tar -xf $src; if [ /dev/stdout -ef /dev/null ]; then trap : INT TERM HUP; until sleep 54321; do :; done; fi";
    sourceRoot = "tree-1.0";
"""
WAITED_FOR = "unpacking the sources once more, to tell what came with them; Ctrl-C leaves it at a guess"


@pytest.fixture(scope="module")
def large(sources):
    """Three of one source: the build of one removes a file by a script, that of another by a patch, and the third removes none."""
    source = sources.directory / "large" / "tree-1.0"
    source.mkdir(parents=True)
    (source / "main.c").write_text(NUMBERS)
    (source / "gone.c").write_text("1\n")
    with open(source / "data", "wb") as file:
        file.truncate(17 << 20)
    archive = source.parent / "tree-1.0.tar"
    subprocess.run(["tar", "-C", source.parent, "-cf", archive, f"--mtime=@{NEWEST}", source.name], check=True)
    patch = source.parent / "remove.patch"
    patch.write_text("--- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n")
    attributes = f"""
        src = {archive}; {LARGE_UNPACKING} configurePhase = "echo made > config.h"; buildPhase = "exit 1"; postInstall = "rm -r $out/lib";
    """
    ways = {"nothing": "", "script": 'preConfigure = "x=1;rm gone.c";', "patch": f"patches = [ {patch} ];"}
    return {way: sources.kept(f"large-{way}", attributes + more) for way, more in ways.items()}


def interrupted_unpacking(caller, build_dir, typed, state):
    """What is said in the end of a session, while the sources are unpacked once more and Ctrl-C is pressed."""
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line(build_dir=build_dir)) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type(f"cd /build/tree-1.0; {typed}; exit\n")
        terminal.wait_for(WAITED_FOR)
        await_that(lambda: children_called(terminal.process.pid, b"sleep\x0054321\x00"))
        terminal.type("\x03")
        said = terminal.wait_for(r"(?s)(.*)could not be unpacked once more: (.*?)\r\n")
        assert terminal.end() == 0
    return said[2]


def children_called(pid, command):
    """Those of a process and of its children, at any depth, that run this command."""
    try:
        below = [found for child in children(pid) for found in children_called(child, command)]
        return below + ([pid] if Path(f"/proc/{pid}/cmdline").read_bytes() == command else [])
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_ctrl_c_ends_the_unpacking_and_nothing_else(caller, state, large):
    """Even where what unpacks does not want to end."""
    said = interrupted_unpacking(caller, own_copy(caller, large["nothing"]), "echo mine >> config.h", state)
    assert said == "signal 2 has ended that"
    assert b"+mine\n" in only_patch(caller).read_bytes()


def test_a_sigkill_while_sources_are_unpacked_leaves_what_the_next_run_keeps(caller, state, large):
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line(build_dir=own_copy(caller, large["nothing"]))) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("echo mine >> /build/tree-1.0/config.h; exit\n")
        await_that(lambda: children_called(terminal.process.pid, b"sleep\x0054321\x00"))
        terminal.process.kill()
        terminal.end()
    await_end_of_sandboxes(caller.session)
    assert len(scratch_directories(caller.tmpdir)) == 2
    assert "-recovered-" in caller.enter("true", env=state_of(caller)).stderr and scratch_directories(caller.tmpdir) == []
    [kept] = state.glob("nix-build-shell/sessions/*-recovered-*")
    assert (kept / "build" / "tree-1.0" / "config.h").read_text().endswith("mine\n")


HOSTILE = """
    unpackPhase = "tar -xf $src; if [ /dev/stdout -ef /dev/null ]; then (cd packed-1.0; eval \\"$astray\\"); fi";
    astray = "rm main.c patched.c Makefile.in; mkfifo main.c; ln -s /etc/passwd patched.c; mkdir Makefile.in; chmod 0 configure; : > config.h";
"""


def test_whatever_is_unpacked_once_more_nothing_typed_is_lost(caller, state, sources, packed):
    """Links that lead out, fifos, directories in the place of files, and nothing that one may look at."""
    archive = packed[0].with_name("packed-1.0.tar")
    more = 'sourceRoot = "packed-1.0"; configurePhase = "echo made > config.h"; buildPhase = "exit 1";'
    kept = own_copy(caller, sources.kept(f"hostile-{caller.name}", f"src = {archive}; {HOSTILE} {more}"))
    names = ["main.c", "patched.c", "Makefile.in", "configure", "config.h", "new.c"]
    result = session_of(caller, f"for file in {' '.join(names)}; do echo // mine in $file >> $file; done", kept)
    text = b"".join(path.read_bytes() for path in patches(caller))
    assert all(f"+// mine in {name}\n".encode() in text for name in names), (result, text)
    assert b"root:" not in text and "times of files" not in result.stderr


@pytest.mark.parametrize("how", [(), ("--build-dir-mode", "overlay")], ids=["copy", "overlay"])
def test_nobody_waits_for_a_large_source_because_of_a_new_file(caller, state, large, how):
    kept = own_copy(caller, large["nothing"])
    result = caller.enter(build_dir=kept, options=how, input="echo mine > /build/tree-1.0/new.c", env=state_of(caller))
    assert names_in(only_patch(caller)) == ["new.c"] and WAITED_FOR not in result.stderr


@pytest.mark.parametrize("way", ["script", "patch"])
def test_where_the_build_removes_files_a_new_one_is_worth_the_wait(caller, state, large, way):
    interrupted_unpacking(caller, own_copy(caller, large[way]), "echo mine > gone.c", state)
    assert names_in(only_patch(caller)) == ["gone.c"]


@pytest.fixture(scope="module")
def small(sources, packed):
    """Of an archive that cannot be unpacked twice; its build removes nothing."""
    archive = packed[0].with_name("packed-1.0.tar")
    unpack = "tar -xf $src; [ ! /dev/stdout -ef /dev/null ]"
    attributes = f'src = {archive}; unpackPhase = "{unpack}"; sourceRoot = "packed-1.0"; configurePhase = "echo > config.h"; buildPhase = "exit 1";'
    return sources.kept("small", attributes)


@pytest.mark.parametrize(("mode", "files"), [("copy", 0), ("copy", 1001), ("overlay", 0)])
def test_what_has_many_files_is_large(caller, state, small, mode, files):
    """And so is, for all that is known, one that is not listed."""
    kept = own_copy(caller, small)
    for number in range(files):
        (kept / f"{number}").touch()
    script = "echo mine > /build/packed-1.0/new.c"
    result = caller.enter(build_dir=kept, options=["--build-dir-mode", mode], input=script, env=state_of(caller))
    assert names_in(only_patch(caller)) == ["new.c"]
    assert ("times of files" not in result.stderr) == (mode == "overlay" or files > 0)


def test_files_that_were_only_unpacked_are_left_out(caller, state, odd):
    _, kept = odd
    script = "echo of another source > older.c; touch -d @1 older.c; cp -a . /build/backup; mkdir again; cp -a sub a again/; sed -i 2d plain.c"
    result = session_of(caller, script, own_copy(caller, kept))
    assert re.findall(b"^diff --git a/(.*) b/", only_patch(caller).read_bytes(), re.MULTILINE) == [b"plain.c"]
    assert "older.c" in re.search("left out .* older than the session.*", result.stderr)[0]


# Copied with its time, and moved where something else takes its place: without the new file the source would be broken.
OLD_TIMES = """
    cp -p plain.c copied.c
    mkdir moved
    cp -p 'two words.c' moved/; ln -sf 'moved/two words.c' 'two words.c'
    mv gone.c moved/gone.c; ln -s moved/gone.c gone.c
    mv mode.sh moved/; printf 'exec moved/mode.sh\\n' > mode.sh
    mv empty moved/; ln -s moved/empty empty
"""


# Only git can make a link of a directory.
DIRECTORY_WITH_OLD_TIMES = "mv sub/deeper moved/; ln -s ../moved/deeper sub/deeper"


@pytest.mark.parametrize("mode", ["copy", "overlay"])
@pytest.mark.parametrize(("tool", "script"), [("patch", OLD_TIMES), ("git", OLD_TIMES + DIRECTORY_WITH_OLD_TIMES)], ids=["patch", "git"])
def test_what_came_from_the_source_with_its_old_time_is_in_the_patch(caller, state, odd, tool, script, mode):
    source, kept = odd
    result = session_of(caller, script, own_copy(caller, kept), options=["--build-dir-mode", mode])
    expected = caller.workspace / "expected"
    subprocess.run(["cp", "-a", source, expected], check=True)
    subprocess.run(["bash", "-ec", script], cwd=expected, check=True, env={"PATH": os.defpath, "LC_ALL": "C"})
    assert applied(caller, source, only_patch(caller), tool) == tree(expected)
    assert "left out" not in result.stderr


@pytest.mark.parametrize("mode", ["copy", "overlay"])
@pytest.mark.parametrize("tool", APPLY)
def test_what_was_written_in_a_new_directory_beside_the_source_is_saved(caller, state, odd, tool, mode):
    _, kept = odd
    kept = own_copy(caller, kept)
    script = """
        mkdir -p ../beside/deeper; echo a > ../beside/a.txt; printf '#!/bin/sh' > ../beside/deeper/b; chmod +x ../beside/deeper/b
        : > ../beside/empty; ln -s a.txt ../beside/link; printf '\\211PNG\\0' > ../beside/logo.png; echo > ../beside/a.o
    """
    result = session_of(caller, script, kept, options=["--build-dir-mode", mode])
    after = applied(caller, kept, only_patch(caller), tool)
    assert {name: content for name, content in after.items() if name.startswith(b"beside/")} == {
        b"beside/a.txt": (False, False, b"a\n"),
        b"beside/deeper/b": (False, True, b"#!/bin/sh"),
        b"beside/empty": (False, False, b""),
        b"beside/link": (True, False, b"a.txt"),
    }
    assert f"changes to 4 files that the build makes, or outside of the source, are in {only_patch(caller)}" in result.stderr
    assert "whose content is no text, so that no patch can hold it: beside/logo.png\n" in result.stderr


@pytest.mark.parametrize("mode", ["copy", "overlay"])
def test_of_a_copy_beside_the_source_only_what_was_changed_is_saved(caller, state, odd, mode):
    _, kept = odd
    script = "mkdir ../copy; cp -r sub plain.c a ../copy/; echo 2 > ../copy/a/file; echo > ../copy/new.c"
    result = session_of(caller, script, own_copy(caller, kept), options=["--build-dir-mode", mode])
    assert names_in(only_patch(caller)) == ["copy/a/file", "copy/new.c"]
    assert "left out 2 files that were only copied: copy/plain.c, copy/sub/deeper/file.h" in result.stderr


UNPACKING_FAILS = {
    "before": "unpackPhase = ''exit 1'';",
    "with-several": "preUnpack = ''mkdir one two; exit 1'';",
    "in-the-middle": "setSourceRoot = ''exit 1'';",
    "after": "postUnpack = ''exit 1'';",
}


@pytest.mark.parametrize("when", UNPACKING_FAILS)
def test_what_was_written_where_unpacking_failed_is_saved(caller, state, sources, odd, when):
    """The session starts in the build directory, and what is written there may be beside a source or not."""
    source, _ = odd
    kept = own_copy(caller, sources.kept(f"unpack-{when}-{caller.name}", f"src = {source}; {UNPACKING_FAILS[when]}"))
    script = "cd /build; [[ ! -d odd ]] || chmod u+w odd; echo a > a.txt; mkdir new odd/new || mkdir -p odd/new; echo b > new/b.txt; echo c > odd/new/c.txt"
    result = caller.enter(build_dir=kept, input=script, env=state_of(caller))
    text = b"".join(path.read_bytes() for path in patches(caller))
    for line in [b"+a\n", b"+b\n", b"+c\n"]:
        assert line in text, result.stderr
    assert "left out" not in result.stderr


@pytest.mark.parametrize("mode", ["copy", "overlay"])
def test_an_edit_in_what_the_build_has_made_is_saved(caller, state, packed, mode):
    """The Makefile is configured, and that is what a person tries first."""
    _, kept = packed
    kept = own_copy(caller, kept)
    session_of(caller, "sed -i 's/main.c/other.c/' Makefile", kept, options=["--build-dir-mode", mode])
    assert only_patch(caller).name.endswith(".rest.patch")
    after = applied(caller, kept, only_patch(caller), "patch")
    assert b"other.c" in after[b"packed-1.0/Makefile"][2]


def test_a_picture_of_ones_own_is_not_said_to_be_the_builds(caller, state, odd):
    _, kept = odd
    result = session_of(caller, "printf '\\211PNG\\0' > logo.png; printf '\\177ELF\\0' > program2", own_copy(caller, kept))
    assert "nix-build-shell: left out 1 file whose content is no text, so that no patch can hold it: odd/logo.png\n" in result.stderr
    assert "logo.png" not in "".join(re.findall(".*that the build makes.*", result.stderr))


def test_what_is_no_text_is_named_and_the_rest_can_be_applied(caller, state, odd):
    source, kept = odd
    result = session_of(caller, "echo more >> picture.png; rm photo.png; sed -i 2d plain.c", own_copy(caller, kept))
    line = re.search("left out 2 files whose content is no text.*", result.stderr)[0]
    assert "odd/picture.png" in line and "odd/photo.png" in line
    applied(caller, source, only_patch(caller), "git")


def test_paths_are_those_below_the_source_root(caller, state, sources, odd):
    """`sourceRoot` may be a directory in what was unpacked."""
    source, _ = odd
    kept = sources.kept(f"below-{caller.name}", f'src = {source}; sourceRoot = "odd/sub"; buildPhase = "exit 1";')
    result = session_of(caller, "echo 2 > sub/deeper/file.h; chmod u+w plain.c; echo 2 > plain.c", own_copy(caller, kept))
    of_source, of_rest = both_patches(caller)
    assert b"+++ b/deeper/file.h\n" in of_source.read_bytes() and b"plain.c" not in of_source.read_bytes()
    assert b"+++ b/odd/plain.c\n" in of_rest.read_bytes()
    assert "file of odd/sub are" in result.stderr


def test_a_directory_in_the_place_of_a_file_is_for_git_alone(caller, state, odd):
    source, kept = odd
    result = session_of(caller, "rm gone.c; mkdir gone.c; echo > gone.c/x", own_copy(caller, kept))
    assert "git can apply and patch cannot" in result.stderr
    assert b"gone.c/x" in applied(caller, source, only_patch(caller), "git")


def test_a_session_may_do_what_it_likes_to_its_files(caller, state, odd):
    """Links that lead out, fifos, files that nobody may read: nothing of it keeps us waiting or is followed."""
    source, kept = odd
    script = """
        sed -i 2d plain.c; chmod 0 plain.c
        rm -r sub; ln -s / sub
        rm gone.c; mkfifo gone.c
        rm mode.sh; ln -s /etc/passwd mode.sh
        mkdir closed listed; echo secret > closed/file; chmod 0 closed; echo > listed/file; chmod 400 listed
        rm .gitignore; mkfifo .gitignore
    """
    session_of(caller, script, own_copy(caller, kept))
    after = applied(caller, source, only_patch(caller), "git")
    assert after[b"mode.sh"] == (True, False, b"/etc/passwd")
    assert after[b"sub"] == (True, False, b"/")
    assert after[b"closed/file"][2] == b"secret\n" and b"listed/file" in after
    assert b"gone.c" not in after and b"sub/deeper/file.h" not in after
    assert after[b"plain.c"][2] == FILES[b"plain.c"].replace(b"2\n", b"", 1)


def test_what_the_caller_could_not_read_is_not_taken_for_gone(session, builds, call_as, odd):
    """Where a daemon built he may not read everything, and the copy does not have it."""
    user = call_as("user")
    user.make_directory("state")
    _, kept = odd
    copy = user.workspace / "kept"
    subprocess.run(["cp", "-a", kept, copy], check=True)
    subprocess.run(["chown", "-hR", f"{USER}:{USER}", copy], check=True)
    os.chown(copy / "odd" / "gone.c", 0, 0)
    (copy / "odd" / "gone.c").chmod(0o600)
    session_of(user, "echo mine > gone.c; rm gone.c; sed -i 2d plain.c", copy, options=["--ignore-unreadable"])
    assert b"gone.c" not in only_patch(user).read_bytes()


def test_a_source_that_was_unpacked_in_the_session_is_compared_with_the_store(caller, state):
    """Where the caller may read nothing of the directory, or the build had not come far, he begins with an empty one."""
    kept = caller.make_directory("kept")
    options = ["--derivation", str(caller.builds.derivation(caller.builds.by_root("greeting")))]
    script = "unpackPhase; cd greeting; sed -i 's/^TEST_SHELL =$/TEST_SHELL = bash/' Makefile; echo new > new.c"
    result = caller.enter(build_dir=kept, options=options, input=script, env=state_of(caller))
    source = caller.builds.packages / "greeting"
    after = applied(caller, source, only_patch(caller), "patch")
    assert {name for name in after if after[name] != tree(source).get(name)} == {b"Makefile", b"new.c"}
    assert "your changes to 2 files of greeting" in result.stderr


# --- Where it is -----------------------------------------------------------------------------------------------------


def test_the_directory_of_patches_is_closed_to_others_and_nothing_is_overwritten(caller, state):
    for _ in range(3):
        session_of(caller, "sed -i 's/Hello/Hullo/' greeting.c")
    names = patches(caller)
    assert len(names) == 3 and len({path.read_bytes() for path in names}) == 1
    directory = names[0].parent.stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_uid) == (0o700, caller.uid)
    assert {(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in names} == {(caller.uid, 0o600)}


def test_without_xdg_state_home_it_is_in_the_home_directory(caller):
    home = caller.make_directory("home")
    script = "cd /build/greeting; sed -i 's/Hello/Hullo/' greeting.c"
    result = caller.enter(input=script, env={"HOME": str(home), "XDG_STATE_HOME": "relative"})
    (patch,) = (home / ".local/state/nix-build-shell").iterdir()
    assert str(patch) in result.stderr


def test_a_command_has_a_patch_only_if_it_is_asked_for(caller, state):
    command = ["sed", "-i", "s/Hello/Hullo/", "/build/greeting/greeting.c"]
    result = caller.enter(*command, env=state_of(caller))
    assert (result.returncode, result.stderr, patches(caller)) == (0, "", [])
    file = caller.workspace / "state" / "fix.patch"
    result = caller.enter(*command, options=["--save-patch", str(file)], env=state_of(caller))
    assert result.returncode == 0 and str(file) in result.stderr
    assert b"Hullo" in file.read_bytes() and file.stat().st_uid == caller.uid
    assert patches(caller) == []


def test_a_file_of_ones_own_may_be_named_relatively_and_goes_if_nothing_was_changed(caller, state):
    directory = caller.workspace / "state"
    options = ["--save-patch", "fix.patch"]
    assert caller.enter("true", options=options, cwd=directory).stderr == ""
    assert list(directory.iterdir()) == []
    caller.enter("bash", "-c", "cd greeting; rm Makefile; echo > ../notes", options=options, cwd=directory)
    assert sorted(path.name for path in directory.iterdir()) == ["fix.patch", "fix.rest.patch"]


def test_the_status_of_a_command_is_its_own_with_a_patch_too(caller, state):
    file = caller.workspace / "state" / "fix.patch"
    result = caller.enter("bash", "-c", "rm greeting/Makefile; exit 7", options=["--save-patch", str(file)])
    assert result.returncode == 7 and file.exists()


def test_no_patch_is_none(caller, state):
    result = session_of(caller, "rm Makefile", options=["--no-patch"])
    assert (result.stderr, patches(caller)) == ("", [])


def test_a_patch_and_no_patch_cannot_be_had_together(user, state_of_user):
    file = state_of_user / "fix.patch"
    for options in [["--save-patch", str(file), "--no-patch"], ["--no-patch", f"--save-patch={file}"]]:
        user.refused("true", options=options, mentions=["--save-patch", "--no-patch"])
    assert not file.exists()


def test_a_file_that_cannot_be_made_is_refused_before_the_session(caller, state, odd):
    directory = caller.workspace / "state"
    (directory / "there").write_text("precious")
    (directory / "link").symlink_to(directory / "nowhere")
    for file, reason in [
        (directory / "there", "is there already"),
        (directory / "link", "is there already"),
        (directory / "missing" / "file", "No such file or directory"),
        (Path("/"), "no name of a file"),
        (Path("/proc/file"), "cannot make the file"),
    ]:
        caller.refused("true", options=["--save-patch", str(file)], mentions=[file, reason])
    assert (directory / "there").read_text() == "precious"
    kept = own_copy(caller, odd[1])
    (caller.workspace / "around").symlink_to(kept)
    for inside in [kept / "new", caller.workspace / "around" / "odd" / "new"]:
        caller.refused("true", build_dir=kept, options=["--save-patch", str(inside)], mentions=["stays untouched"])
    assert not (kept / "new").exists()


FRESH = {
    "archive": ("main.c", "unpackPhase; cd packed-1.0"),
    "directory": ("plain.c", "unpackPhase; cd odd"),
    "patched": ("main.c", "unpackPhase; cd packed-1.0; patchPhase"),
}


@pytest.mark.parametrize("options", [(), ("--save-patch",)], ids=["session", "save-patch"])
@pytest.mark.parametrize("what", FRESH)
def test_what_is_unpacked_in_the_session_of_a_derivation_is_compared_with_the_source(caller, state, sources, odd, packed, what, options):
    source, kept = odd if what == "directory" else packed
    file, begin = FRESH[what]
    options = [*options, str(state / "mine.patch")] if options else []
    script = f"cd /build; {begin}; sed -i 2d {file}; sed -i 1s/^/x/ {file}; echo mine > new.c; echo note > /build/notes; echo lost > /tmp/lost; exit 0"
    result = caller.enter(build_dir=sources.derivations[kept], options=options, input=script, env=state_of(caller))
    assert result.returncode == 0, result
    of_source, of_rest = sorted([*patches(caller), *state.glob("*.patch")], key=lambda path: path.name.endswith(".rest.patch"))
    changed = {file, "new.c"} | ({"patched.c"} if what == "patched" else set())
    assert set(names_in(of_source)) == changed and names_in(of_rest) == ["notes"], result.stderr
    for tool in APPLY:
        after = applied(caller, source, of_source, tool)
        assert {name.decode() for name in after if after[name] != tree(source).get(name)} == changed
    assert "went with the sandbox: /tmp/lost" in result.stderr


def test_what_a_phase_moves_in_the_source_is_a_rename(caller, state, odd):
    """Else the patch would only remove it."""
    _, kept = odd
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line(build_dir=own_copy(caller, kept))) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("ownPhase() { mv moved.c by-phase.c; }; runPhase ownPhase; exit\n")
        terminal.wait_for("your changes to 1 file of odd are in")
        terminal.end()
    assert b"rename from moved.c\nrename to by-phase.c\n" in only_patch(caller).read_bytes()


@pytest.mark.parametrize("first", ["", "echo '// mine' >> patched.c; "], ids=["", "changed-before"])
def test_what_patch_phase_changes_in_the_session_of_a_derivation_is_not_for_the_source(caller, state, sources, packed, first):
    """The package does it anyhow; but somebody may have changed the same file before."""
    source, kept = packed
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line(build_dir=sources.derivations[kept])) as terminal:
        terminal.wait_for(r"a patch has what you change in the sources that you unpack; --keep-session NAME keeps all\r\n")
        terminal.wait_for(r"\$ ")
        terminal.type(f"runPhase unpackPhase; cd packed-1.0; {first}runPhase patchPhase; sed -i '1s/^/x/' main.c; exit\n")
        terminal.wait_for("your changes to 1 file of packed-1.0 are in")
        terminal.end()
    of_source, *of_rest = sorted(patches(caller), key=lambda path: path.name.endswith(".rest.patch"))
    assert names_in(of_source) == ["main.c"]
    assert [names_in(patch) for patch in of_rest] == ([["packed-1.0/patched.c"]] if first else [])
    applied(caller, source, of_source, "git")


@pytest.mark.parametrize("phase", ["runPhase buildPhase", "resume"])
def test_what_is_typed_at_once_before_a_phase_is_typed(caller, state, phase):
    """The clock of files is coarse: what is written in one line with the phase may bear the time that the phase begins with."""
    kept = caller.builds.by_root("greeting")
    for attempt in range(3):
        with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line(build_dir=kept)) as terminal:
            terminal.wait_for(r"\$ ")
            terminal.type(f"echo n > new-{attempt}.c; echo t > /tmp/typed; {phase} > /dev/null 2>&1; exit 0\n")
            terminal.wait_for("1 file that you wrote outside of /build went with the sandbox: /tmp/typed")
            terminal.end()
    of_source = [path for path in patches(caller) if not path.name.endswith(".rest.patch")]
    assert sorted(name for path in of_source for name in names_in(path)) == ["new-0.c", "new-1.c", "new-2.c"]


def test_phases_alone_in_the_session_of_a_derivation_leave_no_patch_and_no_word(caller, state, sources, unpacked_once):
    """Nor are the sources unpacked once more, which would be said to be impossible."""
    _, kept = unpacked_once
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line(build_dir=sources.derivations[kept])) as terminal:
        terminal.wait_for(r"keeps all\r\n")
        terminal.wait_for(r"\$ ")
        terminal.type("runPhase unpackPhase; cd tree-1.0; runPhase patchPhase; runPhase configurePhase; echo do''ne; exit\n")
        terminal.wait_for("done\r\n")
        assert terminal.end() == 0
        assert "nix-build-shell" not in terminal.rest() and patches(caller) == []


def test_what_phases_made_in_a_session_that_was_kept_may_be_somebodys(caller, state, sources, packed):
    """He may have typed meanwhile in another terminal, or into the same file when the session was entered before."""
    _, kept = packed
    command = caller.command_line(build_dir=sources.derivations[kept], options=["--keep-session", "phases"])
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *command) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("runPhase unpackPhase; cd packed-1.0; runPhase patchPhase; exit\n")
        terminal.wait_for("kept as the session")
        assert terminal.end() == 0
    file = state / "mine.patch"
    removed = caller.run(caller.program, "sessions", "remove", "--save-patch", str(file), "phases", env=state_of(caller))
    assert removed.returncode == 0 and names_in(file.with_suffix(".rest.patch")) == ["packed-1.0/patched.c"], removed


def test_what_is_written_where_a_derivation_has_no_sources_is_saved(caller, state, sources):
    derivation = sources.derivations[sources.kept(f"sourceless-{caller.name}", 'dontUnpack = "1"; buildPhase = "exit 1";')]
    script = "cd /build; echo mine > notes; mkdir new; echo mine > new/file; echo mine > .attr-of-builder"
    result = caller.enter(build_dir=derivation, input=script, env=state_of(caller))
    assert names_in(only_patch(caller)) == ["new/file", "notes"] and only_patch(caller).name.endswith(".rest.patch"), result
    assert caller.enter(build_dir=derivation, input="true", env=state_of(caller)).stderr == ""


# --- What is in no patch ---------------------------------------------------------------------------------------------

LOST = "nix-build-shell: {} that you wrote outside of /build went with the sandbox{}\n"


def test_what_was_written_outside_of_the_build_directory_is_named(caller, state):
    script = "echo x > /tmp/notes; echo x > /dev/shm/y; : > /tmp/empty; mkdir /tmp/.cache; echo > /tmp/.cache/x; echo > /tmp/tmp.1234567890; mkfifo /tmp/f"
    result = session_of(caller, script)
    first, second = sorted(re.search("sandbox: (.*), (.*)\n", result.stderr).groups())
    assert (first, second) == ("/dev/shm/y", "/tmp/notes")
    assert result.stderr == LOST.format("2 files", f": {re.search('sandbox: (.*)', result.stderr)[1]}")


def test_shared_memory_of_another_size_is_looked_at_too(caller, state):
    env = {**state_of(caller), "NIX_CONFIG": "sandbox-dev-shm-size = 1M"}
    result = caller.enter(input="mkdir /dev/shm/sub; echo x > /dev/shm/sub/y; ln -s /etc /dev/shm/z", env=env)
    assert "/dev/shm/sub/y" in result.stderr, result


def test_of_many_files_five_are_named_and_of_an_output_its_path(caller, state):
    script = "mkdir -p $out/bin; for i in 1 2 3; do echo > $out/bin/$i; done; for i in $(seq 9); do echo > /tmp/$i; done; echo $out"
    result = session_of(caller, script)
    named = re.fullmatch(LOST.format("12 files", ", such as (.*)"), result.stderr)[1].split(", ")
    assert len(named) == 5 and len(set(named)) == 5
    assert set(named) <= {f"/tmp/{number}" for number in range(1, 10)} | {result.stdout.strip()}
    result = session_of(caller, "mkdir $out; echo > $out/1; echo > $out/2; echo $out")
    assert result.stderr == LOST.format("2 files", f", such as {result.stdout.strip()}")


def test_a_file_that_the_sandbox_had_is_named_if_it_was_edited(root):
    """Only in that of a single-user Nix it can be."""
    root.make_directory("state")
    with Terminal(root, "env", f"XDG_STATE_HOME={root.workspace / 'state'}", *root.command_line()) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("echo 127.0.0.1 example.org >> /etc/hosts; chmod 600 /etc/passwd; exit\n")
        said = terminal.wait_for("(?s).* went with the sandbox: .*\n")[0]
        terminal.end()
    assert "/etc/hosts" in said and "/etc/group" not in said and ".nix-build-shell" not in said


def test_what_phases_make_outside_of_the_build_directory_is_not_worth_a_word(caller, state):
    with Terminal(caller, "env", f"XDG_STATE_HOME={state}", *caller.command_line()) as terminal:
        terminal.wait_for(r"\$ ")
        terminal.type("installPhase() { mkdir -p $out; echo x > $out/x; echo x > /tmp/of-phase; }; runPhase installPhase; resume --only installPhase\n")
        terminal.wait_for("installPhase succeeds")
        # It tells when it is there to be interrupted.
        terminal.type("buildPhase() { bash -c 'echo x > /tmp/of-interrupted; echo ru''ns; exec sleep 1000'; }; resume --only buildPhase\n")
        terminal.wait_for("runs\r\n")
        terminal.type("\x03")
        terminal.wait_for(r"\$ ")
        terminal.type("until [[ /tmp/by-hand -nt /tmp/of-interrupted ]]; do echo > /tmp/by-hand; done; exit\n")
        said = terminal.wait_for("(?s).*went with the sandbox: (.*?)\r\n")
        terminal.end()
    assert said[1] == "/tmp/by-hand"


@pytest.mark.parametrize("name", [r"$'/tmp/\e[31mred\nline'", r"$'/tmp/\xff'"], ids=["control", "no-utf8"])
def test_a_name_cannot_speak_to_the_terminal(caller, state, name):
    result = session_of(caller, f"echo > {name}")
    assert result.stderr.count("\n") == 1 and "\x1b" not in result.stderr and "sandbox: /tmp/" in result.stderr


def test_whatever_a_session_leaves_there_the_end_comes(caller, state):
    """Links, loops, closed and deep directories, and more files than anybody wants to count."""
    script = """
        cd /tmp; ln -s / root; ln -s loop loop; mkdir closed; echo > closed/x; chmod 0 closed
        for i in $(seq 300); do mkdir d; cd d || break; done; echo > deep
        mkdir /tmp/many; cd /tmp/many; for i in $(seq 21000); do echo > $i; done
    """
    result = session_of(caller, script)
    assert re.fullmatch(r"nix-build-shell: (at least )?\d+ files that you wrote outside of /build went .*, such as .*\n", result.stderr)


def test_a_session_that_is_kept_loses_what_is_outside_too(caller, state):
    options = ["--keep-session", f"outside-{caller.name}"]
    result = session_of(caller, "echo x > /tmp/notes; mkdir $out; echo x > $out/x; exit 0", options=options)
    assert LOST.format("1 file", ": /tmp/notes") in result.stderr
    again = caller.run(caller.program, "sessions", "enter", options[1], input="ls $out; echo x > /tmp/more", env=state_of(caller))
    assert again.stdout == "x\n" and LOST.format("1 file", ": /tmp/more") in again.stderr


def test_a_command_is_no_session(caller, state):
    assert caller.enter("bash", "-c", "echo x > /tmp/notes", env=state_of(caller)).stderr == ""


# --- Nothing is lost -------------------------------------------------------------------------------------------------


def kept_copy(result):
    return Path(re.search("your changes are in (/.*?);", result.stderr)[1])


def test_where_no_patch_can_be_written_the_copy_is_kept(caller):
    nowhere = caller.workspace / "file"
    nowhere.write_text("")
    script = "cd /build/greeting; sed -i 's/Hello/Hullo/' greeting.c"
    result = caller.enter(input=script, env={"XDG_STATE_HOME": str(nowhere)})
    assert result.returncode == 0
    assert f"cannot make the directory {nowhere}/nix-build-shell for the patch" in result.stderr
    copy = kept_copy(result)
    assert "Hullo" in (copy / "greeting" / "greeting.c").read_text()
    # A later run leaves it alone.
    caller.enter("true")
    assert copy.exists() and copy.stat().st_uid == caller.uid


def test_where_the_kept_directory_was_changed_meanwhile_the_copy_is_kept(caller, state):
    kept = own_copy(caller, caller.kept())
    with caller.start(build_dir=kept, env=state_of(caller)) as running:
        running.say("echo ready; cd /build/greeting; sed -i 's/Hello/Hullo/' greeting.c; read -r; exit 3\n")
        assert running.line() == "ready"
        (kept / "greeting" / "greeting.c").write_text("something else\n")
        running.say("\n")
        assert running.end() == 3
        said = running.rest_of_errors()
    assert "changed in the kept build directory meanwhile" in said
    copy = Path(re.search("your changes are in (/.*?);", said)[1])
    assert "Hullo" in (copy / "greeting" / "greeting.c").read_text()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_that_ends_the_session_does_not_end_the_patch(caller, state, name):
    with caller.start(env=state_of(caller)) as running:
        running.say("cd /build/greeting; sed -i 's/Hello/Hullo/' greeting.c; echo ready; exec sleep 1000\n")
        assert running.line() == "ready"
        number = getattr(signal, name)
        running.signal(number)
        assert running.end() == 128 + number
        assert str(only_patch(caller)) in running.rest_of_errors()
    assert b"Hullo" in only_patch(caller).read_bytes()


def test_a_terminal_that_hangs_up_does_not_take_the_work_with_it(caller, state):
    command = ["env", f"XDG_STATE_HOME={state}", *caller.command_line()]
    with Terminal(caller, *command) as terminal:
        terminal.type("cd /build/greeting && sed -i 's/Hello/Hullo/' greeting.c && echo rea''dy\n")
        terminal.wait_for("ready")
    assert b"Hullo" in only_patch(caller).read_bytes()


# --- With sudo -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sudoer(user):
    """The unprivileged user, who calls sudo."""
    user.make_directory("state")
    return user


def as_sudo(user, script, **env):
    ids = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}
    build_dir = user.builds.by_daemon("greeting")
    derivation = user.builds.derivation(build_dir)
    return user.enter(
        build_dir=build_dir, options=["--derivation", str(derivation)], input=f"cd /build/greeting; {script}",
        env={**ids, **state_of(user), **env}, as_root=True, groups=[0, USER],
    )  # fmt: skip


def test_with_sudo_the_patch_is_the_users(sudoer):
    result = as_sudo(sudoer, "sed -i 's/Hello/Hullo/' greeting.c; chmod 0 greeting.c")
    patch = only_patch(sudoer)
    assert str(patch) in result.stderr, result
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (patch, patch.parent)} == {(USER, USER)}
    assert b"Hullo" in patch.read_bytes()


def test_with_sudo_nothing_is_written_where_the_user_could_not(sudoer):
    closed = sudoer.session.make_directory(f"closed-{sudoer.workspace.name}", mode=0o770)
    link = sudoer.workspace / "state" / "nix-build-shell"
    link.symlink_to(closed)
    result = as_sudo(sudoer, "sed -i 's/Hello/Hullo/' greeting.c")
    assert "Permission denied" in result.stderr
    copy = kept_copy(result)
    assert copy.stat().st_uid == USER and "Hullo" in (copy / "greeting" / "greeting.c").read_text()
    assert list(closed.iterdir()) == []
    closed.rmdir()
    subprocess.run(["rm", "-rf", copy.parent], check=True)
    closed = sudoer.session.make_directory("closed-file", mode=0o755)
    ids = {"SUDO_UID": str(sudoer.uid), "SUDO_GID": str(sudoer.uid)}
    sudoer.refused("true", options=["--save-patch", str(closed / "x")], mentions=["Permission denied"], env=ids, as_root=True)
    assert list(closed.iterdir()) == []
    closed.rmdir()
