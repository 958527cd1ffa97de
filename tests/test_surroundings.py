"""What else a build has around it: paths of the host, Nix's settings, the network, and whose Nix it was."""

import ctypes
import os
import platform
import re
import socket
import uuid
from pathlib import Path

import pytest
from support.derivation import Derivation, names, query
from support.fingerprint import fingerprint
from support.kinds import KINDS
from support.nix import USER


def under(settings, **how):
    """The arguments for a call under these settings of Nix."""
    return {**how, "env": {"NIX_CONFIG": settings, **how.get("env", {})}}


@pytest.fixture
def data(caller):
    """A directory of the caller's on the host, with something of every kind in it."""
    path = caller.make_directory("data")
    (path / "below").mkdir()
    (path / "file").write_text("of the host\n")
    (path / "below" / "deep").write_text("deep\n")
    (path / "link").symlink_to("file")
    for made in [path / "below", path / "file", path / "below" / "deep", path / "link"]:
        caller.give(made)
    return path


def store_path(caller, own_name):
    """The store path of an input of odd-inputs by its name."""
    inputs = Derivation(caller.builds.derivation(caller.builds.by_root("odd-inputs")), Path("/")).closure_of_inputs()
    (name,) = [name for name in inputs if name.split("-", 1)[1] == own_name]
    return f"/nix/store/{name}"


# --- Paths of the host -----------------------------------------------------------------------------------------------


def test_a_path_is_shown_at_its_own_place_and_cannot_be_written(caller, data):
    before = fingerprint(data)
    options = ["--bind", str(data)]
    script = 'cd "$1"; cat file link below/deep; stat --format %i file'
    printed = caller.inside(script, str(data), options=options).splitlines()
    assert printed == ["of the host", "of the host", "deep", str((data / "file").stat().st_ino)]
    for command in ["touch new", "echo more >> file", "chmod 0644 file", "rm below/deep", "chmod 0755 ."]:
        says = caller.cannot("bash", "-c", f'cd "$1"; {command}', "bash", str(data), options=options)
        assert "Read-only file system" in says
    assert fingerprint(data) == before


def test_a_path_is_shown_at_another_place(caller, data):
    options = ["--bind", f"/opt/some/where={data}", "--bind", f"/one={data}/file"]
    script = "ls /opt/some/where; cat /one; find / -maxdepth 1 | sort | tr -d '\\n'"
    assert caller.inside(script, options=options).splitlines() == [
        "below",
        "file",
        "link",
        "of the host",
        "//bin/build/dev/etc/nix/one/opt/proc/tmp",
    ]


def test_a_link_is_the_same_link_in_the_sandbox(caller, data):
    options = ["--bind", f"/link={data}/link", "--bind", f"/file={data}/file"]
    assert caller.inside("readlink /link; cat /link", options=options) == "file\nof the host\n"


@pytest.mark.parametrize("leads_to", ["/etc", "../..", "below"])
@pytest.mark.parametrize("below", ["a-link/hosts", "a-link"])
@pytest.mark.parametrize("in_words", ["--bind", "--bind-rw", "sandbox-paths"])
def test_a_link_on_the_way_to_a_place_leads_nowhere(caller, data, leads_to, below, in_words):
    """The kernel would follow it, out of the sandbox, and mount there."""
    (data / "a-link").symlink_to(leads_to)
    paths = [f"/data={data}", f"/data/{below}={data}/file"]
    if in_words == "sandbox-paths":
        how = under(f"extra-sandbox-paths = {' '.join(paths)}")
    else:
        how = {"options": [word for path in paths for word in [in_words, path]]}
    mentions = [f"{data}/file cannot be shown as /data/{below}", f"on the way there, {data}/a-link is a link"]
    caller.refused("true", mentions=mentions, **how)


def test_a_path_may_come_by_way_of_a_link(caller, data):
    (data / "a-link").symlink_to("below")
    assert caller.inside("cat /deep", options=["--bind", f"/deep={data}/a-link/deep"]) == "deep\n"


@pytest.mark.parametrize("goes", ["by a link", "by two dots"])
def test_a_path_may_come_by_way_of_the_root(caller, data, goes):
    """There the new root is mounted meanwhile, and has an etc and a tmp itself."""
    way = data / "up"
    way.symlink_to(os.path.relpath("/", data) + str(data / "below"))
    if goes == "by two dots":
        way = f"/etc/..{data}/below"
    options = ["--bind", f"/deep={way}/deep", "--bind-rw", f"/directory={way}/."]
    assert caller.inside("cat /deep /directory/deep", options=options) == "deep\ndeep\n"


