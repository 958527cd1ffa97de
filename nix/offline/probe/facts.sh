# shellcheck shell=busybox
# What a process sees of the sandbox it is in, one fact a line: «SUBJECT: VALUE». A builder that prints them is a probe.
#
#     busybox sh facts.sh BUSYBOX ANSWERS
#
# ANSWERS is the program that answers.c makes; nothing else is needed. Nothing that is tried harms the sandbox's host, also
# where it succeeds: what is made goes again, and what may belong to the host is given the mode that it has.
self=/proc/$$
busybox=$1
answers=$2
for applet in cat cut df find grep id ip ls md5sum mkdir readlink rm rmdir sed sort stat tr uname; do
    # shellcheck disable=SC2139
    alias "$applet=$busybox $applet"
done

# A character that nothing printed here has in it.
other=$(printf '\001')

# one_line: its input, with the ends of lines made visible.
one_line() {
    tr '\n' "$other" | sed "s/$other\$//; s/$other/\\\\n/g"
}

# strings FILE: what ends with a NUL byte in it, a line each.
strings() {
    tr '\n\000' "$other\n" < "$1" | sed "s/$other/\\\\n/g"
}

# --- The process ------------------------------------------------------------------------------------------------------

process() {
    echo "pid: $$"
    echo "id: $(id)"
    # Names, and numbers that differ from one run to the next: states, sizes and counts.
    sed -E '/^(Name|State|SigQ|FDSize|Vm.*|Rss.*|Huge.*|.*ctxt_switches)(:|$)/d; s/[[:space:]]+/ /g; s/^/status /' $self/status
    set -- $(sed 's/.*) //' $self/stat)
    echo "process group: $3"
    echo "session: $4"
    echo "terminal: $5"
    echo "priority: ${16}"
    echo "nice: ${17}"
    echo "exit signal: ${36}"
    echo "scheduler: ${39}, priority ${38}"
    sed -E '1d; s/ +$//; s/^(.{25}) *([^ ]+) +([^ ]+) */\1: \2 \3 /; s/ +:/:/; s/ +$//; s/^/limit /' $self/limits
    for file in uid_map gid_map setgroups personality oom_score_adj coredump_filter timerslack_ns loginuid sessionid cpuset; do
        echo "$file: $(cat $self/$file 2>&1 | tr -s ' ' | sed 's/^ //' | one_line)"
    done
    for namespace in cgroup ipc mnt net pid time user uts; do
        echo "namespace $namespace: $(readlink $self/ns/$namespace)"
    done
    echo "owner of /proc/PID: $(stat -c %u:%g $self)"
    echo "working directory: $(readlink $self/cwd)"
    echo "root directory: $(readlink $self/root)"
    for descriptor in 0 1 2 3 4 5 6 7 8 9; do
        [ -e $self/fd/$descriptor ] || [ -L $self/fd/$descriptor ] || continue
        echo "descriptor $descriptor: $(readlink $self/fd/$descriptor | sed 's/:.*//; s|/pts/[0-9]*|/pts/N|')"
    done
    # By the shell alone: one that starts a program opens and closes others meanwhile.
    set -- $self/fd/*
    echo "number of descriptors: $#"
    for descriptor in 0 1 2; do
        if [ -t $descriptor ]; then echo "descriptor $descriptor is a terminal: yes"; fi
    done
    set -- /proc/[0-9]*
    echo "processes: $#"
    echo "first process: $(strings /proc/1/cmdline 2>&1 | tr '\n' ' ')"
    strings $self/environ | sed 's/=/: /; s/^/environment /' | sort
    # But for its name, which is for those who call it to choose.
    number=0
    strings $self/cmdline | sed 1d | while IFS= read -r argument; do
        number=$((number + 1))
        echo "argument $number: $argument"
    done
}

# --- The host ---------------------------------------------------------------------------------------------------------

machine() {
    echo "uname: $(uname -snrvm)"
    echo "host name: $(cat /proc/sys/kernel/hostname)"
    echo "domain name: $(cat /proc/sys/kernel/domainname)"
    echo "names in /proc: $(ls /proc | grep -v '^[0-9]' | tr '\n' ' ')"
    ip -o link | sed -E 's/^[0-9]+: ([^ ]+): <(.*)> mtu ([0-9]+).*/link \1: \2, mtu \3/'
    {
        ip -o addr | sed -E 's/^[0-9]+: ([^ ]+) +([^ ]+) +([^ ]+).*/address \1 \2 \3/'
        { ip route; ip -6 route; } | sed -E 's/ *$//; s/ +/ /g; s/^/route /'
    } | sort | sed 's/$/: yes/'
    for file in ipv4/ip_unprivileged_port_start ipv4/ping_group_range ipv4/ip_forward; do
        echo "$file: $(cat /proc/sys/net/$file | tr '\t' ' ')"
    done
}

# --- Files ------------------------------------------------------------------------------------------------------------

mounts() {
    while read -r _ _ _ _ point options rest; do
        # Optional fields say how it is connected with other mounts, up to a dash.
        connected=
        set -- $rest
        while [ "$1" != - ]; do connected="$connected ${1%%:*}"; shift; done
        echo "mount $point: $2"
        echo "options of $point: $options; ${4%%,*}${connected:+;}$connected"
    done < $self/mountinfo | sort
    echo "size of /dev/shm: $(df -k /dev/shm | sed -n '$s/^[^ ]* *\([0-9]*\) .*/\1/p')"
    echo "options of the terminals: $(sed -n 's|.* /dev/pts .* - devpts [^ ]* ||p' $self/mountinfo)"
}

