// At the host's files, and at the store's.
#define _GNU_SOURCE
#include "attempt.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool read_by_path(void) { return shows_secret(host("secret")); }

static bool write_by_path(void) { return open(host("secret"), O_WRONLY | O_APPEND | O_CLOEXEC) >= 0; }

static bool read_by_dot_dot(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/../../../../../../../../../..%s", build, host("secret"));
    return shows_secret(path);
}

static bool follows(const char *link) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", build, link);
    return shows_secret(path);
}
static bool follow_link_in_kept_directory(void) { return follows("link"); }
static bool follow_linked_directory_in_kept_directory(void) { return follows("linked-directory/secret"); }
static bool follow_link_with_dot_dot_in_kept_directory(void) { return follows("dot-dot"); }

static bool root_of(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/root%s", directory, host("secret"));
    return shows_secret(path);
}
static bool read_by_roots_of_processes(void) { return any_process(root_of); }

static bool cwd_of(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/cwd/secret", directory);
    return shows_secret(path);
}
static bool read_by_working_directories_of_processes(void) { return any_process(cwd_of); }

static bool descriptors_of(const char *directory) {
    bool found = false;
    for (int n = 0; n < 256 && !found; n++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/fd/%d", directory, n);
        int file = open(path, O_PATH | O_CLOEXEC);
        if (file >= 0) {
            found = has_secret(file) || shows_secret(path);
            close(file);
        }
    }
    return found;
}
static bool read_by_descriptors_of_processes(void) { return any_process(descriptors_of); }

static bool use_inherited_descriptors(void) {
    for (int n = 3; n < 1024; n++) {
        if (was_inherited(n)) {
            return true;
        }
    }
    return false;
}

static bool read_by_standard_descriptors(void) { return has_secret(0) || has_secret(1) || has_secret(2); }