def test_all_of_the_host_is_shown_without_the_new_root_that_is_mounted_on_it(caller):
    there = {name for name in os.listdir("/") if not os.path.islink(f"/{name}")}
    assert {"proc", "usr"} <= there
    seen = caller.inside("ls -A /host; ls /host/proc/sys", options=["--bind", "/host=/"])
    assert there | {"kernel"} <= set(seen.splitlines())
    says = caller.cannot("touch", f"/host{caller.tmpdir}/new", options=["--bind", "/host=/"])
    assert "Read-only file system" in says


@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_a_file_for_the_network_may_be_a_link_by_way_of_the_root(caller, data):
    """As systemd-resolved has it."""
    script = """
        mount -t tmpfs none "$1"; cp -a /etc/. "$1"; ln -sf "..$2" "$1/resolv.conf"
        mount --bind "$1" /etc; shift 2; exec "$@"
    """
    command = caller.command_line("cat", "/etc/resolv.conf", options=["--network"])
    result = caller.run("unshare", "--mount", "bash", "-euc", script, "bash", str(data / "below"), str(data / "file"), *command)
    assert (result.returncode, result.stdout, result.stderr) == (0, "of the host\n", "")


@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_a_mount_below_a_path_comes_along(caller, data):
    """Read-only as well."""
    script = 'mount -t tmpfs none "$1/below"; echo text > "$1/below/new"; shift; exec "$@"'
    inside = "cat /data/below/new; touch /data/below/new"
    command = caller.command_line("bash", "-c", inside, options=["--bind", f"/data={data}"])
    result = caller.run("unshare", "--mount", "bash", "-euc", script, "bash", str(data), *command)
    assert (result.returncode, result.stdout) == (1, "text\n")
    assert "Read-only file system" in result.stderr


@pytest.mark.parametrize("option", ["--bind", "--bind-rw"])
def test_a_path_that_may_be_missing(caller, data, option):
    options = [option, f"{data}/missing?", option, f"/there={data}/file?"]
    assert caller.inside("cat /there; [[ ! -e $1 ]]", f"{data}/missing", options=options) == "of the host\n"


@pytest.mark.parametrize("option", ["--bind", "--bind-rw"])
def test_a_path_that_is_missing(caller, data, option):
    mentions = [f"{data}/missing", "/target", "No such file", "«?»"]
    caller.refused("true", options=[option, f"/target={data}/missing"], mentions=mentions)


def test_a_path_that_the_caller_may_not_reach(user, root):
    secret = root.make_directory("secret", mode=0o700)
    (secret / "file").write_text("secret\n")
    for path in [secret, secret / "file"]:
        result = user.enter("ls", "-R", "/target", options=["--bind", f"/target={path}"])
        assert result.returncode != 0 and "file\n" not in result.stdout
        assert str(path) in result.stderr or "Permission denied" in result.stderr


@pytest.mark.parametrize("value", ["relative", "/", "/a/../b", "", "/target=relative"])
def test_what_is_no_path_is_refused(caller, value):
    caller.refused("true", options=["--bind", value], mentions=["--bind"])


def test_a_writable_path_is_the_hosts_and_nothing_else_of_it_is(caller, data):
    options = ["--bind-rw", f"/data={data}/below", "--bind-rw", f"/file={data}/file", "--bind", f"/all={data}"]
    script = """
        echo more >> /file
        echo new > /data/new; rm /data/deep; ln -s new /data/link
        for path in /all/file /all/new /all/below/new /all/below /all; do
            if chmod --reference "$path" "$path" 2>/dev/null; then echo "$path"; fi
            if (exec 3>> "$path") 2>/dev/null; then echo "$path"; fi
        done
        stat --format '%U %a' /data/new
    """
    assert caller.inside(script, options=options) == "nixbld 644\n"
    assert (data / "file").read_text() == "of the host\nmore\n"
    assert sorted(os.listdir(data / "below")) == ["link", "new"]
    assert (data / "below" / "new").stat().st_uid == caller.uid


