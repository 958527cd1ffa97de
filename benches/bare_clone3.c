// The least that a program can do here: all the namespaces by one clone3, and in them the program that is its argument.
//
// With two arguments more, a directory and a number, it also shows so many entries of the directory in an empty one, each by a mkdir
// and a bind mount: what the kernel takes for the exact store, and nothing that is looked up, decided or made read-only.

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int bind_entries(const char *directory, int wanted) {
    char source[4096];
    int bound = 0;
    DIR *entries = opendir(directory);
    if (!entries || mount("tmpfs", "/tmp", "tmpfs", 0, NULL) || chdir("/tmp"))
        return -1;
    for (struct dirent *entry; bound < wanted && (entry = readdir(entries));) {
        if (entry->d_name[0] == '.' || entry->d_type != DT_DIR)
            continue;
        snprintf(source, sizeof source, "%s/%s", directory, entry->d_name);
        if (mkdir(entry->d_name, 0755) || mount(source, entry->d_name, NULL, MS_BIND, NULL))
            return -1;
        bound++;
    }
    return bound == wanted ? 0 : -1;
}

static int write_file(long pid, const char *name, const char *content) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/%s", pid, name);
    int file = open(path, O_WRONLY);
    return file < 0 || write(file, content, strlen(content)) < 0 || close(file);
}

/* Without its maps the child can make no directory. */
static int map_ids(long pid) {
    char uid[32], gid[32];
    snprintf(uid, sizeof uid, "1000 %d 1", (int)geteuid());
    snprintf(gid, sizeof gid, "100 %d 1", (int)getegid());
    return write_file(pid, "uid_map", uid) || write_file(pid, "setgroups", "deny") || write_file(pid, "gid_map", gid);
}

int main(int argc, char **argv) {
    struct clone_args arguments = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    int go[2], binds = argc == 4;
    if (argc < 2 || (binds && pipe2(go, O_CLOEXEC)))
        return 1;
    long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) {
        char byte;
        if (binds && (read(go[0], &byte, 1) != 1 || bind_entries(argv[2], atoi(argv[3]))))
            _exit(126);
        execl(argv[1], argv[1], NULL);
        _exit(127);
    }
    int status = 1;
    if (pid > 0 && binds && (map_ids(pid) || write(go[1], "", 1) != 1))
        kill((pid_t)pid, SIGKILL);
    return pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0;
}
