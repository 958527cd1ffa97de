"""The file system: what is there, what it is made of, and what cannot be changed or reached."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from support.confinement import as_caller
from support.session import CHECKOUT

# Directory, mode: as the probes that Nix built saw them (shared/nix-sandbox).
MODES = {
    "/": "drwxr-x---",
    "/bin": "drwxr-xr-x",
    "/build": "drwx------",
    "/dev": "drwxr-xr-x",
    "/dev/pts": "drwxr-xr-x",
    "/dev/shm": "drwxrwxrwt",
    "/etc": "dr-xr-xr-x",
    "/nix": "drwxr-xr-x",
    "/proc": "dr-xr-xr-x",
    "/tmp": "drwxrwxrwt",
}

# Of the files that Nix writes: MD5, as the same probes printed it.
ETC_FILES = {
    "group": "0e019bc44e80f88d065d72bee5a86f2c",
    "hosts": "2d05346fdd41a4f9300960e817911cc8",
    "passwd": "18ec084f2a234ba1327b9551e06fd72f",
}

# Device, major and minor number in hexadecimal: they are the kernel's and never change.
DEVICES = {
    "full": "1:7",
    "null": "1:3",
    "ptmx": "5:2",
    "random": "1:8",
    "tty": "5:0",
    "urandom": "1:9",
    "zero": "1:5",
}
KVM = {"kvm": "a:e8"}

LINKS = {
    "fd": "/proc/self/fd",
    "stderr": "/proc/self/fd/2",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
}


def devices(caller):
    """Nix shows the device for virtual machines where whoever builds may use it."""
    has_kvm = caller.run("test", "-r", "/dev/kvm", "-a", "-w", "/dev/kvm").returncode == 0
    return DEVICES | KVM if has_kvm else DEVICES


def names(caller, directory):
    return caller.inside('find "$1" -mindepth 1 -maxdepth 1 -printf "%f\\n" | sort', directory).split()


def test_the_root_holds_seven_directories_and_nothing_else(caller):
    assert names(caller, "/") == ["bin", "build", "dev", "etc", "nix", "proc", "tmp"]


@pytest.mark.parametrize("directory", MODES)
def test_a_directory_has_the_mode_that_nix_gives_it(caller, directory):
    assert caller.inside('stat --format %A "$1"', directory) == MODES[directory] + "\n"


def test_the_build_directory_is_where_the_command_begins(caller):
    assert caller.inside('echo "$(readlink /proc/self/cwd)"') == "/build\n"


def test_it_is_a_file_system_of_its_own_in_memory(caller):
    assert caller.inside("stat --file-system --format %T / /tmp /etc /bin").split() == ["tmpfs"] * 4


# --- /nix ------------------------------------------------------------------------------------------------------------


def test_a_store_path_is_the_hosts(caller):
    shell = caller.inside("echo $SHELL").strip()
    assert caller.inside('md5sum < "$1"', shell) == hashlib.md5(Path(shell).read_bytes()).hexdigest() + "  -\n"
    assert caller.inside('stat --format %i "$1"', shell) == f"{os.stat(shell).st_ino}\n"


@pytest.mark.parametrize(
    "command",
    [
        "chmod 0555 $SHELL",
        "touch --no-create --date @1 $SHELL",
        "touch ${SHELL%/*}/new",
        "mv $SHELL $SHELL-old",
        "rm $SHELL",
        "ln $SHELL ${SHELL%/*}/new",
        "chmod 0555 /bin/sh",
    ],
)
def test_no_store_path_can_be_changed(caller, command):
    """Modes and times are those that it has: where this goes through, no harm is done."""
    assert "Read-only file system" in caller.cannot("bash", "-c", command)


def test_a_nested_root_cannot_make_it_writable_again(user):
    """In a user namespace of its own a build may mount, but flags that came from outside are locked."""
    store_path = user.inside("echo ${SHELL%/bin/*}").strip()
    attempt = ["unshare", "--user", "--map-root-user", "--mount", "mount", "--options", "remount,bind,rw", store_path]
    assert "permission denied" in user.cannot(*attempt)


def test_a_nested_root_cannot_look_below_a_mount(user):
    for mount in ["/nix/store", "/build", "/proc", "/dev/shm", "/dev/null"]:
        user.cannot("unshare", "--user", "--map-root-user", "--mount", "umount", mount)


def test_nothing_of_nixs_own_state_is_shown(caller):
    """No builder sees it, and the socket of a daemon could be used through a read-only mount."""
    assert names(caller, "/nix") == ["store"]


# --- /build and /tmp -------------------------------------------------------------------------------------------------


def test_the_build_directory_can_be_written_and_programs_in_it_run(caller):
    script = "printf '#!%s\\necho it runs\\n' $SHELL > program; chmod +x program; ./program"
    assert caller.inside(script) == "it runs\n"


def test_what_is_written_does_not_reach_the_kept_directory(caller):
    """That the kept directory is as before is checked after every test."""
    caller.inside("echo more >> env-vars; rm -r greeting; mkdir new; chmod 0 /build")
    assert caller.inside("ls /build") == "env-vars\ngreeting\n"


def test_tmp_is_empty_and_everybody_may_write_to_it(caller):
    assert caller.inside("find /tmp -mindepth 1; echo text > /tmp/file; cat /tmp/file") == "text\n"


# --- /bin and /etc ---------------------------------------------------------------------------------------------------


def test_bin_holds_sh_which_is_the_builds_shell(caller):
    assert names(caller, "/bin") == ["sh"]
    assert (
        caller.inside('cmp /bin/sh "$SHELL"; stat --format %A /bin/sh; /bin/sh -c "echo it runs"') == "-r-xr-xr-x\nit runs\n"
    )


def test_etc_holds_three_files_with_nixs_content(caller):
    assert names(caller, "/etc") == sorted(ETC_FILES)
    lines = caller.inside("cd /etc; md5sum group hosts passwd").splitlines()
    assert dict(reversed(line.split()) for line in lines) == ETC_FILES
    assert caller.inside("stat --format %A /etc/*").split() == ["-rw-r--r--"] * 3


def test_nothing_can_be_put_into_etc(caller):
    """In a multi-user Nix, and in every Nix since 2.26, it cannot."""
    assert "Permission denied" in caller.cannot("touch", "/etc/resolv.conf")


# --- /dev ------------------------------------------------------------------------------------------------------------


def test_dev_holds_nixs_devices_and_links(caller):
    assert names(caller, "/dev") == sorted([*devices(caller), *LINKS, "pts", "shm"])


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_is_the_one_of_its_name(caller, device):
    kind, number = caller.inside('stat --format "%F %t:%T" "/dev/$1"', device).rsplit(maxsplit=1)
    assert kind == "character special file"
    assert number == DEVICES[device]


def test_the_devices_work(caller):
    script = """
        echo gone > /dev/null
        cat /dev/null
        head -c 4 /dev/zero | od -An -tx1
        head -c 4 /dev/urandom | wc -c
        head -c 4 /dev/random | wc -c
        echo 2>/dev/null text > /dev/full || echo full
    """
    assert caller.inside(script).split() == ["00"] * 4 + ["4", "4", "full"]


def test_the_links_lead_to_the_commands_own_descriptors(caller):
    assert caller.inside("cd /dev; readlink fd stderr stdin stdout").split() == list(LINKS.values())
    # The pipes have to be the caller's own, since to go through these links is to open them once more.
    use = caller.command_line("bash", "-c", "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr; ls /dev/fd/")
    result = caller.run("bash", "-c", 'echo in | "$@" 2>&1 | cat', "bash", *use)
    assert result.stdout.split() == ["in", "out", "err", "0", "1", "2", "3"]


def test_shared_memory_is_a_tmpfs_of_the_sandboxs_own(caller):
    script = "stat --file-system --format %T /dev/shm; ls -A /dev/shm; echo text > /dev/shm/file; cat /dev/shm/file"
    assert caller.inside(script) == "tmpfs\ntext\n"
    assert not Path("/dev/shm/file").exists()


def test_a_pseudo_terminal_can_be_made(caller):
    """The first of the sandbox's own, not one among the host's."""
    assert caller.inside("script --quiet --return --command tty /dev/null").strip() == "/dev/pts/0"


def test_the_hosts_terminals_are_out_of_reach(caller):
    ours, theirs = os.openpty()
    try:
        assert Path(os.ttyname(theirs)).exists()
        assert names(caller, "/dev/pts") == ["ptmx"]
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("device", ["full", "null", "random", "tty", "urandom", "zero"])
def test_the_hosts_devices_cannot_be_changed(caller, device):
    """The mode that is asked for is the one it has: where this goes through, no harm is done."""
    before = os.stat(f"/dev/{device}")
    caller.cannot("chmod", "0666", f"/dev/{device}")
    caller.cannot("touch", "--no-create", "--date=@1", f"/dev/{device}")
    assert os.stat(f"/dev/{device}") == before


def test_no_device_can_be_made(caller):
    assert "Operation not permitted" in caller.cannot("mknod", "/build/null", "c", "1", "3")


# --- /proc -----------------------------------------------------------------------------------------------------------


def test_no_setting_of_the_kernel_can_be_written(caller):
    """Opened for writing, and nothing written: where this goes through, no harm is done."""
    script = """
        find /proc -mindepth 1 -path '/proc/[0-9]*' -prune -o -type f -print > /tmp/files 2>/dev/null || true
        [[ $(wc -l < /tmp/files) -gt 100 ]]
        while read -r file; do
            if (exec 3>> "$file") 2>/dev/null; then echo "$file"; fi
        done < /tmp/files
    """
    writable = caller.inside(script).split()
    # What every user of the machine may do without a sandbox, too, is no right that it gives.
    assert [file for file in writable if not os.stat(file).st_mode & stat.S_IWOTH] == []


@pytest.mark.parametrize("setting", ["kernel/core_pattern", "kernel/printk", "vm/overcommit_memory"])
def test_a_dangerous_setting_cannot_be_written(caller, setting):
    script = 'exec 3>> "/proc/sys/$1"'
    says = caller.cannot("bash", "-c", script, "bash", setting)
    assert "Read-only file system" in says if caller.is_root else "Permission denied" in says


# --- The host --------------------------------------------------------------------------------------------------------


def test_the_hosts_files_are_not_there(caller):
    paths = [
        "/home",
        "/root",
        "/usr",
        "/sys",
        "/run",
        "/var",
        "/etc/shadow",
        "/etc/resolv.conf",
        str(CHECKOUT),
        str(caller.workspace),
    ]
    script = 'for path; do [[ ! -e $path && ! -L $path ]] || echo "$path"; done'
    assert caller.inside(script, *paths) == ""


@pytest.mark.parametrize("way", ["/..", "/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/build/..", "/tmp/../.."])
def test_no_way_leads_out_of_the_root(caller, way):
    listed = caller.enter("bash", "-c", 'ls -A "$1"', "bash", way).stdout.split()
    assert listed in ([], ["bin", "build", "dev", "etc", "nix", "proc", "tmp"])


def test_a_nested_chroot_does_not_lead_to_the_old_root(user):
    """The classic way out of a mere chroot: a directory kept open from before another one."""
    script = """
        unshare --user --map-root-user bash -c '
            mkdir -p /tmp/jail
            exec 3< /
            chroot /tmp/jail /proc/self/fd/3/bin/sh -c true 2>/dev/null
            cd -P /proc/self/fd/3/../../.. && ls -A'
    """
    assert user.inside(script).split() == ["bin", "build", "dev", "etc", "nix", "proc", "tmp"]


def test_the_mount_table_holds_the_sandboxs_own_mounts_and_no_more(caller):
    points = {line.split()[4] for line in caller.inside("cat /proc/self/mountinfo").splitlines()}
    bound = {"/", "/bin/sh", "/build", "/dev/pts", "/dev/shm", "/nix/store", "/proc"}
    bound |= {f"/dev/{device}" for device in devices(caller)}
    # Each store path; and as root some of /proc is bound once more.
    more = {point for point in points - bound if not point.startswith("/nix/store/")}
    assert points >= bound
    assert all(point.startswith("/proc/") for point in more), more
    assert caller.is_root or not more


def test_every_mount_in_the_store_is_read_only(caller):
    mounts = [line.split() for line in caller.inside("cat /proc/self/mountinfo").splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    in_store = [point for point in options if point.startswith("/nix/store/")]
    assert in_store and all("ro" in options[point] for point in in_store)


def test_no_mount_is_shared_with_a_host_that_shares_its_own(caller):
    """As under systemd. Not even in one direction: what is mounted on the host later stays out."""
    shared = ["unshare", "--mount", "bash", "-c", 'mount --make-rshared /; exec "$@"', "bash", *as_caller(caller)]
    result = caller.run(*shared, *caller.command_line("cat", "/proc/self/mountinfo"), as_root=True)
    lines = result.stdout.splitlines()
    assert len(lines) > 10
    assert not [line for line in lines if "shared:" in line or "master:" in line]


def test_a_host_whose_mounts_are_shared_sees_none_of_ours(caller):
    """As under systemd, which shares every mount: the table is looked at while the sandbox runs."""
    script = 'mount --make-rshared / && cat /proc/self/mountinfo > "$0" && "$@" && cat /proc/self/mountinfo >> "$0"'
    table = caller.make_directory("table") / "mounts"
    command = caller.command_line("bash", "-c", "echo started; read -r line")
    inner = [
        "unshare",
        "--mount",
        "--propagation",
        "unchanged",
        "bash",
        "-c",
        WHILE_IT_RUNS,
        str(table),
        *as_caller(caller),
        *command,
    ]
    result = caller.run(
        "unshare", "--mount", "bash", "-c", 'mount --make-rshared /; exec "$@"', "bash", *inner, as_root=True
    )
    assert result.returncode == 0, result
    before, during, after = Path(table).read_text().split("===\n")
    assert before and before == during == after


WHILE_IT_RUNS = """
table() { cat /proc/self/mountinfo >> "$0"; }
table
coproc "$@"
read -r line <&"${COPROC[0]}"
[[ $line == started ]]
echo === >> "$0"; table
echo >&"${COPROC[1]}"
wait $COPROC_PID
echo === >> "$0"; table
"""


def test_the_kind_of_every_entry_of_dev_is_known_to_stat_on_the_host_too(caller):
    """Through the host's own eyes: what is bound there is the host's device and no file that looks like it."""
    with caller.start("bash", "-c", "echo started; read -r line") as running:
        running.line()
        for device in devices(caller):
            status = os.stat(f"/proc/{running.command}/root/dev/{device}")
            assert stat.S_ISCHR(status.st_mode)