def test_a_file_of_somebody_else_cannot_be_written_either(user, root):
    path = root.make_directory("roots")
    (path / "file").write_text("root's\n")
    says = user.cannot("bash", "-c", "echo more >> /data/file", options=["--bind-rw", f"/data={path}"])
    assert "Permission denied" in says


def test_a_path_can_take_the_place_of_what_the_sandbox_has(caller, data):
    busybox = f"{store_path(caller, 'busybox')}/busybox"
    options = ["--bind", f"/etc/hosts={data}/file", "--bind", f"/bin/sh={busybox}"]
    script = 'cat /etc/hosts; cmp /bin/sh "$1"; /bin/sh -c "echo it runs"'
    assert caller.inside(script, busybox, options=options) == "of the host\nit runs\n"


def test_a_path_can_be_shown_among_the_inputs_and_nowhere_in_a_copy(caller, data):
    options = ["--bind", f"/nix/store/data={data}"]
    assert caller.inside("cat /nix/store/data/file; touch /nix/store/new", options=options) == "of the host\n"
    caller.refused("true", options=["--store=full", *options], mentions=[data, "/nix/store/data"])
    caller.refused("true", options=["--bind", f"/build/data={data}"], mentions=[data, "nothing can be put into /build"])


# --- Nix's sandbox paths ---------------------------------------------------------------------------------------------


def test_the_shell_of_the_sandbox_is_what_nix_would_put_there(opener):
    """With the closure of its store path. Where Nix has none it is the build's."""
    busybox = store_path(opener, "busybox")
    how = under(f"sandbox-paths = /bin/sh={busybox}/busybox")
    printed = opener.inside('cmp /bin/sh "$1/busybox"; /bin/sh -c "echo it runs"; ls -A /bin', busybox, **how)
    assert printed == "it runs\nsh\n"
    assert opener.inside('cmp /bin/sh "$SHELL"', **under("sandbox-paths =")) == ""


def test_a_store_path_brings_its_closure(caller):
    link, file = store_path(caller, "a-link"), store_path(caller, "a-file")
    closure = names(query(Path("/"), "--requisites", link, file))
    inputs = Derivation(caller.builds.derivation(caller.kept()), Path("/")).closure_of_inputs()
    how = under(f"extra-sandbox-paths = {link} /file={file}")
    printed = caller.inside("cat /file; cat $1; ls -A /nix/store", link, **how).splitlines()
    assert printed == ["a file is a store path, too", "found", *sorted({*inputs, *closure})]
    printed = caller.inside("cat $1", link, options=["--bind", link])
    assert printed == "found\n"


@pytest.mark.parametrize("extent", ["closure", "full"])
def test_a_store_path_stays_read_only_whoever_names_it(caller, extent):
    file, directory = store_path(caller, "a-file"), store_path(caller, "behind-a-link")
    how = under(f"extra-sandbox-paths = {directory} /file={file} /directory={directory}", options=[f"--store={extent}"])
    for path in ["/file", "/directory", "/directory/file", directory, f"{directory}/file"]:
        # The mode is the one it has: where this goes through, no harm is done.
        assert "Read-only file system" in caller.cannot("chmod", "--reference", path, path, **how)


def test_paths_of_a_configuration_file(caller, data):
    """nix.conf, where Nix reads it; several paths, one of them missing."""
    (caller.workspace / "etc").mkdir()
    conf = caller.workspace / "etc" / "nix.conf"
    conf.write_text(f"extra-sandbox-paths = /data={data} /missing?\n")
    how = {"env": {"NIX_CONF_DIR": str(conf.parent)}}
    assert caller.inside("cat /data/file; [[ ! -e /missing ]]", **how) == "of the host\n"
    conf.write_text("# nothing any more\n")
    assert caller.inside("[[ ! -e /data ]]", **how) == ""


def test_a_path_of_nixs_can_be_written_where_the_build_could_and_no_right_of_roots_is_needed(caller, data):
    """Of what he owns, a user's own Nix lets builds write; --bind for the same target is stricter."""
    setting = f"extra-sandbox-paths = /data={data}"
    script = 'echo more >> /data/file || true; tail -n 1 /data/file'
    assert caller.inside(script, **under(setting)) == ("of the host\n" if caller.is_root else "more\n")
    for options in [["--bind", f"/data={data}"], ["--like=multi-user"]]:
        says = caller.cannot("bash", "-c", ": >> /data/file", **under(setting, options=options))
        assert "Read-only file system" in says


