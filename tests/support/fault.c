// Runs a program, lets every system call of it and its children pass, and makes one of them fail: the OCCURRENCE-th of that NUMBER in
// the PROCESS-th process, in the order in which they made their first call. Without one to fail it writes down all of them.
//
//     fault TRACE - - - - PROGRAM ARGUMENT...
//     fault -     PROCESS NUMBER OCCURRENCE ERRNO PROGRAM ARGUMENT...
//     fault -     PROCESS NUMBER OCCURRENCE kVICTIM PROGRAM ARGUMENT...
//
// In the last form the call passes, and before it does, the VICTIM-th process is killed, if it is there.
//
// The calls are counted from the program's own first one. Ends with the program's exit status (128+n for the signal n), or 99 where a
// process of it outlives it by more than five seconds.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096 };

static void fail(const char *what) {
    perror(what);
    exit(98);
}

static int begin(void *argument) {
    char **command = argument;
    struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)};
    struct sock_fprog program = {1, all};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        fail("no_new_privs");
    // The table of descriptors is shared until the execve: there the other side finds it.
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) < 0)
        _exit(98);
    execv(command[0], command);
    _exit(98);
}

int main(int argc, char **argv) {
    if (argc < 7)
        return 98;
    FILE *trace = strcmp(argv[1], "-") ? fopen(argv[1], "we") : NULL;
    long wanted[4] = {-1, -1, -1, -1};
    for (int i = 0; i < 4 && !trace; i++)
        wanted[i] = atol(argv[2 + i]);
    int kills = argv[5][0] == 'k', victim = kills ? atoi(argv[5] + 1) : -1;
    char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // The lowest free descriptor is the listener's.
    int listener = open("/dev/null", O_RDONLY);
    close(listener);
    pid_t child = clone(begin, stack + (1 << 16), CLONE_FILES | SIGCHLD, argv + 6);
    if (child < 0)
        fail("clone");
    while (fcntl(listener, F_GETFD) < 0) {
        siginfo_t ended = {0};
        if (waitid(P_PID, child, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid)
            return 98;
        sched_yield();
    }
    static pid_t processes[MOST];
    int count = 0, status = -1, has_begun = 0;
    long seen = 0;
    struct timespec end = {0};
    for (;;) {
        struct pollfd event = {listener, POLLIN, 0};
        int ready = poll(&event, 1, 100);
        if (status < 0 && waitpid(child, &status, WNOHANG) == child)
            clock_gettime(CLOCK_MONOTONIC, &end);
        if (ready > 0 && event.revents & POLLHUP)
            break;
        if (status >= 0) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            if (now.tv_sec - end.tv_sec > 5)
                return 99;
        }
        if (ready <= 0)
            continue;
        struct seccomp_notif call = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0)
            continue;
        struct seccomp_notif_resp answer = {call.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (has_begun) {
            int process = 0;
            while (process < count && processes[process] != (pid_t)call.pid)
                process++;
            if (process == count && count < MOST)
                processes[count++] = call.pid;
            // Nothing can go wrong where a limit is only read.
            if (call.data.nr == SYS_prlimit64 && call.data.args[2] == 0)
                ;
            else if (trace)
                fprintf(trace, "%d %d\n", process, call.data.nr);
            else if (process == wanted[0] && call.data.nr == wanted[1] && ++seen == wanted[2]) {
                if (kills && victim < count)
                    kill(processes[victim], SIGKILL);
                if (!kills) {
                    answer.flags = 0;
                    answer.error = -wanted[3];
                }
            }
        }
        has_begun |= call.data.nr == SYS_execve;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    if (status < 0)
        waitpid(child, &status, 0);
    if (trace)
        fclose(trace);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
