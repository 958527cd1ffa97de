// What the kernel answers to system calls that no command makes, one fact a line: «call WHAT: yes» or the name of an errno.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <unistd.h>

static const char *const FILE_HERE = "file-of-calls";

static void tell(const char *what, long result) {
    if (result == -1) {
        printf("call %s: %s\n", what, strerrorname_np(errno));
    } else {
        printf("call %s: yes\n", what);
    }
    fflush(stdout);
}

static void tell_number(const char *what, long result) {
    if (result == -1) {
        tell(what, result);
    } else {
        printf("call %s: %ld\n", what, result);
    }
}

static void processes(void) {
    tell_number("umask", umask(022));
    tell_number("personality", personality(0xffffffff));
    tell_number("dumpable", prctl(PR_GET_DUMPABLE));
    tell_number("keep capabilities", prctl(PR_GET_KEEPCAPS));
    tell_number("secure bits", prctl(PR_GET_SECUREBITS));
    tell_number("timer slack", prctl(PR_GET_TIMERSLACK));
    int value = -1;
    tell("read the death signal", prctl(PR_GET_PDEATHSIG, &value));
    printf("call death signal: %d\n", value);
    tell("read whether it adopts", prctl(PR_GET_CHILD_SUBREAPER, &value));
    printf("call adopts orphans: %d\n", value);
    tell_number("store bypass", prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0));
    tell_number("indirect branch", prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0));
    tell_number("input and output priority", syscall(SYS_ioprio_get, 1, 0));
    tell_number("session id", getsid(0));
    tell("setresuid 0", setresuid(0, 0, 0));
    tell("setresuid 1000", setresuid(1000, 1000, 1000));
    tell("setresgid 100", setresgid(100, 100, 100));
    tell("setgroups", syscall(SYS_setgroups, 0, NULL));
    tell("nice -1", setpriority(PRIO_PROCESS, 0, -1));
    struct rlimit cores = {RLIM_INFINITY, RLIM_INFINITY};
    tell("unlimited core dumps", setrlimit(RLIMIT_CORE, &cores));
    tell("sethostname", sethostname("other", 5));
    tell("drop a capability for ever", prctl(PR_CAPBSET_DROP, 0, 0, 0, 0));
    tell("ptrace the first process", ptrace(PTRACE_SEIZE, 1, NULL, NULL));
    tell("setns of the first process's user namespace",
         setns(open("/proc/1/ns/user", O_RDONLY), CLONE_NEWUSER));
    tell("setns of the first process's mount namespace", setns(open("/proc/1/ns/mnt", O_RDONLY), CLONE_NEWNS));
    pid_t child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        _exit(0);
    }
    waitpid(child, NULL, WUNTRACED);
    tell("ptrace a child", ptrace(PTRACE_SEIZE, child, NULL, NULL));
    char byte;
    struct iovec here = {&byte, 1}, there = {&byte, 1};
    tell("read a child's memory", process_vm_readv(child, &here, 1, &there, 1, 0));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    static const struct {
        const char *name;
        int flag;
    } namespaces[] = {
        {"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID},       {"ipc", CLONE_NEWIPC},
        {"uts", CLONE_NEWUTS},   {"net", CLONE_NEWNET},  {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80},
    };
    for (size_t each = 0; each < sizeof namespaces / sizeof *namespaces; each++) {
        char what[64];
        snprintf(what, sizeof what, "unshare %s", namespaces[each].name);
        child = fork();
        if (child == 0) {
            tell(what, unshare(namespaces[each].flag));
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
}

static void files(void) {
    int file = open(FILE_HERE, O_RDWR | O_CREAT, 0644);
    tell("make a file", file);
    tell("setxattr", setxattr(FILE_HERE, "user.name", "value", 5, 0));
    char value[16];
    tell("getxattr", getxattr(FILE_HERE, "user.name", value, sizeof value));
    tell("listxattr", listxattr(FILE_HERE, value, sizeof value));
    tell("removexattr", removexattr(FILE_HERE, "user.name"));
    tell("chmod 4755", chmod(FILE_HERE, 04755));
    tell("fchmod 2755", fchmod(file, 02755));
    tell("fchmodat2 4755", syscall(452, AT_FDCWD, FILE_HERE, 04755, 0));
    tell("fchmodat2 0644", syscall(452, AT_FDCWD, FILE_HERE, 0644, 0));
    tell("mknod device", mknod("device-of-calls", S_IFCHR | 0644, 0x103));
    tell("open with a set-id mode", open("set-id-of-calls", O_WRONLY | O_CREAT, 04755));
    struct stat status;
    if (stat("set-id-of-calls", &status) == 0) {
        printf("call mode of what was opened so: %o\n", status.st_mode & 07777);
    }
    unlink("set-id-of-calls");
    tell("a nameless file", open(".", O_RDWR | O_TMPFILE, 0600));
    tell("a hole", fallocate(file, 0, 0, 4096));
    tell("lock", lockf(file, F_TLOCK, 0));
    tell("memfd", syscall(SYS_memfd_create, "memory", 0));
    tell("a huge page", (long)mmap(NULL, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
    tell("executable memory", (long)mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    tell("locked memory", mlock(value, 1));
    struct file_handle *handle = malloc(sizeof *handle + MAX_HANDLE_SZ);
    handle->handle_bytes = MAX_HANDLE_SZ;
    int mount;
    tell("name_to_handle_at", name_to_handle_at(AT_FDCWD, ".", handle, &mount, 0));
    tell("open_by_handle_at", open_by_handle_at(AT_FDCWD, handle, O_RDONLY));
    unlink(FILE_HERE);
}

static int internet(int family, int type, int protocol, const char *what) {
    int made = socket(family, type | SOCK_CLOEXEC, protocol);
    tell(what, made);
    return made;
}

// Connecting a datagram socket sends nothing: it only asks whether there is a way.
static void route(const char *what, const char *address) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, address, &to.sin_addr);
    tell(what, connect(socket(AF_INET, SOCK_DGRAM, 0), (void *)&to, sizeof to));
}

static void abstract(const char *what, const char *name, int (*act)(int, const struct sockaddr *, socklen_t)) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path + 1, name);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    tell(what, act(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&at, length));
}

// In the host's network somebody may listen there.
static const char *const NAME_OUTSIDE = "nix-build-shell-probe-outside";

static void sockets(void) {
    int listener = internet(AF_INET, SOCK_STREAM, 0, "tcp socket");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    tell("bind to 127.0.0.1", bind(listener, (void *)&at, length));
    tell("listen", listen(listener, 1));
    getsockname(listener, (void *)&at, &length);
    tell("connect to 127.0.0.1", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&at, length));
    int six = internet(AF_INET6, SOCK_STREAM, 0, "tcp socket, IPv6");
    struct sockaddr_in6 at_six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    tell("bind to ::1", bind(six, (void *)&at_six, sizeof at_six));
    struct sockaddr_in low = {.sin_family = AF_INET, .sin_port = htons(79), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    tell("bind to port 79", bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&low, sizeof low));
    route("a way to 127.0.0.1", "127.0.0.1");
    route("a way to 192.0.2.1", "192.0.2.1");
    internet(AF_INET, SOCK_RAW, IPPROTO_ICMP, "raw socket");
    internet(AF_INET, SOCK_DGRAM, IPPROTO_ICMP, "ping socket");
    internet(AF_PACKET, SOCK_RAW, 0, "packet socket");
    internet(AF_NETLINK, SOCK_RAW, 0, "netlink socket");
    internet(AF_VSOCK, SOCK_STREAM, 0, "vsock socket");
    internet(AF_ALG, SOCK_SEQPACKET, 0, "socket of the kernel's cryptography");
    abstract("bind to an abstract name", "nix-build-shell-probe", bind);
    abstract("connect to an abstract name outside", NAME_OUTSIDE, connect);
}