@pytest.mark.parametrize("caller", ["user"], indirect=True)
@pytest.mark.parametrize("kind", ["daemon", "sudo"])
def test_a_path_of_nixs_cannot_be_written_in_a_build_of_a_daemon(kind, caller, data, session, builds, workspace):
    """A build user owns nothing of the caller's."""
    opener = KINDS[kind](kind, USER, session, builds, workspace)
    how = under(f"extra-sandbox-paths = /data={data}")
    assert opener.inside("cat /data/file", **how) == "of the host\n"
    assert "Read-only file system" in opener.cannot("bash", "-c", ": >> /data/file", **how)


def test_a_path_of_nixs_that_is_missing(caller):
    caller.refused("true", mentions=["/nowhere/at/all", "No such file"], **under("extra-sandbox-paths = /nowhere/at/all"))


# --- Other settings --------------------------------------------------------------------------------------------------


def test_shared_memory_has_the_size_of_the_setting(opener):
    how = under("sandbox-dev-shm-size = 1M")
    assert opener.inside("df --block-size=K --output=size /dev/shm | tail -n 1", **how).strip() == "1024K"
    assert "No space left" in opener.cannot("dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=2", **how)
    assert opener.inside("stat --format %A /dev/shm; grep -c ' /dev/shm ' /proc/self/mountinfo", **how) == "drwxrwxrwt\n1\n"


def test_without_the_filter_modes_and_attributes_can_be_set_as_in_nix(opener):
    script = "touch file; chmod 4755 file; stat --format %A file"
    assert opener.inside(script, **under("filter-syscalls = false")) == "-rwsr-xr-x\n"
    assert "Operation not permitted" in opener.cannot("bash", "-c", "touch file; chmod 4755 file")


def test_new_privileges_are_allowed_where_nix_allows_them(opener):
    script = "grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status | tr -d '\\t'"
    expected = "CapEff:0000000000000000\nNoNewPrivs:{}\nSeccomp:2\n"
    assert opener.inside(script, **under("allow-new-privileges = true")) == expected.format(0)
    assert opener.inside(script) == expected.format(1)


def test_new_privileges_are_allowed_with_the_hosts_network_too(opener):
    """Where what keeps a build from the host's sockets asks for them to be forbidden, or for a capability."""
    how = under("allow-new-privileges = true", build_dir=opener.kept("fixed-output"))
    assert opener.inside("grep NoNewPrivs /proc/self/status", **how).split() == ["NoNewPrivs:", "0"]


def test_the_device_for_virtual_machines_is_there_with_its_feature_only(root, user):
    if not Path("/dev/kvm").exists():
        pytest.skip("this machine has no /dev/kvm")
    assert root.inside("ls /dev/kvm") == "/dev/kvm\n"
    assert root.inside("[[ ! -e /dev/kvm ]]", **under("system-features = benchmark")) == ""
    # The daemon, who asked, may use it, whatever the user's own Nix says.
    how = under("system-features = benchmark", build_dir=user.builds.by_daemon("greeting"))
    derivation = user.builds.derivation(how["build_dir"])
    assert user.inside("ls /dev/kvm", options=["--derivation", str(derivation)], **how) == "/dev/kvm\n"


def test_the_build_directory_is_where_the_setting_says(opener):
    derivation = opener.builds.derivation(opener.kept())
    how = under("sandbox-build-dir = /elsewhere/build", build_dir=derivation)
    printed = opener.inside("pwd; echo $NIX_BUILD_TOP $TMPDIR; stat --format %A .; [[ ! -e /build ]]", **how)
    assert printed == "/elsewhere/build\n/elsewhere/build /elsewhere/build\ndrwx------\n"
    assert ":/elsewhere/build:" in opener.inside("cat /etc/passwd", **how)


def test_a_setting_that_nix_does_not_understand_is_told_and_the_defaults_hold(caller):
    result = caller.enter("true", **under("sandbox-dev-shm-size"))
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1
    assert "Nix's default settings are assumed" in result.stderr


# --- Whose Nix -------------------------------------------------------------------------------------------------------

