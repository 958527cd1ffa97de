// scoreboard POINTS: puts the points up, for all to see. scoreboard: shows them.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int fail(void) {
    perror("scoreboard");
    return 1;
}

int main(int argc, char **argv) {
    int descriptor = shm_open("/scoreboard", argc > 1 ? O_RDWR | O_CREAT : O_RDONLY, 0644);

    if (descriptor < 0 || (argc > 1 && ftruncate(descriptor, sizeof(int)) != 0)) return fail();
    int *points = mmap(NULL, sizeof *points, argc > 1 ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, descriptor, 0);
    if (points == MAP_FAILED) return fail();
    if (argc > 1) *points = atoi(argv[1]);
    printf("%d points\n", *points);
    return 0;
}