// As «shocker» did in containers: a handle names a file whatever the root is.
static bool open_by_handle(void) {
    struct {
        struct file_handle handle;
        unsigned char bytes[128];
    } file = {.handle = {.handle_bytes = 128}};
    const char *hex = host("handle");
    file.handle.handle_type = host_number("handle type");
    file.handle.handle_bytes = strlen(hex) / 2;
    for (size_t i = 0; i < file.handle.handle_bytes; i++) {
        sscanf(hex + 2 * i, "%2hhx", &file.bytes[i]);
    }
    int mount = open(build, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return reads_secret(open_by_handle_at(mount, &file.handle, O_RDONLY | O_CLOEXEC));
}

static bool chroot_out(void) {
    // Who has the right already needs no namespace for it.
    become_root_of_own_namespaces();
    const char *jail = new_name();
    int before = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (mkdir(jail, 0700) != 0 || chroot(jail) != 0 || fchdir(before) != 0) {
        return false;
    }
    for (int i = 0; i < 64; i++) {
        if (chdir("..") != 0) {
            return false;
        }
    }
    char path[4096];
    snprintf(path, sizeof path, ".%s", host("secret"));
    return shows_secret(path);
}

// The old root, if it is still below or on top of the new one: what is on top «..» leads to.
static bool peel_root(void) {
    become_root_of_own_namespaces();
    for (int i = 0; i < 8 && !read_by_path(); i++) {
        if (chdir("/") != 0 || chdir("..") != 0 || chroot(".") != 0 || read_by_path()) {
            break;
        }
        umount2("/", MNT_DETACH);
        syscall(SYS_pivot_root, ".", ".");
        umount2(".", MNT_DETACH);
    }
    return read_by_path();
}

static bool mount_something(void) { return mount("none", "/tmp", "tmpfs", 0, NULL) == 0 && umount2("/tmp", MNT_DETACH) == 0; }
// In a mount namespace of its own, if it may have one, so that the next attempt finds what is mounted.
static bool unmount_something(void) {
    unshare(CLONE_NEWNS);
    return umount2(host("input"), MNT_DETACH) == 0;
}

static bool unmount_as_own_root(void) {
    return become_root_of_own_namespaces() && umount2(host("input"), MNT_DETACH) == 0;
}

static bool remount_input_writable(void) {
    return mount(NULL, host("input"), NULL, MS_REMOUNT | MS_BIND, NULL) == 0;
}

static bool remount_input_writable_as_own_root(void) {
    return become_root_of_own_namespaces() && remount_input_writable();
}

// The same by the newer call, on a copy of the mount.
static bool clone_input_writable_as_own_root(void) {
    if (!become_root_of_own_namespaces()) {
        return false;
    }
    int tree = syscall(SYS_open_tree, AT_FDCWD, host("input"), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr writable = {.attr_clr = MOUNT_ATTR_RDONLY};
    return tree >= 0 && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &writable, sizeof writable) == 0;
}

// As it is already, so that nothing is changed where it comes through.
static struct stat input(void) {
    struct stat status = {0};
    stat(host("input file"), &status);
    return status;
}
static bool change_mode_of_input(void) { return chmod(host("input file"), input().st_mode & 07777) == 0; }
static bool change_owner_of_input(void) {
    struct stat before = input();
    return chown(host("input file"), before.st_uid, before.st_gid) == 0;
}
static bool change_times_of_input(void) {
    struct stat before = input();
    return utimensat(AT_FDCWD, host("input file"), (struct timespec[]){before.st_atim, before.st_mtim}, 0) == 0;
}
static bool change_flags_of_input(void) {
    int flags = 0, file = open(host("input file"), O_RDONLY | O_CLOEXEC);
    return ioctl(file, FS_IOC_GETFLAGS, &flags) == 0 && ioctl(file, FS_IOC_SETFLAGS, &flags) == 0;
}
static bool write_to_input(void) { return open(host("input file"), O_WRONLY | O_APPEND | O_CLOEXEC) >= 0; }
static bool write_to_input_by_its_descriptor(void) {
    char path[64];
    int file = open(host("input file"), O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return file >= 0 && open(path, O_WRONLY | O_APPEND | O_CLOEXEC) >= 0;
}
static bool add_to_input(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/.attempt-%d", host("input"), getpid());
    bool made = mkdir(path, 0700) == 0;
    rmdir(path);
    return made;
}
static bool link_to_input(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/.attempt-link-%d", host("input"), getpid());
    bool made = link(host("input file"), path) == 0;
    unlink(path);
    return made;
}

static bool make_device(void) { return mknod(new_name(), S_IFCHR | 0666, 1 << 8 | 3) == 0; }
static bool make_device_as_own_root(void) {
    return become_root_of_own_namespaces() && mknod(new_name(), S_IFCHR | 0666, 1 << 8 | 3) == 0;
}

const struct attempt on_files[] = {
    {"read a file by its path", read_by_path},
    {"open a file for writing by its path", write_by_path},
    {"read a file by ..", read_by_dot_dot},
    {"follow a link in the kept directory", follow_link_in_kept_directory},
    {"follow a linked directory in the kept directory", follow_linked_directory_in_kept_directory},
    {"follow a link with .. in the kept directory", follow_link_with_dot_dot_in_kept_directory},
    {"read by /proc/*/root", read_by_roots_of_processes},
    {"read by /proc/*/cwd", read_by_working_directories_of_processes},
    {"read by /proc/*/fd", read_by_descriptors_of_processes},
    {"use inherited descriptors", use_inherited_descriptors},
    {"read by standard descriptors", read_by_standard_descriptors},
    {"open a file by its handle", open_by_handle},
    {"chroot out", chroot_out},
    {"peel the root off", peel_root},
    {"mount", mount_something},
    {"unmount an input", unmount_something},
    {"unmount an input as root of a namespace", unmount_as_own_root},
    {"remount an input writable", remount_input_writable},
    {"remount an input writable as root of a namespace", remount_input_writable_as_own_root},
    {"clone an input writable as root of a namespace", clone_input_writable_as_own_root},
    {"change the mode of an input", change_mode_of_input},
    {"change the owner of an input", change_owner_of_input},
    {"change the times of an input", change_times_of_input},
    {"change the flags of an input", change_flags_of_input},
    {"open an input for writing", write_to_input},
    {"open an input for writing by its descriptor", write_to_input_by_its_descriptor},
    {"add to an input", add_to_input},
    {"link to an input", link_to_input},
    {"make a device", make_device},
    {"make a device as root of a namespace", make_device_as_own_root},
    {NULL, NULL},
};
