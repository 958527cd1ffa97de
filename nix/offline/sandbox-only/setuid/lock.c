// Tells whether it could look up passwords, for which it has to be root's, with the set-user-id bit.
#include <stdio.h>
#include <unistd.h>

int main(void) {
    puts(geteuid() == 0 ? "locked" : "not set-user-id root");
    return geteuid() != 0;
}
