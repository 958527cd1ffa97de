// At the host's processes, and at our own that are in the sandbox.
#define _GNU_SOURCE
#include "attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// The process to be got at: a stranger on the host, and in the sandbox its first process.
static pid_t target(void) { return strcmp(build, "/build") == 0 ? 1 : host_number("victim"); }

static const char *of_target(const char *name) {
    static char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", target(), name);
    return path;
}

static bool is_victim(const char *directory) {
    char path[300], line[4096] = "";
    snprintf(path, sizeof path, "%s/cmdline", directory);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, line, sizeof line - 1);
    if (file >= 0) {
        close(file);
    }
    for (ssize_t i = 0; i < size; i++) {
        line[i] = line[i] == '\0' ? ' ' : line[i];
    }
    return size > 0 && strstr(line, host("mark")) != NULL;
}
static bool see_a_process(void) { return any_process(is_victim); }

static bool signal_a_process(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld", host_number("victim"));
    return is_victim(path) && kill(host_number("victim"), 0) == 0;
}

static bool be_in_the_callers_process_group(void) { return getpgrp() == 0 || getpgrp() == host_number("group"); }
static bool be_in_the_callers_session(void) { return getsid(0) == 0 || getsid(0) == host_number("session"); }
static bool have_the_callers_terminal(void) { return open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY) >= 0; }

static bool attach(void) {
    if (ptrace(PTRACE_ATTACH, target(), NULL, NULL) != 0) {
        return false;
    }
    // It is to go on afterwards.
    waitpid(target(), NULL, __WALL);
    ptrace(PTRACE_DETACH, target(), NULL, NULL);
    return true;
}
static bool seize(void) { return ptrace(PTRACE_SEIZE, target(), NULL, NULL) == 0; }
static bool read_memory(void) {
    int memory = open(of_target("mem"), O_RDONLY | O_CLOEXEC);
    return memory >= 0;
}
static bool read_memory_by_call(void) {
    // Who may read it learns that nothing is there.
    char byte;
    struct iovec here = {&byte, 1}, there = {&byte, 1};
    return process_vm_readv(target(), &here, 1, &there, 1, 0) == 1 || errno == EFAULT;
}
static bool read_environment(void) {
    char byte;
    int environment = open(of_target("environ"), O_RDONLY | O_CLOEXEC);
    return environment >= 0 && read(environment, &byte, 1) == 1;
}
static bool take_a_descriptor(void) {
    int process = syscall(SYS_pidfd_open, target(), 0);
    for (int n = 0; n < 64; n++) {
        if (syscall(SYS_pidfd_getfd, process, n, 0) >= 0) {
            return true;
        }
    }
    return false;
}
// Who has it open can wait until it runs no more, and then write to it: CVE-2019-5736.
static bool open_executable(void) { return open(of_target("exe"), O_RDONLY | O_CLOEXEC) >= 0; }
static bool open_executable_by_path_only(void) { return open(of_target("exe"), O_PATH | O_CLOEXEC) >= 0; }

static bool enter_namespace(const char *kind) {
    char path[64];
    struct stat own, theirs;
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    int there = open(of_target(path + strlen("/proc/self/")), O_RDONLY | O_CLOEXEC);
    if (there < 0 || stat(path, &own) != 0 || fstat(there, &theirs) != 0) {
        return false;
    }
    return own.st_ino == theirs.st_ino || setns(there, 0) == 0;
}
static bool enter_mount_namespace(void) { return enter_namespace("mnt"); }
static bool enter_network_namespace(void) { return enter_namespace("net"); }
static bool enter_user_namespace(void) { return enter_namespace("user"); }

const struct attempt on_processes[] = {
    {"see a process", see_a_process},
    {"signal a process", signal_a_process},
    {"be in the caller's process group", be_in_the_callers_process_group},
    {"be in the caller's session", be_in_the_callers_session},
    {"have the caller's terminal", have_the_callers_terminal},
    {"trace a process", attach},
    {"seize a process", seize},
    {"read a process's memory", read_memory},
    {"read a process's memory by process_vm_readv", read_memory_by_call},
    {"read a process's environment", read_environment},
    {"take a process's descriptor", take_a_descriptor},
    {"open a process's executable", open_executable},
    {"open a process's executable as a path", open_executable_by_path_only},
    {"enter a process's mount namespace", enter_mount_namespace},
    {"enter a process's network namespace", enter_network_namespace},
    {"enter a process's user namespace", enter_user_namespace},
    {NULL, NULL},
};
