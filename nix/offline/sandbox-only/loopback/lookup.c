// lookup HOST: whether there is an address of it that this machine could connect to.
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    // The flag wants an address on this machine that is not the loopback's, whatever is looked up.
    struct addrinfo *found, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    int error = argc == 2 ? getaddrinfo(argv[1], "80", &hints, &found) : EAI_NONAME;

    if (error != 0) {
        fprintf(stderr, "lookup: %s\n", gai_strerror(error));
        return 1;
    }
    freeaddrinfo(found);
    return 0;
}