ALL = ["/", "/bin", "/dev", "/etc", "/nix", "/nix/store", "/build", "/tmp", "/dev/shm"]
# In all of Nix 2.8 to 2.35, and in both kinds.
WRITABLE = ["/nix/store", "/build", "/tmp", "/dev/shm"]
MAKE_DIRECTORIES = 'for place; do mkdir "$place/new" 2>&1 && echo "made $place" || true; done'


def made_and_refused(printed):
    lines = printed.splitlines()
    made = [line.removeprefix("made ") for line in lines if line.startswith("made ")]
    return made, [line for line in lines if not line.startswith("made ")]


@pytest.mark.parametrize("like", [[], ["--like=multi-user"], ["--like=single-user"]])
def test_what_belongs_to_nix_can_be_written_if_nix_was_the_builder_only(opener, like):
    kept = opener.kept("half-installed")
    is_multi_user = like == ["--like=multi-user"] or (not like and opener.name in ["daemon", "sudo"])
    made, refused = made_and_refused(opener.inside(MAKE_DIRECTORIES, *ALL, build_dir=kept, options=like))
    if is_multi_user:
        assert made == WRITABLE
        assert len(refused) == 5 and all("Permission denied" in line for line in refused)
    else:
        # Since Nix 2.26 nobody can write to /etc.
        assert made == [place for place in ALL if place != "/etc"]
        assert ["Permission denied" in line for line in refused] == [True]


@pytest.mark.parametrize("package", ["half-installed", "fails-before-phases"])
def test_the_home_directory_cannot_be_made_in_a_build_of_a_daemon(package, session, builds, workspace):
    """A classic of multi-user Nix."""
    for kind in ["daemon", "sudo"]:
        opener = KINDS[kind](kind, USER, session, builds, workspace)
        says = opener.cannot("bash", "-c", 'mkdir "$HOME"', build_dir=opener.kept(package))
        assert "cannot create directory '/homeless-shelter': Permission denied" in says


def test_modes_are_those_of_the_kind(caller):
    script = "stat --format '%a %n' / /bin /dev /etc /nix /nix/store /build /tmp"
    multi = caller.inside(script, options=["--like=multi-user"]).split()
    single = caller.inside(script, options=["--like=single-user"]).split()
    assert single[::2] == ["750", "755", "755", "555", "755", "1775", "700", "1777"]
    assert multi[::2] == ["550", "555", "555", "555", "555", "1775", "700", "1777"]


def test_no_other_kind_is_known(caller):
    caller.refused("true", options=["--like=someone"], mentions=["someone", "--like"])


# --- The network -----------------------------------------------------------------------------------------------------

HOSTS = [name for name in ["hosts", "resolv.conf", "services"] if Path("/etc", name).exists()]


def shares_network(opener, **how):
    return opener.inside("readlink /proc/self/ns/net", **how).strip() == os.readlink("/proc/self/ns/net")


def test_a_fixed_output_has_the_hosts_network(opener):
    kept = opener.kept("fixed-output")
    assert shares_network(opener, build_dir=kept)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        opener.inside(f"exec 3<>/dev/tcp/127.0.0.1/{port}", build_dir=kept)
    # Every other namespace is its own, and its name is no other.
    for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup"]:
        own = opener.inside(f"readlink /proc/self/ns/{kind}", build_dir=kept).strip()
        assert own != os.readlink(f"/proc/self/ns/{kind}")
    assert opener.inside("hostname; domainname", build_dir=kept) == "localhost\n(none)\n"


def test_the_network_can_be_had_and_refused_for_any_build(opener):
    fixed = opener.kept("fixed-output")
    assert not shares_network(opener)
    assert not shares_network(opener, build_dir=fixed, options=["--no-network"])
    assert shares_network(opener, options=["--network"])
    assert shares_network(opener, options=["--no-network", "--network"])
    assert not shares_network(opener, options=["--network", "--no-network"])
    # With what belongs to it.
    assert opener.inside("ls /etc", build_dir=fixed, options=["--no-network"]).split() == ["group", "hosts", "passwd"]
    hosts = opener.inside("cat /etc/hosts", build_dir=fixed, options=["--no-network"])
    assert hosts == "127.0.0.1 localhost\n::1 localhost\n"
    assert "nsswitch.conf" in opener.inside("ls /etc", options=["--network"])
    assert opener.inside("ip -json link", build_dir=fixed, options=["--no-network"]).count("ifname") == 1