static void others(void) {
    int null = open("/dev/null", O_RDWR);
    tell("open /dev/null", null);
    tell("TCGETS", ioctl(null, TCGETS, NULL));
    tell("TIOCSTI", ioctl(null, TIOCSTI, "x"));
    tell("TIOCLINUX", ioctl(null, TIOCLINUX, "x"));
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    tell("a terminal of its own", terminal);
    tell("unlock it", unlockpt(terminal));
    char name[64] = "";
    if (ptsname_r(terminal, name, sizeof name) == 0) {
        printf("call its name: %s\n", name);
        tell("open it", open(name, O_RDWR | O_NOCTTY));
        struct stat status;
        if (stat(name, &status) == 0) {
            printf("call its mode: %o %d:%d\n", status.st_mode & 07777, (int)status.st_uid, (int)status.st_gid);
        }
    }
    tell("open /dev/tty", open("/dev/tty", O_RDWR));
    tell("open /dev/kvm", open("/dev/kvm", O_RDWR));
    tell("open /dev/full", open("/dev/full", O_RDWR));
    tell("open /dev/random", open("/dev/random", O_RDWR));
    enum { GET_KEYRING_ID = 0, READ = 11, SESSION = -3 };
    tell_number("bytes of numbers of keys in the session keyring", syscall(SYS_keyctl, READ, SESSION, NULL, 0));
    tell("add a key to the thread keyring", syscall(SYS_add_key, "user", "nix-build-shell-probe", "x", 1, -1));
    tell("bpf", syscall(SYS_bpf, 0, NULL, 0));
    tell("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    tell("userfaultfd", syscall(SYS_userfaultfd, 1));
    char parameters[256] = {0};
    tell("io_uring_setup", syscall(SYS_io_uring_setup, 1, parameters));
    tell("syslog", syscall(SYS_syslog, 10, NULL, 0));
    tell("swapoff", syscall(SYS_swapoff, "/nowhere"));
    tell("acct", syscall(SYS_acct, NULL));
    tell("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    tell("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    tell("mount by fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    tell("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    tell("pivot_root", syscall(SYS_pivot_root, ".", "."));
    tell_number("version of landlock", syscall(SYS_landlock_create_ruleset, NULL, 0, 1));
    tell("seccomp", prctl(PR_SET_SECCOMP, 3, NULL));
}

int main(void) {
    files();
    sockets();
    others();
    processes();
    return 0;
}
