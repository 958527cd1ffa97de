#define _GNU_SOURCE
#include "attempt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_FACTS = 64, MOST_DESCRIPTORS = 1024, PATIENCE = 10 };

const char *build;
static char *names[MOST_FACTS], *values[MOST_FACTS];
static int facts;
static bool inherited[MOST_DESCRIPTORS];

const char *host(const char *name) {
    for (int i = 0; i < facts; i++) {
        if (strcmp(names[i], name) == 0) {
            return values[i];
        }
    }
    fprintf(stderr, "the host has no %s\n", name);
    exit(2);
}

long host_number(const char *name) { return strtol(host(name), NULL, 10); }

bool reads_secret(int descriptor) {
    char text[256] = "";
    return descriptor >= 0 && pread(descriptor, text, sizeof text - 1, 0) > 0 && strstr(text, host("token")) != NULL;
}

bool has_secret(int directory) {
    int file = openat(directory, "secret", O_RDONLY | O_CLOEXEC);
    bool found = reads_secret(file);
    if (file >= 0) {
        close(file);
    }
    return found;
}

bool shows_secret(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool found = reads_secret(file);
    if (file >= 0) {
        close(file);
    }
    return found;
}

bool any_process(bool (*there)(const char *directory)) {
    DIR *all = opendir("/proc");
    bool found = false;
    for (struct dirent *entry; !found && all != NULL && (entry = readdir(all)) != NULL;) {
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') {
            char directory[300];
            snprintf(directory, sizeof directory, "/proc/%s", entry->d_name);
            found = there(directory);
        }
    }
    if (all != NULL) {
        closedir(all);
    }
    return found;
}

const char *new_name(void) {
    static char path[4096];
    static int number;
    snprintf(path, sizeof path, "%s/attempt-%d-%d", build, getpid(), number++);
    return path;
}

bool was_inherited(int n) { return inherited[n]; }

static bool write_text(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_CLOEXEC);
    bool written = file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text);
    if (file >= 0) {
        close(file);
    }
    return written;
}

bool become_root_of_own_namespaces(void) {
    char map[64];
    int uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP) != 0) {
        return false;
    }
    snprintf(map, sizeof map, "0 %d 1", uid);
    bool mapped = write_text("/proc/self/uid_map", map);
    write_text("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %d 1", gid);
    return mapped && write_text("/proc/self/gid_map", map);
}

// Each in a process of its own, so that none spoils the next one.
static void report(const struct attempt *attempt) {
    pid_t child = fork();
    if (child == 0) {
        alarm(PATIENCE);
        _exit(attempt->run() ? 10 : 11);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    const char *answer = !WIFEXITED(status)          ? "was killed"
                         : WEXITSTATUS(status) == 10 ? "came through"
                         : WEXITSTATUS(status) == 11 ? "was held"
                                                     : "could not be made";
    printf("%s: %s\n", attempt->name, answer);
    fflush(stdout);
}

static void read_facts(const char *path) {
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    while (facts < MOST_FACTS && getline(&line, &room, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, '=');
        if (value != NULL) {
            *value = '\0';
            names[facts] = strdup(line);
            values[facts++] = strdup(value + 1);
        }
    }
    free(line);
    fclose(file);
}

// Makes the attempts that are named, or all of them: `attempt FACTS BUILD_DIRECTORY [NAME]...`
int main(int argc, char **argv) {
    for (int n = 3; n < MOST_DESCRIPTORS; n++) {
        inherited[n] = fcntl(n, F_GETFD) >= 0;
    }
    if (argc < 3) {
        return 2;
    }
    read_facts(argv[1]);
    build = argv[2];
    const struct attempt *lists[] = {on_files, on_processes, on_kernel};
    for (size_t list = 0; list < sizeof lists / sizeof *lists; list++) {
        for (const struct attempt *attempt = lists[list]; attempt->name != NULL; attempt++) {
            bool wanted = argc == 3;
            for (int i = 3; i < argc; i++) {
                wanted |= strcmp(argv[i], attempt->name) == 0;
            }
            if (wanted) {
                report(attempt);
            }
        }
    }
    return 0;
}
