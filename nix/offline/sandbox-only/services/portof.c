// portof SERVICE: prints the port of a service.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv) {
    struct servent *service = argc == 2 ? getservbyname(argv[1], "tcp") : NULL;

    if (service == NULL) {
        fprintf(stderr, "portof: no such service\n");
        return 1;
    }
    printf("%d\n", ntohs(service->s_port));
    return 0;
}
