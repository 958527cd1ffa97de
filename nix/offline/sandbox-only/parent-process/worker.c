// Works for the server that has started it, as long as that is there.
#include <stdio.h>
#include <unistd.h>

int main(void) {
    // Whose parent has ended becomes a child of process 1.
    if (getppid() == 1) {
        fputs("worker: the server has ended, giving up\n", stderr);
        return 3;
    }
    puts("worker: done");
    return 0;
}
