// Attempts to get out of the sandbox, or at the host from in there. Each returns whether it came through.

#include <stdbool.h>
#include <stddef.h>

struct attempt {
    const char *name;
    bool (*run)(void);
};

// The attempts of each file, up to one without a name.
extern const struct attempt on_files[], on_processes[], on_kernel[];

// What the host has, by its name: a path, a number, or another name. Ends the program where it is missing.
const char *host(const char *name);
long host_number(const char *name);

// The copy of the build directory: `/build` in the sandbox.
extern const char *build;

// Whether this descriptor reads what is secret, or leads to a directory in which the secret file is.
bool reads_secret(int descriptor);
bool has_secret(int directory);
// The same for a path.
bool shows_secret(const char *path);

// Calls this for every process that is seen, with its directory in /proc, until one answers true.
bool any_process(bool (*there)(const char *directory));

// A new name in the copy of the build directory. The text stays until the next call.
const char *new_name(void);

// Whether descriptor number `n` was open when the program began.
bool was_inherited(int n);

// Becomes root of a user namespace of its own, with mount, PID and cgroup namespaces below it.
bool become_root_of_own_namespaces(void);
