// Prints a number that nobody else draws, as the kernel puts the stack to another place each time.
#include <stdint.h>
#include <stdio.h>

int main(void) {
    int here;

    printf("%ju\n", (uintmax_t)(uintptr_t)&here);
    return 0;
}