entries() {
    find / -path /proc -prune -o -path '/nix/store/*/*' -prune -o -print | sort | while read -r path; do
        echo "mode of $path: $(stat -c %A "$path")"
        echo "owner of $path: $(stat -c %u:%g "$path")"
        if [ -L "$path" ]; then
            echo "link $path: $(readlink "$path")"
        elif [ -c "$path" ] || [ -b "$path" ]; then
            echo "device $path: $(stat -c %t:%T "$path")"
        elif [ -f "$path" ] && [ ! -r "$path" ]; then
            echo "content of $path: not readable"
        elif [ -f "$path" ]; then
            echo "content of $path: $(md5sum < "$path" | cut -d ' ' -f 1)"
        elif [ -d "$path" ]; then
            case $path in
                /nix/store/*) echo "files in $path: $(find "$path" | sort | md5sum | cut -d ' ' -f 1)" ;;
            esac
        fi
    done
}

# --- What is permitted -------------------------------------------------------------------------------------------------

# attempt WHAT COMMAND...: whether the command succeeds, and what it says.
attempt() {
    local what="$1" said
    shift
    if said=$("$@" 2>&1 < /dev/null); then said="yes${said:+, $said}"; else said="no, $said"; fi
    echo "try $what: $said" | one_line | sed "s|$busybox|busybox|g; s|$0: line [0-9]*: ||; s|$0|facts.sh|g; s/\$/\n/"
}

# try COMMAND...: the same for a command of busybox.
try() {
    attempt "$*" "$busybox" "$@"
}

append() {
    : >> "$1"
}

# keep_mode FILE: whether its mode can be set; it is the one that it has.
keep_mode() {
    attempt "set the mode of $1" "$busybox" chmod "$(stat -c %a "$1")" "$1"
}

make_directories() {
    for directory in / /bin /build /dev /dev/pts /dev/shm /etc /homeless-shelter /nix /nix/store /nix/var /proc /sys /tmp /usr; do
        if [ -d $directory ]; then
            keep_mode $directory
            directory=${directory%/}/new
        fi
        try mkdir $directory
        rmdir $directory 2> /dev/null
    done
}

change_files() {
    for file in /etc/passwd /etc/group /etc/hosts /etc/resolv.conf /bin/sh "$busybox" "$0" /dev/full /dev/null; do
        [ -e "$file" ] || continue
        attempt "append to $file" append "$file"
        keep_mode "$file"
    done
    # Opened for writing, and nothing written.
    for file in kernel/core_pattern kernel/hostname vm/overcommit_memory; do
        attempt "append to /proc/sys/$file" append /proc/sys/$file
    done
    : > file
    for mode in u+s g+s +t 6755; do try chmod $mode file; done
    try chown 0 file
    try chown 1000:100 file
    try chgrp 65534 file
    try mknod character c 1 3
    try mknod pipe p
    try ln -s nowhere link
    try ln file hard
    rm -f character pipe link hard file
    try ln "$0" hard
    rm -f hard
    mkdir directory
    try chmod g+s directory
    rmdir directory
}

change_mounts() {
    mkdir directory
    try mount -t tmpfs none directory
    try mount -t proc none directory
    try mount -o bind /etc directory
    try mount -o remount,ro /
    try umount /proc
    try umount /build
    try chroot / "$busybox" true
    rmdir directory
}

change_namespaces() {
    local nested="unshare -U -r"
    try hostname other
    try ip link set lo down
    try unshare -U "$busybox" true
    try $nested "$busybox" id -u
    for namespace in m n i p u; do
        try unshare -$namespace "$busybox" true
        try $nested -$namespace "$busybox" true
    done
    try $nested -m "$busybox" mount -t tmpfs none /tmp
    try $nested -m "$busybox" mount -o remount,bind,rw /nix/store
    try $nested -m "$busybox" umount /build
    try $nested -m -p -f "$busybox" mount -t proc none /proc
    try $nested -u "$busybox" hostname other
    try $nested -n "$busybox" ip link set lo up
}

other_attempts() {
    attempt "renice itself" "$busybox" renice -n 0 -p $$
    try kill -0 1
    attempt "ulimit -c unlimited" ulimit -c unlimited
    try readlink /proc/1/exe
    try readlink /proc/1/root
    try ls /nix/var
    try ls /bin
    try tty
    attempt "open /dev/tty" append /dev/tty
    try ping -c 1 -W 1 127.0.0.1
    try dmesg
    try setsid "$busybox" true
}

# partial_outputs: a build that has several leaves one that is a directory, one that is a file, and one not at all. When it is
# run again there, it makes them anew.
partial_outputs() {
    # shellcheck disable=SC2154
    [ -n "${outputs-}" ] || return 0
    # shellcheck disable=SC2154
    for path in "$out" "$dev" "$doc"; do
        try rm -rf "$path"
        attempt "append to $path" append "$path"
        try rm "$path"
        try mkdir "$path"
    done
    attempt "append to $out/file" append "$out/file"
    rm -rf "$dev" "$doc"
    append "$dev"
}

echo "--- facts begin ---"
{
    process
    machine
    mounts
    entries
    make_directories
    change_files
    change_mounts
    change_namespaces
    other_attempts
    "$answers"
    partial_outputs
} 2>&1
echo "--- facts end ---"
exit 1
