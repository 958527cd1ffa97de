// At what the kernel keeps for whole machines, users and namespaces: sockets, IPC, keys, settings.
#define _GNU_SOURCE
#include "attempt.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <mqueue.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static bool reaches_socket(bool is_abstract, const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path + is_abstract, sizeof address.sun_path - 1, "%s", name);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + is_abstract + strlen(name) + !is_abstract;
    return connect(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), (struct sockaddr *)&address, size) == 0;
}
static bool connect_by_path(void) { return reaches_socket(false, host("socket")); }
static bool connect_to_daemon(void) { return reaches_socket(false, host("daemon")); }
static bool connect_by_abstract_name(void) { return reaches_socket(true, host("abstract")); }

static bool connect_by_network(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(host_number("port"))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), (struct sockaddr *)&address, sizeof address) == 0;
}

static bool attach_shared_memory(void) { return shmat(host_number("shared memory"), NULL, SHM_RDONLY) != (void *)-1; }
static bool open_message_queue(void) { return msgget(host_number("key of queue"), 0) >= 0; }
static bool open_semaphores(void) { return semget(host_number("key of semaphores"), 1, 0) >= 0; }
static bool open_posix_queue(void) { return mq_open(host("posix queue"), O_RDONLY) >= 0; }
static bool open_posix_memory(void) { return shm_open(host("posix memory"), O_RDONLY, 0) >= 0; }

static bool reads_key(long key) {
    char text[256] = "";
    return key > 0 && syscall(SYS_keyctl, KEYCTL_READ, key, text, sizeof text - 1) > 0 && strstr(text, host("token"));
}
static bool search_keyring(long keyring) {
    return reads_key(syscall(SYS_keyctl, KEYCTL_SEARCH, keyring, "user", host("mark"), 0));
}
static bool find_key_in_session(void) { return search_keyring(KEY_SPEC_SESSION_KEYRING); }
static bool find_key_of_user(void) { return search_keyring(KEY_SPEC_USER_KEYRING); }
static bool request_key(void) { return reads_key(syscall(SYS_request_key, "user", host("mark"), NULL, 0)); }
static bool read_key_by_number(void) { return reads_key(host_number("key")); }

static bool set_kernel(const char *path) { return open(path, O_WRONLY | O_CLOEXEC) >= 0; }
static bool set_core_pattern(void) { return set_kernel("/proc/sys/kernel/core_pattern"); }
static bool press_system_request(void) { return set_kernel("/proc/sysrq-trigger"); }
static bool set_address_limit(void) { return set_kernel("/proc/sys/vm/mmap_min_addr"); }

// What is not the sandbox's own of the cgroups: to write to it would be to kill, to freeze or to leave.
static bool mount_cgroups(void) {
    if (!become_root_of_own_namespaces()) {
        return false;
    }
    const char *directory = new_name();
    if (mkdir(directory, 0700) != 0 || mount("none", directory, "cgroup2", 0, NULL) != 0 || chdir(directory) != 0) {
        return false;
    }
    return open("cgroup.kill", O_WRONLY | O_CLOEXEC) >= 0 || open("cgroup.procs", O_WRONLY | O_CLOEXEC) >= 0;
}

static bool type_into_terminal(void) {
    for (int n = 0; n < 3; n++) {
        // Ctrl-Q, which the terminal takes for itself and does not show.
        if (ioctl(n, TIOCSTI, "\021") == 0) {
            return true;
        }
    }
    return false;
}

// A console pastes what somebody has selected on it.
static bool speak_to_console(void) {
    for (int n = 0; n < 3; n++) {
        // TIOCL_GETSHIFTSTATE
        char request = 6;
        if (ioctl(n, TIOCLINUX, &request) == 0) {
            return true;
        }
    }
    return false;
}

static bool set_user_id_bit(void) {
    const char *path = new_name();
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    return file >= 0 && (fchmod(file, 04755) == 0 || chmod(path, 02755) == 0);
}

const struct attempt on_kernel[] = {
    {"connect to a socket by its path", connect_by_path},
    {"connect to the Nix daemon", connect_to_daemon},
    {"connect to an abstract socket", connect_by_abstract_name},
    {"connect to the host's loopback", connect_by_network},
    {"attach SysV shared memory", attach_shared_memory},
    {"open a SysV message queue", open_message_queue},
    {"open SysV semaphores", open_semaphores},
    {"open a POSIX message queue", open_posix_queue},
    {"open POSIX shared memory", open_posix_memory},
    {"find a key in the session keyring", find_key_in_session},
    {"find a key in the user keyring", find_key_of_user},
    {"request a key", request_key},
    {"read a key by its number", read_key_by_number},
    {"set kernel.core_pattern", set_core_pattern},
    {"press a system request", press_system_request},
    {"set vm.mmap_min_addr", set_address_limit},
    {"write to the caller's cgroup", mount_cgroups},
    {"type into a terminal", type_into_terminal},
    {"speak to a console", speak_to_console},
    {"set a set-id bit", set_user_id_bit},
    {NULL, NULL},
};