def test_a_build_with_the_network_has_the_files_that_belong_to_it(opener):
    kept = opener.kept("fixed-output")
    for name in HOSTS:
        assert opener.inside(f"cat /etc/{name}", build_dir=kept) == Path("/etc", name).read_text()
        assert "Read-only file system" in opener.cannot("bash", "-c", f": >> /etc/{name}", build_dir=kept) or opener.uid
    assert opener.inside("cat /etc/nsswitch.conf", build_dir=kept) == "hosts: files dns\nservices: files\n"
    listed = opener.inside("ls /etc", build_dir=kept).split()
    assert sorted({*listed} - {"ssl"}) == sorted(["group", "passwd", "nsswitch.conf", *HOSTS])


def test_a_build_with_the_network_has_the_certificates_that_nix_would_give_it(caller):
    kept = caller.kept("fixed-output")
    bundle = caller.workspace / "bundle.crt"
    bundle.write_text("a certificate\n")
    caller.give(bundle)
    how = under(f"ssl-cert-file = {bundle}")
    if "ssl-cert-file" in caller.run("nix", "--extra-experimental-features", "nix-command", "show-config").stdout:
        assert caller.inside("cat /etc/ssl/certs/ca-certificates.crt", build_dir=kept, **how) == "a certificate\n"
    else:
        # The versions of Nix without the setting show none.
        assert caller.inside("[[ ! -e /etc/ssl ]]", build_dir=kept) == ""
    assert caller.inside("[[ ! -e /etc/ssl ]]", **how) == ""


def scopes_abstract_sockets():
    """Whether this kernel's landlock can, which it could from its sixth version on."""
    create_ruleset, version = 444, 1
    return ctypes.CDLL(None).syscall(create_ruleset, None, 0, version) >= 6


def test_the_hosts_abstract_sockets_are_out_of_reach_with_the_hosts_network(opener):
    """They belong to the network namespace: whoever shares it could connect to a display, or to a daemon."""
    if not scopes_abstract_sockets():
        pytest.skip("this kernel cannot keep a process from abstract sockets")
    kept = opener.kept("fixed-output")
    name = f"nix-build-shell-tests-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        client = opener.workspace / "client.c"
        client.write_text(CLIENT)
        how = {"build_dir": kept, "options": ["--bind", f"/client.c={client}"]}
        printed = opener.inside('gcc -o client /client.c; ./client "$1"; ./client own own', name, **how)
        assert printed == "Operation not permitted\nconnected\n"


CLIENT = r"""
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
/* Connects to an abstract socket, which with a second argument it has made itself. */
int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path + 1, argv[1]);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[1]);
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    if (argc > 2) {
        bind(server, (struct sockaddr *)&address, length);
        listen(server, 1);
    }
    puts(connect(client, (struct sockaddr *)&address, length) == 0 ? "connected" : strerror(errno));
}
"""


# --- The system ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no other machine here runs programs of an older one")
def test_a_build_for_a_machine_of_32_bits_is_told_so(opener):
    """As in Nix, whose log says the same."""
    kept = opener.kept("thirty-two-bit")
    assert "\ni686\n" in opener.builds.logs[kept]
    derivation = opener.builds.derivation(kept)
    assert opener.inside("uname -m; cat /proc/self/personality", build_dir=kept) == "i686\n00040008\n"
    assert opener.inside("uname -m", build_dir=derivation) == "i686\n"
    assert opener.inside("uname -m; cat /proc/self/personality") == "x86_64\n00040000\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Nix does so on x86_64 only")
def test_the_kernel_calls_itself_an_old_one_where_nix_says_so(opener):
    """As in Nix, whose log says the same."""
    setting = "impersonate-linux-26"
    told = re.search(r"release: (2\.6\..*)", opener.builds.logs[opener.builds.by_root_under("kernel-release", setting, "true")])
    assert told
    assert opener.inside("uname -r; cat /proc/self/personality", **under(f"{setting} = true")) == f"{told[1]}\n00060000\n"
    assert opener.inside("uname -r", **under(f"{setting} = true", build_dir=opener.kept("thirty-two-bit"))) == f"{told[1]}\n"
    assert opener.inside("uname -r") == f"{platform.release()}\n"
    plan = opener.enter("true", options=["--dry-run"], **under(f"{setting} = true")).stdout
    assert "set the personality to 0x60000 (no address randomisation, a kernel that calls itself 2.6)" in plan.splitlines()
